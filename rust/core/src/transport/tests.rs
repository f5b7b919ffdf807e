use super::buffer::Buffer;
use super::*;
use crate::Error;
use crate::simd::Level;

/// A small deterministic generator; tests need variety, not quality.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn costs<T: Float>(seed: u64, batch: usize, n: usize, m: usize) -> Array3<T> {
    let mut numbers = Numbers(seed);
    Array3::from_shape_simple_fn((batch, n, m), || T::of(2.0 * numbers.next()))
}

const HARD: [f64; 2] = [f64::INFINITY; 2];

fn solve<T: Float>(batch: &Batch<'_, T>, options: &Options<'_>) -> Result<Solutions<T>> {
    batch.solve(options)
}

/// Solve with one level, without touching the process-wide choice.
fn plan_on<T: Float>(level: Level, cost: &Array3<T>, reg: f64, options: &Options<'_>) -> (Vec<f64>, Report) {
    let regs = [reg];
    let batch = Batch::new(cost.view(), &regs);
    let mut w = Workspace::default();
    w.load(&batch, options, level, 0).unwrap_or_else(|e| panic!("{e}"));
    let report = w.solve(options, level, None).unwrap_or_else(|e| panic!("{e}"));
    let plan: Vec<f64> =
        (0..w.n()).flat_map(|i| w.kernel[i * w.stride..][..w.m()].to_vec()).map(Float::double).collect();
    let mut elsewhere = Buffer::default();
    elsewhere.reset(plan.len(), T::ONE);
    let shape = (w.n(), w.m());
    let mut view = ArrayViewMut2::from_shape(shape, &mut elsewhere).unwrap_or_else(|e| panic!("{e}"));
    if options.method != Method::Ipot && w.as_kernel(&mut view).is_some() {
        w.load(&batch, options, level, 0).unwrap_or_else(|e| panic!("{e}"));
        let to = w.as_kernel(&mut view);
        assert_eq!(w.solve(options, level, to), Ok(report));
        assert!(elsewhere.iter().map(|x| x.double()).eq(plan.iter().copied()), "written past the caches");
    }
    (plan, report)
}

fn uniform(n: usize) -> Vec<f64> {
    vec![1.0 / n as f64; n]
}

/// log Σ exp(x), where the sum of nothing but −∞ is −∞.
fn log_sum_exp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = x.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    top + x.map(|v| (v - top).exp()).sum::<f64>().ln()
}

/// The contract in the plainest form: the plan after some Sinkhorn steps in double precision, in the log domain, one
/// scalar at a time. `cost` and the plan are row-major, `a.len()` × `b.len()`.
fn reference(cost: &[f64], a: &[f64], b: &[f64], reg: f64, iterations: usize) -> Vec<f64> {
    let (n, m) = (a.len(), b.len());
    let (mut f, mut g) = (vec![0.0; n], vec![0.0; m]);
    for _ in 0..iterations {
        for i in 0..n {
            let row = log_sum_exp((0..m).map(|j| (g[j] - cost[i * m + j]) / reg));
            f[i] = if a[i] > 0.0 { reg * (a[i].ln() - row) } else { f64::NEG_INFINITY };
        }
        for j in 0..m {
            let col = log_sum_exp((0..n).map(|i| (f[i] - cost[i * m + j]) / reg));
            g[j] = if b[j] > 0.0 { reg * (b[j].ln() - col) } else { f64::NEG_INFINITY };
        }
    }
    let element = |k: usize| {
        let x = f[k / m] + g[k % m] - cost[k];
        if x.is_nan() { 0.0 } else { (x / reg).exp() }
    };
    (0..n * m).map(element).collect()
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).sum()
}

#[test]
fn shells_agree_with_the_reference() {
    let shapes = [(1, 1), (1, 7), (5, 1), (3, 4), (8, 16), (17, 33), (40, 64), (9, 65), (31, 130), (70, 200)];
    for (k, (n, m)) in shapes.into_iter().enumerate() {
        for reg in [0.05, 0.3, 3.0] {
            let cost = costs::<f32>(k as u64, 1, n, m);
            let double: Vec<f64> = cost.iter().map(|x| x.double()).collect();
            let options = Options { max_iter: 60, tol: 0.0, ..Options::default() };
            let want = reference(&double, &uniform(n), &uniform(m), reg, 60);
            for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
                for method in [Method::Auto, Method::Log] {
                    let (plan, report) = plan_on(level, &cost, reg, &Options { method, ..options });
                    let off = distance(&plan, &want);
                    assert!(
                        off < 5e-5,
                        "{level:?} {method:?} {n}x{m} reg {reg}: {off} ({:?})",
                        report.status
                    );
                    assert_eq!(report.n_iter, 60);
                }
            }
        }
    }
}

#[test]
fn doubles_agree_with_the_reference_closely() {
    let cost = costs::<f64>(5, 1, 23, 37);
    let flat: Vec<f64> = cost.iter().copied().collect();
    let options = Options { max_iter: 100, tol: 0.0, ..Options::default() };
    let want = reference(&flat, &uniform(23), &uniform(37), 0.1, 100);
    for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
        let (plan, _) = plan_on(level, &cost, 0.1, &options);
        let off = distance(&plan, &want);
        assert!(off < 1e-12, "{level:?}: {off}");
    }
}

#[test]
fn small_reg_is_stabilised_and_stays_finite() {
    for reg in [1e-4, 1e-3, 1e-2] {
        let cost = costs::<f32>(9, 2, 30, 45);
        let regs = [reg];
        let options = Options { max_iter: 20_000, ..Options::default() };
        let solved = solve(&Batch::new(cost.view(), &regs), &options).unwrap_or_else(|e| panic!("{e}"));
        assert!(solved.plan.iter().all(|x| x.is_finite()));
        for r in &solved.reports {
            assert_eq!(r.status, Status::Stabilised);
            assert!(r.marginal_error < 0.05, "reg {reg}: {r:?}");
        }
    }
}

#[test]
fn stopping_is_per_problem_and_reported() {
    let mut cost = costs::<f32>(3, 3, 12, 12);
    cost.index_axis_mut(Axis(0), 1).fill(0.5);
    let regs = [0.05];
    let solved =
        solve(&Batch::new(cost.view(), &regs), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert!(solved.reports[1].n_iter <= 2);
    assert!(solved.reports[0].n_iter > 2);
    assert!(solved.reports.iter().all(|r| r.converged && r.marginal_error <= 1e-4));
    let hasty = Options { max_iter: 2, tol: 1e-6, ..Options::default() };
    let solved = solve(&Batch::new(cost.view(), &regs), &hasty).unwrap_or_else(|e| panic!("{e}"));
    assert!(!solved.reports[0].converged && solved.reports[0].n_iter == 2);
}

#[test]
fn padding_masks_and_batch_leave_results_bitwise_alone() {
    let (n, m) = (13, 21);
    let cost = costs::<f32>(17, 1, n, m);
    let regs = [0.07];
    let alone = solve(&Batch::new(cost.view(), &regs), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    // The same problem in the middle of a larger, masked one, full of NaN.
    let mut padded = Array3::from_elem((3, 40, 50), f32::NAN);
    let mut row_mask = Array2::from_elem((3, 40), false);
    let mut col_mask = Array2::from_elem((3, 50), false);
    let (at_row, at_col) = (|i: usize| 3 * i, |j: usize| 2 * j + 1);
    for i in 0..n {
        row_mask[[1, at_row(i)]] = true;
        for j in 0..m {
            col_mask[[1, at_col(j)]] = true;
            padded[[1, at_row(i), at_col(j)]] = cost[[0, i, j]];
        }
    }
    let batch = Batch {
        rows: Extent::Mask(row_mask.view()),
        cols: Extent::Mask(col_mask.view()),
        ..Batch::new(padded.view(), &regs)
    };
    let inside = solve(&batch, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(inside.reports[0].status, Status::Empty);
    assert_eq!(inside.reports[1], alone.reports[0]);
    let mut total = 0.0;
    for i in 0..n {
        assert_eq!(inside.f[[1, at_row(i)]].to_bits(), alone.f[[0, i]].to_bits());
        for j in 0..m {
            assert_eq!(inside.plan[[1, at_row(i), at_col(j)]].to_bits(), alone.plan[[0, i, j]].to_bits());
            total += alone.plan[[0, i, j]];
        }
    }
    assert!((inside.plan.sum() - total).abs() < 1e-6, "padding must be 0");
    assert!(inside.g.iter().all(|x| x.is_finite()));
}

#[test]
fn zero_mass_and_forbidden_edges() {
    let mut cost = costs::<f32>(2, 1, 4, 5);
    cost[[0, 0, 0]] = f32::INFINITY;
    cost[[0, 2, 3]] = f32::INFINITY;
    let a = ndarray::arr2(&[[0.5f32, 0.0, 0.25, 0.25]]);
    let b = ndarray::arr2(&[[0.25f32, 0.25, 0.0, 0.25, 0.25]]);
    let regs = [0.1];
    for method in [Method::Auto, Method::Log, Method::Ipot] {
        let batch = Batch { a: Some(a.view()), b: Some(b.view()), ..Batch::new(cost.view(), &regs) };
        let s = solve(&batch, &Options { method, ..Options::default() }).unwrap_or_else(|e| panic!("{e}"));
        assert!(s.reports[0].marginal_error < 1e-3, "{method:?} {:?}", s.reports[0]);
        assert_eq!(s.plan[[0, 0, 0]], 0.0);
        assert_eq!(s.plan[[0, 2, 3]], 0.0);
        assert!((0..5).all(|j| s.plan[[0, 1, j]] == 0.0) && (0..4).all(|i| s.plan[[0, i, 2]] == 0.0));
        assert!(s.reports[0].value_linear.is_finite() && s.reports[0].value.is_finite());
    }
}

#[test]
fn ipot_approaches_the_assignment() {
    // A permutation is optimal: cost 0 on it, 1 or more elsewhere.
    let n = 12;
    let mut cost = costs::<f32>(8, 1, n, n);
    for i in 0..n {
        for j in 0..n {
            cost[[0, i, j]] = if j == (5 * i + 3) % n { 0.0 } else { 1.0 + cost[[0, i, j]] };
        }
    }
    let regs = [0.5];
    let options = Options { method: Method::Ipot, max_iter: 500, tol: 1e-6, ..Options::default() };
    let s = solve(&Batch::new(cost.view(), &regs), &options).unwrap_or_else(|e| panic!("{e}"));
    assert!(s.reports[0].value_linear < 1e-5, "{:?}", s.reports[0]);
    for i in 0..n {
        assert!((s.plan[[0, i, (5 * i + 3) % n]] - 1.0 / n as f32).abs() < 1e-5);
    }
}

#[test]
fn a_warm_start_converges_at_once() {
    let cost = costs::<f32>(4, 2, 30, 30);
    let regs = [0.05];
    let cold = solve(&Batch::new(cost.view(), &regs), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let batch = Batch { start: Some(cold.g.view()), ..Batch::new(cost.view(), &regs) };
    let warm = solve(&batch, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert!(warm.reports.iter().all(|r| r.n_iter <= 2), "{:?}", warm.reports);
}

#[test]
fn bad_input_is_named() {
    let regs = [0.1];
    let try_cost = |value: f32| {
        let mut cost = costs::<f32>(1, 2, 3, 4);
        cost[[1, 2, 3]] = value;
        solve(&Batch::new(cost.view(), &regs), &Options::default()).err()
    };
    assert!(matches!(try_cost(f32::NAN), Some(Error::Cost { problem: 1, row: 2, col: 3, .. })));
    assert!(matches!(try_cost(f32::NEG_INFINITY), Some(Error::Cost { problem: 1, .. })));
    let cost = costs::<f32>(1, 1, 2, 2);
    let a = ndarray::arr2(&[[0.5f32, 0.6]]);
    let batch = Batch { a: Some(a.view()), ..Batch::new(cost.view(), &regs) };
    assert!(matches!(solve(&batch, &Options::default()).err(), Some(Error::UnequalMass { problem: 0, .. })));
    let mut blocked = cost.clone();
    blocked.fill(f32::INFINITY);
    blocked[[0, 0, 0]] = 1.0;
    blocked[[0, 1, 0]] = 1.0;
    let result = solve(&Batch::new(blocked.view(), &regs), &Options::default()).err();
    assert!(matches!(result, Some(Error::Infeasible { side: "column", index: 1, .. })), "{result:?}");
    for reg in [0.0, -1.0, f64::NAN] {
        assert!(matches!(
            solve(&Batch::new(cost.view(), &[reg]), &Options::default()).err(),
            Some(Error::Argument(_))
        ));
    }
    let flag = AtomicBool::new(true);
    let options = Options { cancel: Some(&flag), ..Options::default() };
    assert_eq!(solve(&Batch::new(cost.view(), &regs), &options).err(), Some(Error::Interrupted));
}

#[test]
fn the_implicit_gradient_is_that_of_finite_differences() {
    let (n, m, reg) = (4, 6, 0.3);
    let cost = costs::<f64>(12, 1, n, m);
    let regs = [reg];
    let options = Options { max_iter: 5000, tol: 1e-13, ..Options::default() };
    let value = |cost: &Array3<f64>| {
        solve(&Batch::new(cost.view(), &regs), &options).map_or(f64::NAN, |s| s.reports[0].value_linear)
    };
    let solved = solve(&Batch::new(cost.view(), &regs), &options).unwrap_or_else(|e| panic!("{e}"));
    let mut gradient = Array3::zeros((1, n, m));
    implicit_gradient(solved.plan.view(), cost.view(), &regs, HARD, None, gradient.view_mut())
        .unwrap_or_else(|e| panic!("{e}"));
    for i in 0..n {
        for j in 0..m {
            let h = 1e-5;
            let (mut up, mut down) = (cost.clone(), cost.clone());
            up[[0, i, j]] += h;
            down[[0, i, j]] -= h;
            let slope = (value(&up) - value(&down)) / (2.0 * h);
            assert!(
                (slope - gradient[[0, i, j]]).abs() < 1e-7,
                "({i}, {j}): {slope} {}",
                gradient[[0, i, j]]
            );
        }
        let row: f64 = (0..m).map(|j| gradient[[0, i, j]]).sum();
        assert!((row - 1.0 / n as f64).abs() < 1e-10, "rows sum to a");
    }
    let columns_first = |x: &Array3<f64>| x.view().permuted_axes([0, 2, 1]).as_standard_layout().into_owned();
    let (plan, cost) = (columns_first(&solved.plan), columns_first(&cost));
    let [plan, cost] = [plan.view(), cost.view()].map(|x| x.permuted_axes([0, 2, 1]));
    let mut again = Array3::zeros((1, n, m));
    assert_eq!(implicit_gradient(plan, cost, &regs, HARD, None, again.view_mut()), Ok(()));
    assert_eq!(again, gradient, "the order of the numbers in memory is of no importance");
}

#[test]
fn direct_and_iterative_projections_agree() {
    let (n, m) = (400, 390);
    let cost = costs::<f64>(21, 1, n, m);
    let regs = [0.2];
    let solved =
        solve(&Batch::new(cost.view(), &regs), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut all = Array3::zeros((1, n, m));
    implicit_gradient(solved.plan.view(), cost.view(), &regs, HARD, None, all.view_mut())
        .unwrap_or_else(|e| panic!("{e}"));
    // m > DIRECT above, so that was iterative; the property below is exact for the true projection.
    for i in 0..n {
        let want: f64 = (0..m).map(|j| solved.plan[[0, i, j]]).sum();
        let row: f64 = (0..m).map(|j| all[[0, i, j]]).sum();
        assert!((row - want).abs() < 1e-9);
    }
}

fn tokens(seed: u64, batch: usize, n: usize, dim: usize) -> Array3<f64> {
    let mut numbers = Numbers(seed);
    Array3::from_shape_simple_fn((batch, n, dim), || numbers.next() - 0.5)
}

#[test]
fn a_pair_without_mass_on_a_side_costs_what_the_limit_costs() {
    let (x, y) = (tokens(3, 1, 5, 8), tokens(4, 1, 6, 8));
    for relative in [false, true] {
        let solver = Options { reg_m: [2.0; 2], max_iter: 20_000, tol: 1e-12, ..Options::default() };
        let options = AlignmentOptions { solver, reg: 0.1, relative, implicit: false };
        let value = |mass: f64| {
            let (a, b) = (Array2::from_elem((1, 5), mass), Array2::from_elem((1, 6), 1.0 / 6.0));
            let pairs = Alignment {
                x: x.view(),
                y: y.view(),
                a: Some(a.view()),
                b: Some(b.view()),
                rows: Extent::All,
                cols: Extent::All,
            };
            let output = AlignmentOutput { grad_x: None, grad_y: None };
            align_batch(&pairs, &options, output).unwrap_or_else(|e| panic!("{e}"))[0].value
        };
        let (none, least) = (value(0.0), value(1e-12));
        assert!((none - least).abs() < 1e-4, "{relative}: {none}, {least}");
    }
}

#[test]
fn alignment_gradients_are_those_of_finite_differences() {
    let (x, y) = (tokens(1, 2, 5, 7), tokens(2, 2, 4, 7));
    let lengths = [5, 3];
    for relative in [false, true] {
        let options = AlignmentOptions {
            solver: Options { max_iter: 20_000, tol: 1e-12, ..Options::default() },
            reg: 0.3,
            relative,
            implicit: !relative,
        };
        let run = |x: &Array3<f64>, y: &Array3<f64>| {
            let pairs = Alignment {
                x: x.view(),
                y: y.view(),
                a: None,
                b: None,
                rows: Extent::Lengths(&lengths),
                cols: Extent::All,
            };
            let (mut gx, mut gy) = (Array3::ones(x.dim()), Array3::ones(y.dim()));
            let output = AlignmentOutput { grad_x: Some(gx.view_mut()), grad_y: Some(gy.view_mut()) };
            let reports = align_batch(&pairs, &options, output).unwrap_or_else(|e| panic!("{e}"));
            (reports, gx, gy)
        };
        let (reports, gx, gy) = run(&x, &y);
        assert!(gx.index_axis(Axis(0), 1).row(4).iter().all(|g| *g == 0.0), "padding has no gradient");
        assert!(reports.iter().all(|r| r.value_linear > 0.0));
        if relative {
            // The envelope gradient is not that of value_linear; it must still be tangential.
            for (g, t) in gx.outer_iter().zip(x.outer_iter()) {
                for (g, t) in g.outer_iter().zip(t.outer_iter()) {
                    assert!(g.dot(&t).abs() < 1e-12);
                }
            }
            continue;
        }
        let h = 1e-5;
        let total =
            |x: &Array3<f64>, y: &Array3<f64>| run(x, y).0.iter().map(|r| r.value_linear).sum::<f64>();
        for at in [[0, 0, 0], [0, 4, 6], [1, 2, 3]] {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[at] += h;
            down[at] -= h;
            let slope = (total(&up, &y) - total(&down, &y)) / (2.0 * h);
            assert!((slope - gx[at]).abs() < 1e-6, "x {at:?}: {slope} {}", gx[at]);
        }
        for at in [[0, 0, 0], [1, 3, 6]] {
            let (mut up, mut down) = (y.clone(), y.clone());
            up[at] += h;
            down[at] -= h;
            let slope = (total(&x, &up) - total(&x, &down)) / (2.0 * h);
            assert!((slope - gy[at]).abs() < 1e-6, "y {at:?}: {slope} {}", gy[at]);
        }
    }
}

#[test]
fn large_problems_are_cut_into_blocks_without_a_difference() {
    // Larger than one block; the last one is short.
    let (n, m) = (300, 270);
    let cost = costs::<f32>(31, 1, n, m);
    let double: Vec<f64> = cost.iter().map(|x| x.double()).collect();
    let options = Options { max_iter: 30, tol: 0.0, ..Options::default() };
    let regs = [0.1];
    let want = reference(&double, &uniform(n), &uniform(m), 0.1, 30);
    for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
        let mut plans = vec![];
        for parallel in [false, true] {
            let mut w = Workspace::new(parallel);
            w.load(&Batch::new(cost.view(), &regs), &options, level, 0).unwrap_or_else(|e| panic!("{e}"));
            assert!(w.block() < n);
            let report = w.solve(&options, level, None).unwrap_or_else(|e| panic!("{e}"));
            let plan: Vec<f64> =
                (0..n).flat_map(|i| w.kernel[i * w.stride..][..m].to_vec()).map(Float::double).collect();
            assert!(distance(&plan, &want) < 5e-5, "{level:?}");
            plans.push((plan, report.value, report.marginal_error));
        }
        assert_eq!(plans[0], plans[1], "{level:?}: sharing a problem must not change a bit");
    }
}

#[test]
fn acceleration_finds_the_same_plan_sooner() {
    let cost = costs::<f64>(33, 4, 40, 50);
    for reg in [0.05, 0.005] {
        let regs = [reg];
        let run = |accelerate| {
            let options = Options { accelerate, tol: 1e-9, max_iter: 200_000, ..Options::default() };
            solve(&Batch::new(cost.view(), &regs), &options).unwrap_or_else(|e| panic!("{e}"))
        };
        let (plain, fast) = (run(false), run(true));
        let total = |s: &Solutions<f64>| s.reports.iter().map(|r| r.n_iter).sum::<usize>();
        assert!(fast.reports.iter().all(|r| r.converged));
        assert!(total(&fast) < total(&plain), "reg {reg}: {} and {}", total(&fast), total(&plain));
        let off = (&fast.plan - &plain.plan).mapv(f64::abs).sum();
        assert!(off < 1e-5, "reg {reg}: {off}");
    }
}

#[test]
fn exactly_as_many_plain_iterations_as_asked_for_without_a_tolerance() {
    let cost = costs::<f64>(34, 1, 20, 20);
    let flat: Vec<f64> = cost.iter().copied().collect();
    let want = reference(&flat, &uniform(20), &uniform(20), 0.02, 300);
    let options = Options { tol: 0.0, max_iter: 300, ..Options::default() };
    let (plan, report) = plan_on(simd::level(), &cost, 0.02, &options);
    assert_eq!(report.n_iter, 300);
    assert!(distance(&plan, &want) < 1e-10);
}

#[test]
fn relaxed_marginals_meet_their_optimality_condition() {
    let cost = costs::<f64>(35, 2, 9, 14);
    let regs = [0.1];
    let a = Array2::from_elem((2, 9), 0.3);
    for reg_m in [[0.2, 3.0], [f64::INFINITY, 0.5], [1.0, f64::INFINITY]] {
        for method in [Method::Auto, Method::Log] {
            let options = Options { reg_m, method, tol: 1e-11, max_iter: 20_000, ..Options::default() };
            let batch = Batch { a: Some(a.view()), ..Batch::new(cost.view(), &regs) };
            let s = solve(&batch, &options).unwrap_or_else(|e| panic!("{e}"));
            for k in 0..2 {
                assert!(s.reports[k].converged, "{reg_m:?} {method:?} {:?}", s.reports[k]);
                for i in 0..9 {
                    let sum: f64 = (0..14).map(|j| s.plan[[k, i, j]]).sum();
                    let want = 0.3 * (-s.f[[k, i]] / reg_m[0]).exp();
                    assert!((sum - want).abs() < 1e-9);
                }
            }
        }
    }
    let bad = Options { reg_m: [0.0, 1.0], ..Options::default() };
    assert!(matches!(solve(&Batch::new(cost.view(), &regs), &bad).err(), Some(Error::Argument(_))));
}

#[test]
fn huge_costs_and_small_reg() {
    for scale in [1.0f32, 1e3, 1e6] {
        for reg in [1e-4, 1e-2, 1.0, 10.0] {
            let cost = costs::<f32>(36, 2, 13, 17).mapv(|c| c * scale);
            let regs = [reg * f64::from(scale)];
            let options = Options { max_iter: 3000, ..Options::default() };
            let s = solve(&Batch::new(cost.view(), &regs), &options).unwrap_or_else(|e| panic!("{e}"));
            assert!(s.plan.iter().chain(&s.f).chain(&s.g).all(|x| x.is_finite()));
            assert!(s.reports.iter().all(|r| r.marginal_error < 0.01), "{scale} {reg} {:?}", s.reports);
        }
        // Costs that dwarf reg: there is hardly a plan in float32, but there must be numbers.
        let cost = costs::<f32>(37, 2, 13, 17).mapv(|c| c * scale);
        let s =
            solve(&Batch::new(cost.view(), &[1e-4]), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert!(s.plan.iter().all(|x| x.is_finite() && *x >= 0.0));
        assert!(s.reports.iter().all(|r| r.value.is_finite() && r.marginal_error.is_finite()));
    }
}

#[test]
fn plans_written_past_the_caches_are_the_same() {
    streamed::<f32>();
    streamed::<f64>();
}

fn streamed<T: Float>() {
    // Rows that fill no last group, and enough problems for the batch to be large.
    let (n, m) = (60, 64);
    let count = STREAMED / (n * m * size_of::<T>()) + 1;
    let few = costs::<T>(41, 3, n, m);
    let many = Array3::from_shape_fn((count, n, m), |(k, i, j)| few[[k % 3, i, j]]);
    let options = Options { max_iter: 20, tol: 0.0, ..Options::default() };
    let solved = |cost: &Array3<T>| {
        solve(&Batch::new(cost.view(), &[0.1]), &options).unwrap_or_else(|e| panic!("{e}"))
    };
    let (one_by_one, at_once) = (solved(&few), solved(&many));
    for (k, plan) in at_once.plan.outer_iter().enumerate() {
        assert_eq!(plan, one_by_one.plan.index_axis(Axis(0), k % 3), "problem {k}");
        assert_eq!(at_once.reports[k], one_by_one.reports[k % 3], "problem {k}");
    }
}
