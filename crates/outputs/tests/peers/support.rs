//! What the tests share.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use linewarden_core::{ClockSource, Decision, Reason, Verdict};
use linewarden_testkit::peers::Peer;

/// How long a peer may take, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A decision of now that is at the gate, and over, after this time.
pub(crate) fn decision(part: u64, verdict: Verdict, live: Duration) -> Decision {
    let now = Timestamp::now();
    let over = now + SignedDuration::try_from(live).unwrap();
    Decision {
        part,
        trigger: Some(part + 1000),
        verdict,
        reason: Reason::Confidence { confidence: 0.9 },
        frames: vec![format!("top/{part}")],
        captured_at: now,
        decided_at: now,
        reject_at: Some(over),
        expires_at: over,
        action: verdict.into(),
        clock: ClockSource::Arrival,
        encoder: None,
        last_captured_at: now,
    }
}

/// One of the Python programs beside this file. What our side logs is shown when the test fails.
pub(crate) fn peer(program: &str, arguments: &[&str]) -> Peer {
    // The first test of the process sets it for all.
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
    Peer::start(&folder.join(program), arguments).unwrap()
}
