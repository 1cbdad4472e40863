//! Writing small GGUF files, good and bad.

/// A metadata value.
pub enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl Value<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U32(v) => {
                out.extend(4u32.to_le_bytes());
                out.extend(v.to_le_bytes());
            }
            Self::F32(v) => {
                out.extend(6u32.to_le_bytes());
                out.extend(v.to_le_bytes());
            }
            Self::Bool(v) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*v));
            }
            Self::Text(v) => {
                out.extend(8u32.to_le_bytes());
                text(out, v);
            }
            Self::Texts(v) => {
                list(out, 8, v.len());
                v.iter().for_each(|s| text(out, s));
            }
            Self::I32s(v) => {
                list(out, 5, v.len());
                v.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Self::F32s(v) => {
                list(out, 6, v.len());
                v.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
        }
    }
}

fn list(out: &mut Vec<u8>, kind: u32, n: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((n as u64).to_le_bytes());
}

/// A tensor with its shape, outermost axis first.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The bytes of a part of a split file: the metadata, the numbers of the part and of all, and some of the tensors.
pub fn part(metadata: Vec<(&'static str, Value<'static>)>, no: u32, count: u32, tensors: &[Tensor]) -> Vec<u8> {
    let mut metadata = metadata;
    metadata.extend([("split.no", Value::U32(no)), ("split.count", Value::U32(count))]);
    file(&metadata, tensors)
}

/// The bytes of a version-3 file with F32 tensors.
pub fn file(metadata: &[(&str, Value<'_>)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        value.write(&mut out);
    }
    let mut offset = 0u64;
    for t in tensors {
        text(&mut out, &t.name);
        out.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().rev().for_each(|d| out.extend((*d as u64).to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (4 * t.values.len()).next_multiple_of(32) as u64;
    }
    out.resize(out.len().next_multiple_of(32), 0);
    for t in tensors {
        t.values.iter().for_each(|v| out.extend(v.to_le_bytes()));
        out.resize(out.len().next_multiple_of(32), 0);
    }
    out
}

/// The llama fixture as GGUF: other names, and q and k rows interleaved.
pub fn llama_fixture() -> (Vec<(&'static str, Value<'static>)>, Vec<Tensor>) {
    let bytes = std::fs::read(super::fixture("families/llama/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let shape = view.shape().to_vec();
        let mut values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let heads = if name.contains("q_proj") {
            Some(4)
        } else if name.contains("k_proj") {
            Some(2)
        } else {
            None
        };
        if let Some(heads) = heads {
            let (rows, cols) = (shape[0], shape[1]);
            let half = rows / heads / 2;
            let old = values.clone();
            for h in 0..heads {
                for s in 0..2 {
                    for j in 0..half {
                        let (from, to) = (h * 2 * half + s * half + j, h * 2 * half + 2 * j + s);
                        values[to * cols..(to + 1) * cols].copy_from_slice(&old[from * cols..(from + 1) * cols]);
                    }
                }
            }
        }
        let mut new = name.clone();
        for (a, b) in [
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("model.layers.", "blk."),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            new = new.replace(a, b);
        }
        Tensor { name: new, shape, values }
    });
    let metadata = vec![
        ("general.architecture", Value::Text("llama")),
        ("llama.block_count", Value::U32(3)),
        ("llama.context_length", Value::U32(128)),
        ("llama.embedding_length", Value::U32(64)),
        ("llama.feed_forward_length", Value::U32(160)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.rope.dimension_count", Value::U32(16)),
    ];
    (metadata, tensors.collect())
}
