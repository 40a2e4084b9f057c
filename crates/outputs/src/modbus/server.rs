//! A Modbus TCP server: the PLC polls, and writes its acknowledgements.

use std::borrow::Cow;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_modbus::prelude::{ExceptionCode, Request, Response};
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;

use super::ModbusConfig;
use super::picture::{ACKNOWLEDGE, COILS, Picture, REGISTERS};
use crate::OutputError;
use crate::mailbox::Mailbox;
use crate::thread::{self, Running};

/// A PLC, its spare and a few panels; whoever comes after them is refused.
const MOST_CLIENTS: usize = 16;
/// A client that vanished without a goodbye gives its place free after some of these.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// After an error of the listener, such as too many open files.
const RETRY: Duration = Duration::from_millis(500);

struct Shared {
    picture: Mutex<Picture>,
    mailbox: Arc<Mailbox>,
}

/// One client's connection.
struct Client {
    shared: Arc<Shared>,
    address: SocketAddr,
}

pub(crate) fn start(
    name: String,
    mailbox: Arc<Mailbox>,
    config: &ModbusConfig,
    listen: SocketAddr,
) -> Result<Running, OutputError> {
    let interval = config.heartbeat_interval;
    let shared =
        Arc::new(Shared { picture: Mutex::new(super::new_picture(config, &mailbox)), mailbox: Arc::clone(&mailbox) });
    thread::start(name, mailbox, async move || {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|source| OutputError::Listen { output: "Modbus", address: listen, source })?;
        tracing::info!(%listen, "Modbus server listening");
        Ok(async move {
            tokio::select! {
                () = serve(listener, &shared) => {}
                () = shared.follow(interval) => {}
            }
        })
    })
}

async fn serve(listener: TcpListener, shared: &Arc<Shared>) {
    let server = Server::new(listener);
    let on_connected = |stream: TcpStream, address: SocketAddr| ready(admit(shared, stream, address));
    let on_error = |error: io::Error| tracing::debug!(%error, "Modbus client lost");
    loop {
        if let Err(error) = server.serve(&on_connected, on_error).await {
            tracing::warn!(%error, "Modbus server cannot accept, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// A new client, unless there are too many.
fn admit(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr) -> io::Result<Option<(Client, TcpStream)>> {
    let connected = &shared.mailbox.tally.connected;
    if connected.load(Ordering::Relaxed) >= MOST_CLIENTS {
        tracing::warn!(%address, most = MOST_CLIENTS, "Modbus client refused: there are too many");
        return Ok(None);
    }
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    // A client that is gone already needs neither.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keep_alive);
    let _ = stream.set_nodelay(true);
    connected.fetch_add(1, Ordering::Relaxed);
    tracing::info!(%address, "Modbus client connected");
    Ok(Some((Client { shared: Arc::clone(shared), address }, stream)))
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.mailbox.tally.connected.fetch_sub(1, Ordering::Relaxed);
        tracing::info!(address = %self.address, "Modbus client gone");
    }
}

impl Shared {
    fn picture(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the picture up to date until the end.
    async fn follow(&self, heartbeat_interval: Duration) {
        let mut heartbeat = tokio::time::interval(heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wait = self.picture().wait(Timestamp::now());
            tokio::select! {
                () = self.mailbox.news() => {}
                _ = heartbeat.tick() => {
                    let mut picture = self.picture();
                    picture.heartbeat = picture.heartbeat.wrapping_add(1);
                }
                () = tokio::time::sleep_until(Instant::now() + wait) => {}
            }
            let mut picture = self.picture();
            if super::deliver(&self.mailbox, &mut picture) {
                return;
            }
        }
    }

    fn read_coils(&self, from: u16, count: u16) -> Result<Vec<bool>, ExceptionCode> {
        let mut picture = self.picture();
        picture.advance(Timestamp::now());
        Ok(slice(&picture.coils(), from, count)?.to_vec())
    }

    fn read_registers(&self, from: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
        let mut picture = self.picture();
        let now = Timestamp::now();
        picture.advance(now);
        if (from, count) == (ACKNOWLEDGE, 1) {
            return Ok(vec![picture.acknowledged_low_half()]);
        }
        // One answer is one moment: no half of a decision is ever read with half of another.
        Ok(slice(&picture.registers(now, self.mailbox.stats()), from, count)?.to_vec())
    }

    fn write(&self, at: u16, words: &[u16]) -> Result<(), ExceptionCode> {
        let (ACKNOWLEDGE, &[low_half]) = (at, words) else { return Err(ExceptionCode::IllegalDataAddress) };
        let mut picture = self.picture();
        let was_meant = picture.acknowledge(low_half, Timestamp::now());
        super::tell_outcome(&self.mailbox, &picture);
        if !was_meant {
            tracing::debug!(low_half, "Modbus acknowledgement of something that is not shown");
        }
        Ok(())
    }
}

fn slice<T>(all: &[T], from: u16, count: u16) -> Result<&[T], ExceptionCode> {
    let from = usize::from(from);
    all.get(from..from + usize::from(count)).ok_or(ExceptionCode::IllegalDataAddress)
}

impl Service for Client {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let shared = &self.shared;
        ready(match request {
            Request::ReadCoils(from, count) => shared.read_coils(from, count).map(Response::ReadCoils),
            Request::ReadDiscreteInputs(from, count) => {
                shared.read_coils(from, count).map(Response::ReadDiscreteInputs)
            }
            Request::ReadHoldingRegisters(from, count) => {
                shared.read_registers(from, count).map(Response::ReadHoldingRegisters)
            }
            Request::ReadInputRegisters(from, count) => {
                shared.read_registers(from, count).map(Response::ReadInputRegisters)
            }
            Request::WriteSingleRegister(at, word) => {
                shared.write(at, &[word]).map(|()| Response::WriteSingleRegister(at, word))
            }
            Request::WriteMultipleRegisters(at, words) => {
                shared.write(at, &words).map(|()| Response::WriteMultipleRegisters(at, 1))
            }
            // Acknowledges one and reads the next in one go.
            Request::ReadWriteMultipleRegisters(from, count, at, words) => shared
                .write(at, &Cow::into_owned(words))
                .and_then(|()| shared.read_registers(from, count))
                .map(Response::ReadWriteMultipleRegisters),
            _ => Err(ExceptionCode::IllegalFunction),
        })
    }
}

// The whole picture fits into one answer of each kind.
const _: () = assert!(REGISTERS <= 125 && COILS <= 2000 && ACKNOWLEDGE >= REGISTERS);
