//! The Jacobian lens on SmolLM2-135M against TransformerLens 4.3: a lens fitted on two sentences, its matrices, what it reads
//! in another, and interventions along what it reads.

mod common;

use std::sync::{Arc, OnceLock};

use circuitscope::analysis::logit_lens::logit_lens;
use circuitscope::engine::edit::Positions;
use circuitscope::engine::resolve::{Sources, resolve_stack};
use circuitscope::engine::{EditStack, Trace};
use circuitscope::features::rows::Rows;
use circuitscope::lenses::JacobianLens;
use circuitscope::lenses::edit::Intervention;
use circuitscope::lenses::fit::{Settings, fit};
use circuitscope::progress::Progress;
use common::{fixture, ids, oracle, smollm2, worst};

const LAYERS: [usize; 2] = [10, 20];

/// The lens of the reference, fitted here.
fn lens() -> &'static JacobianLens {
    static LENS: OnceLock<JacobianLens> = OnceLock::new();
    LENS.get_or_init(|| {
        let doc = oracle("smollm2-jacobian-lens.json");
        let prompts: Vec<Vec<u32>> = serde_json::from_value(doc["prompt_ids"].clone()).unwrap();
        let number = |name: &str| doc[name].as_u64().unwrap() as usize;
        let settings = Settings {
            layers: LAYERS.to_vec(),
            skip: number("skip_first"),
            tokens: number("max_tokens"),
            texts: Vec::new(),
            shard: (0, 1),
        };
        let rows = Rows::new(prompts.into_iter().zip(0..));
        let sums = fit(&smollm2(), &rows, &settings, None, &Progress::new(), &mut |_| {}).unwrap();
        assert_eq!(sums.prompts(), 2);
        sums.lens().unwrap()
    })
}

#[test]
fn matrices() {
    let doc = oracle("smollm2-jacobian-lens.json");
    let path = fixture("oracles/smollm2-jacobian-rows.safetensors");
    let rows = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    for layer in LAYERS {
        let j = lens().layers[&layer].to_vec2::<f32>().unwrap();
        let norm = j.iter().flatten().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        let want = doc["frobenius"][layer.to_string()].as_f64().unwrap();
        assert!((norm / want - 1.0).abs() < 2e-3, "layer {layer}: {norm} against {want}");
        let theirs = rows[&format!("J.{layer}")].to_dtype(candle_core::DType::F32).unwrap().to_vec2::<f32>().unwrap();
        let (mut off, mut all) = (0f64, 0f64);
        for (i, row) in theirs.iter().enumerate() {
            for (a, b) in j[48 * i].iter().zip(row) {
                off += f64::from(a - b).powi(2);
                all += f64::from(*b).powi(2);
            }
        }
        assert!((off / all).sqrt() < 2e-3, "layer {layer}: off by {}", (off / all).sqrt());
    }
}

#[test]
fn read_outs() {
    let doc = oracle("smollm2-jacobian-lens.json");
    let transport = lens().transport(&smollm2()).unwrap();
    let trace = Trace::run(&smollm2(), ids(&doc["ids"]), &Progress::new()).unwrap();
    let read = logit_lens(&trace, Some(&transport), &[], None, None, 5, &Progress::new(), |_| {}).unwrap();
    for layer in LAYERS {
        for pos in 0..trace.len() {
            let top = &read.cell(layer, pos).unwrap().top;
            let want = |what: &str| &doc[format!("top5[layer][pos] {what}")][layer.to_string()][pos];
            assert_eq!(top.iter().map(|t| t.id).collect::<Vec<_>>(), ids(want("ids")), "layer {layer}, position {pos}");
            let logits: Vec<f32> = serde_json::from_value(want("logits").clone()).unwrap();
            let off = worst(&top.iter().map(|t| t.logit).collect::<Vec<_>>(), &logits);
            assert!(off < 2e-2, "layer {layer}, position {pos}: off by {off}");
        }
    }
}

#[test]
fn interventions() {
    let doc = oracle("smollm2-jacobian-lens.json");
    let model = smollm2();
    let transport = lens().transport(&model).unwrap();
    let id = |name: &str| doc[name].as_u64().unwrap() as u32;
    let (answer, wrong) = (id("answer_id"), id("wrong_id"));
    let base = Trace::run(&model, ids(&doc["ids"]), &Progress::new()).unwrap();
    let logits = |trace: &Trace| -> Vec<f32> {
        let (columns, bias) = model.network().unembed_columns(&[answer, wrong]).unwrap();
        let row = trace.normalized(trace.len() - 1).unwrap();
        model.network().logits_by(&row, &columns, bias.as_ref()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let table = doc["last_logits[answer, wrong]"].as_object().unwrap();
    assert_eq!(table.len(), 11);
    for (case, want) in table {
        let want: Vec<f32> = serde_json::from_value(want.clone()).unwrap();
        let Some((layer, rest)) = case.strip_prefix("layer ").and_then(|c| c.split_once(": ")) else {
            assert!(worst(&logits(&base), &want) < 2e-2, "{case}");
            continue;
        };
        let alpha = || rest.split("alpha ").nth(1).and_then(|t| t.split(' ').next()?.parse().ok()).unwrap();
        let what = match rest.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["steer", "answer"] => Intervention::Steer { token: answer, alpha: alpha() },
            ["steer", _] => Intervention::Steer { token: wrong, alpha: alpha() },
            ["ablate", _] => Intervention::Ablate { tokens: vec![answer, wrong] },
            _ => Intervention::Swap { from: answer, to: wrong, alpha: alpha(), clamped: false },
        };
        let last = rest.ends_with("last position");
        let positions = if last { Positions::At(vec![base.len() - 1]) } else { Positions::All };
        let edits = what.edits(&model, Some(&transport), layer.parse().unwrap(), &positions).unwrap();
        let ops = resolve_stack(&EditStack { edits, ..EditStack::default() }, &Sources::alone(&base)).unwrap();
        let edited = Trace::run_edited(&model, base.ids.clone(), Arc::new(ops), &Progress::new()).unwrap();
        let off = worst(&logits(&edited), &want);
        assert!(off < 2e-2, "{case}: off by {off}");
    }
}
