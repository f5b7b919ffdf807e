//! One Sinkhorn iteration in the scaling form: `u = a / (K v)`, then `v = b / (Kᵀ u)`.
//!
//! Two layouts. Where K and its transpose fit the innermost cache together, each half multiplies
//! along columns, sixteen (or eight) sums to a vector, and no sum ever crosses lanes. Larger kernels
//! are read once per iteration: a block of rows is reduced against v, divided, and at once scattered
//! into the column sums while it is still in cache.

use std::f64::consts::LOG2_E;

use super::buffer::ALIGN;
use crate::simd::{Ahead, Float, ROWS, Vector, shells};

/// How new scalings follow from the sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule<T> {
    /// `u ← a / s`.
    Plain,
    /// `u ← (a / s) · φ(a / (u s))` with `φ(r) = ((1 + q) r + 1 − q) / ((1 − q) r + 1 + q)`: to first
    /// order `u · (a / (u s))^(1 + q)`, over-relaxation by 1 + q, but never by more than a constant
    /// factor, and without a power.
    Relaxed(T),
    /// `u ← (a / s)^τ · exp(offset)`, with one exponent for rows and one for columns.
    Unbalanced(T, T),
}

const PLAIN: u8 = 0;
const RELAXED: u8 = 1;
const UNBALANCED: u8 = 2;

/// `$kernel::<$vector, RULE>`, called with the side and the power that the rule has for it.
macro_rules! by_rule {
    ($rule:expr, $side:literal, $kernel:ident::<$vector:ident>($($argument:expr),*)) => {
        match $rule {
            Rule::Plain => $kernel::<$vector, PLAIN>(<$vector as Vector>::Elem::ONE, $($argument),*),
            Rule::Relaxed(more) => $kernel::<$vector, RELAXED>(more, $($argument),*),
            Rule::Unbalanced(rows, cols) => $kernel::<$vector, UNBALANCED>([rows, cols][$side], $($argument),*),
        }
    };
}

/// What a side's sums are to be; padded to whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Marginal<'a, T> {
    pub(super) wanted: &'a [T],
    /// log of the factors of [`Rule::Unbalanced`].
    pub(super) offset: &'a [T],
}

/// Bytes of K and its transpose up to which both are kept: most of a 48 or 32 KiB first-level cache.
const INNERMOST: usize = 40 * 1024;

/// Whether a padded kernel is small enough to keep its transpose beside it.
pub(super) fn fits_twice<T>(height: usize, stride: usize) -> bool {
    2 * height * stride * size_of::<T>() <= INNERMOST
}

/// When to stop iterating by one rule.
#[derive(Clone, Copy)]
pub(super) struct Until<T> {
    /// Iterations at most.
    pub(super) most: usize,
    /// The error before an iteration that is small enough.
    pub(super) error: T,
    /// What a scaling may reach.
    pub(super) large: T,
}

/// The operands of an iteration. Sizes are padded as [`Workspace::reserve`](super::Workspace) says.
pub(super) struct Operands<'a, T> {
    /// Rows and columns that are real.
    pub(super) n: usize,
    pub(super) m: usize,
    /// Padded counts: `kernel` is height × stride, `turned` stride × height.
    pub(super) height: usize,
    pub(super) stride: usize,
    pub(super) kernel: &'a [T],
    /// The transpose of `kernel`.
    pub(super) turned: &'a [T],
    pub(super) of_rows: Marginal<'a, T>,
    pub(super) of_cols: Marginal<'a, T>,
}

/// What half a sweep tells about its side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half<T> {
    /// Σ |T1 − a| of the plan *before* it; to first order its distance from a exp(−f / reg_m), if unbalanced.
    pub(super) error: T,
    /// The largest of the new scalings.
    pub(super) largest: T,
    /// What passes through the side after it; only known if unbalanced.
    pub(super) mass: T,
}

impl<T: Float> Half<T> {
    pub(super) const NONE: Self = Half { error: T::ZERO, largest: T::ZERO, mass: T::ZERO };

    /// Of the rows of both.
    pub(super) fn and(self, other: Self) -> Self {
        let largest = self.largest.max(other.largest);
        Half { error: self.error + other.error, largest, mass: self.mass + other.mass }
    }
}

/// What is watched while scalings are renewed.
struct Watch<V> {
    error: V,
    top: V,
    mass: V,
}

impl<V: Vector> Watch<V> {
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: by the caller's contract for the vector.
        unsafe {
            let zero = V::splat(V::Elem::ZERO);
            Watch { error: zero, top: zero, mass: zero }
        }
    }

    #[inline(always)]
    unsafe fn told<const RULE: u8>(self) -> Half<V::Elem> {
        // SAFETY: by the caller's contract for the vector.
        unsafe {
            let mass = if RULE == UNBALANCED { self.mass.sum() } else { V::Elem::ZERO };
            Half { error: self.error.sum(), largest: self.top.largest(), mass }
        }
    }
}

/// New scalings of one vector of rows (or columns).
#[inline(always)]
unsafe fn renew<V: Vector, const RULE: u8>(
    sum: V,
    wanted: V,
    old: V,
    offset: V,
    power: V,
    watch: &mut Watch<V>,
) -> V {
    // SAFETY: lane-wise arithmetic; the shell has the instructions.
    unsafe {
        let (zero, one) = (V::splat(V::Elem::ZERO), V::splat(V::Elem::ONE));
        let tiny = V::splat(V::Elem::TINY);
        let paid = old.mul(sum);
        let (new, gap) = match RULE {
            PLAIN => (wanted.div(sum.max(tiny)), paid.sub(wanted)),
            RELAXED => {
                let (more, less) = (one.add(power), one.sub(power));
                let above = wanted.mul(more).add(paid.mul(less));
                let below = wanted.mul(less).add(paid.mul(more));
                (wanted.mul(above).div(sum.mul(below).max(tiny)), paid.sub(wanted))
            }
            _ => {
                let log = wanted.div(sum.max(tiny)).ln().mul(power).add(offset);
                let new = log.mul(V::splat(V::Elem::of(LOG2_E))).exp2().keep_ge(wanted, tiny);
                let passed = new.mul(sum);
                watch.mass = watch.mass.add(passed);
                // To first order in the change, 1 / τ times which is the distance from the optimum's.
                (new, paid.sub(passed).div(power))
            }
        };
        watch.error = watch.error.add(gap.max(zero.sub(gap)));
        watch.top = new.max(watch.top);
        new
    }
}

/// `out ← renew(matrixᵀ x)` for `T` vectors of columns from `at` on: sums in registers, `CHAINS` of
/// them per vector so that additions overlap.
#[inline(always)]
unsafe fn columns<V: Vector, const RULE: u8, const T: usize, const CHAINS: usize>(
    depth: usize,
    stride: usize,
    at: usize,
    matrix: &[V::Elem],
    x: &[V::Elem],
    side: Marginal<'_, V::Elem>,
    power: V::Elem,
    out: &mut [V::Elem],
    watch: &mut Watch<V>,
) {
    // SAFETY: `depth` is a multiple of ROWS, hence of CHAINS; `at + T · LANES <= stride`; the slices
    // have at least depth · stride, depth and stride elements.
    unsafe {
        let zero = V::splat(V::Elem::ZERO);
        let mut sums = [[zero; T]; CHAINS];
        let mut p = matrix.as_ptr().add(at);
        for row in (0..depth).step_by(CHAINS) {
            for (k, sum) in sums.iter_mut().enumerate() {
                let xi = V::splat(*x.get_unchecked(row + k));
                for c in 0..T {
                    sum[c] = V::load(p.add(k * stride + c * V::LANES)).fma(xi, sum[c]);
                }
            }
            p = p.add(CHAINS * stride);
        }
        let power = V::splat(power);
        for c in 0..T {
            let mut half = CHAINS / 2;
            while half > 0 {
                for k in 0..half {
                    sums[k][c] = sums[k][c].add(sums[k + half][c]);
                }
                half /= 2;
            }
            let k = at + c * V::LANES;
            let offset = if RULE == UNBALANCED { V::load(side.offset.as_ptr().add(k)) } else { zero };
            let (wanted, old) = (V::load(side.wanted.as_ptr().add(k)), V::load(out.as_ptr().add(k)));
            renew::<V, RULE>(sums[0][c], wanted, old, offset, power, watch).store(out.as_mut_ptr().add(k));
        }
    }
}

/// All columns of a half step.
#[inline(always)]
unsafe fn half<V: Vector, const RULE: u8>(
    power: V::Elem,
    depth: usize,
    stride: usize,
    matrix: &[V::Elem],
    x: &[V::Elem],
    side: Marginal<'_, V::Elem>,
    out: &mut [V::Elem],
) -> Half<V::Elem> {
    debug_assert!(matrix.len() >= depth * stride && x.len() >= depth && depth.is_multiple_of(ROWS));
    debug_assert!(side.wanted.len().min(side.offset.len()).min(out.len()) >= stride);
    debug_assert!(stride.is_multiple_of(V::LANES));
    // SAFETY: the sizes asserted above.
    unsafe {
        let mut watch = Watch::new();
        let w = &mut watch;
        let mut at = 0;
        while at < stride {
            match (stride - at) / V::LANES {
                1 => columns::<V, RULE, 1, 8>(depth, stride, at, matrix, x, side, power, out, w),
                2 => columns::<V, RULE, 2, 4>(depth, stride, at, matrix, x, side, power, out, w),
                3 => columns::<V, RULE, 3, 4>(depth, stride, at, matrix, x, side, power, out, w),
                _ => columns::<V, RULE, 4, 2>(depth, stride, at, matrix, x, side, power, out, w),
            }
            at += 4 * V::LANES;
        }
        watch.told::<RULE>()
    }
}

#[inline(always)]
unsafe fn sweeps<V: Vector>(
    p: &Operands<'_, V::Elem>,
    rule: Rule<V::Elem>,
    until: Until<V::Elem>,
    ahead: &mut Ahead<V::Elem>,
    u: &mut [V::Elem],
    v: &mut [V::Elem],
) -> (usize, [Half<V::Elem>; 2]) {
    let (rows, cols) = (p.n.next_multiple_of(ROWS), p.m.next_multiple_of(ROWS));
    let mut made = 0;
    loop {
        ahead.ask();
        // SAFETY: the operands are padded as the module wants.
        let told = unsafe {
            [
                by_rule!(rule, 0, half::<V>(cols, p.height, p.turned, v, p.of_rows, u)),
                by_rule!(rule, 1, half::<V>(rows, p.stride, p.kernel, u, p.of_cols, v)),
            ]
        };
        made += 1;
        // (Written such that NaN stops, too.)
        let goes_on = told[0].error > until.error && told.iter().all(|half| half.largest <= until.large);
        if made == until.most || !goes_on {
            return (made, told);
        }
    }
}
shells! {
    /// Iterations on a kernel and its transpose: how many, and what the last one tells.
    pub(super) fn run_sweeps(p: &Operands<'_, T>, rule: Rule<T>, until: Until<T>, ahead: &mut Ahead<T>, u: &mut [T], v: &mut [T]) -> (usize, [Half<T>; 2]) = sweeps
}

/// Rows of a kernel too large for two copies: `u` from v, and `t ← Kᵀ u` over these rows.
///
/// A block's sums take some eighty cycles from its last product to its new u. The products of the
/// next block are issued before the scatter that waits for them, so that the two overlap.
#[inline(always)]
unsafe fn rows_by_rule<V: Vector, const RULE: u8>(
    power: V::Elem,
    stride: usize,
    kernel: &[V::Elem],
    side: Marginal<'_, V::Elem>,
    u: &mut [V::Elem],
    v: &[V::Elem],
    t: &mut [V::Elem],
) -> Half<V::Elem> {
    let height = u.len();
    debug_assert!(height.is_multiple_of(ROWS) && kernel.len() >= height * stride);
    debug_assert!(side.wanted.len().min(side.offset.len()) >= height && v.len().min(t.len()) >= stride);
    // SAFETY: the sizes asserted above.
    unsafe {
        t[..stride].fill(V::Elem::ZERO);
        let zero = V::splat(V::Elem::ZERO);
        let power = V::splat(power);
        let mut watch = Watch::<V>::new();
        let mut waiting = [V::Elem::ZERO; ROWS];
        let mut row = 0;
        while row <= height {
            let mut dots = [zero; ROWS];
            if row < height {
                let k = kernel.as_ptr().add(row * stride);
                let mut c = 0;
                while c < stride {
                    let x = V::load(v.as_ptr().add(c));
                    for r in 0..ROWS {
                        dots[r] = V::load(k.add(r * stride + c)).fma(x, dots[r]);
                    }
                    c += V::LANES;
                }
            }
            if row > 0 {
                let k = kernel.as_ptr().add((row - ROWS) * stride);
                let mut us = [zero; ROWS];
                for r in 0..ROWS {
                    us[r] = V::splat(waiting[r]);
                }
                let mut c = 0;
                while c < stride {
                    let mut even = V::load(t.as_ptr().add(c));
                    let mut odd = zero;
                    for r in (0..ROWS).step_by(2) {
                        even = V::load(k.add(r * stride + c)).fma(us[r], even);
                        odd = V::load(k.add((r + 1) * stride + c)).fma(us[r + 1], odd);
                    }
                    even.add(odd).store(t.as_mut_ptr().add(c));
                    c += V::LANES;
                }
            }
            if row < height {
                // A block is narrower than the widest vector: padded with what changes nothing.
                let padded = |from: &[V::Elem]| {
                    let mut all = [V::Elem::ZERO; WIDEST];
                    all[..ROWS].copy_from_slice(from);
                    all
                };
                let sums = padded(&V::sum8(dots));
                let (wanted, mut new) = (padded(&side.wanted[row..row + ROWS]), padded(&u[row..row + ROWS]));
                let shift = if RULE == UNBALANCED { padded(&side.offset[row..row + ROWS]) } else { sums };
                for k in (0..ROWS).step_by(V::LANES) {
                    let at = |all: &[V::Elem; WIDEST]| V::load(all.as_ptr().add(k));
                    let (old, shift) = (at(&new), at(&shift));
                    renew::<V, RULE>(at(&sums), at(&wanted), old, shift, power, &mut watch)
                        .store(new.as_mut_ptr().add(k));
                }
                waiting.copy_from_slice(&new[..ROWS]);
                u[row..row + ROWS].copy_from_slice(&waiting);
            }
            row += ROWS;
        }
        watch.told::<RULE>()
    }
}

/// Lanes of the widest vector.
pub(super) const WIDEST: usize = ALIGN / size_of::<f32>();

#[inline(always)]
unsafe fn rows<V: Vector>(
    stride: usize,
    kernel: &[V::Elem],
    side: Marginal<'_, V::Elem>,
    rule: Rule<V::Elem>,
    u: &mut [V::Elem],
    v: &[V::Elem],
    t: &mut [V::Elem],
) -> Half<V::Elem> {
    // SAFETY: the caller's sizes.
    unsafe { by_rule!(rule, 0, rows_by_rule::<V>(stride, kernel, side, u, v, t)) }
}
shells! {
    /// The first half of an iteration over a block of rows, and their share of the column sums.
    pub(super) fn run_rows(stride: usize, kernel: &[T], side: Marginal<'_, T>, rule: Rule<T>, u: &mut [T], v: &[T], t: &mut [T]) -> Half<T> = rows
}

/// The second half: `v` from the column sums `t`.
#[inline(always)]
unsafe fn finish<V: Vector>(
    side: Marginal<'_, V::Elem>,
    rule: Rule<V::Elem>,
    v: &mut [V::Elem],
    t: &[V::Elem],
) -> Half<V::Elem> {
    // SAFETY: the caller's sizes.
    unsafe { by_rule!(rule, 1, finish_by_rule::<V>(side, v, t)) }
}
shells! { pub(super) fn run_finish(side: Marginal<'_, T>, rule: Rule<T>, v: &mut [T], t: &[T]) -> Half<T> = finish }

#[inline(always)]
unsafe fn finish_by_rule<V: Vector, const RULE: u8>(
    power: V::Elem,
    side: Marginal<'_, V::Elem>,
    v: &mut [V::Elem],
    t: &[V::Elem],
) -> Half<V::Elem> {
    debug_assert!(side.wanted.len().min(side.offset.len()).min(t.len()) >= v.len());
    // SAFETY: the sizes asserted above; vectors are padded to whole ones.
    unsafe {
        let (mut watch, power) = (Watch::<V>::new(), V::splat(power));
        for c in (0..v.len()).step_by(V::LANES) {
            let at = |x: &[V::Elem]| V::load(x.as_ptr().add(c));
            let new = renew::<V, RULE>(at(t), at(side.wanted), at(v), at(side.offset), power, &mut watch);
            new.store(v.as_mut_ptr().add(c));
        }
        watch.told::<RULE>()
    }
}
