//! Exact late-interaction scores (MaxSim; Khattab & Zaharia, SIGIR 2020) over ragged tokens.
//!
//! ```text
//! score(query, document) = Σ_q max_d <q, d>     over the real tokens of both
//! ```
//!
//! The tokens of all queries are transposed once into panels, one token per lane. Documents are then read as they
//! lie in memory, a block at a time that stays in the cache: a panel's running maxima stay in registers, and the
//! similarity matrix is never stored. Documents may be held in single or half precision or as bytes with a scale
//! per token (see [`Values`]), one after the other or each by itself (see [`Ragged`]). `form.rs` has the one loop
//! and what a form has to bring for it, `forms.rs` says which form runs when.
//!
//! **Error bounds** are with [`Values`]; sums over a query's tokens are taken in double precision.
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

mod form;
mod forms;
mod matches;
mod scorer;
mod search;

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

use crate::{Error, Result};
pub use matches::{Against, maxsim_gradient, maxsim_matches};
pub use scorer::maxsim;
pub use search::{Hit, Selection, search};

/// Token embeddings (tokens × dim), row-major, in one of the forms that they are kept in.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
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

    /// The first that is not finite, as its place among the numbers (for bytes: among the scales).
    fn bad(&self) -> Option<(usize, f64)> {
        fn first<T: Copy>(x: &[T], double: impl Fn(T) -> f64) -> Option<(usize, f64)> {
            x.iter().map(|x| double(*x)).enumerate().find(|(_, x)| !x.is_finite())
        }
        match self {
            Values::F32(x) => first(x, f64::from),
            Values::F16(x) => first(x, f16::to_f64),
            Values::Bf16(x) => first(x, bf16::to_f64),
            Values::Int8 { scales, .. } => first(scales, f64::from),
        }
    }
}

/// The tokens of one text.
#[derive(Clone, Copy)]
struct Text<'a> {
    values: Values<'a>,
    tokens: usize,
}

/// Where texts lie.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// One after the other, text i in rows `offsets[i]..offsets[i + 1]`.
    Packed(Values<'a>, &'a [i64]),
    /// Each by itself.
    List(&'a [&'a [f32]]),
}

/// Texts as ragged token embeddings.
#[derive(Clone, Debug)]
pub struct Ragged<'a> {
    source: Source<'a>,
    dim: usize,
    /// Texts that a task takes.
    blocks: Cow<'a, [Range<u32>]>,
}

impl<'a> Ragged<'a> {
    /// `values` is (tokens × dim), row-major; text i has the rows `offsets[i]..offsets[i + 1]`, so `offsets` has
    /// one entry more than there are texts.
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
        Ragged::of(Source::Packed(values, offsets), dim)
    }

    /// Texts that lie each by itself, as (tokens × dim) numbers.
    ///
    /// # Errors
    /// A text that is no whole number of tokens.
    pub fn list(texts: &'a [&'a [f32]], dim: usize) -> Result<Self> {
        match texts.iter().position(|text| !text.is_empty() && (dim == 0 || !text.len().is_multiple_of(dim)))
        {
            Some(i) => Err(Error::Argument(format!(
                "texts: expected whole tokens of {dim} numbers, got {} numbers in text {i}",
                texts[i].len()
            ))),
            None => Ragged::of(Source::List(texts), dim),
        }
    }

    fn of(source: Source<'a>, dim: usize) -> Result<Self> {
        let mut made = Ragged { source, dim, blocks: Cow::Borrowed(&[]) };
        if u32::try_from(made.len()).is_err() {
            return Err(Error::Argument(format!("texts: expected fewer than 2³², got {}", made.len())));
        }
        made.blocks = Cow::Owned(scorer::blocks((0..made.len()).map(|i| made.tokens(i)), dim));
        Ok(made)
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        match self.source {
            Source::Packed(_, offsets) => offsets.len() - 1,
            Source::List(texts) => texts.len(),
        }
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of a token.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tokens of all texts.
    pub fn total_tokens(&self) -> usize {
        match self.source {
            Source::Packed(_, offsets) => offsets[offsets.len() - 1] as usize,
            Source::List(texts) => {
                texts.iter().map(|text| text.len().checked_div(self.dim).unwrap_or(0)).sum()
            }
        }
    }

    /// Tokens of text i.
    fn tokens(&self, i: usize) -> usize {
        match self.source {
            Source::Packed(_, offsets) => (offsets[i + 1] - offsets[i]) as usize,
            Source::List(texts) => texts[i].len().checked_div(self.dim).unwrap_or(0),
        }
    }

    fn text(&self, i: usize) -> Text<'a> {
        let values = match self.source {
            Source::Packed(values, offsets) => {
                values.slice(offsets[i] as usize..offsets[i + 1] as usize, self.dim)
            }
            Source::List(texts) => Values::F32(texts[i]),
        };
        Text { values, tokens: self.tokens(i) }
    }

    /// Values of the form that all are in.
    fn form(&self) -> Values<'a> {
        match self.source {
            Source::Packed(values, _) => values,
            Source::List(_) => Values::F32(&[]),
        }
    }

    fn blocks(&self) -> &[Range<u32>] {
        &self.blocks
    }

    /// Refuse numbers that are not finite.
    fn check_finite(&self, name: &str, texts: impl Iterator<Item = usize>) -> Result<()> {
        for i in texts {
            let text = self.text(i);
            if let Some((at, value)) = text.values.bad() {
                let token = if text.scales().is_empty() { at / self.dim } else { at };
                return Err(Error::Argument(format!(
                    "{name}: text {i} has {value} in token {token}; expected finite numbers"
                )));
            }
        }
        Ok(())
    }
}

/// Tokens as bytes and scales: `code = round(x / scale)` with `scale = max |x| / 127`, so that each
/// number is off by at most half a scale. A token of zeros, or of numbers too small for a scale, has scale 0.
pub fn quantise(values: &[f32], dim: usize) -> (Vec<i8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(values.len());
    let mut scales = Vec::with_capacity(values.len().checked_div(dim).unwrap_or(0));
    for token in values.chunks_exact(dim.max(1)) {
        let largest = token.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = largest / 127.0;
        // Below this a scale has few bits itself, and its inverse may be no number.
        let scale = if scale >= f32::MIN_POSITIVE { scale } else { 0.0 };
        let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        codes.extend(token.iter().map(|x| (x * factor).round().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    (codes, scales)
}

#[cfg(test)]
mod tests {
    use super::scorer::{Scorer, Scratch};
    use super::*;
    use crate::simd::Level;

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
        let rows = |text: Text<'_>| -> Vec<Vec<f64>> {
            numbers(text.values, q.dim).chunks_exact(q.dim).map(<[f64]>::to_vec).collect()
        };
        let mut out = Vec::new();
        for i in 0..q.len() {
            for j in 0..d.len() {
                let text = rows(d.text(j));
                let best = |t: &Vec<f64>| text.iter().map(|u| dot(t, u)).fold(f64::NEG_INFINITY, f64::max);
                out.push(rows(q.text(i)).iter().map(best).sum());
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
        let mut scratch = Scratch::default();
        scorer.score(0..d.len(), &mut scratch).unwrap_or_else(|e| panic!("{e}"));
        scratch.scores
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
                    _ => q.clone(),
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
            let (most, tokens) = (0.5f64, |i: usize| q.tokens(i) as f64);
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
            let (qo, do_) = ([0, q.tokens(i) as i64], [0, d.tokens(j) as i64]);
            let (q1, d1) = (ragged(q.text(i).values, &qo, dim), ragged(d.text(j).values, &do_, dim));
            let mut one = [0.0];
            assert_eq!(maxsim(&q1, &d1, None, &mut one), Ok(()));
            assert_eq!(one[0].to_bits(), all[i * d.len() + j].to_bits());
        }
    }

    #[test]
    fn texts_are_scored_where_they_lie() {
        let dim = 7;
        let (dv, do_) = texts(4, &LENGTHS, dim);
        let (qv, qo) = texts(3, &[9, 40, 3], dim);
        let (q, d) = (ragged(Values::F32(&qv), &qo, dim), ragged(Values::F32(&dv), &do_, dim));
        let apart: Vec<Vec<f32>> =
            (0..d.len()).map(|i| dv[do_[i] as usize * dim..do_[i + 1] as usize * dim].to_vec()).collect();
        let views: Vec<&[f32]> = apart.iter().map(Vec::as_slice).collect();
        let list = Ragged::list(&views, dim).unwrap_or_else(|e| panic!("{e}"));
        let (mut one, mut other) = (vec![0.0; 36], vec![1.0; 36]);
        assert_eq!(maxsim(&q, &d, None, &mut one), Ok(()));
        assert_eq!(maxsim(&q, &list, None, &mut other), Ok(()));
        assert_eq!(one, other);
        assert!(Ragged::list(&[&[0.0; 8]], dim).is_err());
    }

    #[test]
    fn every_form_equals_the_definition() {
        // Those that this processor would not choose by itself, too.
        for dim in [1, 6, 33] {
            let (qv, _) = texts(1, &[50], dim);
            let (dv, do_) = texts(2, &LENGTHS, dim);
            let (codes, scales) = quantise(&dv, dim);
            let upper: Vec<bf16> = dv.iter().map(|x| bf16::from_f32(*x)).collect();
            let bytes = ragged(Values::Int8 { codes: &codes, scales: &scales }, &do_, dim);
            scorer::tests::every_form(&qv, &bytes, &ragged(Values::Bf16(&upper), &do_, dim));
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_named() {
        let dim = 5;
        let (qv, qo) = texts(3, &[9, 4], dim);
        let (dv, do_) = texts(4, &LENGTHS, dim);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for level in Level::ALL.into_iter().filter(|l| l.is_supported()) {
                let mut dv = dv.clone();
                // The third token of the fifth text.
                dv[(do_[4] as usize + 2) * dim + 3] = bad;
                let half: Vec<f16> = dv.iter().map(|x| f16::from_f32(*x)).collect();
                let upper: Vec<bf16> = dv.iter().map(|x| bf16::from_f32(*x)).collect();
                let q = ragged(Values::F32(&qv), &qo, dim);
                for values in [Values::F32(&dv), Values::F16(&half), Values::Bf16(&upper)] {
                    let d = ragged(values, &do_, dim);
                    let scorer = Scorer::on(level, &q, &d).unwrap_or_else(|e| panic!("{e}"));
                    let found = scorer.score(0..d.len(), &mut Scratch::default());
                    let text = found.err().map(|e| e.to_string()).unwrap_or_default();
                    assert!(text.starts_with("documents: text 4 has"), "{level:?} {text}");
                    assert!(text.contains("in token 2"), "{text}");
                }
                let mut qv = qv.clone();
                qv[9 * dim] = bad;
                let q = ragged(Values::F32(&qv), &qo, dim);
                let text = Scorer::on(level, &q, &q).err().map(|e| e.to_string()).unwrap_or_default();
                assert!(text.starts_with("queries: text 1 has"), "{text}");
            }
        }
    }

    #[test]
    fn tiny_tokens_become_zeros() {
        let (codes, scales) = quantise(&[1e-40, -1e-44, 0.5, -1.0], 2);
        assert_eq!((&codes[..], scales[0]), (&[0, 0, 64, -127][..], 0.0));
        assert!(scales[1] > 0.0);
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
