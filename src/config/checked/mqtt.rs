//! `[mqtt]`, and `[line.mqtt]` where a line wants it otherwise: how messages reach the broker.

use std::time::Duration;

use linewarden_publish::{BrokerUrl, Fsync, MqttVersion, PublisherConfig, Qos};

use super::Context;
use crate::config::raw::Section;

/// `None` after noting what is wrong. The name of the line is filled in later.
pub(super) fn read_publisher(mqtt: &Section<'_>, context: &Context) -> Option<PublisherConfig> {
    read_over(mqtt, context, None)
}

/// The publisher of one line: what `[mqtt]` says, unless `[line.mqtt]` says otherwise. The outer `None` is a line without a
/// broker.
pub(super) fn read_line_publisher(
    line: &Section<'_>,
    context: &Context,
    common: Option<&Option<PublisherConfig>>,
) -> Option<Option<PublisherConfig>> {
    match line.section("mqtt") {
        Some(own) => Some(read_over(&own, context, common.and_then(Option::as_ref))),
        None => common.cloned(),
    }
}

fn read_over(mqtt: &Section<'_>, context: &Context, common: Option<&PublisherConfig>) -> Option<PublisherConfig> {
    let brokers = read_brokers(mqtt, common.is_none());
    // With a broker that is wrong or missing the other keys are read all the same: everything is told at once.
    let stand_in = || "mqtt://localhost".parse().ok().map(|broker| PublisherConfig::new(broker, "line"));
    let mut config = common.cloned().or_else(stand_in)?;
    if let Some(brokers) = &brokers {
        config.broker = brokers.first()?.clone();
        config.other_brokers = brokers.get(1..)?.to_vec();
        // They belong to the other brokers: a password is not shown to a stranger.
        (config.credentials_file, config.ca_file, config.cert_file, config.key_file) = (None, None, None, None);
    }
    read_files(mqtt, context, &mut config);
    read_times(mqtt, &mut config);
    read_session(mqtt, &mut config);
    read_gate_answers(mqtt, &mut config);
    read_outbox(mqtt, context, &mut config);
    // Read by `shadow.rs`, once the publisher stands.
    let _ = (mqtt.value("commands"), mqtt.value("models"));
    mqtt.finish();
    if brokers.is_none() && (common.is_none() || names_broker(mqtt)) {
        return None;
    }
    // What spans several keys, and what the files hold. The element has dashes where this file has underscores.
    if let Err(error) = config.check() {
        mqtt.problem(mqtt.at(), dashes_to_underscores(&error.to_string()));
        return None;
    }
    Some(config)
}

fn set<T>(value: &mut T, written: Option<T>) {
    if let Some(written) = written {
        *value = written;
    }
}

fn read_files(mqtt: &Section<'_>, context: &Context, config: &mut PublisherConfig) {
    let file = |key| mqtt.text(key).map(|path| Some(context.path(&path.value)));
    set(&mut config.credentials_file, file("credentials_file"));
    set(&mut config.ca_file, file("ca_file"));
    set(&mut config.cert_file, file("cert_file"));
    set(&mut config.key_file, file("key_file"));
}

fn read_times(mqtt: &Section<'_>, config: &mut PublisherConfig) {
    let (ms, second, hour) = (Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(3600));
    set(&mut config.topic_prefix, mqtt.text("topic_prefix").map(|prefix| prefix.value));
    let capacity = mqtt.integer("outbox_capacity", 1, 1_000_000);
    set(&mut config.outbox_capacity, capacity.and_then(|capacity| usize::try_from(capacity).ok()));
    set(&mut config.result_expiry, mqtt.duration("result_expiry", ms, 24 * hour));
    set(&mut config.heartbeat_interval, mqtt.duration("heartbeat_interval", 100 * ms, hour));
    set(&mut config.keep_alive, mqtt.duration("keep_alive", second, 18 * hour));
    set(&mut config.connect_timeout, mqtt.duration("connect_timeout", 100 * ms, 60 * second));
    set(&mut config.acknowledge_timeout, mqtt.duration("acknowledge_timeout", 100 * ms, hour));
}

fn read_session(mqtt: &Section<'_>, config: &mut PublisherConfig) {
    let versions = [("3.1.1", MqttVersion::V3_1_1), ("5", MqttVersion::V5)];
    set(&mut config.version, mqtt.choice("version", &versions));
    let qos = mqtt.integer("qos", 1, 2).map(|qos| if qos == 2 { Qos::ExactlyOnce } else { Qos::AtLeastOnce });
    set(&mut config.qos, qos);
    let (second, year) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600));
    set(&mut config.session_expiry, mqtt.duration("session_expiry", second, year).map(Some));
}

fn read_gate_answers(mqtt: &Section<'_>, config: &mut PublisherConfig) {
    set(&mut config.ack_topic, mqtt.text("ack_topic").map(|topic| Some(topic.value)));
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(3600));
    set(&mut config.ack_timeout, mqtt.duration("ack_timeout", least, most));
}

fn read_outbox(mqtt: &Section<'_>, context: &Context, config: &mut PublisherConfig) {
    let Some(section) = mqtt.section("outbox") else { return };
    let outbox = &mut config.outbox;
    set(&mut outbox.path, section.text("path").map(|path| Some(context.path(&path.value))));
    let modes = [("always", Fsync::Always), ("interval", Fsync::Interval), ("never", Fsync::Never)];
    set(&mut outbox.fsync, section.choice("fsync", &modes));
    let keep = section.integer("keep", 0, 1_000_000);
    set(&mut outbox.keep, keep.and_then(|keep| usize::try_from(keep).ok()));
    let (second, year) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600));
    set(&mut outbox.keep_for, section.duration("keep_for", second, year));
    let rate = section.integer("historical_per_second", 1, 10_000);
    set(&mut outbox.historical_per_second, rate.and_then(|rate| u32::try_from(rate).ok()));
    section.finish();
}

fn names_broker(mqtt: &Section<'_>) -> bool {
    mqtt.value("broker").is_some() || mqtt.value("brokers").is_some()
}

/// One broker, or several in their order. Never quotes an address: it may hold a password.
fn read_brokers(mqtt: &Section<'_>, is_needed: bool) -> Option<Vec<BrokerUrl>> {
    let allowed = "one or more addresses, such as [\"mqtt://127.0.0.1:1883\"]";
    let written = mqtt.read("brokers", allowed, |value| {
        let addresses: Option<Vec<String>> =
            value.as_array()?.iter().map(|entry| Some(entry.get_ref().as_str()?.to_owned())).collect();
        addresses.filter(|addresses| !addresses.is_empty())
    });
    let single = mqtt.text("broker");
    let (at, addresses) = match (single, written) {
        (Some(single), None) if mqtt.value("brokers").is_none() => (single.at, vec![single.value]),
        (None, Some(several)) if mqtt.value("broker").is_none() => (several.at, several.value),
        (Some(_), Some(several)) => {
            mqtt.problem(several.at, "`brokers` takes the place of `broker`: give one of the two");
            return None;
        }
        _ => {
            if is_needed && !names_broker(mqtt) {
                mqtt.missing("broker", "an address such as \"mqtt://127.0.0.1:1883\"");
            }
            return None;
        }
    };
    let parse = |address: &String| address.parse::<BrokerUrl>().map_err(|error| mqtt.problem(at.clone(), error)).ok();
    addresses.iter().map(parse).collect()
}

/// Rewrites the quoted keys of a message, and nothing else in it.
fn dashes_to_underscores(message: &str) -> String {
    let keys = [
        "credentials-file",
        "ca-file",
        "cert-file",
        "key-file",
        "topic-prefix",
        "keep-alive",
        "session-expiry",
        "ack-topic",
        "ack-timeout",
    ];
    keys.iter().fold(message.to_owned(), |message, key| {
        message.replace(&format!("`{key}`"), &format!("`{}`", key.replace('-', "_")))
    })
}
