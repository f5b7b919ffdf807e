//! One thread's working memory: a problem compacted to its real rows and columns.

use ndarray::{ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::buffer::{ALIGN, Buffer};
use super::iterate::Iteration;
use super::kernel;
use super::sweep::fits_twice;
use super::{Batch, Options, Report, Status};
use crate::simd::{Float, Level};
use crate::{Error, Result};

/// Rows of a large problem that are worked on together; their sums are added up in a fixed order, so
/// that results do not depend on whether threads share the blocks.
const BLOCK: usize = 128;

/// Elements from which a problem is cut into blocks.
const LARGE: usize = 1 << 16;

/// Matrices have `stride` columns and `height` rows, multiples of the widest vector; padding costs
/// +∞ (kernel 0) and has marginal 0, so no loop needs a tail.
#[derive(Default)]
pub(crate) struct Scratch<T> {
    pub(super) rows: Vec<usize>,
    pub(super) cols: Vec<usize>,
    pub(super) stride: usize,
    pub(super) height: usize,
    pub(super) cost: Buffer<T>,
    pub(super) kernel: Buffer<T>,
    /// The kernel's transpose, where both fit the innermost cache.
    pub(super) turned: Buffer<T>,
    pub(super) step: Buffer<T>,
    pub(super) a: Buffer<T>,
    pub(super) b: Buffer<T>,
    pub(super) f: Buffer<T>,
    pub(super) g: Buffer<T>,
    pub(super) u: Buffer<T>,
    pub(super) v: Buffer<T>,
    pub(super) t: Buffer<T>,
    pub(super) row_offset: Buffer<T>,
    pub(super) col_offset: Buffer<T>,
    /// Column sums of each block of rows.
    pub(super) parts: Buffer<T>,
    /// Whether threads share the blocks of one problem.
    pub(super) parallel: bool,
    /// Mass on rows and on columns without an edge, which relaxed marginals may leave behind.
    pub(super) stranded: [f64; 2],
}

impl<T: Float> Scratch<T> {
    /// Working memory; `parallel` lets threads share the blocks of a large problem.
    pub(crate) fn new(parallel: bool) -> Self {
        Scratch { parallel, ..Scratch::default() }
    }

    pub(super) fn n(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn m(&self) -> usize {
        self.cols.len()
    }

    /// Rows per block: all of them, unless the problem is large.
    pub(super) fn block(&self) -> usize {
        if self.height * self.stride >= LARGE { BLOCK } else { self.height.max(1) }
    }

    /// Blocks that one thread takes at least.
    pub(super) fn grain(&self) -> usize {
        if self.parallel { 1 } else { usize::MAX }
    }

    /// Make room for an n × m problem; `rows` and `cols` are set by the caller.
    pub(super) fn reserve(&mut self) {
        let widest = ALIGN / size_of::<T>();
        self.stride = self.m().next_multiple_of(widest);
        self.height = self.n().next_multiple_of(widest);
        let (h, s) = (self.height, self.stride);
        let (n, m) = (self.n(), self.m());
        self.cost.resize(h * s, T::INFINITY);
        self.kernel.resize(h * s, T::ZERO);
        if fits_twice::<T>(h, s) {
            self.turned.resize(h * s, T::ZERO);
        }
        // Only padding needs values: the rest is written before it is read.
        self.cost[n * s..].fill(T::INFINITY);
        self.kernel[n * s..].fill(T::ZERO);
        if m < s {
            self.cost.chunks_exact_mut(s).for_each(|row| row[m..].fill(T::INFINITY));
        }
        for rows in [&mut self.a, &mut self.f, &mut self.u, &mut self.row_offset] {
            rows.reset(h, T::ZERO);
        }
        for cols in [&mut self.b, &mut self.g, &mut self.v, &mut self.t, &mut self.col_offset] {
            cols.reset(s, T::ZERO);
        }
        if h > 0 {
            self.parts.resize(h.div_ceil(self.block()) * s, T::ZERO);
        }
        self.stranded = [0.0; 2];
    }

    pub(super) fn load(&mut self, batch: &Batch<'_, T>, options: &Options<'_>, i: usize) -> Result<()> {
        let (_, n, m) = batch.cost.dim();
        batch.rows.indices(i, n, &mut self.rows);
        batch.cols.indices(i, m, &mut self.cols);
        self.reserve();
        let cost = batch.cost.index_axis(Axis(0), i);
        self.copy_cost(cost);
        self.marginals(batch.a, batch.b, options, i)?;
        if let Some(start) = batch.start {
            let start = start.row(i);
            for (k, &c) in self.cols.iter().enumerate() {
                // −∞ is the potential of a column without mass; any finite value serves there.
                self.g[k] = if start[c].is_finite() { start[c] } else { T::ZERO };
            }
        }
        Ok(())
    }

    fn copy_cost(&mut self, cost: ArrayView2<'_, T>) {
        let (n, m) = (self.n(), self.m());
        if (n, m) == cost.dim()
            && self.stride == m
            && let Some(all) = cost.as_slice()
        {
            self.cost[..n * m].copy_from_slice(all);
            return;
        }
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
    }

    pub(super) fn marginals(
        &mut self,
        a: Option<ArrayView2<'_, T>>,
        b: Option<ArrayView2<'_, T>>,
        options: &Options<'_>,
        problem: usize,
    ) -> Result<()> {
        if self.rows.is_empty() || self.cols.is_empty() {
            return Ok(());
        }
        let mass_a = fill_marginal("a", &mut self.a, &self.rows, a, problem)?;
        let mass_b = fill_marginal("b", &mut self.b, &self.cols, b, problem)?;
        for (name, mass) in [("a", mass_a), ("b", mass_b)] {
            if mass == 0.0 {
                return Err(Error::Argument(format!("{name}: problem {problem} has no mass")));
            }
        }
        if options.is_unbalanced() {
            return Ok(());
        }
        let tolerance = if size_of::<T>() == 4 { 1e-4 } else { 1e-9 };
        if (mass_a - mass_b).abs() > tolerance * mass_a.max(mass_b) {
            return Err(Error::UnequalMass { problem, a: mass_a, b: mass_b });
        }
        // What is left is rounding; without this it would be a floor under the marginal error.
        let m = self.cols.len();
        let ratio = T::of(mass_a / mass_b);
        self.b[..m].iter_mut().for_each(|x| *x = *x * ratio);
        Ok(())
    }

    /// Solve the loaded problem; afterwards `kernel` holds the plan and `f`, `g` the potentials.
    pub(super) fn solve(
        &mut self,
        reg: f64,
        options: &Options<'_>,
        level: Level,
        problem: usize,
    ) -> Result<Report> {
        if self.rows.is_empty() || self.cols.is_empty() {
            return Ok(Report::EMPTY);
        }
        if options.cancelled() {
            return Err(Error::Interrupted);
        }
        let Some(forbidden) = self.row_minima(level) else { return Err(self.bad_cost(problem)) };
        self.check_feasible(forbidden, options, problem)?;
        let mut iteration = Iteration::new(self, reg, options, level);
        let status = iteration.run()?;
        let n_iter = iteration.n_iter;
        Ok(self.finish(reg, options, level, n_iter, status))
    }

    /// `f_i = min_j (C_ij − g_j)`; whether edges are forbidden; `None` where a cost is no number.
    fn row_minima(&mut self, level: Level) -> Option<bool> {
        let (n, m, stride, block, grain) = (self.n(), self.m(), self.stride, self.block(), self.grain());
        let (cost, g) = (&self.cost[..n * stride], &self.g[..]);
        let one = |f: &mut [T], cost: &[T]| {
            // SAFETY: `level` comes from simd::level(), so it is supported; every buffer has the padded
            // size that `reserve` gave it (tested on all levels by `shells_agree_with_the_reference`).
            unsafe { kernel::run_row_minima(level, m, stride, cost, g, f) }
        };
        if n <= block {
            return one(&mut self.f[..n], cost);
        }
        let blocks = self.f[..n].par_chunks_mut(block).zip(cost.par_chunks(block * stride));
        let each: Vec<_> = blocks.with_min_len(grain).map(|(f, cost)| one(f, cost)).collect();
        each.into_iter().try_fold(false, |x, y| Some(x || y?))
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

    /// Every row and column with mass needs an edge to one with mass, unless marginals are relaxed:
    /// then what has none stays where it is. `f` holds row minima at this point.
    fn check_feasible(&mut self, forbidden: bool, options: &Options<'_>, problem: usize) -> Result<()> {
        let (n, m, stride) = (self.n(), self.m(), self.stride);
        for i in 0..n {
            if !self.f[i].is_finite() {
                self.f[i] = T::ZERO;
            }
        }
        if !forbidden {
            return Ok(());
        }
        let free = |cost: &[T], i: usize, j: usize| cost[i * stride + j] < T::INFINITY;
        for i in 0..n {
            if self.a[i] > T::ZERO && !(0..m).any(|j| self.b[j] > T::ZERO && free(&self.cost, i, j)) {
                if options.reg_m[0].is_infinite() {
                    return Err(Error::Infeasible { problem, side: "row", index: self.rows[i] });
                }
                self.stranded[0] += self.a[i].double();
                self.a[i] = T::ZERO;
            }
        }
        for j in 0..m {
            if self.b[j] > T::ZERO && !(0..n).any(|i| self.a[i] > T::ZERO && free(&self.cost, i, j)) {
                if options.reg_m[1].is_infinite() {
                    return Err(Error::Infeasible { problem, side: "column", index: self.cols[j] });
                }
                self.stranded[1] += self.b[j].double();
                self.b[j] = T::ZERO;
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
        let (n, m, stride, block, grain) = (self.n(), self.m(), self.stride, self.block(), self.grain());
        let v = &self.v[..];
        // `u` receives row sums, `parts` and then `t` column sums.
        let one = |kernel: &mut [T], cost: &[T], u: &mut [T], t: &mut [T]| {
            // SAFETY: as in `row_minima`.
            unsafe { kernel::run_plan(level, u.len(), stride, cost, kernel, u, v, t) }
        };
        let value_linear: f64 = if n <= block {
            one(&mut self.kernel, &self.cost, &mut self.u[..n], &mut self.t)
        } else {
            let blocks = self.kernel[..n * stride]
                .par_chunks_mut(block * stride)
                .zip(self.cost[..n * stride].par_chunks(block * stride))
                .zip(self.u[..n].par_chunks_mut(block))
                .zip(self.parts.par_chunks_mut(stride))
                .with_min_len(grain);
            let each: Vec<f64> = blocks.map(|(((kernel, cost), u), t)| one(kernel, cost, u, t)).collect();
            self.add_parts();
            each.into_iter().sum()
        };
        let rows = Kept::of(&self.u[..n], &self.a, &self.f, options.reg_m[0], self.stranded[0]);
        let cols = Kept::of(&self.t[..m], &self.b, &self.g, options.reg_m[1], self.stranded[1]);
        let marginal_error = rows.off.max(cols.off) / rows.wanted;
        let value = if status == Status::Ipot {
            value_linear
        } else {
            // reg·log T = f + g − C on the support, so <T,C> + reg·ΣT(log T − 1) collapses to this.
            rows.paid + cols.paid - reg * rows.sum + rows.divergence + cols.divergence
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

    /// `t` ← the sum of the blocks' column sums, in order.
    pub(super) fn add_parts(&mut self) {
        let stride = self.stride;
        let (first, rest) = self.parts.split_at(stride);
        self.t.copy_from_slice(first);
        for part in rest.chunks_exact(stride) {
            self.t.iter_mut().zip(part).for_each(|(t, x)| *t += *x);
        }
    }

    pub(super) fn write(
        &self,
        plan: &mut Option<ArrayViewMut2<'_, T>>,
        mut f: ArrayViewMut1<'_, T>,
        mut g: ArrayViewMut1<'_, T>,
    ) {
        f.fill(T::ZERO);
        g.fill(T::ZERO);
        let (n, m) = (self.n(), self.m());
        let empty = n == 0 || m == 0;
        if let Some(plan) = plan
            && (empty || (n, m) != plan.dim())
        {
            plan.fill(T::ZERO);
        }
        if empty {
            return;
        }
        self.rows.iter().zip(self.f.iter()).for_each(|(&r, x)| f[r] = *x);
        self.cols.iter().zip(self.g.iter()).for_each(|(&c, x)| g[c] = *x);
        if let Some(plan) = plan {
            if (n, m) == plan.dim()
                && self.stride == m
                && let Some(all) = plan.as_slice_mut()
            {
                all.copy_from_slice(&self.kernel[..n * m]);
                return;
            }
            let prefix = self.cols.last().is_none_or(|&last| last + 1 == m);
            for (i, &r) in self.rows.iter().enumerate() {
                let source = &self.kernel[i * self.stride..][..m];
                let mut target = plan.row_mut(r);
                match target.as_slice_mut() {
                    Some(row) if prefix => row[..m].copy_from_slice(source),
                    _ => self.cols.iter().zip(source).for_each(|(&c, x)| target[c] = *x),
                }
            }
        }
    }
}

/// How a plan's sums over one side compare with its marginal.
struct Kept {
    /// Σ |sums − wanted|, where relaxed marginals want a exp(−f / reg_m), as the optimum does.
    off: f64,
    /// Σ sums · potential.
    paid: f64,
    /// Σ sums.
    sum: f64,
    /// Σ weights.
    wanted: f64,
    /// `reg_m · KL(sums | weights)`, with KL(x | y) = Σ x log(x/y) − x + y; 0 for hard marginals.
    divergence: f64,
}

impl Kept {
    fn of<T: Float>(sums: &[T], weights: &[T], potential: &[T], rho: f64, stranded: f64) -> Kept {
        let at = |x: &[T], i: usize| x[i].double();
        let n = sums.len();
        let (weights, potential) = (&weights[..n], &potential[..n]);
        let paid = total(n, |i| if sums[i] > T::ZERO { at(sums, i) * at(potential, i) } else { 0.0 });
        let (sum, wanted) = (total(n, |i| at(sums, i)), total(n, |i| at(weights, i)) + stranded);
        if rho.is_infinite() {
            let off = total(n, |i| (at(sums, i) - at(weights, i)).abs());
            return Kept { off, paid, sum, wanted, divergence: 0.0 };
        }
        let off = total(n, |i| match at(weights, i) {
            0.0 => at(sums, i),
            w => (at(sums, i) - w * (-at(potential, i) / rho).exp()).abs(),
        });
        let divergence = total(n, |i| match (at(sums, i), at(weights, i)) {
            (s, w) if s > 0.0 && w > 0.0 => s * (s / w).ln() - s + w,
            (_, w) => w,
        });
        Kept { off, paid, sum, wanted, divergence: rho * (divergence + stranded) }
    }
}

/// Σ term(i) for i < n, in eight interleaved sums: additions that wait for each other are slow.
fn total(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    let whole = n - n % 8;
    for i in (0..whole).step_by(8) {
        for k in 0..8 {
            sums[k] += term(i + k);
        }
    }
    for i in whole..n {
        sums[i - whole] += term(i);
    }
    sums.iter().sum()
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
