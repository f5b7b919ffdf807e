//! What a plan is worth and how far it is from its constraints: the one definition that stops the
//! iteration, is reported and is warned of.
//!
//! With r = T1 and c = Tᵀ1, and potentials f and g of which T = exp((f ⊕ g − C) / reg),
//!
//! ```text
//! residual = max(Σ |r − a|, Σ |c − b|) / Σ a
//! value    = <T, C> + reg Σ T (log T − 1)     = Σ r f + Σ c g − reg Σ T
//! gap      = value − (Σ a f + Σ b g − reg Σ T) = Σ (r − a) f + Σ (c − b) g
//! ```
//!
//! An unbalanced side has `a exp(−f / reg_m)` in the place of a in the residual, which is what r is at the
//! optimum, its divergence in the value, and `reg_m Σ a (1 − exp(−f / reg_m))` in that of Σ a f in the gap.

use super::kernel;
use crate::simd::{Float, Level};

/// One side of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    /// Σ |sums − what they are at the optimum|.
    pub(super) off: f64,
    /// Σ sums · potential.
    pub(super) paid: f64,
    /// Σ sums.
    pub(super) sum: f64,
    /// `reg_m · KL(sums | weights)`, with KL(x | y) = Σ x log(x/y) − x + y; 0 for a hard marginal.
    pub(super) divergence: f64,
    /// This side's part of the duality gap.
    pub(super) gap: f64,
}

impl Kept {
    /// `rho` is reg_m; `stranded` the mass that was left out of an unbalanced side for want of an edge.
    pub(super) fn of<T: Float>(
        level: Level,
        sums: &[T],
        weights: &[T],
        potential: &[T],
        rho: f64,
        stranded: f64,
    ) -> Kept {
        if rho.is_infinite() {
            // SAFETY: the level is supported; the workspace pads all three to whole vectors.
            let [off, paid, sum, gap] = unsafe { kernel::run_compare(level, sums, weights, potential) };
            return Kept { off, paid, sum, divergence: 0.0, gap };
        }
        let mut kept = Kept { divergence: stranded, ..Kept::default() };
        let mut dual = stranded;
        for ((s, w), p) in sums.iter().zip(weights).zip(potential) {
            let (s, w, p) = (s.double(), w.double(), p.double());
            kept.sum += s;
            if w <= 0.0 {
                kept.off += s;
                continue;
            }
            let left = (-p / rho).exp();
            kept.off += (s - w * left).abs();
            kept.paid += if s > 0.0 { s * p } else { 0.0 };
            kept.divergence += if s > 0.0 { s * (s / w).ln() - s + w } else { w };
            dual += w * (1.0 - left);
        }
        kept.divergence *= rho;
        kept.gap = kept.paid + kept.divergence - rho * dual;
        kept
    }
}
