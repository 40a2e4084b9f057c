//! A PostgreSQL server of the test's own.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Debian's place for programs that are not in anybody's path.
const DEBIAN: &str = "/usr/lib/postgresql/15/bin";
const SOON: Duration = Duration::from_secs(30);

/// Listens at a socket in its folder only. Killed on drop.
#[derive(Debug)]
pub struct Postgres {
    server: Child,
    address: String,
}

impl Postgres {
    /// Starts one in this folder.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        let data = folder.join("data");
        let user = if is_root() {
            // The server refuses to run as root.
            std::os::unix::fs::chown(folder, Some(NOBODY), None)?;
            Some(NOBODY)
        } else {
            None
        };
        let program = |name: &str| {
            let installed = PathBuf::from(DEBIAN).join(name);
            let mut command = Command::new(if installed.exists() { installed } else { name.into() });
            if let Some(user) = user {
                command.uid(user);
            }
            command.current_dir(folder).env("HOME", folder).stdin(Stdio::null());
            command
        };
        let made = program("initdb")
            .args(["--auth=trust", "--username=linewarden", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(&data)
            .output();
        let made = made.context("cannot run `initdb`: run `make setup`")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = program("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run `postgres`: run `make setup`")?;
        let host: String = folder.to_str().context("a path in UTF-8")?.replace('/', "%2F");
        let started = Self { server, address: format!("postgres://linewarden@{host}/postgres") };
        let (deadline, socket) = (Instant::now() + SOON, folder.join(".s.PGSQL.5432"));
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if Instant::now() > deadline {
                bail!("PostgreSQL does not listen at `{}`", socket.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(started)
    }

    /// As in `postgres://user@host/database`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0)
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
