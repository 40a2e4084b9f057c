//! The process: starts the lines and the HTTP server, waits for their end or for a signal, and drains in order.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use linewarden_evidence::Store;
use linewarden_model::{memory, runtime as onnx_runtime};
use linewarden_outputs::Outputs;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::api;
use crate::config::{Config, TlsConfig};
use crate::control::RunFile;
use crate::events::EvidenceEvents;
use crate::http::{Control, Server};
use crate::line::models::LoadedModel;
use crate::line::{Controls, Line};
use crate::metrics::Metrics;
use crate::packages;
use crate::services::Running;
use crate::tls::{self, TlsListener};

/// A camera that exceeds its own grace gets this much more to take its pipeline apart.
const TAKE_APART: Duration = Duration::from_secs(1);

/// Runs until every finite source has ended, or until SIGTERM or SIGINT.
///
/// # Errors
/// When something cannot be started, or when a second signal cut the drain short.
pub(crate) fn run(config: &Config, path: &Path) -> anyhow::Result<()> {
    memory::share_heaps();
    // A missing library is told once and at the start, not by every camera again and again.
    onnx_runtime::environment()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let outcome = runtime.block_on(serve(config, path));
    // A drain that was cut short must not hold up the end of the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: &Config, path: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {} for HTTP: free the port, or set `listen` under `[http]`", config.listen)
    })?;
    let address = listener.local_addr().context("a listener has an address")?;
    let metrics = Metrics::new(config).context("cannot register the series")?;
    let evidence = open_evidence(config, &metrics)?;
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let outputs = Outputs::start(config.outputs.clone()).context("cannot start the outputs")?;
    metrics.watch_outputs(outputs.watch());
    let mut lines = Vec::new();
    for (index, line) in config.lines.iter().enumerate() {
        let ended = ended_sender.clone();
        let on_end = move || {
            // Nobody listens once the process drains.
            let _ = ended.send(index);
        };
        lines.push(Line::start(line, config, &outputs, &metrics, evidence.as_ref(), on_end)?);
    }
    let agent = start_agent(config, &metrics).await?;
    let services = match &config.api {
        Some(api) => {
            let controls: Vec<Controls> = lines.iter().map(Line::controls).collect();
            Some(Running::start(api, &metrics, Arc::new(move |package| line_of(&controls, package))).await?)
        }
        None => None,
    };
    let api = services.as_ref().map(|running| {
        let (services, gate) = (Arc::clone(&running.services), Arc::clone(&running.gate));
        api::router(services, gate, api::Limits::default())
    });
    let secure = match (config.api.as_ref().and_then(|api| api.tls.as_ref()), &api) {
        (Some(tls), Some(api)) => Some(start_secure(tls, api.clone()).await?),
        _ => None,
    };
    let readiness: Vec<_> = lines.iter().map(Line::readiness).collect();
    let readiness = Arc::new(move || readiness.iter().filter_map(|line| line()).collect());
    let run_file = RunFile::write(path, address);
    if let Err(error) = &run_file {
        tracing::warn!("no model can be changed from the command line: {error:#}");
    }
    let token = run_file.as_ref().ok().map(|written| written.token.clone());
    let control = Control { token, lines: lines.iter().map(Line::controls).collect() };
    let server = Server::start(listener, metrics, readiness, control, api);
    tracing::info!(%address, lines = lines.len(), "listening");

    let cause = tokio::select! {
        signal = signals.next() => signal,
        () = all_ended(ended, lines.len()), if agent.is_none() && services.is_none() => "every source ended",
    };
    tracing::info!(cause, "stopping");
    let grace = config.shutdown_grace;
    let drained = tokio::task::spawn_blocking(move || drain(lines, agent, outputs, grace));
    tokio::select! {
        drained = drained => drained.context("the drain panicked")?,
        signal = signals.next() => anyhow::bail!("ended at once by a second signal ({signal})"),
    }
    // After the lines, whose gates wait for nobody.
    if let Some(services) = services {
        services.stop(grace).await;
    }
    // The last acknowledgements are in: what waits is written, and the log is closed.
    evidence.iter().for_each(Store::close);
    if let Some(secure) = secure {
        secure.stop().await?;
    }
    server.stop().await?;
    tracing::info!("stopped");
    Ok(())
}

/// What is kept of decided parts, before any line decides.
fn open_evidence(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Store>> {
    let Some(evidence) = &config.evidence else { return Ok(None) };
    let events = EvidenceEvents::new(metrics.evidence(config));
    let store = Store::open(evidence.store.clone(), Arc::new(move |event| events.happened(event)));
    let store = store.with_context(|| format!("cannot keep evidence in `{}`", evidence.store.folder.display()))?;
    metrics.watch_evidence(store.clone());
    Ok(Some(store))
}

/// Beside the runtime of this thread, since the agent has its own.
async fn start_agent(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Agent>> {
    let Some(agent) = config.agent.clone() else { return Ok(None) };
    let metrics = Arc::clone(metrics);
    let started = tokio::task::spawn_blocking(move || Agent::start(&agent, &metrics));
    started.await.context("the agent's start panicked")?.map(Some)
}

/// The line that runs the package, or keeps it for the way back.
fn line_of(lines: &[Controls], package: &Path) -> Option<String> {
    let is_it = |model: &LoadedModel| packages::is_of(&model.path, package);
    let uses = |line: &&Controls| {
        let current = line.models.current();
        is_it(&current.running) || current.before.as_ref().is_some_and(is_it)
    };
    lines.iter().find(uses).map(|line| line.name.clone())
}

/// The API's door over TLS.
async fn start_secure(config: &TlsConfig, api: Router) -> anyhow::Result<Server> {
    let acceptor = tls::acceptor(config)?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {} for TLS: free the port, or set `listen` under `[api.tls]`", config.listen)
    })?;
    let address = listener.local_addr().context("a listener has an address")?;
    tracing::info!(%address, "listening for TLS");
    Ok(Server::start_secure(TlsListener::new(listener, acceptor).context("a listener has an address")?, api))
}

async fn all_ended(mut ended: mpsc::UnboundedReceiver<usize>, lines: usize) {
    let mut gone = BTreeSet::new();
    while gone.len() < lines {
        match ended.recv().await {
            Some(line) => gone.insert(line),
            None => return,
        };
    }
}

/// Cameras first, so that nothing new comes; then what waits for the broker; then the goodbye of the outputs.
fn drain(lines: Vec<Line>, agent: Option<Agent>, outputs: Outputs, grace: Duration) {
    lines.iter().for_each(Line::request_stop);
    for line in &lines {
        line.wait_cameras(grace + TAKE_APART);
    }
    // Side by side: a broker that is gone costs its grace once, not once a line.
    std::thread::scope(|scope| {
        if let Some(agent) = agent {
            scope.spawn(move || agent.stop(grace));
        }
        for line in lines {
            scope.spawn(move || line.stop_publisher(grace));
        }
    });
    outputs.stop(grace);
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
