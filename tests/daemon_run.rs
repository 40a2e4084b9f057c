//! `linewarden run` from outside: real pictures, a real broker, a real camera, and what goes wrong with them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use linewarden_model::ModelType;
use linewarden_testkit::broker::{Message, Mosquitto, MosquittoOptions, Proxy, Subscriber};
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::pictures::write_pictures;
use linewarden_testkit::rtsp::RtspCamera;
use linewarden_testkit::sandbox::DaemonSandbox;
use linewarden_testkit::tls::Certificates;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

fn sandbox() -> Result<DaemonSandbox> {
    let sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 64, 48, ModelType::Segmentation)?;
    Ok(sandbox)
}

fn mqtt(broker: &Mosquitto) -> String {
    format!("[mqtt]\nbroker = \"{}\"\nheartbeat_interval = \"200ms\"\n", broker.url())
}

/// A line on the CPU, whose decisions live long enough for a busy machine.
fn line(name: &str, camera: &str) -> String {
    format!(
        "[[line]]\nname = \"{name}\"\nmodel = \"model\"\ndevice = \"cpu\"\n\
         decision = {{ expires_after = \"60s\" }}\n[[line.camera]]\nname = \"top\"\n{camera}\n"
    )
}

/// How long the broker is away. `make soak` sets it to 10.
const OUTAGE_SECONDS: &str = "LINEWARDEN_OUTAGE_SECONDS";
const FRAMES_A_SECOND: f64 = 50.0;
/// 50 pictures a second for ever.
const ENDLESS: &str = "launch = \"videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=50/1\"\n\
                       live = true";

fn field(message: &Message, name: &str) -> Result<Value> {
    Ok(message.json()?[name].clone())
}

fn next_state(watch: &Subscriber, key: &str, wanted: &str) -> Result<Value> {
    let is_wanted =
        |message: &Message| message.topic.ends_with("/state") && field(message, key).is_ok_and(|value| value == wanted);
    let message = watch.next_where(SOON, is_wanted).with_context(|| format!("no state with {key} {wanted}"))?;
    message.json()
}

#[test]
fn a_folder_gives_one_result_and_one_decision_a_picture_in_order() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/cap/#")?;
    let mut sandbox = sandbox()?;
    let are_white = [false, true, false, false, true, true, false];
    write_pictures(&sandbox.path("pictures"), &are_white)?;
    sandbox.write("pictures/3.png", "no picture")?;
    let camera = "pipeline = \"folder\"\nwith = { location = \"pictures\" }";
    sandbox.start(&(mqtt(&broker) + &line("cap", camera)))?;
    assert!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);

    let mut verdicts = Vec::new();
    let mut results = Vec::new();
    next_offline_after(&watch, |message| {
        if message.topic == "linewarden/cap/decision" {
            assert_eq!(field(message, "seq")?, verdicts.len() + 1);
            assert_eq!(field(message, "frames")?[0], format!("top/{}", verdicts.len()));
            verdicts.push((field(message, "verdict")?, field(message, "reason")?));
        }
        if message.topic == "linewarden/cap/top/result" {
            results.push((field(message, "frame")?, field(message, "is_anomalous")?));
        }
        Ok(())
    })?;
    let words: Vec<&str> = verdicts.iter().filter_map(|(verdict, _)| verdict.as_str()).collect();
    assert_eq!(words, ["pass", "reject", "pass", "unknown", "reject", "reject", "pass"]);
    assert_eq!(verdicts[3].1, "not_scored: unreadable");
    let expected: Vec<(Value, Value)> = are_white
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != 3)
        .map(|(number, is_white)| (Value::from(number), Value::from(*is_white)))
        .collect();
    assert_eq!(results, expected);
    Ok(())
}

/// Hands every message to `hear` until the line has said goodbye.
fn next_offline_after(watch: &Subscriber, mut hear: impl FnMut(&Message) -> Result<()>) -> Result<()> {
    loop {
        let message = watch.next_message(SOON)?;
        hear(&message)?;
        if message.topic.ends_with("/state") && field(&message, "state")? == "offline" {
            return Ok(());
        }
    }
}

#[test]
fn a_line_that_fails_is_restarted_and_leaves_the_others_alone() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/bad/state")?;
    let mut sandbox = sandbox()?;
    // The model was trained on another size, so this camera fails at its first frame, again and again.
    let wrong = "launch = \"videotestsrc ! video/x-raw,width=32,height=32\"";
    sandbox.start(&(mqtt(&broker) + &line("good", ENDLESS) + &line("bad", wrong)))?;
    next_state(&watch, "line_state", "camera_lost")?;
    sandbox.wait_metric("linewarden_camera_restart_total{camera=\"top\",line=\"bad\"}", |restarts| restarts >= 2.0)?;
    let scored =
        "linewarden_processed_image_total{camera=\"top\",line=\"good\",model_version=\"1\",project=\"brightness\"}";
    let before = sandbox.metric(scored)?;
    sandbox.wait_metric(scored, |frames| frames > before + 20.0)?;
    assert_eq!(sandbox.metric("linewarden_camera_restart_total{camera=\"top\",line=\"good\"}")?, 0.0);
    assert_eq!(sandbox.metric("linewarden_camera_connected{camera=\"top\",line=\"good\"}")?, 1.0);
    // A frame comes before its size is refused, so the camera is there for a moment at each start.
    sandbox.wait_metric("linewarden_camera_connected{camera=\"top\",line=\"bad\"}", |connected| connected == 0.0)?;
    let (status, body) = sandbox.get("/readyz")?;
    assert_eq!(status, 503);
    assert!(body.starts_with("line bad: "), "{body}");
    let lost = sandbox.logged("camera lost, restarting")?.context("the failure was not logged")?;
    assert!(lost["error"].as_str().is_some_and(|error| error.contains("64x48")), "{lost}");
    Ok(())
}

#[test]
fn a_broker_that_is_gone_stops_no_frame_and_leaves_its_trace() -> Result<()> {
    let mut broker = Mosquitto::start()?;
    let mut sandbox = sandbox()?;
    let short_lived = line("cap", ENDLESS).replace("60s", "200ms");
    sandbox.start(&(mqtt(&broker) + &short_lived))?;
    sandbox.wait_ready()?;
    let connected = "linewarden_broker_connected{line=\"cap\"}";
    let decided = "linewarden_decision_total{line=\"cap\",verdict=\"reject\"}";
    let passed = "linewarden_decision_total{line=\"cap\",verdict=\"pass\"}";
    sandbox.wait_metric(connected, |connected| connected == 1.0)?;
    broker.kill()?;
    sandbox.wait_metric(connected, |connected| connected == 0.0)?;
    let frames = || Ok::<_, anyhow::Error>(sandbox.metric(decided)? + sandbox.metric(passed)?);
    let before = frames()?;
    let outage_seconds = std::env::var(OUTAGE_SECONDS).map_or(Ok(1.0), |seconds| seconds.parse::<f64>())?;
    // Every frame's decision outlives itself meanwhile, so that the frames of this time tell when it is over.
    let lost = FRAMES_A_SECOND * outage_seconds;
    sandbox.wait_metric("linewarden_deadline_missed_total{line=\"cap\"}", |missed| missed > lost)?;
    assert!(frames()? >= before + lost, "frames stalled while the broker was gone");
    broker.restart()?;
    let watch = broker.subscribe("linewarden/cap/#")?;
    sandbox.wait_metric(connected, |connected| connected == 1.0)?;
    sandbox.wait_metric("linewarden_broker_reconnect_total{line=\"cap\"}", |reconnects| reconnects >= 1.0)?;
    let state = next_state(&watch, "state", "online")?;
    assert_eq!(state["line_state"], "running");
    assert!(state["decisions"]["expired"].as_f64() >= Some(lost), "{state}");
    watch.next_where(SOON, |message| message.topic == "linewarden/cap/decision")?;
    Ok(())
}

#[test]
fn sigterm_delivers_every_decision_and_says_offline() -> Result<()> {
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/cap/#")?;
    let mut sandbox = sandbox()?;
    sandbox.start(&(mqtt(&broker) + &line("cap", ENDLESS)))?;
    let scored =
        "linewarden_processed_image_total{camera=\"top\",line=\"cap\",model_version=\"1\",project=\"brightness\"}";
    sandbox.wait_metric(scored, |frames| frames >= 20.0)?;
    sandbox.terminate()?;
    assert!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    let mut last_result = None;
    let mut last_decision = None;
    next_offline_after(&watch, |message| {
        match message.topic.as_str() {
            "linewarden/cap/top/result" => last_result = Some(field(message, "frame")?),
            "linewarden/cap/decision" => last_decision = Some((field(message, "part")?, field(message, "seq")?)),
            _ => {}
        }
        Ok(())
    })?;
    let (part, seq) = last_decision.context("no decision")?;
    assert_eq!(last_result.context("no result")?, part);
    // Nothing was left out on the way: parts count from 0 and messages from 1.
    assert_eq!(part.as_u64().map(|part| part + 1), seq.as_u64());
    assert!(!sandbox.log()?.contains("did not stop within"), "{}", sandbox.log()?);
    let retained = broker.subscribe("linewarden/cap/state")?.next_message(SOON)?;
    assert!(retained.retained);
    assert_eq!(field(&retained, "state")?, "offline");
    Ok(())
}

#[test]
fn a_broker_that_never_answers_holds_up_the_end_for_its_grace_only() -> Result<()> {
    let mut sandbox = sandbox()?;
    // Port 1 is nobody's.
    let unreachable = "[shutdown]\ngrace = \"500ms\"\n[mqtt]\nbroker = \"mqtt://127.0.0.1:1\"\n";
    sandbox.start(&(unreachable.to_owned() + &line("cap", ENDLESS)))?;
    sandbox.wait_ready()?;
    let asked = std::time::Instant::now();
    sandbox.terminate()?;
    assert!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    assert!(asked.elapsed() < Duration::from_secs(10), "the end took {:?}", asked.elapsed());
    let left_over = sandbox.logged("messages were left over at the end: see the counters")?;
    assert!(left_over.is_some(), "{}", sandbox.log()?);
    Ok(())
}

#[test]
fn every_series_exists_at_zero_from_the_start() -> Result<()> {
    let mut sandbox = sandbox()?;
    // A camera that never delivers: everything stays at its beginning.
    sandbox.start(&line("cap", "launch = \"appsrc ! video/x-raw,format=RGB,width=64,height=48,framerate=1/1\""))?;
    let (status, text) = sandbox.get("/metrics")?;
    assert_eq!(status, 200);
    assert_eq!(sandbox.get("/healthz")?, (200, "ok\n".to_owned()));
    assert_eq!(sandbox.get("/readyz")?.0, 503);
    assert!(text.contains("linewarden_detection_duration_seconds_bucket{camera=\"top\",line=\"cap\",model_version=\"1\",project=\"brightness\",le=\"0.005\"} 0"));
    let is_bucket = |line: &&str| line.contains("_bucket{") && !line.contains("le=\"+Inf\"");
    let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !is_bucket(line)).collect();
    insta::assert_snapshot!(series.join("\n"), @r#"
    linewarden_acknowledge_duration_seconds_bucket{line="cap",le="+Inf"} 0
    linewarden_acknowledge_duration_seconds_sum{line="cap"} 0
    linewarden_acknowledge_duration_seconds_count{line="cap"} 0
    linewarden_broker_connected{line="cap"} 0
    linewarden_broker_reconnect_total{line="cap"} 0
    linewarden_build_info{version="0.1.0"} 1
    linewarden_camera_connected{camera="top",line="cap"} 0
    linewarden_camera_fault_total{camera="top",fault="black",line="cap"} 0
    linewarden_camera_fault_total{camera="top",fault="frozen",line="cap"} 0
    linewarden_camera_fault_total{camera="top",fault="moved",line="cap"} 0
    linewarden_camera_fault_total{camera="top",fault="out_of_focus",line="cap"} 0
    linewarden_camera_fault_total{camera="top",fault="over_exposed",line="cap"} 0
    linewarden_camera_health{camera="top",fault="black",line="cap"} 0
    linewarden_camera_health{camera="top",fault="frozen",line="cap"} 0
    linewarden_camera_health{camera="top",fault="moved",line="cap"} 0
    linewarden_camera_health{camera="top",fault="out_of_focus",line="cap"} 0
    linewarden_camera_health{camera="top",fault="over_exposed",line="cap"} 0
    linewarden_camera_restart_total{camera="top",line="cap"} 0
    linewarden_capture_clock{camera="top",clock="arrival",line="cap"} 0
    linewarden_capture_clock{camera="top",clock="ntp",line="cap"} 0
    linewarden_capture_clock{camera="top",clock="ptp",line="cap"} 0
    linewarden_capture_clock{camera="top",clock="pts",line="cap"} 0
    linewarden_capture_lag_seconds{camera="top",line="cap"} 0
    linewarden_capture_to_acknowledge_quantile_seconds{line="cap",quantile="0.5"} 0
    linewarden_capture_to_acknowledge_quantile_seconds{line="cap",quantile="0.99"} 0
    linewarden_capture_to_acknowledge_quantile_seconds{line="cap",quantile="0.999"} 0
    linewarden_capture_to_acknowledge_seconds_bucket{line="cap",le="+Inf"} 0
    linewarden_capture_to_acknowledge_seconds_sum{line="cap"} 0
    linewarden_capture_to_acknowledge_seconds_count{line="cap"} 0
    linewarden_challenge_overdue{line="cap"} 0
    linewarden_challenge_total{line="cap",result="failed"} 0
    linewarden_challenge_total{line="cap",result="passed"} 0
    linewarden_deadline_missed_total{line="cap"} 0
    linewarden_decision_historical_total{line="cap"} 0
    linewarden_decision_total{line="cap",verdict="pass"} 0
    linewarden_decision_total{line="cap",verdict="reject"} 0
    linewarden_decision_total{line="cap",verdict="unknown"} 0
    linewarden_desired_inference_units{model_version="1",project="brightness"} 1
    linewarden_detected_anomaly_total{camera="top",line="cap",model_version="1",project="brightness"} 0
    linewarden_detection_duration_seconds_bucket{camera="top",line="cap",model_version="1",project="brightness",le="+Inf"} 0
    linewarden_detection_duration_seconds_sum{camera="top",line="cap",model_version="1",project="brightness"} 0
    linewarden_detection_duration_seconds_count{camera="top",line="cap",model_version="1",project="brightness"} 0
    linewarden_error_total{model_version="1",operation="detect",project="brightness"} 0
    linewarden_evidence_bytes 0
    linewarden_evidence_failure_total 0
    linewarden_evidence_removed_total 0
    linewarden_frame_dropped_total{camera="top",line="cap",reason="damaged"} 0
    linewarden_frame_dropped_total{camera="top",line="cap",reason="late"} 0
    linewarden_frame_dropped_total{camera="top",line="cap",reason="model_failed"} 0
    linewarden_frame_dropped_total{camera="top",line="cap",reason="pipeline_stopped"} 0
    linewarden_frame_dropped_total{camera="top",line="cap",reason="queue_full"} 0
    linewarden_frame_dropped_total{camera="top",line="cap",reason="unreadable"} 0
    linewarden_gate_acknowledge_duration_seconds_bucket{line="cap",le="+Inf"} 0
    linewarden_gate_acknowledge_duration_seconds_sum{line="cap"} 0
    linewarden_gate_acknowledge_duration_seconds_count{line="cap"} 0
    linewarden_gate_acknowledged_total{line="cap"} 0
    linewarden_gate_alarm{line="cap"} 0
    linewarden_gate_unacknowledged_total{line="cap"} 0
    linewarden_in_service_inference_units{model_version="1",project="brightness"} 0
    linewarden_invalid_image_total{camera="top",line="cap",model_version="1",project="brightness"} 0
    linewarden_max_inference_units{model_version="1",project="brightness"} 1
    linewarden_min_inference_units{model_version="1",project="brightness"} 1
    linewarden_model_swap_total{line="cap",outcome="failed"} 0
    linewarden_model_swap_total{line="cap",outcome="rolled_back"} 0
    linewarden_model_swap_total{line="cap",outcome="swapped"} 0
    linewarden_outbox_dropped_total{kind="aside",line="cap"} 0
    linewarden_outbox_dropped_total{kind="decision",line="cap"} 0
    linewarden_outbox_dropped_total{kind="historical",line="cap"} 0
    linewarden_outbox_dropped_total{kind="result",line="cap"} 0
    linewarden_outbox_expired_total{kind="aside",line="cap"} 0
    linewarden_outbox_expired_total{kind="decision",line="cap"} 0
    linewarden_outbox_expired_total{kind="historical",line="cap"} 0
    linewarden_outbox_expired_total{kind="result",line="cap"} 0
    linewarden_outbox_file_failure_total{line="cap"} 0
    linewarden_outbox_historical_messages{line="cap"} 0
    linewarden_outbox_messages{line="cap"} 0
    linewarden_outbox_on_disk{line="cap"} 0
    linewarden_part_note_total{line="cap",reason="deadline_missed"} 0
    linewarden_part_note_total{line="cap",reason="duplicate_trigger"} 0
    linewarden_part_note_total{line="cap",reason="late_frame"} 0
    linewarden_part_note_total{line="cap",reason="late_trigger"} 0
    linewarden_part_note_total{line="cap",reason="malformed_trigger"} 0
    linewarden_part_note_total{line="cap",reason="missed_trigger"} 0
    linewarden_part_note_total{line="cap",reason="missing_view"} 0
    linewarden_part_note_total{line="cap",reason="out_of_order_trigger"} 0
    linewarden_part_note_total{line="cap",reason="overflow"} 0
    linewarden_part_note_total{line="cap",reason="stray_frame"} 0
    linewarden_part_open{line="cap"} 0
    linewarden_part_total{line="cap"} 0
    linewarden_processed_image_total{camera="top",line="cap",model_version="1",project="brightness"} 0
    linewarden_reject_chart_alarm{kind="too_few",line="cap"} 0
    linewarden_reject_chart_alarm{kind="too_many",line="cap"} 0
    linewarden_reject_share{line="cap"} 0
    linewarden_score_drift{camera="top",line="cap"} 0
    linewarden_score_drift_alarm{camera="top",line="cap"} 0
    linewarden_shadow_dropped_total{line="cap"} 0
    linewarden_shadow_total{agreement="differs",line="cap"} 0
    linewarden_shadow_total{agreement="same",line="cap"} 0
    linewarden_stage_duration_seconds_bucket{camera="top",line="cap",stage="inference",le="+Inf"} 0
    linewarden_stage_duration_seconds_sum{camera="top",line="cap",stage="inference"} 0
    linewarden_stage_duration_seconds_count{camera="top",line="cap",stage="inference"} 0
    linewarden_stage_duration_seconds_bucket{camera="top",line="cap",stage="postprocess",le="+Inf"} 0
    linewarden_stage_duration_seconds_sum{camera="top",line="cap",stage="postprocess"} 0
    linewarden_stage_duration_seconds_count{camera="top",line="cap",stage="postprocess"} 0
    linewarden_stage_duration_seconds_bucket{camera="top",line="cap",stage="preprocess",le="+Inf"} 0
    linewarden_stage_duration_seconds_sum{camera="top",line="cap",stage="preprocess"} 0
    linewarden_stage_duration_seconds_count{camera="top",line="cap",stage="preprocess"} 0
    linewarden_stage_duration_seconds_bucket{camera="top",line="cap",stage="queue",le="+Inf"} 0
    linewarden_stage_duration_seconds_sum{camera="top",line="cap",stage="queue"} 0
    linewarden_stage_duration_seconds_count{camera="top",line="cap",stage="queue"} 0
    linewarden_stage_duration_seconds_bucket{camera="top",line="cap",stage="total",le="+Inf"} 0
    linewarden_stage_duration_seconds_sum{camera="top",line="cap",stage="total"} 0
    linewarden_stage_duration_seconds_count{camera="top",line="cap",stage="total"} 0
    linewarden_successful_request_total{model_version="1",operation="detect",project="brightness"} 0
    linewarden_throttled_total{model_version="1",operation="detect",project="brightness"} 0
    linewarden_trigger_connected{line="cap"} 0
    "#);
    Ok(())
}

#[test]
fn a_network_camera_that_is_cut_off_is_lost_and_comes_back() -> Result<()> {
    let camera = RtspCamera::start(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1 \
         ! x264enc tune=zerolatency key-int-max=10 ! rtph264pay name=pay0 config-interval=1",
    )?;
    let port = camera.url().rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
    let cable = Proxy::start(port.context("the camera has no port")?)?;
    let broker = Mosquitto::start()?;
    let watch = broker.subscribe("linewarden/cap/state")?;
    let mut sandbox = sandbox()?;
    let pipeline = format!(
        "pipeline = \"rtsp\"\nwith = {{ location = \"rtsp://127.0.0.1:{}/camera\", latency = 50 }}",
        cable.port()
    );
    sandbox.start(&(mqtt(&broker) + &line("cap", &pipeline)))?;
    next_state(&watch, "line_state", "running").with_context(|| sandbox.log().unwrap_or_default())?;
    cable.cut();
    next_state(&watch, "line_state", "camera_lost")?;
    next_state(&watch, "line_state", "running")?;
    sandbox.wait_ready()?;
    assert!(sandbox.metric("linewarden_camera_restart_total{camera=\"top\",line=\"cap\"}")? >= 1.0);
    Ok(())
}

#[test]
fn decisions_go_over_tls_to_a_broker_that_asks_who_is_there() -> Result<()> {
    let certificates = Certificates::generate()?;
    let broker = Mosquitto::start_with(&MosquittoOptions {
        tls: Some(&certificates),
        require_client_certificate: true,
        credentials: Some(("line", "hunter2")),
        ..MosquittoOptions::default()
    })?;
    let watch = broker.subscribe("linewarden/cap/#")?;
    let mut sandbox = sandbox()?;
    sandbox.write("credentials", "line:hunter2\n")?;
    let files = [
        ("ca_file", certificates.ca()),
        ("cert_file", certificates.client_cert()),
        ("key_file", certificates.client_key()),
        ("credentials_file", sandbox.path("credentials")),
    ];
    let files: String = files.iter().map(|(key, path)| format!("{key} = \"{}\"\n", path.display())).collect();
    sandbox.start(&(mqtt(&broker) + &files + &line("cap", ENDLESS)))?;
    watch.next_where(SOON, |message| message.topic == "linewarden/cap/decision" && message.acknowledged)?;
    assert!(!sandbox.log()?.contains("hunter2"), "{}", sandbox.log()?);
    Ok(())
}

#[test]
fn a_port_in_use_is_a_clear_error() -> Result<()> {
    let sandbox = sandbox()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    sandbox.write("lines.toml", format!("[http]\nlisten = \"{address}\"\n{}", line("cap", ENDLESS)))?;
    let output = sandbox.call(&["run", "lines.toml"])?;
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&format!("error: cannot listen on {address} for HTTP: free the port")), "{stderr}");
    Ok(())
}
