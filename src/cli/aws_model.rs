//! `linewarden aws-model`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use linewarden_contract as contract;

use super::CallError;

const EXAMPLES: &str = "\
Examples:
  linewarden aws-model install
      boto3 and the aws command line have the service `lookoutvision` again
  linewarden aws-model install --folder /opt/models
      for clients with AWS_DATA_PATH=/opt/models
  linewarden aws-model remove";

/// The service's model for a current boto3 and aws command line, which no longer have it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AwsModelArgs {
    #[command(subcommand)]
    call: Call,
    /// Where clients look for models; the first folder of `AWS_DATA_PATH`, or `~/.aws/models`, unless given
    #[arg(long, value_name = "DIR", global = true)]
    folder: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Call {
    /// Lay the model there
    Install {
        /// Also in place of a model that is not ours
        #[arg(long)]
        replace: bool,
    },
    /// Take it away again
    Remove,
}

pub(super) fn run(args: &AwsModelArgs) -> anyhow::Result<()> {
    let folder = args.folder.clone().or_else(contract::default_folder);
    let folder = folder.ok_or_else(|| CallError("there is no home folder: give `--folder DIR`".to_owned()))?;
    let (verb, files) = match args.call {
        Call::Install { replace } => ("installed", contract::install(&folder, replace)?),
        Call::Remove => ("removed", contract::remove(&folder)?),
    };
    let text: String = files.iter().map(|file| format!("{verb} {}\n", file.display())).collect();
    let text = if text.is_empty() { format!("nothing was {verb} in {}\n", folder.display()) } else { text };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
