//! Texts on one topic, through a broker that goes and comes.

use std::time::{Duration, Instant};

use linewarden_publish::{Announcer, PublisherConfig};
use linewarden_testkit::broker::Mosquitto;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn texts_outlive_their_broker_and_the_oldest_give_way_when_too_many_wait() {
    let mut broker = Mosquitto::start().unwrap();
    let heard = broker.subscribe("said").unwrap();
    let mut config = PublisherConfig::new(broker.url().parse().unwrap(), "line");
    config.outbox_capacity = 5;
    let mut announcer = Announcer::start(config, "said", Box::new(|_| {})).unwrap();
    announcer.say("first");
    assert_eq!(heard.next_message(PATIENCE).unwrap().payload, b"first");
    drop(heard);
    broker.kill().unwrap();
    let gone = Instant::now();
    while announcer.stats().connected {
        assert!(gone.elapsed() < PATIENCE, "the loss of the broker was not noticed");
        std::thread::yield_now();
    }
    let given_way: Vec<Option<u64>> = (0..8).map(|number| announcer.say(format!("text {number}"))).collect();
    assert_eq!(given_way, [None, None, None, None, None, Some(1), Some(2), Some(3)]);
    let stats = announcer.stats();
    assert_eq!((stats.waiting, stats.delivered, stats.dropped), (5, 1, 3));
    broker.restart().unwrap();
    let again = broker.subscribe("said").unwrap();
    // Whether it comes before this subscription or after it, the broker has everything in the end.
    assert!(announcer.stop(PATIENCE), "{:?}", announcer.stats());
    let stats = announcer.stats();
    assert_eq!((stats.waiting, stats.delivered, stats.dropped), (0, 6, 3));
    drop(again);
}
