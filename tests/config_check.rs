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
    lines.toml:7:1: [mqtt]: unknown key `topic_prefx`, did you mean `topic_prefix`? allowed are acknowledge_timeout, broker, ca_file, cert_file, connect_timeout, credentials_file, heartbeat_interval, keep_alive, key_file, outbox_capacity, result_expiry, topic_prefix
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
    lines.toml:27:12: line `cap`, camera `top`: unknown pipeline `rstp`, did you mean `rtsp`? allowed are file, folder, rtsp, synthetic, test, usb
    lines.toml:30:8: line `cap`, camera 2: `name` must be unique: there is another camera `top`
    lines.toml:32:21: line `cap`, camera `top`: `location` must not hold a user or password: give them as `user` and `password`
    lines.toml:32:60: line `cap`, camera `top`: `latency` must be a whole number from 0 to 10000, got -5
    lines.toml:32:64: line `cap`, camera `top`: unknown variable `colour`: allowed are latency, location, password, protocol, user
    lines.toml:36:10: line `cap`, camera `side`: `launch`: cannot parse the launch line: no element "nosuchelement"
    lines.toml:37:8: line `cap`, camera `side`: `live` must be true or false, got "yes"
    20 problems: nothing was started
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
