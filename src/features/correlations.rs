//! Correlations between features, and between features and neurons, summed over the first positions of a scan.

/// Feature pairs whose correlations are summed, at most.
const MOST_PAIRS: usize = 64 << 20;
/// Positions over which correlations are summed.
const POSITIONS: f64 = 16_384.0;
/// Others kept of each feature.
const KEPT: usize = 10;

/// Sums for correlations between a feature and others.
pub(super) struct Pairs {
    n: f64,
    features: usize,
    others: usize,
    sum: Vec<f64>,
    squares: Vec<f64>,
    other_sum: Vec<f64>,
    other_squares: Vec<f64>,
    /// Σ a·b, [feature, other].
    products: Vec<f32>,
}

impl Pairs {
    pub(super) fn new(features: usize, others: usize) -> Option<Self> {
        (others > 0 && features.checked_mul(others)? <= MOST_PAIRS).then(|| Self {
            n: 0.0,
            features,
            others,
            sum: vec![0.0; features],
            squares: vec![0.0; features],
            other_sum: vec![0.0; others],
            other_squares: vec![0.0; others],
            products: vec![0.0; features * others],
        })
    }

    /// A position: active features, and what the others hold.
    pub(super) fn add(&mut self, acts: &[(u32, f32)], others: &[(u32, f32)]) {
        self.n += 1.0;
        for (o, v) in others {
            self.other_sum[*o as usize] += f64::from(*v);
            self.other_squares[*o as usize] += f64::from(*v) * f64::from(*v);
        }
        for (f, a) in acts {
            let f = *f as usize;
            self.sum[f] += f64::from(*a);
            self.squares[f] += f64::from(*a) * f64::from(*a);
            let row = &mut self.products[f * self.others..(f + 1) * self.others];
            for (o, v) in others {
                row[*o as usize] += a * v;
            }
        }
    }

    /// Whether enough positions are summed.
    pub(super) fn is_enough(&self) -> bool {
        self.n >= POSITIONS
    }

    /// The most correlated others of each feature; `same` where the others are the features themselves.
    pub(super) fn best(&self, same: bool) -> Vec<Vec<(u32, f32)>> {
        let deviation = |sum: f64, squares: f64| (squares / self.n - (sum / self.n).powi(2)).max(0.0).sqrt();
        let others: Vec<f64> = (0..self.others).map(|o| deviation(self.other_sum[o], self.other_squares[o])).collect();
        (0..self.features)
            .map(|f| {
                let own = deviation(self.sum[f], self.squares[f]);
                let mut all: Vec<(u32, f32)> = (0..self.others)
                    .filter(|o| !(same && *o == f) && own * others[*o] > 0.0)
                    .map(|o| {
                        let both = f64::from(self.products[f * self.others + o]) / self.n;
                        let covariance = both - self.sum[f] * self.other_sum[o] / (self.n * self.n);
                        (o as u32, (covariance / (own * others[o])) as f32)
                    })
                    .filter(|(_, c)| c.is_finite())
                    .collect();
                all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                all.truncate(KEPT);
                all
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_by_hand() {
        let mut p = Pairs::new(2, 2).unwrap();
        // Feature 0 and other 0 rise together, other 1 is the other way round.
        p.add(&[(0, 1.0)], &[(0, 2.0)]);
        p.add(&[], &[(1, 3.0)]);
        let best = p.best(false);
        assert_eq!(best[0].len(), 2);
        assert!((best[0][0].1 - 1.0).abs() < 1e-6 && (best[0][1].1 + 1.0).abs() < 1e-6);
        assert!(best[1].is_empty(), "a feature that is never active correlates with nothing");
    }
}
