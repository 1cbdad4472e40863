//! Fetches models from the Hugging Face hub, when that is asked for by `hf:…` and never otherwise, into the hub's own cache,
//! where every other program finds them.
//!
//! Layout of the cache: `models--ORG--NAME/` with `blobs/ETAG` (contents), `snapshots/COMMIT/FILE` (links to them) and
//! `refs/REVISION` (the commit's name). An ETAG is the SHA-256 of a large file, which is checked, and git's hash of a small
//! one. <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>
//!
//! The hub's own crate is not used: what it downloads cannot be gone on with after a break, nor stopped at once.

mod download;

use std::path::{Component, Path, PathBuf};

use directories::BaseDirs;

use self::download::Fetch;
use super::found::{part, variable};
use super::place::Place;
use super::safetensors_file::files_of;
use crate::error::{Error, Result};
use crate::files::{SMALL, read_text};
use crate::progress::Progress;

/// What is asked for: `ORG/NAME[@REVISION][:FILE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// A GGUF file of the repository, or a part of its name such as `Q4_K_M`.
    pub file: Option<String>,
}

impl Wanted {
    /// # Errors
    /// A name that no repository has.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::request(format!(
                "`hf:{text}` names no model of the hub; write hf:ORG/NAME, hf:ORG/NAME@REVISION or \
                hf:ORG/NAME:FILE.gguf"
            ))
        };
        let (rest, file) = text.split_once(':').map_or((text, None), |(rest, file)| (rest, Some(file)));
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && !part.contains("--")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let parts: Vec<&str> = repository.split('/').collect();
        let good = (1..=2).contains(&parts.len())
            && parts.iter().all(|p| plain(p))
            && revision.split('/').all(|p| !p.is_empty() && p != ".." && !p.contains(['\\', '?', '#', '%', ' ']))
            && file.is_none_or(|f| !f.is_empty() && is_inside(f));
        if !good {
            return Err(wrong());
        }
        Ok(Self { repository: repository.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
    }
}

/// Says whether a file's name leads nowhere but into its folder.
fn is_inside(name: &str) -> bool {
    !name.contains('\\') && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)))
}

/// Where the hub is and who asks.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Address, without a slash at its end.
    pub endpoint: String,
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Nothing is asked of the network.
    pub offline: bool,
}

/// The folder of everything that belongs to the hub; none on a system without home folders.
fn home() -> Option<PathBuf> {
    let of_system = || variable("XDG_CACHE_HOME").or_else(|| BaseDirs::new().map(|d| d.home_dir().join(".cache")));
    variable("HF_HOME").or_else(|| of_system().map(|d| d.join("huggingface")))
}

/// The folder of the hub's cache, by the variables and defaults of the hub's own programs.
pub fn cache_folder() -> Option<PathBuf> {
    variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).or_else(|| home().map(|h| h.join("hub")))
}

impl Hub {
    /// The hub that the environment names, as its own programs read it.
    ///
    /// # Errors
    /// The system has no home folders, and no variable names the cache.
    pub fn of_environment() -> Result<Self> {
        let text = |name: &str| std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let on = |name: &str| text(name).is_some_and(|v| ["1", "true", "yes", "on"].contains(&&*v.to_lowercase()));
        let kept = || {
            let path = variable("HF_TOKEN_PATH").or_else(|| home().map(|h| h.join("token")))?;
            read_text(&path, SMALL).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
        };
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
        Ok(Self {
            endpoint: text("HF_ENDPOINT")
                .map_or_else(|| "https://huggingface.co".to_owned(), |e| e.trim_end_matches('/').to_owned()),
            cache: cache_folder().ok_or_else(|| {
                Error::request("there is no folder for the hub's cache; name one with the variable HF_HUB_CACHE")
            })?,
            token: token.or_else(|| if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { kept() }),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
        })
    }

    fn folder(&self, wanted: &Wanted) -> PathBuf {
        self.cache.join(format!("models--{}", wanted.repository.replace('/', "--")))
    }

    /// The snapshot of what is wanted, where the cache knows its commit.
    fn snapshot(&self, wanted: &Wanted) -> Option<PathBuf> {
        let folder = self.folder(wanted);
        let named = read_text(&folder.join("refs").join(&wanted.revision), SMALL).ok();
        let commit = named.map_or_else(|| wanted.revision.clone(), |c| c.trim().to_owned());
        is_hash(&commit).then(|| folder.join("snapshots").join(commit)).filter(|s| s.is_dir())
    }

    /// A file of a repository, where the cache has it.
    pub fn cached_file(&self, repository: &str, revision: &str, file: &str) -> Option<PathBuf> {
        let wanted = Wanted::parse(&format!("{repository}@{revision}")).ok()?;
        let path = self.snapshot(&wanted)?.join(file);
        (is_inside(file) && path.is_file()).then_some(path)
    }

    /// What is wanted, where the cache has all of it.
    fn cached(&self, wanted: &Wanted) -> Option<PathBuf> {
        let snapshot = self.snapshot(wanted)?;
        let ggufs = files_below(&snapshot);
        if let Some(file) = &wanted.file {
            let chosen = chosen(&ggufs, file)?;
            return parts(&ggufs, chosen).map(|_| snapshot.join(chosen));
        }
        let whole = snapshot.join("config.json").is_file()
            && files_of(&snapshot).is_ok_and(|files| !files.is_empty() && files.iter().all(|f| f.is_file()));
        if whole {
            // Other programs may have fetched the weights alone.
            let has = |name: &&str| snapshot.join(name).is_file();
            return (self.offline || TOKENIZERS.iter().any(|group| group.iter().all(has))).then_some(snapshot);
        }
        let first: Vec<&String> = ggufs.iter().filter(|f| is_first(f)).collect();
        match first[..] {
            [one] if parts(&ggufs, one).is_some() => Some(snapshot.join(one)),
            _ => None,
        }
    }
}

/// The files of a tokenizer, the first group that a repository has.
const TOKENIZERS: [&[&str]; 3] = [&["tokenizer.json"], &["vocab.json", "merges.txt"], &["tokenizer.model"]];

/// The other small files that a model is read from.
const BESIDE: [&str; 6] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

fn is_hash(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// A GGUF file that opens: not a later part of one.
fn is_first(name: &str) -> bool {
    is_gguf(name) && part(name).is_none_or(|(_, n)| n == 1)
}

/// The GGUF files of a snapshot, by their names in the repository.
fn files_below(snapshot: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![(snapshot.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(std::result::Result::ok) {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() && depth < 3 {
                folders.push((entry.path(), format!("{name}/"), depth + 1));
            } else if is_gguf(&name) && entry.path().is_file() {
                files.push(name);
            }
        }
    }
    files.sort();
    files
}

/// The GGUF file that a text means: by its name, or the only one whose name holds the text.
fn chosen<'a>(files: &'a [String], text: &str) -> Option<&'a String> {
    let wanted = text.to_lowercase();
    files.iter().find(|f| *f == text).or_else(|| {
        let mut all = files.iter().filter(|f| is_first(f) && f.to_lowercase().contains(&wanted));
        all.next().filter(|_| all.next().is_none())
    })
}

/// All parts of a GGUF file; `None` where one is missing.
fn parts(files: &[String], first: &str) -> Option<Vec<String>> {
    let Some((stem, _)) = part(first) else { return Some(vec![first.to_owned()]) };
    let all: Vec<String> = files.iter().filter(|f| part(f).is_some_and(|(s, _)| s == stem)).cloned().collect();
    let count: usize = first.get(..first.len() - 5)?.rsplit_once("-of-")?.1.parse().ok()?;
    (all.len() == count).then_some(all)
}

/// Returns the model's place in the cache; what is missing there is fetched.
///
/// # Errors
/// The hub cannot be reached, refuses, or has no such model; and [`Error::Cancelled`]. What was fetched until then stays,
/// and the next call goes on from there.
pub fn fetch(wanted: &Wanted, hub: &Hub, progress: &Progress) -> Result<Place> {
    let name = Some(wanted.repository.clone());
    if let Some(path) = hub.cached(wanted) {
        return Ok(Place { path, name });
    }
    if hub.offline {
        return Err(Error::request(format!(
            "{} is not in {} and HF_HUB_OFFLINE is set; unset it, or fetch the model elsewhere and copy it there",
            wanted.repository,
            hub.cache.display()
        )));
    }
    let path = Fetch::new(wanted, hub, progress)?.run()?;
    Ok(Place { path, name })
}

/// The repository that a folder is a snapshot of.
pub fn repository_of(path: &Path) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    let snapshots = path.parent()?;
    let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    (snapshots.file_name()? == "snapshots").then(|| repository.replace("--", "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_taken_apart() {
        let of = |text: &str| Wanted::parse(text).map(|w| (w.repository, w.revision, w.file)).ok();
        let own = |r: &str, v: &str, f: Option<&str>| Some((r.to_owned(), v.to_owned(), f.map(str::to_owned)));
        assert_eq!(of("gpt2"), own("gpt2", "main", None));
        assert_eq!(of("org/name@v1.0"), own("org/name", "v1.0", None));
        assert_eq!(of("org/name:Q4_K_M"), own("org/name", "main", Some("Q4_K_M")));
        assert_eq!(of("org/name@refs/pr/1:sub/a.gguf"), own("org/name", "refs/pr/1", Some("sub/a.gguf")));
        for wrong in [
            "",
            "a/b/c",
            "../x",
            "org/..",
            "org/name@",
            "org/name@../x",
            "org/name:",
            "o/n:../a.gguf",
            "o/n:/a",
            "o n/x",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_text_means_one_file() {
        let files: Vec<String> =
            ["a-Q4_0.gguf", "a-Q4_K_M.gguf", "a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf"]
                .map(str::to_owned)
                .into();
        let of = |text: &str| chosen(&files, text).map(String::as_str);
        assert_eq!(of("q4_k_m"), Some("a-Q4_K_M.gguf"));
        assert_eq!(of("Q8_0"), Some("a-Q8_0-00001-of-00002.gguf"));
        assert_eq!(of("Q4"), None);
        assert_eq!(of("a-Q4_0.gguf"), Some("a-Q4_0.gguf"));
        assert_eq!(parts(&files, "a-Q8_0-00001-of-00002.gguf").map(|p| p.len()), Some(2));
        assert_eq!(parts(&files[..3], "a-Q8_0-00001-of-00002.gguf"), None);
    }
}
