//! Twenty tiny models of all families against what transformers 5.23 computes for each.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use circuitscope::engine::{Capture, NoHooks, Site, SiteKind, Trace};
use circuitscope::model::Model;
use circuitscope::model::families::FAMILIES;
use circuitscope::progress::Progress;
use common::{fixture, worst};

fn expected(folder: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensors().into_iter().map(|(n, t)| (n, t.data().to_vec())).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_family_computes_what_transformers_computes() {
    let mut seen = Vec::new();
    let mut failures = Vec::new();
    let folders = ["families", "cases"].map(|f| std::fs::read_dir(fixture(f)).unwrap());
    for folder in folders.into_iter().flatten() {
        let folder = folder.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model = match Model::open(folder.to_str().unwrap()) {
            Ok(m) => m,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        seen.push(model.config.family.clone());
        let want = expected(&folder);
        let ids: Vec<u32> =
            want["ids"].chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
        let last = model.config.n_layers - 1;
        let pattern = Site::new(SiteKind::Pattern, last);
        let first_block = Site::new(SiteKind::ResidPost, 0);
        let network = model.network();
        let inside = [SiteKind::MlpPost, SiteKind::MlpExperts].map(|kind| Site::new(kind, last));
        let inside = inside.into_iter().filter(|s| s.kind.exists(&model.config));
        let mut capture = Capture::sites([pattern, first_block].into_iter().chain(inside));
        let progress = Progress::new();
        let logits = |resid: candle_core::Tensor| -> Vec<f32> {
            let x = network.final_norm(&resid, &mut NoHooks).unwrap().squeeze(0).unwrap();
            network.unembed(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        // Watched and plain passes take different kernels; both must be right.
        let watched = logits(network.forward(&[&ids], &mut capture, &progress).unwrap());
        let plain = logits(network.forward(&[&ids], &mut NoHooks, &progress).unwrap());
        let value = |site| capture.get(site).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let wanted = floats(&want["logits"]);
        let mut differences =
            vec![("logits, watched", worst(&watched, &wanted)), ("logits, plain", worst(&plain, &wanted))];
        for (what, site, key) in
            [("attention", pattern, format!("attn_{last}")), ("first block", first_block, "hidden_1".to_owned())]
        {
            differences.extend(want.get(&key).map(|bytes| (what, worst(&value(site), &floats(bytes)))));
        }
        for (what, difference) in differences {
            println!("{name}: {what} {difference:.2e}");
            if difference > 1e-3 || difference.is_nan() {
                failures.push(format!("{name}: {what} differs by {difference}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for family in FAMILIES.iter().filter(|f| f.name != "circuitscope_lab") {
        assert!(seen.iter().any(|s| s == family.name), "no fixture of family {}", family.name);
    }
}

/// OPT-350m's stream is not a sum; what rests on that says so, the rest works.
#[test]
fn a_stream_that_is_no_sum_is_not_taken_apart() {
    let model = Arc::new(Model::open(fixture("cases/opt-350m").to_str().unwrap()).unwrap());
    let trace = Trace::run(&model, vec![5, 9, 7], &Progress::new()).unwrap();
    let refused = circuitscope::analysis::direct_attribution::direct_attribution(&trace, 2, 4, None);
    let Err(refused) = refused else { panic!("attribution is refused") };
    assert!(refused.to_string().contains("normalises its residual stream"), "{refused}");
    assert!(circuitscope::analysis::contributions::Contributions::of(&trace, 0).is_err());
}

/// A prompt that begins as another gets the values of a run of its own: with its last token changed, longer, shorter, changed
/// in the middle, and the same.
#[test]
fn runs_go_on_from_where_another_prompt_begins_alike() {
    let progress = Progress::new();
    let flat = |t: candle_core::Tensor| -> Vec<f32> { t.flatten_all().unwrap().to_vec1().unwrap() };
    let (mut went_on, mut anew) = (0, 0);
    for folder in ["families", "cases"].into_iter().flat_map(|f| std::fs::read_dir(fixture(f)).unwrap()) {
        let folder = folder.unwrap().path();
        let Ok(model) = Model::open(folder.to_str().unwrap()) else { continue };
        let model = Arc::new(model);
        let vocabulary = model.config.d_vocab as u32;
        let ids: Vec<u32> = (0..11).map(|i| (i * 31 + 7) % vocabulary).collect();
        let before = Trace::run(&model, ids.clone(), &progress).unwrap();
        let changed = |at: usize| {
            let mut other = ids.clone();
            other[at] = (other[at] + 5) % vocabulary;
            other
        };
        let longer: Vec<u32> = ids.iter().copied().chain([1, 3]).collect();
        let prompts = [
            (changed(10), 10),
            (longer, 11),
            (ids[..6].to_vec(), 5),
            (changed(4), 4),
            (ids.clone(), 10),
            (changed(1), 0),
        ];
        for (prompt, alike) in prompts {
            let by_length = model.config.rotates_by_length() && prompt.len() != ids.len();
            assert_eq!(before.shares(&prompt), if by_length { 0 } else { alike });
            if by_length {
                anew += 1;
            } else {
                went_on += 1;
            }
            let whole = Trace::run(&model, prompt.clone(), &progress).unwrap();
            let after = Trace::run_after(&before, prompt, &progress).unwrap();
            let near = |a: &[f32], b: &[f32], most: f32, what: &str| {
                let scale = a.iter().fold(1f32, |m, v| m.max(v.abs()));
                let far = if a.len() == b.len() { worst(a, b) / scale } else { f32::NAN };
                assert!(far < most, "{}: {what} differs by {far} of its size", folder.display());
            };
            for site in Site::all(&model.config).into_iter().filter(|s| whole.get(s.kind, s.layer).is_ok()) {
                let value = |t: &Trace| flat(t.get(site.kind, site.layer).unwrap());
                near(&value(&whole), &value(&after), 3e-5, &site.to_string());
            }
            let told = |t: &Trace| -> Vec<f32> {
                let loss = t.loss.iter().map(|l| l.unwrap_or(0.0)).chain(t.entropy.iter().copied());
                let next = t.next.iter().map(|n| n[0].logit).chain(flat(t.normalized(t.len() - 1).unwrap()));
                loss.chain(next).collect()
            };
            near(&told(&whole), &told(&after), 1e-5, "what is told of the next tokens");
            assert_eq!((whole.loss.len(), whole.next.len()), (after.loss.len(), after.next.len()));
        }
    }
    assert!(went_on > 200 && anew > 5, "{went_on} {anew}");
}
