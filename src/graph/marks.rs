//! What somebody said about a graph's nodes: pins, supernodes, names.
//!
//! Understanding a graph is mostly this: to pin what matters, to put nodes of one role together, to give them names. Marks
//! are kept with the graph where Neuronpedia and circuit-tracer's viewer keep theirs: in `qParams` and the nodes'
//! descriptions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::file::GraphFile;

/// Names of nodes, in a file's `qParams`: this program's own field.
const NAMES: &str = "names";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Marks {
    /// Ids of pinned nodes.
    pub pinned: BTreeSet<String>,
    /// Supernodes: a name and the ids of its members.
    pub groups: Vec<(String, Vec<String>)>,
    /// Names that nodes were given, by id.
    pub names: BTreeMap<String, String>,
    /// Ids of nodes and groups that are not drawn. A file keeps them like all others.
    pub hidden: BTreeSet<String>,
}

/// The ids of a file's pinned nodes that it has, members of supernodes among them: viewers show those only if they are
/// pinned.
pub fn pinned_ids(file: &GraphFile) -> BTreeSet<String> {
    let known: BTreeSet<&str> = file.graph.nodes.iter().map(|n| n.id.as_str()).collect();
    let told = file.document.get("qParams").and_then(|q| q.get("pinnedIds")).and_then(Value::as_array);
    let ids = told.into_iter().flatten().filter_map(Value::as_str);
    ids.filter(|id| known.contains(id)).map(str::to_owned).collect()
}

impl Marks {
    /// Those that a file carries.
    pub fn of(file: &GraphFile) -> Self {
        let mut marks = Self::default();
        let Some(q) = file.document.get("qParams") else { return marks };
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let list = |name: &str| q.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let known: BTreeSet<&str> = file.graph.nodes.iter().map(|n| n.id.as_str()).collect();
        marks.pinned = pinned_ids(file);
        if let Some(names) = q.get(NAMES).and_then(Value::as_object) {
            let given = names.iter().filter(|(id, _)| known.contains(id.as_str()));
            marks.names = given.filter_map(|(id, name)| Some((id.clone(), text(name)?))).collect();
        }
        let mut grouped: BTreeSet<String> = BTreeSet::new();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for group in list("supernodes") {
            let Some(([name], ids)) = group.as_array().and_then(|g| g.split_first_chunk::<1>()) else { continue };
            let ids: BTreeSet<String> = ids.iter().filter_map(text).filter(|id| known.contains(id.as_str())).collect();
            let Some(name) = text(name).filter(|_| ids.len() > 1) else { continue };
            grouped.extend(ids.iter().cloned());
            // Groups of one name are told apart by the first of their members.
            let mut own = name.clone();
            if taken.contains(&own) {
                own = format!("{name} {}", ids.first().map_or("", String::as_str));
            }
            if taken.insert(own.clone()) {
                marks.groups.push((own, ids.into_iter().collect()));
            }
        }
        // Viewers show a group's members if they are pinned; here the group stands for them.
        marks.pinned.retain(|id| !grouped.contains(id));
        marks
    }

    /// A name that no group has.
    pub fn free_name(&self, wanted: &str) -> String {
        let taken = |name: &str| self.groups.iter().any(|(n, _)| n == name);
        if !taken(wanted) {
            return wanted.to_owned();
        }
        (2..).map(|i| format!("{wanted} {i}")).find(|n| !taken(n)).unwrap_or_default()
    }

    /// Puts nodes together under a name, out of whatever groups they were in.
    pub fn group(&mut self, name: &str, ids: Vec<String>) {
        for (_, members) in &mut self.groups {
            members.retain(|id| !ids.contains(id));
        }
        self.groups.retain(|(_, members)| members.len() > 1);
        for id in &ids {
            self.pinned.remove(id);
        }
        self.groups.push((self.free_name(name), ids));
    }

    /// The nodes that are pinned, by themselves or in a group, where they are two or more: a part of the graph that somebody
    /// has marked.
    pub fn marked(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for id in &self.pinned {
            match id.strip_prefix("group:").and_then(|name| self.groups.iter().find(|(g, _)| g == name)) {
                Some((_, members)) => all.extend(members.iter().cloned()),
                None => _ = all.insert(id.clone()),
            }
        }
        if all.len() > 1 { all } else { BTreeSet::new() }
    }

    /// Takes a node out of its group; what is left alone is no group any more.
    pub fn take_out(&mut self, id: &str) {
        for (_, members) in &mut self.groups {
            members.retain(|m| m != id);
        }
        self.groups.retain(|(_, members)| members.len() > 1);
    }

    /// Moves a node into a group that there is.
    pub fn put(&mut self, id: &str, group: &str) {
        if !self.groups.iter().any(|(name, _)| name == group) {
            return;
        }
        for (name, members) in &mut self.groups {
            members.retain(|m| m != id);
            if name == group {
                members.push(id.to_owned());
            }
        }
        self.groups.retain(|(_, members)| members.len() > 1);
    }

    /// Writes them into a file.
    pub fn write(&self, file: &mut GraphFile) {
        let known: BTreeSet<String> = file.graph.nodes.iter().map(|n| n.id.clone()).collect();
        let mut pinned: BTreeSet<&String> = self.pinned.iter().filter(|id| known.contains(*id)).collect();
        let mut supernodes = Vec::new();
        for (name, ids) in &self.groups {
            let ids: Vec<&String> = ids.iter().filter(|id| known.contains(*id)).collect();
            if ids.len() < 2 {
                continue;
            }
            pinned.extend(ids.iter().copied());
            let group = self.names.get(&format!("group:{name}")).unwrap_or(name);
            supernodes.push(std::iter::once(json!(group)).chain(ids.iter().map(|id| json!(id))).collect::<Vec<_>>());
        }
        let names: BTreeMap<&String, &String> = self.names.iter().filter(|(id, _)| known.contains(*id)).collect();
        let q = file.document.entry("qParams").or_insert_with(|| json!({}));
        if !q.is_object() {
            *q = json!({});
        }
        if let Value::Object(q) = q {
            q.insert("pinnedIds".to_owned(), json!(pinned));
            q.insert("supernodes".to_owned(), json!(supernodes));
            // Viewers show a token's or logit's own text whatever its description says, so that its name is kept here.
            if !names.is_empty() || q.contains_key(NAMES) {
                q.insert(NAMES.to_owned(), json!(names));
            }
        }
        file.describe(&self.names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_from_the_file_they_were_written_to() {
        let node = |id: &str, kind: &str| json!({"node_id": id, "feature_type": kind, "layer": "1", "ctx_idx": 0, "clerp": "old"});
        let value = json!({
            "metadata": {}, "qParams": {"pinnedIds": ["gone"], "supernodes": [["alone", "a"]], "linkType": "both"},
            "nodes": [node("a", "cross layer transcoder"), node("b", "cross layer transcoder"), node("c", "logit")],
            "links": [{"source": "a", "target": "b", "weight": 1.0}],
        });
        let mut file = GraphFile::from_json(value, std::path::Path::new("g.json")).unwrap();
        assert_eq!(Marks::of(&file), Marks::default());
        let mut marks = Marks { pinned: ["a".to_owned(), "c".to_owned()].into(), ..Marks::default() };
        marks.group("both", vec!["a".to_owned(), "b".to_owned()]);
        marks.names.insert("b".to_owned(), "the copier".to_owned());
        marks.write(&mut file);
        let back = GraphFile::from_json(file.to_json(), std::path::Path::new("g.json")).unwrap();
        let read = Marks::of(&back);
        assert_eq!((&read.pinned, &read.groups), (&["c".to_owned()].into(), &marks.groups));
        assert_eq!((&back.graph.nodes[1].label, &read.names), (&"the copier".to_owned(), &marks.names));
        assert_eq!(back.document["qParams"]["linkType"], "both");
        // Where the file has no qParams worth the name, they are made.
        let mut bare = back.to_json();
        bare["qParams"] = Value::Null;
        let mut bare = GraphFile::from_json(bare, std::path::Path::new("g.json")).unwrap();
        assert_eq!(Marks::of(&bare), Marks::default());
        marks.write(&mut bare);
        assert_eq!(Marks::of(&bare), read);
        // A node is put into another group, and taken out of it.
        let mut three = marks.clone();
        three.group("more", vec!["c".to_owned(), "d".to_owned(), "e".to_owned()]);
        three.put("e", "both");
        three.put("c", "nowhere");
        let members = |m: &Marks| m.groups.iter().map(|g| g.1.join("")).collect::<Vec<_>>();
        assert_eq!(members(&three), ["abe", "cd"]);
        assert!(three.marked().is_empty(), "none is pinned: {:?}", three.pinned);
        three.pinned.extend(["group:both".to_owned(), "z".to_owned()]);
        assert_eq!(three.marked().into_iter().collect::<String>(), "abez");
        three.take_out("d");
        assert_eq!(members(&three), ["abe"]);
        // A node moves from one group to the other; a group of one is none.
        marks.group("both", vec!["a".to_owned(), "c".to_owned()]);
        assert_eq!(marks.groups, [("both".to_owned(), vec!["a".to_owned(), "c".to_owned()])]);
    }
}
