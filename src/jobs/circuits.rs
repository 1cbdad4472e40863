//! What requests about circuits do: trace, try, search.

use std::path::Path;
use std::sync::Arc;

use crate::analysis::contributions::Means;
use crate::analysis::metric::Metric;
use crate::analysis::pair::Pair;
use crate::analysis::patching::Ablation;
use crate::circuit::acdc::acdc;
use crate::circuit::cart::Cart;
use crate::circuit::eap::{EdgeScores, Path as GradientPath, STEPS, edge_scores};
use crate::circuit::file::PromptPair;
use crate::circuit::find::{Step, refine, top_edges};
use crate::circuit::prompt_set::PromptSet;
use crate::circuit::quality::{Comparison, Curve, Quality, Trial, curve, quality};
use crate::circuit::{Edges, Wiring};
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::graph::Influence;
use crate::graph::components::{Keep, trace_prediction};
use crate::graph::file::GraphFile;
use crate::graph::influence::Scores;
use crate::graph::layout::Shown;
use crate::graph::marks::Marks;
use crate::graph::readers::Attention;
use crate::graph::targets::Target;
use crate::progress::Progress;

/// What a circuit is tried on.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitQuestion {
    pub cart: Cart,
    pub metric: Metric,
    pub outside: Ablation,
    /// A prompt set and how many of its prompts.
    pub set: Option<(String, usize)>,
    /// Whether the curve over sizes is wanted.
    pub curve: bool,
    /// Another circuit to compare it with, and its name.
    pub compared: Option<(String, Cart)>,
}

/// How a circuit is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Search {
    /// Edges wanted; `steps` 0 for plain EAP; `rescore`: measure exactly which can go.
    Scores { edges: usize, steps: usize, rescore: bool },
    /// The change of KL below which an edge goes.
    Acdc { threshold: f32 },
}

/// A circuit that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    pub question: CircuitQuestion,
    pub quality: Quality,
    /// The prompts of the set with the circuit's faithfulness on each.
    pub set: Vec<(PromptPair, f32)>,
    /// Why the set could not be used.
    pub set_error: Option<String>,
    pub curve: Option<Curve>,
    /// Why there is no curve.
    pub curve_error: Option<String>,
    /// How it stands to the other circuit, or why that cannot be said.
    pub compared: Option<std::result::Result<Comparison, String>>,
    pub done: bool,
}

/// A circuit that was found.
#[derive(Clone, Debug)]
pub struct Searched {
    pub cart: Cart,
    /// By which its edges were ranked; none where it was not by scores.
    pub scores: Option<Arc<EdgeScores>>,
    pub faithfulness: f32,
    pub seconds: f64,
}

pub(super) fn traced(
    trace: Arc<Trace>,
    pos: usize,
    target: Target,
    attention: Attention,
    progress: &Progress,
) -> Result<Shown> {
    let found = trace_prediction(&trace, pos, target, attention, Keep::default(), progress)?;
    Ok(Shown::traced(trace, found))
}

pub(super) fn opened(path: &Path) -> Result<Shown> {
    let file = GraphFile::open(path)?;
    let influence = Influence::of(&file.graph);
    Ok(Shown {
        title: file.title(),
        scores: Scores::of(&file.graph, &influence),
        influence,
        remarks: file.remarks.clone(),
        marks: Marks::of(&file),
        graph: Arc::new(file.graph.clone()),
        source: crate::graph::layout::Origin::File(Box::new(file)),
    })
}

/// A question's circuit on the window's pair, then on its prompt set, then the curve; `partial` is handed each.
pub(super) fn tried(
    pair: &Pair,
    question: &CircuitQuestion,
    progress: &Progress,
    partial: &mut dyn FnMut(Tried),
) -> Result<Tried> {
    let edges = question.cart.circuit(Wiring::new(&pair.clean.model.config))?;
    let set = question.set.as_ref().map(|(name, n)| set_runs(pair, name, *n, progress)).transpose();
    let (set, set_error) = match set {
        Ok(set) => (set.unwrap_or_default(), None),
        Err(Error::Cancelled) => return Err(Error::Cancelled),
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    let own = if set.is_empty() { pair.traces() } else { Vec::new() };
    let runs: Vec<Arc<Trace>> = set.iter().flat_map(|(_, p)| p.traces()).chain(own).collect();
    let means = means(question.outside, &runs, progress)?;
    let trial = [Trial::new(pair, question.metric, question.outside, means.as_ref())?];
    let mut out = Tried {
        question: question.clone(),
        quality: quality(&trial, &edges, progress)?,
        set: Vec::new(),
        set_error,
        curve: None,
        curve_error: None,
        compared: None,
        done: false,
    };
    partial(out.clone());
    if let Some((_, other)) = &question.compared {
        let other = other.circuit(edges.wiring);
        out.compared = match other.and_then(|other| Comparison::of(&trial, &edges, &other, progress)) {
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            known => Some(known.map_err(|e| e.to_string())),
        };
        partial(out.clone());
    }
    for (prompt, runs) in &set {
        let metric = question.metric.kind().with(prompt.answer_id, prompt.wrong_id)?;
        // A prompt on which the model has nothing to explain is shown without a number.
        let f = match Trial::new(runs, metric, question.outside, means.as_ref()) {
            Ok(trial) => faithfulness(&[trial], &edges, progress)?,
            Err(e) if e.is_request() => f32::NAN,
            Err(e) => return Err(e),
        };
        out.set.push((prompt.clone(), f));
        partial(out.clone());
    }
    if question.curve && pair.corrupted.is_some() {
        let found = edge_scores(pair, question.metric, GradientPath::Integrated(STEPS), progress)
            .and_then(|scores| curve(&trial, &scores, progress, |_, _| {}));
        match found {
            Ok(curve) => out.curve = Some(curve),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(e) => out.curve_error = Some(e.to_string()),
        }
    }
    out.done = true;
    Ok(out)
}

/// What stands outside, where that is a mean.
fn means(outside: Ablation, runs: &[Arc<Trace>], progress: &Progress) -> Result<Option<Means>> {
    if outside == Ablation::Mean { Ok(Some(Means::of(runs, progress)?)) } else { Ok(None) }
}

fn faithfulness(trials: &[Trial<'_>], edges: &Edges, progress: &Progress) -> Result<f32> {
    crate::circuit::find::Runs::of(trials, edges, progress)?.faithfulness(progress)
}

fn set_runs(pair: &Pair, name: &str, n: usize, progress: &Progress) -> Result<Vec<(PromptPair, Pair)>> {
    let model = &pair.clean.model;
    let run = |ids: &[u32]| Ok::<_, Error>(Arc::new(Trace::run(model, ids.to_vec(), progress)?));
    let prompts = PromptSet::open(name)?.generate(model, n, 0, progress)?.pairs;
    prompts.into_iter().map(|p| Ok((p.clone(), Pair::new(run(&p.clean_ids)?, run(&p.corrupt_ids)?)))).collect()
}

pub(super) fn searched(
    pair: &Pair,
    question: &CircuitQuestion,
    search: Search,
    progress: &Progress,
    on_step: &mut dyn FnMut(&Step),
) -> Result<Searched> {
    let started = std::time::Instant::now();
    let means = means(question.outside, &pair.traces(), progress)?;
    let trial = [Trial::new(pair, question.metric, question.outside, means.as_ref())?];
    let mut ranking = None;
    let (edges, origin) = match search {
        Search::Scores { edges: n, steps, rescore } => {
            let path = if steps == 0 { GradientPath::Clean } else { GradientPath::Integrated(steps) };
            let scores: EdgeScores = edge_scores(pair, question.metric, path, progress)?;
            let name = if steps == 0 { "EAP".to_owned() } else { format!("EAP-IG, {steps} steps") };
            let found = if rescore {
                (
                    refine(&trial, &scores, n, progress, &mut *on_step)?,
                    format!("{name}, re-scored exactly to {n} edges"),
                )
            } else {
                (top_edges(&scores, n), format!("{name}, top {n} edges"))
            };
            ranking = Some(Arc::new(scores));
            found
        }
        Search::Acdc { threshold } => {
            let by_kl = Trial::new(pair, Metric::Kl, question.outside, means.as_ref())?;
            let edges = acdc(&[(&by_kl.stage, &by_kl.readout)], threshold, progress, |s| {
                on_step(&Step { edges: s.left, faithfulness: f32::NAN });
            })?;
            (edges, format!("ACDC, threshold {threshold}"))
        }
    };
    Ok(Searched {
        faithfulness: faithfulness(&trial, &edges, progress)?,
        cart: Cart::of(&edges, origin),
        scores: ranking,
        seconds: started.elapsed().as_secs_f64(),
    })
}
