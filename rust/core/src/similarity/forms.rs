//! The forms, on the instruction sets that have something for them.
//!
//! | documents | portable | AVX2 | AVX-512 |
//! |---|---|---|---|
//! | f32; f16, made f32 a block at a time | [`Floats`] | [`Floats`] | [`Floats`] |
//! | bf16 | [`Floats`], so made | [`Floats`] | `Pairs` with BF16, else [`Floats`] |
//! | int8 | [`Words`] (`Words128` on x86-64): 16-bit products, 32-bit sums | `Quads256` with AVX-VNNI, else `Words256` | `Quads512` with VNNI, else `Words512` |

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Values;
use super::form::{Form, Job, Made, convert, panel};
use crate::simd::{Float, Lanes, Vector};

/// A vector that a form's loop can be run with: its shell.
///
/// # Safety
/// `run` is called only where the processor has the vector's instructions, which it enables.
pub(super) unsafe trait Shell: Vector<Elem = f32> + Send + Sync + 'static {
    /// Document tokens whose sums fit the registers.
    const ROWS: usize;
    /// [`panel`] with the vector's instructions enabled.
    unsafe fn run<F: Form>(job: &mut Job<'_, F>) -> bool;
    /// Half precision made single. Nothing is asked of the processor but what the vector needs.
    fn widen(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    /// bfloat16 made single.
    fn widen_upper(from: &[bf16], to: &mut [f32]) {
        uppers(from, to);
    }
}

/// A plain loop, which the compiler turns into the vectors that it may use.
#[inline(always)]
pub(super) fn uppers(from: &[bf16], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, x)| *to = f32::from_bits(u32::from(x.to_bits()) << 16));
}

macro_rules! shell {
    ($vector:ty, $rows:expr, [$($features:literal)?], $($rest:item)*) => {
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
            $($rest)*
        }
    };
}
shell! { <f32 as Float>::Portable, 2, [],
}

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
    fn make(values: Values<'_>, _dim: usize, _stride: usize, to: &mut [f32]) {
        match values {
            Values::F16(x) => V::widen(x, to),
            Values::Bf16(x) => V::widen_upper(x, to),
            _ => {}
        }
    }
    fn buffer(made: &mut Made) -> &mut Vec<f32> {
        &mut made.floats
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
        fn make(values: Values<'_>, dim: usize, stride: usize, to: &mut [i16]) {
            if let Values::Int8 { codes, .. } = values {
                convert(codes, dim, stride, to, i16::from);
            }
        }
        fn buffer(made: &mut Made) -> &mut Vec<i16> {
            &mut made.words
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
        fn make(values: Values<'_>, dim: usize, stride: usize, to: &mut [i8]) {
            if let Values::Int8 { codes, .. } = values {
                convert(codes, dim, stride, to, |code| code);
            }
        }
        fn buffer(made: &mut Made) -> &mut Vec<i8> {
            &mut made.bytes
        }
    };
}

/// Bytes as 16-bit numbers, whose products are added up in pairs: the contract of the others.
pub(super) struct Words;

/// Lanes of the portable vector.
pub(super) const PLAIN: usize = <<f32 as Float>::Portable as Vector>::LANES;

// SAFETY: plain Rust; as many elements are read as the methods say.
unsafe impl Form for Words {
    bytes!(words);
    type V = Lanes<f32, PLAIN>;
    type Lanes = [[i16; 2]; PLAIN];
    type Group = [i16; 2];
    type Sums = [i32; PLAIN];
    const ROWS: usize = 2;

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
pub(super) use {bytes, shell};
