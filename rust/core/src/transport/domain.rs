//! One sweep in each domain, and the ways between them.

use std::cmp::Ordering::{Equal, Less};

use rayon::prelude::*;

use super::driver::{Domain, Driver};
use super::kernel::{self, Side, Step};
use super::sweep::{self, Operands, Rule, Sweep, Until};
use crate::simd::Float;

/// Log sweeps before a kernel is built, at most.
const LONGEST_WAIT: usize = 64;
impl<T: Float> Driver<'_, '_, T> {
    /// Sweeps by scalings, `most` at most: how many, and what the last one tells. `None` where they left their range,
    /// and went so far beyond it that they are no numbers to go on with.
    pub(super) fn scale(&mut self, rule: Rule<T>, most: usize) -> Option<(usize, Step<T>)> {
        // Scalings this far from 1 are absorbed: far inside the range, so that products are too.
        let large = match self.domain {
            Domain::Linear => T::LARGE,
            _ => T::of(if size_of::<T>() == 4 { 1e8 } else { 1e60 }),
        };
        let until = Until { most, error: T::of(self.pace.goal()), large };
        let (made, Sweep { error, largest, mass }) = self.sweep(rule, until);
        // Where hardly anything passes, sums have been cut off at the least divisor.
        let passes = !self.options.is_unbalanced() || mass.iter().all(|mass| *mass > T::TINY);
        // NaN does not compare, and must end the domain too.
        if passes && matches!(largest.partial_cmp(&large), Some(Less | Equal)) {
            self.swept += made;
            return Some((made, Step { error, mass }));
        }
        // Up to here no divisor was cut off at the least.
        let sound = T::of(1e-4 / T::TINY.double());
        let sound = passes && matches!(largest.partial_cmp(&sound), Some(Less | Equal));
        if sound {
            self.absorb();
        } else {
            // Sweeps since the kernel was built are lost, and made again by log sweeps and on a nearer kernel.
            self.built = false;
            self.n_iter -= self.swept;
            self.wait = (2 * self.wait).min(LONGEST_WAIT);
        }
        (self.domain, self.pending) = (Domain::Stabilised, self.wait);
        self.pace.restart();
        sound.then_some((made, Step { error, mass }))
    }

    /// `f += reg log u`, `g += reg log v`: the scalings become part of the potentials.
    pub(super) fn absorb(&mut self) {
        if std::mem::replace(&mut self.built, false) {
            let w = &mut *self.w;
            // SAFETY: row vectors are padded to `height`, column vectors to `stride`.
            unsafe {
                kernel::run_absorb(self.level, self.reg, &w.u, &mut w.f);
                kernel::run_absorb(self.level, self.reg, &w.v, &mut w.g);
            }
        }
    }

    /// The kernel of f and g, with scalings 1; its least finite exponent.
    pub(super) fn build(&mut self) -> T {
        let (level, reg) = (self.level, self.reg);
        let w = &mut *self.w;
        let (n, m, height, stride, block, grain) = (w.n(), w.m(), w.height, w.stride, w.block(), w.grain());
        let g = &w.g[..];
        let one = |kernel: &mut [T], turned: &mut [T], cost: &[T], f: &[T]| {
            // SAFETY: as in `Workspace::admit`.
            unsafe { kernel::run_build(level, height, stride, reg, cost, f, g, kernel, turned) }
        };
        let least = if n <= block {
            one(&mut w.kernel, &mut w.turned, &w.cost, &w.f[..n])
        } else {
            w.kernel[..n * stride]
                .par_chunks_mut(block * stride)
                .zip(w.cost[..n * stride].par_chunks(block * stride))
                .zip(w.f[..n].par_chunks(block))
                .with_min_len(grain)
                .map(|((kernel, cost), f)| one(kernel, &mut [], cost, f))
                .reduce(|| T::ZERO, T::min)
        };
        w.u.fill(T::ZERO);
        w.u[..n].fill(T::ONE);
        w.v.fill(T::ZERO);
        w.v[..m].fill(T::ONE);
        if self.options.is_unbalanced() {
            // In terms of the scalings on top of f and g, u = (a / K v)^τ · exp((τ − 1) f / reg).
            let sides = [
                (&mut w.row_offset, &w.f, &w.shift, self.tau[0]),
                (&mut w.col_offset, &w.g, &w.level_cols, self.tau[1]),
            ];
            for (offset, potential, shift, tau) in sides {
                let factor = (tau - T::ONE) / reg;
                for ((o, p), s) in offset.iter_mut().zip(potential.iter()).zip(shift.iter()) {
                    *o = if p.is_finite() { factor * (*p + *s) } else { T::ZERO };
                }
            }
        }
        (self.built, self.swept) = (true, 0);
        self.pace.restart();
        least
    }

    /// Iterations by scalings: how many, and what the last one tells.
    fn sweep(&mut self, rule: Rule<T>, until: Until<T>) -> (usize, Sweep<T>) {
        let level = self.level;
        let w = &mut *self.w;
        let operands = Operands {
            n: w.rows.len(),
            m: w.cols.len(),
            height: w.height,
            stride: w.stride,
            kernel: &w.kernel,
            turned: &w.turned,
            a: &w.a,
            b: &w.b,
            row_offset: &w.row_offset,
            col_offset: &w.col_offset,
        };
        if !w.turned.is_empty() {
            // SAFETY: as in `Workspace::admit`; `turned` is the kernel's transpose.
            return unsafe {
                sweep::run_sweeps(level, &operands, rule, until, &mut w.ahead, &mut w.u, &mut w.v)
            };
        }
        w.ahead.ask();
        let (stride, block, grain) = (w.stride, w.block(), w.grain());
        let v = &w.v[..];
        let one = |kernel: &[T], a: &[T], offset: &[T], u: &mut [T], t: &mut [T]| {
            // SAFETY: as above; blocks are whole multiples of ROWS.
            unsafe { sweep::run_rows(level, u.len(), stride, kernel, a, offset, rule, u, v, t) }
        };
        let of_rows = if w.height <= block {
            one(&w.kernel, &w.a, &w.row_offset, &mut w.u, &mut w.t)
        } else {
            let blocks = w
                .kernel
                .par_chunks(block * stride)
                .zip(w.a.par_chunks(block))
                .zip(w.row_offset.par_chunks(block))
                .zip(w.u.par_chunks_mut(block))
                .zip(w.parts.par_chunks_mut(stride))
                .with_min_len(grain);
            let each: Vec<_> = blocks.map(|((((k, a), o), u), t)| one(k, a, o, u, t)).collect();
            w.add_parts();
            each.into_iter().fold(Sweep::NONE, Sweep::and)
        };
        // SAFETY: as above.
        let of_columns =
            unsafe { sweep::run_finish(level, stride, &w.b, &w.col_offset, rule, &mut w.v, &w.t) };
        let largest = of_rows.largest.max(of_columns.largest);
        (1, Sweep { error: of_rows.error, largest, mass: [of_rows.mass[0], of_columns.mass[0]] })
    }

    /// One full iteration in the log domain.
    pub(super) fn log_sweep(&mut self) -> Step<T> {
        let w = &mut *self.w;
        let (n, m) = (w.rows.len(), w.cols.len());
        let rows = Side { wanted: &w.a, power: self.tau[0], anchor: &w.shift };
        let cols = Side { wanted: &w.b, power: self.tau[1], anchor: &w.level_cols };
        let (f, g, t, v) = (&mut w.f, &mut w.g, &mut w.t, &mut w.v);
        // SAFETY: as in `Workspace::admit`.
        unsafe {
            kernel::run_log_sweep(self.level, n, m, w.stride, self.reg, rows, cols, &w.cost, f, g, t, v)
        }
    }

    /// The same with one `exp` per element, where f and g are near enough to the solution for it.
    pub(super) fn log_step(&mut self) -> Option<Step<T>> {
        let w = &mut *self.w;
        let n = w.rows.len();
        let rows = Side { wanted: &w.a, power: self.tau[0], anchor: &w.shift };
        let cols = Side { wanted: &w.b, power: self.tau[1], anchor: &w.level_cols };
        let (f, g, kernel, u, t) = (&mut w.f, &mut w.g, &mut w.kernel, &mut w.u, &mut w.t);
        // SAFETY: as in `Workspace::admit`.
        unsafe {
            kernel::run_log_step(self.level, n, w.stride, self.reg, rows, cols, &w.cost, f, g, kernel, u, t)
        }
    }

    /// `f_i = min_j (C_ij − g_j)`.
    pub(super) fn set_minima(&mut self) {
        let (w, level) = (&mut *self.w, self.level);
        let (n, stride, block, grain) = (w.n(), w.stride, w.block(), w.grain());
        let g = &w.g[..];
        let blocks = w.f[..n].par_chunks_mut(block).zip(w.cost.par_chunks(block * stride));
        blocks.with_min_len(grain).for_each(|(f, cost)| {
            // SAFETY: as in `Workspace::admit`.
            unsafe { kernel::run_minima(level, stride, cost, g, f) }
        });
    }
}
