//! A model: its config, its weights and its tokenizer; and how one is opened from a file, a folder or the built-in
//! ones.

mod adapter;
pub mod builtin;
pub mod changes;
pub mod chat;
pub mod config;
pub mod dequantize;
pub mod families;
pub mod found;
pub mod gguf;
pub mod gguf_config;
pub mod hub;
mod known_options;
pub mod matrix;
mod names;
mod network;
pub mod options;
pub mod place;
pub mod rotary;
pub mod safetensors_file;
mod scales;
mod stops;
pub mod store;
pub mod tokenizer;
pub mod tokenizer_folder;
pub mod tokenizer_gguf;
mod tokenizer_names;
mod tokenizer_parts;
pub mod torch_file;
pub mod weights;

pub use network::Network;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use candle_core::Device;
use serde_json::{Map, Value};

use self::adapter::Adapter;
use self::config::{ModelConfig, Positions};
use self::families::Family;
use self::gguf::Gguf;
use self::gguf_config::Keys;
use self::matrix::Held;
use self::options::Options;
use self::rotary::Rotary;
use self::store::Store;
use self::tokenizer::{Found, Tokenizer};
use self::weights::{Names, Weights};
use crate::error::{Error, Result, short};
use crate::files::read_text;
use crate::progress::Progress;
use crate::question::{Lane, Question};
use crate::typed::typed;

/// The most bytes of a config.json.
const MAX_CONFIG: u64 = 1 << 24;

/// An opened model.
#[derive(Debug)]
pub struct Model {
    pub config: ModelConfig,
    pub weights: Weights,
    pub tokenizer: Option<Tokenizer>,
    /// The path or the built-in name that it was opened by.
    pub spec: String,
    pub format: &'static str,
    /// How its weights are held: as stored, or as f32.
    pub held: Held,
    /// Bytes of the weights as the file stores them.
    pub stored_bytes: u64,
    pub n_params: usize,
    pub load_seconds: f64,
    /// The tokens that end a generated text.
    pub stops: Vec<u32>,
    /// What a reader of this model's numbers has to know, in sentences: options that were passed over, a tokenizer that
    /// could not be built, tensors that nothing reads.
    pub warnings: Vec<String>,
    /// Where a tokenizer lies that cannot be used, and why.
    no_text: Option<(PathBuf, String)>,
    /// The file or folder that it was read from; none where no file holds it.
    pub path: Option<PathBuf>,
    fingerprint: OnceLock<u64>,
    chat: OnceLock<Option<chat::Template>>,
}

crate::identity!(Model);

impl Model {
    /// Opens a `.gguf` file, a Hugging Face folder, or a built-in model by its name.
    ///
    /// # Errors
    /// The file cannot be read or understood, or there is no such model.
    pub fn open(spec: &str) -> Result<Self> {
        Self::open_watched(spec, Held::Auto, &Progress::new())
    }

    /// As [`Model::open`], with its weights held as `held` says, with progress and cancellation.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_watched(spec: &str, held: Held, progress: &Progress) -> Result<Self> {
        Self::open_as(spec, Reading { held, hollow: false }, progress)
    }

    /// Opens all of a model but its weight matrices: its sizes are known, and it reads text. Nothing can be computed
    /// with it.
    ///
    /// # Errors
    /// As [`Model::open`], but for what only the weights would show.
    pub fn outline(spec: &str, held: Held) -> Result<Self> {
        Self::open_as(spec, Reading { held, hollow: true }, &Progress::new())
    }

    fn open_as(spec: &str, reading: Reading, progress: &Progress) -> Result<Self> {
        let started = Instant::now();
        let mut model = if let Some(builtin) = builtin::by_name(spec) {
            let folder = builtin.unpack()?;
            let mut model = Self::open_folder(&folder, spec, reading, progress)?;
            model.format = "built-in";
            builtin.name.clone_into(&mut model.config.name);
            model.path = Some(folder);
            model
        } else {
            let place = place::resolve(spec, progress)?;
            let path = place.path.as_path();
            let no_model = |what: &str| Error::NoModel {
                spec: spec.to_owned(),
                what: what.to_owned(),
                builtins: builtin::BUILTINS.iter().map(|b| b.name).collect::<Vec<_>>().join(", "),
            };
            let kind = std::fs::metadata(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => no_model("there is no such file, folder, built-in or found model"),
                _ => Error::read(path, e),
            })?;
            let (folder, file) = (path.parent().unwrap_or(Path::new(".")), path.file_name());
            let (mut model, path) = if kind.is_dir() {
                (Self::open_folder(path, spec, reading, progress)?, path)
            } else if place::is_gguf(path) {
                (Self::open_gguf(path, spec, reading, progress)?, path)
            } else if file.is_some_and(|n| n == "config.json" || n == "model.safetensors") {
                (Self::open_folder(folder, spec, reading, progress)?, folder)
            } else {
                return Err(no_model("it is neither a folder nor a GGUF file"));
            };
            model.path = Some(path.to_owned());
            if let Some(name) = place.name {
                model.config.name = name;
            }
            model
        };
        model.load_seconds = started.elapsed().as_secs_f64();
        Ok(model)
    }

    fn open_gguf(path: &Path, spec: &str, reading: Reading, progress: &Progress) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let Described { family, config, names, interleaved, warnings, .. } = Described::of_gguf(&gguf)?;
        let interleaved = interleaved.then_some((config.n_heads, config.n_kv_heads));
        let entries = gguf.tensors(interleaved)?;
        let store = Store::new(path, gguf.files()?, entries, Device::Cpu, progress)
            .for_family(family.name)
            .hollow(reading.hollow)
            .holding(reading.held)?;
        let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // A second thread rebuilds the tokenizer while the weights are read.
        let (found, weights) = std::thread::scope(|scope| {
            let found = scope.spawn(|| tokenizer_gguf::find(&gguf, config.d_vocab));
            let weights = weights::read(&config, &names, &store);
            (found.join().unwrap_or_else(|_| Found::fault("it could not be rebuilt")), weights)
        });
        let mut model = Self::assemble(ModelConfig { name, ..config }, weights?, None, spec, "GGUF");
        (model.held, model.stored_bytes) = (store.held(), store.stored_bytes());
        model.warnings = [warnings, store.warnings(), Vec::from_iter(store.unused())].concat();
        Ok(model.with_tokenizer(found, path, stops::of_gguf(&gguf)))
    }

    fn open_folder(folder: &Path, spec: &str, reading: Reading, progress: &Progress) -> Result<Self> {
        let adapter = Adapter::find(folder)?;
        let base = adapter.as_ref().map_or(folder, |adapter| adapter.base.as_path());
        let Described { family, mut config, names, mut warnings, options, block, .. } = Described::of_folder(base)?;
        let mut index = safetensors_file::index(&safetensors_file::files_of(base)?)?;
        scales::attach(&mut index, block)?;
        if let Some(adapter) = &adapter {
            adapter.apply(&mut index)?;
            warnings.extend(adapter.warnings());
        }
        let store = Store::new(base, index.files, index.entries, Device::Cpu, progress)
            .with_unread(index.unread)
            .for_family(family.name)
            .hollow(reading.hollow)
            .holding(reading.held)?;
        let name = folder
            .canonicalize()
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| spec.to_owned());
        config.name = name;
        let weights = weights::read(&config, &names, &store)?;
        // An adapter has a tokenizer of its own where it was trained with one.
        let own = ["tokenizer.json", "vocab.json"].iter().any(|name| folder.join(name).is_file());
        let text = if own { folder } else { base };
        let found = tokenizer_folder::find(text, &options, config.d_vocab);
        let mut model = Self::assemble(config, weights, None, spec, "safetensors");
        (model.held, model.stored_bytes) = (store.held(), store.stored_bytes());
        model.warnings = [warnings, store.warnings(), Vec::from_iter(store.unused())].concat();
        let stops = stops::of_folder(text, &options);
        Ok(model.with_tokenizer(found, text, stops))
    }

    fn assemble(
        config: ModelConfig,
        weights: Weights,
        tokenizer: Option<Tokenizer>,
        spec: &str,
        format: &'static str,
    ) -> Self {
        let n_params = weights.n_params();
        Self {
            config,
            weights,
            tokenizer,
            spec: spec.to_owned(),
            format,
            held: Held::F32,
            stored_bytes: 4 * n_params as u64,
            n_params,
            load_seconds: 0.0,
            stops: Vec::new(),
            warnings: Vec::new(),
            no_text: None,
            path: None,
            fingerprint: OnceLock::new(),
            chat: OnceLock::new(),
        }
    }

    /// Takes the tokenizer that was found at `path`, the tokens that end a text, and what is to be said of them.
    fn with_tokenizer(mut self, found: Found, path: &Path, (stops, warnings): (Vec<u32>, Vec<String>)) -> Self {
        self.stops = stops.into_iter().chain(found.eos).filter(|id| (*id as usize) < self.config.d_vocab).collect();
        self.stops.sort_unstable();
        self.stops.dedup();
        self.warnings.extend(warnings);
        self.tokenizer = found.tokenizer;
        self.warnings.extend(found.warnings);
        if let Some(what) = found.fault {
            self.warnings.push(format!("the model reads no text, only token ids: {what}"));
            self.no_text = Some((path.to_owned(), what));
        }
        self
    }

    /// Returns the tokenizer.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn reader(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| match &self.no_text {
            Some((path, what)) => Error::Tokenizer { path: path.clone(), what: what.clone() },
            None => Error::NoTokenizer,
        })
    }

    /// Makes a model that no file holds, such as one in training. `spec` names it.
    pub fn in_memory(config: ModelConfig, weights: Weights, tokenizer: Option<Tokenizer>, spec: &str) -> Self {
        Self::assemble(config, weights, tokenizer, spec, "memory")
    }

    /// Returns a hash of some numbers of every weight. It tells models of the same name apart.
    ///
    /// # Errors
    /// Copying from the device failed.
    pub fn fingerprint(&self) -> Result<u64> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(*known);
        }
        let mut hash = crate::hash::Hash::default();
        for (_, w) in self.weights.named() {
            hash.values(&w.every(crate::hash::step(w.elem_count()))?);
        }
        Ok(*self.fingerprint.get_or_init(|| hash.0))
    }

    /// Whether it has a chat template, as far as that was read: by [`ModelOf`] it is.
    pub fn has_chat_template(&self) -> bool {
        self.chat.get().is_some_and(Option::is_some)
    }

    /// Returns the chat template. The first call reads it.
    ///
    /// # Errors
    /// The model has none, or its file cannot be read.
    pub fn chat_template(&self) -> Result<&chat::Template> {
        let found = match self.chat.get() {
            Some(found) => found,
            None => {
                let read = self.path.as_deref().map(chat::Template::read).transpose()?.flatten();
                self.chat.get_or_init(|| read)
            }
        };
        found.as_ref().ok_or_else(|| {
            Error::request(format!(
                "{} has no chat template, so it cannot read a conversation; give a text with --prompt",
                self.config.name
            ))
        })
    }

    pub fn network(&self) -> Network<'_> {
        Network { config: &self.config, weights: &self.weights }
    }

    /// Returns the token ids of a text.
    ///
    /// # Errors
    /// The model has no tokenizer, or the text gives no token.
    pub fn encode(&self, text: &str, force_bos: bool) -> Result<Vec<u32>> {
        let ids = self.reader()?.encode(text, force_bos)?;
        if ids.is_empty() && !text.is_empty() {
            return Err(Error::request("the tokenizer knows no character of the prompt; give another one"));
        }
        Ok(ids)
    }

    /// Returns the token ids of a text, without a beginning-of-sequence token.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        self.reader()?.pieces(text)
    }

    /// Returns the tokens that are put before a text.
    ///
    /// # Errors
    /// A beginning-of-sequence token is asked for and the tokenizer names none.
    pub fn start(&self, force_bos: bool) -> Result<Vec<u32>> {
        self.reader()?.start(force_bos)
    }

    /// Returns the id of a text that is one token, or of `id:N`. Where the model has no tokenizer, the text is the id as a
    /// number.
    ///
    /// # Errors
    /// The text is not one token, or the model lacks the id.
    pub fn single_token(&self, text: &str) -> Result<u32> {
        self.by_text(text).or_else(|error| {
            let id = text.trim().strip_prefix("id:").and_then(|id| id.trim().parse().ok()).ok_or(error)?;
            self.network().check(&[id])?;
            Ok(id)
        })
    }

    fn by_text(&self, text: &str) -> Result<u32> {
        match &self.tokenizer {
            Some(t) => t.single(text),
            None => {
                let id = text.trim().parse().or_else(|_| self.reader().map(|_| 0))?;
                self.network().check(&[id])?;
                Ok(id)
            }
        }
    }

    /// Returns a text that [`Self::single_token`] takes for the token: its own, or `id:N` where that is not one token.
    pub fn token_name(&self, id: u32) -> String {
        let text = self.token_text(id);
        if self.single_token(&text).is_ok_and(|found| found == id) { text } else { format!("id:{id}") }
    }

    /// Returns the token's text, or its id where there is no tokenizer.
    pub fn token_text(&self, id: u32) -> String {
        match &self.tokenizer {
            Some(t) => t.text(id),
            None => id.to_string(),
        }
    }

    /// Whether the weights would take much less as they are stored.
    pub fn can_be_smaller(&self) -> bool {
        self.weight_bytes() as u64 > self.stored_bytes + self.stored_bytes / 2
    }

    /// What makes room for a prompt that is too long.
    pub fn room(&self) -> &'static str {
        if self.can_be_smaller() {
            "shorten the prompt, or hold the weights as they are stored (--weights stored)"
        } else {
            "shorten the prompt"
        }
    }

    /// Returns the bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }
}

/// How a model's weight matrices are read.
#[derive(Clone, Copy)]
struct Reading {
    held: Held,
    /// They are not.
    hollow: bool,
}

/// What a file or folder says of its model, without the weights.
struct Described {
    family: &'static Family,
    config: ModelConfig,
    names: Names,
    /// True where the rows of q and k are stored with the halves of each head interleaved (GGUF).
    interleaved: bool,
    /// The blocks of weights that share a scale, where they are stored in 8 bits.
    block: Option<[usize; 2]>,
    /// The whole of a folder's config.json.
    options: Map<String, Value>,
    warnings: Vec<String>,
}

impl Described {
    fn of_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = read_text(&path, MAX_CONFIG)?;
        let malformed = |e: serde_json::Error| Error::Malformed { path, format: "config", what: e.to_string() };
        let whole: Map<String, Value> = serde_json::from_str(&text).map_err(malformed)?;
        let map = text_part(folder, &whole)?;
        let name = map.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
        let family = families::by_name(name).ok_or_else(|| Error::UnknownFamily {
            path: folder.to_owned(),
            family: short(name),
            known: families::known(),
        })?;
        let options = Options::new(family.name, &map);
        let stored = whole.get("quantization_config").filter(|v| !v.is_null()).or(options.raw("quantization_config"));
        let block = stored.map(scales::block).transpose();
        let block = block.map_err(|(option, value)| options.refuse(option, value))?.flatten();
        let config = checked(folder, (family.config)(&options)?)?;
        let names = (family.names)(&options)?;
        Ok(Self { family, config, names, interleaved: false, warnings: options.finish()?, block, options: whole })
    }

    fn of_gguf(gguf: &Gguf) -> Result<Self> {
        gguf.is_language_model()?;
        let keys = Keys::new(gguf)?;
        let (family, form) = families::by_arch(&keys).ok_or_else(|| Error::UnknownFamily {
            path: gguf.path.clone(),
            family: short(keys.arch()),
            known: families::known_archs(),
        })?;
        let map = (form.config)(&keys)?;
        let options = Options::new(family.name, &map);
        let config = checked(&gguf.path, (family.config)(&options)?)?;
        let names = keys.names(&(family.names)(&options)?);
        Ok(Self {
            family,
            config,
            names,
            interleaved: form.interleaved,
            warnings: keys.finish(),
            block: None,
            options: Map::new(),
        })
    }
}

/// Returns the names and shapes of the tensors that a folder's config asks for, outermost axis first.
///
/// # Errors
/// As opening it.
pub fn tensors_of(folder: &Path) -> Result<Vec<store::Named>> {
    let described = Described::of_folder(folder)?;
    let store = Store::imagined(folder);
    weights::read(&described.config, &described.names, &store)?;
    Ok(store.asked())
}

/// Returns what a GGUF file or a folder says of its model; its weights are not read.
///
/// # Errors
/// As opening it.
pub fn describe(path: &Path) -> Result<ModelConfig> {
    if path.is_dir() {
        Ok(Described::of_folder(path)?.config)
    } else {
        Ok(Described::of_gguf(&Gguf::open(path)?)?.config)
    }
}

/// Returns the options of the language model: those of `text_config`, where the folder holds more than that.
fn text_part(folder: &Path, config: &Map<String, Value>) -> Result<Map<String, Value>> {
    let wrong = |what: String| Error::Malformed {
        path: folder.join("config.json"),
        format: "config",
        what: format!("its {what}"),
    };
    let part: Option<&Map<String, Value>> = typed(config.get("text_config"), "text_config").map_err(wrong)?;
    let mut text = part.unwrap_or(config).clone();
    // Text parts that have a name of their own but compute what another family does.
    if let Some("qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text") =
        text.get("model_type").and_then(Value::as_str)
    {
        text.insert("model_type".to_owned(), "qwen2".into());
    }
    if part.is_none() {
        return Ok(text);
    }
    // Old folders of some kinds leave out what the outer model implies.
    let outer: Option<&str> = typed(config.get("model_type"), "model_type").map_err(wrong)?;
    let outer = outer.unwrap_or_default();
    let implied = match outer {
        "gemma3" => "gemma3_text",
        "paligemma" => "gemma",
        _ => "llama",
    };
    text.entry("model_type").or_insert_with(|| implied.into());
    if let Some(tied) = config.get("tie_word_embeddings") {
        text.entry("tie_word_embeddings").or_insert_with(|| tied.clone());
    }
    // Such folders leave out what transformers' class has by default.
    let defaults: &[(&str, u64)] = match text.get("model_type").and_then(Value::as_str) {
        Some("gemma3_text") => &[
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("head_dim", 256),
            ("hidden_size", 2304),
            ("intermediate_size", 9216),
            ("num_hidden_layers", 26),
            ("vocab_size", 262_208),
            ("max_position_embeddings", 131_072),
        ],
        Some("llama") => &[
            ("num_attention_heads", 32),
            ("hidden_size", 4096),
            ("intermediate_size", 11_008),
            ("num_hidden_layers", 32),
            ("vocab_size", 32_000),
            ("max_position_embeddings", 2048),
        ],
        Some("mistral") => &[
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
            ("hidden_size", 4096),
            ("intermediate_size", 14_336),
            ("num_hidden_layers", 32),
            ("vocab_size", 32_000),
            ("max_position_embeddings", 131_072),
        ],
        _ => &[],
    };
    for (option, value) in defaults {
        text.entry(*option).or_insert_with(|| (*value).into());
    }
    Ok(text)
}

/// # Errors
/// A size of the model is 0.
fn checked(path: &Path, mut config: ModelConfig) -> Result<ModelConfig> {
    if let Positions::Rotary(layers) = &config.positions {
        // Dynamic scaling begins where the context of training ends.
        let reach = layers.iter().flatten().map(Rotary::reach).max().unwrap_or(0);
        config.n_ctx = config.n_ctx.max(reach);
    }
    let sizes = [
        ("layers", config.n_layers),
        ("heads", config.n_heads),
        ("KV heads", config.n_kv_heads),
        ("d_model", config.d_model),
        ("d_head", config.d_head),
        ("d_vocab", config.d_vocab),
        ("context", config.n_ctx),
    ];
    match sizes.iter().find(|(_, n)| *n == 0) {
        None => Ok(config),
        Some((what, _)) => Err(Error::Malformed {
            path: path.to_owned(),
            format: "config",
            what: format!("it gives a model with 0 for {what}"),
        }),
    }
}

/// What is known of a model without its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub family: String,
    pub n_layers: usize,
    pub n_params: usize,
    /// Bytes of the weights as they are stored.
    pub stored_bytes: u64,
}

impl Facts {
    /// Returns the bytes of the weights as f32.
    pub fn memory_bytes(&self) -> u64 {
        4 * self.n_params as u64
    }
}

/// Returns what a file or folder holds, from its config and the index of its tensors: no weight is read.
///
/// # Errors
/// As opening it, but for what only the weights or the tokenizer would show.
pub fn inspect(path: &Path) -> Result<Facts> {
    let config = describe(path)?;
    let entries = if path.is_dir() {
        safetensors_file::index(&safetensors_file::files_of(path)?)?.entries
    } else {
        Gguf::open(path)?.entries
    };
    let n_params = entries.values().map(|e| e.shape.iter().product::<usize>()).sum();
    let stored = |e: &store::Entry| e.stored.bytes(e.shape.iter().product()).unwrap_or(0) as u64;
    let stored_bytes = entries.values().map(stored).sum();
    Ok(Facts { family: config.family, n_layers: config.n_layers, n_params, stored_bytes })
}

/// Asks for a model to be opened.
#[derive(Clone, PartialEq)]
pub struct ModelOf {
    /// A `.gguf` file, a Hugging Face folder, or a built-in name.
    pub spec: String,
    /// How its weights shall be held.
    pub held: Held,
}

impl Question for ModelOf {
    type Answer = Model;
    const LABEL: &'static str = "opening model";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        let model = Model::open_watched(&self.spec, self.held, progress)?;
        // It is known by its weights from now on.
        model.fingerprint()?;
        // A template that cannot be read is an error where it is used.
        let _ = model.chat_template();
        Ok(model)
    }
}
