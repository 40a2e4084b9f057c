//! Peak memory of the real daemon while a line runs.

use std::fs;

use anyhow::{Context as _, Result};
use linewarden_testkit::broker::Mosquitto;
use linewarden_testkit::sandbox::DaemonSandbox;

use crate::parts::Parts;
use crate::report::Report;

/// Pictures that are scored before the peak is read: everything that grows at the beginning has grown.
const PICTURES: f64 = 150.0;
const MOST_MB: f64 = 400.0;

pub(crate) fn measure(parts: &Parts, report: &mut Report) -> Result<()> {
    let broker = Mosquitto::start()?;
    let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    let config = format!(
        "[mqtt]\nbroker = \"{}\"\n[[line]]\nname = \"bench\"\nmodel = \"{}\"\n[[line.camera]]\nname = \"top\"\n\
         pipeline = \"folder\"\nwith = {{ location = \"{}\", loop = true, rate = 30 }}\n",
        broker.url(),
        parts.model().display(),
        parts.pictures().display(),
    );
    daemon.start(&config)?;
    let scored =
        "linewarden_processed_image_total{camera=\"top\",line=\"bench\",model_version=\"1\",project=\"bench\"}";
    daemon.wait_metric(scored, |scored| scored >= PICTURES)?;
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process_id().context("the daemon runs")?))?;
    let (peak, now) = (megabytes(&status, "VmHWM")?, megabytes(&status, "VmRSS")?);
    daemon.terminate()?;
    daemon.wait_end()?;
    report.chapter("`linewarden run`: one line, PNG pictures of 1280x720, 30 a second");
    report.required("peak_memory", "peak memory (VmHWM)", peak, "MB", MOST_MB);
    report.figure("memory", "memory after 150 pictures (VmRSS)", now, "MB");
    Ok(())
}

/// A line of `/proc/<pid>/status`, which counts in units of 1024 bytes.
fn megabytes(status: &str, name: &str) -> Result<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()).context("the kernel tells no memory")?;
    Ok(number.parse::<f64>()? * 1024.0 / 1e6)
}
