//! Encoding in tiles of features: a tile's pre-activations are looked at while they are still in the cache, and only
//! what is active is kept.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::engine::kernels::math::simd;
use crate::features::dictionary::encode::Sparse;
use crate::features::dictionary::{Activation, Dictionary};
use crate::features::train::maths::{Matrix, product_alone};

/// Features of a tile: with the rows that are encoded at a time their pre-activations take a megabyte.
const TILE: usize = 512;
/// Indices that are written at once.
const AHEAD: usize = 4;
/// Rows that are put together at a time.
const ROWS: usize = 32;

thread_local! {
    /// A tile's pre-activations, a megabyte a thread, and what is active of them: memory that is asked for anew comes page by
    /// page, and lists that grow wait for each other.
    static PRE: RefCell<(Vec<f32>, Sparse)> = const { RefCell::new((Vec::new(), Sparse::empty())) };
}

/// What is active of a tile's features in each row.
struct Found {
    /// The tile's first feature.
    from: usize,
    active: Sparse,
    /// Of TopK: the value in each row that all kept ones are above, and none is missing that is.
    least: Vec<f32>,
}

/// The active features of `n` rows `x` [n, d_in], prepared; `w` is the encoder [d_in, d_sae].
pub(super) fn encode(d: &Dictionary, norms: Option<&[f32]>, x: &[f32], w: &[f32], n: usize) -> Sparse {
    let threads = rayon::current_num_threads();
    let tile = TILE.min(d.d_sae.div_ceil(2 * threads).next_multiple_of(64));
    let starts: Vec<usize> = (0..d.d_sae).step_by(tile).collect();
    let pre = |from: usize, x: &[f32], n: usize, out: &mut Vec<f32>| {
        let width = tile.min(d.d_sae - from);
        out.resize(n * width, 0.0);
        product_alone(out, Matrix::new(x, n, d.d_in), Matrix::columns(w, d.d_in, d.d_sae, from, width));
        width
    };
    let tiles: Vec<Found> = starts
        .par_iter()
        .map(|from| {
            PRE.with_borrow_mut(|(out, active)| {
                let width = pre(*from, x, n, out);
                let least = d.look(norms, out, *from, width, starts.len(), active);
                Found { from: *from, active: active.clone(), least }
            })
        })
        .collect();
    let chunks: Vec<usize> = (0..n).step_by(ROWS).collect();
    let chunks: Vec<Sparse> = chunks
        .par_iter()
        .map(|first| {
            let (mut all, mut candidates) = (Sparse::new(), Candidates::default());
            let last = (*first + ROWS).min(n);
            let most = match d.activation {
                Activation::TopK { k } => k.min(d.d_sae) * (last - first),
                _ => tiles.iter().map(|t| t.active.starts[last] - t.active.starts[*first]).sum(),
            };
            all.reserve(last - first, most);
            for r in *first..last {
                match d.activation {
                    Activation::TopK { k } => {
                        let again = |from: usize| {
                            let (x, mut out) = (&x[r * d.d_in..(r + 1) * d.d_in], Vec::new());
                            let width = pre(from, x, 1, &mut out);
                            d.positive(norms, &out, from, width)
                        };
                        candidates.largest(&tiles, r, k.min(d.d_sae), &again, &mut all);
                    }
                    _ => tiles.iter().for_each(|t| {
                        let span = t.active.starts[r]..t.active.starts[r + 1];
                        all.features.extend_from_slice(&t.active.features[span.clone()]);
                        all.values.extend_from_slice(&t.active.values[span]);
                    }),
                }
                all.starts.push(all.features.len());
            }
            all
        })
        .collect();
    let mut all = Sparse::new();
    chunks.iter().for_each(|c| all.append(c));
    all
}

/// Room for a row's candidates, used for one row after the other.
#[derive(Default)]
struct Candidates {
    features: Vec<u32>,
    values: Vec<f32>,
    sorted: Vec<f32>,
}

impl Candidates {
    fn clear(&mut self) {
        self.features.clear();
        self.values.clear();
    }

    fn take(&mut self, tile: &Found, r: usize) {
        let span = tile.active.starts[r]..tile.active.starts[r + 1];
        self.features.extend_from_slice(&tile.active.features[span.clone()]);
        self.values.extend_from_slice(&tile.active.values[span]);
    }

    /// The k-th largest value; 0 where there are fewer.
    fn border(&mut self, k: usize) -> f32 {
        self.sorted.clear();
        self.sorted.extend_from_slice(&self.values);
        border(&mut self.sorted, k)
    }

    /// The k largest of a row, tile by tile, go into `all`. `again` gives all positive values of a tile that may have kept
    /// too few.
    fn largest(
        &mut self,
        tiles: &[Found],
        r: usize,
        k: usize,
        again: &dyn Fn(usize) -> Vec<(u32, f32)>,
        all: &mut Sparse,
    ) {
        self.clear();
        tiles.iter().for_each(|t| self.take(t, r));
        let mut border = self.border(k);
        // Nothing is missing where all that a tile left out lies below the border.
        let is_short = |t: &Found, border: f32| t.least[r] > 0.0 && t.least[r] >= border;
        if tiles.iter().any(|t| is_short(t, border)) {
            self.clear();
            for t in tiles {
                if is_short(t, border) {
                    for (f, v) in again(t.from) {
                        self.features.push(f);
                        self.values.push(v);
                    }
                } else {
                    self.take(t, r);
                }
            }
            border = self.border(k);
        }
        let mut ties = k.saturating_sub(self.values.iter().filter(|v| **v > border).count());
        for (f, v) in self.features.iter().zip(&self.values) {
            // Equal values at the border are taken from the left.
            let tie = *v == border && ties > 0;
            ties -= usize::from(tie);
            if *v > border || tie {
                all.features.push(*f);
                all.values.push(*v);
            }
        }
    }
}

/// The k-th largest value; 0 where there are fewer. The values are put into another order.
fn border(values: &mut [f32], k: usize) -> f32 {
    if k == 0 {
        return f32::INFINITY;
    }
    if values.len() < k {
        return 0.0;
    }
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

impl Dictionary {
    /// Goes through a tile's pre-activations [rows, width] and puts what is active into `active`; gives the least values of
    /// [`Found`].
    fn look(
        &self,
        norms: Option<&[f32]>,
        pre: &[f32],
        from: usize,
        width: usize,
        tiles: usize,
        active: &mut Sparse,
    ) -> Vec<f32> {
        active.clear();
        if let Activation::TopK { k } = self.activation {
            return self.candidates(k.min(self.d_sae).div_ceil(tiles.max(1)), norms, pre, from, width, active);
        }
        let bias = &self.b_enc[from..from + width];
        let scale = |i: usize| norms.map_or(1.0, |n| n[from + i]);
        let mut at = vec![0u32; width + AHEAD];
        let least = match &self.activation {
            Activation::Jump { threshold } => threshold[from..from + width].iter().copied().fold(0.0, f32::min),
            _ => 0.0,
        };
        for row in pre.chunks_exact(width) {
            let count = above(row, bias, least, &mut at);
            let at = at[..count].iter().map(|i| *i as usize);
            let mut put = |values: &mut dyn Iterator<Item = (usize, f32)>| {
                for (i, v) in values {
                    active.features.push((from + i) as u32);
                    active.values.push(v);
                }
            };
            match &self.activation {
                Activation::Relu | Activation::TopK { .. } | Activation::Largest { .. } => {
                    active.features.extend(at.clone().map(|i| (from + i) as u32));
                    active.values.extend(at.map(|i| (row[i] + bias[i]) * scale(i)));
                }
                Activation::JumpRelu { threshold } | Activation::Jump { threshold } => {
                    let pre = at.map(|i| (i, row[i] + bias[i]));
                    put(&mut pre.filter(|(i, v)| *v > threshold[from + i]).map(|(i, v)| (i, v * scale(i))));
                }
                Activation::Gated { r_mag, b_mag } => {
                    let magnitudes = at.map(|i| (i, row[i] * r_mag[from + i].exp() + b_mag[from + i]));
                    put(&mut magnitudes.filter(|(_, m)| *m > 0.0).map(|(i, m)| (i, m * scale(i))));
                }
            }
            active.starts.push(active.features.len());
        }
        Vec::new()
    }

    /// Candidates for the k largest: of each row about three times `share`, which is what a tile has to give on average.
    fn candidates(
        &self,
        share: usize,
        norms: Option<&[f32]>,
        pre: &[f32],
        from: usize,
        width: usize,
        active: &mut Sparse,
    ) -> Vec<f32> {
        let bias = &self.b_enc[from..from + width];
        let mut leasts = Vec::with_capacity(pre.len() / width);
        let (enough, wanted) = (2 * share + 8, 3 * share + 12);
        // Somewhat below where the row before had as many as are wanted: rows are alike, and most features lie far below.
        let mut guess = 0f32;
        let mut scaled = vec![0f32; if norms.is_some() { width } else { 0 }];
        let none = vec![0f32; if norms.is_some() { width } else { 0 }];
        let mut at = vec![0u32; width + AHEAD];
        for row in pre.chunks_exact(width) {
            let (row, bias) = match norms {
                Some(n) => {
                    let n = &n[from..from + width];
                    for ((s, v), (b, n)) in scaled.iter_mut().zip(row).zip(bias.iter().zip(n)) {
                        *s = (v + b) * n;
                    }
                    (&scaled[..], &none[..])
                }
                None => (row, bias),
            };
            let begin = active.features.len();
            let (mut least, mut count) = (guess, 0);
            for lower in [guess, 0.5 * guess, 0.0] {
                least = lower;
                count = above(row, bias, least, &mut at);
                if count >= enough || least == 0.0 {
                    break;
                }
            }
            let at = at[..count].iter().map(|i| *i as usize);
            active.features.extend(at.clone().map(|i| (from + i) as u32));
            active.values.extend(at.map(|i| row[i] + bias[i]));
            leasts.push(least);
            active.starts.push(active.features.len());
            guess = if least < guess || guess == 0.0 {
                border(&mut active.values[begin..].to_vec(), wanted)
            } else {
                guess * (1.0 + 0.1 * (count as f32 / wanted as f32 - 1.0).clamp(-1.0, 1.0))
            };
        }
        leasts
    }

    /// All positive pre-activations of a row of a tile.
    fn positive(&self, norms: Option<&[f32]>, pre: &[f32], from: usize, width: usize) -> Vec<(u32, f32)> {
        (0..width)
            .map(|i| ((from + i) as u32, (pre[i] + self.b_enc[from + i]) * norms.map_or(1.0, |n| n[from + i])))
            .filter(|(_, v)| *v > 0.0)
            .collect()
    }
}

/// Where v + b lies above `least`: the indices go to the front of `found`, which has room for [`AHEAD`] more than there are
/// values; gives their number.
fn above(row: &[f32], bias: &[f32], least: f32, found: &mut [u32]) -> usize {
    const LANES: usize = u64::BITS as usize;
    let n = row.len().min(bias.len()).min(found.len().saturating_sub(AHEAD));
    let ((parts, rest), (biases, bias_rest)) = (row[..n].as_chunks::<LANES>(), bias[..n].as_chunks::<LANES>());
    let mut sets = [0u64; TILE / LANES];
    let mut count = 0;
    for (some, (parts, biases)) in parts.chunks(sets.len()).zip(biases.chunks(sets.len())).enumerate() {
        // Nothing but this loop: what is larger is not compiled with wide instructions. The comparisons of neighbours leave
        // a bit each, of which few are set.
        simd(|| {
            for (set, (v, b)) in sets.iter_mut().zip(parts.iter().zip(biases)) {
                *set = 0;
                // By index: zipped iterators here are not turned into vector instructions.
                for i in 0..LANES {
                    *set |= u64::from(v[i] + b[i] > least) << i;
                }
            }
        });
        for (part, set) in sets[..parts.len()].iter().enumerate() {
            let (mut set, first) = (*set, ((some * sets.len() + part) * LANES) as u32);
            let bits = set.count_ones() as usize;
            // Some are written whether there are so many or not, which is quicker than to guess [Langdale and Lemire 2019].
            for to in &mut found[count..count + AHEAD] {
                *to = first + set.trailing_zeros();
                set &= set.wrapping_sub(1);
            }
            for i in AHEAD..bits {
                found[count + i] = first + set.trailing_zeros();
                set &= set.wrapping_sub(1);
            }
            count += bits;
        }
    }
    for (i, (v, b)) in rest.iter().zip(bias_rest).enumerate() {
        if v + b > least {
            found[count] = (n - rest.len() + i) as u32;
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn what_lies_above_is_found_wherever_it_stands() {
        let row: Vec<f32> = (0..69).map(|i| if i % 15 == 1 || i == 68 { i as f32 } else { -1.0 }).collect();
        let mut found = [0; 69 + AHEAD];
        let count = above(&row, &[0.0; 69], 0.0, &mut found);
        assert_eq!(found[..count], [1, 16, 31, 46, 61, 68]);
        let dense: Vec<f32> = (0..128).map(|i| (i % 9) as f32 - 1.5).collect();
        let mut found = [0; 128 + AHEAD];
        let count = above(&dense, &[0.5; 128], 0.0, &mut found);
        let want: Vec<u32> = (0..128).filter(|i| i % 9 > 1).collect();
        assert_eq!(found[..count], want);
    }

    /// Two tiles: one of them gave too few, and is asked again.
    #[test]
    fn the_largest_of_a_row_and_ties() {
        let tile = |from: usize, list: &[(u32, f32)], least: f32| Found {
            from,
            active: Sparse {
                starts: vec![0, list.len()],
                features: list.iter().map(|l| l.0).collect(),
                values: list.iter().map(|l| l.1).collect(),
            },
            least: vec![least],
        };
        let of = |tiles: &[Found], k: usize, again: &[(u32, f32)]| {
            let mut all = Sparse::new();
            Candidates::default().largest(tiles, 0, k, &|_| again.to_vec(), &mut all);
            all.features.into_iter().zip(all.values).collect::<Vec<_>>()
        };
        let whole = [tile(0, &[(0, 1.0), (1, 5.0), (2, 3.0)], 0.0), tile(4, &[(4, 5.0), (5, 2.0), (6, 5.0)], 0.0)];
        assert_eq!(of(&whole, 2, &[]), [(1, 5.0), (4, 5.0)], "ties from the left");
        assert_eq!(of(&whole, 9, &[]).len(), 6, "fewer than k are all of them");
        assert!(of(&whole, 0, &[]).is_empty());
        let short = [tile(0, &[(1, 5.0)], 4.0), tile(4, &[(4, 2.0), (5, 1.0)], 0.0)];
        assert_eq!(of(&short, 2, &[(1, 5.0), (2, 3.0)]), [(1, 5.0), (2, 3.0)]);
        assert_eq!(of(&short, 1, &[(9, 9.0)]), [(1, 5.0)], "nothing is missing above the border");
    }

    /// Against the plain formula, where features are even and where nearly all that is active lies in one tile.
    #[test]
    fn tiles_give_what_whole_rows_give() {
        let mut seed = 1u64;
        let mut draw = || {
            seed = crate::hash::mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15));
            (seed >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        for (d_in, d_sae, n, k, crowded, rescale) in [
            (8, 700, 70, 20, false, false),
            (8, 1300, 40, 30, true, false),
            (4, 600, 9, 7, true, true),
            (4, 30, 5, 40, false, false),
        ] {
            let mut values = |n: usize| (0..n).map(|_| draw()).collect::<Vec<f32>>();
            let (x, w) = (values(n * d_in), values(d_in * d_sae));
            let lift = |j: usize| if crowded && (200..300).contains(&j) { 3.0 } else { 0.0 };
            let b_enc: Vec<f32> = values(d_sae).into_iter().enumerate().map(|(j, b)| 0.3 * b + lift(j)).collect();
            let norms: Vec<f32> = values(d_sae).into_iter().map(|v| v + 1.0).collect();
            let norms = rescale.then_some(&norms[..]);
            let tensor = |v: &[f32], shape: (usize, usize)| Tensor::from_slice(v, shape, &Device::Cpu).unwrap();
            let threshold: Vec<f32> = (0..d_sae).map(|j| [-0.3, -0.05, 0.2][j % 3]).collect();
            let jump = Activation::Jump { threshold: threshold.clone() };
            for activation in [Activation::TopK { k }, Activation::Relu, jump] {
                let is_top = matches!(activation, Activation::TopK { .. });
                let jumps = matches!(activation, Activation::Jump { .. });
                let d = Dictionary {
                    name: String::new(),
                    path: Default::default(),
                    format: "SAELens",
                    d_in,
                    d_sae,
                    d_out: d_in,
                    w_enc: tensor(&w, (d_in, d_sae)),
                    b_enc: b_enc.clone(),
                    w_dec: tensor(&w, (d_sae, d_in)),
                    later: Default::default(),
                    b_dec: vec![0.0; d_in],
                    activation,
                    subtract_b_dec: false,
                    rescale: false,
                    normalisation: Default::default(),
                    skip: None,
                    transcoder: false,
                    input: None,
                    output: None,
                    model_name: None,
                    config: serde_json::Value::Null,
                    warnings: Vec::new(),
                };
                let found = encode(&d, norms, &x, &w, n);
                assert_eq!(found.rows(), n);
                for r in 0..n {
                    let pre = |j: usize| {
                        let sum: f32 = (0..d_in).map(|i| x[r * d_in + i] * w[i * d_sae + j]).sum();
                        sum + b_enc[j]
                    };
                    let is_active = |j: usize| pre(j) > if jumps { threshold[j] } else { 0.0 };
                    let pre = |j: usize| if is_active(j) { pre(j) * norms.map_or(1.0, |n| n[j]) } else { 0.0 };
                    let mut want: Vec<(u32, f32)> = (0..d_sae as u32).map(|j| (j, pre(j as usize))).collect();
                    want.retain(|(_, v)| *v != 0.0);
                    if is_top {
                        want.sort_by(|a, b| b.1.total_cmp(&a.1));
                        want.truncate(k);
                        want.sort_by_key(|w| w.0);
                    }
                    let got: Vec<(u32, f32)> = found.row(r).collect();
                    assert_eq!(got.len(), want.len(), "{d_sae} {r}");
                    // Two features may be equal but for rounding.
                    let sum = |l: &[(u32, f32)]| l.iter().map(|l| l.1).sum::<f32>();
                    assert!((sum(&got) - sum(&want)).abs() < 1e-3 * sum(&want).abs().max(1.0), "{d_sae} {r}");
                    let same = got.iter().zip(&want).filter(|(a, b)| a.0 == b.0).count();
                    assert!(same + 2 >= want.len(), "{d_sae} {r}: {same} of {}", want.len());
                }
            }
        }
    }
}
