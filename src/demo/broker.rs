//! A broker in this process, on loopback only, for as long as the demo lives.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use linewarden_publish::BrokerUrl;
use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};

const START_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// The broker. It ends with the process: `rumqttd` has no other end.
pub(super) struct Broker {
    address: SocketAddr,
}

impl Broker {
    /// Starts it on a free port and waits until it accepts connections.
    pub(super) fn start() -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()?));
        let mut broker = rumqttd::Broker::new(config(address));
        let thread = std::thread::Builder::new().name("demo-broker".to_owned());
        let serve = move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the embedded broker ended");
            }
        };
        thread.spawn(serve).context("cannot start the broker's thread")?;
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            anyhow::ensure!(Instant::now() < deadline, "the embedded broker does not answer on {address}");
            std::thread::sleep(RETRY);
        }
        Ok(Self { address })
    }

    /// Where it listens.
    pub(super) fn url(&self) -> anyhow::Result<BrokerUrl> {
        format!("mqtt://{}", self.address).parse().context("the broker's own address is no URL")
    }
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: MAX_PAYLOAD_BYTES,
        max_inflight_count: 200,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let name = "demo".to_owned();
    let server = ServerSettings { name: name.clone(), listen, tls: None, next_connection_delay_ms: 1, connections };
    Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 1 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([(name, server)])),
        ..Config::default()
    }
}
