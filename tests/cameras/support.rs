//! A daemon, a broker, cameras in a studio, and who hears what is decided.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::broker::{Message, Mosquitto, Subscriber};
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::rtsp::RtspCamera;
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// What the product promises from a camera's return to its first verdict.
pub(crate) const RECOVERY: Duration = Duration::from_secs(2);

/// A daemon whose lines score the pictures of a studio.
pub(crate) struct Site {
    pub(crate) broker: Mosquitto,
    pub(crate) daemon: DaemonSandbox,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let (broker, daemon) = (Mosquitto::start()?, DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?);
        brightness_package(&daemon.path("model"), 160, 120, ModelType::Classification)?;
        Ok(Self { broker, daemon })
    }

    /// Starts the lines, which are written with [`line`].
    pub(crate) fn start(&mut self, lines: &[String]) -> Result<()> {
        let mqtt = format!("[mqtt]\nbroker = \"{}\"\n", self.broker.url());
        self.daemon.start(&(mqtt + &lines.concat()))
    }

    /// Waits until the line gives verdicts.
    pub(crate) fn wait_verdicts(&self, line: &str, more: f64) -> Result<()> {
        let series = scored(line);
        let before = self.daemon.metric(&series)?;
        self.daemon.wait_metric(&series, |now| now >= before + more)?;
        Ok(())
    }

    /// Somebody who hears the line's decisions.
    pub(crate) fn hear(&self, line: &str) -> Result<Subscriber> {
        self.broker.subscribe(&format!("linewarden/{line}/decision"))
    }

    /// Ends the daemon as an operator does.
    pub(crate) fn end(mut self) -> Result<String> {
        self.daemon.terminate()?;
        ensure!(self.daemon.wait_end()?.success(), "{}", self.daemon.log()?);
        let log = self.daemon.log()?;
        for word in ["panicked", "-CRITICAL **", "-WARNING **"] {
            ensure!(!log.contains(word), "{log}");
        }
        Ok(log)
    }
}

/// A line with one camera of this name and its keys.
pub(crate) fn line(name: &str, camera: &str) -> String {
    format!(
        "[[line]]\nname = \"{name}\"\nmodel = \"model\"\ndevice = \"cpu\"\ndecision = {{ expires_after = \"5s\" }}\n\
         [[line.camera]]\nname = \"top\"\n{camera}\n"
    )
}

/// The keys of an RTSP camera.
pub(crate) fn rtsp(camera: &RtspCamera) -> String {
    format!("pipeline = \"rtsp\"\nwith = {{ location = \"{}\", latency = 50 }}", camera.url())
}

/// Frames that the line's model has scored.
pub(crate) fn scored(line: &str) -> String {
    format!(
        "linewarden_processed_image_total{{camera=\"top\",line=\"{line}\",model_version=\"1\",project=\"brightness\"}}"
    )
}

pub(crate) fn field(message: &Message, name: &str) -> Result<Value> {
    Ok(message.json()?[name].clone())
}

/// The first verdict but `unknown` from now on, which must come within two seconds of `returned`.
pub(crate) fn recovered(watch: &Subscriber, returned: Instant) -> Result<Duration> {
    let is_verdict = |message: &Message| field(message, "verdict").is_ok_and(|verdict| verdict != "unknown");
    watch.next_where(SOON, is_verdict).context("no verdict after the camera's return")?;
    let took = returned.elapsed();
    ensure!(took <= RECOVERY, "the first verdict came {took:?} after the camera's return");
    Ok(took)
}

/// Every decision that arrived must be of the part after the one before; gives the longest time between two decisions.
pub(crate) fn undisturbed(decisions: &[Message]) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for pair in decisions.windows(2) {
        let part = |message: &Message| field(message, "part").map(|part| part.as_u64());
        ensure!(part(&pair[1])? == part(&pair[0])?.map(|part| part + 1), "{pair:?}");
        let at = |message: &Message| -> Result<jiff::Timestamp> {
            Ok(field(message, "decided_at")?.as_str().context("no time")?.parse()?)
        };
        let gap = at(&pair[1])?.duration_since(at(&pair[0])?);
        longest = longest.max(Duration::try_from(gap).unwrap_or_default());
    }
    Ok(longest)
}
