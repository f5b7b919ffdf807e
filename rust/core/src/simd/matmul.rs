//! Small dense products, register-blocked.

use super::{Float, ROWS, Vector, shells};

/// `out = left · right`, with `left` (rows × depth, row-major, `left_stride`), `right` (depth × cols,
/// row-major, `stride`) and `out` (rows × cols, `stride`).
///
/// `rows` is a multiple of [`ROWS`] and `stride` of the vector width; all `stride` columns are
/// computed.
#[inline(always)]
unsafe fn product<V: Vector>(
    rows: usize,
    depth: usize,
    left_stride: usize,
    stride: usize,
    left: &[V::Elem],
    right: &[V::Elem],
    out: &mut [V::Elem],
) {
    debug_assert!(rows.is_multiple_of(ROWS) && stride.is_multiple_of(V::LANES) && left_stride >= depth);
    debug_assert!(left.len() >= rows * left_stride && right.len() >= depth * stride);
    debug_assert!(out.len() >= rows * stride);
    // SAFETY: the sizes asserted above, which the callers' padded buffers have.
    unsafe {
        for row in (0..rows).step_by(ROWS) {
            let l = left.as_ptr().add(row * left_stride);
            let o = out.as_mut_ptr().add(row * stride);
            let mut c = 0;
            while c + 2 * V::LANES <= stride {
                block::<V, 2>(depth, left_stride, stride, l, right.as_ptr().add(c), o.add(c));
                c += 2 * V::LANES;
            }
            if c < stride {
                block::<V, 1>(depth, left_stride, stride, l, right.as_ptr().add(c), o.add(c));
            }
        }
    }
}
shells! {
    /// The product of two padded row-major matrices; see the module's source for the layout.
    pub(crate) fn run_product(rows: usize, depth: usize, left_stride: usize, stride: usize, left: &[T], right: &[T], out: &mut [T]) = product
}

/// Eight rows by `C` vectors, accumulated in registers over the whole depth.
#[inline(always)]
unsafe fn block<V: Vector, const C: usize>(
    depth: usize,
    left_stride: usize,
    stride: usize,
    left: *const V::Elem,
    right: *const V::Elem,
    out: *mut V::Elem,
) {
    // SAFETY: the contract of `product`.
    unsafe {
        let mut acc = [[V::splat(V::Elem::ZERO); C]; ROWS];
        for k in 0..depth {
            let mut y = [V::splat(V::Elem::ZERO); C];
            for c in 0..C {
                y[c] = V::load(right.add(k * stride + c * V::LANES));
            }
            for r in 0..ROWS {
                let x = V::splat(*left.add(r * left_stride + k));
                for c in 0..C {
                    acc[r][c] = y[c].fma(x, acc[r][c]);
                }
            }
        }
        for r in 0..ROWS {
            for c in 0..C {
                acc[r][c].store(out.add(r * stride + c * V::LANES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    #[test]
    fn equals_the_definition_on_every_level() {
        let (rows, depth, left_stride, stride) = (16, 13, 15, 48);
        let left: Vec<f32> = (0..rows * left_stride).map(|i| (i % 17) as f32 - 8.0).collect();
        let right: Vec<f32> = (0..depth * stride).map(|i| (i % 11) as f32 - 5.0).collect();
        for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
            let mut out = vec![f32::NAN; rows * stride];
            // SAFETY: the sizes fit, the level is supported.
            unsafe { run_product(level, rows, depth, left_stride, stride, &left, &right, &mut out) };
            for i in 0..rows {
                for j in 0..stride {
                    let want: f32 =
                        (0..depth).map(|k| left[i * left_stride + k] * right[k * stride + j]).sum();
                    assert_eq!(out[i * stride + j], want, "{} ({i}, {j})", level.name());
                }
            }
        }
    }
}
