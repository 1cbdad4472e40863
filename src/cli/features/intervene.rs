//! `features intervene`: gives features of a set other values, and prints what the model then does.

use serde_json::{Value, json};

use super::check_set;
use crate::cli::output::quoted;
use crate::cli::writable;
use crate::cli::{Job, ModelArgs, PromptArgs, table, warn};
use crate::engine::{Hold, Trace};
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::graph::features::first_token_warning;
use crate::graph::features::intervene::{Amount, Change, Changed, Stage};
use crate::model::safetensors_file::pack;

/// What is held still.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Mode {
    /// Nothing: the model goes on by itself
    #[default]
    Free,
    /// Attention patterns
    FrozenAttention,
    /// Patterns, norms and MLPs: direct effects alone
    Direct,
    /// Patterns, and the MLPs of the layers that --layers names
    Part,
}

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// A set of transcoders, one for every layer
    #[arg(long, value_name = "DIR")]
    dictionary: String,
    /// A feature at a position and its value: a number, or 2x and -1x for so many times its activation; repeatable
    #[arg(long, value_name = "LAYER:POS:FEATURE=VALUE", required = true, num_args = 1..)]
    set: Vec<Change>,
    /// What is held still
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Layers whose MLPs are held still, with --mode part
    #[arg(long, value_name = "N,N", value_delimiter = ',', required_if_eq("mode", "part"))]
    layers: Vec<usize>,
    /// Tokens whose logits are listed beside the most probable ones, or their ids
    #[arg(long, value_name = "TOKEN", value_delimiter = ',', allow_hyphen_values = true)]
    tokens: Vec<String>,
    /// How many tokens and features to list
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
    /// First positions whose features are left alone
    #[arg(long, value_name = "N", default_value_t = 1)]
    silent: usize,
    /// Where to write `logits` [pos, token] and `activations` [layer, pos, feature] of the changed run
    #[arg(short, long, value_name = "F.safetensors", value_parser = writable)]
    output: Option<std::path::PathBuf>,
}

/// A feature whose activation changed.
struct Moved {
    layer: usize,
    pos: usize,
    feature: u32,
    before: f32,
    after: f32,
}

/// Features by how far their activations moved.
fn moved(changed: &Changed) -> Vec<Moved> {
    let mut all = Vec::new();
    for (layer, (before, after)) in changed.before.iter().zip(&changed.activations).enumerate() {
        for pos in 0..before.rows() {
            let mut features: Vec<u32> = before.row(pos).chain(after.row(pos)).map(|(f, _)| f).collect();
            features.sort_unstable();
            features.dedup();
            for feature in features {
                let (before, after) = (before.at(pos, feature), after.at(pos, feature));
                all.push(Moved { layer, pos, feature, before, after });
            }
        }
    }
    all.retain(|m| m.before.to_bits() != m.after.to_bits());
    all.sort_by(|a, b| (b.after - b.before).abs().total_cmp(&(a.after - a.before).abs()));
    all
}

/// Probabilities of a position's tokens.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let mut all = logits.to_vec();
    crate::engine::kernels::math::softmax(&mut all);
    all
}

/// Says which changes change nothing.
fn idle(args: &Arguments, stage: &Stage<'_>) {
    for change in &args.set {
        if change.pos < args.silent {
            warn(&format!("`{change}` changes nothing: the first {} position(s) are left alone.", args.silent));
        } else if matches!(change.amount, Amount::Times(_))
            && stage.activation(change.layer, change.pos, change.feature) == 0.0
        {
            warn(&format!("`{change}` changes nothing: the feature is not active there; a number without x sets it."));
        }
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "intervening")?;
    let (model, progress) = (&job.model, &job.progress);
    let ids = args.prompt.required(model)?;
    let set = DictionarySet::open(&args.dictionary, progress)?;
    set.check(&model.config)?;
    let hold = match args.mode {
        Mode::Free => Hold::Free,
        Mode::FrozenAttention => Hold::Attention,
        Mode::Direct => Hold::Direct,
        Mode::Part => Hold::Part(args.layers.clone()),
    };
    if !args.layers.is_empty() && !matches!(args.mode, Mode::Part) {
        return Err(Error::request("--layers belongs to --mode part; leave one of them out, or give both"));
    }
    let tokens = args.tokens.iter().map(|t| crate::cli::trace::token_or_id(model, t)).collect::<Result<Vec<u32>>>()?;
    let checked = check_set(model, &set, progress)?;
    first_token_warning(model, &ids).iter().for_each(|w| warn(w));
    let trace = Trace::run(model, ids, progress)?;
    let stage = Stage::of(&trace, &set, args.silent, progress)?;
    let changed = stage.run(&args.set, &hold, false, progress)?;
    idle(args, &stage);
    let last = trace.len() - 1;
    let network = model.network();
    let before: Vec<f32> = network.unembed(&trace.normalized(last)?)?.flatten_all()?.to_vec1()?;
    let after = changed.logits(last)?;
    if let Some(path) = &args.output {
        save(path, &trace, &stage, &changed)?;
    }
    let features = moved(&changed);
    let (p_before, p_after) = (softmax(&before), softmax(&after));
    let listed = |probabilities: &[f32]| {
        let mut order: Vec<u32> = (0..probabilities.len() as u32).collect();
        order.sort_by(|a, b| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]).then(a.cmp(b)));
        order.truncate(args.top);
        order.extend(tokens.iter().filter(|t| !order.contains(t)).copied().collect::<Vec<_>>());
        order
    };
    let document = |logits: &[f32], probabilities: &[f32]| -> Vec<Value> {
        let token = |id: &u32| {
            let at = *id as usize;
            json!({"id": id, "text": model.token_text(*id), "logit": logits[at], "prob": probabilities[at]})
        };
        listed(probabilities).iter().map(token).collect()
    };
    let json = || {
        let set: Vec<Value> = args
            .set
            .iter()
            .map(|c| json!({"layer": c.layer, "pos": c.pos, "feature": c.feature, "was": stage.activation(c.layer, c.pos, c.feature), "change": c.to_string()}))
            .collect();
        let moved: Vec<Value> = features
            .iter()
            .take(args.top)
            .map(
                |m| json!({"layer": m.layer, "pos": m.pos, "feature": m.feature, "before": m.before, "after": m.after}),
            )
            .collect();
        json!({
            "dictionary": args.dictionary, "dictionaries": checked, "set": set, "mode": hold.name(), "frozen": hold.frozen(), "silent_positions": args.silent,
            "logits_before": document(&before, &p_before), "logits_after": document(&after, &p_after),
            "activations": moved, "activations_changed": features.len(),
        })
    };
    let text = || {
        let mut shown = listed(&p_before);
        shown.extend(listed(&p_after).into_iter().filter(|t| !shown.contains(t)).collect::<Vec<_>>());
        let row = |id: &u32| {
            let at = *id as usize;
            let change = |a: f32, b: f32| vec![format!("{a:.4}"), format!("{b:.4}")];
            let mut row = vec![quoted(&model.token_text(*id))];
            row.extend(change(before[at], after[at]));
            row.extend([p_before[at], p_after[at]].map(|p| format!("{:.3} %", 100.0 * p)));
            row
        };
        let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
        let feature = |m: &Moved| {
            vec![
                m.layer.to_string(),
                m.pos.to_string(),
                m.feature.to_string(),
                format!("{:.4}", m.before),
                format!("{:.4}", m.after),
            ]
        };
        let moved: Vec<Vec<String>> = features.iter().take(args.top).map(feature).collect();
        let held = hold.frozen();
        let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
        format!(
            "{}\n\n{}\n\n{} activations changed; {held} held still; {:.2} s",
            table(&["token", "logit", "then", "probability", "then"], &rows),
            table(&["layer", "pos", "feature", "activation", "then"], &moved),
            features.len(),
            job.stop(),
        )
    };
    job.finish(Some(&trace.ids), json, text)
}

/// Writes the changed run's logits and activations in full.
fn save(path: &std::path::Path, trace: &Trace, stage: &Stage<'_>, changed: &Changed) -> Result<()> {
    let c = &trace.model.config;
    let widest = stage.widest();
    let bytes = 4 * trace.len() * (c.n_layers * widest + c.d_vocab);
    if bytes > 8 << 30 {
        return Err(Error::request(format!(
            "all activations and logits of {} tokens would take {:.0} GB; shorten the prompt",
            trace.len(),
            bytes as f64 / 1e9
        )));
    }
    let logits = trace.model.network().unembed(&changed.normalized)?;
    let dense = changed.activations.iter().map(|a| a.dense(widest)).collect::<Result<Vec<_>>>()?;
    let activations = candle_core::Tensor::stack(&dense, 0)?;
    crate::files::write_atomic(path, &pack([("logits", &logits), ("activations", &activations)], &[])?)
}
