//! Whatever is judged and retrieved, measures are finite and lie where they must.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use optical_core::ranking::{EvaluateOptions, Judgments, Measure, Qrels, Run, Version, evaluate};

#[derive(Arbitrary, Debug)]
struct Input {
    judged: Vec<(u8, u8, i8)>,
    retrieved: Vec<(u8, u8, f64)>,
    relevance_level: i8,
    complete: bool,
    max_documents: Option<u8>,
    ten: bool,
    cut: u16,
    share: u8,
}

fuzz_target!(|input: Input| {
    let mut qrels: Qrels<i64, i64> = Qrels::new();
    for (topic, document, grade) in &input.judged {
        let judged: &mut Judgments<i64> = qrels.entry(i64::from(*topic)).or_default();
        judged.insert(i64::from(*document), i64::from(*grade));
    }
    let mut run: Run<i64, Vec<(i64, f64)>> = BTreeMap::new();
    for (topic, document, score) in &input.retrieved {
        run.entry(i64::from(*topic)).or_default().push((i64::from(*document), *score));
    }
    let cut = usize::from(input.cut).max(1);
    let share = f64::from(input.share) / 256.0;
    let unit = [
        Measure::Map,
        Measure::MapCut(cut),
        Measure::Rprec,
        Measure::RprecMult(share),
        Measure::RecipRank,
        Measure::IprecAtRecall(share),
        Measure::ElevenPointAvg,
        Measure::P(cut),
        Measure::RelativeP(cut),
        Measure::Recall(cut),
        Measure::Success(cut),
        Measure::Ndcg,
        Measure::NdcgCut(cut),
        Measure::SetP,
        Measure::SetRelativeP,
        Measure::SetRecall,
        Measure::SetMap,
        Measure::SetF,
        Measure::Judged(cut),
        Measure::Rbp(share),
        Measure::RbpResidual(share),
        Measure::Err(cut),
        Measure::Compat(share),
    ];
    let other = [
        Measure::NumRet,
        Measure::NumRel,
        Measure::NumRelRet,
        Measure::NumNonrelJudgedRet,
        Measure::GmMap,
        Measure::Bpref,
        Measure::InfAp,
        Measure::Utility,
        Measure::NumTied,
    ];
    let options = EvaluateOptions {
        relevance_level: i64::from(input.relevance_level),
        complete: input.complete,
        max_documents: input.max_documents.map(|n| usize::from(n).max(1)),
        version: if input.ten { Version::Ten } else { Version::Nine },
        ..Default::default()
    };
    let measures: Vec<Measure> = unit.into_iter().chain(other).collect();
    if let Ok(result) = evaluate(&qrels, &run, &measures, &options) {
        for (measure, values) in measures.iter().zip(&result.values) {
            assert!(values.iter().all(|v| v.is_finite()), "{measure:?}: {values:?}");
            // A level below 1 makes documents relevant that are not judged so; shares may pass 1 then.
            if unit.contains(measure) && input.relevance_level >= 1 {
                assert!(values.iter().all(|v| (-1e-9..=1.0 + 1e-9).contains(v)), "{measure:?}: {values:?}");
            }
        }
    }
});
