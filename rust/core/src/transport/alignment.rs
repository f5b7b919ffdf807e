//! From token embeddings to the alignment loss and its gradient, without a graph in between.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};
use rayon::prelude::*;

use super::{Extent, Options, Report, Scratch, buffer::Buffer, gradient};
use crate::simd::{self, Float, Level, ROWS, matmul::run_product};
use crate::{Error, Result, pool};

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
    if (batch, dim) != (batch_y, dim_y) {
        return Err(Error::Argument(format!(
            "y: expected {batch} texts of dimension {dim}, as in x, got {batch_y} of dimension {dim_y}"
        )));
    }
    super::check_reg(&[options.reg], 1)?;
    options.solver.check()?;
    pairs.rows.check("row", batch, n)?;
    pairs.cols.check("col", batch, m)?;
    for (name, given, side) in [("a", pairs.a, n), ("b", pairs.b, m)] {
        if let Some(given) = given
            && given.dim() != (batch, side)
        {
            return Err(Error::Argument(format!(
                "{name}: expected shape ({batch}, {side}), got {:?}",
                given.dim()
            )));
        }
    }
    let mut grads: Vec<_> =
        per_text(output.grad_x, batch).into_iter().zip(per_text(output.grad_y, batch)).collect();
    let level = simd::level();
    pool::run(|| {
        grads
            .par_iter_mut()
            .enumerate()
            .map_init(Pair::default, |pair, (i, (grad_x, grad_y))| {
                pair.load(pairs, &options.solver, i, level)?;
                let report = pair.solve(options, level, i)?;
                pair.differentiate(options, level, &report, grad_x.as_mut(), grad_y.as_mut());
                Ok(report)
            })
            .collect::<Vec<Result<Report>>>()
    })
    .into_iter()
    .collect()
}

/// One view per text, so that they can be handed to threads.
fn per_text<T>(all: Option<ArrayViewMut3<'_, T>>, batch: usize) -> Vec<Option<ArrayViewMut2<'_, T>>> {
    match all {
        Some(all) => all.into_outer_iter_mut().map(Some).collect(),
        None => (0..batch).map(|_| None).collect(),
    }
}

/// One thread's working memory for pairs.
#[derive(Default)]
struct Pair<T> {
    problem: Scratch<T>,
    dim: usize,
    /// `dim`, padded to the vector width.
    width: usize,
    x: Side<T>,
    y: Side<T>,
    /// A side transposed, or the plan transposed.
    transposed: Buffer<T>,
    product: Buffer<T>,
    reg: f64,
    reg_m: [f64; 2],
}

/// The compacted, normalised tokens of one side.
#[derive(Default)]
struct Side<T> {
    unit: Buffer<T>,
    inverse_norm: Vec<T>,
}

impl<T: Float> Side<T> {
    fn load(&mut self, tokens: ArrayView2<'_, T>, indices: &[usize], height: usize, width: usize) {
        self.unit.reset(height * width, T::ZERO);
        self.inverse_norm.clear();
        for (k, &i) in indices.iter().enumerate() {
            let token = tokens.row(i);
            let square: f64 = token.iter().map(|x| x.double() * x.double()).sum();
            let inverse = T::of(1.0 / square.sqrt().max(1e-12));
            token.iter().zip(&mut self.unit[k * width..]).for_each(|(x, u)| *u = *x * inverse);
            self.inverse_norm.push(inverse);
        }
    }

    /// Write the gradient with respect to the raw tokens, given that of the unit ones (negated).
    fn backward(&self, minus: &[T], width: usize, indices: &[usize], mut out: ArrayViewMut2<'_, T>) {
        out.fill(T::ZERO);
        for (k, &i) in indices.iter().enumerate() {
            let (unit, minus) = (&self.unit[k * width..], &minus[k * width..]);
            let mut out = out.row_mut(i);
            let dim = out.len();
            let radial: T = unit[..dim].iter().zip(minus).map(|(u, g)| *u * *g).sum();
            for c in 0..dim {
                out[c] = (radial * unit[c] - minus[c]) * self.inverse_norm[k];
            }
        }
    }
}

fn transpose<T: Float>(
    from: &[T],
    rows: usize,
    cols: usize,
    stride: usize,
    into: &mut Buffer<T>,
    into_stride: usize,
) {
    for i in 0..rows {
        for j in 0..cols {
            into[j * into_stride + i] = from[i * stride + j];
        }
    }
}

impl<T: Float> Pair<T> {
    fn load(&mut self, pairs: &Alignment<'_, T>, solver: &Options<'_>, i: usize, level: Level) -> Result<()> {
        let (_, n, dim) = pairs.x.dim();
        let m = pairs.y.dim().1;
        pairs.rows.indices(i, n, &mut self.problem.rows);
        pairs.cols.indices(i, m, &mut self.problem.cols);
        self.problem.reserve();
        let p = &mut self.problem;
        self.dim = dim;
        self.width = dim.next_multiple_of(super::buffer::ALIGN / size_of::<T>());
        self.x.load(pairs.x.index_axis(Axis(0), i), &p.rows, p.height, self.width);
        let y_height = p.m().next_multiple_of(ROWS);
        self.y.load(pairs.y.index_axis(Axis(0), i), &p.cols, y_height, self.width);
        self.transposed.reset(dim * p.stride, T::ZERO);
        transpose(&self.y.unit, p.m(), dim, self.width, &mut self.transposed, p.stride);
        // SAFETY: the level is supported, the buffers are padded as `product` wants.
        unsafe {
            run_product(
                level,
                p.height,
                dim,
                self.width,
                p.stride,
                &self.x.unit,
                &self.transposed,
                &mut p.cost,
            );
        }
        for r in 0..p.height {
            let row = &mut p.cost[r * p.stride..][..p.stride];
            if r < p.rows.len() {
                // Rounding may push a cosine past 1; costs are kept at 0 and above.
                row[..p.cols.len()].iter_mut().for_each(|c| {
                    let cost = T::ONE - *c;
                    *c = if cost < T::ZERO { T::ZERO } else { cost };
                });
                row[p.cols.len()..].fill(T::INFINITY);
            } else {
                row.fill(T::INFINITY);
            }
        }
        p.marginals(pairs.a, pairs.b, solver, i)
    }

    fn solve(&mut self, options: &AlignmentOptions<'_>, level: Level, i: usize) -> Result<Report> {
        let unit = if options.relative { self.spread().max(LEAST_SPREAD) } else { 1.0 };
        self.reg = options.reg * unit;
        self.reg_m = options.solver.reg_m.map(|rho| rho * unit);
        let solver = Options { reg_m: self.reg_m, ..options.solver };
        self.problem.solve(self.reg, &solver, level, i)
    }

    /// Standard deviation of the pair's costs.
    fn spread(&self) -> f64 {
        let p = &self.problem;
        let count = (p.n() * p.m()).max(1) as f64;
        let costs = || (0..p.n()).flat_map(|r| &p.cost[r * p.stride..][..p.m()]).map(|c| c.double());
        let mean = costs().sum::<f64>() / count;
        (costs().map(|c| (c - mean) * (c - mean)).sum::<f64>() / count).sqrt()
    }

    fn differentiate(
        &mut self,
        options: &AlignmentOptions<'_>,
        level: Level,
        report: &Report,
        grad_x: Option<&mut ArrayViewMut2<'_, T>>,
        grad_y: Option<&mut ArrayViewMut2<'_, T>>,
    ) {
        if report.status == super::Status::Empty {
            if let Some(g) = grad_x {
                g.fill(T::ZERO);
            }
            if let Some(g) = grad_y {
                g.fill(T::ZERO);
            }
            return;
        }
        if grad_x.is_none() && grad_y.is_none() {
            return;
        }
        let (n, m) = (self.problem.n(), self.problem.m());
        if options.implicit {
            self.through_the_plan(n, m);
        }
        let (p, width) = (&self.problem, self.width);
        if let Some(out) = grad_x {
            self.product.reset(p.height * width, T::ZERO);
            // SAFETY: as in `load`; the plan's padding is 0.
            unsafe {
                run_product(level, p.height, m, p.stride, width, &p.kernel, &self.y.unit, &mut self.product);
            }
            self.x.backward(&self.product, width, &p.rows, out.view_mut());
        }
        if let Some(out) = grad_y {
            let height = m.next_multiple_of(ROWS);
            self.transposed.reset(height * p.height, T::ZERO);
            transpose(&p.kernel, n, m, p.stride, &mut self.transposed, p.height);
            self.product.reset(height * width, T::ZERO);
            // SAFETY: as above.
            unsafe {
                run_product(
                    level,
                    height,
                    n,
                    p.height,
                    width,
                    &self.transposed,
                    &self.x.unit,
                    &mut self.product,
                );
            }
            self.y.backward(&self.product, width, &p.cols, out.view_mut());
        }
    }

    /// Replace the plan by the gradient of <T*(C), C> with respect to C.
    fn through_the_plan(&mut self, n: usize, m: usize) {
        let p = &mut self.problem;
        let dense = |from: &[T]| -> Vec<f64> {
            (0..n).flat_map(|i| &from[i * p.stride..][..m]).map(|x| x.double()).collect()
        };
        let plan = dense(&p.kernel);
        let mut cost = dense(&p.cost);
        gradient::one(n, m, &plan, &mut cost, self.reg, self.reg_m);
        for i in 0..n {
            let row = &mut p.kernel[i * p.stride..][..m];
            row.iter_mut().zip(&cost[i * m..]).for_each(|(k, g)| *k = T::of(*g));
        }
    }
}
