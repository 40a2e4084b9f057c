//! `linewarden deploy`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use linewarden_core::ModelRef;
use linewarden_model::DeviceRequest;
use serde_json::json;

use super::CallError;
use crate::agent::{NAMES, is_name};
use crate::deploy::{self, Component, Deployed, Remote, State, Target};

const EXAMPLES: &str = "\
Examples:
  linewarden deploy cap.tar
      the archive of a packaging job, onto this machine; the agent runs it from now on
  linewarden deploy models/cap --config /etc/linewarden/line.toml
      a package of `linewarden train`, for the agent of that configuration
  linewarden deploy cap.tar --to press-1
      onto another machine, over ssh, which needs an installed `linewarden` and nothing else
  linewarden deploy cap.tar --to root@10.0.0.7 --ssh 'ssh -p 2222 -i line.key' --no-start
  linewarden deploy --rollback cap
      the one before it; said again, this one

The model scores its golden pictures on the machine before anything is changed there. After an error everything is as it was.";

/// Install a model component on this machine, or on another over ssh.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeployArgs {
    /// Archive of a packaging job, or a model package; `-` is an archive on standard input
    #[arg(value_name = "COMPONENT", required_unless_present = "rollback")]
    component: Option<PathBuf>,
    /// Go back to the component that this one replaced
    #[arg(long, value_name = "NAME", conflicts_with_all = ["component", "name", "device"])]
    rollback: Option<String>,
    /// What the component is called; without it as its packaging job, its folder or its file is
    #[arg(long)]
    name: Option<String>,
    /// The agent's configuration; made when there is none, with a folder `models` beside it
    #[arg(long, value_name = "CONFIG.toml", default_value = "/opt/linewarden/linewarden.toml")]
    config: PathBuf,
    /// Device of a configuration that is made: auto, cpu, cuda, tensorrt, openvino; without it as the packaging job has it
    #[arg(long)]
    device: Option<String>,
    /// Do not have the agent run it, now or at its start; a component that runs already goes on with the new model
    #[arg(long)]
    no_start: bool,
    /// Where no agent runs, leave it so; otherwise systemd starts one, where there is systemd and we are root
    #[arg(long)]
    no_service: bool,
    /// Another machine, as ssh takes it
    #[arg(long, value_name = "[USER@]HOST")]
    to: Option<String>,
    /// The ssh program with its options
    #[arg(long, value_name = "COMMAND", default_value = "ssh -o BatchMode=yes", requires = "to")]
    ssh: String,
    /// Where `linewarden` is on the other machine
    #[arg(long, value_name = "PATH", default_value = "linewarden", requires = "to")]
    remote_linewarden: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DeployArgs) -> anyhow::Result<()> {
    if let Some(device) = &args.device {
        device.parse::<DeviceRequest>().map_err(|error| CallError(format!("`--device`: {error}")))?;
    }
    if let Some(name) = args.rollback.as_deref().filter(|name| !is_name(name)) {
        return Err(CallError(format!("`--rollback` must be the name of a component, {NAMES}, got `{name}`")).into());
    }
    let target = Target {
        config: args.config.clone(),
        device: args.device.clone(),
        starts: !args.no_start,
        with_service: !args.no_service,
    };
    let component = args.component.as_ref().map(|source| Component::read(source, args.name.as_deref())).transpose()?;
    if let Some(host) = &args.to {
        return far(args, host, component.as_ref(), &target);
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut tell = |step: &str| match io::stderr().is_terminal() {
        true => bar.set_message(step.to_owned()),
        false => tracing::info!("{step}"),
    };
    let done = match (&args.rollback, &component) {
        (Some(name), _) => deploy::roll_back(name, &target, &mut tell),
        (None, Some(component)) => deploy::deploy(component, &target, &mut tell),
        (None, None) => Err(CallError("name a component".to_owned()).into()),
    };
    bar.finish_and_clear();
    let done = done?;
    let version = component.and_then(|component| component.version);
    let text = if args.json { document(&done, version.as_deref())? } else { told(&done, version.as_deref(), args) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn far(args: &DeployArgs, host: &str, component: Option<&Component>, target: &Target) -> anyhow::Result<()> {
    // ssh would take it for an option.
    if host.starts_with('-') {
        return Err(CallError(format!("`--to` must be a host, got `{host}`")).into());
    }
    let remote = Remote {
        host: host.to_owned(),
        ssh: args.ssh.clone(),
        program: args.remote_linewarden.clone(),
        json: args.json,
    };
    match (&args.rollback, component) {
        (Some(name), _) => remote.roll_back(name, target),
        (None, Some(component)) => remote.deploy(component, target),
        (None, None) => Err(CallError("name a component".to_owned()).into()),
    }
}

fn document(done: &Deployed, version: Option<&str>) -> anyhow::Result<String> {
    let state = match done.state {
        State::Runs => "running",
        State::Stopped => "stopped",
        State::Absent => "no agent",
    };
    let document = json!({
        "component": done.name,
        "version": version,
        "folder": done.folder,
        "model": done.model,
        "replaced": done.replaced,
        "socket": done.socket,
        "agent": state,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn told(done: &Deployed, version: Option<&str>, args: &DeployArgs) -> String {
    let Deployed { name, folder, model, replaced, socket, state } = done;
    let of = |model: &ModelRef| format!("{} {}", model.project, model.version);
    let version = version.map(|version| format!(" {version}")).unwrap_or_default();
    let (folder, socket, config) = (folder.display(), socket.display(), args.config.display());
    let mut text = format!("{name}{version}, model {}, is in {folder}.\n", of(model));
    if let Some(replaced) = replaced {
        text += &format!(
            "Model {} was there before, and is kept: `linewarden deploy --rollback {name} --config {config}`.\n",
            of(replaced)
        );
    }
    text += &match state {
        State::Runs => format!("The agent at {socket} runs it.\n"),
        State::Stopped => format!("The agent at {socket} runs it when it is asked to.\n"),
        State::Absent => format!("No agent listens at {socket}: start one with `linewarden serve {config}`.\n"),
    };
    text
}
