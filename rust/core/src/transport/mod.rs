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
//! ```
//! use ndarray::{arr3, Array2, Array3};
//! use optical_core::transport::{Batch, Options, Output, solve_batch};
//!
//! let cost = arr3(&[[[0.0_f32, 1.0], [1.0, 0.0]]]);
//! let (mut plan, mut f, mut g) = (Array3::zeros((1, 2, 2)), Array2::zeros((1, 2)), Array2::zeros((1, 2)));
//! let output = Output { plan: Some(plan.view_mut()), f: f.view_mut(), g: g.view_mut() };
//! let reports = solve_batch(&Batch::new(cost.view(), &[0.1]), &Options::default(), output)?;
//! assert!(reports[0].converged && (plan[[0, 0, 0]] - 0.5).abs() < 1e-4);
//! # Ok::<(), optical_core::Error>(())
//! ```

mod alignment;
mod buffer;
mod gradient;
mod kernel;
pub mod reference;

use std::cmp::Ordering::{Equal, Less};
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};
use rayon::prelude::*;

use crate::simd::{self, Float, Level};
use crate::{Error, Result, pool};
use buffer::Buffer;
use kernel::Sweep;

pub use alignment::{Alignment, AlignmentOptions, AlignmentOutput, align_batch};
pub use gradient::implicit_gradient;

/// Which algorithm solves a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// How a problem ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The name used in Python.
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
    /// Set by another thread to stop early with [`Error::Interrupted`].
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { method: Method::Auto, max_iter: 1000, tol: 1e-4, cancel: None }
    }
}

impl Options<'_> {
    fn cancelled(&self) -> bool {
        self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// Which rows (or columns) of each padded matrix are real.
#[derive(Clone, Copy, Debug)]
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
                if lengths.len() != batch {
                    return Err(Error::Argument(format!(
                        "{name}_lengths: expected {batch} lengths, one per problem, got {}",
                        lengths.len()
                    )));
                }
                match lengths.iter().position(|&n| n > side) {
                    Some(i) => Err(Error::Argument(format!(
                        "{name}_lengths: problem {i} has length {}, but the padded side is {side}",
                        lengths[i]
                    ))),
                    None => Ok(()),
                }
            }
            Extent::Mask(mask) if mask.dim() != (batch, side) => Err(Error::Argument(format!(
                "{name}_mask: expected shape ({batch}, {side}), got {:?}",
                mask.dim()
            ))),
            Extent::Mask(_) => Ok(()),
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
        check_reg(self.reg, batch)?;
        self.rows.check("row", batch, n)?;
        self.cols.check("col", batch, m)?;
        let sides = [("a", self.a, n), ("b", self.b, m), ("potentials", self.start, m)];
        for (name, given, side) in sides {
            if let Some(given) = given
                && given.dim() != (batch, side)
            {
                return Err(Error::Argument(format!(
                    "{name}: expected shape ({batch}, {side}), got {:?}",
                    given.dim()
                )));
            }
        }
        Ok(())
    }
}

fn check_reg(reg: &[f64], batch: usize) -> Result<()> {
    if reg.len() != 1 && reg.len() != batch {
        return Err(Error::Argument(format!(
            "reg: expected one value or {batch}, one per problem, got {}",
            reg.len()
        )));
    }
    match reg.iter().find(|r| !(r.is_finite() && **r > 0.0)) {
        Some(r) => Err(Error::Argument(format!("reg: expected a finite number > 0, got {r}"))),
        None => Ok(()),
    }
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
pub struct Report {
    /// <T, C> + reg · Σ T (log T − 1); for IPOT the same as `value_linear`.
    pub value: f64,
    /// <T, C>.
    pub value_linear: f64,
    /// The larger of Σ|T1 − a| and Σ|Tᵀ1 − b|, relative to Σa, of the returned plan.
    pub marginal_error: f64,
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
        marginal_error: 0.0,
        n_iter: 0,
        converged: true,
        status: Status::Empty,
    };
}

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
    let (count, n, m) = batch.cost.dim();
    let Output { plan, mut f, mut g } = output;
    let plan_shape = plan.as_ref().map(|p| p.dim());
    if f.dim() != (count, n) || g.dim() != (count, m) || plan_shape.is_some_and(|d| d != (count, n, m)) {
        return Err(Error::Argument("output: shapes must match the cost".into()));
    }
    let mut plans: Vec<Option<_>> = match plan {
        Some(plan) => plan.into_outer_iter_mut().map(Some).collect(),
        None => (0..count).map(|_| None).collect(),
    };
    let level = simd::level();
    let one = |scratch: &mut Scratch<T>, i: usize, plan: &mut Option<_>, f, g| {
        scratch.load(batch, i)?;
        let report = scratch.solve(batch.reg[i.min(batch.reg.len() - 1)], options, level, i)?;
        scratch.write(plan, f, g);
        Ok(report)
    };
    pool::run(|| {
        plans
            .par_iter_mut()
            .zip(f.axis_iter_mut(Axis(0)).into_par_iter())
            .zip(g.axis_iter_mut(Axis(0)).into_par_iter())
            .enumerate()
            .map_init(Scratch::default, |scratch, (i, ((plan, f), g))| one(scratch, i, plan, f, g))
            .collect::<Vec<Result<Report>>>()
    })
    .into_iter()
    .collect()
}

/// One thread's working memory: a compacted problem and its iterates.
///
/// Matrices have `stride` columns, a multiple of the widest vector, and a multiple of eight rows;
/// padding costs +∞ (kernel 0) and has marginal 0, so no loop needs a tail.
#[derive(Default)]
pub(crate) struct Scratch<T> {
    rows: Vec<usize>,
    cols: Vec<usize>,
    stride: usize,
    height: usize,
    cost: Buffer<T>,
    kernel: Buffer<T>,
    step: Buffer<T>,
    a: Buffer<T>,
    b: Buffer<T>,
    f: Buffer<T>,
    g: Buffer<T>,
    u: Buffer<T>,
    v: Buffer<T>,
    t: Buffer<T>,
}

impl<T: Float> Scratch<T> {
    fn n(&self) -> usize {
        self.rows.len()
    }

    fn m(&self) -> usize {
        self.cols.len()
    }

    /// Make room for an n × m problem; `rows` and `cols` are set by the caller.
    fn reserve(&mut self) {
        self.stride = self.m().next_multiple_of(buffer::ALIGN / size_of::<T>());
        self.height = self.n().next_multiple_of(simd::ROWS);
        let (h, s) = (self.height, self.stride);
        let (n, m) = (self.n(), self.m());
        self.cost.resize(h * s, T::INFINITY);
        self.kernel.resize(h * s, T::ZERO);
        // Only padding needs values: the rest is written before it is read.
        self.cost[n * s..].fill(T::INFINITY);
        self.kernel[n * s..].fill(T::ZERO);
        if m < s {
            self.cost.chunks_exact_mut(s).for_each(|row| row[m..].fill(T::INFINITY));
        }
        for rows in [&mut self.a, &mut self.f, &mut self.u] {
            rows.reset(h, T::ZERO);
        }
        for cols in [&mut self.b, &mut self.g, &mut self.v, &mut self.t] {
            cols.reset(s, T::ZERO);
        }
    }

    fn load(&mut self, batch: &Batch<'_, T>, i: usize) -> Result<()> {
        let (_, n, m) = batch.cost.dim();
        batch.rows.indices(i, n, &mut self.rows);
        batch.cols.indices(i, m, &mut self.cols);
        self.reserve();
        let cost = batch.cost.index_axis(Axis(0), i);
        // Real columns are nearly always a prefix: then rows are copied whole.
        let prefix = self.cols.last().is_none_or(|&last| last + 1 == self.m());
        for (to, &from) in self.rows.iter().enumerate() {
            let target = &mut self.cost[to * self.stride..][..self.cols.len()];
            let source = cost.row(from);
            match source.as_slice() {
                Some(row) if prefix => target.copy_from_slice(&row[..self.cols.len()]),
                _ => self.cols.iter().zip(target).for_each(|(&c, t)| *t = source[c]),
            }
        }
        self.marginals(batch.a, batch.b, i)?;
        if let Some(start) = batch.start {
            let start = start.row(i);
            for (k, &c) in self.cols.iter().enumerate() {
                // −∞ is the potential of a column without mass; any finite value serves there.
                self.g[k] = if start[c].is_finite() { start[c] } else { T::ZERO };
            }
        }
        Ok(())
    }

    fn marginals(
        &mut self,
        a: Option<ArrayView2<'_, T>>,
        b: Option<ArrayView2<'_, T>>,
        problem: usize,
    ) -> Result<()> {
        if self.rows.is_empty() || self.cols.is_empty() {
            return Ok(());
        }
        let mass_a = fill_marginal("a", &mut self.a, &self.rows, a, problem)?;
        let mass_b = fill_marginal("b", &mut self.b, &self.cols, b, problem)?;
        let tolerance = if size_of::<T>() == 4 { 1e-4 } else { 1e-9 };
        if (mass_a - mass_b).abs() > tolerance * mass_a.max(mass_b) {
            return Err(Error::UnequalMass { problem, a: mass_a, b: mass_b });
        }
        if mass_a == 0.0 {
            return Err(Error::Argument(format!("a: problem {problem} has no mass")));
        }
        // What is left is rounding; without this it would be a floor under the marginal error.
        let m = self.cols.len();
        let ratio = T::of(mass_a / mass_b);
        self.b[..m].iter_mut().for_each(|x| *x = *x * ratio);
        Ok(())
    }

    /// Solve the loaded problem; afterwards `kernel` holds the plan and `f`, `g` the potentials.
    fn solve(&mut self, reg: f64, options: &Options<'_>, level: Level, problem: usize) -> Result<Report> {
        if self.rows.is_empty() || self.cols.is_empty() {
            return Ok(Report::EMPTY);
        }
        if options.cancelled() {
            return Err(Error::Interrupted);
        }
        let reg_t = T::of(reg);
        // SAFETY: `level` comes from simd::level(), so it is supported; every buffer has the padded
        // size that `reserve` gave it (tested on all levels by `shells_agree_with_the_reference`).
        let look = unsafe {
            let (n, m) = (self.n(), self.m());
            kernel::run_row_minima(level, n, m, self.stride, &self.cost, &self.g, &mut self.f)
        };
        let Some(look) = look else { return Err(self.bad_cost(problem)) };
        self.check_feasible(look.forbidden, problem)?;
        let linear_is_safe = look.spread <= T::MAX_EXPONENT * reg_t;
        let mut loop_ = Iteration { scratch: self, reg: reg_t, options, level, n_iter: 0 };
        let status = match options.method {
            Method::Ipot => loop_.ipot()?,
            Method::Log => loop_.log()?,
            _ if linear_is_safe && loop_.linear()? => Status::Linear,
            _ => loop_.stabilised()?,
        };
        let n_iter = loop_.n_iter;
        Ok(self.finish(reg, options, level, n_iter, status))
    }

    fn bad_cost(&self, problem: usize) -> Error {
        for i in 0..self.n() {
            for j in 0..self.m() {
                let value = self.cost[i * self.stride + j].double();
                if value.is_nan() || value == f64::NEG_INFINITY {
                    return Error::Cost { problem, row: self.rows[i], col: self.cols[j], value };
                }
            }
        }
        Error::Argument(format!("cost: problem {problem} overflows"))
    }

    /// Every row and column with mass needs an edge. `f` holds row minima at this point.
    fn check_feasible(&mut self, forbidden: bool, problem: usize) -> Result<()> {
        let (n, m, stride) = (self.n(), self.m(), self.stride);
        for i in 0..n {
            if !self.f[i].is_finite() {
                if self.a[i] > T::ZERO {
                    return Err(Error::Infeasible { problem, side: "row", index: self.rows[i] });
                }
                self.f[i] = T::ZERO;
            }
        }
        if forbidden {
            for j in 0..m {
                let blocked =
                    (0..n).all(|i| self.cost[i * stride + j] == T::INFINITY || self.a[i] == T::ZERO);
                if blocked && self.b[j] > T::ZERO {
                    return Err(Error::Infeasible { problem, side: "column", index: self.cols[j] });
                }
            }
        }
        Ok(())
    }

    /// Turn kernel and scalings into the plan (in place), and measure it.
    fn finish(
        &mut self,
        reg: f64,
        options: &Options<'_>,
        level: Level,
        n_iter: usize,
        status: Status,
    ) -> Report {
        let (n, m) = (self.n(), self.m());
        // SAFETY: as in `solve`. `t` receives column sums, `u` row sums.
        let value_linear = unsafe {
            kernel::run_plan(
                level,
                n,
                self.stride,
                &self.cost,
                &mut self.kernel,
                &mut self.u,
                &self.v,
                &mut self.t,
            )
        };
        let mass: f64 = self.a[..n].iter().map(|x| x.double()).sum();
        let off = |sums: &[T], wanted: &[T]| -> f64 {
            sums.iter().zip(wanted).map(|(s, w)| (s.double() - w.double()).abs()).sum::<f64>() / mass
        };
        let marginal_error = off(&self.u[..n], &self.a[..n]).max(off(&self.t[..m], &self.b[..m]));
        let dot = |sums: &[T], potential: &[T]| -> f64 {
            sums.iter()
                .zip(potential)
                .filter(|(s, _)| **s > T::ZERO)
                .map(|(s, p)| s.double() * p.double())
                .sum()
        };
        let total: f64 = self.u[..n].iter().map(|x| x.double()).sum();
        let value = if status == Status::Ipot {
            value_linear
        } else {
            // reg·log T = f + g − C on the support, so <T,C> + reg·ΣT(log T − 1) collapses to this.
            dot(&self.u[..n], &self.f[..n]) + dot(&self.t[..m], &self.g[..m]) - reg * total
        };
        Report {
            value,
            value_linear,
            marginal_error,
            n_iter,
            converged: marginal_error <= options.tol,
            status,
        }
    }

    fn write(
        &self,
        plan: &mut Option<ArrayViewMut2<'_, T>>,
        mut f: ndarray::ArrayViewMut1<'_, T>,
        mut g: ndarray::ArrayViewMut1<'_, T>,
    ) {
        f.fill(T::ZERO);
        g.fill(T::ZERO);
        if let Some(plan) = plan {
            plan.fill(T::ZERO);
        }
        if self.rows.is_empty() || self.cols.is_empty() {
            return;
        }
        self.rows.iter().zip(self.f.iter()).for_each(|(&r, x)| f[r] = *x);
        self.cols.iter().zip(self.g.iter()).for_each(|(&c, x)| g[c] = *x);
        if let Some(plan) = plan {
            let prefix = self.cols.last().is_none_or(|&last| last + 1 == self.m());
            for (i, &r) in self.rows.iter().enumerate() {
                let source = &self.kernel[i * self.stride..][..self.cols.len()];
                let mut target = plan.row_mut(r);
                match target.as_slice_mut() {
                    Some(row) if prefix => row[..source.len()].copy_from_slice(source),
                    _ => self.cols.iter().zip(source).for_each(|(&c, x)| target[c] = *x),
                }
            }
        }
    }
}

fn fill_marginal<T: Float>(
    side: &'static str,
    into: &mut Buffer<T>,
    indices: &[usize],
    given: Option<ArrayView2<'_, T>>,
    problem: usize,
) -> Result<f64> {
    let Some(given) = given else {
        into[..indices.len()].fill(T::of(1.0 / indices.len() as f64));
        return Ok(1.0);
    };
    let given = given.row(problem);
    let mut mass = 0.0;
    for (k, &i) in indices.iter().enumerate() {
        if !(given[i].is_finite() && given[i] >= T::ZERO) {
            return Err(Error::Marginal { side, problem, index: i, value: given[i].double() });
        }
        into[k] = given[i];
        mass += given[i].double();
    }
    Ok(mass)
}

/// A problem being iterated on.
struct Iteration<'s, 'o, T> {
    scratch: &'s mut Scratch<T>,
    reg: T,
    options: &'s Options<'o>,
    level: Level,
    n_iter: usize,
}

/// Why a run of linear sweeps ended.
#[derive(PartialEq)]
enum Ended {
    Done,
    OutOfRange,
}

impl<T: Float> Iteration<'_, '_, T> {
    fn left(&self) -> bool {
        self.n_iter < self.options.max_iter
    }

    fn tolerance(&self) -> T {
        let mass: f64 = self.scratch.a.iter().map(|x| x.double()).sum();
        T::of(self.options.tol * mass)
    }

    /// kernel = exp((f + g − C) / reg); scalings 1.
    fn build(&mut self) {
        let s = &mut *self.scratch;
        // SAFETY: as in `Scratch::solve`.
        unsafe {
            kernel::run_build(
                self.level,
                s.rows.len(),
                s.stride,
                T::ONE / self.reg,
                &s.cost,
                &s.f,
                &s.g,
                &mut s.kernel,
            );
        }
        let (n, m) = (s.n(), s.m());
        s.u.fill(T::ZERO);
        s.u[..n].fill(T::ONE);
        s.v.fill(T::ZERO);
        s.v[..m].fill(T::ONE);
    }

    /// Sweeps in the linear domain until converged, exhausted or out of range.
    fn sweeps(&mut self, large: T) -> Result<Ended> {
        let tolerance = self.tolerance();
        let stop_early = self.options.tol > 0.0;
        let mut first = true;
        while self.left() {
            if self.n_iter.is_multiple_of(32) && self.options.cancelled() {
                return Err(Error::Interrupted);
            }
            let s = &mut *self.scratch;
            // SAFETY: as in `Scratch::solve`.
            let Sweep { error, largest } = unsafe {
                kernel::run_sweep(
                    self.level, s.height, s.stride, &s.kernel, &s.a, &s.b, &mut s.u, &mut s.v, &mut s.t,
                )
            };
            // NaN does not compare, and must end the domain too.
            if !matches!(largest.partial_cmp(&large), Some(Less | Equal)) {
                return Ok(Ended::OutOfRange);
            }
            self.n_iter += 1;
            // The error of a first sweep is that of the starting scalings, not of an iterate.
            if stop_early && !first && error <= tolerance {
                break;
            }
            first = false;
        }
        Ok(Ended::Done)
    }

    /// f += reg·log u, g += reg·log v: the scalings become part of the potentials.
    fn absorb(&mut self) {
        let s = &mut *self.scratch;
        let (n, m) = (s.n(), s.m());
        let reg = self.reg;
        let add = |potential: &mut [T], scaling: &[T]| {
            potential.iter_mut().zip(scaling).for_each(|(p, x)| *p += reg * x.ln());
        };
        add(&mut s.f[..n], &s.u[..n]);
        add(&mut s.g[..m], &s.v[..m]);
    }

    /// One pass in plain linear domain; false if it left the range and must be done again.
    fn linear(&mut self) -> Result<bool> {
        self.build();
        if self.sweeps(T::LARGE)? == Ended::OutOfRange {
            let m = self.scratch.m();
            self.scratch.g[..m].fill(T::ZERO);
            self.n_iter = 0;
            return Ok(false);
        }
        self.absorb();
        Ok(true)
    }

    /// One full iteration in the log domain; the row error of the iterate before it.
    fn log_sweep(&mut self) -> T {
        let s = &mut *self.scratch;
        // SAFETY: as in `Scratch::solve`.
        let error = unsafe {
            kernel::run_log_sweep(
                self.level,
                s.rows.len(),
                s.cols.len(),
                s.stride,
                self.reg,
                &s.cost,
                &s.a,
                &s.b,
                &mut s.f,
                &mut s.g,
                &mut s.t,
                &mut s.v,
            )
        };
        self.n_iter += 1;
        error
    }

    fn stabilised(&mut self) -> Result<Status> {
        // Scalings this far from 1 are absorbed: far inside the range, so that products are too.
        let large = T::of(if size_of::<T>() == 4 { 1e8 } else { 1e60 });
        // Log sweeps before each rebuild; doubled while rebuilding does not pay.
        let mut warm_up = 1;
        while self.left() {
            for _ in 0..warm_up {
                if self.left() {
                    self.log_sweep();
                }
            }
            if self.options.cancelled() {
                return Err(Error::Interrupted);
            }
            self.build();
            let before = self.n_iter;
            let kept = self.scratch.g.to_vec();
            if self.sweeps(large)? == Ended::Done {
                self.absorb();
                // `finish` multiplies the kernel by the scalings, which it still lacks.
                return Ok(Status::Stabilised);
            }
            if self.n_iter == before {
                // Not one sweep stayed in range: scalings are garbage, the potentials still good.
                self.scratch.g.copy_from_slice(&kept);
                warm_up = (warm_up * 2).min(64);
            } else {
                self.absorb_in_range();
            }
        }
        self.build();
        Ok(Status::Stabilised)
    }

    /// Absorb scalings of which some have left the range: those are cut to it.
    fn absorb_in_range(&mut self) {
        let (low, high) = (T::TINY, T::ONE / T::TINY);
        let s = &mut *self.scratch;
        for x in s.u.iter_mut().chain(s.v.iter_mut()) {
            *x = if x.is_finite() { x.max(low).min(high) } else { T::ONE };
        }
        self.absorb();
    }

    fn log(&mut self) -> Result<Status> {
        let tolerance = self.tolerance();
        let mut first = true;
        while self.left() {
            if self.n_iter.is_multiple_of(8) && self.options.cancelled() {
                return Err(Error::Interrupted);
            }
            let error = self.log_sweep();
            if self.options.tol > 0.0 && !first && error <= tolerance {
                break;
            }
            first = false;
        }
        self.build();
        Ok(Status::Log)
    }

    /// T ← diag(u) (G ⊙ T) diag(v) with G = exp(−C/β), one Sinkhorn step each: after t steps T is
    /// the kernel exp(−C/(β/t)) scaled, so it tends to unregularised transport.
    fn ipot(&mut self) -> Result<Status> {
        self.scratch.g.fill(T::ZERO);
        self.build();
        let s = &mut *self.scratch;
        s.step.reset(s.height * s.stride, T::ZERO);
        for ((step, kernel), cost) in s.step.iter_mut().zip(s.kernel.iter()).zip(s.cost.iter()) {
            // A step that underflows must not forbid an edge that the cost allows.
            *step = if cost.is_finite() { kernel.max(T::TINY) } else { T::ZERO };
        }
        s.kernel.fill(T::ONE);
        let (n, m) = (s.n(), s.m());
        let (mut log_u, mut log_v) = (vec![0.0f64; n], vec![0.0f64; m]);
        let tolerance = self.tolerance();
        let mut last = f64::INFINITY;
        // v carries over from step to step, as in the paper: restarted at 1 it would fit the columns
        // to a plan whose rows do not, and settle there.
        while self.left() {
            if self.n_iter.is_multiple_of(32) && self.options.cancelled() {
                return Err(Error::Interrupted);
            }
            let s = &mut *self.scratch;
            // SAFETY: as in `Scratch::solve`.
            let value = unsafe {
                kernel::run_multiply(self.level, s.height, s.stride, &s.step, &mut s.kernel);
                kernel::run_sweep(
                    self.level, s.height, s.stride, &s.kernel, &s.a, &s.b, &mut s.u, &mut s.v, &mut s.t,
                );
                let grow = |log: &mut [f64], scaling: &[T]| {
                    log.iter_mut().zip(scaling).for_each(|(l, x)| *l += x.double().ln());
                };
                grow(&mut log_u, &s.u[..n]);
                grow(&mut log_v, &s.v[..m]);
                kernel::run_plan(self.level, n, s.stride, &s.cost, &mut s.kernel, &mut s.u, &s.v, &mut s.t)
            };
            self.n_iter += 1;
            // `plan` left the row sums of T in u; its column sums are exact after the step.
            let s = &mut *self.scratch;
            let error: T = s.u.iter().zip(s.a.iter()).map(|(x, y)| (*x - *y).abs()).sum();
            let settled = (value - last).abs() <= 0.1 * self.options.tol * value.abs();
            last = value;
            if self.options.tol > 0.0 && settled && error <= tolerance {
                break;
            }
        }
        // T = exp((f + g − C) · t/β), with the row minima that the kernel was built with in f.
        let steps = self.n_iter.max(1) as f64;
        let reg = self.reg.double();
        let s = &mut *self.scratch;
        s.u[..n].fill(T::ONE);
        s.v[..m].fill(T::ONE);
        for (f, log) in s.f.iter_mut().zip(&log_u) {
            *f = T::of(f.double() + reg * log / steps);
        }
        for (g, log) in s.g.iter_mut().zip(&log_v) {
            *g = T::of(reg * log / steps);
        }
        Ok(Status::Ipot)
    }
}

/// A small fixed problem solved with `level`; the shells' first-use check compares such answers.
pub(crate) fn self_check(level: Level) -> Vec<f32> {
    let (n, m) = (11, 19);
    let mut scratch = Scratch::<f32> { rows: (0..n).collect(), cols: (0..m).collect(), ..Scratch::default() };
    scratch.reserve();
    for i in 0..n {
        for j in 0..m {
            scratch.cost[i * scratch.stride + j] = ((7 * i + 3 * j + i * j) % 23) as f32 / 23.0;
        }
    }
    if scratch.marginals(None, None, 0).is_err() {
        return Vec::new();
    }
    let options = Options { max_iter: 20, tol: 0.0, ..Options::default() };
    match scratch.solve(0.1, &options, level, 0) {
        Ok(_) => (0..n).flat_map(|i| scratch.kernel[i * scratch.stride..][..m].to_vec()).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
