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

impl Model {
    /// Whether a name means this model: names are the same but for case, signs, the organisation, and what says how the
    /// weights are stored. The model's names are that of its file or folder, that of its repository in a download, and the one
    /// that it was asked for by. No name means every model.
    pub fn is_called(&self, said: &str) -> bool {
        let last = |s: &str| s.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(s).to_owned();
        // Files are called after the organisation as well: some/model, some_model.gguf.
        let theirs = [plain(&last(said)), plain(said)];
        let folders = self.path.iter().flat_map(|p| p.iter()).map(|part| part.to_string_lossy().into_owned());
        let repositories = folders.filter_map(|f| f.strip_prefix("models--")?.rsplit("--").next().map(str::to_owned));
        let file = self.path.as_ref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
        let mut ours = repositories.chain(file).chain([last(&self.config.name), last(&self.spec)]);
        theirs[0].is_empty() || ours.any(|ours| theirs.contains(&plain(&ours)))
    }
}
