//! One thread's working memory: a problem compacted to its real rows and columns.

use ndarray::{ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::buffer::{ALIGN, Buffer};
use super::kernel::{self, Making};
use super::sweep::fits_twice;
use super::{Batch, Options};
use crate::simd::{Ahead, Float, Level};
use crate::{Error, Result};

/// Rows of a large problem that are worked on together; their sums are added up in a fixed order, so
/// that results do not depend on whether threads share the blocks.
const BLOCK: usize = 128;

/// Elements from which a problem is cut into blocks.
const LARGE: usize = 1 << 16;

/// Matrices have `stride` columns and `height` rows, multiples of the widest vector; padding costs
/// +∞ (kernel 0) and has marginal 0, so no loop needs a tail.
///
/// Costs are kept less their row's minimum (`shift`): an offset, however large, takes no precision from
/// the plan, and f is without `shift` until it is written.
#[derive(Default)]
pub(crate) struct Workspace<T> {
    pub(super) rows: Vec<usize>,
    pub(super) cols: Vec<usize>,
    pub(super) stride: usize,
    pub(super) height: usize,
    pub(super) cost: Buffer<T>,
    pub(super) shift: Buffer<T>,
    /// Zeros: what `shift` is for columns.
    pub(super) level_cols: Buffer<T>,
    /// In the end, the plan, unless that is written elsewhere.
    pub(super) kernel: Buffer<T>,
    /// The kernel's transpose, where both fit the innermost cache.
    pub(super) turned: Buffer<T>,
    pub(super) a: Buffer<T>,
    pub(super) b: Buffer<T>,
    pub(super) f: Buffer<T>,
    pub(super) g: Buffer<T>,
    pub(super) u: Buffer<T>,
    pub(super) v: Buffer<T>,
    pub(super) t: Buffer<T>,
    /// Potentials of the iteration before, for proximal steps.
    pub(super) old_rows: Buffer<T>,
    pub(super) old_cols: Buffer<T>,
    pub(super) row_offset: Buffer<T>,
    pub(super) col_offset: Buffer<T>,
    /// Column sums of each block of rows.
    pub(super) parts: Buffer<T>,
    /// Whether threads share the blocks of one problem.
    pub(super) parallel: bool,
    /// Of the problem; for proximal steps the first.
    pub(super) reg: f64,
    /// The least finite exponent of the kernel that its costs were taken in with.
    pub(super) least: T,
    /// Σ a, what errors are relative to.
    pub(super) mass: f64,
    /// Mass on rows and on columns without an edge, which unbalanced marginals may leave behind.
    pub(super) stranded: [f64; 2],
    /// What a problem without mass on one side costs.
    pub(super) unmatched: f64,
    /// The costs of the next problem, most likely: some come with each sweep of a small one.
    pub(super) ahead: Ahead<T>,
    /// Its number in the batch, for errors.
    pub(super) problem: usize,
    /// For proximal steps of a problem in single precision.
    pub(super) double: Option<Box<Workspace<f64>>>,
}

impl<T: Float> Workspace<T> {
    /// Working memory; `parallel` lets threads share the blocks of a large problem.
    pub(crate) fn new(parallel: bool) -> Self {
        Workspace { parallel, ..Workspace::default() }
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
        let (h, s, n) = (self.height, self.stride, self.n());
        self.cost.resize(h * s, T::INFINITY);
        self.kernel.resize(h * s, T::ZERO);
        self.turned.resize(if fits_twice::<T>(h, s) { h * s } else { 0 }, T::ZERO);
        // Only padding needs values: the rest is written before it is read.
        self.cost[n * s..].fill(T::INFINITY);
        self.kernel[n * s..].fill(T::ZERO);
        for rows in
            [&mut self.a, &mut self.f, &mut self.u, &mut self.shift, &mut self.row_offset, &mut self.old_rows]
        {
            rows.reset(h, T::ZERO);
        }
        for cols in [
            &mut self.b,
            &mut self.g,
            &mut self.v,
            &mut self.t,
            &mut self.level_cols,
            &mut self.col_offset,
            &mut self.old_cols,
        ] {
            cols.reset(s, T::ZERO);
        }
        if h > 0 {
            self.parts.resize(h.div_ceil(self.block()) * s, T::ZERO);
        }
        (self.stranded, self.unmatched) = ([0.0; 2], 0.0);
    }

    pub(super) fn load(
        &mut self,
        batch: &Batch<'_, T>,
        options: &Options<'_>,
        level: Level,
        i: usize,
    ) -> Result<()> {
        self.reg = batch.reg[i.min(batch.reg.len() - 1)];
        let (_, n, m) = batch.cost.dim();
        batch.rows.indices(i, n, &mut self.rows);
        batch.cols.indices(i, m, &mut self.cols);
        self.reserve();
        let cost = batch.cost.index_axis(Axis(0), i);
        let source = match cost.to_slice() {
            Some(all) if is_prefix(&self.rows) && is_prefix(&self.cols) => all,
            _ => {
                for (row, &r) in self.cost.chunks_exact_mut(self.stride.max(1)).zip(&self.rows) {
                    self.cols.iter().zip(row).for_each(|(&c, to)| *to = cost[[r, c]]);
                }
                &[]
            }
        };
        self.admit(source, m, batch.a, batch.b, options, level, i)?;
        if let Some(start) = batch.start {
            let start = start.row(i);
            for (k, &c) in self.cols.iter().enumerate() {
                // −∞ is the potential of a column without mass; any finite value serves there.
                self.g[k] = if start[c].is_finite() { start[c] } else { T::ZERO };
            }
        }
        Ok(())
    }

    /// Take in costs, from the rows of `source` (unless it is empty: then `cost` holds them), and marginals, and make
    /// the kernel of zero potentials.
    pub(super) fn admit(
        &mut self,
        source: &[T],
        source_stride: usize,
        a: Option<ArrayView2<'_, T>>,
        b: Option<ArrayView2<'_, T>>,
        options: &Options<'_>,
        level: Level,
        problem: usize,
    ) -> Result<()> {
        (self.problem, self.ahead) = (problem, Ahead::behind(source));
        self.marginals(a, b, options, problem)?;
        let (n, m, stride, block, grain) = (self.n(), self.m(), self.stride, self.block(), self.grain());
        if n == 0 || m == 0 {
            return Ok(());
        }
        let (height, reg, f, g) = (self.height, T::of(self.reg), &self.f[..], &self.g[..]);
        // (All of it, also for a block of rows: it is zero, as g is.)
        debug_assert!(f.iter().chain(g).all(|x| *x == T::ZERO));
        let one = |source: &[T], cost: &mut [T], shift: &mut [T], kernel: &mut [T], turned: &mut [T]| {
            let making = Making { height, stride, reg, f, g, kernel, turned };
            // SAFETY: `level` comes from simd::level(), so it is supported; every buffer has the padded
            // size that `reserve` gave it (tested on all levels by `shells_agree_with_the_reference`).
            unsafe { kernel::run_admit(level, m, source, source_stride, cost, shift, making) }
        };
        let admitted = if n <= block {
            one(source, &mut self.cost, &mut self.shift[..n], &mut self.kernel, &mut self.turned)
        } else {
            let blocks = self.shift[..n]
                .par_chunks_mut(block)
                .zip(self.cost.par_chunks_mut(block * stride))
                .zip(self.kernel.par_chunks_mut(block * stride));
            let each = blocks.enumerate().with_min_len(grain).map(|(k, ((shift, cost), kernel))| {
                let source = if source.is_empty() { source } else { &source[k * block * source_stride..] };
                one(source, cost, shift, kernel, &mut [])
            });
            let each: Vec<_> = each.collect();
            each.into_iter().try_fold((false, T::ZERO), |x, y| y.map(|y| (x.0 || y.0, x.1.min(y.1))))
        };
        let Some((forbidden, least)) = admitted else {
            return Err(self.bad_cost(source, source_stride, problem));
        };
        self.least = least;
        if forbidden { self.check_feasible(options, problem) } else { Ok(()) }
    }

    fn bad_cost(&self, source: &[T], source_stride: usize, problem: usize) -> Error {
        // Rows before the bad one may have been shifted already, which leaves what is no number.
        let (from, step) =
            if source.is_empty() { (&self.cost[..], self.stride) } else { (source, source_stride) };
        for i in 0..self.n() {
            for j in 0..self.m() {
                let value = from[i * step + j].double();
                if value.is_nan() || value == f64::NEG_INFINITY {
                    return Error::Cost { problem, row: self.rows[i], col: self.cols[j], value };
                }
            }
        }
        Error::Argument(format!(
            "cost: problem {problem} overflows: expected costs of a row within range of each other"
        ))
    }

    fn marginals(
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
        self.mass = mass_a;
        let unequal = Err(Error::UnequalMass { problem, a: mass_a, b: mass_b });
        if mass_a == 0.0 || mass_b == 0.0 {
            for (mass, rho) in [(mass_a, options.reg_m[0]), (mass_b, options.reg_m[1])] {
                if mass > 0.0 {
                    if rho.is_infinite() {
                        return unequal;
                    }
                    self.unmatched += rho * mass;
                }
            }
            self.rows.clear();
            self.cols.clear();
            return Ok(());
        }
        if options.is_unbalanced() {
            return Ok(());
        }
        let tolerance = if size_of::<T>() == 4 { 1e-4 } else { 1e-9 };
        if (mass_a - mass_b).abs() > tolerance * mass_a.max(mass_b) {
            return unequal;
        }
        // What is left is rounding; without this it would be a floor under the marginal error.
        let m = self.cols.len();
        let ratio = T::of(mass_a / mass_b);
        self.b[..m].iter_mut().for_each(|x| *x = *x * ratio);
        Ok(())
    }

    /// Every row and column with mass needs an edge to one with mass, unless its marginal is unbalanced:
    /// then what has none stays where it is.
    fn check_feasible(&mut self, options: &Options<'_>, problem: usize) -> Result<()> {
        let (n, m, stride) = (self.n(), self.m(), self.stride);
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

    /// A plan's memory, if it has the layout of `kernel` and can be written to in its place.
    pub(super) fn as_kernel<'p>(&self, plan: &'p mut ArrayViewMut2<'_, T>) -> Option<&'p mut [T]> {
        let fits =
            (self.n(), self.stride) == plan.dim() && self.stride == self.m() && self.n() <= self.block();
        plan.as_slice_mut().filter(|plan| fits && (plan.as_ptr() as usize).is_multiple_of(16))
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

    /// Write the potentials, with 0 in padding.
    pub(super) fn write_potentials(&self, mut f: ArrayViewMut1<'_, T>, mut g: ArrayViewMut1<'_, T>) {
        f.fill(T::ZERO);
        g.fill(T::ZERO);
        for ((&r, x), shift) in self.rows.iter().zip(&self.f[..]).zip(&self.shift[..]) {
            f[r] = *x + *shift;
        }
        self.cols.iter().zip(&self.g[..]).for_each(|(&c, x)| g[c] = *x);
    }

    /// Write the plan, with 0 in padding.
    pub(super) fn write_plan(&self, mut plan: ArrayViewMut2<'_, T>) {
        let (n, m) = (self.n(), self.m());
        let whole = (n, m) == plan.dim();
        if whole
            && self.stride == m
            && let Some(all) = plan.as_slice_mut()
        {
            all.copy_from_slice(&self.kernel[..n * m]);
            return;
        }
        if !whole {
            plan.fill(T::ZERO);
        }
        let prefix = is_prefix(&self.cols);
        for (row, &r) in self.kernel.chunks_exact(self.stride.max(1)).zip(&self.rows) {
            let mut to = plan.row_mut(r);
            match to.as_slice_mut() {
                Some(to) if prefix => to[..m].copy_from_slice(&row[..m]),
                _ => self.cols.iter().zip(row).for_each(|(&c, x)| to[c] = *x),
            }
        }
    }
}

/// Whether ascending indices are 0, 1, 2 …
fn is_prefix(indices: &[usize]) -> bool {
    indices.last().is_none_or(|&last| last + 1 == indices.len())
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
