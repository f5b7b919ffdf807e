//! Exact late-interaction scores (MaxSim; Khattab & Zaharia, SIGIR 2020) over ragged tokens.
//!
//! ```text
//! score(query, document) = Σ_q max_d <q, d>     over the real tokens of both
//! ```
//!
//! The tokens of all queries are transposed once into panels of two vectors, one token per lane.
//! Documents are then read as they lie in memory: a panel's running maxima stay in registers, and
//! the similarity matrix is never stored.
//!
//! ```
//! use optical_core::similarity::{Ragged, maxsim};
//!
//! let queries = Ragged::new(&[1.0, 0.0, 0.0, 1.0], &[0, 2], 2)?; // one query of two tokens
//! let documents = Ragged::new(&[1.0, 0.0, 0.6, 0.8], &[0, 1, 2], 2)?; // two of one token
//! let mut scores = [0.0; 2];
//! maxsim(&queries, &documents, None, &mut scores)?;
//! assert!(scores[0] == 1.0 && (scores[1] - 1.4).abs() < 1e-6);
//! # Ok::<(), optical_core::Error>(())
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::simd::{self, Level, ROWS, Vector, shells};
use crate::{Error, Result, pool};

/// Texts as ragged token embeddings: text i has the rows `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    values: &'a [f32],
    offsets: &'a [i64],
    dim: usize,
}

impl<'a> Ragged<'a> {
    /// `values` is (tokens × dim), row-major; `offsets` has one entry more than there are texts.
    ///
    /// # Errors
    /// Offsets that do not start at 0, decrease, or do not end at the number of tokens.
    pub fn new(values: &'a [f32], offsets: &'a [i64], dim: usize) -> Result<Self> {
        let bad = |reason: String| Err(Error::Argument(format!("offsets: {reason}")));
        let tokens = values.len().checked_div(dim).unwrap_or(0);
        match (offsets.first(), offsets.last()) {
            (Some(0), Some(&last)) if usize::try_from(last) == Ok(tokens) => {}
            _ => {
                return bad(format!("expected to start at 0 and end at the number of tokens, {tokens}"));
            }
        }
        if let Some(i) = offsets.windows(2).position(|w| w[0] > w[1]) {
            return bad(format!("expected to increase, got {} after {}", offsets[i + 1], offsets[i]));
        }
        Ok(Ragged { values, offsets, dim })
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn text(&self, i: usize) -> &'a [f32] {
        let (start, end) = (self.offsets[i] as usize, self.offsets[i + 1] as usize);
        &self.values[start * self.dim..end * self.dim]
    }
}

/// Tokens in one panel: two of the widest vectors.
const PANEL: usize = 32;
/// Floats of documents that a task goes through with one panel after another: half of a level-2
/// cache, so that they are read from memory once.
const BLOCK: usize = 64 * 1024;

/// Scores of every query against every document, row-major (queries × documents) into `scores`.
///
/// A query without tokens scores 0, a document without tokens −∞. A score depends on its query and
/// document alone (bitwise), not on the batch or the number of threads.
///
/// # Errors
/// Different dimensions, an output of the wrong size, or `cancel` set by another thread.
pub fn maxsim(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    cancel: Option<&AtomicBool>,
    scores: &mut [f32],
) -> Result<()> {
    if queries.dim != documents.dim {
        return Err(Error::Argument(format!(
            "documents: expected dimension {}, as the queries have, got {}",
            queries.dim, documents.dim
        )));
    }
    if scores.len() != queries.len() * documents.len() {
        return Err(Error::Argument(format!(
            "scores: expected {} x {} elements, got {}",
            queries.len(),
            documents.len(),
            scores.len()
        )));
    }
    if scores.is_empty() {
        return Ok(());
    }
    let level = simd::level();
    let panels = Panels::new(queries);
    // Documents are cut into blocks of about BLOCK floats; each block's columns are one task.
    let mut cuts = vec![0];
    let mut last = 0;
    for i in 0..documents.len() {
        let end = documents.offsets[i + 1] as usize;
        if (end - last) * documents.dim >= BLOCK {
            cuts.push(i + 1);
            last = end;
        }
    }
    if cuts.last() != Some(&documents.len()) {
        cuts.push(documents.len());
    }
    let blocks: Vec<(usize, Vec<f32>)> = pool::run(|| {
        cuts.par_windows(2)
            .map(|cut| {
                let stop = cancel.is_some_and(|flag| flag.load(Ordering::Relaxed));
                (cut[0], if stop { Vec::new() } else { panels.score(level, documents, cut[0]..cut[1]) })
            })
            .collect()
    });
    if cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        return Err(Error::Interrupted);
    }
    let width = documents.len();
    for (first, block) in blocks {
        let count = block.len() / queries.len();
        for (row, part) in scores.chunks_exact_mut(width).zip(block.chunks_exact(count)) {
            row[first..first + count].copy_from_slice(part);
        }
    }
    Ok(())
}

/// All query tokens, transposed: panel p holds tokens `PANEL·p ..`, as (dim × PANEL).
struct Panels<'a> {
    queries: &'a Ragged<'a>,
    values: Vec<f32>,
    count: usize,
}

impl<'a> Panels<'a> {
    fn new(queries: &'a Ragged<'a>) -> Self {
        let dim = queries.dim;
        let tokens = queries.values.len().checked_div(dim).unwrap_or(0);
        let count = tokens.div_ceil(PANEL);
        let mut values = vec![0.0; count * dim * PANEL];
        for (t, token) in queries.values.chunks_exact(dim.max(1)).enumerate() {
            let panel = &mut values[t / PANEL * dim * PANEL..];
            token.iter().enumerate().for_each(|(k, x)| panel[k * PANEL + t % PANEL] = *x);
        }
        Panels { queries, values, count }
    }

    /// Scores of a range of documents, row-major (queries × range).
    fn score(&self, level: Level, documents: &Ragged<'_>, range: std::ops::Range<usize>) -> Vec<f32> {
        let dim = documents.dim;
        let tokens = self.count * PANEL;
        // best[document][token]; summed per query once all panels are done.
        let mut best = vec![f32::NEG_INFINITY; range.len() * tokens];
        for p in 0..self.count {
            let panel = &self.values[p * dim * PANEL..][..dim * PANEL];
            for (k, document) in range.clone().enumerate() {
                let best = &mut best[k * tokens + p * PANEL..][..PANEL];
                // SAFETY: the level is supported; the panel is dim × PANEL, best has PANEL elements.
                unsafe { run_panel::<f32>(level, dim, panel, documents.text(document), best) }
            }
        }
        let mut scores = vec![0.0; self.queries.len() * range.len()];
        for q in 0..self.queries.len() {
            let (start, end) = (self.queries.offsets[q] as usize, self.queries.offsets[q + 1] as usize);
            for k in 0..range.len() {
                let own = &best[k * tokens..][start..end];
                let sum: f64 = own.iter().map(|x| f64::from(*x)).sum();
                scores[q * range.len() + k] = sum as f32;
            }
        }
        scores
    }
}

/// `best = max(best, token · panel)` over all tokens of a text, lane by lane.
#[inline(always)]
unsafe fn panel<V: Vector>(dim: usize, panel: &[V::Elem], text: &[V::Elem], best: &mut [V::Elem]) {
    debug_assert!(panel.len() >= dim * PANEL && best.len() >= PANEL);
    let tokens = text.len().checked_div(dim).unwrap_or(0);
    // SAFETY: sizes as asserted; `rows` reads R whole tokens, which the loops below leave in range.
    unsafe {
        for lane in (0..PANEL).step_by(2 * V::LANES) {
            let (panel, best) = (panel.as_ptr().add(lane), best.as_mut_ptr().add(lane));
            let mut t = 0;
            while t + ROWS <= tokens {
                rows::<V, ROWS>(dim, panel, text.as_ptr().add(t * dim), best);
                t += ROWS;
            }
            if t == tokens {
                continue;
            }
            if tokens >= ROWS {
                // A last, overlapping block: a maximum does not mind seeing a token twice.
                rows::<V, ROWS>(dim, panel, text.as_ptr().add((tokens - ROWS) * dim), best);
            } else {
                while t < tokens {
                    rows::<V, 1>(dim, panel, text.as_ptr().add(t * dim), best);
                    t += 1;
                }
            }
        }
    }
}
shells! { fn run_panel(dim: usize, values: &[T], text: &[T], best: &mut [T]) = panel }

/// `R` tokens against two vectors of query tokens.
#[inline(always)]
unsafe fn rows<V: Vector, const R: usize>(
    dim: usize,
    panel: *const V::Elem,
    text: *const V::Elem,
    best: *mut V::Elem,
) {
    use crate::simd::Float;
    // SAFETY: the contract of `panel`.
    unsafe {
        let mut acc = [[V::splat(V::Elem::ZERO); 2]; R];
        for k in 0..dim {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(seed: u32, lengths: &[usize], dim: usize) -> (Vec<f32>, Vec<i64>) {
        let mut x = seed.wrapping_mul(2654435761).wrapping_add(1);
        let total: usize = lengths.iter().sum();
        let values = (0..total * dim)
            .map(|_| {
                x = x.wrapping_mul(1664525).wrapping_add(1013904223);
                (x >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        let mut offsets = vec![0];
        lengths.iter().for_each(|l| offsets.push(offsets[offsets.len() - 1] + *l as i64));
        (values, offsets)
    }

    /// The definition, in doubles.
    fn brute(q: &Ragged<'_>, d: &Ragged<'_>) -> Vec<f64> {
        let dot =
            |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let mut out = Vec::new();
        for i in 0..q.len() {
            for j in 0..d.len() {
                let best = |t: &[f32]| {
                    d.text(j).chunks_exact(d.dim).map(|u| dot(t, u)).fold(f64::NEG_INFINITY, f64::max)
                };
                out.push(q.text(i).chunks_exact(q.dim).map(best).sum());
            }
        }
        out
    }

    #[test]
    fn equals_the_definition_on_every_level() {
        for dim in [1, 7, 128] {
            let (qv, qo) = texts(1, &[5, 0, 33, 1, 32, 70], dim);
            let (dv, do_) = texts(2, &[3, 8, 0, 19, 180, 1, 16], dim);
            let (q, d) = (Ragged::new(&qv, &qo, dim), Ragged::new(&dv, &do_, dim));
            let (Ok(q), Ok(d)) = (q, d) else { panic!("valid offsets") };
            let want = brute(&q, &d);
            for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
                let got = Panels::new(&q).score(level, &d, 0..d.len());
                for (k, (g, w)) in got.iter().zip(&want).enumerate() {
                    let close = f64::from(*g) == *w || (f64::from(*g) - w).abs() <= 1e-5 * w.abs().max(1.0);
                    assert!(close, "{level:?} dim {dim} pair {k}: {g} {w}");
                }
            }
        }
    }

    #[test]
    fn batch_and_blocks_do_not_change_a_score() {
        let dim = 16;
        let lengths: Vec<usize> = (0..700).map(|i| i % 37).collect();
        let (dv, do_) = texts(4, &lengths, dim);
        let (qv, qo) = texts(3, &[9, 40, 3], dim);
        let (Ok(q), Ok(d)) = (Ragged::new(&qv, &qo, dim), Ragged::new(&dv, &do_, dim)) else {
            panic!("valid")
        };
        let mut all = vec![0.0; q.len() * d.len()];
        assert_eq!(maxsim(&q, &d, None, &mut all), Ok(()));
        for (i, j) in [(0, 0), (1, 36), (2, 699), (0, 350)] {
            let (qs, ds) = (q.text(i), d.text(j));
            let (qo, do_) = ([0, (qs.len() / dim) as i64], [0, (ds.len() / dim) as i64]);
            let (Ok(q), Ok(d1)) = (Ragged::new(qs, &qo, dim), Ragged::new(ds, &do_, dim)) else {
                panic!("valid")
            };
            let mut one = [0.0];
            assert_eq!(maxsim(&q, &d1, None, &mut one), Ok(()));
            assert_eq!(one[0].to_bits(), all[i * d.len() + j].to_bits());
        }
    }

    #[test]
    fn bad_offsets_are_named() {
        assert!(Ragged::new(&[0.0; 4], &[0, 3], 2).is_err());
        assert!(Ragged::new(&[0.0; 4], &[0, 2, 1, 2], 2).is_err());
        assert!(Ragged::new(&[0.0; 4], &[], 2).is_err());
    }
}
