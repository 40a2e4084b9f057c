//! What a publisher is told, and what must hold of it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use linewarden_core::BootId;
use rumqttc::{TlsConfiguration, Transport};

use crate::broker_url::BrokerUrl;
use crate::credentials::Credentials;
use crate::error::PublishError;
use crate::journal::Fsync;
use crate::subscriber::check_topic;
use crate::tls::TlsFiles;
use crate::wire::{MqttVersion, Qos};

/// Longest name in a topic, in bytes.
const LONGEST_NAME: usize = 255;

/// How a line's messages reach its broker. [`PublisherConfig::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// Where the broker is.
    pub broker: BrokerUrl,
    /// Brokers to turn to, in this order, when that one cannot be reached. Whichever works is stayed with.
    pub other_brokers: Vec<BrokerUrl>,
    /// Which MQTT is spoken.
    pub version: MqttVersion,
    /// How decisions are carried, and the gate's acknowledgements. Results are always carried at least once.
    pub qos: Qos,
    /// Lets the broker keep our subscription, and the acknowledgements that come meanwhile, this long while we are away. The
    /// client id is then the same in every run. MQTT 3.1.1 has no word for the time.
    pub session_expiry: Option<Duration>,
    /// Topic on which the gate acknowledges rejects; `{prefix}` and `{line}` stand for those.
    pub ack_topic: Option<String>,
    /// How long the gate may take to acknowledge a reject.
    pub ack_timeout: Duration,
    /// What becomes of decisions that cannot be delivered at once.
    pub outbox: OutboxConfig,
    /// File with one line `user:password`, used when `broker` names no user.
    pub credentials_file: Option<PathBuf>,
    /// First part of every topic; may hold `/`.
    pub topic_prefix: String,
    /// Name of the line.
    pub line: String,
    /// Certificate authorities to trust, PEM; the system's when not given. Only with `mqtts://`.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate chain, PEM, with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Private key of `cert_file`, PEM.
    pub key_file: Option<PathBuf>,
    /// MQTT client id; when not given `linewarden-<line>-<first digits of the boot id>`, or `linewarden-<line>` with a
    /// session that lasts.
    pub client_id: Option<String>,
    /// How many messages may wait.
    pub outbox_capacity: usize,
    /// How long a result is worth delivering. A decision says so itself.
    pub result_expiry: Duration,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// MQTT keep-alive, whole seconds. The broker declares the line offline after one and a half of it in silence.
    pub keep_alive: Duration,
    /// How long an attempt to connect may take.
    pub connect_timeout: Duration,
    /// With messages in flight and none acknowledged for this long, the connection is given up and built anew.
    pub acknowledge_timeout: Duration,
}

/// Decisions that wait, and those whose time has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Folder for the line's file, `<line>.sqlite`; without it decisions wait in memory only.
    pub path: Option<PathBuf>,
    /// When what is written is forced onto the disk.
    pub fsync: Fsync,
    /// How many decisions whose time has passed are kept for the topic `decision/historical`.
    pub keep: usize,
    /// How long after their time they are kept.
    pub keep_for: Duration,
    /// How many of them are sent in a second.
    pub historical_per_second: u32,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            path: None,
            fsync: Fsync::default(),
            keep: 10_000,
            keep_for: Duration::from_secs(24 * 3600),
            historical_per_second: 100,
        }
    }
}

impl PublisherConfig {
    /// Defaults for a line at a broker.
    pub fn new(broker: BrokerUrl, line: impl Into<String>) -> Self {
        Self {
            broker,
            other_brokers: Vec::new(),
            version: MqttVersion::default(),
            qos: Qos::default(),
            session_expiry: None,
            ack_topic: None,
            ack_timeout: Duration::from_secs(1),
            outbox: OutboxConfig::default(),
            credentials_file: None,
            topic_prefix: "linewarden".to_owned(),
            line: line.into(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            client_id: None,
            outbox_capacity: 4096,
            result_expiry: Duration::from_secs(60),
            heartbeat_interval: Duration::from_secs(1),
            keep_alive: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(3),
            acknowledge_timeout: Duration::from_secs(10),
        }
    }

    /// Everything that [`Publisher::start`](crate::Publisher::start) would refuse, without starting anything.
    ///
    /// # Errors
    /// When a name, a range, a file or a combination is wrong.
    pub fn check(&self) -> Result<(), PublishError> {
        self.checked().map(drop)
    }

    pub(crate) fn checked(&self) -> Result<Vec<Connection>, PublishError> {
        check_prefix(&self.topic_prefix)?;
        check_name("line", &self.line)?;
        if let Some(client_id) = &self.client_id {
            check_name("client-id", client_id)?;
        }
        if !(1..=1_000_000).contains(&self.outbox_capacity) {
            let got = self.outbox_capacity.to_string();
            return Err(PublishError::Range { key: "outbox-capacity", got, allowed: "from 1 to 1000000" });
        }
        let (ms, second, hour) = (Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(3600));
        check_range("result-expiry", self.result_expiry, ms..=24 * hour, "from 1ms to 24h")?;
        check_range("heartbeat-interval", self.heartbeat_interval, 100 * ms..=hour, "from 100ms to 1h")?;
        check_range("keep-alive", self.keep_alive, second..=18 * hour, "from 1s to 18h")?;
        check_range("connect-timeout", self.connect_timeout, 100 * ms..=60 * second, "from 100ms to 60s")?;
        check_range("acknowledge-timeout", self.acknowledge_timeout, 100 * ms..=hour, "from 100ms to 1h")?;
        check_range("ack-timeout", self.ack_timeout, 10 * ms..=hour, "from 10ms to 1h")?;
        self.check_session()?;
        self.check_outbox()?;
        if let Some(topic) = self.ack_topic() {
            check_topic("ack-topic", &topic)?;
        }
        let tls = self.tls()?;
        let brokers = std::iter::once(&self.broker).chain(&self.other_brokers);
        brokers.map(|broker| self.connection(broker, tls.as_ref())).collect()
    }

    fn connection(&self, broker: &BrokerUrl, tls: Option<&TlsConfiguration>) -> Result<Connection, PublishError> {
        let environment = |variable: &str| std::env::var(variable).ok();
        let credentials = Credentials::find(broker, self.credentials_file.as_deref(), environment)?;
        let transport = match tls {
            Some(tls) if broker.is_tls() => Transport::tls_with_config(tls.clone()),
            _ => Transport::Tcp,
        };
        Ok(Connection { broker: broker.clone(), transport, credentials })
    }

    fn tls(&self) -> Result<Option<TlsConfiguration>, PublishError> {
        let [ca, cert, key] = [&self.ca_file, &self.cert_file, &self.key_file].map(|path| path.as_deref());
        let files = TlsFiles { ca, cert, key };
        let mut encrypted = std::iter::once(&self.broker).chain(&self.other_brokers).filter(|broker| broker.is_tls());
        let Some(first) = encrypted.next() else {
            files.require_none()?;
            return Ok(None);
        };
        if first.is_ipv6() || encrypted.any(BrokerUrl::is_ipv6) {
            // The client library passes one text both as address and as the name in the certificate.
            let problem = "`mqtts://` needs the broker's host name or IPv4 address, not an IPv6 address";
            return Err(PublishError::Combination(problem.to_owned()));
        }
        Ok(Some(TlsConfiguration::from(files.client_config()?)))
    }

    fn check_session(&self) -> Result<(), PublishError> {
        let (second, year) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600));
        if let Some(expiry) = self.session_expiry {
            check_range("session-expiry", expiry, second..=year, "from 1s to 8760h")?;
            if self.qos == Qos::ExactlyOnce {
                // Halves of deliveries that an earlier connection left at the broker would take ours for their own.
                let problem = "`qos` 2 needs a session that begins anew with each connection: take `qos` 1, or no persistent session";
                return Err(PublishError::Combination(problem.to_owned()));
            }
        }
        if self.version == MqttVersion::V5 && self.keep_alive < 5 * second {
            let got = format!("{:?}", self.keep_alive);
            return Err(PublishError::Range { key: "keep-alive", got, allowed: "at least 5s with MQTT 5" });
        }
        Ok(())
    }

    fn check_outbox(&self) -> Result<(), PublishError> {
        let OutboxConfig { keep, keep_for, historical_per_second, .. } = &self.outbox;
        if *keep > 1_000_000 {
            return Err(PublishError::Range { key: "keep", got: keep.to_string(), allowed: "from 0 to 1000000" });
        }
        let (second, year) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600));
        check_range("keep-for", *keep_for, second..=year, "from 1s to 8760h")?;
        if !(1..=10_000).contains(historical_per_second) {
            let got = historical_per_second.to_string();
            return Err(PublishError::Range { key: "historical-per-second", got, allowed: "from 1 to 10000" });
        }
        Ok(())
    }

    /// The gate's topic, whole.
    pub(crate) fn ack_topic(&self) -> Option<String> {
        let topic = self.ack_topic.as_ref()?;
        Some(topic.replace("{prefix}", &self.topic_prefix).replace("{line}", &self.line))
    }

    pub(crate) fn client_id(&self, boot_id: BootId) -> String {
        let short: String = boot_id.to_string().chars().take(8).collect();
        match (&self.client_id, self.session_expiry) {
            (Some(client_id), _) => client_id.clone(),
            (None, Some(_)) => format!("linewarden-{}", self.line),
            (None, None) => format!("linewarden-{}-{short}", self.line),
        }
    }
}

/// A broker and what was read and checked once, for every connection to it.
pub(crate) struct Connection {
    pub(crate) broker: BrokerUrl,
    pub(crate) transport: Transport,
    pub(crate) credentials: Option<Credentials>,
}

/// Whether a line's or camera's name can be one level of a topic.
///
/// # Errors
/// Names `key` and what is allowed.
pub fn check_name(key: &'static str, name: &str) -> Result<(), PublishError> {
    if is_level(name) {
        return Ok(());
    }
    let allowed = "1 to 255 bytes without `+`, `#`, `/` and control characters, and not start with `$`";
    Err(PublishError::Name { key, name: name.to_owned(), allowed })
}

fn check_prefix(prefix: &str) -> Result<(), PublishError> {
    if prefix.len() <= LONGEST_NAME && prefix.split('/').all(is_level) {
        return Ok(());
    }
    let allowed =
        "names of 1 to 255 bytes joined by `/`, without `+`, `#` and control characters, and not start with `$`";
    Err(PublishError::Name { key: "topic-prefix", name: prefix.to_owned(), allowed })
}

fn is_level(name: &str) -> bool {
    // Brokers cut off a client whose topic holds control characters; `$` is theirs.
    let is_forbidden = |character: char| "+#/".contains(character) || character.is_control();
    (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('$') && !name.contains(is_forbidden)
}

fn check_range(
    key: &'static str,
    value: Duration,
    range: RangeInclusive<Duration>,
    allowed: &'static str,
) -> Result<(), PublishError> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(PublishError::Range { key, got: format!("{value:?}"), allowed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut PublisherConfig)) -> PublisherConfig {
        let mut config = PublisherConfig::new("mqtt://localhost".parse().unwrap(), "line1");
        change(&mut config);
        config
    }

    fn message(change: impl FnOnce(&mut PublisherConfig)) -> String {
        config(change).check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_fine() {
        config(|_| ()).check().unwrap();
        config(|config| config.topic_prefix = "plant 7/hall/ü".to_owned()).check().unwrap();
    }

    #[test]
    fn names_that_would_change_the_topic_are_refused() {
        for name in ["", "a/b", "+", "a#", "nul\0", "tab\t", "$SYS", &"x".repeat(256)] {
            let error = check_name("camera", name).unwrap_err().to_string();
            assert!(error.starts_with("`camera` must be 1 to 255 bytes without `+`, `#`, `/`"), "{error}");
            assert!(message(|config| config.line = name.to_owned()).starts_with("`line` must be"));
        }
        for prefix in ["", "/a", "a/", "a//b", "a/+", "$share/a"] {
            assert!(message(|config| config.topic_prefix = prefix.to_owned()).starts_with("`topic-prefix` must be"));
        }
    }

    #[test]
    fn values_out_of_range_are_named_with_what_is_allowed() {
        assert_eq!(message(|config| config.outbox_capacity = 0), "`outbox-capacity` must be from 1 to 1000000, got 0");
        assert_eq!(
            message(|config| config.keep_alive = Duration::from_millis(500)),
            "`keep-alive` must be from 1s to 18h, got 500ms"
        );
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let lasting = |config: &mut PublisherConfig| config.session_expiry = Some(Duration::from_secs(60));
        config(lasting).check().unwrap();
        let both = message(|config| {
            lasting(config);
            config.qos = Qos::ExactlyOnce;
        });
        assert!(both.starts_with("`qos` 2 needs a session that begins anew"), "{both}");
        let short = message(|config| {
            config.version = MqttVersion::V5;
            config.keep_alive = Duration::from_secs(2);
        });
        assert_eq!(short, "`keep-alive` must be at least 5s with MQTT 5, got 2s");
        let topic = message(|config| config.ack_topic = Some("{prefix}/{line}/#".to_owned()));
        assert!(
            topic.starts_with("`ack-topic` must be a topic of 1 to 1024 bytes")
                && topic.ends_with("got `linewarden/line1/#`"),
            "{topic}"
        );
        assert_eq!(message(|config| config.outbox.keep = 1_000_001), "`keep` must be from 0 to 1000000, got 1000001");
        let rate = message(|config| config.outbox.historical_per_second = 0);
        assert_eq!(rate, "`historical-per-second` must be from 1 to 10000, got 0");
    }

    #[test]
    fn files_of_tls_are_checked_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let tls = |config: &mut PublisherConfig| config.broker = "mqtts://localhost".parse().unwrap();
        assert_eq!(message(|config| config.ca_file = Some(empty.clone())), "`ca-file` needs a broker at `mqtts://`");
        let absent = message(|config| {
            tls(config);
            config.ca_file = Some("/no/such/file.pem".into());
        });
        assert!(absent.starts_with("`ca-file`: cannot read `/no/such/file.pem`: "), "{absent}");
        let empty = message(|config| {
            tls(config);
            config.ca_file = Some(empty.clone());
        });
        assert!(empty.ends_with("must hold a PEM certificate, found none"), "{empty}");
        let ipv6 = message(|config| config.broker = "mqtts://[::1]".parse().unwrap());
        assert!(ipv6.contains("not an IPv6 address"), "{ipv6}");
    }

    #[test]
    fn the_client_id_names_line_and_boot() {
        let boot_id = BootId::from_u128(0x1234_5678 << 96);
        assert_eq!(config(|_| ()).client_id(boot_id), "linewarden-line1-12345678");
        let own = config(|config| config.client_id = Some("gate".to_owned()));
        assert_eq!(own.client_id(boot_id), "gate");
        let lasting = config(|config| config.session_expiry = Some(Duration::from_secs(60)));
        assert_eq!(lasting.client_id(boot_id), "linewarden-line1", "the broker must know it again");
    }
}
