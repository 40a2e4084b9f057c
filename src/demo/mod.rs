//! The demo: a factory in a minute. A broker, thirty good parts to learn from, a line that watches a belt with known
//! defects, a table of its decisions as a PLC would get them, and a score against the truth.
//!
//! The line is a real `linewarden run` with a configuration that stays on disk; only belt and broker are ours.

mod broker;
mod score;
mod sheet;
mod watch;

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use image::RgbImage;
use jiff::Timestamp;
use linewarden_model::ModelType;
use linewarden_publish::BrokerUrl;
use linewarden_synthetic::{BeltSpec, defect_of, normals};
use linewarden_train::backbone::BackboneSource;
use linewarden_train::dataset::Dataset;
use linewarden_train::job::{TrainRequest, train};
use linewarden_train::package;
use linewarden_train::views::FramingRequest;

use crate::cli::Shown;
use broker::Broker;
use score::{Outcome, Score};
use watch::{Seen, Watcher};

/// Good parts to learn from.
const TRAINING_PARTS: usize = 30;
/// The line's name in topics.
const LINE: &str = "demo";
/// Longest wait for the next decision while the line starts or runs.
const PATIENCE: Duration = Duration::from_secs(30);
/// A heading is repeated after this many rows.
const ROWS_A_HEADING: usize = 40;

/// What to show.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Parts that pass the camera.
    pub(crate) parts: u64,
    /// Parts a second.
    pub(crate) rate: u32,
    /// Share of parts with a defect, 0 to 1.
    pub(crate) defect_rate: f64,
    /// Which belt.
    pub(crate) seed: u64,
    /// Folder for everything that is written.
    pub(crate) out: PathBuf,
    /// A broker that runs already, instead of our own.
    pub(crate) broker: Option<BrokerUrl>,
}

/// Runs the demo.
///
/// # Errors
/// When a step fails; what was written so far stays.
pub(crate) fn run(demo: &Demo) -> anyhow::Result<()> {
    let start = Instant::now();
    let belt = BeltSpec { seed: demo.seed, defect_rate: demo.defect_rate, ..BeltSpec::default() };
    let (_broker, url) = match &demo.broker {
        Some(url) => (None, url.clone()),
        None => {
            let broker = Broker::start()?;
            let url = broker.url()?;
            (Some(broker), url)
        }
    };
    say(&format!("Broker          {url}\n"))?;

    let model = demo.out.join("model");
    let seconds = train_model(demo, &belt, &model)?;
    say(&format!("Model           {} from {TRAINING_PARTS} good parts, {seconds:.1} s\n", model.display()))?;

    let config = write_config(demo, &belt, &url)?;
    say(&format!("Configuration   {}\n\n", config.display()))?;
    let watcher = Watcher::start(&url, LINE)?;
    let mut line = Line::start(&config, &demo.out.join("line.log"))?;
    let outcomes = show_decisions(demo, &belt, &watcher, &mut line)?;
    line.wait()?;

    let sheet = demo.out.join("overlays.png");
    sheet::draw(&model, &belt, &outcomes, &sheet)?;
    let score = Score::of(&outcomes, demo.parts);
    say(&format!("\n{score}\n"))?;
    say(&format!("Overlays        {}\n", sheet.display()))?;
    say(&format!("All of it       {:.0} s\n\n{}", start.elapsed().as_secs_f64(), next_steps(demo)))?;
    anyhow::ensure!(score.is_complete(), "the line did not decide every part: see {}/line.log", demo.out.display());
    Ok(())
}

/// Renders good parts, as a camera would deliver them, and trains on the files.
fn train_model(demo: &Demo, belt: &BeltSpec, model: &Path) -> anyhow::Result<f64> {
    let start = Instant::now();
    let pictures = demo.out.join("parts");
    let normal = pictures.join("normal");
    std::fs::create_dir_all(&normal).with_context(|| format!("cannot create `{}`", normal.display()))?;
    for (index, part) in normals(belt, TRAINING_PARTS).enumerate() {
        let picture = RgbImage::from_raw(part.width_px, part.height_px, part.rgb).context("a part has pixels")?;
        let path = normal.join(format!("good-{index:02}.png"));
        picture.save(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    let request = TrainRequest {
        dataset: Dataset::load(&pictures)?,
        test: None,
        model_type: Some(ModelType::Segmentation),
        threshold: None,
        seed: 1,
        backbone: BackboneSource::Bundled,
        threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        project: LINE.to_owned(),
        version: "1".to_owned(),
        framing: FramingRequest::default(),
        time: Timestamp::now(),
    };
    let trained = train(&request, &Shown::new())?;
    package::write(&trained.package, model, |_| Ok(()))?;
    Ok(start.elapsed().as_secs_f64())
}

fn write_config(demo: &Demo, belt: &BeltSpec, broker: &BrokerUrl) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(
        broker.user().is_none(),
        "the demo writes its configuration to disk: give user and password in LINEWARDEN_MQTT_USER and \
         LINEWARDEN_MQTT_PASSWORD instead of in `--broker`"
    );
    let text = format!(
        "# Written by `linewarden demo`. Run the line again: linewarden run {path}\n\
         [http]\nlisten = \"127.0.0.1:{port}\"\n\n\
         [mqtt]\nbroker = \"{broker}\"\n\n\
         [[line]]\nname = \"{LINE}\"\nmodel = \"model\"\n\n\
         [line.decision]\n# The guide's first rule: an anomaly must be at least this sure to be rejected.\nconfidence_limit = 0.8\nexpires_after = \"5s\"\n\n\
         [[line.camera]]\nname = \"belt\"\npipeline = \"synthetic\"\n\n\
         [line.camera.with]\nseed = {seed}\nparts = {parts}\nrate = {rate}.0\ndefect-rate = {defect_rate:?}\n\
         width = {width}\nheight = {height}\n",
        path = demo.out.join("linewarden.toml").display(),
        port = free_port()?,
        seed = belt.seed,
        parts = demo.parts,
        rate = demo.rate,
        defect_rate = belt.defect_rate,
        width = belt.width_px,
        height = belt.height_px,
    );
    let path = demo.out.join("linewarden.toml");
    std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(path)
}

/// Prints a row for each decision as it arrives, until the last part or until nothing comes any more.
fn show_decisions(demo: &Demo, belt: &BeltSpec, watcher: &Watcher, line: &mut Line) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    while (outcomes.len() as u64) < demo.parts {
        let Some(seen) = next_seen(watcher, line)? else { break };
        if outcomes.len().is_multiple_of(ROWS_A_HEADING) {
            say("  part  truth         verdict   score   marked   capture to PLC\n")?;
        }
        let outcome = Outcome { truth: defect_of(belt, seen.part), seen };
        say(&format!("{outcome}\n"))?;
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The next decision; nothing when the line has ended or keeps silent for too long.
fn next_seen(watcher: &Watcher, line: &mut Line) -> anyhow::Result<Option<Seen>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let has_ended = line.has_ended()?;
        if let Some(seen) = watcher.next(Duration::from_millis(500)) {
            return Ok(Some(seen));
        }
        if has_ended || Instant::now() >= deadline {
            return Ok(None);
        }
    }
}

fn next_steps(demo: &Demo) -> String {
    let out = demo.out.display();
    format!(
        "Try next:\n\
         \x20 linewarden run {out}/linewarden.toml                     the line again, by itself\n\
         \x20 linewarden detect --model {out}/model --overlay /tmp/o PICTURE...\n\
         \x20 linewarden train --dataset YOUR_PICTURES --out models/mine  with YOUR_PICTURES/normal/*.jpg of good parts\n\
         \x20 linewarden demo --rate 30 --parts 600                   a faster belt\n"
    )
}

/// The line as a process of its own, ended with us.
struct Line {
    child: Child,
    log: PathBuf,
}

impl Line {
    fn start(config: &Path, log: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let file = std::fs::File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let mut command = Command::new(program);
        command.arg("run").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().context("cannot start `linewarden run`")?;
        Ok(Self { child, log: log.to_owned() })
    }

    fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().context("cannot ask for the line's state")?.is_some())
    }

    /// Waits for the end, which comes by itself once the last part is decided.
    fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().context("cannot wait for the line")?;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        anyhow::ensure!(
            status.success(),
            "the line ended with {status}; its last words in {}:\n{last}",
            self.log.display()
        );
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Both fail when the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port")?;
    Ok(listener.local_addr().context("a listener has an address")?.port())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}
