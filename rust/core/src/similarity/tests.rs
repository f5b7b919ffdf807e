use std::iter;

use super::form::Scratch;
use super::scorer::Scorer;
use super::*;
use crate::simd::{self, Level};

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

/// The same numbers in halves of both kinds and in bytes.
struct Rounded(Vec<f16>, Vec<bf16>, (Vec<i8>, Vec<f32>));

impl Rounded {
    fn of(values: &[f32], dim: usize) -> Self {
        let half = values.iter().map(|x| f16::from_f32(*x)).collect();
        let upper = values.iter().map(|x| bf16::from_f32(*x)).collect();
        Self(half, upper, quantise(values, dim))
    }

    /// In halves, then in bytes.
    fn forms(&self) -> [Values<'_>; 3] {
        let Self(half, upper, (codes, scales)) = self;
        [Values::F16(half), Values::Bf16(upper), Values::Int8 { codes, scales }]
    }
}

/// Numbers as they are in any form.
fn numbers(values: Values<'_>, dim: usize) -> Vec<f64> {
    match values {
        Values::F32(x) => x.iter().map(|x| f64::from(*x)).collect(),
        Values::F16(x) => x.iter().map(|x| x.to_f64()).collect(),
        Values::Bf16(x) => x.iter().map(|x| x.to_f64()).collect(),
        Values::Int8 { codes, scales } => {
            codes.iter().enumerate().map(|(i, code)| f64::from(*code) * f64::from(scales[i / dim])).collect()
        }
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
const LENGTHS: [usize; 15] = [3, 8, 0, 19, 180, 1, 16, 2, 4, 5, 6, 7, 24, 25, 49];

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
    // Where queries have one panel, documents in halves are made single precision in pieces.
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
    let several: &[usize] = &[5, 0, 33, 1, 32, 70];
    for (dim, lengths) in [1, 7, 128].into_iter().flat_map(|dim| [(dim, several), (dim, &[5, 0, 20])]) {
        let (qv, qo) = texts(1, lengths, dim);
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
    let lengths: Vec<usize> = (0..700).map(|i| i % 61).collect();
    let (dv, do_) = texts(4, &lengths, dim);
    let rounded = Rounded::of(&dv, dim);
    for values in iter::once(Values::F32(&dv)).chain(rounded.forms()) {
        let d = ragged(values, &do_, dim);
        assert!(d.blocks.len() > 1);
        // Several panels, and one: texts that have to be made are cut then.
        for lengths in [&[9, 40, 3][..], &[9, 2]] {
            let (qv, qo) = texts(3, lengths, dim);
            let q = ragged(Values::F32(&qv), &qo, dim);
            let mut blocks = vec![0.0; q.len() * d.len()];
            assert_eq!(maxsim(&q, &d, None, &mut blocks), Ok(()));
            assert_eq!(blocks, score(simd::level(), &q, &d));
            for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
                let all = score(level, &q, &d);
                for (i, j) in [(0, 0), (1, 36), (1, 49), (0, 60), (0, 25), (1, 699), (0, 350)] {
                    let (qo, do_) = ([0, q.tokens(i) as i64], [0, d.tokens(j) as i64]);
                    let (q1, d1) = (ragged(q.text(i).values, &qo, dim), ragged(d.text(j).values, &do_, dim));
                    let one = score(level, &q1, &d1);
                    assert_eq!(one[0].to_bits(), all[i * d.len() + j].to_bits(), "{level:?} {i} {j}");
                }
            }
        }
    }
}

#[test]
fn texts_of_one_token_score_as_by_themselves() {
    // Several panels of queries, and one.
    for lengths in [&[1, 40, 0, 7][..], &[1, 0, 7]] {
        texts_of_one_token(lengths);
    }
}

fn texts_of_one_token(query_lengths: &[usize]) {
    let dim = 20;
    // Some texts have no token or two, so that blocks with and without them come.
    let lengths: Vec<usize> = (0..3000).map(|i| if i < 1500 || i % 97 > 0 { 1 } else { i % 3 }).collect();
    let (dv, do_) = texts(3, &lengths, dim);
    let (qv, qo) = texts(4, query_lengths, dim);
    let q = ragged(Values::F32(&qv), &qo, dim);
    let rounded = Rounded::of(&dv, dim);
    for values in iter::once(Values::F32(&dv)).chain(rounded.forms()) {
        let together = ragged(values, &do_, dim);
        for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
            let scorer = Scorer::on(level, &q, &together).unwrap_or_else(|e| panic!("{e}"));
            let mut scratch = Scratch::default();
            // Texts of one token alone, some that are not, and the first of all.
            for range in [0..1500, 1490..1600, 2900..3000, 3..4] {
                scorer.score(range.clone(), &mut scratch).unwrap_or_else(|e| panic!("{e}"));
                for i in range.clone().step_by(31) {
                    let rows = do_[i] as usize..do_[i + 1] as usize;
                    let offsets = [0, 0, rows.len() as i64];
                    let want = score(level, &q, &ragged(values.slice(rows, dim), &offsets, dim));
                    for query in 0..q.len() {
                        let got = scratch.scores[query * range.len() + i - range.start];
                        assert_eq!(got.to_bits(), want[2 * query + 1].to_bits(), "{level:?} {i} {query}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_query_of_one_token_scores_as_among_others() {
    for dim in [1, 7, 128] {
        let lengths: Vec<usize> = LENGTHS.into_iter().chain([1; 200]).collect();
        let (dv, do_) = texts(8, &lengths, dim);
        let (codes, scales) = quantise(&dv, dim);
        let documents = ragged(Values::Int8 { codes: &codes, scales: &scales }, &do_, dim);
        let (qv, qo) = texts(9, &[1, 1, 30], dim);
        for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
            let among = score(level, &ragged(Values::F32(&qv), &qo, dim), &documents);
            let alone = score(level, &ragged(Values::F32(&qv[..dim]), &[0, 0, 1, 1], dim), &documents);
            let bits = |scores: &[f32]| scores.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let n = lengths.len();
            assert_eq!(bits(&alone[n..2 * n]), bits(&among[..n]), "{level:?} {dim}");
            assert_eq!(bits(&alone[..n]), vec![0; n], "no tokens");
            // Texts of one token each.
            let scorer_of = |values, offsets| ragged(Values::F32(values), offsets, dim);
            let (few, many) = (scorer_of(&qv[..dim], &[0, 1]), scorer_of(&qv[..2 * dim], &[0, 1, 2]));
            let (mut one, mut two) = (Scratch::default(), Scratch::default());
            for (queries, scratch) in [(&few, &mut one), (&many, &mut two)] {
                let scorer = Scorer::on(level, queries, &documents).unwrap_or_else(|e| panic!("{e}"));
                scorer.score(12..n, scratch).unwrap_or_else(|e| panic!("{e}"));
            }
            assert_eq!(bits(&one.scores), bits(&two.scores[..n - 12]));
        }
        let mut bad = scales.clone();
        bad[3] = f32::NAN;
        let damaged = ragged(Values::Int8 { codes: &codes, scales: &bad }, &do_, dim);
        let one = ragged(Values::F32(&qv[..dim]), &[0, 1], dim);
        let mut scores = vec![0.0; lengths.len()];
        let error = maxsim(&one, &damaged, None, &mut scores).err().map(|e| e.to_string());
        assert!(error.is_some_and(|said| said.contains("text 1 has NaN in token 0")));
    }
}

#[test]
fn sums_of_bytes_do_not_overflow() {
    for (dim, fits) in [(133_144, true), (133_145, false)] {
        let (codes, scales) = (vec![127; dim], [1.0 / 127.0]);
        let documents = ragged(Values::Int8 { codes: &codes, scales: &scales }, &[0, 1], dim);
        for tokens in [1, 2] {
            let (queries, offsets) = (vec![1.0; tokens * dim], [0, tokens as i64]);
            let mut scores = [0.0];
            let done = maxsim(&ragged(Values::F32(&queries), &offsets, dim), &documents, None, &mut scores);
            assert_eq!(done.is_ok(), fits);
            assert!(!fits || (scores[0] / (tokens * dim) as f32 - 1.0).abs() < 1e-5, "{}", scores[0]);
        }
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
    let (mut one, mut other) = (vec![0.0; 3 * LENGTHS.len()], vec![1.0; 3 * LENGTHS.len()]);
    assert_eq!(maxsim(&q, &d, None, &mut one), Ok(()));
    assert_eq!(maxsim(&q, &list, None, &mut other), Ok(()));
    assert_eq!(one, other);
    assert!(Ragged::list(&[&[0.0; 8]], dim).is_err());
}

#[test]
fn every_form_equals_the_definition() {
    // Those that this processor would not choose by itself, too.
    for (dim, tokens) in [1, 6, 33].into_iter().flat_map(|dim| [(dim, 50), (dim, 20)]) {
        let (qv, _) = texts(1, &[tokens], dim);
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
