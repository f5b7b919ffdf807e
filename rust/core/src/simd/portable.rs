//! Vectors as plain arrays: the contract that the other shells are held to.

use std::array::from_fn;

use super::{Float, Vector};

/// `N` floats in an array.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<T, const N: usize>([T; N]);

/// What [`Vector::round`], [`Vector::scale`] and [`Vector::split`] need of a scalar beyond arithmetic.
trait Bits: Float {
    fn fused(self, a: Self, b: Self) -> Self;
    fn nearest(self) -> Self;
    fn two_to(self) -> Self;
    fn split(self) -> (Self, Self);
}

macro_rules! bits {
    ($float:ident, $signed:ty, $bits:ty, $fraction:literal, $bias:literal) => {
        impl Bits for $float {
            #[inline(always)]
            fn fused(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            #[inline(always)]
            fn nearest(self) -> Self {
                // Adding and taking away 1.5 times the last bit's reach rounds to nearest without a library call.
                const FAR: $float = 1.5 * (1u64 << $fraction) as $float;
                (self + FAR) - FAR
            }
            #[inline(always)]
            fn two_to(self) -> Self {
                <$float>::from_bits((((self as $signed) + $bias) << $fraction) as $bits)
            }
            #[inline(always)]
            fn split(self) -> (Self, Self) {
                const ONE: $bits = $bias << $fraction;
                let fraction = self.to_bits() & ((1 << $fraction) - 1);
                let exponent = (self.to_bits() >> $fraction) as $signed - $bias;
                (exponent as $float, <$float>::from_bits(fraction | ONE))
            }
        }
    };
}
bits!(f32, i32, u32, 23, 127);
bits!(f64, i64, u64, 52, 1023);

macro_rules! lane_by_lane {
    ($($method:ident |$x:ident, $y:ident| $result:expr),*) => {$(
        #[inline(always)]
        unsafe fn $method(self, o: Self) -> Self {
            Lanes(from_fn(|i| {
                let ($x, $y) = (self.0[i], o.0[i]);
                $result
            }))
        }
    )*};
}

impl<T: Float, const N: usize> super::vector::sealed::Vector for Lanes<T, N> {}

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
    unsafe fn stream(self, p: *mut T) {
        // SAFETY: as above.
        unsafe { self.store(p) }
    }
    lane_by_lane! {
        add |x, y| x + y, sub |x, y| x - y, mul |x, y| x * y, div |x, y| x / y,
        max |x, y| if x > y { x } else { y }, min |x, y| if x < y { x } else { y }, scale |x, n| x * n.two_to()
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // `mul_add` without the instruction for it is a slow library call.
        if cfg!(target_arch = "aarch64") {
            return Lanes(from_fn(|i| self.0[i].fused(a.0[i], b.0[i])));
        }
        Lanes(from_fn(|i| self.0[i] * a.0[i] + b.0[i]))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Lanes(self.0.map(Bits::nearest))
    }
    #[inline(always)]
    unsafe fn split(self) -> (Self, Self) {
        let parts = self.0.map(Bits::split);
        (Lanes(parts.map(|(exponent, _)| exponent)), Lanes(parts.map(|(_, mantissa)| mantissa)))
    }
    #[inline(always)]
    unsafe fn keep_ge(self, x: Self, bound: Self) -> Self {
        Lanes(from_fn(|i| if x.0[i] >= bound.0[i] { self.0[i] } else { T::ZERO }))
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
}
