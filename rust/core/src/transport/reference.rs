//! The contract in the plainest form: double precision, log domain, one scalar at a time.
//!
//! Slow on purpose. Every kernel is tested against it, and it can be read as the definition.

/// A plan (row-major n × m) and its potentials.
#[derive(Clone, Debug)]
pub struct Solution {
    /// Row-major n × m.
    pub plan: Vec<f64>,
    /// Row potentials.
    pub f: Vec<f64>,
    /// Column potentials.
    pub g: Vec<f64>,
}

/// log Σ exp(x), where the sum of nothing but −∞ is −∞.
fn log_sum_exp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = x.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    top + x.map(|v| (v - top).exp()).sum::<f64>().ln()
}

/// `iterations` Sinkhorn steps on one problem; `cost` is row-major `a.len()` × `b.len()`.
pub fn sinkhorn(cost: &[f64], a: &[f64], b: &[f64], reg: f64, iterations: usize) -> Solution {
    let (n, m) = (a.len(), b.len());
    let (mut f, mut g) = (vec![0.0; n], vec![0.0; m]);
    for _ in 0..iterations {
        for i in 0..n {
            let row = log_sum_exp((0..m).map(|j| (g[j] - cost[i * m + j]) / reg));
            f[i] = if a[i] > 0.0 { reg * (a[i].ln() - row) } else { f64::NEG_INFINITY };
        }
        for j in 0..m {
            let col = log_sum_exp((0..n).map(|i| (f[i] - cost[i * m + j]) / reg));
            g[j] = if b[j] > 0.0 { reg * (b[j].ln() - col) } else { f64::NEG_INFINITY };
        }
    }
    let plan = (0..n * m)
        .map(|k| {
            let x = f[k / m] + g[k % m] - cost[k];
            if x.is_nan() { 0.0 } else { (x / reg).exp() }
        })
        .collect();
    Solution { plan, f, g }
}
