//! From the configuration file to what the daemon runs: read as written (`raw`), then as meant (`checked`).
//!
//! A path comes in; a [`Config`] that cannot be wrong goes out, or every [`Problem`] at once, each with its place, its key
//! and what is allowed. Nothing here starts anything.

mod checked;
mod raw;
mod shape;

use std::fmt;
use std::path::Path;

pub use checked::{
    AgentConfig, ApiConfig, CameraConfig, Capture, ClockChoice, ClockConfig, Config, DecisionConfig, DigitalTrigger,
    Doors, DriftConfig, DriftReference, EncryptionConfig, EvidenceConfig, EvidenceRules, Folder, GateConfig,
    HealthConfig, LineConfig, Measure, PartsConfig, PictureConfig, QueueConfig, QueueDrop, RejectChartConfig,
    RemoteConfig, ShadowConfig, SocketAccess, SourceProperty, TlsConfig, TriggerConfig, UnknownPolicy, ViewConfig,
    WatchConfig,
};
#[cfg(feature = "modbus")]
pub use checked::{ModbusPoint, ModbusTrigger};
pub use raw::Problem;
pub(crate) use raw::parse_duration;

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(formatter, "{problem}")?;
        }
        let plural = if self.problems.len() == 1 { "problem" } else { "problems" };
        write!(formatter, "{} {plural}: nothing was started", self.problems.len())
    }
}

/// Reads and checks a configuration, with the models, certificates, folders and pipelines that it names.
///
/// `pipelines` is a folder of shapes that go before those beside the configuration and the built-in ones.
///
/// # Errors
/// When anything is wrong: all of it.
pub fn load(path: &Path, pipelines: Option<&Path>, doors: Doors) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration: {error}");
        ConfigError { problems: vec![Problem { file: path.to_owned(), line: 1, column: 1, message }] }
    })?;
    checked::check(path, text, pipelines, doors)
}
