//! The forms, on the instruction sets that have something for them.
//!
//! | documents | portable | AVX2 | AVX-512 |
//! |---|---|---|---|
//! | f32; f16, made f32 a piece or a block at a time | [`Floats`] | [`Floats`] | [`Floats`] |
//! | bf16 | [`Floats`], so made | [`Floats`] | `Pairs` with BF16, else [`Floats`] |
//! | int8 | [`Words`] (`Words128` on x86-64): 16-bit products, 32-bit sums | `Quads256` with AVX-VNNI, else `Words256` | `Quads512` with VNNI, else `Words512` |

use std::mem::transmute;

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
    type Number = f32;
    type V = V;
    type Lanes = V;
    type Group = V;
    type Sums = V;
    const GROUP: usize = 1;
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
    unsafe fn lanes(at: *const f32) -> V {
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

/// What forms of one kind of number have in common, whatever the instructions.
macro_rules! kind {
    ($number:ty, $group:literal, $scaled:literal, $buffer:ident, query $query:expr, direct $direct:pat => $same:expr,
     make $values:pat => $from:expr, $of:expr) => {
        type Number = $number;
        const GROUP: usize = $group;
        const SCALED: bool = $scaled;

        fn query(x: f32) -> $number {
            $query(x)
        }
        fn direct<'v>(values: Values<'v>) -> Option<&'v [$number]> {
            match values {
                $direct => $same,
                _ => None,
            }
        }
        fn make(values: Values<'_>, dim: usize, stride: usize, to: &mut [$number]) {
            if let $values = values {
                convert($from, dim, stride, to, $of);
            }
        }
        fn buffer(made: &mut Made) -> &mut Vec<$number> {
            &mut made.$buffer
        }
    };
    // Bytes as 16-bit numbers, whose products are added up in pairs.
    (words) => {
        kind! { i16, 2, true, words, query |code| code as i16, direct Values::Int8 { .. } => None,
        make Values::Int8 { codes, .. } => codes, i16::from }
    };
    // Bytes as they are, by fours.
    (quads) => {
        kind! { i8, 4, true, bytes, query |code| code as i8, direct Values::Int8 { codes, .. } => Some(codes),
        make Values::Int8 { codes, .. } => codes, |code| code }
    };
    // bfloat16 in pairs.
    (pairs) => {
        kind! { bf16, 2, false, bfloats, query bf16::from_f32, direct Values::Bf16(x) => Some(x),
        make Values::Bf16(x) => x, |x| x }
    };
}

/// A form whose groups have four bytes: lanes from memory, and a group as an `i32`.
macro_rules! form {
    ($(#[$doc:meta])* $name:ident: $kind:tt, $vector:ty, $rows:expr, [$($features:literal)?],
     lanes $lanes:ty: $load:expr, group $group:ty: $read:expr, sums $sums:ty: $start:expr,
     add $add:expr, floats $floats:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        // SAFETY: the features named here; as much is read as `Lanes` takes where lanes are, and four bytes where a
        // group is. Registers and arrays of one size are the same bits, none of them invalid.
        #[allow(unused_unsafe, reason = "plain Rust needs none")]
        unsafe impl Form for $name {
            kind! { $kind }
            type V = $vector;
            type Lanes = $lanes;
            type Group = $group;
            type Sums = $sums;
            const ROWS: usize = $rows;

            #[inline(always)]
            unsafe fn start(sums: *const i32) -> $sums {
                // SAFETY: by the trait's contract; so below.
                unsafe { $start(sums) }
            }
            #[inline(always)]
            unsafe fn lanes(at: *const Self::Number) -> $lanes {
                // SAFETY: as above.
                unsafe { $load(at.cast()) }
            }
            #[inline(always)]
            unsafe fn group(at: *const Self::Number) -> $group {
                // SAFETY: as above.
                unsafe { $read(at.cast::<i32>().read_unaligned()) }
            }
            #[inline(always)]
            unsafe fn add(sums: $sums, lanes: $lanes, group: $group) -> $sums {
                // SAFETY: as above.
                unsafe { $add(sums, lanes, group) }
            }
            #[inline(always)]
            unsafe fn floats(sums: $sums) -> $vector {
                // SAFETY: as above.
                unsafe { $floats(sums) }
            }
            unsafe fn run(job: &mut Job<'_, Self>) -> bool {
                $(#[target_feature(enable = $features)])?
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

/// Lanes of the portable vector.
pub(super) const PLAIN: usize = <<f32 as Float>::Portable as Vector>::LANES;

form! {
    /// Two products to a lane in plain Rust: the contract of the others.
    Words: words, Lanes<f32, PLAIN>, 2, [],
    lanes [[i16; 2]; PLAIN]: |at: *const [[i16; 2]; PLAIN]| at.read_unaligned(),
    group [i16; 2]: |x: i32| transmute::<i32, [i16; 2]>(x),
    sums [i32; PLAIN]: |_| [0; PLAIN],
    add |mut sums: [i32; PLAIN], lanes: [[i16; 2]; PLAIN], [x, y]: [i16; 2]| {
        for (sum, [p, q]) in sums.iter_mut().zip(lanes) {
            *sum += i32::from(p) * i32::from(x) + i32::from(q) * i32::from(y);
        }
        sums
    },
    floats |sums: [i32; PLAIN]| Self::V::load(sums.map(|sum| sum as f32).as_ptr())
}

#[cfg(target_arch = "x86_64")]
pub(super) use {form, kind, shell};
