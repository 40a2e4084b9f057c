//! Asking the running daemon, for the subcommands that do.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use super::{CallError, must_exist};
use crate::control::RunFile;

/// Which daemon, and how its answer is told.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArgs {
    /// The configuration that the daemon runs
    #[arg(long, value_name = "CONFIG.toml", default_value = "linewarden.toml")]
    config: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A name that no configuration allows would be another path.
pub(super) fn path_of(line: &str, what: &str) -> Result<String, CallError> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match !line.is_empty() && line.bytes().all(is_letter) {
        true => Ok(format!("/lines/{line}/{what}")),
        false => Err(CallError(format!("`--line` must be the name of a line, got `{line}`"))),
    }
}

/// Sends a request to the daemon; `body` may be null.
pub(super) fn ask(daemon: &DaemonArgs, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    must_exist("configuration", config_or_here(&daemon.config))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = RunFile::read(&daemon.config)?.ask(method, path, &body)?;
    let document: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
    if answer.status == 200 {
        return Ok(document);
    }
    let error =
        document["error"].as_str().map_or_else(|| format!("the daemon answered {}", answer.status), str::to_owned);
    // What does not exist was asked for wrongly; what exists and does not work has failed.
    if matches!(answer.status, 400 | 404) { Err(CallError(error).into()) } else { Err(anyhow::anyhow!(error)) }
}

fn config_or_here(config: &Path) -> &Path {
    if config.as_os_str().is_empty() { Path::new("linewarden.toml") } else { config }
}

/// Prints the daemon's answer: `text` of it, or the document itself.
pub(super) fn say(
    daemon: &DaemonArgs,
    document: &Value,
    text: &dyn Fn(&Value) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let text = match daemon.json {
        true => serde_json::to_string_pretty(document)? + "\n",
        false => text(document).context("the daemon's answer cannot be understood")?,
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
