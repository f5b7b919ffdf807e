//! Everything that can be wrong with an input.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shorthand for a result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Go on if something holds, and return a bad argument's error with this text if not.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        let holds: bool = $holds;
        if !holds {
            return Err($crate::Error::Argument(format!($($text)+)));
        }
    };
}
#[cfg(any(feature = "transport", feature = "similarity", feature = "ranking"))]
pub(crate) use ensure;

/// Go on, unless the caller has set the flag.
#[cfg(any(feature = "transport", feature = "similarity", feature = "ranking"))]
pub(crate) fn proceed(cancel: Option<&AtomicBool>) -> Result<()> {
    match cancel {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Interrupted),
        _ => Ok(()),
    }
}

/// A bad input, named precisely enough to be corrected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape, range or option that does not fit; the text names the argument.
    #[error("{0}")]
    Argument(String),
    /// NaN or −∞ in a cost matrix.
    #[error("cost: problem {problem} has {value} at row {row}, column {col}; expected a number or +inf")]
    Cost {
        /// Index in the batch.
        problem: usize,
        /// Row in the given (not compacted) matrix.
        row: usize,
        /// Column in the given matrix.
        col: usize,
        /// The offender.
        value: f64,
    },
    /// A marginal that is no distribution.
    #[error("{side}: problem {problem} has {value} at {index}; expected a finite number >= 0")]
    Marginal {
        /// `a` or `b`.
        side: &'static str,
        /// Index in the batch.
        problem: usize,
        /// Position in the marginal.
        index: usize,
        /// The offender.
        value: f64,
    },
    /// Marginals that cannot be the two sides of one plan.
    #[error("a, b: problem {problem} has masses {a} and {b}; expected equal masses")]
    UnequalMass {
        /// Index in the batch.
        problem: usize,
        /// Mass of `a`.
        a: f64,
        /// Mass of `b`.
        b: f64,
    },
    /// A row or column with mass and without an allowed edge.
    #[error("cost: problem {problem} is infeasible: {side} {index} has mass but only +inf costs")]
    Infeasible {
        /// Index in the batch.
        problem: usize,
        /// `row` or `column`.
        side: &'static str,
        /// Which one.
        index: usize,
    },
    /// An unbalanced plan with more mass than a number can say, as costs far below 0 make it.
    #[error("cost: problem {problem} has no plan in numbers: costs are too far below 0 for this reg_m")]
    Overflow {
        /// Index in the batch.
        problem: usize,
    },
    /// A line of a TREC file.
    #[error("{file}:{line}: {reason}")]
    Line {
        /// The file as the caller named it.
        file: String,
        /// 1-based.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Input that contradicts itself, such as a document that is judged twice.
    #[error("{0}")]
    Contradiction(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}
