//! The messages as JSON, in the order of fields that the contract names.

use jiff::Timestamp;
use linewarden_core::{Action, ClockSource, Decision, ModelRef, ScoredFrame, Verdict};
use serde::{Serialize, Serializer};

use crate::gate::GateStats;
use crate::shared::{KindStats, PublisherStats};

/// Version of every message's form.
const SCHEMA: u32 = 1;

/// Who speaks: the same in every message of a publisher.
#[derive(Debug, Clone)]
pub(crate) struct Speaker {
    pub(crate) line: String,
    pub(crate) boot_id: String,
}

#[derive(Serialize)]
struct ResultMessage<'a> {
    schema: u32,
    id: String,
    boot_id: &'a str,
    seq: u64,
    line: &'a str,
    camera: &'a str,
    frame: u64,
    pts_ns: Option<u64>,
    captured_at: Moment,
    is_anomalous: bool,
    confidence: f64,
    anomaly_score: f64,
    anomaly_threshold: f64,
    anomalies: Vec<AnomalyEntry<'a>>,
    time_ms: f64,
    model: &'a ModelRef,
}

#[derive(Serialize)]
struct AnomalyEntry<'a> {
    name: &'a str,
    pixel_anomaly: PixelAnomaly<'a>,
}

#[derive(Serialize)]
struct PixelAnomaly<'a> {
    total_percentage_area: f64,
    hex_color: &'a str,
}

#[derive(Serialize)]
struct DecisionMessage<'a> {
    schema: u32,
    id: String,
    boot_id: &'a str,
    seq: u64,
    line: &'a str,
    part: u64,
    trigger: Option<u64>,
    verdict: Verdict,
    reason: String,
    frames: &'a [String],
    captured_at: Moment,
    decided_at: Moment,
    reject_at: Option<Moment>,
    expires_at: Moment,
    action: Action,
    clock: ClockSource,
    encoder: Option<i64>,
}

/// What the state topic says of the line's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineState<'a> {
    /// Connected; with the daemon's own words for what the line does, and for what is wrong with it all the same.
    Online { line_state: Option<&'a str>, alarms: &'a [&'static str] },
    /// Stopped as it should be.
    Stopped,
    /// The will: `at` and the counters are those of the moment of connecting.
    Lost,
}

#[derive(Serialize)]
struct StateMessage<'a> {
    schema: u32,
    line: &'a str,
    boot_id: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line_state: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    alarms: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    at: Moment,
    #[serde(flatten)]
    counters: Counters,
}

#[derive(Serialize)]
struct HeartbeatMessage<'a> {
    schema: u32,
    line: &'a str,
    boot_id: &'a str,
    seq: u64,
    at: Moment,
    uptime_s: f64,
    connected: bool,
    outbox_messages: usize,
    #[serde(flatten)]
    counters: Counters,
}

#[derive(Serialize)]
struct Counters {
    results: KindStats,
    decisions: KindStats,
    reconnects: u64,
    rebuilds: u64,
    historical: KindStats,
    /// Only for a line whose gate acknowledges.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<GateStats>,
}

impl From<&PublisherStats> for Counters {
    fn from(stats: &PublisherStats) -> Self {
        let PublisherStats { results, decisions, historical, reconnects, rebuilds, gate, .. } = *stats;
        Self { results, decisions, reconnects, rebuilds, historical, gate }
    }
}

/// RFC 3339, UTC, microseconds.
struct Moment(Timestamp);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.6}", self.0))
    }
}

impl Speaker {
    pub(crate) fn result(&self, seq: u64, frame: &ScoredFrame) -> Vec<u8> {
        let result = &frame.result;
        let entries = result.anomalies.iter().map(|anomaly| AnomalyEntry {
            name: &anomaly.name,
            pixel_anomaly: PixelAnomaly {
                total_percentage_area: anomaly.total_percentage_area,
                hex_color: &anomaly.hex_color,
            },
        });
        to_json(&ResultMessage {
            schema: SCHEMA,
            id: format!("{}-r-{seq}", self.boot_id),
            boot_id: &self.boot_id,
            seq,
            line: &self.line,
            camera: &frame.camera,
            frame: frame.frame,
            pts_ns: frame.pts.map(|pts| u64::try_from(pts.as_nanos()).unwrap_or(u64::MAX)),
            captured_at: Moment(frame.captured_at),
            is_anomalous: result.is_anomalous,
            confidence: result.confidence,
            anomaly_score: result.anomaly_score,
            anomaly_threshold: result.anomaly_threshold,
            anomalies: entries.collect(),
            time_ms: rounded_to_thousandths(frame.detection_time.as_secs_f64() * 1e3),
            model: &frame.model,
        })
    }

    pub(crate) fn decision(&self, seq: u64, decision: &Decision) -> Vec<u8> {
        to_json(&DecisionMessage {
            schema: SCHEMA,
            id: format!("{}-d-{seq}", self.boot_id),
            boot_id: &self.boot_id,
            seq,
            line: &self.line,
            part: decision.part,
            trigger: decision.trigger,
            verdict: decision.verdict,
            reason: decision.reason.to_string(),
            frames: &decision.frames,
            captured_at: Moment(decision.captured_at),
            decided_at: Moment(decision.decided_at),
            reject_at: decision.reject_at.map(Moment),
            expires_at: Moment(decision.expires_at),
            action: decision.action,
            clock: decision.clock,
            encoder: decision.encoder,
        })
    }

    pub(crate) fn state(&self, state: LineState<'_>, at: Timestamp, stats: &PublisherStats) -> Vec<u8> {
        let (word, line_state, alarms, cause) = match state {
            LineState::Online { line_state, alarms } => ("online", line_state, alarms, None),
            LineState::Stopped => ("offline", None, [].as_slice(), Some("stopped")),
            LineState::Lost => ("offline", None, [].as_slice(), Some("connection_lost")),
        };
        to_json(&StateMessage {
            schema: SCHEMA,
            line: &self.line,
            boot_id: &self.boot_id,
            state: word,
            line_state,
            alarms,
            cause,
            at: Moment(at),
            counters: stats.into(),
        })
    }

    pub(crate) fn heartbeat(&self, seq: u64, at: Timestamp, uptime_s: f64, stats: &PublisherStats) -> Vec<u8> {
        to_json(&HeartbeatMessage {
            schema: SCHEMA,
            line: &self.line,
            boot_id: &self.boot_id,
            seq,
            at: Moment(at),
            uptime_s: rounded_to_thousandths(uptime_s),
            connected: stats.connected,
            outbox_messages: stats.outbox_messages,
            counters: stats.into(),
        })
    }
}

/// A decision that is no longer to be acted on, as the live message said it but for its mark.
pub(crate) fn historical(live: &[u8]) -> Vec<u8> {
    let open = live.strip_suffix(b"}").unwrap_or(live);
    [open, br#","historical":true}"#].concat()
}

fn rounded_to_thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn to_json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("texts and numbers under fixed names always have a JSON form")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use linewarden_core::{Anomaly, FrameResult, Reason};

    use super::*;

    fn speaker() -> Speaker {
        Speaker { line: "line1".to_owned(), boot_id: "00000000-0000-0000-0000-00000000002a".to_owned() }
    }

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn text(json: Vec<u8>) -> String {
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn a_result_is_written_as_the_contract_says() {
        let anomaly = |name: &str, area: f64, color: &str| Anomaly {
            name: name.to_owned(),
            total_percentage_area: area,
            hex_color: color.to_owned(),
        };
        let mut frame = ScoredFrame {
            camera: "top".to_owned(),
            frame: 17,
            pts: Some(Duration::from_millis(566)),
            captured_at: moment("2025-11-01T12:00:00.25+01:00"),
            result: FrameResult {
                is_anomalous: true,
                confidence: 0.9375,
                anomaly_score: 0.9375,
                anomaly_threshold: 0.5,
                anomalies: vec![anomaly("background", 0.97, "#FFFFFF"), anomaly("scratch \"a\"", 0.03, "#23A436")],
            },
            detection_time: Duration::from_nanos(18_250_499),
            model: ModelRef { project: "cookies".to_owned(), version: "1".to_owned(), sha256: "ab12".to_owned() },
        };
        assert_eq!(
            text(speaker().result(3, &frame)),
            concat!(
                r#"{"schema":1,"id":"00000000-0000-0000-0000-00000000002a-r-3","boot_id":"00000000-0000-0000-0000-00000000002a","#,
                r#""seq":3,"line":"line1","camera":"top","frame":17,"pts_ns":566000000,"captured_at":"2025-11-01T11:00:00.250000Z","#,
                r#""is_anomalous":true,"confidence":0.9375,"anomaly_score":0.9375,"anomaly_threshold":0.5,"#,
                r##""anomalies":[{"name":"background","pixel_anomaly":{"total_percentage_area":0.97,"hex_color":"#FFFFFF"}},"##,
                r##"{"name":"scratch \"a\"","pixel_anomaly":{"total_percentage_area":0.03,"hex_color":"#23A436"}}],"##,
                r#""time_ms":18.25,"model":{"project":"cookies","version":"1","sha256":"ab12"}}"#,
            )
        );
        frame.pts = None;
        assert!(text(speaker().result(4, &frame)).contains(r#""pts_ns":null,"#));
    }

    #[test]
    fn a_decision_is_written_as_the_contract_says() {
        let decision = Decision {
            part: 17,
            trigger: None,
            verdict: Verdict::Reject,
            reason: Reason::Coverage { label: "scratch".to_owned(), area: 0.03 },
            frames: vec!["top/17".to_owned(), "side/17".to_owned()],
            captured_at: moment("2025-11-01T11:00:00.25Z"),
            decided_at: moment("2025-11-01T11:00:00.271234567Z"),
            reject_at: Some(moment("2025-11-01T11:00:00.75Z")),
            expires_at: moment("2025-11-01T11:00:00.7Z"),
            action: Action::Reject,
            clock: ClockSource::Ntp,
            encoder: Some(-12_000),
            last_captured_at: moment("2025-11-01T11:00:00.26Z"),
        };
        assert_eq!(
            text(speaker().decision(9, &decision)),
            concat!(
                r#"{"schema":1,"id":"00000000-0000-0000-0000-00000000002a-d-9","boot_id":"00000000-0000-0000-0000-00000000002a","#,
                r#""seq":9,"line":"line1","part":17,"trigger":null,"verdict":"reject","reason":"coverage: scratch 0.030000","#,
                r#""frames":["top/17","side/17"],"captured_at":"2025-11-01T11:00:00.250000Z","#,
                r#""decided_at":"2025-11-01T11:00:00.271234Z","reject_at":"2025-11-01T11:00:00.750000Z","#,
                r#""expires_at":"2025-11-01T11:00:00.700000Z","action":"reject","clock":"ntp","encoder":-12000}"#,
            )
        );
        for (verdict, word) in [(Verdict::Pass, "pass"), (Verdict::Unknown, "unknown")] {
            let json = text(speaker().decision(1, &Decision { verdict, reject_at: None, ..decision.clone() }));
            assert!(json.contains(&format!(r#""verdict":"{word}","#)), "{json}");
            assert!(json.contains(r#""reject_at":null,"#), "{json}");
        }
    }

    #[test]
    fn what_is_historical_is_the_live_message_with_a_mark() {
        let live = br#"{"seq":9,"verdict":"reject"}"#;
        assert_eq!(text(historical(live)), r#"{"seq":9,"verdict":"reject","historical":true}"#);
    }

    #[test]
    fn state_and_heartbeat_say_what_became_of_the_messages() {
        let mut stats = PublisherStats { connected: true, outbox_messages: 2, ..PublisherStats::default() };
        stats.results = KindStats { sent: 5, acknowledged: 3, expired: 1, dropped: 7 };
        stats.historical = KindStats { sent: 2, acknowledged: 2, ..KindStats::default() };
        stats.reconnects = 1;
        let counters = concat!(
            r#""results":{"sent":5,"acknowledged":3,"expired":1,"dropped":7},"#,
            r#""decisions":{"sent":0,"acknowledged":0,"expired":0,"dropped":0},"reconnects":1,"rebuilds":0,"#,
            r#""historical":{"sent":2,"acknowledged":2,"expired":0,"dropped":0}}"#,
        );
        let who = r#"{"schema":1,"line":"line1","boot_id":"00000000-0000-0000-0000-00000000002a","#;
        let at = moment("2025-11-01T11:00:00Z");
        let table = [
            (LineState::Online { line_state: None, alarms: &[] }, r#""state":"online","#),
            (
                LineState::Online { line_state: Some("camera_lost"), alarms: &[] },
                r#""state":"online","line_state":"camera_lost","#,
            ),
            (
                LineState::Online { line_state: Some("running"), alarms: &["score_drift", "challenge_failed"] },
                r#""state":"online","line_state":"running","alarms":["score_drift","challenge_failed"],"#,
            ),
            (LineState::Stopped, r#""state":"offline","cause":"stopped","#),
            (LineState::Lost, r#""state":"offline","cause":"connection_lost","#),
        ];
        for (state, words) in table {
            let expected = format!(r#"{who}{words}"at":"2025-11-01T11:00:00.000000Z",{counters}"#);
            assert_eq!(text(speaker().state(state, at, &stats)), expected);
        }
        let gate = Some(GateStats { acknowledged: 8, unacknowledged: 1, waiting: 0, alarm: true });
        let alarmed = text(speaker().state(LineState::Stopped, at, &PublisherStats { gate, ..stats }));
        let gate = r#","gate":{"acknowledged":8,"unacknowledged":1,"waiting":0,"alarm":true}}"#;
        assert!(alarmed.ends_with(gate), "{alarmed}");
        assert_eq!(
            text(speaker().heartbeat(4, at, 3.50049, &stats)),
            format!(
                r#"{who}"seq":4,"at":"2025-11-01T11:00:00.000000Z","uptime_s":3.5,"connected":true,"outbox_messages":2,{counters}"#
            )
        );
    }
}
