//! A daemon with all that it talks to, and what goes wrong there.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use linewarden_model::ModelType;
use linewarden_testkit::broker::{Mosquitto, Subscriber, free_port};
use linewarden_testkit::model::{brightness_package, slow_package};
use linewarden_testkit::plc::{Door as _, ModbusDoor};
use linewarden_testkit::rtsp::{RtspCamera, Studio};
use linewarden_testkit::sandbox::DaemonSandbox;

use crate::measure::Sample;

const SOON: Duration = Duration::from_secs(20);
const WIDTH_PX: u32 = 160;
const HEIGHT_PX: u32 = 120;
/// Some 60 ms a frame on an idle machine, for two cameras that bring one each 40 ms.
const WORK: usize = 40;
const BROKER_AWAY: Duration = Duration::from_millis(800);
const CAMERA_AWAY: Duration = Duration::from_millis(800);
const SLOW_FOR: Duration = Duration::from_millis(1500);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The broker is killed and started again.
    Broker,
    /// The camera is gone, with its server, and comes back.
    Camera,
    /// Another model takes over, which is too slow; then a third one that is not.
    Model,
}

impl Fault {
    pub(crate) const ALL: [Self; 3] = [Self::Broker, Self::Camera, Self::Model];
}

pub(crate) struct Plant {
    broker: Mosquitto,
    daemon: DaemonSandbox,
    watch: Subscriber,
    plc: ModbusDoor,
    camera: Option<RtspCamera>,
    swaps: usize,
}

fn studio(port: u16) -> Result<RtspCamera> {
    RtspCamera::studio(&Studio { port, size: (WIDTH_PX, HEIGHT_PX), ..Studio::default() })
}

impl Plant {
    pub(crate) fn start() -> Result<Self> {
        let (broker, camera) = (Mosquitto::start()?, studio(0)?);
        let modbus_port = free_port()?;
        let plc = ModbusDoor::open(modbus_port, 0)?;
        let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
        for model in ["first", "second"] {
            brightness_package(&daemon.path(model), WIDTH_PX, HEIGHT_PX, ModelType::Classification)?;
        }
        slow_package(&daemon.path("slow"), WIDTH_PX, HEIGHT_PX, WORK)?;
        let watch = broker.subscribe("linewarden/belt/decision")?;
        daemon.start(&format!(
            "[mqtt]\nbroker = \"{}\"\nheartbeat_interval = \"300ms\"\noutbox = {{ path = \"outbox\" }}\n\
             [sparkplug]\ngroup = \"plant\"\nnode = \"cell\"\n[evidence]\nfolder = \"evidence\"\n\
             [[line]]\nname = \"belt\"\nmodel = \"first\"\ndevice = \"cpu\"\n\
             modbus = {{ listen = \"127.0.0.1:{modbus_port}\" }}\n\
             [line.parts]\ntrigger = \"rate\"\nrate = 10\n[line.gate]\ndelay = \"700ms\"\ndecide_before = \"50ms\"\n\
             [[line.camera]]\nname = \"top\"\npipeline = \"rtsp\"\nwindow = \"90ms\"\nstall_after = \"700ms\"\n\
             with = {{ location = \"{}\", latency = 50 }}\n\
             [[line.camera]]\nname = \"side\"\nlive = true\nwindow = \"90ms\"\n\
             launch = \"syntheticline width={WIDTH_PX} height={HEIGHT_PX} rate=10 frame-rate=25\"\n",
            broker.url(),
            camera.url()
        ))?;
        daemon.wait_ready()?;
        Ok(Self { broker, daemon, watch, plc, camera: Some(camera), swaps: 0 })
    }

    /// Something goes wrong for a while, and is healed.
    pub(crate) fn suffer(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Broker => {
                self.broker.kill()?;
                std::thread::sleep(BROKER_AWAY);
                self.broker.restart()
            }
            Fault::Camera => {
                let port = self.camera.take().context("there is a camera")?.port();
                std::thread::sleep(CAMERA_AWAY);
                self.camera = Some(studio(port)?);
                Ok(())
            }
            Fault::Model => {
                self.swap("slow")?;
                std::thread::sleep(SLOW_FOR);
                self.swaps += 1;
                self.swap(if self.swaps.is_multiple_of(2) { "first" } else { "second" })
            }
        }
    }

    fn swap(&self, model: &str) -> Result<()> {
        let output = self.daemon.call(&["model", "swap", "--line", "belt", model])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Waits for ten passed parts in a row: each was seen by both cameras and scored in time.
    pub(crate) fn wait_recovered(&mut self) -> Result<()> {
        self.watch.arrived();
        let deadline = Instant::now() + SOON;
        let mut passed = 0;
        while passed < 10 {
            let left = deadline.saturating_duration_since(Instant::now());
            let decision = self.watch.next_message(left).context("parts pass no more")?.json()?;
            passed = if decision["verdict"] == "pass" { passed + 1 } else { 0 };
        }
        self.plc.hear()?;
        Ok(())
    }

    /// Lets the line run and gives when each decision came, and how many milliseconds after its last picture.
    pub(crate) fn calm(&mut self, time: Duration) -> Result<Vec<(Instant, f64)>> {
        let until = Instant::now() + time;
        let mut latencies = Vec::new();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let Ok(message) = self.watch.next_message(left) else { break };
            let (came, came_at) = (Timestamp::now(), Instant::now());
            let decision = message.json()?;
            let captured_at: Timestamp = decision["captured_at"].as_str().context("no `captured_at`")?.parse()?;
            latencies.push((came_at, came.duration_since(captured_at).as_secs_f64() * 1e3));
        }
        ensure!(!latencies.is_empty(), "nothing was decided while all was well");
        Ok(latencies)
    }

    pub(crate) fn measure(&self, fault: Fault, began: Instant) -> Result<Sample> {
        let process = self.daemon.process_id().context("the daemon runs")?;
        let waiting = |series: &str| self.daemon.metric(&format!("{series}{{line=\"belt\"}}"));
        let waiting = waiting("linewarden_outbox_messages")? + waiting("linewarden_outbox_historical_messages")?;
        Ok(Sample {
            at: began.elapsed(),
            fault,
            resident_bytes: self.daemon.resident_bytes()?,
            descriptors: settled(&format!("/proc/{process}/fd"))?,
            threads: settled(&format!("/proc/{process}/task"))?,
            waiting,
            outbox_bytes: bytes_under(&self.daemon.path("outbox"))?,
        })
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.daemon.terminate()?;
        ensure!(self.daemon.wait_end()?.success(), "{}", self.daemon.log()?);
        Ok(())
    }
}

/// How many entries a folder of `/proc` has when what only comes and goes is gone, such as our own question for figures.
fn settled(folder: &str) -> Result<usize> {
    let mut least = usize::MAX;
    for _ in 0..20 {
        least = least.min(std::fs::read_dir(folder)?.count());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(least)
}

fn bytes_under(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file may go while we look.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_under(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
