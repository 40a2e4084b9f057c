//! `linewarden run --check`: every problem at once, with its place, its key and what is allowed.

use std::path::Path;

use anyhow::Result;
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::sandbox::DaemonSandbox;

fn sandbox() -> Result<DaemonSandbox> {
    let sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 64, 48, ModelType::Segmentation)?;
    Ok(sandbox)
}

fn check(sandbox: &DaemonSandbox, config: &str) -> Result<(Option<i32>, String, String)> {
    sandbox.write("lines.toml", config)?;
    let output = sandbox.call(&["run", "--check", "lines.toml"])?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

#[test]
fn every_problem_is_told_at_once_with_its_place() -> Result<()> {
    let sandbox = sandbox()?;
    let config = r#"
[http]
listen = "nowhere"

[mqtt]
broker = "http://broker"
topic_prefx = "lw"

[[line]]
name = "cap 1"
model = "absent"
device = "gpu"
interval = 0

[[line]]
name = "cap"
model = "model"
roi = "1,2,3"

[line.decision]
confidence_limit = 1.5
expires_after = "2"
coverage_limit = { scratch = 0.1, bright = 2 }

[[line.camera]]
name = "top"
pipeline = "rstp"

[[line.camera]]
name = "top"
pipeline = "rtsp"
with = { location = "rtsp://me:secret@camera/1", latency = -5, colour = true }

[[line.camera]]
name = "side"
launch = "videotestsrc ! nosuchelement"
live = "yes"
"#;
    let (code, stdout, stderr) = check(&sandbox, config)?;
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(stdout, "");
    assert!(!stderr.contains("secret"), "{stderr}");
    insta::assert_snapshot!(stderr, @r#"
    error: the configuration is wrong
    lines.toml:3:10: [http]: `listen` must be an address and port such as "127.0.0.1:8750", got "nowhere"
    lines.toml:6:10: [mqtt]: `broker` must be `mqtt://[user[:password]@]host[:port]` or `mqtts://...`: unknown scheme `http`
    lines.toml:7:1: [mqtt]: unknown key `topic_prefx`, did you mean `topic_prefix`? allowed are ack_timeout, ack_topic, acknowledge_timeout, broker, brokers, ca_file, cert_file, commands, connect_timeout, credentials_file, heartbeat_interval, keep_alive, key_file, models, outbox, outbox_capacity, qos, result_expiry, session_expiry, topic_prefix, version
    lines.toml:9:1: line 1: `camera` is missing: it must be one or more tables `[[line.camera]]`
    lines.toml:10:8: line 1: `name` must be 1 to 64 letters, digits, `-` and `_`, got "cap 1"
    lines.toml:11:9: line 1: `model`: cannot use model package `absent`: there is no such folder or file
    lines.toml:12:10: line 1: `device` must be one of auto, cpu, cuda, tensorrt, openvino, got "gpu"
    lines.toml:13:12: line 1: `interval` must be a whole number from 1 to 1000000, got 0
    lines.toml:18:7: line `cap`: `roi` must be "x,y,width,height" in pixels, got "1,2,3"
    lines.toml:21:20: line `cap`, [decision]: `confidence_limit` must be a number from 0 to 1, got 1.5
    lines.toml:22:17: line `cap`, [decision]: `expires_after` must be a duration from 1ms to 3600s such as "200ms" or "5s", got "2"
    lines.toml:23:20: line `cap`, [decision], [coverage_limit]: unknown label of the model `scratch`: allowed are bright
    lines.toml:23:44: line `cap`, [decision], [coverage_limit]: `bright` must be a number from 0 to 1, got 2
    lines.toml:27:12: line `cap`, camera `top`: unknown pipeline `rstp`, did you mean `rtsp`? allowed are aravis, file, folder, rtsp, synthetic, test, usb
    lines.toml:30:8: line `cap`, camera 2: `name` must be unique: there is another camera `top`
    lines.toml:32:21: line `cap`, camera `top`: `location` must not hold a user or password: give them as `user` and `password`
    lines.toml:32:60: line `cap`, camera `top`: `latency` must be a whole number from 0 to 10000, got -5
    lines.toml:32:64: line `cap`, camera `top`: unknown variable `colour`: allowed are latency, location, password, protocol, timeout, user
    lines.toml:36:10: line `cap`, camera `side`: `launch`: cannot parse the launch line: no element "nosuchelement"
    lines.toml:37:8: line `cap`, camera `side`: `live` must be true or false, got "yes"
    20 problems: nothing was started
    "#);
    Ok(())
}

#[test]
fn what_is_wrong_with_parts_and_their_gate_is_told() -> Result<()> {
    let config = r#"
[[line]]
name = "a"
model = "model"
[line.parts]
trigger = "mqtt"
policy = "k_of_n"
k = 3
n = 2
[line.gate]
delay = "100ms"
encoder_counts = 5
[[line.camera]]
name = "top"
launch = "videotestsrc"
queue = { frames = 0, drop = "some" }
[[line]]
name = "b"
model = "model"
[line.parts]
trigger = "rate"
missing_view = "guess"
k = 1
[line.gate]
distance_mm = 30
speed_mm_s = 1000
decide_before = "30ms"
[[line.camera]]
name = "top"
launch = "videotestsrc"
offset = "-90s"
min_frames = 4
max_frames = 3
[[line]]
name = "c"
model = "model"
[line.decision]
on_unknown = "shrug"
[[line.camera]]
name = "top"
launch = "videotestsrc"
window = "20ms"
[[line]]
name = "d"
model = "model"
[line.parts]
trigger = "picture"
picture = { camera = "tpo", present_at = 50, absent_at = 60 }
[[line.camera]]
name = "top"
launch = "videotestsrc"
[[line]]
name = "e"
model = "model"
[line.parts]
trigger = "modbus"
topic = "a/#"
modbus = { address = "plc", discrete_input = 1, input_register = 2 }
[[line.camera]]
name = "top"
launch = "videotestsrc"
[[line]]
name = "f"
model = "model"
parts = { trigger = "rate", rate = 2 }
gate = { delay = "120ms", decide_before = "30ms" }
[[line.camera]]
name = "top"
launch = "videotestsrc"
[[line]]
name = "g"
model = "model"
parts = { trigger = "picture", picture = { camera = "tpo", present_at = 60, absent_at = 50 } }
[[line.camera]]
name = "top"
launch = "videotestsrc"
[[line]]
name = "h"
model = "model"
parts = { trigger = "digital", digital = { edge = "both", debounce = "2s" } }
[[line.camera]]
name = "top"
launch = "videotestsrc"
"#;
    let (code, _, stderr) = check(&sandbox()?, config)?;
    assert_eq!(code, Some(2), "{stderr}");
    insta::assert_snapshot!(stderr, @r#"
    error: the configuration is wrong
    lines.toml:5:1: line `a`, [parts]: `k` must not be more than `n`
    lines.toml:5:1: line `a`, [parts]: this trigger comes over MQTT and needs a broker: `[mqtt]`
    lines.toml:10:1: line `a`, [gate]: `delay`, `distance_mm` with `speed_mm_s`, and `encoder_counts` exclude each other: give one
    lines.toml:16:20: line `a`, camera `top`, [queue]: `frames` must be a whole number from 1 to 1000, got 0
    lines.toml:16:30: line `a`, camera `top`, [queue]: `drop` must be one of oldest, newest, none, got "some"
    lines.toml:20:1: line `b`, [parts]: `rate` is missing: it must be parts a second
    lines.toml:20:1: line `b`, [parts]: `k` and `n` need `policy = "k_of_n"`
    lines.toml:22:16: line `b`, [parts]: `missing_view` must be one of unknown, reject, ignore, got "guess"
    lines.toml:24:1: line `b`, [gate]: `decide_before` must be less than the time to the gate: nothing could be decided
    lines.toml:28:1: line `b`, camera `top`: `min_frames` must not be more than `max_frames`
    lines.toml:31:10: line `b`, camera `top`: `offset` must be a duration from -60s to 60s such as "-20ms" or "150ms", got "-90s"
    lines.toml:38:14: line `c`, [decision]: `on_unknown` must be one of unknown, reject, pass, stop, got "shrug"
    lines.toml:42:10: line `c`, camera `top`: `window` needs `[line.parts]`: without it each frame is a part
    lines.toml:48:11: line `d`, [parts], [picture]: `absent_at` must not be more than `present_at`
    lines.toml:57:9: line `e`, [parts]: `topic` must be a topic of 1 to 1024 bytes without `+`, `#` and control characters, and not start with `$`, got `a/#`
    lines.toml:58:10: line `e`, [parts], [modbus]: give one of `discrete_input`, `input_register` and `holding_register`
    lines.toml:58:22: line `e`, [parts], [modbus]: `address` must be an address and port such as "192.0.2.5:502", got "plc"
    lines.toml:65:9: line `f`, [parts]: camera `top`: `offset` and `window` end 100ms after the trigger, but the verdict must stand after 90ms (the gate, or `expires_after`, less `decide_before`)
    lines.toml:73:53: line `g`, [parts]: unknown camera `tpo`, did you mean `top`? allowed are top
    lines.toml:80:42: line `h`, [parts], [digital]: `line` is missing: it must be the number of a GPIO line on its chip
    lines.toml:80:51: line `h`, [parts], [digital]: `edge` must be one of rising, falling, got "both"
    lines.toml:80:70: line `h`, [parts], [digital]: `debounce` must be a duration from 0ns to 1s such as "200ms" or "5s", got "2s"
    22 problems: nothing was started
    "#);
    Ok(())
}

#[test]
fn a_syntax_error_does_not_hide_the_rest() -> Result<()> {
    let (code, _, stderr) = check(&sandbox()?, "[[line]]\nname = \nmodel = \"model\"\nspeed = 3\n")?;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("lines.toml:2:") && stderr.contains("TOML syntax"), "{stderr}");
    assert!(stderr.contains("lines.toml:4:1: ") && stderr.contains("unknown key `speed`"), "{stderr}");
    Ok(())
}

#[test]
fn a_missing_variable_and_a_missing_certificate_are_told() -> Result<()> {
    let config = "[mqtt]\nbroker = \"mqtts://broker\"\nca_file = \"ca.pem\"\n[[line]]\nname = \"a\"\nmodel = \"model\"\n\
                  [[line.camera]]\nname = \"top\"\npipeline = \"rtsp\"\n";
    let (code, _, stderr) = check(&sandbox()?, config)?;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("lines.toml:1:1: [mqtt]: `ca_file`: cannot read `ca.pem`"), "{stderr}");
    assert!(stderr.contains("line `a`, camera `top`: variable `location` is missing"), "{stderr}");
    Ok(())
}

#[test]
fn every_key_of_a_cameras_clock_and_health_tells_what_it_must_be() -> Result<()> {
    let sandbox = sandbox()?;
    let table = [
        ("clock = \"gps\"", "`clock` must be one of auto, camera, pts, arrival, got \"gps\""),
        ("clock_tolerance = \"0s\"", "`clock_tolerance` must be a duration from 1ms to 3600s"),
        ("[line.camera.health]\nfrozen = \"reject\"", "`frozen` must be one of off, warn, unknown, got \"reject\""),
        ("[line.camera.health]\nmoved_after = 5", "`moved_after` must be a duration from 100ms to 3600s"),
        ("[line.camera.health]\nmost_glare = 2", "`most_glare` must be a number from 0 to 1, got 2"),
        ("[line.camera.health]\nclear_after = \"-1s\"", "`clear_after` must be a duration from 0ns to 3600s"),
        ("[line.camera.health]\nlearn_frames = 0", "`learn_frames` must be a whole number from 1 to 100000, got 0"),
        ("[line.camera.health]\nout_of_focuss = \"off\"", "did you mean `out_of_focus`?"),
        ("health = true", "`health` must be a table"),
    ];
    for (keys, expected) in table {
        let config = format!(
            "[[line]]\nname = \"a\"\nmodel = \"model\"\n[[line.camera]]\nname = \"top\"\npipeline = \"test\"\n{keys}\n"
        );
        let (code, _, stderr) = check(&sandbox, &config)?;
        assert_eq!(code, Some(2), "{keys}");
        assert!(stderr.contains(expected), "{keys}: {stderr}");
    }
    Ok(())
}

/// What is wrong with `[mqtt]`, and with `[line.mqtt]` of a line `cap`.
/// Of the tables of one line.
fn line_problems(tables: &str) -> Result<String> {
    let config = format!(
        "[[line]]\nname = \"cap\"\nmodel = \"model\"\n{tables}\n[[line.camera]]\nname = \"top\"\nlaunch = \"videotestsrc\"\n"
    );
    let (code, _, told) = check(&sandbox()?, &config)?;
    assert_eq!(code, Some(2), "{tables}: {told}");
    Ok(told)
}

#[test]
fn every_key_of_what_is_watched_tells_what_it_must_be() -> Result<()> {
    let table = [
        ("drift = 3", "`drift` must be a table"),
        ("drift = { window = 10 }", "[drift]: `window` must be a whole number from 20 to 100000, got 10"),
        ("drift = { reference = \"me\" }", "`reference` must be one of training, line, got \"me\""),
        ("drift = { watch = 1 }", "`watch` must be true or false"),
        ("drift = { limit = 1 }", "unknown key `limit`: allowed are reference, watch, window"),
        ("reject_chart = { usual_share = 2 }", "[reject_chart]: `usual_share` must be a number from 0 to 1, got 2"),
        ("reject_chart = { share = 0.1 }", "unknown key `share`: allowed are usual_share, watch, window"),
        ("challenge = {}", "[challenge]: `required_every` is missing: it must be a duration such as \"8h\""),
        ("challenge = { required_every = \"8\" }", "`required_every` must be a duration from 1s to"),
        (
            "challenge = { required_every = \"8h\", on_overdue = 1 }",
            "unknown key `on_overdue`: allowed are required_every",
        ),
    ];
    for (tables, expected) in table {
        let told = line_problems(tables)?;
        assert!(told.contains(expected), "{tables}: {told}");
    }
    Ok(())
}

fn mqtt_problems(mqtt: &str, own: &str) -> Result<String> {
    let sandbox = sandbox()?;
    let line = "[[line]]\nname = \"cap\"\nmodel = \"model\"\n[[line.camera]]\nname = \"top\"\npipeline = \"test\"\n";
    let (_, _, stderr) = check(&sandbox, &format!("{mqtt}\n{line}{own}\n"))?;
    Ok(stderr)
}

#[test]
fn every_key_of_delivery_tells_what_it_must_be() -> Result<()> {
    let broker = "broker = \"mqtt://127.0.0.1\"";
    let table = [
        ("brokers = []", "`brokers` must be one or more addresses, such as [\"mqtt://127.0.0.1:1883\"], got an array"),
        ("brokers = [\"http://me:secret@a\"]", "unknown scheme `http`"),
        (
            "broker = \"mqtt://a\"\nbrokers = [\"mqtt://b\"]",
            "`brokers` takes the place of `broker`: give one of the two",
        ),
        ("version = \"4\"", "`version` must be one of 3.1.1, 5, got \"4\""),
        ("version = \"5\"\nkeep_alive = \"2s\"", "`keep_alive` must be at least 5s with MQTT 5, got 2s"),
        ("qos = 0", "`qos` must be a whole number from 1 to 2, got 0"),
        ("session_expiry = \"1ms\"", "`session_expiry` must be a duration from 1s to 31536000s"),
        ("session_expiry = \"1h\"\nqos = 2", "`qos` 2 needs a session that begins anew with each connection"),
        ("ack_topic = \"{prefix}/+\"", "`ack_topic` must be a topic of 1 to 1024 bytes without `+`"),
        ("ack_timeout = \"1ms\"", "`ack_timeout` must be a duration from 10ms to 3600s"),
        ("outbox = { path = \"\" }", "[mqtt], [outbox]: `path` must be a text that is not empty, got \"\""),
        (
            "outbox = { fsync = \"often\" }",
            "[mqtt], [outbox]: `fsync` must be one of always, interval, never, got \"often\"",
        ),
        ("outbox = { keep = -1 }", "[mqtt], [outbox]: `keep` must be a whole number from 0 to 1000000, got -1"),
        ("outbox = { keep_for = \"0s\" }", "[mqtt], [outbox]: `keep_for` must be a duration from 1s to 31536000s"),
        (
            "outbox = { historical_per_second = 0 }",
            "`historical_per_second` must be a whole number from 1 to 10000, got 0",
        ),
        ("outbox = { size = 1 }", "unknown key `size`: allowed are fsync, historical_per_second, keep, keep_for, path"),
    ];
    for (keys, problem) in table {
        let broker = if keys.contains("broker") { "" } else { broker };
        let stderr = mqtt_problems(&format!("[mqtt]\n{broker}\n{keys}"), "")?;
        assert!(stderr.contains(problem) && !stderr.contains("secret"), "{keys}: {stderr}");
        // A line of its own mind makes the same mistakes.
        let own = mqtt_problems("", &format!("[line.mqtt]\n{broker}\n{keys}"))?;
        assert!(own.contains(problem.trim_start_matches("[mqtt], ")), "{keys}: {own}");
        assert!(own.contains("line `cap`, [mqtt]"), "{keys}: {own}");
    }
    Ok(())
}

#[test]
fn a_line_may_have_brokers_of_its_own_and_does_not_show_them_the_others_credentials() -> Result<()> {
    let sandbox = sandbox()?;
    sandbox.write("secrets", "plant:word\n")?;
    let line = |name: &str, own: &str| {
        format!(
            "[[line]]\nname = \"{name}\"\nmodel = \"model\"\ndevice = \"cpu\"\n{own}[[line.camera]]\nname = \"top\"\n\
             pipeline = \"test\"\n"
        )
    };
    let config =
        "[mqtt]\nbrokers = [\"mqtts://one\", \"mqtts://two\"]\ncredentials_file = \"secrets\"\nca_file = \"absent\"\n";
    let own = "mqtt = { broker = \"mqtt://mine\", qos = 2 }\n";
    // The line's own broker needs no authority: what is wrong is wrong in `[mqtt]` alone.
    let (_, _, stderr) = check(&sandbox, &format!("{config}{}{}", line("a", ""), line("b", own)))?;
    assert_eq!(stderr.matches("`ca_file`").count(), 1, "{stderr}");
    assert!(!stderr.contains("line `b`"), "{stderr}");
    let config = config.replace("ca_file = \"absent\"\n", "").replace("mqtts", "mqtt");
    let (code, stdout, stderr) = check(&sandbox, &format!("{config}{}{}", line("a", ""), line("b", own)))?;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("line `a`: model brightness 1 on cpu, mqtt://one:1883, then mqtt://two:1883"), "{stdout}");
    assert!(stdout.contains("line `b`: model brightness 1 on cpu, mqtt://mine:1883\n"), "{stdout}");
    Ok(())
}

#[test]
fn a_sound_configuration_says_what_would_run() -> Result<()> {
    let sandbox = sandbox()?;
    sandbox.write("pictures/1.png", "")?;
    sandbox.write("pipelines/mine.toml", "description = \"my own\"\nlaunch = \"videotestsrc\"\n")?;
    let config = r#"
[mqtt]
broker = "mqtt://me:secret@127.0.0.1"
[[line]]
name = "cap"
model = "model"
device = "cpu"
decision = { coverage_limit = { bright = 0.1 }, expires_after = "200ms" }
[[line.camera]]
name = "top"
pipeline = "folder"
with = { location = "pictures" }
[[line.camera]]
name = "usb"
pipeline = "usb"
[[line.camera]]
name = "own"
pipeline = "mine"
[[line.camera]]
name = "free"
launch = "videotestsrc ! videoconvert"
"#;
    let (code, stdout, stderr) = check(&sandbox, config)?;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!(stdout, @r#"
    http on 127.0.0.1:8750
    line `cap`: model brightness 1 on cpu, mqtt://me:***@127.0.0.1:1883
      camera `top`: folder
      camera `usb`: usb
      camera `own`: mine
      camera `free`: a launch line
    "#);
    Ok(())
}

/// A value may hold any character: none of it becomes a part of the pipeline's text.
#[test]
fn every_built_in_shape_makes_a_pipeline() -> Result<()> {
    let sandbox = sandbox()?;
    sandbox.write("pictures/1.png", "")?;
    sandbox.write("film.mp4", "")?;
    let cameras = [
        ("file", "location = \"film.mp4\", realtime = true"),
        ("folder", "location = \"pictures\", loop = true, rate = 2"),
        (
            "rtsp",
            "location = \"rtsps://camera:8554/1\", user = \"me\", password = \"a \\\" ! fakesink\", protocol = \"udp\"",
        ),
        ("synthetic", "parts = 20, rate = 0"),
        ("test", "pattern = \"snow\", frames = 10"),
        ("usb", ""),
    ];
    let mut config = "[[line]]\nname = \"all\"\nmodel = \"model\"\n".to_owned();
    for (shape, with) in cameras {
        config += &format!("[[line.camera]]\nname = \"{shape}\"\npipeline = \"{shape}\"\nwith = {{ {with} }}\n");
    }
    let (code, _, stderr) = check(&sandbox, &config)?;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    Ok(())
}

/// Each example is loaded as it is, with the files that it names laid beside it.
#[test]
fn every_example_is_sound() -> Result<()> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut count = 0;
    for entry in std::fs::read_dir(examples)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let sandbox = sandbox()?;
        let certificates = linewarden_testkit::tls::Certificates::generate()?;
        for model in ["models/cap", "models/label"] {
            brightness_package(&sandbox.path(model), 64, 48, ModelType::Segmentation)?;
        }
        let files = [
            ("certificates/ca.pem", certificates.ca()),
            ("certificates/line.pem", certificates.client_cert()),
            ("certificates/line.key", certificates.client_key()),
        ];
        for (name, from) in files {
            sandbox.write(name, std::fs::read(from)?)?;
        }
        sandbox.write("secrets/mqtt", "line:word\n")?;
        sandbox.write("secrets/camera", "word\n")?;
        sandbox.write("pictures/1.png", "")?;
        let (code, stdout, stderr) = check(&sandbox, &std::fs::read_to_string(&path)?)?;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{}", path.display());
        assert!(stdout.contains("line `"), "{stdout}");
    }
    assert!(count >= 3, "only {count} examples");
    Ok(())
}
