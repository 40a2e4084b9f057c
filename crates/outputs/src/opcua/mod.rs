//! An OPC UA server with an object a line. docs/opcua.md lists its nodes.
//!
//! `space.rs` is the address space: types, and what a line's nodes hold (pure but for the library's types); `event.rs` the
//! event that carries a decision whole; `server.rs` the thread.

#[cfg(feature = "opcua")]
mod event;
#[cfg(feature = "opcua")]
mod server;
#[cfg(feature = "opcua")]
mod space;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::OutputError;
use crate::thread::Running;

/// Where our types and objects live.
pub const NAMESPACE: &str = "urn:linewarden:lines";

/// How the server is reached, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpcUaConfig {
    /// Where we listen.
    pub listen: SocketAddr,
    /// The name in the endpoint's address; the address that is listened on when not given.
    pub host: Option<String>,
    /// What is offered, at least one.
    pub security: Vec<Security>,
    /// Folder for our certificate and key, made when missing, and for clients' certificates: those in `trusted/` may connect.
    pub pki_dir: Option<PathBuf>,
    /// File with a line `user:password` for each user; without it everybody may read who may connect.
    pub users_file: Option<PathBuf>,
    /// Time between two steps of the heartbeat.
    pub heartbeat_interval: Duration,
}

/// A security policy, with signing and encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Neither signed nor encrypted, and no certificates.
    None,
    /// What every client knows.
    Basic256Sha256,
    /// Smaller keys.
    Aes128Sha256RsaOaep,
    /// The strongest.
    Aes256Sha256RsaPss,
}

impl OpcUaConfig {
    /// What does not go together, without starting anything.
    ///
    /// # Errors
    /// Says which settings.
    pub fn check(&self) -> Result<(), String> {
        let is_open = self.security.contains(&Security::None);
        if self.security.is_empty() {
            return Err("`security` must name at least one policy".to_owned());
        }
        if self.security.iter().any(|security| *security != Security::None) && self.pki_dir.is_none() {
            return Err("`security` with certificates needs `pki_dir`, a folder for them".to_owned());
        }
        if is_open && self.users_file.is_some() && !self.listen.ip().is_loopback() {
            return Err("`users_file` needs encryption beyond loopback: take \"none\" out of `security`".to_owned());
        }
        Ok(())
    }
}

#[cfg(feature = "opcua")]
pub(crate) fn start(lines: Vec<String>, config: OpcUaConfig) -> Result<Running, OutputError> {
    server::start(lines, config)
}

#[cfg(not(feature = "opcua"))]
pub(crate) fn start(_: Vec<String>, _: OpcUaConfig) -> Result<Running, OutputError> {
    Err(OutputError::NotBuilt { output: "OPC UA", feature: "opcua" })
}
