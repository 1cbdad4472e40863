//! Fits and judges a probe: softmax regression on chosen coordinates.
//!
//! Coordinates are standardised by the training texts. The loss is the mean cross-entropy with a small ridge, which is
//! convex: the fit is its minimum and depends on nothing drawn. A k-sparse probe first takes the k coordinates whose class
//! means lie furthest apart, in standard deviations [Gurnee et al. 2023, "Finding Neurons in a Haystack"].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::features::direction::auc;

/// Rounds of the fit at most; it ends where the loss falls no more.
const ROUNDS: usize = 1_000;
/// Steps by which it knows the loss' curvature.
const KEPT: usize = 10;
/// The ridge on weights of standardised coordinates.
const RIDGE: f64 = 1e-2;
/// 95 % of a normal distribution lies within so many standard deviations.
const Z: f64 = 1.96;

/// A fitted probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The coordinates that it reads.
    pub coordinates: Vec<usize>,
    /// What is taken from each, and what the rest is divided by.
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
    /// [class][coordinate]
    pub weights: Vec<Vec<f32>>,
    pub bias: Vec<f32>,
}

/// How well a probe tells held-out texts apart, with intervals of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub accuracy: f32,
    /// Wilson's interval.
    pub accuracy_interval: [f32; 2],
    /// The area under the ROC curve; with more than two classes the mean of each against the rest.
    pub auc: f32,
    /// Hanley and McNeil's interval.
    pub auc_interval: [f32; 2],
}

/// Rows [texts, width] with a class each.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    pub rows: &'a [f32],
    pub width: usize,
    pub labels: &'a [usize],
    pub test: &'a [bool],
    pub classes: usize,
}

impl Data<'_> {
    fn side(&self, test: bool) -> Vec<usize> {
        (0..self.labels.len()).filter(|i| self.test[*i] == test).collect()
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.width..(i + 1) * self.width]
    }

    /// The k coordinates whose class means lie furthest apart on the training texts, in standard deviations.
    pub fn telling(&self, k: usize) -> Vec<usize> {
        let train = self.side(false);
        let mut score = vec![0f64; self.width];
        for (c, score) in score.iter_mut().enumerate() {
            let (mut sums, mut counts, mut square) = (vec![0f64; self.classes], vec![0f64; self.classes], 0f64);
            for i in &train {
                let v = f64::from(self.row(*i)[c]);
                sums[self.labels[*i]] += v;
                counts[self.labels[*i]] += 1.0;
                square += v * v;
            }
            let n = train.len().max(1) as f64;
            let mean = sums.iter().sum::<f64>() / n;
            let deviation = (square / n - mean * mean).max(0.0).sqrt();
            let means = sums.iter().zip(&counts).map(|(s, n)| s / n.max(1.0));
            let (low, high) = means.fold((f64::MAX, f64::MIN), |(a, b), m| (a.min(m), b.max(m)));
            *score = if deviation > 1e-12 { (high - low) / deviation } else { 0.0 };
        }
        let mut order: Vec<usize> = (0..self.width).collect();
        order.sort_by(|a, b| score[*b].total_cmp(&score[*a]).then(a.cmp(b)));
        order.truncate(k.max(1));
        order.sort_unstable();
        order
    }

    /// Fits a probe on some coordinates of the training texts.
    pub fn fit(&self, coordinates: Vec<usize>) -> Probe {
        let train = self.side(false);
        let (n, k) = (train.len().max(1) as f64, coordinates.len());
        let mut mean = vec![0f64; k];
        let mut scale = vec![0f64; k];
        for i in &train {
            let row = self.row(*i);
            mean.iter_mut().zip(&coordinates).for_each(|(m, c)| *m += f64::from(row[*c]) / n);
        }
        for i in &train {
            let row = self.row(*i);
            for ((s, m), c) in scale.iter_mut().zip(&mean).zip(&coordinates) {
                *s += (f64::from(row[*c]) - m).powi(2) / n;
            }
        }
        scale.iter_mut().for_each(|s| *s = if *s > 1e-12 { s.sqrt() } else { 1.0 });
        // Divided by √k as well, so that rows have about length 1 and a first step of 1 is safe.
        let root = (k.max(1) as f64).sqrt();
        let mut x = Vec::with_capacity(train.len() * k);
        for i in &train {
            let row = self.row(*i);
            let cells = coordinates.iter().zip(mean.iter().zip(&scale));
            x.extend(cells.map(|(c, (m, s))| (f64::from(row[*c]) - m) / (s * root)));
        }
        let labels: Vec<usize> = train.iter().map(|i| self.labels[*i]).collect();
        let ridge = RIDGE / k.max(1) as f64;
        let found = descend(&Loss { x: &x, labels: &labels, classes: self.classes, width: k, ridge });
        let rows = found.chunks_exact(k + 1);
        Probe {
            coordinates,
            mean: mean.into_iter().map(|v| v as f32).collect(),
            scale: scale.into_iter().map(|v| v as f32).collect(),
            weights: rows.clone().map(|w| w[..k].iter().map(|v| (v / root) as f32).collect()).collect(),
            bias: rows.map(|w| w[k] as f32).collect(),
        }
    }

    /// Judges a probe on the held-out texts.
    pub fn judge(&self, probe: &Probe) -> Score {
        let test = self.side(true);
        let all: Vec<(Vec<f32>, usize)> = test.iter().map(|i| (probe.logits(self.row(*i)), self.labels[*i])).collect();
        let right = all.iter().filter(|(l, label)| best(l) == *label).count();
        let one = |class: usize| {
            let scores: Vec<(f32, bool)> = all
                .iter()
                .map(|(l, label)| {
                    let rest = l.iter().enumerate().filter(|(c, _)| *c != class).map(|(_, v)| *v);
                    (l[class] - rest.fold(f32::NEG_INFINITY, f32::max), *label == class)
                })
                .collect();
            let positives = scores.iter().filter(|s| s.1).count();
            let area = auc(&scores);
            (area, hanley_mcneil(f64::from(area), positives, scores.len() - positives))
        };
        // Of two classes each is the other's rest.
        let areas: Vec<(f32, f64)> =
            if self.classes == 2 { vec![one(1)] } else { (0..self.classes).map(one).collect() };
        let count = areas.len() as f64;
        let area = areas.iter().map(|a| f64::from(a.0)).sum::<f64>() / count;
        let deviation = areas.iter().map(|a| a.1 * a.1).sum::<f64>().sqrt() / count;
        let interval = [area - Z * deviation, area + Z * deviation].map(|v| v.clamp(0.0, 1.0) as f32);
        Score {
            accuracy: right as f32 / test.len().max(1) as f32,
            accuracy_interval: wilson(right as f64 / test.len().max(1) as f64, test.len()),
            auc: area as f32,
            auc_interval: interval,
        }
    }
}

impl Probe {
    /// The logit of each class for a row of the site.
    pub fn logits(&self, row: &[f32]) -> Vec<f32> {
        let read: Vec<f32> = self
            .coordinates
            .iter()
            .zip(self.mean.iter().zip(&self.scale))
            .map(|(c, (m, s))| (row.get(*c).copied().unwrap_or(0.0) - m) / s)
            .collect();
        let one = |(w, b): (&Vec<f32>, &f32)| w.iter().zip(&read).map(|(w, x)| w * x).sum::<f32>() + b;
        self.weights.iter().zip(&self.bias).map(one).collect()
    }

    /// The directions that it reads, one a class less their mean, in the site's own units; [class][width].
    pub fn directions(&self, width: usize) -> Vec<Vec<f32>> {
        let count = self.weights.len().max(1) as f32;
        let mut mean = vec![0f32; self.coordinates.len()];
        for w in &self.weights {
            mean.iter_mut().zip(w).for_each(|(m, v)| *m += v / count);
        }
        self.weights
            .iter()
            .map(|w| {
                let mut out = vec![0f32; width];
                for ((c, s), (w, m)) in self.coordinates.iter().zip(&self.scale).zip(w.iter().zip(&mean)) {
                    if let Some(o) = out.get_mut(*c) {
                        *o = (w - m) / s;
                    }
                }
                out
            })
            .collect()
    }
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a))).unwrap_or(0)
}

/// The mean cross-entropy of softmax regression with its ridge.
struct Loss<'a> {
    /// [texts, width] row by row.
    x: &'a [f64],
    labels: &'a [usize],
    classes: usize,
    width: usize,
    ridge: f64,
}

impl Loss<'_> {
    /// The loss and its gradient at `at`, [classes, width + 1] with a class's bias last.
    fn at(&self, at: &[f64]) -> (f64, Vec<f64>) {
        let Self { classes, width, ridge, .. } = *self;
        let n = self.labels.len().max(1) as f64;
        let (mut loss, mut g) = (0.0, vec![0f64; at.len()]);
        let mut logits = vec![0f64; classes];
        for (row, label) in self.x.chunks_exact(width.max(1)).zip(self.labels) {
            for (l, w) in logits.iter_mut().zip(at.chunks_exact(width + 1)) {
                *l = w[width] + product(row, &w[..width]);
            }
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
            loss += (sum.ln() + largest - logits[*label]) / n;
            for (c, (g, l)) in g.chunks_exact_mut(width + 1).zip(&logits).enumerate() {
                let error = ((l - largest).exp() / sum - f64::from(u8::from(c == *label))) / n;
                g.iter_mut().zip(row).for_each(|(g, x)| *g += error * x);
                g[width] += error;
            }
        }
        for (g, w) in g.chunks_exact_mut(width + 1).zip(at.chunks_exact(width + 1)) {
            loss += 0.5 * ridge * product(&w[..width], &w[..width]);
            g[..width].iter_mut().zip(w).for_each(|(g, w)| *g += ridge * w);
        }
        (loss, g)
    }
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Minimises the loss by L-BFGS with steps that are halved until the loss falls enough [Nocedal and Wright 2006, 7.2, 3.1].
fn descend(loss: &Loss<'_>) -> Vec<f64> {
    let mut at = vec![0f64; loss.classes * (loss.width + 1)];
    let (mut value, mut g) = loss.at(&at);
    // The last steps, the gradient's change along each, and one over their product; the newest first.
    let mut kept: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
    for _ in 0..ROUNDS {
        if product(&g, &g).sqrt() < 1e-8 {
            break;
        }
        let mut along: Vec<f64> = g.iter().map(|v| -v).collect();
        let mut shares = Vec::new();
        for (s, y, over) in &kept {
            let share = over * product(s, &along);
            along.iter_mut().zip(y).for_each(|(a, y)| *a -= share * y);
            shares.push(share);
        }
        if let Some((_, y, over)) = kept.front() {
            let scale = 1.0 / (over * product(y, y));
            along.iter_mut().for_each(|a| *a *= scale);
        }
        for ((s, y, over), share) in kept.iter().zip(&shares).rev() {
            let change = share - over * product(y, &along);
            along.iter_mut().zip(s).for_each(|(a, s)| *a += change * s);
        }
        let slope = product(&g, &along);
        let mut step = 1.0;
        let next = loop {
            let there: Vec<f64> = at.iter().zip(&along).map(|(a, d)| a + step * d).collect();
            let (below, slopes) = loss.at(&there);
            if below <= value + 1e-4 * step * slope {
                break Some((there, below, slopes));
            }
            step *= 0.5;
            if step < 1e-10 {
                break None;
            }
        };
        // Where no step falls any more rounding is all that is left.
        let Some((there, below, slopes)) = next else { break };
        let s: Vec<f64> = there.iter().zip(&at).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = slopes.iter().zip(&g).map(|(a, b)| a - b).collect();
        let curved = product(&s, &y);
        if curved > 1e-14 * product(&y, &y).max(f64::MIN_POSITIVE) {
            kept.push_front((s, y, 1.0 / curved));
            kept.truncate(KEPT);
        }
        (at, value, g) = (there, below, slopes);
    }
    at
}

/// Wilson's interval of 95 % for a share of so many.
pub(super) fn wilson(p: f64, all: usize) -> [f32; 2] {
    let n = all.max(1) as f64;
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [middle - half, middle + half].map(|v| v.clamp(0.0, 1.0) as f32)
}

/// The standard deviation of an area under the ROC curve [Hanley and McNeil 1982]. Where every pair is in order, or none, it
/// would be zero however few texts there are: there it is that of half a pair out of order.
fn hanley_mcneil(area: f64, positives: usize, negatives: usize) -> f64 {
    let (p, n) = (positives.max(1) as f64, negatives.max(1) as f64);
    let half = 0.5 / (p * n);
    let area = area.clamp(half, 1.0 - half);
    let (q1, q2) = (area / (2.0 - area), 2.0 * area * area / (1.0 + area));
    let variance = area * (1.0 - area) + (p - 1.0) * (q1 - area * area) + (n - 1.0) * (q2 - area * area);
    (variance / (p * n)).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn intervals_by_hand() {
        // 8 of 10: (0.8 + 0.19208) / 1.38416 ± 1.96/1.38416 · √(0.016 + 0.009604)
        let [a, b] = wilson(0.8, 10);
        assert!((a - 0.4902).abs() < 1e-3 && (b - 0.9433).abs() < 1e-3, "{a} {b}");
        // Their own example: area 0.893, 51 abnormal and 58 normal images, standard error 0.032.
        assert!((hanley_mcneil(0.893, 51, 58) - 0.032).abs() < 1e-3);
        // Four texts of each class, all in order: as of an area a = 31/32, of which Q1 = 31/33 and Q2 = 961/1008, so that the
        // variance is (a(1 − a) + 3 (Q1 − a²) + 3 (Q2 − a²)) / 16. Two texts of each are less certain than fifty.
        let by_hand = (0.030_273_4 + 3.0 * (31.0 / 33.0 + 961.0 / 1008.0 - 2.0 * 0.938_476_6)) / 16.0;
        assert!((hanley_mcneil(1.0, 4, 4) - f64::sqrt(by_hand)).abs() < 1e-6);
        assert!(hanley_mcneil(0.0, 2, 2) > 2.0 * hanley_mcneil(0.0, 50, 50) && hanley_mcneil(0.0, 50, 50) > 0.0);
    }

    #[test]
    fn a_planted_property_is_read_and_noise_is_not() {
        let (n, width) = (240, 12);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(9);
        let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
        let test: Vec<bool> = (0..n).map(|i| i / 3 % 4 == 0).collect();
        // Class 1 lies high in coordinate 4, class 2 in coordinate 7; coordinate 0 is constant.
        let mut rows = vec![0f32; n * width];
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            row.iter_mut().for_each(|v| *v = rng.random_range(-1.0..1.0));
            row[0] = 5.0;
            row[4] += if labels[i] == 1 { 3.0 } else { 0.0 };
            row[7] += if labels[i] == 2 { 3.0 } else { 0.0 };
        }
        let data = Data { rows: &rows, width, labels: &labels, test: &test, classes: 3 };
        assert_eq!(data.telling(2), [4, 7]);
        for coordinates in [vec![4, 7], (0..width).collect::<Vec<_>>()] {
            let score = data.judge(&data.fit(coordinates));
            assert!(score.accuracy > 0.97 && score.auc > 0.99, "{score:?}");
            assert!(score.accuracy_interval[0] <= score.accuracy && score.accuracy <= score.accuracy_interval[1]);
        }
        let score = data.judge(&data.fit(vec![1, 2, 3]));
        assert!(score.accuracy < 0.55 && score.auc_interval[0] < 0.5, "{score:?}");
        // The fit is the loss' minimum: its gradient is zero, here by one coordinate.
        let probe = data.fit(vec![4]);
        let mut slope = 0f64;
        for i in (0..n).filter(|i| !test[*i]) {
            let row = &rows[i * width..(i + 1) * width];
            let l = probe.logits(row);
            let sum: f32 = l.iter().map(|v| v.exp()).sum();
            let x = f64::from((row[4] - probe.mean[0]) / probe.scale[0]);
            slope += (f64::from(l[1].exp() / sum) - f64::from(u8::from(labels[i] == 1))) * x / 180.0;
        }
        slope += RIDGE * f64::from(probe.weights[1][0]);
        assert!(slope.abs() < 1e-4, "{slope}");
    }

    /// By hand: texts at −1 and 1 of two classes. With weight v on class 1 and −v on class 0 the loss is
    /// ln(1 + e^(−2v)) + RIDGE · v², least where 2/(1 + e^(2v)) = 2 · RIDGE · v.
    #[test]
    fn two_texts_by_hand() {
        let (rows, labels) = ([-1.0, 1.0, -1.0, 1.0, -0.5, 2.0], [0, 1, 0, 1, 0, 1]);
        let test = [false, false, false, false, true, true];
        let data = Data { rows: &rows, width: 1, labels: &labels, test: &test, classes: 2 };
        let probe = data.fit(vec![0]);
        let v = f64::from(probe.weights[1][0]);
        assert_eq!((probe.mean[0], probe.scale[0]), (0.0, 1.0));
        assert!((v + f64::from(probe.weights[0][0])).abs() < 1e-6 && probe.bias[1].abs() < 1e-6, "{probe:?}");
        assert!((1.0 / (1.0 + (2.0 * v).exp()) - RIDGE * v).abs() < 1e-7, "{v}");
        let score = data.judge(&probe);
        assert_eq!((score.accuracy, score.auc), (1.0, 1.0));
    }

    /// TransformerLens' sparse probe and scikit-learn's softmax regression on the same numbers: `tests/probes/make.py`.
    #[test]
    fn fits_are_those_of_other_programs() {
        let all: serde_json::Value = serde_json::from_str(include_str!("../../tests/probes/expected.json")).unwrap();
        let floats = |v: &serde_json::Value| -> Vec<f32> { serde_json::from_value(v.clone()).unwrap() };
        let near = |a: f32, b: f32, what: &str| assert!((a - b).abs() < 2e-4 * (1.0 + b.abs()), "{what}: {a} {b}");
        for (name, classes) in [("two", 2), ("three", 3)] {
            let case = &all[name];
            let rows: Vec<f32> = case["rows"].as_array().unwrap().iter().flat_map(floats).collect();
            let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
            let test: Vec<bool> = floats(&case["test"]).iter().map(|v| *v > 0.5).collect();
            let data = Data { rows: &rows, width: 8, labels: &labels, test: &test, classes };
            let probe = data.fit((0..8).collect());
            let score = data.judge(&probe);
            near(score.accuracy, case["accuracy"].as_f64().unwrap() as f32, "accuracy");
            near(score.auc, case["auc"].as_f64().unwrap() as f32, "AUC");
            if classes == 2 {
                // Theirs has one vector, the difference of ours.
                for (c, w) in floats(&case["weights"]).into_iter().enumerate() {
                    near(probe.weights[1][c] - probe.weights[0][c], w, "weight");
                }
                near(probe.bias[1] - probe.bias[0], case["bias"].as_f64().unwrap() as f32, "bias");
                continue;
            }
            for (ours, theirs) in probe.weights.iter().zip(case["weights"].as_array().unwrap()) {
                ours.iter().zip(floats(theirs)).for_each(|(a, b)| near(*a, b, "weight"));
            }
            // What is added to all biases changes nothing.
            let (ours, theirs) = (&probe.bias, floats(&case["bias"]));
            (1..3).for_each(|c| near(ours[c] - ours[0], theirs[c] - theirs[0], "bias"));
        }
    }
}
