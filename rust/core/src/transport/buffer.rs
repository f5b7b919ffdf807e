//! Growable memory that starts on a cache line.

use std::ops::{Deref, DerefMut};

/// Bytes that buffers are aligned to, and that matrix rows are padded to: a cache line, and the
/// widest vector. Vector loads that straddle two lines run at half speed.
pub(crate) const ALIGN: usize = 64;

/// A reusable slice, aligned to [`ALIGN`] bytes.
#[derive(Default)]
pub(crate) struct Buffer<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy> Buffer<T> {
    /// Have `len` elements, all `value`.
    pub(crate) fn reset(&mut self, len: usize, value: T) {
        self.resize(len, value);
        self.fill(value);
    }

    /// Have `len` elements, of whatever values; `value` serves where there was no memory yet.
    pub(crate) fn resize(&mut self, len: usize, value: T) {
        let spare = ALIGN / size_of::<T>();
        if self.memory.len() < len + spare {
            self.memory = vec![value; len + spare];
            self.start = self.memory.as_ptr().align_offset(ALIGN).min(spare);
        }
        self.len = len;
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_cache_line_and_is_filled() {
        let mut b = Buffer::<f32>::default();
        for len in [1, 16, 1000, 3] {
            b.reset(len, 2.0);
            assert_eq!(b.as_ptr() as usize % ALIGN, 0);
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|&x| x == 2.0));
        }
    }
}
