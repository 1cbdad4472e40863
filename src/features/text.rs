//! Text to train and scan with: files and folders, read piece by piece.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Stands on a line of its own between the documents of a file.
const SEPARATOR: &str = "<|endoftext|>";
/// Bytes from which on a document is handed over in parts: at the end of a line, or of a word in lines longer than that.
const PART: usize = 1 << 20;
/// Bytes that one line may have.
const LONGEST_LINE: usize = 64 << 20;
/// Texts that ship with the program, by name.
pub const SHIPPED: [(&str, &str); 2] =
    [("mixed", include_str!("../../assets/text/mixed.txt")), ("prose", include_str!("../../assets/text/prose.txt"))];

/// A document, or a part of a long one.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub text: String,
    /// Whether it is the rest of the document before.
    pub continues: bool,
}

/// What is done with each document: go on, or read no further.
pub type Each<'a> = dyn FnMut(Document) -> Result<ControlFlow<()>> + 'a;

/// Reads files, folders (all files in them, in order of their names), or shipped texts by name, a document at a time;
/// one above a megabyte comes in parts. Lines of a `.jsonl` file are objects with a `text`; other files are plain text
/// in UTF-8.
///
/// # Errors
/// Paths that do not exist, files that are not text, texts without any words, and what `each` returns.
pub fn visit(specs: &[String], each: &mut Each<'_>) -> Result<()> {
    let mut any = false;
    let mut each = |document| {
        any = true;
        each(document)
    };
    for spec in specs {
        let flow = if let Some((name, text)) = SHIPPED.iter().find(|(n, _)| n == spec) {
            lines(Path::new(name), text.as_bytes(), &mut each)?
        } else if Path::new(spec).is_dir() {
            let mut files = Vec::new();
            walk(Path::new(spec), &mut files)?;
            files.sort();
            if files.is_empty() {
                return Err(Error::request(format!("the folder {spec} holds no files; give one with text files")));
            }
            files.iter().try_fold(ControlFlow::Continue(()), |flow, file| match flow {
                ControlFlow::Continue(()) => read(file, &mut each),
                stop @ ControlFlow::Break(()) => Ok(stop),
            })?
        } else {
            read(Path::new(spec), &mut each)?
        };
        if flow.is_break() {
            return Ok(());
        }
    }
    if !any {
        return Err(Error::request(format!("{} holds no text; give a file with words in it", specs.join(", "))));
    }
    Ok(())
}

/// Bytes of files, folders and shipped texts.
///
/// # Errors
/// One that cannot be read.
pub fn bytes(specs: &[String]) -> Result<u64> {
    let of = |path: &Path| std::fs::metadata(path).map(|m| m.len()).map_err(|e| Error::read(path, e));
    let each = |spec: &String| match SHIPPED.iter().find(|(n, _)| n == spec) {
        Some((_, text)) => Ok(text.len() as u64),
        None if Path::new(spec).is_dir() => {
            let mut files = Vec::new();
            walk(Path::new(spec), &mut files)?;
            files.iter().map(|f| of(f)).sum()
        }
        None => of(Path::new(spec)),
    };
    specs.iter().map(each).sum()
}

/// Bytes of a token, about, in most languages' text.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens of texts, about, and at most so many.
///
/// # Errors
/// As [`bytes`].
pub fn tokens(specs: &[String], limit: Option<usize>) -> Result<usize> {
    let all = usize::try_from(bytes(specs)? / BYTES_PER_TOKEN).unwrap_or(usize::MAX);
    Ok(all.min(limit.unwrap_or(usize::MAX)))
}

/// All documents at once.
///
/// # Errors
/// As [`visit`].
pub fn documents(specs: &[String]) -> Result<Vec<Document>> {
    let mut all = Vec::new();
    visit(specs, &mut |d| {
        all.push(d);
        Ok(ControlFlow::Continue(()))
    })?;
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

fn read(path: &Path, each: &mut Each<'_>) -> Result<ControlFlow<()>> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    lines(path, BufReader::with_capacity(1 << 16, file), each)
}

/// Reads a file line by line; documents are what stands between separators, or a line of JSON each.
fn lines(path: &Path, mut reader: impl BufRead, each: &mut Each<'_>) -> Result<ControlFlow<()>> {
    #[derive(serde::Deserialize)]
    struct Line {
        text: String,
    }
    let not_text = |what: String| Error::Malformed { path: path.to_owned(), format: "text", what };
    let is_json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
    let mut splitter = Splitter { text: String::new(), continues: false, each };
    let (mut bytes, mut read, mut number) = (Vec::new(), 0, 0);
    loop {
        bytes.clear();
        let mut limited = std::io::Read::take(&mut reader, LONGEST_LINE as u64);
        let n = limited.read_until(b'\n', &mut bytes).map_err(|e| Error::read(path, e))?;
        if n == 0 {
            return splitter.finish();
        }
        number += 1;
        if n == LONGEST_LINE && !bytes.ends_with(b"\n") {
            return Err(not_text(format!("line {number} has more than {} MiB; break it up", LONGEST_LINE >> 20)));
        }
        if bytes.contains(&0) {
            return Err(not_text("it holds bytes that no text has".to_owned()));
        }
        let line = std::str::from_utf8(&bytes)
            .map_err(|e| not_text(format!("it is not UTF-8 at byte {}", read + e.valid_up_to())))?;
        read += n;
        let flow = if is_json {
            if line.trim().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_str(line)
                .map_err(|e| not_text(format!("line {number} is no object with a text: {e}")))?;
            splitter.all(&line.text)?
        } else {
            splitter.line(line)?
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
}

/// Puts lines together to documents.
struct Splitter<'a, 'b> {
    text: String,
    /// A part of the document was handed over.
    continues: bool,
    each: &'a mut Each<'b>,
}

impl Splitter<'_, '_> {
    /// Hands over what was gathered, where there are words in it.
    fn finish(&mut self) -> Result<ControlFlow<()>> {
        let text = std::mem::take(&mut self.text);
        let text = text.trim_end_matches('\n');
        let continues = std::mem::take(&mut self.continues);
        if text.trim().is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        (self.each)(Document { text: text.to_owned(), continues })
    }

    /// Hands over what was gathered of a document that goes on.
    fn part(&mut self) -> Result<ControlFlow<()>> {
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        (self.each)(Document { text, continues: std::mem::replace(&mut self.continues, true) })
    }

    fn line(&mut self, line: &str) -> Result<ControlFlow<()>> {
        if line.trim_end() == SEPARATOR {
            return self.finish();
        }
        let mut rest = line;
        while self.text.len() + rest.len() >= 2 * PART {
            let end = rest.floor_char_boundary(PART);
            let cut = rest[..end].rfind(char::is_whitespace).filter(|c| *c > 0).unwrap_or(end);
            self.text.push_str(&rest[..cut]);
            rest = &rest[cut..];
            if self.part()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.text.push_str(rest);
        if self.text.len() >= PART { self.part() } else { Ok(ControlFlow::Continue(())) }
    }

    /// A text of its own.
    fn all(&mut self, text: &str) -> Result<ControlFlow<()>> {
        for line in text.split_inclusive('\n') {
            if self.line(line)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(name: &str, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        let flow = lines(Path::new(name), text.as_bytes(), &mut |d| {
            all.push(d.text);
            Ok(ControlFlow::Continue(()))
        });
        assert!(flow.unwrap().is_continue());
        all
    }

    #[test]
    fn documents_are_split_and_bad_files_refused() {
        assert_eq!(split("x", "one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n\n"), ["one\ntwo", "three"]);
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
        let broken = documents(&[file("l.txt", b"ab\nc\xff")]).unwrap_err().to_string();
        assert!(broken.contains("byte 4"), "{broken}");
        let two = documents(&[file("a.jsonl", b"{\"text\":\"a b\"}\n\n{\"text\":\"c\"}\n")]).unwrap();
        assert_eq!(two.len(), 2);
        let third = documents(&[file("b.jsonl", b"{\"text\":\"a b\"}\n\n{\"txt\":\"c\"}\n")]).unwrap_err().to_string();
        assert!(third.contains("line 3"), "{third}");
        assert!(documents(&["/no/such/file".to_owned()]).is_err());
        assert!(documents(&["mixed".to_owned()]).unwrap().len() > 500);
    }

    #[test]
    fn long_documents_come_in_parts_and_reading_stops_when_told() {
        let line = format!("{}\n", "word ".repeat(20));
        let long = line.repeat(3 * PART / line.len());
        let parts = split("x", &long);
        assert!(parts.len() == 3 && parts.iter().all(|p| p.len() < PART + line.len()), "{}", parts.len());
        assert_eq!(parts.concat(), long.trim_end_matches('\n'));
        // One line without an end, of letters of two bytes.
        let endless = "äöü ".repeat(PART / 2);
        let parts = split("x", &endless);
        assert!(parts.len() >= 3 && parts.iter().all(|p| p.len() < 2 * PART), "{}", parts.len());
        assert_eq!(parts.concat(), endless);
        let mut begun = 0;
        let two = format!("{long}{SEPARATOR}\n{long}");
        let flow = lines(Path::new("x"), two.as_bytes(), &mut |d| {
            begun += usize::from(!d.continues);
            Ok(ControlFlow::Continue(()))
        });
        assert!(flow.unwrap().is_continue());
        assert_eq!(begun, 2, "parts are of one document");
        let mut seen = 0;
        visit(&["mixed".to_owned(), "/no/such/file".to_owned()], &mut |_| {
            seen += 1;
            Ok(if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
        assert_eq!(seen, 3);
    }
}
