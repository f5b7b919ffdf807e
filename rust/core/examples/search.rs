//! The best of three documents for a query, by MaxSim over their tokens: `cargo run --example search`.

use optical_core::similarity::{Ragged, Selection, Values, search};

fn main() -> optical_core::Result<()> {
    let query = Ragged::new(Values::F32(&[1.0, 0.0, 0.6, 0.8]), &[0, 2], 2)?;
    let tokens: [&[f32]; 3] = [&[0.0, 1.0], &[1.0, 0.0, 0.0, 1.0], &[0.8, 0.6]];
    let documents = Ragged::list(&tokens, 2)?;
    let places = [Some(0), Some(1), Some(2)];
    for hit in &search(&query, &documents, &places, Selection::All, 2, None, None)?[0] {
        println!("document {}: {:.2}", hit.document, hit.score);
    }
    Ok(())
}
