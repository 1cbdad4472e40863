//! Files that a session names and that are no longer where they were. A model or dictionary of the same name is looked for beside the
//! session and in the folders that were used lately; whether its weights are the same is seen when it is read.

use std::path::{Path, PathBuf};

use super::{Desk, Document, recent};
use crate::files::cache_folder;
use crate::model::place;

/// Levels of folders below those that were used in which is looked.
const DEPTH: usize = 2;
/// Folders read at most.
const MOST: usize = 400;

/// Turns to where a session's files are now, and says what was found and what was not. `session` is its file.
pub fn found(document: &mut Document, session: Option<&Path>) -> Vec<String> {
    let beside = session.and_then(Path::parent).map(Path::to_owned);
    let folders = |list: &str| recent::load(list).into_iter().map(PathBuf::from);
    let models = folders(recent::MODELS).filter_map(|p| p.parent().map(Path::to_owned));
    let places: Vec<PathBuf> = beside
        .into_iter()
        .chain(folders(recent::FOLDERS))
        .chain(models)
        .chain([cache_folder().join("models")])
        .collect();
    follow(document, &places)
}

fn follow(document: &mut Document, places: &[PathBuf]) -> Vec<String> {
    let mut says = Vec::new();
    let desks = std::iter::once(&mut document.desk).chain(document.parked.values_mut());
    let mut left = MOST;
    for Desk { model, features, graph, .. } in desks {
        // Of the weights of models and dictionaries the hash is known, so that another file of the name is seen for what it
        // is. Others are only said to be gone.
        let dictionary = features.dictionary.clone();
        let hashed = [model, &mut features.dictionary].map(|s| (s, true));
        let captured = features.captured.as_mut().map(|c| (&mut c.0, false));
        for (spec, follows) in hashed.into_iter().chain(graph.file.as_mut().map(|s| (s, false))).chain(captured) {
            let path = PathBuf::from(&*spec);
            // A name without a folder is no path: the library's own models and dictionaries have those.
            if path.components().count() < 2 || path.exists() || place::is_name(spec) {
                continue;
            }
            let Some(name) = path.file_name() else { continue };
            let found = places.iter().filter(|_| follows).find_map(|place| below(place, name, DEPTH, &mut left));
            match found {
                Some(now) => {
                    says.push(format!(
                        "{} is not there any more; {} is used in its place.",
                        path.display(),
                        now.display()
                    ));
                    *spec = now.display().to_string();
                }
                None => says.push(format!("{} is not there any more; open it where it is now.", path.display())),
            }
        }
        // What is known of the dictionary goes with it.
        if features.dictionary != dictionary {
            if features.read == dictionary {
                features.read.clone_from(&features.dictionary);
            }
            if let Some(sites) = features.sites.remove(&dictionary) {
                features.sites.insert(features.dictionary.clone(), sites);
            }
        }
    }
    says.sort();
    says.dedup();
    says
}

/// A file or folder of this name in a folder or below it.
fn below(folder: &Path, name: &std::ffi::OsStr, depth: usize, left: &mut usize) -> Option<PathBuf> {
    let here = folder.join(name);
    if here.exists() {
        return Some(here);
    }
    *left = left.checked_sub(1)?;
    let folders = std::fs::read_dir(folder).ok().filter(|_| depth > 0)?.flatten();
    let folders = folders.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    folders.map(|e| e.path()).find_map(|f| below(&f, name, depth - 1, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_files_are_found_by_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let now = folder.path().join("new/place/model.gguf");
        std::fs::create_dir_all(now.parent().unwrap()).unwrap();
        crate::files::write_atomic(&now, b"weights").unwrap();
        let mut document = Document::from(Desk { model: "/no/longer/model.gguf".to_owned(), ..Desk::default() });
        document.desk.features.dictionary = "/no/such/dictionary".to_owned();
        document.desk.graph.file = Some("/no/such/graph.json".to_owned());
        let says = follow(&mut document, &[folder.path().to_owned()]);
        assert_eq!(document.desk.model, now.display().to_string());
        assert_eq!(document.desk.features.dictionary, "/no/such/dictionary");
        assert_eq!(says.iter().filter(|s| s.contains("is used in its place")).count(), 1, "{says:?}");
        assert_eq!(says.iter().filter(|s| s.contains("open it where it is now")).count(), 2, "{says:?}");
        // A dictionary is found as well, and what was said of it is said of it where it is now.
        let moved = folder.path().join("new/place/dictionary");
        std::fs::create_dir_all(&moved).unwrap();
        let desk = &mut document.desk.features;
        desk.read.clone_from(&desk.dictionary);
        let place = (crate::features::Place::parse("blocks.1.hook_resid_pre").unwrap(), None);
        desk.sites.insert(desk.dictionary.clone(), place);
        follow(&mut document, &[folder.path().to_owned()]);
        let (desk, moved) = (&document.desk.features, moved.display().to_string());
        assert_eq!((&desk.dictionary, &desk.read), (&moved, &moved));
        assert!(desk.sites.contains_key(&moved) && desk.sites.len() == 1);
        // What is there, and what is no path, stays.
        let mut document = Document::from(Desk { model: "induction".to_owned(), ..Desk::default() });
        assert!(follow(&mut document, &[folder.path().to_owned()]).is_empty());
        assert_eq!(document.desk.model, "induction");
    }
}
