//! The inputs of toy models: sparse features. Each feature is zero with probability S, and uniform otherwise.
//!
//! Inputs are drawn for [`LANES`] samples at once, feature by feature, so that every loop over samples is SIMD. A batch
//! depends on seed, step and part alone.

use super::setup::{Instance, Setup, Task, Tie};

/// Number of samples that are worked on at once.
pub const LANES: usize = 32;

/// One number for each of [`LANES`] samples.
pub type Lanes = [f32; LANES];

/// Scrambles a number, as the last step of SplitMix64 does [Steele et al. 2014].
pub fn splitmix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The generator xoshiro128++ [Blackman and Vigna 2019], [`LANES`] times side by side. Crates that offer it draw one
/// word at a time, which is slow: drawing is a third of the work of a step.
pub struct Random {
    s: [[u32; LANES]; 4],
}

impl Random {
    /// Returns generators that are independent of those of every other `(seed, stream)`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut x = splitmix(seed) ^ splitmix(stream.wrapping_mul(2).wrapping_add(1)).rotate_left(32);
        let mut s = [[0u32; LANES]; 4];
        for pair in s.chunks_mut(2) {
            let (low, high) = pair.split_at_mut(1);
            for (low, high) in low[0].iter_mut().zip(&mut high[0]) {
                x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let word = splitmix(x);
                (*low, *high) = (word as u32, (word >> 32) as u32);
            }
        }
        // The generator cannot leave the state in which all words are zero.
        s[0].iter_mut().for_each(|v| *v |= 1);
        Self { s }
    }

    #[inline(always)]
    pub fn words(&mut self) -> [u32; LANES] {
        let mut out = [0u32; LANES];
        let [s0, s1, s2, s3] = &mut self.s;
        for l in 0..LANES {
            out[l] = s0[l].wrapping_add(s3[l]).rotate_left(7).wrapping_add(s0[l]);
            let t = s1[l] << 9;
            s2[l] ^= s0[l];
            s3[l] ^= s1[l];
            s1[l] ^= s2[l];
            s0[l] ^= s3[l];
            s2[l] ^= t;
            s3[l] = s3[l].rotate_left(11);
        }
        out
    }

    /// Draws a number in each lane, uniform in [0, 1).
    #[inline(always)]
    pub fn uniform(&mut self) -> Lanes {
        unit(&self.words())
    }

    /// Draws a standard normal number in each lane (Box–Muller).
    pub fn normal(&mut self) -> Lanes {
        let (u, v) = (self.uniform(), self.uniform());
        std::array::from_fn(|l| {
            let radius = (-2.0 * f64::from(1.0 - u[l]).max(1e-30).ln()).sqrt();
            (radius * (2.0 * std::f64::consts::PI * f64::from(v[l])).cos()) as f32
        })
    }
}

#[inline(always)]
fn unit(words: &[u32; LANES]) -> Lanes {
    // Only the top 31 bits are used, so that the conversion is one instruction.
    let mut u = [0f32; LANES];
    for l in 0..LANES {
        // The conversion may round up to 1, which is outside the range.
        let v = (words[l] >> 1) as i32 as f32 * (1.0 / 2_147_483_648.0);
        u[l] = if v < 1.0 { v } else { 1.0 - f32::EPSILON };
    }
    u
}

/// Draws the inputs of one instance.
pub struct Source<'a> {
    setup: &'a Setup,
    density: f32,
    /// Features that are in no group.
    single: Vec<usize>,
}

impl<'a> Source<'a> {
    pub fn new(setup: &'a Setup, instance: &Instance) -> Self {
        let mut free = vec![true; setup.features];
        for g in &setup.groups {
            free[g.start..g.start + g.len].fill(false);
        }
        let single = (0..setup.features).filter(|i| free[*i]).collect();
        Self { setup, density: 1.0 - instance.sparsity, single }
    }

    /// Draws x for [`LANES`] samples into `x`, [feature][sample].
    #[inline(always)]
    pub fn draw(&self, random: &mut Random, x: &mut [Lanes]) {
        let (p, signed) = (self.density, self.setup.task == Task::Absolute);
        for &i in &self.single {
            // One draw decides both if the feature is active and how much: u < p is uniform in [0, p).
            let words = random.words();
            let u = unit(&words);
            let out = &mut x[i];
            for l in 0..LANES {
                out[l] = if u[l] < p { u[l] / p } else { 0.0 };
            }
            if signed {
                // The lowest bit of the word is the sign; u does not use it.
                for l in 0..LANES {
                    out[l] = f32::from_bits(out[l].to_bits() | (words[l] << 31));
                }
            }
        }
        for g in &self.setup.groups {
            let gate = random.uniform();
            for k in 0..g.len {
                let value = random.uniform();
                let out = &mut x[g.start + k];
                let (low, high) = match g.tie {
                    Tie::Correlated => (0.0, p),
                    Tie::Anticorrelated => (k as f32 * p, (k + 1) as f32 * p),
                };
                for l in 0..LANES {
                    let v = if signed { 2.0 * value[l] - 1.0 } else { value[l] };
                    out[l] = if gate[l] >= low && gate[l] < high { v } else { 0.0 };
                }
            }
        }
        if self.setup.unit_inputs {
            let mut square = [0f32; LANES];
            for row in x.iter() {
                for l in 0..LANES {
                    square[l] += row[l] * row[l];
                }
            }
            let scale = square.map(|s| if s > 0.0 { s.sqrt().recip() } else { 0.0 });
            for row in x.iter_mut() {
                for l in 0..LANES {
                    row[l] *= scale[l];
                }
            }
        }
    }

    /// Draws a fixed data set, in chunks of [`LANES`] samples, each [feature][sample].
    pub fn data_set(&self, seed: u64, samples: usize) -> Vec<Vec<Lanes>> {
        (0..samples.div_ceil(LANES))
            .map(|c| {
                let mut x = vec![[0.0; LANES]; self.setup.features];
                self.draw(&mut Random::new(seed, u64::MAX - c as u64), &mut x);
                x
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(setup: &Setup, chunks: usize) -> Vec<Vec<f32>> {
        let source = Source::new(setup, &setup.instances[0]);
        let mut random = Random::new(1, 2);
        let mut rows = Vec::new();
        let mut x = vec![[0.0; LANES]; setup.features];
        for _ in 0..chunks {
            source.draw(&mut random, &mut x);
            rows.extend((0..LANES).map(|l| x.iter().map(|f| f[l]).collect::<Vec<f32>>()));
        }
        rows
    }

    fn mean(values: impl Iterator<Item = f32>) -> f32 {
        let (mut sum, mut count) = (0.0, 0);
        for v in values {
            sum += f64::from(v);
            count += 1;
        }
        (sum / f64::from(count)) as f32
    }

    #[test]
    fn one_stream_is_the_published_generator() {
        // The reference C code of xoshiro128++ started from {1, 2, 3, 4}.
        let mut r = Random::new(0, 0);
        for (k, word) in [1, 2, 3, 4].into_iter().enumerate() {
            r.s[k][0] = word;
        }
        let first: Vec<u32> = (0..5).map(|_| r.words()[0]).collect();
        assert_eq!(first, [641, 1_573_767, 3_222_811_527, 3_517_856_514, 836_907_274]);
    }

    #[test]
    fn features_are_sparse_and_uniform() {
        let rows = inputs(&Setup::sweep(3, 1, &[0.9], 1.0, 0), 4000);
        let active: Vec<f32> = rows.iter().map(|r| r[1]).filter(|v| *v != 0.0).collect();
        assert!((active.len() as f32 / rows.len() as f32 - 0.1).abs() < 0.005);
        assert!((mean(active.iter().copied()) - 0.5).abs() < 0.01);
        assert!((mean(active.iter().map(|v| v * v)) - 1.0 / 3.0).abs() < 0.01);
        assert!(rows.iter().flatten().all(|v| (0.0..=1.0).contains(v)));
        let both = mean(rows.iter().map(|r| f32::from(u8::from(r[0] != 0.0 && r[1] != 0.0))));
        assert!((both - 0.01).abs() < 0.002, "{both}");
    }

    #[test]
    fn signed_features_have_mean_zero() {
        let mut setup = Setup::sweep(1, 1, &[0.0], 1.0, 0);
        setup.task = Task::Absolute;
        let rows = inputs(&setup, 2000);
        assert!(mean(rows.iter().map(|r| r[0])).abs() < 0.01);
        assert!((mean(rows.iter().map(|r| r[0].abs())) - 0.5).abs() < 0.01);
    }

    #[test]
    fn groups_fire_together_or_apart() {
        let tied = inputs(&Setup::sweep(4, 2, &[0.7], 1.0, 0).with_groups(Tie::Correlated, 2), 2000);
        assert!(tied.iter().all(|r| (r[0] == 0.0) == (r[1] == 0.0)));
        assert!(tied.iter().any(|r| r[0] != 0.0 && r[0] != r[1]));
        let apart = inputs(&Setup::sweep(4, 2, &[0.7], 1.0, 0).with_groups(Tie::Anticorrelated, 2), 2000);
        assert!(apart.iter().all(|r| r[0] == 0.0 || r[1] == 0.0));
        for rows in [tied, apart] {
            let share = mean(rows.iter().map(|r| f32::from(u8::from(r[3] != 0.0))));
            assert!((share - 0.3).abs() < 0.01, "{share}");
        }
    }

    #[test]
    fn unit_inputs_have_length_one() {
        let mut setup = Setup::sweep(50, 2, &[0.8], 1.0, 0);
        setup.unit_inputs = true;
        for row in inputs(&setup, 4) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((norm - 1.0).abs() < 1e-5);
        }
    }
}
