//! The loops over a problem's matrix, generic over the vector type.
//!
//! Shared contract (see [`Scratch::reserve`](super::Scratch)): matrices are row-major with `stride`
//! columns; both sides are padded to multiples of the widest vector (so that transposes need no tail);
//! padding has kernel 0, cost +∞ and marginal 0. Row vectors have the padded row count, column
//! vectors `stride` elements.

use super::sweep::WIDEST;
use crate::simd::{Float, Vector, shells};

/// `f_i = min_j (C_ij − g_j)`; whether a real entry is +∞; `None` where a cost is NaN or −∞.
#[inline(always)]
unsafe fn row_minima<V: Vector>(
    m: usize,
    stride: usize,
    cost: &[V::Elem],
    g: &[V::Elem],
    f: &mut [V::Elem],
) -> Option<bool> {
    debug_assert!(cost.len() >= f.len() * stride && g.len() >= stride && stride < m + WIDEST);
    // SAFETY: the module's contract.
    unsafe {
        let (zero, one) = (V::splat(V::Elem::ZERO), V::splat(V::Elem::ONE));
        let infinity = V::splat(V::Elem::INFINITY);
        // Padding is +∞ by design, and not a forbidden edge. It lies within the last few vectors.
        let mut real = [V::Elem::ONE; WIDEST];
        let padded = stride - WIDEST.min(stride);
        real[m - padded..].fill(V::Elem::ZERO);
        let (mut numbers, mut infinite) = (one, zero);
        for (i, f) in f.iter_mut().enumerate() {
            let row = cost.as_ptr().add(i * stride);
            let mut low = infinity;
            for c in (0..stride).step_by(V::LANES) {
                let raw = V::load(row.add(c));
                let x = raw.sub(V::load(g.as_ptr().add(c)));
                numbers = numbers.min(one.keep_ge(x, x));
                let here = if c < padded { one } else { V::load(real.as_ptr().add(c - padded)) };
                infinite = infinite.max(here.keep_ge(raw, infinity));
                low = x.min(low);
            }
            *f = low.smallest();
            if *f == V::Elem::NEG_INFINITY {
                return None;
            }
        }
        (numbers.smallest() == V::Elem::ONE).then(|| infinite.largest() > V::Elem::ZERO)
    }
}
shells! { pub(super) fn run_row_minima(m: usize, stride: usize, cost: &[T], g: &[T], f: &mut [T]) -> Option<bool> = row_minima }

/// `K = exp((f + g − C) · rate)`; the least finite exponent, or 0 if that is positive.
#[inline(always)]
unsafe fn build<V: Vector>(
    n: usize,
    stride: usize,
    rate: V::Elem,
    cost: &[V::Elem],
    f: &[V::Elem],
    g: &[V::Elem],
    kernel: &mut [V::Elem],
) -> V::Elem {
    // SAFETY: the module's contract.
    unsafe {
        let rate = V::splat(rate);
        let mut least = V::splat(V::Elem::ZERO);
        let lowest = V::splat(V::Elem::LOWEST);
        for i in 0..n {
            let fi = V::splat(f[i]);
            for c in (0..stride).step_by(V::LANES) {
                let at = i * stride + c;
                let x = V::load(g.as_ptr().add(c)).add(fi).sub(V::load(cost.as_ptr().add(at))).mul(rate);
                least = x.keep_ge(x, lowest).min(least);
                x.exp().store(kernel.as_mut_ptr().add(at));
            }
        }
        least.smallest()
    }
}
shells! { pub(super) fn run_build(n: usize, stride: usize, rate: T, cost: &[T], f: &[T], g: &[T], kernel: &mut [T]) -> T = build }

/// One iteration in the log domain, f from g and g from f; returns Σ |T1 − a| before it. `tau` is 1
/// for hard marginals, reg_m / (reg_m + reg) for relaxed ones.
#[inline(always)]
unsafe fn log_sweep<V: Vector>(
    n: usize,
    m: usize,
    stride: usize,
    reg: V::Elem,
    tau: [V::Elem; 2],
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
            let top = top.largest();
            let top_v = V::splat(top);
            let mut sum = V::splat(V::Elem::ZERO);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(g.as_ptr().add(c)).sub(V::load(row.add(c))).sub(top_v);
                sum = sum.add(x.mul(rate).exp());
            }
            let new = if a[i] > V::Elem::ZERO {
                tau[0] * (reg * a[i].ln() - top - reg * sum.sum().ln())
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
                tau[1] * (reg * b[j].ln() - tops[j] - reg * sums[j].ln())
            } else {
                V::Elem::NEG_INFINITY
            };
        }
        error
    }
}
shells! { pub(super) fn run_log_sweep(n: usize, m: usize, stride: usize, reg: T, tau: [T; 2], cost: &[T], a: &[T], b: &[T], f: &mut [T], g: &mut [T], tops: &mut [T], sums: &mut [T]) -> T = log_sweep }

/// The same iteration with one `exp` per element: the plan of f and g is formed, and its row and
/// column sums correct both. `None`, with f and g as they were, where a sum leaves the range.
///
/// `kernel` and `sums` (row sums) are overwritten, `t` too.
#[inline(always)]
unsafe fn log_step<V: Vector>(
    n: usize,
    stride: usize,
    reg: V::Elem,
    tau: [V::Elem; 2],
    cost: &[V::Elem],
    a: &[V::Elem],
    b: &[V::Elem],
    f: &mut [V::Elem],
    g: &mut [V::Elem],
    kernel: &mut [V::Elem],
    sums: &mut [V::Elem],
    t: &mut [V::Elem],
) -> Option<V::Elem> {
    // SAFETY: the module's contract.
    unsafe {
        let one = V::Elem::ONE;
        let rate = V::splat(one / reg);
        let mut error = V::Elem::ZERO;
        t[..stride].fill(V::Elem::ZERO);
        for i in 0..n {
            if a[i] <= V::Elem::ZERO {
                sums[i] = one;
                continue;
            }
            let fi = V::splat(f[i]);
            let mut sum = V::splat(V::Elem::ZERO);
            let row = kernel.as_mut_ptr().add(i * stride);
            for c in (0..stride).step_by(V::LANES) {
                let x = V::load(g.as_ptr().add(c)).add(fi).sub(V::load(cost.as_ptr().add(i * stride + c)));
                let e = x.mul(rate).exp();
                e.store(row.add(c));
                sum = sum.add(e);
            }
            let sum = sum.sum();
            if !(sum > V::Elem::TINY && sum < V::Elem::LARGE) {
                return None;
            }
            sums[i] = sum;
            error += (sum - a[i]).abs();
            let ratio = if tau[0] == one {
                a[i] / sum
            } else {
                (tau[0] * (a[i] / sum).ln() + (tau[0] - one) * f[i] / reg).exp()
            };
            let ratio = V::splat(ratio);
            for c in (0..stride).step_by(V::LANES) {
                V::load(row.add(c)).fma(ratio, V::load(t.as_ptr().add(c))).store(t.as_mut_ptr().add(c));
            }
        }
        let bad = |j: usize| b[j] > V::Elem::ZERO && !(t[j] > V::Elem::TINY && t[j] < V::Elem::LARGE);
        if (0..stride).any(bad) {
            return None;
        }
        correct::<V>(reg, tau[0], a, sums, f);
        correct::<V>(reg, tau[1], b, t, g);
        Some(error)
    }
}
shells! { pub(super) fn run_log_step(n: usize, stride: usize, reg: T, tau: [T; 2], cost: &[T], a: &[T], b: &[T], f: &mut [T], g: &mut [T], kernel: &mut [T], sums: &mut [T], t: &mut [T]) -> Option<T> = log_step }

/// `potential ← τ (potential + reg · log(wanted / sum))`; −∞ where nothing is wanted.
#[inline(always)]
unsafe fn correct<V: Vector>(
    reg: V::Elem,
    tau: V::Elem,
    wanted: &[V::Elem],
    sum: &[V::Elem],
    potential: &mut [V::Elem],
) {
    // SAFETY: all three slices are padded to whole vectors.
    unsafe {
        let (reg, tau, tiny) = (V::splat(reg), V::splat(tau), V::splat(V::Elem::TINY));
        for k in (0..potential.len()).step_by(V::LANES) {
            let p = V::load(potential.as_ptr().add(k));
            // A potential that is −∞ already must not meet a +∞.
            let p = p.max(V::splat(-V::Elem::LARGE));
            let ratio = V::load(wanted.as_ptr().add(k)).div(V::load(sum.as_ptr().add(k)).max(tiny));
            ratio.ln().fma(reg, p).mul(tau).store(potential.as_mut_ptr().add(k));
        }
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

/// `turned` ← the transpose of `kernel`; both sides are multiples of every vector's width.
#[inline(always)]
unsafe fn turn<V: Vector>(height: usize, stride: usize, kernel: &[V::Elem], turned: &mut [V::Elem]) {
    debug_assert!(height.is_multiple_of(V::LANES) && stride.is_multiple_of(V::LANES));
    debug_assert!(kernel.len() >= height * stride && turned.len() >= height * stride);
    // SAFETY: the sizes asserted above.
    unsafe {
        for i in (0..height).step_by(V::LANES) {
            for j in (0..stride).step_by(V::LANES) {
                let (from, to) =
                    (kernel.as_ptr().add(i * stride + j), turned.as_mut_ptr().add(j * height + i));
                V::transpose(from, stride, to, height);
            }
        }
    }
}
shells! { pub(super) fn run_turn(height: usize, stride: usize, kernel: &[T], turned: &mut [T]) = turn }

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
