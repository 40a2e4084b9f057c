//! `[line.modbus]`, `[opcua]` and `[sparkplug]`: what PLCs and SCADA systems speak beside plain MQTT.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use linewarden_outputs::modbus::{ClientConfig, ModbusConfig, ModbusRole, Show, WordOrder};
use linewarden_outputs::opcua::{OpcUaConfig, Security};
use linewarden_outputs::sparkplug::SparkplugConfig;
use linewarden_publish::{PublisherConfig, check_name};

use super::Context;
use super::mqtt::read_line_publisher;
use crate::config::raw::Section;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// What a PLC's watchdog may take for a standstill after two or three of them.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// The outer `None` is a line without Modbus, the inner one comes after noting what is wrong.
pub(super) fn read_modbus(line: &Section<'_>) -> Option<Option<ModbusConfig>> {
    let section = line.section("modbus")?;
    let is_built = built(&section, cfg!(feature = "modbus"), "modbus");
    let listen = read_address(&section, "listen");
    let connect = section.text("connect");
    let client = read_client(&section);
    let show = read_show(&section, &client);
    let word_order =
        section.choice("word_order", &[("high_first", WordOrder::HighFirst), ("low_first", WordOrder::LowFirst)]);
    let heartbeat_interval = section.duration("heartbeat_interval", 10 * MS, HOUR).unwrap_or(HEARTBEAT);
    section.finish();
    let has = |key| section.value(key).is_some();
    let role = match (has("listen"), has("connect")) {
        (true, true) => {
            section.problem(section.at(), "`listen` and `connect` exclude each other: give one");
            None
        }
        (false, false) => {
            section.missing("listen", "an address to be polled at, such as \"127.0.0.1:1502\"; or give `connect`");
            None
        }
        (true, false) => {
            let only_for_clients = ["unit", "coils_at", "registers_at", "acknowledge_at", "poll", "timeout"];
            for key in only_for_clients.into_iter().filter(|key| has(key)) {
                section.problem(section.at(), format!("`{key}` needs `connect`"));
            }
            listen.map(|listen| ModbusRole::Server { listen })
        }
        (false, true) => {
            if client.coils_at.is_none() && client.registers_at.is_none() {
                section.missing("coils_at", "where the coils go; or give `registers_at`, or both");
            }
            if matches!(show, Show::Acknowledged) && client.acknowledge_at.is_none() {
                section.missing(
                    "acknowledge_at",
                    "the register that the PLC acknowledges in, with `show = \"acknowledged\"`",
                );
            }
            connect.map(|connect| ModbusRole::Client(ClientConfig { connect: connect.value, ..client }))
        }
    };
    let config = role.filter(|_| is_built);
    Some(config.map(|role| ModbusConfig { role, show, word_order: word_order.unwrap_or_default(), heartbeat_interval }))
}

fn read_client(section: &Section<'_>) -> ClientConfig {
    let register = |key| section.integer(key, 0, 65_535).and_then(|number| u16::try_from(number).ok());
    ClientConfig {
        connect: String::new(),
        unit: section.integer("unit", 0, 255).and_then(|number| u8::try_from(number).ok()).unwrap_or(1),
        coils_at: register("coils_at"),
        registers_at: register("registers_at"),
        acknowledge_at: register("acknowledge_at"),
        poll: section.duration("poll", MS, SECOND).unwrap_or(10 * MS),
        timeout: section.duration("timeout", 10 * MS, 60 * SECOND).unwrap_or(SECOND),
    }
}

fn read_show(section: &Section<'_>, client: &ClientConfig) -> Show {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Acknowledged,
        Pulse,
        AtGate,
    }
    let words = [("acknowledged", Word::Acknowledged), ("pulse", Word::Pulse), ("at_gate", Word::AtGate)];
    let written = section.choice("show", &words);
    let pulse = section.duration("pulse", 5 * MS, 60 * SECOND);
    // A client that is given no register to look at cannot wait for an acknowledgement.
    let is_blind = section.value("connect").is_some() && client.acknowledge_at.is_none();
    let word = written.unwrap_or(if is_blind && pulse.is_some() { Word::Pulse } else { Word::Acknowledged });
    let time = pulse.unwrap_or(100 * MS);
    match word {
        Word::Acknowledged => {
            if section.value("pulse").is_some() {
                section.problem(section.at(), "`pulse` needs `show = \"pulse\"` or `show = \"at_gate\"`");
            }
            Show::Acknowledged
        }
        Word::Pulse => Show::Pulse(time),
        Word::AtGate => Show::AtGate(time),
    }
}

/// As [`read_modbus`].
pub(super) fn read_opcua(root: &Section<'_>, context: &Context) -> Option<Option<OpcUaConfig>> {
    let section = root.section("opcua")?;
    let is_built = built(&section, cfg!(feature = "opcua"), "opcua");
    let listen = read_address(&section, "listen");
    let host = section.text("host").map(|host| host.value);
    let policies = [
        ("none", Security::None),
        ("basic256sha256", Security::Basic256Sha256),
        ("aes128_sha256_rsaoaep", Security::Aes128Sha256RsaOaep),
        ("aes256_sha256_rsapss", Security::Aes256Sha256RsaPss),
    ];
    let names: Vec<&str> = policies.iter().map(|(name, _)| *name).collect();
    let written = section.read("security", &format!("a list of {}", names.join(", ")), |value| {
        let find = |name: &str| policies.iter().find(|(known, _)| *known == name).map(|(_, security)| *security);
        value.as_array()?.iter().map(|name| find(name.get_ref().as_str()?)).collect::<Option<Vec<_>>>()
    });
    let pki_dir = section.text("pki_dir").map(|path| context.path(&path.value));
    let users_file = section.text("users_file").map(|path| context.path(&path.value));
    let heartbeat_interval = section.duration("heartbeat_interval", 10 * MS, HOUR).unwrap_or(HEARTBEAT);
    section.finish();
    let is_security_wrong = section.value("security").is_some() && written.is_none();
    let is_listen_wrong = section.value("listen").is_some() && listen.is_none();
    if !is_built || is_security_wrong || is_listen_wrong {
        return Some(None);
    }
    // What OPC UA's own registered port is.
    let listen = listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 4840).into());
    let usual = match listen.ip().is_loopback() && pki_dir.is_none() {
        true => vec![Security::None],
        false => vec![Security::Basic256Sha256, Security::Aes256Sha256RsaPss],
    };
    let security = written.map_or(usual, |written| written.value);
    let config = OpcUaConfig { listen, host, security, pki_dir, users_file, heartbeat_interval };
    let checked = config.check().map_err(|problem| section.problem(section.at(), problem));
    Some(checked.ok().map(|()| config))
}

/// As [`read_modbus`].
pub(super) fn read_sparkplug(
    root: &Section<'_>,
    context: &Context,
    common: Option<&Option<PublisherConfig>>,
) -> Option<Option<SparkplugConfig>> {
    let section = root.section("sparkplug")?;
    let is_built = built(&section, cfg!(feature = "sparkplug"), "sparkplug");
    let name = |key: &'static str| {
        let text = section.text(key)?;
        check_name(key, &text.value).map_err(|error| section.problem(text.at, error)).ok().map(|()| text.value)
    };
    let (group, node, primary_host) = (name("group"), name("node"), name("primary_host"));
    for key in ["group", "node"] {
        if section.value(key).is_none() {
            section.missing(key, "one level of a topic, such as \"plant1\"");
        }
    }
    let is_host_wrong = section.value("primary_host").is_some() && primary_host.is_none();
    let buffer = section.integer("buffer", 1, 1_000_000).and_then(|buffer| usize::try_from(buffer).ok());
    let heartbeat_interval = section.duration("heartbeat_interval", 10 * MS, HOUR).unwrap_or(SECOND);
    let connection = read_line_publisher(&section, context, common);
    section.finish();
    if connection.is_none() {
        section.missing("mqtt", "a table `[sparkplug.mqtt]` with the broker, where there is no `[mqtt]`");
    }
    let config = |connection: PublisherConfig| {
        Some(SparkplugConfig {
            connection,
            group: group?,
            node: node?,
            primary_host,
            buffer: buffer.unwrap_or(1000),
            heartbeat_interval,
        })
    };
    Some(connection.flatten().filter(|_| is_built && !is_host_wrong).and_then(config))
}

fn read_address(section: &Section<'_>, key: &'static str) -> Option<SocketAddr> {
    let allowed = "an address and port such as \"127.0.0.1:1502\"";
    section.read(key, allowed, |value| value.as_str()?.parse().ok()).map(|address| address.value)
}

/// False after saying that this build cannot do it.
fn built(section: &Section<'_>, is_built: bool, feature: &str) -> bool {
    if !is_built {
        section
            .problem(section.at(), format!("this build cannot do that: build Linewarden with the feature `{feature}`"));
    }
    is_built
}
