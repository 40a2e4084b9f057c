//! A belt with two cameras, the daemon, a broker, and the PLCs at the gate.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use linewarden_synthetic::{BeltSpec, defect_of};
use linewarden_testkit::belt::{Belt, train_model};
use linewarden_testkit::broker::{Mosquitto, MosquittoOptions, Proxy, free_port};
use linewarden_testkit::plc::{Action, ModbusDoor, MqttDoor, Order, Passage, Plc, Shift, SparkplugDoor, Work};
use linewarden_testkit::sandbox::DaemonSandbox;

pub(crate) const PARTS_A_SECOND: f64 = 2.0;
/// One or two of each part in each view; `tests/parts` holds the line to 30.
pub(crate) const FRAMES_A_SECOND: u32 = 12;
/// From the cameras to the gate.
pub(crate) const TRAVEL: Duration = Duration::from_millis(900);
pub(crate) const BEAT: Duration = Duration::from_millis(300);
/// Three heartbeats, as `docs/plc.md` has it.
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(900);
/// From the cable to the PLC's program: a scan, and what a busy machine needs besides.
pub(crate) const REACTION: Duration = Duration::from_millis(150);
/// Parts that come before the first one that counts: for the cameras to begin.
const AHEAD: Duration = Duration::from_millis(1500);

/// Scenarios hold deadlines: one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When something fails, by chance; `LINEWARDEN_GATE_SEED` has it fail at the same moments again.
pub(crate) fn chance() -> Result<fastrand::Rng> {
    let seed = std::env::var("LINEWARDEN_GATE_SEED").map_or_else(|_| Ok(fastrand::u64(..)), |seed| seed.parse())?;
    say(&format!("LINEWARDEN_GATE_SEED={seed}"));
    Ok(fastrand::Rng::with_seed(seed))
}

pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "    {text}");
}

pub(crate) fn belt_spec() -> BeltSpec {
    BeltSpec { width_px: 320, height_px: 240, seed: 4, defect_rate: 0.3 }
}

/// A real model of such parts; trained once.
pub(crate) fn model() -> &'static PathBuf {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gate");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        train_model(Path::new(env!("CARGO_BIN_EXE_linewarden")), &folder, &belt_spec()).unwrap()
    })
}

/// What opens a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// The PLC at MQTT tells its number.
    Mqtt,
    /// The PLC at Modbus counts in a register.
    Modbus,
}

/// The daemon and all that it talks to. Each client reaches the broker over a cable of its own.
pub(crate) struct Site {
    pub(crate) broker: Mosquitto,
    pub(crate) daemons_cable: Cable,
    pub(crate) plcs_cable: Cable,
    pub(crate) daemon: DaemonSandbox,
    pub(crate) belt: Belt,
    modbus_port: u16,
    counter_port: u16,
    config: String,
}

/// A port that stays while brokers come and go.
pub(crate) struct Cable {
    port: u16,
    proxy: Option<Proxy>,
}

impl Cable {
    fn new(broker: &Mosquitto) -> Result<Self> {
        let port = free_port()?;
        Ok(Self { port, proxy: Some(Proxy::start_at(port, broker.port())?) })
    }

    pub(crate) fn unplug(&mut self) {
        self.proxy = None;
    }

    pub(crate) fn plug_into(&mut self, broker: &Mosquitto) -> Result<()> {
        self.unplug();
        self.proxy = Some(Proxy::start_at(self.port, broker.port())?);
        Ok(())
    }

    pub(crate) fn set_silent(&self, is_silent: bool) {
        if let Some(proxy) = &self.proxy {
            proxy.set_silent(is_silent);
        }
    }
}

/// A broker as the README advises: 40 ms are too long to gather small packets where a verdict is due in as many.
pub(crate) fn broker(persistence: bool) -> Result<Mosquitto> {
    Mosquitto::start_with(&MosquittoOptions { persistence, no_delay: true, ..MosquittoOptions::default() })
}

impl Site {
    /// A site whose daemon is yet to be started; `cameras` are told the belt.
    pub(crate) fn new(trigger: Trigger, cameras: impl FnOnce(&Belt) -> Result<String>) -> Result<Self> {
        let broker = broker(false)?;
        let (daemons_cable, plcs_cable) = (Cable::new(&broker)?, Cable::new(&broker)?);
        let (modbus_port, counter_port) = (free_port()?, free_port()?);
        let belt = Belt { start: Timestamp::now(), parts_a_second: PARTS_A_SECOND };
        let opened_by = match trigger {
            Trigger::Mqtt => "trigger = \"mqtt\"".to_owned(),
            Trigger::Modbus => format!(
                "trigger = \"modbus\"\nmodbus = {{ address = \"127.0.0.1:{counter_port}\", input_register = 7, poll = \"4ms\" }}"
            ),
        };
        let config = format!(
            "[mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nheartbeat_interval = \"300ms\"\nack_topic = \"{{prefix}}/{{line}}/ack\"\n\
             [sparkplug]\ngroup = \"plant\"\nnode = \"cell\"\nheartbeat_interval = \"300ms\"\n\
             [[line]]\nname = \"belt\"\nmodel = \"{}\"\ndevice = \"cpu\"\ndecision = {{ confidence_limit = 0.9 }}\n\
             modbus = {{ listen = \"127.0.0.1:{modbus_port}\", heartbeat_interval = \"300ms\" }}\n\
             [line.parts]\n{opened_by}\ngrace = \"120ms\"\n\
             [line.gate]\ndistance_mm = 900\nspeed_mm_s = 1000\ndecide_before = \"40ms\"\n{}",
            daemons_cable.port,
            model().display(),
            cameras(&belt)?
        );
        let daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
        Ok(Self { broker, daemons_cable, plcs_cable, daemon, belt, modbus_port, counter_port, config })
    }

    /// Another broker at the same place.
    pub(crate) fn replace_broker(&mut self, broker: Mosquitto) -> Result<()> {
        self.broker = broker;
        self.daemons_cable.plug_into(&self.broker)?;
        self.plcs_cable.plug_into(&self.broker)
    }

    /// The line begins with another model.
    pub(crate) fn begin_with(&mut self, other: &Path) {
        self.config = self.config.replace(&model().display().to_string(), &other.display().to_string());
    }

    pub(crate) fn start_daemon(&mut self) -> Result<()> {
        self.daemon.start(&self.config)
    }

    /// The PLCs are switched on, then the daemon; the shift begins when parts can be decided.
    pub(crate) fn begin(&mut self, trigger: Trigger, seconds: f64) -> Result<Gates> {
        let mqtt = MqttDoor::connect(self.plcs_cable.port, "belt")?;
        let counter_port = if trigger == Trigger::Modbus { self.counter_port } else { 0 };
        let modbus = ModbusDoor::open(self.modbus_port, counter_port)?;
        let sparkplug = SparkplugDoor::connect(self.plcs_cable.port, "plant", "cell", "belt")?;
        self.start_daemon()?;
        self.daemon.wait_ready()?;
        self.daemon.wait_metric("linewarden_trigger_connected{line=\"belt\"}", |value| value == 1.0)?;
        for camera in ["top", "side"] {
            self.daemon
                .wait_metric(&format!("linewarden_camera_connected{{camera=\"{camera}\",line=\"belt\"}}"), |there| {
                    there == 1.0
                })?;
        }
        let first = self.belt.first_after(AHEAD);
        let parts = first..first + (seconds * PARTS_A_SECOND) as u64;
        let work = |triggers| Work {
            belt: self.belt,
            parts: parts.clone(),
            travel: TRAVEL,
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            triggers,
        };
        let plcs = vec![
            ("MQTT", Plc::start("mqtt", mqtt, work(trigger == Trigger::Mqtt))?),
            ("Modbus", Plc::start("modbus", modbus, work(trigger == Trigger::Modbus))?),
            ("Sparkplug", Plc::start("sparkplug", sparkplug, work(false))?),
        ];
        Ok(Gates { plcs, belt: self.belt, first })
    }

    /// Ends the daemon as an operator does.
    pub(crate) fn end(mut self) -> Result<()> {
        self.daemon.terminate()?;
        ensure!(self.daemon.wait_end()?.success(), "{}", self.daemon.log()?);
        let log = self.daemon.log()?;
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    }
}

/// Two cameras in the daemon's own pipelines.
pub(crate) fn two_cameras(belt: &Belt) -> Result<String> {
    Ok(camera("top", &within(belt, FRAMES_A_SECOND, 0)) + &camera("side", &within(belt, FRAMES_A_SECOND, 1)))
}

/// A source within the daemon.
pub(crate) fn within(belt: &Belt, frames_a_second: u32, view: u32) -> String {
    format!("launch = \"{}\"\nlive = true", belt.camera(&belt_spec(), frames_a_second, view, 2))
}

/// What a camera over the belt is told.
pub(crate) fn camera(name: &str, source: &str) -> String {
    camera_that_sees_from(name, source, "20ms", "140ms")
}

/// The same, which takes only pictures that are so much later than the trigger.
pub(crate) fn camera_that_sees_from(name: &str, source: &str, offset: &str, window: &str) -> String {
    format!(
        "[[line.camera]]\nname = \"{name}\"\n{source}\noffset = \"{offset}\"\nwindow = \"{window}\"\nqueue = {{ frames = 4 }}\n"
    )
}

/// The PLCs of a shift.
pub(crate) struct Gates {
    plcs: Vec<(&'static str, Plc)>,
    belt: Belt,
    first: u64,
}

impl Gates {
    /// Waits until the belt has run for so long since the shift's first part. The belt moves by the clock.
    pub(crate) fn wait(&self, seconds: f64) {
        let until = self.belt.comes_at(self.first) + SignedDuration::from_secs_f64(seconds);
        std::thread::sleep(Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default());
    }

    pub(crate) fn finish(self) -> Result<Vec<(&'static str, Shift)>> {
        self.plcs.into_iter().map(|(name, plc)| Ok((name, plc.finish().context(name)?))).collect()
    }
}

/// A time in which the PLC may have known nothing: from a fault to the promised end of its effects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

impl Fault {
    /// Healed now; its effects are over after what the product `promises` for this fault, for the parts that come under
    /// the cameras from then on.
    pub(crate) fn healed_now(from: Timestamp, promises: Duration) -> Self {
        let until = Timestamp::now() + signed(promises + TRAVEL + REACTION);
        Self { from, until }
    }

    pub(crate) fn holds(&self, at: Timestamp) -> bool {
        (self.from..=self.until).contains(&at)
    }
}

pub(crate) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or_default()
}

/// What the gate did with a shift.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bad parts, all of them taken off.
    pub(crate) bad: usize,
    /// Good parts that went on.
    pub(crate) passed: usize,
    /// Good parts that were taken off for safety's sake, all of them within a fault.
    pub(crate) safe: usize,
    /// Parts of which nothing was known at the gate: no verdict, or nobody alive to stand for it.
    pub(crate) in_doubt: usize,
}

/// Holds every part at the gate against the truth of the belt.
pub(crate) fn check(name: &str, shift: &Shift, faults: &[Fault]) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for passage in &shift.passages {
        check_order(passage)?;
        let has_verdict = |order: &Order| [Action::Pass, Action::Reject].contains(&order.action);
        let is_known = passage.was_alive && passage.order.as_ref().is_some_and(|(_, order)| has_verdict(order));
        tally.in_doubt += usize::from(!is_known);
        let is_bad = defect_of(&belt_spec(), passage.part).is_some();
        match (is_bad, passage.is_removed) {
            (true, false) => anyhow::bail!("{name}: a bad part passed: {passage:?}"),
            (true, true) => tally.bad += 1,
            (false, false) => tally.passed += 1,
            (false, true) => {
                let is_explained = faults.iter().any(|fault| fault.holds(passage.at));
                wrong.extend((!is_explained).then_some(passage));
                tally.safe += 1;
            }
        }
    }
    let Tally { bad, passed, safe, in_doubt } = tally;
    say(&format!(
        "{name}: {bad} bad parts taken off, {passed} good ones passed, {safe} taken off for safety; {in_doubt} parts without \
         a verdict; {:?}",
        shift.counters
    ));
    ensure!(wrong.is_empty(), "{name}: good parts were taken off outside of {faults:?}: {wrong:#?}");
    Ok(tally)
}

/// The gate did with this part what was said of this part, and nothing else.
fn check_order(passage: &Passage) -> Result<()> {
    let may_pass = passage.was_alive && passage.order.as_ref().is_some_and(|(_, order)| order.action == Action::Pass);
    ensure!(passage.is_removed != may_pass, "the gate did not do as it was told: {passage:?}");
    let Some((came, order)) = &passage.order else { return Ok(()) };
    ensure!(order.part == passage.part && *came < passage.at, "an order for another part or moment: {passage:?}");
    if let Some(reject_at) = order.reject_at {
        let off = reject_at.duration_since(passage.at).abs();
        ensure!(off < SignedDuration::from_millis(150), "the daemon expects the part {off:?} off: {passage:?}");
    }
    Ok(())
}
