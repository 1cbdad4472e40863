//! Arguments; then the window or a subcommand.

use std::error::Error as _;
use std::process::ExitCode;

use circuitscope::cli::Cli;
use circuitscope::error::one_line;
use circuitscope::interrupt;

fn main() -> ExitCode {
    circuitscope::memory::keep_freed();
    circuitscope::engine::kernels::let_workers_sleep();
    interrupt::watch();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        // What is wrong with the place of a result is no fault of the words.
        Err(ref e) if let Some(own) = e.source().and_then(|s| s.downcast_ref::<circuitscope::Error>()) => {
            circuitscope::cli::note(&format!("circuitscope: {own}"));
            return ExitCode::from(1);
        }
        // Help and version are no errors; of a real one its first sentence says what is wrong.
        Err(e) if e.use_stderr() => {
            let text = e.to_string();
            let first = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
            let sentence = first.split_whitespace().collect::<Vec<_>>().join(" ");
            circuitscope::cli::note(&format!("circuitscope: {}; see --help", one_line(&sentence)));
            return ExitCode::from(2);
        }
        Err(e) => {
            let printed = circuitscope::cli::print(&e.to_string());
            return printed.map_or(ExitCode::from(1), |()| ExitCode::SUCCESS);
        }
    };
    let result = match cli.command {
        // An error is one sentence, so that warnings are said beside a result alone.
        Some(command) => command.execute().inspect(|()| circuitscope::cli::say_warnings()),
        None => window(cli.window),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            circuitscope::cli::note(&format!("circuitscope: {error}"));
            ExitCode::from(match error {
                _ if interrupt::has_come() => interrupt::STATUS,
                _ if error.is_request() => 2,
                _ => 1,
            })
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
