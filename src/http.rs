//! `/metrics`, `/healthz` and `/readyz`; and `/lines`, where the command line asks for the lines' models, changes them, and
//! announces challenges.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, Path, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::map_request;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::OverTls;
use crate::control;
use crate::line::Controls;
use crate::line::models::{Current, LoadedModel};
use crate::line::watch::{Refusal, Request};
use crate::metrics::Metrics;
use crate::tls::{Peer, TlsListener};

/// Says what is not ready yet; nothing when everything is.
pub(crate) type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

#[derive(Clone)]
struct Doors {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    control: Arc<Control>,
}

/// What may be changed, and by whom.
pub(crate) struct Control {
    /// Nobody may without one.
    pub(crate) token: Option<String>,
    pub(crate) lines: Vec<Controls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    model: Option<PathBuf>,
    #[serde(default)]
    rollback: bool,
}

/// A server that runs until it is stopped.
pub(crate) struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// `api` answers every path that is not one of ours.
    pub(crate) fn start(
        listener: TcpListener,
        metrics: Arc<Metrics>,
        readiness: Readiness,
        control: Control,
        api: Option<Router>,
    ) -> Self {
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(series))
            .route("/lines", get(line_models))
            .route("/lines/{line}/model", post(change_model))
            .route("/lines/{line}/challenge", get(challenges).post(announce_challenge))
            .with_state(Doors { metrics, readiness, control: Arc::new(control) });
        let routes = match api {
            Some(api) => routes.fallback_service(api),
            None => routes,
        };
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        let (stop, stopped) = stopper();
        let serve = axum::serve(listener, routes).with_graceful_shutdown(stopped);
        Self { stop, task: tokio::spawn(serve.into_future()) }
    }

    /// The API over TLS, and nothing else: what only this machine may do has no door there.
    pub(crate) fn start_secure(listener: TlsListener, api: Router) -> Self {
        let api = api.layer(map_request(|mut request: HttpRequest| async move {
            if let Some(ConnectInfo(Peer(peer))) = request.extensions_mut().remove::<ConnectInfo<Peer>>() {
                request.extensions_mut().insert(ConnectInfo(peer));
            }
            request.extensions_mut().insert(OverTls);
            request
        }));
        let (stop, stopped) = stopper();
        let api = api.into_make_service_with_connect_info::<Peer>();
        let serve = axum::serve(listener, api).with_graceful_shutdown(stopped);
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

/// What ends a server: one end is told, the other waited for.
pub(crate) fn stopper() -> (oneshot::Sender<()>, impl Future<Output = ()>) {
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        // A dropped sender means stop too.
        let _ = stopped.await;
    };
    (stop, stopped)
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

async fn line_models(
    State(doors): State<Doors>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = doors.control.refusal(peer, &headers) {
        return refusal;
    }
    let lines: Vec<Value> = doors.control.lines.iter().map(|line| told(&line.name, &line.models.current())).collect();
    answer(StatusCode::OK, &Value::Array(lines))
}

async fn change_model(
    State(doors): State<Doors>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(line): Path<String>,
    body: String,
) -> Response {
    let (controls, change): (_, Change) = match doors.control.asked(peer, &headers, &line, &body) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    if change.model.is_some() == change.rollback {
        return refused(StatusCode::BAD_REQUEST, "give one of `model` and `rollback`");
    }
    let models = Arc::clone(&controls.models);
    // Loading takes seconds, and the one thread here has other things to answer.
    let work = tokio::task::spawn_blocking(move || {
        let outcome = match &change.model {
            Some(model) => models.swap(model),
            None => models.roll_back(),
        };
        outcome.map(|_| models.current())
    });
    match work.await {
        Ok(Ok(current)) => answer(StatusCode::OK, &told(&line, &current)),
        Ok(Err(error)) => refused(StatusCode::CONFLICT, &error.to_string()),
        Err(error) => {
            tracing::error!(%error, "a change of the model panicked");
            refused(StatusCode::INTERNAL_SERVER_ERROR, "the change failed: see the log")
        }
    }
}

async fn challenges(
    State(doors): State<Doors>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(line): Path<String>,
) -> Response {
    match doors.control.line(peer, &headers, &line) {
        Ok(controls) => answer(StatusCode::OK, &controls.watch.challenges()),
        Err(refusal) => *refusal,
    }
}

async fn announce_challenge(
    State(doors): State<Doors>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(line): Path<String>,
    body: String,
) -> Response {
    let (controls, request): (_, Request) = match doors.control.asked(peer, &headers, &line, &body) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    match controls.watch.announce(request) {
        Ok(announced) => answer(StatusCode::OK, &announced),
        Err(Refusal::Wrong(error)) => refused(StatusCode::BAD_REQUEST, &error),
        Err(Refusal::Busy(error)) => refused(StatusCode::CONFLICT, &error),
    }
}

impl Control {
    /// The line of this name, or what to say to somebody who may not have it.
    fn line(&self, peer: SocketAddr, headers: &HeaderMap, line: &str) -> Result<&Controls, Box<Response>> {
        if let Some(refusal) = self.refusal(peer, headers) {
            return Err(Box::new(refusal));
        }
        self.lines.iter().find(|controls| controls.name == line).ok_or_else(|| {
            let names: Vec<&str> = self.lines.iter().map(|controls| controls.name.as_str()).collect();
            let told = format!("there is no line `{line}`: lines are {}", names.join(", "));
            Box::new(refused(StatusCode::NOT_FOUND, &told))
        })
    }

    /// The line and what the body asks of it, or what to say to somebody who may not have that.
    fn asked<T: DeserializeOwned>(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
        line: &str,
        body: &str,
    ) -> Result<(&Controls, T), Box<Response>> {
        Ok((self.line(peer, headers, line)?, understood(body)?))
    }

    /// What to say to somebody who may not.
    fn refusal(&self, peer: SocketAddr, headers: &HeaderMap) -> Option<Response> {
        let header = headers.get(header::AUTHORIZATION).and_then(|header| header.to_str().ok());
        let is_allowed = control::is_allowed(peer.ip(), header, self.token.as_deref().unwrap_or_default());
        (!is_allowed)
            .then(|| refused(StatusCode::UNAUTHORIZED, "only with the secret of the run file, on this machine"))
    }
}

/// What the body of a request says, or what to say to somebody who sent another.
fn understood<T: DeserializeOwned>(body: &str) -> Result<T, Box<Response>> {
    let told = |error| format!("the request cannot be understood: {error}");
    serde_json::from_str(body).map_err(|error| Box::new(refused(StatusCode::BAD_REQUEST, &told(error))))
}

fn told(line: &str, current: &Current) -> Value {
    let model = |LoadedModel { path, model, .. }: &LoadedModel| json!({ "path": path, "project": model.project, "version": model.version, "sha256": model.sha256 });
    json!({ "line": line, "model": model(&current.running), "before": current.before.as_ref().map(model) })
}

fn refused(status: StatusCode, error: &str) -> Response {
    answer(status, &json!({ "error": error }))
}

fn answer(status: StatusCode, document: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}
