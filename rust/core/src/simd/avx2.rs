//! 256-bit vectors.

use std::arch::x86_64::*;

use super::vector::vector;
use super::{ROWS, Vector};

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// The lanes made one: halves, then quarters, then the last two.
macro_rules! fold_ps {
    ($x:expr, $four:ident, $one:ident) => {{
        let four = $four(_mm256_castps256_ps128($x), _mm256_extractf128_ps::<1>($x));
        let two = $four(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($one(two, _mm_movehdup_ps(two)))
    }};
}
macro_rules! fold_pd {
    ($x:expr, $two:ident, $one:ident) => {{
        let two = $two(_mm256_castpd256_pd128($x), _mm256_extractf128_pd::<1>($x));
        _mm_cvtsd_f64($one(two, _mm_unpackhi_pd(two, two)))
    }};
}

vector! {
    /// Eight `f32`.
    F32x8(__m256), f32, 8,
    _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_fmadd_ps,
    add _mm256_add_ps, sub _mm256_sub_ps, mul _mm256_mul_ps, div _mm256_div_ps, max _mm256_max_ps, min _mm256_min_ps;

    fn round(self) -> Self { F32x8(_mm256_round_ps::<NEAREST>(self.0)) }
    fn scale(self, n: Self) -> Self {
        let e = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
        F32x8(_mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e))))
    }
    fn split(self) -> (Self, Self) {
        let bits = _mm256_castps_si256(self.0);
        let exponent = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
        let fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x007f_ffff));
        let mantissa = _mm256_or_si256(fraction, _mm256_set1_epi32(0x3f80_0000));
        (F32x8(_mm256_cvtepi32_ps(exponent)), F32x8(_mm256_castsi256_ps(mantissa)))
    }
    fn keep_ge(self, x: Self, bound: Self) -> Self {
        F32x8(_mm256_and_ps(self.0, _mm256_cmp_ps::<_CMP_GE_OQ>(x.0, bound.0)))
    }
    fn smallest(self) -> f32 { fold_ps!(self.0, _mm_min_ps, _mm_min_ss) }
    fn largest(self) -> f32 { fold_ps!(self.0, _mm_max_ps, _mm_max_ss) }
    fn sum(self) -> f32 { fold_ps!(self.0, _mm_add_ps, _mm_add_ss) }
    fn sum8(r: [Self; ROWS]) -> [f32; ROWS] {
        let pair = |i: usize| _mm256_hadd_ps(r[i].0, r[i + 1].0);
        let low = _mm256_hadd_ps(pair(0), pair(2));
        let high = _mm256_hadd_ps(pair(4), pair(6));
        std::mem::transmute(_mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(low, high),
            _mm256_permute2f128_ps::<0x31>(low, high),
        ))
    }
}

vector! {
    /// Four `f64`.
    F64x4(__m256d), f64, 4,
    _mm256_set1_pd _mm256_loadu_pd _mm256_storeu_pd _mm256_fmadd_pd,
    add _mm256_add_pd, sub _mm256_sub_pd, mul _mm256_mul_pd, div _mm256_div_pd, max _mm256_max_pd, min _mm256_min_pd;

    fn round(self) -> Self { F64x4(_mm256_round_pd::<NEAREST>(self.0)) }
    fn scale(self, n: Self) -> Self {
        // The exponent fits 32 bits.
        let e = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n.0));
        let e = _mm256_add_epi64(e, _mm256_set1_epi64x(1023));
        F64x4(_mm256_mul_pd(self.0, _mm256_castsi256_pd(_mm256_slli_epi64::<52>(e))))
    }
    fn split(self) -> (Self, Self) {
        let bits = _mm256_castpd_si256(self.0);
        // There is no conversion from 64-bit integers: put the exponent into the low bits of 2⁵².
        let magic = _mm256_set1_epi64x(0x4330_0000_0000_0000);
        let biased = _mm256_castsi256_pd(_mm256_or_si256(_mm256_srli_epi64::<52>(bits), magic));
        let exponent = _mm256_sub_pd(biased, _mm256_set1_pd(4_503_599_627_370_496.0 + 1023.0));
        let fraction = _mm256_and_si256(bits, _mm256_set1_epi64x(0x000f_ffff_ffff_ffff));
        let mantissa = _mm256_or_si256(fraction, _mm256_set1_epi64x(0x3ff0_0000_0000_0000));
        (F64x4(exponent), F64x4(_mm256_castsi256_pd(mantissa)))
    }
    fn keep_ge(self, x: Self, bound: Self) -> Self {
        F64x4(_mm256_and_pd(self.0, _mm256_cmp_pd::<_CMP_GE_OQ>(x.0, bound.0)))
    }
    fn smallest(self) -> f64 { fold_pd!(self.0, _mm_min_pd, _mm_min_sd) }
    fn largest(self) -> f64 { fold_pd!(self.0, _mm_max_pd, _mm_max_sd) }
    fn sum(self) -> f64 { fold_pd!(self.0, _mm_add_pd, _mm_add_sd) }
}
