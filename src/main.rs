//! Arguments; then the window or a subcommand.

use std::process::ExitCode;

use circuitscope::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    circuitscope::memory::keep_freed();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors; of a real one its first sentence says what is wrong.
        Err(e) if e.use_stderr() => {
            let text = e.to_string();
            let first = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
            let sentence = first.split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("circuitscope: {sentence}; see --help");
            return ExitCode::from(2);
        }
        Err(e) => e.exit(),
    };
    let result = match cli.command {
        // An error is one sentence, so that warnings are said beside a result alone.
        Some(command) => command.execute().inspect(|()| circuitscope::cli::say_warnings()),
        None => window(cli.window),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("circuitscope: {error}");
            ExitCode::from(if error.is_request() { 2 } else { 1 })
        }
    }
}

#[cfg(feature = "gui")]
fn window(args: circuitscope::session::start::Start) -> circuitscope::Result<()> {
    circuitscope::app::run(args)
}

#[cfg(not(feature = "gui"))]
fn window(_: circuitscope::session::start::Start) -> circuitscope::Result<()> {
    Err(circuitscope::Error::request(
        "this build has no window (feature `gui` is off); use a subcommand, `circuitscope --help` lists them",
    ))
}
