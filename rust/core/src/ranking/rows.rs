//! Judgments and runs in columns: one row a document, as tables and arrays have them.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::ranked::{Read, all_or_first};
use super::{Fault, Id, Judgments, Qrels, Retrieved, Run};
use crate::{Error, Result, error::ensure};

/// A column of ids.
pub trait Column<I>: Copy + Send + Sync {
    /// The id in a row.
    fn id(&self, row: usize) -> I;
    /// Rows.
    fn rows(&self) -> usize;
}

impl Column<i64> for &[i64] {
    fn id(&self, row: usize) -> i64 {
        self[row]
    }

    fn rows(&self) -> usize {
        self.len()
    }
}

/// Text ids one after another: that of row i is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct TextColumn<'t> {
    data: &'t [u8],
    offsets: &'t [i64],
}

impl<'t> TextColumn<'t> {
    /// # Errors
    /// Offsets that do not ascend within the data.
    pub fn new(data: &'t [u8], offsets: &'t [i64]) -> Result<Self> {
        let within = offsets.first().is_some_and(|o| *o >= 0)
            && offsets.last().is_some_and(|o| usize::try_from(*o).is_ok_and(|o| o <= data.len()));
        ensure!(within && offsets.is_sorted(), "ids: offsets do not ascend within their text");
        Ok(TextColumn { data, offsets })
    }
}

impl<'t> Column<&'t [u8]> for TextColumn<'t> {
    fn id(&self, row: usize) -> &'t [u8] {
        &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }
}

/// One topic's rows of a run.
#[derive(Clone, Debug)]
pub struct Rows<'a, C> {
    documents: C,
    scores: &'a [f64],
    ranges: Vec<Range<usize>>,
}

impl<D: Id, C: Column<D>> Retrieved<D> for Rows<'_, C> {
    fn read(&self, add: &mut impl FnMut(D, f64)) -> Read {
        self.ranges.iter().cloned().flatten().for_each(|row| add(self.documents.id(row), self.scores[row]));
        Ok(())
    }

    fn position(&self, index: usize) -> usize {
        self.ranges.iter().cloned().flatten().nth(index).unwrap_or(usize::MAX)
    }

    fn error(&self, fault: Fault) -> Error {
        fault.told(format!("run: row {}: {}", fault.position, fault.reason))
    }
}

/// Where each topic's rows are; neighbours make one range.
fn ranges<T: Id>(topics: impl Column<T>) -> BTreeMap<T, Vec<Range<usize>>> {
    let mut found: BTreeMap<T, Vec<Range<usize>>> = BTreeMap::new();
    let mut start = 0;
    for row in 1..=topics.rows() {
        if row == topics.rows() || topics.id(row) != topics.id(start) {
            found.entry(topics.id(start)).or_default().push(start..row);
            start = row;
        }
    }
    found
}

fn same_length(what: &str, topics: usize, documents: usize, values: usize) -> Result<()> {
    ensure!(
        topics == documents && documents == values,
        "{what}: expected columns of one length, got {topics} topics, {documents} documents and {values} values"
    );
    Ok(())
}

/// A run of columns.
///
/// # Errors
/// Columns of different lengths.
pub fn run_of_rows<'a, T: Id, D: Id, C: Column<D>>(
    topics: impl Column<T>,
    documents: C,
    scores: &'a [f64],
) -> Result<Run<T, Rows<'a, C>>> {
    same_length("run", topics.rows(), documents.rows(), scores.len())?;
    let found = ranges(topics).into_iter();
    Ok(found.map(|(topic, ranges)| (topic, Rows { documents, scores, ranges })).collect())
}

/// Judgments of columns.
///
/// # Errors
/// Columns of different lengths, or a document judged twice for a topic.
pub fn qrels_of_rows<T: Id, D: Id>(
    topics: impl Column<T>,
    documents: impl Column<D>,
    relevance: &[i64],
) -> Result<Qrels<T, D>> {
    same_length("qrels", topics.rows(), documents.rows(), relevance.len())?;
    let topics: Vec<(T, Vec<Range<usize>>)> = ranges(topics).into_iter().collect();
    let judged = |(topic, ranges): &(T, Vec<Range<usize>>)| {
        let mut judged = Judgments::default();
        for row in ranges.iter().cloned().flatten() {
            if judged.insert(documents.id(row), relevance[row]).is_some() {
                let (document, topic) = (documents.id(row).show(), topic.show());
                let reason = format!("topic '{topic}', document '{document}': judged twice");
                return Err(Fault::contradiction(row, reason));
            }
        }
        Ok((*topic, judged))
    };
    let parts: Vec<_> = topics.par_iter().with_min_len(4).map(judged).collect();
    match all_or_first(parts) {
        Ok(parts) => Ok(parts.into_iter().collect()),
        Err((_, fault)) => Err(fault.told(format!("qrels: row {}: {}", fault.position, fault.reason))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::{ALL, EvaluateOptions, Formula, Measure, evaluate};

    #[test]
    fn rows_of_a_topic_need_not_be_neighbours() {
        let (topics, documents, scores) = ([1, 2, 1, 2], [5, 5, 6, 6], [0.5, 0.1, 0.9, 0.2]);
        let run = run_of_rows(&topics[..], &documents[..], &scores);
        let qrels = qrels_of_rows(&[1, 2][..], &[5, 6][..], &[1, 1]);
        let (Ok(run), Ok(qrels)) = (run, qrels) else { panic!("valid columns") };
        let result =
            evaluate(&qrels, &run, &[Measure::new("map", Formula::Map(ALL))], &EvaluateOptions::default());
        assert_eq!(result.map(|r| r.values), Ok(vec![vec![0.5, 1.0]]));
    }

    #[test]
    fn text_ids_and_bad_columns() {
        let column = TextColumn::new(b"aabb", &[0, 2, 4, 4]);
        assert!(column.is_ok_and(|c| (c.rows(), c.id(0), c.id(2)) == (3, b"aa".as_slice(), b"".as_slice())));
        for offsets in [&[0, 5][..], &[-1, 2], &[2, 1], &[]] {
            assert!(TextColumn::new(b"aabb", offsets).is_err());
        }
        let why = |e: Option<Error>| e.map(|e| e.to_string()).unwrap_or_default();
        let short = run_of_rows::<i64, i64, _>(&[1][..], &[1, 2][..], &[0.0]);
        assert!(why(short.err()).contains("got 1 topics, 2 documents and 1 values"));
        let twice = qrels_of_rows::<i64, i64>(&[1, 1][..], &[3, 3][..], &[0, 1]);
        assert!(why(twice.err()).starts_with("qrels: row 1: topic '1', document '3': judged twice"));
    }
}
