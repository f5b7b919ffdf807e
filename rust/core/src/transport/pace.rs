//! When a problem may stop, and how far to over-relax it on the way there.

use super::sweep::Rule;
use crate::simd::Float;

/// Sweeps between two looks at the rate of convergence.
const PERIOD: usize = 8;

/// Rates below this are fast enough as they are.
const SLOW: f64 = 0.7;

/// Decides after every sweep, or after some by one rule. Sinkhorn's iteration converges linearly with some rate r; successive
/// over-relaxation with ω = 2 / (1 + √(1 − r)) is the best such method near the solution (Lehmann,
/// von Renesse, Sambale, Uschmajew, Optimization Letters 2022; Young 1971 for ω from the rate seen).
/// It may diverge far from it, so a growing error ends it for good.
pub(super) struct Pace {
    tol: f64,
    /// What a relaxed error must reach before plain sweeps confirm it.
    goal: f64,
    allowed: bool,
    omega: f64,
    /// The best ω found, while plain sweeps confirm.
    resume: f64,
    count: usize,
    mark: f64,
    /// Whether the iterate whose error comes next was made by a plain sweep.
    plain: bool,
}

fn best(rate: f64) -> f64 {
    (2.0 / (1.0 + (1.0 - rate).sqrt())).min(1.97)
}

impl Pace {
    /// Stop at an absolute error of `tol`; never, if that is 0.
    pub(super) fn new(tol: f64, allowed: bool) -> Self {
        let allowed = allowed && tol > 0.0;
        Pace { tol, goal: tol, allowed, omega: 1.0, resume: 1.0, count: 0, mark: 0.0, plain: false }
    }

    /// The rule of the next sweep, for hard marginals.
    pub(super) fn rule<T: Float>(&self) -> Rule<T> {
        if self.omega == 1.0 { Rule::Plain } else { Rule::Relaxed(T::of(self.omega - 1.0)) }
    }

    /// The kernel was made anew: the rate of convergence is to be looked at anew, too.
    pub(super) fn restart(&mut self) {
        self.count = 0;
    }

    /// What was within the tolerance by the estimate was not by measure: ask for more.
    pub(super) fn tighten(&mut self) {
        self.tol *= 0.5;
        self.goal = self.goal.min(self.tol);
        self.restart();
    }

    /// The error at which sweeps by the present rule are to be noted at once.
    pub(super) fn goal(&self) -> f64 {
        if self.omega == 1.0 { self.tol } else { self.goal }
    }

    /// How many sweeps may be made by the present rule before they are noted, if none comes within the goal.
    pub(super) fn patience(&self) -> usize {
        match (self.allowed, self.resume > 1.0) {
            (false, _) => 2 * PERIOD,
            (true, true) => 1,
            (true, false) => PERIOD - (self.count + PERIOD - 1) % PERIOD,
        }
    }

    /// Take note of sweeps, of whether they were plain ones, and of the error before the last; whether to stop.
    pub(super) fn done(&mut self, made: usize, error: f64, plain: bool) -> bool {
        let of_plain = if made > 1 { plain } else { self.plain };
        self.plain = plain;
        if self.tol == 0.0 {
            return false;
        }
        if of_plain && self.plain && error <= self.tol {
            return true;
        }
        if !self.allowed {
            return false;
        }
        if self.omega > 1.0 && error <= self.goal {
            // Two plain sweeps: one makes the columns exact, the next measures the rows.
            self.resume = std::mem::replace(&mut self.omega, 1.0);
            self.goal *= 0.5;
            self.count = 0;
            return false;
        }
        if self.resume > 1.0 && of_plain {
            self.omega = std::mem::replace(&mut self.resume, 1.0);
            self.count = 0;
        }
        if self.resume == 1.0 {
            self.adapt(made, error);
        }
        false
    }

    fn adapt(&mut self, made: usize, error: f64) {
        self.count += made;
        if self.count % PERIOD != 1 {
            return;
        }
        let before = std::mem::replace(&mut self.mark, error);
        if self.count == 1 {
            return;
        }
        let rate = (error / before).powf(1.0 / PERIOD as f64);
        if !rate.is_finite() || (self.omega > 1.0 && error > 4.0 * before) {
            self.omega = 1.0;
            self.allowed = false;
        } else if self.omega == 1.0 {
            if rate > SLOW && rate < 1.0 {
                self.omega = best(rate);
            }
        } else if rate < 1.0 && rate > self.omega - 1.0 {
            // Young's relation between the rate λ seen with ω and the rate r of plain sweeps.
            let plain = (rate + self.omega - 1.0).powi(2) / (rate * self.omega * self.omega);
            self.omega = self.omega.max(best(plain.min(1.0)));
        }
    }
}
