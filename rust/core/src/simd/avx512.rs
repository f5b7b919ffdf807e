//! 512-bit vectors.

use std::arch::x86_64::*;

use super::vector::vector;
use super::{ROWS, Vector};

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
/// Of each four lanes, the first two of both operands, or the last two.
const LOW_HALVES: i32 = 0b01_00_01_00;
const HIGH_HALVES: i32 = 0b11_10_11_10;

vector! {
    /// Sixteen `f32`.
    F32x16(__m512), f32, 16,
    _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps _mm512_fmadd_ps,
    add _mm512_add_ps, sub _mm512_sub_ps, mul _mm512_mul_ps, div _mm512_div_ps, max _mm512_max_ps, min _mm512_min_ps,
    scale _mm512_scalef_ps;

    fn round(self) -> Self { F32x16(_mm512_roundscale_ps::<NEAREST>(self.0)) }
    fn split(self) -> (Self, Self) {
        let mantissa = _mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(self.0);
        (F32x16(_mm512_getexp_ps(self.0)), F32x16(mantissa))
    }
    fn keep_ge(self, x: Self, bound: Self) -> Self {
        F32x16(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x.0, bound.0), self.0))
    }
    fn smallest(self) -> f32 { _mm512_reduce_min_ps(self.0) }
    fn largest(self) -> f32 { _mm512_reduce_max_ps(self.0) }
    fn sum(self) -> f32 { _mm512_reduce_add_ps(self.0) }
    /// A transposing tree: 24 instructions for eight sums.
    fn sum8(r: [Self; ROWS]) -> [f32; ROWS] {
        // Quarter sums of rows i (low half) and i + 4 (high half).
        let fold = |i: usize| {
            let (x, y) = (r[i].0, r[i + 4].0);
            _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(x, y), _mm512_shuffle_f32x4::<0xEE>(x, y))
        };
        let pair = |x: __m512, y: __m512| _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
        let (x, y) = (pair(fold(0), fold(1)), pair(fold(2), fold(3)));
        let z = _mm512_add_ps(_mm512_shuffle_ps::<LOW_HALVES>(x, y), _mm512_shuffle_ps::<HIGH_HALVES>(x, y));
        std::mem::transmute(_mm256_add_ps(
            _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b00_00_10_00>(z, z)),
            _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b00_00_11_01>(z, z)),
        ))
    }
    /// Four rounds that each put together pairs twice as far apart; sixteen rows of sixteen on both sides.
    fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let mut r: [__m512; 16] = std::array::from_fn(|i| _mm512_loadu_ps(from.add(i * from_stride)));
        let mut t = r;
        for i in (0..16).step_by(2) {
            t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
        }
        // Now columns 4k + j of rows 4i.. in r[4i + j], k in the 128-bit lanes.
        for i in (0..16).step_by(4) {
            for j in 0..2 {
                r[i + 2 * j] = _mm512_shuffle_ps::<LOW_HALVES>(t[i + j], t[i + j + 2]);
                r[i + 2 * j + 1] = _mm512_shuffle_ps::<HIGH_HALVES>(t[i + j], t[i + j + 2]);
            }
        }
        // The 4 × 4 matrix of 128-bit lanes, transposed.
        for j in 0..4 {
            let even = |x, y| _mm512_shuffle_f32x4::<0x88>(x, y);
            let odd = |x, y| _mm512_shuffle_f32x4::<0xDD>(x, y);
            let (a, b, c, d) = (r[j], r[j + 4], r[j + 8], r[j + 12]);
            t[j] = even(even(a, b), even(c, d));
            t[j + 4] = even(odd(a, b), odd(c, d));
            t[j + 8] = odd(even(a, b), even(c, d));
            t[j + 12] = odd(odd(a, b), odd(c, d));
        }
        for (i, row) in t.into_iter().enumerate() {
            _mm512_storeu_ps(to.add(i * to_stride), row);
        }
    }
}

vector! {
    /// Eight `f64`.
    F64x8(__m512d), f64, 8,
    _mm512_set1_pd _mm512_loadu_pd _mm512_storeu_pd _mm512_fmadd_pd,
    add _mm512_add_pd, sub _mm512_sub_pd, mul _mm512_mul_pd, div _mm512_div_pd, max _mm512_max_pd, min _mm512_min_pd,
    scale _mm512_scalef_pd;

    fn round(self) -> Self { F64x8(_mm512_roundscale_pd::<NEAREST>(self.0)) }
    fn split(self) -> (Self, Self) {
        let mantissa = _mm512_getmant_pd::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(self.0);
        (F64x8(_mm512_getexp_pd(self.0)), F64x8(mantissa))
    }
    fn keep_ge(self, x: Self, bound: Self) -> Self {
        F64x8(_mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_GE_OQ>(x.0, bound.0), self.0))
    }
    fn smallest(self) -> f64 { _mm512_reduce_min_pd(self.0) }
    fn largest(self) -> f64 { _mm512_reduce_max_pd(self.0) }
    fn sum(self) -> f64 { _mm512_reduce_add_pd(self.0) }
}
