//! `circuit`: find circuits, and say how good they are.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::output::document;
use super::patch::PairArgs;
use super::{ModelArgs, emit, progress, table};
use crate::analysis::contributions::Means;
use crate::analysis::metric::MetricKind;
use crate::analysis::pair::Pair;
use crate::analysis::patching::Ablation;
use crate::circuit::acdc::acdc;
use crate::circuit::eap::{EdgeScores, Path, STEPS, edge_scores};
use crate::circuit::file::{CircuitFile, PromptPair};
use crate::circuit::find::{edges_above, refine, top_edges};
use crate::circuit::prompt_set::{PromptSet, SHIPPED};
use crate::circuit::quality::{Comparison, Curve, Quality, Trial, curve, quality};
use crate::circuit::{Edge, Edges, Wiring};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

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

/// Prompts out of a template.
#[derive(clap::Args, Clone, Debug)]
struct SetArgs {
    /// A prompt set, by name (see `circuit sets`) or as a .toml file
    #[arg(long, value_name = "NAME|FILE.toml", conflicts_with_all = ["clean", "clean_ids", "corrupt", "corrupt_ids", "answer", "wrong"])]
    set: Option<String>,
    /// Pairs to generate from the set
    #[arg(long, default_value_t = 8, value_name = "N")]
    pairs: usize,
    /// Seed of the draw
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

impl SetArgs {
    fn generate(&self, model: &Model) -> Result<Option<Vec<PromptPair>>> {
        let Some(name) = &self.set else { return Ok(None) };
        if self.pairs == 0 {
            return Err(Error::request("--pairs 0 leaves no prompt; give at least one"));
        }
        Ok(Some(PromptSet::open(name)?.generate(model, self.pairs, self.seed, &Progress::new())?.pairs))
    }
}

/// Runs of pairs.
fn run_all(prompts: &[PromptPair], model: &Arc<Model>, progress: &Progress) -> Result<Vec<Pair>> {
    prompts.iter().map(|p| runs_of(p, model, progress)).collect()
}

/// What each pair is tried by; means are taken over all their clean and corrupted runs.
fn trials<'a>(
    pairs: &'a [Pair],
    prompts: &[PromptPair],
    kind: MetricKind,
    outside: Ablation,
    progress: &Progress,
) -> Result<Vec<Trial<'a>>> {
    let runs: Vec<Arc<Trace>> = pairs.iter().flat_map(Pair::traces).collect();
    let means = if outside == Ablation::Mean { Some(Means::of(&runs, progress)?) } else { None };
    pairs
        .iter()
        .zip(prompts)
        .map(|(pair, p)| Trial::new(pair, kind.with(p.answer_id, p.wrong_id)?, outside, means.as_ref()))
        .collect()
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
    /// Begin with more edges than wanted and measure exactly which can go
    #[arg(long, requires = "edges")]
    rescore: bool,
    /// What to measure (default: logit difference; KL for acdc)
    #[arg(long, value_enum)]
    metric: Option<MetricKind>,
    /// What stands in for everything outside the circuit
    #[arg(long, value_enum, default_value_t = Ablation::Resample)]
    outside: Ablation,
    /// Where to write the circuit
    #[arg(short, long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    /// Nodes and edges to list
    #[arg(long, default_value_t = 15, value_name = "N")]
    top: usize,
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
    set: SetArgs,
    /// What to measure (default: as the circuit was found; the logit difference for acdc's KL)
    #[arg(long, value_enum)]
    metric: Option<MetricKind>,
    /// What stands in for everything outside the circuit (default: as it was found)
    #[arg(long, value_enum)]
    outside: Option<Ablation>,
    /// A second circuit to compare it with
    #[arg(long, value_name = "other.json")]
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
fn prompts(args: &PairArgs, pair: &Pair, model: &Model) -> Result<PromptPair> {
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

fn find(args: &FindArgs) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let kind = args.metric.unwrap_or(if args.method == Method::Acdc { MetricKind::Kl } else { MetricKind::default() });
    if args.method != Method::Acdc && args.edges.is_none() && args.threshold.is_none() {
        return Err(Error::request("how large a circuit? add --edges N or --threshold X"));
    }
    if args.edges == Some(0) {
        return Err(Error::request("a circuit of no edges explains nothing; ask for at least one"));
    }
    if args.method == Method::Acdc && (args.edges.is_some() || args.rescore) {
        return Err(Error::request("acdc takes --threshold X; --edges and --rescore belong to eap and eap-ig"));
    }
    let (progress, bar) = progress("circuit");
    let started = Instant::now();
    let prompts = match args.set.generate(&model)? {
        Some(list) => list,
        None => {
            let pair = args.pair.runs(&model, &progress)?;
            vec![prompts(&args.pair, &pair, &model)?]
        }
    };
    let pairs = run_all(&prompts, &model, &progress)?;
    let trials = trials(&pairs, &prompts, kind, args.outside, &progress)?;
    let mut score_seconds = Value::Null;
    let mut scores: Option<EdgeScores> = None;
    let (edges, method) = match args.method {
        Method::Acdc => {
            let threshold = args
                .threshold
                .ok_or_else(|| Error::request("acdc needs --threshold X, a change of the metric such as 0.01"))?;
            let on: Vec<_> = trials.iter().map(|t| (&t.stage, &t.readout)).collect();
            let edges = acdc(&on, threshold, &progress, |_| {})?;
            (edges, format!("ACDC, threshold {threshold}; scores are losses of faithfulness"))
        }
        Method::Eap | Method::EapIg => {
            let path = if args.method == Method::Eap { Path::Clean } else { Path::Integrated(args.steps) };
            let score = |(pair, trial): (&Pair, &Trial<'_>)| edge_scores(pair, trial.readout.metric, path, &progress);
            let found = EdgeScores::mean(pairs.iter().zip(&trials).map(score).collect::<Result<Vec<_>>>()?)?;
            score_seconds = json!(found.seconds);
            let name =
                if args.method == Method::Eap { "EAP".to_owned() } else { format!("EAP-IG, {} steps", args.steps) };
            let chosen = match (args.edges, args.threshold) {
                (Some(n), _) if args.rescore => {
                    (refine(&trials, &found, n, &progress, |_| {})?, format!("{name}, re-scored exactly to {n} edges"))
                }
                (Some(n), _) => (top_edges(&found, n), format!("{name}, top {n} edges")),
                (None, Some(x)) => (edges_above(&found, x), format!("{name}, |score| ≥ {x}")),
                (None, None) => return Err(Error::request("how large a circuit? add --edges N or --threshold X")),
            };
            scores = Some(found);
            chosen
        }
    };
    let runs = crate::circuit::find::Runs::of(&trials, &edges, &progress)?;
    let faithfulness = runs.faithfulness(&progress)?;
    // ACDC ranks nothing: its edges are given what the circuit loses without them.
    let mut drops: HashMap<Edge, f32> = HashMap::new();
    if scores.is_none() {
        let list: Vec<Edge> = runs.edges().iter().collect();
        let without = runs.without_each(&list, &progress)?;
        drops.extend(list.into_iter().zip(without).map(|(e, f)| (e, faithfulness - f)));
    }
    let score = |e: Edge| match &scores {
        Some(scores) => scores.get(e),
        None => drops.get(&e).copied().unwrap_or(0.0),
    };
    let file = CircuitFile::new(&model, prompts, kind, args.outside, method.clone(), &edges, score);
    if let Some(path) = &args.output {
        file.save(path)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(bar);
    if args.model.json {
        let doc = json!({
            "method": method, "metric": kind.name(), "outside": args.outside.label(),
            "nodes": file.nodes, "edges": file.edges, "n_edges": edges.len(),
            "all_edges": edges.wiring.n_edges(), "faithfulness": faithfulness,
            "clean": trials[0].scale.full, "corrupt": trials[0].scale.empty,
            "score_seconds": score_seconds,
        });
        return emit(&document(&model, Some(&pairs[0].clean.ids), seconds, doc).to_string());
    }
    let rows = |list: &mut dyn Iterator<Item = (&String, f32)>| -> Vec<Vec<String>> {
        list.take(args.top).map(|(n, s)| vec![n.clone(), format!("{s:+.4}")]).collect()
    };
    let mut nodes: Vec<_> = file.nodes.iter().collect();
    nodes.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()));
    emit(&format!("{}\n", table(&["node", "score"], &rows(&mut nodes.iter().map(|n| (&n.name, n.score))))))?;
    emit(&format!("{}\n", table(&["edge", "score"], &rows(&mut file.edges.iter().map(|e| (&e.name, e.score))))))?;
    emit(&format!(
        "{method}: {} nodes, {} edges of {}, faithfulness {faithfulness:.3} ({} outside; {} {:+.4} whole, {:+.4} without), {seconds:.2} s",
        file.nodes.len(),
        edges.len(),
        edges.wiring.n_edges(),
        args.outside.label(),
        kind.label(),
        trials[0].scale.full,
        trials[0].scale.empty,
    ))
}

/// The runs of a pair that a file keeps.
fn runs_of(prompt: &PromptPair, model: &Arc<Model>, progress: &Progress) -> Result<Pair> {
    let run = |ids: &[u32]| Ok::<_, Error>(Arc::new(Trace::run(model, ids.to_vec(), progress)?));
    if prompt.corrupt_ids.is_empty() {
        return Ok(Pair::alone(run(&prompt.clean_ids)?));
    }
    Ok(Pair::new(run(&prompt.clean_ids)?, run(&prompt.corrupt_ids)?))
}

fn eval(args: &EvalArgs) -> Result<()> {
    let file = CircuitFile::open(&args.circuit)?;
    let spec = args.model.model.clone().unwrap_or_else(|| file.model.spec.clone());
    let model = Arc::new(Model::open(&spec)?);
    let edges = file.edges(Wiring::new(&model.config))?;
    let (progress, bar) = progress("circuit");
    let started = Instant::now();
    let own = args.pair.clean.is_none() && args.pair.clean_ids.is_none();
    let prompts = match args.set.generate(&model)? {
        Some(list) => list,
        None if own => file.prompts.clone(),
        None => {
            let pair = args.pair.runs(&model, &progress)?;
            vec![prompts(&args.pair, &pair, &model)?]
        }
    };
    // ACDC searches by KL, whose two ends say nothing of an answer; where there are answers they are used.
    let answered = prompts.iter().all(|p| p.answer_id.is_some() && p.wrong_id.is_some());
    let kind = args.metric.unwrap_or(match file.metric {
        MetricKind::Kl if answered => MetricKind::LogitDifference,
        other => other,
    });
    let outside = args.outside.unwrap_or(file.outside);
    let pairs = run_all(&prompts, &model, &progress)?;
    let trials = trials(&pairs, &prompts, kind, outside, &progress)?;
    let q = quality(&trials, &edges, &progress)?;
    let mut curve_json = Value::Null;
    let mut curve_line = String::new();
    if !args.no_curve && pairs.iter().all(|p| p.corrupted.is_some()) {
        // A curve that cannot be had takes nothing from the rest.
        match curve_of(&pairs, &trials, &progress) {
            Ok(c) => {
                curve_json = json!({
                    "ranking": format!("EAP-IG, {STEPS} steps"), "cpr": c.cpr, "cmd": c.cmd,
                    "points": c.points.iter().map(|(share, n, f)| json!({"share": share, "edges": n, "faithfulness": f})).collect::<Vec<_>>(),
                });
                let points: Vec<String> = c.points.iter().map(|(s, _, f)| format!("{s} {f:.3}")).collect();
                curve_line = format!(
                    "\ncurve over shares of all edges (EAP-IG): {}; CPR {:.3}, CMD {:.3}",
                    points.join(", "),
                    c.cpr,
                    c.cmd
                );
            }
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(e) => {
                curve_json = json!({"unavailable": e.to_string()});
                curve_line = format!("\nno curve: {e}");
            }
        }
    }
    let compared = match &args.compare {
        Some(path) => {
            let other = CircuitFile::open(path)?.edges(edges.wiring)?;
            Some(compare(&trials, &edges, &other, &progress)?)
        }
        None => None,
    };
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
                "edges": members(q.edges.iter().map(|(e, d)| (edges.wiring.name(*e), *d)).collect()),
            },
            "curve": curve_json, "prompts": prompts,
        });
        if let (Some(doc), Some((value, _))) = (doc.as_object_mut(), compared) {
            doc.insert("compared".to_owned(), value);
        }
        let ids = pairs.first().map(|p| p.clean.ids.clone());
        return emit(&document(&model, ids.as_deref(), seconds, doc).to_string());
    }
    print_quality(&q, edges.wiring, args.top)?;
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

/// The curve of the circuits that EAP-IG's scores give, as means over the prompts.
fn curve_of(pairs: &[Pair], trials: &[Trial<'_>], progress: &Progress) -> Result<Curve> {
    let path = Path::Integrated(STEPS);
    let score = |(pair, trial): (&Pair, &Trial<'_>)| edge_scores(pair, trial.readout.metric, path, progress);
    let scores = EdgeScores::mean(pairs.iter().zip(trials).map(score).collect::<Result<Vec<_>>>()?)?;
    curve(trials, &scores, progress, |_, _| {})
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

fn compare(trials: &[Trial<'_>], a: &Edges, b: &Edges, progress: &Progress) -> Result<(Value, String)> {
    let c = Comparison::of(trials, a, b, progress)?;
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
    Ok((value, line))
}
