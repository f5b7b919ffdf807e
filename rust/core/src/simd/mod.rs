//! Vectors of floats, and the choice of instruction set at run time.
//!
//! Every numeric kernel of this crate is written once, generic over [`Vector`], and instantiated in
//! up to three *shells*: portable (plain arrays, vectorised by the compiler, which is also what runs
//! on NEON), AVX2+FMA and AVX-512. [`level`] picks the widest shell the machine has, once;
//! [`set_level`] narrows it for tests and comparisons. The portable shell is the contract: a shell
//! that disagrees with it on first use is dropped (see [`level`]).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod matmul;
mod peak;
mod portable;

use std::fmt::{Debug, Display};
use std::sync::atomic::{AtomicU8, Ordering};

pub use peak::multiply_adds_per_second;
pub use portable::Lanes;
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::F32x8, avx512::F32x16};

/// Rows that a kernel handles at a time; [`Vector::sum8`] reduces that many accumulators at once.
pub const ROWS: usize = 8;

/// An instruction set that a kernel can be run with, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust arrays; what the compiler makes of them.
    Portable = 1,
    /// 256-bit AVX2 with fused multiply-add.
    Avx2 = 2,
    /// 512-bit AVX-512 (F, DQ, BW, VL).
    Avx512 = 3,
}

impl Level {
    /// All levels, narrowest first.
    pub const ALL: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

    /// The name used in Python: `"portable"`, `"avx2"` or `"avx512"`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// Whether this machine can run the level.
    pub fn is_supported(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// 0 = not chosen yet.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that kernels run with.
///
/// Chosen on first use: the widest supported level whose answers on a small fixed problem agree
/// with the portable shell. Disagreement would mean a miscompiled or emulated instruction; the next
/// narrower level is taken instead, so results stay right at the price of speed.
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Portable,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let chosen = Level::ALL
                .into_iter()
                .rev()
                .find(|&level| level.is_supported() && agrees_with_portable(level))
                .unwrap_or(Level::Portable);
            LEVEL.store(chosen as u8, Ordering::Relaxed);
            chosen
        }
    }
}

/// Run kernels with `level` from now on, in the whole process. Meant for tests and benchmarks.
///
/// # Errors
/// The level's name, when this machine does not support it.
pub fn set_level(level: Level) -> Result<(), String> {
    if !level.is_supported() {
        return Err(format!("this machine has no {}", level.name()));
    }
    LEVEL.store(level as u8, Ordering::Relaxed);
    Ok(())
}

fn agrees_with_portable(level: Level) -> bool {
    let answer = crate::transport::self_check(level);
    let contract = crate::transport::self_check(Level::Portable);
    answers_agree(&answer, &contract)
}

fn answers_agree(answer: &[f32], contract: &[f32]) -> bool {
    answer.len() == contract.len()
        && answer.iter().zip(contract).all(|(x, y)| (x - y).abs() <= 1e-5 * y.abs().max(1e-3))
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Ask for the cache line at an address, which need not be one that may be read.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which cannot fault; x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same for `count` elements, to be read some time later: they need not come nearer than the second cache.
#[inline(always)]
pub(crate) fn prefetch_row<T>(at: *const T, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for k in (0..count).step_by(LINE / size_of::<T>()) {
        // SAFETY: as above.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(k).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, count);
}

/// A scalar that kernels compute with: `f32`, or `f64` where exactness matters more than speed.
pub trait Float:
    Copy
    + Send
    + Sync
    + 'static
    + Default
    + PartialOrd
    + Debug
    + Display
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::iter::Sum
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// +∞
    const INFINITY: Self;
    /// −∞
    const NEG_INFINITY: Self;
    /// The lowest finite number.
    const LOWEST: Self;
    /// Divisors are kept above this, so that 0/0 is 0.
    const TINY: Self;
    /// Linear-domain scalings outside `1/LARGE ..= LARGE` end the linear domain.
    const LARGE: Self;
    /// The largest spread of C/reg for which `exp(-C/reg)` keeps full relative precision.
    const MAX_EXPONENT: Self;
    /// The vector of the portable shell.
    type Portable: Vector<Elem = Self>;
    /// The vector of the AVX2 shell.
    #[cfg(target_arch = "x86_64")]
    type Avx2: Vector<Elem = Self>;
    /// The vector of the AVX-512 shell.
    #[cfg(target_arch = "x86_64")]
    type Avx512: Vector<Elem = Self>;

    /// From a double, rounded.
    fn of(x: f64) -> Self;
    /// To a double, exactly.
    fn double(self) -> f64;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Natural exponential.
    fn exp(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
    /// The larger one; `other` where `self` is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller one; `other` where `self` is NaN.
    fn min(self, other: Self) -> Self;
}

macro_rules! float {
    ($t:ty, $tiny:expr, $large:expr, $exponent:expr, $lanes:expr, $avx2:ty, $avx512:ty) => {
        impl Float for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const INFINITY: Self = <$t>::INFINITY;
            const NEG_INFINITY: Self = <$t>::NEG_INFINITY;
            const LOWEST: Self = <$t>::MIN;
            const TINY: Self = $tiny;
            const LARGE: Self = $large;
            const MAX_EXPONENT: Self = $exponent;
            type Portable = Lanes<$t, $lanes>;
            #[cfg(target_arch = "x86_64")]
            type Avx2 = $avx2;
            #[cfg(target_arch = "x86_64")]
            type Avx512 = $avx512;

            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn double(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                <$t>::max(self, other)
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                <$t>::min(self, other)
            }
        }
    };
}
float!(f32, 1e-37, 1e25, 80.0, 8, avx2::F32x8, avx512::F32x16);
float!(f64, 1e-300, 1e200, 600.0, 4, avx2::F64x4, avx512::F64x8);

/// A register's worth of floats.
///
/// # Safety
/// Every method needs the instruction set of the implementing type: call them only from a function
/// with the `#[target_feature]`s of the matching [`Level`]. `load` and `store` need `LANES` readable
/// or writable elements at the pointer (no alignment). Everything is `#[inline(always)]` so that it
/// melts into the shell that has the features.
#[allow(clippy::missing_safety_doc)]
pub unsafe trait Vector: Copy {
    /// The scalar.
    type Elem: Float;
    /// Scalars per vector.
    const LANES: usize;

    /// All lanes `x`.
    unsafe fn splat(x: Self::Elem) -> Self;
    /// `LANES` scalars from memory.
    unsafe fn load(p: *const Self::Elem) -> Self;
    /// `LANES` scalars to memory.
    unsafe fn store(self, p: *mut Self::Elem);
    /// Lane-wise sum.
    unsafe fn add(self, o: Self) -> Self;
    /// Lane-wise difference.
    unsafe fn sub(self, o: Self) -> Self;
    /// Lane-wise product.
    unsafe fn mul(self, o: Self) -> Self;
    /// Lane-wise quotient.
    unsafe fn div(self, o: Self) -> Self;
    /// Lane-wise maximum.
    unsafe fn max(self, o: Self) -> Self;
    /// Lane-wise minimum.
    unsafe fn min(self, o: Self) -> Self;
    /// `self · a + b`, fused where the instruction set has it.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// Nearest integer, as a float.
    unsafe fn round(self) -> Self;
    /// 2 to the power of an integral `self` inside the normal exponent range.
    unsafe fn pow2(self) -> Self;
    /// `self · 2ⁿ` for an integral `n` inside the normal exponent range.
    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        // SAFETY: the caller upholds the trait's contract.
        unsafe { self.mul(n.pow2()) }
    }
    /// Exponent and mantissa in [1, 2) of positive normal lanes, both as floats.
    unsafe fn split(self) -> (Self, Self);
    /// Lanes of `self` where `x >= bound`, 0 elsewhere (also where x is NaN).
    unsafe fn keep_ge(self, x: Self, bound: Self) -> Self;
    /// The smallest lane; NaN lanes may be passed over.
    unsafe fn smallest(self) -> Self::Elem;
    /// The largest lane; NaN lanes may be passed over.
    unsafe fn largest(self) -> Self::Elem;
    /// Sum of the lanes.
    unsafe fn sum(self) -> Self::Elem;
    /// The sums of eight vectors.
    unsafe fn sum8(rows: [Self; ROWS]) -> [Self::Elem; ROWS];

    /// Lane-wise `exp`, within 2 ulp; 0 below the normal range (`exp(-inf)` is 0), clamped above it.
    ///
    /// Cody–Waite reduction by ln 2 and a Taylor polynomial on |r| ≤ ln 2 / 2.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller upholds the trait's contract for every call below.
        unsafe {
            let f = |x: f64| Self::splat(Self::Elem::of(x));
            let (low, high, ln2_hi, ln2_lo, degree) = if size_of::<Self::Elem>() == 4 {
                (-87.0, 88.0, 0.693_359_375, -2.121_944_400_546_905_8e-4, 7)
            } else {
                (-708.0, 709.0, 0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10, 13)
            };
            let x = self.max(f(low)).min(f(high));
            let n = x.mul(f(std::f64::consts::LOG2_E)).round();
            let r = n.fma(f(-ln2_lo), n.fma(f(-ln2_hi), x));
            let mut p = f(INVERSE_FACTORIAL[degree]);
            let mut k = degree;
            while k > 0 {
                k -= 1;
                p = p.fma(r, f(INVERSE_FACTORIAL[k]));
            }
            p.scale(n).keep_ge(self, f(low))
        }
    }

    /// Lane-wise natural logarithm, within 2 ulp (float32: of every number above 0); `ln 0` is −∞.
    /// Negative lanes have no meaning.
    ///
    /// `x = 2ᵏ · y` with y around 1, and `ln y = 2 artanh s` with `s = (y − 1) / (y + 1)`.
    #[inline(always)]
    unsafe fn ln(self) -> Self {
        // SAFETY: the caller upholds the trait's contract for every call below.
        unsafe {
            let f = |x: f64| Self::splat(Self::Elem::of(x));
            let (least, normal, greatest, terms, ln2_hi, ln2_lo) = if size_of::<Self::Elem>() == 4 {
                (
                    f32::from_bits(1).into(),
                    f32::MIN_POSITIVE.into(),
                    f32::MAX.into(),
                    5,
                    0.693_359_375,
                    -2.121_944_400_546_905_8e-4,
                )
            } else {
                (
                    f64::from_bits(1),
                    f64::MIN_POSITIVE,
                    f64::MAX,
                    12,
                    0.693_147_180_369_123_8,
                    1.908_214_929_270_587_7e-10,
                )
            };
            let (zero, one, normal) = (f(0.0), f(1.0), f(normal));
            let x = self.max(f(least)).min(f(greatest));
            // Subnormal lanes are scaled up by 2⁶⁰ first.
            let plain = x.keep_ge(x, normal);
            let scaled = plain.add(x.sub(plain).mul(f(2f64.powi(60))));
            let shift = f(60.0).sub(f(60.0).keep_ge(x, normal));
            let (exponent, mantissa) = scaled.split();
            let above = one.keep_ge(mantissa, f(std::f64::consts::SQRT_2));
            let t = mantissa.sub(mantissa.mul(f(0.5)).keep_ge(above, one)).sub(one);
            let k = exponent.add(above).sub(shift);
            let s = t.div(t.add(f(2.0)));
            let square = s.mul(s);
            let mut p = f(2.0 / f64::from(2 * terms - 1));
            for i in (1..terms - 1).rev() {
                p = p.fma(square, f(2.0 / f64::from(2 * i + 1)));
            }
            // ln y = t − s·(t − s²·p): t is exact, so only the last rounding is large.
            let series = t.sub(s.mul(t.sub(square.mul(p))));
            let all = k.fma(f(ln2_hi), k.fma(f(ln2_lo), series));
            let at_zero = f(f64::NEG_INFINITY).keep_ge(zero, self);
            let at_infinity = f(f64::INFINITY).keep_ge(self, f(f64::INFINITY));
            all.add(at_zero).add(at_infinity)
        }
    }

    /// `to[j][i] = from[i][j]` for a square of `LANES` rows and columns.
    #[inline(always)]
    unsafe fn transpose(from: *const Self::Elem, from_stride: usize, to: *mut Self::Elem, to_stride: usize) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: the caller gives LANES rows of LANES elements on both sides.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }
}

const INVERSE_FACTORIAL: [f64; 14] = {
    let mut table = [1.0; 14];
    let mut k = 1;
    while k < 14 {
        table[k] = table[k - 1] / k as f64;
        k += 1;
    }
    table
};

/// Define a function that runs a kernel in the shell of a given [`Level`].
///
/// `shells! { name<T>(args) -> R = path::kernel }` expands to `unsafe fn name(level, args)`, which
/// calls `path::kernel::<V>(args)` with the vector type of the level, inside a function that has the
/// level's target features.
macro_rules! shells {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident) => {
        $(#[$doc])*
        /// # Safety
        /// As for the kernel; `level` must be supported by this machine.
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name<T: $crate::simd::Float>(level: $crate::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512<T: $crate::simd::Float>($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the features are enabled here; the rest is the kernel's contract.
                unsafe { $kernel::<T::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2<T: $crate::simd::Float>($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: as above.
                unsafe { $kernel::<T::Avx2>($($arg),*) }
            }
            // SAFETY: the caller says that the machine supports `level`, and upholds the contract.
            unsafe {
                match level {
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Level::Avx512 => avx512::<T>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Level::Avx2 => avx2::<T>($($arg),*),
                    _ => $kernel::<T::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use shells;

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    unsafe fn exp_all<V: Vector>(x: &[V::Elem], y: &mut [V::Elem]) {
        assert!(x.len() == y.len() && x.len().is_multiple_of(V::LANES));
        for i in (0..x.len()).step_by(V::LANES) {
            // SAFETY: i + LANES <= len for both slices.
            unsafe { V::load(x.as_ptr().add(i)).exp().store(y.as_mut_ptr().add(i)) }
        }
    }
    shells! { fn run_exp(x: &[T], y: &mut [T]) = exp_all }

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

    fn worst_exp(level: Level, step: usize) -> f64 {
        // SAFETY: the level is supported.
        let run = |x: &[f32], y: &mut [f32]| unsafe { run_exp(level, x, y) };
        worst_ulp(step, run, |x| (-87.0..=88.0).contains(&x).then(|| f64::from(x).exp()))
    }

    fn worst_ln(level: Level, step: usize) -> f64 {
        // SAFETY: the level is supported.
        let run = |x: &[f32], y: &mut [f32]| unsafe { run_ln(level, x, y) };
        worst_ulp(step, run, |x| (x > 0.0 && x < f32::INFINITY).then(|| f64::from(x).ln()))
    }

    #[test]
    fn exp_and_ln_are_within_two_ulp_on_a_sample_of_all_floats() {
        for level in supported() {
            let (exp, ln) = (worst_exp(level, 4093), worst_ln(level, 4093));
            assert!(exp <= 2.0 && ln <= 2.0, "{}: {exp}, {ln} ulp", level.name());
        }
    }

    #[test]
    #[ignore = "slow: every float32"]
    fn exp_and_ln_are_within_two_ulp_on_every_float() {
        for level in supported() {
            let (exp, ln) = (worst_exp(level, 1), worst_ln(level, 1));
            println!("{}: exp {exp}, ln {ln} ulp", level.name());
            assert!(exp <= 2.0 && ln <= 2.0, "{}: {exp}, {ln} ulp", level.name());
        }
    }

    #[test]
    fn exp_and_ln_at_the_ends() {
        let x = [f32::NEG_INFINITY, -1e30, -87.5, f32::INFINITY, 0.0, 0.0, 0.0, 0.0];
        let z = [0.0f32, -0.0, f32::INFINITY, 1.0, f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, 2.0];
        let (x, z) = ([x, x].concat(), [z, z].concat());
        for level in supported() {
            let (mut e, mut l) = (vec![0.0f32; 16], vec![0.0f32; 16]);
            // SAFETY: the level is supported.
            unsafe {
                run_exp(level, &x, &mut e);
                run_ln(level, &z, &mut l);
            }
            assert_eq!(&e[..3], &[0.0; 3], "{}", level.name());
            assert!(e[3] > 1e38 && e[4] == 1.0);
            assert_eq!(
                &l[..4],
                &[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, 0.0],
                "{}",
                level.name()
            );
            for k in 4..8 {
                let want = z[k].double().ln();
                assert!(
                    (l[k].double() / want - 1.0).abs() < 3e-7,
                    "{}: ln {} = {}",
                    level.name(),
                    z[k],
                    l[k]
                );
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
    fn exp_of_doubles() {
        for level in supported() {
            let x: Vec<f64> = (0..4000).map(|i| -700.0 + 0.35 * f64::from(i)).collect();
            let mut y = vec![0.0; x.len()];
            // SAFETY: the level is supported.
            unsafe { run_exp(level, &x, &mut y) };
            for (&x, &y) in x.iter().zip(&y) {
                assert!((y / x.exp() - 1.0).abs() < 1e-15, "{}: exp({x}) = {y}", level.name());
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

    #[test]
    fn a_lying_shell_is_noticed() {
        let truth = crate::transport::self_check(Level::Portable);
        let mut lie = truth.clone();
        lie[3] *= 1.001;
        assert!(answers_agree(&truth, &truth));
        assert!(!answers_agree(&lie, &truth));
        assert!(!answers_agree(&truth[1..], &truth));
    }
}
