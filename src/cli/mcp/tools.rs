//! The subcommands as tools of the Model Context Protocol: names, descriptions and JSON schemas, all read off clap's
//! definitions, and the words of a command line that the arguments of a call stand for.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, CommandFactory};
use serde_json::{Map, Value, json};

use crate::cli::Cli;
use crate::error::{Error, Result, short};

/// Subcommands that are no tools: one would serve itself, the other takes the machine for minutes to say how fast it is.
pub const EXCEPTIONS: [&str; 2] = ["mcp", "bench"];

/// Options that a tool must be given though the command line has a place for what they name: nothing is written where
/// nobody said.
const NAMED: [(&str, &str); 1] = [("lab_train", "output")];

/// A subcommand that does something by itself.
pub struct Tool {
    /// The words that call it, joined by underscores: `features_encode`.
    pub name: String,
    path: Vec<String>,
    command: Command,
}

/// Returns a tool for each subcommand, in the order of `--help`.
pub fn all() -> Vec<Tool> {
    let mut cli = Cli::command();
    cli.build();
    let mut found = Vec::new();
    for command in cli.get_subcommands().filter(|c| !EXCEPTIONS.contains(&c.get_name())) {
        collect(command, &mut Vec::new(), &mut found);
    }
    found
}

fn collect(command: &Command, above: &mut Vec<String>, found: &mut Vec<Tool>) {
    if command.get_name() == "help" || command.is_hide_set() {
        return;
    }
    above.push(command.get_name().to_owned());
    if command.has_subcommands() {
        command.get_subcommands().for_each(|c| collect(c, above, found));
    } else {
        found.push(Tool { name: above.join("_"), path: above.clone(), command: command.clone() });
    }
    above.pop();
}

/// What one value of an option is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flag,
    Integer,
    Number,
    Text,
}

fn is_any_of(parser: &ValueParser, types: &[std::any::TypeId]) -> bool {
    types.iter().any(|t| parser.type_id() == *t)
}

macro_rules! types {
    ($($t:ty),*) => { [$(std::any::TypeId::of::<$t>()),*] };
}

fn kind(arg: &Arg) -> Kind {
    let parser = arg.get_value_parser();
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => Kind::Flag,
        // A word that stands for a number, as in `2x`, is no number to clap either.
        _ if is_any_of(parser, &types![u8, u16, u32, u64, usize, i32, i64, isize]) => Kind::Integer,
        _ if is_any_of(parser, &types![f32, f64]) => Kind::Number,
        _ => Kind::Text,
    }
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
        || arg.get_value_delimiter().is_some()
        || arg.get_num_args().is_some_and(|n| n.max_values() > 1)
}

/// The name of an option as the command line has it, without dashes before it.
fn name(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().as_str().replace('_', "-"), str::to_owned)
}

impl Tool {
    /// The options and places that a call can fill: `--json` and `--help` are not for the caller.
    fn args(&self) -> impl Iterator<Item = &Arg> {
        self.command.get_arguments().filter(|a| {
            let talks = matches!(
                a.get_action(),
                ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
            );
            !a.is_hide_set() && !talks && a.get_id() != "json"
        })
    }

    /// Whether the subcommand prints a JSON document.
    pub fn prints_document(&self) -> bool {
        self.command.get_arguments().any(|a| a.get_id() == "json")
    }

    /// The words that call the subcommand.
    pub fn words(&self) -> String {
        self.path.join(" ")
    }

    pub fn description(&self) -> String {
        let about = self.command.get_long_about().or(self.command.get_about()).map(ToString::to_string);
        format!("{} (circuitscope {})", about.unwrap_or_default(), self.words())
    }

    /// The JSON schema of the arguments: an object with a property for each option, by its name on the command line.
    pub fn schema(&self) -> Map<String, Value> {
        let properties: Map<String, Value> = self.args().map(|a| (name(a), property(a))).collect();
        let is_named = |a: &Arg| NAMED.contains(&(self.name.as_str(), name(a).as_str()));
        let required: Vec<String> = self.args().filter(|a| a.is_required_set() || is_named(a)).map(name).collect();
        let schema = json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
        });
        match schema {
            Value::Object(schema) => schema,
            _ => Map::new(),
        }
    }

    /// Returns the words of the command line that these arguments stand for, `--json` among them.
    ///
    /// # Errors
    /// An argument that the command does not have, or of another type; what is left is clap's to say.
    pub fn command_line(&self, arguments: &Map<String, Value>) -> Result<Vec<String>> {
        // Null stands for what is not given.
        let given = |name: &str| arguments.get(name).filter(|v| !v.is_null());
        let names: Vec<String> = self.args().map(name).collect();
        if let Some(unknown) = arguments.keys().find(|k| !names.contains(k)) {
            let known = names.join(", ");
            return Err(Error::request(format!("{} has no argument `{}`; it has {known}", self.name, short(unknown))));
        }
        let missing = NAMED.iter().find(|(tool, option)| *tool == self.name && given(option).is_none());
        if let Some((_, option)) = missing {
            return Err(Error::request(format!("{} writes to a place that you name; give `{option}`", self.name)));
        }
        let (mut options, mut places) = (self.path.clone(), Vec::new());
        if self.prints_document() {
            options.push("--json".to_owned());
        }
        for arg in self.args() {
            let Some(value) = given(&name(arg)) else { continue };
            let values = self.values(arg, value)?;
            match arg.get_long() {
                _ if kind(arg) == Kind::Flag => {
                    options.extend(values.iter().filter(|v| *v == "true").map(|_| format!("--{}", name(arg))));
                }
                Some(long) => match arg.get_value_delimiter() {
                    Some(delimiter) => {
                        options.push(format!("--{long}={}", values.join(&delimiter.to_string())));
                    }
                    None => options.extend(values.iter().map(|v| format!("--{long}={v}"))),
                },
                None => places.extend(values),
            }
        }
        if !places.is_empty() {
            options.push("--".to_owned());
            options.extend(places);
        }
        Ok(options)
    }

    /// The values of one argument as words.
    fn values(&self, arg: &Arg, value: &Value) -> Result<Vec<String>> {
        let (name, kind) = (name(arg), kind(arg));
        let wrong = |wanted: &str| {
            Error::request(format!("`{name}` of {} is {}; give {wanted}", self.name, short(&value.to_string())))
        };
        let wanted = match kind {
            Kind::Flag => "true or false",
            Kind::Integer => "a whole number",
            Kind::Number => "a number",
            Kind::Text => "a text",
        };
        let word = |v: &Value| match v {
            Value::Bool(b) if kind == Kind::Flag => Ok(b.to_string()),
            Value::Number(n) if kind != Kind::Flag => Ok(n.to_string()),
            // Some callers write all values as texts; clap says which of them are no numbers.
            Value::String(s) if kind != Kind::Flag => Ok(s.clone()),
            _ => Err(wrong(wanted)),
        };
        let Value::Array(list) = value else { return Ok(vec![word(value)?]) };
        if !is_list(arg) {
            return Err(wrong(&format!("{wanted}, not a list")));
        }
        let words = list.iter().map(word).collect::<Result<Vec<_>>>()?;
        match arg.get_value_delimiter() {
            Some(mark) if words.iter().any(|w| w.contains(mark)) => {
                Err(wrong(&format!("values without a `{mark}`, which stands between them")))
            }
            _ => Ok(words),
        }
    }
}

/// The schema of one option.
fn property(arg: &Arg) -> Value {
    let kind = kind(arg);
    let choices: Vec<String> =
        arg.get_possible_values().iter().filter(|v| !v.is_hide_set()).map(|v| v.get_name().to_owned()).collect();
    let mut one = json!({"type": match kind {
        Kind::Flag => "boolean",
        Kind::Integer => "integer",
        Kind::Number => "number",
        Kind::Text => "string",
    }});
    if kind != Kind::Flag && !choices.is_empty() {
        one["enum"] = json!(choices);
    }
    let mut schema = if is_list(arg) && kind != Kind::Flag { json!({"type": "array", "items": one}) } else { one };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let form = arg.get_value_names().filter(|_| kind != Kind::Flag && choices.is_empty()).unwrap_or_default().join(" ");
    schema["description"] = json!(if help.is_empty() || form.is_empty() { help } else { format!("{help} ({form})") });
    let defaults: Vec<Value> =
        arg.get_default_values().iter().map(|v| typed(kind, v.to_string_lossy().as_ref())).collect();
    if kind != Kind::Flag && !arg.get_default_values().is_empty() {
        schema["default"] = if is_list(arg) { json!(defaults) } else { defaults[0].clone() };
    }
    schema
}

/// A default as JSON.
fn typed(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Integer => text.parse::<i64>().map_or_else(|_| json!(text), |v| json!(v)),
        Kind::Number => text.parse::<f64>().map_or_else(|_| json!(text), |v| json!(v)),
        _ => json!(text),
    }
}
