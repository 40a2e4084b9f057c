//! Several brokers: another one is found at once, and stayed with.

use std::time::{Duration, Instant};

use crate::support::{Events, PATIENCE, config, decision, start};
use linewarden_publish::{PublishEvent, Publisher, PublisherConfig};
use linewarden_testkit::broker::Mosquitto;

const LONG: Duration = Duration::from_secs(60);

fn next_broker(events: &Events) -> String {
    match events.wait_for(|event| matches!(event, PublishEvent::Connected { .. })) {
        PublishEvent::Connected { broker, .. } => broker,
        other => unreachable!("waited for another event than {other:?}"),
    }
}

fn publish(publisher: &Publisher, part: u64) {
    publisher.decision(&decision(part, LONG)).unwrap();
    assert!(publisher.drain(PATIENCE));
}

#[test]
fn another_broker_takes_over_within_two_seconds_and_keeps_the_line() {
    let (mut first, mut second) = (Mosquitto::start().unwrap(), Mosquitto::start().unwrap());
    let other_brokers = vec![second.url().parse().unwrap()];
    let (publisher, events) = start(PublisherConfig { other_brokers, ..config(&first.url()) });
    assert_eq!(next_broker(&events), first.url());
    publish(&publisher, 1);

    let heard_second = second.subscribe("linewarden/line1/decision").unwrap();
    first.kill().unwrap();
    let killed_at = Instant::now();
    assert_eq!(next_broker(&events), second.url());
    publish(&publisher, 2);
    println!("published at the other broker {:?} after the first one's end", killed_at.elapsed());
    assert!(killed_at.elapsed() < Duration::from_secs(2), "took {:?}", killed_at.elapsed());
    heard_second.next_message(PATIENCE).unwrap();

    // The first one is back, and that is no reason to leave.
    first.restart().unwrap();
    publish(&publisher, 3);
    heard_second.next_message(PATIENCE).unwrap();
    assert_eq!(publisher.stats().reconnects, 1);
    second.kill().unwrap();
    assert_eq!(next_broker(&events), first.url());
    publish(&publisher, 4);
    assert!(publisher.stop(PATIENCE));
}

#[test]
fn publishing_resumes_within_two_seconds_of_the_brokers_return_however_long_it_was_away() {
    let mut broker = Mosquitto::start().unwrap();
    let (publisher, events) = start(config(&broker.url()));
    next_broker(&events);
    broker.kill().unwrap();
    publisher.decision(&decision(1, LONG)).unwrap();
    // Long enough for the longest pause between two attempts.
    for _ in 0..6 {
        events.wait_for(|event| matches!(event, PublishEvent::ConnectFailed { .. }));
    }
    broker.restart().unwrap();
    let back_at = Instant::now();
    assert!(publisher.drain(PATIENCE));
    println!("publishing resumed {:?} after the broker's return", back_at.elapsed());
    assert!(back_at.elapsed() < Duration::from_secs(2), "took {:?}", back_at.elapsed());
    assert!(publisher.stop(PATIENCE));
}
