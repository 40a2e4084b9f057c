//! The process: starts the lines and the HTTP server, waits for their end or for a signal, and drains in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use linewarden_model::runtime as onnx_runtime;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::http::Server;
use crate::line::Line;
use crate::metrics::Metrics;

/// A camera that exceeds its own grace gets this much more to take its pipeline apart.
const TAKE_APART: Duration = Duration::from_secs(1);

/// Runs until every finite source has ended, or until SIGTERM or SIGINT.
///
/// # Errors
/// When something cannot be started, or when a second signal cut the drain short.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    // A missing library is told once and at the start, not by every camera again and again.
    onnx_runtime::environment()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let outcome = runtime.block_on(serve(config));
    // A drain that was cut short must not hold up the end of the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {} for HTTP: free the port, or set `listen` under `[http]`", config.listen)
    })?;
    let address = listener.local_addr().context("a listener has an address")?;
    let metrics = Metrics::new(config).context("cannot register the series")?;
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let mut lines = Vec::new();
    for (index, line) in config.lines.iter().enumerate() {
        let ended = ended_sender.clone();
        let on_end = move || {
            // Nobody listens once the process drains.
            let _ = ended.send(index);
        };
        lines.push(Line::start(line, config, &metrics, on_end)?);
    }
    let readiness: Vec<_> = lines.iter().map(Line::readiness).collect();
    let readiness = Arc::new(move || readiness.iter().filter_map(|line| line()).collect());
    let server = Server::start(listener, metrics, readiness);
    tracing::info!(%address, lines = lines.len(), "listening");

    let cause = tokio::select! {
        signal = signals.next() => signal,
        () = all_ended(ended, lines.len()) => "every source ended",
    };
    tracing::info!(cause, "stopping");
    let grace = config.shutdown_grace;
    let drained = tokio::task::spawn_blocking(move || drain(lines, grace));
    tokio::select! {
        drained = drained => drained.context("the drain panicked")?,
        signal = signals.next() => anyhow::bail!("ended at once by a second signal ({signal})"),
    }
    server.stop().await?;
    tracing::info!("stopped");
    Ok(())
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

/// Cameras first, so that nothing new comes; then what waits for the broker.
fn drain(lines: Vec<Line>, grace: Duration) {
    lines.iter().for_each(Line::request_stop);
    for line in &lines {
        line.wait_cameras(grace + TAKE_APART);
    }
    // Side by side: a broker that is gone costs its grace once, not once a line.
    std::thread::scope(|scope| {
        for line in lines {
            scope.spawn(move || line.stop_publisher(grace));
        }
    });
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
