//! Measures by name: trec_eval's (`ndcg_cut_10`, `set_F_0.5`, `ndcg_1=3.5,2=9`) and those of ir_measures
//! (`nDCG@10`, `P(rel=2)@5`, `RBP(p=0.8)`).

use super::gain::Gain;
use super::measure::{ALL, Formula, Measure};
use crate::{Error, Result};

type Plain = fn() -> Formula;
/// trec_eval's names without a parameter, and ours.
const PLAIN: [(&str, Plain); 28] = [
    ("num_q", || Formula::NumQ),
    ("num_ret", || Formula::NumRet),
    ("num_rel", || Formula::NumRel),
    ("num_rel_ret", || Formula::NumRelRet),
    ("num_nonrel_judged_ret", || Formula::NumNonrelJudgedRet),
    ("map", || Formula::Map(ALL)),
    ("gm_map", || Formula::GmMap),
    ("Rprec", || Formula::Rprec),
    ("bpref", || Formula::Bpref),
    ("gm_bpref", || Formula::GmBpref),
    ("infAP", || Formula::InfAp),
    ("recip_rank", || Formula::RecipRank(ALL)),
    ("11pt_avg", || Formula::IprecAvg((0..=10).map(|i| f64::from(i) / 10.0).collect())),
    ("ndcg", || Formula::Ndcg(Gain::GRADE, ALL)),
    ("ndcg_rel", || Formula::NdcgRel(Gain::GRADE)),
    ("Rndcg", || Formula::Rndcg(Gain::GRADE)),
    ("G", || Formula::G(Gain::GRADE)),
    ("binG", || Formula::BinG),
    ("yaap", || Formula::Yaap),
    ("set_P", || Formula::SetP),
    ("set_relative_P", || Formula::SetRelativeP),
    ("set_recall", || Formula::SetRecall),
    ("set_map", || Formula::SetMap),
    ("set_F", || Formula::SetF(1.0)),
    ("utility", || Formula::Utility([1.0, -1.0, 0.0, 0.0])),
    ("num_tied", || Formula::NumTied),
    ("rbp", || Formula::Rbp(0.8, ALL)),
    ("rbp_resid", || Formula::RbpResidual(0.8)),
];

type Parametric = fn(&str) -> Option<Formula>;
/// trec_eval's names with a parameter behind them, and ours; an example of each; the longest first where one
/// begins like another.
const FAMILIES: [(&str, &str, Parametric); 20] = [
    ("ndcg_cut_", "10", |k| Some(Formula::Ndcg(Gain::GRADE, cut(k)?))),
    ("map_cut_", "10", |k| Some(Formula::Map(cut(k)?))),
    ("relative_P_", "10", |k| Some(Formula::RelativeP(cut(k)?))),
    ("P_", "10", |k| Some(Formula::P(cut(k)?))),
    ("recall_", "10", |k| Some(Formula::Recall(cut(k)?))),
    ("success_", "10", |k| Some(Formula::Success(cut(k)?))),
    ("judged_", "10", |k| Some(Formula::Judged(cut(k)?))),
    ("err_", "10", |k| Some(Formula::Err(cut(k)?))),
    ("iprec_at_recall_", "0.20", |x| Some(Formula::IprecAtRecall(share(x, f64::MAX)?))),
    ("Rprec_mult_", "0.20", |x| Some(Formula::RprecMult(share(x, f64::MAX)?))),
    ("rbp_resid_", "0.80", |p| Some(Formula::RbpResidual(share(p, BELOW_ONE)?))),
    ("rbp_", "0.80", |p| Some(Formula::Rbp(share(p, BELOW_ONE)?, ALL))),
    ("compat_", "0.95", |p| Some(Formula::Compat(share(p, BELOW_ONE)?))),
    ("set_F_", "0.5", |x| Some(Formula::SetF(share(x, f64::MAX)?))),
    ("utility_", "1,-1,0,0", |x| Some(Formula::Utility(numbers(x)?.try_into().ok()?))),
    ("11pt_avg_", "0.25,0.5", |x| Some(Formula::IprecAvg(numbers(x)?))),
    ("ndcg_rel_", "1=3.5,2=9", |x| Some(Formula::NdcgRel(gains(x, '=')?))),
    ("ndcg_", "1=3.5,2=9", |x| Some(Formula::Ndcg(gains(x, '=')?, ALL))),
    ("Rndcg_", "1=3.5,2=9", |x| Some(Formula::Rndcg(gains(x, '=')?))),
    ("G_", "1=3.5,2=9", |x| Some(Formula::G(gains(x, '=')?))),
];

/// The largest persistence.
const BELOW_ONE: f64 = 1.0 - f64::EPSILON;

fn cut(text: &str) -> Option<usize> {
    text.parse().ok().filter(|k| *k > 0)
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|x: &f64| x.is_finite())
}

fn share(text: &str, most: f64) -> Option<f64> {
    number(text).filter(|x| (0.0..=most).contains(x))
}

fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(',').map(number).collect()
}

/// `grade=gain,grade=gain`, with any sign between the two.
fn gains(text: &str, sign: char) -> Option<Gain> {
    let pair = |pair: &str| {
        let (grade, gain) = pair.split_once(sign)?;
        Some((grade.trim().parse().ok()?, number(gain)?))
    };
    text.split(',').map(pair).collect::<Option<Vec<_>>>().map(Gain::Table)
}

impl Measure {
    /// From trec_eval's name (`ndcg_cut_10`) or that of ir_measures (`nDCG@10`, `P(rel=2)@5`).
    ///
    /// # Errors
    /// An unknown name, with the nearest valid one; a parameter that the measure does not have.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some((_, formula)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return Ok(Measure::new(name, formula()));
        }
        for (family, _, formula) in FAMILIES {
            if let Some(formula) = name.strip_prefix(family).and_then(formula) {
                return Ok(Measure::new(name, formula));
            }
        }
        match Call::new(name).map(Call::measure).transpose()?.flatten() {
            Some(measure) => Ok(measure),
            None => Err(Error::Argument(format!("measures: unknown measure '{name}'{}", nearest(name)))),
        }
    }
}

/// A name as ir_measures writes it: `Name(parameter=value, …)@cutoff`.
struct Call<'a> {
    text: &'a str,
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

/// The parameter that stands behind `@`.
const AT: &str = "cutoff";

impl<'a> Call<'a> {
    fn new(text: &'a str) -> Option<Self> {
        let (call, at) = match text.rsplit_once('@') {
            Some((call, at)) => (call, Some(at)),
            None => (text, None),
        };
        let (name, inside) = match call.split_once('(') {
            Some((name, rest)) => (name, rest.trim_end().strip_suffix(')')?),
            None => (call, ""),
        };
        let mut parameters = Vec::new();
        let (mut start, mut depth) = (0, 0);
        for (i, c) in inside.char_indices().chain([(inside.len(), ',')]) {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == ',' && depth == 0 && !inside.is_empty() {
                let (key, value) = inside[start..i].split_once('=')?;
                parameters.push((key.trim(), value.trim()));
                start = i + 1;
            }
        }
        parameters.extend(at.map(|value| (AT, value.trim())));
        Some(Call { text, name: name.trim(), parameters })
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let place = self.parameters.iter().position(|(known, _)| *known == key)?;
        Some(self.parameters.remove(place).1)
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Argument(format!("measures: '{}': {what}", self.text))
    }

    fn value<V>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<V>,
    ) -> Result<Option<V>> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let wrong = || self.wrong(&format!("{key}: expected {expected}, got '{text}'"));
        read(text).map(Some).ok_or_else(wrong)
    }

    fn flag(&mut self, key: &str) -> Result<bool> {
        let read = |text: &str| match text {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        Ok(self.value(key, "True or False", read)?.unwrap_or(false))
    }

    fn cutoff(&mut self) -> Result<Option<usize>> {
        self.value(AT, "an integer > 0", cut)
    }

    fn needed(&mut self) -> Result<usize> {
        let example = format!("expected a cut-off, as in {}@10", self.name);
        self.cutoff()?.ok_or_else(|| self.wrong(&example))
    }

    fn recall(&mut self) -> Result<f64> {
        let key = if self.parameters.iter().any(|(key, _)| *key == "recall") { "recall" } else { AT };
        let found = self.value(key, "a number >= 0", |x| share(x, f64::MAX))?;
        found.ok_or_else(|| self.wrong("expected a number behind it, as in @0.2"))
    }

    fn persistence(&mut self, default: f64) -> Result<f64> {
        Ok(self.value("p", "a number from 0 to below 1", |p| share(p, BELOW_ONE))?.unwrap_or(default))
    }

    fn gain(&mut self) -> Result<Gain> {
        let exponential = |text: &str| match text.trim_matches(['\'', '"']) {
            "log2" => Some(false),
            "exp-log2" => Some(true),
            _ => None,
        };
        let exponential = self.value("dcg", "'log2' or 'exp-log2'", exponential)?.unwrap_or(false);
        let table = |text: &str| gains(text.strip_prefix('{')?.strip_suffix('}')?, ':');
        match self.value("gains", "{grade:gain, …}", table)? {
            Some(_) if exponential => Err(self.wrong("expected one of dcg='exp-log2' and gains")),
            Some(gain) => Ok(gain),
            None => Ok(if exponential { Gain::Exponential } else { Gain::GRADE }),
        }
    }

    /// The measure, if there is one of this name.
    fn measure(mut self) -> Result<Option<Measure>> {
        let binary = !matches!(self.name, "NumQ" | "nDCG" | "NDCG" | "Judged" | "ERR" | "Compat");
        let relevance_level =
            if binary { self.value("rel", "an integer", |level| level.parse().ok())? } else { None };
        let formula = match self.name {
            "NumQ" => Formula::NumQ,
            "NumRet" if relevance_level.is_none() => Formula::NumRet,
            "NumRet" | "NumRelRet" => Formula::NumRelRet,
            "NumRel" => Formula::NumRel,
            "AP" | "MAP" => Formula::Map(self.cutoff()?.unwrap_or(ALL)),
            "RR" | "MRR" => Formula::RecipRank(self.cutoff()?.unwrap_or(ALL)),
            "nDCG" | "NDCG" => Formula::Ndcg(self.gain()?, self.cutoff()?.unwrap_or(ALL)),
            "P" | "Precision" => Formula::P(self.needed()?),
            "R" | "Recall" => Formula::Recall(self.needed()?),
            "Success" => Formula::Success(self.needed()?),
            "RelP" => Formula::RelativeP(self.needed()?),
            "Judged" => Formula::Judged(self.needed()?),
            "Rprec" | "RPrec" => Formula::Rprec,
            "RPrecMult" => Formula::RprecMult(self.recall()?),
            "IPrec" => Formula::IprecAtRecall(self.recall()?),
            "Bpref" | "BPref" => Formula::Bpref,
            "infAP" => Formula::InfAp,
            "SetP" => {
                if self.flag("relative")? {
                    Formula::SetRelativeP
                } else {
                    Formula::SetP
                }
            }
            "SetRelP" => Formula::SetRelativeP,
            "SetR" => Formula::SetRecall,
            "SetAP" => Formula::SetMap,
            "SetF" => {
                let weight = self.value("beta", "a number >= 0", |x| share(x, f64::MAX))?;
                Formula::SetF(weight.unwrap_or(1.0))
            }
            "RBP" => Formula::Rbp(self.persistence(0.8)?, self.cutoff()?.unwrap_or(ALL)),
            "RBPResidual" => Formula::RbpResidual(self.persistence(0.8)?),
            "ERR" => Formula::Err(self.cutoff()?.unwrap_or(ALL)),
            "Compat" => Formula::Compat(self.persistence(0.95)?),
            _ => return Ok(None),
        };
        let judged_only = self.flag("judged_only")?;
        match self.parameters.first() {
            Some((AT, value)) => Err(self.wrong(&format!("'{}' has no cut-off, got '{value}'", self.name))),
            Some((key, _)) => Err(self.wrong(&format!("'{}' has no parameter '{key}'", self.name))),
            None => Ok(Some(Measure { name: self.text.into(), formula, relevance_level, judged_only })),
        }
    }
}

/// The valid name that is nearest to one.
fn nearest(name: &str) -> String {
    let plain = PLAIN.iter().map(|(known, _)| (*known).to_owned());
    let families = FAMILIES.iter().map(|(family, example, _)| format!("{family}{example}"));
    let distance = |valid: &String| distance(&name.to_lowercase(), &valid.to_lowercase());
    let found = plain.chain(families).min_by_key(distance);
    found.map_or(String::new(), |valid| format!("; did you mean '{valid}'?"))
}

/// Edit distance.
fn distance(x: &str, y: &str) -> usize {
    let y: Vec<char> = y.chars().collect();
    let mut row: Vec<usize> = (0..=y.len()).collect();
    for (i, c) in x.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..y.len() {
            let next = (diagonal + usize::from(c != y[j])).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[y.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formula(name: &str) -> Formula {
        Measure::parse(name).unwrap_or_else(|e| panic!("{e}")).formula
    }

    fn why(name: &str) -> String {
        Measure::parse(name).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn names_of_trec_eval() {
        for (name, _) in PLAIN {
            assert_eq!(Measure::parse(name).map(|m| m.name), Ok(name.to_owned()));
        }
        for (family, example, _) in FAMILIES {
            assert!(Measure::parse(&format!("{family}{example}")).is_ok(), "{family}");
        }
        assert_eq!(formula("ndcg_cut_10"), Formula::Ndcg(Gain::GRADE, 10));
        assert_eq!(formula("ndcg_1=3.5,2=9"), Formula::Ndcg(Gain::Table(vec![(1, 3.5), (2, 9.0)]), ALL));
        assert_eq!(formula("utility_1,-1,0,.5"), Formula::Utility([1.0, -1.0, 0.0, 0.5]));
        assert_eq!(formula("rbp_resid_0.999"), Formula::RbpResidual(0.999));
        for bad in ["rbp_1", "P_0", "utility_1,2", "ndcg_1", "set_F_nan", "P_1_0", "iprec_at_recall_-1"] {
            assert!(why(bad).starts_with(&format!("measures: unknown measure '{bad}'")), "{bad}");
        }
        assert!(why("ndgc_cut_10").contains("did you mean 'ndcg_cut_10'"));
    }

    #[test]
    fn names_of_ir_measures() {
        let measure = Measure::parse("P(rel=2, judged_only=True)@5").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(measure.formula, Formula::P(5));
        assert_eq!((measure.relevance_level, measure.judged_only), (Some(2), true));
        assert_eq!(formula("RR@10"), formula("MRR@10"));
        assert_eq!(formula("nDCG(dcg='exp-log2')@10"), Formula::Ndcg(Gain::Exponential, 10));
        let table = Gain::Table(vec![(1, 3.0), (2, 5.0)]);
        assert_eq!(formula("nDCG(gains={1:3,2:5}, cutoff=7)"), Formula::Ndcg(table, 7));
        assert_eq!(formula("RBP(p=.8)"), Formula::Rbp(0.8, ALL));
        assert_eq!(formula("RBP(p=0.5,rel=1)@9"), Formula::Rbp(0.5, 9));
        assert_eq!(formula("IPrec@0.1"), Formula::IprecAtRecall(0.1));
        assert_eq!(formula("NumRet(rel=1)"), Formula::NumRelRet);
        assert_eq!(formula("SetP(relative=True)"), Formula::SetRelativeP);
        assert_eq!(formula("SetF(beta=0.5)"), Formula::SetF(0.5));
    }

    #[test]
    fn parameters_that_a_measure_does_not_have() {
        for (name, message) in [
            ("P", "'P': expected a cut-off, as in P@10"),
            ("P@x", "'P@x': cutoff: expected an integer > 0, got 'x'"),
            ("P(rel=x)@5", "rel: expected an integer, got 'x'"),
            ("P(p=1)@5", "'P' has no parameter 'p'"),
            ("nDCG(rel=2)@5", "'nDCG' has no parameter 'rel'"),
            ("Bpref@5", "'Bpref' has no cut-off, got '5'"),
            ("nDCG(dcg='x')", "dcg: expected 'log2' or 'exp-log2', got ''x''"),
            ("nDCG(dcg='exp-log2',gains={1:2})", "expected one of dcg='exp-log2' and gains"),
            ("RBP(p=1)", "p: expected a number from 0 to below 1, got '1'"),
            ("P(rel=2@5", "unknown measure 'P(rel=2@5'"),
            ("alpha_nDCG@5", "unknown measure 'alpha_nDCG@5'"),
        ] {
            assert!(why(name).contains(message), "{name}: {}", why(name));
        }
    }
}
