//! The socket and its configuration.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::sandbox::DaemonSandbox;

use crate::{Component, SOCKET, Site};

#[test]
fn a_socket_that_a_killed_agent_left_is_taken_over_and_one_in_use_is_not() -> Result<()> {
    let components = [Component("cap", 64, 64, ModelType::Classification)];
    let mut site = Site::new(&components, "access = \"group\"\nstart = [\"cap\"]\n")?;
    let socket = site.daemon.path(SOCKET);
    assert_eq!(std::fs::metadata(&socket)?.permissions().mode() & 0o777, 0o660);
    let second = site.daemon.call(&["serve", "linewarden.toml"])?;
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(second.status.code() == Some(1) && told.contains("another agent listens there"), "{told}");
    assert_eq!(site.settled("cap")?.0, "RUNNING", "the first one goes on");
    site.daemon.kill()?;
    ensure!(socket.exists(), "nobody was there to remove it");
    Site::serve(&mut site.daemon, "")?;
    site.client = crate::client(&site.daemon)?;
    assert_eq!(site.settled("cap")?.0, "STOPPED");
    assert_eq!(std::fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
    site.end()
}

#[test]
fn what_is_wrong_with_an_agent_is_told_with_its_place_and_run_does_not_listen() -> Result<()> {
    let daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&daemon.path("models/cap"), 64, 64, ModelType::Classification)?;
    let told = |command: &str, config: &str| -> Result<(Option<i32>, String, String)> {
        daemon.write("lines.toml", config)?;
        let output = daemon.call(&[command, "lines.toml", "--check"])?;
        Ok((output.status.code(), String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    };
    let table = [
        ("", "`line` is missing: it must be one or more tables `[[line]]`, or a table `[agent]` or `[api]`"),
        ("[agent]", "lines.toml:1:1: [agent]: `models` is missing: it must be a folder of model packages"),
        (
            "[agent]\nmodels = \"absent\"",
            "lines.toml:2:10: [agent]: `models` must be a folder of model packages, got `",
        ),
        (
            "[agent]\nmodels = \"models\"\naccess = \"all\"",
            "`access` must be one of owner, group, everyone, got \"all\"",
        ),
        (
            "[agent]\nmodels = \"models\"\nstart = [\"bottle\"]",
            "`start` names the model component `bottle`, which is not in `",
        ),
        ("[agent]\nmodels = \"models\"\nstart = \"cap\"", "`start` must be a list of model components"),
        ("[agent]\nmodels = \"models\"\nqueue = 0", "`queue` must be a whole number from 1 to 256, got 0"),
        ("[agent]\nmodels = \"models\"\naccount = \"12\"", "`account` must be 12 digits, got \"12\""),
        (
            "[agent]\nmodels = \"models\"\ndevice = \"tpu\"",
            "`device` must be one of auto, cpu, cuda, tensorrt, openvino",
        ),
        ("[agent]\nmodels = \"models\"\nsockets = \"a\"", "[agent]: unknown key `sockets`, did you mean `socket`?"),
    ];
    for (config, expected) in table {
        let (code, out, error) = told("serve", config)?;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{config}: {error}");
        assert!(error.contains(expected), "{config}: {error}");
    }
    let config = "[agent]\nmodels = \"models\"\nsocket = \"unix:///run/agent.sock\"\n";
    let (code, out, error) = told("serve", config)?;
    let line = out.lines().find(|line| line.starts_with("agent on")).context("the agent's line")?;
    ensure!(code == Some(0) && line.starts_with("agent on /run/agent.sock: models in `"), "{out}{error}");
    let (code, _, error) = told("run", config)?;
    ensure!(code == Some(2) && error.contains("one or more tables `[[line]]`"), "{error}");
    Ok(())
}
