//! Peers from a package registry, written in Python by others: `make setup` lays them into the data folder.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// A program of the test's own that uses the peers. It speaks one JSON document a line, both ways, and is killed on drop.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Peer {
    /// Runs a Python program with the peers in its path.
    ///
    /// # Errors
    /// When Python or the peers are missing.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_with("peers", &[], program, arguments)
    }

    /// The same with the packages of another folder that `make setup` lays, and with these environment variables.
    ///
    /// # Errors
    /// When Python or the packages are missing.
    pub fn start_with(
        packages: &str,
        environment: &[(&str, &OsStr)],
        program: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut child = python(packages)?
            .arg("-u")
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run `python3`: run `make setup`")?;
        let input = child.stdin.take().context("a piped input")?;
        let output = child.stdout.take().context("a piped output")?;
        let (line_sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody may be waiting any more.
                let _ = line_sender.send(line);
            }
        });
        Ok(Self { child, input, lines })
    }

    /// Sends one document.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn tell(&mut self, document: &serde_json::Value) -> Result<()> {
        writeln!(self.input, "{document}").context("the peer has ended")
    }

    /// The next document.
    ///
    /// # Errors
    /// When none comes in time, or it is no JSON.
    pub fn hear(&self, timeout: Duration) -> Result<serde_json::Value> {
        let line =
            self.lines.recv_timeout(timeout).with_context(|| format!("the peer said nothing within {timeout:?}"))?;
        serde_json::from_str(&line).with_context(|| format!("the peer said `{line}`"))
    }

    /// What it has said by now and nobody has heard yet.
    ///
    /// # Errors
    /// When it said something that is no JSON.
    pub fn arrived(&self) -> Result<Vec<serde_json::Value>> {
        let lines = self.lines.try_iter();
        lines.map(|line| serde_json::from_str(&line).with_context(|| format!("the peer said `{line}`"))).collect()
    }

    /// The next document that `is_wanted`; those before it are thrown away.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn hear_where(
        &self,
        timeout: Duration,
        mut is_wanted: impl FnMut(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        let deadline = Instant::now() + timeout;
        let mut others = Vec::new();
        loop {
            match self.hear(deadline.saturating_duration_since(Instant::now())) {
                Ok(document) if is_wanted(&document) => return Ok(document),
                Ok(document) => others.push(document),
                Err(error) => bail!("{error:#}; it said before: {others:#?}"),
            }
        }
    }

    /// Tells something and waits for its answer.
    ///
    /// # Errors
    /// As [`Peer::tell`] and [`Peer::hear`].
    pub fn ask(&mut self, document: &serde_json::Value, timeout: Duration) -> Result<serde_json::Value> {
        self.tell(document)?;
        self.hear(timeout)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Python with the packages of a folder that `make setup` lays, to be told what to run.
///
/// # Errors
/// When there are none.
pub fn python(packages: &str) -> Result<Command> {
    let peers = folder()?.join(packages);
    ensure!(peers.join("peers.txt").is_file(), "there are no test peers in `{}`: run `make setup`", peers.display());
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", &peers).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// Where `scripts/setup` lays things.
fn folder() -> Result<PathBuf> {
    let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = from("LINEWARDEN_DATA_DIR")
        .or_else(|| Some(from("XDG_DATA_HOME")?.join("linewarden")))
        .or_else(|| Some(from("HOME")?.join(".local/share/linewarden")));
    data.context("neither LINEWARDEN_DATA_DIR nor HOME is set")
}
