//! The daemon's end of TLS: a certificate from files, and a listener whose clients greet side by side.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::config::TlsConfig;

/// A client must have greeted by then.
const GREETING: Duration = Duration::from_secs(10);
/// Clients that are greeting at a time; further ones wait.
const MOST_GREETING: usize = 64;
/// Wait after a connection could not be taken: no descriptor is free, say.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The certificate that clients are shown; HTTP/1.1 only, as clients of the old service speak it.
///
/// # Errors
/// When a file cannot be read, or certificate and key do not belong together.
pub(crate) fn acceptor(config: &TlsConfig) -> anyhow::Result<TlsAcceptor> {
    let TlsConfig { cert_file, key_file, .. } = config;
    let of = |path: &Path| format!("cannot use `{}` under `[api.tls]`", path.display());
    let certificates = CertificateDer::pem_file_iter(cert_file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.with_context(|| of(cert_file))?;
    anyhow::ensure!(!certificates.is_empty(), "{}: it holds no certificate", of(cert_file));
    let key = PrivateKeyDer::from_pem_file(key_file).with_context(|| of(key_file))?;
    let config =
        ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let config = config?.with_no_client_auth().with_single_cert(certificates, key);
    let mut config = config.with_context(|| of(key_file))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes connections, greets, and hands over those that greeted well.
pub(crate) struct TlsListener {
    address: SocketAddr,
    greeted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    /// Ends with the listener, and those that are greeting with it.
    _accepting: JoinSet<()>,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl TlsListener {
    pub(crate) fn new(listener: TcpListener, acceptor: TlsAcceptor) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, greeted) = mpsc::channel(MOST_GREETING);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, acceptor, sender));
        Ok(Self { address, greeted, _accepting: accepting })
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let free = Arc::new(Semaphore::new(MOST_GREETING));
    let mut greeting = JoinSet::new();
    loop {
        // It is never closed.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        while greeting.try_join_next().is_some() {}
        greeting.spawn(async move {
            match tokio::time::timeout(GREETING, acceptor.accept(stream)).await {
                // Nobody takes it any more when the daemon stops.
                Ok(Ok(stream)) => _ = sender.send((stream, peer)).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a client does not speak TLS as it must"),
                Err(_) => tracing::debug!(%peer, "a client did not greet in time"),
            }
            drop(permit);
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.greeted.recv().await {
            Some(greeted) => greeted,
            // The other end goes only with this one.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}
