//! Queries laid out for the form that the documents are in, and scored against them a block at a time.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use half::bf16;
use rayon::prelude::*;

use super::form::{Form, Job, LaidOut, PANEL, Scratch};
use super::forms::{Floats, Words};
use super::single::Single;
use super::{Ragged, Text, Values, quantise};
use crate::error::{ensure, proceed};
use crate::simd::{self, Float, Level, prefetch_row};
use crate::{Error, Result};

/// Numbers of documents that a task goes through with one panel after another, so that they are read from memory
/// once: as floats, they and a panel of the usual dimensions take 48 KiB, a first-level cache.
const BLOCK: usize = 8 * 1024;
/// Texts of a block at most, as those without tokens need memory for results, too.
const TEXTS: usize = 128;

/// Texts cut into blocks of about [`BLOCK`] numbers, given the tokens of each.
pub(super) fn blocks(tokens: impl ExactSizeIterator<Item = usize>, dim: usize) -> Vec<Range<u32>> {
    let (mut blocks, mut first, mut numbers, count) = (Vec::new(), 0, 0, tokens.len());
    for (text, tokens) in tokens.enumerate() {
        numbers += tokens * dim;
        if numbers >= BLOCK || text + 1 - first == TEXTS || text + 1 == count {
            blocks.push(first as u32..(text + 1) as u32);
            (first, numbers) = (text + 1, 0);
        }
    }
    blocks
}

/// Numbers of the next text that are asked for while one is scored.
const NEXT: usize = 1024;
/// How many blocks of rows ahead tokens are asked for.
const AHEAD: usize = 2;
/// Tokens that are made another form at a time, at most: with a panel, part of a first-level cache.
const PIECE: usize = 24;

/// Query tokens as panels: panel p holds tokens `PANEL·p ..`.
struct Panels<F: Form> {
    dim: usize,
    groups: usize,
    /// Query tokens, with those that fill the last panel.
    tokens: usize,
    queries: Vec<F::Number>,
    sums: Vec<i32>,
    scales: Vec<f32>,
}

impl<F: Form> Panels<F> {
    fn new(queries: &[f32], dim: usize) -> Self {
        let groups = dim.div_ceil(F::GROUP);
        let (stride, count) = (groups * F::GROUP, queries.len().checked_div(dim).unwrap_or(0));
        let tokens = count.next_multiple_of(PANEL / 2);
        let (codes, mut scales) = if F::SCALED { quantise(queries, dim) } else { (Vec::new(), Vec::new()) };
        scales.resize(tokens, 0.0);
        let mut panels = Panels {
            dim,
            groups,
            tokens,
            queries: vec![F::Number::default(); tokens * stride],
            sums: vec![0; tokens],
            scales,
        };
        for t in 0..count {
            let (first, width) = (t / PANEL * PANEL, PANEL.min(tokens - t / PANEL * PANEL));
            let panel = &mut panels.queries[first * stride..][..width * stride];
            for k in 0..dim {
                let x = if F::SCALED { f32::from(codes[t * dim + k]) } else { queries[t * dim + k] };
                panel[(k / F::GROUP * width + t - first) * F::GROUP + k % F::GROUP] = F::query(x);
            }
            if F::SCALED {
                panels.sums[t] = codes[t * dim..][..dim].iter().map(|c| i32::from(*c)).sum();
            }
        }
        panels
    }
}

impl<F: Form> LaidOut for Panels<F> {
    fn best<'a>(
        &self,
        texts: &[Text<'a>],
        each: bool,
        next: Option<Text<'a>>,
        scratch: &mut Scratch,
    ) -> bool {
        let stride = self.groups * F::GROUP;
        // Texts as they lie, if that is in the form.
        let direct = |text: &Text<'a>| F::direct(text.values).filter(|_| stride == self.dim);
        // Others have to be made: for several panels whole, for one in pieces, each over the one before. A piece is
        // some of the blocks of rows that the whole text would have.
        let only = self.tokens <= PANEL;
        let mut pieces = Vec::with_capacity(texts.len());
        let mut rows = 0;
        for text in texts {
            let blocks = text.tokens.div_ceil(F::ROWS);
            let step = if only && direct(text).is_none() { PIECE / F::ROWS } else { blocks.max(1) };
            for block in (0..blocks).step_by(step) {
                let [first, end] = [block, blocks.min(block + step)].map(|b| b * text.tokens / blocks);
                let to = (rows + if each { first } else { 0 }) * self.tokens;
                pieces.push((text.part(first..end, self.dim), to));
            }
            rows += if each { text.tokens } else { 1 };
        }
        let mut best = std::mem::take(&mut scratch.best);
        best.clear();
        best.resize(rows * self.tokens, f32::NEG_INFINITY);
        let mut made = std::mem::take(F::buffer(&mut scratch.made));
        let mut finite = true;
        for first in (0..self.tokens).step_by(PANEL) {
            let width = PANEL.min(self.tokens - first);
            let mut end = 0;
            for (k, (text, to)) in pieces.iter().enumerate() {
                let own = direct(text);
                let start = if only { 0 } else { end };
                if own.is_none() {
                    end = start + text.tokens * stride;
                }
                // With the first panel a text comes from memory, with the others from a cache.
                let mut fetch = None;
                if first == 0 {
                    let after = pieces.get(k + 1).map(|(text, _)| text).or(next.as_ref());
                    if own.is_some() {
                        let (at, bytes) = text.values.memory();
                        fetch = Some((at.wrapping_add(AHEAD * F::ROWS * stride * bytes), bytes));
                        if let Some(after) = after.and_then(direct) {
                            // Texts that lie apart begin with memory that no pattern announces.
                            prefetch_row(after.as_ptr(), after.len().min(NEXT));
                        }
                    } else {
                        fetch = after.map(|after| after.values.memory());
                        made.resize(made.len().max(end), F::Number::default());
                        F::make(text.values, self.dim, stride, &mut made[start..end]);
                    }
                }
                finite &= Job::<F> {
                    groups: self.groups,
                    width,
                    queries: &self.queries[first * stride..][..width * stride],
                    sums: &self.sums[first..],
                    query_scales: &self.scales[first..],
                    text: own.unwrap_or_else(|| &made[start..end]),
                    scales: text.scales(),
                    fetch,
                    best: &mut best[*to + first..],
                    apart: if each { self.tokens } else { 0 },
                }
                .run();
            }
        }
        *F::buffer(&mut scratch.made) = made;
        scratch.best = best;
        finite
    }
}

/// The form of documents that `level` and the processor are the fastest with.
fn lay_out(level: Level, documents: Values<'_>, queries: &[f32], dim: usize) -> Box<dyn LaidOut> {
    fn of<F: Form>(queries: &[f32], dim: usize) -> Box<dyn LaidOut> {
        Box::new(Panels::<F>::new(queries, dim))
    }
    let rounded: Vec<f32>;
    let queries = match documents {
        Values::Bf16(_) => {
            rounded = queries.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            &rounded
        }
        _ => queries,
    };
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86::{Pairs, Quads256, Quads512, Words128, Words256, Words512};
        match (level, documents) {
            (Level::Avx512, Values::Bf16(_)) if is_x86_feature_detected!("avx512bf16") => {
                return of::<Pairs>(queries, dim);
            }
            (Level::Avx512, Values::Int8 { .. }) if is_x86_feature_detected!("avx512vnni") => {
                return of::<Quads512>(queries, dim);
            }
            (Level::Avx512, Values::Int8 { .. }) => return of::<Words512>(queries, dim),
            (Level::Avx512, _) => return of::<Floats<<f32 as Float>::Avx512>>(queries, dim),
            (Level::Avx2, Values::Int8 { .. }) if is_x86_feature_detected!("avxvnni") => {
                return of::<Quads256>(queries, dim);
            }
            (Level::Avx2, Values::Int8 { .. }) => return of::<Words256>(queries, dim),
            (Level::Avx2, _) => return of::<Floats<<f32 as Float>::Avx2>>(queries, dim),
            (Level::Portable, Values::Int8 { .. }) => return of::<Words128>(queries, dim),
            (Level::Portable, _) => {}
        }
    }
    let _ = level;
    match documents {
        Values::Int8 { .. } => of::<Words>(queries, dim),
        _ => of::<Floats<<f32 as Float>::Portable>>(queries, dim),
    }
}

/// Queries, ready to be scored against documents.
pub(super) struct Scorer<'a> {
    documents: &'a Ragged<'a>,
    /// Query tokens with those that fill the last panel, and where each query begins and ends among them.
    tokens: usize,
    starts: Vec<usize>,
    laid_out: Box<dyn LaidOut>,
}

impl<'a> Scorer<'a> {
    pub(super) fn new(queries: &'a Ragged<'a>, documents: &'a Ragged<'a>) -> Result<Self> {
        Self::on(simd::level(), queries, documents)
    }

    pub(super) fn on(level: Level, queries: &'a Ragged<'a>, documents: &'a Ragged<'a>) -> Result<Self> {
        check_dim(queries, documents)?;
        let mut starts = vec![0];
        let mut values = Vec::new();
        for text in (0..queries.len()).map(|i| queries.text(i)) {
            let Values::F32(x) = text.values else {
                return Err(Error::Argument("queries: expected single precision".into()));
            };
            values.extend_from_slice(x);
            starts.push(starts[starts.len() - 1] + text.tokens);
        }
        queries.check_finite("queries", 0..queries.len())?;
        let count = starts[starts.len() - 1];
        let (tokens, laid_out): (usize, Box<dyn LaidOut>) = match documents.form() {
            Values::Int8 { .. } if count == 1 => (1, Box::new(Single::new(level, &values))),
            form => (count.next_multiple_of(PANEL / 2), lay_out(level, form, &values, queries.dim())),
        };
        Ok(Scorer { documents, tokens, starts, laid_out })
    }

    /// Scores of some documents, row-major (queries × documents), into `scratch.scores`.
    pub(super) fn score(
        &self,
        documents: impl ExactSizeIterator<Item = usize> + DoubleEndedIterator + Clone,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let count = documents.len();
        let last = documents.clone().next_back().map_or(0, |last| last + 1);
        let next = (last < self.documents.len()).then(|| self.documents.text(last));
        // Texts of one token, one after the other, are multiplied together: alone, each would wait for its own sum.
        let single = self.documents.singles(documents.clone());
        let each = single.is_some();
        let texts: Vec<Text<'_>> = match single {
            Some(all) => vec![all],
            None => documents.clone().map(|i| self.documents.text(i)).collect(),
        };
        if !self.laid_out.best(&texts, each, next, scratch) {
            self.documents.check_finite("documents", documents)?;
        }
        scratch.scores.clear();
        for own in self.starts.windows(2) {
            let best = (0..count).map(|k| total(&scratch.best[k * self.tokens..][own[0]..own[1]]));
            scratch.scores.extend(best);
        }
        Ok(())
    }
}

/// Numbers of a token in bytes at most: the sum of so many products of two bytes fits 32 bits.
const MOST_BYTES: usize = i32::MAX as usize / (127 * 127);

pub(super) fn check_dim(queries: &Ragged<'_>, documents: &Ragged<'_>) -> Result<()> {
    let (dim, got) = (queries.dim(), documents.dim());
    ensure!(got == dim, "documents: expected dimension {dim}, as the queries have, got {got}");
    let bytes = matches!(documents.form(), Values::Int8 { .. });
    ensure!(
        !bytes || dim <= MOST_BYTES,
        "documents: expected at most {MOST_BYTES} numbers a token in bytes, got {dim}"
    );
    Ok(())
}

/// The sum of a query's maxima, in doubles; eight at a time, as one sum would wait for itself.
pub(super) fn total(best: &[f32]) -> f32 {
    if let [one] = best {
        return 0.0 + one;
    }
    let mut sums = [0.0f64; 8];
    let (eights, rest) = best.as_chunks::<8>();
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += f64::from(*x));
    sums.iter().fold(0.0, |sum, x| sum + x) as f32
}

/// Scores of every query against every document, row-major (queries × documents) into `scores`.
///
/// A query without tokens scores 0, a document without tokens −∞. A score depends on its query and
/// document alone (bitwise), not on the batch or the number of threads.
///
/// # Errors
/// Different dimensions, queries not in single precision, numbers that are not finite (the text is named), an
/// output of the wrong size, or `cancel` set by another thread.
pub fn maxsim(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    cancel: Option<&AtomicBool>,
    scores: &mut [f32],
) -> Result<()> {
    let scorer = Scorer::new(queries, documents)?;
    let (n, m, got) = (queries.len(), documents.len(), scores.len());
    ensure!(got == n * m, "scores: expected {n} x {m} elements, got {got}");
    if scores.is_empty() {
        return Ok(());
    }
    let blocks = &documents.blocks;
    let found = blocks.par_iter().map_init(Scratch::default, |scratch, block| {
        proceed(cancel)?;
        scorer.score(block.start as usize..block.end as usize, scratch)?;
        Ok(scratch.scores.clone())
    });
    let found = found.collect::<Result<Vec<Vec<f32>>>>()?;
    let width = documents.len();
    for (block, found) in blocks.iter().zip(found) {
        let block = block.start as usize..block.end as usize;
        for (row, part) in scores.chunks_exact_mut(width).zip(found.chunks_exact(block.len())) {
            row[block.clone()].copy_from_slice(part);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// All forms of bytes give the same bits, and the pairs of bfloat16 nearly what floats give.
    pub fn every_form(queries: &[f32], bytes: &Ragged<'_>, bfloats: &Ragged<'_>) {
        fn of<F: Form>(queries: &[f32], documents: &Ragged<'_>) -> Vec<f32> {
            let texts: Vec<Text<'_>> = (0..documents.len()).map(|i| documents.text(i)).collect();
            let mut scratch = Scratch::default();
            assert!(Panels::<F>::new(queries, documents.dim()).best(&texts, false, None, &mut scratch));
            scratch.best
        }
        let contract = of::<Words>(queries, bytes);
        let rounded: Vec<f32> = queries.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        let want = of::<Floats<<f32 as Float>::Portable>>(&rounded, bfloats);
        #[cfg(target_arch = "x86_64")]
        {
            use crate::similarity::x86::{Pairs, Quads256, Quads512, Words128, Words256, Words512};
            assert_eq!(of::<Words128>(queries, bytes), contract);
            if Level::Avx2.is_supported() {
                assert_eq!(of::<Words256>(queries, bytes), contract);
            }
            if is_x86_feature_detected!("avxvnni") {
                assert_eq!(of::<Quads256>(queries, bytes), contract);
            }
            if Level::Avx512.is_supported() {
                assert_eq!(of::<Words512>(queries, bytes), contract);
            }
            if Level::Avx512.is_supported() && is_x86_feature_detected!("avx512vnni") {
                assert_eq!(of::<Quads512>(queries, bytes), contract);
            }
            if Level::Avx512.is_supported() && is_x86_feature_detected!("avx512bf16") {
                let got = of::<Pairs>(queries, bfloats);
                assert!(got.iter().zip(&want).all(|(x, y)| x == y || (x - y).abs() < 1e-5));
            }
        }
        let _ = (contract, want);
    }
}
