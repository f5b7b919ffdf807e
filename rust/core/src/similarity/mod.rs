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
//! and what a form has to bring for it, `forms.rs` says which form runs when. `muvera.rs` makes one vector of a text,
//! and `single.rs` is for queries of one vector.
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
mod muvera;
mod scorer;
mod search;
mod single;
#[cfg(feature = "store")]
mod store;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use half::{bf16, f16};

use crate::{Error, Result, error::ensure};
pub use matches::{Against, maxsim_gradient, maxsim_matches};
pub use muvera::{Muvera, Side};
pub use scorer::maxsim;
pub use search::{Hit, Selection, search};
#[cfg(feature = "store")]
pub use store::TokenStore;

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
    /// depend on the instruction set. They have 32 bits, so that a token has up to 133,144 numbers.
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

    /// Where the numbers begin, and the bytes of one.
    fn memory(&self) -> (*const u8, usize) {
        fn of<T>(x: &[T]) -> (*const u8, usize) {
            (x.as_ptr().cast(), size_of::<T>())
        }
        match self {
            Values::F32(x) => of(x),
            Values::F16(x) => of(x),
            Values::Bf16(x) => of(x),
            Values::Int8 { codes, .. } => of(codes),
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

impl<'a> Text<'a> {
    /// Some of its tokens.
    fn part(&self, range: Range<usize>, dim: usize) -> Text<'a> {
        Text { tokens: range.len(), values: self.values.slice(range, dim) }
    }
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
    blocks: Vec<Range<u32>>,
}

impl<'a> Ragged<'a> {
    /// `values` is (tokens × dim), row-major; text i has the rows `offsets[i]..offsets[i + 1]`, so `offsets` has
    /// one entry more than there are texts.
    ///
    /// # Errors
    /// Offsets that do not start at 0, decrease, or do not end at the number of tokens; scales that are
    /// not one for each token.
    pub fn new(values: Values<'a>, offsets: &'a [i64], dim: usize) -> Result<Self> {
        let tokens = values.len().checked_div(dim).unwrap_or(0);
        let last = offsets.last().and_then(|last| usize::try_from(*last).ok());
        let all = offsets.first() == Some(&0) && last == Some(tokens);
        ensure!(all, "offsets: expected to start at 0 and end at the number of tokens, {tokens}");
        for w in offsets.windows(2) {
            ensure!(w[0] <= w[1], "offsets: expected to increase, got {} after {}", w[1], w[0]);
        }
        if let Values::Int8 { scales, .. } = values {
            let got = scales.len();
            ensure!(got == tokens, "scales: expected one for each of {tokens} tokens, got {got}");
        }
        Ragged::of(Source::Packed(values, offsets), dim)
    }

    /// Texts that lie each by itself, as (tokens × dim) numbers.
    ///
    /// # Errors
    /// A text that is no whole number of tokens.
    pub fn list(texts: &'a [&'a [f32]], dim: usize) -> Result<Self> {
        for (i, text) in texts.iter().enumerate() {
            let (got, whole) = (text.len(), text.is_empty() || dim > 0 && text.len().is_multiple_of(dim));
            ensure!(whole, "texts: expected whole tokens of {dim} numbers, got {got} numbers in text {i}");
        }
        Ragged::of(Source::List(texts), dim)
    }

    fn of(source: Source<'a>, dim: usize) -> Result<Self> {
        let mut made = Ragged { source, dim, blocks: Vec::new() };
        let count = made.len();
        ensure!(u32::try_from(count).is_ok(), "texts: expected fewer than 2³², got {count}");
        made.blocks = scorer::blocks((0..count).map(|i| made.tokens(i)), dim);
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
            Source::List(texts) => (0..texts.len()).map(|i| self.tokens(i)).sum(),
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

    /// Some texts as one, if each of them has one token and they lie one after the other.
    fn singles(&self, mut texts: impl Iterator<Item = usize> + Clone) -> Option<Text<'a>> {
        let (Source::Packed(values, offsets), Some(first)) = (self.source, texts.clone().next()) else {
            return None;
        };
        let mut end = first;
        let single = texts.all(|i| {
            end += 1;
            i + 1 == end && self.tokens(i) == 1
        });
        let rows = offsets[first] as usize..offsets[first] as usize + end - first;
        single.then(|| Text { values: values.slice(rows, self.dim), tokens: end - first })
    }

    /// Values of the form that all are in.
    fn form(&self) -> Values<'a> {
        match self.source {
            Source::Packed(values, _) => values,
            Source::List(_) => Values::F32(&[]),
        }
    }

    /// Refuse numbers that are not finite.
    fn check_finite(&self, name: &str, texts: impl Iterator<Item = usize>) -> Result<()> {
        for i in texts {
            let text = self.text(i);
            if let Some((at, value)) = text.values.bad() {
                let token = if text.scales().is_empty() { at / self.dim } else { at };
                let text = format!("{name}: text {i} has {value} in token {token}; expected finite numbers");
                return Err(Error::Argument(text));
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
mod tests;
