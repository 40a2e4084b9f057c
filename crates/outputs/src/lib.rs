//! What PLCs and SCADA systems speak beside plain MQTT: Modbus TCP, OPC UA and Sparkplug B, each behind a feature.
//!
//! A line's [`Decision`]s, its last score and its state come in through [`LineOutputs`], which
//! never waits; each output takes them out of a bounded mailbox on a thread with a runtime of its own. A decision whose
//! time has passed is never shown as live. This crate knows nothing of cameras, models, or how a verdict is reached.

#![forbid(unsafe_code)]
// What only one output needs lies idle in a build without it.
#![cfg_attr(not(all(feature = "modbus", feature = "opcua", feature = "sparkplug")), allow(dead_code))]

mod error;
mod mailbox;
pub mod modbus;
pub mod opcua;
pub mod sparkplug;
mod thread;

use std::sync::Arc;
use std::time::{Duration, Instant};

use linewarden_core::{Decision, ScoredFrame};

pub use error::OutputError;
use mailbox::Mailbox;
pub use mailbox::OutputStats;
use modbus::ModbusConfig;
use opcua::OpcUaConfig;
use sparkplug::SparkplugConfig;
use thread::Running;

/// Which outputs there are. None by default.
#[derive(Debug, Clone, Default)]
pub struct OutputsConfig {
    /// Names of the lines; outputs that serve all of them show them in this order.
    pub lines: Vec<String>,
    /// Modbus, each for one of `lines`.
    pub modbus: Vec<(String, ModbusConfig)>,
    /// One OPC UA server for all lines.
    pub opcua: Option<OpcUaConfig>,
    /// One Sparkplug edge node with a device a line.
    pub sparkplug: Option<SparkplugConfig>,
}

/// The running outputs of a process.
#[derive(Debug, Default)]
pub struct Outputs {
    lines: Vec<String>,
    running: Vec<Running>,
}

/// Where one line tells what happens. Cheap to clone; nothing here waits.
#[derive(Debug, Clone, Default)]
pub struct LineOutputs {
    /// Mailboxes that want this line, and its place in them.
    boxes: Arc<[(Arc<Mailbox>, usize)]>,
}

impl Outputs {
    /// Starts everything that is configured. What listens does so when this returns.
    ///
    /// # Errors
    /// When an address is taken, a file is wrong, or the output is not part of this build. Nothing is left running then.
    pub fn start(config: OutputsConfig) -> Result<Self, OutputError> {
        let OutputsConfig { lines, modbus, opcua, sparkplug } = config;
        let mut outputs = Self { lines: lines.clone(), running: Vec::new() };
        for (line, config) in modbus {
            outputs.running.push(modbus::start(line, config)?);
        }
        if let Some(config) = opcua {
            outputs.running.push(opcua::start(lines.clone(), config)?);
        }
        if let Some(config) = sparkplug {
            outputs.running.push(sparkplug::start(lines, config)?);
        }
        Ok(outputs)
    }

    /// The way in for one line.
    pub fn line(&self, name: &str) -> LineOutputs {
        let mailboxes = self.running.iter().map(|running| &running.mailbox);
        let boxes = mailboxes.filter_map(|mailbox| Some((Arc::clone(mailbox), mailbox.place(name)?))).collect();
        LineOutputs { boxes }
    }

    /// Names of the lines, as configured.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// What became of each output's messages, by name.
    pub fn stats(&self) -> Vec<(String, OutputStats)> {
        self.running.iter().map(|running| (running.name.clone(), running.mailbox.stats())).collect()
    }

    /// Something that reads [`Outputs::stats`] from any thread, for metrics.
    pub fn watch(&self) -> impl Fn() -> Vec<(String, OutputStats)> + Send + Sync + use<> {
        let watched: Vec<_> =
            self.running.iter().map(|running| (running.name.clone(), Arc::clone(&running.mailbox))).collect();
        move || watched.iter().map(|(name, mailbox)| (name.clone(), mailbox.stats())).collect()
    }

    /// Each output says goodbye and goes to its safe state; false after naming whoever did not end within the grace.
    pub fn stop(mut self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        self.request_stop();
        let mut all = true;
        for running in std::mem::take(&mut self.running) {
            all &= running.wait_until(deadline);
        }
        all
    }

    fn request_stop(&self) {
        self.running.iter().for_each(|running| running.mailbox.stop());
    }
}

impl Drop for Outputs {
    /// Whoever does not wait for the goodbye still has it said.
    fn drop(&mut self) {
        self.request_stop();
    }
}

impl LineOutputs {
    /// Whether anybody listens.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }

    /// A decision was made.
    pub fn decided(&self, decision: &Decision) {
        if self.is_empty() {
            return;
        }
        let decision = Arc::new(decision.clone());
        self.boxes.iter().for_each(|(mailbox, line)| mailbox.decided(*line, Arc::clone(&decision)));
    }

    /// A frame was scored.
    pub fn scored(&self, frame: &ScoredFrame) {
        self.boxes.iter().for_each(|(mailbox, line)| mailbox.scored(*line, frame));
    }

    /// The line is in another state: `starting`, `running`, `camera_lost`, `camera_unhealthy`, `stop_requested`, `stopped`.
    pub fn state(&self, state: &'static str) {
        self.boxes.iter().for_each(|(mailbox, line)| mailbox.state(*line, state));
    }
}
