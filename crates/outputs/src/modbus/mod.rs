//! Modbus TCP: a PLC reads coils and registers here ([`ModbusRole::Server`]), or has them written into its own memory
//! ([`ModbusRole::Client`]). Both show one picture of the line, made by `picture.rs`; docs/modbus.md has its table.

#[cfg(feature = "modbus")]
mod client;
#[cfg(feature = "modbus")]
mod picture;
#[cfg(feature = "modbus")]
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use crate::OutputError;
use crate::thread::Running;

/// How one line speaks Modbus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModbusConfig {
    /// Who asks whom.
    pub role: ModbusRole,
    /// How long a decision is shown.
    pub show: Show,
    /// Order of the two registers of a 32-bit number.
    pub word_order: WordOrder,
    /// Time between two steps of the heartbeat register.
    pub heartbeat_interval: Duration,
}

/// Who asks whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModbusRole {
    /// The PLC polls us here.
    Server {
        /// Where we listen.
        listen: SocketAddr,
    },
    /// We write into the PLC.
    Client(ClientConfig),
}

/// Where the PLC is, and where in it our picture goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// `host:port` of the PLC.
    pub connect: String,
    /// Its unit number.
    pub unit: u8,
    /// Address of the first of the eight coils, if they are wanted.
    pub coils_at: Option<u16>,
    /// Address of the first holding register of the picture, if it is wanted.
    pub registers_at: Option<u16>,
    /// Address of the holding register that the PLC acknowledges in; for [`Show::Acknowledged`].
    pub acknowledge_at: Option<u16>,
    /// Time between two looks at the acknowledgement.
    pub poll: Duration,
    /// How long the PLC may take to answer.
    pub timeout: Duration,
}

/// How long a decision is shown, so that it is acted on once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Until the PLC acknowledges its number, and no longer than it is live.
    Acknowledged,
    /// As soon as it is made, for this long, and as long nothing after it.
    Pulse(Duration),
    /// When its part is at the gate, for this long: the coils can work an ejector. A decision that names no such moment is
    /// shown at once.
    AtGate(Duration),
}

/// Order of the two registers of a 32-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WordOrder {
    /// The high half first, as the Modbus examples have it.
    #[default]
    HighFirst,
    /// The low half first, as many PLCs have it.
    LowFirst,
}

#[cfg(feature = "modbus")]
pub(crate) fn start(line: String, config: ModbusConfig) -> Result<Running, OutputError> {
    let mailbox = crate::mailbox::Mailbox::new(vec![line.clone()]);
    let name = format!("modbus/{line}");
    match config.role.clone() {
        ModbusRole::Server { listen } => server::start(name, mailbox, &config, listen),
        ModbusRole::Client(client) => client::start(name, mailbox, &config, client),
    }
}

/// A picture of a line that has just begun.
#[cfg(feature = "modbus")]
fn new_picture(config: &ModbusConfig, mailbox: &crate::mailbox::Mailbox) -> picture::Picture {
    use std::hash::{BuildHasher as _, RandomState};
    // Each `RandomState` is keyed differently: random enough to tell two runs apart.
    let boot = RandomState::new().hash_one(0) as u16;
    let line = mailbox.take().lines.remove(0);
    picture::Picture::new(config.show, config.word_order, boot, line)
}

/// Brings what was told into the picture, and its outcome back; true when the end has come.
#[cfg(feature = "modbus")]
fn deliver(mailbox: &crate::mailbox::Mailbox, picture: &mut picture::Picture) -> bool {
    let now = jiff::Timestamp::now();
    let mail = mailbox.take();
    mail.lines.into_iter().for_each(|line| picture.set_line(line));
    mail.decisions.into_iter().for_each(|(_, decision)| picture.decided(decision, now));
    picture.advance(now);
    tell_outcome(mailbox, picture);
    mail.is_stopping
}

#[cfg(feature = "modbus")]
fn tell_outcome(mailbox: &crate::mailbox::Mailbox, picture: &picture::Picture) {
    use std::sync::atomic::Ordering::Relaxed;
    let outcome = picture.outcome();
    mailbox.tally.delivered.store(outcome.shown, Relaxed);
    mailbox.tally.expired.store(outcome.expired + outcome.dropped, Relaxed);
    mailbox.tally.unacknowledged.store(outcome.unacknowledged, Relaxed);
}

#[cfg(not(feature = "modbus"))]
pub(crate) fn start(_: String, _: ModbusConfig) -> Result<Running, OutputError> {
    Err(OutputError::NotBuilt { output: "Modbus", feature: "modbus" })
}
