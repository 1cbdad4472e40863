//! The Jacobian lens [Gurnee et al. 2026]: the average effect of the stream after a layer on the stream after the last one,
//! as one matrix a layer.
//!
//! The logit lens reads a middle layer as if the later ones did nothing. But they do much, and the same on most texts: they
//! move what was thought early to where it can be said. To first order that is the Jacobian, averaged over texts:
//!
//! ```text
//! J[l] = mean over prompts of 1/|V| Σ_{t ∈ V} Σ_{t' ∈ V, t' ≥ t} ∂h_final[t'] / ∂h[l][t]        [d_model out, d_model in]
//! ```
//!
//! h[l] is the output of block l, h_final that of the last block before the final norm, V the positions but the first `skip`
//! and the last. A layer is read by unembed(ln_final(J[l] h[l])); token t's direction there is J[l]ᵀ W_U[:, t].
//!
//! Files: torch's `.pt` of a dictionary {J: {layer: [d, d] float16}, n_prompts, source_layers, d_model, metadata}, and
//! safetensors of tensors `J.<layer>`, with the same beside them in the header.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::analysis::transport::{Affine, Transport};
use crate::engine::kernels::to_vec;
use crate::error::{Error, Result, short};
use crate::files::write_atomic;
use crate::model::Model;
use crate::model::safetensors_file;
use crate::model::store::Store;
use crate::model::torch_file::{self, TorchFile, Value, Written};
use crate::progress::Progress;

pub(super) const FORMAT: &str = "Jacobian lens";
/// The entry of a safetensors header that says what the lens is of.
const METADATA: &str = "circuitscope";

/// What a lens was fitted on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The model's name, where the file says it.
    pub model: Option<String>,
    /// A hash of its weights, in hexadecimal, where this program fitted the lens.
    pub fingerprint: Option<String>,
    pub n_prompts: usize,
    /// Positions at each prompt's start that were left out.
    pub skip: Option<usize>,
    /// Tokens of a prompt at most.
    pub tokens: Option<usize>,
    pub texts: Vec<String>,
    /// By layer, how alike the lenses of two halves of the prompts are: their cosine.
    pub agreement: BTreeMap<usize, f32>,
    /// The layer that it leads to, where the file says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<usize>,
}

/// A fitted lens.
#[derive(Debug)]
pub struct JacobianLens {
    pub about: About,
    /// J by layer, [d_model out, d_model in].
    pub layers: BTreeMap<usize, Tensor>,
    pub d_model: usize,
    pub path: Option<PathBuf>,
}

impl JacobianLens {
    /// Opens a lens of either format.
    ///
    /// # Errors
    /// A file that is none, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let lens = if is_torch(path) { Self::from_torch(path)? } else { Self::from_safetensors(path)? };
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
        if lens.layers.is_empty() {
            return Err(malformed("it holds no layer".to_owned()));
        }
        if let (Some(target), Some(last)) = (lens.about.target, lens.layers.keys().max())
            && target < *last
        {
            return Err(malformed(format!("it leads to layer {target}, and holds a matrix of layer {last} behind it")));
        }
        for (layer, j) in &lens.layers {
            if j.dims() != [lens.d_model, lens.d_model] {
                return Err(malformed(format!(
                    "layer {layer} has shape {:?} where [{d}, {d}] belongs",
                    j.dims(),
                    d = lens.d_model
                )));
            }
        }
        Ok(lens)
    }

    fn from_torch(path: &Path) -> Result<Self> {
        let malformed = |what: &str| Error::Malformed { path: path.to_owned(), format: FORMAT, what: what.to_owned() };
        let mut file = TorchFile::open(path)?;
        let root = file.value.clone();
        // A fit of the authors' own program that was not ended holds sums.
        let (matrices, count, sums) = match (root.get("J"), root.get("jacobian_sum")) {
            (Some(j), _) => (j, root.get("n_prompts"), false),
            (None, Some(sum)) => (sum, root.get("n_done"), true),
            _ => return Err(malformed("it holds no dictionary `J` of matrices by layer")),
        };
        let Value::Dictionary(entries) = matrices else {
            return Err(malformed("its `J` is no dictionary of matrices by layer"));
        };
        let n_prompts = count.and_then(Value::whole).unwrap_or(0);
        if sums && n_prompts == 0 {
            return Err(malformed("it holds the sums of no prompt"));
        }
        let mut layers = BTreeMap::new();
        for (layer, place) in entries {
            let (Some(layer), Value::Tensor(place)) = (layer.whole(), place) else {
                return Err(malformed("its `J` holds something else than matrices by layer"));
            };
            let mut j = file.tensor(place)?;
            if sums {
                j = (j / n_prompts as f64)?;
            }
            layers.insert(layer, j);
        }
        let told = |value: &Value| value.text().map_or_else(|| json(value), |text| unfolded(text.to_owned()));
        let inner = ["metadata", "provenance"].iter().filter_map(|name| root.get(name));
        let about = Said(inner.chain([&root]).map(told).collect()).about(n_prompts).map_err(|what| malformed(&what))?;
        let d_model = root.get("d_model").and_then(Value::whole);
        let d_model = d_model.or_else(|| layers.values().next()?.dims().first().copied()).unwrap_or(0);
        Ok(Self { about, layers, d_model, path: Some(path.to_owned()) })
    }

    fn from_safetensors(path: &Path) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
        let index = safetensors_file::index(&[path.to_owned()])?;
        let mut shapes = BTreeMap::new();
        for (name, entry) in &index.entries {
            let Some(layer) = name.strip_prefix("J.").and_then(|l| l.parse::<usize>().ok()) else { continue };
            let [out, input] = entry.shape[..] else {
                return Err(malformed(format!("`{name}` has shape {:?} where a matrix belongs", entry.shape)));
            };
            shapes.insert(layer, (name.clone(), out, input));
        }
        if shapes.is_empty() {
            return Err(malformed("it holds no tensor `J.<layer>`".to_owned()));
        }
        // All values of a header are texts: numbers and objects are written as JSON in them.
        let header = safetensors_file::metadata(path)?.into_iter().map(|(name, text)| (name, unfolded(text))).collect();
        let header = Json::Object(header);
        let inner: Vec<Json> =
            ["metadata", "provenance"].iter().filter_map(|name| header.get(*name).cloned()).collect();
        let n_prompts = header.get("n_prompts").and_then(Json::as_u64).unwrap_or(0) as usize;
        let about = Said([vec![header], inner].concat()).about(n_prompts).map_err(malformed)?;
        let store = Store::new(path, index.files, index.entries, Device::Cpu, &Progress::new());
        let d_model = shapes.values().next().map_or(0, |(_, out, _)| *out);
        let layers = shapes
            .into_iter()
            .map(|(layer, (name, out, input))| Ok((layer, store.matrix(&name, out, input)?)))
            .collect::<Result<_>>()?;
        Ok(Self { about, layers, d_model, path: Some(path.to_owned()) })
    }

    /// Writes the lens: torch's format where the path ends as its files do, otherwise safetensors.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let about = serde_json::to_string(&self.about).map_err(|e| Error::failed(e.to_string()))?;
        if is_torch(path) {
            let text = |t: &str| Written::Text(t.to_owned());
            let layers = self.layers.iter().map(|(l, j)| (Written::Whole(*l as i64), Written::Tensor(j))).collect();
            let sources = self.layers.keys().map(|l| Written::Whole(*l as i64)).collect();
            let mut said = vec![(text(METADATA), Written::Text(about))];
            if let Some(model) = &self.about.model {
                said.push((text("model_name"), text(model)));
            }
            return torch_file::save(
                path,
                &Written::Dictionary(vec![
                    (text("J"), Written::Dictionary(layers)),
                    (text("n_prompts"), Written::Whole(self.about.n_prompts as i64)),
                    (text("source_layers"), Written::List(sources)),
                    (text("d_model"), Written::Whole(self.d_model as i64)),
                    (text("metadata"), Written::Dictionary(said)),
                ]),
            );
        }
        let tensors = self
            .layers
            .iter()
            .map(|(l, j)| {
                let half = j.to_dtype(DType::F16)?;
                // What is too large for 16 bits keeps its 32.
                let fits = to_vec(&half.to_dtype(DType::F32)?)?.iter().all(|v| v.is_finite());
                Ok((format!("J.{l}"), if fits { half } else { j.to_dtype(DType::F32)? }))
            })
            .collect::<Result<Vec<_>>>()?;
        let said =
            [(METADATA, about), ("n_prompts", self.about.n_prompts.to_string()), ("d_model", self.d_model.to_string())];
        write_atomic(path, &safetensors_file::pack(tensors.iter().map(|(n, t)| (n.as_str(), t)), &said)?)
    }

    /// # Errors
    /// The lens is of another width, of layers that the model lacks, leads to another layer than the last one, or is of
    /// another model by its name or its weights.
    pub fn check(&self, model: &Model) -> Result<()> {
        let name = self.path.as_ref().map_or_else(|| "the lens".to_owned(), |p| p.display().to_string());
        fits(&name, self.d_model, self.layers.keys().copied(), model)?;
        is_of(&name, self.about.model.as_deref(), self.about.fingerprint.as_deref(), model)?;
        let c = &model.config;
        let last = c.n_layers - 1;
        if let Some(target) = self.about.target.filter(|t| *t != last) {
            return Err(Error::request(format!(
                "{name} leads to layer {target}, and what is read behind a lens is the last layer of {}, {last}; open a lens \
                 that leads there",
                c.name
            )));
        }
        // Some files hold it for the last layer as well, where nothing is left to be led to.
        if let Some(j) = self.layers.get(&last)
            && !is_identity(j)?
        {
            return Err(Error::request(format!(
                "{name} changes the last layer of {}, {last}, so that it leads to something else; open a lens that leads there",
                c.name
            )));
        }
        Ok(())
    }

    /// What the lens does, for a model that it was fitted on.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn transport(&self, model: &Model) -> Result<Arc<Transport>> {
        self.check(model)?;
        let layers = self
            .layers
            .iter()
            .filter(|(l, _)| **l + 1 < model.config.n_layers)
            .map(|(l, j)| Ok((*l, Affine { matrix: j.t()?, bias: None })))
            .collect::<Result<_>>()?;
        let file = self.path.as_ref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
        let name = file.map_or_else(|| FORMAT.to_owned(), |file| format!("{FORMAT} {file}"));
        Ok(Arc::new(Transport { name, kind: FORMAT, layers, path: self.path.clone() }))
    }
}

/// Whether a path ends as torch's files do.
fn is_torch(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["pt", "pth", "bin"].iter().any(|t| e.eq_ignore_ascii_case(t)))
}

/// # Errors
/// A lens of this width and these layers is not one of the model.
pub(super) fn fits(name: &str, width: usize, layers: impl Iterator<Item = usize>, model: &Model) -> Result<()> {
    let c = &model.config;
    if width != c.d_model {
        return Err(Error::request(format!(
            "{name} is a lens of width {width}, and {} has a stream of width {}; open the lens of this model",
            c.name, c.d_model
        )));
    }
    match layers.max().filter(|l| *l >= c.n_layers) {
        Some(layer) => Err(Error::request(format!(
            "{name} is a lens of a model with a layer {layer}, and {} has layers 0 to {}; open the lens of this model",
            c.name,
            c.n_layers - 1
        ))),
        None => Ok(()),
    }
}

/// What a lens' file says of itself, in dictionaries of several tools; the first that says something counts.
struct Said(Vec<Json>);

impl Said {
    /// The first of these entries that is there and not null; `outer.inner` is an entry of an entry.
    fn entry(&self, names: &[&str]) -> Option<&Json> {
        let found = self.0.iter().flat_map(|said| names.iter().map(move |name| (said, *name)));
        found
            .filter_map(|(said, name)| name.split('.').try_fold(said, |at, part| at.get(part)))
            .find(|value| !value.is_null())
    }

    /// Says what is wrong with it.
    fn about(&self, n_prompts: usize) -> std::result::Result<About, String> {
        // What this program wrote says more.
        if let Some(own) = self.entry(&[METADATA]) {
            let own = own.as_str().map_or_else(|| own.clone(), |text| unfolded(text.to_owned()));
            return serde_json::from_value(own).map_err(|e| format!("what it says of itself is damaged ({e})"));
        }
        let whole = |names: &[&str]| self.entry(names).and_then(Json::as_u64).map(|n| n as usize);
        let target = match self.entry(&["target_layer", "recipe.target_layer"]) {
            None => None,
            Some(value) => Some(value.as_u64().map(|n| n as usize).ok_or_else(|| {
                format!("its target_layer is {}, where a layer's number belongs", short(&value.to_string()))
            })?),
        };
        Ok(About {
            model: self.entry(&["model_name", "model"]).and_then(Json::as_str).map(str::to_owned),
            n_prompts,
            skip: whole(&["skip_first_positions", "recipe.skip_first_positions"]),
            tokens: whole(&["max_seq_len", "recipe.max_seq_len"]),
            target,
            ..About::default()
        })
    }
}

/// A text as the JSON that it holds, or else as it is.
fn unfolded(text: String) -> Json {
    serde_json::from_str(&text).unwrap_or(Json::String(text))
}

/// What a torch file says, without its tensors.
fn json(value: &Value) -> Json {
    match value {
        Value::Dictionary(entries) => {
            let entries = entries.iter().filter_map(|(name, value)| Some((name.text()?.to_owned(), json(value))));
            Json::Object(entries.collect())
        }
        Value::List(list) => Json::Array(list.iter().map(json).collect()),
        Value::Whole(n) => Json::from(*n),
        Value::Number(v) => Json::from(*v),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Truth(b) => Json::from(*b),
        Value::Tensor(_) | Value::Nothing => Json::Null,
    }
}

/// True for the identity, as far as halves can say it.
fn is_identity(j: &Tensor) -> Result<bool> {
    let (n, _) = j.dims2()?;
    let off = (j.to_dtype(DType::F32)? - Tensor::eye(n, DType::F32, &Device::Cpu)?)?.abs()?.flatten_all()?.max(0)?;
    Ok(off.to_scalar::<f32>()? < 1e-2)
}

/// # Errors
/// What the lens says of its model does not mean this one. Weights say it where both are known; otherwise names must be the
/// same ([`Model::is_called`]).
pub(super) fn is_of(name: &str, said: Option<&str>, weights: Option<&str>, model: &Model) -> Result<()> {
    let c = &model.config;
    if let Some(weights) = weights {
        if weights == format!("{:016x}", model.fingerprint()?) {
            return Ok(());
        }
        return Err(Error::request(format!(
            "{name} was fitted on other weights than those of {}: on {}; fit one on this model",
            c.name,
            said.unwrap_or("a model without a name")
        )));
    }
    let Some(said) = said.filter(|said| !model.is_called(said)) else { return Ok(()) };
    Err(Error::request(format!(
        "{name} was fitted on {}, and the model is {}; open the lens of this model, or give its file that name if it is the same",
        short(said),
        c.name
    )))
}
