//! From a frame's arrival at the element to the broker's acknowledgement of its decision, on a line in real time.
//!
//! Behind the element the frame's meta is decided and handed to the publisher, as `mqttpublish` does; here the publisher
//! tells when the broker has acknowledged what, which the element keeps to itself.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gst::prelude::*;
use gstlinewarden::meta;
use jiff::{SignedDuration, Timestamp};
use linewarden_core::{ClockSource, Decision, DecisionRules};
use linewarden_publish::{MessageKind, Observer, PublishEvent, Publisher, PublisherConfig};
use linewarden_testkit::broker::Mosquitto;

use crate::feed::Feed;
use crate::numbers::{milliseconds, percentile};
use crate::parts::Parts;
use crate::report::Report;

const FRAMES: usize = 1200;
/// Not counted: connections and memory find their shape.
const WARM_UP_FRAMES: usize = 30;
const FRAME_TIME: Duration = Duration::from_nanos(1_000_000_000 / 30);
const PATIENCE: Duration = Duration::from_secs(10);
/// What the issue asks of the 99th percentile from result to acknowledgement.
const MOST_ACKNOWLEDGE_MS: f64 = 10.0;

/// What happened when, in order. Decisions travel in order, so the nth arrival has the nth acknowledgement.
#[derive(Default)]
struct Journal {
    arrived: Vec<Instant>,
    decided: Vec<Instant>,
    decisions: Vec<Instant>,
    result_latencies: Vec<Duration>,
    decision_latencies: Vec<Duration>,
}

type Shared = Arc<Mutex<Journal>>;

pub(crate) fn measure(parts: &Parts, report: &mut Report) -> Result<()> {
    let broker = Mosquitto::start()?;
    let journal = Shared::default();
    let (publisher, connected) = publisher(&broker, &journal)?;
    connected.recv_timeout(PATIENCE).context("no connection to the broker")?;
    let mut feed = Feed::start(parts, gst_video::VideoFormat::I420, "anomalydetect name=detect")?;
    watch(&feed, &journal, &publisher)?;
    play(&mut feed)?;
    ensure!(publisher.drain(PATIENCE), "the broker did not acknowledge everything");
    feed.check_scored()?;
    drop(feed);
    let stats = publisher.stats();
    publisher.stop(PATIENCE);
    let lost = stats.decisions.expired + stats.decisions.dropped + stats.results.expired + stats.results.dropped;
    ensure!(lost == 0, "{lost} messages were not delivered: {stats:?}");
    tell(&locked(&journal), report);
    Ok(())
}

/// Locks even after a panic elsewhere: a journal without its last entry is still one.
fn locked(journal: &Shared) -> std::sync::MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

fn publisher(broker: &Mosquitto, journal: &Shared) -> Result<(Publisher, Receiver<()>)> {
    let (sender, connected) = mpsc::channel();
    let journal = Arc::clone(journal);
    let observer: Observer = Arc::new(move |event| match event {
        PublishEvent::Connected { .. } => {
            // Only the first connection is waited for.
            let _ = sender.send(());
        }
        PublishEvent::Acknowledged { kind: MessageKind::Result, latency, .. } => {
            locked(&journal).result_latencies.push(*latency);
        }
        PublishEvent::Acknowledged { kind: MessageKind::Decision, latency, .. } => {
            let mut journal = locked(&journal);
            journal.decisions.push(Instant::now());
            journal.decision_latencies.push(*latency);
        }
        _ => {}
    });
    let config = PublisherConfig::new(broker.url().parse()?, "bench");
    Ok((Publisher::start(config, observer)?, connected))
}

/// Notes each frame's arrival at the element, and publishes what comes out of it.
fn watch(feed: &Feed, journal: &Shared, publisher: &Publisher) -> Result<()> {
    let detect = feed.element("detect")?;
    let arrivals = Arc::clone(journal);
    let sink = detect.static_pad("sink").context("the element has a sink pad")?;
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        locked(&arrivals).arrived.push(Instant::now());
        gst::PadProbeReturn::Ok
    });
    let rules = DecisionRules::new(0.5, BTreeMap::new(), None)?;
    let (journal, publisher) = (Arc::clone(journal), publisher.clone());
    let source = detect.static_pad("src").context("the element has a source pad")?;
    source.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(meta) = info.buffer().and_then(|buffer| meta::read(buffer)) {
            publish(&publisher, &rules, meta);
            locked(&journal).decided.push(Instant::now());
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

fn publish(publisher: &Publisher, rules: &DecisionRules, meta: meta::AnomalyMeta) {
    let frame = meta.into_scored_frame("top");
    publisher.result(&frame);
    let (verdict, reason) = rules.decide(&frame.result);
    let now = Timestamp::now();
    publisher.decision(&Decision {
        part: frame.frame,
        trigger: None,
        verdict,
        reason,
        frames: vec![format!("top/{}", frame.frame)],
        captured_at: frame.captured_at,
        decided_at: now,
        reject_at: None,
        expires_at: now.checked_add(SignedDuration::from_secs(60)).unwrap_or(Timestamp::MAX),
        action: verdict.into(),
        clock: ClockSource::Arrival,
        encoder: None,
        last_captured_at: frame.captured_at,
    });
}

/// One frame every thirtieth of a second, however long the last one took.
fn play(feed: &mut Feed) -> Result<()> {
    let start = Instant::now();
    let frames = u32::try_from(WARM_UP_FRAMES + FRAMES)?;
    for frame in 0..frames {
        let due = start + FRAME_TIME * frame;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        feed.push()?;
    }
    // One more, whose arrival says that all before it have arrived.
    feed.finish()
}

fn tell(journal: &Journal, report: &mut Report) {
    let counted = WARM_UP_FRAMES..WARM_UP_FRAMES + FRAMES;
    let between = |from: &[Instant], to: &[Instant]| -> Vec<f64> {
        let pairs = from.iter().zip(to).skip(counted.start).take(counted.len());
        pairs.map(|(from, to)| milliseconds(to.saturating_duration_since(*from))).collect()
    };
    let latencies = |latencies: &[Duration]| -> Vec<f64> {
        latencies.iter().skip(counted.start).take(counted.len()).copied().map(milliseconds).collect()
    };
    report.chapter(&format!("A line in real time: 30 frames a second, I420, {FRAMES} frames, mosquitto on loopback"));
    let to_decision = between(&journal.arrived, &journal.decisions);
    let within = between(&journal.arrived, &journal.decided);
    let result = latencies(&journal.result_latencies);
    let decision = latencies(&journal.decision_latencies);
    for (key, title, values) in [
        ("arrival_to_decided", "frame's arrival to decision handed over", &within),
        ("arrival_to_ack", "frame's arrival to broker's acknowledgement", &to_decision),
        ("result_to_ack", "result handed over to acknowledgement", &result),
        ("decision_to_ack", "decision handed over to acknowledgement", &decision),
    ] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let (key, title) = (format!("{key}_{name}"), format!("{title}, {name}"));
            let value = percentile(values, share);
            match (name, key.contains("to_ack") && !key.starts_with("arrival")) {
                ("p99", true) => report.required(&key, &title, value, "ms", MOST_ACKNOWLEDGE_MS),
                _ => report.figure(&key, &title, value, "ms"),
            }
        }
    }
    let above = FRAMES / 1000;
    report.note(&format!("p99.9 of {FRAMES} frames: {above} of them took longer"));
}
