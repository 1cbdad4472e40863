//! Text to train and scan with: files and folders, cut into rows of tokens that never cross a document's border.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::jobs::Progress;
use crate::model::Model;

/// Stands on a line of its own between the documents of a file.
const SEPARATOR: &str = "<|endoftext|>";
/// Texts that ship with the program, by name.
pub const SHIPPED: [(&str, &str); 2] =
    [("mixed", include_str!("../../assets/text/mixed.txt")), ("prose", include_str!("../../assets/text/prose.txt"))];

/// A document and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub source: String,
    pub text: String,
}

/// Reads files, folders (all files in them, in order of their names), or shipped texts by name. Lines of a `.jsonl`
/// file are objects with a `text`; other files are plain text in UTF-8.
///
/// # Errors
/// Paths that do not exist, files that are not text, and texts without any words.
pub fn documents(specs: &[String]) -> Result<Vec<Document>> {
    let mut all = Vec::new();
    for spec in specs {
        if let Some((name, text)) = SHIPPED.iter().find(|(n, _)| n == spec) {
            split(name, text, &mut all);
            continue;
        }
        let path = Path::new(spec);
        if path.is_dir() {
            let mut files = Vec::new();
            walk(path, &mut files)?;
            files.sort();
            if files.is_empty() {
                return Err(Error::request(format!("the folder {spec} holds no files; give one with text files")));
            }
            for file in files {
                read(&file, &mut all)?;
            }
        } else {
            read(path, &mut all)?;
        }
    }
    if all.is_empty() {
        return Err(Error::request(format!("{} holds no text; give a file with words in it", specs.join(", "))));
    }
    Ok(all)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        let entry = entry.map_err(|e| Error::read(folder, e))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let kind = entry.file_type().map_err(|e| Error::read(folder, e))?;
        // Links are not followed: they may lead round in a circle.
        if hidden || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn read(path: &Path, all: &mut Vec<Document>) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
    let not_text = |what: String| Error::Malformed { path: path.to_owned(), format: "text", what };
    if bytes.contains(&0) {
        return Err(not_text("it holds bytes that no text has".to_owned()));
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| not_text(format!("it is not UTF-8 at byte {}", e.utf8_error().valid_up_to())))?;
    let source = path.display().to_string();
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl")) {
        #[derive(serde::Deserialize)]
        struct Line {
            text: String,
        }
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let line: Line = serde_json::from_str(line)
                .map_err(|e| not_text(format!("line {} is no object with a text: {e}", i + 1)))?;
            split(&source, &line.text, all);
        }
    } else {
        split(&source, &text, all);
    }
    Ok(())
}

fn split(source: &str, text: &str, all: &mut Vec<Document>) {
    let mut document = String::new();
    let mut finish = |document: &mut String| {
        let trimmed = document.trim_end_matches('\n');
        if !trimmed.trim().is_empty() {
            all.push(Document { source: source.to_owned(), text: trimmed.to_owned() });
        }
        document.clear();
    };
    for line in text.split_inclusive('\n') {
        if line.trim_end() == SEPARATOR {
            finish(&mut document);
        } else {
            document.push_str(line);
        }
    }
    finish(&mut document);
}

/// Documents as rows of token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// At most `context` tokens each.
    pub rows: Vec<Vec<u32>>,
    /// For each row its document.
    pub document: Vec<u32>,
}

impl Rows {
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    /// Cuts documents into rows of `context` tokens; shorter ends are kept from 2 tokens on. Stops after `limit`
    /// tokens, where one is given.
    ///
    /// # Errors
    /// As the tokenizer, or a cancelled job.
    pub fn cut(
        model: &Model,
        documents: &[Document],
        context: usize,
        limit: Option<usize>,
        progress: &Progress,
    ) -> Result<Self> {
        let context = context.min(model.config.n_ctx);
        if context < 2 {
            return Err(Error::request(format!("a context of {context} tokens predicts nothing; give 2 or more")));
        }
        let mut rows = Self::default();
        let mut tokens = 0;
        for (d, document) in documents.iter().enumerate() {
            progress.check()?;
            if limit.is_some_and(|l| tokens >= l) {
                break;
            }
            for piece in model.encode(&document.text, false)?.chunks(context) {
                let room = limit.map_or(usize::MAX, |l| l.saturating_sub(tokens));
                let piece = &piece[..piece.len().min(room)];
                if piece.len() < 2 {
                    continue;
                }
                tokens += piece.len();
                rows.rows.push(piece.to_vec());
                rows.document.push(d as u32);
            }
        }
        if rows.rows.is_empty() {
            return Err(Error::request("the text gives no two tokens in a row; give more of it"));
        }
        Ok(rows)
    }

    /// Every `n`-th row held out: (to train on, held out).
    pub fn held_out(self, n: usize) -> (Self, Self) {
        let (mut trained, mut held) = (Self::default(), Self::default());
        for (i, (row, document)) in self.rows.into_iter().zip(self.document).enumerate() {
            let side = if i % n == n - 1 { &mut held } else { &mut trained };
            side.rows.push(row);
            side.document.push(document);
        }
        (trained, held)
    }

    /// Rows of equal length together, at most `tokens` of them or one row: what one forward pass takes. Full rows come
    /// first, in their order.
    pub fn batches(&self, tokens: usize) -> Vec<Vec<usize>> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, row) in self.rows.iter().enumerate() {
            by_length.entry(row.len()).or_default().push(i);
        }
        let part = |(len, rows): (usize, Vec<usize>)| {
            rows.chunks((tokens / len.max(1)).max(1)).map(<[usize]>::to_vec).collect::<Vec<_>>()
        };
        by_length.into_iter().rev().flat_map(part).collect()
    }

    /// The rows of a batch.
    pub fn some(&self, batch: &[usize]) -> Vec<&[u32]> {
        batch.iter().map(|i| self.rows[*i].as_slice()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_and_bad_files_refused() {
        let mut all = Vec::new();
        split("x", "one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n\n", &mut all);
        assert_eq!(all.iter().map(|d| d.text.as_str()).collect::<Vec<_>>(), ["one\ntwo", "three"]);
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            crate::files::write_atomic(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let empty = documents(&[file("empty.txt", b"\n\n")]).unwrap_err().to_string();
        assert!(empty.contains("no text"), "{empty}");
        let binary = documents(&[file("b.bin", &[0, 1, 2])]).unwrap_err().to_string();
        assert!(binary.contains("no text has"), "{binary}");
        assert!(documents(&[file("l.txt", &[b'a', 0xff])]).unwrap_err().to_string().contains("byte 1"));
        let two = documents(&[file("a.jsonl", b"{\"text\":\"a b\"}\n\n{\"text\":\"c\"}\n")]).unwrap();
        assert_eq!(two.len(), 2);
        assert!(documents(&["/no/such/file".to_owned()]).is_err());
        assert!(documents(&["mixed".to_owned()]).unwrap().len() > 500);
    }

    #[test]
    fn batches_hold_rows_of_equal_length() {
        let rows = Rows { rows: [4, 4, 4, 2, 4].iter().map(|n| vec![0; *n]).collect(), document: vec![0; 5] };
        assert_eq!(rows.batches(8), [vec![0, 1], vec![2, 4], vec![3]]);
        let (trained, held) = rows.held_out(2);
        assert_eq!((trained.rows.len(), held.rows.len()), (3, 2));
    }
}
