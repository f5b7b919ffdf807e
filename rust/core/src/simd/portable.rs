//! Vectors as plain arrays: the contract that the other shells are held to.

use super::{Float, ROWS, Vector};

/// `N` floats in an array.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<T, const N: usize>([T; N]);

/// What [`Vector::round`], [`Vector::pow2`] and [`Vector::split`] need of a scalar beyond arithmetic.
trait Bits: Float {
    fn fused(self, a: Self, b: Self) -> Self;
    fn nearest(self) -> Self;
    fn two_to(self) -> Self;
    fn exponent(self) -> Self;
    fn mantissa(self) -> Self;
}

impl Bits for f32 {
    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        // Adding and taking away 1.5·2²³ rounds to nearest without a library call.
        (self + 12_582_912.0) - 12_582_912.0
    }
    #[inline(always)]
    fn two_to(self) -> Self {
        f32::from_bits((((self as i32) + 127) << 23) as u32)
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        ((self.to_bits() >> 23) as i32 - 127) as f32
    }
    #[inline(always)]
    fn mantissa(self) -> Self {
        f32::from_bits(self.to_bits() & 0x007f_ffff | 0x3f80_0000)
    }
}

impl Bits for f64 {
    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        (self + 6_755_399_441_055_744.0) - 6_755_399_441_055_744.0
    }
    #[inline(always)]
    fn two_to(self) -> Self {
        f64::from_bits((((self as i64) + 1023) << 52) as u64)
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        ((self.to_bits() >> 52) as i64 - 1023) as f64
    }
    #[inline(always)]
    fn mantissa(self) -> Self {
        f64::from_bits(self.to_bits() & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000)
    }
}

impl<T: Float, const N: usize> Lanes<T, N> {
    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(T, T) -> T) -> Self {
        Lanes(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

// SAFETY: no instruction set is needed; load and store touch exactly N elements.
unsafe impl<T: Float + Bits, const N: usize> Vector for Lanes<T, N> {
    type Elem = T;
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn splat(x: T) -> Self {
        Lanes([x; N])
    }
    #[inline(always)]
    unsafe fn load(p: *const T) -> Self {
        // SAFETY: the caller gives N readable elements; arrays of T have T's alignment.
        Lanes(unsafe { p.cast::<[T; N]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut T) {
        // SAFETY: the caller gives N writable elements.
        unsafe { p.cast::<[T; N]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.zip(o, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        self.zip(o, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.zip(o, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        self.zip(o, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        self.zip(o, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        self.zip(o, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // `mul_add` without the instruction for it is a slow library call.
        if cfg!(target_arch = "aarch64") {
            return Lanes(std::array::from_fn(|i| self.0[i].fused(a.0[i], b.0[i])));
        }
        Lanes(std::array::from_fn(|i| self.0[i] * a.0[i] + b.0[i]))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Lanes(self.0.map(Bits::nearest))
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        Lanes(self.0.map(Bits::two_to))
    }
    #[inline(always)]
    unsafe fn split(self) -> (Self, Self) {
        (Lanes(self.0.map(Bits::exponent)), Lanes(self.0.map(Bits::mantissa)))
    }
    #[inline(always)]
    unsafe fn keep_ge(self, x: Self, bound: Self) -> Self {
        Lanes(std::array::from_fn(|i| if x.0[i] >= bound.0[i] { self.0[i] } else { T::ZERO }))
    }
    #[inline(always)]
    unsafe fn smallest(self) -> T {
        self.0.into_iter().fold(T::INFINITY, |x, y| if y < x { y } else { x })
    }
    #[inline(always)]
    unsafe fn largest(self) -> T {
        self.0.into_iter().fold(T::NEG_INFINITY, |x, y| if y > x { y } else { x })
    }
    #[inline(always)]
    unsafe fn sum(self) -> T {
        self.0.into_iter().sum()
    }
    #[inline(always)]
    unsafe fn sum8(rows: [Self; ROWS]) -> [T; ROWS] {
        rows.map(|r| r.0.into_iter().sum())
    }
}
