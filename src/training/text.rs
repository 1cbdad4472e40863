//! The task `text`: to predict prose, dialogue and code. The model has three layers with MLPs. It is small enough to
//! take apart, and large enough that its neurons mix concepts, which a dictionary of features splits again.

use std::sync::Arc;

use candle_core::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::design::Design;
use super::run::{self, Log, Named, Training, cross_entropy};
use super::schedule::warm_constant_fall;
use super::{StepReport, Task, TrainOptions};
use crate::error::{Error, Result};
use crate::files::{LARGE, read_text};
use crate::model::{Model, Network};
use crate::progress::Progress;

pub const TASK: Task = Task {
    name: "text",
    purpose: "three layers with MLPs that learn prose, dialogue and code: a small model to find features in",
    watch: "The loss falls quickly while the model learns which tokens are frequent and which follow each other, then \
            slowly while it learns words, quotes, indentation and names. Its neurons end up mixing concepts; train a \
            dictionary of features on one of its sites to split them.",
    source: "Bricken et al. 2023, Towards Monosemanticity",
    steps: STEPS,
    time: "about half an hour on two idle cores",
    train,
};

const STEPS: usize = 5_000;
const RATE: f64 = 2e-3;
const WARMUP: usize = 100;
const FALL: usize = 3_000;
const ROWS: usize = 24;
const LENGTH: usize = 96;
/// Of so many pieces of the text one is held out.
const HELD_OUT: usize = 20;
/// Steps between two probes, and between two checkpoints.
const RHYTHM: (usize, usize) = (100, 250);

const DESIGN: Design = Design {
    d_model: 128,
    heads: 4,
    layers: 3,
    d_mlp: 384,
    vocab: 1024,
    context: 256,
    rope_base: 1_000.0,
    embed_std: 0.1,
};

/// The texts: prose; and code in several languages, dialogue and tables.
const TEXTS: [&str; 2] = [include_str!("../../assets/text/prose.txt"), include_str!("../../assets/text/mixed.txt")];

struct Text {
    tokenizer: tokenizers::Tokenizer,
    /// Pieces of LENGTH + 1 tokens, [source][piece][token].
    trained: Vec<Vec<Vec<u32>>>,
    held_out: Vec<Vec<u32>>,
    tokens: usize,
}

fn prepare(texts: &[String]) -> Result<Text> {
    let tokenizer = run::byte_level(&texts.join("\n"), DESIGN.vocab)?;
    let (mut trained, mut held_out, mut tokens) = (Vec::new(), Vec::new(), 0);
    for text in texts {
        let encoded = tokenizer
            .encode(text.as_str(), false)
            .map_err(|e| Error::failed(format!("the text cannot be split: {e}")))?;
        tokens += encoded.len();
        let mut kept = Vec::new();
        for (i, piece) in encoded.get_ids().chunks_exact(LENGTH + 1).enumerate() {
            if i % HELD_OUT == HELD_OUT - 1 {
                held_out.push(piece.to_vec());
            } else {
                kept.push(piece.to_vec());
            }
        }
        trained.push(kept);
    }
    if held_out.is_empty() || trained.iter().any(Vec::is_empty) {
        return Err(Error::request(format!(
            "the text gives only {tokens} tokens; give at least {}",
            (LENGTH + 1) * HELD_OUT
        )));
    }
    Ok(Text { tokenizer, trained, held_out, tokens })
}

fn train(options: &TrainOptions, progress: &Progress, report: &mut dyn FnMut(StepReport)) -> Result<()> {
    let texts = match &options.text {
        Some(path) => vec![read_text(path, LARGE)?],
        None => TEXTS.map(str::to_owned).to_vec(),
    };
    run::train(&prepare(&texts)?, options, progress, report)
}

const LOSS: &str = "text";

impl Text {
    fn held_out_loss(&self, model: &Model, pieces: usize) -> Result<f32> {
        // The pieces are taken from all sources.
        let every = (self.held_out.len() / pieces).max(1);
        let rows: Vec<Vec<u32>> = self.held_out.iter().step_by(every).take(pieces).cloned().collect();
        Ok(cross_entropy(model.network(), &rows, 0, LENGTH)?.to_scalar()?)
    }
}

impl Training for Text {
    fn name(&self) -> &'static str {
        TASK.name
    }

    fn design(&self) -> Design {
        DESIGN
    }

    fn steps(&self) -> usize {
        STEPS
    }

    fn rate(&self, step: usize, total: usize) -> f64 {
        warm_constant_fall(step, total, WARMUP, FALL.min(total / 2), RATE)
    }

    fn rhythm(&self) -> (usize, usize) {
        RHYTHM
    }

    fn tokenizer(&self) -> Result<tokenizers::Tokenizer> {
        Ok(self.tokenizer.clone())
    }

    fn loss(
        &self,
        network: Network<'_>,
        seed: u64,
        step: usize,
        _total: usize,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step as u64 + 1);
        let rows: Vec<Vec<u32>> = (0..ROWS)
            .map(|i| {
                let source = &self.trained[i % self.trained.len()];
                source[rng.random_range(0..source.len())].clone()
            })
            .collect();
        let loss = cross_entropy(network, &rows, 0, LENGTH)?;
        Ok((loss.clone(), vec![(LOSS, loss)]))
    }

    fn scores(&self, model: &Arc<Model>) -> Result<Vec<Named>> {
        Ok(vec![("held-out loss, nats".to_owned(), self.held_out_loss(model, 16)?)])
    }

    fn watched_tokens(&self) -> Vec<u32> {
        self.held_out.first().map(|p| p[..24.min(p.len())].to_vec()).unwrap_or_default()
    }

    fn card(&self, log: &Log, model: &Arc<Model>, seconds: f64) -> Result<String> {
        let loss = self.held_out_loss(model, 256)?;
        let Design { d_model, layers, heads, d_mlp, vocab, rope_base, .. } = DESIGN;
        Ok(format!(
            "# text\n\n\
            A {layers}-layer transformer with MLPs, trained on prose, dialogue and code: a small model to find features in.\n\n\
            Train it again: `circuitscope lab train text --output FOLDER --seed {}`\n\n\
            ## Scores\n\n\
            Held-out loss {loss:.3} nats a token over 256 pieces of {LENGTH} tokens; guessing evenly would cost {:.3}.\n\n\
            ## Recipe\n\n\
            - d_model {d_model}, {layers} layers of {heads} heads, {d_mlp} ReLU neurons each, vocabulary {vocab} (byte-level BPE\n\
            \x20 trained on the text), LayerNorm before each attention and MLP and at the end, rotary positions with base\n\
            \x20 {rope_base}, untied unembedding; weights kept in 16 bits.\n\
            - AdamW, learning rate {RATE} after {WARMUP} warm-up steps, falling to a tenth over the last {FALL}; betas 0.9\n\
            \x20 and 0.98, weight decay 0.01; seed {}; {} steps ({seconds:.0} s in the run that wrote this).\n\
            - Every step: {ROWS} pieces of {LENGTH} tokens, half of them prose, half code, dialogue and tables. Every\n\
            \x20 {HELD_OUT}th piece is held out.\n\n\
            ## Data and licence\n\n\
            {} tokens of public-domain text (see `assets/text/SOURCES.md`). The model is released under CC0 1.0.\n\n\
            ## Loss curve\n\n\
            Cross-entropy in nats.\n\n{}",
            log.seed,
            (vocab as f32).ln(),
            log.seed,
            log.steps,
            self.tokens,
            run::curve(log, &[LOSS]),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_held_out_and_short_texts_refused() {
        let text = "the quick brown fox jumps over the lazy dog and says so\n".repeat(600);
        let made = prepare(std::slice::from_ref(&text)).unwrap();
        assert!(made.held_out.iter().chain(&made.trained[0]).all(|p| p.len() == LENGTH + 1));
        assert!(made.trained[0].len() >= (HELD_OUT - 1) * made.held_out.len());
        assert!(prepare(&["too short".to_owned()]).is_err());
    }
}
