//! The numbers that kernels compute with.

use std::fmt::{Debug, Display};

use super::{Lanes, Vector};

/// A scalar that kernels compute with: `f32`, or `f64` where exactness matters more than speed.
pub trait Float:
    sealed::Float
    + Copy
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

mod sealed {
    /// Implemented in this crate alone: kernels rely on what its numbers are.
    pub trait Float {}
    impl Float for f32 {}
    impl Float for f64 {}
}

macro_rules! as_std {
    ($t:ty, $($method:ident($($other:ident)?) -> $result:ty),*) => {$(
        #[inline(always)]
        fn $method(self $(, $other: Self)?) -> $result {
            <$t>::$method(self $(, $other)?)
        }
    )*};
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
            as_std! {
                $t, ln() -> Self, exp() -> Self, abs() -> Self, sqrt() -> Self, is_finite() -> bool,
                max(other) -> Self, min(other) -> Self
            }
        }
    };
}
float!(f32, 1e-37, 1e25, 80.0, 8, super::avx2::F32x8, super::avx512::F32x16);
float!(f64, 1e-300, 1e200, 600.0, 4, super::avx2::F64x4, super::avx512::F64x8);
