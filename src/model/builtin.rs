//! Models that ship inside the program. They are unpacked once into the user's cache folder, and opened from there by
//! the same loader as every other model.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::{LARGE, cache_folder, read, write_atomic};

/// A model out of the folder `assets/`.
pub struct Builtin {
    pub name: &'static str,
    /// Its purpose, in one line.
    pub purpose: &'static str,
    pub n_params: usize,
    pub license: &'static str,
    /// A prompt that shows it at work.
    pub prompt: &'static str,
    /// File names and contents.
    files: &'static [(&'static str, &'static [u8])],
}

/// Every built-in model; the first is the default.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: "induction",
        purpose: "two attention layers with the textbook induction circuit; continues repeated sequences, and some English",
        n_params: 656_896,
        license: "CC0-1.0",
        prompt: "Mr. Quilp Zander of Norland gave a ball. Everyone came to see Mr. Qu",
        files: &[
            ("config.json", include_bytes!("../../assets/induction/config.json")),
            ("model.safetensors", include_bytes!("../../assets/induction/model.safetensors")),
            ("tokenizer.json", include_bytes!("../../assets/induction/tokenizer.json")),
            ("CARD.md", include_bytes!("../../assets/induction/CARD.md")),
        ],
    },
    Builtin {
        name: "alphabetical",
        purpose: "two attention layers that say whether letters stand in alphabetical order",
        n_params: 21_888,
        license: "CC0-1.0",
        prompt: "b d k p m s ?",
        files: &[
            ("config.json", include_bytes!("../../assets/alphabetical/config.json")),
            ("model.safetensors", include_bytes!("../../assets/alphabetical/model.safetensors")),
            ("tokenizer.json", include_bytes!("../../assets/alphabetical/tokenizer.json")),
            ("CARD.md", include_bytes!("../../assets/alphabetical/CARD.md")),
        ],
    },
    Builtin {
        name: "addition",
        purpose: "one layer that adds modulo 59 by adding angles; it generalised long after it knew its examples by heart",
        n_params: 16_704,
        license: "CC0-1.0",
        prompt: "17 + 45 =",
        files: &[
            ("config.json", include_bytes!("../../assets/addition/config.json")),
            ("model.safetensors", include_bytes!("../../assets/addition/model.safetensors")),
            ("tokenizer.json", include_bytes!("../../assets/addition/tokenizer.json")),
            ("CARD.md", include_bytes!("../../assets/addition/CARD.md")),
        ],
    },
    Builtin {
        name: "text",
        purpose: "three layers with MLPs that learned prose, dialogue and code: a small model to find features in",
        n_params: 758_144,
        license: "CC0-1.0",
        prompt: "\"I am very glad to see you,\" said Emma; \"the king and the queen are coming to the ball.\"",
        files: &[
            ("config.json", include_bytes!("../../assets/text-model/config.json")),
            ("model.safetensors", include_bytes!("../../assets/text-model/model.safetensors")),
            ("tokenizer.json", include_bytes!("../../assets/text-model/tokenizer.json")),
            ("CARD.md", include_bytes!("../../assets/text-model/CARD.md")),
        ],
    },
];

/// Returns the name of the model that is opened when none is named.
pub fn default_name() -> Result<String> {
    BUILTINS
        .first()
        .map(|b| b.name.to_owned())
        .ok_or_else(|| Error::request("this build carries no built-in model; name one with --model"))
}

pub fn by_name(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| b.name == name)
}

impl Builtin {
    /// Unpacks the files and returns their folder.
    pub fn unpack(&self) -> Result<PathBuf> {
        unpack(self.name, self.files)
    }
}

/// Writes files that ship inside the program into a folder of the user's cache, or into a temporary folder where the
/// cache cannot be written.
///
/// # Errors
/// Neither folder can be written.
pub fn unpack(name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    unpack_into(cache_folder(), name, files)
        .or_else(|_| unpack_into(std::env::temp_dir().join("circuitscope"), name, files))
}

fn unpack_into(base: PathBuf, name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let folder = base.join("builtin").join(name);
    std::fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        // Comparing costs a few milliseconds. It replaces files of an older version, and damaged ones.
        if read(&path, LARGE).is_ok_and(|old| old == *bytes) {
            continue;
        }
        write_atomic(&path, bytes)?;
    }
    Ok(folder)
}
