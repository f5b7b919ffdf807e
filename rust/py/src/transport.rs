//! `optical_core::transport` for numpy arrays.

use ndarray::ArrayView3;
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
use pyo3::types::PyTuple;

use crate::enter::{InputError, enter};

fn method(name: &str) -> PyResult<Method> {
    match name {
        "auto" => Ok(Method::Auto),
        "linear" => Ok(Method::Linear),
        "log" => Ok(Method::Log),
        "ipot" => Ok(Method::Ipot),
        _ => Err(InputError::new_err(format!(
            "method: expected 'auto', 'linear', 'log' or 'ipot', got '{name}'"
        ))),
    }
}

/// (method, max_iter, tol, reg_m, accelerate), as `optical_rs.transport.arguments.Solver`.
type Solver = (String, usize, f64, [f64; 2], bool);

fn options(solver: &Solver) -> PyResult<Options<'static>> {
    let (name, max_iter, tol, reg_m, accelerate) = solver;
    Ok(Options {
        method: method(name)?,
        max_iter: *max_iter,
        tol: *tol,
        reg_m: *reg_m,
        accelerate: *accelerate,
        cancel: None,
    })
}

/// The real entries of a side, as given from Python.
#[derive(FromPyObject)]
pub(crate) enum Side<'py> {
    Lengths(Vec<usize>),
    Mask(PyReadonlyArray2<'py, bool>),
}

impl Side<'_> {
    fn extent<'a>(side: &'a Option<Self>) -> Extent<'a> {
        match side {
            None => Extent::All,
            Some(Side::Lengths(lengths)) => Extent::Lengths(lengths),
            Some(Side::Mask(mask)) => Extent::Mask(mask.as_array()),
        }
    }
}

type Scalars<'py> = (
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<bool>>,
    Vec<&'static str>,
);

/// (value, value_linear, marginal_error, n_iter, converged, status), one entry per problem.
fn scalars<'py>(py: Python<'py>, reports: &[Report]) -> Scalars<'py> {
    let doubles = |f: fn(&Report) -> f64| PyArray1::from_iter(py, reports.iter().map(f));
    (
        doubles(|r| r.value),
        doubles(|r| r.value_linear),
        doubles(|r| r.marginal_error),
        PyArray1::from_iter(py, reports.iter().map(|r| r.n_iter as i64)),
        PyArray1::from_iter(py, reports.iter().map(|r| r.converged)),
        reports.iter().map(|r| r.status.name()).collect(),
    )
}

/// Solve a padded batch; see `optical_rs.transport.solve_batch`.
///
/// Returns (plan or None, f, g, value, value_linear, marginal_error, n_iter, converged, status).
#[pyfunction]
#[pyo3(signature = (cost, reg, a, b, rows, cols, start, solver, want_plan))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn solve_batch<'py>(
    py: Python<'py>,
    cost: &Bound<'py, PyAny>,
    reg: Vec<f64>,
    a: Option<Bound<'py, PyAny>>,
    b: Option<Bound<'py, PyAny>>,
    rows: Option<Side<'py>>,
    cols: Option<Side<'py>>,
    start: Option<Bound<'py, PyAny>>,
    solver: Solver,
    want_plan: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let options = options(&solver)?;
    if cost.cast::<PyArray3<f64>>().is_ok() {
        solve::<f64>(py, cost, &reg, a, b, &rows, &cols, start, options, want_plan)
    } else {
        solve::<f32>(py, cost, &reg, a, b, &rows, &cols, start, options, want_plan)
    }
}

#[allow(clippy::too_many_arguments)]
fn solve<'py, T: Float + Element>(
    py: Python<'py>,
    cost: &Bound<'py, PyAny>,
    reg: &[f64],
    a: Option<Bound<'py, PyAny>>,
    b: Option<Bound<'py, PyAny>>,
    rows: &Option<Side<'py>>,
    cols: &Option<Side<'py>>,
    start: Option<Bound<'py, PyAny>>,
    options: Options<'static>,
    want_plan: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let cost: PyReadonlyArray3<'py, T> = cost.extract()?;
    let (a, b, start) = (matrix::<T>(a)?, matrix::<T>(b)?, matrix::<T>(start)?);
    let [count, n, m] = [cost.shape()[0], cost.shape()[1], cost.shape()[2]];
    // Numpy's own memory: it asks the system for huge pages, and so saves most page faults.
    let plan = want_plan.then(|| PyArray3::<T>::zeros(py, [count, n, m], false));
    let (f, g) = (PyArray2::<T>::zeros(py, [count, n], false), PyArray2::<T>::zeros(py, [count, m], false));
    let batch = Batch {
        cost: cost.as_array(),
        reg,
        a: a.as_ref().map(|x| x.as_array()),
        b: b.as_ref().map(|x| x.as_array()),
        rows: Side::extent(rows),
        cols: Side::extent(cols),
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
    let (value, linear, error, n_iter, converged, status) = scalars(py, &reports);
    (plan.clone(), f.clone(), g.clone(), value, linear, error, n_iter, converged, status).into_pyobject(py)
}

fn matrix<T: Element>(array: Option<Bound<'_, PyAny>>) -> PyResult<Option<PyReadonlyArray2<'_, T>>> {
    array.map(|x| x.extract().map_err(PyErr::from)).transpose()
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
        let (plan, cost): (PyReadonlyArray3<'py, T>, PyReadonlyArray3<'py, T>) =
            (plan.extract()?, cost.extract()?);
        let (plan, cost) = (plan.as_array(), cost.as_array());
        let mut out = ndarray::Array3::from_elem(plan.dim(), T::ZERO);
        let view = out.view_mut();
        let side = plan.dim().1.min(plan.dim().2);
        let work = (plan.len() * side) as f64;
        enter(py, work, move |_| core::implicit_gradient(plan, cost, reg, reg_m, view))?;
        Ok(out.into_pyarray(py).into_any())
    }
    if plan.cast::<PyArray3<f64>>().is_ok() {
        of::<f64>(py, plan, cost, &reg, reg_m)
    } else {
        of::<f32>(py, plan, cost, &reg, reg_m)
    }
}

/// Align padded token embeddings; see `optical_rs.transport.alignment_loss`.
///
/// Returns (grad_x or None, grad_y or None, value, value_linear, marginal_error, n_iter, converged,
/// status); the loss is `value_linear`.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, rows, cols, reg, relative, implicit, solver, want_x, want_y))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn align_batch<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    a: Option<Bound<'py, PyAny>>,
    b: Option<Bound<'py, PyAny>>,
    rows: Option<Side<'py>>,
    cols: Option<Side<'py>>,
    reg: f64,
    relative: bool,
    implicit: bool,
    solver: Solver,
    want_x: bool,
    want_y: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let options = AlignmentOptions { solver: options(&solver)?, reg, relative, implicit };
    if x.cast::<PyArray3<f64>>().is_ok() {
        align::<f64>(py, x, y, a, b, &rows, &cols, options, want_x, want_y)
    } else {
        align::<f32>(py, x, y, a, b, &rows, &cols, options, want_x, want_y)
    }
}

#[allow(clippy::too_many_arguments)]
fn align<'py, T: Float + Element>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    a: Option<Bound<'py, PyAny>>,
    b: Option<Bound<'py, PyAny>>,
    rows: &Option<Side<'py>>,
    cols: &Option<Side<'py>>,
    options: AlignmentOptions<'static>,
    want_x: bool,
    want_y: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let (x, y): (PyReadonlyArray3<'py, T>, PyReadonlyArray3<'py, T>) = (x.extract()?, y.extract()?);
    let (a, b) = (matrix::<T>(a)?, matrix::<T>(b)?);
    let (x, y) = (x.as_array(), y.as_array());
    let zeros =
        |wanted: bool, like: &ArrayView3<'_, T>| wanted.then(|| PyArray3::<T>::zeros(py, like.dim(), false));
    let (grad_x, grad_y) = (zeros(want_x, &x), zeros(want_y, &y));
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
        rows: Side::extent(rows),
        cols: Side::extent(cols),
    };
    let per_pair = (2 * options.solver.max_iter + 3 * x.dim().2) as f64;
    let work = (x.dim().0 * x.dim().1 * y.dim().1) as f64 * per_pair;
    let reports = enter(py, work, move |cancel| {
        let solver = Options { cancel: Some(cancel), ..options.solver };
        core::align_batch(&pairs, &AlignmentOptions { solver, ..options }, output)
    })?;
    let (value, linear, error, n_iter, converged, status) = scalars(py, &reports);
    (grad_x.clone(), grad_y.clone(), value, linear, error, n_iter, converged, status).into_pyobject(py)
}
