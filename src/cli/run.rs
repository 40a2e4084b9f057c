//! `linewarden run`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;

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
    let config = config::load(&args.config, args.pipelines.as_deref())?;
    if args.check {
        return io::stdout().write_all(config.summary().as_bytes()).context("cannot write to standard output");
    }
    daemon::run(&config)
}
