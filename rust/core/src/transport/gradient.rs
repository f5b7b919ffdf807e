//! The gradient of <T*(C), C> through the dependence of the optimal plan on the cost.

use std::sync::atomic::AtomicBool;

use ndarray::{ArrayView3, ArrayViewMut3, Axis};
use rayon::prelude::*;

use super::check_reg;
use crate::Result;
use crate::error::{ensure, proceed};
use crate::simd::Float;

/// Sides up to this are solved directly, larger ones by conjugate gradients.
const DIRECT: usize = 384;

/// `T ⊙ (1 − (C − Π C) / reg)` for every problem of a batch, where Π is the T-weighted projection
/// onto the matrices α ⊕ β: the gradient of `<T*(C), C>` with respect to C at the optimum.
///
/// Differentiating the optimality conditions of entropic transport gives
/// dT = −T ⊙ (dC − Π dC) / reg, and Π is self-adjoint in the T-weighted inner product. Rows of the
/// result sum to `a`, columns to `b`. Unbalanced marginals (finite `reg_m`) add reg / reg_m times the
/// row (column) sums to the diagonal of the normal equations of Π. `plan`, `cost` and `out` have shape (batch, n, m); entries with
/// plan 0 (padding, forbidden edges) get 0. Computed in double precision.
///
/// # Errors
/// Shapes that differ, a bad `reg` (one value, or one per problem), or `cancel` set by another thread.
pub fn implicit_gradient<T: Float>(
    plan: ArrayView3<'_, T>,
    cost: ArrayView3<'_, T>,
    reg: &[f64],
    reg_m: [f64; 2],
    cancel: Option<&AtomicBool>,
    mut out: ArrayViewMut3<'_, T>,
) -> Result<()> {
    let (shape, got) = (plan.dim(), cost.dim());
    ensure!(
        shape == got && shape == out.dim(),
        "cost: expected the shape of the plan, {shape:?}, got {got:?}"
    );
    check_reg::<T>(reg, plan.dim().0)?;
    out.axis_iter_mut(Axis(0)).into_par_iter().enumerate().try_for_each(|(i, mut out)| {
        proceed(cancel)?;
        let (plan, cost) = (plan.index_axis(Axis(0), i), cost.index_axis(Axis(0), i));
        let (n, m) = plan.dim();
        let t: Vec<f64> = plan.iter().map(|p| p.double()).collect();
        let both = plan.iter().zip(&cost);
        let mut c: Vec<f64> = both.map(|(p, x)| if *p > T::ZERO { x.double() } else { 0.0 }).collect();
        one(n, m, &t, &mut c, reg[i.min(reg.len() - 1)], reg_m);
        out.iter_mut().zip(&c).for_each(|(o, g)| *o = T::of(*g));
        Ok(())
    })
}

/// The gradient of one row-major n × m problem, written over the cost.
pub(super) fn one(n: usize, m: usize, plan: &[f64], cost: &mut [f64], reg: f64, reg_m: [f64; 2]) {
    let (alpha, beta) = projection(n, m, plan, cost, reg_m.map(|rho| 1.0 + reg / rho));
    for i in 0..n {
        for j in 0..m {
            let k = i * m + j;
            cost[k] = plan[k] * (1.0 - (cost[k] - alpha[i] - beta[j]) / reg);
        }
    }
}

/// α, β minimising Σ T (L − α ⊕ β)²: the normal equations, with the longer side eliminated. Their
/// diagonal is multiplied by `grow` (1 for hard marginals).
fn projection(n: usize, m: usize, plan: &[f64], l: &[f64], grow: [f64; 2]) -> (Vec<f64>, Vec<f64>) {
    if n < m {
        let transposed = |x: &[f64]| (0..n * m).map(|k| x[(k % n) * m + k / n]).collect::<Vec<_>>();
        let (beta, alpha) = projection(m, n, &transposed(plan), &transposed(l), [grow[1], grow[0]]);
        return (alpha, beta);
    }
    let (mut rows, mut cols) = (vec![0.0; n], vec![0.0; m]);
    let (mut row_l, mut col_l) = (vec![0.0; n], vec![0.0; m]);
    for i in 0..n {
        for j in 0..m {
            let (t, x) = (plan[i * m + j], plan[i * m + j] * l[i * m + j]);
            rows[i] += t;
            cols[j] += t;
            row_l[i] += x;
            col_l[j] += x;
        }
    }
    rows.iter_mut().for_each(|r| *r *= grow[0]);
    cols.iter_mut().for_each(|c| *c *= grow[1]);
    let inverse: Vec<f64> = rows.iter().map(|r| if *r > 0.0 { 1.0 / r } else { 0.0 }).collect();
    // (diag(cols) − Tᵀ diag(1/rows) T) β = col_l − Tᵀ (row_l / rows). The constants are in the kernel
    // of the matrix (and more is, where the plan falls apart into blocks); they do not change α ⊕ β
    // where T > 0, so a ridge far below the accuracy of T picks one of the solutions.
    let mut right = col_l;
    for i in 0..n {
        let share = row_l[i] * inverse[i];
        (0..m).for_each(|j| right[j] -= plan[i * m + j] * share);
    }
    let ridge = 1e-13 * cols.iter().sum::<f64>().max(f64::MIN_POSITIVE) / m.max(1) as f64;
    let diagonal: Vec<f64> = cols.iter().map(|c| if *c > 0.0 { c + ridge } else { 1.0 }).collect();
    let beta = if m <= DIRECT {
        direct(n, m, plan, &inverse, &diagonal, right)
    } else {
        iterative(n, m, plan, &inverse, &diagonal, right)
    };
    let alpha = (0..n)
        .map(|i| {
            let moved: f64 = (0..m).map(|j| plan[i * m + j] * beta[j]).sum();
            (row_l[i] - moved) * inverse[i]
        })
        .collect();
    (alpha, beta)
}

/// Cholesky; `right` becomes the solution.
fn direct(
    n: usize,
    m: usize,
    plan: &[f64],
    inverse: &[f64],
    diagonal: &[f64],
    mut right: Vec<f64>,
) -> Vec<f64> {
    let mut s = vec![0.0; m * m];
    for i in 0..n {
        let row = &plan[i * m..][..m];
        for j in 0..m {
            let scaled = row[j] * inverse[i];
            if scaled != 0.0 {
                s[j * m..][..=j].iter_mut().zip(row).for_each(|(s, t)| *s -= scaled * t);
            }
        }
    }
    (0..m).for_each(|j| s[j * m + j] += diagonal[j]);
    for j in 0..m {
        let (done, rest) = s.split_at_mut(j * m);
        for k in 0..j {
            let dot: f64 = (0..k).map(|p| rest[p] * done[k * m + p]).sum();
            rest[k] = (rest[k] - dot) / done[k * m + k];
        }
        let square: f64 = rest[..j].iter().map(|x| x * x).sum();
        // Cancellation can leave a hair below 0; the diagonal's rounding is the right floor.
        rest[j] = (rest[j] - square).max(1e-15 * diagonal[j]).sqrt();
        let dot: f64 = (0..j).map(|p| rest[p] * right[p]).sum();
        right[j] = (right[j] - dot) / rest[j];
    }
    for j in (0..m).rev() {
        right[j] /= s[j * m + j];
        for p in 0..j {
            right[p] -= s[j * m + p] * right[j];
        }
    }
    right
}

/// Jacobi-preconditioned conjugate gradients.
fn iterative(
    n: usize,
    m: usize,
    plan: &[f64],
    inverse: &[f64],
    diagonal: &[f64],
    right: Vec<f64>,
) -> Vec<f64> {
    let apply = |x: &[f64]| -> Vec<f64> {
        let mut out: Vec<f64> = x.iter().zip(diagonal).map(|(x, d)| x * d).collect();
        for i in 0..n {
            let row = &plan[i * m..][..m];
            let dot: f64 = row.iter().zip(x).map(|(t, x)| t * x).sum::<f64>() * inverse[i];
            out.iter_mut().zip(row).for_each(|(o, t)| *o -= t * dot);
        }
        out
    };
    let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| x * y).sum() };
    let mut x = vec![0.0; m];
    let mut r = right;
    let goal = 1e-24 * dot(&r, &r);
    let precondition = |r: &[f64]| -> Vec<f64> { r.iter().zip(diagonal).map(|(r, d)| r / d).collect() };
    let mut z = precondition(&r);
    let mut p = z.clone();
    let mut rz = dot(&r, &z);
    for _ in 0..4 * m {
        if dot(&r, &r) <= goal || rz == 0.0 {
            break;
        }
        let ap = apply(&p);
        let step = rz / dot(&p, &ap);
        x.iter_mut().zip(&p).for_each(|(x, p)| *x += step * p);
        r.iter_mut().zip(&ap).for_each(|(r, q)| *r -= step * q);
        z = precondition(&r);
        let next = dot(&r, &z);
        let keep = next / rz;
        p.iter_mut().zip(&z).for_each(|(p, z)| *p = z + keep * *p);
        rz = next;
    }
    x
}
