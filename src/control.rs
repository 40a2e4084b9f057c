//! The way from the command line to the running daemon: its HTTP port, on this machine only, with a secret that only the
//! daemon's user can read.
//!
//! The daemon writes address and secret into a run file when it starts: `CONFIG.toml.run` in the folder that systemd gives
//! it (`RUNTIME_DIRECTORY`), else beside the configuration. Whoever can read that file may change the lines' models.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use linewarden_core::BootId;
use serde::{Deserialize, Serialize};

/// Where systemd makes the folder of a service named `linewarden`.
const RUN_FOLDER: &str = "/run/linewarden";
/// Loading a model takes seconds, on a device that compiles it minutes.
const PATIENCE: Duration = Duration::from_secs(600);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// What somebody who wants to talk to the daemon must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunFile {
    address: SocketAddr,
    token: String,
    process_id: u32,
}

/// A run file that was written. It is removed when this is dropped.
pub(crate) struct WrittenRunFile {
    path: PathBuf,
    pub(crate) token: String,
}

/// What the daemon answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// The file in a folder that is told, else beside the configuration.
fn path_of(config: &Path, folder: Option<&Path>) -> PathBuf {
    let mut name = config.file_name().map_or_else(|| OsString::from("linewarden.toml"), OsString::from);
    name.push(".run");
    match folder {
        Some(folder) => folder.join(name),
        None => config.with_file_name(name),
    }
}

impl RunFile {
    /// Writes where the daemon listens, with a new secret, for its own user alone.
    pub(crate) fn write(config: &Path, address: SocketAddr) -> anyhow::Result<WrittenRunFile> {
        // systemd names several folders with colons between them; the first is ours.
        let folder = std::env::var_os("RUNTIME_DIRECTORY").and_then(|folders| std::env::split_paths(&folders).next());
        let path = path_of(config, folder.as_deref());
        let token = format!("{}{}", BootId::random(), BootId::random()).replace('-', "");
        let content = Self { address, token: token.clone(), process_id: std::process::id() };
        let content = serde_json::to_vec(&content).context("cannot write the run file")?;
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&content))
            .and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // It may not be there.
            let _ = fs::remove_file(&new);
        }
        written.with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(WrittenRunFile { path, token })
    }

    /// Finds the daemon that runs this configuration.
    pub(crate) fn read(config: &Path) -> anyhow::Result<Self> {
        let places = [path_of(config, None), path_of(config, Some(Path::new(RUN_FOLDER)))];
        for path in &places {
            match fs::read(path) {
                Ok(content) => {
                    return serde_json::from_slice(&content)
                        .with_context(|| format!("`{}` is no run file of the daemon", path.display()));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let told = format!("cannot read `{}`: only the daemon's user may", path.display());
                    return Err(error).context(told);
                }
            }
        }
        let [beside, system] = places.map(|path| path.display().to_string());
        anyhow::bail!("no daemon runs with `{}`: there is neither `{beside}` nor `{system}`", config.display())
    }

    /// Asks the daemon, and waits for its answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        let address = reachable(self.address);
        let gone = || format!("the daemon with process id {} does not answer on {address}", self.process_id);
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN).with_context(gone)?;
        stream.set_read_timeout(Some(PATIENCE)).with_context(gone)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).with_context(gone)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(gone)?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(gone)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(gone)?;
        Ok(Answer { status, body: body.to_owned() })
    }
}

impl Drop for WrittenRunFile {
    fn drop(&mut self) {
        // One that somebody has removed is as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// A daemon that listens everywhere listens on loopback too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether a request from there with this header may change something.
pub(crate) fn is_allowed(peer: IpAddr, authorization: Option<&str>, token: &str) -> bool {
    let given = authorization.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
    // Takes as long for a secret that begins rightly as for any other.
    let differs = given.bytes().zip(token.bytes()).fold(0, |differs, (given, own)| differs | (given ^ own));
    peer.to_canonical().is_loopback() && !token.is_empty() && given.len() == token.len() && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_with_the_whole_secret_is_let_in() {
        let here: IpAddr = Ipv4Addr::LOCALHOST.into();
        let table = [
            (here, Some("Bearer secret"), "secret", true),
            ("::1".parse().unwrap(), Some("Bearer secret"), "secret", true),
            ("::ffff:127.0.0.1".parse().unwrap(), Some("Bearer secret"), "secret", true),
            ("10.0.0.1".parse().unwrap(), Some("Bearer secret"), "secret", false),
            (here, Some("Bearer secre"), "secret", false),
            (here, Some("Bearer secret2"), "secret", false),
            (here, Some("secret"), "secret", false),
            (here, None, "secret", false),
            (here, Some("Bearer "), "", false),
        ];
        for (peer, header, token, expected) in table {
            assert_eq!(is_allowed(peer, header, token), expected, "{peer} {header:?} {token}");
        }
    }

    #[test]
    fn a_run_file_is_for_its_owner_alone_and_goes_with_the_daemon() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("line.toml");
        let address = "127.0.0.1:8750".parse().unwrap();
        let written = RunFile::write(&config, address).unwrap();
        let path = folder.path().join("line.toml.run");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = RunFile::read(&config).unwrap();
        assert_eq!((read.address, read.token.len()), (address, 64));
        assert_eq!(read.token, written.token);
        drop(written);
        assert!(!path.exists());
        assert!(RunFile::read(&config).unwrap_err().to_string().contains("no daemon runs"));
    }
}
