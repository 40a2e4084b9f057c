//! A Modbus TCP client: writes the picture into the PLC's own coils and registers, and reads its acknowledgements there.
//!
//! A PLC that cannot be reached misses what happens meanwhile; once it is back it gets the picture of that moment, in
//! which nothing is live that is over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::Backoff;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_modbus::client::{Context, Reader as _, Writer as _, tcp};
use tokio_modbus::slave::Slave;

use super::picture::{COILS, Picture, REGISTERS};
use super::{ClientConfig, ModbusConfig};
use crate::OutputError;
use crate::mailbox::Mailbox;
use crate::thread::{self, Running};

/// A connection that held this long was a good one: the next attempt comes quickly.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);

struct Client {
    config: ClientConfig,
    heartbeat_interval: Duration,
    mailbox: Arc<Mailbox>,
    picture: Picture,
    /// What the PLC has now; none when that is not known.
    written: Option<([bool; COILS as usize], [u16; REGISTERS as usize])>,
    /// The PLC's acknowledgement as it was read last. One from before the connection means nothing.
    acknowledgement: Option<u16>,
}

pub(crate) fn start(
    name: String,
    mailbox: Arc<Mailbox>,
    config: &ModbusConfig,
    client: ClientConfig,
) -> Result<Running, OutputError> {
    let client = Client {
        config: client,
        heartbeat_interval: config.heartbeat_interval,
        mailbox: Arc::clone(&mailbox),
        picture: super::new_picture(config, &mailbox),
        written: None,
        acknowledgement: None,
    };
    thread::start(name, mailbox, async move || Ok(client.run()))
}

impl Client {
    async fn run(mut self) {
        let mut backoff = Backoff::of_peer();
        loop {
            match self.connect().await {
                Ok(mut plc) => {
                    tracing::info!(plc = self.config.connect, "Modbus PLC connected");
                    self.mailbox.tally.connected.store(1, Ordering::Relaxed);
                    let since = Instant::now();
                    let outcome = self.drive(&mut plc).await;
                    self.mailbox.tally.connected.store(0, Ordering::Relaxed);
                    if since.elapsed() > GOOD_CONNECTION {
                        backoff.reset();
                    }
                    match outcome {
                        Ok(()) => return,
                        Err(error) => tracing::warn!(plc = self.config.connect, %error, "Modbus PLC lost, retrying"),
                    }
                }
                Err(error) => {
                    tracing::warn!(plc = self.config.connect, %error, "Modbus PLC cannot be reached, retrying")
                }
            }
            // Without a PLC decisions still come and expire.
            let deliver = || super::deliver(&self.mailbox, &mut self.picture);
            if self.mailbox.pass_time(backoff.next_delay(), deliver).await {
                return;
            }
        }
    }

    async fn connect(&mut self) -> io::Result<Context> {
        (self.written, self.acknowledgement) = (None, None);
        let stream = within(self.config.timeout, TcpStream::connect(&self.config.connect)).await?;
        stream.set_nodelay(true)?;
        Ok(tcp::attach_slave(stream, Slave(self.config.unit)))
    }

    /// Keeps the PLC up to date until the end, or until it fails.
    async fn drive(&mut self, plc: &mut Context) -> io::Result<()> {
        let mut heartbeat = tokio::time::interval(self.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_acknowledged = self.config.acknowledge_at.is_some();
        loop {
            self.read_acknowledgement(plc).await?;
            if super::deliver(&self.mailbox, &mut self.picture) {
                self.picture.clear();
                return self.write(plc).await;
            }
            self.write(plc).await?;
            let mut wait = self.picture.wait(Timestamp::now());
            if is_acknowledged && self.picture.shows_something() {
                wait = wait.min(self.config.poll);
            }
            tokio::select! {
                () = self.mailbox.news() => {}
                _ = heartbeat.tick() => self.picture.heartbeat = self.picture.heartbeat.wrapping_add(1),
                () = tokio::time::sleep_until(Instant::now() + wait) => {}
            }
        }
    }

    async fn read_acknowledgement(&mut self, plc: &mut Context) -> io::Result<()> {
        let Some(at) = self.config.acknowledge_at else { return Ok(()) };
        let read = answer(self.config.timeout, plc.read_holding_registers(at, 1)).await?;
        let low_half = read.first().copied().unwrap_or(0);
        // Only a change counts: what stands there from an earlier run may equal a number of this one.
        if self.acknowledgement.replace(low_half).is_some_and(|before| before != low_half) {
            self.picture.acknowledge(low_half, Timestamp::now());
        }
        Ok(())
    }

    /// Numbers before coils when something is shown, coils before numbers when it is taken away: a coil that is on always
    /// has its own numbers beside it.
    async fn write(&mut self, plc: &mut Context) -> io::Result<()> {
        let now = Timestamp::now();
        self.picture.advance(now);
        let (coils, registers) = (self.picture.coils(), self.picture.registers(now, self.mailbox.stats()));
        let is_off_first = !coils[3] || self.written.is_some_and(|(_, before)| before[8..10] != registers[8..10]);
        if is_off_first && self.written.is_none_or(|(before, _)| before[3]) {
            let mut dark = coils;
            dark[..4].fill(false);
            self.write_coils(plc, dark).await?;
        }
        if let Some(at) = self.config.registers_at
            && self.written.is_none_or(|(_, before)| before != registers)
        {
            answer(self.config.timeout, plc.write_multiple_registers(at, &registers)).await?;
        }
        self.write_coils(plc, coils).await?;
        self.written = Some((coils, registers));
        Ok(())
    }

    async fn write_coils(&mut self, plc: &mut Context, coils: [bool; COILS as usize]) -> io::Result<()> {
        let Some(at) = self.config.coils_at else { return Ok(()) };
        if let Some((before, _)) = &mut self.written {
            if *before == coils {
                return Ok(());
            }
            *before = coils;
        }
        answer(self.config.timeout, plc.write_multiple_coils(at, &coils)).await
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(time, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {time:?}"))),
    }
}

/// What the PLC answers; an exception of its is an error too, and it says which.
async fn answer<T>(time: Duration, call: impl Future<Output = tokio_modbus::Result<T>>) -> io::Result<T> {
    let call = async {
        match call.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(exception)) => Err(io::Error::other(format!("the PLC refuses: {exception}"))),
            Err(error) => Err(io::Error::other(error)),
        }
    };
    within(time, call).await
}
