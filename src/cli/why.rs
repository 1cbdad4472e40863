//! `why`: prints what makes a head attend where it does: which components write its query, its key and its value.

use serde_json::{Value, json};

use super::features::check_set;
use super::submit::Work;
use super::{Job, ModelArgs, PromptArgs, table, warn};
use crate::analysis::component::Component;
use crate::analysis::plan::Planned;
use crate::analysis::why_head::{Share, why_head};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::graph::features::first_token_warning;
use crate::graph::features::why::{Looks, Pair, Source, looks};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The head, as 23.3 or a23.h3
    #[arg(long, value_name = "LAYER.HEAD")]
    head: String,
    /// The query's position (default: the last)
    #[arg(long, value_name = "N")]
    pos: Option<usize>,
    /// The key's position (default: where the head attends most)
    #[arg(long, value_name = "N")]
    key: Option<usize>,
    /// Take the score apart into pairs of features as well, of this set of transcoders, one for every layer
    #[arg(long, value_name = "DIR")]
    dictionary: Option<String>,
    /// First positions whose features are left out
    #[arg(long, value_name = "N", default_value_t = 1, requires = "dictionary")]
    silent: usize,
    /// Components and pairs to list
    #[arg(long, default_value_t = 8, value_name = "N")]
    top: usize,
}

/// Names the component of a share; the biases have none.
fn name(share: &Share) -> String {
    share.0.map_or_else(|| "biases".to_owned(), |c| c.to_string())
}

/// The pairs of a score, for a document.
fn features(looks: &Looks, cap: Option<f32>, top: usize) -> Value {
    let (own, others) = looks.sums();
    let alone = |list: &[(Source, f32)]| -> Vec<Value> {
        list.iter().take(top).map(|(s, v)| json!({"name": looks.name(*s), "value": v})).collect()
    };
    let sum = |list: &[(Source, f32)]| list.iter().map(|(_, v)| v).sum::<f32>();
    let share = |p: &Pair| looks.share(p);
    let pair =
        |p: &Pair| json!({"query": looks.name(p.query), "key": looks.name(p.key), "value": p.value, "share": share(p)});
    json!({
        "score": looks.score, "soft_cap": cap, "by_position": looks.by_position, "biases": looks.biases,
        "pairs": looks.pairs.iter().take(top).map(pair).collect::<Vec<_>>(),
        "feature_pairs": looks.features().take(top).map(pair).collect::<Vec<_>>(),
        "sum_of_feature_pairs": own, "sum_of_other_pairs": others,
        "query_with_bias": alone(&looks.query_alone), "key_with_bias": alone(&looks.key_alone),
        "sum_of_query_with_bias": sum(&looks.query_alone), "sum_of_key_with_bias": sum(&looks.key_alone),
        "all_pairs": looks.pairs.len(),
    })
}

/// The pairs of a score, as a table.
fn told(looks: &Looks, cap: Option<f32>, top: usize) -> String {
    let share = |p: &Pair| looks.share(p).map_or_else(String::new, |share| format!("{:+.1} %", 100.0 * share));
    let row = |p: &Pair| vec![looks.name(p.query), looks.name(p.key), format!("{:+.4}", p.value), share(p)];
    let rows: Vec<Vec<String>> = looks.features().take(top).map(row).collect();
    let (own, others) = looks.sums();
    let sum = |list: &[(Source, f32)]| list.iter().map(|(_, v)| v).sum::<f32>();
    format!(
        "{}\n\nthe score {:+.4}{} is pairs of features {own:+.4}, all other pairs {others:+.4}, query with bias {:+.4}, key with \
         bias {:+.4}, biases {:+.4}, position {:+.4}; features are LAYER:FEATURE",
        table(&["feature at the query", "feature at the key", "of the score", "share"], &rows),
        looks.score,
        cap.map_or_else(String::new, |cap| format!(", before its soft cap of {cap},")),
        sum(&looks.query_alone),
        sum(&looks.key_alone),
        looks.biases,
        looks.by_position
    )
}

impl Arguments {
    /// What it costs on one prompt.
    pub fn alone(&self) -> Work<'_> {
        Work::on_prompt(&self.model, &self.prompt, Planned::Trace)
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let job = Job::begin(&args.model, "why")?;
    let ids = args.prompt.required(&job.model)?;
    let Some(Component::Head { layer, head }) = Component::parse(&args.head) else {
        return Err(Error::request(format!("`{}` is not a head; write LAYER.HEAD, as 23.3", args.head)));
    };
    let trace = Trace::run(&job.model, ids, &job.progress)?;
    let why = why_head(&trace, layer, head, args.pos.unwrap_or(trace.len() - 1), args.key, &job.progress)?;
    let set = args.dictionary.as_ref().map(|spec| DictionarySet::open(spec, &job.progress)).transpose()?;
    let checked = set.as_ref().map(|set| check_set(&job.model, set, &job.progress)).transpose()?;
    if let Some(said) = set.as_ref().and_then(|_| first_token_warning(&job.model, &trace.ids)) {
        warn(&said);
    }
    let looks = set
        .as_ref()
        .map(|set| looks(&trace, set, (layer, head), why.query, Some(why.key), args.silent, &job.progress))
        .transpose()?;
    let cap = job.model.config.attn_softcap;
    let json = || {
        let list =
            |shares: &[Share]| -> Vec<_> { shares.iter().map(|s| json!({"name": name(s), "value": s.1})).collect() };
        let features = looks.as_ref().map(|l| features(l, cap, args.top));
        json!({
            "features": features, "dictionary": args.dictionary, "dictionaries": checked,
            "head": format!("a{layer}.h{head}"), "query": why.query, "key": why.key, "attention": why.attention,
            "advantage": why.advantage, "by_position": why.by_position, "by_query": list(&why.by_query), "by_key": list(&why.by_key), "by_value": list(&why.by_value),
            "pattern": why.pattern, "frozen": ["norm scales"],
        })
    };
    let text = || {
        let cell = |list: &[Share], i: usize| {
            list.get(i).map_or([String::new(), String::new()], |s| [name(s), format!("{:+.3}", s.1)])
        };
        let lists = [&why.by_query, &why.by_key, &why.by_value];
        let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
        let row = |i| [&why.by_query, &why.by_key, &why.by_value].map(|list| cell(list, i)).concat();
        let rows: Vec<Vec<String>> = (0..args.top.min(longest)).map(row).collect();
        let pairs = looks.as_ref().map_or_else(String::new, |l| format!("{}\n\n", told(l, cap, args.top)));
        format!(
            "{pairs}{}\n\na{layer}.h{head} at {} {:?} attends to {} {:?} with {:.3}: its score is {:+.3} above the mean of the others; query and key parts add up to that, value parts to 1",
            table(&["query from", "", "key from", "", "value from", "share"], &rows),
            why.query,
            trace.token_text(why.query),
            why.key,
            trace.token_text(why.key),
            why.attention,
            why.advantage
        )
    };
    job.finish(Some(&trace.ids), json, text)
}
