//! A line of one camera over a folder whose pictures a test paints anew while it runs, so that the light is the test's.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use image::RgbImage;
use linewarden_model::ModelType;
use linewarden_testkit::broker::{Message, Mosquitto, Subscriber};
use linewarden_testkit::model::{brightness_package, brightness_score};
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::{Value, json};

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Greys whose scores are well below the threshold, and some that are nearer to it: all pass.
pub(crate) const DARK: u8 = 40;
pub(crate) const BRIGHTER: u8 = 80;
pub(crate) const WHITE: u8 = 255;

/// A daemon that runs one line, a broker, and everything that was said of the line.
pub(crate) struct Site {
    pub(crate) sandbox: DaemonSandbox,
    pub(crate) broker: Mosquitto,
    pub(crate) heard: Subscriber,
}

impl Site {
    /// Starts a line with these tables, whose pictures are around this grey, 100 a second.
    pub(crate) fn start(grey: u8, mqtt: &str, tables: &str) -> Result<Self> {
        let broker = Mosquitto::start()?;
        let heard = broker.subscribe("linewarden/cap/#")?;
        let mut sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
        brightness_package(&sandbox.path("models/plain"), 64, 48, ModelType::Classification)?;
        brightness_package(&sandbox.path("models/trained"), 64, 48, ModelType::Classification)?;
        know_normal_scores(&sandbox, "models/trained")?;
        paint(&sandbox, grey)?;
        let config = format!(
            "[mqtt]\nbroker = \"{}\"\n{mqtt}\n[evidence]\nfolder = \"evidence\"\nsample = 0\n[[line]]\nname = \"cap\"\n\
             device = \"cpu\"\ndecision = {{ expires_after = \"60s\" }}\n{tables}\n",
            broker.url()
        );
        sandbox.start(&config)?;
        Ok(Self { sandbox, broker, heard })
    }

    pub(crate) fn paint(&self, grey: u8) -> Result<()> {
        paint(&self.sandbox, grey)
    }

    /// The next message on a topic of the line that `is_it`.
    pub(crate) fn next(&self, topic: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let topic = format!("linewarden/cap/{topic}");
        let is_wanted =
            |message: &Message| message.topic == topic && message.json().is_ok_and(|message| is_it(&message));
        let message = self.heard.next_where(SOON, is_wanted);
        message.with_context(|| format!("on {topic}; {}", self.sandbox.log().unwrap_or_default()))?.json()
    }

    /// The next state with exactly these alarms.
    pub(crate) fn next_alarms(&self, alarms: &[&str]) -> Result<Value> {
        let wanted = if alarms.is_empty() { Value::Null } else { json!(alarms) };
        self.next("state", |state| state["state"] == "online" && state["alarms"] == wanted)
            .with_context(|| format!("waiting for {alarms:?}"))
    }

    pub(crate) fn wait_logged(&self, message: &str) -> Result<Value> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(entry) = self.sandbox.logged(message)? {
                return Ok(entry);
            }
            ensure!(Instant::now() < deadline, "nobody said `{message}`: {}", self.sandbox.log()?);
            // Something is said of the line a hundred times a second.
            self.heard.next_message(SOON)?;
        }
    }

    pub(crate) fn metric(&self, series: &str) -> Result<f64> {
        self.sandbox.metric(&format!("linewarden_{series}"))
    }

    /// Ends the daemon, and gives the notes of its evidence, which is proved untouched.
    pub(crate) fn end(mut self) -> Result<(Vec<Value>, Vec<Value>)> {
        self.sandbox.terminate()?;
        ensure!(self.sandbox.wait_end()?.success(), "{}", self.sandbox.log()?);
        let folder = self.sandbox.path("evidence");
        let output = self.sandbox.call(&["evidence", "verify", folder.to_str().context("a path in UTF-8")?])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let text = std::fs::read_to_string(self.sandbox.path("evidence/log/000001.jsonl"))?;
        let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let bodies = |kind: &str| {
            records.iter().filter(|record| record["kind"] == kind).map(|record| record["body"].clone()).collect()
        };
        Ok((bodies("note"), bodies("part")))
    }
}

/// A camera over the folder of pictures.
pub(crate) fn camera(name: &str) -> String {
    format!(
        "[[line.camera]]\nname = \"{name}\"\npipeline = \"folder\"\n\
         with = {{ location = \"pictures\", loop = true, rate = 100 }}\n"
    )
}

/// Four pictures around this grey, each replaced as a whole, so that none is ever read half written.
fn paint(sandbox: &DaemonSandbox, grey: u8) -> Result<()> {
    std::fs::create_dir_all(sandbox.path("pictures"))?;
    for (number, darker) in [15, 5, 0, 0].into_iter().enumerate() {
        let brighter = if number < 2 { 0 } else { 10 * number as u8 - 15 };
        let new = sandbox.path("new.png");
        image_of(grey.saturating_sub(darker).saturating_add(brighter)).save(&new)?;
        std::fs::rename(&new, sandbox.path(&format!("pictures/{number}.png")))?;
    }
    Ok(())
}

fn image_of(grey: u8) -> RgbImage {
    RgbImage::from_pixel(64, 48, image::Rgb([grey; 3]))
}

/// Gives a package what training gives it: the scores of normal pictures, here of greys around the dark one.
fn know_normal_scores(sandbox: &DaemonSandbox, name: &str) -> Result<()> {
    let path = sandbox.path(name).join("model.json");
    let mut info: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let scores: Vec<f64> = (DARK - 20..=DARK + 20).map(|grey| brightness_score(image_of(grey).as_raw())).collect();
    info["normal_scores"] = json!(scores);
    info["version"] = json!("2");
    Ok(std::fs::write(path, info.to_string())?)
}
