//! Batched entropic optimal transport between the tokens of two texts.
//!
//! For every problem of a batch, with a cost matrix `C` (n × m) and marginals `a` (n) and `b` (m):
//!
//! ```text
//! minimise  <T, C> + reg · Σ T (log T − 1)   subject to   T 1 = a,  Tᵀ 1 = b
//! ```
//!
//! solved by Sinkhorn's iteration (Cuturi, NeurIPS 2013; stabilised as in Schmitzer, SIAM J. Sci.
//! Comput. 2019), or the unregularised problem by proximal steps (IPOT; Xie, Wang, Wang, Zha,
//! UAI 2019). A problem lives in one thread's cache and has its own stopping and [`Status`].
//!
//! **Where what is.** A problem is compacted to its real rows and columns (`workspace.rs`) and iterated on by one
//! driver (`driver.rs`, with pseudocode) in some domain (`domain.rs`), under some schedule (`schedule.rs`); `residual.rs` has the
//! one definition of the error that stops it, `sweep.rs` and `kernel.rs` the loops over matrices.
//!
//! **Error bounds.** A float32 plan of mass 1 is within 5·10⁻⁵ in L1 of the same iterations in float64, and within
//! that of another instruction set's; float64 within 10⁻¹². `<T, C>` and `value` are summed in float64.
//!
//! ```
//! use ndarray::arr3;
//! use optical_core::transport::{Batch, Options};
//!
//! let cost = arr3(&[[[0.0_f32, 1.0], [1.0, 0.0]]]);
//! let solved = Batch::new(cost.view(), &[0.1]).solve(&Options::default())?;
//! assert!(solved.reports[0].converged && (solved.plan[[0, 0, 0]] - 0.5).abs() < 1e-4);
//! # Ok::<(), optical_core::Error>(())
//! ```

mod alignment;
mod buffer;
mod domain;
mod driver;
mod gradient;
mod kernel;
mod pace;
mod residual;
mod schedule;
mod sweep;
mod workspace;

use std::sync::atomic::AtomicBool;

use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};
use rayon::prelude::*;

use crate::simd::{self, Float};
use crate::{Result, error::ensure};
use workspace::Workspace;

pub use alignment::{Alignment, AlignmentOptions, AlignmentOutput, align_batch};
pub use gradient::implicit_gradient;

/// Which algorithm solves a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Linear domain where it is safe, absorption-stabilised otherwise.
    Auto,
    /// As `Auto`.
    Linear,
    /// Every iteration in the log domain: slowest, never under- or overflows.
    Log,
    /// Proximal point iterations towards unregularised transport; `reg` is the step parameter β.
    Ipot,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 4] = [Method::Auto, Method::Linear, Method::Log, Method::Ipot];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Auto => "auto",
            Method::Linear => "linear",
            Method::Log => "log",
            Method::Ipot => "ipot",
        }
    }
}

/// How a problem ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Status {
    /// Solved in the linear domain.
    Linear = 0,
    /// Solved with scalings absorbed into the kernel.
    Stabilised = 1,
    /// Solved in the log domain.
    Log = 2,
    /// Solved by proximal steps.
    Ipot = 3,
    /// No rows or no columns: the plan is empty and the value 0.
    Empty = 4,
}

impl Status {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Status::Linear => "linear",
            Status::Stabilised => "stabilised",
            Status::Log => "log",
            Status::Ipot => "ipot",
            Status::Empty => "empty",
        }
    }
}

/// What applies to all problems of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The algorithm.
    pub method: Method,
    /// Iterations after which a problem stops, converged or not.
    pub max_iter: usize,
    /// Stop once the relative L1 error of the row marginal, Σ|T1 − a| / Σa, is at most this;
    /// 0 runs exactly `max_iter` iterations.
    pub tol: f64,
    /// How strictly rows and columns keep to `a` and `b`: ∞ makes them hard constraints, a finite
    /// value (in cost units) adds reg_m · KL(T1 | a), or reg_m · KL(Tᵀ1 | b), to the objective
    /// instead (Chizat, Peyré, Schmitzer, Vialard, Math. Comp. 2018).
    pub reg_m: [f64; 2],
    /// Whether over-relaxation may be used on the way to `tol`.
    pub accelerate: bool,
    /// Set by another thread to stop early with [`Error::Interrupted`](crate::Error::Interrupted).
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            method: Method::Auto,
            max_iter: 1000,
            tol: 1e-4,
            reg_m: [f64::INFINITY; 2],
            accelerate: true,
            cancel: None,
        }
    }
}

impl Options<'_> {
    fn is_unbalanced(&self) -> bool {
        self.reg_m.iter().any(|rho| rho.is_finite())
    }

    fn check(&self) -> Result<()> {
        for rho in self.reg_m {
            ensure!(rho > 0.0, "reg_m: expected a number > 0 or infinity, got {rho}");
        }
        let both = self.is_unbalanced() && self.method == Method::Ipot;
        ensure!(!both, "reg_m: expected hard marginals with method 'ipot'");
        Ok(())
    }
}

/// Which rows (or columns) of each padded matrix are real.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Extent<'a> {
    /// All of them.
    All,
    /// The first `lengths[i]` of problem i.
    Lengths(&'a [usize]),
    /// Those that are `true`, shape (batch, side).
    Mask(ArrayView2<'a, bool>),
}

impl Extent<'_> {
    fn check(&self, name: &str, batch: usize, side: usize) -> Result<()> {
        match self {
            Extent::All => Ok(()),
            Extent::Lengths(lengths) => {
                let count = lengths.len();
                ensure!(count == batch, "{name}: expected {batch} lengths, one per problem, got {count}");
                for (i, n) in lengths.iter().enumerate() {
                    ensure!(*n <= side, "{name}: problem {i} has length {n}, but the padded side is {side}");
                }
                Ok(())
            }
            Extent::Mask(mask) => check_shape(name, Some(mask.dim()), batch, side),
        }
    }

    /// Indices of the real entries of problem `i`, ascending.
    fn indices(&self, i: usize, side: usize, into: &mut Vec<usize>) {
        into.clear();
        match self {
            Extent::All => into.extend(0..side),
            Extent::Lengths(lengths) => into.extend(0..lengths[i]),
            Extent::Mask(mask) => {
                into.extend(mask.row(i).iter().enumerate().filter(|(_, m)| **m).map(|(k, _)| k));
            }
        }
    }
}

/// A batch of transport problems, padded to one shape.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, T> {
    /// Costs, shape (batch, n, m). +∞ forbids an edge.
    pub cost: ArrayView3<'a, T>,
    /// Regularisation in cost units: one value for all, or one per problem.
    pub reg: &'a [f64],
    /// Row marginals, shape (batch, n); uniform over the real rows if absent.
    pub a: Option<ArrayView2<'a, T>>,
    /// Column marginals, shape (batch, m); uniform over the real columns if absent.
    pub b: Option<ArrayView2<'a, T>>,
    /// The real rows.
    pub rows: Extent<'a>,
    /// The real columns.
    pub cols: Extent<'a>,
    /// Column potentials g to start from, shape (batch, m). (The first half-step recomputes f.)
    pub start: Option<ArrayView2<'a, T>>,
}

impl<'a, T: Float> Batch<'a, T> {
    /// A batch with uniform marginals and without padding.
    pub fn new(cost: ArrayView3<'a, T>, reg: &'a [f64]) -> Self {
        Batch { cost, reg, a: None, b: None, rows: Extent::All, cols: Extent::All, start: None }
    }

    fn check(&self) -> Result<()> {
        let (batch, n, m) = self.cost.dim();
        check_reg::<T>(self.reg, batch)?;
        self.rows.check("rows", batch, n)?;
        self.cols.check("cols", batch, m)?;
        check_shape("a", self.a.map(|a| a.dim()), batch, n)?;
        check_shape("b", self.b.map(|b| b.dim()), batch, m)?;
        check_shape("start", self.start.map(|start| start.dim()), batch, m)
    }
}

fn check_shape(name: &str, given: Option<(usize, usize)>, batch: usize, side: usize) -> Result<()> {
    let got = given.unwrap_or((batch, side));
    ensure!(got == (batch, side), "{name}: expected shape ({batch}, {side}), got {got:?}");
    Ok(())
}

fn check_reg<T: Float>(reg: &[f64], batch: usize) -> Result<()> {
    let count = reg.len();
    ensure!(count == 1 || count == batch, "reg: expected one value or {batch}, one per problem, got {count}");
    let (least, most) = (T::TINY.double(), T::ONE.double() / T::TINY.double());
    for r in reg {
        ensure!(r.is_finite() && *r > 0.0, "reg: expected a finite number > 0, got {r}");
        let range = "the range of the costs' precision";
        ensure!(
            (least..=most).contains(r),
            "reg: expected a number in {least:e}..{most:e}, {range}, got {r:e}"
        );
    }
    Ok(())
}

/// Where a batch's results go. Padding is written as 0.
#[derive(Debug)]
pub struct Output<'a, T> {
    /// Plans, shape (batch, n, m), if wanted.
    pub plan: Option<ArrayViewMut3<'a, T>>,
    /// Row potentials in cost units, shape (batch, n); −∞ where `a` is 0.
    pub f: ArrayViewMut2<'a, T>,
    /// Column potentials in cost units, shape (batch, m).
    pub g: ArrayViewMut2<'a, T>,
}

/// The scalars of one solved problem.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// <T, C> + reg · Σ T (log T − 1), plus reg_m times the divergences of unbalanced marginals; for IPOT the same as `value_linear`.
    pub value: f64,
    /// <T, C>.
    pub value_linear: f64,
    /// `value` less the dual objective at the potentials, which no plan undercuts. Between hard marginals it can be
    /// a little below 0, as the plan meets them only to within `marginal_error`.
    pub duality_gap: f64,
    /// The larger of Σ|T1 − a| and Σ|Tᵀ1 − b|, relative to Σa, of the returned plan. With unbalanced
    /// marginals, the distance from what the optimum satisfies: T1 = a exp(−f / reg_m).
    pub marginal_error: f64,
    /// The regularisation of the plan and the potentials: T = exp((f ⊕ g − C) / reg); β/t after t proximal steps.
    pub reg: f64,
    /// Iterations run.
    pub n_iter: usize,
    /// Whether `marginal_error` is within the tolerance.
    pub converged: bool,
    /// How it was solved.
    pub status: Status,
}

impl Report {
    const EMPTY: Report = Report {
        value: 0.0,
        value_linear: 0.0,
        duality_gap: 0.0,
        reg: 0.0,
        marginal_error: 0.0,
        n_iter: 0,
        converged: true,
        status: Status::Empty,
    };
}

/// Bytes of a batch's plans from which on they are written past the caches, which could not hold them.
const STREAMED: usize = 8 << 20;

/// Solve every problem of a batch, in parallel.
///
/// A problem's result depends on its real block alone: not on padding, on the rest of the batch or
/// on the number of threads (bitwise), and on the SIMD level only through rounding.
///
/// # Errors
/// The first bad problem of the batch, or a shape that does not fit.
pub fn solve_batch<T: Float>(
    batch: &Batch<'_, T>,
    options: &Options<'_>,
    output: Output<'_, T>,
) -> Result<Vec<Report>> {
    batch.check()?;
    options.check()?;
    let (count, n, m) = batch.cost.dim();
    let Output { plan, mut f, mut g } = output;
    let plan_shape = plan.as_ref().map(|p| p.dim());
    let fits =
        f.dim() == (count, n) && g.dim() == (count, m) && plan_shape.is_none_or(|d| d == (count, n, m));
    ensure!(fits, "output: expected the shapes of the cost");
    let mut plans = each(plan, count);
    let level = simd::level();
    let few = count < rayon::current_num_threads();
    // (Proximal steps may be made in double precision, and their plans are rounded.)
    let streams = count * n * m * size_of::<T>() >= STREAMED && options.method != Method::Ipot;
    let one = |w: &mut Workspace<T>, i: usize, plan: &mut Option<ArrayViewMut2<'_, T>>, f, g| {
        w.load(batch, options, level, i)?;
        let to = plan.as_mut().filter(|_| streams).and_then(|plan| w.as_kernel(plan));
        let streamed = to.is_some();
        let report = w.solve(options, level, to)?;
        w.write_potentials(f, g);
        if let Some(plan) = plan.as_mut().filter(|_| !streamed) {
            w.write_plan(plan.view_mut());
        }
        Ok(report)
    };
    plans
        .par_iter_mut()
        .zip(f.axis_iter_mut(Axis(0)).into_par_iter())
        .zip(g.axis_iter_mut(Axis(0)).into_par_iter())
        .enumerate()
        .map_init(|| Workspace::new(few), |w, (i, ((plan, f), g))| one(w, i, plan, f, g))
        .collect::<Vec<Result<Report>>>()
        .into_iter()
        .collect()
}

/// A view for each of `count` problems, to be handed to threads.
fn each<T>(all: Option<ArrayViewMut3<'_, T>>, count: usize) -> Vec<Option<ArrayViewMut2<'_, T>>> {
    all.map_or_else(
        || (0..count).map(|_| None).collect(),
        |all| all.into_outer_iter_mut().map(Some).collect(),
    )
}

/// Solutions of a batch, in memory of their own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Solutions<T> {
    /// Plans, shape (batch, n, m); 0 in padding.
    pub plan: Array3<T>,
    /// Row potentials in cost units, shape (batch, n).
    pub f: Array2<T>,
    /// Column potentials in cost units, shape (batch, m).
    pub g: Array2<T>,
    /// What is told of each problem.
    pub reports: Vec<Report>,
}

impl<T: Float> Batch<'_, T> {
    /// [`solve_batch`] into memory made for it.
    ///
    /// # Errors
    /// As there.
    pub fn solve(&self, options: &Options<'_>) -> Result<Solutions<T>> {
        let (count, n, m) = self.cost.dim();
        let mut plan = Array3::from_elem((count, n, m), T::ZERO);
        let (mut f, mut g) = (Array2::from_elem((count, n), T::ZERO), Array2::from_elem((count, m), T::ZERO));
        let output = Output { plan: Some(plan.view_mut()), f: f.view_mut(), g: g.view_mut() };
        let reports = solve_batch(self, options, output)?;
        Ok(Solutions { plan, f, g, reports })
    }
}

/// The solution of one problem.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Solution<T> {
    /// The plan, shape (n, m).
    pub plan: Array2<T>,
    /// Row potentials in cost units.
    pub f: Array1<T>,
    /// Column potentials in cost units.
    pub g: Array1<T>,
    /// What is told of it.
    pub report: Report,
}

/// Solve one problem with uniform marginals and [`Options::default`]; [`Batch::solve`] for everything else.
///
/// ```
/// let cost = ndarray::array![[0.0, 1.0], [1.0, 0.0]];
/// let solution = optical_core::transport::solve(cost.view(), 0.1)?;
/// assert!(solution.report.converged && (solution.plan[[0, 0]] - 0.5_f64).abs() < 1e-4);
/// # Ok::<(), optical_core::Error>(())
/// ```
///
/// # Errors
/// As [`solve_batch`].
pub fn solve<T: Float>(cost: ArrayView2<'_, T>, reg: f64) -> Result<Solution<T>> {
    let Solutions { plan, f, g, reports } =
        Batch::new(cost.insert_axis(Axis(0)), &[reg]).solve(&Options::default())?;
    let (plan, f, g) = (plan.remove_axis(Axis(0)), f.remove_axis(Axis(0)), g.remove_axis(Axis(0)));
    Ok(Solution { plan, f, g, report: reports[0] })
}

#[cfg(test)]
mod tests;
