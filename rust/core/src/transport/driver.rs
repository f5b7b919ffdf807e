//! The one iteration: any domain, any schedule, one budget and one residual.
//!
//! ```text
//! repeat
//!     repeat                                       # sweeps
//!         reg ← schedule(t)
//!         f, g, estimate ← sweeps in the domain    # scalings on a kernel, some at a time, or potentials, one
//!         if the scalings left their range: absorb them, and go on in a domain that holds more
//!         if unbalanced: f ← f + λ, g ← g − λ      # the best constant, in closed form
//!     until estimate ≤ tol at the last reg, or t = max_iter
//!     plan, residual ← of f and g
//! until residual ≤ tol or t = max_iter
//! ```
//!
//! The estimate is the row error of the iterate before a sweep, which falls out of it for nothing; what it
//! stops is measured, and goes on if it was too kind.
//!
//! | domain | what is renewed | leaves it |
//! |---|---|---|
//! | linear | u, v on `K = exp(−C / reg)` | to stabilised, beyond [`Float::LARGE`] or if `C / reg` is |
//! | stabilised | u, v on `K = exp((f ⊕ g − C) / reg)`, made anew after log sweeps | never |
//! | log | f, g | never |
//!
//! **The translation.** With unbalanced sides the constant (f + λ, g − λ) is what Sinkhorn's iteration finds the
//! slowest: the error of λ shrinks by τ₁ τ₂ a sweep, τ = reg_m / (reg_m + reg). The dual is maximal in λ at
//! `ρ₁ ρ₂ / (ρ₁ + ρ₂) · log(⟨a, e^(−f/ρ₁)⟩ / ⟨b, e^(−g/ρ₂)⟩)` (translation-invariant Sinkhorn; Séjourné,
//! Vialard, Peyré, AISTATS 2022), and those two masses are what passed in the last two half sweeps.

use rayon::prelude::*;

use super::kernel::{self, Step};
use super::pace::Pace;
use super::residual::Kept;
use super::schedule::Schedule;
use super::sweep::Rule;
use super::workspace::Workspace;
use super::{Method, Options, Report, Status};
use crate::simd::{Float, Level};
use crate::{Error, Result, error::proceed};

/// Sweeps between two looks at whether proximal steps still change the value.
const SETTLING: usize = 8;

/// How potentials are carried through a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Linear,
    Stabilised,
    Log,
}

impl<T: Float> Workspace<T> {
    /// Solve the loaded problem; afterwards `to`, or else `kernel`, holds the plan, and `f` (with `shift`) and `g` its
    /// potentials.
    pub(super) fn solve(
        &mut self,
        options: &Options<'_>,
        level: Level,
        to: Option<&mut [T]>,
    ) -> Result<Report> {
        if self.rows.is_empty() || self.cols.is_empty() {
            return Ok(Report { value: self.unmatched, ..Report::EMPTY });
        }
        proceed(options.cancel)?;
        if options.method == Method::Ipot && size_of::<T>() == 4 {
            return self.solve_in_double(options, level);
        }
        Driver::new(self, options, level, to).solve()
    }

    /// Proximal steps have no least regularisation, and single precision has one.
    fn solve_in_double(&mut self, options: &Options<'_>, level: Level) -> Result<Report> {
        let mut double = self.double.take().unwrap_or_default();
        let d = &mut *double;
        d.rows.clone_from(&self.rows);
        d.cols.clone_from(&self.cols);
        (d.parallel, d.problem, d.reg, d.mass) = (self.parallel, self.problem, self.reg, self.mass);
        d.reserve();
        let (n, m) = (self.n(), self.m());
        let copy = |to: &mut [f64], from: &[T]| to.iter_mut().zip(from).for_each(|(to, x)| *to = x.double());
        for i in 0..n {
            copy(&mut d.cost[i * d.stride..][..m], &self.cost[i * self.stride..][..m]);
            d.cost[i * d.stride + m..(i + 1) * d.stride].fill(f64::INFINITY);
        }
        copy(&mut d.shift[..n], &self.shift);
        copy(&mut d.a[..n], &self.a);
        copy(&mut d.b[..m], &self.b);
        // Masses are equal to single precision so far.
        let ratio = d.a.iter().sum::<f64>() / d.b.iter().sum::<f64>();
        d.b.iter_mut().for_each(|b| *b *= ratio);
        let report = d.solve(options, level, None);
        let back = |to: &mut [T], from: &[f64]| to.iter_mut().zip(from).for_each(|(to, x)| *to = T::of(*x));
        for i in 0..n {
            back(&mut self.kernel[i * self.stride..][..self.stride], &d.kernel[i * d.stride..][..m]);
        }
        back(&mut self.f[..n], &d.f);
        back(&mut self.g[..m], &d.g);
        self.double = Some(double);
        report
    }
}

/// A problem being iterated on.
pub(super) struct Driver<'w, 'o, T> {
    pub(super) w: &'w mut Workspace<T>,
    pub(super) options: &'w Options<'o>,
    pub(super) level: Level,
    /// Where the plan goes, if not into the kernel's place.
    to: Option<&'w mut [T]>,
    pub(super) schedule: Schedule,
    pub(super) domain: Domain,
    pub(super) reg: T,
    /// reg_m / (reg_m + reg) of rows and columns: 1 for hard marginals.
    pub(super) tau: [T; 2],
    pub(super) pace: Pace,
    pub(super) n_iter: usize,
    /// Whether `kernel`, `u` and `v` are those of f and g.
    pub(super) built: bool,
    /// Sweeps since the kernel was built.
    pub(super) swept: usize,
    /// Log sweeps to go until the kernel is built, and how many the next time.
    pub(super) pending: usize,
    pub(super) wait: usize,
    /// <T, C − row minima> of the last plan measured and of the one before, and the iteration from which on to
    /// measure again.
    pub(super) above_minima: f64,
    pub(super) last_value: f64,
    pub(super) measure_from: usize,
}

impl<'w, 'o, T: Float> Driver<'w, 'o, T> {
    pub(super) fn new(
        w: &'w mut Workspace<T>,
        options: &'w Options<'o>,
        level: Level,
        to: Option<&'w mut [T]>,
    ) -> Self {
        let reg = w.reg;
        let (schedule, domain) = match options.method {
            Method::Ipot => (Schedule::Proximal(reg), Domain::Log),
            Method::Log => (Schedule::Constant(reg), Domain::Log),
            Method::Auto | Method::Linear => (Schedule::Constant(reg), Domain::Linear),
        };
        let mut driver = Driver {
            w,
            options,
            level,
            to,
            schedule,
            domain,
            reg: T::ONE,
            tau: [T::ONE; 2],
            pace: Pace::new(0.0, false),
            n_iter: 0,
            built: false,
            swept: 0,
            pending: 0,
            wait: 1,
            above_minima: 0.0,
            last_value: f64::INFINITY,
            measure_from: 0,
        };
        driver.enter(driver.schedule.reg(1));
        driver
    }

    /// Iterate from the column potentials in g until done; the plan is left as [`Workspace::solve`] says.
    pub(super) fn solve(mut self) -> Result<Report> {
        let warm = self.options.method != Method::Ipot && self.w.g.iter().any(|g| *g != T::ZERO);
        if warm {
            self.set_minima();
        } else {
            self.w.g.fill(T::ZERO);
        }
        if self.domain == Domain::Linear {
            let least = if warm {
                self.build()
            } else {
                self.start();
                self.w.least
            };
            if least < -T::MAX_EXPONENT {
                (self.domain, self.built, self.pending) = (Domain::Stabilised, false, self.wait);
                if self.accelerates() && !warm {
                    let reg = self.reg.double();
                    self.schedule = Schedule::annealing(reg, -least.double() * reg, self.options.max_iter);
                    self.enter(self.schedule.reg(1));
                }
            }
        }
        loop {
            self.iterate()?;
            let report = self.measure();
            if self.n_iter > 0 && !(report.value.is_finite() && report.marginal_error.is_finite()) {
                return Err(Error::Overflow { problem: self.w.problem });
            }
            if self.n_iter >= self.options.max_iter || self.accepts(&report) {
                return Ok(report);
            }
        }
    }

    /// Whether anything but plain sweeps may be made on the way to the tolerance.
    fn accelerates(&self) -> bool {
        self.options.accelerate && self.options.tol > 0.0
    }

    /// Go over to another regularisation.
    fn enter(&mut self, reg: T) {
        self.reg = reg;
        self.tau = self
            .options
            .reg_m
            .map(|rho| T::of(if rho.is_infinite() { 1.0 } else { rho / (rho + reg.double()) }));
        let tol = if self.schedule.is_rough() { 0.05 } else { self.options.tol };
        let relaxes = self.accelerates() && !self.options.is_unbalanced() && self.domain != Domain::Log;
        self.pace = Pace::new(tol * self.w.mass, relaxes);
    }

    /// Sweeps until the estimate is within the tolerance, or as many as may be.
    fn iterate(&mut self) -> Result<()> {
        while self.n_iter < self.options.max_iter {
            proceed(self.options.cancel)?;
            let (made, step, plain) = self.step();
            self.n_iter += made;
            if self.options.is_unbalanced() && self.accelerates() {
                self.translate(step.mass);
            }
            let ready = self.pace.done(made, step.error.double(), plain);
            if self.schedule.is_rough() {
                if self.schedule.advance(ready, self.n_iter) {
                    self.absorb();
                    (self.pending, self.wait) = (1, 1);
                    self.enter(self.schedule.reg(1));
                }
            } else if ready && self.n_iter >= self.measure_from {
                break;
            }
        }
        Ok(())
    }

    /// Whether a plan that was measured may be returned before `max_iter`.
    fn accepts(&mut self, report: &Report) -> bool {
        if !report.converged {
            self.pace.tighten();
            return false;
        }
        let Schedule::Proximal(_) = self.schedule else { return true };
        let change = (self.above_minima - self.last_value).abs();
        (self.last_value, self.measure_from) = (self.above_minima, self.n_iter + SETTLING);
        change <= 0.1 * self.options.tol * self.above_minima
    }

    /// Some iterations of a kind: how many, what the last one tells, and whether they were plain ones.
    fn step(&mut self) -> (usize, Step<T>, bool) {
        match self.domain {
            Domain::Log => {
                if let Schedule::Proximal(_) = self.schedule {
                    self.reg = self.schedule.reg(self.n_iter + 1);
                    self.extrapolate();
                }
                self.built = false;
                let step = if self.n_iter == 0 { None } else { self.log_step() };
                (1, step.unwrap_or_else(|| self.log_sweep()), true)
            }
            Domain::Linear | Domain::Stabilised if self.pending > 0 => {
                self.pending -= 1;
                let step = self.log_sweep();
                if self.pending == 0 {
                    self.build();
                }
                (1, step, true)
            }
            Domain::Linear | Domain::Stabilised => {
                if !self.built {
                    self.build();
                }
                let (rule, most) = self.rule();
                match self.scale(rule, most) {
                    Some((made, step)) => (made, step, !matches!(rule, Rule::Relaxed(_))),
                    None => self.step(),
                }
            }
        }
    }

    /// The rule of the next sweeps by scalings, and for how many it holds.
    fn rule(&self) -> (Rule<T>, usize) {
        let left = self.options.max_iter - self.n_iter;
        if self.options.is_unbalanced() {
            (Rule::Unbalanced(self.tau[0], self.tau[1]), 1)
        } else if left == 1 {
            // Whatever comes of it: the columns of the last plan are exact.
            (Rule::Plain, 1)
        } else {
            let most = if self.schedule.is_rough() { 1 } else { self.pace.patience().min(left - 1) };
            (self.pace.rule(), most)
        }
    }

    /// Proximal steps carry the last scaling of both sides over into the next: with potentials φ = t f of step
    /// t in units of β, it starts from φ + (φ − φ of the step before).
    fn extrapolate(&mut self) {
        let t = self.n_iter as f64;
        let w = &mut *self.w;
        for (now, before) in [(&mut w.f, &mut w.old_rows), (&mut w.g, &mut w.old_cols)] {
            for (now, before) in now.iter_mut().zip(before.iter_mut()) {
                let (x, y) = (now.double(), before.double());
                *before = *now;
                if x.is_finite() && y.is_finite() {
                    *now = T::of((2.0 * t * x - (t - 1.0) * y) / (t + 1.0));
                }
            }
        }
    }

    /// The best constant to add to f and take from g, given what passed in the last half sweep of each side.
    fn translate(&mut self, mass: [T; 2]) {
        let [rows, cols] = self.options.reg_m;
        let both = if rows.is_infinite() {
            cols
        } else if cols.is_infinite() {
            rows
        } else {
            rows * cols / (rows + cols)
        };
        let by = T::of(both * (mass[0].double() / mass[1].double()).ln());
        if !by.is_finite() || mass.iter().any(|mass| *mass <= T::TINY) {
            return;
        }
        let w = &mut *self.w;
        let rate = by / self.reg;
        w.f.iter_mut().for_each(|f| *f += by);
        w.g.iter_mut().for_each(|g| *g = *g - by);
        w.row_offset.iter_mut().for_each(|o| *o += (self.tau[0] - T::ONE) * rate);
        w.col_offset.iter_mut().for_each(|o| *o = *o - (self.tau[1] - T::ONE) * rate);
    }

    /// The plan, and all that is told of it.
    fn measure(&mut self) -> Report {
        if !self.built {
            self.build();
        }
        self.absorb();
        let reg_m = self.options.reg_m;
        let (level, w) = (self.level, &mut *self.w);
        let (n, stride, block, grain) = (w.n(), w.stride, w.block(), w.grain());
        let v = &w.v[..];
        // `u` receives row sums, `parts` and then `t` column sums.
        let one = |kernel: &mut [T], to: Option<&mut [T]>, cost: &[T], u: &mut [T], t: &mut [T]| {
            // SAFETY: as in `Workspace::admit`; `to` is aligned, as `Workspace::as_kernel` says.
            unsafe { kernel::run_plan(level, cost.len() / stride, stride, cost, kernel, to, u, v, t) }
        };
        let mut value_linear: f64 = if n <= block {
            one(&mut w.kernel, self.to.as_deref_mut(), &w.cost[..n * stride], &mut w.u, &mut w.t)
        } else {
            let blocks = w.kernel[..n * stride]
                .par_chunks_mut(block * stride)
                .zip(w.cost[..n * stride].par_chunks(block * stride))
                .zip(w.u.par_chunks_mut(block))
                .zip(w.parts.par_chunks_mut(stride))
                .with_min_len(grain);
            let each: Vec<f64> = blocks.map(|(((k, c), u), t)| one(k, None, c, u, t)).collect();
            w.add_parts();
            each.into_iter().sum()
        };
        // What the rows' shift adds: to hard rows in double precision, apart from the potentials.
        let (mut shifted, mut excess) = (0.0, 0.0);
        for ((u, a), s) in w.u[..n].iter().zip(&w.a[..n]).zip(&w.shift[..n]) {
            shifted += u.double() * s.double();
            excess += (u.double() - a.double()) * s.double();
        }
        let rows = if reg_m[0].is_infinite() {
            let rows = Kept::of(level, &w.u, &w.a, &w.f, reg_m[0], w.stranded[0]);
            Kept { paid: rows.paid + shifted, gap: rows.gap + excess, ..rows }
        } else {
            w.old_rows.iter_mut().zip(&w.f[..]).zip(&w.shift[..]).for_each(|((o, f), s)| *o = *f + *s);
            Kept::of(level, &w.u, &w.a, &w.old_rows, reg_m[0], w.stranded[0])
        };
        let cols = Kept::of(level, &w.t, &w.b, &w.g, reg_m[1], w.stranded[1]);
        self.above_minima = value_linear;
        value_linear += shifted;
        let marginal_error = rows.off.max(cols.off) / w.mass;
        // reg·log T = f + g − C on the support, so <T,C> + reg·ΣT(log T − 1) collapses to this.
        let entropic =
            rows.paid + cols.paid - self.reg.double() * rows.sum + rows.divergence + cols.divergence;
        let (value, duality_gap) = match self.schedule {
            Schedule::Proximal(_) => (value_linear, value_linear - self.unregularised_dual()),
            _ => (entropic, rows.gap + cols.gap),
        };
        Report {
            value,
            value_linear,
            duality_gap,
            marginal_error,
            reg: self.reg.double(),
            n_iter: self.n_iter,
            converged: marginal_error <= self.options.tol,
            status: match (self.schedule, self.domain) {
                (Schedule::Proximal(_), _) => Status::Ipot,
                (_, Domain::Linear) => Status::Linear,
                (_, Domain::Stabilised) => Status::Stabilised,
                (_, Domain::Log) => Status::Log,
            },
        }
    }

    /// `Σ b g + Σ a min_j (C − g)`: no plan with these marginals costs less.
    fn unregularised_dual(&mut self) -> f64 {
        let kept = self.w.f.to_vec();
        self.set_minima();
        let w = &mut *self.w;
        let dot = |x: &[T], y: &[T]| -> f64 {
            x.iter().zip(y).filter(|(x, _)| **x > T::ZERO).map(|(x, y)| x.double() * y.double()).sum()
        };
        let dual = dot(&w.b, &w.g) + dot(&w.a, &w.f) + dot(&w.a, &w.shift);
        w.f.copy_from_slice(&kept);
        dual
    }
}
