//! `linewarden model`: the models of the lines that run.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::model_must_exist;
use super::running::{DaemonArgs, ask, path_of, say};

const EXAMPLES: &str = "\
Examples:
  linewarden model swap --line cap models/cap-7
  linewarden model rollback --line cap
  linewarden model status --config /etc/linewarden/linewarden.toml --json

A swap loads and tests the model beside the running one of every camera of the line. Only when all of them have it do they
change, each between two of its frames: no frame is lost. The daemon's next start takes the model of its configuration.";

/// Change the model of a running line without stopping it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Have all cameras of a line change to another model, or none
    #[command(after_help = EXAMPLES)]
    Swap {
        #[command(flatten)]
        daemon: DaemonArgs,
        /// The line
        #[arg(long)]
        line: String,
        /// The model package
        model: PathBuf,
    },
    /// Have all cameras of a line go back to the model before
    #[command(after_help = EXAMPLES)]
    Rollback {
        #[command(flatten)]
        daemon: DaemonArgs,
        /// The line
        #[arg(long)]
        line: String,
    },
    /// Say which model each line runs, and which it would go back to
    #[command(after_help = EXAMPLES)]
    Status {
        #[command(flatten)]
        daemon: DaemonArgs,
    },
}

/// One line's models, as the daemon tells them.
#[derive(Debug, Deserialize)]
struct LineStatus {
    line: String,
    model: Told,
    before: Option<Told>,
}

#[derive(Debug, Deserialize)]
struct Told {
    path: String,
    project: String,
    version: String,
    sha256: String,
}

pub(super) fn run(args: &ModelArgs) -> anyhow::Result<()> {
    match &args.command {
        ModelCommand::Swap { daemon, line, model } => {
            model_must_exist(model)?;
            // The daemon has a folder of its own.
            let model = std::path::absolute(model).context("cannot tell where the model lies")?;
            let document = ask(daemon, "POST", &path_of(line, "model")?, &json!({ "model": model }))?;
            say(daemon, &document, &changed)
        }
        ModelCommand::Rollback { daemon, line } => {
            let document = ask(daemon, "POST", &path_of(line, "model")?, &json!({ "rollback": true }))?;
            say(daemon, &document, &changed)
        }
        ModelCommand::Status { daemon } => {
            let document = ask(daemon, "GET", "/lines", &Value::Null)?;
            say(daemon, &document, &|document| {
                let lines = Vec::<LineStatus>::deserialize(document)?;
                Ok(lines.iter().map(|line| told(line, "runs")).collect())
            })
        }
    }
}

fn changed(document: &Value) -> anyhow::Result<String> {
    Ok(told(&LineStatus::deserialize(document)?, "runs now"))
}

fn told(status: &LineStatus, runs: &str) -> String {
    let of = |Told { path, project, version, sha256 }: &Told| {
        format!("{project} {version} ({}) from {path}", sha256.get(..12).unwrap_or(sha256))
    };
    let before = status.before.as_ref();
    let before = before.map_or_else(String::new, |before| format!("  before: {}\n", of(before)));
    format!("line {} {runs}: {}\n{before}", status.line, of(&status.model))
}
