//! Products of query and document tokens as bytes: exact integers, scaled at the end.

use std::ops::Range;

use crate::simd::Level;

/// Tokens in one panel: two of the widest vectors of 32-bit sums.
const PANEL: usize = 32;
/// Bytes of a token that one instruction multiplies and adds up.
const GROUP: usize = 4;

/// Tokens as bytes and scales: `code = round(x / scale)` with `scale = max |x| / 127`, so that each
/// number is off by at most half a scale. A token of zeros has scale 0.
pub fn quantise(values: &[f32], dim: usize) -> (Vec<i8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(values.len());
    let mut scales = Vec::with_capacity(values.len().checked_div(dim).unwrap_or(0));
    for token in values.chunks_exact(dim.max(1)) {
        let largest = token.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = largest / 127.0;
        let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        codes.extend(token.iter().map(|x| (x * factor).round().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    (codes, scales)
}

/// All query tokens as bytes: panel p holds tokens `PANEL·p ..`, as (groups × PANEL × GROUP).
pub(super) struct Panels {
    dim: usize,
    groups: usize,
    codes: Vec<i8>,
    /// The sum of each token's codes.
    sums: Vec<i32>,
    scales: Vec<f32>,
    count: usize,
}

impl Panels {
    pub fn new(queries: &[f32], dim: usize) -> Self {
        let (codes, scales) = quantise(queries, dim);
        let (groups, count) = (dim.div_ceil(GROUP), scales.len().div_ceil(PANEL));
        let mut panels = Panels {
            dim,
            groups,
            codes: vec![0; count * groups * PANEL * GROUP],
            sums: vec![0; count * PANEL],
            scales,
            count,
        };
        panels.scales.resize(count * PANEL, 0.0);
        for (t, token) in codes.chunks_exact(dim.max(1)).enumerate() {
            let panel = &mut panels.codes[t / PANEL * groups * PANEL * GROUP..];
            for (k, code) in token.iter().enumerate() {
                panel[(k / GROUP * PANEL + t % PANEL) * GROUP + k % GROUP] = *code;
            }
            panels.sums[t] = token.iter().map(|c| i32::from(*c)).sum();
        }
        panels
    }

    /// Tokens, with those that fill the last panel.
    pub fn tokens(&self) -> usize {
        self.count * PANEL
    }

    /// As [`super::floats::Panels::best`]; `buffer` is memory for a block whose tokens are not whole
    /// groups.
    pub fn best(
        &self,
        level: Level,
        codes: &[i8],
        scales: &[f32],
        texts: impl ExactSizeIterator<Item = Range<usize>> + Clone,
        buffer: &mut Vec<i8>,
        best: &mut Vec<f32>,
    ) {
        let (stride, width) = (self.groups * GROUP, self.tokens());
        let codes = if stride == self.dim {
            codes
        } else {
            buffer.clear();
            buffer.resize(scales.len() * stride, 0);
            for (to, from) in buffer.chunks_exact_mut(stride).zip(codes.chunks_exact(self.dim)) {
                to[..self.dim].copy_from_slice(from);
            }
            buffer
        };
        best.clear();
        best.resize(texts.len() * width, f32::NEG_INFINITY);
        for p in 0..self.count {
            let tokens = p * PANEL..(p + 1) * PANEL;
            let panel = Panel {
                codes: &self.codes[tokens.start * stride..tokens.end * stride],
                sums: &self.sums[tokens.clone()],
                scales: &self.scales[tokens],
            };
            for (k, text) in texts.clone().enumerate() {
                let best = &mut best[k * width + p * PANEL..][..PANEL];
                let bytes = &codes[text.start * stride..text.end * stride];
                // With the first panel a block comes from memory, with the others from the cache.
                run_panel(level, self.groups, &panel, bytes, &scales[text], p == 0, best);
            }
        }
    }
}

struct Panel<'a> {
    codes: &'a [i8],
    sums: &'a [i32],
    scales: &'a [f32],
}

/// `best = max(best, scaled sums of token · panel)` over all tokens of a text, lane by lane.
fn run_panel(
    level: Level,
    groups: usize,
    panel: &Panel<'_>,
    text: &[i8],
    scales: &[f32],
    fetch: bool,
    best: &mut [f32],
) {
    assert!(panel.codes.len() >= groups * PANEL * GROUP && panel.sums.len() >= PANEL);
    assert!(panel.scales.len() >= PANEL && best.len() >= PANEL);
    assert!(text.len() == scales.len() * groups * GROUP);
    #[cfg(target_arch = "x86_64")]
    {
        if level == Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the instructions are there, and the sizes are as asserted.
            return unsafe {
                if fetch {
                    vnni::panel::<true>(groups, panel, text, scales, best)
                } else {
                    vnni::panel::<false>(groups, panel, text, scales, best)
                }
            };
        }
        if level >= Level::Avx2 {
            #[target_feature(enable = "avx2,fma")]
            fn avx2(groups: usize, panel: &Panel<'_>, text: &[i8], scales: &[f32], best: &mut [f32]) {
                plain(groups, panel, text, scales, best);
            }
            // SAFETY: a level is used only where its instructions are there.
            return unsafe { avx2(groups, panel, text, scales, best) };
        }
    }
    let _ = (level, fetch);
    plain(groups, panel, text, scales, best);
}

/// The contract, in plain Rust.
#[inline(always)]
fn plain(groups: usize, panel: &Panel<'_>, text: &[i8], scales: &[f32], best: &mut [f32]) {
    let stride = groups * GROUP;
    for (token, scale) in text.chunks_exact(stride.max(1)).zip(scales) {
        let mut sums: [i32; PANEL] = [0; PANEL];
        for (bytes, lanes) in token.chunks_exact(GROUP).zip(panel.codes.chunks_exact(PANEL * GROUP)) {
            for (sum, codes) in sums.iter_mut().zip(lanes.chunks_exact(GROUP)) {
                for k in 0..GROUP {
                    *sum += i32::from(bytes[k]) * i32::from(codes[k]);
                }
            }
        }
        for lane in 0..PANEL {
            let product = sums[lane] as f32 * (scale * panel.scales[lane]);
            best[lane] = best[lane].max(product);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::*;

    use super::super::{AHEAD, LINE, even_blocks, fetch};
    use super::{GROUP, PANEL, Panel};

    const OFFSET: i32 = 128;

    /// # Safety
    /// AVX-512 with VNNI; the sizes that `run_panel` asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn panel<const FETCH: bool>(
        groups: usize,
        panel: &Panel<'_>,
        text: &[i8],
        scales: &[f32],
        best: &mut [f32],
    ) {
        let (tokens, stride) = (scales.len(), groups * GROUP);
        // SAFETY: `rows` reads as many whole tokens and scales as the block has.
        unsafe {
            for (t, count) in even_blocks(tokens) {
                let (text, scales) = (text.as_ptr().add(t * stride), scales.as_ptr().add(t));
                by_count!(count, R => rows::<R, FETCH>(groups, panel, text, scales, best));
            }
        }
    }

    /// `R` tokens against the two vectors of query tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn rows<const R: usize, const FETCH: bool>(
        groups: usize,
        panel: &Panel<'_>,
        text: *const i8,
        scales: *const f32,
        best: &mut [f32],
    ) {
        // SAFETY: the contract of `panel`.
        unsafe {
            // The instruction takes one side without sign: documents have OFFSET added, by flipping the
            // highest bit, and the sums begin with what that adds taken off.
            let begin = |at: *const i32| {
                _mm512_mullo_epi32(_mm512_loadu_si512(at.cast()), _mm512_set1_epi32(-OFFSET))
            };
            let flip = _mm512_set1_epi8(OFFSET as i8);
            let mut sums = [[begin(panel.sums.as_ptr()), begin(panel.sums.as_ptr().add(16))]; R];
            let codes = panel.codes.as_ptr();
            for g in 0..groups {
                // Where R more groups are the first to reach another line.
                if FETCH && g * R % (LINE / GROUP) < R {
                    fetch(text.wrapping_add(GROUP * (AHEAD * R * groups + g * R)));
                }
                let at = codes.add(g * PANEL * GROUP);
                let query = [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast())];
                for r in 0..R {
                    let four = text.add((r * groups + g) * GROUP).cast::<i32>().read_unaligned();
                    let four = _mm512_xor_si512(_mm512_set1_epi32(four), flip);
                    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], four, query[0]);
                    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], four, query[1]);
                }
            }
            for half in 0..2 {
                let to = best.as_mut_ptr().add(16 * half);
                let own = _mm512_loadu_ps(panel.scales.as_ptr().add(16 * half));
                let mut top = _mm512_loadu_ps(to);
                for r in 0..R {
                    let scale = _mm512_mul_ps(_mm512_set1_ps(*scales.add(r)), own);
                    top = _mm512_max_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][half]), scale), top);
                }
                _mm512_storeu_ps(to, top);
            }
        }
    }
}
