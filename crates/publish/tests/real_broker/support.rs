//! What the tests of delivery share: a publisher whose events can be waited for, and messages to publish.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use linewarden_core::{Action, ClockSource, Decision, FrameResult, ModelRef, Reason, ScoredFrame, Verdict};
use linewarden_publish::{PublishEvent, Publisher, PublisherConfig};
use linewarden_testkit::broker::{Message, Subscriber};
use serde_json::Value;

/// Far more than anything here takes, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn config(url: &str) -> PublisherConfig {
    PublisherConfig::new(url.parse().unwrap(), "line1")
}

pub(crate) fn start(config: PublisherConfig) -> (Publisher, Events) {
    let (sender, events) = mpsc::channel();
    let observer = move |event: &PublishEvent| {
        let _ = sender.send(event.clone());
    };
    (Publisher::start(config, Arc::new(observer)).unwrap(), Events(events))
}

pub(crate) struct Events(Receiver<PublishEvent>);

impl Events {
    pub(crate) fn wait_for(&self, wanted: impl Fn(&PublishEvent) -> bool) -> PublishEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.0.recv_timeout(left).expect("the event must come");
            if wanted(&event) {
                return event;
            }
        }
    }

    pub(crate) fn wait_connected(&self) {
        self.wait_for(|event| matches!(event, PublishEvent::Connected { .. }));
    }

    pub(crate) fn wait_disconnected(&self) {
        self.wait_for(|event| matches!(event, PublishEvent::Disconnected { .. }));
    }

    /// Whether the observer is gone, and with it the publisher's thread.
    pub(crate) fn is_disconnected(&self) -> bool {
        matches!(self.0.try_recv(), Err(mpsc::TryRecvError::Disconnected))
    }

    pub(crate) fn so_far(&self) -> Vec<PublishEvent> {
        self.0.try_iter().collect()
    }
}

pub(crate) fn frame(number: u64) -> ScoredFrame {
    ScoredFrame {
        camera: "top".to_owned(),
        frame: number,
        pts: Some(Duration::from_millis(33 * number)),
        captured_at: Timestamp::now(),
        result: FrameResult {
            is_anomalous: false,
            confidence: 0.9,
            anomaly_score: 0.1,
            anomaly_threshold: 0.5,
            anomalies: Vec::new(),
        },
        detection_time: Duration::from_millis(18),
        model: ModelRef { project: "cookies".to_owned(), version: "1".to_owned(), sha256: "0".repeat(64) },
    }
}

pub(crate) fn decision(part: u64, life: Duration) -> Decision {
    let now = Timestamp::now();
    Decision {
        part,
        trigger: None,
        verdict: Verdict::Reject,
        reason: Reason::Confidence { confidence: 0.9 },
        frames: vec![format!("top/{part}")],
        captured_at: now,
        decided_at: now,
        reject_at: None,
        expires_at: now + life,
        action: Action::Reject,
        clock: ClockSource::Arrival,
        encoder: None,
        last_captured_at: now,
    }
}

/// Numbers of the next `count` messages on a topic that ends with `name`; others are passed over.
pub(crate) fn next_seqs(subscriber: &Subscriber, name: &str, count: usize) -> Vec<u64> {
    (0..count).map(|_| field(&next_on(subscriber, name), "seq").as_u64().unwrap()).collect()
}

pub(crate) fn next_on(subscriber: &Subscriber, name: &str) -> Message {
    subscriber.next_where(PATIENCE, |message| message.topic.ends_with(name)).unwrap()
}

pub(crate) fn field(message: &Message, pointer: &str) -> Value {
    let json = message.json().unwrap();
    let pointer = format!("/{}", pointer.replace('.', "/"));
    json.pointer(&pointer).unwrap_or_else(|| panic!("no `{pointer}` in {json}")).clone()
}
