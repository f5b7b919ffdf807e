//! One query token against tokens that are bytes, which is what a first stage with one vector a text compares.
//!
//! A panel of queries would be fifteen sixteenths empty. Instead each token is multiplied by the one query, side by side;
//! the compiler makes vector instructions of the loop, on each instruction set. Sums of bytes are exact, and scaled as the
//! panels' are: a score has the same bits either way.

use super::form::{LaidOut, Scratch, dots};
use super::{Text, Values, quantise};
use crate::simd::Level;

pub(super) struct Single {
    level: Level,
    query: Vec<i16>,
    scale: f32,
}

impl Single {
    /// The query token, `query`, on a level that the processor has.
    pub fn new(level: Level, query: &[f32]) -> Self {
        let (codes, scales) = quantise(query, query.len());
        let scale = scales.first().copied().unwrap_or(0.0);
        Single { level, query: codes.into_iter().map(i16::from).collect(), scale }
    }
}

impl LaidOut for Single {
    fn best<'a>(
        &self,
        texts: &[Text<'a>],
        each: bool,
        _next: Option<Text<'a>>,
        scratch: &mut Scratch,
    ) -> bool {
        let mut check = 0.0;
        scratch.best.clear();
        for text in texts {
            let (codes, scales) = match text.values {
                Values::Int8 { codes, scales } => (codes, scales),
                _ => (&[][..], &[][..]),
            };
            let sums = &mut scratch.sums;
            sums.clear();
            sums.resize(text.tokens, 0);
            match self.level {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the level is one that the processor has.
                Level::Avx512 => unsafe { super::x86::dots_avx512(&self.query, codes, sums) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the level is one that the processor has.
                Level::Avx2 => unsafe { super::x86::dots_avx2(&self.query, codes, sums) },
                _ => dots(&self.query, codes, sums),
            }
            let products = sums.iter().zip(scales).map(|(sum, scale)| *sum as f32 * (scale * self.scale));
            let start = scratch.best.len();
            scratch.best.extend(products);
            for product in &scratch.best[start..] {
                check += product * 0.0;
            }
            if !each {
                let best = scratch.best.drain(start..).fold(f32::NEG_INFINITY, f32::max);
                scratch.best.push(best);
            }
        }
        check == 0.0
    }
}
