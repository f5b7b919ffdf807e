//! Transport, similarity and ranking for cross-lingual retrieval on a CPU.
//!
//! * [`transport`]: batched entropic optimal transport between the tokens of two texts, and the
//!   alignment loss made of it.
//! * [`similarity`]: exact late-interaction scores (MaxSim) over ragged token embeddings.
//! * [`ranking`]: TREC runs and judgments, and trec_eval's measures.
//!
//! [`simd`] holds the instruction-set shells that the kernels run in. Work is spread over the rayon pool that a
//! call is made in: `pool.install(|| …)`, or rayon's global one.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

pub mod error;
pub mod ranking;
pub mod simd;
pub mod similarity;
pub mod transport;

pub use error::{Error, Result};
