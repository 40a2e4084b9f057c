//! MQTT 5: what a subscriber of that version is told beside the message.

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use crate::support::{PATIENCE, config, decision, field, frame, start};
use linewarden_publish::{MqttVersion, PublishEvent, PublisherConfig, Qos};
use linewarden_testkit::broker::{Mosquitto, MosquittoOptions};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{Client, Event, MqttOptions};

const LONG: Duration = Duration::from_secs(60);

fn v5(broker: &Mosquitto) -> PublisherConfig {
    PublisherConfig { version: MqttVersion::V5, ..config(&broker.url()) }
}

/// Somebody who speaks MQTT 5 and hears everything; ends with the test's process.
fn listen(broker: &Mosquitto) -> Receiver<Publish> {
    let options = MqttOptions::new("listener", "127.0.0.1", broker.port());
    let (client, mut connection) = Client::new(options, 16);
    let (ready_sender, ready) = mpsc::channel();
    let (sender, messages) = mpsc::channel();
    std::thread::spawn(move || {
        client.subscribe("linewarden/#", QoS::ExactlyOnce).unwrap();
        for event in connection.iter().map_while(Result::ok) {
            match event {
                Event::Incoming(Packet::SubAck(_)) => drop(ready_sender.send(())),
                // Nobody may be waiting any more.
                Event::Incoming(Packet::Publish(message)) => drop(sender.send(message)),
                _ => {}
            }
        }
    });
    ready.recv_timeout(PATIENCE).unwrap();
    messages
}

fn next(messages: &Receiver<Publish>, name: &str) -> Publish {
    loop {
        let message = messages.recv_timeout(PATIENCE).unwrap();
        if message.topic.ends_with(name.as_bytes()) {
            return message;
        }
    }
}

#[test]
fn a_message_tells_when_it_ends_what_it_is_and_which_it_is() {
    let broker = Mosquitto::start().unwrap();
    let messages = listen(&broker);
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (publisher, _events) = start(PublisherConfig { qos, ..v5(&broker) });
        publisher.decision(&decision(1, Duration::from_millis(2700))).unwrap();
        let live = next(&messages, "/decision");
        let expected = if qos == Qos::ExactlyOnce { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        assert_eq!(live.qos, expected);
        let properties = live.properties.unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(properties.payload_format_indicator, Some(1));
        let id = format!("{}-d-1", publisher.boot_id());
        assert_eq!(properties.correlation_data.as_deref(), Some(id.as_bytes()));
        // The broker takes off what it kept the message for, in whole seconds.
        let seconds = properties.message_expiry_interval.unwrap();
        assert!((1..=3).contains(&seconds), "{seconds}");

        publisher.result(&frame(0)).unwrap();
        let result = next(&messages, "/top/result");
        assert_eq!(result.qos, QoS::AtLeastOnce);
        assert!((55..=60).contains(&result.properties.unwrap().message_expiry_interval.unwrap()));
        publisher.decision(&decision(2, Duration::ZERO)).unwrap();
        let past = next(&messages, "/decision/historical");
        assert_eq!(past.qos, expected);
        let properties = past.properties.unwrap();
        assert_eq!(properties.correlation_data.as_deref(), Some(format!("{}-d-2", publisher.boot_id()).as_bytes()));
        assert!(properties.message_expiry_interval.unwrap() > 80_000);
        let state = next(&messages, "/state").properties.unwrap();
        assert_eq!((state.message_expiry_interval, state.content_type.as_deref()), (None, Some("application/json")));
        assert!(publisher.stop(PATIENCE));
    }
}

#[test]
fn the_broker_itself_forgets_a_decision_that_nobody_fetched_in_time() {
    let broker = Mosquitto::start().unwrap();
    // Its session outlives its absence: the broker keeps for it what it misses.
    let options = |clean: bool| {
        let mut options = MqttOptions::new("sleeper", "127.0.0.1", broker.port());
        options.set_clean_start(clean);
        options.set_session_expiry_interval(Some(600));
        options
    };
    let hear = |clean: bool, until: &str| {
        let (client, mut connection) = Client::new(options(clean), 16);
        client.subscribe("linewarden/line1/decision", QoS::AtLeastOnce).unwrap();
        let mut parts = Vec::new();
        for event in connection.iter().map_while(Result::ok) {
            match event {
                Event::Incoming(Packet::SubAck(_)) if until == "subscribed" => break,
                Event::Incoming(Packet::Publish(message)) => {
                    let message: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
                    parts.push(message["part"].as_u64().unwrap());
                    if message["part"] == 2 {
                        break;
                    }
                }
                _ => {}
            }
        }
        parts
    };
    assert!(hear(true, "subscribed").is_empty());
    let (publisher, _events) = start(v5(&broker));
    publisher.decision(&decision(1, Duration::from_secs(1))).unwrap();
    assert!(publisher.drain(PATIENCE));
    std::thread::sleep(Duration::from_millis(2500));
    publisher.decision(&decision(2, LONG)).unwrap();
    assert!(publisher.drain(PATIENCE));
    assert_eq!(hear(false, "the second part"), [2]);
    assert!(publisher.stop(PATIENCE));
}

#[test]
fn a_broker_killed_in_the_middle_gets_everything_in_both_versions_and_qualities() {
    for version in [MqttVersion::V3_1_1, MqttVersion::V5] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let options = MosquittoOptions { persistence: true, ..MosquittoOptions::default() };
            let mut broker = Mosquitto::start_with(&options).unwrap();
            let subscriber = broker.subscribe("linewarden/line1/decision").unwrap();
            let (publisher, events) = start(PublisherConfig { version, qos, ..config(&broker.url()) });
            events.wait_connected();
            for part in 1..=300 {
                publisher.decision(&decision(part, LONG)).unwrap();
                if part == 150 {
                    broker.kill().unwrap();
                    events.wait_disconnected();
                    broker.restart().unwrap();
                }
            }
            assert!(publisher.drain(PATIENCE), "{version:?} {qos:?}");
            let mut parts = std::collections::BTreeSet::new();
            while parts.len() < 300 {
                let message = subscriber.next_message(PATIENCE).unwrap();
                parts.insert(field(&message, "part").as_u64().unwrap());
            }
            assert_eq!(publisher.stats().decisions.acknowledged, 300);
            assert!(publisher.stop(PATIENCE));
            drop(events);
        }
    }
}

#[test]
fn a_wrong_password_is_told_in_version_5_too() {
    let broker = Mosquitto::start_with(&MosquittoOptions {
        credentials: Some(("line1", "right-word")),
        ..MosquittoOptions::default()
    })
    .unwrap();
    let url = broker.url().replace("://", "://line1:wrong-word@");
    let (_publisher, events) = start(PublisherConfig { version: MqttVersion::V5, ..config(&url) });
    let failed = events.wait_for(|event| matches!(event, PublishEvent::ConnectFailed { .. }));
    let error = "the broker refused the connection: not authorized, check user and password".to_owned();
    assert_eq!(failed, PublishEvent::ConnectFailed { error });
}
