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

use crate::analysis::transport::{Affine, Transport};
use crate::error::{Error, Result};
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
        let torch = path.extension().is_some_and(|e| ["pt", "pth", "bin"].iter().any(|t| e.eq_ignore_ascii_case(t)));
        let lens = if torch { Self::from_torch(path)? } else { Self::from_safetensors(path)? };
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
        if lens.layers.is_empty() {
            return Err(malformed("it holds no layer".to_owned()));
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
        let said = root.get("metadata");
        let text = |name: &str| said.and_then(|m| m.get(name)).and_then(Value::text).map(str::to_owned);
        let whole = |name: &str| said.and_then(|m| m.get(name)).and_then(Value::whole);
        // What this program wrote says more.
        let own = text(METADATA).and_then(|t| serde_json::from_str::<About>(&t).ok());
        let about = own.unwrap_or_else(|| About {
            model: text("model_name"),
            n_prompts,
            skip: whole("skip_first_positions"),
            tokens: whole("max_seq_len"),
            ..About::default()
        });
        let d_model = root.get("d_model").and_then(Value::whole);
        let d_model = d_model.or_else(|| layers.values().next()?.dims().first().copied()).unwrap_or(0);
        if let (Some(target), Some(last)) = (whole("target_layer"), layers.keys().max())
            && target <= *last
        {
            return Err(malformed("it leads to another layer than the model's last one, which is not read here"));
        }
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
        let said = safetensors_file::metadata(path)?;
        let about = said.get(METADATA).and_then(|t| serde_json::from_str::<About>(t).ok()).unwrap_or_else(|| About {
            model: said.get("model").or_else(|| said.get("model_name")).cloned(),
            n_prompts: said.get("n_prompts").and_then(|n| n.parse().ok()).unwrap_or(0),
            ..About::default()
        });
        let store = Store::new(path, index.files, index.entries, Device::Cpu, &Progress::new());
        let d_model = shapes.values().next().map_or(0, |(_, out, _)| *out);
        let layers = shapes
            .into_iter()
            .map(|(layer, (name, out, input))| Ok((layer, store.matrix(&name, out, input)?)))
            .collect::<Result<_>>()?;
        Ok(Self { about, layers, d_model, path: Some(path.to_owned()) })
    }

    /// Writes the lens: torch's format where the path ends in `.pt`, otherwise safetensors.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let about = serde_json::to_string(&self.about).map_err(|e| Error::failed(e.to_string()))?;
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pt")) {
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
            .map(|(l, j)| Ok((format!("J.{l}"), j.to_dtype(DType::F16)?)))
            .collect::<Result<Vec<_>>>()?;
        let said =
            [(METADATA, about), ("n_prompts", self.about.n_prompts.to_string()), ("d_model", self.d_model.to_string())];
        write_atomic(path, &safetensors_file::pack(tensors.iter().map(|(n, t)| (n.as_str(), t)), &said)?)
    }

    /// # Errors
    /// The lens is of another width, of layers that the model lacks, or of another model by its name or its weights.
    pub fn check(&self, model: &Model) -> Result<()> {
        let name = self.path.as_ref().map_or_else(|| "the lens".to_owned(), |p| p.display().to_string());
        fits(&name, self.d_model, self.layers.keys().copied(), model)?;
        is_of(&name, self.about.model.as_deref(), self.about.fingerprint.as_deref(), model)
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

/// # Errors
/// What the lens says of its model does not mean this one. Weights say it where both are known; names are compared without
/// case, signs and the organisation, and one may begin with the other (a file's name says more than the model's).
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
    let Some(said) = said else { return Ok(()) };
    let plain = |s: &str| -> String {
        let last = s.rsplit(['/', '\\']).next().unwrap_or(s);
        last.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let theirs = plain(said);
    // A download's folder is called after its revision, the one above after the model.
    let folders = model.path.iter().flat_map(|p| p.iter()).map(|part| part.to_string_lossy().into_owned());
    let ours =
        folders.map(|f| f.rsplit("--").next().unwrap_or(&f).to_owned()).chain([c.name.clone(), model.spec.clone()]);
    let same = |ours: String| {
        let ours = plain(&ours);
        !ours.is_empty() && (ours.starts_with(&theirs) || ours.len() > 3 && theirs.starts_with(&ours))
    };
    if theirs.is_empty() || ours.into_iter().any(same) {
        return Ok(());
    }
    Err(Error::request(format!(
        "{name} was fitted on {}, and the model is {}; open the lens of this model",
        crate::error::short(said),
        c.name
    )))
}
