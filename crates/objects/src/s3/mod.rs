//! The S3 endpoint: what `boto3`, `aws s3` and their kin ask of a bucket, answered over [`Objects`]. Who may do what is
//! asked of a [`Gate`].

mod checks;
mod endpoint;
mod fault;
mod gate;
mod listing;
mod record;
mod transfer;
mod uploads;
mod versions;

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::Objects;
pub use gate::{Ask, Gate};
pub use record::Done;
use record::Pending;

/// A client must have sent its request's head by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Wait after a connection could not be taken: no descriptor is free, say.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How often uploads that nobody completes are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// How the endpoint is served.
#[derive(Clone)]
pub struct S3Options {
    /// Connections at a time; further ones wait. A request that carries content keeps one of tokio's blocking threads,
    /// and a copy two: there must be more of them than that.
    pub connections: usize,
    /// What clients are told the region is.
    pub region: String,
    /// How long requests have to end when the endpoint stops.
    pub grace: Duration,
    /// Clients come over TLS, and not otherwise.
    pub tls: Option<TlsAcceptor>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self { connections: 128, region: "us-east-1".to_owned(), grace: Duration::from_secs(30), tls: None }
    }
}

/// Answers requests until `shutdown`, then lets those that run end.
///
/// # Errors
/// When the listener's socket fails for good.
pub async fn serve(
    listener: TcpListener,
    objects: Objects,
    gate: Arc<dyn Gate>,
    options: S3Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let service = service(objects.clone(), Arc::clone(&gate), options.region);
    let free = Arc::new(Semaphore::new(options.connections));
    let graceful = GracefulShutdown::new();
    // Ends what is left of them when it goes.
    let mut requests = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        let (permit, stream) = tokio::select! {
            () = &mut shutdown => break,
            _ = sweep.tick() => {
                if let Err(error) = objects.sweep().await {
                    tracing::warn!(%error, "cannot sweep abandoned uploads");
                }
                continue;
            }
            accepted = accept(&listener, &free) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            },
        };
        let (service, tls, watcher) = (service.clone(), options.tls.clone(), graceful.watcher());
        let (gate, source) = (Arc::clone(&gate), stream.peer_addr().ok().map(|peer| peer.ip()));
        while requests.try_join_next().is_some() {}
        requests.spawn(async move {
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                // A client that never greets would keep its place for ever.
                Some(tls) => match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Box::new(stream),
                    Ok(Err(error)) => return tracing::debug!(%error, "a client does not speak TLS as it must"),
                    Err(_) => return tracing::debug!("a client did not greet in time"),
                },
            };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), of_connection(service, gate, source));
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(options.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(grace = ?options.grace, "requests did not end in time");
    }
    Ok(())
}

/// A connection, whether over TLS or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The endpoint on one connection, which ends after a refusal of a body that the client was still to send: hyper would take
/// the client's next request for that body (`Expect: 100-continue`, as boto3 uploads).
fn of_connection(
    service: S3Service,
    gate: Arc<dyn Gate>,
    source: Option<IpAddr>,
) -> impl Service<Request<Incoming>, Response = HttpResponse, Error = HttpError, Future: Send> {
    service_fn(move |mut request: Request<Incoming>| {
        let waits = request.headers().contains_key(EXPECT);
        let (gate, pending) = (Arc::clone(&gate), Pending::of(&mut request, source));
        let answered = Service::call(&service, request);
        async move {
            let mut response = pending.answered(&*gate, answered.await?).await;
            if waits && !response.status().is_success() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        }
    })
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(tokio::sync::OwnedSemaphorePermit, TcpStream)> {
    let permit = Arc::clone(free).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // Also ends a connection whose client reads no further, which hyper waits for without end.
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(WRITE_TIMEOUT))?;
    Ok((permit, stream))
}

/// The endpoint as a service of hyper.
pub fn service(objects: Objects, gate: Arc<dyn Gate>, region: String) -> S3Service {
    let mut builder = S3ServiceBuilder::new(endpoint::Endpoint { objects, gate: Arc::clone(&gate), region });
    builder.set_auth(gate::Secrets(Arc::clone(&gate)));
    builder.set_access(gate::Access(gate));
    builder.build()
}
