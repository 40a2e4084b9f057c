//! The Edge Agent of the old service: its clients score pictures with models of this machine, over a unix socket.
//!
//! gRPC comes in and goes out as [`linewarden_proto`] has it. `authority.rs` lets clients in that name the socket's path,
//! `service.rs` checks calls, `models.rs` knows the deployed packages and which run, `worker.rs` scores, `bitmap.rs` and
//! `memory.rs` say which bytes are a picture. Nothing here knows of lines.

mod authority;
mod bitmap;
mod memory;
mod models;
mod service;
mod worker;

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use linewarden_proto::LARGEST_MESSAGE_BYTES;
use linewarden_proto::edge_agent::edge_agent_server::EdgeAgentServer;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::config::AgentConfig;
use crate::metrics::Metrics;
use authority::Tamed;
use models::Models;
pub(crate) use models::{NAMES, is_name};
use service::Service;

/// Calls of one client at a time; each may hold a picture.
const CALLS_OF_A_CLIENT: u32 = 16;

/// The agent, which runs until it is stopped.
pub(crate) struct Agent {
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    models: Arc<Models>,
}

impl Agent {
    /// Listens, and starts the models that the configuration names.
    ///
    /// # Errors
    /// When somebody else listens there, or the socket cannot be made.
    pub(crate) fn start(config: &AgentConfig, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the agent's runtime")?;
        let listener = {
            let _entered = runtime.enter();
            listen(config).with_context(|| format!("cannot listen on `{}` for the agent", config.socket.display()))?
        };
        let models = Arc::new(Models::new(config, metrics));
        let service = EdgeAgentServer::new(Service { models: Arc::clone(&models) })
            .max_decoding_message_size(LARGEST_MESSAGE_BYTES)
            .max_encoding_message_size(LARGEST_MESSAGE_BYTES);
        let (stop, stopped) = oneshot::channel::<()>();
        let clients = UnixListenerStream::new(listener).map(|client| client.map(Tamed::new));
        let serve = Server::builder()
            .max_concurrent_streams(CALLS_OF_A_CLIENT)
            .add_service(service)
            .serve_with_incoming_shutdown(clients, async {
                // A dropped sender means stop too.
                let _ = stopped.await;
            });
        let work = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!(%error, "the agent's server failed");
            }
        };
        let thread = thread::Builder::new().name("lw-agent".to_owned()).spawn(work);
        let thread = thread.context("cannot start the agent's thread")?;
        for name in &config.start {
            if let Err(error) = models.start(name) {
                tracing::error!(component = name, %error, "the agent cannot start a model");
            }
        }
        tracing::info!(socket = %config.socket.display(), models = models.list().len(), "the agent listens");
        Ok(Self { socket: config.socket.clone(), stop, thread, models })
    }

    /// Takes no more calls, answers those that are under way as long as the grace lasts, and lets the models go.
    pub(crate) fn stop(self, grace: Duration) {
        // The server may have ended by itself; then nobody listens.
        let _ = self.stop.send(());
        let (done, ended) = std::sync::mpsc::channel();
        let thread = self.thread;
        let join = move || {
            // Nobody waits any more once the grace is over.
            let _ = done.send(thread.join());
        };
        let joiner = thread::Builder::new().name("lw-agent-end".to_owned()).spawn(join);
        match joiner.map(|_| ended.recv_timeout(grace)) {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(_))) => tracing::error!("the agent's thread panicked"),
            Ok(Err(_)) | Err(_) => tracing::warn!(?grace, "the agent did not answer all calls in time"),
        }
        self.models.stop_all();
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the agent's socket is gone already");
        }
    }
}

/// A socket that nobody listens on is what a killed agent left.
fn listen(config: &AgentConfig) -> anyhow::Result<UnixListener> {
    let socket: &Path = &config.socket;
    match UnixStream::connect(socket) {
        Ok(_) => anyhow::bail!("another agent listens there: stop it, or set `socket` under `[agent]`"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(socket)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(config.access.mode()))?;
    Ok(listener)
}
