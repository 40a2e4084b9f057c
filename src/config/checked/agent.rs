//! `[agent]`: the Edge Agent of the old service on this machine.

use std::path::{Path, PathBuf};

use linewarden_core::ModelRef;
use linewarden_model::{DetectorOptions, DeviceRequest};

use super::Context;
use crate::config::raw::Section;

/// Where clients of the old service look for its agent.
const SOCKET: &str = "/tmp/aws.iot.lookoutvision.EdgeAgent.sock";
const MOST_RUNNING: usize = 4;
const QUEUE: usize = 16;
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";

/// The agent and its models.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Path of the unix socket.
    pub socket: PathBuf,
    /// Who may call.
    pub access: SocketAccess,
    /// The folder of model packages; each is a component.
    pub models: PathBuf,
    /// Components that run from the start.
    pub start: Vec<String>,
    /// How models run.
    pub options: DetectorOptions,
    /// Models that run side by side at most.
    pub max_running: usize,
    /// Pictures that may wait for a model.
    pub queue: usize,
    region: String,
    account: String,
}

/// Who may call over a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SocketAccess {
    /// The user that Linewarden runs as.
    #[default]
    Owner,
    /// And its group.
    Group,
    /// And every user of this machine.
    Everyone,
}

impl SocketAccess {
    /// As file mode.
    pub fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
            Self::Everyone => 0o666,
        }
    }
}

impl AgentConfig {
    /// How the old service would name the model.
    pub fn arn(&self, model: &ModelRef) -> String {
        let ModelRef { project, version, .. } = model;
        format!("arn:aws:lookoutvision:{}:{}:model/{project}/{version}", self.region, self.account)
    }
}

/// `None` after noting what is wrong.
pub(super) fn read_agent(section: &Section<'_>, context: &Context) -> Option<AgentConfig> {
    let models = read_models(section, context);
    let socket = section.text("socket").map_or_else(
        || PathBuf::from(SOCKET),
        |socket| context.path(socket.value.strip_prefix("unix://").unwrap_or(&socket.value)),
    );
    let accesses =
        [("owner", SocketAccess::Owner), ("group", SocketAccess::Group), ("everyone", SocketAccess::Everyone)];
    let access = section.choice("access", &accesses).unwrap_or_default();
    let device = section.read("device", "one of auto, cpu, cuda, tensorrt, openvino", |value| {
        value.as_str()?.parse::<DeviceRequest>().ok()
    });
    let whole = |key, least, most| section.integer(key, least, most).and_then(|number| usize::try_from(number).ok());
    let threads = whole("threads", 1, 256).unwrap_or(1);
    let device_id = whole("device_id", 0, 1024).and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    let max_running = whole("max_running", 1, 64).unwrap_or(MOST_RUNNING);
    let queue = whole("queue", 1, 256).unwrap_or(QUEUE);
    let start = section.read("start", "a list of model components, such as [\"cap\"]", |value| {
        value.as_array()?.iter().map(|name| name.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    let region = section.text("region").map_or_else(|| REGION.to_owned(), |region| region.value);
    let account = section.read("account", "12 digits", |value| {
        let digits = value.as_str()?;
        (digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.to_owned())
    });
    section.finish();
    let (models, start) = (models?, start.map(|start| (start.value, start.at)));
    if let Some((names, at)) = &start
        && let Some(absent) = names.iter().find(|name| !is_deployed(&models, name))
    {
        let message = format!("`start` names the model component `{absent}`, which is not in `{}`", models.display());
        section.problem(at.clone(), message);
        return None;
    }
    let start = start.map(|(names, _)| names).unwrap_or_default();
    if start.len() > max_running {
        section
            .problem(section.at(), format!("`start` names {} models, `max_running` allows {max_running}", start.len()));
        return None;
    }
    let device = device.map(|device| device.value).unwrap_or_default();
    let options = DetectorOptions { device, device_id, threads, ..DetectorOptions::default() };
    let account = account.map_or_else(|| ACCOUNT.to_owned(), |account| account.value);
    Some(AgentConfig { socket, access, models, start, options, max_running, queue, region, account })
}

fn read_models(section: &Section<'_>, context: &Context) -> Option<PathBuf> {
    let Some(folder) = section.text("models") else {
        if section.value("models").is_none() {
            section.missing("models", "a folder of model packages, each a component");
        }
        return None;
    };
    let path = context.path(&folder.value);
    if !path.is_dir() {
        let message = format!("`models` must be a folder of model packages, got `{}`", path.display());
        section.problem(folder.at, message);
        return None;
    }
    Some(path)
}

fn is_deployed(models: &Path, name: &str) -> bool {
    models.join(name).join("model.json").is_file() || models.join(format!("{name}.tar")).is_file()
}
