//! `optical_core::transport` for numpy arrays.

use ndarray::{Array2, ArrayView3, Ix2, Ix3};
use numpy::{
    Element, IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArray2, PyReadonlyArray3,
    PyUntypedArrayMethods,
};
use optical_core::simd::Float;
use optical_core::transport::{
    self as core, Alignment, AlignmentOptions, AlignmentOutput, Batch, Extent, Method, Options, Output,
    Report,
};
use pyo3::prelude::*;

use crate::enter::{Input, enter};
use crate::errors::InputError;

/// `optical_rs.transport.arguments.Solver`, by its attributes.
#[derive(FromPyObject)]
pub(crate) struct Solver {
    method: String,
    max_iter: usize,
    tol: f64,
    reg_m: [f64; 2],
    accelerate: bool,
}

impl Solver {
    fn options(&self) -> PyResult<Options<'static>> {
        let method = Method::ALL.into_iter().find(|m| m.name() == self.method).ok_or_else(|| {
            InputError::new_err(format!(
                "method: expected 'auto', 'linear', 'log' or 'ipot', got '{}'",
                self.method
            ))
        })?;
        let Solver { max_iter, tol, reg_m, accelerate, .. } = *self;
        Ok(Options { method, max_iter, tol, reg_m, accelerate, cancel: None })
    }
}

/// The real entries of a side.
#[derive(FromPyObject)]
pub(crate) enum Side {
    Lengths(Vec<usize>),
    Mask(#[pyo3(from_py_with = mask)] Array2<bool>),
}

/// From bytes that are not 0: a numpy bool may be any byte, and Rust's is 0 or 1.
fn mask(given: &Bound<'_, PyAny>) -> PyResult<Array2<bool>> {
    Ok(array::<u8, Ix2>(given)?.as_array().mapv(|byte| byte != 0))
}

/// A side as the core takes it.
fn extent(side: &Option<Side>) -> Extent<'_> {
    match side {
        None => Extent::All,
        Some(Side::Lengths(lengths)) => Extent::Lengths(lengths),
        Some(Side::Mask(mask)) => Extent::Mask(mask.view()),
    }
}

/// What is told of each problem of a batch, as arrays.
#[pyclass(frozen, get_all, module = "optical_rs._core")]
pub(crate) struct Reports {
    value: Py<PyArray1<f64>>,
    value_linear: Py<PyArray1<f64>>,
    duality_gap: Py<PyArray1<f64>>,
    marginal_error: Py<PyArray1<f64>>,
    reg: Py<PyArray1<f64>>,
    n_iter: Py<PyArray1<i64>>,
    converged: Py<PyArray1<bool>>,
    status: Vec<&'static str>,
}

impl Reports {
    fn new(py: Python<'_>, reports: &[Report]) -> PyResult<Py<Self>> {
        let doubles = |f: fn(&Report) -> f64| PyArray1::from_iter(py, reports.iter().map(f)).unbind();
        let made = Reports {
            value: doubles(|r| r.value),
            value_linear: doubles(|r| r.value_linear),
            duality_gap: doubles(|r| r.duality_gap),
            marginal_error: doubles(|r| r.marginal_error),
            reg: doubles(|r| r.reg),
            n_iter: PyArray1::from_iter(py, reports.iter().map(|r| r.n_iter as i64)).unbind(),
            converged: PyArray1::from_iter(py, reports.iter().map(|r| r.converged)).unbind(),
            status: reports.iter().map(|r| r.status.name()).collect(),
        };
        Py::new(py, made)
    }
}

/// The solutions of a batch.
#[pyclass(frozen, get_all, module = "optical_rs._core")]
pub(crate) struct Solved {
    plan: Option<Py<PyAny>>,
    f: Py<PyAny>,
    g: Py<PyAny>,
    reports: Py<Reports>,
}

/// The losses of a batch of pairs (`reports.value_linear`) and their gradients.
#[pyclass(frozen, get_all, module = "optical_rs._core")]
pub(crate) struct Aligned {
    grad_x: Option<Py<PyAny>>,
    grad_y: Option<Py<PyAny>>,
    reports: Py<Reports>,
}

fn array<'py, T: Element, D: ndarray::Dimension>(
    given: &Bound<'py, PyAny>,
) -> PyResult<numpy::PyReadonlyArray<'py, T, D>> {
    Ok(given.extract::<Input<'py, T, D>>()?.0)
}

fn matrix<'py, T: Element>(given: Option<Bound<'py, PyAny>>) -> PyResult<Option<PyReadonlyArray2<'py, T>>> {
    given.map(|x| array::<T, Ix2>(&x)).transpose()
}

/// Memory for results, which the core writes in full: asked for without zeros, as those would be written first.
fn made<'py, T: Element>(py: Python<'py>, shape: [usize; 3]) -> Bound<'py, PyArray3<T>> {
    // SAFETY: numbers of a type without invalid bits, which are written before Python gets to see them; where a
    // call fails, the array is dropped.
    unsafe { PyArray3::new(py, shape, false) }
}

/// Solve a padded batch; see `optical_rs.transport.solve_batch`.
#[pyfunction]
#[pyo3(signature = (cost, reg, a, b, rows, cols, start, solver, want_plan))]
pub(crate) fn solve_batch<'py>(
    py: Python<'py>,
    cost: &Bound<'py, PyAny>,
    reg: Vec<f64>,
    a: Option<Bound<'py, PyAny>>,
    b: Option<Bound<'py, PyAny>>,
    rows: Option<Side>,
    cols: Option<Side>,
    start: Option<Bound<'py, PyAny>>,
    solver: Solver,
    want_plan: bool,
) -> PyResult<Solved> {
    let (options, sides) = (solver.options()?, [rows, cols]);
    if cost.cast::<PyArray3<f64>>().is_ok() {
        solve::<f64>(py, cost, &reg, [a, b, start], &sides, options, want_plan)
    } else {
        solve::<f32>(py, cost, &reg, [a, b, start], &sides, options, want_plan)
    }
}

fn solve<'py, T: Float + Element>(
    py: Python<'py>,
    cost: &Bound<'py, PyAny>,
    reg: &[f64],
    matrices: [Option<Bound<'py, PyAny>>; 3],
    sides: &[Option<Side>; 2],
    options: Options<'static>,
    want_plan: bool,
) -> PyResult<Solved> {
    let cost: PyReadonlyArray3<'py, T> = array(cost)?;
    let [a, b, start] = matrices;
    let (a, b, start) = (matrix::<T>(a)?, matrix::<T>(b)?, matrix::<T>(start)?);
    let [count, n, m] = [cost.shape()[0], cost.shape()[1], cost.shape()[2]];
    let plan = want_plan.then(|| made::<T>(py, [count, n, m]));
    let (f, g) = (PyArray2::<T>::zeros(py, [count, n], false), PyArray2::<T>::zeros(py, [count, m], false));
    let batch = Batch {
        cost: cost.as_array(),
        reg,
        a: a.as_ref().map(|x| x.as_array()),
        b: b.as_ref().map(|x| x.as_array()),
        rows: extent(&sides[0]),
        cols: extent(&sides[1]),
        start: start.as_ref().map(|x| x.as_array()),
    };
    let work = (count * n * m) as f64 * 2.0 * options.max_iter as f64;
    let mut plan_access = plan.as_ref().map(|p| p.try_readwrite()).transpose()?;
    let (mut f_access, mut g_access) = (f.try_readwrite()?, g.try_readwrite()?);
    let output = Output {
        plan: plan_access.as_mut().map(|p| p.as_array_mut()),
        f: f_access.as_array_mut(),
        g: g_access.as_array_mut(),
    };
    let reports = enter(py, work, move |cancel| {
        core::solve_batch(&batch, &Options { cancel: Some(cancel), ..options }, output)
    })?;
    drop((plan_access, f_access, g_access));
    Ok(Solved {
        plan: plan.map(|plan| plan.into_any().unbind()),
        f: f.into_any().unbind(),
        g: g.into_any().unbind(),
        reports: Reports::new(py, &reports)?,
    })
}

/// The gradient of <T*(C), C> with respect to C; see `optical_core::transport::implicit_gradient`.
#[pyfunction]
pub(crate) fn implicit_gradient<'py>(
    py: Python<'py>,
    plan: &Bound<'py, PyAny>,
    cost: &Bound<'py, PyAny>,
    reg: Vec<f64>,
    reg_m: [f64; 2],
) -> PyResult<Bound<'py, PyAny>> {
    fn of<'py, T: Float + Element>(
        py: Python<'py>,
        plan: &Bound<'py, PyAny>,
        cost: &Bound<'py, PyAny>,
        reg: &[f64],
        reg_m: [f64; 2],
    ) -> PyResult<Bound<'py, PyAny>> {
        let (plan, cost) = (array::<T, Ix3>(plan)?, array::<T, Ix3>(cost)?);
        let (plan, cost) = (plan.as_array(), cost.as_array());
        let mut out = ndarray::Array3::from_elem(plan.dim(), T::ZERO);
        let view = out.view_mut();
        let side = plan.dim().1.min(plan.dim().2);
        let work = (plan.len() * side) as f64;
        enter(py, work, move |cancel| core::implicit_gradient(plan, cost, reg, reg_m, Some(cancel), view))?;
        Ok(out.into_pyarray(py).into_any())
    }
    if plan.cast::<PyArray3<f64>>().is_ok() {
        of::<f64>(py, plan, cost, &reg, reg_m)
    } else {
        of::<f32>(py, plan, cost, &reg, reg_m)
    }
}

/// Align padded token embeddings; see `optical_rs.transport.alignment_loss`.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, rows, cols, reg, relative, implicit, solver, want_x, want_y))]
pub(crate) fn align_batch<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    a: Option<Bound<'py, PyAny>>,
    b: Option<Bound<'py, PyAny>>,
    rows: Option<Side>,
    cols: Option<Side>,
    reg: f64,
    relative: bool,
    implicit: bool,
    solver: Solver,
    want_x: bool,
    want_y: bool,
) -> PyResult<Aligned> {
    let options = AlignmentOptions { solver: solver.options()?, reg, relative, implicit };
    let sides = [rows, cols];
    if x.cast::<PyArray3<f64>>().is_ok() {
        align::<f64>(py, [x, y], [a, b], &sides, options, [want_x, want_y])
    } else {
        align::<f32>(py, [x, y], [a, b], &sides, options, [want_x, want_y])
    }
}

fn align<'py, T: Float + Element>(
    py: Python<'py>,
    tokens: [&Bound<'py, PyAny>; 2],
    weights: [Option<Bound<'py, PyAny>>; 2],
    sides: &[Option<Side>; 2],
    options: AlignmentOptions<'static>,
    wanted: [bool; 2],
) -> PyResult<Aligned> {
    let (x, y) = (array::<T, Ix3>(tokens[0])?, array::<T, Ix3>(tokens[1])?);
    let [a, b] = weights;
    let (a, b) = (matrix::<T>(a)?, matrix::<T>(b)?);
    let (x, y) = (x.as_array(), y.as_array());
    let like = |x: &ArrayView3<'_, T>| made::<T>(py, [x.dim().0, x.dim().1, x.dim().2]);
    let (grad_x, grad_y) = (wanted[0].then(|| like(&x)), wanted[1].then(|| like(&y)));
    let mut access_x = grad_x.as_ref().map(|g| g.try_readwrite()).transpose()?;
    let mut access_y = grad_y.as_ref().map(|g| g.try_readwrite()).transpose()?;
    let output = AlignmentOutput {
        grad_x: access_x.as_mut().map(|g| g.as_array_mut()),
        grad_y: access_y.as_mut().map(|g| g.as_array_mut()),
    };
    let pairs = Alignment {
        x,
        y,
        a: a.as_ref().map(|a| a.as_array()),
        b: b.as_ref().map(|b| b.as_array()),
        rows: extent(&sides[0]),
        cols: extent(&sides[1]),
    };
    let per_pair = (2 * options.solver.max_iter + 3 * x.dim().2) as f64;
    let work = (x.dim().0 * x.dim().1 * y.dim().1) as f64 * per_pair;
    let reports = enter(py, work, move |cancel| {
        let solver = Options { cancel: Some(cancel), ..options.solver };
        core::align_batch(&pairs, &AlignmentOptions { solver, ..options }, output)
    })?;
    drop((access_x, access_y));
    Ok(Aligned {
        grad_x: grad_x.map(|g| g.into_any().unbind()),
        grad_y: grad_y.map(|g| g.into_any().unbind()),
        reports: Reports::new(py, &reports)?,
    })
}
