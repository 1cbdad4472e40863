//! `mcp`: a server of the Model Context Protocol on standard input and output, with a tool for each subcommand.

mod call;
mod tools;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, Implementation, ListToolsResult, PaginatedRequestParams,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, serve_server};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::Progress;

use self::call::{Reporter, Terms, call, failure};
use self::tools::Tool;

/// What an assistant is told of the whole.
const INSTRUCTIONS: &str = "circuitscope opens language models and shows how they compute what they predict. Begin with \
    `models` (what can be opened; nothing named means the small built-in model), `run` (what a prompt leads to), `lens` (what \
    each layer would predict) and `dla`, `patch` or `trace` (which parts the prediction comes from). Tokens are taken as \
    given, with their leading space: \" Mary\". Positions, layers and heads count from 0. Every document names the axes of \
    its arrays, and its `warnings` say what speaks against its numbers. Paths are of this machine; nothing is written \
    where no path is named. `plan` says what a command will cost before it is run.";

/// Offers every subcommand but `bench` as a tool to an assistant that starts this program. The tools' names are the
/// subcommand's words joined by `_` (features_encode), their arguments the options, their results the documents of
/// --json. One command runs at a time, in a process of its own; a request that is cancelled or takes too long ends it, and
/// one with a progress token is told how far it is.
///
/// An assistant's settings name it so: {"mcpServers": {"circuitscope": {"command": "circuitscope", "args": ["mcp"]}}}
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Longest time for one command
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
    /// Let commands fetch the models that are named as hf:ORG/NAME; without this only those that are here already open
    #[arg(long)]
    download: bool,
}

struct Server {
    tools: Vec<Tool>,
    terms: Terms,
    /// A command has all of the machine.
    turn: Arc<Semaphore>,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("circuitscope", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> std::result::Result<ListToolsResult, ErrorData> {
        let tool = |t: &Tool| {
            rmcp::model::Tool::new(Cow::Owned(t.name.clone()), Cow::Owned(t.description()), Arc::new(t.schema()))
        };
        Ok(ListToolsResult::with_all_items(self.tools.iter().map(tool).collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> std::result::Result<CallToolResponse, ErrorData> {
        let Some(tool) = self.tools.iter().find(|t| t.name == request.name) else {
            let error = Error::request(format!("there is no tool `{}`; tools/list names them", request.name));
            return Err(ErrorData::invalid_params(error.to_string(), None));
        };
        let words = match tool.command_line(&request.arguments.unwrap_or_default()) {
            Ok(words) => words,
            Err(error) => return Ok(failure(&error).into()),
        };
        let reporter = Reporter::of(&context);
        let work = async {
            let Ok(turn) = self.turn.clone().acquire_owned().await else { return failure(&Error::Cancelled) };
            call(&tool.words(), &words, tool.prints_document(), self.terms, turn, reporter).await
        };
        let result = context.ct.run_until_cancelled(work).await;
        Ok(result.unwrap_or_else(|| failure(&Error::Cancelled)).into())
    }
}

/// Serves until the other side closes standard input, or a signal comes.
async fn serve(server: Server) -> Result<()> {
    let transport = (tokio::io::stdin(), tokio::io::stdout());
    // Whoever closes standard input before a word was said wanted nothing.
    let Ok(service) = serve_server(server, transport).await else { return Ok(()) };
    service.waiting().await.map(drop).map_err(|e| Error::failed(format!("the server ended: {e}; please report this")))
}

/// Waits for a signal to end the program.
async fn signal(progress: &Progress) {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while !progress.is_cancelled() {
        tick.tick().await;
    }
}

pub fn execute(args: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::failed(format!("the server cannot be started: {e}")))?;
    let server = Server {
        tools: tools::all(),
        terms: Terms { limit: Duration::from_secs(args.limit), download: args.download },
        turn: Arc::new(Semaphore::new(1)),
    };
    // At a signal the commands that run are told to end as well.
    let progress = Progress::new();
    let _careful = interrupt::careful(&progress);
    let result = runtime.block_on(async {
        tokio::select! {
            result = serve(server) => result,
            () = signal(&progress) => Err(Error::Cancelled),
        }
    });
    // A thread may still wait on standard input, which nothing can end.
    runtime.shutdown_background();
    result
}
