//! Which regularisation each iteration has.

use crate::simd::Float;

/// A sequence of regularisations.
#[derive(Clone, Copy, Debug)]
pub(super) enum Schedule {
    /// The same throughout.
    Constant(f64),
    /// From a value at which the costs converge at once down to the target, by factors of four: a stage
    /// starts from the potentials of the one before (ε-scaling; Schmitzer 2019).
    Geometric {
        /// Of the stage.
        reg: f64,
        /// Of the last stage.
        target: f64,
        /// Iterations of a stage at most, the last excepted.
        budget: usize,
        /// The iteration at which the stage ends.
        end: usize,
    },
    /// β/t in iteration t: proximal steps towards transport without regularisation, which is what IPOT is
    /// (Xie, Wang, Wang, Zha, UAI 2019).
    Proximal(f64),
}

/// The factor between two stages.
const FACTOR: f64 = 4.0;
/// A stage at `reg` converges at once where costs spread over this many times reg.
const EASY: f64 = 20.0;
/// Iterations of a stage at most.
const LONGEST: usize = 100;

impl Schedule {
    /// The geometric schedule for costs of this spread. Stages before the last take at most half of
    /// `max_iter`, so that a plan at the target is always reached; without room for them there are none.
    pub(super) fn annealing(target: f64, spread: f64, max_iter: usize) -> Schedule {
        let (mut reg, mut stages) = (target, 0);
        while spread > EASY * FACTOR * reg && stages < 32 {
            reg *= FACTOR;
            stages += 1;
        }
        let budget = if stages == 0 { 0 } else { (max_iter / (2 * stages)).min(LONGEST) };
        if budget == 0 {
            return Schedule::Constant(target);
        }
        Schedule::Geometric { reg, target, budget, end: budget }
    }

    /// The regularisation of iteration `t`, the first of which is 1.
    pub(super) fn reg<T: Float>(&self, t: usize) -> T {
        T::of(match *self {
            Schedule::Constant(reg) | Schedule::Geometric { reg, .. } => reg,
            Schedule::Proximal(beta) => beta / t.max(1) as f64,
        })
    }

    /// Whether potentials are only passed on to a later stage.
    pub(super) fn is_rough(&self) -> bool {
        matches!(self, Schedule::Geometric { reg, target, .. } if reg > target)
    }

    /// The stage is `ready` or its budget is used up after `t` iterations: whether a new one begins.
    pub(super) fn advance(&mut self, ready: bool, t: usize) -> bool {
        let Schedule::Geometric { reg, target, budget, end } = self else { return false };
        if *reg <= *target || !(ready || t >= *end) {
            return false;
        }
        *reg = (*reg / FACTOR).max(*target);
        // What is a hair above the target is the target: factors of four are exact in binary.
        *end = t + *budget;
        true
    }
}
