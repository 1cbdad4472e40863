//! One call of a tool: the subcommand in a process of its own, so that a fault, a memory limit or a library that aborts ends
//! that process and never the server.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rmcp::model::{CallToolResult, ContentBlock, ProgressNotificationParam, ProgressToken};
use rmcp::service::RequestContext;
use rmcp::{Peer, RoleServer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::OwnedSemaphorePermit;

use crate::cli::output::{PROGRESS, PROGRESS_LINES};
use crate::error::{Error, Result, one_line, short};

/// The longest answer, in bytes: more than any reader of this protocol takes in.
const LONGEST: u64 = 4 << 20;
/// How much is kept of what a command says beside its answer.
const SAID: usize = 64 << 10;

/// How long a subcommand that was told to end may take to write what it has.
const GRACE: Duration = Duration::from_secs(60);

/// A running subcommand, and its turn. Dropped before its end, it is told to end: what it has half written goes, and work
/// that keeps checkpoints writes one. The next one begins when it is gone.
struct Running {
    child: Option<Child>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let turn = self.turn.take();
        // A child that has been waited for has no number any more.
        let Some(id) = child.id() else { return };
        #[cfg(unix)]
        if let Ok(pid) = libc::pid_t::try_from(id) {
            // SAFETY: kill takes two numbers. The child was not waited for, so that the number is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        #[cfg(not(unix))]
        {
            let _ = id;
            drop(child.start_kill());
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                drop(child.kill().await);
            }
            drop(turn);
        });
    }
}

/// What a subcommand left.
struct Ended {
    status: ExitStatus,
    out: Vec<u8>,
    said: Vec<u8>,
}

/// How a subcommand is run.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The longest that it may take.
    pub limit: Duration,
    /// Whether it may fetch models from the hub.
    pub download: bool,
}

/// Reads so many bytes, and the rest for nothing, so that a writer never waits.
async fn first(mut source: impl AsyncRead + Unpin, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut source).take(limit).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut source, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

/// Hands on how far a subcommand is, to whoever asked to be told.
pub struct Reporter {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    /// A subcommand that does one thing after another starts from nothing each time; the protocol's numbers only rise.
    before: f64,
    done: f64,
    label: String,
}

impl Reporter {
    /// Nobody is told where the request names no token.
    pub fn of(context: &RequestContext<RoleServer>) -> Option<Self> {
        let token = context.meta.get_progress_token()?;
        Some(Self { peer: context.peer.clone(), token, before: 0.0, done: 0.0, label: String::new() })
    }

    /// Takes the last whole line about progress out of what was said.
    async fn look(&mut self, said: &[u8]) {
        let text = String::from_utf8_lossy(said);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let Some(line) = whole.lines().rev().find_map(|l| l.strip_prefix(PROGRESS)) else { return };
        let Some((done, label)) = line.split_once(' ') else { return };
        let Ok(done) = done.parse::<f64>() else { return };
        if label == self.label && done <= self.done {
            return;
        }
        if label != self.label {
            self.before += self.done.ceil();
            label.clone_into(&mut self.label);
        }
        self.done = done;
        let message = format!("{label}: {:.0} %", 100.0 * done);
        let report = ProgressNotificationParam::new(self.token.clone(), self.before + done).with_message(message);
        // Whoever has gone away needs no report.
        drop(self.peer.notify_progress(report).await);
    }
}

/// Reads all, and keeps so many bytes of the end, where a program says why it ends.
async fn last(
    mut source: impl AsyncRead + Unpin,
    limit: usize,
    mut reporter: Option<Reporter>,
) -> std::io::Result<Vec<u8>> {
    let (mut bytes, mut some) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        let n = source.read(&mut some).await?;
        if n == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&some[..n]);
        if let Some(reporter) = &mut reporter {
            reporter.look(&bytes).await;
        }
        if bytes.len() > 2 * limit {
            bytes.drain(..bytes.len() - limit);
        }
    }
}

async fn run(words: &[String], terms: Terms, turn: OwnedSemaphorePermit, reporter: Option<Reporter>) -> Result<Ended> {
    let failed = |e: std::io::Error| Error::failed(format!("a process of this program cannot be started: {e}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if reporter.is_some() {
        command.env(PROGRESS_LINES, "1");
    }
    if !terms.download {
        command.env("HF_HUB_OFFLINE", "1");
    }
    let mut child = command.spawn().map_err(failed)?;
    let (out, said) = (child.stdout.take(), child.stderr.take());
    let mut running = Running { child: Some(child), turn: Some(turn) };
    let (Some(out), Some(said), Some(child)) = (out, said, running.child.as_mut()) else {
        return Err(Error::failed("a process of this program has no output"));
    };
    let (out, said, status) = tokio::join!(first(out, LONGEST + 1), last(said, SAID, reporter), child.wait());
    Ok(Ended { status: status.map_err(failed)?, out: out.map_err(failed)?, said: said.map_err(failed)? })
}

/// Runs a subcommand: `words` are its command line, `name` is what messages call it, `turn` ends when it does,
/// `reporter` is told how far it is.
pub async fn call(
    name: &str,
    words: &[String],
    prints_document: bool,
    terms: Terms,
    turn: OwnedSemaphorePermit,
    reporter: Option<Reporter>,
) -> CallToolResult {
    let result = match tokio::time::timeout(terms.limit, run(words, terms, turn, reporter)).await {
        Err(_) => Err(Error::failed(format!(
            "{name} was stopped after {} s; ask for less, or start the server with a longer --limit",
            terms.limit.as_secs()
        ))),
        Ok(ended) => ended.and_then(|ended| answer(name, &ended, prints_document)),
    };
    result.unwrap_or_else(|e| failure(&e))
}

/// A tool's error: one sentence.
pub fn failure(error: &Error) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(error.to_string())])
}

fn answer(name: &str, ended: &Ended, prints_document: bool) -> Result<CallToolResult> {
    let said = String::from_utf8_lossy(&ended.said);
    if !ended.status.success() {
        return Err(Error::failed(why(name, ended.status, &said)));
    }
    if ended.out.len() as u64 > LONGEST {
        let most = LONGEST >> 20;
        return Err(Error::failed(format!(
            "the answer of {name} is longer than {most} MB; ask for less of it, or name a file to write"
        )));
    }
    let text = String::from_utf8_lossy(&ended.out);
    if prints_document {
        let document: Value = serde_json::from_str(&text)
            .map_err(|e| Error::failed(format!("{name} printed no JSON document: {e}; please report this")))?;
        return Ok(CallToolResult::structured(document));
    }
    let warnings = said.lines().filter_map(|l| l.strip_prefix("circuitscope: warning: ")).map(ContentBlock::text);
    Ok(CallToolResult::success(std::iter::once(ContentBlock::text(text.trim_end())).chain(warnings).collect()))
}

/// The sentence that a subcommand that failed has said, or what became of it.
fn why(name: &str, status: ExitStatus, said: &str) -> String {
    let lines = || said.lines().rev().filter(|l| !l.starts_with(PROGRESS));
    let sentence = lines().find_map(|l| l.strip_prefix("circuitscope: "));
    match (sentence, status.code()) {
        (Some(sentence), Some(1 | 2)) => one_line(sentence),
        (_, Some(code)) => {
            let last = lines().find(|l| !l.trim().is_empty()).unwrap_or("nothing");
            format!("{name} ended with status {code} and said `{}`; please report this", short(last))
        }
        (_, None) => {
            format!("{name} was ended by the system ({status}); it may have asked for more memory than there is")
        }
    }
}
