//! A download into the hub's cache: what the repository holds, which of its files are needed, and their contents, over
//! connections that may break off and be gone on with.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;

use super::{BESIDE, Hub, TOKENIZERS, Wanted, chosen, is_first, is_gguf, is_hash, is_inside, parts};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::model::safetensors_file::files_of;
use crate::progress::Progress;

/// A file of a repository.
#[derive(Clone, Debug)]
struct Remote {
    name: String,
    bytes: u64,
    /// The name of its contents: the SHA-256 of a large file, git's hash of a small one.
    etag: String,
}

/// A model on its way.
pub struct Fetch<'a> {
    wanted: &'a Wanted,
    hub: &'a Hub,
    progress: &'a Progress,
    agent: Agent,
    commit: String,
    files: Vec<Remote>,
}

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a broken connection is made again without a byte in between.
const ATTEMPTS: usize = 4;
const CHUNK: usize = 256 * 1024;

impl<'a> Fetch<'a> {
    /// Asks the hub what the repository holds.
    pub fn new(wanted: &'a Wanted, hub: &'a Hub, progress: &'a Progress) -> Result<Self> {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .user_agent(concat!("circuitscope/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let mut fetch = Self { wanted, hub, progress, agent, commit: String::new(), files: Vec::new() };
        let revision = wanted.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", hub.endpoint, wanted.repository);
        let request = fetch.agent.get(&url);
        let request = match &hub.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        };
        let (status, text) = fetch.aside(move || {
            let mut response = request.call()?;
            Ok((response.status().as_u16(), response.body_mut().with_config().limit(64 << 20).read_to_string()?))
        })?;
        if status != 200 {
            return Err(fetch.refused(status, "the list of its files"));
        }
        let odd =
            || Error::failed(format!("{url} answers with something else than a list of files; check HF_ENDPOINT"));
        let about: Value = serde_json::from_str(&text).map_err(|_| odd())?;
        fetch.commit = about["sha"].as_str().filter(|c| is_hash(c)).ok_or_else(odd)?.to_owned();
        for file in about["siblings"].as_array().ok_or_else(odd)? {
            let large = &file["lfs"];
            let etag = large["sha256"].as_str().or_else(|| file["blobId"].as_str()).filter(|e| is_hash(e));
            let bytes = large["size"].as_u64().or_else(|| file["size"].as_u64());
            // A name that leads out of the folder is nobody's file.
            if let (Some(name), Some(bytes), Some(etag)) =
                (file["rfilename"].as_str().filter(|n| is_inside(n)), bytes, etag)
            {
                fetch.files.push(Remote { name: name.to_owned(), bytes, etag: etag.to_owned() });
            }
        }
        Ok(fetch)
    }

    /// Runs a request on a thread of its own, so that it can be left alone when it is cancelled.
    fn aside<T: Send + 'static>(
        &self,
        request: impl FnOnce() -> std::result::Result<T, ureq::Error> + Send + 'static,
    ) -> Result<T> {
        let (send, answer) = sync_channel(1);
        std::thread::spawn(move || {
            // Nobody waits any more where this fails.
            let _ = send.send(request());
        });
        self.wait(&answer)?.unwrap_or_else(|| Err(ureq::Error::ConnectionFailed)).map_err(|e| self.unreachable(&e))
    }

    /// Waits for what a thread sends; `None` where it has ended.
    fn wait<T>(&self, answer: &Receiver<T>) -> Result<Option<T>> {
        loop {
            match answer.recv_timeout(Duration::from_millis(50)) {
                Ok(value) => return Ok(Some(value)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.progress.check()?,
            }
        }
    }

    fn unreachable(&self, e: &dyn std::fmt::Display) -> Error {
        Error::failed(format!(
            "{} cannot be reached ({e}); check the network, or open a model that is on this machine (`models --found`)",
            self.hub.endpoint
        ))
    }

    /// The error for an answer that is no success.
    fn refused(&self, status: u16, what: &str) -> Error {
        let Wanted { repository, revision, .. } = self.wanted;
        let endpoint = &self.hub.endpoint;
        Error::failed(match status {
            401 | 403 if self.hub.token.is_none() => format!(
                "{endpoint} does not give {what} of {repository}: there is no such model, or it needs a token; check the \
                 name, accept its terms there and set HF_TOKEN"
            ),
            401 | 403 => format!(
                "{endpoint} does not give {what} of {repository} to this token; check the name, and accept its terms there"
            ),
            404 => format!("{endpoint} has no {what} of {repository} at revision {revision}; check the name"),
            429 => {
                format!("{endpoint} is asked too often to give {what} of {repository}; wait a while, or set HF_TOKEN")
            }
            _ => format!("{endpoint} answers {status} for {what} of {repository}; try again later"),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|f| f.name == name)
    }

    /// Fetches what is missing and returns the folder or the file that opens.
    pub fn run(&self) -> Result<PathBuf> {
        let folder = self.hub.folder(self.wanted);
        let snapshot = folder.join("snapshots").join(&self.commit);
        let ggufs: Vec<String> = self.files.iter().map(|f| f.name.clone()).filter(|n| is_gguf(n)).collect();
        let tensors = self.files.iter().filter(|f| !f.name.contains('/') && f.name.ends_with(".safetensors"));
        let opens = if self.wanted.file.is_none() && self.has("config.json") && tensors.clone().next().is_some() {
            let tokenizer = TOKENIZERS.iter().find(|group| group.iter().all(|name| self.has(name)));
            let mut small: Vec<&str> = vec!["config.json"];
            small.extend(tokenizer.into_iter().flat_map(|group| group.iter()));
            small.extend(BESIDE.iter().filter(|name| self.has(name)));
            if self.has("model.safetensors") {
                small.push("model.safetensors");
            } else if self.has("model.safetensors.index.json") {
                small.push("model.safetensors.index.json");
            } else {
                small.extend(tensors.map(|f| f.name.as_str()));
            }
            self.all(&snapshot, &small)?;
            let shards: Vec<String> = files_of(&snapshot)?
                .iter()
                .filter_map(|f| Some(f.file_name()?.to_string_lossy().into_owned()))
                .filter(|f| !snapshot.join(f).is_file())
                .collect();
            self.all(&snapshot, &shards.iter().map(String::as_str).collect::<Vec<_>>())?;
            snapshot
        } else {
            let first = self.one_of(&ggufs)?;
            let all = parts(&ggufs, &first).ok_or_else(|| {
                Error::failed(format!("{} lacks parts of {first}; choose another", self.wanted.repository))
            })?;
            self.all(&snapshot, &all.iter().map(String::as_str).collect::<Vec<_>>())?;
            snapshot.join(first)
        };
        // Its name leads to the commit only when everything is there.
        if self.wanted.revision != self.commit {
            let path = folder.join("refs").join(&self.wanted.revision);
            let above = path.parent().unwrap_or(&folder);
            std::fs::create_dir_all(above).map_err(|e| Error::write(above, e))?;
            write_atomic(&path, self.commit.as_bytes())?;
        }
        Ok(opens)
    }

    /// The GGUF file that is wanted.
    fn one_of(&self, ggufs: &[String]) -> Result<String> {
        let repository = &self.wanted.repository;
        let first: Vec<&str> = ggufs.iter().map(String::as_str).filter(|f| is_first(f)).collect();
        let mut names = first.iter().take(12).copied().collect::<Vec<_>>().join(", ");
        if first.len() > 12 {
            names += ", …";
        }
        match &self.wanted.file {
            _ if first.is_empty() => {
                let pickled = self.files.iter().any(|f| f.name.ends_with(".bin") || f.name.ends_with(".pt"));
                let but = if pickled { "; its weights are pickled, which can run code" } else { "" };
                Err(Error::request(format!(
                    "{repository} holds neither config.json with *.safetensors nor a GGUF file{but}; choose another model"
                )))
            }
            Some(file) => chosen(ggufs, file).cloned().ok_or_else(|| {
                Error::request(format!("`{file}` means no one GGUF file of {repository}; choose one of {names}"))
            }),
            None => match first[..] {
                [one] => Ok(one.to_owned()),
                _ => Err(Error::request(format!(
                    "{repository} holds several GGUF files; choose one with hf:{repository}:FILE of {names}"
                ))),
            },
        }
    }

    /// Fetches files into a snapshot.
    fn all(&self, snapshot: &Path, names: &[&str]) -> Result<()> {
        let missing: Vec<&Remote> = names
            .iter()
            .filter(|name| !snapshot.join(name).exists())
            .map(|name| {
                let found = self.files.iter().find(|f| f.name == *name);
                found.ok_or_else(|| {
                    Error::failed(format!("{} lacks {name}, which its index names", self.wanted.repository))
                })
            })
            .collect::<Result<_>>()?;
        self.progress.expect(missing.iter().map(|f| f.bytes).sum());
        missing.into_iter().try_for_each(|file| self.one(snapshot, file))
    }

    /// Fetches one file into the blobs, from where an earlier call broke off, and links it into the snapshot.
    fn one(&self, snapshot: &Path, file: &Remote) -> Result<()> {
        let blobs = self.hub.folder(self.wanted).join("blobs");
        std::fs::create_dir_all(&blobs).map_err(|e| Error::write(&blobs, e))?;
        let blob = blobs.join(&file.etag);
        let partial = blobs.join(format!("{}.incomplete", file.etag));
        let fail = |e| Error::write(&partial, e);
        let mut out =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&partial).map_err(fail)?;
        // Another process may be fetching the same file.
        while let Err(TryLockError::WouldBlock) = out.try_lock() {
            std::thread::sleep(Duration::from_millis(50));
            self.progress.check()?;
        }
        if blob.is_file() {
            self.progress.step(file.bytes)?;
        } else {
            self.contents(file, &mut out, &partial)?;
            out.sync_all().map_err(fail)?;
            std::fs::rename(&partial, &blob).map_err(|e| Error::write(&blob, e))?;
        }
        drop(out);
        // What another process has finished left an empty file.
        let _ = std::fs::remove_file(&partial);
        let pointer = snapshot.join(&file.name);
        let above = pointer.parent().unwrap_or(snapshot);
        std::fs::create_dir_all(above).map_err(|e| Error::write(above, e))?;
        // Left from a blob that is gone.
        let _ = std::fs::remove_file(&pointer);
        link(&blob, &pointer, Path::new(&file.name).components().count() + 1)
    }

    /// Fills a file with the rest of its contents.
    fn contents(&self, file: &Remote, out: &mut File, partial: &Path) -> Result<()> {
        let fail = |e| Error::write(partial, e);
        let large = file.etag.len() == 64;
        let mut at = out.metadata().map_err(fail)?.len();
        if at > file.bytes {
            out.set_len(0).map_err(fail)?;
            at = 0;
        }
        let mut hash = Sha256::new();
        if large && at > 0 {
            let mut buffer = vec![0; CHUNK];
            out.seek(SeekFrom::Start(0)).map_err(fail)?;
            loop {
                let n = out.read(&mut buffer).map_err(fail)?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                self.progress.check()?;
            }
        }
        self.progress.step(at)?;
        out.seek(SeekFrom::Start(at)).map_err(fail)?;
        let mut broken = 0;
        while at < file.bytes {
            let before = at;
            let lost = self.stream(file, &mut at, &mut hash, out, partial)?;
            broken = if at > before { 0 } else { broken + 1 };
            if let Some(what) = lost.filter(|_| broken >= ATTEMPTS) {
                return Err(Error::failed(format!(
                    "the connection for {} broke off after {at} of {} bytes ({what}); try again, it goes on from there",
                    file.name, file.bytes
                )));
            }
            if at == before {
                // A server that has just broken off is given a moment.
                let until = Instant::now() + Duration::from_millis(200 << broken);
                while Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(50));
                    self.progress.check()?;
                }
            }
        }
        let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if large && found != file.etag {
            out.set_len(0).map_err(fail)?;
            return Err(Error::failed(format!(
                "what came for {} is not what {} holds under that name (SHA-256 {found}, not {}); try again",
                file.name, self.wanted.repository, file.etag
            )));
        }
        Ok(())
    }

    /// Reads a file's contents from byte `at` on until they end or the connection breaks off, and says how it did.
    fn stream(
        &self,
        file: &Remote,
        at: &mut u64,
        hash: &mut Sha256,
        out: &mut File,
        partial: &Path,
    ) -> Result<Option<String>> {
        let name = file.name.split('/').map(encoded).collect::<Vec<_>>().join("/");
        let url = format!("{}/{}/resolve/{}/{name}", self.hub.endpoint, self.wanted.repository, self.commit);
        let mut request = self.agent.get(&url).header("Accept-Encoding", "identity");
        if let Some(token) = &self.hub.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if *at > 0 {
            request = request.header("Range", format!("bytes={at}-"));
        }
        let (send, chunks) = sync_channel::<std::result::Result<Vec<u8>, String>>(8);
        let (tell, answer) = sync_channel(1);
        std::thread::spawn(move || {
            let response = match request.call() {
                Ok(response) => response,
                Err(e) => return drop(tell.send(Err(e.to_string()))),
            };
            let begins = response
                .headers()
                .get("content-range")
                .and_then(|v| v.to_str().ok()?.split(['-', ' ']).nth(1)?.parse::<u64>().ok());
            if tell.send(Ok((response.status().as_u16(), begins))).is_err() {
                return;
            }
            let mut body = response.into_body().into_reader();
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = body.read(&mut chunk);
                let end = !matches!(read, Ok(n) if n > 0);
                // Nobody listens any more where this fails.
                let sent = send.send(read.map_err(|e| e.to_string()).map(|n| {
                    chunk.truncate(n);
                    chunk
                }));
                if end || sent.is_err() {
                    return;
                }
            }
        });
        match self.wait(&answer)? {
            None => return Ok(Some("the request was dropped".to_owned())),
            Some(Err(e)) => return Ok(Some(e)),
            Some(Ok((206, Some(begins)))) if begins == *at => {}
            // The server gives the whole again.
            Some(Ok((200, _))) => {
                out.set_len(0).and_then(|()| out.seek(SeekFrom::Start(0))).map_err(|e| Error::write(partial, e))?;
                (*at, *hash) = (0, Sha256::new());
            }
            Some(Ok((status @ (200..=299 | 416 | 500..), _))) => return Ok(Some(format!("answer {status}"))),
            Some(Ok((status, _))) => return Err(self.refused(status, &file.name)),
        }
        let mut silent = Instant::now();
        loop {
            match chunks.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(chunk)) if chunk.is_empty() => return Ok(Some("it ended early".to_owned())),
                Ok(Ok(chunk)) => {
                    // More than there is would be another file.
                    let chunk = &chunk[..chunk.len().min((file.bytes - *at) as usize)];
                    out.write_all(chunk).map_err(|e| Error::write(partial, e))?;
                    hash.update(chunk);
                    *at += chunk.len() as u64;
                    self.progress.step(chunk.len() as u64)?;
                    if *at == file.bytes {
                        return Ok(None);
                    }
                    silent = Instant::now();
                }
                Ok(Err(e)) => return Ok(Some(e)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Some("it was dropped".to_owned())),
                Err(RecvTimeoutError::Timeout) => {
                    self.progress.check()?;
                    if silent.elapsed() > PATIENCE {
                        return Ok(Some("nothing came any more".to_owned()));
                    }
                }
            }
        }
    }
}

/// A part of a path for a URL.
fn encoded(part: &str) -> String {
    part.bytes()
        .map(|b| {
            let plain = b.is_ascii_alphanumeric() || b"-._~".contains(&b);
            if plain { char::from(b).to_string() } else { format!("%{b:02X}") }
        })
        .collect()
}

/// Links a snapshot's file to its blob, `up` folders above it. Where the system makes no links, the contents are copied.
fn link(blob: &Path, pointer: &Path, up: usize) -> Result<()> {
    #[cfg(unix)]
    {
        let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
        target.push("blobs");
        target.push(blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(target, pointer).map_err(|e| Error::write(pointer, e))
    }
    #[cfg(not(unix))]
    {
        let _ = up;
        std::fs::hard_link(blob, pointer)
            .or_else(|_| std::fs::copy(blob, pointer).map(drop))
            .map_err(|e| Error::write(pointer, e))
    }
}
