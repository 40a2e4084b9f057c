//! A GigE Vision camera: Aravis' own, which sends over loopback what a real one would.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use linewarden_model::ModelType;
use linewarden_testkit::broker::Mosquitto;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::sandbox::DaemonSandbox;

use crate::support::{Site, line, recovered};

/// Killed on drop.
struct FakeCamera(Child);

impl FakeCamera {
    fn start() -> Result<Self> {
        let program = "arv-fake-gv-camera-0.8";
        let camera = Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(camera.with_context(|| format!("cannot run `{program}`: run `make setup`"))?))
    }
}

impl Drop for FakeCamera {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon as a user would run it: Aravis takes packets from a raw socket when it may, and there are none on loopback.
fn unprivileged(folder: &Path) -> Result<PathBuf> {
    let binary = env!("CARGO_BIN_EXE_linewarden");
    if !rustix::process::geteuid().is_root() {
        return Ok(binary.into());
    }
    let script = folder.join("linewarden");
    std::fs::write(&script, format!("#!/bin/sh\nexec setpriv --bounding-set=-net_raw '{binary}' \"$@\"\n"))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

#[test]
fn a_gige_vision_camera_is_scored_and_back_soon_after_it_was_away() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let daemon = DaemonSandbox::new(unprivileged(folder.path())?)?;
    brightness_package(&daemon.path("model"), 256, 256, ModelType::Classification)?;
    let mut site = Site { broker: Mosquitto::start()?, daemon };
    let watch = site.hear("cap")?;
    let camera = FakeCamera::start()?;
    // A whole picture, 512 by 512, is more than a socket holds where the system's default stands.
    site.start(&[line(
        "cap",
        "pipeline = \"aravis\"\nwith = { camera = \"Aravis-Fake-GV01\", max_width = 256, max_height = 256 }",
    )])?;
    site.wait_verdicts("cap", 10.0)?;
    drop(camera);
    site.daemon.wait_metric("linewarden_camera_connected{camera=\"top\",line=\"cap\"}", |there| there == 0.0)?;
    watch.arrived();
    let _again = FakeCamera::start()?;
    let took = recovered(&watch, Instant::now())?;
    std::io::Write::write_all(&mut std::io::stderr(), format!("GigE Vision camera back after {took:?}\n").as_bytes())?;
    site.end()?;
    Ok(())
}
