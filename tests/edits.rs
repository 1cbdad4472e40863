//! Edits, exact resume and gradients on tiny models of all families.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use circuitscope::Error;
use circuitscope::analysis::pair::Pair;
use circuitscope::engine::edit::{Direction, Positions};
use circuitscope::engine::forward::Prepared;
use circuitscope::engine::generate::{Sampling, generate};
use circuitscope::engine::gradient::gradients;
use circuitscope::engine::resolve::{Sources, resolve, resolve_stack};
use circuitscope::engine::resume::{Variant, resume};
use circuitscope::engine::{Action, Edit, EditStack, Freeze, RunSide, Site, SiteKind, Trace};
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use common::fixture;
use proptest::prelude::*;

/// Longer than the sliding windows of the fixtures, which see 8 keys.
const LENGTH: usize = 12;

/// A model with two runs that differ at positions 4 and 6.
struct Case {
    name: String,
    pair: Pair,
}

fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        let mut folders: Vec<_> = std::fs::read_dir(fixture("families")).unwrap().map(|f| f.unwrap().path()).collect();
        folders.sort();
        folders
            .into_iter()
            .map(|folder| {
                let model = Arc::new(Model::open(folder.to_str().unwrap()).unwrap());
                let vocab = model.config.d_vocab as u32;
                let clean: Vec<u32> = (0..LENGTH as u32).map(|i| (i * 37 + 11) % vocab).collect();
                let mut other = clean.clone();
                other[4] = (clean[4] + 5) % vocab;
                other[6] = (clean[6] + 9) % vocab;
                let run = |ids| Arc::new(Trace::run(&model, ids, &Progress::new()).unwrap());
                Case {
                    name: folder.file_name().unwrap().to_string_lossy().into_owned(),
                    pair: Pair::new(run(clean), run(other)),
                }
            })
            .collect()
    })
}

fn logits(trace: &Trace, normalized: &Tensor) -> Vec<f32> {
    trace.model.network().unembed(normalized).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Logits at `pos` by a full run under the stack, and by resuming.
fn both_ways(pair: &Pair, stack: &EditStack, pos: usize) -> (Vec<f32>, Vec<f32>) {
    let sources = pair.sources(stack.base).unwrap();
    let base = sources.base;
    let ops = resolve_stack(stack, &sources).unwrap();
    let full = Trace::run_edited(&base.model, base.ids.clone(), Arc::new(ops.clone()), &Progress::new()).unwrap();
    let full = logits(base, &full.normalized(pos).unwrap());
    let resumed = match Variant::new(ops, base) {
        Some(v) if v.start <= pos => {
            let prepared = Prepared::new(&base.model.config, base.len());
            // Beside another variant, so that rows lie behind one another.
            let aside = Edit::new(Site::new(SiteKind::ResidMid, 0), Action::Zero);
            let aside = if SiteKind::ResidMid.exists(&base.model.config) {
                aside
            } else {
                Edit::new(Site::new(SiteKind::AttnOut, 0), Action::Zero)
            };
            let aside = Variant::new(vec![resolve(&aside.at(1), &sources).unwrap()], base).unwrap();
            let rows = resume(base, &prepared, &[v.clone(), aside, v], pos, &Progress::new()).unwrap();
            let (first, last) =
                (logits(base, &rows.narrow(0, 0, 1).unwrap()), logits(base, &rows.narrow(0, 2, 1).unwrap()));
            let worst = first.iter().zip(&last).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst < 1e-4, "{}: a variant depends on its neighbours by {worst}", base.model.config.name);
            first
        }
        _ => logits(base, &base.normalized(pos).unwrap()),
    };
    (full, resumed)
}

fn assert_equal(full: &[f32], resumed: &[f32], what: &str) {
    let scale = full.iter().fold(0f32, |m, v| m.max(v.abs())).max(1.0);
    let worst = full.iter().zip(resumed).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst <= 1e-4 * scale, "{what}: {worst} of {scale}");
    assert!(full.iter().chain(resumed).all(|v| v.is_finite()), "{what}: not finite");
}

/// An edit of the given kind out of raw random numbers.
fn edit(kind: SiteKind, case: &Case, raw: (usize, usize, usize, usize, usize), value: f32) -> Edit {
    let config = &case.pair.clean.model.config;
    let (layer, head, pos, pick, coordinate) = raw;
    let site = Site::new(kind, if kind.layered() { layer % config.n_layers } else { 0 });
    let edge = matches!(kind, SiteKind::Pattern | SiteKind::AttnScores);
    let shape = site.shape(config, LENGTH);
    let action = match pick % 7 {
        0 => Action::Zero,
        1 => Action::Set(value),
        2 => Action::Scale(1.0 + 0.5 * value),
        3 => Action::Copy(RunSide::Corrupted),
        4 if !edge => Action::Mean,
        4 => Action::Force(value.abs().min(1.0)),
        5 if edge => Action::KnockOut,
        5 => Action::Add { direction: Direction::Difference, factor: value },
        _ => Action::Copy(RunSide::Clean),
    };
    // A divisor of zero is nobody's question.
    let scale = matches!(kind, SiteKind::Ln1Scale | SiteKind::Ln2Scale | SiteKind::LnFinalScale);
    let action = match action {
        Action::Zero | Action::Set(_) | Action::Add { .. } if scale => Action::Scale(1.5),
        other => other,
    };
    let needs_source = matches!(action, Action::KnockOut | Action::Force(_)) || kind == SiteKind::AttnScores;
    let action =
        if kind == SiteKind::AttnScores && matches!(action, Action::Force(_)) { Action::Set(value) } else { action };
    let heads = if edge {
        shape[0]
    } else if shape.len() == 3 {
        shape[1]
    } else {
        0
    };
    let mut edit = Edit::new(site, action);
    if heads > 0 && (head % 3 > 0 || pick % 2 == 0) {
        edit = edit.head(head % heads);
    }
    if pos % 4 > 0 {
        edit = edit.at(1 + pos % (LENGTH - 1));
    }
    if edge && (needs_source || pick % 2 == 0) {
        // No edge leads to a later position.
        let last = if let Positions::At(list) = &edit.positions { list[0] } else { LENGTH - 1 };
        edit = edit.src(coordinate % (last + 1));
    }
    if !edge && (edit.head.is_some() || heads == 0) && coordinate % 3 == 0 {
        edit = edit.coordinate(coordinate % shape[shape.len() - 1]);
    }
    edit
}

/// Every site kind of every family, one edit each, by every action.
#[test]
fn every_site_resumes_exactly() {
    for case in cases() {
        for kind in SiteKind::ALL.into_iter().filter(|k| k.exists(&case.pair.clean.model.config)) {
            for pick in 0..7 {
                let raw = (pick + 1, pick, 3 * pick + 1, pick, pick + 2);
                let stack = EditStack { edits: vec![edit(kind, case, raw, 0.4)], ..EditStack::default() };
                for pos in [LENGTH - 1, 7] {
                    let (full, resumed) = both_ways(&case.pair, &stack, pos);
                    assert_equal(&full, &resumed, &format!("{}: {} at {pos}", case.name, stack.edits[0]));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    /// Stacks of one to three random edits, of either run.
    #[test]
    fn random_stacks_resume_exactly(
        family in 0usize..20,
        corrupted in any::<bool>(),
        edits in prop::collection::vec(
            (0usize..23, (0usize..8, 0usize..8, 0usize..16, 0usize..7, 0usize..32), -1f32..1f32), 1..4),
    ) {
        let case = &cases()[family % cases().len()];
        let config = &case.pair.clean.model.config;
        let edits: Vec<Edit> = edits
            .into_iter()
            .filter(|(k, ..)| SiteKind::ALL[*k].exists(config))
            .map(|(k, raw, value)| edit(SiteKind::ALL[k], case, raw, value))
            .collect();
        let base = if corrupted { RunSide::Corrupted } else { RunSide::Clean };
        let stack = EditStack { base, edits, ..EditStack::default() };
        prop_assume!(stack.check(config, LENGTH).is_ok());
        let (full, resumed) = both_ways(&case.pair, &stack, LENGTH - 1);
        let names: Vec<String> = stack.edits.iter().map(ToString::to_string).collect();
        assert_equal(&full, &resumed, &format!("{}: {}", case.name, names.join("; ")));
    }
}

/// An edited trace's own values are those of the edited run: each site of a later block is what a run that
/// captures it sees, patterns included.
#[test]
fn an_edited_trace_shows_the_edited_run() {
    for case in cases() {
        let sources = case.pair.sources(RunSide::Clean).unwrap();
        let base = sources.base;
        let stack = EditStack {
            edits: vec![
                Edit::new(Site::new(SiteKind::Pattern, 0), Action::KnockOut).head(0).at(5).src(2),
                Edit::new(
                    Site::new(SiteKind::ResidPre, 1),
                    Action::Add { direction: Direction::Difference, factor: 0.5 },
                ),
            ],
            ..EditStack::default()
        };
        let ops = Arc::new(resolve_stack(&stack, &sources).unwrap());
        let edited = Trace::run_edited(&base.model, base.ids.clone(), ops, &Progress::new()).unwrap();
        let pattern = edited.pattern(0).unwrap();
        let row: Vec<f32> = pattern.get(0).unwrap().get(5).unwrap().to_vec1().unwrap();
        assert!(row[2] < 1e-30 && (row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{}: {row:?}", case.name);
        let head: Vec<f32> = edited.head_pattern(0, 0).unwrap().get(5).unwrap().to_vec1().unwrap();
        assert_eq!(row, head);
        // Recomputing attn_out of block 1 from the stored stream must give the stored attn_out.
        let z = edited.value(Site::new(SiteKind::Ln1Normalized, 1));
        if SiteKind::Ln1Normalized.exists(&base.model.config) {
            assert!(z.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|v| v.is_finite()));
        }
    }
}

/// Central differences along random coordinates, through exact runs.
fn finite_difference(case: &Case, at: Edit, extra: &[Edit], metric: &dyn Fn(&Trace, &Tensor) -> f32, step: f32) -> f32 {
    let sources: Sources<'_> = case.pair.sources(RunSide::Clean).unwrap();
    let base = sources.base;
    let side = |sign: f32| {
        let mut edit = at.clone();
        edit.action = Action::Add { direction: Direction::Vector(vec![1.0]), factor: sign * step };
        let mut edits = vec![edit];
        edits.extend_from_slice(extra);
        let ops: Vec<_> = edits.iter().map(|e| resolve(e, &sources).unwrap()).collect();
        let trace = Trace::run_edited(&base.model, base.ids.clone(), Arc::new(ops), &Progress::new()).unwrap();
        metric(base, &trace.normalized(LENGTH - 1).unwrap())
    };
    (side(1.0) - side(-1.0)) / (2.0 * step)
}

fn difference_of_logits(trace: &Trace, normalized: &Tensor) -> f32 {
    let l = logits(trace, normalized);
    l[3] - l[7]
}

fn metric_tensor(trace: &Trace, row: &Tensor) -> circuitscope::Result<Tensor> {
    let l = trace.model.network().unembed(row)?.flatten_all()?;
    Ok((l.get(3)? - l.get(7)?)?)
}

#[test]
fn gradients_equal_finite_differences() {
    let kinds: Vec<SiteKind> =
        SiteKind::ALL.into_iter().filter(|k| !matches!(k, SiteKind::Pattern | SiteKind::AttnScores)).collect();
    for case in cases() {
        let base = &case.pair.clean;
        let config = &base.model.config;
        let found =
            gradients(base, &kinds, Freeze::default(), LENGTH - 1, |row| metric_tensor(base, row), &Progress::new())
                .unwrap();
        // Rounding of f32 logits, seen through a difference of two runs.
        let size = logits(base, &base.normalized(LENGTH - 1).unwrap()).iter().fold(1f32, |m, v| m.max(v.abs()));
        // A larger step may make a router choose otherwise.
        let step = if config.experts.is_some() { 1e-3 } else { 5e-3 };
        let noise = 4.0 * f32::EPSILON * size / step;
        for kind in kinds.iter().copied().filter(|k| k.exists(config)) {
            let site = Site::new(kind, if kind.layered() { config.n_layers - 2 } else { 0 });
            let g = found.get(site).unwrap();
            let shape = site.shape(config, LENGTH);
            let all = g.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let scale = all.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-3);
            for (pos, c) in [(LENGTH - 1, 0), (3, shape[shape.len() - 1] - 1)] {
                let width: usize = shape[1..].iter().product();
                let mut at = Edit::new(site, Action::Zero).at(pos).coordinate(c);
                if shape.len() == 3 {
                    at = at.head(shape[1] - 1);
                }
                let index = pos * width + if shape.len() == 3 { (shape[1] - 1) * shape[2] + c } else { c };
                let fd = finite_difference(case, at, &[], &difference_of_logits, step);
                assert!(
                    (all[index] - fd).abs() <= 0.02 * scale + noise,
                    "{}: {site} {pos} {c}: {} against {fd}",
                    case.name,
                    all[index]
                );
            }
        }
    }
}

/// A backward pass counts its layers, and one that is cancelled before it begins goes through none of them.
#[test]
fn a_backward_pass_is_counted_and_stops() {
    for case in cases() {
        let base = &case.pair.clean;
        let layers = base.model.config.n_layers as u64;
        let progress = Progress::new();
        let run = |cancel: bool, progress: &Progress| {
            let metric = |row: &Tensor| {
                if cancel {
                    progress.cancel();
                }
                metric_tensor(base, row)
            };
            gradients(base, &[SiteKind::ResidPre], Freeze::default(), LENGTH - 1, metric, progress)
        };
        run(false, &progress).unwrap();
        assert_eq!(progress.counts(), (2 * layers, 2 * layers), "{}", case.name);
        let cancelled = Progress::new();
        assert!(matches!(run(true, &cancelled), Err(Error::Cancelled)), "{}", case.name);
        assert_eq!(cancelled.counts(), (layers, 2 * layers), "{}", case.name);
    }
}

/// With patterns, norm scales and gates frozen, the gradient is that of runs in which those are copied from the
/// base run.
#[test]
fn frozen_gradients_equal_finite_differences_of_frozen_runs() {
    for case in cases() {
        let base = &case.pair.clean;
        let config = &base.model.config;
        // Plain MLPs freeze act(x)/x, and norms inside q/k or after sublayers have no site of their own.
        let copies_everything = config.gated_mlp
            && SiteKind::Ln1Scale.exists(config)
            && base.model.weights.blocks.iter().all(|b| b.ln1_post.is_none() && b.ln2_post.is_none());
        if !copies_everything {
            continue;
        }
        let kinds = [SiteKind::ResidPre, SiteKind::V, SiteKind::MlpOut];
        let found =
            gradients(base, &kinds, Freeze::ALL, LENGTH - 1, |row| metric_tensor(base, row), &Progress::new()).unwrap();
        let held =
            [SiteKind::Pattern, SiteKind::Ln1Scale, SiteKind::Ln2Scale, SiteKind::MlpRouter, SiteKind::LnFinalScale];
        for kind in kinds {
            let layer = config.n_layers - 2;
            let site = Site::new(kind, layer);
            // The gate act(pre) is held by copying mlp.hook_pre, which the linear half does not pass through.
            let extra: Vec<Edit> = (layer..config.n_layers)
                .flat_map(|l| {
                    held.into_iter()
                        .chain([SiteKind::MlpPre])
                        .map(move |k| Site::new(k, if k.layered() { l } else { 0 }))
                })
                .filter(|s| s.kind.exists(config))
                .map(|s| Edit::new(s, Action::Copy(RunSide::Clean)))
                .collect();
            let shape = site.shape(config, LENGTH);
            let all = found.get(site).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let scale = all.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-3);
            for pos in [LENGTH - 1, 2] {
                let mut at = Edit::new(site, Action::Zero).at(pos).coordinate(1);
                if shape.len() == 3 {
                    at = at.head(0);
                }
                at.positions = Positions::At(vec![pos]);
                let fd = finite_difference(case, at, &extra, &difference_of_logits, 1e-2);
                let got = all[pos * shape[1..].iter().product::<usize>() + 1];
                assert!((got - fd).abs() <= 0.01 * scale + 2e-4, "{}: {site} {pos}: {got} against {fd}", case.name);
            }
        }
    }
}

/// Cached generation under an edit gives the probabilities of full runs of the same tokens.
#[test]
fn generation_equals_full_runs() {
    for case in cases() {
        let base = &case.pair.clean;
        let sources = case.pair.sources(RunSide::Clean).unwrap();
        let edits = [
            Edit::new(Site::new(SiteKind::Z, 0), Action::Scale(0.3)).head(0),
            Edit {
                positions: Positions::Generated,
                ..Edit::new(Site::new(SiteKind::ResidPost, 1), Action::Scale(1.1))
            },
        ];
        let ops: Arc<Vec<_>> = Arc::new(edits.iter().map(|e| resolve(e, &sources).unwrap()).collect());
        let sampling = Sampling { temperature: 1.0, seed: 5, ..Sampling::default() };
        let mut streamed = Vec::new();
        let tokens =
            generate(&base.model, &base.ids, &ops, sampling, 4, &Progress::new(), |t| streamed.push(t)).unwrap().tokens;
        assert_eq!(tokens, streamed);
        let ids: Vec<u32> = base.ids.iter().copied().chain(tokens.iter().map(|t| t.id)).collect();
        let full = Trace::run_edited(&base.model, ids, ops, &Progress::new()).unwrap();
        for (i, token) in tokens.iter().enumerate() {
            let prob = (-full.loss[LENGTH + i].unwrap()).exp();
            assert!((prob - token.prob).abs() < 1e-4, "{}: token {i}: {prob} against {}", case.name, token.prob);
        }
    }
}

/// Force gives an edge exactly its weight, and a run under edits has no gradients.
#[test]
fn forced_edges_and_refused_gradients() {
    let case = &cases()[0];
    let sources = case.pair.sources(RunSide::Clean).unwrap();
    let base = sources.base;
    for kind in [SiteKind::Pattern, SiteKind::AttnScores] {
        let force = Edit::new(Site::new(kind, 0), Action::Force(0.9)).head(0).at(5).src(2);
        let ops = Arc::new(vec![resolve(&force, &sources).unwrap()]);
        let edited = Trace::run_edited(&base.model, base.ids.clone(), ops, &Progress::new()).unwrap();
        let row: Vec<f32> = edited.head_pattern(0, 0).unwrap().get(5).unwrap().to_vec1().unwrap();
        assert!((row[2] - 0.9).abs() < 1e-6 && (row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
        let error =
            gradients(&edited, &[SiteKind::Z], Freeze::default(), 3, |r| metric_tensor(base, r), &Progress::new());
        assert!(error.is_err_and(|e| e.is_request()));
    }
    let force = |src| Edit::new(Site::new(SiteKind::Pattern, 0), Action::Force(0.9)).head(0).at(5).src(src);
    let two = EditStack { edits: vec![force(1), force(2)], ..EditStack::default() };
    assert!(two.check(&base.model.config, LENGTH).is_err());
    let ahead = Edit::new(Site::new(SiteKind::Pattern, 0), Action::KnockOut).at(2).src(5);
    assert!(ahead.check(&base.model.config, LENGTH).unwrap_err().to_string().contains("later position"));
}

/// Gradients at patterns and scores, edge by edge: an edge is set a little above and below its own value.
#[test]
fn gradients_of_edges_equal_finite_differences() {
    for case in cases() {
        let base = &case.pair.clean;
        let sources = case.pair.sources(RunSide::Clean).unwrap();
        let kinds = [SiteKind::Pattern, SiteKind::AttnScores];
        let metric = |row: &Tensor| metric_tensor(base, row);
        let found = gradients(base, &kinds, Freeze::default(), LENGTH - 1, metric, &Progress::new()).unwrap();
        let size = logits(base, &base.normalized(LENGTH - 1).unwrap()).iter().fold(1f32, |m, v| m.max(v.abs()));
        let step = 1e-2;
        let noise = 4.0 * f32::EPSILON * size / step;
        for kind in kinds {
            let site = Site::new(kind, base.model.config.n_layers - 2);
            let all: Vec<Vec<Vec<f32>>> = found.get(site).unwrap().to_vec3().unwrap();
            let values: Vec<Vec<Vec<f32>>> = base.value(site).unwrap().to_vec3().unwrap();
            let scale =
                all.iter().flatten().flatten().fold(1e-3f32, |m, v| if v.is_finite() { m.max(v.abs()) } else { m });
            for (dest, src) in [(LENGTH - 1, LENGTH - 2), (6, 5)] {
                let side = |sign: f32| {
                    let value = values[0][dest][src] + sign * step;
                    let edit = Edit::new(site, Action::Set(value)).head(0).at(dest).src(src);
                    let ops = Arc::new(vec![resolve(&edit, &sources).unwrap()]);
                    let run = Trace::run_edited(&base.model, base.ids.clone(), ops, &Progress::new()).unwrap();
                    difference_of_logits(base, &run.normalized(LENGTH - 1).unwrap())
                };
                let fd = (side(1.0) - side(-1.0)) / (2.0 * step);
                let got = all[0][dest][src];
                assert!(
                    (got - fd).abs() <= 0.02 * scale + noise,
                    "{}: {site} {dest} {src}: {got} against {fd}",
                    case.name
                );
            }
        }
    }
}
