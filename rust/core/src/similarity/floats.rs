//! Products of query and document tokens in single precision.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{AHEAD, LINE, even_blocks, fetch};
use crate::simd::{Float, Level, Vector, shells};

/// Tokens in one panel: two of the widest vectors.
pub(super) const PANEL: usize = 32;

/// All query tokens, transposed: panel p holds tokens `PANEL·p ..`, as (dim × PANEL).
pub(super) struct Panels {
    dim: usize,
    values: Vec<f32>,
    pub count: usize,
}

impl Panels {
    pub fn new(queries: &[f32], dim: usize) -> Self {
        let count = queries.len().checked_div(dim).unwrap_or(0).div_ceil(PANEL);
        let mut values = vec![0.0; count * dim * PANEL];
        for (t, token) in queries.chunks_exact(dim.max(1)).enumerate() {
            let panel = &mut values[t / PANEL * dim * PANEL..];
            token.iter().enumerate().for_each(|(k, x)| panel[k * PANEL + t % PANEL] = *x);
        }
        Panels { dim, values, count }
    }

    /// The panels, dim × PANEL numbers each.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact((self.dim * PANEL).max(1))
    }

    /// Tokens, with those that fill the last panel.
    pub fn tokens(&self) -> usize {
        self.count * PANEL
    }

    /// `best[text][token]`: the largest product of each query token with a token of each text, whose
    /// rows of `values` are given.
    pub fn best(
        &self,
        level: Level,
        values: &[f32],
        texts: impl ExactSizeIterator<Item = Range<usize>> + Clone,
        best: &mut Vec<f32>,
    ) {
        let (dim, width) = (self.dim, self.tokens());
        best.clear();
        best.resize(texts.len() * width, f32::NEG_INFINITY);
        for (p, panel) in self.iter().enumerate() {
            for (k, text) in texts.clone().enumerate() {
                let best = &mut best[k * width + p * PANEL..][..PANEL];
                let text = &values[text.start * dim..text.end * dim];
                // SAFETY: the level is supported; the panel is dim × PANEL, best has PANEL elements.
                unsafe {
                    // With the first panel a block comes from memory, with the others from the cache.
                    if p == 0 {
                        run_first_panel::<f32>(level, dim, panel, text, best);
                    } else {
                        run_panel::<f32>(level, dim, panel, text, best);
                    }
                }
            }
        }
    }
}

impl Panels {
    /// As [`Panels::best`] where there is one panel, for documents in half precision: each text is made floats
    /// in `buffer`, which stay in the level-1 cache, while the next one is asked for.
    pub fn best_of_halves(
        &self,
        level: Level,
        values: &[f16],
        texts: impl ExactSizeIterator<Item = Range<usize>>,
        buffer: &mut Vec<f32>,
        best: &mut Vec<f32>,
    ) {
        let (dim, width) = (self.dim, self.tokens());
        best.clear();
        best.resize(texts.len() * width, f32::NEG_INFINITY);
        for (text, best) in texts.zip(best.chunks_exact_mut(width.max(1))) {
            let (own, next) = values.split_at(text.end * dim);
            let own = &own[text.start * dim..];
            // Texts that follow each other are about as long.
            for line in next[..own.len().min(next.len())].chunks(LINE / size_of::<f16>()) {
                fetch(line.as_ptr());
            }
            buffer.resize(own.len(), 0.0);
            own.convert_to_f32_slice(buffer);
            for (panel, best) in self.iter().zip(best.chunks_exact_mut(PANEL)) {
                // SAFETY: the level is supported; the panel is dim × PANEL, best has PANEL elements.
                unsafe { run_panel::<f32>(level, dim, panel, buffer, best) };
            }
        }
    }
}

/// `best = max(best, token · panel)` over all tokens of a text, lane by lane.
#[inline(always)]
unsafe fn any_panel<V: Vector, const FETCH: bool>(
    dim: usize,
    panel: &[V::Elem],
    text: &[V::Elem],
    best: &mut [V::Elem],
) {
    debug_assert!(panel.len() >= dim * PANEL && best.len() >= PANEL);
    let tokens = text.len().checked_div(dim).unwrap_or(0);
    // SAFETY: sizes as asserted; `rows` reads as many whole tokens as the block has.
    unsafe {
        for lane in (0..PANEL).step_by(2 * V::LANES) {
            let (panel, best) = (panel.as_ptr().add(lane), best.as_mut_ptr().add(lane));
            for (t, count) in even_blocks(tokens) {
                let text = text.as_ptr().add(t * dim);
                by_count!(count, R => rows::<V, R, FETCH>(dim, panel, text, best));
            }
        }
    }
}

#[inline(always)]
unsafe fn panel<V: Vector>(dim: usize, panel: &[V::Elem], text: &[V::Elem], best: &mut [V::Elem]) {
    // SAFETY: the same contract.
    unsafe { any_panel::<V, false>(dim, panel, text, best) }
}
shells! { fn run_panel(dim: usize, values: &[T], text: &[T], best: &mut [T]) = panel }

#[inline(always)]
unsafe fn first_panel<V: Vector>(dim: usize, panel: &[V::Elem], text: &[V::Elem], best: &mut [V::Elem]) {
    // SAFETY: the same contract.
    unsafe { any_panel::<V, true>(dim, panel, text, best) }
}
shells! { fn run_first_panel(dim: usize, values: &[T], text: &[T], best: &mut [T]) = first_panel }

/// `R` tokens against two vectors of query tokens. With `FETCH` the tokens that come next are asked for
/// meanwhile: a page's end stops the processor from doing so by itself.
#[inline(always)]
unsafe fn rows<V: Vector, const R: usize, const FETCH: bool>(
    dim: usize,
    panel: *const V::Elem,
    text: *const V::Elem,
    best: *mut V::Elem,
) {
    // SAFETY: the contract of `panel`.
    unsafe {
        let mut acc = [[V::splat(V::Elem::ZERO); 2]; R];
        for k in 0..dim {
            // Where R more numbers are the first to reach another line.
            if FETCH && k * R % (LINE / size_of::<V::Elem>()) < R {
                fetch(text.wrapping_add(AHEAD * R * dim + k * R));
            }
            let q = [V::load(panel.add(k * PANEL)), V::load(panel.add(k * PANEL + V::LANES))];
            for r in 0..R {
                let d = V::splat(*text.add(r * dim + k));
                acc[r][0] = q[0].fma(d, acc[r][0]);
                acc[r][1] = q[1].fma(d, acc[r][1]);
            }
        }
        let mut top = [V::load(best), V::load(best.add(V::LANES))];
        for r in 0..R {
            top[0] = acc[r][0].max(top[0]);
            top[1] = acc[r][1].max(top[1]);
        }
        top[0].store(best);
        top[1].store(best.add(V::LANES));
    }
}
