//! One sweep in each domain, and the ways between them.

use std::cmp::Ordering::{Equal, Less};

use rayon::prelude::*;

use super::driver::{Domain, Driver};
use super::kernel::{self, Making, Side, Step};
use super::sweep::{self, Half, Marginal, Operands, Rule, Until};
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
        let (made, [rows, cols]) = self.sweep(rule, until);
        let (error, largest, mass) = (rows.error, rows.largest.max(cols.largest), [rows.mass, cols.mass]);
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
        let (n, height, stride, block, grain) = (w.n(), w.height, w.stride, w.block(), w.grain());
        let g = &w.g[..];
        let one = |kernel: &mut [T], turned: &mut [T], cost: &[T], f: &[T]| {
            // SAFETY: as in `Workspace::admit`.
            unsafe {
                let making = Making { height, stride, reg, f, g, kernel, turned };
                kernel::run_build(level, n.min(f.len()), cost, making)
            }
        };
        let least = if n <= block {
            one(&mut w.kernel, &mut w.turned, &w.cost, &w.f)
        } else {
            w.kernel
                .par_chunks_mut(block * stride)
                .zip(w.cost.par_chunks(block * stride))
                .zip(w.f.par_chunks(block))
                .with_min_len(grain)
                .map(|((kernel, cost), f)| one(kernel, &mut [], cost, f))
                .reduce(|| T::ZERO, T::min)
        };
        self.start();
        least
    }

    /// Scalings 1, for a kernel that has been made.
    pub(super) fn start(&mut self) {
        let w = &mut *self.w;
        let (n, m) = (w.n(), w.m());
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
                let factor = (tau - T::ONE) / self.reg;
                for ((o, p), s) in offset.iter_mut().zip(potential.iter()).zip(shift.iter()) {
                    *o = if p.is_finite() { factor * (*p + *s) } else { T::ZERO };
                }
            }
        }
        (self.built, self.swept) = (true, 0);
        self.pace.restart();
    }

    /// Iterations by scalings: how many, and what the last one tells.
    fn sweep(&mut self, rule: Rule<T>, until: Until<T>) -> (usize, [Half<T>; 2]) {
        let level = self.level;
        let w = &mut *self.w;
        let of_rows = Marginal { wanted: &w.a, offset: &w.row_offset };
        let of_cols = Marginal { wanted: &w.b, offset: &w.col_offset };
        if !w.turned.is_empty() {
            let (n, m, height, stride) = (w.rows.len(), w.cols.len(), w.height, w.stride);
            let (kernel, turned) = (&w.kernel[..], &w.turned[..]);
            let operands = Operands { n, m, height, stride, kernel, turned, of_rows, of_cols };
            // SAFETY: as in `Workspace::admit`; `turned` is the kernel's transpose.
            return unsafe {
                sweep::run_sweeps(level, &operands, rule, until, &mut w.ahead, &mut w.u, &mut w.v)
            };
        }
        let (stride, block, grain) = (w.stride, w.block(), w.grain());
        let v = &w.v[..];
        let one = |kernel: &[T], side: Marginal<'_, T>, u: &mut [T], t: &mut [T]| {
            // SAFETY: as above; blocks are whole multiples of ROWS.
            unsafe { sweep::run_rows(level, stride, kernel, side, rule, u, v, t) }
        };
        let rows = if w.height <= block {
            one(&w.kernel, of_rows, &mut w.u, &mut w.t)
        } else {
            let sides = of_rows.wanted.par_chunks(block).zip(of_rows.offset.par_chunks(block));
            let blocks = w
                .kernel
                .par_chunks(block * stride)
                .zip(sides.map(|(wanted, offset)| Marginal { wanted, offset }))
                .zip(w.u.par_chunks_mut(block))
                .zip(w.parts.par_chunks_mut(stride))
                .with_min_len(grain);
            let each: Vec<_> = blocks.map(|(((k, side), u), t)| one(k, side, u, t)).collect();
            w.add_parts();
            each.into_iter().fold(Half::NONE, Half::and)
        };
        let of_cols = Marginal { wanted: &w.b, offset: &w.col_offset };
        // SAFETY: as above.
        (1, [rows, unsafe { sweep::run_finish(level, of_cols, rule, &mut w.v, &w.t) }])
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
