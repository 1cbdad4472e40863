//! Session files, `.scope`: the document as JSON that a person can read, with the format's version.
//!
//! ```json
//! {"format": "circuitscope session", "version": 1, "program": "0.1.0", "document": {"desk": {…}, "parked": {…}, "look": {…}}}
//! ```
//! A field that this version does not know is passed over, and one that is missing has its default, so that files of
//! older versions open.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Desk, Document};
use crate::error::{Error, Result};
use crate::files::{LARGE, read, write_atomic};
use crate::model::builtin;

const FORMAT: &str = "circuitscope session";
/// Raised when older programs would misread a file.
const VERSION: u64 = 1;
/// The end of a session file's name.
pub const EXTENSION: &str = "scope";

/// A document, and where the user saved it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// The file that it was opened from or saved to last; only kept sessions say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    pub document: Document,
}

#[derive(Serialize)]
struct Written<'a> {
    format: &'a str,
    version: u64,
    program: &'a str,
    #[serde(flatten)]
    session: &'a Session,
}

/// Whether a file's name is that of a session.
pub fn is_session(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == EXTENSION)
}

/// Whether a file's text is that of a session, whatever its name.
pub fn is_session_text(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Head {
        format: Option<String>,
    }
    serde_json::from_slice::<Head>(text).is_ok_and(|h| h.format.as_deref() == Some(FORMAT))
}

impl Session {
    /// Returns the file's text. Paths in it are whole, so that it opens from any folder.
    ///
    /// # Errors
    /// A document that JSON cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut session = self.clone();
        let document = &mut session.document;
        for desk in std::iter::once(&mut document.desk).chain(document.parked.values_mut()) {
            make_paths_whole(desk);
        }
        let written =
            Written { format: FORMAT, version: VERSION, program: env!("CARGO_PKG_VERSION"), session: &session };
        serde_json::to_vec_pretty(&written).map_err(|e| Error::failed(format!("the session cannot be written: {e}")))
    }

    /// Writes the session to a file, which is whole at any moment.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomic(path, &self.to_bytes()?)
    }

    /// Reads a session file.
    ///
    /// # Errors
    /// A file that cannot be read, is no session, is damaged, or is of a newer program.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read(path, LARGE)?;
        let bad = |what: String| Error::Malformed { path: path.to_owned(), format: "session", what };
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(format!("it is not JSON ({e})")))?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(bad(format!("it does not say that its format is `{FORMAT}`")));
        }
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version <= VERSION => {}
            Some(version) => {
                return Err(Error::request(format!(
                    "{} was written by a newer circuitscope (session format {version}; this one reads up to {VERSION}); update the program",
                    path.display()
                )));
            }
            None => return Err(bad("it does not say its version".to_owned())),
        }
        let shape = serde_json::to_value(Self::default()).map_err(|e| bad(e.to_string()))?;
        let parked = value.pointer("/document/parked").and_then(Value::as_object).into_iter().flatten();
        let desks = parked.map(|(_, desk)| misshapen(desk, &shape["document"]["desk"], "parked desk"));
        if let Some(place) = std::iter::once(misshapen(&value, &shape, "")).chain(desks).flatten().next() {
            return Err(bad(format!("its {place} is a list, not an object")));
        }
        serde_json::from_value(value).map_err(|e| bad(e.to_string()))
    }
}

/// The first place where a list stands for an object: it would be taken for one whose fields all have their defaults. `shape`
/// is what such a file holds at least.
fn misshapen(value: &Value, shape: &Value, above: &str) -> Option<String> {
    let wanted = shape.as_object()?;
    if value.is_array() {
        return Some(above.to_owned());
    }
    wanted.iter().find_map(|(name, shape)| {
        let place = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        misshapen(value.get(name)?, shape, &place)
    })
}

/// Makes the paths that a desk names whole.
fn make_paths_whole(desk: &mut Desk) {
    let whole = |spec: &mut String| {
        if builtin::by_name(spec).is_none()
            && Path::new(spec.as_str()).exists()
            && let Ok(path) = std::path::absolute(spec.as_str())
        {
            *spec = path.display().to_string();
        }
    };
    whole(&mut desk.model);
    whole(&mut desk.features.dictionary);
    if let Some(file) = &mut desk.graph.file {
        whole(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.scope");
        let desk = Desk {
            model: "induction".to_owned(),
            prompt: "a\nb ≠ !=".to_owned(),
            hash: Some(u64::MAX),
            ..Desk::default()
        };
        let mut session = Session { file: Some(path.clone()), document: desk.into() };
        session.document.look.light = true;
        session.save(&path).unwrap();
        assert_eq!(Session::open(&path).unwrap(), session);
    }

    #[test]
    fn what_is_no_session_is_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.scope");
        let newer = format!(r#"{{"format": "{FORMAT}", "version": 99}}"#);
        let wrong = format!(r#"{{"format": "{FORMAT}", "version": 1, "document": {{"desk": 3}}}}"#);
        for (text, part) in [
            ("", "not JSON"),
            ("[1]", "does not say that its format"),
            (&newer, "newer circuitscope"),
            (&wrong, "invalid type"),
        ] {
            std::fs::File::create(&path).unwrap();
            write_atomic(&path, text.as_bytes()).unwrap();
            let error = Session::open(&path).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
        // Of an old file, or one that says less, the rest has its defaults.
        write_atomic(&path, format!(r#"{{"format": "{FORMAT}", "version": 1}}"#).as_bytes()).unwrap();
        assert_eq!(Session::open(&path).unwrap(), Session::default());
    }
}
