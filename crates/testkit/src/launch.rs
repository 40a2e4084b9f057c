//! `gst-launch-1.0` with the plugin that was just built, as a user runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::collect;

const PLUGIN: &str = "libgstlinewarden.so";
/// How often an unfinished child is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What a finished `gst-launch-1.0` left.
#[derive(Debug)]
pub struct Launched {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs one pipeline to its end. Its words are separated by white space; there is no quoting.
///
/// The registry of plugins lies beside the test's executable, so that only the first run of all looks at every plugin.
///
/// A pipeline that is to fail amid its frames wants a sink with `async=false`: when an error comes while it prerolls,
/// `gst-launch-1.0` 1.22 now and then tells it and does not end (with `identity error-after=1` 35 times of 360).
///
/// # Errors
/// When the plugin was not built, `gst-launch-1.0` is missing, or the pipeline does not end in time; it is killed then.
pub fn gst_launch(pipeline: &str, timeout: Duration) -> Result<Launched> {
    gst_launch_with(pipeline, &[], timeout)
}

/// The same with more environment variables.
///
/// # Errors
/// As [`gst_launch`].
pub fn gst_launch_with(pipeline: &str, variables: &[(&str, &OsStr)], timeout: Duration) -> Result<Launched> {
    Running::start_with(pipeline, variables)?.finish(timeout)
}

/// A `gst-launch-1.0` that runs. Killed on drop.
#[derive(Debug)]
pub struct Running {
    pipeline: String,
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts one pipeline, which ends at the end of its source or when this is dropped.
    ///
    /// # Errors
    /// When the plugin was not built, or `gst-launch-1.0` is missing.
    pub fn start(pipeline: &str) -> Result<Self> {
        Self::start_with(pipeline, &[])
    }

    fn start_with(pipeline: &str, variables: &[(&str, &OsStr)]) -> Result<Self> {
        let folder = plugin_folder()?;
        let mut child = Command::new("gst-launch-1.0")
            .args(pipeline.split_whitespace())
            .env("GST_PLUGIN_PATH", &folder)
            .env("GST_REGISTRY", folder.join("gst-launch-tests.registry"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run `gst-launch-1.0`: run `make setup`")?;
        let stdout = Some(collect(child.stdout.take()));
        let stderr = Some(collect(child.stderr.take()));
        Ok(Self { pipeline: pipeline.to_owned(), child, stdout, stderr })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn finish(mut self, timeout: Duration) -> Result<Launched> {
        let deadline = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= deadline {
                self.child.kill()?;
                self.child.wait()?;
                break None;
            }
            thread::sleep(POLL);
        };
        let text =
            |thread: Option<JoinHandle<String>>| thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let (stdout, stderr) = (text(self.stdout.take()), text(self.stderr.take()));
        let pipeline = &self.pipeline;
        match status {
            Some(status) => Ok(Launched { status, stdout, stderr }),
            None => bail!("`gst-launch-1.0 {pipeline}` did not end within {timeout:?}\n{stdout}\n{stderr}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the plugin's library. `cargo test` builds it beside the tests, `cargo build` one folder up; the newer one
/// counts.
///
/// # Errors
/// When it is in neither.
pub fn plugin_folder() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let beside = executable.parent().context("the test's executable lies in no folder")?;
    // Of two that are equally new the last one counts: the folder beside is smaller, and GStreamer looks at all of it.
    let folders = beside.parent().into_iter().chain([beside]);
    let built = |folder: &Path| Some((folder.join(PLUGIN).metadata().ok()?.modified().ok()?, folder.to_owned()));
    let newest = folders.filter_map(built).max_by_key(|&(time, _)| time);
    let (_, folder) = newest.with_context(|| {
        format!(
            "`{PLUGIN}` was not built: run `cargo build --release -p gst-plugin-linewarden` first, as `make test` does"
        )
    })?;
    Ok(folder)
}
