//! Products of query and document tokens in bfloat16, by the instruction that multiplies pairs of them.

use std::ops::Range;

use half::bf16;

use crate::simd::Level;

/// Tokens in one panel: two of the widest vectors of sums.
const PANEL: usize = 32;
/// Numbers of a token that one instruction multiplies and adds up.
const PAIR: usize = 2;

/// Whether the processor has that instruction.
pub(super) fn supported(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        level == Level::Avx512 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = level;
        false
    }
}

/// All query tokens, rounded: panel p holds tokens `PANEL·p ..`, as (pairs × PANEL × PAIR).
pub(super) struct Panels {
    dim: usize,
    pairs: usize,
    values: Vec<bf16>,
    count: usize,
}

impl Panels {
    pub fn new(queries: &[f32], dim: usize) -> Self {
        let count = queries.len().checked_div(dim).unwrap_or(0).div_ceil(PANEL);
        let pairs = dim.div_ceil(PAIR);
        let mut values = vec![bf16::ZERO; count * pairs * PANEL * PAIR];
        for (t, token) in queries.chunks_exact(dim.max(1)).enumerate() {
            let panel = &mut values[t / PANEL * pairs * PANEL * PAIR..];
            for (k, x) in token.iter().enumerate() {
                panel[(k / PAIR * PANEL + t % PANEL) * PAIR + k % PAIR] = bf16::from_f32(*x);
            }
        }
        Panels { dim, pairs, values, count }
    }

    /// Tokens, with those that fill the last panel.
    pub fn tokens(&self) -> usize {
        self.count * PANEL
    }

    /// As [`super::floats::Panels::best`], where the level is [`supported`]; `buffer` is memory for a block
    /// whose tokens are not whole pairs.
    #[cfg(target_arch = "x86_64")]
    pub fn best(
        &self,
        values: &[bf16],
        texts: impl ExactSizeIterator<Item = Range<usize>> + Clone,
        buffer: &mut Vec<bf16>,
        best: &mut Vec<f32>,
    ) {
        let (stride, width) = (self.pairs * PAIR, self.tokens());
        let values = if stride == self.dim {
            values
        } else {
            buffer.clear();
            for token in values.chunks_exact(self.dim) {
                buffer.extend_from_slice(token);
                buffer.push(bf16::ZERO);
            }
            buffer
        };
        best.clear();
        best.resize(texts.len() * width, f32::NEG_INFINITY);
        for (p, panel) in self.values.chunks_exact((stride * PANEL).max(1)).enumerate() {
            for (k, text) in texts.clone().enumerate() {
                let best = &mut best[k * width + p * PANEL..][..PANEL];
                let text = &values[text.start * stride..text.end * stride];
                assert!(panel.len() == self.pairs * PANEL * PAIR && best.len() == PANEL);
                // SAFETY: panels of this kind are made where the instruction is there; sizes as asserted, and
                // the text is whole tokens of so many pairs.
                unsafe {
                    // With the first panel a block comes from memory, with the others from the cache.
                    if p == 0 {
                        pairs::panel::<true>(self.pairs, panel, text, best);
                    } else {
                        pairs::panel::<false>(self.pairs, panel, text, best);
                    }
                }
            }
        }
    }

    /// There is no such instruction here, and so no panels of this kind.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn best(
        &self,
        _: &[bf16],
        _: impl ExactSizeIterator<Item = Range<usize>> + Clone,
        _: &mut Vec<bf16>,
        _: &mut Vec<f32>,
    ) {
    }
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use half::bf16;

    use super::super::{AHEAD, LINE, even_blocks, fetch};
    use super::{PAIR, PANEL};

    /// `best = max(best, token · panel)` over all tokens of a text, lane by lane.
    ///
    /// # Safety
    /// AVX-512 with BF16; the panel is pairs × PANEL × PAIR, the text whole tokens of so many pairs, and
    /// best has PANEL elements.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn panel<const FETCH: bool>(pairs: usize, panel: &[bf16], text: &[bf16], best: &mut [f32]) {
        let stride = pairs * PAIR;
        // SAFETY: `rows` reads as many whole tokens as the block has.
        unsafe {
            for (t, count) in even_blocks(text.len().checked_div(stride).unwrap_or(0)) {
                let text = text.as_ptr().add(t * stride);
                by_count!(count, R => rows::<R, FETCH>(pairs, panel, text, best));
            }
        }
    }

    /// `R` tokens against the two vectors of query tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn rows<const R: usize, const FETCH: bool>(
        pairs: usize,
        panel: &[bf16],
        text: *const bf16,
        best: &mut [f32],
    ) {
        // SAFETY: the contract of `panel`; __m512i and __m512bh are the same bits.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            let panel = panel.as_ptr();
            for g in 0..pairs {
                // Where R more pairs are the first to reach another line.
                if FETCH && g * R % (LINE / (PAIR * size_of::<bf16>())) < R {
                    fetch(text.wrapping_add(PAIR * (AHEAD * R * pairs + g * R)));
                }
                let at = panel.add(g * PANEL * PAIR);
                let query: [__m512bh; 2] = [
                    transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())),
                    transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.add(PANEL).cast())),
                ];
                for r in 0..R {
                    let pair = text.add((r * pairs + g) * PAIR).cast::<i32>().read_unaligned();
                    let pair = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
                    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], pair, query[0]);
                    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], pair, query[1]);
                }
            }
            for half in 0..2 {
                let to = best.as_mut_ptr().add(16 * half);
                let mut top = _mm512_loadu_ps(to);
                for r in 0..R {
                    top = _mm512_max_ps(sums[r][half], top);
                }
                _mm512_storeu_ps(to, top);
            }
        }
    }
}
