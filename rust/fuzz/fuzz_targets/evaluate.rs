//! Whatever is judged and retrieved, measures are finite and lie where they must.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use optical_core::ranking::{
    EvaluateOptions, Formula, Gain, Judgments, Measure, Qrels, Run, Version, evaluate,
};

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
    gains: Vec<(i8, f64)>,
    own_level: Option<i8>,
    judged_only: bool,
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
        Formula::Map(cut),
        Formula::Rprec,
        Formula::RprecMult(share),
        Formula::RecipRank(cut),
        Formula::IprecAtRecall(share),
        Formula::IprecAvg(vec![share, 0.5, share / 2.0]),
        Formula::P(cut),
        Formula::RelativeP(cut),
        Formula::Recall(cut),
        Formula::Success(cut),
        Formula::Ndcg(Gain::GRADE, cut),
        Formula::Ndcg(Gain::Exponential, cut),
        Formula::NdcgRel(Gain::GRADE),
        Formula::Rndcg(Gain::GRADE),
        Formula::BinG,
        Formula::SetP,
        Formula::SetRelativeP,
        Formula::SetRecall,
        Formula::SetMap,
        Formula::SetF(share),
        Formula::Judged(cut),
        Formula::Rbp(share, cut),
        Formula::RbpResidual(share),
        Formula::Err(cut),
        Formula::Compat(share),
    ];
    // Gains as given may be anything, and so may values; they are computed without a panic.
    let gains = || Gain::Table(input.gains.iter().map(|(g, x)| (i64::from(*g), *x)).collect());
    let any = [
        Formula::Ndcg(gains(), cut),
        Formula::NdcgRel(gains()),
        Formula::Rndcg(gains()),
        Formula::G(gains()),
    ];
    let finite = [
        Formula::NumQ,
        Formula::NumRet,
        Formula::NumRel,
        Formula::NumRelRet,
        Formula::NumNonrelJudgedRet,
        Formula::GmMap,
        Formula::GmBpref,
        Formula::Bpref,
        Formula::InfAp,
        Formula::Yaap,
        Formula::Utility([1.0, -1.0, share, 0.5]),
        Formula::NumTied,
    ];
    let options = EvaluateOptions {
        relevance_level: i64::from(input.relevance_level),
        complete: input.complete,
        judged_only: input.judged_only,
        max_documents: input.max_documents.map(|n| usize::from(n).max(1)),
        version: if input.ten { Version::Ten } else { Version::Nine },
        ..Default::default()
    };
    let formulas = unit.iter().chain(&any).chain(&finite);
    let mut measures: Vec<Measure> = formulas.map(|formula| Measure::new("", formula.clone())).collect();
    for measure in &mut measures {
        measure.relevance_level = input.own_level.map(i64::from);
    }
    let Ok(result) = evaluate(&qrels, &run, &measures, &options) else { return };
    // Where all that was retrieved is taken out, some shares are of nothing.
    if input.judged_only || input.gains.len() > 64 {
        return;
    }
    let level = input.own_level.unwrap_or(input.relevance_level);
    let of_any = unit.len()..unit.len() + any.len();
    for (i, (measure, values)) in measures.iter().zip(&result.values).enumerate() {
        // A level below 1 makes documents relevant that are not judged so; shares may pass 1 then.
        let formula = &measure.formula;
        if of_any.contains(&i) || level < 1 {
            continue;
        }
        assert!(values.iter().all(|v| v.is_finite()), "{formula:?}: {values:?}");
        if i < unit.len() {
            assert!(values.iter().all(|v| (-1e-9..=1.0 + 1e-9).contains(v)), "{formula:?}: {values:?}");
        }
    }
});
