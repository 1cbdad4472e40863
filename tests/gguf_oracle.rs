//! Small GGUF files of many architectures and types against what transformers computes from the same weights.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use circuitscope::engine::NoHooks;
use circuitscope::model::Model;
use circuitscope::progress::Progress;
use common::{fixture, worst};
use serde_json::Value;

/// The logits after the last token.
fn last_logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let network = model.network();
    let resid = network.forward(&[ids], &mut NoHooks, &Progress::new()).unwrap();
    let last = resid.narrow(1, ids.len() - 1, 1).unwrap();
    let x = network.final_norm(&last, &mut NoHooks).unwrap().squeeze(0).unwrap();
    network.unembed(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_file_gives_the_logits_of_transformers() {
    let mut failures = Vec::new();
    let mut tried = 0;
    for entry in std::fs::read_dir(fixture("gguf")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        tried += 1;
        let expected: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let file = path.with_file_name(expected["file"].as_str().unwrap());
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let model = match Model::open(file.to_str().unwrap()) {
            Ok(model) => model,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        let family = expected["family"].as_str().unwrap();
        // llama.cpp writes Mistral as Llama.
        let family = if family == "mistral" { "llama" } else { family };
        if model.config.family != family {
            failures.push(format!("{name}: opened as {}, not as {family}", model.config.family));
        }
        if !model.warnings.is_empty() {
            failures.push(format!("{name}: {:?}", model.warnings));
        }
        let ids: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
        let logits: Vec<f32> = serde_json::from_value(expected["logits_last"].clone()).unwrap();
        let difference = worst(&last_logits(&model, &ids), &logits);
        println!("{name}: {difference:.1e}");
        if difference > 1e-3 || difference.is_nan() {
            failures.push(format!("{name}: logits differ by {difference}"));
        }
    }
    assert!(tried > 20, "only {tried} files were found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
