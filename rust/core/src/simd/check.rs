//! The first-use check of a shell: every method of [`Vector`], the transpose and the product, on fixed numbers,
//! against the portable shell.

use super::matmul::run_product;
use super::{Float, Level, ROWS, Vector, settle, shells};

/// Numbers of each row that is worked on: a multiple of every vector's.
const WIDTH: usize = 48;
/// Sides of the square that is transposed.
const SQUARE: usize = 16;

/// Numbers that begin on a cache line.
#[repr(align(64))]
struct Lines<T>([T; WIDTH]);

/// Whether a shell's answers agree with those of the portable one, for both types of numbers.
pub(super) fn agrees_with_portable(level: Level) -> bool {
    agree(&answers::<f32>(level), &answers::<f32>(Level::Portable), 1e-5)
        && agree(&answers::<f64>(level), &answers::<f64>(Level::Portable), 1e-12)
}

fn agree<T: Float>(answers: &[T], contract: &[T], tolerance: f64) -> bool {
    // Sums that cancel are off by what their terms, some of which are larger than 1, are rounded by.
    let near = |x: f64, y: f64| x == y || (x - y).abs() <= tolerance * y.abs().max(1.0);
    answers.len() == contract.len() && answers.iter().zip(contract).all(|(x, y)| near(x.double(), y.double()))
}

fn answers<T: Float>(level: Level) -> Vec<T> {
    // Of both signs, with whole numbers and fractions, and some far from 1.
    let number = |i: usize| ((7 * i + 3) % 41) as f64 / 4.0 - 5.0 + [0.0, 1e-3, 0.3][i % 3];
    let x: Vec<T> = (0..SQUARE * WIDTH).map(|i| T::of(number(i))).collect();
    let y: Vec<T> = (0..SQUARE * WIDTH).map(|i| T::of(number(3 * i + 1).abs() + 0.125)).collect();
    let mut out = vec![T::ZERO; 13 * WIDTH + SQUARE * SQUARE + ROWS + 3];
    let mut product = vec![T::ZERO; ROWS * WIDTH];
    // SAFETY: the level is supported, and the sizes are those that both kernels assert.
    unsafe {
        run_every_method(level, &x, &y, &mut out);
        run_product(level, ROWS, SQUARE, WIDTH, WIDTH, &x, &y, &mut product);
    }
    out.extend(product);
    out
}

#[inline(always)]
unsafe fn every_method<V: Vector>(x: &[V::Elem], y: &[V::Elem], out: &mut [V::Elem]) {
    assert!(x.len() >= SQUARE * WIDTH && y.len() >= SQUARE * WIDTH);
    assert!(out.len() >= 13 * WIDTH + SQUARE * SQUARE + ROWS + 3 && WIDTH.is_multiple_of(V::LANES));
    // SAFETY: every load and store lies within the sizes asserted; the shell has the instructions.
    unsafe {
        let (zero, mut at) = (V::splat(V::Elem::ZERO), 0);
        let mut streamed = Lines([V::Elem::ZERO; WIDTH]);
        for c in (0..WIDTH).step_by(V::LANES) {
            let (p, q) = (V::load(x.as_ptr().add(c)), V::load(y.as_ptr().add(c)));
            let whole = p.round();
            let (exponent, mantissa) = q.split();
            let results = [
                p.add(q),
                p.sub(q),
                p.mul(q),
                p.div(q),
                p.max(q),
                p.min(q),
                p.fma(q, whole),
                q.scale(whole),
                exponent.add(mantissa),
                p.keep_ge(q, V::splat(V::Elem::ONE)),
                p.exp2(),
                q.ln(),
            ];
            for (k, result) in results.into_iter().enumerate() {
                result.store(out.as_mut_ptr().add(k * WIDTH + c));
            }
            p.stream(streamed.0.as_mut_ptr().add(c));
        }
        settle();
        at += 12 * WIDTH;
        out[at..at + WIDTH].copy_from_slice(&streamed.0);
        at += WIDTH;
        for i in (0..SQUARE).step_by(V::LANES) {
            for j in (0..SQUARE).step_by(V::LANES) {
                let (from, to) = (x.as_ptr().add(i * WIDTH + j), out.as_mut_ptr().add(at + j * SQUARE + i));
                V::transpose(from, WIDTH, to, SQUARE);
            }
        }
        at += SQUARE * SQUARE;
        let mut rows = [zero; ROWS];
        let (mut low, mut high, mut total) = (V::Elem::INFINITY, V::Elem::NEG_INFINITY, V::Elem::ZERO);
        for c in (0..WIDTH).step_by(V::LANES) {
            for (r, row) in rows.iter_mut().enumerate() {
                *row = row.add(V::load(x.as_ptr().add(r * WIDTH + c)));
            }
            let p = V::load(x.as_ptr().add(c));
            (low, high) = (low.min(p.smallest()), high.max(p.largest()));
            total += p.sum();
        }
        out[at..at + ROWS].copy_from_slice(&V::sum8(rows));
        out[at + ROWS..at + ROWS + 3].copy_from_slice(&[low, high, total]);
    }
}
shells! { fn run_every_method(x: &[T], y: &[T], out: &mut [T]) = every_method }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_agrees() {
        for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
            assert!(agrees_with_portable(level), "{level:?}");
        }
    }

    #[test]
    fn a_lying_shell_is_noticed() {
        let truth = answers::<f32>(Level::Portable);
        for k in (0..truth.len()).step_by(37) {
            let mut lie = truth.clone();
            lie[k] = lie[k] * 1.001 + 1e-4;
            assert!(agree(&truth, &truth, 1e-5) && !agree(&lie, &truth, 1e-5), "{k}");
        }
        assert!(!agree(&truth[1..], &truth, 1e-5));
    }
}
