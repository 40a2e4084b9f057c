//! The command line: what was called, with which exit code it ends, and where its log goes.

mod apply;
mod aws_model;
mod challenge;
mod dataset;
mod demo;
mod deploy;
mod detect;
mod evaluate;
mod evidence;
mod framing;
mod keys;
mod model;
mod optimize;
mod progress;
mod run;
mod running;
mod serve;
mod threshold;
mod train;

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use linewarden_train::dataset::{Dataset, Mapping, Places};
use tracing_subscriber::EnvFilter;

use crate::config::ConfigError;

pub(crate) use progress::Shown;

/// Real-time visual inspection for camera lines.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model from pictures of good parts
    Train(train::TrainArgs),
    /// Measure a model on labelled pictures
    Evaluate(evaluate::EvaluateArgs),
    /// Show or change the threshold of a model
    Threshold(threshold::ThresholdCommand),
    /// Make a model faster on this machine, if its scores allow it
    Optimize(optimize::OptimizeArgs),
    /// Score pictures
    Detect(detect::DetectArgs),
    /// Check or convert labelled pictures
    Dataset(dataset::DatasetArgs),
    /// Everything at once on synthetic parts
    Demo(demo::DemoArgs),
    /// Prove that what was kept of decided parts is untouched
    Evidence(evidence::EvidenceArgs),
    /// Run parts whose verdict is known, and see whether a line tells them apart
    Challenge(challenge::ChallengeArgs),
    /// Change the model of a running line without stopping it
    Model(model::ModelArgs),
    /// Run the lines of this machine
    Run(run::RunArgs),
    /// Run the lines and the doors of the old service
    Serve(serve::ServeArgs),
    /// Install a model component on this machine, or on another over ssh
    Deploy(deploy::DeployArgs),
    /// Make projects, data sets and models of the REST API as a file declares them
    Apply(apply::ApplyArgs),
    /// Make, list and take away access keys of the REST API and the S3 endpoint
    Keys(keys::KeysArgs),
    /// Give a current boto3 and aws command line the service that they no longer have
    AwsModel(aws_model::AwsModelArgs),
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Train(args) => train::run(&args),
            Self::Evaluate(args) => evaluate::run(&args),
            Self::Threshold(args) => threshold::run(&args),
            Self::Optimize(args) => optimize::run(&args),
            Self::Detect(args) => detect::run(&args),
            Self::Dataset(args) => dataset::run(&args),
            Self::Demo(args) => demo::run(&args),
            Self::Evidence(args) => evidence::run(&args),
            Self::Challenge(args) => challenge::run(&args),
            Self::Model(args) => model::run(&args),
            Self::Run(args) => run::run(&args),
            Self::Serve(args) => serve::run(&args),
            Self::Deploy(args) => deploy::run(&args),
            Self::Apply(args) => apply::run(&args),
            Self::Keys(args) => keys::run(&args),
            Self::AwsModel(args) => aws_model::run(&args),
        }
    }
}

#[derive(Debug, clap::Args)]
struct LogArgs {
    /// Form of the log on standard error
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or directives as in RUST_LOG, which this overrides
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// The call itself is wrong: exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CallError(pub String);

/// Reads the call, does it, and says how it ended: 0 done, 1 failed, 2 the call or the configuration is wrong.
pub fn main() -> ExitCode {
    // Clap ends the process itself for `--help`, `--version` and a call that it cannot read (exit code 2).
    let cli = Cli::parse();
    let outcome = start_log(&cli.log).and_then(|()| cli.command.run());
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    // With standard error closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {}", Told(&error));
    let is_call = error.is::<CallError>() || error.is::<ConfigError>();
    ExitCode::from(if is_call { 2 } else { 1 })
}

/// Where the pictures of manifests lie.
#[derive(Debug, Default, clap::Args)]
struct PlacesArgs {
    /// Folder in which pictures of a manifest lie, when not beside it; `s3://bucket/prefix=DIR` for those below a prefix
    #[arg(long, value_name = "[PREFIX=]DIR")]
    images: Vec<Mapping>,
}

impl PlacesArgs {
    /// A folder that does not exist is a wrong call.
    fn places(&self) -> Result<Places, CallError> {
        for mapping in &self.images {
            must_exist("folder for `--images`", &mapping.folder)?;
        }
        Ok(Places { mappings: self.images.clone() })
    }
}

/// Loads a data set and says what is odd about it. A path that does not exist is a wrong call.
fn load_dataset(path: &Path) -> anyhow::Result<Dataset> {
    load_dataset_from(path, &PlacesArgs::default())
}

/// The same when the pictures of a manifest may lie elsewhere.
fn load_dataset_from(path: &Path, places: &PlacesArgs) -> anyhow::Result<Dataset> {
    must_exist("dataset", path)?;
    let dataset = Dataset::load_from(path, &places.places()?)?;
    for warning in &dataset.warnings {
        tracing::warn!("{warning}");
    }
    Ok(dataset)
}

fn model_must_exist(path: &Path) -> Result<(), CallError> {
    must_exist("model package", path)
}

fn must_exist(what: &str, path: &Path) -> Result<(), CallError> {
    if path.exists() { Ok(()) } else { Err(CallError(format!("there is no {what} at `{}`", path.display()))) }
}

/// An error with its causes, on one line unless it has several of its own.
struct Told<'a>(&'a anyhow::Error);

impl fmt::Display for Told<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.downcast_ref::<ConfigError>() {
            Some(error) => write!(formatter, "the configuration is wrong\n{error}"),
            None => write!(formatter, "{:#}", self.0),
        }
    }
}

fn start_log(args: &LogArgs) -> anyhow::Result<()> {
    let filter = match &args.log_level {
        Some(level) => EnvFilter::try_new(level)
            .map_err(|error| CallError(format!("`--log-level` must be a level or directives: {error}")))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,rumqttd=off")),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match args.log_format {
        LogFormat::Text => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("{error}")).context("cannot start the log")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
