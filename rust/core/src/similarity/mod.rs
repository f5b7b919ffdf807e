//! Exact late-interaction scores (MaxSim; Khattab & Zaharia, SIGIR 2020) over ragged tokens.
//!
//! ```text
//! score(query, document) = Σ_q max_d <q, d>     over the real tokens of both
//! ```
//!
//! The tokens of all queries are transposed once into panels, one token per lane. Documents are then
//! read as they lie in memory, a block at a time that stays in the cache: a panel's running maxima
//! stay in registers, and the similarity matrix is never stored. Documents may be held in single or
//! half precision or as bytes with a scale per token; see [`Values`].
//!
//! ```
//! use optical_core::similarity::{Ragged, Values, maxsim};
//!
//! let queries = Ragged::new(Values::F32(&[1.0, 0.0, 0.0, 1.0]), &[0, 2], 2)?; // one, of two tokens
//! let documents = Ragged::new(Values::F32(&[1.0, 0.0, 0.6, 0.8]), &[0, 1, 2], 2)?; // two of one
//! let mut scores = [0.0; 2];
//! maxsim(&queries, &documents, None, &mut scores)?;
//! assert!(scores[0] == 1.0 && (scores[1] - 1.4).abs() < 1e-6);
//! # Ok::<(), optical_core::Error>(())
//! ```

/// `$call` with `$rows` as the constant that `$count` is, 1 to [`ROWS`]: as many sums stay in registers.
macro_rules! by_count {
    ($count:expr, $rows:ident => $call:expr) => {
        by_count!($count, $rows => $call, 1 2 3 4 5 6 7)
    };
    ($count:expr, $rows:ident => $call:expr, $($n:literal)*) => {
        match $count {
            $($n => {
                const $rows: usize = $n;
                $call
            })*
            _ => {
                const $rows: usize = $crate::simd::ROWS;
                $call
            }
        }
    };
}

mod bfloats;
mod bytes;
mod floats;
mod matches;
mod search;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::simd::{self, Level, ROWS};
use crate::{Error, Result};
pub use bytes::quantise;
pub use matches::{maxsim_gradient, maxsim_matches};
pub use search::{Hit, search};

/// Token embeddings (tokens × dim), row-major, in one of the forms that they are kept in.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision: 11 bits, relative error up to 2⁻¹¹.
    F16(&'a [f16]),
    /// The upper half of single precision: 8 bits, relative error up to 2⁻⁹ if rounded.
    ///
    /// Queries are rounded as well, so that processors with instructions for pairs of them can use
    /// these: the product of query token x and document token y is off by at most
    /// (2⁻⁸ + 2⁻¹⁸) Σ |x_k y_k|, and by what its sum in single precision is.
    Bf16(&'a [bf16]),
    /// Bytes, of which `scales[token] · code` is the number; see [`quantise`].
    ///
    /// Queries are quantised as well. With s the scales and ‖·‖₁ the sums of absolute values, the
    /// product of a query token x and a document token y is off by at most
    /// (s_y ‖x‖₁ + s_x ‖y‖₁) / 2 + dim · s_x · s_y / 4, and sums of bytes are exact: results do not
    /// depend on the instruction set.
    Int8 {
        /// (tokens × dim).
        codes: &'a [i8],
        /// (tokens).
        scales: &'a [f32],
    },
}

impl<'a> Values<'a> {
    fn len(&self) -> usize {
        match self {
            Values::F32(x) => x.len(),
            Values::F16(x) => x.len(),
            Values::Bf16(x) => x.len(),
            Values::Int8 { codes, .. } => codes.len(),
        }
    }

    fn slice(&self, range: Range<usize>, dim: usize) -> Values<'a> {
        let numbers = range.start * dim..range.end * dim;
        match self {
            Values::F32(x) => Values::F32(&x[numbers]),
            Values::F16(x) => Values::F16(&x[numbers]),
            Values::Bf16(x) => Values::Bf16(&x[numbers]),
            Values::Int8 { codes, scales } => Values::Int8 { codes: &codes[numbers], scales: &scales[range] },
        }
    }
}

/// Texts as ragged token embeddings: text i has the rows `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    values: Values<'a>,
    offsets: &'a [i64],
    dim: usize,
}

impl<'a> Ragged<'a> {
    /// `values` is (tokens × dim), row-major; `offsets` has one entry more than there are texts.
    ///
    /// # Errors
    /// Offsets that do not start at 0, decrease, or do not end at the number of tokens; scales that are
    /// not one for each token.
    pub fn new(values: Values<'a>, offsets: &'a [i64], dim: usize) -> Result<Self> {
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
        if let Values::Int8 { scales, .. } = values
            && scales.len() != tokens
        {
            let got = scales.len();
            return Err(Error::Argument(format!(
                "scales: expected one for each of {tokens} tokens, got {got}"
            )));
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

    fn tokens(&self, text: usize) -> Range<usize> {
        self.offsets[text] as usize..self.offsets[text + 1] as usize
    }

    /// Texts cut into blocks of about `BLOCK` numbers.
    fn blocks(&self) -> Vec<Range<usize>> {
        let mut blocks = Vec::new();
        let mut first = 0;
        for text in 0..self.len() {
            let numbers = (self.offsets[text + 1] - self.offsets[first]) as usize * self.dim;
            if numbers >= BLOCK || text + 1 == self.len() {
                blocks.push(first..text + 1);
                first = text + 1;
            }
        }
        blocks
    }
}

/// Numbers of documents that a task goes through with one panel after another, so that they are read
/// from memory once: as floats, a part of the level-2 cache.
const BLOCK: usize = 64 * 1024;

/// Scores of every query against every document, row-major (queries × documents) into `scores`.
///
/// A query without tokens scores 0, a document without tokens −∞. A score depends on its query and
/// document alone (bitwise), not on the batch or the number of threads.
///
/// # Errors
/// Different dimensions, queries not in single precision, an output of the wrong size, or `cancel` set
/// by another thread.
pub fn maxsim(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    cancel: Option<&AtomicBool>,
    scores: &mut [f32],
) -> Result<()> {
    let scorer = Scorer::new(queries, documents)?;
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
    let blocks = documents.blocks();
    let found: Vec<Vec<f32>> = {
        blocks
            .par_iter()
            .map_init(Scratch::default, |scratch, block| {
                if cancelled(cancel) { Vec::new() } else { scorer.score(block.clone(), scratch).to_vec() }
            })
            .collect()
    };
    if cancelled(cancel) {
        return Err(Error::Interrupted);
    }
    let width = documents.len();
    for (block, found) in blocks.into_iter().zip(found) {
        for (row, part) in scores.chunks_exact_mut(width).zip(found.chunks_exact(block.len())) {
            row[block.clone()].copy_from_slice(part);
        }
    }
    Ok(())
}

fn cancelled(cancel: Option<&AtomicBool>) -> bool {
    cancel.is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Query tokens that are laid out for the form that the documents are in.
enum Panels {
    Floats(floats::Panels),
    Bfloats(bfloats::Panels),
    Bytes(bytes::Panels),
}

/// Queries, ready to be scored against blocks of documents.
struct Scorer<'a> {
    level: Level,
    queries: &'a Ragged<'a>,
    documents: &'a Ragged<'a>,
    panels: Panels,
}

/// Memory for one block, used again for the next.
#[derive(Default)]
struct Scratch {
    /// Documents as floats, or bfloats and bytes in whole groups, if they are not so already.
    floats: Vec<f32>,
    bfloats: Vec<bf16>,
    bytes: Vec<i8>,
    /// `best[document][token]`: the largest product of each query token.
    best: Vec<f32>,
    /// (queries × documents of the block).
    scores: Vec<f32>,
}

impl<'a> Scorer<'a> {
    fn new(queries: &'a Ragged<'a>, documents: &'a Ragged<'a>) -> Result<Self> {
        Self::on(simd::level(), queries, documents)
    }

    fn on(level: Level, queries: &'a Ragged<'a>, documents: &'a Ragged<'a>) -> Result<Self> {
        if queries.dim != documents.dim {
            return Err(Error::Argument(format!(
                "documents: expected dimension {}, as the queries have, got {}",
                queries.dim, documents.dim
            )));
        }
        let Values::F32(values) = queries.values else {
            return Err(Error::Argument("queries: expected single precision".into()));
        };
        let panels = match documents.values {
            Values::Int8 { .. } => Panels::Bytes(bytes::Panels::new(values, queries.dim)),
            Values::Bf16(_) if bfloats::supported(level) => {
                Panels::Bfloats(bfloats::Panels::new(values, queries.dim))
            }
            Values::Bf16(_) => {
                let rounded: Vec<f32> = values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
                Panels::Floats(floats::Panels::new(&rounded, queries.dim))
            }
            _ => Panels::Floats(floats::Panels::new(values, queries.dim)),
        };
        Ok(Scorer { level, queries, documents, panels })
    }

    /// Scores of a block of documents, row-major (queries × block).
    fn score<'s>(&self, block: Range<usize>, scratch: &'s mut Scratch) -> &'s [f32] {
        let Scratch { floats, bfloats, bytes, best, scores } = scratch;
        let dim = self.documents.dim;
        let tokens = self.documents.tokens(block.start).start..self.documents.tokens(block.end - 1).end;
        let texts = block.clone().map(|text| {
            let own = self.documents.tokens(text);
            own.start - tokens.start..own.end - tokens.start
        });
        let values = self.documents.values.slice(tokens.clone(), dim);
        let width = match &self.panels {
            Panels::Floats(panels) => {
                match values {
                    Values::F16(halves) if panels.count == 1 => {
                        panels.best_of_halves(self.level, halves, texts, floats, best);
                    }
                    _ => panels.best(self.level, as_floats(values, floats), texts, best),
                }
                panels.tokens()
            }
            Panels::Bfloats(panels) => {
                if let Values::Bf16(values) = values {
                    panels.best(values, texts, bfloats, best);
                }
                panels.tokens()
            }
            Panels::Bytes(panels) => {
                if let Values::Int8 { codes, scales } = values {
                    panels.best(self.level, codes, scales, texts, bytes, best);
                }
                panels.tokens()
            }
        };
        scores.clear();
        for query in 0..self.queries.len() {
            let own = self.queries.tokens(query);
            scores.extend((0..block.len()).map(|text| total(&best[text * width..][own.clone()])));
        }
        scores
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;
/// How many blocks of rows ahead tokens are asked for.
const AHEAD: usize = 2;

/// Ask for the cache line at an address, which need not be one that may be read.
#[inline(always)]
fn fetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which cannot fault; x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Tokens in blocks (start, length) of at most [`ROWS`], as even as can be: a text of nine has four and
/// five, not eight and one, which would leave most of the second's registers empty.
#[inline(always)]
fn even_blocks(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = tokens.div_ceil(ROWS);
    (0..blocks).map(move |b| {
        let start = b * tokens / blocks;
        (start, (b + 1) * tokens / blocks - start)
    })
}

/// The sum of a query's maxima, in doubles; eight at a time, as one sum would wait for itself.
fn total(best: &[f32]) -> f32 {
    let mut sums = [0.0f64; 8];
    let (eights, rest) = best.as_chunks::<8>();
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += f64::from(*x));
    sums.iter().fold(0.0, |sum, x| sum + x) as f32
}

fn as_floats<'v>(values: Values<'v>, buffer: &'v mut Vec<f32>) -> &'v [f32] {
    match values {
        Values::F32(x) => return x,
        Values::F16(x) => {
            buffer.resize(x.len(), 0.0);
            x.convert_to_f32_slice(buffer);
        }
        Values::Bf16(x) => {
            buffer.resize(x.len(), 0.0);
            // A plain loop, which the compiler turns into vectors.
            buffer.iter_mut().zip(x).for_each(|(to, x)| *to = f32::from_bits(u32::from(x.to_bits()) << 16));
        }
        Values::Int8 { .. } => buffer.clear(),
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn texts(seed: u32, lengths: &[usize], dim: usize) -> (Vec<f32>, Vec<i64>) {
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

    pub fn ragged<'a>(values: Values<'a>, offsets: &'a [i64], dim: usize) -> Ragged<'a> {
        Ragged::new(values, offsets, dim).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Numbers as they are in any form.
    fn numbers(values: Values<'_>, dim: usize) -> Vec<f64> {
        match values {
            Values::F32(x) => x.iter().map(|x| f64::from(*x)).collect(),
            Values::F16(x) => x.iter().map(|x| x.to_f64()).collect(),
            Values::Bf16(x) => x.iter().map(|x| x.to_f64()).collect(),
            Values::Int8 { codes, scales } => codes
                .iter()
                .enumerate()
                .map(|(i, code)| f64::from(*code) * f64::from(scales[i / dim]))
                .collect(),
        }
    }

    /// The definition, in doubles.
    pub fn brute(q: &Ragged<'_>, d: &Ragged<'_>) -> Vec<f64> {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let (qv, dv) = (numbers(q.values, q.dim), numbers(d.values, d.dim));
        let rows = |v: &'_ [f64], r: Range<usize>| -> Vec<Vec<f64>> {
            r.map(|t| v[t * q.dim..(t + 1) * q.dim].to_vec()).collect()
        };
        let mut out = Vec::new();
        for i in 0..q.len() {
            for j in 0..d.len() {
                let text = rows(&dv, d.tokens(j));
                let best = |t: &Vec<f64>| text.iter().map(|u| dot(t, u)).fold(f64::NEG_INFINITY, f64::max);
                out.push(rows(&qv, q.tokens(i)).iter().map(best).sum());
            }
        }
        out
    }

    /// Every number of tokens that a block of rows can have, and several blocks.
    const LENGTHS: [usize; 12] = [3, 8, 0, 19, 180, 1, 16, 2, 4, 5, 6, 7];

    fn close(got: f32, want: f64, tolerance: f64) -> bool {
        f64::from(got) == want || (f64::from(got) - want).abs() <= tolerance * want.abs().max(1.0)
    }

    fn score(level: Level, q: &Ragged<'_>, d: &Ragged<'_>) -> Vec<f32> {
        let scorer = Scorer::on(level, q, d).unwrap_or_else(|e| panic!("{e}"));
        scorer.score(0..d.len(), &mut Scratch::default()).to_vec()
    }

    #[test]
    fn equals_the_definition_on_every_level_and_in_every_form() {
        let several: &[usize] = &[5, 0, 33, 1, 32, 70];
        // Queries of one panel go another way where documents are halves.
        for (dim, lengths) in [1, 7, 128].into_iter().flat_map(|dim| [(dim, several), (dim, &[5, 0, 20])]) {
            let (qv, qo) = texts(1, lengths, dim);
            let (dv, do_) = texts(2, &LENGTHS, dim);
            let q = ragged(Values::F32(&qv), &qo, dim);
            let half: Vec<f16> = dv.iter().map(|x| f16::from_f32(*x)).collect();
            let upper: Vec<bf16> = dv.iter().map(|x| bf16::from_f32(*x)).collect();
            for values in [Values::F32(&dv), Values::F16(&half), Values::Bf16(&upper)] {
                let d = ragged(values, &do_, dim);
                let rounded: Vec<bf16> = qv.iter().map(|x| bf16::from_f32(*x)).collect();
                let as_scored = match values {
                    Values::Bf16(_) => ragged(Values::Bf16(&rounded), &qo, dim),
                    _ => q,
                };
                let want = brute(&as_scored, &d);
                for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
                    for (k, (g, w)) in score(level, &q, &d).iter().zip(&want).enumerate() {
                        assert!(close(*g, *w, 1e-5), "{level:?} dim {dim} pair {k}: {g} {w}");
                    }
                }
            }
        }
    }

    #[test]
    fn bfloats_are_within_their_bound() {
        let dim = 127;
        let (qv, qo) = texts(5, &[9, 40], dim);
        let (dv, do_) = texts(6, &[1, 23, 8], dim);
        let rounded: Vec<bf16> = dv.iter().map(|x| bf16::from_f32(*x)).collect();
        let q = ragged(Values::F32(&qv), &qo, dim);
        let absolute = |v: &[f32]| v.iter().map(|x| x.abs()).collect::<Vec<f32>>();
        let (qa, da) = (absolute(&qv), absolute(&dv));
        let exact = brute(&q, &ragged(Values::F32(&dv), &do_, dim));
        let sizes = brute(&ragged(Values::F32(&qa), &qo, dim), &ragged(Values::F32(&da), &do_, dim));
        for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
            let got = score(level, &q, &ragged(Values::Bf16(&rounded), &do_, dim));
            for ((got, want), size) in got.iter().zip(&exact).zip(&sizes) {
                let bound = (2f64.powi(-8) + 2f64.powi(-18)) * size + 1e-5;
                assert!((f64::from(*got) - want).abs() <= bound, "{level:?}: {got} {want} {bound}");
            }
        }
    }

    #[test]
    fn bytes_are_exact_on_every_level_and_within_their_bound() {
        for dim in [1, 7, 128] {
            let (qv, qo) = texts(1, &[5, 0, 33, 1, 32, 70], dim);
            let (dv, do_) = texts(2, &LENGTHS, dim);
            let (codes, scales) = quantise(&dv, dim);
            let (query_codes, query_scales) = quantise(&qv, dim);
            let q = ragged(Values::F32(&qv), &qo, dim);
            let d = ragged(Values::Int8 { codes: &codes, scales: &scales }, &do_, dim);
            let as_scored = ragged(Values::Int8 { codes: &query_codes, scales: &query_scales }, &qo, dim);
            let want = brute(&as_scored, &d);
            let exact = brute(&q, &ragged(Values::F32(&dv), &do_, dim));
            let contract = score(Level::Portable, &q, &d);
            for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
                let got = score(level, &q, &d);
                assert!(got.iter().zip(&contract).all(|(x, y)| x.to_bits() == y.to_bits()), "{level:?}");
            }
            let (most, tokens) = (0.5f64, |i: usize| q.tokens(i).len() as f64);
            for (k, (g, w)) in contract.iter().zip(&want).enumerate() {
                assert!(close(*g, *w, 1e-5), "dim {dim} pair {k}: {g} {w}");
                // Scales are at most most / 127, sums of absolute values at most most · dim.
                let scale = most / 127.0;
                let bound = dim as f64 * (scale * most + scale * scale / 4.0) * tokens(k / d.len());
                let off = (f64::from(*g) - exact[k]).abs();
                assert!(off.is_nan() || off <= bound + 1e-5, "dim {dim} pair {k}: {off} {bound}");
            }
        }
    }

    #[test]
    fn batch_and_blocks_do_not_change_a_score() {
        let dim = 16;
        let lengths: Vec<usize> = (0..700).map(|i| i % 37).collect();
        let (dv, do_) = texts(4, &lengths, dim);
        let (qv, qo) = texts(3, &[9, 40, 3], dim);
        let (q, d) = (ragged(Values::F32(&qv), &qo, dim), ragged(Values::F32(&dv), &do_, dim));
        assert!(d.blocks().len() > 1);
        let mut all = vec![0.0; q.len() * d.len()];
        assert_eq!(maxsim(&q, &d, None, &mut all), Ok(()));
        for (i, j) in [(0, 0), (1, 36), (2, 699), (0, 350)] {
            let (qt, dt) = (q.tokens(i), d.tokens(j));
            let (qo, do_) = ([0, qt.len() as i64], [0, dt.len() as i64]);
            let q1 = ragged(Values::F32(&qv[qt.start * dim..qt.end * dim]), &qo, dim);
            let d1 = ragged(Values::F32(&dv[dt.start * dim..dt.end * dim]), &do_, dim);
            let mut one = [0.0];
            assert_eq!(maxsim(&q1, &d1, None, &mut one), Ok(()));
            assert_eq!(one[0].to_bits(), all[i * d.len() + j].to_bits());
        }
    }

    #[test]
    fn bad_tokens_are_named() {
        assert!(Ragged::new(Values::F32(&[0.0; 4]), &[0, 3], 2).is_err());
        assert!(Ragged::new(Values::F32(&[0.0; 4]), &[0, 2, 1, 2], 2).is_err());
        assert!(Ragged::new(Values::F32(&[0.0; 4]), &[], 2).is_err());
        assert!(Ragged::new(Values::Int8 { codes: &[0; 4], scales: &[1.0] }, &[0, 2], 2).is_err());
        let bytes = ragged(Values::Int8 { codes: &[0; 4], scales: &[1.0; 2] }, &[0, 2], 2);
        assert!(maxsim(&bytes, &bytes, None, &mut [0.0]).is_err(), "queries are single precision");
    }
}
