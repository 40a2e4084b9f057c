//! `linewarden run`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::Doors;
use crate::{config, daemon};

const EXAMPLES: &str = "\
Examples:
  linewarden run /etc/linewarden/linewarden.toml
  linewarden run linewarden.toml --check
  linewarden run linewarden.toml --pipelines my-shapes/ --log-format json";

/// Lines of cameras, as a configuration names them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What `run` and `serve` are told.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArgs {
    /// The configuration
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Only check the configuration with everything that it names, and say what would run
    #[arg(long)]
    check: bool,
    /// Folder of capture shapes that go before `pipelines/` beside the configuration and the built-in ones
    #[arg(long, value_name = "DIR")]
    pipelines: Option<PathBuf>,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    run_daemon(&args.daemon, Doors::Lines)
}

/// Runs, or checks, what these doors of the configuration are.
pub(super) fn run_daemon(args: &DaemonArgs, doors: Doors) -> anyhow::Result<()> {
    let config = config::load(&args.config, args.pipelines.as_deref(), doors)?;
    if args.check {
        return io::stdout().write_all(config.summary().as_bytes()).context("cannot write to standard output");
    }
    daemon::run(&config, &args.config)
}
