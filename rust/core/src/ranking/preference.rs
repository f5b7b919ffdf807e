//! Preferences between documents, as trec_eval takes them from `prefs` and `qrels_prefs`.
//!
//! Judges state levels of documents. Within a subgroup of statements, a document is preferred to those of
//! a lower level; within a group of subgroups, preferences are transitive. A ranking fulfils a preference
//! if it has the preferred document, and that before the other or without the other.
//!
//! Documents are numbered by rank: first the judged ones that were retrieved, then the others by id. So a
//! preference of x to y is fulfilled if x < y and x was retrieved.

use std::collections::{BTreeMap, BTreeSet};

use super::measure::share;
use super::scratch::{Ranking, Scratch};
use super::{EvaluateOptions, Evaluation, Id, Retrieved, Run, Stated, Summary, gather};
use crate::Result;

/// One line of preferences: a document with its level in a subgroup of a group of statements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statement<D> {
    /// Whose statement it is; preferences within a group must agree.
    pub group: D,
    /// Statements that are compared with each other.
    pub subgroup: D,
    /// The document.
    pub document: D,
    /// Higher is better; 0 is non-relevant.
    pub level: f32,
}

/// Which preferences a measure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Among {
    /// Between all documents.
    All,
    /// Of which at least one document was retrieved.
    Implied,
    /// Between retrieved documents.
    Retrieved,
}

/// How preferences become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Their number.
    Possible,
    /// The number of those fulfilled.
    Fulfilled,
    /// The share of fulfilled ones.
    Share,
    /// Its mean over pairs of documents.
    MeanOverPairs,
    /// Its mean over groups.
    MeanOverGroups,
    /// The same with as many non-relevant documents as relevant ones.
    MeanOverBalancedGroups,
}

/// A measure of preferences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference(Kind, Among);

const NAMES: [(&str, Preference); 14] = [
    ("prefs_num_prefs_poss", Preference(Kind::Possible, Among::All)),
    ("prefs_num_prefs_ful", Preference(Kind::Fulfilled, Among::All)),
    ("prefs_num_prefs_ful_ret", Preference(Kind::Fulfilled, Among::Retrieved)),
    ("prefs_simp", Preference(Kind::Share, Among::All)),
    ("prefs_pair", Preference(Kind::MeanOverPairs, Among::All)),
    ("prefs_avgjg", Preference(Kind::MeanOverGroups, Among::All)),
    ("prefs_avgjg_Rnonrel", Preference(Kind::MeanOverBalancedGroups, Among::All)),
    ("prefs_simp_ret", Preference(Kind::Share, Among::Retrieved)),
    ("prefs_pair_ret", Preference(Kind::MeanOverPairs, Among::Retrieved)),
    ("prefs_avgjg_ret", Preference(Kind::MeanOverGroups, Among::Retrieved)),
    ("prefs_avgjg_Rnonrel_ret", Preference(Kind::MeanOverBalancedGroups, Among::Retrieved)),
    ("prefs_simp_imp", Preference(Kind::Share, Among::Implied)),
    ("prefs_pair_imp", Preference(Kind::MeanOverPairs, Among::Implied)),
    ("prefs_avgjg_imp", Preference(Kind::MeanOverGroups, Among::Implied)),
];

impl Preference {
    /// From trec_eval's name; none if it is not one of these.
    pub fn parse(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, preference)| *preference)
    }

    /// How topics are summed up.
    pub fn summary(&self) -> Summary {
        match self.0 {
            Kind::Possible | Kind::Fulfilled => Summary::Sum,
            _ => Summary::Mean,
        }
    }

    fn of(&self, topic: &Topic) -> f64 {
        let (groups, ret) = (&topic.groups, topic.retrieved);
        match self.0 {
            Kind::Possible => sum(groups, |g| g.possible(self.1, ret)) as f64,
            Kind::Fulfilled => sum(groups, |g| g.fulfilled(self.1, ret)) as f64,
            Kind::Share => {
                let possible = sum(groups, |g| g.possible(self.1, ret));
                share(sum(groups, |g| g.fulfilled(self.1, ret)), possible)
            }
            Kind::MeanOverPairs => topic.mean_over_pairs(self.1),
            Kind::MeanOverGroups => {
                mean(groups, |g| share(g.fulfilled(self.1, ret), g.possible(self.1, ret)))
            }
            Kind::MeanOverBalancedGroups => {
                let mean = mean(groups, |g| g.balanced(self.1, ret));
                // trec_eval keeps its 0 where a group has no preferences at all.
                if mean > 0.0 { mean } else { 0.0 }
            }
        }
    }
}

fn sum(groups: &[Group], count: impl Fn(&Group) -> usize) -> usize {
    groups.iter().map(count).sum()
}

fn mean(groups: &[Group], value: impl Fn(&Group) -> f64) -> f64 {
    groups.iter().fold(0.0, |sum, group| sum + value(group)) / groups.len() as f64
}

/// The number of a document: its place among the judged ones.
type Number = usize;

/// Whether a ranking with this many judged documents fulfils a preference.
fn fulfils((better, worse): (Number, Number), retrieved: usize) -> bool {
    better < worse && better < retrieved
}

impl Among {
    fn has(self, (x, y): (Number, Number), retrieved: usize) -> bool {
        match self {
            Among::All => true,
            Among::Implied => x.min(y) < retrieved,
            Among::Retrieved => x.max(y) < retrieved,
        }
    }
}

/// What one group of judges prefers.
struct Group {
    /// Documents, better and worse; one that was stated twice counts twice.
    pairs: Vec<(Number, Number)>,
    /// Levels with their documents, highest level first, of a group of one subgroup.
    classes: Option<Vec<Vec<Number>>>,
    relevant: Vec<Number>,
    nonrelevant: Vec<Number>,
}

/// A subgroup: levels with their documents by number, highest level first.
fn classes(statements: &[(f32, Number)]) -> Vec<Vec<Number>> {
    let mut sorted = statements.to_vec();
    sorted.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
    sorted
        .chunk_by(|x, y| x.0 == y.0)
        .map(|class| class.iter().map(|(_, number)| *number).collect())
        .collect()
}

fn pairs_of(classes: &[Vec<Number>]) -> Vec<(Number, Number)> {
    let lower = |i: usize| classes[i + 1..].iter().flatten();
    let of = |i: usize| classes[i].iter().flat_map(move |x| lower(i).map(|y| (*x, *y)));
    (0..classes.len()).flat_map(of).collect()
}

impl Group {
    fn new(subgroups: &[Vec<(f32, Number)>], documents: usize) -> Stated<Self> {
        let mut level_of: BTreeMap<Number, f32> = BTreeMap::new();
        for (level, number) in subgroups.iter().flatten() {
            if level_of.insert(*number, *level).is_some_and(|other| (other > 0.0) != (*level > 0.0)) {
                return Err("a document is both relevant and not to one group of judges".into());
            }
        }
        let all: Vec<Vec<Vec<Number>>> = subgroups.iter().map(|s| classes(s)).collect();
        let numbers = |relevant: bool| -> Vec<Number> {
            level_of.iter().filter(|(_, level)| (**level > 0.0) == relevant).map(|(n, _)| *n).collect()
        };
        let (relevant, nonrelevant) = (numbers(true), numbers(false));
        if let [classes] = all.as_slice() {
            let pairs = pairs_of(classes);
            if pairs.iter().any(|(x, y)| x == y) {
                return Err("a document has two levels in one subgroup of judgments".into());
            }
            return Ok(Group { pairs, classes: Some(classes.clone()), relevant, nonrelevant });
        }
        let pairs = closed(all.iter().flat_map(|classes| pairs_of(classes)), documents)?;
        Ok(Group { pairs, classes: None, relevant, nonrelevant })
    }

    fn possible(&self, among: Among, retrieved: usize) -> usize {
        self.pairs.iter().filter(|pair| among.has(**pair, retrieved)).count()
    }

    fn fulfilled(&self, among: Among, retrieved: usize) -> usize {
        self.pairs.iter().filter(|pair| among.has(**pair, retrieved) && fulfils(**pair, retrieved)).count()
    }

    /// The share of fulfilled preferences with as many non-relevant documents as relevant ones: where there
    /// are fewer, others are taken as ranked behind all; where there are more, the first ones count.
    fn balanced(&self, among: Among, retrieved: usize) -> f64 {
        let found = |numbers: &[Number]| numbers.partition_point(|n| *n < retrieved);
        let only = among == Among::Retrieved;
        let count = |numbers: &[Number]| if only { found(numbers) } else { numbers.len() };
        let (relevant, nonrelevant) = (count(&self.relevant), count(&self.nonrelevant));
        let (fulfilled, possible) = if relevant >= nonrelevant {
            let more = relevant - nonrelevant;
            let fulfilled = self.fulfilled(among, retrieved) + found(&self.relevant) * more;
            (fulfilled, self.possible(among, retrieved) + self.relevant.len() * more)
        } else {
            let pairs = self.balanced_pairs(relevant);
            let of = pairs.iter().filter(|pair| among.has(**pair, retrieved));
            (of.clone().filter(|pair| fulfils(**pair, retrieved)).count(), of.count())
        };
        fulfilled as f64 / possible as f64
    }

    /// Preferences of which the non-relevant documents are the first ones: as many as are relevant.
    fn balanced_pairs(&self, relevant: usize) -> Vec<(Number, Number)> {
        let Some(classes) = &self.classes else {
            let dropped = self.nonrelevant.get(self.relevant.len()..).unwrap_or_default();
            let kept = |n: &Number| dropped.binary_search(n).is_err();
            return self.pairs.iter().copied().filter(|(x, y)| kept(x) && kept(y)).collect();
        };
        let Some((last, higher)) = classes.split_last() else { return Vec::new() };
        // trec_eval pairs the documents of the last class with its first ones, too.
        let first = &last[..relevant.min(last.len())];
        let with_first = classes.iter().flatten().flat_map(|x| first.iter().map(|y| (*x, *y)));
        pairs_of(higher).into_iter().chain(with_first).collect()
    }
}

/// The transitive closure.
fn closed(pairs: impl Iterator<Item = (Number, Number)>, documents: usize) -> Stated<Vec<(Number, Number)>> {
    let mut better = vec![false; documents * documents];
    pairs.for_each(|(x, y)| better[x * documents + y] = true);
    for middle in 0..documents {
        let below: Vec<Number> = (0..documents).filter(|y| better[middle * documents + y]).collect();
        for x in 0..documents {
            if better[x * documents + middle] {
                below.iter().for_each(|y| better[x * documents + y] = true);
            }
        }
    }
    let all = (0..documents * documents).filter(|i| better[*i]).map(|i| (i / documents, i % documents));
    let all: Vec<_> = all.filter(|(x, y)| x != y).collect();
    if all.iter().any(|(x, y)| better[y * documents + x]) {
        return Err("preferences of one group of judges contradict each other".into());
    }
    Ok(all)
}

/// One topic's preferences, with documents numbered.
struct Topic {
    groups: Vec<Group>,
    /// Judged documents.
    documents: usize,
    /// Those that were retrieved.
    retrieved: usize,
}

impl Topic {
    fn new<D: Id>(ranking: Vec<D>, statements: &[Statement<D>]) -> Stated<Self> {
        let judged: BTreeSet<D> = statements.iter().map(|s| s.document).collect();
        let mut numbers: BTreeMap<D, Number> = BTreeMap::new();
        for document in ranking.into_iter().filter(|d| judged.contains(d)) {
            numbers.insert(document, numbers.len());
        }
        let retrieved = numbers.len();
        for document in judged {
            let next = numbers.len();
            numbers.entry(document).or_insert(next);
        }
        let mut groups: BTreeMap<D, BTreeMap<D, Vec<(f32, Number)>>> = BTreeMap::new();
        for s in statements {
            let subgroup = groups.entry(s.group).or_default().entry(s.subgroup).or_default();
            subgroup.push((s.level, numbers[&s.document]));
        }
        let group = |subgroups: BTreeMap<D, Vec<(f32, Number)>>| {
            Group::new(&subgroups.into_values().collect::<Vec<_>>(), numbers.len())
        };
        let groups = groups.into_values().map(group).collect::<Stated<_>>()?;
        Ok(Topic { groups, documents: numbers.len(), retrieved })
    }

    /// The mean, over pairs of documents between which somebody prefers one, of the share of groups whose
    /// preference is fulfilled.
    fn mean_over_pairs(&self, among: Among) -> f64 {
        let n = self.documents;
        let mut counts = vec![0u32; n * n];
        self.groups.iter().flat_map(|g| &g.pairs).for_each(|(x, y)| counts[x * n + y] += 1);
        let (mut sum, mut pairs) = (0.0, 0usize);
        let mut add = |x: Number, y: Number| {
            let (for_x, for_y) = (counts[x * n + y], counts[y * n + x]);
            if for_x + for_y > 0 {
                pairs += 1;
                if x < self.retrieved {
                    sum += f64::from(for_x) / f64::from(for_x + for_y);
                }
            }
        };
        // In this order: those that were retrieved among themselves, then with the others.
        let ret = self.retrieved;
        (0..ret).for_each(|x| (x + 1..ret).for_each(|y| add(x, y)));
        if among != Among::Retrieved {
            (0..ret).for_each(|x| (ret..n).for_each(|y| add(x, y)));
        }
        if among == Among::All {
            (ret..n).for_each(|x| (x + 1..n).for_each(|y| add(x, y)));
        }
        if pairs == 0 { 0.0 } else { sum / pairs as f64 }
    }
}

/// Evaluate a run by preferences.
///
/// # Errors
/// As [`super::evaluate`]; a group of judges that contradicts itself.
pub fn evaluate_preferences<T: Id, D: Id, R: Retrieved<D>>(
    statements: &BTreeMap<T, Vec<Statement<D>>>,
    run: &Run<T, R>,
    measures: &[Preference],
    options: &EvaluateOptions<'_>,
) -> Result<Evaluation<T>> {
    let kinds = measures.iter().map(Preference::summary).collect();
    let values = |scratch: &Scratch<D>, how: &Ranking, statements: &Vec<Statement<D>>| {
        let topic = Topic::new(scratch.ranking_by_ascending_ids(how), statements)?;
        Ok((measures.iter().map(|m| m.of(&topic)).collect(), String::new()))
    };
    gather(statements, run, kinds, false, options, values, |_| vec![0.0; measures.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(ranking: &[i64], statements: &[(i64, i64, i64, f32)]) -> Stated<Topic> {
        let statement = |&(group, subgroup, document, level): &(i64, i64, i64, f32)| Statement {
            group,
            subgroup,
            document,
            level,
        };
        Topic::new(ranking.to_vec(), &statements.iter().map(statement).collect::<Vec<_>>())
    }

    fn value(topic: &Stated<Topic>, name: &str) -> f64 {
        match (topic, Preference::parse(name)) {
            (Ok(topic), Some(measure)) => measure.of(topic),
            _ => panic!("{name}"),
        }
    }

    #[test]
    fn values_by_hand() {
        // 1 > 2, 1 > 3, 1 > 4, 2 > 3, 2 > 4; retrieved are 2, 1 and 3.
        let t = topic(&[2, 9, 1, 3], &[(0, 0, 1, 2.0), (0, 0, 2, 1.0), (0, 0, 3, 0.0), (0, 0, 4, 0.0)]);
        assert_eq!(value(&t, "prefs_num_prefs_poss"), 5.0);
        assert_eq!(value(&t, "prefs_num_prefs_ful"), 4.0);
        assert_eq!(value(&t, "prefs_num_prefs_ful_ret"), 2.0);
        for name in ["prefs_simp", "prefs_pair", "prefs_avgjg", "prefs_simp_imp", "prefs_avgjg_Rnonrel"] {
            assert_eq!(value(&t, name), 0.8, "{name}");
        }
        assert_eq!(value(&t, "prefs_simp_ret"), 2.0 / 3.0);
    }

    #[test]
    fn groups_may_contradict_each_other_but_not_themselves() {
        let two = topic(&[1, 2], &[(0, 0, 1, 2.0), (0, 0, 2, 1.0), (1, 0, 1, 1.0), (1, 0, 2, 2.0)]);
        assert_eq!(value(&two, "prefs_pair"), 0.5);
        let one = [(0, 0, 1, 2.0), (0, 0, 2, 1.0), (0, 1, 1, 1.0), (0, 1, 2, 2.0)];
        assert!(topic(&[1, 2], &one).err().is_some_and(|why| why.contains("contradict")));
        let both = [(0, 0, 1, 2.0), (0, 0, 2, 0.0), (0, 1, 2, 1.0)];
        assert!(topic(&[1, 2], &both).err().is_some_and(|why| why.contains("both relevant and not")));
        let twice = [(0, 0, 1, 2.0), (0, 0, 1, 1.0)];
        assert!(topic(&[1, 2], &twice).err().is_some_and(|why| why.contains("two levels")));
    }

    #[test]
    fn subgroups_of_a_group_are_transitive() {
        let t = topic(&[1, 3], &[(0, 0, 1, 3.0), (0, 0, 2, 2.0), (0, 1, 2, 5.0), (0, 1, 3, 4.0)]);
        assert_eq!(value(&t, "prefs_num_prefs_poss"), 3.0);
        assert_eq!(value(&t, "prefs_num_prefs_ful_ret"), 1.0, "1 before 3, which nobody stated");
    }
}
