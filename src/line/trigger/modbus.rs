//! Asks a PLC over Modbus TCP: a part each time an input rises, or each time a register counts on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_core::Backoff;
use linewarden_core::parts::Trigger;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_modbus::client::{Context, Reader as _, tcp};
use tokio_modbus::slave::Slave;

use crate::config::{ModbusPoint, ModbusTrigger};
use crate::line::gate::Gate;

/// What takes longer has failed: a part is gone by then.
const PATIENCE: Duration = Duration::from_secs(1);
/// A connection that held this long was a good one: the next attempt comes quickly.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);

/// The thread that asks. Ends when dropped.
pub(in crate::line) struct Poller {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// What was read last.
#[derive(Debug, Default)]
struct Edge {
    last: Option<u16>,
    rises: u64,
}

impl Poller {
    pub(super) fn start(line: &str, config: ModbusTrigger, gate: Arc<Gate>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime of a trigger over Modbus")?;
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.notified() => {}
                    () = ask_for_ever(&config, &gate) => {}
                }
            });
        };
        let thread = thread::Builder::new().name(format!("lw-modbus-{line}")).spawn(work);
        Ok(Self { stop, thread: Some(thread.context("cannot start the thread of a trigger over Modbus")?) })
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.stop.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a trigger over Modbus panicked");
        }
    }
}

async fn ask_for_ever(config: &ModbusTrigger, gate: &Gate) {
    let mut backoff = Backoff::of_peer();
    let mut edge = Edge::default();
    loop {
        let began = Instant::now();
        let Err(error) = ask_one_connection(config, gate, &mut edge).await;
        if began.elapsed() >= GOOD_CONNECTION {
            backoff.reset();
        }
        gate.triggers_connected(Some(&format!("{error:#}")));
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Asks until something fails.
async fn ask_one_connection(
    config: &ModbusTrigger,
    gate: &Gate,
    edge: &mut Edge,
) -> anyhow::Result<std::convert::Infallible> {
    let connecting = tcp::connect_slave(config.address, Slave(config.unit));
    let mut plc = in_time(connecting, config.address).await?;
    let mut turn = tokio::time::interval(config.poll);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Nobody knows what happened while nobody asked.
    edge.last = None;
    let mut is_first = true;
    loop {
        turn.tick().await;
        let value = read(&mut plc, config).await?;
        if std::mem::take(&mut is_first) {
            gate.triggers_connected(None);
        }
        if let Some(number) = edge.next(config.point, value) {
            gate.trigger(Trigger { number: Some(number), encoder: None, at: Timestamp::now() });
        }
    }
}

async fn read(plc: &mut Context, config: &ModbusTrigger) -> anyhow::Result<u16> {
    let first = |values: Vec<u16>| values.first().copied();
    let value = match config.point {
        ModbusPoint::DiscreteInput(place) => {
            in_time(plc.read_discrete_inputs(place, 1), config.address).await??.first().map(|&is_on| u16::from(is_on))
        }
        ModbusPoint::InputRegister(place) => first(in_time(plc.read_input_registers(place, 1), config.address).await??),
        ModbusPoint::HoldingRegister(place) => {
            first(in_time(plc.read_holding_registers(place, 1), config.address).await??)
        }
    };
    value.with_context(|| format!("{} answers without a value", config.address))
}

async fn in_time<T, E>(work: impl Future<Output = Result<T, E>>, address: SocketAddr) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let done = tokio::time::timeout(PATIENCE, work).await;
    let done = done.with_context(|| format!("{address} does not answer within {PATIENCE:?}"))?;
    done.with_context(|| format!("cannot ask {address}"))
}

impl Edge {
    /// The number of the part that this value tells of, if it tells of one.
    fn next(&mut self, point: ModbusPoint, value: u16) -> Option<u64> {
        let before = self.last.replace(value)?;
        match point {
            ModbusPoint::DiscreteInput(_) => {
                let is_rise = before == 0 && value != 0;
                self.rises += u64::from(is_rise);
                is_rise.then(|| self.rises - 1)
            }
            ModbusPoint::InputRegister(_) | ModbusPoint::HoldingRegister(_) => {
                (value != before).then(|| u64::from(value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_tells_of_a_part_when_it_rises_and_a_register_when_it_counts_on() {
        let told = |point: ModbusPoint, values: &[u16]| {
            let mut edge = Edge::default();
            values.iter().filter_map(|value| edge.next(point, *value)).collect::<Vec<_>>()
        };
        assert_eq!(told(ModbusPoint::DiscreteInput(0), &[1, 1, 0, 1, 1, 0, 0, 1]), [0, 1]);
        assert_eq!(told(ModbusPoint::InputRegister(0), &[7, 7, 8, 10, 10, 65_535, 0]), [8, 10, 65_535, 0]);
    }
}
