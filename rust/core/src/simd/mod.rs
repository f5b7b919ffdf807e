//! Vectors of floats, and the choice of instruction set at run time.
//!
//! Every numeric kernel of this crate is written once, generic over [`Vector`], and instantiated in
//! up to three *shells*: portable (plain arrays, vectorised by the compiler, which is also what runs
//! on NEON), AVX2+FMA and AVX-512. [`level`] picks the widest shell the machine has, once;
//! [`set_level`] narrows it for tests and comparisons. The portable shell is the contract: a shell
//! that disagrees with it on first use is dropped (see [`level`]). This module knows no other of the crate.
//!
//! ```text
//! 2ˣ   = 2ⁿ · p(r),  n = round(x),  r = x − n;  p Taylor's polynomial       2 ulp
//! ln x = k ln 2 + 2 artanh s,  x = 2ᵏ y,  s = (y − 1) / (y + 1)              2 ulp
//! ```
//!
//! **Another instruction set** takes five steps: a file with a [`Vector`] for `f32` and `f64` of it; a [`Level`], its
//! name and the features that [`Level::is_supported`] asks for; the vectors in [`Float`]; a shell in `shells!`; and
//! nothing else, as the tests run every level that the machine has, and `check.rs` holds it to the portable one.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod check;
mod float;
pub(crate) mod matmul;
mod peak;
mod portable;
mod vector;

use std::sync::atomic::{AtomicU8, Ordering};

pub use float::Float;
pub use peak::multiply_adds_per_second;
pub use portable::Lanes;
pub use vector::Vector;
#[cfg(all(target_arch = "x86_64", feature = "similarity"))]
pub(crate) use {avx2::F32x8, avx512::F32x16};

/// Rows that a kernel handles at a time; [`Vector::sum8`] reduces that many accumulators at once.
pub const ROWS: usize = 8;

/// An instruction set that a kernel can be run with, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Level {
    /// Plain Rust arrays; what the compiler makes of them.
    Portable = 1,
    /// 256-bit AVX2 with fused multiply-add.
    Avx2 = 2,
    /// 512-bit AVX-512 (F, DQ, BW, VL).
    Avx512 = 3,
}

impl Level {
    /// All levels, narrowest first.
    pub const ALL: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

    /// The name used in Python: `"portable"`, `"avx2"` or `"avx512"`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// Whether this machine can run the level.
    pub fn is_supported(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// 0 = not chosen yet.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that kernels run with.
///
/// Chosen on first use: the widest supported level whose answers on a small fixed problem agree
/// with the portable shell. Disagreement would mean a miscompiled or emulated instruction; the next
/// narrower level is taken instead, so results stay right at the price of speed.
pub fn level() -> Level {
    let kept = LEVEL.load(Ordering::Relaxed);
    Level::ALL.into_iter().find(|level| *level as u8 == kept).unwrap_or_else(|| {
        let sound = |level: &Level| level.is_supported() && check::agrees_with_portable(*level);
        let chosen = Level::ALL.into_iter().rev().find(sound).unwrap_or(Level::Portable);
        LEVEL.store(chosen as u8, Ordering::Relaxed);
        chosen
    })
}

/// Run kernels with `level` from now on, in the whole process. Meant for tests and benchmarks.
///
/// # Errors
/// The level's name, when this machine does not support it.
pub fn set_level(level: Level) -> Result<(), String> {
    if !level.is_supported() {
        return Err(format!("this machine has no {}", level.name()));
    }
    LEVEL.store(level as u8, Ordering::Relaxed);
    Ok(())
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Ask for the cache line at an address, which need not be one that may be read.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which cannot fault; x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same for `count` elements, to be read some time later: they need not come nearer than the second cache.
#[inline(always)]
pub(crate) fn prefetch_row<T>(at: *const T, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for k in (0..count).step_by(LINE / size_of::<T>()) {
        // SAFETY: as above.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(k).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, count);
}

/// Bytes that are asked for at a time: about as many lines as a core can have under way.
const UNDER_WAY: usize = 24 * LINE;

/// Memory that is likely to be read before long, and may not be there: it is only ever asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead<T> {
    at: *const T,
    left: usize,
}

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Ahead::behind(&[])
    }
}

impl<T> Ahead<T> {
    /// As much as a slice, behind it.
    pub(crate) fn behind(slice: &[T]) -> Self {
        Ahead { at: slice.as_ptr_range().end, left: slice.len() }
    }

    /// Ask for some more of it. Work that goes on meanwhile does not wait.
    #[inline(always)]
    pub(crate) fn ask(&mut self) {
        let count = self.left.min(UNDER_WAY / size_of::<T>());
        prefetch_row(self.at, count);
        (self.at, self.left) = (self.at.wrapping_add(count), self.left - count);
    }
}

/// Make what was written by [`Vector::stream`] visible to other threads, before whatever tells them of it.
#[inline(always)]
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Define a function that runs a kernel in the shell of a given [`Level`].
///
/// `shells! { name<T>(args) -> R = path::kernel }` expands to `unsafe fn name(level, args)`, which
/// calls `path::kernel::<V>(args)` with the vector type of the level, inside a function that has the
/// level's target features.
macro_rules! shells {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident) => {
        $(#[$doc])*
        /// # Safety
        /// As for the kernel; `level` must be supported by this machine.
        $vis unsafe fn $name<T: $crate::simd::Float>(level: $crate::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
            unsafe fn avx512<T: $crate::simd::Float>($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the features are enabled here; the rest is the kernel's contract.
                unsafe { $kernel::<T::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2<T: $crate::simd::Float>($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: as above.
                unsafe { $kernel::<T::Avx2>($($arg),*) }
            }
            // SAFETY: the caller says that the machine supports `level`, and upholds the contract.
            unsafe {
                match level {
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Level::Avx512 => avx512::<T>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Level::Avx2 => avx2::<T>($($arg),*),
                    _ => $kernel::<T::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use shells;

#[cfg(test)]
mod tests;
