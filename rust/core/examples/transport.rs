//! Align the words of two sentences by the costs between them: `cargo run --example transport`.

use ndarray::array;
use optical_core::transport::solve;

fn main() -> optical_core::Result<()> {
    let (from, to) = (["moto", "uli", "pa", "moto"], ["the", "fire", "is", "on", "the", "fire"]);
    let cost = array![
        [0.9_f32, 0.1, 0.8, 0.9, 0.9, 0.2],
        [0.8, 0.9, 0.1, 0.7, 0.8, 0.9],
        [0.7, 0.9, 0.8, 0.1, 0.6, 0.9],
        [0.6, 0.2, 0.8, 0.9, 0.5, 0.1],
    ];
    let solution = solve(cost.view(), 0.05)?;
    for (word, row) in from.iter().zip(solution.plan.rows()) {
        let mass = row.iter().zip(to).filter(|(mass, _)| **mass > 0.02);
        let pairs: Vec<String> = mass.map(|(mass, to)| format!("{to} {mass:.2}")).collect();
        println!("{word}: {}", pairs.join(", "));
    }
    println!(
        "cost {:.3}, within {:.1e} of the best",
        solution.report.value_linear, solution.report.duality_gap
    );
    Ok(())
}
