//! One step of training: activations, loss, gradients by hand, Adam. Tests hold every gradient to differences.

use std::ops::Range;

use rayon::prelude::*;

use super::cells::{Cells, Slopes};
use super::maths::{Matrix, Param, add_scaled, column_sums, largest, product, product_of, squares, squares_f64, unit};
use super::row_kernels::Per;
use super::settings::{Method, Settings};

/// Threshold that features begin with.
pub(super) const FIRST_THRESHOLD: f32 = 0.05;
/// How quickly the threshold that stands in for a batch's k largest follows them.
const THRESHOLD_RATE: f32 = 0.01;
/// Positions that are worked on at a time: buffers of so many are reused by the allocator instead of being mapped anew, and
/// are still large enough that products lose little.
const STRIP: usize = if cfg!(test) { 4 } else { 1024 };

/// What is trained. Rows are features.
#[derive(Clone, Debug)]
pub struct Params {
    pub d_in: usize,
    pub d_out: usize,
    pub features: usize,
    /// [features, d_in].
    pub w_enc: Param,
    pub b_enc: Param,
    /// [features, d_out], rows of length 1.
    pub w_dec: Param,
    pub b_dec: Param,
    /// Logarithms of the thresholds (JumpReLU).
    pub log_threshold: Option<Param>,
    /// Gated: logarithm of the magnitude's scale, and its bias.
    pub magnitude: Option<(Param, Param)>,
    /// What a transcoder passes on beside its features, [d_in, d_out].
    pub w_skip: Option<Param>,
    /// Whether it reads and writes the same activations: then b_dec is subtracted from the input.
    pub same: bool,
    /// BatchTopK: the running threshold.
    pub threshold: f32,
}

/// What a step saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Mean squared error, summed over the axis, mean over positions, in scaled units.
    pub mse: f32,
    pub l0: f32,
    pub explained: f32,
    pub loss: f32,
}

/// Gradients, laid out as [`Params`].
pub struct Gradients {
    pub w_enc: Vec<f32>,
    pub b_enc: Vec<f32>,
    pub w_dec: Vec<f32>,
    pub b_dec: Vec<f32>,
    pub log_threshold: Vec<f32>,
    pub r_mag: Vec<f32>,
    pub b_mag: Vec<f32>,
    pub w_skip: Vec<f32>,
    /// Σ of the losses' slopes by what the encoder's product gives, of each feature.
    dz: Vec<f32>,
    pub fired: Vec<bool>,
    /// Reconstruction less target, [rows, d_out].
    pub error: Vec<f32>,
    /// Of nested reconstructions the mean of what each is less the target: what all of them share learns from it.
    shared: Vec<f32>,
    pub seen: Seen,
}

impl Gradients {
    /// Nothing seen yet; the weights' are written by the first strip.
    fn new(p: &Params) -> Self {
        let (n, zeros) = (p.features, || vec![0.0; p.features]);
        let some = |there: bool| if there { zeros() } else { Vec::new() };
        Self {
            w_enc: vec![0.0; n * p.d_in],
            b_enc: zeros(),
            w_dec: vec![0.0; n * p.d_out],
            b_dec: vec![0.0; p.d_out],
            log_threshold: some(p.log_threshold.is_some()),
            r_mag: some(p.magnitude.is_some()),
            b_mag: some(p.magnitude.is_some()),
            w_skip: vec![0.0; p.w_skip.as_ref().map_or(0, |s| s.value.len())],
            dz: zeros(),
            fired: vec![false; n],
            error: Vec::new(),
            shared: Vec::new(),
            seen: Seen::default(),
        }
    }
}

impl Params {
    /// Random unit decoder rows; the encoder begins as their transpose.
    pub fn new(
        settings: &Settings,
        d_in: usize,
        d_out: usize,
        same: bool,
        mean: &[f32],
        normal: &mut dyn FnMut() -> f32,
    ) -> Self {
        let n = settings.features;
        let mut w_dec: Vec<f32> = (0..n * d_out).map(|_| normal()).collect();
        w_dec.par_chunks_mut(d_out).for_each(unit);
        let w_enc = if d_in == d_out && same {
            w_dec.clone()
        } else {
            let mut w: Vec<f32> = (0..n * d_in).map(|_| normal()).collect();
            w.par_chunks_mut(d_in).for_each(unit);
            w
        };
        let zeros = || Param::new(vec![0.0; n]);
        let jump = settings.method == Method::JumpRelu;
        Self {
            d_in,
            d_out,
            features: n,
            w_enc: Param::new(w_enc),
            b_enc: zeros(),
            w_dec: Param::new(w_dec),
            b_dec: Param::new(mean.to_vec()),
            log_threshold: jump.then(|| Param::new(vec![FIRST_THRESHOLD.ln(); n])),
            magnitude: (settings.method == Method::Gated).then(|| (zeros(), zeros())),
            w_skip: (settings.skip && !same).then(|| Param::new(vec![0.0; d_in * d_out])),
            same,
            threshold: 0.0,
        }
    }

    /// Every parameter by its name in a checkpoint.
    pub fn named(&mut self) -> Vec<(&'static str, &mut Param)> {
        let mut all = vec![
            ("w_enc", &mut self.w_enc),
            ("b_enc", &mut self.b_enc),
            ("w_dec", &mut self.w_dec),
            ("b_dec", &mut self.b_dec),
        ];
        all.extend(self.log_threshold.as_mut().map(|p| ("log_threshold", p)));
        if let Some((r, b)) = &mut self.magnitude {
            all.push(("r_mag", r));
            all.push(("b_mag", b));
        }
        all.extend(self.w_skip.as_mut().map(|p| ("w_skip", p)));
        all
    }

    /// x·W_enc of every row, [rows, features], without bias; b_dec is subtracted first where input and output are the
    /// same.
    fn project(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let rows = x.len() / self.d_in;
        let mut input = vec![0.0; x.len()];
        input.par_chunks_mut(self.d_in).zip(x.par_chunks(self.d_in)).for_each(|(i, x)| {
            if self.same {
                i.iter_mut().zip(x).zip(&self.b_dec.value).for_each(|((i, x), b)| *i = x - b);
            } else {
                i.copy_from_slice(x);
            }
        });
        let weights = Matrix::new(&self.w_enc.value, self.features, self.d_in);
        let z = product_of(Matrix::new(&input, rows, self.d_in), weights.t());
        (input, z)
    }

    /// The cells of a batch that are active or nearly so, and the positions' values of all cells where the auxiliary
    /// loss needs them.
    fn cells(&self, settings: &Settings, z: Vec<f32>, rows: usize) -> (Cells, f32) {
        let (n, bias) = (self.features, &self.b_enc.value);
        match settings.method {
            Method::L1 | Method::Gated => (Cells::choose(z, n, |f, z| z + bias[f] > 0.0), 0.0),
            Method::JumpRelu => {
                let theta = self.thresholds();
                (Cells::choose(z, n, |f, z| z + bias[f] > theta[f] - settings.bandwidth / 2.0), 0.0)
            }
            Method::TopK => {
                let lists = z
                    .par_chunks(n)
                    .map(|row| {
                        let pre: Vec<f32> = row.iter().zip(bias).map(|(z, b)| z + b).collect();
                        let chosen = largest(&pre, settings.k);
                        chosen.into_iter().filter(|(_, v)| *v > 0.0).map(|(f, _)| (f as u32, row[f])).collect()
                    })
                    .collect();
                (Cells::list(lists, n), 0.0)
            }
            Method::BatchTopK | Method::Matryoshka => {
                let wanted = settings.k * rows;
                // Most cells lie far below the border, and the last batch's tells about where it is.
                let mut above = 0.5 * self.threshold;
                let candidates = |above: f32| -> Vec<Vec<(u32, f32)>> {
                    z.par_chunks(n)
                        .map(|row| {
                            row.iter()
                                .zip(bias)
                                .enumerate()
                                .filter(|(_, (z, b))| *z + *b > above)
                                .map(|(f, (z, b))| (f as u32, z + b))
                                .collect()
                        })
                        .collect()
                };
                let mut lists = candidates(above);
                if above > 0.0 && lists.iter().map(Vec::len).sum::<usize>() < wanted {
                    above = 0.0;
                    lists = candidates(above);
                }
                let mut all: Vec<f32> = lists.iter().flatten().map(|(_, v)| *v).collect();
                let border = if all.len() > wanted && wanted > 0 {
                    *all.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a)).1
                } else {
                    f32::MIN_POSITIVE
                };
                for list in &mut lists {
                    list.retain(|(_, v)| *v >= border);
                    for (f, v) in list {
                        *v -= bias[*f as usize];
                    }
                }
                (Cells::list(lists, n), border)
            }
        }
    }

    fn thresholds(&self) -> Vec<f32> {
        self.log_threshold.as_ref().map(|p| p.value.iter().map(|v| v.exp()).collect()).unwrap_or_default()
    }

    /// Loss and gradients on a batch: `x` [rows, d_in], `y` [rows, d_out]. `dead` are the features that the auxiliary
    /// loss revives.
    pub fn gradients(&mut self, settings: &Settings, penalty: f32, x: &[f32], y: &[f32], dead: &[bool]) -> Gradients {
        let d = self.d_out;
        let rows = x.len() / self.d_in;
        let share = 1.0 / rows as f32;
        let mut g = Gradients::new(self);
        g.error.reserve(y.len());
        let strip = if settings.method.by_batch() { rows } else { STRIP.min(rows) }.max(1);
        for (x, y) in x.chunks(strip * self.d_in).zip(y.chunks(strip * d)) {
            self.strip(settings, penalty, share, x, y, dead, &mut g);
        }
        if rows == 0 {
            g.w_enc.fill(0.0);
            g.w_dec.fill(0.0);
        }
        let spread = spread(y, d) * share;
        g.seen.explained = if spread > 0.0 { 1.0 - g.seen.mse / spread } else { 0.0 };
        let shared = if g.shared.is_empty() { &g.error } else { &g.shared };
        g.b_dec.iter_mut().zip(column_sums(shared, d)).for_each(|(b, e)| *b += 2.0 * share * e as f32);
        if self.same {
            // What the input loses by b_dec: −Σ dz · W_enc.
            let n = self.features;
            let sums = Matrix::new(&g.dz, 1, n);
            let mut through = vec![0f32; self.d_in];
            product(&mut through, sums, Matrix::new(&self.w_enc.value, n, self.d_in), -1.0, false);
            g.b_dec.iter_mut().zip(&through).for_each(|(b, t)| *b += t);
        }
        // All but the gated encoder's bias acts where its product does.
        if settings.method != Method::Gated {
            g.b_enc.clone_from(&g.dz);
        }
        g
    }

    /// Adds a strip's part to everything in `g`.
    fn strip(
        &mut self,
        settings: &Settings,
        penalty: f32,
        share: f32,
        x: &[f32],
        y: &[f32],
        dead: &[bool],
        g: &mut Gradients,
    ) {
        let d = self.d_out;
        let rows = x.len() / self.d_in;
        let (input, z) = self.project(x);
        let n_dead = dead.iter().filter(|d| **d).count();
        let aux_rows = (settings.auxiliary > 0.0 && n_dead > 0 && settings.method.counts())
            .then(|| self.dead_cells(&z, dead, n_dead.min((d / 2).max(1))));
        let (mut cells, border) = self.cells(settings, z, rows);
        let (bias, theta) = (&self.b_enc.value[..], self.thresholds());
        // The first strip writes where the others add.
        let later = !g.error.is_empty();
        // What gates and thresholds read of each feature.
        let scale: Vec<f32> = self.magnitude.iter().flat_map(|(r, _)| r.value.iter().map(|v| v.exp())).collect();
        let per: Per<'_> = match &self.magnitude {
            Some((_, b)) => [bias, &scale, &b.value],
            None if theta.is_empty() => [bias, bias, bias],
            None => [bias, &theta, &theta],
        };
        let fired = &mut g.fired;
        let jump = |z: f32, [bias, theta, _]: [f32; 3]| if z + bias > theta { z + bias } else { 0.0 };
        let gate = |z: f32, [bias, scale, offset]: [f32; 3]| one_if(z + bias > 0.0) * (z * scale + offset).max(0.0);
        let apart = match settings.method {
            Method::JumpRelu => Some(cells.activate(per, jump, fired)),
            Method::Gated => Some(cells.activate(per, gate, fired)),
            _ => None,
        };
        let (apart, seen) = match apart {
            Some((a, seen)) => (Some(a), seen),
            None => (None, cells.rectify(bias, fired)),
        };
        let a = apart.as_deref().unwrap_or(cells.values());
        let mut error = self.minus(y);
        if let Some(skip) = &self.w_skip {
            let (input, skip) = (Matrix::new(&input, rows, self.d_in), Matrix::new(&skip.value, self.d_in, d));
            product(&mut error, input, skip, 1.0, true);
        }
        let l0 = seen.active as f32 * share;
        g.seen.l0 += l0;
        // ∂loss/∂a of every cell.
        let da = self.nested(&settings.prefixes(), &cells, a, &mut error, (share, later), g);
        if self.w_skip.is_some() {
            let whole = if g.shared.is_empty() { &error } else { &g.shared };
            let (input, whole) = (Matrix::new(&input, rows, self.d_in), Matrix::new(whole, rows, d));
            product(&mut g.w_skip, input.t(), whole, 2.0 * share, true);
        }
        let Slopes { values: dz, sums, .. } = match settings.method {
            Method::TopK | Method::BatchTopK | Method::Matryoshka => {
                cells.slopes(da, per, |a, g, _| (if a > 0.0 { g } else { 0.0 }, 0.0))
            }
            Method::JumpRelu => {
                g.seen.loss += penalty * l0;
                let (width, rise) = (settings.bandwidth, penalty * share);
                // ∂/∂θ of a = −θ/ε inside the window, of the step −1/ε; times θ for the logarithm.
                let made = cells.slopes(da, per, |z, g, [bias, theta, _]| {
                    let near = one_if((z + bias - theta).abs() < width / 2.0);
                    (g * one_if(z + bias > theta), -near * (theta * g + rise) / width * theta)
                });
                add(&mut g.log_threshold, &made.beside);
                made
            }
            Method::Gated => {
                // Of the magnitude z·scale + offset where both gates are open; by z, and by the scale's logarithm.
                let mut made = cells.slopes(da, per, |z, g, [bias, scale, offset]| {
                    let open = (z + bias > 0.0) & (z * scale + offset > 0.0);
                    let slope = g * one_if(open) * scale;
                    (slope, slope * z)
                });
                g.b_mag
                    .iter_mut()
                    .zip(&made.sums)
                    .zip(&scale)
                    .for_each(|((b, s), scale)| *b += if *scale > 0.0 { s / scale } else { 0.0 });
                add(&mut g.r_mag, &made.beside);
                // The gate learns from its own reconstruction, through a decoder that it does not move, and the
                // penalty.
                let relu = |z: f32, [bias, ..]: [f32; 3]| (z + bias).max(0.0);
                let (gate, opened) = cells.activate(per, relu, &mut vec![false; self.features]);
                let mut left = self.minus(y);
                cells.times(&gate, &self.w_dec.value, d, &mut left);
                g.seen.loss += squares(&left) * share;
                g.seen.loss += penalty * share * opened.total;
                let dgate = cells.dots(&left, &self.w_dec.value, d, 2.0 * share);
                let gated = |z: f32, g: f32, [bias, ..]: [f32; 3]| (g + penalty * share) * one_if(z + bias > 0.0);
                let sums = cells.merge(&mut made.values, &dgate, per, gated);
                add(&mut g.b_enc, &sums);
                add(&mut made.sums, &sums);
                made
            }
            Method::L1 => {
                g.seen.loss += penalty * share * seen.total;
                let rise = penalty * share;
                cells.slopes(da, per, |a, g, _| ((g + rise) * one_if(a > 0.0), 0.0))
            }
        };
        cells.gather(&dz, &input, self.d_in, 1.0, later, &mut g.w_enc);
        add(&mut g.dz, &sums);
        if let Some(lists) = aux_rows {
            self.auxiliary(settings, lists, &input, &error, share, g);
        }
        if settings.method.by_batch() && border > f32::MIN_POSITIVE {
            let first = self.threshold == 0.0;
            self.threshold += if first { border } else { THRESHOLD_RATE * (border - self.threshold) };
        }
        g.error.extend_from_slice(&error);
    }

    /// Adds the features to `error`, b_dec − y, and with it the reconstruction's loss and the decoder's gradient to `g`;
    /// returns the slopes of the loss by each cell. There may be several reconstructions, each by the first features up to a
    /// number: then the loss is the mean of theirs.
    fn nested(
        &self,
        prefixes: &[usize],
        cells: &Cells,
        a: &[f32],
        error: &mut [f32],
        (share, later): (f32, bool),
        g: &mut Gradients,
    ) -> Vec<f32> {
        let (d, w) = (self.d_out, &self.w_dec.value);
        if prefixes.len() < 2 {
            let da = cells.times_and_dots(a, w, d, error, 2.0 * share);
            let mse = squares(error) * share;
            g.seen.mse += mse;
            g.seen.loss += mse;
            cells.gather(a, error, d, 2.0 * share, later, &mut g.w_dec);
            return da;
        }
        let weight = 1.0 / prefixes.len() as f32;
        let starts = std::iter::once(0).chain(prefixes.iter().copied());
        let groups: Vec<Range<usize>> = starts.zip(prefixes).map(|(from, to)| from..*to).collect();
        let parts: Vec<Vec<f32>> = groups.iter().map(|group| cells.within(a, group)).collect();
        let mut errors = Vec::with_capacity(parts.len());
        for part in &parts {
            cells.times(part, w, d, error);
            g.seen.loss += weight * share * squares(error);
            errors.push(error.to_vec());
        }
        g.seen.mse += share * squares(error);
        // A feature is part of its own reconstruction and of all after it.
        let mut da = vec![0f32; a.len()];
        let mut sum = vec![0f32; error.len()];
        for ((group, part), own) in groups.iter().zip(&parts).zip(&errors).rev() {
            add(&mut sum, own);
            // The last group comes first, and writes where the others add.
            let adds = later || group.end < self.features;
            cells.gather(part, &sum, d, 2.0 * share * weight, adds, &mut g.w_dec);
            add(&mut da, &cells.within(&cells.dots(&sum, w, d, 2.0 * share * weight), group));
        }
        sum.iter_mut().for_each(|v| *v *= weight);
        g.shared.extend(sum);
        da
    }

    /// b_dec − y, [rows, d_out].
    fn minus(&self, y: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; y.len()];
        out.par_chunks_mut(self.d_out).zip(y.par_chunks(self.d_out)).for_each(|(o, y)| {
            for ((o, y), b) in o.iter_mut().zip(y).zip(&self.b_dec.value) {
                *o = b - y;
            }
        });
        out
    }

    /// Of each row the `k` dead features that would be most active.
    fn dead_cells(&self, z: &[f32], dead: &[bool], k: usize) -> Vec<Vec<(u32, f32)>> {
        let list: Vec<usize> = (0..self.features).filter(|f| dead[*f]).collect();
        z.par_chunks(self.features)
            .map(|row| {
                let pre: Vec<f32> = list.iter().map(|f| row[*f] + self.b_enc.value[*f]).collect();
                let chosen = largest(&pre, k).into_iter().filter(|(_, v)| *v > 0.0);
                chosen.map(|(i, _)| (list[i] as u32, row[list[i]])).collect()
            })
            .collect()
    }

    /// Dead features reconstruct what the living leave over [Gao et al. 2024, A.2].
    fn auxiliary(
        &self,
        settings: &Settings,
        lists: Vec<Vec<(u32, f32)>>,
        input: &[f32],
        error: &[f32],
        share: f32,
        g: &mut Gradients,
    ) {
        let d = self.d_out;
        let cells = Cells::list(lists, self.features);
        let bias = &self.b_enc.value[..];
        let a = cells.map([bias; 3], |z, [bias, ..]| (z + bias).max(0.0));
        // ê − (y − ŷ), where error is ŷ − y.
        let mut left = error.to_vec();
        cells.times(&a, &self.w_dec.value, d, &mut left);
        let scale = settings.auxiliary;
        g.seen.loss += scale * share * squares(&left);
        cells.gather(&a, &left, d, 2.0 * share * scale, true, &mut g.w_dec);
        let dz = cells.dots(&left, &self.w_dec.value, d, 2.0 * share * scale);
        cells.gather(&dz, input, self.d_in, 1.0, true, &mut g.w_enc);
        add(&mut g.dz, &cells.sums(&dz));
    }

    /// Takes the step, and keeps decoder rows at length 1.
    pub fn update(&mut self, g: &Gradients, rate: f32, step: usize) {
        self.w_enc.update(&g.w_enc, rate, step);
        self.b_enc.update(&g.b_enc, rate, step);
        self.w_dec.update_unit_rows(&g.w_dec, self.d_out, rate, step);
        self.b_dec.update(&g.b_dec, rate, step);
        if let Some(p) = &mut self.log_threshold {
            p.update(&g.log_threshold, rate, step);
        }
        if let Some((r, b)) = &mut self.magnitude {
            r.update(&g.r_mag, rate, step);
            b.update(&g.b_mag, rate, step);
        }
        if let Some(skip) = &mut self.w_skip {
            skip.update(&g.w_skip, rate, step);
        }
    }
}

/// 1 or 0, to multiply with: half of a batch's cells are on, and branches that nobody can predict are slower.
#[inline(always)]
fn one_if(on: bool) -> f32 {
    f32::from(u8::from(on))
}

fn add(out: &mut [f32], x: &[f32]) {
    add_scaled(out, 1.0, x);
}

/// Σ of squared distances from the mean, over all rows.
fn spread(y: &[f32], d: usize) -> f32 {
    let rows = (y.len() / d).max(1);
    let total = squares_f64(y);
    (total - column_sums(y, d).iter().map(|m| m * m / rows as f64).sum::<f64>()) as f32
}

#[cfg(test)]
mod tests {
    use super::super::maths::dot;
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn example(method: Method, same: bool) -> (Settings, Params, Vec<f32>, Vec<f32>) {
        // A transcoder passes its input on as well.
        let settings = Settings { method, features: 12, k: 3, auxiliary: 0.5, skip: !same, ..Settings::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut draw = move || rng.random_range(-1.0..1.0f32);
        let d_out = if same { 5 } else { 4 };
        let mean: Vec<f32> = (0..d_out).map(|_| 0.1 * draw()).collect();
        let mut p = Params::new(&settings, 5, d_out, same, &mean, &mut draw);
        for (name, param) in p.named() {
            if matches!(name, "b_enc" | "r_mag" | "b_mag" | "w_skip") {
                param.value.iter_mut().for_each(|v| *v += 0.2 * draw());
            }
        }
        let x: Vec<f32> = (0..5 * 9).map(|_| 2.0 * draw()).collect();
        let y = if same { x.clone() } else { (0..d_out * 9).map(|_| 2.0 * draw()).collect() };
        (settings, p, x, y)
    }

    /// Gradients by hand equal central differences of the loss, for every method, parameter and kind of dictionary.
    #[test]
    fn gradients_match_differences() {
        for (method, same) in Method::ALL.into_iter().flat_map(|m| [(m, true), (m, false)]) {
            let (settings, p, x, y) = example(method, same);
            let settings = Settings { auxiliary: 0.0, ..settings };
            let (penalty, dead) = (0.3, vec![false; 12]);
            let g = p.clone().gradients(&settings, penalty, &x, &y, &dead);
            let mut by_hand = vec![("w_enc", g.w_enc), ("b_enc", g.b_enc), ("r_mag", g.r_mag), ("b_mag", g.b_mag)];
            // The gate learns through a decoder that is held still, which differences would move.
            if method != Method::Gated {
                by_hand.extend([("w_dec", g.w_dec), ("b_dec", g.b_dec), ("w_skip", g.w_skip)]);
            }
            // A choice of cells that changes makes the loss jump: there is no slope to compare with.
            let jumps = method == Method::JumpRelu || method.counts();
            let (mut compared, mut all) = (0, 0);
            for (name, hand) in by_hand {
                for (i, hand) in hand.iter().enumerate().step_by(3) {
                    let h = 1e-3f32;
                    let at = |delta: f32| {
                        let mut q = p.clone();
                        for (n, param) in q.named() {
                            if n == name {
                                param.value[i] += delta;
                            }
                        }
                        f64::from(q.gradients(&settings, penalty, &x, &y, &dead).seen.loss)
                    };
                    let (up, down) = (at(h), at(-h));
                    all += 1;
                    if jumps && (up - down).abs() > 0.02 {
                        continue;
                    }
                    compared += 1;
                    let slope = ((up - down) / f64::from(2.0 * h)) as f32;
                    assert!(
                        (slope - hand).abs() < 0.02 * hand.abs().max(0.5),
                        "{method:?} {same} {name}[{i}]: {hand} by hand, {slope} by differences"
                    );
                }
            }
            assert!(10 * compared >= 9 * all, "{method:?}: only {compared} of {all} compared");
        }
    }

    /// Two features that write the same direction, of which the first reconstructs by itself as well.
    #[test]
    fn nested_reconstructions_by_hand() {
        let settings = Settings {
            method: Method::Matryoshka,
            features: 2,
            k: 2,
            nested: vec![1],
            auxiliary: 0.0,
            skip: true,
            ..Settings::default()
        };
        assert_eq!(settings.prefixes(), [1, 2]);
        let mut p = Params::new(&settings, 1, 1, false, &[0.0], &mut || 1.0);
        let g = p.clone().gradients(&settings, 0.0, &[2.0], &[3.5], &[false; 2]);
        // Both are 2, so that the errors are −1.5 and 0.5: loss ½(2.25 + 0.25). The first feature is part of both, with
        // their mean −0.5; the second of the last alone, at half its weight.
        assert_eq!((g.seen.loss, g.seen.mse, g.seen.l0), (1.25, 0.25, 2.0));
        assert_eq!((g.w_dec, g.b_dec), (vec![-2.0, 1.0], vec![-1.0]));
        assert_eq!((g.w_enc, g.b_enc), (vec![-2.0, 1.0], vec![-1.0, 0.5]));
        assert_eq!(g.w_skip, [-2.0]);
        // What is passed on belongs to every reconstruction: −0.5 and 1.5.
        p.w_skip.as_mut().unwrap().value[0] = 0.5;
        let g = p.gradients(&settings, 0.0, &[2.0], &[3.5], &[false; 2]);
        assert_eq!((g.seen.loss, g.w_skip, g.b_dec), (1.25, vec![2.0], vec![1.0]));
        assert_eq!(g.w_dec, [2.0, 3.0]);
        let wrong = Settings { nested: vec![2, 1], ..settings };
        assert!(wrong.check().is_err_and(|e| e.to_string().contains("rising")));
    }

    /// Thresholds rise where the penalty outweighs what their cells are worth, by the formula of the estimators.
    #[test]
    fn thresholds_feel_the_cells_in_their_window() {
        let (settings, mut p, ..) = example(Method::JumpRelu, false);
        p.w_enc.value.fill(0.0);
        p.b_enc.value.fill(-1.0);
        p.b_enc.value[2] = FIRST_THRESHOLD + 0.25 * settings.bandwidth;
        p.b_dec.value.fill(0.0);
        let (x, y) = (vec![0.0; 5], vec![0.0; 4]);
        let g = p.gradients(&settings, 2.0, &x, &y, &[false; 12]);
        // One row, one active cell: e = a·w, |w| = 1, so da = 2a; dlogθ = −θ(θ·2a + λ)/ε.
        let a = FIRST_THRESHOLD + 0.25 * settings.bandwidth;
        let expected = -FIRST_THRESHOLD * (FIRST_THRESHOLD * 2.0 * a + 2.0) / settings.bandwidth;
        assert!((g.log_threshold[2] - expected).abs() < 1e-4, "{} {expected}", g.log_threshold[2]);
        assert_eq!(g.log_threshold[3], 0.0);
        assert_eq!(g.seen.l0, 1.0);
    }

    #[test]
    fn dead_features_learn_from_what_is_left_over() {
        let (settings, mut p, x, y) = example(Method::TopK, true);
        let dead: Vec<bool> = (0..12).map(|f| f >= 6).collect();
        let settings = Settings { k: 1, ..settings };
        let with = p.clone().gradients(&settings, 0.0, &x, &y, &dead);
        let without = p.gradients(&Settings { auxiliary: 0.0, ..settings }, 0.0, &x, &y, &dead);
        let moved = |g: &Gradients| (6..12).filter(|f| g.w_enc[f * 5..(f + 1) * 5].iter().any(|v| *v != 0.0)).count();
        assert!(moved(&with) > moved(&without));
    }

    #[test]
    fn decoder_rows_keep_their_length_and_the_loss_falls() {
        for method in Method::ALL {
            let (settings, mut p, x, y) = example(method, true);
            let dead = vec![false; 12];
            let first = p.clone().gradients(&settings, 0.01, &x, &y, &dead).seen.mse;
            for step in 1..=200 {
                let g = p.gradients(&settings, 0.01, &x, &y, &dead);
                p.update(&g, 0.01, step);
            }
            let last = p.gradients(&settings, 0.01, &x, &y, &dead).seen.mse;
            assert!(last < 0.5 * first, "{method:?}: {first} to {last}");
            assert!(p.w_dec.value.chunks(5).all(|r| (dot(r, r) - 1.0).abs() < 1e-4));
        }
    }
}
