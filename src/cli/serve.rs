//! `linewarden serve`.

use super::run::{DaemonArgs, run_daemon};
use crate::config::Doors;

const EXAMPLES: &str = "\
Examples:
  linewarden serve /etc/linewarden/linewarden.toml
  linewarden serve linewarden.toml --check

A configuration that lets the Edge Agent's clients score pictures with the packages in models/:
  [agent]
  models = \"models\"
  start = [\"cap\"]";

/// Every door that a configuration opens: the REST API with S3, the Edge Agent, and the lines when it names some.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    run_daemon(&args.daemon, Doors::All)
}
