//! Vectors of floats, with 2ˣ and `ln` made of what every one of them has.

use super::{Float, ROWS};

/// Vectors are of this crate alone: kernels rely on what they are.
pub(super) mod sealed {
    pub trait Vector {}
}

/// A register's worth of floats.
///
/// # Safety
/// Every method needs the instruction set of the implementing type: call them only from a function
/// with the `#[target_feature]`s of the matching [`super::Level`](super::Level). `load` and `store` need `LANES` readable
/// or writable elements at the pointer (no alignment). Everything is `#[inline(always)]` so that it
/// melts into the shell that has the features.
#[allow(clippy::missing_safety_doc)]
pub unsafe trait Vector: sealed::Vector + Copy {
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
    /// As `store`, but past the caches where the instruction set can: for what is not read again soon. The address is a
    /// multiple of 16, and [`settle`](super::settle) comes before another thread reads it.
    unsafe fn stream(self, p: *mut Self::Elem);
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
    /// `self · 2ⁿ` for an integral `n` inside the normal exponent range.
    unsafe fn scale(self, n: Self) -> Self;
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
    #[inline(always)]
    unsafe fn sum8(rows: [Self; ROWS]) -> [Self::Elem; ROWS] {
        // SAFETY: the caller upholds the trait's contract.
        rows.map(|x| unsafe { x.sum() })
    }

    /// Lane-wise 2ˣ, within 2 ulp; 0 below the normal range (`exp2(-inf)` is 0), clamped above it.
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: by the trait's contract.
        let [result] = unsafe { Self::exp2s([self]) };
        result
    }

    /// [`exp2`](Vector::exp2) of several vectors, step by step for all of them: each step waits for the one before,
    /// and one vector alone would leave the processor idle.
    ///
    /// Taylor's polynomial of 2ʳ on |r| ≤ ½, where r = x less the nearest integer is exact.
    #[inline(always)]
    unsafe fn exp2s<const N: usize>(given: [Self; N]) -> [Self; N] {
        // SAFETY: the caller upholds the trait's contract for every call below.
        unsafe {
            let f = |x: f64| Self::splat(Self::Elem::of(x));
            let (low, high, degree) =
                if size_of::<Self::Elem>() == 4 { (-126.0, 127.0, 7) } else { (-1022.0, 1023.0, 13) };
            let (mut n, mut r, mut p) = (given, given, [f(TAYLOR[degree]); N]);
            for i in 0..N {
                let x = given[i].max(f(low)).min(f(high));
                n[i] = x.round();
                r[i] = x.sub(n[i]);
            }
            for k in (0..degree).rev() {
                for i in 0..N {
                    p[i] = p[i].fma(r[i], f(TAYLOR[k]));
                }
            }
            for i in 0..N {
                p[i] = p[i].scale(n[i]).keep_ge(given[i], f(low));
            }
            p
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

/// Taylor's coefficients of 2ˣ: (ln 2)ᵏ / k!
const TAYLOR: [f64; 14] = {
    let mut table = [1.0; 14];
    let mut k = 1;
    while k < 14 {
        table[k] = table[k - 1] * std::f64::consts::LN_2 / k as f64;
        k += 1;
    }
    table
};

/// A vector of one register: what every register does alike, and the rest as given.
#[cfg(target_arch = "x86_64")]
macro_rules! vector {
    ($(#[$doc:meta])* $name:ident($register:ty), $elem:ty, $lanes:literal,
     $splat:ident $load:ident $store:ident $fma:ident,
     $($method:ident $intrinsic:ident),*;
     $($(#[$note:meta])* fn $other:ident($($argument:tt)*) $(-> $result:ty)? $body:block)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(transparent)]
        pub struct $name($register);

        impl super::vector::sealed::Vector for $name {}

        // SAFETY: every method needs the features of the register's instruction set, which the trait asks of
        // its callers; memory is read and written for whole registers, as the trait says. An array of as many
        // numbers as a register has its size, and no bits are invalid in either.
        unsafe impl Vector for $name {
            type Elem = $elem;
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(x: $elem) -> Self {
                // SAFETY: by the trait's contract; so below.
                unsafe { $name($splat(x)) }
            }
            #[inline(always)]
            unsafe fn load(p: *const $elem) -> Self {
                // SAFETY: as above.
                unsafe { $name($load(p)) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $elem) {
                // SAFETY: as above.
                unsafe { $store(p, self.0) }
            }
            #[inline(always)]
            unsafe fn stream(self, p: *mut $elem) {
                debug_assert!(p.cast::<__m128>().is_aligned());
                let parts = (&raw const self).cast::<__m128>();
                for k in 0..size_of::<Self>() / size_of::<__m128>() {
                    // SAFETY: as above: a register is as many parts. (`_mm_stream_ps` is encoded without AVX, and some
                    // processors wait when they change between the two.)
                    unsafe {
                        std::arch::asm!(
                            "vmovntps xmmword ptr [{to}], {part}",
                            to = in(reg) p.cast::<__m128>().add(k),
                            part = in(xmm_reg) parts.add(k).read_unaligned(),
                            options(nostack, preserves_flags)
                        );
                    }
                }
            }
            #[inline(always)]
            unsafe fn fma(self, a: Self, b: Self) -> Self {
                // SAFETY: as above.
                unsafe { $name($fma(self.0, a.0, b.0)) }
            }
            $(
                #[inline(always)]
                unsafe fn $method(self, o: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $name($intrinsic(self.0, o.0)) }
                }
            )*
            $(
                $(#[$note])*
                #[inline(always)]
                unsafe fn $other($($argument)*) $(-> $result)? {
                    // SAFETY: as above.
                    unsafe { $body }
                }
            )*
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use vector;
