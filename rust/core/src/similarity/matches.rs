//! MaxSim for training: scores, which token each maximum came from, and the gradient.

use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use super::floats::{PANEL, Panels};
use super::{Ragged, Values, cancelled, total};
use crate::simd::{self, Level, ROWS, matmul::run_product};
use crate::{Error, Result};

fn single<'a>(side: &str, texts: &Ragged<'a>) -> Result<&'a [f32]> {
    match texts.values {
        Values::F32(x) => Ok(x),
        _ => Err(Error::Argument(format!("{side}: expected single precision"))),
    }
}

fn check(what: &str, got: usize, want: usize) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(Error::Argument(format!("{what}: expected {want} elements, got {got}")))
}

/// As [`maxsim`](super::maxsim), and for every document and query token the document's token that it
/// matched: `matched[document][token]` is a row of the document's values, the first of equals, or −1
/// in a document without tokens.
///
/// # Errors
/// Different dimensions, anything but single precision, outputs of the wrong size, or `cancel` set by
/// another thread.
pub fn maxsim_matches(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    cancel: Option<&AtomicBool>,
    scores: &mut [f32],
    matched: &mut [i32],
) -> Result<()> {
    let (q, d) = (single("queries", queries)?, single("documents", documents)?);
    let (dim, tokens) = (queries.dim, queries.offsets[queries.len()] as usize);
    if dim != documents.dim {
        let got = documents.dim;
        return Err(Error::Argument(format!(
            "documents: expected dimension {dim}, as the queries have, got {got}"
        )));
    }
    check("scores", scores.len(), queries.len() * documents.len())?;
    check("matched", matched.len(), tokens * documents.len())?;
    if i32::try_from(d.len() / dim.max(1)).is_err() {
        return Err(Error::Argument("documents: more tokens than fit a batch (2³¹)".into()));
    }
    if tokens == 0 {
        scores.fill(0.0);
        return Ok(());
    }
    let (panels, level) = (Panels::new(q, dim), simd::level());
    let columns: Vec<Vec<f32>> = {
        matched
            .par_chunks_exact_mut(tokens)
            .enumerate()
            .map_init(Scratch::default, |scratch, (document, matched)| {
                if cancelled(cancel) {
                    return Vec::new();
                }
                let own = documents.tokens(document);
                scratch.search(level, &panels, &d[own.start * dim..own.end * dim], dim, matched);
                matched.iter_mut().filter(|row| **row >= 0).for_each(|row| *row += own.start as i32);
                (0..queries.len()).map(|query| total(&scratch.best[queries.tokens(query)])).collect()
            })
            .collect()
    };
    if cancelled(cancel) {
        return Err(Error::Interrupted);
    }
    for (document, column) in columns.iter().enumerate() {
        for (query, score) in column.iter().enumerate() {
            scores[query * columns.len() + document] = *score;
        }
    }
    Ok(())
}

/// Memory for one document, used again for the next.
#[derive(Default)]
struct Scratch {
    /// The document's tokens, filled up to whole groups of rows.
    document: Vec<f32>,
    /// (rows × PANEL).
    products: Vec<f32>,
    /// The largest product of each query token.
    best: Vec<f32>,
}

impl Scratch {
    /// The largest product of each query token with a row of `document`, into `self.best`, and the row.
    fn search(&mut self, level: Level, panels: &Panels, document: &[f32], dim: usize, matched: &mut [i32]) {
        let rows = document.len() / dim;
        let padded = rows.next_multiple_of(ROWS);
        self.document.clear();
        self.document.extend_from_slice(document);
        self.document.resize(padded * dim, 0.0);
        self.products.resize(padded * PANEL, 0.0);
        self.best.clear();
        self.best.resize(matched.len(), f32::NEG_INFINITY);
        matched.fill(-1);
        let parts = self.best.chunks_mut(PANEL).zip(matched.chunks_mut(PANEL));
        for (panel, (best, matched)) in panels.iter().zip(parts) {
            // SAFETY: `padded` is a multiple of ROWS and PANEL of the vector width; the document has
            // padded × dim numbers, the panel dim × PANEL, the products padded × PANEL; the level is
            // supported.
            unsafe { run_product(level, padded, dim, dim, PANEL, &self.document, panel, &mut self.products) };
            for (row, products) in self.products.chunks_exact(PANEL).take(rows).enumerate() {
                for ((best, matched), product) in best.iter_mut().zip(matched.iter_mut()).zip(products) {
                    let better = *product > *best;
                    *best = if better { *product } else { *best };
                    *matched = if better { row as i32 } else { *matched };
                }
            }
        }
    }
}

/// The gradient of `Σ weights · scores` in the tokens of both sides, added to nothing: both outputs are
/// overwritten. `matched` is that of [`maxsim_matches`].
///
/// ```text
/// ∂/∂x_t = Σ_d w(query of t, d) · y_match(t, d)      ∂/∂y_s = Σ_(t, d): match(t, d) = s  w · x_t
/// ```
///
/// Sums are taken in the order of the tokens, so the number of threads changes nothing.
///
/// # Errors
/// Anything of the wrong size, or matches that are no rows of their document.
pub fn maxsim_gradient(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    matched: &[i32],
    weights: &[f32],
    of_queries: &mut [f32],
    of_documents: &mut [f32],
) -> Result<()> {
    let (q, d) = (single("queries", queries)?, single("documents", documents)?);
    let (dim, tokens, width) = (queries.dim, queries.offsets[queries.len()] as usize, documents.len());
    check("weights", weights.len(), queries.len() * width)?;
    check("matched", matched.len(), tokens * width)?;
    check("of_queries", of_queries.len(), q.len())?;
    check("of_documents", of_documents.len(), d.len())?;
    of_queries.fill(0.0);
    of_documents.fill(0.0);
    if q.is_empty() || d.is_empty() {
        return Ok(());
    }
    for (document, rows) in matched.chunks_exact(tokens).enumerate() {
        let own = documents.tokens(document);
        if rows.iter().any(|row| *row >= 0 && !own.contains(&(*row as usize))) {
            return Err(Error::Argument(format!("matched: not the matches of document {document}")));
        }
    }
    let query_of: Vec<usize> =
        (0..queries.len()).flat_map(|query| queries.tokens(query).map(move |_| query)).collect();
    let mut parts = Vec::with_capacity(width);
    let mut rest = of_documents;
    for document in 0..width {
        let part;
        (part, rest) = rest.split_at_mut(documents.tokens(document).len() * dim);
        parts.push(part);
    }
    {
        of_queries.par_chunks_exact_mut(dim).enumerate().for_each(|(t, out)| {
            for document in 0..width {
                if let Ok(row) = usize::try_from(matched[document * tokens + t]) {
                    add(out, weights[query_of[t] * width + document], &d[row * dim..][..dim]);
                }
            }
        });
        parts.into_par_iter().enumerate().for_each(|(document, out)| {
            let first = documents.tokens(document).start;
            for (t, row) in matched[document * tokens..][..tokens].iter().enumerate() {
                if let Ok(row) = usize::try_from(*row) {
                    let weight = weights[query_of[t] * width + document];
                    add(&mut out[(row - first) * dim..][..dim], weight, &q[t * dim..][..dim]);
                }
            }
        });
    };
    Ok(())
}

/// `out += weight · x`; nothing for a weight of 0, as most are where only hard negatives count.
fn add(out: &mut [f32], weight: f32, x: &[f32]) {
    if weight != 0.0 {
        out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{brute, ragged, texts};
    use super::*;

    fn found(q: &Ragged<'_>, d: &Ragged<'_>) -> (Vec<f32>, Vec<i32>) {
        let tokens = q.offsets[q.len()] as usize;
        let (mut scores, mut matched) = (vec![f32::NAN; q.len() * d.len()], vec![-7; tokens * d.len()]);
        maxsim_matches(q, d, None, &mut scores, &mut matched).unwrap_or_else(|e| panic!("{e}"));
        (scores, matched)
    }

    #[test]
    fn scores_and_matches_equal_the_definition() {
        for dim in [1, 7, 128] {
            let (qv, qo) = texts(1, &[5, 0, 33, 1, 70], dim);
            let (dv, do_) = texts(2, &[3, 8, 0, 19, 180, 1], dim);
            let (q, d) = (ragged(Values::F32(&qv), &qo, dim), ragged(Values::F32(&dv), &do_, dim));
            let (scores, matched) = found(&q, &d);
            for (got, want) in scores.iter().zip(brute(&q, &d)) {
                assert!(f64::from(*got) == want || (f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
            }
            let dot = |t: usize, s: usize| -> f32 {
                qv[t * dim..][..dim].iter().zip(&dv[s * dim..][..dim]).map(|(x, y)| x * y).sum()
            };
            let tokens = qv.len() / dim;
            for (document, rows) in matched.chunks_exact(tokens).enumerate() {
                for (t, row) in rows.iter().enumerate() {
                    let best = d.tokens(document).map(|s| dot(t, s)).fold(f32::NEG_INFINITY, f32::max);
                    match usize::try_from(*row) {
                        Ok(row) => assert!(best - dot(t, row) < 1e-5, "dim {dim}"),
                        Err(_) => assert!(d.tokens(document).is_empty()),
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_of_equals_is_the_match() {
        let (q, d) = ([1.0, 0.0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
        let (q, d) = (ragged(Values::F32(&q), &[0, 1], 2), ragged(Values::F32(&d), &[0, 3], 2));
        assert_eq!(found(&q, &d), (vec![1.0], vec![1]));
    }

    #[test]
    fn gradient_is_the_slope_of_the_scores() {
        let (qv, qo) = texts(1, &[4, 0, 2], 5);
        let (dv, do_) = texts(2, &[3, 0, 6], 5);
        let (q, d) = (ragged(Values::F32(&qv), &qo, 5), ragged(Values::F32(&dv), &do_, 5));
        let (_, matched) = found(&q, &d);
        let weights = [0.5, 0.0, -1.0, 9.0, 9.0, 9.0, 2.0, 0.0, 0.25];
        let (mut gq, mut gd) = (vec![f32::NAN; qv.len()], vec![f32::NAN; dv.len()]);
        maxsim_gradient(&q, &d, &matched, &weights, &mut gq, &mut gd).unwrap_or_else(|e| panic!("{e}"));
        let total = |qv: &[f32], dv: &[f32]| -> f64 {
            let (q, d) = (ragged(Values::F32(qv), &qo, 5), ragged(Values::F32(dv), &do_, 5));
            let scores = brute(&q, &d);
            scores.iter().zip(weights).filter(|(s, _)| s.is_finite()).map(|(s, w)| s * f64::from(w)).sum()
        };
        let step = 1e-3;
        for side in 0..2 {
            for i in 0..[qv.len(), dv.len()][side] {
                let at = |by: f32| {
                    let (mut qv, mut dv) = (qv.clone(), dv.clone());
                    [&mut qv, &mut dv][side][i] += by;
                    total(&qv, &dv)
                };
                let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
                let got = f64::from([&gq, &gd][side][i]);
                assert!((slope - got).abs() < 1e-3, "side {side}, {i}: {slope} {got}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (values, offsets) = texts(1, &[2, 3], 4);
        let x = ragged(Values::F32(&values), &offsets, 4);
        let wide = ragged(Values::F32(&values), &[0, 10], 2);
        let mut scores = [0.0; 4];
        assert!(maxsim_matches(&x, &wide, None, &mut scores[..2], &mut [0; 5]).is_err());
        assert!(maxsim_matches(&x, &x, None, &mut scores, &mut [0; 9]).is_err());
        let (mut gq, mut gd) = ([0.0; 20], [0.0; 20]);
        let wrong = maxsim_gradient(&x, &x, &[4; 10], &scores, &mut gq, &mut gd);
        assert!(wrong.is_err_and(|e| e.to_string().contains("matches of document 0")));
    }
}
