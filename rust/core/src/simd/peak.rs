//! How many multiply-adds this machine can do: the yardstick of the benchmarks.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use super::{Float, Level, Vector, level, shells};
/// Independent chains, enough to hide the latency of two multiply-add units.
const CHAINS: usize = 12;

/// `rounds` dependent multiply-adds in each of [`CHAINS`] vectors, all in registers.
#[inline(always)]
unsafe fn chains<V: Vector>(rounds: usize, x: V::Elem) -> V::Elem {
    // SAFETY: no memory is touched; the shell has the instructions.
    unsafe {
        let (a, b) = (V::splat(x), V::splat(V::Elem::of(1e-3)));
        let mut acc = [V::splat(V::Elem::ONE); CHAINS];
        for _ in 0..rounds {
            for c in &mut acc {
                *c = c.fma(a, b);
            }
        }
        let mut sum = acc[0];
        for c in &acc[1..] {
            sum = sum.add(*c);
        }
        sum.sum()
    }
}
shells! { fn run_chains(rounds: usize, x: T) -> T = chains }

fn lanes(level: Level) -> usize {
    match level {
        Level::Portable => <f32 as Float>::Portable::LANES,
        Level::Avx2 => 8,
        Level::Avx512 => 16,
    }
}

/// Single-precision multiply-adds per second over all threads, with the vectors in use: the best of
/// a few short runs.
pub fn multiply_adds_per_second() -> f64 {
    let (level, threads, rounds) = (level(), rayon::current_num_threads(), 2_000_000);
    let run = || {
        let began = Instant::now();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            // SAFETY: `level` is supported.
            black_box(unsafe { run_chains::<f32>(level, rounds, black_box(0.999)) });
        });
        began.elapsed().as_secs_f64()
    };
    let best = (0..8).map(|_| run()).fold(f64::INFINITY, f64::min);
    (threads * rounds * CHAINS * lanes(level)) as f64 / best
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_a_plausible_number() {
        let rate = super::multiply_adds_per_second();
        assert!(rate > 1e7 && rate < 1e14, "{rate}");
    }
}
