//! Deployment: a model component onto this machine, where the Edge Agent runs it, or onto another one over ssh.
//!
//! `component.rs` reads what is deployed, `settings.rs` is the agent's configuration, `place.rs` exchanges one package for
//! another, `agent.rs` has a running agent change over, `service.rs` has systemd start one, `remote.rs` does all of it on
//! another machine. Nothing is changed before the model has scored its golden pictures here, and what was there is kept.

mod agent;
mod component;
mod place;
mod remote;
mod service;
mod settings;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use linewarden_core::ModelRef;
use linewarden_model::{Detector, ModelInfo};

pub(crate) use agent::State;
pub(crate) use component::Component;
pub(crate) use remote::Remote;
use settings::Settings;

/// Where a component goes, and what becomes of it there.
#[derive(Debug)]
pub(crate) struct Target {
    /// The agent's configuration, which is made when there is none.
    pub(crate) config: PathBuf,
    /// What a configuration that is made says; the component's own wish without it.
    pub(crate) device: Option<String>,
    /// Whether the agent runs it, now and after a restart.
    pub(crate) starts: bool,
    /// Whether systemd is to start an agent where none runs.
    pub(crate) with_service: bool,
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Deployed {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// Which model is there now, and which one was before.
    pub(crate) model: ModelRef,
    pub(crate) replaced: Option<ModelRef>,
    pub(crate) socket: PathBuf,
    pub(crate) state: State,
}

/// Puts a component in its place and has the agent run it. After an error everything is as it was.
///
/// # Errors
/// When the model does not run here, the configuration cannot be used, or the agent does not run the model.
pub(crate) fn deploy(component: &Component, target: &Target, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Deployed> {
    let name = component.name.as_str();
    let device = target.device.as_deref().or(component.device.as_deref()).unwrap_or("auto");
    let mut settings = Settings::open(&target.config, device)?;
    if target.starts {
        settings.start(name)?;
    }
    tell("scoring the golden pictures");
    Detector::from_package(&component.package, &settings.options)
        .with_context(|| format!("the model of `{name}` does not run on this machine, and nothing was changed"))?;
    let ran = agent::runs(&settings.socket, name)?;
    tell("putting the package in its place");
    let placed = place::put(&settings.models, name, &component.package)
        .with_context(|| format!("cannot put `{name}` into `{}`", settings.models.display()))?;
    let mut run = || -> anyhow::Result<State> {
        settings.save()?;
        change_over(name, &settings, target, tell)
    };
    match run() {
        Ok(state) => Ok(Deployed {
            name: name.to_owned(),
            folder: settings.models.join(name),
            model: component.package.info().model_ref(),
            replaced: placed.replaced,
            socket: settings.socket.clone(),
            state,
        }),
        Err(error) => {
            tell("putting back what was there");
            let undone = placed.undo().context("and what was there cannot be put back");
            let restored = undone.and_then(|()| settings.restore());
            let restarted = restored.and_then(|()| match ran {
                true => agent::change_over(&settings.socket, name, true, tell).map(|_| ()),
                false => Ok(()),
            });
            match restarted {
                Ok(()) => Err(error.context("nothing was changed")),
                Err(other) => Err(error.context(format!("{other:#}"))),
            }
        }
    }
}

/// Exchanges a component for the one that was there before it. Done twice, everything is as it was.
///
/// # Errors
/// When there is none, or the agent does not run it: then everything is as it was.
pub(crate) fn roll_back(name: &str, target: &Target, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Deployed> {
    let settings = Settings::existing(&target.config)?;
    let replaced = place::of(&settings.models, name).and_then(|path| model_at(&path));
    let ran = agent::runs(&settings.socket, name)?;
    tell("putting the earlier package in its place");
    place::exchange(&settings.models, name)?;
    match change_over(name, &settings, target, tell) {
        Ok(state) => {
            let folder = place::of(&settings.models, name).unwrap_or_else(|| settings.models.join(name));
            let model = ModelInfo::read(&folder)?.model_ref();
            Ok(Deployed { name: name.to_owned(), folder, model, replaced, socket: settings.socket.clone(), state })
        }
        Err(error) => {
            place::exchange(&settings.models, name)?;
            if ran {
                agent::change_over(&settings.socket, name, true, tell)?;
            }
            Err(error.context("nothing was changed"))
        }
    }
}

fn change_over(name: &str, settings: &Settings, target: &Target, tell: &mut dyn FnMut(&str)) -> anyhow::Result<State> {
    let state = agent::change_over(&settings.socket, name, target.starts, tell)?;
    if state != State::Absent || !target.with_service || !service::is_possible() {
        return Ok(state);
    }
    tell("starting the agent");
    service::start(&target.config)?;
    agent::wait_for(&settings.socket)?;
    agent::begun(&settings.socket, name)
}

fn model_at(path: &Path) -> Option<ModelRef> {
    ModelInfo::read(path).ok().map(|info| info.model_ref())
}
