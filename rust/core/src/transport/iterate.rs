//! The iterations, by domain. Each leaves kernel and scalings such that their product is the plan.

use std::cmp::Ordering::{Equal, Less};

use rayon::prelude::*;

use super::relaxation::Pace;
use super::scratch::Scratch;
use super::sweep::{self, Operands, Rule, Sweep};
use super::{Method, Options, Status, kernel};
use crate::simd::{Float, Level};
use crate::{Error, Result};

/// A problem being iterated on.
pub(super) struct Iteration<'s, 'o, T> {
    scratch: &'s mut Scratch<T>,
    reg: T,
    /// reg_m / (reg_m + reg) of rows and columns: 1 for hard marginals.
    tau: [T; 2],
    options: &'s Options<'o>,
    level: Level,
    twice: bool,
    pace: Pace,
    /// Iterations at which to stop: `max_iter`, or earlier in a stage of annealing.
    limit: usize,
    /// Whether column potentials were given to start from.
    warm: bool,
    pub(super) n_iter: usize,
}

/// Why a run of linear sweeps ended.
#[derive(PartialEq)]
enum Ended {
    Done,
    OutOfRange,
}

/// What sweeps that end in absorption came to.
enum Absorbed {
    /// They are done.
    Done,
    /// A scaling left the range; what there was is in the potentials.
    Some,
    /// The first sweep left the range; the potentials are as before.
    Nothing,
}

impl<'s, 'o, T: Float> Iteration<'s, 'o, T> {
    pub(super) fn new(scratch: &'s mut Scratch<T>, reg: f64, options: &'s Options<'o>, level: Level) -> Self {
        let tau = options.reg_m.map(|rho| T::of(if rho.is_infinite() { 1.0 } else { rho / (rho + reg) }));
        let mass: f64 = scratch.a.iter().map(|x| x.double()).sum();
        let pace = Pace::new(options.tol * mass, options.accelerate && !options.is_unbalanced());
        let twice = sweep::fits_twice::<T>(scratch.height, scratch.stride);
        let (limit, warm) = (options.max_iter, scratch.g.iter().any(|g| *g != T::ZERO));
        Iteration { scratch, reg: T::of(reg), tau, options, level, twice, pace, limit, warm, n_iter: 0 }
    }

    /// Iterate, from the row minima in f and the column potentials in g.
    pub(super) fn run(&mut self) -> Result<Status> {
        match self.options.method {
            Method::Ipot => self.ipot(),
            Method::Log => self.log(),
            Method::Auto | Method::Linear => {
                let least = self.build();
                if least >= -T::MAX_EXPONENT && self.linear()? {
                    return Ok(Status::Linear);
                }
                self.stabilised(least)
            }
        }
    }

    fn left(&self) -> bool {
        self.n_iter < self.limit
    }

    fn check_cancelled(&self, every: usize) -> Result<()> {
        if self.n_iter.is_multiple_of(every) && self.options.cancelled() {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// kernel = exp((f + g − C) / reg); scalings 1. The least finite exponent.
    fn build(&mut self) -> T {
        let (level, rate) = (self.level, T::ONE / self.reg);
        let s = &mut *self.scratch;
        let (n, m, stride, block, grain) = (s.n(), s.m(), s.stride, s.block(), s.grain());
        let g = &s.g[..];
        let one = |kernel: &mut [T], cost: &[T], f: &[T]| {
            // SAFETY: as in `Scratch::row_minima`.
            unsafe { kernel::run_build(level, f.len(), stride, rate, cost, f, g, kernel) }
        };
        let least = if n <= block {
            one(&mut s.kernel, &s.cost, &s.f[..n])
        } else {
            s.kernel[..n * stride]
                .par_chunks_mut(block * stride)
                .zip(s.cost[..n * stride].par_chunks(block * stride))
                .zip(s.f[..n].par_chunks(block))
                .with_min_len(grain)
                .map(|((kernel, cost), f)| one(kernel, cost, f))
                .reduce(|| T::ZERO, T::min)
        };
        if self.twice {
            // SAFETY: both sides are padded to the widest vector.
            unsafe { kernel::run_turn(level, s.height, stride, &s.kernel, &mut s.turned) };
        }
        s.u.fill(T::ZERO);
        s.u[..n].fill(T::ONE);
        s.v.fill(T::ZERO);
        s.v[..m].fill(T::ONE);
        if self.options.is_unbalanced() {
            // In terms of the scalings on top of f and g, u = (a / K v)^τ · exp((τ − 1) f / reg).
            for (offset, potential, tau) in
                [(&mut s.row_offset, &s.f, self.tau[0]), (&mut s.col_offset, &s.g, self.tau[1])]
            {
                let factor = (tau - T::ONE) * rate;
                offset.iter_mut().zip(potential.iter()).for_each(|(o, p)| {
                    *o = if p.is_finite() { factor * *p } else { T::ZERO };
                });
            }
        }
        least
    }

    /// One iteration by scalings.
    fn sweep(&mut self, rule: Rule<T>, twice: bool) -> Sweep<T> {
        let level = self.level;
        let s = &mut *self.scratch;
        let operands = Operands {
            n: s.rows.len(),
            m: s.cols.len(),
            height: s.height,
            stride: s.stride,
            kernel: &s.kernel,
            turned: &s.turned,
            a: &s.a,
            b: &s.b,
            row_offset: &s.row_offset,
            col_offset: &s.col_offset,
        };
        if twice {
            // SAFETY: as in `Scratch::row_minima`; `turned` is the kernel's transpose.
            return unsafe { sweep::run_sweep(level, &operands, rule, &mut s.u, &mut s.v) };
        }
        let (stride, block, grain) = (s.stride, s.block(), s.grain());
        let v = &s.v[..];
        let one = |kernel: &[T], a: &[T], offset: &[T], u: &mut [T], t: &mut [T]| {
            // SAFETY: as above; blocks are whole multiples of ROWS.
            unsafe { sweep::run_rows(level, u.len(), stride, kernel, a, offset, rule, u, v, t) }
        };
        let of_rows = if s.height <= block {
            one(&s.kernel, &s.a, &s.row_offset, &mut s.u, &mut s.t)
        } else {
            let blocks = s
                .kernel
                .par_chunks(block * stride)
                .zip(s.a.par_chunks(block))
                .zip(s.row_offset.par_chunks(block))
                .zip(s.u.par_chunks_mut(block))
                .zip(s.parts.par_chunks_mut(stride))
                .with_min_len(grain);
            let each: Vec<_> = blocks.map(|((((k, a), o), u), t)| one(k, a, o, u, t)).collect();
            each.into_iter().fold(Sweep { error: T::ZERO, largest: T::ZERO }, |x, y| Sweep {
                error: x.error + y.error,
                largest: x.largest.max(y.largest),
            })
        };
        if s.height > block {
            s.add_parts();
        }
        // SAFETY: as above.
        let of_columns =
            unsafe { sweep::run_finish(level, stride, &s.b, &s.col_offset, rule, &mut s.v, &s.t) };
        Sweep { error: of_rows.error, largest: of_rows.largest.max(of_columns) }
    }

    /// Sweeps in the linear domain until converged, exhausted or out of range.
    fn sweeps(&mut self, large: T) -> Result<Ended> {
        self.pace.restart();
        while self.left() {
            self.check_cancelled(32)?;
            let rule = if self.options.is_unbalanced() {
                Rule::Unbalanced(self.tau[0], self.tau[1])
            } else if self.n_iter + 1 == self.limit {
                // Whatever comes of it: the columns of the last plan are exact.
                Rule::Plain
            } else {
                self.pace.rule()
            };
            let Sweep { error, largest } = self.sweep(rule, self.twice);
            // NaN does not compare, and must end the domain too.
            if !matches!(largest.partial_cmp(&large), Some(Less | Equal)) {
                return Ok(Ended::OutOfRange);
            }
            self.n_iter += 1;
            if self.pace.done(error.double()) {
                break;
            }
        }
        Ok(Ended::Done)
    }

    /// f += reg·log u, g += reg·log v: the scalings become part of the potentials.
    fn absorb(&mut self) {
        let s = &mut *self.scratch;
        // SAFETY: row vectors are padded to `height`, column vectors to `stride`.
        unsafe {
            kernel::run_absorb(self.level, self.reg, &s.u, &mut s.f);
            kernel::run_absorb(self.level, self.reg, &s.v, &mut s.g);
        }
    }

    /// The plain linear domain; false if the scalings left its range.
    fn linear(&mut self) -> Result<bool> {
        if self.sweeps(T::LARGE)? == Ended::OutOfRange {
            self.scratch.g.fill(T::ZERO);
            self.warm = false;
            self.n_iter = 0;
            return Ok(false);
        }
        self.absorb();
        Ok(true)
    }

    /// One full iteration in the log domain; the row error of the iterate before it.
    fn log_sweep(&mut self) -> T {
        let s = &mut *self.scratch;
        // SAFETY: as in `Scratch::row_minima`.
        let error = unsafe {
            kernel::run_log_sweep(
                self.level,
                s.rows.len(),
                s.cols.len(),
                s.stride,
                self.reg,
                self.tau,
                &s.cost,
                &s.a,
                &s.b,
                &mut s.f,
                &mut s.g,
                &mut s.t,
                &mut s.v,
            )
        };
        self.n_iter += 1;
        error
    }

    /// The same with one `exp` per element, where f and g are near enough to the solution for it.
    fn log_step(&mut self) -> T {
        let s = &mut *self.scratch;
        // SAFETY: as in `Scratch::row_minima`.
        let error = unsafe {
            kernel::run_log_step(
                self.level,
                s.rows.len(),
                s.stride,
                self.reg,
                self.tau,
                &s.cost,
                &s.a,
                &s.b,
                &mut s.f,
                &mut s.g,
                &mut s.kernel,
                &mut s.u,
                &mut s.t,
            )
        };
        match error {
            Some(error) => {
                self.n_iter += 1;
                error
            }
            None => self.log_sweep(),
        }
    }

    fn stabilised(&mut self, least: T) -> Result<Status> {
        if self.options.accelerate && self.options.tol > 0.0 && !self.warm && !self.options.is_unbalanced() {
            self.anneal(-least.double() * self.reg.double())?;
        }
        // Log sweeps before each rebuild; doubled while rebuilding does not pay.
        let mut warm_up = 1;
        while self.left() {
            for _ in 0..warm_up {
                if self.left() {
                    self.log_sweep();
                }
            }
            match self.absorbing()? {
                // `finish` multiplies the kernel by the scalings.
                Absorbed::Done => return Ok(Status::Stabilised),
                Absorbed::Nothing => warm_up = (warm_up * 2).min(64),
                Absorbed::Some => {}
            }
        }
        self.build();
        Ok(Status::Stabilised)
    }

    /// Come down to `reg` from a value at which costs of this spread converge at once: each stage
    /// starts from the potentials of the one before (Schmitzer 2019; ε-scaling).
    fn anneal(&mut self, spread: f64) -> Result<()> {
        let target = self.reg;
        let mut stages = vec![];
        let mut reg = 4.0 * target.double();
        while spread > 20.0 * reg && stages.len() < 32 {
            stages.push(reg);
            reg *= 4.0;
        }
        let rough = Pace::new(0.05 * self.mass(), true);
        let pace = std::mem::replace(&mut self.pace, rough);
        for reg in stages.into_iter().rev() {
            self.reg = T::of(reg);
            self.limit = self.options.max_iter.min(self.n_iter + 100);
            if self.left() {
                self.log_sweep();
                self.absorbing()?;
            }
        }
        (self.reg, self.pace, self.limit) = (target, pace, self.options.max_iter);
        Ok(())
    }

    /// Sweeps on the kernel of the potentials so far, and their scalings absorbed.
    fn absorbing(&mut self) -> Result<Absorbed> {
        // Scalings this far from 1 are absorbed: far inside the range, so that products are too.
        let large = T::of(if size_of::<T>() == 4 { 1e8 } else { 1e60 });
        if self.options.cancelled() {
            return Err(Error::Interrupted);
        }
        self.build();
        let before = self.n_iter;
        let kept = self.scratch.g.to_vec();
        if self.sweeps(large)? == Ended::Done {
            self.absorb();
            return Ok(Absorbed::Done);
        }
        if self.n_iter == before {
            // Not one sweep stayed in range: scalings are garbage, the potentials still good.
            self.scratch.g.copy_from_slice(&kept);
            return Ok(Absorbed::Nothing);
        }
        // The sweep that left the range is absorbed, too.
        self.n_iter += 1;
        self.absorb_in_range();
        Ok(Absorbed::Some)
    }

    /// Absorb scalings of which some have left the range: those are cut to it.
    fn absorb_in_range(&mut self) {
        let (low, high) = (T::TINY, T::ONE / T::TINY);
        let s = &mut *self.scratch;
        for x in s.u.iter_mut().chain(s.v.iter_mut()) {
            *x = if x.is_finite() { x.max(low).min(high) } else { T::ONE };
        }
        self.absorb();
    }

    fn log(&mut self) -> Result<Status> {
        self.pace = Pace::new(self.options.tol * self.mass(), false);
        while self.left() {
            self.check_cancelled(8)?;
            let error = if self.n_iter == 0 { self.log_sweep() } else { self.log_step() };
            if self.pace.done(error.double()) {
                break;
            }
        }
        self.build();
        Ok(Status::Log)
    }

    fn mass(&self) -> f64 {
        self.scratch.a.iter().map(|x| x.double()).sum()
    }

    /// T ← diag(u) (G ⊙ T) diag(v) with G = exp(−C/β), one Sinkhorn step each: after t steps T is
    /// the kernel exp(−C/(β/t)) scaled, so it tends to unregularised transport.
    fn ipot(&mut self) -> Result<Status> {
        self.scratch.g.fill(T::ZERO);
        self.build();
        let s = &mut *self.scratch;
        s.step.reset(s.height * s.stride, T::ZERO);
        for ((step, kernel), cost) in s.step.iter_mut().zip(s.kernel.iter()).zip(s.cost.iter()) {
            // A step that underflows must not forbid an edge that the cost allows.
            *step = if cost.is_finite() { kernel.max(T::TINY) } else { T::ZERO };
        }
        s.kernel.fill(T::ONE);
        let (n, m) = (s.n(), s.m());
        let (mut log_u, mut log_v) = (vec![0.0f64; n], vec![0.0f64; m]);
        let tolerance = T::of(self.options.tol * self.mass());
        let mut last = f64::INFINITY;
        // v carries over from step to step, as in the paper: restarted at 1 it would fit the columns
        // to a plan whose rows do not, and settle there.
        while self.left() {
            self.check_cancelled(32)?;
            let s = &mut *self.scratch;
            // SAFETY: as in `Scratch::row_minima`.
            unsafe { kernel::run_multiply(self.level, s.height, s.stride, &s.step, &mut s.kernel) };
            self.sweep(Rule::Plain, false);
            let s = &mut *self.scratch;
            let grow = |log: &mut [f64], scaling: &[T]| {
                log.iter_mut().zip(scaling).for_each(|(l, x)| *l += x.double().ln());
            };
            grow(&mut log_u, &s.u[..n]);
            grow(&mut log_v, &s.v[..m]);
            // SAFETY: as above.
            let value = unsafe {
                kernel::run_plan(self.level, n, s.stride, &s.cost, &mut s.kernel, &mut s.u, &s.v, &mut s.t)
            };
            self.n_iter += 1;
            // `plan` left the row sums of T in u; its column sums are exact after the step.
            let s = &mut *self.scratch;
            let error: T = s.u.iter().zip(s.a.iter()).map(|(x, y)| (*x - *y).abs()).sum();
            let settled = (value - last).abs() <= 0.1 * self.options.tol * value.abs();
            last = value;
            if self.options.tol > 0.0 && settled && error <= tolerance {
                break;
            }
        }
        // T = exp((f + g − C) · t/β), with the row minima that the kernel was built with in f.
        let steps = self.n_iter.max(1) as f64;
        let reg = self.reg.double();
        let s = &mut *self.scratch;
        s.u[..n].fill(T::ONE);
        s.v[..m].fill(T::ONE);
        for (f, log) in s.f.iter_mut().zip(&log_u) {
            *f = T::of(f.double() + reg * log / steps);
        }
        for (g, log) in s.g.iter_mut().zip(&log_v) {
            *g = T::of(reg * log / steps);
        }
        Ok(Status::Ipot)
    }
}
