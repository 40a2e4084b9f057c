//! The real daemon in a folder of its own, on a free port.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::memory_bytes;

/// How long the daemon may take to do what a test waits for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A daemon, or the folder for one that is yet to be started. Killed on drop.
#[derive(Debug)]
pub struct DaemonSandbox {
    folder: TempDir,
    binary: PathBuf,
    child: Option<Child>,
    http: Option<SocketAddr>,
}

impl DaemonSandbox {
    /// An empty folder for the daemon `binary`; a test passes `env!("CARGO_BIN_EXE_linewarden")`.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub fn new(binary: impl Into<PathBuf>) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a folder for the daemon")?;
        Ok(Self { folder, binary: binary.into(), child: None, http: None })
    }

    /// A path in the daemon's folder, which is where its configuration lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the daemon's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
        fs::write(&path, content).with_context(|| format!("cannot write `{name}`"))?;
        Ok(path)
    }

    /// Runs the binary in the folder until it ends by itself.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn call(&self, arguments: &[&str]) -> Result<Output> {
        self.command().args(arguments).output().context("cannot run the daemon")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    /// Starts `run` with this configuration, to which a free port is added, and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(&mut self, config: &str) -> Result<()> {
        self.begin("run", config)
    }

    /// The same with `serve`.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn serve(&mut self, config: &str) -> Result<()> {
        self.begin("serve", config)
    }

    fn begin(&mut self, command: &str, config: &str) -> Result<()> {
        let config = format!("[http]\nlisten = \"127.0.0.1:0\"\n{config}");
        self.write("linewarden.toml", config)?;
        let log = File::create(self.log_path())?;
        let child = self
            .command()
            .args([command, "linewarden.toml", "--log-format", "json", "--log-level", "info,linewarden=debug"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the daemon")?;
        self.child = Some(child);
        self.http = Some(self.wait_listening()?);
        Ok(())
    }

    fn wait_listening(&mut self) -> Result<SocketAddr> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = self.logged("listening")?.and_then(|entry| entry["address"].as_str()?.parse().ok()) {
                return Ok(address);
            }
            if let Some(status) = self.child.as_mut().context("the daemon was not started")?.try_wait()? {
                // What it said last may have been written since it was looked at.
                if let Some(entry) = self.logged("listening")? {
                    return Ok(entry["address"].as_str().context("no address")?.parse()?);
                }
                bail!("the daemon ended at once ({status}):\n{}", self.log()?);
            }
            ensure!(Instant::now() < deadline, "the daemon does not listen:\n{}", self.log()?);
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The first log entry with this message.
    ///
    /// # Errors
    /// When there is no log.
    pub fn logged(&self, message: &str) -> Result<Option<serde_json::Value>> {
        let log = self.log()?;
        let entries = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(entries.into_iter().find(|entry| entry["message"] == message))
    }

    fn log_path(&self) -> PathBuf {
        self.path("linewarden.log")
    }

    /// Everything that the daemon said.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(self.log_path()).context("cannot read the daemon's log")
    }

    /// Status and body of a page.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.http.context("the daemon was not started")?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// The value of one series, written as `/metrics` writes it: `name{label="value",...}`.
    ///
    /// # Errors
    /// When there is no such series.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no series `{series}` in:\n{text}"))?.parse()?)
    }

    /// Waits until a series has a value that `is_wanted`, and gives it.
    ///
    /// # Errors
    /// When it does not get there in time.
    pub fn wait_metric(&self, series: &str, is_wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(series)?;
            if is_wanted(value) {
                return Ok(value);
            }
            ensure!(Instant::now() < deadline, "`{series}` stays at {value}:\n{}", self.log()?);
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until `/readyz` answers with this status.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.get("/readyz")?;
            if status == 200 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not ready: {body}\n{}", self.log()?);
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The daemon's process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Memory that the daemon has in use.
    ///
    /// # Errors
    /// When the daemon does not run.
    pub fn resident_bytes(&self) -> Result<u64> {
        let process = self.process_id().context("the daemon is not running")?;
        memory_bytes(process, "VmRSS:").context("the daemon has ended")
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// When the daemon does not run.
    pub fn terminate(&self) -> Result<()> {
        let child = self.child.as_ref().context("the daemon is not running")?;
        Ok(kill_process(Pid::from_child(child), Signal::TERM)?)
    }

    /// Sends SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// When the daemon does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until the daemon has ended.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.as_mut().context("the daemon is not running")?.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the daemon does not end:\n{}", self.log()?);
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for DaemonSandbox {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A test that waits in vain says so, not why.
            if let Ok(Some(status)) = child.try_wait() {
                let log = self.log().unwrap_or_default();
                // Nobody to tell when this cannot be written either.
                let _ = writeln!(std::io::stderr(), "the daemon had ended by itself ({status}):\n{log}");
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
