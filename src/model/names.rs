//! Whether a name means a model: files name the model that they are of in many ways.

use super::Model;

/// Words that say how weights are stored, at the end of a model's name.
const STORED: &[&str] = &[
    "gguf", "awq", "gptq", "exl2", "exl3", "mlx", "bnb", "hf", "imat", "imatrix", "i1", "ud", "nf4", "fp4", "mxfp4",
    "fp8", "fp16", "bf16", "f16", "fp32", "f32", "int4", "int8", "4bit", "6bit", "8bit",
];
/// Words that go on after such a word, as in Q4_K_M.
const GOES_ON: &[&str] = &["0", "1", "k", "s", "m", "l", "xl", "xs", "xxs", "nl"];

/// A model's name without case, signs and what says how its weights are stored.
fn plain(name: &str) -> String {
    let name = name.to_lowercase();
    let mut words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let quantised = |w: &str| {
        let rest = ["iq", "tq", "q"].iter().find_map(|start| w.strip_prefix(start));
        rest.is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()))
    };
    let stored = |w: &&str| STORED.contains(w) || quantised(w);
    let end = (1..words.len())
        .find(|i| stored(&words[*i]) && words[*i..].iter().all(|w| stored(w) || GOES_ON.contains(w)))
        .unwrap_or(words.len());
    words.truncate(end);
    words.concat()
}

/// The last part of a path.
fn last(name: &str) -> &str {
    name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(name)
}

/// The organisations that stand before models' names in names of files.
const ORGANISATIONS: &[&str] = &["google", "meta", "mistralai", "eleutherai", "openai", "qwen", "microsoft"];
/// Words that some leave out.
const LEFT_OUT: &[&str] = &["pt", "base", "small"];

/// A name without what the field's tools leave out or add: gpt2-small is gpt2, Mistral-7B-v0.1 mistral-7b, gemma-v3 gemma-3.
fn loose(name: &str) -> String {
    let name = name.to_lowercase();
    let name = name.strip_suffix(".gguf").unwrap_or(&name);
    // The first version of all is left out; where an organisation is written before the name, so is it.
    let name = name.replace("-v0.1", "").replace("-v", "-");
    let mut words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric() && c != '.').collect();
    while words.len() > 1 && ORGANISATIONS.contains(&words[0]) && words[1].chars().any(char::is_alphabetic) {
        words.remove(0);
    }
    words.retain(|w| !LEFT_OUT.contains(w));
    plain(&words.join("-"))
}

impl Model {
    /// Whether a name may mean this model: as [`Self::is_called`], but names may also differ in what the field's tools leave
    /// out.
    pub fn may_be_called(&self, said: &str) -> bool {
        let theirs = loose(last(said));
        self.is_called(said) || self.names().iter().any(|own| loose(last(own)) == theirs)
    }

    /// Whether a name means this model: names are the same but for case, signs, the organisation, and what says how the
    /// weights are stored. The model's names are that of its file or folder, that of its repository in a download, and the one
    /// that it was asked for by. No name means every model.
    pub fn is_called(&self, said: &str) -> bool {
        // Files are called after the organisation as well: some/model, some_model.gguf.
        let theirs = [plain(last(said)), plain(said)];
        theirs[0].is_empty() || self.names().iter().any(|own| theirs.contains(&plain(last(own))))
    }

    fn names(&self) -> Vec<String> {
        let folders = self.path.iter().flat_map(|p| p.iter()).map(|part| part.to_string_lossy().into_owned());
        let repositories = folders.filter_map(|f| f.strip_prefix("models--")?.rsplit("--").next().map(str::to_owned));
        let file = self.path.as_ref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
        repositories.chain(file).chain([self.config.name.clone(), self.spec.clone()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_name_models_in_many_ways() {
        for (a, b) in [
            ("gpt2-small", "gpt2"),
            ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
            ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
            ("gemma-2-2b", "google_gemma-2-2b-Q4_K_M.gguf"),
            ("meta-llama/Llama-3.1-8B", "Meta-Llama-3.1-8B"),
            ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ] {
            assert_eq!(loose(last(a)), loose(last(b)), "{a} {b}");
        }
        for (a, b) in [("gemma-2-2b", "gemma-2-9b"), ("llama-rope-llama3", "llama"), ("gpt2", "gpt2-medium")] {
            assert_ne!(loose(last(a)), loose(last(b)), "{a} {b}");
        }
    }
}
