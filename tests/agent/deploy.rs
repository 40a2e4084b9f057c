//! `linewarden deploy`: onto this machine, under a running agent, back again, and over a real SSH connection.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::peers::Peer;
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::{Value, json};

use crate::{PATIENCE, Site, client};

/// What a call ended with, and said on standard output and error.
struct Ended(Option<i32>, String, String);

fn deploy(daemon: &DaemonSandbox, arguments: &[&str]) -> Result<Ended> {
    let output = daemon.call(&[&["deploy", "--no-service"], arguments].concat())?;
    Ok(Ended(output.status.code(), String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

/// Two models that can be told apart: one takes pictures of 64x64, the other of 96x64.
fn with_packages() -> Result<DaemonSandbox> {
    let daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&daemon.path("first"), 64, 64, ModelType::Classification)?;
    brightness_package(&daemon.path("second"), 96, 64, ModelType::Classification)?;
    Ok(daemon)
}

fn takes(site: &mut Site, width: u32) -> Result<bool> {
    let order = json!({ "call": "detect", "component": "cap", "width": width, "height": 64, "grey": 10 });
    let answer = site.ask(&order)?;
    Ok(answer["answer"].is_object())
}

#[test]
fn an_agent_changes_over_to_what_is_deployed_and_back() -> Result<()> {
    let mut daemon = with_packages()?;
    std::fs::create_dir(daemon.path("models"))?;
    Site::serve(&mut daemon, "max_running = 2 # a small machine\n")?;
    let client = client(&daemon)?;
    let mut site = Site { daemon, client };
    let config = ["--name", "cap", "--config", "linewarden.toml"];
    let deployed = |site: &Site, source: &str| deploy(&site.daemon, &[&[source][..], &config].concat());
    let Ended(code, said, error) = deployed(&site, "first")?;
    ensure!(code == Some(0), "{error}");
    ensure!(said.contains("cap, model brightness 1, is in models/cap.") && said.contains("runs it."), "{said}");
    ensure!(takes(&mut site, 64)? && !takes(&mut site, 96)?);
    let text = std::fs::read_to_string(site.daemon.path("linewarden.toml"))?;
    ensure!(text.contains("max_running = 2 # a small machine\nstart = [\"cap\"]\n"), "{text}");

    let Ended(code, said, error) = deployed(&site, "second")?;
    ensure!(code == Some(0) && said.contains("linewarden deploy --rollback cap"), "{said}{error}");
    ensure!(takes(&mut site, 96)? && !takes(&mut site, 64)?);
    for width in [64, 96] {
        let Ended(code, said, error) =
            deploy(&site.daemon, &["--rollback", "cap", "--config", "linewarden.toml", "--json"])?;
        ensure!(code == Some(0), "{error}");
        let said: Value = serde_json::from_str(&said)?;
        assert_eq!((&said["component"], &said["agent"]), (&json!("cap"), &json!("running")));
        ensure!(takes(&mut site, width)?, "{width}");
    }

    // What does not run changes nothing.
    brightness_package(&site.daemon.path("broken"), 64, 64, ModelType::Classification)?;
    std::fs::write(site.daemon.path("broken/model.onnx"), "no graph")?;
    let Ended(code, _, error) = deployed(&site, "broken")?;
    ensure!(code == Some(1) && error.contains("`model.onnx` has SHA-256"), "{error}");
    ensure!(takes(&mut site, 96)?);
    // Nor does what the agent refuses: two others run already.
    assert_eq!(site.call("stop", "cap")?, json!({ "answer": "STOPPED" }));
    for name in ["one", "two"] {
        brightness_package(&site.daemon.path("models").join(name), 64, 64, ModelType::Classification)?;
        site.start(name)?;
    }
    let Ended(code, _, error) = deployed(&site, "first")?;
    ensure!(code == Some(1) && error.contains("`max_running` allows no more"), "{error}");
    ensure!(error.contains("nothing was changed"), "{error}");
    assert_eq!(site.call("stop", "two")?, json!({ "answer": "STOPPED" }));
    site.start("cap")?;
    ensure!(takes(&mut site, 96)?, "the refused one took the place");
    site.end()
}

#[test]
fn a_machine_without_anything_gets_a_configuration_that_an_agent_runs_from() -> Result<()> {
    let daemon = with_packages()?;
    let there = ["--config", "line/linewarden.toml"];
    let Ended(code, said, error) = deploy(&daemon, &[&["first"][..], &there].concat())?;
    ensure!(code == Some(0), "{error}");
    ensure!(said.contains("No agent listens at") && said.contains("linewarden serve line/linewarden.toml"), "{said}");
    let check = daemon.call(&["serve", "line/linewarden.toml", "--check"])?;
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let text = std::fs::read_to_string(daemon.path("line/linewarden.toml"))?;
    ensure!(text.contains("device = \"auto\"\nstart = [\"first\"]\n"), "{text}");
    // An archive of a package is a component, too, and replaces a folder.
    let mut archive = tar::Builder::new(std::fs::File::create(daemon.path("first.tar"))?);
    archive.append_dir_all("x", daemon.path("second"))?;
    archive.into_inner()?;
    let Ended(code, said, error) = deploy(&daemon, &[&["first.tar"][..], &there].concat())?;
    ensure!(code == Some(0) && said.contains("was there before"), "{said}{error}");

    for (arguments, told) in [
        (vec!["nothing.tar"], "there is no component at `nothing.tar`"),
        (vec!["first", "--name", "../first"], "`../first` cannot be a component's name"),
        (vec!["first", "--device", "tpu"], "`--device`"),
        (vec!["--rollback", "lid"], "there is no earlier `lid`"),
        (vec!["first", "--rollback", "first"], "cannot be used with"),
        (vec!["first", "--ssh", "ssh"], "--to"),
        (vec!["first", "--to=-oProxyCommand=x"], "must be a host"),
    ] {
        let Ended(code, _, error) = deploy(&daemon, &[&arguments[..], &there].concat())?;
        ensure!(code == Some(2) && error.contains(told), "{arguments:?}: {code:?} {error}");
    }
    Ok(())
}

#[test]
fn a_component_goes_to_another_machine_over_ssh() -> Result<()> {
    let daemon = with_packages()?;
    let keys = daemon.path("keys");
    std::fs::create_dir(&keys)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent/sshd.py");
    let server = Peer::start(&program, &[&text(&keys)?])?;
    let port = server.hear(PATIENCE)?["port"].as_u64().context("a port")?;
    let ssh = |port: u64| {
        format!(
            "ssh -F none -p {port} -i '{}' -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            keys.join("client_key").display()
        )
    };
    // A folder that a shell would take for several words.
    let config = text(&daemon.path("other machine/linewarden.toml"))?;
    let (near, program) = (ssh(port), env!("CARGO_BIN_EXE_linewarden"));
    let to = |arguments: &[&str], ssh: &str, program: &str| {
        let there = ["--config", &config, "--to", "tester@127.0.0.1", "--ssh", ssh, "--remote-linewarden", program];
        deploy(&daemon, &[arguments, &there].concat())
    };
    let Ended(code, said, error) = to(&["first", "--name", "cap", "--device", "cpu"], &near, program)?;
    ensure!(code == Some(0) && said.contains("cap, model brightness 1, is in"), "{said}{error}");
    let made = std::fs::read_to_string(&config)?;
    ensure!(made.contains("device = \"cpu\"\nstart = [\"cap\"]\n"), "{made}");
    let model = text(&daemon.path("other machine/models/cap"))?;
    let check = daemon.call(&["serve", &config, "--check"])?;
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));

    let Ended(code, said, error) = to(&["second", "--name", "cap", "--json"], &near, program)?;
    ensure!(code == Some(0), "{error}");
    let said: Value = serde_json::from_str(&said)?;
    assert_eq!((&said["folder"], &said["agent"]), (&json!(model), &json!("no agent")));
    let size = |model: &str| -> Result<Value> {
        let info: Value = serde_json::from_str(&std::fs::read_to_string(Path::new(model).join("model.json"))?)?;
        Ok(info["image_size"]["width_px"].clone())
    };
    assert_eq!(size(&model)?, 96);
    let Ended(code, _, error) = to(&["--rollback", "cap"], &near, program)?;
    ensure!(code == Some(0), "{error}");
    assert_eq!(size(&model)?, 64);

    let Ended(code, _, error) = to(&["first"], &near, "/nowhere/linewarden")?;
    ensure!(code == Some(1) && error.contains("there is no `/nowhere/linewarden` on tester@127.0.0.1"), "{error}");
    let Ended(code, _, error) = to(&["--rollback", "lid"], &near, program)?;
    ensure!(code == Some(1) && error.contains("no earlier `lid`") && error.contains("failed"), "{error}");
    let Ended(code, _, error) = to(&["first"], &ssh(1), program)?;
    ensure!(code == Some(1) && error.contains("does not get to tester@127.0.0.1"), "{error}");
    drop(server);
    Ok(())
}
