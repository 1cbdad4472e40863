//! A traced prediction as a file that Neuronpedia, circuit-tracer's viewer and this program open.
//!
//! The format knows features of transcoders, not components. Heads are written as attention features and MLPs and neurons
//! as MLP features, so that every viewer draws them; what they are stands in their descriptions.

use serde_json::{Map, Value, json};

use super::NodeKind;
use super::components::Traced;
use super::file::{GraphFile, cantor};
use super::neurons::Opened;
use super::part::Part;
use crate::engine::Trace;

impl Traced {
    /// What was kept of the graph, at the given thresholds, as a file: heads as attention features, MLPs and neurons as
    /// MLP features, named in their descriptions.
    pub fn file(&self, trace: &Trace, kept: &Opened, thresholds: (f64, f64)) -> GraphFile {
        let model = &trace.model;
        let n_layers = model.config.n_layers;
        let first_logit = kept.parts.iter().position(|p| matches!(p, Part::Logit { .. })).unwrap_or(0);
        let nodes = kept.parts.iter().enumerate().map(|(i, part)| {
            let node = &kept.graph.nodes[i];
            let feature: u64 = node.id.split('_').nth(1).and_then(|f| f.parse().ok()).unwrap_or(0);
            let layer = node.layer.to_string();
            let (kind, layer, number, js) = match part {
                Part::Token { pos } => ("embedding", "E".to_owned(), json!(pos), format!("E_{feature}-{pos}")),
                Part::Head { layer: l, .. } => {
                    ("lorsa", layer, json!(cantor(*l as u64, feature)), format!("{l}_{feature}-0"))
                }
                Part::Mlp { layer: l, .. } | Part::Neuron { layer: l, .. } => {
                    ("cross layer transcoder", layer, json!(cantor(*l as u64, feature)), format!("{l}_{feature}-0"))
                }
                Part::Error { layer: l, pos } => ("mlp reconstruction error", layer, json!(-1), format!("{l}_{pos}-0")),
                Part::Logit { token, .. } => ("logit", layer, json!(token), format!("L_{token}-{}", node.pos)),
            };
            let logit = node.kind == NodeKind::Logit;
            let prob = i.checked_sub(first_logit).and_then(|at| self.probabilities.get(at)).copied();
            let prob = prob.filter(|_| logit).unwrap_or(0.0);
            let clerp = match part {
                Part::Logit { against: None, .. } => format!("Output \"{}\" (p={prob:.3})", node.label),
                Part::Logit { .. } => format!("Output \"{}\"", node.label),
                Part::Token { .. } => format!("Emb: \"{}\"", node.label),
                _ => node.label.clone(),
            };
            let mut o = Map::new();
            o.insert("node_id".to_owned(), json!(node.id));
            o.insert("feature".to_owned(), number);
            o.insert("layer".to_owned(), json!(layer));
            o.insert("ctx_idx".to_owned(), json!(node.pos));
            o.insert("feature_type".to_owned(), json!(kind));
            o.insert("token_prob".to_owned(), json!(prob));
            o.insert("is_target_logit".to_owned(), json!(logit && i == first_logit));
            o.insert("run_idx".to_owned(), json!(0));
            o.insert("reverse_ctx_idx".to_owned(), json!(0));
            o.insert("jsNodeId".to_owned(), json!(js));
            o.insert("clerp".to_owned(), json!(clerp));
            o.insert("influence".to_owned(), if logit { Value::Null } else { json!(kept.cumulative[i]) });
            o.insert("activation".to_owned(), json!(if logit { None } else { node.activation }));
            o
        });
        let nodes = nodes.collect();
        let prompt: String = kept.graph.prompt_tokens.concat();
        let slug: String =
            prompt.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(60).collect();
        let metadata = json!({
            "slug": slug.trim_matches('-'), "scan": model.config.name, "transcoder_list": [],
            "prompt_tokens": kept.graph.prompt_tokens, "prompt": prompt, "node_threshold": thresholds.0, "schema_version": 1,
            "pruning_settings": {"node_threshold": thresholds.0, "edge_threshold": thresholds.1},
            "info": {
                "generator": {"name": "circuitscope", "version": env!("CARGO_PKG_VERSION")},
                "nodes": "components: heads and MLPs (or neurons of opened MLPs) by position; weights in logits",
                "links": self.attention.links(),
                "frozen": self.attention.freeze().names(),
                "n_layers": n_layers, "n_heads": model.config.n_heads,
            },
        });
        let q = json!({"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""});
        let mut document = Map::new();
        document.insert("metadata".to_owned(), metadata);
        document.insert("qParams".to_owned(), q);
        GraphFile::new(document, nodes, kept.graph.clone())
    }
}
