//! `circuit`: finds circuits, and measures how good they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::circuit_over::{Judge, check_outside};
use super::output::document;
use super::over_set::{self, OverSetArgs};
use super::patch::PairArgs;
use super::set_args::{PAIR, SetArgs};
use super::submit::{Work, longest};
use super::{ModelArgs, emit, emit_json, open_model, progress, table};
use crate::analysis::metric::MetricKind;
use crate::analysis::pair::Pair;
use crate::analysis::patching::Ablation;
use crate::analysis::plan::Planned;
use crate::circuit::Wiring;
use crate::circuit::eap::{EdgeScores, Path as Along, STEPS};
use crate::circuit::file::{CircuitFile, MEASURED, PromptPair};
use crate::circuit::pair_values::PairValues;
use crate::circuit::prompt_set::{PromptSet, SHIPPED};
use crate::circuit::quality::{CircuitOf, Comparison, Quality, SIZES, metric_of_trial};
use crate::circuit::search::{OUTSIDE, Search, SearchSettings, search_by};
use crate::circuit::trial::AnsweredPair;
use crate::cost::Cost;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::Question;
use crate::shard::{hex, whole};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Search a circuit and write it as JSON
    Find(FindArgs),
    /// Faithfulness, completeness, minimality, and the curve over sizes
    Eval(EvalArgs),
    /// List the prompt sets that come with the program
    Sets,
}

/// The prompts of a set or of the command line, in the forms in which a circuit keeps them and is tried on them.
fn prompts(
    set: &SetArgs,
    args: &PairArgs,
    model: &Arc<Model>,
    progress: &Progress,
) -> Result<(Vec<PromptPair>, Vec<AnsweredPair>)> {
    if let Some(prompts) = set.generate(model)? {
        let runs = run_all(&prompts, model, progress)?;
        return Ok((prompts, runs));
    }
    let pair = args.runs(model, progress)?;
    let prompt = prompt(args, &pair, model)?;
    let runs = AnsweredPair { pair, answer: prompt.answer_id, wrong: prompt.wrong_id };
    Ok((vec![prompt], vec![runs]))
}

fn run_all(prompts: &[PromptPair], model: &Arc<Model>, progress: &Progress) -> Result<Vec<AnsweredPair>> {
    prompts.iter().map(|p| AnsweredPair::run(p, model, progress)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Edge attribution patching
    Eap,
    /// The same with integrated gradients
    EapIg,
    /// Greedy removal from the output backwards
    Acdc,
}

#[derive(clap::Args, Debug)]
struct FindArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pair: PairArgs,
    #[command(flatten)]
    set: SetArgs,
    /// How edges are chosen
    #[arg(long, value_enum, default_value = "eap-ig")]
    method: Method,
    /// Keep this many edges, before pruning
    #[arg(long, value_name = "N", conflicts_with = "threshold")]
    edges: Option<usize>,
    /// Keep edges of at least this |score|; with acdc the change of the metric below which an edge goes
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Points of EAP-IG's path
    #[arg(long, default_value_t = STEPS, value_name = "M")]
    steps: usize,
    /// Edge scores over a prompt set that `attribute --method eap|eap-ig --set` wrote, its shards merged: they rank the
    /// edges, and the circuit is measured on the prompts named here
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// Begin with more edges than wanted and measure exactly which can go
    #[arg(long, requires = "edges", conflicts_with = "threshold")]
    rescore: bool,
    /// What to measure (default: logit difference; KL for acdc)
    #[arg(long, value_enum)]
    metric: Option<MetricKind>,
    /// What stands in for everything outside the circuit
    #[arg(long, value_enum, default_value_t = OUTSIDE)]
    outside: Ablation,
    /// Where to write the circuit
    #[arg(short, long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    /// Nodes and edges to list
    #[arg(long, default_value_t = 15, value_name = "N")]
    top: usize,
}

impl Arguments {
    /// What a search costs, or the evaluation over a prompt set.
    pub fn work(&self) -> Option<Work<'_>> {
        match &self.action {
            Action::Find(a) => Some(Work::new(&a.model, |model| a.cost(model))),
            Action::Eval(a) if a.over.output.is_some() => {
                let circuits = if a.scores.is_some() { 2 + SIZES.len() } else { 2 };
                // What the circuit's file says of it is not read here.
                let outside = a.outside.unwrap_or(Ablation::Zero);
                let work = a.over.work(&a.model, Planned::Circuits { circuits })?;
                Some(work.checked(move || check_outside(outside)))
            }
            _ => None,
        }
    }
}

impl FindArgs {
    fn cost(&self, model: &Model) -> Result<Cost> {
        let search = self.search()?;
        let (n, pairs) = match self.set.generate(model)? {
            Some(pairs) => (longest(&pairs), pairs.len()),
            None => {
                let [clean, corrupt] = self.pair.ids(model)?;
                (clean.len().max(corrupt.len()), 1)
            }
        };
        search.cost(model, n, pairs, self.scores.is_some())
    }

    fn search(&self) -> Result<Search> {
        let path = if self.method == Method::Eap { Along::Clean } else { Along::Integrated(self.steps) };
        match (self.method, self.edges, self.threshold) {
            (Method::Acdc, Some(_), _) => {
                Err(Error::request("acdc takes --threshold X; --edges and --rescore belong to eap and eap-ig"))
            }
            (Method::Acdc, None, Some(threshold)) => Ok(Search::Acdc { threshold }),
            (Method::Acdc, None, None) => {
                Err(Error::request("acdc needs --threshold X, a change of the metric such as 0.01"))
            }
            (_, Some(edges), _) => Ok(Search::Scores { path, edges, rescore: self.rescore }),
            (_, None, Some(threshold)) => Ok(Search::Above { path, threshold }),
            (_, None, None) => Err(Error::request("how large a circuit? add --edges N or --threshold X")),
        }
    }
}

#[derive(clap::Args, Debug)]
struct EvalArgs {
    /// The circuit
    #[arg(value_name = "circuit.json")]
    circuit: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Other prompts than the circuit's own
    #[command(flatten)]
    pair: PairArgs,
    #[command(flatten)]
    over: OverSetArgs,
    /// With --output: edge scores that rank the edges for the curve over sizes, as `circuit find --scores` takes them
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with = "compare", conflicts_with_all = PAIR)]
    scores: Option<PathBuf>,
    /// What to measure (default: as the circuit was found; the logit difference for acdc's KL)
    #[arg(long, value_enum)]
    metric: Option<MetricKind>,
    /// What stands in for everything outside the circuit (default: as it was found)
    #[arg(long, value_enum)]
    outside: Option<Ablation>,
    /// A second circuit to compare it with
    #[arg(long, value_name = "other.json", conflicts_with = "output")]
    compare: Option<PathBuf>,
    /// Leave out the curve over sizes
    #[arg(long)]
    no_curve: bool,
    /// Nodes and edges to list
    #[arg(long, default_value_t = 15, value_name = "N")]
    top: usize,
}

pub fn execute(args: &Arguments) -> Result<()> {
    match &args.action {
        Action::Find(a) => find(a),
        Action::Eval(a) => eval(a),
        Action::Sets => {
            let rows = SHIPPED
                .iter()
                .map(|s| Ok(vec![s.name.to_owned(), PromptSet::open(s.name)?.about]))
                .collect::<Result<Vec<_>>>()?;
            let width = rows.iter().map(|r| r[0].len()).max().unwrap_or(0);
            emit(&rows.iter().map(|r| format!("{:width$}  {}", r[0], r[1])).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// The prompts of a command line, to be kept with a circuit.
fn prompt(args: &PairArgs, pair: &Pair, model: &Model) -> Result<PromptPair> {
    let (answer_id, wrong_id) = args.tokens(model)?;
    let ids = |t: Option<&Arc<Trace>>| t.map(|t| t.ids.clone()).unwrap_or_default();
    Ok(PromptPair {
        clean: args.clean.clone().unwrap_or_default(),
        corrupt: args.corrupt.clone().unwrap_or_default(),
        clean_ids: ids(Some(&pair.clean)),
        corrupt_ids: ids(pair.corrupted.as_ref()),
        answer: args.answer.clone(),
        wrong: args.wrong.clone(),
        answer_id,
        wrong_id,
    })
}

/// Scores in a file, and what they are means over.
fn known(
    path: &Path,
    model: &Model,
    kind: MetricKind,
    (answer, wrong): (Option<u32>, Option<u32>),
) -> Result<(Arc<EdgeScores>, String)> {
    let found = PairValues::open(path)?;
    whole(path, &found.about)?;
    let (a, name) = (&found.about, path.display());
    if a.shard.model_hash != hex(model.fingerprint()?) {
        return Err(Error::request(format!(
            "{name} scores the edges of {}, and the model is {}; open that one",
            a.model, model.config.name
        )));
    }
    let metric = &a.measured["metric"];
    if metric != kind.name() {
        return Err(Error::request(format!(
            "{name} scores edges by {metric}, and the circuit is measured by {}; name the same --metric",
            kind.name()
        )));
    }
    let metric = kind.with(answer, wrong)?;
    let steps = a.measured["steps"].as_u64().unwrap_or(0) as usize;
    let scores = EdgeScores::of_flat(Wiring::new(&model.config), &found.means()?.values, steps, metric);
    let scores = scores.ok_or_else(|| {
        Error::request(format!("{name} holds no scores of edges; `attribute --method eap-ig --set` writes them"))
    })?;
    Ok((Arc::new(scores), format!("{} pairs of {}", found.ends.len(), a.set)))
}

fn find(args: &FindArgs) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let mut settings = SearchSettings { outside: args.outside, ..args.search()?.into() };
    settings.metric = args.metric.unwrap_or(settings.metric);
    let (progress, bar) = progress("circuit");
    let started = Instant::now();
    let (prompts, pairs) = prompts(&args.set, &args.pair, &model, &progress)?;
    let answers = pairs.first().map_or((None, None), |p| (p.answer, p.wrong));
    let known = args.scores.as_deref().map(|path| known(path, &model, settings.metric, answers)).transpose()?;
    let found = search_by(known.as_ref().map(|k| k.0.clone()), &pairs, settings, &progress, &mut |_| {})?;
    let mut method = found.draft.origin.clone();
    if let Some((_, of)) = known {
        method = format!("{method}, by scores over {of}");
    }
    if found.scores.is_none() {
        method += MEASURED;
    }
    let (kind, edges) = (found.metric, &found.edges);
    let file = CircuitFile::new(&model, prompts, kind, args.outside, method.clone(), edges, |e| found.score(e));
    if let Some(path) = &args.output {
        file.save(path)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let doc = json!({
            "method": method, "metric": kind.name(), "outside": args.outside.label(),
            "nodes": file.nodes, "edges": file.edges, "n_edges": edges.len(),
            "all_edges": edges.wiring.n_edges(), "faithfulness": found.faithfulness,
            "clean": found.scale.full, "corrupt": found.scale.empty,
            "score_seconds": found.scores.as_ref().map(|s| s.seconds),
        });
        return emit_json(document(&model, Some(&pairs[0].pair.clean.ids), seconds, doc));
    }
    let rows = |list: &mut dyn Iterator<Item = (&String, f32)>| -> Vec<Vec<String>> {
        list.take(args.top).map(|(n, s)| vec![n.clone(), format!("{s:+.4}")]).collect()
    };
    let mut nodes: Vec<_> = file.nodes.iter().collect();
    nodes.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()));
    emit(&format!("{}\n", table(&["node", "score"], &rows(&mut nodes.iter().map(|n| (&n.name, n.score))))))?;
    emit(&format!("{}\n", table(&["edge", "score"], &rows(&mut file.edges.iter().map(|e| (&e.name, e.score))))))?;
    emit(&format!(
        "{method}: {} nodes, {} edges of {}, faithfulness {:.3} ({} outside; {} {:+.4} whole, {:+.4} without), {seconds:.2} s",
        file.nodes.len(),
        edges.len(),
        edges.wiring.n_edges(),
        found.faithfulness,
        args.outside.label(),
        kind.label(),
        found.scale.full,
        found.scale.empty,
    ))
}

/// Judges a circuit on every pair of a prompt set, and keeps what each gave.
fn eval_over(args: &EvalArgs, file: &CircuitFile, model: Arc<Model>) -> Result<()> {
    let outside = args.outside.unwrap_or(file.outside);
    let pairs = args.over.set.generate(&model)?.unwrap_or_default();
    let answers = pairs.first().map_or((None, None), |p| (p.answer_id, p.wrong_id));
    let answered = pairs.iter().all(|p| p.answer_id.is_some() && p.wrong_id.is_some());
    let metric = args.metric.unwrap_or_else(|| metric_of_trial(file.metric, answered));
    let scores = args.scores.as_deref().map(|path| known(path, &model, metric, answers)).transpose()?;
    let circuit = file.draft().circuit(Wiring::new(&model.config))?;
    let judge = Judge::new(metric, outside, circuit, scores.as_ref().map(|(scores, _)| scores))?;
    let measured = judge.measured(&args.circuit, &file.method);
    over_set::execute(
        &args.over,
        (model, args.model.json),
        ("circuit eval", measured),
        args.top,
        &mut |pair, progress| judge.pair(pair, progress),
    )
}

fn eval(args: &EvalArgs) -> Result<()> {
    let file = CircuitFile::open(&args.circuit)?;
    let spec = args.model.model.clone().unwrap_or_else(|| file.model.spec.clone());
    let model = Arc::new(open_model(&spec, args.model.weights)?);
    let wiring = Wiring::new(&model.config);
    file.edges(wiring)?;
    if args.over.is_asked()? && args.over.output.is_some() {
        return eval_over(args, &file, model);
    }
    let (progress, bar) = progress("circuit");
    let started = Instant::now();
    let own = args.over.set.set.is_none() && args.pair.clean.is_none() && args.pair.clean_ids.is_none();
    let (prompts, pairs) = if own {
        let pairs = run_all(&file.prompts, &model, &progress)?;
        (file.prompts.clone(), pairs)
    } else {
        prompts(&args.over.set, &args.pair, &model, &progress)?
    };
    let ids = pairs.first().map(|p| p.pair.clean.ids.clone());
    let answered = pairs.iter().all(|p| p.answer.is_some() && p.wrong.is_some());
    let kind = args.metric.unwrap_or_else(|| metric_of_trial(file.metric, answered));
    let outside = args.outside.unwrap_or(file.outside);
    let compared = match &args.compare {
        Some(path) => {
            let other = CircuitFile::open(path)?;
            other.edges(wiring)?;
            Some((path.display().to_string(), other.draft()))
        }
        None => None,
    };
    let curve = !args.no_curve;
    let question = CircuitOf { prompts: pairs, draft: file.draft(), metric: kind, outside, set: None, curve, compared };
    let tried = question.run(&progress, &mut |_| {})?;
    let q = &tried.quality;
    let (mut curve_json, mut curve_line) = (Value::Null, String::new());
    if let Some(c) = &tried.curve {
        curve_json = json!({
            "ranking": Along::Integrated(STEPS).to_string(), "cpr": c.cpr, "cmd": c.cmd,
            "points": c.points.iter().map(|(share, n, f)| json!({"share": share, "edges": n, "faithfulness": f})).collect::<Vec<_>>(),
        });
        let points: Vec<String> = c.points.iter().map(|(s, _, f)| format!("{s} {f:.3}")).collect();
        curve_line = format!(
            "\ncurve over shares of all edges (EAP-IG): {}; CPR {:.3}, CMD {:.3}",
            points.join(", "),
            c.cpr,
            c.cmd
        );
    } else if let Some(e) = &tried.curve_error {
        curve_json = json!({"unavailable": e});
        curve_line = format!("\nno curve: {e}");
    }
    let compared = tried.compared.map(|c| c.map(|c| compare(&c)).map_err(Error::failed)).transpose()?;
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let prompts: Vec<Value> = q
            .prompts
            .iter()
            .zip(&prompts)
            .map(|((f, s), p)| json!({"clean": p.clean, "corrupt": p.corrupt, "answer": p.answer, "wrong": p.wrong, "faithfulness": f, "whole": s.full, "without": s.empty}))
            .collect();
        let members = |list: Vec<(String, f32)>| -> Vec<Value> {
            list.into_iter().map(|(name, drop)| json!({"name": name, "drop": drop})).collect()
        };
        let mut doc = json!({
            "circuit": args.circuit.display().to_string(), "method": file.method, "metric": kind.name(), "outside": outside.label(),
            "n_edges": q.size, "faithfulness": q.faithfulness, "completeness": q.completeness,
            "minimality": {
                "nodes": members(q.members.iter().map(|(c, d)| (c.to_string(), *d)).collect()),
                "edges": members(q.edges.iter().map(|(e, d)| (wiring.name(*e), *d)).collect()),
            },
            "curve": curve_json, "prompts": prompts,
        });
        if let (Some(doc), Some((value, _))) = (doc.as_object_mut(), compared) {
            doc.insert("compared".to_owned(), value);
        }
        return emit_json(document(&model, ids.as_deref(), seconds, doc));
    }
    print_quality(q, wiring, args.top)?;
    if prompts.len() > 1 {
        let rows: Vec<Vec<String>> = prompts
            .iter()
            .zip(&q.prompts)
            .map(|(p, (f, s))| {
                vec![p.clean.clone(), format!("{f:.3}"), format!("{:+.2}", s.full), format!("{:+.2}", s.empty)]
            })
            .collect();
        emit(&format!("{}\n", table(&["prompt", "faithful", "whole", "without"], &rows)))?;
    }
    emit(&format!(
        "{} edges, {} outside, {}: faithfulness {:.3}, completeness (the complement's) {:.3}; {seconds:.2} s{curve_line}{}",
        q.size,
        outside.label(),
        kind.label(),
        q.faithfulness,
        q.completeness,
        compared.map_or(String::new(), |(_, line)| format!("\n{line}")),
    ))
}

fn print_quality(q: &Quality, w: Wiring, top: usize) -> Result<()> {
    let rows = |list: &mut dyn Iterator<Item = (String, f32)>| -> Vec<Vec<String>> {
        list.take(top).map(|(n, d)| vec![n, format!("{d:+.4}")]).collect()
    };
    emit(&format!(
        "{}\n",
        table(&["without node", "drop"], &rows(&mut q.members.iter().map(|(c, d)| (c.to_string(), *d))))
    ))?;
    emit(&format!("{}\n", table(&["without edge", "drop"], &rows(&mut q.edges.iter().map(|(e, d)| (w.name(*e), *d))))))
}

/// A comparison as part of the document, and as a line.
fn compare(c: &Comparison) -> (Value, String) {
    let o = c.overlap;
    let value = json!({
        "shared_edges": o.shared_edges, "shared_nodes": o.shared_nodes, "edge_jaccard": o.edge_jaccard,
        "node_jaccard": o.node_jaccard, "faithfulness": c.other_faithfulness,
        "shared_faithfulness": c.shared_faithfulness, "n_edges": c.other_edges,
    });
    let line = format!(
        "the other has {} edges and faithfulness {:.3}; {} edges ({:.0} % of all in either) and {} nodes ({:.0} %) are shared, alone they reach {:.3}",
        c.other_edges,
        c.other_faithfulness,
        o.shared_edges,
        100.0 * o.edge_jaccard,
        o.shared_nodes,
        100.0 * o.node_jaccard,
        c.shared_faithfulness
    );
    (value, line)
}
