//! Mixtral: Mistral with a mixture of experts.

use serde_json::{Map, Value};

use super::{Family, Form, gated_rms};
use crate::error::Result;
use crate::model::config::{Experts, ModelConfig};
use crate::model::gguf_config::Keys;
use crate::model::options::Options;
use crate::model::weights::{LLAMA, MlpNames, Names};

pub const FAMILY: Family = Family {
    name: "mixtral",
    title: "Mixtral",
    config,
    names,
    gguf: Some(Form {
        arch: "llama",
        when: |k| matches!(k.int("expert_count"), Ok(Some(n)) if n > 0),
        config: gguf,
        interleaved: true,
    }),
};

fn config(o: &Options) -> Result<ModelConfig> {
    let mut c = gated_rms("mixtral", o)?;
    c.window = o.windows(c.n_layers, |_| true)?;
    let experts = experts(o, o.size_of(&["num_local_experts", "num_experts"])?.unwrap_or(8), 2, true)?;
    c.d_mlp *= experts.count;
    c.experts = Some(experts);
    Ok(c)
}

/// Reads how many experts a position uses, by default `used`.
pub(super) fn experts(o: &Options, count: usize, used: usize, renormalise: bool) -> Result<Experts> {
    let used = o.size_or("num_experts_per_tok", used)?;
    if count == 0 || count > 4096 || used == 0 || used > count {
        return Err(o.bad("num_experts_per_tok", format!("is {used} of {count} experts")));
    }
    Ok(Experts { count, used, renormalise })
}

fn gguf(k: &Keys) -> Result<Map<String, Value>> {
    let mut map = k.rotated(false)?;
    k.experts(&mut map, true)?;
    Ok(map)
}

fn names(_: &Options) -> Result<Names> {
    let mlp = MlpNames::Experts {
        router: "block_sparse_moe.gate",
        gate: "block_sparse_moe.experts.{e}.w1",
        input: "block_sparse_moe.experts.{e}.w3",
        output: "block_sparse_moe.experts.{e}.w2",
    };
    Ok(Names { mlp, ..LLAMA })
}
