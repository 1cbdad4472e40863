//! Opens a lens of any kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{JacobianLens, tuned};
use crate::analysis::transport::Transport;
use crate::error::{Error, Result};
use crate::model::torch_file::{TorchFile, Value};
use crate::model::{Model, builtin, safetensors_file};

/// The kinds of lenses in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Jacobian,
    Tuned,
}

/// The kind of the lens that a file or folder holds, by what is in it; none where it holds no lens.
pub fn kind(path: &Path) -> Option<Kind> {
    if path.is_dir() {
        return kind(&tuned::in_folder(path).ok()?);
    }
    let ends = |ends: &[&str]| path.extension().is_some_and(|e| ends.iter().any(|end| e.eq_ignore_ascii_case(end)));
    let names: Vec<String> = if ends(&["safetensors"]) {
        safetensors_file::index(&[path.to_owned()]).ok()?.entries.into_keys().collect()
    } else if ends(&["pt", "pth", "bin"]) {
        let Value::Dictionary(entries) = TorchFile::open(path).ok()?.value else { return None };
        entries.iter().filter_map(|(name, _)| name.text().map(str::to_owned)).collect()
    } else {
        return None;
    };
    let jacobian = |name: &String| name == "J" || name == "jacobian_sum" || name.starts_with("J.");
    if names.iter().any(jacobian) {
        return Some(Kind::Jacobian);
    }
    names.iter().any(|name| tuned::layer_of(name).is_some()).then_some(Kind::Tuned)
}

/// Opens a lens of a model: a Jacobian lens (`.pt`, `.safetensors`), or a tuned lens (`params.pt`, its folder, safetensors of
/// the same names).
///
/// # Errors
/// A file that is no lens, or the lens of another model.
pub fn open(path: &Path, model: &Model) -> Result<Arc<Transport>> {
    let kind = kind(path);
    if kind == Some(Kind::Tuned) || kind.is_none() && path.is_dir() {
        return tuned::open(path, model);
    }
    JacobianLens::open(path)?.transport(model)
}

/// A lens that ships with the program, for a built-in model.
pub struct Builtin {
    pub name: &'static str,
    pub model: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

pub const BUILTINS: &[Builtin] = &[Builtin {
    name: "text-lens",
    model: "text",
    files: &[
        ("lens.safetensors", include_bytes!("../../assets/text-lens/lens.safetensors")),
        ("CARD.md", include_bytes!("../../assets/text-lens/CARD.md")),
    ],
}];

/// Where a lens is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LensSource {
    File(PathBuf),
    Shipped(&'static str),
}

impl LensSource {
    /// By the path of a file or folder, or the name of a lens that ships.
    pub fn of(spec: &str) -> Self {
        match BUILTINS.iter().find(|b| b.name == spec) {
            Some(b) => Self::Shipped(b.name),
            None => Self::File(PathBuf::from(spec)),
        }
    }

    /// Opens the lens for a model.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&self, model: &Model) -> Result<Arc<Transport>> {
        match self {
            Self::File(path) => open(path, model),
            Self::Shipped(name) => {
                let builtin = BUILTINS.iter().find(|b| b.name == *name);
                let builtin = builtin.ok_or_else(|| Error::request(format!("no lens `{name}` ships")))?;
                let folder = builtin::unpack(&format!("lens-{name}"), builtin.files)?;
                open(&folder.join("lens.safetensors"), model)
            }
        }
    }
}

/// The lens that ships for a model, if one does.
pub fn shipped(model: &Model) -> Option<LensSource> {
    let builtin = model.format == "built-in";
    BUILTINS.iter().find(|b| builtin && b.model == model.config.name).map(|b| LensSource::Shipped(b.name))
}
