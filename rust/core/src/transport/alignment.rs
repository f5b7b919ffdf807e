//! From token embeddings to the alignment loss and its gradient, without a graph in between.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};
use rayon::prelude::*;

use super::kernel::run_turn;
use super::{Extent, Options, Report, Workspace, buffer::Buffer, check_reg, check_shape, each, gradient};
use crate::simd::{self, Float, Level, ROWS, Vector, matmul::run_product, shells};
use crate::{Result, error::ensure};

/// Pairs of texts as padded token embeddings.
#[derive(Clone, Copy, Debug)]
pub struct Alignment<'a, T> {
    /// Tokens of the first texts, shape (batch, n, dim); any length, normalised here.
    pub x: ArrayView3<'a, T>,
    /// Tokens of the second texts, shape (batch, m, dim).
    pub y: ArrayView3<'a, T>,
    /// Weights of the first texts' tokens, shape (batch, n); uniform if absent.
    pub a: Option<ArrayView2<'a, T>>,
    /// Weights of the second texts' tokens, shape (batch, m).
    pub b: Option<ArrayView2<'a, T>>,
    /// The real tokens of x.
    pub rows: Extent<'a>,
    /// The real tokens of y.
    pub cols: Extent<'a>,
}

/// How pairs are aligned.
#[derive(Clone, Copy, Debug)]
pub struct AlignmentOptions<'a> {
    /// The solver's options.
    pub solver: Options<'a>,
    /// Regularisation, in cost units or, if `relative`, in standard deviations of the pair's costs.
    pub reg: f64,
    /// Whether `reg` and `reg_m` are relative to the spread of the costs.
    pub relative: bool,
    /// Differentiate through the plan, too.
    pub implicit: bool,
}

/// Where gradients go; shapes of `x` and `y`. Padding gets 0.
#[derive(Debug, Default)]
pub struct AlignmentOutput<'a, T> {
    /// d loss_i / d x_i.
    pub grad_x: Option<ArrayViewMut3<'a, T>>,
    /// d loss_i / d y_i.
    pub grad_y: Option<ArrayViewMut3<'a, T>>,
}

/// Spreads below this (all costs equal) are taken as this, so that `reg` stays positive.
const LEAST_SPREAD: f64 = 1e-6;

/// `loss_i = <T_i, C_i>` with `C_i = 1 − cos(x_i, y_i)` and T_i the entropic plan between the tokens
/// of pair i (in [`Report::value_linear`]), and its gradient with respect to the embeddings.
///
/// # Errors
/// Shapes that do not fit, or the first bad pair, as in [`solve_batch`](super::solve_batch).
pub fn align_batch<T: Float>(
    pairs: &Alignment<'_, T>,
    options: &AlignmentOptions<'_>,
    output: AlignmentOutput<'_, T>,
) -> Result<Vec<Report>> {
    let (batch, n, dim) = pairs.x.dim();
    let (batch_y, m, dim_y) = pairs.y.dim();
    ensure!(
        (batch, dim) == (batch_y, dim_y),
        "y: expected {batch} texts of dimension {dim}, as in x, got {batch_y} of dimension {dim_y}"
    );
    check_reg::<T>(&[options.reg], 1)?;
    options.solver.check()?;
    pairs.rows.check("rows", batch, n)?;
    pairs.cols.check("cols", batch, m)?;
    check_shape("a", pairs.a.map(|a| a.dim()), batch, n)?;
    check_shape("b", pairs.b.map(|b| b.dim()), batch, m)?;
    let mut grads: Vec<_> = each(output.grad_x, batch).into_iter().zip(each(output.grad_y, batch)).collect();
    let level = simd::level();
    let few = batch < rayon::current_num_threads();
    grads
        .par_iter_mut()
        .enumerate()
        .map_init(
            || Pair::new(few),
            |pair, (i, (grad_x, grad_y))| {
                pair.load(pairs, options, i, level)?;
                let report = pair.solve(options, level)?;
                let [x, y] = [grad_x, grad_y].map(|grad| grad.as_mut().map(|grad| grad.view_mut()));
                pair.differentiate(options, level, &report, x, y);
                Ok(report)
            },
        )
        .collect::<Vec<Result<Report>>>()
        .into_iter()
        .collect()
}

/// One thread's working memory for pairs.
#[derive(Default)]
struct Pair<T> {
    problem: Workspace<T>,
    /// The embeddings' dimension, padded to the vector width.
    width: usize,
    x: Side<T>,
    y: Side<T>,
    /// A side transposed, or the plan transposed.
    transposed: Buffer<T>,
    product: Buffer<T>,
    reg_m: [f64; 2],
}

/// The compacted, normalised tokens of one side.
#[derive(Default)]
struct Side<T> {
    unit: Buffer<T>,
    inverse_norm: Vec<T>,
}

impl<T: Float> Side<T> {
    /// The tokens at `indices`, to unit length, in `height` rows of `width`; the rest is 0.
    fn load(
        &mut self,
        level: Level,
        tokens: ArrayView2<'_, T>,
        indices: &[usize],
        height: usize,
        width: usize,
    ) {
        let dim = tokens.ncols();
        self.unit.resize(height * width, T::ZERO);
        self.unit[indices.len() * width..].fill(T::ZERO);
        for (row, &i) in self.unit.chunks_exact_mut(width.max(1)).zip(indices) {
            let token = tokens.row(i);
            match token.as_slice() {
                Some(token) => row[..dim].copy_from_slice(token),
                None => row.iter_mut().zip(token).for_each(|(r, x)| *r = *x),
            }
            row[dim..].fill(T::ZERO);
        }
        self.inverse_norm.resize(indices.len(), T::ZERO);
        // SAFETY: rows are padded to whole vectors.
        unsafe { run_normalise(level, width, &mut self.unit, &mut self.inverse_norm) };
    }

    /// Write the gradient with respect to the raw tokens, given that of the unit ones (negated, and
    /// overwritten).
    fn backward(
        &self,
        level: Level,
        minus: &mut [T],
        width: usize,
        indices: &[usize],
        mut out: ArrayViewMut2<'_, T>,
    ) {
        // SAFETY: rows are padded to whole vectors.
        unsafe { run_tangent(level, width, &self.unit, &self.inverse_norm, minus) };
        if indices.len() < out.nrows() {
            out.fill(T::ZERO);
        }
        for (row, &i) in minus.chunks_exact(width.max(1)).zip(indices) {
            let mut out = out.row_mut(i);
            let dim = out.len();
            match out.as_slice_mut() {
                Some(out) => out.copy_from_slice(&row[..dim]),
                None => out.iter_mut().zip(row).for_each(|(o, x)| *o = *x),
            }
        }
    }
}

/// Each row to unit length; what it was multiplied by goes to `inverse_norm`.
#[inline(always)]
unsafe fn normalise<V: Vector>(width: usize, rows: &mut [V::Elem], inverse_norm: &mut [V::Elem]) {
    debug_assert!(rows.len() >= width * inverse_norm.len() && width.is_multiple_of(V::LANES));
    // SAFETY: the sizes asserted above.
    unsafe {
        for (i, inverse) in inverse_norm.iter_mut().enumerate() {
            let row = rows.as_mut_ptr().add(i * width);
            // Scaled by the largest element first: squares must neither over- nor underflow.
            let mut top = V::splat(V::Elem::ZERO);
            for c in (0..width).step_by(V::LANES) {
                let x = V::load(row.add(c));
                top = x.max(V::splat(V::Elem::ZERO).sub(x)).max(top);
            }
            let scale = V::Elem::ONE / top.largest().max(V::Elem::of(1e-12));
            let by = V::splat(scale);
            let mut square = V::splat(V::Elem::ZERO);
            for c in (0..width).step_by(V::LANES) {
                let x = V::load(row.add(c)).mul(by);
                square = x.fma(x, square);
            }
            let norm = square.sum().sqrt();
            *inverse = if norm == V::Elem::ZERO { V::Elem::ZERO } else { scale / norm };
            let by = V::splat(*inverse);
            for c in (0..width).step_by(V::LANES) {
                V::load(row.add(c)).mul(by).store(row.add(c));
            }
        }
    }
}
shells! { fn run_normalise(width: usize, rows: &mut [T], inverse_norm: &mut [T]) = normalise }

/// `minus ← (⟨unit, minus⟩ unit − minus) · inverse_norm` for each row: the gradient of what is given
/// for unit vectors, for vectors of any length.
#[inline(always)]
unsafe fn tangent<V: Vector>(
    width: usize,
    unit: &[V::Elem],
    inverse_norm: &[V::Elem],
    minus: &mut [V::Elem],
) {
    let rows = inverse_norm.len();
    debug_assert!(unit.len() >= rows * width && minus.len() >= rows * width);
    // SAFETY: the sizes asserted above; `width` is a multiple of the vector's.
    unsafe {
        for (i, inverse) in inverse_norm.iter().enumerate() {
            let (unit, minus) = (unit.as_ptr().add(i * width), minus.as_mut_ptr().add(i * width));
            let mut radial = V::splat(V::Elem::ZERO);
            for c in (0..width).step_by(V::LANES) {
                radial = V::load(unit.add(c)).fma(V::load(minus.add(c)), radial);
            }
            let (radial, inverse) = (V::splat(radial.sum()), V::splat(*inverse));
            for c in (0..width).step_by(V::LANES) {
                let along = V::load(unit.add(c)).mul(radial);
                along.sub(V::load(minus.add(c))).mul(inverse).store(minus.add(c));
            }
        }
    }
}
shells! { fn run_tangent(width: usize, unit: &[T], inverse_norm: &[T], minus: &mut [T]) = tangent }

/// Cosines to costs, in place: `max(1 − c, 0)`, as rounding may push a cosine past 1. Returns the
/// standard deviation over the first `m` columns; the others become +∞.
#[inline(always)]
unsafe fn costs<V: Vector>(n: usize, m: usize, stride: usize, cost: &mut [V::Elem]) -> f64 {
    debug_assert!(cost.len() >= n * stride && m <= stride);
    if n == 0 || m == 0 {
        return 0.0;
    }
    // SAFETY: the sizes asserted above.
    unsafe {
        let (zero, one) = (V::splat(V::Elem::ZERO), V::splat(V::Elem::ONE));
        // Deviations are from the first cost, which is as good as the mean against cancellation.
        let cosine = cost[0];
        let first = zero.max(one.sub(V::splat(cosine)));
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let row = cost.as_mut_ptr().add(i * stride);
            for j in m..stride {
                *row.add(j) = cosine;
            }
            let (mut of_row, mut squares_of_row) = (zero, zero);
            for c in (0..stride).step_by(V::LANES) {
                // NaN stays, as the second operand: it must be found and named.
                let x = zero.max(one.sub(V::load(row.add(c))));
                x.store(row.add(c));
                let off = x.sub(first);
                of_row = of_row.add(off);
                squares_of_row = off.fma(off, squares_of_row);
            }
            for j in m..stride {
                *row.add(j) = V::Elem::INFINITY;
            }
            sum += of_row.sum().double();
            squares += squares_of_row.sum().double();
        }
        let count = (n * m) as f64;
        (squares / count - (sum / count) * (sum / count)).max(0.0).sqrt()
    }
}
shells! { fn run_costs(n: usize, m: usize, stride: usize, cost: &mut [T]) -> f64 = costs }

impl<T: Float> Pair<T> {
    fn new(parallel: bool) -> Self {
        Pair { problem: Workspace::new(parallel), ..Pair::default() }
    }

    fn load(
        &mut self,
        pairs: &Alignment<'_, T>,
        options: &AlignmentOptions<'_>,
        i: usize,
        level: Level,
    ) -> Result<()> {
        let (_, n, dim) = pairs.x.dim();
        let m = pairs.y.dim().1;
        pairs.rows.indices(i, n, &mut self.problem.rows);
        pairs.cols.indices(i, m, &mut self.problem.cols);
        self.problem.reserve();
        let p = &mut self.problem;
        self.width = dim.next_multiple_of(super::buffer::ALIGN / size_of::<T>());
        self.x.load(level, pairs.x.index_axis(Axis(0), i), &p.rows, p.height, self.width);
        self.y.load(level, pairs.y.index_axis(Axis(0), i), &p.cols, p.stride, self.width);
        self.transposed.resize(self.width * p.stride, T::ZERO);
        let (n, m) = (p.n(), p.m());
        // SAFETY: the level is supported, the buffers are padded as the kernels want.
        let spread = unsafe {
            run_turn(level, p.stride, self.width, &self.y.unit, &mut self.transposed);
            run_product(
                level,
                n.next_multiple_of(ROWS),
                dim,
                self.width,
                p.stride,
                &self.x.unit,
                &self.transposed,
                &mut p.cost,
            );
            run_costs(level, n, m, p.stride, &mut p.cost)
        };
        p.cost[n * p.stride..].fill(T::INFINITY);
        let unit = if options.relative { spread.max(LEAST_SPREAD) } else { 1.0 };
        self.reg_m = options.solver.reg_m.map(|rho| rho * unit);
        p.reg = options.reg * unit;
        let solver = Options { reg_m: self.reg_m, ..options.solver };
        p.admit(&[], 0, pairs.a, pairs.b, &solver, level, i)
    }

    fn solve(&mut self, options: &AlignmentOptions<'_>, level: Level) -> Result<Report> {
        let solver = Options { reg_m: self.reg_m, ..options.solver };
        self.problem.solve(&solver, level, None)
    }

    fn differentiate(
        &mut self,
        options: &AlignmentOptions<'_>,
        level: Level,
        report: &Report,
        grad_x: Option<ArrayViewMut2<'_, T>>,
        grad_y: Option<ArrayViewMut2<'_, T>>,
    ) {
        if report.status == super::Status::Empty {
            [grad_x, grad_y].into_iter().flatten().for_each(|mut g| g.fill(T::ZERO));
            return;
        }
        if grad_x.is_none() && grad_y.is_none() {
            return;
        }
        let (n, m) = (self.problem.n(), self.problem.m());
        if options.implicit {
            self.through_the_plan(n, m, report.reg);
        }
        let (p, width) = (&self.problem, self.width);
        if let Some(out) = grad_x {
            let rows = n.next_multiple_of(ROWS);
            self.product.resize(rows * width, T::ZERO);
            // SAFETY: as in `load`; the plan's padding is 0.
            unsafe {
                run_product(level, rows, m, p.stride, width, &p.kernel, &self.y.unit, &mut self.product);
            }
            self.x.backward(level, &mut self.product, width, &p.rows, out);
        }
        if let Some(out) = grad_y {
            let rows = m.next_multiple_of(ROWS);
            self.transposed.resize(p.stride * p.height, T::ZERO);
            self.product.resize(rows * width, T::ZERO);
            // SAFETY: as above.
            unsafe {
                run_turn(level, p.height, p.stride, &p.kernel, &mut self.transposed);
                run_product(
                    level,
                    rows,
                    n,
                    p.height,
                    width,
                    &self.transposed,
                    &self.x.unit,
                    &mut self.product,
                );
            }
            self.y.backward(level, &mut self.product, width, &p.cols, out);
        }
    }

    /// Replace the plan by the gradient of <T*(C), C> with respect to C.
    fn through_the_plan(&mut self, n: usize, m: usize, reg: f64) {
        let p = &mut self.problem;
        let dense = |from: &[T], shift: &dyn Fn(usize) -> f64| -> Vec<f64> {
            let row = |i: usize| from[i * p.stride..][..m].iter().map(move |x| x.double() + shift(i));
            (0..n).flat_map(row).collect()
        };
        let plan = dense(&p.kernel, &|_| 0.0);
        let mut cost = dense(&p.cost, &|i| p.shift[i].double());
        gradient::one(n, m, &plan, &mut cost, reg, self.reg_m);
        for i in 0..n {
            let row = &mut p.kernel[i * p.stride..][..m];
            row.iter_mut().zip(&cost[i * m..]).for_each(|(k, g)| *k = T::of(*g));
        }
    }
}
