//! The loops over a problem's matrix, generic over the vector type.
//!
//! Shared contract (see [`Workspace::reserve`](super::Workspace)): matrices are row-major with `stride`
//! columns; both sides are padded to multiples of the widest vector (so that transposes need no tail);
//! padding has kernel 0, cost +∞ and marginal 0. Row vectors have the padded row count, column
//! vectors `stride` elements.

use std::f64::consts::{LN_2, LOG2_E};

use crate::simd::{self, Float, ROWS, Vector, shells};

/// Take in rows of costs: `shift_i = min_j C_ij` and `cost = C − shift`, with +∞ in padding, and the kernel of
/// these costs, as [`build`] has it for zero potentials, while a group of rows is in cache. Whether a real entry is
/// +∞, and the least finite exponent; `None` where a cost is NaN or −∞, or too far from its row's minimum for a number.
///
/// Row i of `source` begins at `i · source_stride`; an empty one means that `cost` holds the costs
/// already. As many rows as `shift` has elements are taken.
#[inline(always)]
unsafe fn admit<V: Vector>(
    m: usize,
    source: &[V::Elem],
    source_stride: usize,
    cost: &mut [V::Elem],
    shift: &mut [V::Elem],
    mut making: Making<'_, V::Elem>,
) -> Option<(bool, V::Elem)> {
    let (rows, stride, from_source) = (shift.len(), making.stride, !source.is_empty());
    debug_assert!(cost.len() >= rows * stride && stride >= m && stride.is_multiple_of(V::LANES));
    assert!(!from_source || rows == 0 || source.len() >= (rows - 1) * source_stride + m);
    // SAFETY: the module's contract, and the lengths asserted above: whole vectors of the source lie
    // before `m`, the rest is copied as a slice.
    unsafe {
        let (zero, infinity) = (V::splat(V::Elem::ZERO), V::splat(V::Elem::INFINITY));
        // 0 times what is no finite number makes these no number: of the costs as given, and less the shift.
        let (mut given, mut shifted, mut least) = (zero, zero, zero);
        let whole = m - m % V::LANES;
        for (i, shift) in shift.iter_mut().enumerate() {
            let to = cost.as_mut_ptr().add(i * stride);
            let from = if from_source { source.as_ptr().add(i * source_stride) } else { to.cast_const() };
            let mut low = infinity;
            for c in (0..whole).step_by(V::LANES) {
                let raw = V::load(from.add(c));
                raw.store(to.add(c));
                given = raw.fma(zero, given);
                low = raw.min(low);
            }
            let mut low = low.smallest();
            for c in whole..m {
                let raw = *from.add(c);
                *to.add(c) = raw;
                given = V::splat(raw).fma(zero, given);
                low = raw.min(low);
            }
            for c in m..stride {
                *to.add(c) = V::Elem::INFINITY;
            }
            if low == V::Elem::NEG_INFINITY || low < V::Elem::LOWEST * V::Elem::of(0.5) {
                return None;
            }
            *shift = if low == V::Elem::INFINITY { V::Elem::ZERO } else { low };
            let by = V::splat(*shift);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(to.add(c)).sub(by);
                x.store(to.add(c));
                if c < whole {
                    shifted = x.fma(zero, shifted);
                }
            }
            for c in whole..m {
                shifted = V::splat(*to.add(c)).fma(zero, shifted);
            }
            if (i + 1).is_multiple_of(GROUP) || i + 1 == rows {
                least = group::<V>(&mut making, i - i % GROUP, i + 1 == rows, cost).min(least);
            }
        }
        let least = least.smallest() * V::Elem::of(LN_2);
        if given.sum() == V::Elem::ZERO {
            return (shifted.sum() == V::Elem::ZERO).then_some((false, least));
        }
        // Something is not finite: an edge that +∞ forbids, or no number.
        let real = |i: usize| &cost[i * stride..][..m];
        (0..rows).all(|i| real(i).iter().all(|x| !x.double().is_nan())).then_some((true, least))
    }
}
shells! { pub(super) fn run_admit(m: usize, source: &[T], source_stride: usize, cost: &mut [T], shift: &mut [T], making: Making<'_, T>) -> Option<(bool, T)> = admit }

/// What costs are multiplied by to be exponents of 2.
#[inline(always)]
unsafe fn binary_rate<V: Vector>(reg: V::Elem) -> V {
    // SAFETY: by the caller's contract for the vector.
    unsafe { V::splat(V::Elem::of(LOG2_E / reg.double())) }
}

/// `f_i = min_j (C_ij − g_j)`, 0 where all of them are +∞.
#[inline(always)]
unsafe fn minima<V: Vector>(stride: usize, cost: &[V::Elem], g: &[V::Elem], f: &mut [V::Elem]) {
    debug_assert!(cost.len() >= f.len() * stride && g.len() >= stride);
    // SAFETY: the module's contract.
    unsafe {
        for (i, f) in f.iter_mut().enumerate() {
            let mut low = V::splat(V::Elem::INFINITY);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(cost.as_ptr().add(i * stride + c)).sub(V::load(g.as_ptr().add(c)));
                low = x.min(low);
            }
            let low = low.smallest();
            *f = if low.is_finite() { low } else { V::Elem::ZERO };
        }
    }
}
shells! { pub(super) fn run_minima(stride: usize, cost: &[T], g: &[T], f: &mut [T]) = minima }

/// Rows whose exponentials are computed together.
const GROUP: usize = 4;

/// What a kernel is made from besides costs, and where it goes.
pub(super) struct Making<'a, T> {
    pub(super) height: usize,
    pub(super) stride: usize,
    pub(super) reg: T,
    pub(super) f: &'a [T],
    pub(super) g: &'a [T],
    pub(super) kernel: &'a mut [T],
    /// For the kernel's transpose, with `height` to a row; or empty.
    pub(super) turned: &'a mut [T],
}

/// `K = exp((f + g − C) / reg)`, and its transpose; the least finite exponent, or 0 if that is positive.
#[inline(always)]
unsafe fn build<V: Vector>(n: usize, cost: &[V::Elem], mut making: Making<'_, V::Elem>) -> V::Elem {
    // SAFETY: the module's contract.
    unsafe {
        let mut least = V::splat(V::Elem::ZERO);
        for i in (0..n).step_by(GROUP) {
            least = group::<V>(&mut making, i, i + GROUP >= n, cost).min(least);
        }
        least.smallest() * V::Elem::of(LN_2)
    }
}
shells! { pub(super) fn run_build(n: usize, cost: &[T], making: Making<'_, T>) -> T = build }

/// The rows from `i` on of a kernel, and the least exponents of 2; `last` if they are the last ones.
#[inline(always)]
unsafe fn group<V: Vector>(making: &mut Making<'_, V::Elem>, i: usize, last: bool, cost: &[V::Elem]) -> V {
    let Making { height, stride, reg, f, g, ref mut kernel, ref mut turned } = *making;
    debug_assert!(f.len() >= i + GROUP && kernel.len().min(cost.len()) >= (i + GROUP) * stride);
    debug_assert!(g.len() >= stride && (turned.is_empty() || turned.len() >= height * stride));
    // SAFETY: the sizes asserted above: heights are padded to whole groups. Rows up to `height` hold zeros.
    unsafe {
        let (rate, lowest) = (binary_rate::<V>(reg), V::splat(V::Elem::LOWEST));
        let mut least = V::splat(V::Elem::ZERO);
        for c in (0..stride).step_by(V::LANES) {
            let g = V::load(g.as_ptr().add(c));
            let mut x = [g; GROUP];
            for (r, x) in x.iter_mut().enumerate() {
                let cost = V::load(cost.as_ptr().add((i + r) * stride + c));
                *x = g.add(V::splat(f[i + r])).sub(cost).mul(rate);
                least = x.keep_ge(*x, lowest).min(least);
            }
            for (r, x) in V::exp2s(x).into_iter().enumerate() {
                x.store(kernel.as_mut_ptr().add((i + r) * stride + c));
            }
        }
        if !turned.is_empty() && (last || (i + GROUP).is_multiple_of(V::LANES)) {
            let first = i - i % V::LANES;
            for c in (0..stride).step_by(V::LANES) {
                let from = kernel.as_ptr().add(first * stride + c);
                V::transpose(from, stride, turned.as_mut_ptr().add(c * height + first), height);
            }
        }
        least
    }
}

/// What an iteration tells: the error of the rows before it, and what passes through both sides after it; see
/// [`Half`](super::sweep::Half).
#[derive(Clone, Copy)]
pub(super) struct Step<T> {
    pub(super) error: T,
    pub(super) mass: [T; 2],
}

/// The price of a side's marginal: `power` is τ = reg_m / (reg_m + reg), 1 for a hard one, and `anchor` the
/// part of the potentials that is in the costs.
#[derive(Clone, Copy)]
pub(super) struct Side<'a, T> {
    pub(super) wanted: &'a [T],
    pub(super) power: T,
    pub(super) anchor: &'a [T],
}

/// One iteration in the log domain, f from g and g from f; the residual of the rows before it.
#[inline(always)]
unsafe fn log_sweep<V: Vector>(
    n: usize,
    m: usize,
    stride: usize,
    reg: V::Elem,
    rows: Side<'_, V::Elem>,
    cols: Side<'_, V::Elem>,
    cost: &[V::Elem],
    f: &mut [V::Elem],
    g: &mut [V::Elem],
    tops: &mut [V::Elem],
    sums: &mut [V::Elem],
) -> Step<V::Elem> {
    // SAFETY: the module's contract; `tops` and `sums` have `stride` elements.
    unsafe {
        let (zero, one) = (V::Elem::ZERO, V::Elem::ONE);
        let rate = binary_rate::<V>(reg);
        let (mut error, mut mass) = (zero, [zero; 2]);
        // The potential, and what passes through its row or column then.
        let renew = |side: &Side<'_, V::Elem>, k: usize, top: V::Elem, sum: V::Elem| {
            if side.wanted[k] <= zero {
                return (V::Elem::NEG_INFINITY, zero);
            }
            let log_sum = top + reg * sum.ln();
            let new =
                side.power * (reg * side.wanted[k].ln() - log_sum) + (side.power - one) * side.anchor[k];
            (new, ((new + log_sum) / reg).exp())
        };
        for i in 0..n {
            let row = cost.as_ptr().add(i * stride);
            let mut top = V::splat(V::Elem::NEG_INFINITY);
            for c in (0..stride).step_by(V::LANES) {
                top = V::load(g.as_ptr().add(c)).sub(V::load(row.add(c))).max(top);
            }
            let top = top.largest();
            let top_v = V::splat(top);
            let mut sum = V::splat(zero);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(g.as_ptr().add(c)).sub(V::load(row.add(c))).sub(top_v);
                sum = sum.add(x.mul(rate).exp2());
            }
            let (new, paid) = renew(&rows, i, top, sum.sum());
            if rows.wanted[i] > zero {
                error += paid * (((f[i] - new) / reg).exp() - one).abs() / rows.power;
            }
            mass[0] += paid;
            f[i] = new;
        }
        tops[..stride].fill(V::Elem::NEG_INFINITY);
        for i in 0..n {
            let fi = V::splat(f[i]);
            for c in (0..stride).step_by(V::LANES) {
                let x = fi.sub(V::load(cost.as_ptr().add(i * stride + c)));
                x.max(V::load(tops.as_ptr().add(c))).store(tops.as_mut_ptr().add(c));
            }
        }
        sums[..stride].fill(zero);
        for top in &mut tops[..stride] {
            // Padding and forbidden columns: −∞ − −∞ must not become NaN.
            *top = top.max(V::Elem::LOWEST);
        }
        for i in 0..n {
            let fi = V::splat(f[i]);
            for c in (0..stride).step_by(V::LANES) {
                let x = fi.sub(V::load(cost.as_ptr().add(i * stride + c))).sub(V::load(tops.as_ptr().add(c)));
                let sum = V::load(sums.as_ptr().add(c)).add(x.mul(rate).exp2());
                sum.store(sums.as_mut_ptr().add(c));
            }
        }
        for j in 0..m {
            let paid;
            (g[j], paid) = renew(&cols, j, tops[j], sums[j]);
            mass[1] += paid;
        }
        Step { error, mass }
    }
}
shells! { pub(super) fn run_log_sweep(n: usize, m: usize, stride: usize, reg: T, rows: Side<'_, T>, cols: Side<'_, T>, cost: &[T], f: &mut [T], g: &mut [T], tops: &mut [T], sums: &mut [T]) -> Step<T> = log_sweep }

/// The same iteration with one `exp` per element: the plan of f and g is formed, and its row and
/// column sums correct both. `None`, with f and g as they were, where a sum leaves the range.
///
/// `kernel` and `sums` (row sums) are overwritten, `t` too.
#[inline(always)]
unsafe fn log_step<V: Vector>(
    n: usize,
    stride: usize,
    reg: V::Elem,
    rows: Side<'_, V::Elem>,
    cols: Side<'_, V::Elem>,
    cost: &[V::Elem],
    f: &mut [V::Elem],
    g: &mut [V::Elem],
    kernel: &mut [V::Elem],
    sums: &mut [V::Elem],
    t: &mut [V::Elem],
) -> Option<Step<V::Elem>> {
    // SAFETY: the module's contract.
    unsafe {
        let (zero, one) = (V::Elem::ZERO, V::Elem::ONE);
        let rate = binary_rate::<V>(reg);
        let mut error = zero;
        t[..stride].fill(zero);
        for i in 0..n {
            if rows.wanted[i] <= zero {
                sums[i] = one;
                continue;
            }
            let fi = V::splat(f[i]);
            let mut sum = V::splat(zero);
            let row = kernel.as_mut_ptr().add(i * stride);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(g.as_ptr().add(c)).add(fi).sub(V::load(cost.as_ptr().add(i * stride + c)));
                let e = x.mul(rate).exp2();
                e.store(row.add(c));
                sum = sum.add(e);
            }
            let sum = sum.sum();
            if !(sum > V::Elem::TINY && sum < V::Elem::LARGE) {
                return None;
            }
            sums[i] = sum;
            let ratio = rows.ratio(i, f[i], sum, reg);
            error += sum * (one - ratio).abs() / rows.power;
            let ratio = V::splat(ratio);
            for c in (0..stride).step_by(V::LANES) {
                V::load(row.add(c)).fma(ratio, V::load(t.as_ptr().add(c))).store(t.as_mut_ptr().add(c));
            }
        }
        let bad = |j: usize| cols.wanted[j] > zero && !(t[j] > V::Elem::TINY && t[j] < V::Elem::LARGE);
        if (0..stride).any(bad) {
            return None;
        }
        let mass = [correct::<V>(reg, rows, sums, f), correct::<V>(reg, cols, t, g)];
        Some(Step { error, mass })
    }
}
shells! { pub(super) fn run_log_step(n: usize, stride: usize, reg: T, rows: Side<'_, T>, cols: Side<'_, T>, cost: &[T], f: &mut [T], g: &mut [T], kernel: &mut [T], sums: &mut [T], t: &mut [T]) -> Option<Step<T>> = log_step }

impl<T: Float> Side<'_, T> {
    /// What the sum of row (or column) k is to be multiplied by.
    #[inline(always)]
    fn ratio(&self, k: usize, potential: T, sum: T, reg: T) -> T {
        let ratio = self.wanted[k] / sum;
        if self.power == T::ONE {
            return ratio;
        }
        let total = potential + self.anchor[k];
        (self.power * ratio.ln() + (self.power - T::ONE) * total / reg).exp()
    }
}

/// `potential ← τ (potential + reg · log(wanted / sum)) + (τ − 1) anchor`, −∞ where nothing is wanted; what
/// passes through all rows (columns) then.
#[inline(always)]
unsafe fn correct<V: Vector>(
    reg: V::Elem,
    side: Side<'_, V::Elem>,
    sum: &[V::Elem],
    potential: &mut [V::Elem],
) -> V::Elem {
    // SAFETY: all slices are padded to whole vectors.
    unsafe {
        let (by, tau, tiny) = (V::splat(reg), V::splat(side.power), V::splat(V::Elem::TINY));
        let (rate, zero) = (binary_rate::<V>(reg), V::splat(V::Elem::ZERO));
        let less = V::splat(side.power - V::Elem::ONE);
        let mut mass = zero;
        for k in (0..potential.len()).step_by(V::LANES) {
            let at = |x: &[V::Elem]| V::load(x.as_ptr().add(k));
            // A potential that is −∞ already must not meet a +∞.
            let old = at(potential).max(V::splat(-V::Elem::LARGE));
            let (wanted, sum, anchor) = (at(side.wanted), at(sum), at(side.anchor));
            let ratio = wanted.div(sum.max(tiny));
            let new = ratio.ln().fma(by, old).mul(tau).add(anchor.mul(less));
            let grown = new.sub(old).mul(rate).exp2();
            mass = mass.add(sum.mul(grown).keep_ge(wanted, tiny));
            new.store(potential.as_mut_ptr().add(k));
        }
        mass.sum()
    }
}

/// `potential += reg · log(scaling)`.
#[inline(always)]
unsafe fn absorb<V: Vector>(reg: V::Elem, scaling: &[V::Elem], potential: &mut [V::Elem]) {
    debug_assert!(scaling.len() >= potential.len() && potential.len().is_multiple_of(V::LANES));
    // SAFETY: both are padded to whole vectors, as asserted.
    unsafe {
        let reg = V::splat(reg);
        for k in (0..potential.len()).step_by(V::LANES) {
            let p = V::load(potential.as_ptr().add(k));
            V::load(scaling.as_ptr().add(k)).ln().fma(reg, p).store(potential.as_mut_ptr().add(k));
        }
    }
}
shells! { pub(super) fn run_absorb(reg: T, scaling: &[T], potential: &mut [T]) = absorb }

/// `turned` ← the transpose of `matrix`; both sides are multiples of every vector's width.
#[inline(always)]
unsafe fn turn<V: Vector>(height: usize, stride: usize, matrix: &[V::Elem], turned: &mut [V::Elem]) {
    debug_assert!(height.is_multiple_of(V::LANES) && stride.is_multiple_of(V::LANES));
    debug_assert!(matrix.len() >= height * stride && turned.len() >= height * stride);
    // SAFETY: the sizes asserted above.
    unsafe {
        for i in (0..height).step_by(V::LANES) {
            for j in (0..stride).step_by(V::LANES) {
                let (from, to) =
                    (matrix.as_ptr().add(i * stride + j), turned.as_mut_ptr().add(j * height + i));
                V::transpose(from, stride, to, height);
            }
        }
    }
}
shells! { pub(super) fn run_turn(height: usize, stride: usize, matrix: &[T], turned: &mut [T]) = turn }

/// `diag(u) kernel diag(v)`, the plan, for `n` rows: written to `to`, or else in the kernel's place; `u ←` its row
/// sums, `t ←` its column sums. Returns <plan, cost>, where 0 · ∞ is 0. (Row by row: lines of memory that are
/// written past the caches in pieces, by turns with others, take twice the time.)
#[inline(always)]
unsafe fn plan<V: Vector>(
    n: usize,
    stride: usize,
    cost: &[V::Elem],
    kernel: &mut [V::Elem],
    to: Option<&mut [V::Elem]>,
    u: &mut [V::Elem],
    v: &[V::Elem],
    t: &mut [V::Elem],
) -> f64 {
    debug_assert!(to.as_ref().is_none_or(|to| to.len() >= n * stride));
    debug_assert!(u.len() >= n.next_multiple_of(ROWS) && v.len().min(t.len()) >= stride);
    debug_assert!(kernel.len().min(cost.len()) >= n * stride);
    // SAFETY: the sizes asserted above.
    unsafe {
        t[..stride].fill(V::Elem::ZERO);
        let (zero, most) = (V::splat(V::Elem::ZERO), V::splat(-V::Elem::LOWEST));
        let kernel = kernel.as_mut_ptr();
        let (streams, to) = (to.is_some(), to.map_or(kernel, <[_]>::as_mut_ptr));
        let mut value = 0.0;
        for first in (0..n).step_by(ROWS) {
            let (mut sums, mut paid) = ([zero; ROWS], zero);
            for (r, sum) in sums.iter_mut().enumerate().take(ROWS.min(n - first)) {
                let (ui, mut own) = (V::splat(u[first + r]), zero);
                for c in (0..stride).step_by(V::LANES) {
                    let at = (first + r) * stride + c;
                    let x = V::load(kernel.add(at)).mul(ui).mul(V::load(v.as_ptr().add(c)));
                    if streams {
                        x.stream(to.add(at))
                    } else {
                        x.store(to.add(at))
                    }
                    own = own.add(x);
                    paid = x.fma(most.min(V::load(cost.as_ptr().add(at))), paid);
                    V::load(t.as_ptr().add(c)).add(x).store(t.as_mut_ptr().add(c));
                }
                *sum = own;
            }
            u[first..first + ROWS].copy_from_slice(&V::sum8(sums));
            value += paid.sum().double();
        }
        if streams {
            simd::settle();
        }
        value
    }
}
shells! { pub(super) fn run_plan(n: usize, stride: usize, cost: &[T], kernel: &mut [T], to: Option<&mut [T]>, u: &mut [T], v: &[T], t: &mut [T]) -> f64 = plan }

/// How a plan's sums over one side compare with a hard marginal: Σ |sums − wanted|, Σ sums · potential,
/// Σ sums, Σ (sums − wanted) · potential. Terms without mass count 0.
#[inline(always)]
unsafe fn compare<V: Vector>(sums: &[V::Elem], wanted: &[V::Elem], potential: &[V::Elem]) -> [f64; 4] {
    debug_assert!(sums.len() == wanted.len() && sums.len() == potential.len());
    // SAFETY: all slices are padded to whole vectors.
    unsafe {
        let zero = V::splat(V::Elem::ZERO);
        let tiny = V::splat(V::Elem::TINY);
        let [mut off, mut paid, mut sum, mut excess] = [zero; 4];
        for k in (0..sums.len()).step_by(V::LANES) {
            let at = |x: &[V::Elem]| V::load(x.as_ptr().add(k));
            let (s, w, p) = (at(sums), at(wanted), at(potential));
            let more = s.sub(w);
            off = off.add(more.max(zero.sub(more)));
            paid = paid.add(s.mul(p).keep_ge(s, tiny));
            sum = sum.add(s);
            excess = excess.add(more.mul(p).keep_ge(w, tiny));
        }
        [off, paid, sum, excess].map(|x| x.sum().double())
    }
}
shells! { pub(super) fn run_compare(sums: &[T], wanted: &[T], potential: &[T]) -> [f64; 4] = compare }
