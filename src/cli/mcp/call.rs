//! One call of a tool: the subcommand in a process of its own, so that a fault, a memory limit or a library that aborts ends
//! that process and never the server.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::error::{Error, Result, one_line, short};

/// The longest answer, in bytes: more than any reader of this protocol takes in.
const LONGEST: u64 = 4 << 20;
/// How much is kept of what a command says beside its answer.
const SAID: u64 = 64 << 10;

/// A running subcommand. Dropped before its end, it is told to end: what it has half written goes, and work that keeps
/// checkpoints writes one.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A child that has been waited for has no number any more.
        #[cfg(unix)]
        if let Some(pid) = self.0.id().and_then(|id| libc::pid_t::try_from(id).ok()) {
            // SAFETY: kill takes two numbers. The child was not waited for, so that the number is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        #[cfg(not(unix))]
        drop(self.0.start_kill());
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

async fn run(words: &[String], terms: Terms) -> Result<Ended> {
    let failed = |e: std::io::Error| Error::failed(format!("a process of this program cannot be started: {e}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !terms.download {
        command.env("HF_HUB_OFFLINE", "1");
    }
    let mut running = Running(command.spawn().map_err(failed)?);
    let (Some(out), Some(said)) = (running.0.stdout.take(), running.0.stderr.take()) else {
        return Err(Error::failed("a process of this program has no output"));
    };
    let (out, said, status) = tokio::join!(first(out, LONGEST + 1), first(said, SAID), running.0.wait());
    Ok(Ended { status: status.map_err(failed)?, out: out.map_err(failed)?, said: said.map_err(failed)? })
}

/// Runs a subcommand: `words` are its command line, `name` is what messages call it.
pub async fn call(name: &str, words: &[String], prints_document: bool, terms: Terms) -> CallToolResult {
    let result = match tokio::time::timeout(terms.limit, run(words, terms)).await {
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
    let sentence = said.lines().rev().find_map(|l| l.strip_prefix("circuitscope: "));
    match (sentence, status.code()) {
        (Some(sentence), Some(1 | 2)) => one_line(sentence),
        (_, Some(code)) => {
            let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("nothing");
            format!("{name} ended with status {code} and said `{}`; please report this", short(last))
        }
        (_, None) => {
            format!("{name} was ended by the system ({status}); it may have asked for more memory than there is")
        }
    }
}
