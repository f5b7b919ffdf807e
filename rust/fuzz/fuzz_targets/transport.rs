//! Whatever the costs, marginals and options: plans are finite and keep off forbidden edges, and what is called
//! converged is within its tolerance and moves the mass that it must.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ndarray::{Array2, Array3};
use optical_core::Error;
use optical_core::simd::Float;
use optical_core::transport::{Batch, Method, Options, Status};

#[derive(Arbitrary, Debug)]
struct Input {
    n: u8,
    m: u8,
    costs: Vec<i16>,
    scale: u8,
    offset: i16,
    rows: Vec<u8>,
    cols: Vec<u8>,
    reg: u8,
    method: u8,
    reg_m: [Option<u8>; 2],
    max_iter: u8,
    tol: u8,
    accelerate: bool,
    double: bool,
}

fn check<T: Float>(input: &Input) {
    let (n, m) = (usize::from(input.n % 20) + 1, usize::from(input.m % 20) + 1);
    let power = |x: u8| 10f64.powi(i32::from(x % 7) - 3);
    let scale = power(input.scale);
    let cost = Array3::from_shape_fn((1, n, m), |(_, i, j)| {
        match input.costs.get((i * m + j) % input.costs.len().max(1)) {
            Some(&i16::MAX) => T::INFINITY,
            Some(&x) => T::of((f64::from(x) / 4096.0 + f64::from(input.offset)) * scale),
            None => T::ZERO,
        }
    });
    let side = |of: &[u8], len: usize| {
        let mass = |k: usize| f64::from(of.get(k % of.len().max(1)).copied().unwrap_or(1));
        let total: f64 = (0..len).map(mass).sum();
        Array2::from_shape_fn((1, len), |(_, k)| T::of(if total > 0.0 { mass(k) / total } else { 0.0 }))
    };
    let (a, b) = (side(&input.rows, n), side(&input.cols, m));
    let method = Method::ALL[usize::from(input.method) % Method::ALL.len()];
    let soft = |side: Option<u8>| match (side, method) {
        (Some(x), Method::Auto | Method::Log) => power(x) * scale,
        _ => f64::INFINITY,
    };
    let options = Options {
        method,
        max_iter: usize::from(input.max_iter),
        tol: [0.0, 1e-2, 1e-3, 1e-6][usize::from(input.tol) % 4],
        reg_m: input.reg_m.map(soft),
        accelerate: input.accelerate,
        cancel: None,
    };
    let reg = [power(input.reg) * scale];
    let batch = Batch { a: Some(a.view()), b: Some(b.view()), ..Batch::new(cost.view(), &reg) };
    let solved = match batch.solve(&options) {
        Ok(solved) => solved,
        Err(Error::Infeasible { .. } | Error::UnequalMass { .. } | Error::Overflow { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    let report = solved.reports[0];
    assert!(solved.plan.iter().all(|x| x.is_finite() && *x >= T::ZERO), "{report:?}");
    for ((at, x), c) in solved.plan.indexed_iter().zip(&cost) {
        assert!(c.is_finite() || *x == T::ZERO, "{at:?}: mass on a forbidden edge");
    }
    assert!(report.n_iter <= options.max_iter);
    if report.n_iter == 0 {
        // Nothing has been solved: potentials may be as far off as the costs are.
        return;
    }
    let numbers = [report.value, report.value_linear, report.marginal_error, report.duality_gap];
    assert!(numbers.iter().all(|x| x.is_finite()), "{report:?}");
    assert_eq!(report.converged, report.marginal_error <= options.tol || report.status == Status::Empty);
    let hard = options.reg_m.iter().all(|rho| rho.is_infinite());
    if hard && report.converged && options.tol > 0.0 {
        let moved: f64 = solved.plan.iter().map(|x| x.double()).sum();
        assert!((moved - 1.0).abs() <= 2.0 * options.tol, "{moved} {report:?}");
    }
}

fuzz_target!(|input: Input| if input.double { check::<f64>(&input) } else { check::<f32>(&input) });
