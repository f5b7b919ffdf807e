use super::*;

#[inline(always)]
unsafe fn exp2_all<V: Vector>(x: &[V::Elem], y: &mut [V::Elem]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(V::LANES));
    for i in (0..x.len()).step_by(V::LANES) {
        // SAFETY: i + LANES <= len for both slices.
        unsafe { V::load(x.as_ptr().add(i)).exp2().store(y.as_mut_ptr().add(i)) }
    }
}
shells! { fn run_exp2(x: &[T], y: &mut [T]) = exp2_all }

#[inline(always)]
unsafe fn ln_all<V: Vector>(x: &[V::Elem], y: &mut [V::Elem]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(V::LANES));
    for i in (0..x.len()).step_by(V::LANES) {
        // SAFETY: i + LANES <= len for both slices.
        unsafe { V::load(x.as_ptr().add(i)).ln().store(y.as_mut_ptr().add(i)) }
    }
}
shells! { fn run_ln(x: &[T], y: &mut [T]) = ln_all }

#[inline(always)]
unsafe fn transpose_once<V: Vector>(from: &[V::Elem], to: &mut [V::Elem]) -> usize {
    assert!(from.len() >= 16 * 20 && to.len() >= 16 * 24);
    // SAFETY: room for sixteen rows of stride 20 and 24, and no vector is longer.
    unsafe { V::transpose(from.as_ptr(), 20, to.as_mut_ptr(), 24) };
    V::LANES
}
shells! { fn run_transpose(from: &[T], to: &mut [T]) -> usize = transpose_once }

#[inline(always)]
unsafe fn sum_rows<V: Vector>(x: &[V::Elem]) -> [V::Elem; ROWS] {
    assert!(x.len() >= ROWS * 16);
    // SAFETY: every load stays below ROWS * 16 elements.
    unsafe { V::sum8(std::array::from_fn(|r| V::load(x.as_ptr().add(16 * r)))) }
}
shells! { fn run_sum8(x: &[T]) -> [T; ROWS] = sum_rows }

fn supported() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|l| l.is_supported())
}

/// The worst error, in units of the exact result's last place, over every `step`-th float that
/// `exact` has an answer for.
fn worst_ulp(step: usize, run: impl Fn(&[f32], &mut [f32]), exact: impl Fn(f32) -> Option<f64>) -> f64 {
    let mut worst = 0.0f64;
    let bits: Vec<u32> = (0..=u32::MAX).step_by(step).collect();
    for chunk in bits.chunks(4096) {
        let mut x: Vec<f32> = chunk.iter().map(|&b| f32::from_bits(b)).collect();
        x.resize(x.len().next_multiple_of(16), 1.0);
        let mut y = vec![0.0f32; x.len()];
        run(&x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let Some(exact) = exact(x) else { continue };
            let nearest = (exact as f32).abs();
            let spacing = f64::from(nearest.next_up()) - f64::from(nearest);
            worst = worst.max((f64::from(y) - exact).abs() / spacing);
        }
    }
    worst
}

fn worst_exp2(level: Level, step: usize) -> f64 {
    // SAFETY: the level is supported.
    let run = |x: &[f32], y: &mut [f32]| unsafe { run_exp2(level, x, y) };
    worst_ulp(step, run, |x| (-126.0..=127.0).contains(&x).then(|| f64::from(x).exp2()))
}

fn worst_ln(level: Level, step: usize) -> f64 {
    // SAFETY: the level is supported.
    let run = |x: &[f32], y: &mut [f32]| unsafe { run_ln(level, x, y) };
    worst_ulp(step, run, |x| (x > 0.0 && x < f32::INFINITY).then(|| f64::from(x).ln()))
}

#[test]
fn exp2_and_ln_are_within_two_ulp_on_a_sample_of_all_floats() {
    for level in supported() {
        let (exp2, ln) = (worst_exp2(level, 4093), worst_ln(level, 4093));
        assert!(exp2 <= 2.0 && ln <= 2.0, "{}: {exp2}, {ln} ulp", level.name());
    }
}

#[test]
#[ignore = "slow: every float32"]
fn exp2_and_ln_are_within_two_ulp_on_every_float() {
    for level in supported() {
        let (exp2, ln) = (worst_exp2(level, 1), worst_ln(level, 1));
        println!("{}: 2^x {exp2}, ln {ln} ulp", level.name());
        assert!(exp2 <= 2.0 && ln <= 2.0, "{}: {exp2}, {ln} ulp", level.name());
    }
}

#[test]
fn exp2_and_ln_at_the_ends() {
    let x = [f32::NEG_INFINITY, -1e30, -126.5, f32::INFINITY, 0.0, 0.0, 0.0, 0.0];
    let z = [0.0f32, -0.0, f32::INFINITY, 1.0, f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, 2.0];
    let (x, z) = ([x, x].concat(), [z, z].concat());
    for level in supported() {
        let (mut e, mut l) = (vec![0.0f32; 16], vec![0.0f32; 16]);
        // SAFETY: the level is supported.
        unsafe {
            run_exp2(level, &x, &mut e);
            run_ln(level, &z, &mut l);
        }
        assert_eq!(&e[..3], &[0.0; 3], "{}", level.name());
        assert!(e[3] > 1e38 && e[4] == 1.0);
        assert_eq!(&l[..4], &[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, 0.0], "{}", level.name());
        for k in 4..8 {
            let want = z[k].double().ln();
            assert!((l[k].double() / want - 1.0).abs() < 3e-7, "{}: ln {} = {}", level.name(), z[k], l[k]);
        }
    }
}

#[test]
fn ln_of_doubles() {
    for level in supported() {
        let mut x: Vec<f64> = (0..4000).map(|i| (-700.0 + 0.35 * f64::from(i)).exp()).collect();
        x.extend((0..800).map(|i| 1.0 + 1e-3 * f64::from(i - 400)));
        let mut y = vec![0.0; x.len()];
        // SAFETY: the level is supported.
        unsafe { run_ln(level, &x, &mut y) };
        for (&x, &y) in x.iter().zip(&y) {
            assert!((y - x.ln()).abs() <= 1e-15 * x.ln().abs(), "{}: ln({x}) = {y}", level.name());
        }
    }
}

#[test]
fn transpose_turns_rows_into_columns() {
    let from: Vec<f32> = (0..20 * 16).map(|i| i as f32).collect();
    for level in supported() {
        let mut to = vec![-1.0f32; 16 * 24];
        // SAFETY: sixteen rows of sixteen on both sides, and the level is supported.
        let lanes = unsafe { run_transpose(level, &from, &mut to) };
        for i in 0..lanes {
            for j in 0..lanes {
                assert_eq!(to[j * 24 + i], from[i * 20 + j], "{} ({i}, {j})", level.name());
            }
        }
        assert_eq!(to.iter().filter(|x| **x < 0.0).count(), to.len() - lanes * lanes);
    }
}

#[test]
fn exp2_of_doubles() {
    for level in supported() {
        let x: Vec<f64> = (0..4000).map(|i| -1000.0 + 0.49 * f64::from(i)).collect();
        let mut y = vec![0.0; x.len()];
        // SAFETY: the level is supported.
        unsafe { run_exp2(level, &x, &mut y) };
        for (&x, &y) in x.iter().zip(&y) {
            assert!((y / x.exp2() - 1.0).abs() < 1e-15, "{}: 2^{x} = {y}", level.name());
        }
    }
}

#[test]
fn sum8_sums_each_row() {
    let x: Vec<f32> = (0..ROWS * 16).map(|i| (i * i % 97) as f32).collect();
    for level in supported() {
        let lanes = match level {
            Level::Portable => <f32 as Float>::Portable::LANES,
            Level::Avx2 => 8,
            Level::Avx512 => 16,
        };
        // SAFETY: the level is supported.
        let got = unsafe { run_sum8(level, &x) };
        let want: [f32; ROWS] = std::array::from_fn(|r| x[16 * r..16 * r + lanes].iter().sum());
        assert_eq!(got, want, "{}", level.name());
    }
}
