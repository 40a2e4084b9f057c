//! `linewarden evidence`: what was kept of decided parts, proved untouched.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use linewarden_evidence::{Head, Key, Report, VerifyError, verify};
use serde_json::json;

use super::CallError;

const EXAMPLES: &str = "\
Examples:
  linewarden evidence verify /var/lib/linewarden/evidence
  linewarden evidence verify evidence/ --key-file /etc/linewarden/evidence.key
  linewarden evidence verify evidence/ --head 1841:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      the head is what an earlier `verify` printed, kept where nobody who can write the folder can change it";

/// What is asked of evidence.
#[derive(Debug, clap::Args)]
pub(super) struct EvidenceArgs {
    #[command(subcommand)]
    command: EvidenceCommand,
}

#[derive(Debug, Subcommand)]
enum EvidenceCommand {
    /// Read every record and every picture again and say whether anything was changed, removed or put in
    #[command(after_help = EXAMPLES)]
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The folder, as `[evidence] folder` names it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// File with the secret that the log was written with
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A record that the log must hold: shows that it was neither cut off nor written anew
    #[arg(long, value_name = "NUMBER:HASH")]
    head: Option<Head>,
    /// One JSON document on standard output
    #[arg(long)]
    json: bool,
}

/// Evidence that somebody touched.
#[derive(Debug, thiserror::Error)]
#[error("the evidence is not as it was written: {0} faults")]
struct Touched(u64);

pub(super) fn run(args: &EvidenceArgs) -> anyhow::Result<()> {
    let EvidenceCommand::Verify(args) = &args.command;
    let key = args.key_file.as_deref().map(Key::read).transpose();
    let key = key.map_err(|error| CallError(format!("`--key-file`: {error}")))?;
    let report = match verify(&args.folder, key.as_ref(), args.head.as_ref()) {
        Ok(report) => report,
        Err(error @ VerifyError::NoLog(_)) => return Err(CallError(error.to_string()).into()),
        Err(error) => return Err(error.into()),
    };
    let text = if args.json { as_json(&report)? } else { as_text(&report) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    if report.is_untouched() { Ok(()) } else { Err(Touched(report.fault_count).into()) }
}

fn as_json(report: &Report) -> anyhow::Result<String> {
    let mut document = serde_json::to_value(report).context("cannot write the report")?;
    if let Some(document) = document.as_object_mut() {
        document.insert("untouched".to_owned(), json!(report.is_untouched()));
    }
    Ok(format!("{document:#}\n"))
}

fn as_text(report: &Report) -> String {
    let mut lines: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    let unlisted = report.fault_count - lines.len() as u64;
    if unlisted > 0 {
        lines.push(format!("and {unlisted} more"));
    }
    let Report { records, parts, files, removed, head, .. } = report;
    lines.push(format!(
        "{records} records, {files} files of {parts} parts as they were written, {removed} parts removed as configured"
    ));
    if let (Some(from), Some(to)) = (report.from, report.to) {
        lines.push(format!("from {from:.0} to {to:.0}"));
    }
    lines.push(format!("head {head}"));
    lines.join("\n") + "\n"
}
