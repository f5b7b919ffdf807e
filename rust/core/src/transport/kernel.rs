//! The loops over a problem's matrix, generic over the vector type.
//!
//! Shared contract (see [`Scratch::reserve`](super::Scratch)): matrices are row-major with `stride`
//! columns, a multiple of the vector width; their row count is padded to a multiple of [`ROWS`];
//! padding has kernel 0, cost +∞ and marginal 0. Row vectors have the padded row count, column
//! vectors `stride` elements.

use crate::simd::{Float, ROWS, Vector, shells};

/// What one Sinkhorn sweep tells about the scalings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep<T> {
    /// Σ |T1 − a| of the plan *before* the sweep.
    pub(super) error: T,
    /// The largest of the new scalings.
    pub(super) largest: T,
}

/// `u = a / (K v)`, then `v = b / (Kᵀ u)`, reading K once: each block of [`ROWS`] rows is first
/// reduced against v, and at once scattered into the column sums with its new u.
#[inline(always)]
unsafe fn sweep<V: Vector>(
    height: usize,
    stride: usize,
    kernel: &[V::Elem],
    a: &[V::Elem],
    b: &[V::Elem],
    u: &mut [V::Elem],
    v: &mut [V::Elem],
    t: &mut [V::Elem],
) -> Sweep<V::Elem> {
    debug_assert!(kernel.len() >= height * stride && a.len() >= height && u.len() >= height);
    debug_assert!(b.len() >= stride && v.len() >= stride && t.len() >= stride);
    // SAFETY: the module's contract gives the sizes asserted above.
    unsafe {
        let (error, largest) = match stride / V::LANES {
            1 => rows_in_registers::<V, 1>(height, kernel, a, u, v, t),
            2 => rows_in_registers::<V, 2>(height, kernel, a, u, v, t),
            3 => rows_in_registers::<V, 3>(height, kernel, a, u, v, t),
            4 => rows_in_registers::<V, 4>(height, kernel, a, u, v, t),
            _ => rows_streamed::<V>(height, stride, kernel, a, u, v, t),
        };
        let tiny = V::splat(V::Elem::TINY);
        let mut top = V::splat(largest);
        for c in (0..stride).step_by(V::LANES) {
            let new = V::load(b.as_ptr().add(c)).div(V::load(t.as_ptr().add(c)).max(tiny));
            new.store(v.as_mut_ptr().add(c));
            top = new.max(top);
        }
        Sweep { error, largest: largest_lane(top) }
    }
}
shells! { pub(super) fn run_sweep(height: usize, stride: usize, kernel: &[T], a: &[T], b: &[T], u: &mut [T], v: &mut [T], t: &mut [T]) -> Sweep<T> = sweep }

/// Row sums to scalings: `u = a / s`. Returns nothing; folds error and maximum into the arrays.
#[inline(always)]
fn scale_rows<T: Float>(
    s: [T; ROWS],
    a: &[T],
    u: &mut [T],
    error: &mut [T; ROWS],
    top: &mut [T; ROWS],
) -> [T; ROWS] {
    let mut new = [T::ZERO; ROWS];
    for r in 0..ROWS {
        error[r] += (u[r] * s[r] - a[r]).abs();
        // Not `max`: this form is one instruction and sends NaN to TINY, hence out of range.
        let divisor = if s[r] > T::TINY { s[r] } else { T::TINY };
        new[r] = a[r] / divisor;
        top[r] = if new[r] > top[r] { new[r] } else { top[r] };
    }
    u[..ROWS].copy_from_slice(&new);
    new
}

/// Rows of at most four vectors: v and the column sums stay in registers throughout.
///
/// A block's row sums take some eighty cycles from its last product to its new u. The products of the
/// next block are issued before the scatter that waits for them, so that the two overlap.
#[inline(always)]
unsafe fn rows_in_registers<V: Vector, const C: usize>(
    height: usize,
    kernel: &[V::Elem],
    a: &[V::Elem],
    u: &mut [V::Elem],
    v: &[V::Elem],
    t: &mut [V::Elem],
) -> (V::Elem, V::Elem) {
    // SAFETY: the contract of `sweep`, with stride = C · LANES.
    unsafe {
        let zero = V::splat(V::Elem::ZERO);
        let mut vs = [zero; C];
        for c in 0..C {
            vs[c] = V::load(v.as_ptr().add(c * V::LANES));
        }
        let at = |row: usize, c: usize| V::load(kernel.as_ptr().add((row * C + c) * V::LANES));
        // Even and odd rows apart: half as long a chain of dependent additions.
        let (mut even, mut odd) = ([zero; C], [zero; C]);
        let (mut error, mut top) = ([V::Elem::ZERO; ROWS], [V::Elem::ZERO; ROWS]);
        let mut waiting = [V::Elem::ZERO; ROWS];
        let mut row = 0;
        while row <= height {
            let mut dots = [zero; ROWS];
            if row < height {
                for r in 0..ROWS {
                    let mut dot = at(row + r, 0).mul(vs[0]);
                    for c in 1..C {
                        dot = at(row + r, c).fma(vs[c], dot);
                    }
                    dots[r] = dot;
                }
            }
            if row > 0 {
                for r in (0..ROWS).step_by(2) {
                    let (x, y) = (V::splat(waiting[r]), V::splat(waiting[r + 1]));
                    for c in 0..C {
                        even[c] = at(row - ROWS + r, c).fma(x, even[c]);
                        odd[c] = at(row - ROWS + r + 1, c).fma(y, odd[c]);
                    }
                }
            }
            if row < height {
                waiting = scale_rows(
                    V::sum8(dots),
                    a.get_unchecked(row..row + ROWS),
                    u.get_unchecked_mut(row..row + ROWS),
                    &mut error,
                    &mut top,
                );
            }
            row += ROWS;
        }
        for c in 0..C {
            even[c].add(odd[c]).store(t.as_mut_ptr().add(c * V::LANES));
        }
        (sum_of(error), max_of(top))
    }
}

/// Longer rows: v and the column sums come from the innermost cache. Overlapped as above.
#[inline(always)]
unsafe fn rows_streamed<V: Vector>(
    height: usize,
    stride: usize,
    kernel: &[V::Elem],
    a: &[V::Elem],
    u: &mut [V::Elem],
    v: &[V::Elem],
    t: &mut [V::Elem],
) -> (V::Elem, V::Elem) {
    // SAFETY: the contract of `sweep`.
    unsafe {
        t[..stride].fill(V::Elem::ZERO);
        let zero = V::splat(V::Elem::ZERO);
        let (mut error, mut top) = ([V::Elem::ZERO; ROWS], [V::Elem::ZERO; ROWS]);
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
                waiting = scale_rows(
                    V::sum8(dots),
                    a.get_unchecked(row..row + ROWS),
                    u.get_unchecked_mut(row..row + ROWS),
                    &mut error,
                    &mut top,
                );
            }
            row += ROWS;
        }
        (sum_of(error), max_of(top))
    }
}

fn sum_of<T: Float>(x: [T; ROWS]) -> T {
    x.into_iter().sum()
}

fn max_of<T: Float>(x: [T; ROWS]) -> T {
    x.into_iter().fold(T::NEG_INFINITY, T::max)
}

/// Fold the lanes by halves: a tree that stays in vector registers.
#[inline(always)]
unsafe fn fold_lanes<V: Vector>(x: V, start: V::Elem, f: impl Fn(V::Elem, V::Elem) -> V::Elem) -> V::Elem {
    let mut lanes = [start; 16];
    // SAFETY: no vector has more than 16 lanes.
    unsafe { x.store(lanes.as_mut_ptr()) };
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

#[inline(always)]
unsafe fn largest_lane<V: Vector>(x: V) -> V::Elem {
    // SAFETY: as for the vector.
    unsafe { fold_lanes(x, V::Elem::NEG_INFINITY, |x, y| if x > y { x } else { y }) }
}

#[inline(always)]
unsafe fn smallest_lane<V: Vector>(x: V) -> V::Elem {
    // SAFETY: as for the vector.
    unsafe { fold_lanes(x, V::Elem::INFINITY, |x, y| if x < y { x } else { y }) }
}

/// What a first look at a problem's costs tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<T> {
    /// The largest finite `C_ij − g_j − f_i`.
    pub(super) spread: T,
    /// Whether a real entry is +∞.
    pub(super) forbidden: bool,
}

/// `f_i = min_j (C_ij − g_j)`, and a first look; `None` where a cost is NaN or −∞.
#[inline(always)]
unsafe fn row_minima<V: Vector>(
    n: usize,
    m: usize,
    stride: usize,
    cost: &[V::Elem],
    g: &[V::Elem],
    f: &mut [V::Elem],
) -> Option<Look<V::Elem>> {
    // SAFETY: the module's contract.
    unsafe {
        let (zero, one) = (V::splat(V::Elem::ZERO), V::splat(V::Elem::ONE));
        let infinity = V::splat(V::Elem::INFINITY);
        let greatest = if size_of::<V::Elem>() == 4 { f64::from(f32::MAX) } else { f64::MAX };
        let finite = V::splat(V::Elem::of(greatest));
        let (mut numbers, mut spread, mut infinite) = (one, zero, zero);
        let mut forbidden = false;
        let whole = m / V::LANES * V::LANES;
        for i in 0..n {
            let row = cost.as_ptr().add(i * stride);
            let mut low = infinity;
            for c in (0..stride).step_by(V::LANES) {
                let raw = V::load(row.add(c));
                let x = raw.sub(V::load(g.as_ptr().add(c)));
                numbers = numbers.min(one.keep_ge(x, x));
                if c < whole {
                    infinite = infinite.max(one.keep_ge(raw, infinity));
                }
                low = x.min(low);
            }
            // The last vector may hold padding, which is +∞ by design.
            for c in whole..m {
                forbidden |= *row.add(c) == V::Elem::INFINITY;
            }
            let low = smallest_lane(low);
            f[i] = low;
            if low == V::Elem::NEG_INFINITY {
                return None;
            }
            let low = V::splat(low);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(row.add(c)).sub(V::load(g.as_ptr().add(c)));
                spread = x.sub(low).keep_ge(finite, x).max(spread);
            }
        }
        forbidden |= largest_lane(infinite) > V::Elem::ZERO;
        (smallest_lane(numbers) == V::Elem::ONE).then(|| Look { spread: largest_lane(spread), forbidden })
    }
}
shells! { pub(super) fn run_row_minima(n: usize, m: usize, stride: usize, cost: &[T], g: &[T], f: &mut [T]) -> Option<Look<T>> = row_minima }

/// `K = exp((f + g − C) · rate)`.
#[inline(always)]
unsafe fn build<V: Vector>(
    n: usize,
    stride: usize,
    rate: V::Elem,
    cost: &[V::Elem],
    f: &[V::Elem],
    g: &[V::Elem],
    kernel: &mut [V::Elem],
) {
    // SAFETY: the module's contract.
    unsafe {
        let rate = V::splat(rate);
        for i in 0..n {
            let fi = V::splat(f[i]);
            for c in (0..stride).step_by(V::LANES) {
                let at = i * stride + c;
                let x = V::load(g.as_ptr().add(c)).add(fi).sub(V::load(cost.as_ptr().add(at)));
                x.mul(rate).exp().store(kernel.as_mut_ptr().add(at));
            }
        }
    }
}
shells! { pub(super) fn run_build(n: usize, stride: usize, rate: T, cost: &[T], f: &[T], g: &[T], kernel: &mut [T]) = build }

/// One iteration in the log domain, f from g and g from f; returns Σ |T1 − a| before it.
#[inline(always)]
unsafe fn log_sweep<V: Vector>(
    n: usize,
    m: usize,
    stride: usize,
    reg: V::Elem,
    cost: &[V::Elem],
    a: &[V::Elem],
    b: &[V::Elem],
    f: &mut [V::Elem],
    g: &mut [V::Elem],
    tops: &mut [V::Elem],
    sums: &mut [V::Elem],
) -> V::Elem {
    // SAFETY: the module's contract; `tops` and `sums` have `stride` elements.
    unsafe {
        let rate = V::splat(V::Elem::ONE / reg);
        let mut error = V::Elem::ZERO;
        for i in 0..n {
            let row = cost.as_ptr().add(i * stride);
            let mut top = V::splat(V::Elem::NEG_INFINITY);
            for c in (0..stride).step_by(V::LANES) {
                top = V::load(g.as_ptr().add(c)).sub(V::load(row.add(c))).max(top);
            }
            let top = largest_lane(top);
            let top_v = V::splat(top);
            let mut sum = V::splat(V::Elem::ZERO);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(g.as_ptr().add(c)).sub(V::load(row.add(c))).sub(top_v);
                sum = sum.add(x.mul(rate).exp());
            }
            let new = if a[i] > V::Elem::ZERO {
                reg * a[i].ln() - top - reg * sum.sum().ln()
            } else {
                V::Elem::NEG_INFINITY
            };
            if a[i] > V::Elem::ZERO {
                error += a[i] * (((f[i] - new) / reg).exp() - V::Elem::ONE).abs();
            }
            f[i] = new;
        }
        tops[..stride].fill(V::Elem::NEG_INFINITY);
        sums[..stride].fill(V::Elem::ZERO);
        for i in 0..n {
            let fi = V::splat(f[i]);
            for c in (0..stride).step_by(V::LANES) {
                let x = fi.sub(V::load(cost.as_ptr().add(i * stride + c)));
                x.max(V::load(tops.as_ptr().add(c))).store(tops.as_mut_ptr().add(c));
            }
        }
        for i in 0..n {
            let fi = V::splat(f[i]);
            for c in (0..stride).step_by(V::LANES) {
                let x = fi.sub(V::load(cost.as_ptr().add(i * stride + c))).sub(V::load(tops.as_ptr().add(c)));
                let sum = V::load(sums.as_ptr().add(c)).add(x.mul(rate).exp());
                sum.store(sums.as_mut_ptr().add(c));
            }
        }
        for j in 0..m {
            g[j] = if b[j] > V::Elem::ZERO {
                reg * b[j].ln() - tops[j] - reg * sums[j].ln()
            } else {
                V::Elem::NEG_INFINITY
            };
        }
        error
    }
}
shells! { pub(super) fn run_log_sweep(n: usize, m: usize, stride: usize, reg: T, cost: &[T], a: &[T], b: &[T], f: &mut [T], g: &mut [T], tops: &mut [T], sums: &mut [T]) -> T = log_sweep }

/// `kernel ← diag(u) kernel diag(v)`, the plan; `u ←` its row sums, `t ←` its column sums; returns
/// <plan, cost>, where 0 · ∞ is 0.
#[inline(always)]
unsafe fn plan<V: Vector>(
    n: usize,
    stride: usize,
    cost: &[V::Elem],
    kernel: &mut [V::Elem],
    u: &mut [V::Elem],
    v: &[V::Elem],
    t: &mut [V::Elem],
) -> f64 {
    // SAFETY: the module's contract.
    unsafe {
        t[..stride].fill(V::Elem::ZERO);
        let zero = V::splat(V::Elem::ZERO);
        let least = V::splat(V::Elem::TINY);
        let mut value = 0.0;
        for i in 0..n {
            let ui = V::splat(u[i]);
            let (mut row, mut paid) = (zero, zero);
            for c in (0..stride).step_by(V::LANES) {
                let at = i * stride + c;
                let x = V::load(kernel.as_ptr().add(at)).mul(ui).mul(V::load(v.as_ptr().add(c)));
                x.store(kernel.as_mut_ptr().add(at));
                row = row.add(x);
                paid = paid.add(x.mul(V::load(cost.as_ptr().add(at))).keep_ge(x, least));
                V::load(t.as_ptr().add(c)).add(x).store(t.as_mut_ptr().add(c));
            }
            u[i] = row.sum();
            value += paid.sum().double();
        }
        value
    }
}
shells! { pub(super) fn run_plan(n: usize, stride: usize, cost: &[T], kernel: &mut [T], u: &mut [T], v: &[T], t: &mut [T]) -> f64 = plan }

/// `kernel ← kernel ⊙ step`, the start of a proximal step.
///
/// Where the step is positive, the product is kept at `TINY` or above: an edge that fades for a
/// while must be able to come back, and a float that has underflowed to 0 cannot.
#[inline(always)]
unsafe fn multiply<V: Vector>(height: usize, stride: usize, step: &[V::Elem], kernel: &mut [V::Elem]) {
    // SAFETY: the module's contract.
    unsafe {
        let least = V::splat(V::Elem::TINY);
        for at in (0..height * stride).step_by(V::LANES) {
            let x = V::load(step.as_ptr().add(at));
            V::load(kernel.as_ptr().add(at))
                .mul(x)
                .max(least)
                .keep_ge(x, least)
                .store(kernel.as_mut_ptr().add(at));
        }
    }
}
shells! { pub(super) fn run_multiply(height: usize, stride: usize, step: &[T], kernel: &mut [T]) = multiply }
