//! Times a model of a known shape with random weights: what its file would need, without fetching it. The file lies in
//! the folder for scratch files until the model is open.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{beside_products, peak_memory, plain_pass, prompt, time};
use crate::analysis::direct_attribution::direct_attribution;
use crate::analysis::metric::Metric;
use crate::analysis::pair::Pair;
use crate::analysis::patching::patching;
use crate::analysis::sweep::{Axes, Sweep};
use crate::circuit::eap::{Path as Along, edge_scores};
use crate::engine::{SiteKind, Trace};
use crate::error::{Error, Result};
use crate::files::scratch_folder;
use crate::hash;
use crate::interrupt;
use crate::model::Model;
use crate::model::dequantize::Stored;
use crate::model::matrix::Held;
use crate::progress::Progress;

/// A shape that is known by name.
struct Shape {
    name: &'static str,
    arch: &'static str,
    layers: usize,
    d_model: usize,
    /// Heads, heads of keys and values, and their width.
    heads: [usize; 3],
    d_mlp: usize,
    d_vocab: usize,
    context: usize,
    tied: bool,
    /// The base of the rotation.
    base: f32,
    /// The norms of a layer.
    norms: &'static [&'static str],
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "llama-3.1-8b",
        arch: "llama",
        layers: 32,
        d_model: 4096,
        heads: [32, 8, 128],
        d_mlp: 14_336,
        d_vocab: 128_256,
        context: 131_072,
        tied: false,
        base: 500_000.0,
        norms: &["attn_norm", "ffn_norm"],
    },
    Shape {
        name: "gemma-2-2b",
        arch: "gemma2",
        layers: 26,
        d_model: 2304,
        heads: [8, 4, 256],
        d_mlp: 9216,
        d_vocab: 256_000,
        context: 8192,
        tied: true,
        base: 10_000.0,
        norms: &["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"],
    },
    Shape {
        name: "smollm2-135m",
        arch: "llama",
        layers: 30,
        d_model: 576,
        heads: [9, 3, 64],
        d_mlp: 1536,
        d_vocab: 49_152,
        context: 8192,
        tied: true,
        base: 100_000.0,
        norms: &["attn_norm", "ffn_norm"],
    },
];

/// The types in which random weights can be made, by their names in small letters.
const TYPES: [Stored; 8] =
    [Stored::F32, Stored::F16, Stored::BF16, Stored::Q4_0, Stored::Q4_1, Stored::Q8_0, Stored::Q4K, Stored::Q6K];

impl Shape {
    /// Names and shapes of the matrices, outermost axis first.
    fn matrices(&self) -> Vec<(String, [usize; 2])> {
        let (d, m, [heads, kv, width]) = (self.d_model, self.d_mlp, self.heads);
        let mut out = vec![("token_embd".to_owned(), [self.d_vocab, d])];
        if !self.tied {
            out.push(("output".to_owned(), [self.d_vocab, d]));
        }
        for layer in 0..self.layers {
            for (name, shape) in [
                ("attn_q", [heads * width, d]),
                ("attn_k", [kv * width, d]),
                ("attn_v", [kv * width, d]),
                ("attn_output", [d, heads * width]),
                ("ffn_gate", [m, d]),
                ("ffn_up", [m, d]),
                ("ffn_down", [d, m]),
            ] {
                out.push((format!("blk.{layer}.{name}"), shape));
            }
        }
        out
    }

    fn gains(&self) -> Vec<String> {
        let each = |layer| self.norms.iter().map(move |norm| format!("blk.{layer}.{norm}"));
        (0..self.layers).flat_map(each).chain(["output_norm".to_owned()]).collect()
    }

    /// Writes a file of this shape with random weights.
    fn write(&self, stored: Stored, path: &Path) -> Result<u64> {
        let file = std::fs::File::create(path).map_err(|e| Error::write(path, e))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        self.write_to(stored, &mut out).and_then(|bytes| out.flush().map(|()| bytes)).map_err(|e| Error::write(path, e))
    }

    fn write_to(&self, stored: Stored, out: &mut impl Write) -> std::io::Result<u64> {
        let mut head = Vec::new();
        let (gains, matrices) = (self.gains(), self.matrices());
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend(((gains.len() + matrices.len()) as u64).to_le_bytes());
        let [heads, kv, width] = self.heads;
        let numbers = [
            ("block_count", self.layers),
            ("embedding_length", self.d_model),
            ("feed_forward_length", self.d_mlp),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv),
            ("attention.key_length", width),
            ("attention.value_length", width),
            ("context_length", self.context),
        ];
        head.extend((numbers.len() as u64 + 3).to_le_bytes());
        let text = |head: &mut Vec<u8>, text: &str| {
            head.extend((text.len() as u64).to_le_bytes());
            head.extend(text.as_bytes());
        };
        text(&mut head, "general.architecture");
        head.extend(8u32.to_le_bytes());
        text(&mut head, self.arch);
        for (key, value) in numbers {
            text(&mut head, &format!("{}.{key}", self.arch));
            head.extend(4u32.to_le_bytes());
            head.extend((value as u32).to_le_bytes());
        }
        for (key, value) in [("rope.freq_base", self.base), ("attention.layer_norm_rms_epsilon", 1e-5)] {
            text(&mut head, &format!("{}.{key}", self.arch));
            head.extend(6u32.to_le_bytes());
            head.extend(value.to_le_bytes());
        }
        let number = |stored: Stored| Stored::ALL.iter().find(|(s, _)| *s == stored).map_or(0, |(_, n)| *n);
        let bytes = |[rows, cols]: [usize; 2]| rows * stored.bytes(cols).unwrap_or(0);
        let mut offset = 0u64;
        for name in &gains {
            text(&mut head, &format!("{name}.weight"));
            head.extend(1u32.to_le_bytes());
            head.extend((self.d_model as u64).to_le_bytes());
            head.extend(number(Stored::F32).to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += (4 * self.d_model as u64).next_multiple_of(32);
        }
        for (name, shape) in &matrices {
            text(&mut head, &format!("{name}.weight"));
            head.extend(2u32.to_le_bytes());
            head.extend((shape[1] as u64).to_le_bytes());
            head.extend((shape[0] as u64).to_le_bytes());
            head.extend(number(stored).to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += (bytes(*shape) as u64).next_multiple_of(32);
        }
        head.resize(head.len().next_multiple_of(32), 0);
        out.write_all(&head)?;
        let pad = |out: &mut dyn Write, n: usize| out.write_all(&vec![0; n.next_multiple_of(32) - n]);
        for _ in &gains {
            for _ in 0..self.d_model {
                out.write_all(&1f32.to_le_bytes())?;
            }
            pad(out, 4 * self.d_model)?;
        }
        for (i, (_, shape)) in matrices.iter().enumerate() {
            // Some rows are made and written again and again; where they begin differs.
            let pool = random(stored, i as u64);
            let mut left = bytes(*shape);
            while left > 0 {
                let n = left.min(pool.len());
                out.write_all(&pool[..n])?;
                left -= n;
            }
            pad(out, bytes(*shape))?;
        }
        Ok(head.len() as u64 + offset)
    }
}

/// Random blocks, about a megabyte, whose values are about 0.02 large.
fn random(stored: Stored, seed: u64) -> Vec<u8> {
    let (per_block, size) = stored.block();
    let blocks = (1 << 20) / size;
    let mut bytes = vec![0u8; blocks * size];
    let mut state = hash::mix(seed + 1);
    let mut next = || {
        state = hash::mix(state.wrapping_add(0x9E37_79B9_7F4A_7C15));
        state
    };
    let half = |v: f32| f16::from_f32(v).to_le_bytes();
    for block in bytes.chunks_exact_mut(size) {
        if per_block == 1 {
            let v = (next() >> 40) as f32 / (1u64 << 24) as f32 * 0.07 - 0.035;
            match stored {
                Stored::F32 => block.copy_from_slice(&v.to_le_bytes()),
                Stored::F16 => block.copy_from_slice(&half(v)),
                _ => block.copy_from_slice(&bf16::from_f32(v).to_le_bytes()),
            }
            continue;
        }
        block.iter_mut().for_each(|b| *b = next() as u8);
        match stored {
            Stored::Q4_0 => block[..2].copy_from_slice(&half(0.005)),
            Stored::Q4_1 => {
                block[..2].copy_from_slice(&half(0.005));
                block[2..4].copy_from_slice(&half(-0.0375));
            }
            Stored::Q8_0 => block[..2].copy_from_slice(&half(0.0003)),
            Stored::Q4K => {
                block[..2].copy_from_slice(&half(1e-4));
                block[2..4].copy_from_slice(&half(7.5e-4));
            }
            _ => block[208..].copy_from_slice(&half(1.5e-5)),
        }
    }
    bytes
}

/// Reads `SHAPE:TYPE`.
fn read(text: &str) -> Result<(&'static Shape, Stored)> {
    let list = |names: &[String]| names.join(", ");
    let (name, kind) = text.split_once(':').unwrap_or((text, ""));
    let shape = SHAPES.iter().find(|s| s.name == name).ok_or_else(|| {
        let names: Vec<String> = SHAPES.iter().map(|s| s.name.to_owned()).collect();
        Error::request(format!("--synthetic knows no shape {name}; it knows {}", list(&names)))
    })?;
    let same = |stored: &&Stored| stored.name().eq_ignore_ascii_case(kind);
    let stored = TYPES.iter().find(same).ok_or_else(|| {
        let names: Vec<String> = TYPES.iter().map(|s| s.name().to_lowercase()).collect();
        Error::request(format!("--synthetic makes no weights of type {kind:?}; it makes {}", list(&names)))
    })?;
    match shape.matrices().iter().find(|(_, [_, cols])| stored.bytes(*cols).is_none()) {
        None => Ok((shape, *stored)),
        Some((matrix, _)) => Err(Error::request(format!(
            "the rows of {matrix} of {name} do not divide into blocks of {}; take another type",
            stored.name()
        ))),
    }
}

/// What was measured of a synthetic model.
pub(super) struct Measured {
    pub model: Arc<Model>,
    pub doc: Value,
}

/// A folder for scratch files, which goes away with what is returned.
pub(super) fn scratch() -> Result<TempDir> {
    let folder = scratch_folder();
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    interrupt::temporary_folder(|| tempfile::tempdir_in(folder)).map_err(|e| Error::write(folder, e))
}

/// A model of random weights that is open, whose file is gone.
pub(super) struct Opened {
    pub model: Arc<Model>,
    shape: Shape,
    stored: Stored,
    /// Bytes that the file had.
    file: u64,
}

impl Opened {
    /// Writes a model of so many layers, at most those of the shape, and opens it.
    pub(super) fn of(text: &str, layers: Option<usize>, held: Held) -> Result<Self> {
        let (shape, stored) = read(text)?;
        let shape = Shape { layers: layers.unwrap_or(shape.layers).clamp(1, shape.layers), ..*shape };
        let work = scratch()?;
        let path = work.path().join(format!("{}.gguf", shape.name));
        let file = shape.write(stored, &path)?;
        let spec = path.to_str().ok_or_else(|| Error::request("the folder for scratch files has no name in UTF-8"))?;
        let model = Arc::new(Model::open_watched(spec, held, &Progress::new())?);
        Ok(Self { model, shape, stored, file })
    }
}

/// Times a pass, a sweep, an attribution and edge scores on a model of random weights.
pub(super) fn measure(text: &str, layers: Option<usize>, held: Held, repeat: usize) -> Result<Measured> {
    let before = peak_memory();
    let Opened { model, shape, stored, file } = Opened::of(text, layers, held)?;
    let progress = Progress::new();
    let opened = peak_memory();
    let ids = prompt(&model, 14);
    let pass = time(repeat, || plain_pass(&model, &ids, &progress))?;
    let passed = peak_memory();
    let started = Instant::now();
    let mut other = ids.clone();
    other[9] = (other[9] + 1) % model.config.d_vocab as u32;
    let run = |ids: Vec<u32>| Ok::<_, Error>(Arc::new(Trace::run(&model, ids, &progress)?));
    let pair = Pair::new(run(ids.clone())?, run(other)?);
    let metric = Metric::LogitDifference { answer: 3, wrong: 5 };
    let sweep = Sweep::new(&pair, patching(SiteKind::ResidPre, Axes::LayerPos, metric), &progress)?;
    let swept = sweep.run(&progress, |_| {})?;
    let sweep_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    std::hint::black_box(direct_attribution(&pair.clean, 13, 3, Some(5))?);
    let dla = started.elapsed().as_secs_f64();
    let started = Instant::now();
    std::hint::black_box(edge_scores(&pair, metric, Along::Clean, &progress)?);
    let eap = started.elapsed().as_secs_f64();
    let analysed = peak_memory();
    let (gemm, _, pass_over_gemm) = beside_products(&model, 14, repeat, || plain_pass(&model, &ids, &progress))?;
    let over = |peak: Option<u64>| peak.map(|p| p.saturating_sub(file));
    let doc = json!({
        "shape": shape.name, "stored_as": stored.name(), "layers": shape.layers, "file_bytes": file,
        "weight_bytes": model.weight_bytes(), "open_seconds": model.load_seconds,
        "peak_memory_bytes": {"start": before, "open": opened, "pass": passed, "analyses": analysed},
        "pass_memory_over_file_bytes": over(passed), "analyses_memory_over_file_bytes": over(analysed),
        "pass_seconds": pass, "gemm_seconds": gemm, "pass_over_gemm": pass_over_gemm,
        "sweep": {"cells": swept.values.len(), "seconds": sweep_seconds, "forward_passes": sweep_seconds / pass},
        "dla_seconds": dla,
        "eap": {"seconds": eap, "forward_passes": eap / pass},
    });
    Ok(Measured { model, doc })
}

/// Returns the lines of text for what was measured.
pub(super) fn lines(doc: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let gb = |v: &Value| number(v) / 1e9;
    format!(
        "{} in {}, {} layers: file {:.2} GB, weights {:.2} GB, opened in {:.1} s\npass of 14 tokens: {:.3} s = {:.2} × \
         the GEMM time at the same shapes, in {:.2} GB beyond the file\nsweep of resid_pre, {} cells: {:.2} s = {:.1} \
         passes; direct attribution {:.3} s; EAP {:.2} s = {:.1} passes; in {:.2} GB beyond the file",
        doc["shape"].as_str().unwrap_or_default(),
        doc["stored_as"].as_str().unwrap_or_default(),
        doc["layers"],
        gb(&doc["file_bytes"]),
        gb(&doc["weight_bytes"]),
        number(&doc["open_seconds"]),
        number(&doc["pass_seconds"]),
        number(&doc["pass_over_gemm"]),
        gb(&doc["pass_memory_over_file_bytes"]),
        doc["sweep"]["cells"],
        number(&doc["sweep"]["seconds"]),
        number(&doc["sweep"]["forward_passes"]),
        number(&doc["dla_seconds"]),
        number(&doc["eap"]["seconds"]),
        number(&doc["eap"]["forward_passes"]),
        gb(&doc["analyses_memory_over_file_bytes"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synthetic_model_is_written_opened_and_removed() {
        let found = measure("smollm2-135m:q4_1", Some(1), Held::Stored, 1).unwrap();
        assert_eq!((found.model.config.n_layers, found.model.held), (1, Held::Stored));
        // 4.5 or 5 bits a weight, and the norms.
        let bytes = found.model.weight_bytes() as f64;
        assert!((bytes / found.model.n_params as f64 - 0.625).abs() < 0.01);
        assert_eq!(found.doc["sweep"]["cells"], 14);
        assert!(found.doc["pass_over_gemm"].as_f64().unwrap() > 0.0);
        // Other tests write files of the same name at the same time.
        assert!(found.model.path.as_ref().is_some_and(|p| p.ends_with("smollm2-135m.gguf") && !p.exists()));
        assert!(measure("smollm2-135m:q4_k", None, Held::Stored, 1).is_err_and(|e| e.to_string().contains("blocks")));
        assert!(measure("gpt-5:q4_k", None, Held::Stored, 1).is_err_and(|e| e.to_string().contains("gemma-2-2b")));
        assert!(measure("gemma-2-2b:q3", None, Held::Stored, 1).is_err_and(|e| e.to_string().contains("bf16")));
    }
}
