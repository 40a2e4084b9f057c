//! What reaches a real broker, in which order, and what the retained state says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Events, PATIENCE, config, decision, field, frame, next_on, next_seqs, start};
use linewarden_publish::{MessageKind, PublishEvent, Publisher, PublisherConfig};
use linewarden_testkit::broker::{Message, Mosquitto, MosquittoOptions, Proxy, Subscriber};
use linewarden_testkit::tls::Certificates;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn two_thousand_results_arrive_in_order_none_lost_none_twice() {
    let broker = Mosquitto::start().unwrap();
    let subscriber = broker.subscribe("linewarden/line1/top/result").unwrap();
    let (publisher, _events) = start(config(&broker.url()));
    for number in 0..2000 {
        assert_eq!(publisher.result(&frame(number)), Some(number + 1));
    }
    for number in 0..2000 {
        let message = subscriber.next_message(PATIENCE).unwrap();
        assert_eq!(field(&message, "seq"), number + 1);
        assert_eq!(field(&message, "frame"), number);
        assert!(message.acknowledged && !message.retained);
    }
    assert!(publisher.stop(PATIENCE));
    assert_eq!(subscriber.arrived(), []);
    let stats = publisher.stats();
    assert_eq!((stats.results.sent, stats.results.acknowledged, stats.results.dropped), (2000, 2000, 0));
    assert_eq!(stats.outbox_messages, 0);
}

#[test]
fn a_result_and_its_decision_arrive_on_their_topics_with_ids_of_their_own() {
    let broker = Mosquitto::start().unwrap();
    let subscriber = broker.subscribe("plant/#").unwrap();
    let (publisher, _events) =
        start(PublisherConfig { topic_prefix: "plant/hall 7".to_owned(), ..config(&broker.url()) });
    assert_eq!(publisher.result(&frame(0)), Some(1));
    assert_eq!(publisher.decision(&decision(0, LONG)), Some(1));
    let boot_id = publisher.boot_id().to_string();
    // The two topics keep no order between each other.
    let mut messages = [(); 2].map(|()| {
        let is_wanted = |topic: &str| topic.ends_with("/result") || topic.ends_with("/decision");
        subscriber.next_where(PATIENCE, |message| is_wanted(&message.topic)).unwrap()
    });
    messages.sort_by(|one, other| one.topic.cmp(&other.topic));
    let expected = [("plant/hall 7/line1/decision", "d"), ("plant/hall 7/line1/top/result", "r")];
    for (message, (topic, letter)) in messages.iter().zip(expected) {
        assert_eq!(message.topic, topic);
        assert_eq!(field(message, "id"), format!("{boot_id}-{letter}-1"));
        assert_eq!(field(message, "boot_id"), boot_id);
        assert!(message.acknowledged && !message.retained, "{topic}");
    }
    assert!(publisher.drain(PATIENCE));
}

#[test]
fn a_broker_killed_in_the_middle_blocks_nobody_and_afterwards_gets_what_is_still_worth_it() {
    let options = MosquittoOptions { persistence: true, ..MosquittoOptions::default() };
    let mut broker = Mosquitto::start_with(&options).unwrap();
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    let (publisher, events) = start(config(&broker.url()));
    events.wait_connected();
    for number in 0..20 {
        publisher.result(&frame(number));
    }
    assert_eq!(next_seqs(&subscriber, "/result", 20), Vec::from_iter(1..=20));

    // A frozen broker swallows what is in flight without ever seeing it; then it is killed.
    broker.freeze().unwrap();
    let mut longest_call = Duration::ZERO;
    let mut publish = |number: u64, life: Duration| {
        let started = Instant::now();
        publisher.result(&frame(number)).unwrap();
        publisher.decision(&decision(number, life)).unwrap();
        longest_call = longest_call.max(started.elapsed());
    };
    (20..40).for_each(|number| publish(number, LONG));
    broker.kill().unwrap();
    events.wait_disconnected();
    assert!(!publisher.stats().connected);
    (40..340).for_each(|number| {
        publish(number, Duration::from_millis(if number % 2 == 0 { 200 } else { 60_000 }));
        std::thread::sleep(Duration::from_millis(5));
    });
    while publisher.stats().decisions.expired < 150 {
        events.wait_for(|event| *event == PublishEvent::Expired { kind: MessageKind::Decision });
    }

    let restarted_at = Instant::now();
    broker.restart().unwrap();
    events.wait_for(|event| matches!(event, PublishEvent::Connected { reconnects: 1, .. }));
    println!("longest call with the broker away: {longest_call:?}; connected again after {:?}", restarted_at.elapsed());
    assert!(longest_call < Duration::from_millis(500), "a call took {longest_call:?}");

    assert!(publisher.drain(PATIENCE));
    let final_state = subscriber_sees_everything_once(&subscriber);
    assert_eq!(field(&final_state, "reconnects"), 1);
    assert_eq!(field(&final_state, "decisions.expired"), 150);
    assert_eq!(field(&final_state, "decisions.acknowledged"), 170);
    assert_eq!(field(&final_state, "results.acknowledged"), 340);
    assert_eq!(field(&final_state, "results.dropped"), 0);
    assert!(publisher.stop(PATIENCE));
}

/// All results, the decisions that had not expired, each in order; gives the state that tells of the delivered backlog.
fn subscriber_sees_everything_once(subscriber: &Subscriber) -> Message {
    let (mut results, mut parts) = (Vec::new(), Vec::new());
    let last_state = subscriber.next_where(PATIENCE, |message| {
        match message.topic.rsplit('/').next().unwrap() {
            "result" => results.push(field(message, "seq").as_u64().unwrap()),
            "decision" => parts.push(field(message, "part").as_u64().unwrap()),
            "state" => return field(message, "results.acknowledged") == 340,
            _ => {}
        }
        false
    });
    // The killed broker forgot that the first twenty had been delivered, and may bring them again.
    results.retain(|&seq| seq > 20);
    assert_eq!(results, Vec::from_iter(21..=340));
    assert_eq!(parts, Vec::from_iter((20..40).chain((40..340).filter(|number| number % 2 == 1))));
    last_state.unwrap()
}

#[test]
fn a_broker_that_is_absent_at_the_start_is_waited_for() {
    let mut broker = Mosquitto::start().unwrap();
    broker.kill().unwrap();
    let (publisher, events) = start(config(&broker.url()));
    let failed = events.wait_for(|event| matches!(event, PublishEvent::ConnectFailed { .. }));
    assert!(format!("{failed:?}").contains("Connection refused"), "{failed:?}");
    publisher.result(&frame(0));
    publisher.decision(&decision(0, LONG));
    assert_eq!(publisher.stats().outbox_messages, 2);
    broker.restart().unwrap();
    assert!(publisher.drain(PATIENCE));
    let stats = publisher.stats();
    assert!(stats.connected);
    assert_eq!((stats.reconnects, stats.results.acknowledged, stats.decisions.acknowledged), (0, 1, 1));
}

#[test]
fn a_cut_cable_shows_as_offline_by_the_will_and_then_as_online_again() {
    let broker = Mosquitto::start().unwrap();
    let cable = Proxy::start(broker.port()).unwrap();
    let subscriber = broker.subscribe("linewarden/line1/state").unwrap();
    let (publisher, _events) = start(config(&format!("mqtt://127.0.0.1:{}", cable.port())));
    let states = |count: usize| Vec::from_iter((0..count).map(|_| subscriber.next_message(PATIENCE).unwrap()));
    assert_eq!(field(&states(1)[0], "state"), "online");
    cable.cut();
    let [lost, back] = states(2).try_into().unwrap();
    assert_eq!((field(&lost, "state"), field(&lost, "cause")), ("offline".into(), "connection_lost".into()));
    assert_eq!((field(&back, "state"), field(&back, "reconnects")), ("online".into(), 1.into()));
    assert_eq!(field(&back, "boot_id"), publisher.boot_id().to_string());
    publisher.set_state("camera_lost");
    let [told] = states(1).try_into().unwrap();
    assert_eq!((field(&told, "state"), field(&told, "line_state")), ("online".into(), "camera_lost".into()));
}

#[test]
fn a_clean_stop_leaves_offline_behind_and_no_will() {
    let broker = Mosquitto::start().unwrap();
    let subscriber = broker.subscribe("linewarden/line1/state").unwrap();
    let (publisher, events) = start(config(&broker.url()));
    events.wait_connected();
    publisher.result(&frame(0));
    assert!(publisher.stop(PATIENCE));
    assert_eq!(publisher.result(&frame(1)), None, "nothing is accepted after the stop");
    assert!(publisher.stop(PATIENCE), "a second stop finds nothing to do");
    let latecomer = broker.subscribe("linewarden/line1/state").unwrap();
    let state = latecomer.next_message(PATIENCE).unwrap();
    assert!(state.retained);
    assert_eq!((field(&state, "state"), field(&state, "cause")), ("offline".into(), "stopped".into()));
    assert_eq!(field(&state, "results.acknowledged"), 1);
    let told = subscriber.next_where(PATIENCE, |state| field(state, "state") == "offline").unwrap();
    assert_eq!(field(&told, "cause"), "stopped", "the will must not come first");
    // The broker sends a will for a client that "closed its connection", never for one that "disconnected".
    let client = format!("Client linewarden-line1-{}", &publisher.boot_id().to_string()[..8]);
    let log = broker.log().unwrap();
    assert!(log.contains(&format!("{client} disconnected.")), "{log}");
}

#[test]
fn heartbeats_come_at_their_interval_and_are_not_saved_up_while_the_broker_is_away() {
    let options = MosquittoOptions { persistence: true, ..MosquittoOptions::default() };
    let mut broker = Mosquitto::start_with(&options).unwrap();
    let subscriber = broker.subscribe("linewarden/line1/heartbeat").unwrap();
    let heartbeat_interval = Duration::from_millis(200);
    let (publisher, events) = start(PublisherConfig { heartbeat_interval, ..config(&broker.url()) });
    assert_eq!(next_seqs(&subscriber, "/heartbeat", 3), [1, 2, 3]);
    broker.kill().unwrap();
    events.wait_disconnected();
    std::thread::sleep(4 * heartbeat_interval);
    subscriber.arrived();
    broker.restart().unwrap();
    let next = next_on(&subscriber, "/heartbeat");
    assert!(!next.acknowledged && !next.retained);
    assert!(field(&next, "seq").as_u64().unwrap() < 7, "no heartbeat was counted while the broker was away");
    assert_eq!(field(&next, "reconnects"), 1);
    assert!(field(&next, "uptime_s").as_f64().unwrap() > 1.0);
    drop(publisher);
}

#[test]
fn a_full_outbox_drops_the_oldest_results_and_keeps_decisions() {
    let mut broker = Mosquitto::start().unwrap();
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    broker.kill().unwrap();
    let (publisher, events) = start(PublisherConfig { outbox_capacity: 10, ..config(&broker.url()) });
    (0..3).for_each(|part| assert!(publisher.decision(&decision(part, LONG)).is_some()));
    (0..20).for_each(|number| assert!(publisher.result(&frame(number)).is_some()));
    assert_eq!(publisher.stats().outbox_messages, 10);
    assert_eq!((publisher.stats().results.dropped, publisher.stats().decisions.dropped), (13, 0));
    let is_drop = |event: &PublishEvent| *event == PublishEvent::Dropped { kind: MessageKind::Result };
    assert_eq!(events.so_far().iter().filter(|event| is_drop(event)).count(), 13);

    drop(subscriber);
    broker.restart().unwrap();
    assert!(publisher.drain(PATIENCE));
    let stats = publisher.stats();
    assert_eq!((stats.results.acknowledged, stats.decisions.acknowledged), (7, 3));
}

#[test]
fn a_broker_that_falls_silent_is_left_and_found_again() {
    let broker = Mosquitto::start().unwrap();
    let subscriber = broker.subscribe("linewarden/line1/decision").unwrap();
    let acknowledge_timeout = Duration::from_millis(300);
    let connect_timeout = Duration::from_millis(500);
    let (publisher, events) = start(PublisherConfig { acknowledge_timeout, connect_timeout, ..config(&broker.url()) });
    publisher.decision(&decision(1, LONG));
    assert!(publisher.drain(PATIENCE));
    broker.freeze().unwrap();
    publisher.decision(&decision(2, LONG));
    let rebuilt = events.wait_for(|event| matches!(event, PublishEvent::Rebuilt { .. }));
    assert_eq!(rebuilt, PublishEvent::Rebuilt { reason: "nothing was acknowledged for 300ms".to_owned() });
    events.wait_for(|event| matches!(event, PublishEvent::ConnectFailed { .. }));
    broker.thaw().unwrap();
    assert!(publisher.drain(PATIENCE));
    assert!(publisher.stats().rebuilds >= 1);
    // Part 2 may arrive twice, once out of the frozen broker's own buffer; its number tells.
    assert_eq!(field(&subscriber.next_message(PATIENCE).unwrap(), "part"), 1);
    assert_eq!(field(&subscriber.next_message(PATIENCE).unwrap(), "part"), 2);
}

#[test]
fn dropping_the_last_handle_ends_the_thread_with_and_without_a_broker() {
    for is_present in [true, false] {
        let mut broker = Mosquitto::start().unwrap();
        if !is_present {
            broker.kill().unwrap();
        }
        let (publisher, events) = start(config(&broker.url()));
        // The thread holds the observer as long as it lives.
        let other = publisher.clone();
        drop(publisher);
        other.result(&frame(0)).unwrap();
        if is_present {
            events.wait_connected();
        }
        let started = Instant::now();
        drop(other);
        assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
        let last = ended(&events);
        match is_present {
            true => assert!(matches!(last, PublishEvent::Acknowledged { .. }), "{last:?}"),
            false => assert_eq!(last, PublishEvent::Dropped { kind: MessageKind::Result }),
        }
    }
}

/// The last event of a publisher whose observer is gone.
fn ended(events: &Events) -> PublishEvent {
    let all = events.so_far();
    assert!(events.is_disconnected(), "the publisher's thread still holds its observer");
    all.into_iter().rfind(|event| !matches!(event, PublishEvent::ConnectFailed { .. })).unwrap()
}

#[test]
fn a_stop_without_a_broker_ends_in_time_and_counts_what_is_left() {
    let mut broker = Mosquitto::start().unwrap();
    broker.kill().unwrap();
    let (publisher, _events) = start(config(&broker.url()));
    publisher.result(&frame(0));
    publisher.decision(&decision(0, LONG));
    assert!(!publisher.drain(Duration::from_millis(50)));
    let started = Instant::now();
    assert!(!publisher.stop(Duration::from_millis(300)));
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    let stats = publisher.stats();
    assert_eq!((stats.results.dropped, stats.decisions.dropped, stats.outbox_messages), (1, 1, 0));
}

#[test]
fn a_decision_that_is_too_late_already_and_a_camera_with_a_wrong_name_are_counted_and_not_sent() {
    let broker = Mosquitto::start().unwrap();
    let subscriber = broker.subscribe("linewarden/#").unwrap();
    let (publisher, _events) = start(config(&broker.url()));
    assert_eq!(publisher.decision(&decision(1, Duration::ZERO)), Some(1));
    let mut wrong = frame(0);
    wrong.camera = "top/#".to_owned();
    assert_eq!(publisher.result(&wrong), None);
    assert_eq!(publisher.decision(&decision(2, LONG)), Some(2));
    assert_eq!(next_seqs(&subscriber, "/decision", 1), [2]);
    assert!(publisher.stop(PATIENCE));
    let stats = publisher.stats();
    assert_eq!((stats.decisions.expired, stats.results.dropped), (1, 1));
}

#[test]
fn an_observer_may_stop_its_own_publisher() {
    let broker = Mosquitto::start().unwrap();
    let slot: Arc<std::sync::Mutex<Option<Publisher>>> = Arc::default();
    let held = Arc::clone(&slot);
    let observer = move |event: &PublishEvent| {
        if matches!(event, PublishEvent::Acknowledged { .. }) {
            held.lock().unwrap().take();
        }
    };
    let publisher = Publisher::start(config(&broker.url()), Arc::new(observer)).unwrap();
    let watching = broker.subscribe("linewarden/line1/state").unwrap();
    publisher.result(&frame(0));
    *slot.lock().unwrap() = Some(publisher);
    let stopped = watching.next_where(PATIENCE, |state| field(state, "state") == "offline").unwrap();
    assert_eq!(field(&stopped, "cause"), "stopped");
}

#[test]
fn the_latency_from_result_to_acknowledgement_is_printed() {
    let certificates = Certificates::generate().unwrap();
    for tls in [None, Some(&certificates)] {
        let broker = Mosquitto::start_with(&MosquittoOptions { tls, ..MosquittoOptions::default() }).unwrap();
        let ca_file = tls.map(Certificates::ca);
        let (publisher, events) = start(PublisherConfig { ca_file, ..config(&broker.url()) });
        events.wait_connected();
        for number in 0..300 {
            publisher.result(&frame(number));
            std::thread::sleep(Duration::from_millis(4));
        }
        assert!(publisher.stop(PATIENCE));
        let latency = |event: PublishEvent| match event {
            PublishEvent::Acknowledged { latency, .. } => Some(latency),
            _ => None,
        };
        let mut latencies: Vec<Duration> = events.so_far().into_iter().filter_map(latency).collect();
        assert_eq!(latencies.len(), 300);
        latencies.sort();
        let name = if tls.is_some() { "over TLS" } else { "plain" };
        let [median, p99, longest] = [150, 297, 299].map(|rank| latencies[rank]);
        println!("result to acknowledgement, {name}: p50 {median:?}, p99 {p99:?}, longest {longest:?}");
    }
}
