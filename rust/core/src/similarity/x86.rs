//! Forms, and shells of vectors, for x86-64.

use std::arch::x86_64::*;
use std::mem::transmute;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Values;
use super::form::{Form, Job, Made, convert, panel};
use super::forms::{PLAIN, Shell, bytes, shell, uppers};
use crate::simd::{F32x8, F32x16, Lanes};

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

macro_rules! integer_form {
    ($(#[$doc:meta])* $name:ident: $kind:tt, $vector:ty, $register:ty, $rows:expr, $features:literal,
     $load:ident, $splat:ident, $floats:ident, start $start:expr, group $group:expr, add $add:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        // SAFETY: the features named here; a register is read where one is loaded, and four bytes where a
        // group is.
        unsafe impl Form for $name {
            bytes!($kind);
            type V = $vector;
            type Lanes = $register;
            type Group = $register;
            type Sums = $register;
            const ROWS: usize = $rows;

            #[inline(always)]
            unsafe fn start(sums: *const i32) -> $register {
                // SAFETY: by the trait's contract; so below.
                unsafe { $start(sums) }
            }
            #[inline(always)]
            unsafe fn lanes(at: *const Self::Query, _width: usize) -> $register {
                // SAFETY: as above.
                unsafe { $load(at.cast()) }
            }
            #[inline(always)]
            unsafe fn group(at: *const Self::Token) -> $register {
                // SAFETY: as above.
                unsafe { $group($splat(at.cast::<i32>().read_unaligned())) }
            }
            #[inline(always)]
            unsafe fn add(sums: $register, lanes: $register, group: $register) -> $register {
                // SAFETY: as above.
                unsafe { $add(sums, lanes, group) }
            }
            #[inline(always)]
            unsafe fn floats(sums: $register) -> $vector {
                // SAFETY: as above; the vector is such a register.
                unsafe { transmute($floats(sums)) }
            }
            unsafe fn run(job: &mut Job<'_, Self>) -> bool {
                #[target_feature(enable = $features)]
                unsafe fn shell(job: &mut Job<'_, $name>) -> bool {
                    // SAFETY: the caller's contract, with the features enabled here.
                    unsafe { panel::<$name>(job) }
                }
                // SAFETY: the caller has the instructions.
                unsafe { shell(job) }
            }
        }
    };
}

/// Eight lanes of two products each, in two registers of SSE2, which every x86-64 processor has.
pub(super) struct Words128;

// SAFETY: SSE2; two registers are read where lanes are, and two numbers where a group is.
unsafe impl Form for Words128 {
    bytes!(words);
    type V = Lanes<f32, PLAIN>;
    type Lanes = [__m128i; 2];
    type Group = __m128i;
    type Sums = [__m128i; 2];
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn start(_: *const i32) -> [__m128i; 2] {
        // SAFETY: x86-64 has SSE2; so below.
        unsafe { [_mm_setzero_si128(); 2] }
    }
    #[inline(always)]
    unsafe fn lanes(at: *const i16, _width: usize) -> [__m128i; 2] {
        // SAFETY: by the trait's contract; so below.
        unsafe { [_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn group(at: *const i16) -> __m128i {
        // SAFETY: as above.
        unsafe { _mm_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add(sums: [__m128i; 2], lanes: [__m128i; 2], group: __m128i) -> [__m128i; 2] {
        // SAFETY: as above.
        std::array::from_fn(|i| unsafe { _mm_add_epi32(sums[i], _mm_madd_epi16(lanes[i], group)) })
    }
    #[inline(always)]
    unsafe fn floats(sums: [__m128i; 2]) -> Self::V {
        // SAFETY: as above.
        let floats = sums.map(|four| unsafe { _mm_cvtepi32_ps(four) });
        // SAFETY: eight floats.
        unsafe { <Self::V as crate::simd::Vector>::load(floats.as_ptr().cast()) }
    }
    unsafe fn run(job: &mut Job<'_, Self>) -> bool {
        // SAFETY: no more instructions needed.
        unsafe { <Self::V as Shell>::run(job) }
    }
}

integer_form! {
    /// Eight lanes of two products each, by AVX2.
    Words256: words, F32x8, __m256i, 4, "avx2,fma",
    _mm256_loadu_si256, _mm256_set1_epi32, _mm256_cvtepi32_ps,
    start |_| _mm256_setzero_si256(),
    group |x| x,
    add |sums, lanes, group| _mm256_add_epi32(sums, _mm256_madd_epi16(lanes, group))
}
integer_form! {
    /// Sixteen lanes of two products each, by AVX-512 BW.
    Words512: words, F32x16, __m512i, 8, "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma",
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_cvtepi32_ps,
    start |_| _mm512_setzero_si512(),
    group |x| x,
    add |sums, lanes, group| _mm512_add_epi32(sums, _mm512_madd_epi16(lanes, group))
}
integer_form! {
    /// Eight lanes of four products each, by AVX-VNNI.
    Quads256: quads, F32x8, __m256i, 6, "avx2,fma,avxvnni",
    _mm256_loadu_si256, _mm256_set1_epi32, _mm256_cvtepi32_ps,
    start |sums: *const i32| _mm256_mullo_epi32(_mm256_loadu_si256(sums.cast()), _mm256_set1_epi32(-OFFSET)),
    group |x| _mm256_xor_si256(x, _mm256_set1_epi8(OFFSET as i8)),
    add |sums, lanes, group| _mm256_dpbusd_avx_epi32(sums, group, lanes)
}
integer_form! {
    /// Sixteen lanes of four products each, by AVX-512 VNNI.
    Quads512: quads, F32x16, __m512i, 8, "avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma",
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_cvtepi32_ps,
    start |sums: *const i32| _mm512_mullo_epi32(_mm512_loadu_si512(sums.cast()), _mm512_set1_epi32(-OFFSET)),
    group |x| _mm512_xor_si512(x, _mm512_set1_epi8(OFFSET as i8)),
    add |sums, lanes, group| _mm512_dpbusd_epi32(sums, group, lanes)
}

/// bfloat16 in pairs, by AVX-512 BF16.
pub(super) struct Pairs;

// SAFETY: AVX-512 with BF16; sixteen pairs are read where lanes are, and one where a group is. Registers of
// one width are the same bits.
unsafe impl Form for Pairs {
    type Query = bf16;
    type Token = bf16;
    type V = F32x16;
    type Lanes = __m512bh;
    type Group = __m512bh;
    type Sums = __m512;
    const GROUP: usize = 2;
    const TOGETHER: usize = 2;
    const ROWS: usize = 8;
    const SCALED: bool = false;

    fn query(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn direct<'v>(values: Values<'v>) -> Option<&'v [bf16]> {
        match values {
            Values::Bf16(x) => Some(x),
            _ => None,
        }
    }
    fn make(values: Values<'_>, dim: usize, stride: usize, to: &mut [bf16]) {
        if let Values::Bf16(x) = values {
            convert(x, dim, stride, to, |x| x);
        }
    }
    fn buffer(made: &mut Made) -> &mut Vec<bf16> {
        &mut made.bfloats
    }
    #[inline(always)]
    unsafe fn start(_: *const i32) -> __m512 {
        // SAFETY: by the trait's contract; so below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn lanes(at: *const bf16, _width: usize) -> __m512bh {
        // SAFETY: as above.
        unsafe { transmute(_mm512_loadu_si512(at.cast())) }
    }
    #[inline(always)]
    unsafe fn group(at: *const bf16) -> __m512bh {
        // SAFETY: as above.
        unsafe { transmute(_mm512_set1_epi32(at.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn add(sums: __m512, lanes: __m512bh, group: __m512bh) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_dpbf16_ps(sums, group, lanes) }
    }
    #[inline(always)]
    unsafe fn floats(sums: __m512) -> F32x16 {
        // SAFETY: F32x16 is such a register.
        unsafe { transmute(sums) }
    }
    unsafe fn run(job: &mut Job<'_, Self>) -> bool {
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
        unsafe fn shell(job: &mut Job<'_, Pairs>) -> bool {
            // SAFETY: the caller's contract, with the features enabled here.
            unsafe { panel::<Pairs>(job) }
        }
        // SAFETY: the caller has the instructions.
        unsafe { shell(job) }
    }
}
