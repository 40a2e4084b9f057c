//! A simulated PLC that works a reject gate. A belt's clock, the parts on it and a [`Door`] to the daemon come in; what the
//! gate did with each part goes out. Its program is `docs/plc.st`, the very text, so that what the documents tell a PLC's
//! programmer is what is tested. It knows nothing of what is wrong with a part.

mod modbus;
mod mqtt;
mod program;
mod sparkplug;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};

pub use self::modbus::ModbusDoor;
pub use self::mqtt::MqttDoor;
use self::program::Program;
pub use self::program::{Action, Counters};
pub use self::sparkplug::SparkplugDoor;
use crate::belt::Belt;

/// From one scan to the next.
const SCAN: Duration = Duration::from_millis(5);

/// Where a PLC hears the daemon, and tells it things.
pub trait Door: Send {
    /// A part is under the cameras now. A message that cannot go is lost, as it is on a real cable.
    fn trigger(&mut self, part: u64, at: Timestamp);

    /// What was heard since the last scan, in order.
    ///
    /// # Errors
    /// When a message is none that the documents know.
    fn hear(&mut self) -> Result<Vec<Heard>>;

    /// The gate has worked for this decision.
    fn acknowledge(&mut self, run: u32, number: u32);
}

/// What came in through the door, and when.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When it was there.
    pub came: Timestamp,
    /// What it says.
    pub news: News,
}

/// What a message says.
#[derive(Debug, Clone)]
pub enum News {
    /// The daemon lives.
    Heartbeat,
    /// It does not: somebody else says so.
    Offline,
    /// What to do with a part.
    Order(Order),
}

/// A decision as a PLC reads it.
#[derive(Debug, Clone)]
pub struct Order {
    /// Which run of the daemon made it.
    pub run: u32,
    /// Its number in that run.
    pub number: u32,
    /// The part's trigger number.
    pub part: u64,
    /// What the gate is to do.
    pub action: Action,
    /// It came after its time, or was marked as history.
    pub is_expired: bool,
    /// When the part is at the gate, where the way in tells it.
    pub reject_at: Option<Timestamp>,
    /// The message, for whoever reads a failed test.
    pub text: String,
}

/// What a PLC is set up with.
#[derive(Debug, Clone)]
pub struct Work {
    /// When which part is under the cameras.
    pub belt: Belt,
    /// The parts that pass in this shift.
    pub parts: Range<u64>,
    /// How long a part takes from the cameras to the gate.
    pub travel: Duration,
    /// So long after the last heartbeat nothing is known.
    pub heartbeat_timeout: Duration,
    /// Whether this PLC is the one that tells the daemon of parts.
    pub triggers: bool,
}

/// What the gate did with a part.
#[derive(Debug, Clone)]
pub struct Passage {
    /// Its number.
    pub part: u64,
    /// When it was at the gate.
    pub at: Timestamp,
    /// The gate took it off the belt.
    pub is_removed: bool,
    /// The PLC knew then that the daemon lives.
    pub was_alive: bool,
    /// The order for it that came first, and when it came.
    pub order: Option<(Timestamp, Order)>,
}

/// A whole shift.
#[derive(Debug)]
pub struct Shift {
    /// Each part once, in the belt's order.
    pub passages: Vec<Passage>,
    /// What the function block counted.
    pub counters: Counters,
}

/// A PLC at work. It stops when dropped.
#[derive(Debug)]
pub struct Plc {
    thread: Option<JoinHandle<Result<Shift>>>,
    is_stopped: Arc<AtomicBool>,
}

impl Plc {
    /// Begins to scan.
    ///
    /// # Errors
    /// When the program is not as the documents have it.
    pub fn start(name: &str, door: impl Door + 'static, work: Work) -> Result<Self> {
        let program = Program::load(work.heartbeat_timeout)?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (next_at_camera, next_at_gate) = (work.parts.start, work.parts.start);
        let is_over = Arc::clone(&is_stopped);
        let scanning = Scanning {
            door: Box::new(door),
            work,
            program,
            next_at_camera,
            next_at_gate,
            orders: BTreeMap::new(),
            passages: Vec::new(),
        };
        let thread = thread::Builder::new().name(format!("plc-{name}")).spawn(move || scanning.run(&is_over))?;
        Ok(Self { thread: Some(thread), is_stopped })
    }

    /// Waits until the last part is past the gate.
    ///
    /// # Errors
    /// When the PLC heard what no document knows.
    pub fn finish(mut self) -> Result<Shift> {
        let thread = self.thread.take().context("a PLC finishes once")?;
        thread.join().unwrap_or_else(|_| bail!("the PLC's thread panicked"))
    }
}

impl Drop for Plc {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What went wrong in there is of no use any more.
            let _ = thread.join();
        }
    }
}

struct Scanning {
    door: Box<dyn Door>,
    work: Work,
    program: Program,
    next_at_camera: u64,
    next_at_gate: u64,
    /// The first order for each part that is not past the gate.
    orders: BTreeMap<u64, (Timestamp, Order)>,
    passages: Vec<Passage>,
}

impl Scanning {
    fn run(mut self, is_stopped: &AtomicBool) -> Result<Shift> {
        while self.next_at_gate < self.work.parts.end && !is_stopped.load(Ordering::Acquire) {
            // First the clock: what is heard after it may have come before it, but not the other way round.
            let now = Timestamp::now();
            let mut heard = VecDeque::from(self.door.hear()?);
            self.see_parts(now)?;
            // What a busy machine brings together is told apart by its time: an order counts when it came before its part.
            while let Some(at) = self.next_at_gate(now) {
                while let Some(earlier) = heard.pop_front_if(|heard| heard.came < at) {
                    self.take_in(earlier)?;
                }
                self.work_gate(at)?;
            }
            heard.into_iter().try_for_each(|heard| self.take_in(heard))?;
            self.program.idle(now)?;
            thread::sleep(SCAN);
        }
        Ok(Shift { passages: self.passages, counters: self.program.counters()? })
    }

    fn see_parts(&mut self, now: Timestamp) -> Result<()> {
        while self.next_at_camera < self.work.parts.end && self.work.belt.comes_at(self.next_at_camera) <= now {
            let (part, at) = (self.next_at_camera, self.work.belt.comes_at(self.next_at_camera));
            if self.work.triggers {
                self.door.trigger(part, at);
            }
            self.program.part_at_camera(at, part)?;
            self.next_at_camera += 1;
        }
        Ok(())
    }

    /// When the next part was at the gate, if it has been.
    fn next_at_gate(&self, now: Timestamp) -> Option<Timestamp> {
        let at = self.at_gate(self.next_at_gate);
        (self.next_at_gate < self.next_at_camera && at <= now).then_some(at)
    }

    fn at_gate(&self, part: u64) -> Timestamp {
        self.work.belt.comes_at(part) + SignedDuration::try_from(self.work.travel).unwrap_or_default()
    }

    fn take_in(&mut self, heard: Heard) -> Result<()> {
        let Heard { came, news } = heard;
        match news {
            News::Heartbeat => self.program.heartbeat(came),
            News::Offline => self.program.offline(came),
            News::Order(order) => {
                let acknowledged = self.program.order(came, &order)?;
                self.acknowledge(acknowledged);
                let is_on_belt = (self.next_at_gate..self.next_at_camera).contains(&order.part);
                if is_on_belt && !order.is_expired {
                    self.orders.entry(order.part).or_insert((came, order));
                }
                Ok(())
            }
        }
    }

    fn work_gate(&mut self, at: Timestamp) -> Result<()> {
        let part = self.next_at_gate;
        let gate = self.program.part_at_gate(at, part)?;
        self.acknowledge(gate.acknowledged);
        let order = self.orders.remove(&part);
        self.passages.push(Passage { part, at, is_removed: gate.is_removed, was_alive: gate.was_alive, order });
        self.next_at_gate += 1;
        Ok(())
    }

    fn acknowledge(&mut self, decision: Option<(u32, u32)>) {
        if let Some((run, number)) = decision {
            self.door.acknowledge(run, number);
        }
    }
}
