//! Models that ship inside the program. They are unpacked once into the user's cache folder, and opened from there by
//! the same loader as every other model.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{LARGE, cache_folder, own_folder, read, temporary_folder, write_atomic};

/// A model out of the folder `assets/`.
pub struct Builtin {
    pub name: &'static str,
    /// Its purpose, in one line.
    pub purpose: &'static str,
    pub n_params: usize,
    pub license: &'static str,
    /// A prompt that shows it at work.
    pub prompt: &'static str,
    /// What it does there, in one line.
    pub story: &'static str,
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
        story: "It has read “Quilp” once. At the second “Qu” a head of layer 1 looks back to what followed the first one, “il”, and says it again: that is induction.",
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
        story: "Do these letters stand in order? “m” comes after “p”, so they do not, and the model says no: each layer has two heads, and all four are needed.",
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
        story: "17 + 45 is 62, and this model counts round a clock of 59 hours: 3. It turns each number into angles and adds those.",
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
        story: "Three layers that learned prose, dialogue and code. It is small, and it has a dictionary of 1,024 features: Ctrl+4 shows which are active here.",
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

/// Writes files that ship inside the program into a folder of the user's cache, or among the user's temporary files where the
/// cache cannot be written or is not the user's own.
///
/// # Errors
/// Neither folder can be written.
pub fn unpack(name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    unpack_into(&cache_folder(), name, files).or_else(|_| unpack_into(temporary_folder(), name, files))
}

fn unpack_into(base: &Path, name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let all = base.join("builtin");
    let folder = all.join(name);
    // Whoever can write there could exchange what is opened.
    own_folder(&all)?;
    own_folder(&folder)?;
    for (name, bytes) in files {
        let path = folder.join(name);
        // Comparing costs a few milliseconds. It replaces files of an older version, and damaged ones.
        let is_link = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink());
        if !is_link && read(&path, LARGE).is_ok_and(|old| old == *bytes) {
            continue;
        }
        // A link would be written through.
        if is_link {
            std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
        }
        write_atomic(&path, bytes)?;
    }
    Ok(folder)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const FILES: &[(&str, &[u8])] = &[("a.txt", b"mine"), ("b.txt", b"too")];

    #[test]
    fn what_ships_is_unpacked_into_the_users_own_folder_alone() {
        let base = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let folder = unpack_into(base.path(), "x", FILES).unwrap();
        let text = |name: &str| read(&folder.join(name), LARGE).unwrap();
        assert_eq!((text("a.txt"), text("b.txt")), (b"mine".to_vec(), b"too".to_vec()));
        // A damaged file is replaced, and a link with it: what it leads to is left alone.
        let other = elsewhere.path().join("other.txt");
        write_atomic(&other, b"another's").unwrap();
        std::fs::remove_file(folder.join("a.txt")).unwrap();
        symlink(&other, folder.join("a.txt")).unwrap();
        write_atomic(&folder.join("b.txt"), b"damaged").unwrap();
        unpack_into(base.path(), "x", FILES).unwrap();
        assert_eq!((text("a.txt"), text("b.txt")), (b"mine".to_vec(), b"too".to_vec()));
        assert_eq!(read(&other, LARGE).unwrap(), b"another's");
        assert!(!std::fs::symlink_metadata(folder.join("a.txt")).unwrap().is_symlink());
        // A link in the folder's place, a file, and a folder that all may write are refused by name.
        let said = |name: &str| unpack_into(base.path(), name, FILES).unwrap_err().to_string();
        symlink(elsewhere.path(), base.path().join("builtin/linked")).unwrap();
        assert!(said("linked").contains("is a link or no folder"));
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "nothing was written through the link");
        write_atomic(&base.path().join("builtin/file"), b"").unwrap();
        assert!(said("file").contains("is a link or no folder"));
        let open = base.path().join("builtin/open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(said("open").contains("can be written by every user"));
        // SAFETY: it takes nothing and cannot fail.
        if unsafe { libc::geteuid() } == 0 {
            let theirs = base.path().join("builtin/theirs");
            std::fs::create_dir(&theirs).unwrap();
            std::os::unix::fs::chown(&theirs, Some(12_345), None).unwrap();
            assert!(said("theirs").contains("belongs to another user"));
        }
    }
}
