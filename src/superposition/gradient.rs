//! The loss of a toy model and its gradient, derived by hand.
//!
//! Let h = act(W x), pre = D h + b, r = act(pre) − t, and L the mean over samples of Σ_i I_i r_i². Then
//!
//! - ∂L/∂pre_i = 2 I_i r_i act′(pre_i), written g_i below;
//! - ∂L/∂b = g, ∂L/∂D = g hᵀ and ∂L/∂h = Dᵀ g;
//! - ∂L/∂W = (∂L/∂h · act′) xᵀ.
//!
//! Where weights are tied, D = Wᵀ, and its gradient is the sum of both. Tests compare this with automatic
//! differentiation.

use super::inputs::{LANES, Lanes};
use super::setup::{Setup, Task};

/// The parameters of one instance, one after the other: W, [feature][hidden]; V, [feature][hidden], unless weights are
/// tied; b, [feature].
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    pub values: Vec<f32>,
    pub features: usize,
    pub hidden: usize,
    pub tied: bool,
}

impl Parameters {
    pub fn zeros(setup: &Setup) -> Self {
        let values = vec![0.0; setup.parameters()];
        Self { values, features: setup.features, hidden: setup.hidden, tied: setup.tied }
    }

    fn block(&self) -> usize {
        self.features * self.hidden
    }

    /// Returns W, [feature][hidden]. Feature i writes row i into the hidden layer.
    pub fn encoder(&self) -> &[f32] {
        &self.values[..self.block()]
    }

    /// Returns the output weights, [feature][hidden]. Output i reads the hidden layer through row i.
    pub fn decoder(&self) -> &[f32] {
        let start = if self.tied { 0 } else { self.block() };
        &self.values[start..start + self.block()]
    }

    /// Returns b, [feature].
    pub fn bias(&self) -> &[f32] {
        &self.values[self.values.len() - self.features..]
    }

    /// Runs the model on one input, [feature]. Returns the hidden layer, [hidden], and the output, [feature].
    pub fn forward(&self, setup: &Setup, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let m = self.hidden;
        let relu = |on: bool, v: f32| if on { v.max(0.0) } else { v };
        let hidden: Vec<f32> = (0..m)
            .map(|j| {
                let sum = x.iter().zip(self.encoder().chunks(m)).map(|(x, w)| x * w[j]).sum();
                relu(setup.hidden_relu, sum)
            })
            .collect();
        let output = self
            .decoder()
            .chunks(m)
            .zip(self.bias())
            .map(|(d, b)| relu(setup.output_relu, b + d.iter().zip(&hidden).map(|(d, h)| d * h).sum::<f32>()))
            .collect();
        (hidden, output)
    }
}

/// Eight partial sums, which are added up at the end of a batch.
type Sums = [f32; 8];

/// The memory in which a batch is worked on: intermediate values, and sums over samples.
pub struct Workspace {
    h: Vec<Lanes>,
    dh: Vec<Lanes>,
    active: Vec<usize>,
    d_encoder: Vec<Sums>,
    /// Empty where weights are tied.
    d_decoder: Vec<Sums>,
    d_bias: Vec<Sums>,
    errors: Vec<Sums>,
    samples: usize,
}

#[inline(always)]
fn add_product(sums: &mut Sums, a: &Lanes, b: &Lanes) {
    let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    for (a, b) in a.iter().zip(b) {
        for k in 0..8 {
            sums[k] = a[k].mul_add(b[k], sums[k]);
        }
    }
}

#[inline(always)]
fn add_scaled(sums: &mut Lanes, w: f32, x: &Lanes) {
    for l in 0..LANES {
        sums[l] = w.mul_add(x[l], sums[l]);
    }
}

#[inline(always)]
fn any(x: &Lanes) -> bool {
    // The shift removes the sign bits, because −0 is zero too.
    x.iter().fold(0, |all, v| all | (v.to_bits() << 1)) != 0
}

impl Workspace {
    pub fn new(setup: &Setup) -> Self {
        let (n, m) = (setup.features, setup.hidden);
        Self {
            h: vec![[0.0; LANES]; m],
            dh: vec![[0.0; LANES]; m],
            active: Vec::with_capacity(n),
            d_encoder: vec![[0.0; 8]; n * m],
            d_decoder: vec![[0.0; 8]; if setup.tied { 0 } else { n * m }],
            d_bias: vec![[0.0; 8]; n],
            errors: vec![[0.0; 8]; n],
            samples: 0,
        }
    }

    /// Sets all sums to zero.
    pub fn clear(&mut self) {
        for sums in [&mut self.d_encoder, &mut self.d_decoder, &mut self.d_bias, &mut self.errors] {
            sums.fill([0.0; 8]);
        }
        self.samples = 0;
    }

    /// Adds the sums of `other`, which worked on another part of the batch.
    pub fn join(&mut self, other: &Self) {
        let pairs = [
            (&mut self.d_encoder, &other.d_encoder),
            (&mut self.d_decoder, &other.d_decoder),
            (&mut self.d_bias, &other.d_bias),
            (&mut self.errors, &other.errors),
        ];
        for (mine, theirs) in pairs {
            for (a, b) in mine.iter_mut().zip(theirs) {
                for k in 0..8 {
                    a[k] += b[k];
                }
            }
        }
        self.samples += other.samples;
    }

    /// Adds a chunk of inputs, `x` [feature][sample], of which the first `count` samples exist. Without `backward` only
    /// errors are summed.
    #[inline(always)]
    pub fn add(
        &mut self,
        setup: &Setup,
        p: &Parameters,
        importance: &[f32],
        x: &[Lanes],
        count: usize,
        backward: bool,
    ) {
        let (n, m) = (p.features, p.hidden);
        let (encoder, decoder, bias) = (p.encoder(), p.decoder(), p.bias());
        self.samples += count;
        self.active.clear();
        self.active.extend((0..n).filter(|i| any(&x[*i])));
        for (j, out) in self.h.iter_mut().enumerate() {
            let mut h = [0.0; LANES];
            for &i in &self.active {
                add_scaled(&mut h, encoder[i * m + j], &x[i]);
            }
            if setup.hidden_relu {
                h = h.map(|v| if v > 0.0 { v } else { 0.0 });
            }
            *out = h;
        }
        self.dh.fill([0.0; LANES]);
        for i in 0..n {
            let row = &decoder[i * m..(i + 1) * m];
            let mut y = [bias[i]; LANES];
            for (w, h) in row.iter().zip(&self.h) {
                add_scaled(&mut y, *w, h);
            }
            let mut g = [0.0; LANES];
            let mut error = [0.0; LANES];
            for l in 0..LANES {
                let t = if setup.task == Task::Absolute { x[i][l].abs() } else { x[i][l] };
                let open = !setup.output_relu || y[l] > 0.0;
                let r = if open { y[l] - t } else { -t };
                // Samples that do not exist have no error.
                let r = if l < count { r } else { 0.0 };
                error[l] = r;
                g[l] = if open { 2.0 * importance[i] * r } else { 0.0 };
            }
            add_product(&mut self.errors[i], &error, &error);
            if !backward || !any(&g) {
                continue;
            }
            for (k, v) in g.iter().enumerate() {
                self.d_bias[i][k % 8] += v;
            }
            let sums = if setup.tied { &mut self.d_encoder } else { &mut self.d_decoder };
            for j in 0..m {
                add_scaled(&mut self.dh[j], row[j], &g);
                add_product(&mut sums[i * m + j], &g, &self.h[j]);
            }
        }
        if !backward {
            return;
        }
        if setup.hidden_relu {
            for (dh, h) in self.dh.iter_mut().zip(&self.h) {
                for l in 0..LANES {
                    dh[l] = if h[l] > 0.0 { dh[l] } else { 0.0 };
                }
            }
        }
        for &i in &self.active {
            for (sums, dh) in self.d_encoder[i * m..(i + 1) * m].iter_mut().zip(&self.dh) {
                add_product(sums, dh, &x[i]);
            }
        }
    }

    /// Writes the gradient over the batch so far to `out`, in the order of [`Parameters::values`].
    pub fn gradient(&self, out: &mut [f32]) {
        let scale = 1.0 / self.samples.max(1) as f32;
        let all = self.d_encoder.iter().chain(&self.d_decoder).chain(&self.d_bias);
        for (o, sums) in out.iter_mut().zip(all) {
            *o = scale * sums.iter().sum::<f32>();
        }
    }

    /// Returns the mean of I_i r_i² of each feature, [feature].
    pub fn losses(&self, importance: &[f32]) -> Vec<f32> {
        let scale = 1.0 / self.samples.max(1) as f32;
        self.errors.iter().zip(importance).map(|(e, i)| scale * i * e.iter().sum::<f32>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superposition::inputs::{Random, Source};
    use candle_core::{Device, Tensor, Var};

    /// Computes loss and gradient with candle's operations.
    fn autograd(setup: &Setup, p: &Parameters, importance: &[f32], rows: &[Vec<f32>]) -> (f32, Vec<f32>) {
        let (n, m, cpu) = (p.features, p.hidden, &Device::Cpu);
        let var =
            |v: &[f32], shape: &[usize]| Var::from_tensor(&Tensor::from_vec(v.to_vec(), shape, cpu).unwrap()).unwrap();
        let w = var(p.encoder(), &[n, m]);
        let v = var(p.decoder(), &[n, m]);
        let b = var(p.bias(), &[n]);
        let x = Tensor::from_vec(rows.concat(), (rows.len(), n), cpu).unwrap();
        let mut h = x.matmul(w.as_tensor()).unwrap();
        if setup.hidden_relu {
            h = h.relu().unwrap();
        }
        let d = if setup.tied { &w } else { &v };
        let mut y = h.matmul(&d.as_tensor().t().unwrap()).unwrap().broadcast_add(b.as_tensor()).unwrap();
        if setup.output_relu {
            y = y.relu().unwrap();
        }
        let t = if setup.task == Task::Absolute { x.abs().unwrap() } else { x };
        let i = Tensor::from_vec(importance.to_vec(), n, cpu).unwrap();
        let squares = (y - t).unwrap().sqr().unwrap().broadcast_mul(&i).unwrap();
        let loss = (squares.sum_all().unwrap() / rows.len() as f64).unwrap();
        let store = loss.backward().unwrap();
        let grad = |v: &Var| store.get(v.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut all = grad(&w);
        if !setup.tied {
            all.extend(grad(&v));
        }
        all.extend(grad(&b));
        (loss.to_scalar().unwrap(), all)
    }

    #[test]
    fn the_hand_derived_gradient_is_automatic_differentiations() {
        for variant in 0..16 {
            let mut setup = Setup::sweep(7, 3, &[0.4], 0.8, 0);
            (setup.tied, setup.output_relu) = (variant & 1 == 0, variant & 2 == 0);
            setup.hidden_relu = variant & 4 != 0;
            setup.task = if variant & 8 == 0 { Task::Reconstruct } else { Task::Absolute };
            let mut random = Random::new(variant, 9);
            let mut p = Parameters::zeros(&setup);
            p.values.iter_mut().for_each(|v| *v = 0.5 * random.normal()[0]);
            let source = Source::new(&setup, &setup.instances[0]);
            let mut work = Workspace::new(&setup);
            let mut rows = Vec::new();
            let importance = &setup.instances[0].importance;
            // The last chunk is not full.
            for count in [LANES, LANES, 5] {
                let mut x = vec![[0.0; LANES]; 7];
                source.draw(&mut random, &mut x);
                work.add(&setup, &p, importance, &x, count, true);
                rows.extend((0..count).map(|l| x.iter().map(|f| f[l]).collect::<Vec<f32>>()));
            }
            let mut gradient = vec![0.0; setup.parameters()];
            work.gradient(&mut gradient);
            let (loss, expected) = autograd(&setup, &p, importance, &rows);
            let own: f32 = work.losses(importance).iter().sum();
            assert!((own - loss).abs() < 1e-4 * loss, "variant {variant}: loss {own} against {loss}");
            for (a, b) in gradient.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4 * b.abs().max(0.1), "variant {variant}: {a} against {b}");
            }
            let (_, y) = p.forward(&setup, &rows[3]);
            assert!(y.len() == 7 && y.iter().all(|v| v.is_finite()));
        }
    }
}
