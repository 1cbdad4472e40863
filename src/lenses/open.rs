//! Opens a lens of any kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{JacobianLens, tuned};
use crate::analysis::transport::Transport;
use crate::error::{Error, Result};
use crate::model::{Model, builtin, safetensors_file};

/// True for a path of a tuned lens, false for one of another lens or of none.
pub fn is_tuned(path: &Path) -> bool {
    tuned::looks(path)
}

/// True for a file or folder that is dropped or opened and can only be a lens. Weights of models are no `.pt` here.
pub fn is_dropped(path: &Path) -> bool {
    if path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pt")) {
        return true;
    }
    let safetensors = path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let jacobian = |names: &safetensors_file::Index| names.entries.keys().any(|n| n.starts_with("J."));
    is_tuned(path) || safetensors && safetensors_file::index(&[path.to_owned()]).is_ok_and(|i| jacobian(&i))
}

/// Opens a lens of a model: a Jacobian lens (`.pt`, `.safetensors`), or a tuned lens (`params.pt`, its folder, safetensors of
/// the same names).
///
/// # Errors
/// A file that is no lens, or the lens of another model.
pub fn open(path: &Path, model: &Model) -> Result<Arc<Transport>> {
    if tuned::looks(path) {
        return tuned::open(path, model);
    }
    let safetensors = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    if safetensors && safetensors_file::index(&[path.to_owned()])?.entries.keys().any(|n| n.ends_with(".weight")) {
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
