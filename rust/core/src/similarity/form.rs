//! The one loop of MaxSim, and what a form of tokens has to bring for it.
//!
//! ```text
//! for block of tokens of a text, `Form::ROWS` at most              # their sums stay in registers
//!     for group of numbers                                         # as many as one instruction takes
//!         sums[row][lane] += group of query token `lane` · group of document token `row`
//!     best[lane] = max(best[lane], scale · sums[row][lane])
//! ```
//!
//! **A form on another instruction set** takes three steps: implement [`Form`] for a type of that set, name it in
//! [`super::scorer::lay_out`] where the level and the processor have the instruction, and add it to the list of
//! `every_form_equals_the_definition`, which holds it to the plain sum of products.

use half::bf16;

use crate::simd::{LINE, Vector, prefetch};

use super::{Text, Values};

/// Tokens of a whole panel of queries: two of the widest vectors. A last panel with at most half as many tokens
/// is half as wide.
pub(super) const PANEL: usize = 32;

/// Memory for tokens that had to be made another form, or longer.
#[derive(Default)]
pub(super) struct Made {
    pub floats: Vec<f32>,
    pub bfloats: Vec<bf16>,
    pub words: Vec<i16>,
    pub bytes: Vec<i8>,
}

/// A form that tokens are multiplied in, on one instruction set.
///
/// # Safety
/// `run` is called only where the processor has its instructions, and the others only from it. Pointers are to
/// as many elements as the methods say.
pub(super) unsafe trait Form: Send + Sync + Sized + 'static {
    /// Numbers of tokens.
    type Number: Copy + Default + Send + Sync;
    /// Single-precision vectors of the instruction set.
    type V: Vector<Elem = f32>;
    /// A group of as many query tokens as `V` has lanes.
    type Lanes: Copy;
    /// A group of one document token.
    type Group: Copy;
    /// Sums, one for each lane.
    type Sums: Copy;
    /// Numbers of a token in a group: those of a query token lie side by side in a panel.
    const GROUP: usize;
    /// Document tokens that are worked on together, at most 8: their sums are to fit the registers.
    const ROWS: usize;
    /// Whether sums are multiplied by the scales of both tokens.
    const SCALED: bool;

    /// A query's number.
    fn query(x: f32) -> Self::Number;
    /// Tokens as they lie, if that is in this form.
    fn direct<'v>(values: Values<'v>) -> Option<&'v [Self::Number]>;
    /// Tokens of `dim` numbers made this form; what is between `dim` and `stride` is 0 already.
    fn make(values: Values<'_>, dim: usize, stride: usize, to: &mut [Self::Number]);
    /// Memory for them.
    fn buffer(made: &mut Made) -> &mut Vec<Self::Number>;

    /// Sums to begin with, given the sums of the query tokens' numbers, one for each lane.
    unsafe fn start(sums: *const i32) -> Self::Sums;
    /// A group of each of `V::LANES` query tokens.
    unsafe fn lanes(at: *const Self::Number) -> Self::Lanes;
    /// A group of one document token.
    unsafe fn group(at: *const Self::Number) -> Self::Group;
    /// `sums` and the products of two groups.
    unsafe fn add(sums: Self::Sums, lanes: Self::Lanes, group: Self::Group) -> Self::Sums;
    /// The sums as floats.
    unsafe fn floats(sums: Self::Sums) -> Self::V;

    /// [`panel`], with the instructions enabled.
    unsafe fn run(job: &mut Job<'_, Self>) -> bool;
}

/// One panel of query tokens and one text, or a piece of one.
pub(super) struct Job<'a, F: Form> {
    /// Groups of a token.
    pub groups: usize,
    /// Query tokens of the panel.
    pub width: usize,
    /// (groups × width × numbers of a group), in the order of the form.
    pub queries: &'a [F::Number],
    /// Sums of each query token's numbers, and their scales.
    pub sums: &'a [i32],
    pub query_scales: &'a [f32],
    /// (tokens × groups × numbers of a group).
    pub text: &'a [F::Number],
    /// Scales of the text's tokens, if the form has some.
    pub scales: &'a [f32],
    /// Where the memory begins that is asked for meanwhile, about as far ahead as the job has got, and its bytes for
    /// each number of `text`.
    pub fetch: Option<(*const u8, usize)>,
    /// The largest products so far, one for each query token.
    pub best: &'a mut [f32],
    /// Where every token is a text of its own: numbers from the products of one to those of the next. Otherwise 0.
    pub apart: usize,
}

impl<F: Form> Job<'_, F> {
    fn stride(&self) -> usize {
        self.groups * F::GROUP
    }

    /// Check the sizes, and [`Form::run`]. Whether all products were finite.
    pub(super) fn run(&mut self) -> bool {
        assert!(self.width.is_multiple_of(PANEL / 2) && self.queries.len() >= self.stride() * self.width);
        assert!(self.sums.len() >= self.width && self.query_scales.len() >= self.width);
        let tokens = self.text.len().checked_div(self.stride()).unwrap_or(0);
        assert!(self.best.len() >= self.width + self.apart * tokens.saturating_sub(1));
        assert!(self.text.len().is_multiple_of(self.stride().max(1)));
        assert!(!F::SCALED || self.scales.len() * self.stride() >= self.text.len());
        // SAFETY: forms are laid out only where their instructions are there; sizes are as asserted.
        unsafe { F::run(self) }
    }
}

/// `best = max(best, token · queries)` over all tokens of a text, lane by lane; whether all were finite. With `apart`
/// the products of each token are kept by themselves.
#[inline(always)]
pub(super) unsafe fn panel<F: Form>(job: &mut Job<'_, F>) -> bool {
    // SAFETY: the sizes that `Job::run` asserts; `rows` reads as many whole tokens as the block has.
    unsafe {
        let mut check = F::V::splat(0.0);
        let mut lane = 0;
        while lane < job.width {
            // Half of PANEL is two vectors, but of the widest.
            if 2 * F::V::LANES <= PANEL / 2 || job.width - lane >= 2 * F::V::LANES {
                chunk::<F, 2>(job, lane, &mut check);
                lane += 2 * F::V::LANES;
            } else {
                chunk::<F, 1>(job, lane, &mut check);
                lane += F::V::LANES;
            }
        }
        check.sum() == 0.0
    }
}

/// The whole text against `C` vectors of query tokens.
#[inline(always)]
unsafe fn chunk<F: Form, const C: usize>(job: &mut Job<'_, F>, lane: usize, check: &mut F::V) {
    let tokens = job.text.len().checked_div(job.stride()).unwrap_or(0);
    let blocks = tokens.div_ceil(F::ROWS);
    for block in 0..blocks {
        // As even as can be: a text of nine has five and four tokens, not eight and one, which would leave most
        // of the second's registers empty.
        let (first, end) = (block * tokens / blocks, (block + 1) * tokens / blocks);
        // SAFETY: the contract of `panel`.
        unsafe {
            match end - first {
                1 => rows::<F, 1, C>(job, lane, first, check),
                2 => rows::<F, 2, C>(job, lane, first, check),
                3 => rows::<F, 3, C>(job, lane, first, check),
                4 => rows::<F, 4, C>(job, lane, first, check),
                5 if F::ROWS >= 5 => rows::<F, 5, C>(job, lane, first, check),
                6 if F::ROWS >= 6 => rows::<F, 6, C>(job, lane, first, check),
                7 if F::ROWS >= 7 => rows::<F, 7, C>(job, lane, first, check),
                _ => {
                    if F::ROWS >= 8 {
                        rows::<F, 8, C>(job, lane, first, check);
                    }
                }
            }
        }
    }
}

/// `R` tokens against `C` vectors of query tokens.
#[inline(always)]
unsafe fn rows<F: Form, const R: usize, const C: usize>(
    job: &mut Job<'_, F>,
    lane: usize,
    first: usize,
    check: &mut F::V,
) {
    let (groups, width, stride) = (job.groups, job.width, job.stride());
    // SAFETY: the contract of `panel`: R tokens from `first` on, C · LANES query tokens from `lane` on.
    unsafe {
        let text = job.text.as_ptr().add(first * stride);
        let queries = job.queries.as_ptr().add(lane * F::GROUP);
        let begin: [F::Sums; C] =
            std::array::from_fn(|c| F::start(job.sums.as_ptr().add(lane + c * F::V::LANES)));
        let mut sums = [begin; R];
        let (ahead, bytes) = job.fetch.unwrap_or((std::ptr::null(), 0));
        let (ahead, bytes) = (ahead.wrapping_add(first * stride * bytes), R * F::GROUP * bytes);
        for g in 0..groups {
            // Where R more groups are the first to reach another line: a page's end stops the processor from
            // asking by itself.
            if g * bytes % LINE < bytes {
                prefetch(ahead.wrapping_add(g * bytes));
            }
            let at = queries.add(g * width * F::GROUP);
            let lanes: [F::Lanes; C] = std::array::from_fn(|c| F::lanes(at.add(c * F::V::LANES * F::GROUP)));
            for r in 0..R {
                let group = F::group(text.add(r * stride + g * F::GROUP));
                for c in 0..C {
                    sums[r][c] = F::add(sums[r][c], lanes[c], group);
                }
            }
        }
        let zero = F::V::splat(0.0);
        for c in 0..C {
            let at = lane + c * F::V::LANES;
            let own = F::V::load(job.query_scales.as_ptr().add(at));
            let to = job.best.as_mut_ptr().add(at);
            let mut top = F::V::load(to);
            for r in 0..R {
                let mut product = F::floats(sums[r][c]);
                if F::SCALED {
                    product = product.mul(F::V::splat(*job.scales.get_unchecked(first + r)).mul(own));
                }
                // 0 times what is finite: anything else makes this no number.
                *check = product.fma(zero, *check);
                if job.apart > 0 {
                    product.store(to.add((first + r) * job.apart));
                }
                top = product.max(top);
            }
            if job.apart == 0 {
                top.store(to);
            }
        }
    }
}

/// Tokens of `values` made another type, one every `stride` numbers.
pub(super) fn convert<T, S: Copy>(
    values: &[S],
    dim: usize,
    stride: usize,
    to: &mut [T],
    of: impl Fn(S) -> T,
) {
    if dim == stride {
        to.iter_mut().zip(values).for_each(|(to, x)| *to = of(*x));
        return;
    }
    for (to, token) in to.chunks_exact_mut(stride).zip(values.chunks_exact(dim)) {
        to.iter_mut().zip(token).for_each(|(to, x)| *to = of(*x));
    }
}

/// What all forms know of a text.
impl<'v> Text<'v> {
    pub(super) fn scales(self) -> &'v [f32] {
        match self.values {
            Values::Int8 { scales, .. } => scales,
            _ => &[],
        }
    }
}

/// Memory for one block, used again for the next.
#[derive(Default)]
pub(super) struct Scratch {
    pub made: Made,
    /// `best[text][token]`: the largest product of each query token.
    pub best: Vec<f32>,
    /// Of one query token and the tokens of a text.
    pub sums: Vec<i32>,
    /// (queries × texts of the block).
    pub scores: Vec<f32>,
}

/// Query tokens in some form.
pub(super) trait LaidOut: Send + Sync {
    /// The largest product of each query token with a token of each text, into `scratch.best`; whether all
    /// products were finite. With `each`, every token is a text of its own.
    /// `next` is the text that comes after them.
    fn best<'a>(&self, texts: &[Text<'a>], each: bool, next: Option<Text<'a>>, scratch: &mut Scratch)
    -> bool;
}

/// The products of a query token and each of some tokens.
#[inline(always)]
pub(super) fn dots(query: &[i16], codes: &[i8], sums: &mut [i32]) {
    for (sum, token) in sums.iter_mut().zip(codes.chunks_exact(query.len().max(1))) {
        *sum = token.iter().zip(query).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum();
    }
}
