//! A program run to its end, with what it said, how long it took and how much memory it had.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How often a running program's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// From its start to its end.
    pub elapsed: Duration,
    /// The most memory that it had in RAM, as the kernel counts it.
    pub peak_memory_bytes: u64,
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command) -> Result<Finished> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut peak_memory_bytes = 0;
    let status = loop {
        // The kernel keeps the peak itself, so that nothing falls between two looks but the very end.
        peak_memory_bytes = peak_memory_bytes.max(peak_memory(child.id()));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(LOOK_EVERY);
    };
    let elapsed = start.elapsed();
    let text = |thread: JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Finished { status, stdout: text(stdout), stderr: text(stderr), elapsed, peak_memory_bytes })
}

/// The most that a process held; 0 when it has ended.
fn peak_memory(process: u32) -> u64 {
    memory_bytes(process, "VmHWM:").unwrap_or(0)
}

/// A line of what the kernel says of a process's memory, such as `VmRSS:`, while there is the process.
pub(crate) fn memory_bytes(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Reads on a thread of its own, so that a talkative child never waits.
pub(crate) fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
