//! MaxSim for training: scores, which token each maximum came from, and the gradient.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use super::scorer::{check_dim, total};
use super::{Ragged, Source, Values};
use crate::error::{ensure, proceed};
use crate::simd::{self, Level, ROWS, matmul::run_product};
use crate::{Error, Result};

/// Query tokens that a product takes at a time: two of the widest vectors.
const PANEL: usize = 32;

/// Which documents a query is scored against.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Against {
    /// All of them: scores are (queries × documents).
    All,
    /// So many of its own: query i against documents `n · i ..`, scores are (queries × n).
    Own(usize),
}

/// Packed sides, and which pairs of them are scored.
struct Pairs<'a> {
    q: &'a [f32],
    d: &'a [f32],
    /// Where each text begins, and the last one ends.
    query_starts: &'a [i64],
    document_starts: &'a [i64],
    dim: usize,
    against: Against,
}

impl<'a> Pairs<'a> {
    fn new(queries: &Ragged<'a>, documents: &Ragged<'a>, against: Against) -> Result<Self> {
        check_dim(queries, documents)?;
        let packed = |side: &str, texts: &Ragged<'a>| match texts.source {
            Source::Packed(Values::F32(values), offsets) => Ok((values, offsets)),
            _ => Err(Error::Argument(format!("{side}: expected single precision, one text after the other"))),
        };
        let (q, query_starts) = packed("queries", queries)?;
        let (d, document_starts) = packed("documents", documents)?;
        if let Against::Own(n) = against {
            let (count, got) = (queries.len(), documents.len());
            ensure!(got == n * count, "documents: expected {n} for each of {count} queries, got {got}");
        }
        let fits = i32::try_from(documents.total_tokens()).is_ok();
        ensure!(fits, "documents: more tokens than fit a batch (2³¹)");
        Ok(Pairs { q, d, query_starts, document_starts, dim: queries.dim(), against })
    }

    fn queries(&self) -> usize {
        self.query_starts.len() - 1
    }

    fn documents(&self) -> usize {
        self.document_starts.len() - 1
    }

    /// Tokens of all queries.
    fn tokens(&self) -> usize {
        self.query_starts[self.queries()] as usize
    }

    fn query(&self, i: usize) -> Range<usize> {
        self.query_starts[i] as usize..self.query_starts[i + 1] as usize
    }

    fn document(&self, i: usize) -> Range<usize> {
        self.document_starts[i] as usize..self.document_starts[i + 1] as usize
    }

    /// Queries that document i is scored by.
    fn queries_of(&self, i: usize) -> Range<usize> {
        match self.against {
            Against::All => 0..self.queries(),
            Against::Own(n) => i / n..i / n + 1,
        }
    }

    /// Documents that query i is scored against.
    fn documents_of(&self, i: usize) -> Range<usize> {
        match self.against {
            Against::All => 0..self.documents(),
            Against::Own(n) => n * i..n * (i + 1),
        }
    }

    /// Where the score of a pair is.
    fn at(&self, query: usize, document: usize) -> usize {
        let of = self.documents_of(query);
        query * of.len() + document - of.start
    }

    fn scores(&self) -> usize {
        self.queries() * if self.queries() == 0 { 0 } else { self.documents_of(0).len() }
    }
}

fn check(what: &str, got: usize, want: usize) -> Result<()> {
    ensure!(got == want, "{what}: expected {want} elements, got {got}");
    Ok(())
}

/// As [`maxsim`](super::maxsim), and for every document and query token the document's token that it
/// matched: `matched[document][token]` is a row of the document's values, the first of equals, or −1
/// in a document without tokens or for another query's token.
///
/// # Errors
/// Different dimensions, anything but single precision in one piece, numbers that are not finite (the text is
/// named), outputs of the wrong size, or `cancel` set by another thread.
pub fn maxsim_matches(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    against: Against,
    cancel: Option<&AtomicBool>,
    scores: &mut [f32],
    matched: &mut [i32],
) -> Result<()> {
    let pairs = Pairs::new(queries, documents, against)?;
    let (dim, tokens, level) = (pairs.dim, pairs.tokens(), simd::level());
    check("scores", scores.len(), pairs.scores())?;
    check("matched", matched.len(), tokens * pairs.documents())?;
    queries.check_finite("queries", 0..queries.len())?;
    documents.check_finite("documents", 0..documents.len())?;
    if tokens == 0 {
        scores.fill(0.0);
        return Ok(());
    }
    let panels = panels(pairs.q, dim);
    let columns = matched.par_chunks_exact_mut(tokens).enumerate().map_init(
        Scratch::default,
        |scratch, (document, matched)| {
            proceed(cancel)?;
            let (own, of) = (pairs.document(document), pairs.queries_of(document));
            let asking = pairs.query_starts[of.start] as usize..pairs.query_starts[of.end] as usize;
            scratch.search(level, &panels, &pairs.d[own.start * dim..own.end * dim], dim, asking, matched);
            matched.iter_mut().filter(|row| **row >= 0).for_each(|row| *row += own.start as i32);
            Ok(of.map(|query| (query, total(&scratch.best[pairs.query(query)]))).collect::<Vec<_>>())
        },
    );
    for (document, column) in columns.collect::<Result<Vec<_>>>()?.into_iter().enumerate() {
        for (query, score) in column {
            scores[pairs.at(query, document)] = score;
        }
    }
    Ok(())
}

/// Query tokens transposed: panel p holds tokens `PANEL·p ..`, as (dim × PANEL).
fn panels(queries: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let mut panels = Vec::new();
    for tokens in queries.chunks(PANEL * dim.max(1)) {
        let mut panel = vec![0.0; dim * PANEL];
        for (t, token) in tokens.chunks_exact(dim.max(1)).enumerate() {
            token.iter().enumerate().for_each(|(k, x)| panel[k * PANEL + t] = *x);
        }
        panels.push(panel);
    }
    panels
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
    /// The largest product of each of some query tokens with a row of `document`, into `self.best`, and the row.
    fn search(
        &mut self,
        level: Level,
        panels: &[Vec<f32>],
        document: &[f32],
        dim: usize,
        asking: Range<usize>,
        matched: &mut [i32],
    ) {
        let rows = document.len().checked_div(dim).unwrap_or(0);
        let padded = rows.next_multiple_of(ROWS);
        self.document.clear();
        self.document.extend_from_slice(document);
        self.document.resize(padded * dim, 0.0);
        self.products.resize(padded * PANEL, 0.0);
        self.best.clear();
        self.best.resize(matched.len(), f32::NEG_INFINITY);
        matched.fill(-1);
        let parts = self.best.chunks_mut(PANEL).zip(matched.chunks_mut(PANEL));
        for (p, (panel, (best, matched))) in panels.iter().zip(parts).enumerate() {
            // Tokens of other queries that share a panel with those that ask are left alone.
            let tokens = asking.start.max(p * PANEL)..asking.end.min((p + 1) * PANEL);
            if tokens.is_empty() {
                continue;
            }
            let own = tokens.start - p * PANEL..tokens.end - p * PANEL;
            let (best, matched) = (&mut best[own.clone()], &mut matched[own.clone()]);
            // SAFETY: `padded` is a multiple of ROWS and PANEL of the vector width; the document has
            // padded × dim numbers, the panel dim × PANEL, the products padded × PANEL; the level is
            // supported.
            unsafe { run_product(level, padded, dim, dim, PANEL, &self.document, panel, &mut self.products) };
            for (row, products) in self.products.chunks_exact(PANEL).take(rows).enumerate() {
                let products = &products[own.clone()];
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
/// Different dimensions, anything of the wrong size, matches that are no rows of their document, or `cancel` set
/// by another thread.
pub fn maxsim_gradient(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    against: Against,
    matched: &[i32],
    weights: &[f32],
    cancel: Option<&AtomicBool>,
    of_queries: &mut [f32],
    of_documents: &mut [f32],
) -> Result<()> {
    let pairs = Pairs::new(queries, documents, against)?;
    let (dim, tokens) = (pairs.dim, pairs.tokens());
    check("weights", weights.len(), pairs.scores())?;
    check("matched", matched.len(), tokens * pairs.documents())?;
    check("of_queries", of_queries.len(), pairs.q.len())?;
    check("of_documents", of_documents.len(), pairs.d.len())?;
    of_queries.fill(0.0);
    of_documents.fill(0.0);
    if pairs.q.is_empty() || pairs.d.is_empty() {
        return Ok(());
    }
    for (document, rows) in matched.chunks_exact(tokens).enumerate() {
        let own = pairs.document(document);
        let outside = |row: &i32| *row >= 0 && !own.contains(&(*row as usize));
        ensure!(!rows.iter().any(outside), "matched: not the matches of document {document}");
    }
    let query_of: Vec<usize> =
        (0..pairs.queries()).flat_map(|query| pairs.query(query).map(move |_| query)).collect();
    let mut parts = Vec::with_capacity(pairs.documents());
    let mut rest = of_documents;
    for document in 0..pairs.documents() {
        let part;
        (part, rest) = rest.split_at_mut(pairs.document(document).len() * dim);
        parts.push(part);
    }
    of_queries.par_chunks_exact_mut(dim).enumerate().try_for_each(|(t, out)| {
        proceed(cancel)?;
        for document in pairs.documents_of(query_of[t]) {
            if let Ok(row) = usize::try_from(matched[document * tokens + t]) {
                add(out, weights[pairs.at(query_of[t], document)], &pairs.d[row * dim..][..dim]);
            }
        }
        Ok(())
    })?;
    parts.into_par_iter().enumerate().try_for_each(|(document, out)| {
        proceed(cancel)?;
        let first = pairs.document(document).start;
        for query in pairs.queries_of(document) {
            let weight = weights[pairs.at(query, document)];
            for t in pairs.query(query) {
                if let Ok(row) = usize::try_from(matched[document * tokens + t]) {
                    add(&mut out[(row - first) * dim..][..dim], weight, &pairs.q[t * dim..][..dim]);
                }
            }
        }
        Ok(())
    })
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
        let tokens = q.total_tokens();
        let (mut scores, mut matched) = (vec![f32::NAN; q.len() * d.len()], vec![-7; tokens * d.len()]);
        maxsim_matches(q, d, Against::All, None, &mut scores, &mut matched).unwrap_or_else(|e| panic!("{e}"));
        (scores, matched)
    }

    fn rows_of(d: &Ragged<'_>, document: usize) -> Range<usize> {
        let first: usize = (0..document).map(|i| d.tokens(i)).sum();
        first..first + d.tokens(document)
    }

    #[test]
    fn a_query_against_its_own_documents_scores_as_against_all() {
        let dim = 6;
        let (qv, qo) = texts(1, &[5, 33, 1], dim);
        let (dv, do_) = texts(2, &[3, 8, 0, 19, 40, 1], dim);
        let (q, d) = (ragged(Values::F32(&qv), &qo, dim), ragged(Values::F32(&dv), &do_, dim));
        let (all, all_matched) = found(&q, &d);
        let (mut own, mut matched) = (vec![f32::NAN; 6], vec![-7; 39 * 6]);
        assert_eq!(maxsim_matches(&q, &d, Against::Own(2), None, &mut own, &mut matched), Ok(()));
        // Weights that are 0 but for a query's own documents have the same gradient in both ways.
        let weights = [0.5, -1.0, 0.0, 2.0, 1.5, 0.25];
        let mut sparse = [0.0; 18];
        for (k, weight) in weights.iter().enumerate() {
            assert_eq!(own[k].to_bits(), all[(k / 2) * 6 + k].to_bits());
            sparse[(k / 2) * 6 + k] = *weight;
        }
        let gradient = |against, matched: &[i32], weights: &[f32]| {
            let (mut gq, mut gd) = (vec![f32::NAN; qv.len()], vec![f32::NAN; dv.len()]);
            let done = maxsim_gradient(&q, &d, against, matched, weights, None, &mut gq, &mut gd);
            assert_eq!(done, Ok(()));
            (gq, gd)
        };
        assert_eq!(
            gradient(Against::Own(2), &matched, &weights),
            gradient(Against::All, &all_matched, &sparse)
        );
        assert!(maxsim_matches(&q, &d, Against::Own(3), None, &mut own, &mut matched).is_err());
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
                    let best = rows_of(&d, document).map(|s| dot(t, s)).fold(f32::NEG_INFINITY, f32::max);
                    match usize::try_from(*row) {
                        Ok(row) => assert!(best - dot(t, row) < 1e-5, "dim {dim}"),
                        Err(_) => assert!(rows_of(&d, document).is_empty()),
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
        maxsim_gradient(&q, &d, Against::All, &matched, &weights, None, &mut gq, &mut gd)
            .unwrap_or_else(|e| panic!("{e}"));
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
        assert!(maxsim_matches(&x, &wide, Against::All, None, &mut scores[..2], &mut [0; 5]).is_err());
        assert!(maxsim_matches(&x, &x, Against::All, None, &mut scores, &mut [0; 9]).is_err());
        let (mut gq, mut gd) = ([0.0; 20], [0.0; 20]);
        let other = maxsim_gradient(&x, &wide, Against::All, &[0; 5], &scores[..2], None, &mut gq, &mut gd);
        assert!(other.is_err_and(|e| e.to_string().contains("documents: expected dimension 4")));
        let wrong = maxsim_gradient(&x, &x, Against::All, &[4; 10], &scores, None, &mut gq, &mut gd);
        assert!(wrong.is_err_and(|e| e.to_string().contains("matches of document 0")));
    }
}
