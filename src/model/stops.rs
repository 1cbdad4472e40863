//! The tokens that end a generated text: every id that one of a model's files names.

use std::path::Path;

use serde_json::{Map, Value};

use super::gguf::Gguf;
use crate::files::read_text;

const MAX_CONFIG: u64 = 1 << 24;

/// Returns the ids that config.json (`config`) and generation_config.json name, and what is wrong with them.
pub fn of_folder(folder: &Path, config: &Map<String, Value>) -> (Vec<u32>, Vec<String>) {
    let (mut stops, mut warnings) = (Vec::new(), Vec::new());
    let mut take = |file: &str, map: &Map<String, Value>| {
        let Some(value) = map.get("eos_token_id").filter(|v| !v.is_null()) else { return };
        match ids(value) {
            Some(ids) => stops.extend(ids),
            None => warnings.push(format!(
                "{file} gives eos_token_id as {}, which is no token id; generated texts do not end there",
                crate::error::short(&value.to_string())
            )),
        }
    };
    take("config.json", config);
    if let Some(Value::Object(text)) = config.get("text_config") {
        take("config.json", text);
    }
    let path = folder.join("generation_config.json");
    if path.is_file() {
        let text = read_text(&path, MAX_CONFIG).map_err(|e| e.to_string());
        match text.and_then(|text| serde_json::from_str(&text).map_err(|e| format!("it is no JSON object ({e})"))) {
            Ok(map) => take("generation_config.json", &map),
            Err(what) => warnings.push(format!("generation_config.json cannot be used: {what}")),
        }
    }
    (stops, warnings)
}

/// One id, or a list of them.
fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().map(id).collect(),
        // A model that ends no text says −1.
        Value::Number(n) if n.as_i64() == Some(-1) => Some(Vec::new()),
        other => id(other).map(|id| vec![id]),
    }
}

/// Returns the ids that the metadata of a GGUF file names: the ends of a text, of a turn and of a message.
pub fn of_gguf(gguf: &Gguf) -> (Vec<u32>, Vec<String>) {
    let (mut stops, mut warnings) = (Vec::new(), Vec::new());
    for key in ["eos", "eot", "eom"] {
        match gguf.checked::<i64>(&format!("tokenizer.ggml.{key}_token_id")) {
            Ok(id) => stops.extend(id.and_then(|id| u32::try_from(id).ok())),
            Err(what) => warnings.push(format!("{what}; generated texts do not end there")),
        }
    }
    (stops, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_lists() {
        assert_eq!(ids(&json!(2)), Some(vec![2]));
        assert_eq!(ids(&json!([2, 7])), Some(vec![2, 7]));
        assert_eq!(ids(&json!(-1)), Some(vec![]));
        assert_eq!(ids(&json!("</s>")), None);
        assert_eq!(ids(&json!([2, "x"])), None);
    }
}
