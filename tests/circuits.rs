//! Circuits on tiny models of all families: runs with cut edges, and edge attribution against them.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use circuitscope::analysis::component::Component;
use circuitscope::analysis::contributions::Contributions;
use circuitscope::analysis::metric::{Metric, MetricKind, Readout};
use circuitscope::analysis::pair::Pair;
use circuitscope::analysis::patching::Ablation;
use circuitscope::circuit::acdc::acdc;
use circuitscope::circuit::eap::{Path, edge_scores};
use circuitscope::circuit::quality::quality;
use circuitscope::circuit::search::{OUTSIDE, Search, SearchOf, Searching};
use circuitscope::circuit::trial::{AnsweredPair, trials};
use circuitscope::circuit::{AblatedRuns, Edge, Edges, Receiver, Wiring};
use circuitscope::engine::resolve::resolve;
use circuitscope::engine::{Action, Edit, RunSide, Site, SiteKind, Trace};
use circuitscope::model::config::{NormPlacement, QkNorm};
use circuitscope::progress::Progress;
use circuitscope::question::Question as _;
use common::families;
use proptest::prelude::*;

const LENGTH: usize = 11;

struct Case {
    name: String,
    pair: Pair,
}

/// Every family with two prompts that differ at positions 3 and 6.
fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        families()
            .into_iter()
            .map(|(name, model)| {
                let vocab = model.config.d_vocab as u32;
                let clean: Vec<u32> = (0..LENGTH as u32).map(|i| (i * 31 + 7) % vocab).collect();
                let mut other = clean.clone();
                other[3] = (clean[3] + 5) % vocab;
                other[6] = (clean[6] + 9) % vocab;
                let run = |ids| Arc::new(Trace::run(&model, ids, &Progress::new()).unwrap());
                Case { name, pair: Pair::new(run(clean), run(other)) }
            })
            .collect()
    })
}

fn ablated(case: &Case, outside: Ablation) -> AblatedRuns {
    AblatedRuns::new(&case.pair.clean, case.pair.corrupted.as_deref(), outside, None).unwrap()
}

fn assert_near(a: &Tensor, b: &Tensor, what: &str) {
    let (a, b) =
        (a.flatten_all().unwrap().to_vec1::<f32>().unwrap(), b.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = a.iter().fold(1f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst <= 2e-4 * scale, "{what}: {worst} of {scale}");
}

#[test]
fn the_whole_model_is_the_clean_run_and_nothing_is_the_reference() {
    for case in cases() {
        let progress = Progress::new();
        for outside in Ablation::ALL {
            let s = ablated(case, outside);
            let whole = s.run(&Edges::all(s.wiring), &progress).unwrap();
            let clean = case.pair.clean.normalized(LENGTH - 1).unwrap();
            assert_near(&whole.normalized, &clean, &format!("{} {}", case.name, outside.label()));
        }
        let s = ablated(case, Ablation::Resample);
        let corrupted = case.pair.corrupted.as_ref().unwrap().normalized(LENGTH - 1).unwrap();
        assert_near(&s.empty().unwrap().normalized, &corrupted, &case.name);
    }
}

#[test]
fn without_a_components_output_it_is_resampled_everywhere() {
    for case in cases() {
        let config = &case.pair.clean.model.config;
        // There a head's part of the normalised output is cut, not its part of what is normalised; and a norm over the
        // queries of all heads divides by what it divides by in the clean run.
        if config.norm_placement != NormPlacement::Pre || config.qk_norm == QkNorm::FullWidth {
            continue;
        }
        let s = ablated(case, Ablation::Resample);
        let sources = case.pair.sources(RunSide::Clean).unwrap();
        let mut cuts = vec![(Component::Head { layer: 0, head: 1 }, SiteKind::Z, Some(1))];
        if config.has_mlp() {
            cuts.push((Component::Mlp { layer: 0 }, SiteKind::MlpOut, None));
        }
        for (component, kind, head) in cuts {
            let sender = s.wiring.sender(component).unwrap();
            let mut edges = Edges::all(s.wiring);
            for receiver in 0..s.wiring.n_receivers() {
                if sender < s.wiring.reads(receiver) {
                    edges.remove(Edge { sender, receiver });
                }
            }
            let cut = s.run(&edges, &Progress::new()).unwrap();
            let mut edit = Edit::new(Site::new(kind, 0), Action::Copy(RunSide::Corrupted));
            if let Some(head) = head {
                edit = edit.head(head);
            }
            let ops = Arc::new(vec![resolve(&edit, &sources).unwrap()]);
            let clean = &case.pair.clean;
            let edited = Trace::run_edited(&clean.model, clean.ids.clone(), ops, &Progress::new()).unwrap();
            assert_near(
                &cut.normalized,
                &edited.normalized(LENGTH - 1).unwrap(),
                &format!("{} {component}", case.name),
            );
        }
    }
}

/// Of an MLP of which some neurons belong to a circuit the others hold what they hold in the corrupted run, as if they
/// were patched there.
#[test]
fn neurons_outside_a_circuit_are_resampled() {
    for case in cases().iter().filter(|c| c.pair.clean.model.config.has_mlp()) {
        let s = ablated(case, Ablation::Resample);
        let progress = Progress::new();
        let (clean, d_mlp) = (&case.pair.clean, s.wiring.d_mlp);
        let last = clean.model.config.n_layers - 1;
        let inside: BTreeSet<usize> = (0..d_mlp).filter(|n| n % 3 == 1).collect();
        let mut edges = Edges::all(s.wiring);
        edges.limit(last, inside.clone());
        let sources = case.pair.sources(RunSide::Clean).unwrap();
        let ops = (0..d_mlp)
            .filter(|n| !inside.contains(n))
            .map(|n| {
                let site = Site::new(SiteKind::MlpPost, last);
                resolve(&Edit::new(site, Action::Copy(RunSide::Corrupted)).coordinate(n), &sources).unwrap()
            })
            .collect();
        let edited = Trace::run_edited(&clean.model, clean.ids.clone(), Arc::new(ops), &progress).unwrap();
        let run = s.run(&edges, &progress).unwrap();
        assert_near(&run.normalized, &edited.normalized(LENGTH - 1).unwrap(), &case.name);
        // All neurons are the whole MLP, against whatever reference; none are an MLP of which nothing is read.
        for outside in Ablation::ALL {
            let s = ablated(case, outside);
            let mut all = Edges::all(s.wiring);
            all.limit(last, (0..d_mlp).collect());
            let all = s.run(&all, &progress).unwrap();
            assert_near(&all.normalized, &clean.normalized(LENGTH - 1).unwrap(), &case.name);
        }
        let mut none = Edges::all(s.wiring);
        none.limit(last, BTreeSet::new());
        let mut without = Edges::all(s.wiring);
        without.touching(Component::Mlp { layer: last }).into_iter().for_each(|e| without.remove(e));
        let (none, without) = (s.run(&none, &progress).unwrap(), s.run(&without, &progress).unwrap());
        assert_near(&none.normalized, &without.normalized, &case.name);
    }
}

/// EAP is the derivative: with a reference that lies a small step from the clean run, cutting an edge changes the
/// metric by the step times its score.
#[test]
fn edge_attribution_is_the_limit_of_finite_differences() {
    for case in cases() {
        let (clean, corrupted) = (&case.pair.clean, case.pair.corrupted.as_ref().unwrap());
        let config = &clean.model.config;
        let metric = Metric::LogitDifference { answer: 3, wrong: 8 };
        let scores = edge_scores(&case.pair, metric, Path::Clean, &Progress::new()).unwrap();
        let readout = case.pair.readout(metric).unwrap();
        let w = Wiring::new(config);
        let own = Contributions::of(clean, 0).unwrap();
        let other = Contributions::of(corrupted, 0).unwrap();
        let largest = scores.top(1)[0].1.abs();
        let at = |step: f32| {
            let values = own.values.iter().zip(&other.values);
            let values = values.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + step * (b - a)).collect()).collect();
            AblatedRuns::with_reference(clean, None, Ablation::Resample, 0, values).unwrap()
        };
        let step = 3e-3;
        let (plus, minus) = (at(step), at(-step));
        // Strong edges, and some at random.
        let strong = scores.top(25).into_iter().map(|(e, _)| e);
        let some = (0..w.n_receivers()).map(|r| Edge { receiver: r, sender: (r * 7) % w.reads(r) });
        // Without its only input a component falls out of the circuit, output and all: another question.
        let only = |e: &Edge| w.reads(e.receiver) == 1 && matches!(w.receiver_at(e.receiver), Receiver::Mlp { .. });
        for edge in strong.chain(some).filter(|e| !only(e)) {
            let mut edges = Edges::all(w);
            edges.remove(edge);
            let value = |s: &AblatedRuns| {
                let run = s.run(&edges, &Progress::new()).unwrap();
                readout.read(&run.normalized, &Progress::new()).unwrap()[0]
            };
            let slope = (value(&plus) - value(&minus)) / (2.0 * step);
            let score = scores.get(edge);
            // A single-precision metric around 1 over a step of 0.003 leaves a few 1e-4.
            let allowed = 0.01 * largest + 1e-3;
            assert!((slope - score).abs() < allowed, "{} {}: {slope} {score} ({largest})", case.name, w.name(edge));
        }
    }
}

#[test]
fn integrated_gradients_of_one_step_start_at_the_corrupted_embedding() {
    for case in cases() {
        let metric = Metric::Logit { answer: 4 };
        let ig = edge_scores(&case.pair, metric, Path::Integrated(1), &Progress::new()).unwrap();
        // The one point is the corrupted run: the score is minus EAP's with the two runs changed over.
        let pair = Pair::new(case.pair.corrupted.clone().unwrap(), case.pair.clean.clone());
        let swapped = edge_scores(&pair, metric, Path::Clean, &Progress::new()).unwrap();
        let largest = swapped.top(1)[0].1.abs().max(1e-3);
        for (a, b) in ig.values.iter().flatten().zip(swapped.values.iter().flatten()) {
            assert!((a + b).abs() < 2e-3 * largest, "{}: {a} {b}", case.name);
        }
    }
}

/// ACDC in batches that look ahead is ACDC one edge at a time.
#[test]
fn acdc_drops_what_one_edge_at_a_time_would() {
    for case in cases().iter().step_by(3) {
        let s = ablated(case, Ablation::Resample);
        let readout = case.pair.readout(Metric::Kl).unwrap();
        // And with the two prompts' parts exchanged.
        let other = Pair::new(case.pair.corrupted.clone().unwrap(), case.pair.clean.clone());
        let reversed = AblatedRuns::new(&other.clean, other.corrupted.as_deref(), Ablation::Resample, None).unwrap();
        let back = other.readout(Metric::Kl).unwrap();
        for on in [vec![(&s, &readout)], vec![(&s, &readout), (&reversed, &back)]] {
            searches_agree(case, &on);
        }
    }
}

fn searches_agree(case: &Case, on: &[(&AblatedRuns, &Readout<'_>)]) {
    let s = on[0].0;
    let progress = Progress::new();
    let value = |edges: &Edges| {
        let read = |(s, r): &(&AblatedRuns, &Readout<'_>)| {
            r.read(&s.run(edges, &progress).unwrap().normalized, &progress).unwrap()[0]
        };
        on.iter().map(read).sum::<f32>() / on.len() as f32
    };
    let all = Edges::all(s.wiring);
    let whole = value(&Edges::none(s.wiring));
    // A hundredth of what there is to lose, and a third of it.
    for threshold in [0.01 * whole, 0.3 * whole] {
        let mut slow = all.clone();
        let mut now = value(&slow);
        // How near a decision came to the threshold: nearer than a divergence is rounded, another
        // processor may decide otherwise.
        let mut nearest = f32::INFINITY;
        for receiver in (0..s.wiring.n_receivers()).rev() {
            for sender in (0..s.wiring.reads(receiver)).rev() {
                let edge = Edge { sender, receiver };
                if !slow.contains(edge) {
                    continue;
                }
                let mut without = slow.clone();
                without.remove(edge);
                without.prune();
                let then = value(&without);
                nearest = nearest.min((then - now - threshold).abs());
                if then - now < threshold {
                    (slow, now) = (without, then);
                }
            }
        }
        let fast = acdc(on, threshold, &progress, |_| {}).unwrap();
        let tie = nearest < 3e-7 + 1e-5 * whole;
        assert!(fast == slow || tie, "{}: {} edges against {}, {nearest}", case.name, fast.len(), slow.len());
    }
}

/// A question about the same runs is the same question; about other runs of the same prompts it is another.
#[test]
fn questions_compare_runs_by_identity() {
    let pair = cases()[0].pair.clone();
    let settings = Search::Acdc { threshold: 0.1 }.into();
    let of = |pair: Pair| SearchOf { prompts: vec![AnsweredPair { pair, answer: Some(3), wrong: Some(8) }], settings };
    assert!(of(pair.clone()) == of(pair.clone()));
    let again = |run: &Trace| Arc::new(Trace::run(&run.model, run.ids.clone(), &Progress::new()).unwrap());
    let other = Pair::new(again(&pair.clone().clean), pair.corrupted.clone().unwrap());
    assert!(of(pair.clone()) != of(other));
    let moved = Pair { alignment: pair.alignment.iter().map(|_| None).collect(), ..pair.clone() };
    assert!(of(pair) != of(moved));
}

/// A search tells how far it is, then what it found; one metric serves for all of it.
#[test]
fn a_search_is_by_one_metric() {
    for case in cases().iter().step_by(4) {
        let prompts = vec![AnsweredPair { pair: case.pair.clone(), answer: Some(3), wrong: Some(8) }];
        let scores = Search::Scores { path: Path::Clean, edges: 20, rescore: true };
        for (search, metric) in
            [(scores, MetricKind::LogitDifference), (Search::Acdc { threshold: 0.001 }, MetricKind::Kl)]
        {
            let mut steps = 0;
            let question = SearchOf { prompts: prompts.clone(), settings: search.into() };
            let answer = question.run(&Progress::new(), &mut |a| steps += usize::from(matches!(a, Searching::Step(_))));
            let answer = answer.unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let Searching::Found(found) = answer else { panic!("{} ended with a step", case.name) };
            assert!(steps > 0 && found.metric == metric && !found.edges.is_empty(), "{}", case.name);
            let trials = trials(&prompts, metric, OUTSIDE, &Progress::new()).unwrap();
            let again = quality(&trials, &found.edges, &Progress::new()).unwrap().faithfulness;
            assert!((again - found.faithfulness).abs() < 1e-3 * again.abs().max(1.0), "{}", case.name);
        }
    }
}

#[test]
fn prompts_of_different_length_are_refused() {
    let case = &cases()[0];
    let short = case.pair.clean.ids[..5].to_vec();
    let short = Arc::new(Trace::run(&case.pair.clean.model, short, &Progress::new()).unwrap());
    let error = AblatedRuns::new(&case.pair.clean, Some(&short), Ablation::Resample, None).err().unwrap();
    assert!(error.is_request() && error.to_string().contains("equal length"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn a_variant_equals_the_circuit_run_by_itself(
        which in 0usize..1000, seed in 0u64..1_000_000, density in 0.02f64..0.98, outside in 0usize..3,
    ) {
        let case = &cases()[which % cases().len()];
        let s = ablated(case, Ablation::ALL[outside]);
        let progress = Progress::new();
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let all: Vec<Edge> = Edges::all(s.wiring).iter().collect();
        let mut base = Edges::of(s.wiring, all.iter().copied().filter(|_| random() < density));
        if s.wiring.has_mlp() && random() < 0.5 {
            base.limit(0, (0..s.wiring.d_mlp).filter(|_| random() < 0.5).collect());
        }
        let run = s.run(&base, &progress).unwrap();
        let circuits: Vec<Edges> = (0..5)
            .map(|i| {
                let mut edges = base.clone();
                for edge in &all {
                    if random() < 0.03 * f64::from(i) {
                        if edges.contains(*edge) { edges.remove(*edge) } else { edges.insert(*edge) }
                    }
                }
                for layer in 0..s.wiring.n_layers {
                    if s.wiring.has_mlp() && random() < 0.4 {
                        edges.limit(layer, (0..s.wiring.d_mlp).filter(|_| random() < 0.5).collect());
                    }
                }
                edges
            })
            .collect();
        let rows = s.variants(&run, &circuits, &progress).unwrap();
        for (i, edges) in circuits.iter().enumerate() {
            let alone = s.run(edges, &progress).unwrap();
            assert_near(&rows.narrow(0, i, 1).unwrap(), &alone.normalized, &case.name);
            // A run moved from another serves as a base as well.
            let moved = s.moved(&run, edges, &progress).unwrap();
            let back = s.variants(&moved, std::slice::from_ref(&base), &progress).unwrap();
            assert_near(&back, &run.normalized, &case.name);
        }
    }
}
