//! `linewarden challenge`: parts whose verdict is known, run over a line to see that it still tells them apart.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use super::running::{DaemonArgs, ask, path_of, say};

const EXAMPLES: &str = "\
Examples:
  linewarden challenge start --line cap --name 'shift 1' --expect pass,reject,reject --wait
  linewarden challenge status --line cap --config /etc/linewarden/linewarden.toml --json

The next parts of the line belong to the challenge, in the order of `--expect`. Each must get its verdict, and all must come
in time; a part that becomes unknown fails. The gate works as always. With --wait it ends when the challenge does: 0 passed, 1 failed.";

/// How often the daemon is asked whether the challenge has ended.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Run parts whose verdict is known, and see whether the line tells them apart
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ChallengeArgs {
    #[command(subcommand)]
    command: ChallengeCommand,
}

#[derive(Debug, Subcommand)]
enum ChallengeCommand {
    /// Announce that the next parts of a line are known ones
    #[command(after_help = EXAMPLES)]
    Start {
        #[command(flatten)]
        daemon: DaemonArgs,
        /// The line
        #[arg(long)]
        line: String,
        /// What it is called in messages and in the evidence
        #[arg(long, default_value = "challenge")]
        name: String,
        /// The verdicts that the parts must get, in their order: pass or reject, with commas between them
        #[arg(long, value_name = "VERDICT,...", value_delimiter = ',', required = true)]
        expect: Vec<String>,
        /// By when all of them must have come
        #[arg(long, value_name = "DURATION", default_value = "10min")]
        within: String,
        /// Wait for the outcome
        #[arg(long)]
        wait: bool,
    },
    /// Say which challenge runs on a line, how the last one ended, and when the next one is due
    #[command(after_help = EXAMPLES)]
    Status {
        #[command(flatten)]
        daemon: DaemonArgs,
        /// The line
        #[arg(long)]
        line: String,
    },
}

/// The line does not tell the parts apart.
#[derive(Debug, thiserror::Error)]
#[error("the challenge failed")]
struct Failed;

pub(super) fn run(args: &ChallengeArgs) -> anyhow::Result<()> {
    match &args.command {
        ChallengeCommand::Start { daemon, line, name, expect, within, wait } => {
            let path = path_of(line, "challenge")?;
            let request = json!({ "name": name, "expect": expect, "within": within });
            let announced = ask(daemon, "POST", &path, &request)?;
            if !wait {
                return say(daemon, &announced, &|announced| Ok(told_announced(line, announced)));
            }
            let ended = wait_for_end(daemon, &path, &announced)?;
            say(daemon, &ended, &|ended| Ok(told_ended(line, ended)))?;
            if ended["result"] == "passed" { Ok(()) } else { Err(Failed.into()) }
        }
        ChallengeCommand::Status { daemon, line } => {
            let status = ask(daemon, "GET", &path_of(line, "challenge")?, &Value::Null)?;
            say(daemon, &status, &|status| Ok(told_status(line, status)))
        }
    }
}

/// The daemon ends every challenge by itself.
fn wait_for_end(daemon: &DaemonArgs, path: &str, announced: &Value) -> anyhow::Result<Value> {
    loop {
        let status = ask(daemon, "GET", path, &Value::Null)?;
        let is_it = |challenge: &Value| challenge["announced_at"] == announced["announced_at"];
        if is_it(&status["last"]) {
            return Ok(status["last"].clone());
        }
        if !is_it(&status["running"]) {
            return Err(anyhow::anyhow!("another challenge took its place"))
                .context("the outcome is in the evidence only");
        }
        thread::sleep(ASK_EVERY);
    }
}

fn text<'a>(challenge: &'a Value, key: &str) -> &'a str {
    challenge[key].as_str().unwrap_or_default()
}

fn told_announced(line: &str, announced: &Value) -> String {
    let parts = announced["expected"].as_array().map_or(0, Vec::len);
    let (name, until) = (text(announced, "name"), text(announced, "until"));
    format!("line {line}: the next {parts} parts are challenge `{name}`, until {until}\n")
}

fn told_ended(line: &str, ended: &Value) -> String {
    let (name, result, at) = (text(ended, "name"), text(ended, "result"), text(ended, "ended_at"));
    let parts = ended["parts"].as_array().map_or(0, Vec::len);
    let [missed, false_rejects, not_run] = ["missed", "false_rejects", "not_run"].map(|key| ended[key].as_u64());
    let wrong =
        [(missed, "known bad not rejected"), (false_rejects, "known good not passed"), (not_run, "not run in time")];
    let wrong: String = wrong
        .iter()
        .filter_map(|(count, what)| count.filter(|&count| count > 0).map(|count| format!(", {count} {what}")))
        .collect();
    format!("line {line}: challenge `{name}` {result} at {at}: {parts} parts{wrong}\n")
}

fn told_status(line: &str, status: &Value) -> String {
    let mut told = String::new();
    if status["running"].is_object() {
        told += &told_announced(line, &status["running"]);
    }
    told += &match status["last"].is_object() {
        true => told_ended(line, &status["last"]),
        false => format!("line {line}: no challenge has ended since the daemon started\n"),
    };
    if status["overdue"] == true {
        told += &format!("line {line}: a challenge is overdue\n");
    } else if let Some(due_at) = status["due_at"].as_str() {
        told += &format!("line {line}: the next challenge must pass by {due_at}\n");
    }
    told
}
