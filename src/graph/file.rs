//! Attribution graphs as JSON, in the form that Neuronpedia and circuit-tracer write and read.
//!
//! A document has `nodes`, `links` (source, target, weight), `metadata` and `qParams` (what a viewer keeps: pins,
//! supernodes). Writers differ in details; what is missing is guessed and said in a remark. Fields that this program does
//! not know are kept and written back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Graph, Influence, Input, LinkList, Node, NodeKind, Pruned};
use crate::error::{Error, Result};
use crate::files::{LARGE, read, write_atomic};
use crate::graph::SILENT;
use crate::typed::typed;

/// A graph with the document it came from.
#[derive(Clone, Debug)]
pub struct GraphFile {
    /// Everything but nodes and links: `metadata`, `qParams`, and what else was there.
    pub document: Map<String, Value>,
    /// The nodes' own objects, in the order of `graph.nodes`.
    nodes: Vec<Map<String, Value>>,
    pub graph: Graph,
    /// What was left out or guessed on reading, one sentence each.
    pub remarks: Vec<String>,
}

/// Of logits that are no token, by node's id, what they are read by: this program's own field of `metadata.info`.
pub const DIRECTIONS: &str = "directions";

/// What an audit found of the links: this program's own field of `metadata`.
pub const AUDIT: &str = "audit";

fn malformed(path: &Path, what: impl Into<String>) -> Error {
    Error::Malformed { path: path.to_owned(), format: "attribution graph", what: what.into() }
}

impl GraphFile {
    /// A graph of this program's own, with nodes as objects of the interchange format.
    pub fn new(document: Map<String, Value>, nodes: Vec<Map<String, Value>>, graph: Graph) -> Self {
        Self { document, nodes, graph, remarks: Vec::new() }
    }

    /// # Errors
    /// A file that cannot be read, is no JSON, lacks nodes or links, or whose links run in a circle.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read(path, LARGE)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| {
            malformed(path, format!("it is not JSON that can be read ({e}; NaN and Infinity are not numbers in JSON)"))
        })?;
        Self::from_json(value, path)
    }

    /// A graph out of its document; `path` is what errors name.
    ///
    /// # Errors
    /// A document that lacks nodes or links, or whose links run in a circle.
    pub fn from_json(value: Value, path: &Path) -> Result<Self> {
        let Value::Object(mut document) = value else { return Err(malformed(path, "it holds no JSON object")) };
        let mut list = |name: &str| match document.remove(name) {
            Some(Value::Array(list)) => Ok(list),
            _ => Err(malformed(path, format!("it has no list `{name}`"))),
        };
        let (nodes, links) = (list("nodes")?, list("links")?);
        let nodes: Vec<Map<String, Value>> = nodes
            .into_iter()
            .enumerate()
            .map(|(i, n)| match n {
                Value::Object(n) => Ok(n),
                _ => Err(malformed(path, format!("entry {i} of `nodes` is not an object"))),
            })
            .collect::<Result<_>>()?;
        let parsed: Vec<Node> = nodes
            .iter()
            .enumerate()
            .map(|(i, n)| node(n).map_err(|w| malformed(path, format!("node {i} {w}"))))
            .collect::<Result<_>>()?;
        let mut remarks = Vec::new();
        let places = Places::new(&parsed).map_err(|w| malformed(path, w))?;
        let (links, inputs) = read_links(&links, &parsed, &places, &mut remarks).map_err(|w| malformed(path, w))?;
        if !parsed.iter().any(|n| n.kind == NodeKind::Logit) {
            remarks.push("it has no logit node, so nothing has influence".to_owned());
        }
        lay_out_marks(&mut document).map_err(|what| malformed(path, format!("its {what}")))?;
        check_facts(&document).map_err(|what| malformed(path, format!("its {what}")))?;
        let tokens = prompt_tokens(&document).map_err(|what| malformed(path, format!("its {what}")))?;
        let graph = Graph::with_inputs(tokens, parsed, &links, &inputs).map_err(|e| malformed(path, e.to_string()))?;
        Ok(Self { document, nodes, graph, remarks })
    }

    pub fn title(&self) -> String {
        let text = |name: &str| self.document.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str);
        text("slug").or_else(|| text("prompt")).unwrap_or("attribution graph").to_owned()
    }

    fn info(&self, name: &str) -> Option<&Value> {
        self.document.get("metadata")?.get("info")?.get(name)
    }

    /// The set of transcoders that it says it is of.
    pub fn dictionary(&self) -> Option<&str> {
        self.info("dictionary")?.as_str()
    }

    /// The first positions whose features it says are left out.
    pub fn silent(&self) -> usize {
        let told = self.info("silent_positions").and_then(Value::as_u64);
        told.and_then(|n| n.try_into().ok()).unwrap_or(SILENT)
    }

    /// The direction [d_model] behind the final norm that it says a logit is that is no token.
    pub fn direction(&self, logit: &str) -> Option<Vec<f32>> {
        let told = self.info(DIRECTIONS)?.get(logit)?.as_array()?;
        told.iter().map(|v| v.as_f64().map(|v| v as f32)).collect()
    }

    /// True where its nodes are heads and MLPs, not features of a set.
    pub fn is_of_components(&self) -> bool {
        let is_head = |n: &Map<String, Value>| n.get("feature_type").and_then(Value::as_str) == Some("lorsa");
        let told = self.info("nodes").and_then(Value::as_str).is_some_and(|t| t.starts_with("components"));
        told || self.nodes.iter().any(is_head)
    }

    /// Gives nodes other descriptions, by id.
    pub fn describe(&mut self, names: &BTreeMap<String, String>) {
        let ids = self.graph.own_ids();
        let names: Vec<Option<&String>> = ids.iter().map(|id| names.get(id.as_ref())).collect();
        for ((node, object), name) in self.graph.nodes.iter_mut().zip(&mut self.nodes).zip(names) {
            if let Some(name) = name {
                object.insert("clerp".to_owned(), json!(name));
                node.label.clone_from(name);
            }
        }
    }

    /// The graph's nodes and links as the interchange format has them.
    pub fn to_json(&self) -> Value {
        let mut document = self.document.clone();
        document.insert("nodes".to_owned(), Value::Array(self.nodes.iter().cloned().map(Value::Object).collect()));
        let id = |i: usize| self.graph.nodes[i].id.as_str();
        let link = |(at, (s, t, w)): (usize, (usize, usize, f32))| {
            let mut link = json!({"source": id(s), "target": id(t), "weight": w});
            if self.graph.follows_attention() {
                link["input"] = json!(self.graph.input(at).label());
            }
            link
        };
        document.insert("links".to_owned(), Value::Array(self.graph.triples().enumerate().map(link).collect()));
        Value::Object(document)
    }

    /// # Errors
    /// A folder that is not there or has no room.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(&self.to_json()).map_err(|e| Error::failed(e.to_string()))?;
        write_atomic(path, &text)
    }

    /// What pruning keeps, each node with its cumulative influence (null for logits) and the thresholds in
    /// the metadata.
    ///
    /// # Errors
    /// Never for a mask of this graph.
    pub fn pruned(&self, influence: &Influence, pruned: &Pruned, thresholds: (f64, f64)) -> Result<Self> {
        let (graph, kept) = self.graph.pruned(pruned)?;
        let cumulative = influence.cumulative();
        let mut nodes: Vec<Map<String, Value>> = kept.iter().map(|i| self.nodes[*i].clone()).collect();
        for (object, old) in nodes.iter_mut().zip(&kept) {
            let logit = self.graph.nodes[*old].kind == NodeKind::Logit;
            object.insert("influence".to_owned(), if logit { Value::Null } else { json!(cumulative[*old]) });
        }
        let mut document = self.document.clone();
        let metadata = document.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            // What an audit says is of all the links that it has tried.
            if graph.links.len() < self.graph.links.len() {
                metadata.remove(AUDIT);
            }
            // What an earlier pruning took away is gone, whatever is kept now.
            let told = metadata.get("pruning_settings").cloned().unwrap_or_else(|| json!({}));
            let least =
                |name: &str, now: f64| told.get(name).and_then(Value::as_f64).map_or(now, |before| before.min(now));
            let (nodes, links) = (least("node_threshold", thresholds.0), least("edge_threshold", thresholds.1));
            metadata.insert("node_threshold".to_owned(), json!(nodes));
            let settings = json!({"node_threshold": nodes, "edge_threshold": links});
            metadata.insert("pruning_settings".to_owned(), settings);
        }
        // Pins and groups of nodes that are gone would name nothing.
        let ids: HashSet<&str> = graph.nodes.iter().map(|n| n.id.as_str()).collect();
        if let Some(Value::Object(q)) = document.get_mut("qParams") {
            let known = |v: &Value| v.as_str().is_some_and(|id| ids.contains(id));
            if let Some(Value::Array(pins)) = q.get_mut("pinnedIds") {
                pins.retain(known);
            }
            if let Some(Value::Array(groups)) = q.get_mut("supernodes") {
                for group in groups.iter_mut().filter_map(Value::as_array_mut) {
                    let mut first = true;
                    group.retain(|v| std::mem::take(&mut first) || known(v));
                }
                groups.retain(|g| g.as_array().is_some_and(|g| g.len() > 1));
            }
        }
        Ok(Self { document, nodes, graph, remarks: Vec::new() })
    }
}

/// Positions and layers beyond these are mistakes, and would be drawn as empty columns and lines.
const MOST_POSITIONS: f64 = 1_048_576.0;
const MOST_LAYERS: i32 = 10_000;

/// circuit-tracer's viewer saves its marks as they stand in its address: pinned ids with commas between them, supernodes as the
/// text of a list.
fn lay_out_marks(document: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let Some(Value::Object(drawn)) = document.get_mut("qParams") else { return Ok(()) };
    if let Some(Value::String(ids)) = drawn.get("pinnedIds") {
        let ids: Vec<&str> = ids.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
        drawn.insert("pinnedIds".to_owned(), json!(ids));
    }
    if let Some(Value::String(text)) = drawn.get("supernodes") {
        let list = match text.trim() {
            "" => json!([]),
            list => serde_json::from_str(list).map_err(|e| format!("`supernodes` is no list as text ({e})"))?,
        };
        drawn.insert("supernodes".to_owned(), list);
    }
    Ok(())
}

/// What a file says of itself is read by name later; of another type it would be taken for absent.
fn check_facts(document: &Map<String, Value>) -> std::result::Result<(), String> {
    let metadata: Option<&Map<String, Value>> = typed(document.get("metadata"), "metadata")?;
    let of = |name: &str| metadata.and_then(|m| m.get(name));
    let info: Option<&Map<String, Value>> = typed(of("info"), "info")?;
    let told = |name: &str| info.and_then(|i| i.get(name));
    for name in ["scan", "slug", "prompt"] {
        typed::<&str>(of(name), name)?;
    }
    for name in ["dictionary", "nodes", "limited"] {
        typed::<&str>(told(name), name)?;
    }
    typed::<u64>(told("silent_positions"), "silent_positions")?;
    for id in typed::<&[Value]>(told("ids"), "ids")?.into_iter().flatten() {
        typed::<u64>(Some(id), "ids")?;
    }
    let drawn: Option<&Map<String, Value>> = typed(document.get("qParams"), "qParams")?;
    for name in ["pinnedIds", "supernodes"] {
        typed::<&[Value]>(drawn.and_then(|q| q.get(name)), name)?;
    }
    Ok(())
}

fn prompt_tokens(document: &Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    let metadata: Option<&Map<String, Value>> = typed(document.get("metadata"), "metadata")?;
    let list: Option<&[Value]> = typed(metadata.and_then(|m| m.get("prompt_tokens")), "prompt_tokens")?;
    let text = |token| Ok::<_, String>(typed::<&str>(Some(token), "prompt_tokens")?.unwrap_or_default().to_owned());
    list.into_iter().flatten().map(text).collect()
}

/// A node out of its object; the error continues "node 3 …".
fn node(object: &Map<String, Value>) -> std::result::Result<Node, String> {
    // Some writers store ids and layers as numbers, others as text.
    let either = |name: &str| match object.get(name) {
        Some(Value::String(s)) => Some(s.clone()),
        Some(Value::Number(n)) => Some(n.to_string()),
        _ => None,
    };
    let id = either("node_id").ok_or("has no `node_id`")?;
    let wrong = |what: String| format!("(`{id}`) is damaged: its {what}");
    let text = |name: &str| Ok::<_, String>(typed::<&str>(object.get(name), name).map_err(wrong)?.unwrap_or_default());
    let feature_type = text("feature_type")?;
    let kind = match feature_type {
        "logit" => NodeKind::Logit,
        "embedding" => NodeKind::Token,
        t if t.contains("error") => NodeKind::Error,
        _ => NodeKind::Component,
    };
    let layer = match either("layer").as_deref() {
        Some("E" | "embedding") => -1,
        Some(l) => l
            .parse::<i32>()
            .or_else(|_| l.parse::<f64>().map(|l| l as i32))
            .map_err(|_| format!("(`{id}`) has the layer `{l}`, which is neither a number nor E"))?,
        None if kind == NodeKind::Token && object.get("layer").is_none_or(Value::is_null) => -1,
        None => return Err(format!("(`{id}`) has no `layer`")),
    };
    if !(-1..=MOST_LAYERS).contains(&layer) {
        return Err(format!("(`{id}`) has the layer {layer}, which is not between -1 and {MOST_LAYERS}"));
    }
    let pos = match object.get("ctx_idx") {
        Some(v) => v
            .as_f64()
            .filter(|p| *p >= 0.0 && *p < MOST_POSITIONS)
            .ok_or_else(|| format!("(`{id}`) has a `ctx_idx` that is no position"))? as usize,
        None => 0,
    };
    let number = |name: &str| typed::<f64>(object.get(name), name).map_err(wrong);
    let prob = number("token_prob")?.unwrap_or(0.0);
    if !(0.0..=1.001).contains(&prob) {
        return Err(format!("(`{id}`) has the probability {prob}"));
    }
    number("influence")?;
    typed::<bool>(object.get("is_target_logit"), "is_target_logit").map_err(wrong)?;
    Ok(Node {
        label: text("clerp")?.to_owned(),
        prob: if kind == NodeKind::Logit { prob } else { 0.0 },
        activation: number("activation")?,
        id: id.clone(),
        kind,
        layer,
        pos,
    })
}

/// Ids to nodes. The id of an error may also be that of a feature of layer 0.
struct Places<'a> {
    by_id: HashMap<&'a str, Vec<u32>>,
}

impl<'a> Places<'a> {
    fn new(nodes: &'a [Node]) -> std::result::Result<Self, String> {
        let mut by_id: HashMap<&str, Vec<u32>> = HashMap::with_capacity(nodes.len());
        for (i, n) in nodes.iter().enumerate() {
            let same = by_id.entry(&n.id).or_default();
            if same.iter().any(|other| (nodes[*other as usize].kind == NodeKind::Error) == (n.kind == NodeKind::Error))
            {
                return Err(format!("two nodes are called `{}`", n.id));
            }
            same.push(i as u32);
        }
        Ok(Self { by_id })
    }

    fn get(&self, id: &str) -> &[u32] {
        self.by_id.get(id).map_or(&[], Vec::as_slice)
    }
}

fn read_links(
    links: &[Value],
    nodes: &[Node],
    places: &Places<'_>,
    remarks: &mut Vec<String>,
) -> std::result::Result<LinkList, String> {
    let is_error = |i: u32| nodes[i as usize].kind == NodeKind::Error;
    let mut out = Vec::with_capacity(links.len());
    // Which input of a head each enters, where the file says so.
    let (mut inputs, mut said) = (Vec::new(), false);
    let mut seen: HashSet<(u32, u32)> = HashSet::with_capacity(links.len());
    let (mut missing, mut example, mut guessed, mut twice, mut reversed) =
        (0usize, String::new(), 0usize, 0usize, 0usize);
    for (i, link) in links.iter().enumerate() {
        let end = |name: &str| match link.get(name) {
            Some(Value::String(s)) => Ok(s.clone()),
            Some(Value::Number(n)) => Ok(n.to_string()),
            _ => Err(format!("link {i} has no `{name}`")),
        };
        let (source_id, target_id) = (end("source")?, end("target")?);
        let weight = link.get("weight").and_then(Value::as_f64).filter(|w| (*w as f32).is_finite());
        let weight = weight
            .ok_or_else(|| format!("link {i} (`{source_id}` to `{target_id}`) has no weight that is a number"))?;
        // Nothing leads into an error.
        let target = places.get(&target_id).iter().copied().min_by_key(|t| is_error(*t));
        let sources = places.get(&source_id);
        let (Some(target), false) = (target, sources.is_empty()) else {
            missing += 1;
            if example.is_empty() {
                example = if target.is_none() { target_id } else { source_id };
            }
            continue;
        };
        if is_error(target) {
            reversed += 1;
            continue;
        }
        let source = match *sources {
            [one] => one,
            ref several => {
                // An error writes after its layer; where that rules nothing out, the first link of two is the
                // feature's, because circuit-tracer writes features first.
                let reader = nodes[target as usize].layer;
                let possible = |s: &u32| !is_error(*s) || nodes[*s as usize].layer < reader;
                let mut fitting: Vec<u32> = several.iter().copied().filter(possible).collect();
                fitting.sort_by_key(|s| is_error(*s));
                let free = fitting.iter().copied().find(|s| !seen.contains(&(*s, target)));
                guessed += usize::from(fitting.len() > 1);
                match free.or_else(|| fitting.first().copied()) {
                    Some(s) => s,
                    None => continue,
                }
            }
        };
        if !seen.insert((source, target)) {
            twice += 1;
            continue;
        }
        out.push((source, target, weight as f32));
        let input: Option<&str> =
            typed(link.get("input"), "input").map_err(|what| format!("link {i} is damaged: its {what}"))?;
        let known = Input::ALL.into_iter().find(|i| input == Some(i.label()));
        said |= known.is_some();
        inputs.push(known.unwrap_or(Input::Value));
    }
    if !said {
        inputs.clear();
    }
    if missing > 0 {
        remarks.push(format!(
            "{missing} links name nodes that the file does not have (`{example}` is one) and were left out"
        ));
    }
    if guessed > 0 {
        remarks.push(format!("{guessed} links name an id that an error shares with a feature of layer 0; a pair of them was read as feature and error, a single one as the feature's"));
    }
    if twice > 0 {
        remarks.push(format!("{twice} links stand in the file a second time and were left out"));
    }
    if reversed > 0 {
        remarks.push(format!("{reversed} links lead into errors, which have no input, and were left out"));
    }
    Ok((out, inputs))
}

/// `feature` of schema 1: the Cantor pairing of layer and index.
pub fn cantor(layer: u64, feature: u64) -> u64 {
    (layer + feature) * (layer + feature + 1) / 2 + feature
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<GraphFile> {
        GraphFile::from_json(value, Path::new("g.json"))
    }

    fn node(id: &str, feature_type: &str, layer: &str) -> Value {
        json!({"node_id": id, "feature_type": feature_type, "layer": layer, "ctx_idx": 0, "token_prob": if feature_type == "logit" { 0.5 } else { 0.0 }})
    }

    #[test]
    fn cantor_pairing_as_in_a_real_file() {
        assert_eq!(cantor(0, 7750), 30_042_875);
    }

    #[test]
    fn unknown_fields_survive() {
        let value = json!({
            "metadata": {"slug": "s", "prompt_tokens": ["a"], "mood": 3}, "qParams": {"pinnedIds": [], "odd": [1]},
            "nodes": [{"node_id": "E_1_0", "feature_type": "embedding", "layer": "E", "ctx_idx": 0, "sparkle": true},
                      node("3_9_0", "logit", "3")],
            "links": [{"source": "E_1_0", "target": "3_9_0", "weight": -2.0}], "extra": {"x": 1}
        });
        assert_eq!(read(value.clone()).unwrap().to_json(), value);
    }

    #[test]
    fn an_id_shared_by_an_error_and_a_feature() {
        // Feature 1 of layer 0 at position 0, and the error of layer 1 at position 0, are both `0_1_0`.
        let nodes = json!([
            node("0_1_0", "cross layer transcoder", "0"),
            node("0_1_0", "mlp reconstruction error", "1"),
            node("1_5_0", "cross layer transcoder", "1"),
            node("3_9_0", "logit", "3")
        ]);
        let link = |t: &str, w: f64| json!({"source": "0_1_0", "target": t, "weight": w});
        let value = json!({"metadata": {}, "nodes": nodes, "links": [link("1_5_0", 1.0), link("3_9_0", 2.0), link("3_9_0", 3.0)]});
        let g = read(value).unwrap();
        // Layer 1's error cannot reach layer 1's features; of the logit's two links the first is the feature's.
        assert_eq!(g.graph.triples().collect::<Vec<_>>(), [(0, 2, 1.0), (0, 3, 2.0), (1, 3, 3.0)]);
        assert_eq!(g.remarks.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_said_in_one_sentence() {
        let nodes = json!([node("E_1_0", "embedding", "E"), node("3_9_0", "logit", "3")]);
        for (value, says) in [
            (json!([]), "no JSON object"),
            (json!({"nodes": []}), "no list `links`"),
            (json!({"nodes": [1], "links": []}), "entry 0 of `nodes`"),
            (json!({"nodes": [{"layer": "0"}], "links": []}), "node 0 has no `node_id`"),
            (json!({"nodes": [node("a", "x", "up")], "links": []}), "the layer `up`"),
            (json!({"nodes": [node("a", "x", "1"), node("a", "x", "1")], "links": []}), "two nodes are called `a`"),
            (json!({"nodes": nodes, "links": [{"source": "E_1_0", "target": "3_9_0", "weight": null}]}), "no weight"),
            (json!({"nodes": nodes, "links": [{"source": "E_1_0", "weight": 1}]}), "link 0 has no `target`"),
        ] {
            let error = read(value).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(says) && error.contains("g.json"), "{error}");
        }
        let lost = json!({"nodes": nodes, "links": [{"source": "gone", "target": "3_9_0", "weight": 1}]});
        let g = read(lost).unwrap();
        assert!(g.graph.links.is_empty() && g.remarks[0].contains("`gone`"));
    }
}
