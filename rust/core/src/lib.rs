//! Transport, similarity and ranking for cross-lingual retrieval on a CPU.
//!
//! Each is a feature, and all are on by default:
//!
//! * `transport`: batched entropic optimal transport between the tokens of two texts, and the
//!   alignment loss made of it.
//! * `similarity`: exact late-interaction scores (MaxSim) over ragged token embeddings.
//! * `store`: those embeddings from a folder that the Python package wrote, read where they lie on disk.
//! * `ranking`: TREC runs and judgments, and trec_eval's measures.
//!
//! [`simd`] holds the instruction-set shells that the kernels run in. Work is spread over the rayon pool that a
//! call is made in: `pool.install(|| …)`, or rayon's global one.

#![cfg_attr(all(doctest, feature = "transport"), doc = include_str!("../README.md"))]

pub mod error;
#[cfg(feature = "ranking")]
pub mod ranking;
// A feature less leaves some of it unused.
#[cfg_attr(not(all(feature = "transport", feature = "similarity")), allow(dead_code))]
pub mod simd;
#[cfg(feature = "similarity")]
pub mod similarity;
#[cfg(feature = "transport")]
pub mod transport;

pub use error::{Error, Result};
