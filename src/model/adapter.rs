//! LoRA adapters as PEFT saves them: a folder with `adapter_config.json` and `adapter_model.safetensors`, which is opened
//! on its base model. Every adapted weight W is read as W + s · B · A, with s = alpha / r, or alpha / √r (rsLoRA).
//! <https://huggingface.co/docs/peft/developer_guides/checkpoint>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::changes::{Change, LowRank};
use super::found;
use super::safetensors_file::{self, Index};
use super::scales::numbers;
use super::store::Entry;
use crate::error::{Error, Result, short};
use crate::files::read_text;
use crate::typed::typed;

const MAX_CONFIG: u64 = 1 << 24;

/// Options that are read, or that matter in training alone.
const KNOWN: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Options that change what an adapter computes and are not implemented.
const CHANGES: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];

/// An adapter, and the folder of the model that it changes.
pub struct Adapter {
    folder: PathBuf,
    config: Map<String, Value>,
    scaling: Scaling,
    pub base: PathBuf,
}

/// What B · A is multiplied by, and how it lies.
struct Scaling {
    alpha: f64,
    /// Other alphas, by the end of a module's name.
    patterns: Vec<(String, f64)>,
    /// By the root of r.
    root: bool,
    /// The base stores [input, output].
    turned: bool,
}

impl Scaling {
    fn read(config: &Map<String, Value>) -> std::result::Result<Self, String> {
        let flag = |key: &str| Ok::<_, String>(typed(config.get(key), key)?.unwrap_or(false));
        let patterns: Option<&Map<String, Value>> = typed(config.get("alpha_pattern"), "alpha_pattern")?;
        let pattern = |(end, alpha): (&String, &Value)| match alpha.as_f64() {
            Some(alpha) => Ok((end.trim_start_matches('^').to_owned(), alpha)),
            None => Err(format!("`alpha_pattern` gives `{}` {}, not a number", short(end), short(&alpha.to_string()))),
        };
        Ok(Self {
            alpha: typed(config.get("lora_alpha"), "lora_alpha")?.unwrap_or(8.0),
            patterns: patterns.into_iter().flatten().map(pattern).collect::<std::result::Result<_, _>>()?,
            root: flag("use_rslora")?,
            turned: flag("fan_in_fan_out")?,
        })
    }

    fn of(&self, module: &str) -> f64 {
        let ends = |end: &str| module.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.patterns.iter().find(|(end, _)| ends(end)).map_or(self.alpha, |(_, alpha)| *alpha)
    }
}

impl Adapter {
    /// Returns the adapter of a folder; `None` where the folder is a whole model.
    ///
    /// # Errors
    /// An adapter of a kind that is not implemented, or whose base model is not on this machine.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("adapter_config.json");
        if folder.join("config.json").is_file() || !path.is_file() {
            return Ok(None);
        }
        let config: Map<String, Value> = serde_json::from_str(&read_text(&path, MAX_CONFIG)?)
            .map_err(|e| Error::Malformed { path: path.clone(), format: "adapter", what: e.to_string() })?;
        let malformed = |what: String| Error::Malformed { path: path.clone(), format: "adapter", what };
        let text = |key: &str| typed::<&str>(config.get(key), key).map_err(|what| malformed(format!("its {what}")));
        let unopenable = |what: String| Error::Unopenable {
            path: folder.to_owned(),
            what: format!(
                "{what}; merge the adapter into its base with PEFT's `merge_and_unload()` and open the result"
            ),
        };
        let kind = text("peft_type")?.unwrap_or("(none)");
        if kind != "LORA" {
            return Err(unopenable(format!(
                "it is an adapter of the kind {}, and LORA alone is implemented",
                short(kind)
            )));
        }
        if let Some(option) = CHANGES.iter().find(|option| config.get(**option).is_some_and(is_on)) {
            return Err(unopenable(format!("its adapter uses `{option}`, which is not implemented")));
        }
        // These begin with other base weights than those that the base model is saved with.
        let begin = match config.get("init_lora_weights") {
            Some(Value::Bool(_)) => "",
            _ => text("init_lora_weights")?.unwrap_or_default(),
        };
        if ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|kind| begin.starts_with(kind)) {
            return Err(unopenable(format!(
                "its adapter changes the base weights first (init_lora_weights = {begin})"
            )));
        }
        // A pattern that is more than the end of a name is a regular expression.
        let scaling = Scaling::read(&config).map_err(|what| malformed(format!("its {what}")))?;
        let mut patterns = scaling.patterns.iter().map(|(end, _)| end);
        if let Some(pattern) = patterns.find(|p| p.contains(['*', '+', '?', '[', '(', '|', '\\', '$'])) {
            return Err(unopenable(format!(
                "its adapter's `alpha_pattern` has the expression `{}`, which is not implemented",
                short(pattern)
            )));
        }
        let name = text("base_model_name_or_path")?.unwrap_or_default();
        let base = base_folder(folder, name).ok_or_else(|| Error::Unopenable {
            path: folder.to_owned(),
            what: format!(
                "it is an adapter of `{}`, which is not on this machine; put that model's folder beside it, under its \
                 last name",
                short(name)
            ),
        })?;
        Ok(Some(Self { folder: folder.to_owned(), config, scaling, base }))
    }

    /// The warnings about options that are not known.
    pub fn warnings(&self) -> Vec<String> {
        let unknown = self.config.iter().filter(|(option, value)| {
            !KNOWN.contains(&option.as_str()) && !CHANGES.contains(&option.as_str()) && is_on(value)
        });
        unknown
            .map(|(option, _)| {
                format!(
                    "Option `{}` of adapter_config.json is not known and passed over; if it changes what the adapter \
                     computes, the numbers are wrong.",
                    short(option)
                )
            })
            .collect()
    }

    /// Changes the index of the base model's tensors.
    ///
    /// # Errors
    /// The adapter's files are damaged, or do not belong to this base.
    pub fn apply(&self, index: &mut Index) -> Result<()> {
        let path = self.folder.join("adapter_model.safetensors");
        if !path.is_file() {
            return Err(Error::Unopenable {
                path: self.folder.clone(),
                what: "it holds no adapter_model.safetensors (a pickled adapter_model.bin is never opened); save the \
                       adapter again with `save_pretrained(FOLDER, safe_serialization=True)`"
                    .to_owned(),
            });
        }
        let adapter = safetensors_file::index(std::slice::from_ref(&path))?;
        let other = |what: String| Error::Malformed { path: path.clone(), format: "adapter", what };
        if let Some((name, dtype)) = adapter.unread.iter().next() {
            return Err(other(format!("tensor `{}` is stored as {dtype}, which is not implemented", short(name))));
        }
        let mut halves: BTreeMap<String, [Option<Entry>; 2]> = BTreeMap::new();
        let mut whole = Vec::new();
        for (name, entry) in &adapter.entries {
            let inner = name.strip_prefix("base_model.model.").unwrap_or(name).replace(".default.", ".");
            let half = ["A", "B"].iter().position(|half| inner.ends_with(&format!(".lora_{half}.weight")));
            match half {
                Some(half) => {
                    let module = inner[..inner.len() - ".lora_A.weight".len()].to_owned();
                    halves.entry(module).or_default()[half] = Some(entry.clone());
                }
                None if inner.contains("lora_") => {
                    return Err(other(format!("it holds `{}`, which is not implemented", short(name))));
                }
                None => whole.push((inner.replace("modules_to_save.", "").replace("base_layer.", ""), entry.clone())),
            }
        }
        for (module, pair) in halves {
            let [Some(a), Some(b)] = pair else {
                return Err(other(format!("it holds one half alone of `{}`", short(&module))));
            };
            let values = [numbers(&adapter, &module, &a)?, numbers(&adapter, &module, &b)?];
            let name = base_name(index, &format!("{module}.weight"));
            let entry = name.and_then(|name| index.entries.get_mut(&name));
            let entry = entry.ok_or_else(|| other(format!("its base has no `{}.weight`", short(&module))))?;
            let change = self.change(&module, &entry.shape, [&a.shape, &b.shape], values).ok_or_else(|| {
                other(format!(
                    "`{}` of shapes {:?} and {:?} does not fit the base's {:?}",
                    short(&module),
                    a.shape,
                    b.shape,
                    entry.shape
                ))
            })?;
            entry.changes.push(Arc::new(Change::LowRank(change)));
        }
        // Modules that were trained whole take the place of the base's.
        let from = index.files.len();
        for (name, entry) in whole {
            let known = base_name(index, &name).or_else(|| name.ends_with("lm_head.weight").then(|| name.clone()));
            let known = known.ok_or_else(|| other(format!("its base has no `{}`", short(&name))))?;
            index.entries.insert(known, Entry { file: from + entry.file, ..entry });
        }
        index.files.extend(adapter.files);
        Ok(())
    }

    /// Returns s · B · A, or its transpose where the base stores [input, output]. A is [r, input], B [output, r].
    fn change(&self, module: &str, base: &[usize], shapes: [&Vec<usize>; 2], ab: [Vec<f32>; 2]) -> Option<LowRank> {
        let (&[rank, input], &[output, same]) = (&shapes[0][..], &shapes[1][..]) else { return None };
        if rank == 0 || rank != same {
            return None;
        }
        let rank_of = if self.scaling.root { (rank as f64).sqrt() } else { rank as f64 };
        let by = (self.scaling.of(module) / rank_of) as f32;
        let [a, mut b] = ab;
        b.iter_mut().for_each(|v| *v *= by);
        if base == [output, input] && !(self.scaling.turned && input == output) {
            Some(LowRank { left: b, right: a, rank })
        } else if base == [input, output] {
            Some(LowRank { left: transposed(&a, rank, input), right: transposed(&b, output, rank), rank })
        } else {
            None
        }
    }
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}

/// Whether an option is set to anything.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// The name under which the base holds a tensor: saved with the outer module's name, or without it.
fn base_name(index: &Index, name: &str) -> Option<String> {
    let mut inner = Some(name);
    while let Some(tried) = inner {
        if index.entries.contains_key(tried) {
            return Some(tried.to_owned());
        }
        inner = tried.split_once('.').map(|(_, rest)| rest).filter(|rest| rest.contains('.'));
    }
    let end = format!(".{name}");
    let mut found = index.entries.keys().filter(|other| other.ends_with(&end));
    found.next().filter(|_| found.next().is_none()).cloned()
}

/// Looks for the base model: a path as it is written, a folder beside the adapter, and the caches of models.
fn base_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    let last = Path::new(name).file_name()?;
    let folder = folder.canonicalize().ok()?;
    let beside = [folder.join(name), folder.parent()?.join(name), folder.parent()?.join(last), folder.join(last)];
    let is_base = |path: &PathBuf| path.join("config.json").is_file() && path.canonicalize().is_ok_and(|p| p != folder);
    let here = std::iter::once(PathBuf::from(name)).chain(beside).find(is_base);
    here.or_else(|| found::by_name(name).map(|found| found.path).filter(is_base))
}
