//! Measures how a model's own directions lie in its residual stream: embedding rows, unembedding columns, output
//! vectors of neurons, decoder rows of a dictionary.
//!
//! A model has more features than dimensions, so its directions cannot all be orthogonal. The measures are those of the
//! toy models of superposition [Elhage et al. 2022]: the norm of each direction, how much the others interfere with it,
//! and the share of a dimension that it has for itself (see [`super::interference`]).

use candle_core::{Device, Tensor};

use super::interference::{Interference, measured, norms};
use crate::error::{Error, Result};
use crate::memory::afford;
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};
use std::sync::Arc;

/// The set of directions that is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Directions {
    /// The rows of W_E, one for each token.
    #[default]
    Embedding,
    /// The columns of W_U, one for each token.
    Unembedding,
    /// The rows of a layer's W_out, one for each neuron.
    Neurons(usize),
    /// The decoder rows of a dictionary, one for each feature. The number tells one dictionary from another.
    Decoder(usize),
}

impl Directions {
    pub fn label(self) -> String {
        match self {
            Self::Embedding => "token embeddings".to_owned(),
            Self::Unembedding => "unembedding directions".to_owned(),
            Self::Neurons(l) => format!("output vectors of layer {l}'s neurons"),
            Self::Decoder(_) => "decoder rows of the dictionary".to_owned(),
        }
    }
}

/// Number of bins of the histogram of cosines, over [−1, 1].
pub const BINS: usize = 80;
/// The most directions whose pairs are counted in the histogram. Of more, evenly spaced ones are taken.
const SAMPLED: usize = 1024;
/// Number of rows in one matrix product.
const PART: usize = 4096;

#[derive(Clone, Debug)]
pub struct FeatureGeometry {
    pub directions: Directions,
    pub count: usize,
    /// d_model
    pub hidden: usize,
    /// Measures of every direction against all the others.
    pub interference: Interference,
    /// Number of pairs in each of the [`BINS`] bins.
    pub histogram: Vec<u64>,
    /// Number of pairs in the histogram.
    pub pairs: usize,
    /// Root mean square of the cosines; random directions have 1/√d_model.
    pub rms_cosine: f32,
    /// The directions that were asked for. `cosines` are theirs, [chosen][chosen].
    pub chosen: Vec<usize>,
    pub cosines: Vec<f32>,
}

/// Returns the directions as rows, [count, hidden].
fn rows_of(model: &Model, directions: Directions, decoder: Option<&Tensor>) -> Result<Tensor> {
    let none = |what: String| Error::request(what);
    // Weights are decoded to f32, turned, and compared in parts.
    let (width, c) = (model.config.d_model, &model.config);
    let count = match directions {
        Directions::Embedding | Directions::Unembedding => c.d_vocab,
        Directions::Decoder(_) => 0,
        Directions::Neurons(_) => c.d_mlp,
    };
    afford(
        8 * count * width,
        &format!("comparing {count} directions of {width} numbers"),
        "look at the neurons of a layer, or close other programs",
    )?;
    let t = match directions {
        // A tied model keeps one matrix for both.
        Directions::Embedding => match &model.weights.embed {
            Some(embed) => embed.tensor()?,
            None => model.weights.unembed.tensor()?.t()?,
        },
        Directions::Unembedding => model.weights.unembed.tensor()?.t()?,
        Directions::Decoder(_) => {
            decoder.ok_or_else(|| none("no dictionary is open; open one first".to_owned()))?.clone()
        }
        Directions::Neurons(layer) => {
            let block = model.weights.blocks.get(layer);
            let mlp = block.and_then(|b| b.mlp.as_ref());
            mlp.ok_or_else(|| none(format!("layer {layer} of this model has no MLP")))?.output.weight.tensor()?
        }
    };
    Ok(t.contiguous()?)
}

/// Divides each row by its norm. A row of zeros stays zero.
fn unit(rows: &Tensor) -> Result<Tensor> {
    let norm = rows.sqr()?.sum_keepdim(1)?.sqrt()?;
    Ok(rows.broadcast_div(&norm.maximum(1e-20f32)?)?)
}

fn pick(rows: &Tensor, list: &[usize]) -> Result<Tensor> {
    let ids: Vec<u32> = list.iter().map(|i| *i as u32).collect();
    Ok(rows.index_select(&Tensor::from_vec(ids, list.len(), &Device::Cpu)?, 0)?)
}

/// Measures all directions, and the cosines between the `chosen` ones. `decoder`, [feature, d_model], belongs to the
/// dictionary of [`Directions::Decoder`].
///
/// # Errors
/// The model has no such directions; [`Error::Cancelled`].
pub fn feature_geometry(
    model: &Model,
    directions: Directions,
    decoder: Option<&Tensor>,
    chosen: &[usize],
    progress: &Progress,
) -> Result<FeatureGeometry> {
    let rows = rows_of(model, directions, decoder)?;
    let (count, hidden) = rows.dims2()?;
    progress.expect(2 * count.div_ceil(PART) as u64 + 2);
    let mut norm = Vec::with_capacity(count);
    let mut moment = vec![0f64; hidden * hidden];
    let parts: Vec<(usize, usize)> = (0..count).step_by(PART).map(|a| (a, PART.min(count - a))).collect();
    for (start, len) in &parts {
        let part = rows.narrow(0, *start, *len)?;
        norm.extend(norms(&part.flatten_all()?.to_vec1::<f32>()?, hidden));
        let square = part.t()?.contiguous()?.matmul(&part)?.flatten_all()?.to_vec1::<f32>()?;
        moment.iter_mut().zip(&square).for_each(|(m, s)| *m += f64::from(*s));
        progress.step(1)?;
    }
    // Ŵ_iᵀ C Ŵ_i for each row i. For wide models it is computed as a product of matrices.
    let moments: Vec<f32> = moment.iter().map(|m| *m as f32).collect();
    let matrix = Tensor::from_vec(moments, (hidden, hidden), &Device::Cpu)?;
    let mut interference = Interference { norm: Vec::new(), superposition: Vec::new(), dimensionality: Vec::new() };
    for (start, len) in &parts {
        let part = rows.narrow(0, *start, *len)?;
        let own = &norm[*start..*start + *len];
        if hidden <= 64 {
            let some = measured(&part.flatten_all()?.to_vec1::<f32>()?, own.to_vec(), &moment);
            interference.superposition.extend(some.superposition);
            interference.dimensionality.extend(some.dimensionality);
        } else {
            let all = (part.matmul(&matrix)? * &part)?.sum(1)?.to_vec1::<f32>()?;
            for (a, n) in all.iter().zip(own) {
                let own = n * n;
                let all = if own > 0.0 { a / own } else { 0.0 };
                interference.superposition.push((all - own).max(0.0));
                interference.dimensionality.push(if own > 0.0 { own / all.max(own) } else { 0.0 });
            }
        }
        progress.step(1)?;
    }
    interference.norm = norm;
    let every = count.div_ceil(SAMPLED).max(1);
    let sample: Vec<usize> = (0..count).step_by(every).collect();
    let some = unit(&pick(&rows, &sample)?)?;
    let cosines = some.matmul(&some.t()?)?.flatten_all()?.to_vec1::<f32>()?;
    let (mut histogram, mut pairs, mut square) = (vec![0u64; BINS], 0usize, 0f64);
    for i in 0..sample.len() {
        for c in &cosines[i * sample.len()..i * sample.len() + i] {
            let bin = ((c.clamp(-1.0, 1.0) + 1.0) / 2.0 * BINS as f32) as usize;
            histogram[bin.min(BINS - 1)] += 1;
            square += f64::from(*c) * f64::from(*c);
            pairs += 1;
        }
    }
    progress.step(1)?;
    progress.step(1)?;
    let rms_cosine = (square / pairs.max(1) as f64).sqrt() as f32;
    let all = FeatureGeometry {
        directions,
        count,
        hidden,
        interference,
        histogram,
        pairs,
        rms_cosine,
        chosen: Vec::new(),
        cosines: Vec::new(),
    };
    all.choose(model, decoder, chosen)
}

impl FeatureGeometry {
    /// Returns the same measures with the cosines of other chosen directions.
    ///
    /// # Errors
    /// The model is another one, without such directions.
    pub fn choose(&self, model: &Model, decoder: Option<&Tensor>, chosen: &[usize]) -> Result<Self> {
        let chosen: Vec<usize> = chosen.iter().copied().filter(|i| *i < self.count).collect();
        let cosines = if chosen.is_empty() {
            Vec::new()
        } else {
            let few = match self.directions {
                // The matrix is large, so that only the chosen columns are copied.
                Directions::Unembedding => {
                    let ids: Vec<u32> = chosen.iter().map(|i| *i as u32).collect();
                    model.weights.unembed.outputs(&ids)?
                }
                _ => pick(&rows_of(model, self.directions, decoder)?, &chosen)?,
            };
            let u = unit(&few)?;
            u.matmul(&u.t()?)?.flatten_all()?.to_vec1::<f32>()?
        };
        Ok(Self { chosen, cosines, ..self.clone() })
    }
}

/// Asks for the geometry of some directions.
#[derive(Clone)]
pub struct GeometryOf {
    pub model: Arc<Model>,
    pub directions: Directions,
    /// Those whose cosines are wanted one by one.
    pub chosen: Vec<usize>,
    /// The measures of these directions, if they are known: they do not depend on what is chosen.
    pub known: Option<Arc<FeatureGeometry>>,
    /// The decoder, [feature, d_model], that [`Directions::Decoder`] means.
    pub decoder: Option<Tensor>,
}

impl GeometryOf {
    /// True if both are about the same directions, whichever of them are chosen.
    pub fn is_like(&self, other: &Self) -> bool {
        let decoder = |q: &Self| q.decoder.as_ref().map(Tensor::id);
        self.model == other.model && self.directions == other.directions && decoder(self) == decoder(other)
    }
}

impl PartialEq for GeometryOf {
    /// What is known makes the answer cheaper, not another one.
    fn eq(&self, other: &Self) -> bool {
        self.is_like(other) && self.chosen == other.chosen
    }
}

impl Question for GeometryOf {
    type Answer = FeatureGeometry;
    const LABEL: &'static str = "feature geometry";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let (model, decoder) = (&self.model, self.decoder.as_ref());
        match &self.known {
            Some(known) => known.choose(model, decoder, &self.chosen),
            None => feature_geometry(model, self.directions, decoder, &self.chosen, progress),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::interference::interference;

    #[test]
    fn a_models_embedding_is_measured_as_a_toys_is() {
        let model = Model::open("induction").unwrap();
        let g = feature_geometry(&model, Directions::Embedding, None, &[3, 5, 3], &Progress::new()).unwrap();
        let again = g.choose(&model, None, &[5, 3, 1 << 40]).unwrap();
        assert_eq!((again.chosen.len(), again.cosines[1]), (2, g.cosines[1]));
        assert_eq!((g.count, g.hidden), (2048, 128));
        let rows =
            model.weights.embed.as_ref().unwrap().tensor().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let direct = interference(&rows, 128);
        for i in [0, 7, 2047] {
            let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-3 * b.abs().max(1e-3), "{a} against {b}");
            close(g.interference.norm[i], direct.norm[i]);
            close(g.interference.dimensionality[i], direct.dimensionality[i]);
        }
        // Dimensions add up to at most the model's.
        let sum: f32 = g.interference.dimensionality.iter().sum();
        assert!(sum <= 128.0 + 0.1, "{sum}");
        assert!((g.cosines[0] - 1.0).abs() < 1e-5 && (g.cosines[2] - 1.0).abs() < 1e-5 && g.cosines[1].abs() < 0.9);
        assert_eq!(g.histogram.iter().sum::<u64>() as usize, g.pairs);
        assert!(feature_geometry(&model, Directions::Neurons(0), None, &[], &Progress::new()).is_err());
    }
}
