//! The forms, on the instruction sets that have something for them.
//!
//! | documents | portable | AVX2 | AVX-512 |
//! |---|---|---|---|
//! | f32, f16 (made f32, a block at a time) | [`Floats`] | [`Floats`] | [`Floats`] |
//! | bf16 | [`Halves`]: two halves of a word are two numbers | [`Halves`] | `Pairs` with BF16, else [`Halves`] |
//! | int8 | [`Words`]: 16-bit products, 32-bit sums | `Quads256` with AVX-VNNI, else `Words256` | `Quads512` with VNNI, else `Words512` |

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::Values;
use super::form::{Form, Job, padded, panel};
use super::scorer::Scratch;
use crate::simd::{Float, Lanes, Vector};

/// A vector that a form's loop can be run with: its shell.
pub(super) unsafe trait Shell: Vector<Elem = f32> + Send + Sync + 'static {
    /// Document tokens whose sums fit the registers.
    const ROWS: usize;
    /// [`panel`] with the vector's instructions enabled.
    unsafe fn run<F: Form>(job: &mut Job<'_, F>) -> bool;
}

macro_rules! shell {
    ($vector:ty, $rows:expr $(, $features:literal)?) => {
        // SAFETY: the features are those of the vector.
        unsafe impl Shell for $vector {
            const ROWS: usize = $rows;
            unsafe fn run<F: Form>(job: &mut Job<'_, F>) -> bool {
                $(#[target_feature(enable = $features)])?
                unsafe fn shell<F: Form>(job: &mut Job<'_, F>) -> bool {
                    // SAFETY: the caller's contract, with the features enabled here.
                    unsafe { panel::<F>(job) }
                }
                // SAFETY: the caller has the instructions.
                unsafe { shell::<F>(job) }
            }
        }
    };
}
shell!(<f32 as Float>::Portable, 4);
#[cfg(target_arch = "x86_64")]
shell!(<f32 as Float>::Avx2, 6, "avx2,fma");
#[cfg(target_arch = "x86_64")]
shell!(<f32 as Float>::Avx512, 8, "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma");

/// Single precision.
pub(super) struct Floats<V>(std::marker::PhantomData<V>);

// SAFETY: the vector's own instructions; LANES elements are read where a vector is.
unsafe impl<V: Shell> Form for Floats<V> {
    type Query = f32;
    type Token = f32;
    type V = V;
    type Lanes = V;
    type Group = V;
    type Sums = V;
    const GROUP: usize = 1;
    const TOGETHER: usize = 1;
    const ROWS: usize = V::ROWS;
    const SCALED: bool = false;

    fn query(x: f32) -> f32 {
        x
    }
    fn direct<'v>(values: Values<'v>) -> Option<&'v [f32]> {
        match values {
            Values::F32(x) => Some(x),
            _ => None,
        }
    }
    fn append(values: Values<'_>, _dim: usize, _stride: usize, to: &mut Vec<f32>) {
        let Values::F16(halves) = values else { return };
        let before = to.len();
        to.resize(before + halves.len(), 0.0);
        halves.convert_to_f32_slice(&mut to[before..]);
    }
    fn buffer(scratch: &mut Scratch) -> &mut Vec<f32> {
        &mut scratch.floats
    }
    #[inline(always)]
    unsafe fn start(_: *const i32) -> V {
        // SAFETY: by the trait's contract; so below.
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn lanes(at: *const f32, _width: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load(at) }
    }
    #[inline(always)]
    unsafe fn group(at: *const f32) -> V {
        // SAFETY: as above.
        unsafe { V::splat(*at) }
    }
    #[inline(always)]
    unsafe fn add(sums: V, lanes: V, group: V) -> V {
        // SAFETY: as above.
        unsafe { lanes.fma(group, sums) }
    }
    #[inline(always)]
    unsafe fn floats(sums: V) -> V {
        sums
    }
    unsafe fn run(job: &mut Job<'_, Self>) -> bool {
        // SAFETY: as above.
        unsafe { V::run(job) }
    }
}

/// bfloat16 as pairs: the halves of a 32-bit word, each of which is a float with its lower bits 0.
pub(super) struct Halves<V>(std::marker::PhantomData<V>);

// SAFETY: as for Floats; two numbers are read where a group is.
unsafe impl<V: Shell> Form for Halves<V> {
    type Query = f32;
    type Token = bf16;
    type V = V;
    type Lanes = [V; 2];
    type Group = [V; 2];
    type Sums = V;
    const GROUP: usize = 2;
    const TOGETHER: usize = 1;
    const ROWS: usize = if V::ROWS == 8 { 8 } else { 4 };
    const SCALED: bool = false;

    fn query(x: f32) -> f32 {
        bf16::from_f32(x).to_f32()
    }
    fn direct<'v>(values: Values<'v>) -> Option<&'v [bf16]> {
        match values {
            Values::Bf16(x) => Some(x),
            _ => None,
        }
    }
    fn append(values: Values<'_>, dim: usize, stride: usize, to: &mut Vec<bf16>) {
        if let Values::Bf16(x) = values {
            padded(x, dim, stride, to, |x| x);
        }
    }
    fn buffer(scratch: &mut Scratch) -> &mut Vec<bf16> {
        &mut scratch.bfloats
    }
    #[inline(always)]
    unsafe fn start(_: *const i32) -> V {
        // SAFETY: by the trait's contract; so below.
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn lanes(at: *const f32, width: usize) -> [V; 2] {
        // SAFETY: as above; the second number of each token is a whole panel's width further.
        unsafe { [V::load(at), V::load(at.add(width))] }
    }
    #[inline(always)]
    unsafe fn group(at: *const bf16) -> [V; 2] {
        // SAFETY: as above.
        unsafe { [V::splat((*at).to_f32_bits()), V::splat((*at.add(1)).to_f32_bits())] }
    }
    #[inline(always)]
    unsafe fn add(sums: V, lanes: [V; 2], group: [V; 2]) -> V {
        // SAFETY: as above.
        unsafe { lanes[1].fma(group[1], lanes[0].fma(group[0], sums)) }
    }
    #[inline(always)]
    unsafe fn floats(sums: V) -> V {
        sums
    }
    unsafe fn run(job: &mut Job<'_, Self>) -> bool {
        // SAFETY: as above.
        unsafe { V::run(job) }
    }
}

/// A bfloat16 as the float that it is.
trait Upper {
    fn to_f32_bits(self) -> f32;
}

impl Upper for bf16 {
    /// Without the special cases of `to_f32`, which quiets NaN: it stays one here.
    #[inline(always)]
    fn to_f32_bits(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// The parts of a byte form that do not depend on instructions.
macro_rules! bytes {
    (words) => {
        type Query = i16;
        type Token = i16;
        const GROUP: usize = 2;
        const TOGETHER: usize = 2;
        const SCALED: bool = true;

        fn query(code: f32) -> i16 {
            code as i16
        }
        fn direct<'v>(_: Values<'v>) -> Option<&'v [i16]> {
            None
        }
        fn append(values: Values<'_>, dim: usize, stride: usize, to: &mut Vec<i16>) {
            if let Values::Int8 { codes, .. } = values {
                padded(codes, dim, stride, to, i16::from);
            }
        }
        fn buffer(scratch: &mut Scratch) -> &mut Vec<i16> {
            &mut scratch.words
        }
    };
    (quads) => {
        type Query = i8;
        type Token = i8;
        const GROUP: usize = 4;
        const TOGETHER: usize = 4;
        const SCALED: bool = true;

        fn query(code: f32) -> i8 {
            code as i8
        }
        fn direct<'v>(values: Values<'v>) -> Option<&'v [i8]> {
            match values {
                Values::Int8 { codes, .. } => Some(codes),
                _ => None,
            }
        }
        fn append(values: Values<'_>, dim: usize, stride: usize, to: &mut Vec<i8>) {
            if let Values::Int8 { codes, .. } = values {
                padded(codes, dim, stride, to, |code| code);
            }
        }
        fn buffer(scratch: &mut Scratch) -> &mut Vec<i8> {
            &mut scratch.bytes
        }
    };
}

/// Bytes as 16-bit numbers, whose products are added up in pairs: the contract of the others.
pub(super) struct Words;

/// Lanes of the portable vector.
const PLAIN: usize = <<f32 as Float>::Portable as Vector>::LANES;

// SAFETY: plain Rust; as many elements are read as the methods say.
unsafe impl Form for Words {
    bytes!(words);
    type V = Lanes<f32, PLAIN>;
    type Lanes = [[i16; 2]; PLAIN];
    type Group = [i16; 2];
    type Sums = [i32; PLAIN];
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn start(_: *const i32) -> [i32; PLAIN] {
        [0; PLAIN]
    }
    #[inline(always)]
    unsafe fn lanes(at: *const i16, _width: usize) -> Self::Lanes {
        // SAFETY: two numbers for each lane, aligned as i16 are.
        unsafe { at.cast::<Self::Lanes>().read() }
    }
    #[inline(always)]
    unsafe fn group(at: *const i16) -> [i16; 2] {
        // SAFETY: two numbers.
        unsafe { at.cast::<[i16; 2]>().read() }
    }
    #[inline(always)]
    unsafe fn add(mut sums: Self::Sums, lanes: Self::Lanes, [x, y]: [i16; 2]) -> Self::Sums {
        for (sum, [p, q]) in sums.iter_mut().zip(lanes) {
            *sum += i32::from(p) * i32::from(x) + i32::from(q) * i32::from(y);
        }
        sums
    }
    #[inline(always)]
    unsafe fn floats(sums: Self::Sums) -> Self::V {
        let floats = sums.map(|sum| sum as f32);
        // SAFETY: as many floats as there are lanes.
        unsafe { Self::V::load(floats.as_ptr()) }
    }
    unsafe fn run(job: &mut Job<'_, Self>) -> bool {
        // SAFETY: no instructions needed.
        unsafe { Self::V::run(job) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Pairs, Quads256, Quads512, Words256, Words512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use half::bf16;

    use super::{Form, Halves, Job, Scratch, Values, padded, panel};
    use crate::simd::{F32x8, F32x16};

    /// What is added to bytes to make them positive, by flipping the highest bit: the instructions for four
    /// products want one side so. Sums begin with what that adds taken off.
    const OFFSET: i32 = 128;

    macro_rules! integer_form {
        ($(#[$doc:meta])* $name:ident: $kind:tt, $vector:ty, $register:ty, $rows:expr, $features:literal,
         $load:ident, $splat:ident, $floats:ident, start $start:expr, group $group:expr, add $add:expr) => {
            $(#[$doc])*
            pub(in super::super) struct $name;

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
    pub(in super::super) struct Pairs;

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
            Halves::<F32x16>::direct(values)
        }
        fn append(values: Values<'_>, dim: usize, stride: usize, to: &mut Vec<bf16>) {
            Halves::<F32x16>::append(values, dim, stride, to);
        }
        fn buffer(scratch: &mut Scratch) -> &mut Vec<bf16> {
            &mut scratch.bfloats
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
}
