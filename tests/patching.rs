//! Patching, ablation and attribution patching on SmolLM2 against TransformerLens 4.3, in every cell.

mod common;

use std::sync::{Arc, OnceLock};

use circuitscope::analysis::attribution_patching::attribution_patching;
use circuitscope::analysis::metric::{Metric, MetricKind};
use circuitscope::analysis::pair::Pair;
use circuitscope::analysis::patching::{Ablation, ablation, patching};
use circuitscope::analysis::sweep::{Axes, SITES, Sweep, SweepResult};
use circuitscope::engine::{Freeze, SiteKind, Trace};
use circuitscope::progress::Progress;
use common::{entry, grid, ids, oracle, smollm2, worst};

fn pair() -> &'static (Pair, Metric) {
    static PAIR: OnceLock<(Pair, Metric)> = OnceLock::new();
    PAIR.get_or_init(|| {
        let doc = oracle("smollm2-ioi.json");
        let run = |key| Arc::new(Trace::run(&smollm2(), ids(entry(&doc, key)), &Progress::new()).unwrap());
        let id = |key| Some(entry(&doc, key).as_u64().unwrap() as u32);
        let metric = MetricKind::LogitDifference.with(id("answer_id"), id("wrong_id")).unwrap();
        (Pair::new(run("clean_ids"), run("corrupt_ids")), metric)
    })
}

fn patched(site: SiteKind, by: Axes) -> SweepResult {
    let (pair, metric) = pair();
    Sweep::new(pair, patching(site, by, *metric), &Progress::new()).unwrap().run(&Progress::new(), |_| {}).unwrap()
}

fn expected(key: &str) -> Vec<f32> {
    grid(entry(&oracle("smollm2-ioi.json"), key)).concat()
}

#[test]
fn patching_by_position_and_by_head() {
    for (site, by, key) in [
        (SiteKind::ResidPre, Axes::LayerPos, "patch_resid_pre"),
        (SiteKind::AttnOut, Axes::LayerPos, "patch_attn_out"),
        (SiteKind::MlpOut, Axes::LayerPos, "patch_mlp_out"),
        (SiteKind::Z, Axes::LayerHead, "patch_head_z_all_pos"),
        (SiteKind::Pattern, Axes::LayerHead, "patch_head_pattern_all_pos"),
    ] {
        let found = patched(site, by);
        let gap = worst(&found.normalised().unwrap(), &expected(key));
        assert!(gap <= 0.01, "{key}: {gap}");
    }
}

#[test]
fn both_raw_differences() {
    let doc = oracle("smollm2-ioi.json");
    let found = patched(SiteKind::ResidPre, Axes::Layer);
    let want = |key| entry(&doc, key).as_f64().unwrap() as f32;
    assert!((found.clean - want("logit_diff_clean")).abs() < 0.005);
    assert!((found.corrupted.unwrap() - want("logit_diff_corrupt")).abs() < 0.005);
    // The whole stream of any layer carries everything.
    assert!(found.normalised().unwrap().iter().all(|v| (v - 1.0).abs() < 1e-3));
}

#[test]
fn the_known_circuit_is_found() {
    let found = patched(SiteKind::Z, Axes::LayerHead);
    let values = found.normalised().unwrap();
    let at = |l: usize, h: usize| values[l * 9 + h];
    assert!((at(23, 3) - 0.58).abs() < 0.01, "{}", at(23, 3));
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let top: Vec<(usize, usize)> = order.iter().take(5).map(|i| (i / 9, i % 9)).collect();
    assert_eq!(top[0], (23, 3));
    for head in [(29, 1), (20, 0), (17, 4), (19, 2)] {
        assert!(top.contains(&head), "{head:?} is not among {top:?}");
    }
    assert!(at(24, 4) < -0.05 && at(29, 0) < -0.05);
}

#[test]
fn zero_ablation_of_every_head() {
    let (pair, metric) = pair();
    let question = ablation(SiteKind::Z, Axes::LayerHead, Ablation::Zero, *metric);
    let found = Sweep::new(pair, question, &Progress::new()).unwrap().run(&Progress::new(), |_| {}).unwrap();
    for (i, (got, want)) in found.values.iter().zip(expected("zero_ablate_head_z_logit_diff")).enumerate() {
        assert!((got - want).abs() <= f32::max(0.02, 0.01 * want.abs()), "head {}.{}: {got}, {want}", i / 9, i % 9);
    }
}

#[test]
fn attribution_patching_of_heads_and_stream() {
    let (pair, metric) = pair();
    let atp = attribution_patching(pair, *metric, &SITES, Freeze::default(), &Progress::new()).unwrap();
    for (site, by, key) in [
        (SiteKind::Z, Axes::LayerHead, "attribution_patch_head_z_all_pos"),
        (SiteKind::ResidPre, Axes::LayerPos, "attribution_patch_resid_pre"),
    ] {
        let values = atp.grid(pair, site, by).unwrap().normalised().unwrap();
        let gap = worst(&values, &expected(key));
        assert!(gap <= 0.01, "{key}: {gap}");
    }
}

/// Cells come in while the sweep runs, and what comes in first already spans the depth of the model.
#[test]
fn a_sweep_streams_coarse_first_and_can_be_cancelled() {
    let (pair, metric) = pair();
    let sweep = Sweep::new(pair, patching(SiteKind::Z, Axes::LayerHead, *metric), &Progress::new()).unwrap();
    let estimate = sweep.estimate();
    assert_eq!((estimate.cells, estimate.to_run), (270, 270));
    assert!(estimate.bytes > 0 && estimate.seconds > 0.0);
    let mut firsts = Vec::new();
    let progress = Progress::new();
    let cancel = progress.clone();
    let result = sweep.run(&progress, |found| {
        firsts.push(found.clone());
        cancel.cancel();
    });
    assert!(matches!(result, Err(circuitscope::Error::Cancelled)));
    assert_eq!(firsts.len(), 1);
    let known = |l: usize| firsts[0].values[l * 9..(l + 1) * 9].iter().all(|v| v.is_finite());
    assert!(known(0), "the first layer is not among the first cells");
    assert!(!known(1) && firsts[0].run < 270);
}

#[test]
fn other_metrics() {
    let (pair, _) = pair();
    let Metric::LogitDifference { answer, wrong } = pair_metric() else { panic!("the oracle's metric") };
    for kind in MetricKind::ALL {
        let metric = kind.with(Some(answer), Some(wrong)).unwrap();
        let question = patching(SiteKind::ResidPre, Axes::LayerPos, metric);
        let found = Sweep::new(pair, question, &Progress::new()).unwrap().run(&Progress::new(), |_| {}).unwrap();
        // The last layer's last position fully restores the clean prediction nearly; the differing token at layer
        // 0 restores it wholly.
        let full = found.values[9];
        assert!((full - found.clean).abs() <= 1e-3 * found.clean.abs().max(1.0), "{kind:?}: {full}, {}", found.clean);
        match kind {
            MetricKind::Rank => assert!(found.clean == 0.0 && found.corrupted.unwrap() > 0.0),
            MetricKind::Kl => assert!(found.clean.abs() < 1e-5 && found.corrupted.unwrap() > 1.0),
            MetricKind::Probability => assert!((found.clean - 0.92291).abs() < 1e-3),
            _ => {}
        }
    }
}

fn pair_metric() -> Metric {
    pair().1
}
