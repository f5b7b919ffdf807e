//! Forms, and shells of vectors, for x86-64.

use std::arch::x86_64::*;
use std::mem::transmute;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Values;
use super::form::{Form, Job, Made, convert, dots, panel};
use super::forms::{PLAIN, Shell, form, kind, shell, uppers};
use crate::simd::{F32x8, F32x16, Lanes, Vector};

shell! { F32x8, 6, ["avx2,fma"],
    fn widen(from: &[f16], to: &mut [f32]) {
        #[target_feature(enable = "avx,f16c")]
        fn eight(from: &[f16], to: &mut [f32]) {
            let (halves, rest) = from.as_chunks::<8>();
            let (floats, last) = to.as_chunks_mut::<8>();
            for (x, y) in halves.iter().zip(floats) {
                // SAFETY: eight elements on both sides.
                unsafe { _mm256_storeu_ps(y.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()))) }
            }
            rest.convert_to_f32_slice(last);
        }
        assert_eq!(from.len(), to.len());
        if is_x86_feature_detected!("f16c") {
            // SAFETY: the instructions are there.
            unsafe { eight(from, to) }
        } else {
            from.convert_to_f32_slice(to);
        }
    }
    fn widen_upper(from: &[bf16], to: &mut [f32]) {
        #[target_feature(enable = "avx2")]
        fn shell(from: &[bf16], to: &mut [f32]) {
            uppers(from, to);
        }
        assert!(is_x86_feature_detected!("avx2"));
        // SAFETY: as asserted.
        unsafe { shell(from, to) }
    }
}
shell! { F32x16, 8, ["avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"],
    fn widen(from: &[f16], to: &mut [f32]) {
        // Twice as many at a time are no faster: memory and the store are what is waited for.
        F32x8::widen(from, to);
    }
    fn widen_upper(from: &[bf16], to: &mut [f32]) {
        F32x8::widen_upper(from, to);
    }
}

/// What is added to bytes to make them positive, by flipping the highest bit: the instructions for four
/// products want one side so. Sums begin with what that adds taken off.
const OFFSET: i32 = 128;

form! {
    /// Eight lanes of two products each, in two registers of SSE2, which every x86-64 processor has.
    Words128: words, Lanes<f32, PLAIN>, 2, [],
    lanes [__m128i; 2]: |at: *const __m128i| [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))],
    group __m128i: |x| _mm_set1_epi32(x),
    sums [__m128i; 2]: |_| [_mm_setzero_si128(); 2],
    add |sums: [__m128i; 2], lanes: [__m128i; 2], group| {
        std::array::from_fn(|i| _mm_add_epi32(sums[i], _mm_madd_epi16(lanes[i], group)))
    },
    floats |sums: [__m128i; 2]| Self::V::load(sums.map(|four| _mm_cvtepi32_ps(four)).as_ptr().cast())
}
form! {
    /// Eight lanes of two products each, by AVX2.
    Words256: words, F32x8, 6, ["avx2,fma"],
    lanes __m256i: |at| _mm256_loadu_si256(at),
    group __m256i: |x| _mm256_set1_epi32(x),
    sums __m256i: |_| _mm256_setzero_si256(),
    add |sums, lanes, group| _mm256_add_epi32(sums, _mm256_madd_epi16(lanes, group)),
    floats |sums| transmute(_mm256_cvtepi32_ps(sums))
}
form! {
    /// Sixteen lanes of two products each, by AVX-512 BW.
    Words512: words, F32x16, 8, ["avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"],
    lanes __m512i: |at| _mm512_loadu_si512(at),
    group __m512i: |x| _mm512_set1_epi32(x),
    sums __m512i: |_| _mm512_setzero_si512(),
    add |sums, lanes, group| _mm512_add_epi32(sums, _mm512_madd_epi16(lanes, group)),
    floats |sums| transmute(_mm512_cvtepi32_ps(sums))
}
form! {
    /// Eight lanes of four products each, by AVX-VNNI.
    Quads256: quads, F32x8, 6, ["avx2,fma,avxvnni"],
    lanes __m256i: |at| _mm256_loadu_si256(at),
    group __m256i: |x| _mm256_xor_si256(_mm256_set1_epi32(x), _mm256_set1_epi8(OFFSET as i8)),
    sums __m256i: |sums: *const i32| {
        _mm256_mullo_epi32(_mm256_loadu_si256(sums.cast()), _mm256_set1_epi32(-OFFSET))
    },
    add |sums, lanes, group| _mm256_dpbusd_avx_epi32(sums, group, lanes),
    floats |sums| transmute(_mm256_cvtepi32_ps(sums))
}
form! {
    /// Sixteen lanes of four products each, by AVX-512 VNNI.
    Quads512: quads, F32x16, 8, ["avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma"],
    lanes __m512i: |at| _mm512_loadu_si512(at),
    group __m512i: |x| _mm512_xor_si512(_mm512_set1_epi32(x), _mm512_set1_epi8(OFFSET as i8)),
    sums __m512i: |sums: *const i32| {
        _mm512_mullo_epi32(_mm512_loadu_si512(sums.cast()), _mm512_set1_epi32(-OFFSET))
    },
    add |sums, lanes, group| _mm512_dpbusd_epi32(sums, group, lanes),
    floats |sums| transmute(_mm512_cvtepi32_ps(sums))
}
form! {
    /// Sixteen lanes of two products of bfloat16 each, by AVX-512 BF16.
    Pairs: pairs, F32x16, 8, ["avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma"],
    lanes __m512bh: |at| transmute(_mm512_loadu_si512(at)),
    group __m512bh: |x| transmute(_mm512_set1_epi32(x)),
    sums __m512: |_| _mm512_setzero_ps(),
    add |sums, lanes, group| _mm512_dpbf16_ps(sums, group, lanes),
    floats |sums| transmute(sums)
}

/// [`dots`], with the instructions enabled.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) fn dots_avx512(query: &[i16], codes: &[i8], sums: &mut [i32]) {
    dots(query, codes, sums);
}

/// [`dots`], with the instructions enabled.
#[target_feature(enable = "avx2,fma")]
pub(super) fn dots_avx2(query: &[i16], codes: &[i8], sums: &mut [i32]) {
    dots(query, codes, sums);
}
