//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::metrics::Metrics;

/// Says what is not ready yet; nothing when everything is.
pub(crate) type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

#[derive(Clone)]
struct Doors {
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

/// A server that runs until it is stopped.
pub(crate) struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, metrics: Arc<Metrics>, readiness: Readiness) -> Self {
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(series))
            .with_state(Doors { metrics, readiness });
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = axum::serve(listener, routes).with_graceful_shutdown(async {
            // A dropped sender means stop too.
            let _ = stopped.await;
        });
        Self { stop, task: tokio::spawn(serve.into_future()) }
    }

    /// Answers what was asked already and ends.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        // The server may have ended by itself; then nobody listens.
        let _ = self.stop.send(());
        // A client that keeps its connection open must not keep the process.
        match tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await {
            Ok(ended) => ended.context("the HTTP server panicked")?.context("the HTTP server failed"),
            Err(_) => Ok(()),
        }
    }
}

async fn ready(State(doors): State<Doors>) -> Response {
    let missing = (doors.readiness)();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

async fn series(State(doors): State<Doors>) -> Response {
    match doors.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot render metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
