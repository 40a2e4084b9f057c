//! What becomes of decisions that cannot be delivered in time: on disk, over restarts, and on a topic of their own.

use std::path::Path;
use std::time::Duration;

use crate::support::{PATIENCE, config, decision, field, frame, next_on, start};
use linewarden_publish::{Fsync, MessageKind, OutboxConfig, PublishEvent, PublisherConfig};
use linewarden_testkit::broker::{Message, Mosquitto, Subscriber};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn on_disk(url: &str, folder: &Path, fsync: Fsync) -> PublisherConfig {
    let outbox = OutboxConfig { path: Some(folder.to_owned()), fsync, ..OutboxConfig::default() };
    PublisherConfig { outbox, ..config(url) }
}

/// Boot id and number.
fn name(message: &Message) -> (String, u64) {
    let boot_id = field(message, "boot_id");
    (boot_id.as_str().unwrap().to_owned(), field(message, "seq").as_u64().unwrap())
}

fn next_names(subscriber: &Subscriber, count: usize) -> Vec<(String, u64)> {
    (0..count).map(|_| name(&subscriber.next_message(PATIENCE).unwrap())).collect()
}

#[test]
fn a_decision_whose_time_has_passed_is_told_as_historical_and_never_as_live() {
    let mut broker = Mosquitto::start().unwrap();
    broker.kill().unwrap();
    let (publisher, events) = start(config(&broker.url()));
    for part in 0..6 {
        publisher.decision(&decision(part, if part % 2 == 0 { SHORT } else { LONG })).unwrap();
        publisher.result(&frame(part)).unwrap();
    }
    for _ in 0..3 {
        events.wait_for(|event| *event == PublishEvent::Expired { kind: MessageKind::Decision });
    }
    assert_eq!((publisher.stats().outbox_messages, publisher.stats().historical_messages), (9, 3));
    broker.restart().unwrap();
    let live = broker.subscribe("linewarden/line1/decision").unwrap();
    let past = broker.subscribe("linewarden/line1/decision/historical").unwrap();
    let results = broker.subscribe("linewarden/line1/top/result").unwrap();
    assert!(publisher.drain(PATIENCE));
    // A subscriber that comes late may have missed some; what it heard is of the right kind all the same.
    for message in live.arrived() {
        assert_eq!(field(&message, "part").as_u64().unwrap() % 2, 1, "{message:?}");
        assert!(message.json().unwrap().get("historical").is_none());
    }
    publisher.decision(&decision(9, Duration::ZERO)).unwrap();
    let late = past.next_where(PATIENCE, |message| field(message, "part") == 9).unwrap();
    assert_eq!(field(&late, "historical"), true);
    assert_eq!(name(&late), (publisher.boot_id().to_string(), 7));
    assert_eq!(field(&late, "id"), format!("{}-d-7", publisher.boot_id()));
    assert!(late.acknowledged && !late.retained);
    assert!(publisher.drain(PATIENCE));
    let stats = publisher.stats();
    assert_eq!((stats.decisions.acknowledged, stats.decisions.expired, stats.results.acknowledged), (3, 4, 6));
    assert_eq!((stats.historical.acknowledged, stats.historical_messages), (4, 0));
    drop(results);
}

#[test]
fn what_is_left_at_the_end_is_delivered_by_the_next_run_under_its_old_number() {
    let folder = tempfile::tempdir().unwrap();
    for fsync in [Fsync::Always, Fsync::Interval, Fsync::Never] {
        let mut broker = Mosquitto::start().unwrap();
        let live = broker.subscribe("linewarden/line1/decision").unwrap();
        let past = broker.subscribe("linewarden/line1/decision/historical").unwrap();
        broker.kill().unwrap();
        let (first, events) = start(on_disk(&broker.url(), folder.path(), fsync));
        events.wait_for(|event| matches!(event, PublishEvent::JournalOpened { restored: 0 }));
        for (part, life) in [(1, LONG), (2, SHORT), (3, LONG)] {
            first.decision(&decision(part, life)).unwrap();
        }
        events.wait_for(|event| *event == PublishEvent::Expired { kind: MessageKind::Decision });
        let boot_id = first.boot_id().to_string();
        assert!(first.stats().is_journalled);
        assert!(first.stop(Duration::from_millis(50)), "nothing is lost: it is on disk");
        assert_eq!((first.stats().kept, first.stats().decisions.dropped), (3, 0));

        let (second, events) = start(on_disk(&broker.url(), folder.path(), fsync));
        events.wait_for(|event| matches!(event, PublishEvent::JournalOpened { restored: 3 }));
        second.decision(&decision(4, LONG)).unwrap();
        broker.restart().unwrap();
        assert!(second.drain(PATIENCE));
        let own = second.boot_id().to_string();
        assert_eq!(next_names(&live, 3), [(boot_id.clone(), 1), (boot_id.clone(), 3), (own, 1)]);
        let historical = past.next_message(PATIENCE).unwrap();
        assert_eq!((name(&historical), field(&historical, "historical")), ((boot_id, 2), true.into()));
        assert!(second.stop(PATIENCE));

        let (third, events) = start(on_disk(&broker.url(), folder.path(), fsync));
        events.wait_for(|event| matches!(event, PublishEvent::JournalOpened { restored: 0 }));
        assert!(third.stop(PATIENCE));
        assert_eq!((live.arrived(), past.arrived()), (vec![], vec![]));
    }
}

#[test]
fn a_file_that_cannot_be_used_is_told_and_the_line_goes_on_in_memory() {
    let broker = Mosquitto::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (holder, events) = start(on_disk(&broker.url(), folder.path(), Fsync::Always));
    events.wait_for(|event| matches!(event, PublishEvent::JournalOpened { .. }));
    let in_the_way = folder.path().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let problems = [(folder.path(), "another process uses it"), (&in_the_way, "cannot make its folder")];
    for (path, problem) in problems {
        let (publisher, events) = start(on_disk(&broker.url(), path, Fsync::Always));
        let failed = events.wait_for(|event| matches!(event, PublishEvent::JournalFailed { .. }));
        let PublishEvent::JournalFailed { error } = failed else { unreachable!("waited for this one") };
        assert!(error.contains(problem) && error.contains("line1.sqlite"), "{error}");
        publisher.decision(&decision(1, LONG)).unwrap();
        assert!(publisher.drain(PATIENCE));
        assert!(!publisher.stats().is_journalled);
        assert!(publisher.stop(PATIENCE));
    }
    drop(holder);
    std::fs::write(folder.path().join("line1.sqlite"), "no database at all, whatever its name may say").unwrap();
    let (publisher, events) = start(on_disk(&broker.url(), folder.path(), Fsync::Always));
    let failed = events.wait_for(|event| matches!(event, PublishEvent::JournalFailed { .. }));
    assert!(format!("{failed:?}").contains("was damaged and is now"), "{failed:?}");
    events.wait_for(|event| matches!(event, PublishEvent::JournalOpened { restored: 0 }));
    assert!(publisher.stop(PATIENCE));
}

#[test]
fn what_is_historical_has_a_bound_and_loses_its_oldest() {
    let mut broker = Mosquitto::start().unwrap();
    let past = broker.subscribe("linewarden/line1/decision/historical").unwrap();
    broker.kill().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = on_disk(&broker.url(), folder.path(), Fsync::Interval);
    config.outbox.keep = 5;
    let (publisher, events) = start(config.clone());
    events.wait_for(|event| matches!(event, PublishEvent::JournalOpened { .. }));
    (0..12).for_each(|part| assert!(publisher.decision(&decision(part, Duration::ZERO)).is_some()));
    let stats = publisher.stats();
    assert_eq!((stats.decisions.expired, stats.historical.dropped, stats.historical_messages), (12, 7, 5));
    publisher.stop(Duration::ZERO);
    // On disk there is no more of it than in memory.
    let (publisher, events) = start(config);
    events.wait_for(|event| matches!(event, PublishEvent::JournalOpened { restored: 5 }));
    broker.restart().unwrap();
    let seqs: Vec<u64> = next_names(&past, 5).into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(seqs, [8, 9, 10, 11, 12]);
    assert!(publisher.stop(PATIENCE));
}

#[test]
fn a_long_past_does_not_hold_up_the_present() {
    let mut broker = Mosquitto::start().unwrap();
    let all = broker.subscribe("linewarden/#").unwrap();
    broker.kill().unwrap();
    let (publisher, events) = start(config(&broker.url()));
    (0..500).for_each(|part| assert!(publisher.decision(&decision(part, Duration::ZERO)).is_some()));
    broker.restart().unwrap();
    events.wait_connected();
    // While the past still goes out at its rate, each decision goes at once.
    for part in 1000..1020 {
        publisher.decision(&decision(part, LONG)).unwrap();
        let acknowledged = events.wait_for(
            |event| matches!(event, PublishEvent::Acknowledged { kind, .. } if *kind == MessageKind::Decision),
        );
        let PublishEvent::Acknowledged { latency, .. } = acknowledged else { unreachable!("waited for this one") };
        assert!(latency < Duration::from_millis(500), "{latency:?}");
        assert!(publisher.stats().historical_messages > 0, "the past was over before the present began");
    }
    assert!(publisher.stop(PATIENCE), "at the end nothing waits for its rate");
    let last = next_on(&all, "/state");
    assert_eq!(publisher.stats().historical.acknowledged, 500, "{last:?}");
}
