//! A feature graph as a file that Neuronpedia, circuit-tracer's viewer and this program open, and as plain matrices.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::FeatureGraph;
use crate::engine::Trace;
use crate::error::{Error, Result};
use crate::features::DictionarySet;
use crate::graph::file::{DIRECTIONS, GraphFile, cantor};
use crate::graph::{NodeKind, Pruned};
use crate::model::safetensors_file::pack;

/// Bytes of a matrix that is written in full, at most.
const MOST: usize = 4 << 30;

impl FeatureGraph {
    /// What pruning keeps, as a file. Features and errors without a link are left out.
    ///
    /// # Errors
    /// Never for a result of pruning this graph.
    pub fn file(
        &self,
        trace: &Trace,
        set: &DictionarySet,
        pruned: &Pruned,
        thresholds: (f64, f64),
    ) -> Result<GraphFile> {
        let mut kept = pruned.clone();
        let mut linked = vec![false; self.graph.nodes.len()];
        let all: Vec<(usize, usize)> = self.graph.triples().map(|(s, t, _)| (s, t)).collect();
        for (source, target) in pruned.links.iter().map(|at| all[*at]) {
            linked[source] = true;
            linked[target] = true;
        }
        for ((kept, linked), node) in kept.nodes.iter_mut().zip(linked).zip(&self.graph.nodes) {
            *kept &= linked || matches!(node.kind, NodeKind::Token | NodeKind::Logit);
        }
        let (graph, old) = self.graph.pruned(&kept)?;
        let cumulative = self.influence.cumulative();
        let first_logit = self.graph.nodes.len() - self.targets.len();
        let nodes = old.iter().map(|i| self.object(*i, first_logit, cumulative[*i])).collect();
        let model = &trace.model.config;
        let prompt: String = graph.prompt_tokens.concat();
        let slug: String =
            prompt.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(60).collect();
        let mut metadata = json!({
            "slug": slug.trim_matches('-'), "scan": model.name, "transcoder_list": [set.name],
            "prompt_tokens": graph.prompt_tokens, "prompt": prompt, "node_threshold": thresholds.0, "schema_version": 1,
            "pruning_settings": {"node_threshold": thresholds.0, "edge_threshold": thresholds.1},
            "info": {
                "generator": {"name": "circuitscope", "version": env!("CARGO_PKG_VERSION")},
                "nodes": "features of transcoders by position; weights are effects on pre-activations and logits",
                "frozen": ["attention patterns", "norm scales", "MLP outputs"],
                "dictionary": set.spec, "ids": trace.ids[..self.n()], "silent_positions": self.silent,
                "active_features": self.features.len(), "selected_features": self.selected.len(),
                "limited": self.limited, "n_layers": self.n_layers,
                "replacement_score": self.scores.replacement, "completeness_score": self.scores.completeness,
            },
        });
        let targets = self.targets.iter().enumerate().filter(|(_, t)| t.id >= model.d_vocab);
        let told: Map<String, Value> =
            targets.map(|(i, t)| (self.graph.nodes[first_logit + i].id.clone(), json!(t.direction))).collect();
        if !told.is_empty() {
            metadata["info"][DIRECTIONS] = Value::Object(told);
        }
        let q = json!({"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""});
        let mut document = Map::new();
        document.insert("metadata".to_owned(), metadata);
        document.insert("qParams".to_owned(), q);
        Ok(GraphFile::new(document, nodes, graph))
    }

    fn object(&self, node: usize, first_logit: usize, cumulative: f64) -> Map<String, Value> {
        let n = &self.graph.nodes[node];
        let (mut prob, mut clerp) = (0.0, String::new());
        let (kind, layer, feature, js) = match n.kind {
            NodeKind::Component => {
                let (l, f) = self.feature(node).map_or((0, 0), |f| (f.layer, f.feature));
                clerp = self.labels.get(&(l, f)).cloned().unwrap_or_default();
                let number = json!(cantor(l as u64, u64::from(f)));
                ("cross layer transcoder", l.to_string(), number, format!("{l}_{f}-0"))
            }
            NodeKind::Error => {
                ("mlp reconstruction error", n.layer.to_string(), json!(-1), format!("{}_{}-0", n.layer, n.pos))
            }
            NodeKind::Token => {
                let id = n.id.split('_').nth(1).unwrap_or_default();
                ("embedding", "E".to_owned(), json!(n.pos), format!("E_{id}-{}", n.pos))
            }
            NodeKind::Logit => {
                let id = self.targets[node - first_logit].id;
                prob = n.prob;
                clerp = format!("Output \"{}\" (p={prob:.3})", n.label);
                ("logit", n.layer.to_string(), json!(id), format!("L_{id}-{}", n.pos))
            }
        };
        let logit = n.kind == NodeKind::Logit;
        let fields = json!({
            "node_id": n.id, "feature": feature, "layer": layer, "ctx_idx": n.pos, "feature_type": kind,
            "token_prob": prob, "is_target_logit": node == first_logit, "run_idx": 0, "reverse_ctx_idx": 0,
            "jsNodeId": js, "clerp": clerp, "influence": if logit { None } else { Some(cumulative) },
            "activation": if n.kind == NodeKind::Component { n.activation } else { None },
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// The whole graph as a safetensors file: `adjacency` [target][source], `node_influence` [node], `features`
    /// [feature][layer, pos, feature] and `activations` [feature], nodes in the order of the graph.
    ///
    /// # Errors
    /// A matrix that would take too much memory.
    pub fn arrays(&self) -> Result<Vec<u8>> {
        let n = self.graph.nodes.len();
        if 4 * n.saturating_mul(n) > MOST {
            return Err(Error::request(format!(
                "all links of {n} nodes as one matrix would take {:.0} GB; limit the features with --max-features",
                4.0 * (n as f64) * (n as f64) / 1e9
            )));
        }
        let mut adjacency = vec![0f32; n * n];
        self.graph.triples().for_each(|(s, t, w)| adjacency[t * n + s] = w);
        let influence: Vec<f32> = self.influence.values.iter().map(|v| *v as f32).collect();
        let chosen: Vec<_> = self.selected.iter().map(|i| self.features[*i]).collect();
        let places = chosen.iter().flat_map(|f| [f.layer as i64, f.pos as i64, i64::from(f.feature)]).collect();
        let activations: Vec<f32> = chosen.iter().map(|f| f.activation).collect();
        let m = chosen.len();
        let of = |v: Vec<f32>, shape: &[usize]| Tensor::from_vec(v, shape, &Device::Cpu);
        let places = Tensor::from_vec::<_, i64>(places, (m, 3), &Device::Cpu)?.to_dtype(DType::I64)?;
        let tensors = [
            ("adjacency", of(adjacency, &[n, n])?),
            ("node_influence", of(influence, &[n])?),
            ("features", places),
            ("activations", of(activations, &[m])?),
        ];
        let note = [("generator", concat!("circuitscope ", env!("CARGO_PKG_VERSION")).to_owned())];
        pack(tensors.iter().map(|(n, t)| (*n, t)), &note)
    }
}
