//! Changing how active a feature is while the model runs: its decoder row is added as often as the activation is to
//! grow. What the dictionary does not reconstruct stays as it is.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::engine::dictionaries::FeatureRows;
use crate::engine::edit::{Action, Direction, FeatureChange};
use crate::engine::{Edit, Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::place::Place;
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::progress::Progress;

/// The edits that add what a feature writes `alpha` times, one at each site that it writes. `spec` is the name by which
/// the dictionary was opened.
///
/// # Errors
/// A dictionary that does not fit the model, or a place that cannot be edited.
pub fn steered(
    dictionary: &Dictionary,
    spec: &str,
    feature: usize,
    alpha: f32,
    model: &ModelConfig,
) -> Result<Vec<Edit>> {
    each_site(dictionary, feature, model, || {
        let direction = Direction::Feature { dictionary: spec.to_owned(), feature };
        Action::Add { direction, factor: alpha }
    })
}

/// The edits that change how active a feature is, one at each site that it writes.
///
/// # Errors
/// As [`steered`].
pub fn changed(
    dictionary: &Dictionary,
    spec: &str,
    feature: usize,
    change: FeatureChange,
    model: &ModelConfig,
) -> Result<Vec<Edit>> {
    each_site(dictionary, feature, model, || Action::Feature { dictionary: spec.to_owned(), feature, change })
}

fn each_site(
    dictionary: &Dictionary,
    feature: usize,
    model: &ModelConfig,
    action: impl Fn() -> Action,
) -> Result<Vec<Edit>> {
    let (_, output) = dictionary.check(model)?;
    dictionary.check_feature(feature)?;
    if output.mlp_input || output.site.kind == SiteKind::Pattern {
        return Err(Error::request(format!("{output} cannot be edited; choose a dictionary that writes a site")));
    }
    Ok(dictionary.written_places()?.into_iter().map(|p| Edit::new(p.site, action())).collect())
}

/// A feature's change, ready to be applied to rows.
#[derive(Debug)]
pub struct FeatureEdit {
    dictionary: Arc<Dictionary>,
    feature: usize,
    change: FeatureChange,
    /// Encoder column.
    reader: Vec<f32>,
    /// Decoder row.
    writer: Vec<f32>,
    /// Where it reads, if that is not where it writes.
    elsewhere: Option<Site>,
    /// Weight and bias of the norm whose output it reads (circuit-tracer's `mlp.hook_in`).
    norm: Option<(Vec<f32>, Vec<f32>)>,
}

impl FeatureRows for FeatureEdit {
    fn reads_elsewhere(&self) -> Option<Site> {
        self.elsewhere
    }

    fn writes(&self) -> &[f32] {
        &self.writer
    }

    fn passes_on(&self) -> bool {
        self.dictionary.skip.is_some()
    }

    fn amount(&self, row: &[f32]) -> f32 {
        let scaled;
        let row = match &self.norm {
            Some((w, b)) => {
                scaled = row.iter().zip(w).zip(b).map(|((x, w), b)| x * w + b).collect::<Vec<f32>>();
                &scaled
            }
            None => row,
        };
        let now = self.activation(row);
        let new = match self.change {
            FeatureChange::Set(v) => v,
            FeatureChange::Scale(f) => f * now,
        };
        (new - now) * self.output_scale(row)
    }
}

impl FeatureEdit {
    /// # Errors
    /// A feature that does not exist, or a dictionary that does not write `site` of `model`.
    pub fn new(
        dictionary: Arc<Dictionary>,
        feature: usize,
        change: FeatureChange,
        site: Site,
        model: &Model,
    ) -> Result<Self> {
        let (input, output) = dictionary.check(&model.config)?;
        let writer = dictionary.direction_at(feature, site)?;
        if input.layer() > output.layer() {
            return Err(Error::request(format!("{} reads {input} after it writes {output}", dictionary.name)));
        }
        let norm = if input.mlp_input {
            let ln2 = model.weights.blocks.get(input.layer()).and_then(|b| b.ln2.as_ref());
            match ln2 {
                Some(n) => {
                    let weight = n.weight.to_vec1::<f32>()?;
                    let bias = match &n.bias {
                        Some(b) => b.to_vec1()?,
                        None => vec![0.0; weight.len()],
                    };
                    Some((weight, bias))
                }
                None => None,
            }
        } else {
            None
        };
        let reader = dictionary.reader(feature)?;
        let elsewhere = (input != Place::from(site)).then_some(input.site);
        Ok(Self { dictionary, feature, change, reader, writer, elsewhere, norm })
    }

    /// What one unit of activation contributes of the decoder row: normalisation and rescaling undone.
    fn output_scale(&self, row: &[f32]) -> f32 {
        let d = &self.dictionary;
        let mut scale = 1.0;
        if d.rescale {
            scale /= self.writer.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        }
        if !d.transcoder {
            let n = row.len().max(1) as f32;
            match d.normalisation {
                Normalisation::None | Normalisation::Centre => {}
                Normalisation::Layer => {
                    let mean = row.iter().sum::<f32>() / n;
                    scale *= (row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / (n - 1.0).max(1.0)).sqrt();
                }
                Normalisation::Length => scale *= row.iter().map(|v| v * v).sum::<f32>().sqrt() / n.sqrt(),
            }
        }
        scale
    }

    /// How active the feature is in a row.
    pub fn activation(&self, row: &[f32]) -> f32 {
        let d = &self.dictionary;
        let alone = !d.rescale
            && d.normalisation == Normalisation::None
            && !matches!(d.activation, Activation::TopK { .. } | Activation::Largest { .. });
        if !alone {
            // The others decide as well. A row of the wrong width cannot come here: the sites were checked.
            return Tensor::from_slice(row, (1, row.len()), &Device::Cpu)
                .ok()
                .and_then(|x| d.encode(&x, &Progress::new()).ok())
                .map_or(0.0, |acts| acts.at(0, self.feature as u32));
        }
        let product: f32 = if d.subtract_b_dec {
            row.iter().zip(&d.b_dec).zip(&self.reader).map(|((x, b), w)| (x - b) * w).sum()
        } else {
            row.iter().zip(&self.reader).map(|(x, w)| x * w).sum()
        };
        let pre = product + d.b_enc[self.feature];
        match &d.activation {
            Activation::Relu | Activation::TopK { .. } | Activation::Largest { .. } => pre.max(0.0),
            Activation::JumpRelu { threshold } => {
                if pre > threshold[self.feature] {
                    pre.max(0.0)
                } else {
                    0.0
                }
            }
            Activation::Jump { threshold } => {
                if pre > threshold[self.feature] {
                    pre
                } else {
                    0.0
                }
            }
            Activation::Gated { r_mag, b_mag } => {
                if pre > 0.0 {
                    (product * r_mag[self.feature].exp() + b_mag[self.feature]).max(0.0)
                } else {
                    0.0
                }
            }
        }
    }
}
