//! A dictionary: an encoder that says which features are active in an activation, and a decoder that says which
//! direction each of them writes. Sparse autoencoders read and write the same site, transcoders two different ones.

pub mod cross_layer;
pub mod edit;
pub mod encode;
pub mod formats;
pub mod place;
pub mod set;
pub mod store;
mod tiles;

use std::path::PathBuf;

use candle_core::Tensor;
use serde_json::Value as Json;

use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::cross_layer::Later;
use crate::features::dictionary::place::Place;
use crate::hash::Hash;
use crate::model::Model;
use crate::model::config::ModelConfig;

/// How pre-activations become activations.
#[derive(Clone, Debug, PartialEq)]
pub enum Activation {
    /// max(0, pre) [Bricken et al. 2023].
    Relu,
    /// pre where it exceeds the feature's threshold, and is positive; else 0 [Rajamanoharan et al. 2024b].
    JumpRelu { threshold: Vec<f32> },
    /// pre where it exceeds the feature's threshold, negative ones too, else 0 [circuit-tracer]: another function only where
    /// a threshold lies below 0.
    Jump { threshold: Vec<f32> },
    /// The k largest of a position, of those the positive ones [Gao et al. 2024].
    TopK { k: usize },
    /// The k largest of a position as they are, negative ones too [circuit-tracer].
    Largest { k: usize },
    /// The gate `x·W + b` decides, `max(0, x·W·exp(r_mag) + b_mag)` says how much [Rajamanoharan et al. 2024a].
    Gated { r_mag: Vec<f32>, b_mag: Vec<f32> },
}

/// The architectures by SAELens' names.
pub const ARCHITECTURES: [&str; 4] = ["standard", "jumprelu", "topk", "gated"];

impl Activation {
    /// The architecture's name in SAELens.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relu => "standard",
            Self::JumpRelu { .. } => "jumprelu",
            Self::Jump { .. } => "jump",
            Self::TopK { .. } => "topk",
            Self::Largest { .. } => "largest",
            Self::Gated { .. } => "gated",
        }
    }
}

/// What is done to an activation before it is encoded, and undone after it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Normalisation {
    #[default]
    None,
    /// Mean 0 and (unbiased) standard deviation 1 at each position.
    Layer,
    /// Length √d_in at each position.
    Length,
    /// Mean 0 at each position: what taking the mean out of all that writes to the stream leaves of it (TransformerLens'
    /// `center_writing_weights`).
    Centre,
}

crate::identity!(Dictionary);

/// One dictionary. Matrices as SAELens keeps them.
#[derive(Clone, Debug)]
pub struct Dictionary {
    pub name: String,
    /// The folder or file that it was read from.
    pub path: PathBuf,
    /// The format's name.
    pub format: &'static str,
    pub d_in: usize,
    pub d_sae: usize,
    pub d_out: usize,
    /// [d_in, d_sae].
    pub w_enc: Tensor,
    /// [d_sae]; the gate's bias in gated dictionaries.
    pub b_enc: Vec<f32>,
    /// [d_sae, d_out].
    pub w_dec: Tensor,
    /// A cross-layer transcoder's decoders to the layers that follow `output`'s.
    pub later: Later,
    /// [d_out].
    pub b_dec: Vec<f32>,
    pub activation: Activation,
    /// Whether `b_dec` is subtracted from the input.
    pub subtract_b_dec: bool,
    /// Whether activations are reported times the length of their decoder row (SAELens'
    /// `rescale_acts_by_decoder_norm`); the choice of the k largest is then made after it.
    pub rescale: bool,
    pub normalisation: Normalisation,
    /// What a transcoder adds past its features, [d_in, d_out]; not part of `decode`.
    pub skip: Option<Tensor>,
    /// Whether what it writes is meant to stand in for another place's, not for what it reads.
    pub transcoder: bool,
    /// Where it reads, if the file says.
    pub input: Option<Place>,
    /// Where it writes; the same as `input` for a sparse autoencoder.
    pub output: Option<Place>,
    /// The model it was trained on, by the name that its file gives.
    pub model_name: Option<String>,
    /// Everything else that its configuration says.
    pub config: Json,
    /// What its files say that is not honoured, in sentences.
    pub warnings: Vec<String>,
}

impl Dictionary {
    /// A hash of its weights: the features of another dictionary are others.
    ///
    /// # Errors
    /// As reading the weights.
    pub fn hash(&self) -> Result<u64> {
        let mut hash = Hash::default();
        hash.all([self.d_in, self.d_sae, self.d_out].into_iter().map(|n| n as u64));
        hash.all(self.activation.name().bytes().map(u64::from));
        hash.sample(&self.w_enc)?;
        hash.sample(&self.w_dec)?;
        hash.all(self.b_enc.iter().map(|v| u64::from(v.to_bits())));
        Ok(hash.0)
    }

    /// The same dictionary at places that its file does not name: where it reads, and where a transcoder writes.
    ///
    /// # Errors
    /// A place that contradicts the file, none for what a transcoder writes, or one for what an autoencoder does.
    pub fn placed(mut self, input: Place, output: Option<Place>) -> Result<Self> {
        let path = self.path.display().to_string();
        // Other formats than SAELens' know by a folder's name, if at all, what they are.
        if self.format != formats::saelens::NAME && (self.input, self.output) == (None, None) {
            self.transcoder |= output.is_some_and(|o| o != input);
        }
        for (own, told) in [(self.input, Some(input)), (self.output.filter(|_| self.transcoder), output)] {
            if let (Some(own), Some(told)) = (own, told)
                && own != told
            {
                return Err(Error::request(format!("{path} belongs to {own} by its own words, not to {told}")));
            }
        }
        match output {
            None if self.transcoder && self.output.is_none() => {
                return Err(Error::request(format!(
                    "{path} is a transcoder; name the site that it writes as well, as in blocks.5.hook_mlp_out"
                )));
            }
            Some(other) if !self.transcoder && other != input => {
                return Err(Error::request(format!("{path} is an SAE, which writes where it reads, not to {other}")));
            }
            _ => {}
        }
        self.input = Some(input);
        self.output = if self.transcoder { self.output.or(output) } else { Some(input) };
        Ok(self)
    }

    /// Which of its sites its file leaves open: where it reads, and where a transcoder writes.
    pub fn open_sites(&self) -> (bool, bool) {
        // Files of some formats do not say whether they are transcoders.
        let untold = self.format != formats::saelens::NAME && (self.input, self.output) == (None, None);
        (self.input.is_none(), (self.transcoder || untold) && self.output.is_none())
    }

    /// Whether features of earlier layers write at its site as well, so that its own reconstruction alone says nothing:
    /// a layer of a cross-layer transcoder but the first.
    pub fn shares_its_site(&self) -> bool {
        let kind = self.config.get("model_kind").and_then(Json::as_str);
        let is_cross_layer = !self.later.is_empty() || kind == Some("cross_layer_transcoder");
        is_cross_layer && self.output.is_none_or(|p| p.layer() > 0)
    }

    /// `SAE` or `transcoder`.
    pub fn kind(&self) -> &'static str {
        if self.transcoder { "transcoder" } else { "SAE" }
    }

    /// Whether its text began with the beginning-of-sequence token, as SAELens' `prepend_bos` says, and the model has one.
    pub fn wants_bos(&self, model: &Model) -> bool {
        // Older configurations have no metadata.
        let told = [Some(&self.config), self.config.get("metadata")].into_iter().flatten();
        let wanted = told.filter_map(|c| c.get("prepend_bos")).any(|v| v == &Json::Bool(true));
        wanted && model.tokenizer.as_ref().is_some_and(|t| t.bos_token().is_some())
    }

    /// One line: what it is and where it belongs.
    pub fn describe(&self) -> String {
        let site = |p: Option<Place>| p.map_or("a site that the file does not name".to_owned(), |p| p.to_string());
        let at =
            if self.transcoder { format!("{} → {}", site(self.input), site(self.output)) } else { site(self.input) };
        let later = match (self.later.len(), self.output) {
            (0, _) | (_, None) => String::new(),
            (n, Some(o)) => format!(" and the same site up to layer {}", o.layer() + n),
        };
        format!("{} {} of {} features at {at}{later}", self.activation.name(), self.kind(), self.d_sae)
    }

    /// Where it reads and writes.
    ///
    /// # Errors
    /// If the file does not say.
    pub fn places(&self) -> Result<(Place, Place)> {
        match (self.input, self.output) {
            (Some(a), Some(b)) => Ok((a, b)),
            _ => {
                let (keys, what, option) = match self.input {
                    None => (&["hook_name", "hook_point", "hf_hook_point_in"][..], "belongs to", "--site"),
                    Some(_) => (&["hook_name_out", "hf_hook_point_out"][..], "writes", "--target"),
                };
                let hook = keys.iter().find_map(|k| {
                    let metadata = self.config.get("metadata").unwrap_or(&self.config);
                    metadata.get(k).or_else(|| self.config.get(k)).and_then(Json::as_str)
                });
                let says = match hook {
                    Some(hook) => format!("says that it {what} `{hook}`, which no model here has"),
                    None => format!("does not say which site it {what}"),
                };
                Err(Error::request(format!(
                    "{} {says}; name the site, as in blocks.5.hook_resid_post ({option} on the command line)",
                    self.path.display()
                )))
            }
        }
    }

    /// Checks that the dictionary fits a model.
    ///
    /// # Errors
    /// One sentence with both shapes, or both names of sites.
    pub fn check(&self, model: &ModelConfig) -> Result<(Place, Place)> {
        let (input, output) = self.places()?;
        let input = self.read_place(input, model)?;
        if self.normalisation == Normalisation::Centre && !model.centres() {
            return Err(Error::request(format!(
                "the dictionary {} says that the stream's mean was taken out before it read it (center_writing_weights), which \
                 TransformerLens leaves alone in models like {}, whose norms do not centre; write false there in its cfg.json",
                self.path.display(),
                model.name
            )));
        }
        // An autoencoder writes where it reads.
        let output = if self.transcoder { output } else { input };
        for (place, width, what) in [(input, self.d_in, "reads"), (output, self.d_out, "writes")] {
            place.check(model)?;
            let site = place.width(model);
            if site != width {
                return Err(Error::request(format!(
                    "the dictionary {} {what} vectors [{width}], but {place} of {} holds vectors [{site}]; it was trained on {}",
                    self.path.display(),
                    model.name,
                    self.model_name.as_deref().unwrap_or("another model or site"),
                )));
            }
        }
        let layers = output.layer() + 1 + self.later.len();
        if layers > model.n_layers {
            return Err(Error::request(format!(
                "the dictionary {} writes to {layers} layers, but {} has {}",
                self.path.display(),
                model.name,
                model.n_layers
            )));
        }
        Ok((input, output))
    }

    /// Where it reads in a model: some names mean another place in some families.
    ///
    /// # Errors
    /// A place that is no site here.
    fn read_place(&self, input: Place, model: &ModelConfig) -> Result<Place> {
        let layer = input.layer();
        // TransformerLens has LayerNorm's weight and bias inside `hook_normalized`, unless they were folded into what
        // reads it; RMSNorm's weight stands behind it.
        let whole = self.format == formats::circuit_tracer::NAME
            || self.format == formats::saelens::NAME && formats::saelens::has_whole_norms(&self.config);
        if whole && model.centres() && !input.mlp_input {
            match input.site.kind {
                SiteKind::Ln2Normalized => return Ok(Place::mlp_input(layer)),
                SiteKind::Ln1Normalized => {
                    return Err(Error::request(format!(
                        "the dictionary {} reads {input} with LayerNorm's weight and bias, which is no site of {}; use one that \
                         was trained with `fold_ln`, or at another site",
                        self.path.display(),
                        model.name
                    )));
                }
                _ => {}
            }
        }
        // No norm stands before the MLP.
        if input.mlp_input && !input.site.kind.exists(model) && SiteKind::ResidMid.exists(model) {
            return Ok(Site::new(SiteKind::ResidMid, layer).into());
        }
        Ok(input)
    }

    /// Every place that it writes: its own, then those of later layers.
    ///
    /// # Errors
    /// If the file does not say where it writes.
    pub fn written_places(&self) -> Result<Vec<Place>> {
        let (_, own) = self.places()?;
        let at = |k: usize| Place { site: Site { layer: own.layer() + k, ..own.site }, ..own };
        Ok((0..=self.later.len()).map(at).collect())
    }

    /// Checks the shapes of all parts against each other and for values that are no numbers.
    ///
    /// # Errors
    /// One sentence naming the part.
    pub fn validated(self) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: self.path.clone(), format: self.format, what };
        let shapes = [
            ("W_enc", self.w_enc.dims().to_vec(), vec![self.d_in, self.d_sae]),
            ("W_dec", self.w_dec.dims().to_vec(), vec![self.d_sae, self.d_out]),
            ("b_enc", vec![self.b_enc.len()], vec![self.d_sae]),
            ("b_dec", vec![self.b_dec.len()], vec![self.d_out]),
        ];
        let more = match &self.activation {
            Activation::JumpRelu { threshold } | Activation::Jump { threshold } => vec![("threshold", threshold.len())],
            Activation::Gated { r_mag, b_mag } => vec![("r_mag", r_mag.len()), ("b_mag", b_mag.len())],
            Activation::Relu | Activation::TopK { .. } | Activation::Largest { .. } => Vec::new(),
        };
        let more = more.into_iter().map(|(n, len)| (n, vec![len], vec![self.d_sae]));
        for (name, found, expected) in shapes.into_iter().chain(more) {
            if found != expected {
                return Err(malformed(format!("{name} has shape {found:?} where {expected:?} belongs")));
            }
        }
        self.later.check([self.d_sae, self.d_out])?;
        if self.d_in == 0 || self.d_sae == 0 || self.d_out == 0 {
            return Err(malformed("it has an axis of length 0".to_owned()));
        }
        if let Activation::TopK { k } | Activation::Largest { k } = self.activation
            && (k == 0 || k > self.d_sae)
        {
            return Err(malformed(format!("it keeps the {k} largest of {} features", self.d_sae)));
        }
        if self.subtract_b_dec && self.d_in != self.d_out {
            return Err(malformed(format!("b_dec [{}] cannot be subtracted from inputs [{}]", self.d_out, self.d_in)));
        }
        let vectors: Vec<(&str, &[f32])> = match &self.activation {
            Activation::JumpRelu { threshold } | Activation::Jump { threshold } => vec![("threshold", threshold)],
            Activation::Gated { r_mag, b_mag } => vec![("r_mag", r_mag), ("b_mag", b_mag)],
            Activation::Relu | Activation::TopK { .. } | Activation::Largest { .. } => Vec::new(),
        };
        for (name, values) in vectors.into_iter().chain([("b_enc", &self.b_enc[..]), ("b_dec", &self.b_dec[..])]) {
            if values.iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite { path: Some(self.path.clone()), name: name.to_owned() });
            }
        }
        let skip = self.skip.iter().map(|s| ("W_skip", s));
        for (name, t) in [("W_enc", &self.w_enc), ("W_dec", &self.w_dec)].into_iter().chain(skip) {
            if !crate::engine::kernels::with_values(t, |v| v.iter().map(|x| x * 0.0).sum::<f32>() == 0.0)? {
                return Err(Error::NotFinite { path: Some(self.path.clone()), name: name.to_owned() });
            }
        }
        Ok(self)
    }

    /// A feature's decoder row: the direction it writes, [d_out].
    pub fn direction(&self, feature: usize) -> Result<Vec<f32>> {
        self.check_feature(feature)?;
        Ok(self.w_dec.get(feature)?.to_vec1()?)
    }

    /// What a feature writes at a site, [d_out].
    ///
    /// # Errors
    /// A site that the dictionary does not write, or a feature that it does not have.
    pub fn direction_at(&self, feature: usize, site: Site) -> Result<Vec<f32>> {
        self.check_feature(feature)?;
        let places = self.written_places()?;
        let Some(at) = places.iter().position(|p| p.site == site && !p.mlp_input) else {
            let list = places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::request(format!(
                "feature {feature} of {} writes {list}, not {site}; edit it there",
                self.name
            )));
        };
        if at == 0 { self.direction(feature) } else { Ok(self.later.of(feature)?.swap_remove(at - 1)) }
    }

    /// All that a feature writes, summed over its layers, [d_out]: what it leaves in the residual stream.
    ///
    /// # Errors
    /// A feature that does not exist.
    pub fn summed_direction(&self, feature: usize) -> Result<Vec<f32>> {
        let mut sum = self.direction(feature)?;
        for more in self.later.of(feature)? {
            sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        }
        Ok(sum)
    }

    /// A feature's encoder column: the direction it reads, [d_in].
    pub fn reader(&self, feature: usize) -> Result<Vec<f32>> {
        self.check_feature(feature)?;
        Ok(self.w_enc.narrow(1, feature, 1)?.flatten_all()?.to_vec1()?)
    }

    pub fn check_feature(&self, feature: usize) -> Result<()> {
        if feature < self.d_sae {
            return Ok(());
        }
        Err(Error::request(format!(
            "there is no feature {feature} in {}; its features go from 0 to {}",
            self.name,
            self.d_sae - 1
        )))
    }

    /// Lengths of all decoder rows, [d_sae].
    pub fn decoder_norms(&self) -> Result<Vec<f32>> {
        Ok(self.w_dec.sqr()?.sum(1)?.sqrt()?.to_vec1()?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn dictionary(transcoder: bool, input: Option<Place>, output: Option<Place>) -> Dictionary {
        let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        Dictionary {
            name: "d".to_owned(),
            path: "d".into(),
            format: "SAELens",
            d_in: 2,
            d_sae: 3,
            d_out: 2,
            w_enc: zeros((2, 3)),
            b_enc: vec![0.0; 3],
            w_dec: zeros((3, 2)),
            later: Later::default(),
            b_dec: vec![0.0; 2],
            activation: Activation::Relu,
            subtract_b_dec: false,
            rescale: false,
            normalisation: Normalisation::None,
            skip: None,
            transcoder,
            input,
            output,
            model_name: None,
            config: Json::Null,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn places_are_given_where_the_file_is_silent() {
        let (a, b) = (Place::parse("blocks.1.mlp.hook_in").unwrap(), Place::parse("blocks.1.hook_mlp_out").unwrap());
        let sae = dictionary(false, None, None).placed(a, None).unwrap();
        assert_eq!(sae.places().unwrap(), (a, a));
        assert!(dictionary(false, None, None).placed(a, Some(b)).unwrap_err().to_string().contains("is an SAE"));
        assert!(dictionary(false, Some(b), Some(b)).placed(a, None).unwrap_err().to_string().contains("own words"));
        assert!(dictionary(true, None, None).placed(a, None).unwrap_err().to_string().contains("name the site"));
        let transcoder = dictionary(true, Some(a), None);
        assert!(transcoder.places().unwrap_err().to_string().contains("--target"));
        assert_eq!(transcoder.kind(), "transcoder");
        assert_eq!(transcoder.placed(a, Some(b)).unwrap().places().unwrap(), (a, b));
    }
}
