//! `lookoutvision` against an agent that says what the test wants.

use std::process::Command;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstlinewarden::meta;
use linewarden_proto::edge_agent::{Anomaly, DetectAnomalyResult, ModelStatus, PixelAnomaly};
use linewarden_testkit::launch::{gst_launch, plugin_folder};
use tonic::Code;

use crate::common::{Line, harness, picture, rgb_buffer, rgb_caps};
use crate::fake_agent::{Call, FakeAgent, Say, Script, Seen, verdict};

/// The least that the service takes, with rows that are a multiple of four bytes.
const SIDE: u32 = 64;
/// The end is not held up by anything that takes longer.
const AT_ONCE: Duration = Duration::from_secs(5);

fn of(agent: &FakeAgent) -> gst_check::Harness {
    harness("lookoutvision", &[("server-socket", &agent.socket()), ("model-component", "cap")])
}

fn pipeline(agent: &FakeAgent, frames: u32, properties: &str) -> String {
    format!(
        "videotestsrc num-buffers={frames} ! video/x-raw,format=RGB,width={SIDE},height={SIDE} ! \
         lookoutvision server-socket={} model-component=cap {properties} ! fakesink",
        agent.socket()
    )
}

fn grey() -> gst::Buffer {
    rgb_buffer(SIDE, &vec![51; (SIDE * SIDE * 3) as usize])
}

/// Rows with this many bytes from one to the next, the first behind `offset`.
fn laid(width_px: u32, rgb: &[u8], stride_bytes: usize, offset: usize) -> Vec<u8> {
    let mut bytes = vec![0xAA; offset];
    for row in rgb.chunks_exact(width_px as usize * 3) {
        bytes.extend_from_slice(row);
        bytes.resize(bytes.len() + stride_bytes - row.len(), 0);
    }
    bytes
}

fn assert_memory_is_gone(seen: &Seen) {
    for place in seen.picture_at.iter().chain(&seen.mask_at) {
        assert!(!place.exists(), "{} was left behind", place.display());
    }
}

#[test]
fn the_model_is_started_and_waited_for_and_then_judges_each_frame() {
    let states = [ModelStatus::Stopped, ModelStatus::Starting, ModelStatus::Running].map(Say::Well).to_vec();
    let agent = FakeAgent::start(Script { states, ..Script::default() });
    let mut harness = of(&agent);
    harness.set_src_caps(rgb_caps(SIDE, SIDE));
    for frame in 0..2 {
        let meta = meta::read(&harness.push_and_pull(grey()).unwrap()).expect("a result");
        assert_eq!((meta.frame, meta.model.project.as_str()), (frame, "cap"));
        assert!(meta.result.is_anomalous && (meta.result.confidence - 0.52559).abs() < 1e-6, "{:?}", meta.result);
        assert_eq!((meta.result.anomaly_score, meta.result.anomaly_threshold), (0.75, 0.5));
        assert!(meta.mask.is_none() && meta.labels.is_empty());
    }
    assert_eq!(agent.next_call(), Call::Start("cap".to_owned()));
    for _ in 0..3 {
        assert_eq!(agent.next_call(), Call::Describe("cap".to_owned()));
    }
    let (first, second) = (agent.next_picture(), agent.next_picture());
    assert_eq!((first.width, first.height, first.rows.len()), (64, 64, 64 * 64 * 3));
    assert_eq!(first, second, "also the memory is the same");
    drop(harness);
    assert_memory_is_gone(&first);
}

#[test]
fn a_model_that_runs_already_is_no_error() {
    let agent = FakeAgent::start(Script { start: vec![Say::Badly(Code::FailedPrecondition)], ..Script::default() });
    let mut harness = of(&agent);
    harness.set_src_caps(rgb_caps(SIDE, SIDE));
    assert!(meta::read(&harness.push_and_pull(grey()).unwrap()).is_some());
}

#[test]
fn rows_reach_the_agent_padded_to_four_bytes_however_they_lie() {
    let (width_px, height_px) = (101, 77);
    let rgb = picture(width_px, height_px);
    let wanted = laid(width_px, &rgb, 304, 0);
    assert_eq!(wanted.len(), 23_408, "the figure of a real client");
    let agent = FakeAgent::start(Script::default());
    let mut harness = of(&agent);
    harness.set_src_caps(rgb_caps(width_px, height_px));
    harness.push_and_pull(rgb_buffer(width_px, &rgb)).unwrap();
    assert!(agent.next_picture().rows == wanted);
    // Strides of a producer's own choice, and a last row that ends before its padding.
    for (stride_bytes, offset) in [(303, 0), (400, 17)] {
        let mut bytes = laid(width_px, &rgb, stride_bytes, offset);
        bytes.truncate(offset + stride_bytes * 76 + 303);
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        let (flags, format) = (gst_video::VideoFrameFlags::empty(), gst_video::VideoFormat::Rgb);
        let (offsets, strides) = ([offset], [stride_bytes as i32]);
        let writable = buffer.get_mut().unwrap();
        gst_video::VideoMeta::add_full(writable, flags, format, width_px, height_px, &offsets, &strides).unwrap();
        harness.push_and_pull(buffer).unwrap();
        let seen = agent.next_picture();
        assert_eq!((seen.width, seen.height), (101, 77));
        assert!(seen.rows == wanted, "stride {stride_bytes}, offset {offset}");
    }
}

#[test]
fn a_mask_is_taken_from_memory_and_from_the_answer_itself() {
    let area = |name: &str, color: &str, share| Anomaly {
        name: name.to_owned(),
        pixel_anomaly: Some(PixelAnomaly { total_percentage_area: share, hex_color: color.to_owned() }),
    };
    let anomalies = vec![area("background", "#FFFFFF", 0.5), area("crack", "#23A436", 0.5)];
    let verdicts = vec![Say::Well(DetectAnomalyResult { anomalies, ..verdict() })];
    let half = (SIDE * SIDE / 2) as usize;
    let mask = [[0x23, 0xA4, 0x36].repeat(half), [255; 3].repeat(half)].concat();
    for is_mask_inline in [false, true] {
        let script =
            Script { verdicts: verdicts.clone(), mask: Some(mask.clone()), is_mask_inline, ..Script::default() };
        let agent = FakeAgent::start(script);
        let mut harness = of(&agent);
        harness.set_src_caps(rgb_caps(SIDE, SIDE));
        let meta = meta::read(&harness.push_and_pull(grey()).unwrap()).expect("a result");
        assert_eq!(meta.labels.iter().map(|label| label.name.as_str()).collect::<Vec<_>>(), ["crack"]);
        let mask = meta.mask.unwrap_or_else(|| panic!("no mask, inline {is_mask_inline}"));
        assert_eq!((mask.at(0.5, 0.1), mask.at(0.5, 0.9)), (1, 0));
    }
}

#[test]
fn what_is_wrong_names_the_socket_the_model_and_what_to_do() {
    let states = |state| Script { states: vec![Say::Well(state)], ..Script::default() };
    let verdicts = |say| Script { verdicts: vec![say], ..Script::default() };
    let table = [
        (Script { start: vec![Say::Badly(Code::NotFound)], ..Script::default() }, "NotFound", "deploy it there"),
        (Script { start: vec![Say::Never], ..Script::default() }, "no answer to StartModel", "model-status-timeout"),
        (Script { states: vec![Say::Never], ..Script::default() }, "no answer to DescribeModel", "the agent's log"),
        (verdicts(Say::Never), "no answer to DetectAnomalies", "the agent's log"),
        (states(ModelStatus::Failed), "the model failed", "what the agent says of it"),
        (states(ModelStatus::Starting), "STARTING", "raise `model-status-timeout`"),
        (verdicts(Say::Badly(Code::FailedPrecondition)), "FailedPrecondition", "starts it again"),
        (verdicts(Say::Badly(Code::InvalidArgument)), "InvalidArgument", "as the test wants it"),
    ];
    for (script, what, remedy) in table {
        let agent = FakeAgent::start(script);
        let told = Line::new(&pipeline(&agent, 2, "model-status-timeout=1")).error();
        let named = format!("model component `cap` of the agent at `{}`", agent.socket());
        for part in [named.as_str(), what, remedy] {
            assert!(told.contains(part), "`{part}` is not in: {told}");
        }
    }
}

#[test]
fn an_agent_that_goes_away_is_an_error_and_leaves_no_memory() {
    let agent = FakeAgent::start(Script::default());
    let socket = agent.socket();
    let line = Line::playing(&format!(
        "videotestsrc is-live=true ! video/x-raw,format=RGB,width={SIDE},height={SIDE},framerate=20/1 ! \
         lookoutvision server-socket={socket} model-component=cap ! fakesink"
    ));
    let seen = agent.next_picture();
    drop(agent);
    let told = line.error();
    assert!(told.contains(&format!("model component `cap` of the agent at `{socket}`")), "{told}");
    drop(line);
    assert_memory_is_gone(&seen);
}

#[test]
fn a_frame_that_the_agent_has_no_time_for_passes_on_without_a_result_and_that_is_told() {
    let verdicts = vec![Say::Badly(Code::ResourceExhausted), Say::Well(verdict())];
    let agent = FakeAgent::start(Script { verdicts, ..Script::default() });
    let mut harness = of(&agent);
    let bus = gst::Bus::new();
    harness.element().unwrap().set_bus(Some(&bus));
    harness.set_src_caps(rgb_caps(SIDE, SIDE));
    assert!(meta::read(&harness.push_and_pull(grey()).unwrap()).is_none());
    let warning = bus.pop_filtered(&[gst::MessageType::Warning]).expect("a warning");
    let gst::MessageView::Warning(warning) = warning.view() else { unreachable!() };
    let told = warning.debug().unwrap_or_default();
    assert!(told.contains("frame 0 passes on unjudged: the agent cannot keep up: ResourceExhausted"), "{told}");
    let second = meta::read(&harness.push_and_pull(grey()).unwrap()).expect("a result");
    assert_eq!(second.frame, 1, "the first one counts");
    harness.element().unwrap().set_bus(None);
}

#[test]
fn the_end_comes_at_once_amid_any_call_and_leaves_no_memory() {
    let script = Script::default;
    let amid = [
        (Script { start: vec![Say::Never], ..script() }, "StartModel"),
        (Script { states: vec![Say::Never], ..script() }, "DescribeModel"),
        (Script { states: vec![Say::Well(ModelStatus::Starting)], ..script() }, "DescribeModel"),
        (Script { verdicts: vec![Say::Never], ..script() }, "DetectAnomalies"),
    ];
    for (script, name) in amid {
        for state in [gst::State::Ready, gst::State::Null] {
            let agent = FakeAgent::start(script.clone());
            let line = Line::playing(&pipeline(&agent, 100, ""));
            let call = loop {
                let call = agent.next_call();
                if call.name() == name {
                    break call;
                }
            };
            let asked = Instant::now();
            line.pipeline.set_state(state).unwrap();
            assert!(asked.elapsed() < AT_ONCE, "to {state:?} amid {name} took {:?}", asked.elapsed());
            assert!(line.bus.pop_filtered(&[gst::MessageType::Error]).is_none(), "amid {name}");
            if let Call::Detect(_, seen) = call {
                assert_memory_is_gone(&seen);
            }
        }
    }
}

#[test]
fn it_prints_what_the_sample_prints_for_each_frame() {
    let verdicts = vec![
        Say::Well(verdict()),
        Say::Well(DetectAnomalyResult { is_anomalous: false, confidence: 1.0, ..verdict() }),
    ];
    let agent = FakeAgent::start(Script { verdicts, ..Script::default() });
    let launched = gst_launch(&pipeline(&agent, 2, ""), crate::common::timeout()).unwrap();
    assert!(launched.status.success(), "{}\n{}", launched.stdout, launched.stderr);
    let said: Vec<&str> = launched.stdout.lines().filter(|line| line.starts_with("Is ")).collect();
    assert_eq!(said, ["Is Anomalous? 1, Confidence: 0.52559", "Is Anomalous? 0, Confidence: 1"]);
}

#[test]
fn frames_go_by_bytes_where_shared_memory_cannot_be_made() {
    let agent = FakeAgent::start(Script::default());
    let folder = plugin_folder().unwrap();
    // A process that may not make files longer than nothing, as where `/dev/shm` is full or missing.
    let launched = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec gst-launch-1.0 \"$@\"", "sh"])
        .args(pipeline(&agent, 2, "").split_whitespace())
        .env("GST_PLUGIN_PATH", &folder)
        .env("GST_REGISTRY", folder.join("gst-launch-tests.registry"))
        .env("GST_DEBUG", "lookoutvision:WARNING")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&launched.stdout), String::from_utf8_lossy(&launched.stderr));
    assert!(launched.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout.matches("Is Anomalous? 1, Confidence: 0.52559\n").count(), 2, "{stdout}");
    assert_eq!(stderr.matches("frames go by bytes, as shared memory cannot be made").count(), 1, "{stderr}");
    for _ in 0..2 {
        let seen = agent.next_picture();
        assert_eq!((seen.picture_at, seen.mask_at), (None, None));
        assert_eq!(seen.rows.len(), (SIDE * SIDE * 3) as usize);
    }
}

#[test]
fn properties_and_caps_are_those_of_the_sample() {
    crate::common::init();
    let element = gst::ElementFactory::make("lookoutvision").build().unwrap();
    let specs = element.list_properties();
    let ours = specs.iter().filter(|spec| spec.owner_type() == element.type_());
    let mut names: Vec<&str> = ours.map(|spec| spec.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["model-component", "model-status-timeout", "server-socket"]);
    assert_eq!(element.property::<String>("server-socket"), "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock");
    assert_eq!(element.property::<u32>("model-status-timeout"), 180);
    let sink = element.static_pad("sink").unwrap();
    assert!(sink.query_accept_caps(&rgb_caps(64, 64)));
    for format in ["BGR", "RGBA", "I420", "GRAY8"] {
        let caps = gst::Caps::builder("video/x-raw").field("format", format).field("width", 64).field("height", 64);
        assert!(!sink.query_accept_caps(&caps.build()), "{format}");
    }
}
