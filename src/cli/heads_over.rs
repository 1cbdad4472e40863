//! `heads --over`: the pages of all heads over a text, as a table, a document and an Arrow file; one head's page; parts put
//! together.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::output::quoted;
use super::{Job, ModelArgs, Part, ShardArgs, table};
use crate::analysis::component::Component;
use crate::error::{Error, Result};
use crate::features::rows::{Cut, Rows};
use crate::heads::index::{Example, HeadIndex, Measure};
use crate::heads::index_file;
use crate::heads::scan::Plan;
use crate::model::Model;

/// Earlier components named that feed a head.
const FEEDS: usize = 8;

/// The options of the scores on one prompt, which pages have no use for.
const SCORED: [&str; 9] =
    ["prompt", "ids", "chat", "no_generation_prompt", "open_turn", "bos", "seed", "length", "top"];

/// The options of head pages.
#[derive(clap::Args, Clone, Debug)]
pub struct OverArgs {
    /// Make a page for every head over text files, folders, or shipped texts by name (mixed, prose); repeatable
    #[arg(long, value_name = "TEXT-PATH", conflicts_with_all = SCORED)]
    pub over: Vec<String>,
    /// Pages that `--over` wrote: list them again, or show one with --head
    #[arg(long, value_name = "FILE", conflicts_with_all = ["over", "output"], conflicts_with_all = SCORED)]
    pub pages: Option<PathBuf>,
    /// Put shards of pages together, as `merge` does
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "output", conflicts_with_all = ["over", "pages"], conflicts_with_all = SCORED)]
    pub merge: Vec<PathBuf>,
    /// Show one head's page
    #[arg(long, value_name = "L.H", conflicts_with = "merge")]
    pub head: Option<String>,
    /// Tokens of a row of text
    #[arg(long, value_name = "N", default_value_t = 64, requires = "over", conflicts_with_all = ["pages", "merge"], conflicts_with_all = SCORED)]
    pub context: usize,
    /// Tokens of the text at most
    #[arg(long, value_name = "N", requires = "over", conflicts_with_all = ["pages", "merge"], conflicts_with_all = SCORED)]
    pub tokens: Option<usize>,
    #[command(flatten)]
    pub shard: ShardArgs,
    /// Arrow file to write; an unfinished one is gone on with
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl OverArgs {
    /// True where pages are asked for, not the scores of a prompt.
    pub fn is_asked(&self) -> bool {
        !self.over.is_empty() || self.pages.is_some() || !self.merge.is_empty()
    }

    /// Refuses what only pages take.
    ///
    /// # Errors
    /// `--shard`, `--head` or `--output` without pages.
    pub fn check(&self) -> Result<()> {
        if self.over.is_empty() && self.shard.shard != Part(0, 1) {
            return Err(Error::request("--shard is a share of a text; name it with --over TEXT-PATH"));
        }
        if self.is_asked() {
            return Ok(());
        }
        if self.head.is_some() {
            return Err(Error::request("--head shows a page of --over or --pages; give one of them"));
        }
        if self.output.is_some() {
            return Err(Error::request("--output is where --over or --merge write; give one of them"));
        }
        Ok(())
    }
}

/// Makes, shows or merges pages.
pub fn execute(args: &OverArgs, model: &ModelArgs) -> Result<()> {
    if !args.merge.is_empty() {
        let output = args.output.as_ref().ok_or_else(|| Error::request("name the file to write with --output"))?;
        return super::merge::merge(&args.merge, output, false, model.json);
    }
    let shard = args.shard.shard.begin(args.output.as_deref())?;
    let mut job = Job::begin(model, "heads over the text")?;
    let model = job.model.clone();
    let head = args.head.as_deref().map(|text| head_of(text, &model)).transpose()?;
    let index = match &args.pages {
        Some(path) => index_file::open(path)?,
        None => {
            let rows = Rows::cut(&model, &args.over, &Cut::new(args.context, args.tokens), &job.progress)?;
            job.restart();
            let plan = Plan {
                model: &model,
                rows: &rows,
                texts: args.over.clone(),
                context: args.context,
                limit: args.tokens,
                shard,
            };
            plan.run(args.output.as_deref(), &job.progress, &mut |_| {})?
        }
    };
    index.check(&model)?;
    job.stop();
    let output = args.output.as_ref().map(|p| p.display().to_string());
    match head {
        Some((layer, head)) => {
            job.finish(None, || page_json(&index, &model, layer, head), || page_text(&index, &model, layer, head))
        }
        None => job.finish(
            None,
            || {
                let mut doc = scores_json(&index);
                doc["output"] = json!(output);
                doc
            },
            || all_text(&index, &model, output.as_deref().map(Path::new)),
        ),
    }
}

fn head_of(text: &str, model: &Model) -> Result<(usize, usize)> {
    let c = &model.config;
    match Component::parse(text) {
        Some(Component::Head { layer, head }) if layer < c.n_layers && head < c.n_heads => Ok((layer, head)),
        _ => Err(Error::request(format!(
            "--head {text} is no head of this model; give LAYER.HEAD from 0.0 to {}.{}",
            c.n_layers - 1,
            c.n_heads - 1
        ))),
    }
}

/// A grid of a number, [layer][head].
fn grid(index: &HeadIndex, value: impl Fn(usize, usize) -> f32) -> Vec<Vec<f32>> {
    (0..index.about.n_layers).map(|l| (0..index.about.n_heads).map(|h| value(l, h)).collect()).collect()
}

fn scores_json(index: &HeadIndex) -> Value {
    let axes = json!(["layer", "head"]);
    let mut scores = serde_json::Map::new();
    for m in Measure::ALL {
        scores.insert(m.name().to_owned(), json!({"axes": axes, "values": grid(index, |l, h| index.mean(l, h, m))}));
    }
    let entry = |l, h| index.entry(l, h).map(|e| (e.copying, e.anti_copying)).unwrap_or_default();
    scores.insert("copying".to_owned(), json!({"axes": axes, "values": grid(index, |l, h| entry(l, h).0)}));
    scores.insert("anti_copying".to_owned(), json!({"axes": axes, "values": grid(index, |l, h| entry(l, h).1)}));
    json!({"scores": scores, "measure": "detector", "about": index.about})
}

fn example_json(e: &Example, model: &Model) -> Value {
    let token = |id: u32| json!({"id": id, "text": model.token_text(id)});
    let words = |list: &[(u32, f32)]| -> Vec<Value> {
        list.iter().map(|(id, v)| json!({"id": id, "text": model.token_text(*id), "logit": v})).collect()
    };
    let around = |ids: &[u32]| ids.iter().map(|id| model.token_text(*id)).collect::<String>();
    json!({
        "strength": e.strength, "weight": e.weight, "row": e.row, "document": e.document,
        "query": {"pos": e.query, "token": token(e.query_token()), "around": around(&e.query_tokens)},
        "key": {"pos": e.key, "token": token(e.key_token()), "around": around(&e.key_tokens)},
        "promoted": words(&e.promoted), "suppressed": words(&e.suppressed),
    })
}

fn page_json(index: &HeadIndex, model: &Model, layer: usize, head: usize) -> Value {
    let entry = index.entry(layer, head);
    let scores: serde_json::Map<String, Value> =
        Measure::ALL.into_iter().map(|m| (m.name().to_owned(), json!(index.mean(layer, head, m)))).collect();
    let feeds = |of_key| -> Vec<Value> {
        let list = index.feeds(&model.config, layer, head, of_key);
        list.iter().take(FEEDS).map(|(c, s)| json!({"component": c.to_string(), "share": s})).collect()
    };
    let examples: Vec<Value> = entry.map_or(Vec::new(), |e| e.top.iter().map(|x| example_json(x, model)).collect());
    json!({"head": format!("{layer}.{head}"), "scores": scores, "copying": entry.map(|e| e.copying),
        "anti_copying": entry.map(|e| e.anti_copying), "query_from": feeds(false), "key_from": feeds(true),
        "examples": examples, "about": index.about})
}

/// What is said of pages that are not done.
fn unfinished(index: &HeadIndex) -> String {
    let about = &index.about;
    if about.is_complete() {
        String::new()
    } else {
        format!(" (not done: {} of {} batches)", about.done, about.batches)
    }
}

fn page_text(index: &HeadIndex, model: &Model, layer: usize, head: usize) -> String {
    let mut out = format!(
        "head {layer}.{head}, {} queries of {}{}\n\n",
        index.about.queries,
        index.about.texts.join(", "),
        unfinished(index)
    );
    let mut rows: Vec<Vec<String>> = Measure::ALL
        .into_iter()
        .map(|m| vec![m.name().to_owned(), format!("{:.4}", index.mean(layer, head, m)), m.explain().to_owned()])
        .collect();
    if let Some(e) = index.entry(layer, head) {
        let promotes = "share of tokens that it promotes when it attends to them, by its weights";
        rows.push(vec!["copying".to_owned(), format!("{:.4}", e.copying), promotes.to_owned()]);
        rows.push(vec![
            "anti-copying".to_owned(),
            format!("{:.4}", e.anti_copying),
            "share that it suppresses".to_owned(),
        ]);
    }
    out.push_str(&table(&["score", "value", ""], &rows));
    for (name, of_key) in [("query", false), ("key", true)] {
        let list = index.feeds(&model.config, layer, head, of_key);
        let words: Vec<String> = list.iter().take(FEEDS).map(|(c, s)| format!("{c} {s:+.3}")).collect();
        out.push_str(&format!("\n\nits {name} is fed by  {}", words.join("  ")));
    }
    let words = |list: &[(u32, f32)]| list.iter().map(|w| quoted(&model.token_text(w.0))).collect::<Vec<_>>().join(" ");
    let rows: Vec<Vec<String>> = index
        .entry(layer, head)
        .map_or(&[][..], |e| &e.top)
        .iter()
        .map(|e| {
            let around: String = e.query_tokens.iter().map(|id| model.token_text(*id)).collect();
            vec![
                format!("{:.3}", e.weight),
                quoted(&model.token_text(e.query_token())),
                quoted(&model.token_text(e.key_token())),
                words(&e.promoted),
                words(&e.suppressed),
                around.replace('\n', "⏎"),
            ]
        })
        .collect();
    out.push_str("\n\n");
    out.push_str(&table(&["weight", "query", "key", "raises", "lowers", "around the query"], &rows));
    out
}

fn all_text(index: &HeadIndex, model: &Model, output: Option<&Path>) -> String {
    let mut heads: Vec<(usize, usize)> =
        (0..index.about.n_layers).flat_map(|l| (0..index.about.n_heads).map(move |h| (l, h))).collect();
    let strongest = |(l, h): &(usize, usize)| {
        [Measure::Previous, Measure::Duplicate, Measure::Induction]
            .map(|m| index.mean(*l, *h, m))
            .into_iter()
            .fold(0f32, f32::max)
    };
    heads.sort_by(|a, b| strongest(b).total_cmp(&strongest(a)));
    let mut header = vec!["head"];
    header.extend(Measure::ALL.map(Measure::name));
    header.extend(["copying", "looks hardest"]);
    let rows: Vec<Vec<String>> = heads
        .iter()
        .map(|(l, h)| {
            let mut row = vec![format!("{l}.{h}")];
            row.extend(Measure::ALL.map(|m| format!("{:.3}", index.mean(*l, *h, m))));
            let entry = index.entry(*l, *h);
            row.push(entry.map_or(String::new(), |e| format!("{:.2}", e.copying)));
            row.push(entry.and_then(|e| e.top.first()).map_or(String::new(), |e| {
                format!("{} → {}", quoted(&model.token_text(e.query_token())), quoted(&model.token_text(e.key_token())))
            }));
            row
        })
        .collect();
    let output = output.map_or(String::new(), |p| format!(" in {}", p.display()));
    format!("{}\n\n{} queries{}{output}", table(&header, &rows), index.about.queries, unfinished(index))
}
