//! 256-bit vectors.

use std::arch::x86_64::*;

use super::vector::vector;
use super::{ROWS, Vector};

vector! {
    /// Eight `f32`.
    F32x8(__m256), f32, 8,
    _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_fmadd_ps,
    add _mm256_add_ps, sub _mm256_sub_ps, mul _mm256_mul_ps, div _mm256_div_ps, max _mm256_max_ps, min _mm256_min_ps;

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as above.
        unsafe { F32x8(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let e = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            F32x8(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(e)))
        }
    }
    #[inline(always)]
    unsafe fn split(self) -> (Self, Self) {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let exponent = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
            let fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x007f_ffff));
            let mantissa = _mm256_or_si256(fraction, _mm256_set1_epi32(0x3f80_0000));
            (F32x8(_mm256_cvtepi32_ps(exponent)), F32x8(_mm256_castsi256_ps(mantissa)))
        }
    }
    #[inline(always)]
    unsafe fn keep_ge(self, x: Self, bound: Self) -> Self {
        // SAFETY: as above.
        unsafe { F32x8(_mm256_and_ps(self.0, _mm256_cmp_ps::<_CMP_GE_OQ>(x.0, bound.0))) }
    }
    #[inline(always)]
    unsafe fn smallest(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = _mm_min_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn sum8(r: [Self; ROWS]) -> [f32; ROWS] {
        // SAFETY: as above; __m256 and [f32; 8] have the same size and no invalid bits.
        unsafe {
            let pair = |i: usize| _mm256_hadd_ps(r[i].0, r[i + 1].0);
            let low = _mm256_hadd_ps(pair(0), pair(2));
            let high = _mm256_hadd_ps(pair(4), pair(6));
            std::mem::transmute(_mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            ))
        }
    }
}

vector! {
    /// Four `f64`.
    F64x4(__m256d), f64, 4,
    _mm256_set1_pd _mm256_loadu_pd _mm256_storeu_pd _mm256_fmadd_pd,
    add _mm256_add_pd, sub _mm256_sub_pd, mul _mm256_mul_pd, div _mm256_div_pd, max _mm256_max_pd, min _mm256_min_pd;

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as above.
        unsafe { F64x4(_mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: as above; the exponent fits 32 bits.
        unsafe {
            let e = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(self.0));
            let e = _mm256_add_epi64(e, _mm256_set1_epi64x(1023));
            F64x4(_mm256_castsi256_pd(_mm256_slli_epi64::<52>(e)))
        }
    }
    #[inline(always)]
    unsafe fn split(self) -> (Self, Self) {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castpd_si256(self.0);
            // There is no conversion from 64-bit integers: put the exponent into the low bits of 2⁵².
            let magic = _mm256_set1_epi64x(0x4330_0000_0000_0000);
            let biased = _mm256_castsi256_pd(_mm256_or_si256(_mm256_srli_epi64::<52>(bits), magic));
            let exponent = _mm256_sub_pd(biased, _mm256_set1_pd(4_503_599_627_370_496.0 + 1023.0));
            let fraction = _mm256_and_si256(bits, _mm256_set1_epi64x(0x000f_ffff_ffff_ffff));
            let mantissa = _mm256_or_si256(fraction, _mm256_set1_epi64x(0x3ff0_0000_0000_0000));
            (F64x4(exponent), F64x4(_mm256_castsi256_pd(mantissa)))
        }
    }
    #[inline(always)]
    unsafe fn keep_ge(self, x: Self, bound: Self) -> Self {
        // SAFETY: as above.
        unsafe { F64x4(_mm256_and_pd(self.0, _mm256_cmp_pd::<_CMP_GE_OQ>(x.0, bound.0))) }
    }
    #[inline(always)]
    unsafe fn smallest(self) -> f64 {
        // SAFETY: as above.
        unsafe {
            let two = _mm_min_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
            _mm_cvtsd_f64(_mm_min_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f64 {
        // SAFETY: as above.
        unsafe {
            let two = _mm_max_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
            _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f64 {
        // SAFETY: as above.
        unsafe {
            let two = _mm_add_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
            _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn sum8(r: [Self; ROWS]) -> [f64; ROWS] {
        // SAFETY: as above.
        r.map(|x| unsafe { x.sum() })
    }
}
