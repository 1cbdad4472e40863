//! The components of a transformer: the embedding, every attention head, every MLP, and the logits. They are the nodes
//! of circuits and graphs, and have the same names everywhere: `embed`, `a23.h3` (layer 23, head 3), `m5` (layer 5),
//! `logits`.

use std::fmt;

use crate::model::config::ModelConfig;

/// A node of a circuit. All but `Logits` write to the residual stream; all but `Embed` read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    Embed,
    Head { layer: usize, head: usize },
    Mlp { layer: usize },
    Logits,
}

/// One of the three inputs of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Query,
    Key,
    Value,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Query, Self::Key, Self::Value];

    pub fn letter(self) -> char {
        match self {
            Self::Query => 'q',
            Self::Key => 'k',
            Self::Value => 'v',
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
        }
    }
}

impl Component {
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Head { layer, .. } | Self::Mlp { layer } => Some(layer),
            Self::Embed | Self::Logits => None,
        }
    }

    /// Reads a name: `a23.h3`, `m5`, `embed` or `logits`. `23.3` is a head too.
    pub fn parse(text: &str) -> Option<Self> {
        let head = |layer: &str, head: &str| Some(Self::Head { layer: layer.parse().ok()?, head: head.parse().ok()? });
        match text {
            "embed" | "input" => Some(Self::Embed),
            "logits" => Some(Self::Logits),
            _ => {
                if let Some(layer) = text.strip_prefix('m') {
                    return Some(Self::Mlp { layer: layer.parse().ok()? });
                }
                let (layer, rest) = text.strip_prefix('a').unwrap_or(text).split_once('.')?;
                head(layer, rest.strip_prefix('h').unwrap_or(rest))
            }
        }
    }

    /// Returns what writes to the residual stream before a layer, in the order of the computation: the embedding, then
    /// each layer's heads and its MLP.
    pub fn writers(config: &ModelConfig, layers: usize) -> Vec<Self> {
        let mut all = vec![Self::Embed];
        for layer in 0..layers {
            all.extend((0..config.n_heads).map(|head| Self::Head { layer, head }));
            all.extend(config.has_mlp().then_some(Self::Mlp { layer }));
        }
        all
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => f.write_str("embed"),
            Self::Head { layer, head } => write!(f, "a{layer}.h{head}"),
            Self::Mlp { layer } => write!(f, "m{layer}"),
            Self::Logits => f.write_str("logits"),
        }
    }
}
