//! Fixed-dimensional encodings of texts (MUVERA; Dhulipala et al., arXiv 2405.19504), whose dot products approximate
//! MaxSim.
//!
//! ```text
//! part(x)  = signs of k_sim random projections of a token x, a number below 2^k_sim
//! query    : block p = Σ x over the tokens of part p
//! document : block p = mean of x over the tokens of part p, or, where there are none, the token whose signs differ
//!            from those of p in the fewest places (of several the first)
//! ```
//!
//! Each block is sketched to `dim_proj` numbers (number k of a token is added to number h(k) with sign s(k), both
//! random), and the whole is done `r_reps` times with other projections: an encoding has
//! r_reps · 2^k_sim · dim_proj numbers.
//!
//! **The same bits on every machine.** Random numbers come from a counter (SplitMix64): projections are sums of twelve
//! uniform integers, which are nearly normal and exact as floats. Sums run over a token's numbers in their order, one
//! after the other; what is vectorised are the independent ones beside them.

use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use super::{Ragged, Values};
use crate::{Error, Result, error::proceed};

/// Which encoding is made.
#[derive(Clone, Copy, Debug)]
pub struct Muvera {
    /// Random projections whose signs say a token's part, up to 16.
    pub k_sim: u32,
    /// Numbers that a block is sketched to; a token's own, if it is that many or more.
    pub dim_proj: usize,
    /// Repetitions.
    pub r_reps: usize,
    /// Of all random numbers.
    pub seed: u64,
}

/// Which side a text is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Sums.
    Query,
    /// Means, and no block is empty.
    Document,
}

/// The largest `k_sim`.
const MOST_BITS: u32 = 16;

/// Random numbers by their place.
fn random(seed: u64, place: u64) -> u64 {
    let mut z = seed ^ place.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Nearly normal: a sum of twelve integers of 16 bits, less its mean, is exact.
fn normal(seed: u64, place: u64) -> f32 {
    let sum: u64 = (0..3)
        .map(|part| random(seed, 3 * place + part))
        .map(|bits| (0..4).map(|i| (bits >> (16 * i)) & 0xFFFF).sum::<u64>())
        .sum();
    (sum as f32 - 12.0 * 32767.5) / 65536.0
}

/// Projections and sketches of all repetitions.
struct Drawn {
    /// (dim × planes): side by side what is summed at a time.
    planes: Vec<f32>,
    /// (r_reps × dim): the number that a token's number is added to, and its sign.
    sketch: Vec<(u32, f32)>,
}

impl Muvera {
    /// Numbers of an encoding of texts of dimension `dim`.
    ///
    /// # Errors
    /// Settings below 1, `k_sim` above 16, or more numbers than 2²⁴.
    pub fn dimension(&self, dim: usize) -> Result<usize> {
        let block = self.block(dim);
        let numbers = (self.k_sim <= MOST_BITS)
            .then(|| block.checked_mul(1 << self.k_sim)?.checked_mul(self.r_reps))
            .flatten();
        match numbers {
            Some(numbers) if (1..=1 << 24).contains(&numbers) && self.k_sim > 0 => Ok(numbers),
            _ => Err(Error::Argument(format!(
                "muvera: expected k_sim from 1 to {MOST_BITS}, and dim_proj and r_reps from 1, with at most 2^24 numbers \
                 in all, got {}, {} and {}",
                self.k_sim, self.dim_proj, self.r_reps
            ))),
        }
    }

    fn block(&self, dim: usize) -> usize {
        self.dim_proj.min(dim)
    }

    fn draw(&self, dim: usize) -> Drawn {
        let planes = self.r_reps * self.k_sim as usize;
        let block = self.block(dim);
        let (of_planes, of_sketch) = (random(self.seed, 0), random(self.seed, 1));
        Drawn {
            planes: (0..dim * planes).map(|place| normal(of_planes, place as u64)).collect(),
            sketch: (0..self.r_reps * dim)
                .map(|place| {
                    if block == dim {
                        return ((place % dim) as u32, 1.0);
                    }
                    let bits = random(of_sketch, place as u64);
                    let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
                    (((bits >> 1) % block as u64) as u32, sign)
                })
                .collect(),
        }
    }

    /// The encodings of `texts`, (texts × [`dimension`](Self::dimension)); zeros for a text without tokens.
    ///
    /// # Errors
    /// As [`dimension`](Self::dimension), numbers that are not finite or in another form than single precision, or
    /// `cancel` was set.
    pub fn encode(&self, texts: &Ragged<'_>, side: Side, cancel: Option<&AtomicBool>) -> Result<Vec<f32>> {
        let dim = texts.dim();
        let numbers = self.dimension(dim.max(1))?;
        texts.check_finite("texts", 0..texts.len())?;
        let drawn = self.draw(dim);
        let mut out = vec![0.0; texts.len() * numbers];
        out.par_chunks_exact_mut(numbers).enumerate().try_for_each_init(
            Scratch::default,
            |scratch, (i, out)| {
                proceed(cancel)?;
                match texts.text(i).values {
                    Values::F32(tokens) => self.encode_one(tokens, dim, side, &drawn, scratch, out),
                    _ => return Err(Error::Argument("texts: expected single precision".into())),
                }
                Ok(())
            },
        )?;
        Ok(out)
    }

    fn encode_one(
        &self,
        tokens: &[f32],
        dim: usize,
        side: Side,
        drawn: &Drawn,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let bits = self.k_sim as usize;
        let (planes, block, parts) = (self.r_reps * bits, self.block(dim), 1usize << bits);
        // The parts of each token, in every repetition.
        scratch.parts.clear();
        for token in tokens.chunks_exact(dim.max(1)) {
            scratch.sums.clear();
            scratch.sums.resize(planes, 0.0f32);
            for (x, row) in token.iter().zip(drawn.planes.chunks_exact(planes)) {
                scratch.sums.iter_mut().zip(row).for_each(|(sum, plane)| *sum += x * plane);
            }
            scratch.parts.extend(
                scratch
                    .sums
                    .chunks_exact(bits)
                    .map(|signs| signs.iter().fold(0u32, |part, sum| part << 1 | u32::from(*sum > 0.0))),
            );
        }
        if scratch.parts.is_empty() {
            return;
        }
        for (repetition, out) in out.chunks_exact_mut(block * parts).enumerate() {
            let sketch = &drawn.sketch[repetition * dim..][..dim];
            let mut add = |token: &[f32], part: usize| {
                let to = &mut out[part * block..][..block];
                token.iter().zip(sketch).for_each(|(x, (at, sign))| to[*at as usize] += x * sign);
            };
            let own = || scratch.parts.iter().skip(repetition).step_by(self.r_reps).copied();
            scratch.counts.clear();
            scratch.counts.resize(parts, 0u32);
            for (token, part) in tokens.chunks_exact(dim).zip(own()) {
                add(token, part as usize);
                scratch.counts[part as usize] += 1;
            }
            if side == Side::Query {
                continue;
            }
            for part in 0..parts {
                if scratch.counts[part] == 0 {
                    let nearest =
                        own().enumerate().min_by_key(|(_, other)| (other ^ part as u32).count_ones());
                    if let Some((token, _)) = nearest {
                        add(&tokens[token * dim..][..dim], part);
                    }
                }
            }
            for (to, count) in out.chunks_exact_mut(block).zip(&scratch.counts) {
                let share = 1.0 / (*count).max(1) as f32;
                to.iter_mut().for_each(|x| *x *= share);
            }
        }
    }
}

/// Memory of one thread, used again for the next text.
#[derive(Default)]
struct Scratch {
    sums: Vec<f32>,
    /// (tokens × r_reps).
    parts: Vec<u32>,
    counts: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ragged, texts};
    use super::*;

    const SMALL: Muvera = Muvera { k_sim: 3, dim_proj: 4, r_reps: 5, seed: 7 };

    #[test]
    fn random_numbers_are_pinned_and_nearly_normal() {
        assert_eq!(random(7, 0), random(7, 0));
        let drawn: Vec<f64> = (0..100_000).map(|i| f64::from(normal(3, i))).collect();
        let mean = drawn.iter().sum::<f64>() / 1e5;
        let variance = drawn.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn one_token_is_in_every_block_of_a_document_and_in_one_of_a_query() {
        let (values, offsets) = texts(1, &[1, 0, 4], 6);
        let given = ragged(Values::F32(&values), &offsets, 6);
        let all = SMALL.encode(&given, Side::Document, None).unwrap_or_default();
        let query = SMALL.encode(&given, Side::Query, None).unwrap_or_default();
        let numbers = 5 * 8 * 4;
        assert_eq!((all.len(), query.len()), (3 * numbers, 3 * numbers));
        for repetition in all[..numbers].chunks_exact(8 * 4) {
            assert!(repetition.chunks_exact(4).all(|block| block == &repetition[..4]));
        }
        for repetition in query[..numbers].chunks_exact(8 * 4) {
            assert_eq!(repetition.chunks_exact(4).filter(|block| block.iter().any(|x| *x != 0.0)).count(), 1);
        }
        assert!(all[numbers..2 * numbers].iter().all(|x| *x == 0.0), "a text without tokens");
        // A text's encoding does not depend on the others.
        let alone = ragged(Values::F32(&values[6..]), &[0, 4], 6);
        assert_eq!(SMALL.encode(&alone, Side::Document, None).unwrap_or_default(), all[2 * numbers..]);
    }

    #[test]
    fn settings_that_cannot_be() {
        for bad in [
            Muvera { k_sim: 0, ..SMALL },
            Muvera { k_sim: 17, ..SMALL },
            Muvera { r_reps: 0, ..SMALL },
            Muvera { dim_proj: 0, ..SMALL },
            Muvera { r_reps: usize::MAX, ..SMALL },
            Muvera { r_reps: 1 << 22, ..SMALL },
        ] {
            assert!(bad.dimension(6).is_err(), "{bad:?}");
        }
        assert_eq!(Muvera { dim_proj: 100, ..SMALL }.dimension(6), Ok(5 * 8 * 6));
    }
}
