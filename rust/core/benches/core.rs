//! What one call of each kind takes: `cargo bench -p optical-core`, or `-- --test` to run each once.
//!
//! Throughput is in elements of costs, in products of tokens and in retrieved documents.

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use std::fmt::Write;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array3;
use optical_core::ranking::{EvaluateOptions, Measure, Version, evaluate, trec};
use optical_core::similarity::{Ragged, Values, maxsim, quantise};
use optical_core::transport::{Batch, Options};

/// A number from 0 to below 1 that looks like chance.
fn noise(i: usize) -> f32 {
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1u64 << 24) as f32
}

fn solve(c: &mut Criterion) {
    let mut group = c.benchmark_group("solve");
    for (n, m) in [(32, 48), (64, 64)] {
        let cost = Array3::from_shape_fn((64, n, m), |(k, i, j)| noise((k * n + i) * m + j));
        let batch = Batch::new(cost.view(), &[0.05]);
        group.throughput(Throughput::Elements(cost.len() as u64));
        for (name, max_iter, tol) in [("to_1e-3", 1000, 1e-3), ("100_iterations", 100, 0.0)] {
            let options = Options { max_iter, tol, ..Options::default() };
            group.bench_function(BenchmarkId::new(name, format_args!("{n}x{m}")), |b| {
                b.iter(|| black_box(batch.solve(&options)).is_ok());
            });
        }
    }
}

fn score(c: &mut Criterion) {
    let mut group = c.benchmark_group("maxsim");
    let (dim, queries, documents, tokens) = (128, 4, 256, 100);
    let numbers = |count: usize| (0..count * dim).map(|i| noise(i) - 0.5).collect::<Vec<f32>>();
    let offsets =
        |texts: usize, tokens: usize| (0..=texts).map(|i| (i * tokens) as i64).collect::<Vec<i64>>();
    let (of_queries, of_documents) = (numbers(queries * 32), numbers(documents * tokens));
    let (codes, scales) = quantise(&of_documents, dim);
    let (query_offsets, document_offsets) = (offsets(queries, 32), offsets(documents, tokens));
    let texts = |values, offsets| Ragged::new(values, offsets, dim).unwrap_or_else(|e| panic!("{e}"));
    let queries = texts(Values::F32(&of_queries), &query_offsets);
    group.throughput(Throughput::Elements((queries.total_tokens() * documents * tokens) as u64));
    let forms =
        [("float32", Values::F32(&of_documents)), ("int8", Values::Int8 { codes: &codes, scales: &scales })];
    for (name, values) in forms {
        let documents = texts(values, &document_offsets);
        let mut scores = vec![0.0; queries.len() * documents.len()];
        group.bench_function(name, |b| b.iter(|| maxsim(&queries, &documents, None, black_box(&mut scores))));
    }
}

fn measure(c: &mut Criterion) {
    let mut group = c.benchmark_group("evaluate");
    let (mut qrels, mut run) = (String::new(), String::new());
    let (topics, retrieved) = (50, 1000);
    for topic in 0..topics {
        for rank in 0..retrieved {
            let document = (noise(topic * retrieved + rank) * 1e6) as usize * 1000 + rank;
            let _ = writeln!(run, "{topic} Q0 d{document} {rank} {} x", -(rank as f64));
            if rank % 20 == 0 {
                let _ = writeln!(qrels, "{topic} 0 d{document} {}", rank / 20 % 3);
            }
        }
    }
    let names = ["map", "ndcg_cut_10", "recip_rank", "recall_100"];
    let measures: Vec<Measure> = names.iter().filter_map(|name| Measure::parse(name).ok()).collect();
    group.throughput(Throughput::Elements((topics * retrieved) as u64));
    group.bench_function("text", |b| {
        b.iter(|| {
            let qrels = trec::parse_qrels("qrels", qrels.as_bytes(), Version::Nine)?;
            let run = trec::parse_run("run", run.as_bytes(), Version::Nine);
            evaluate(&qrels, &run, &measures, &EvaluateOptions::default())
        });
    });
}

criterion_group!(benches, solve, score, measure);
criterion_main!(benches);
