//! The series of one `anomalydetect`, and a small HTTP server that tells them to Prometheus under `/metrics`.
//!
//! For elements in other people's pipelines; the daemon serves its own. One thread answers one request at a time.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use linewarden_core::ModelRef;
use linewarden_model::StageTimes;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, Opts, Registry, TextEncoder,
};

/// A client that says nothing for so long is left.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longer requests are cut off: only their first line counts.
const REQUEST_BYTES: usize = 8192;
/// From half a millisecond (a tiny model) to a second.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0];

/// The series. All exist from the start, at 0.
pub(crate) struct Metrics {
    registry: Registry,
    processed: IntCounter,
    anomalies: IntCounter,
    invalid: IntCounter,
    errors: IntCounter,
    late: IntCounter,
    duration: Histogram,
    stages: [Histogram; 3],
}

impl Metrics {
    pub(crate) fn new(model: &ModelRef) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let labelled = |name: &str, help: &str| {
            Opts::new(name, help).const_label("project", &model.project).const_label("model_version", &model.version)
        };
        let counter = |opts: Opts| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::with_opts(opts)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let histogram = |name: &str, help: &str| {
            let mut opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            opts.common_opts = labelled(name, help);
            opts
        };
        let duration =
            Histogram::with_opts(histogram("linewarden_detection_duration_seconds", "time from frame to result"))?;
        registry.register(Box::new(duration.clone()))?;
        let stages =
            HistogramVec::new(histogram("linewarden_stage_duration_seconds", "time of one stage"), &["stage"])?;
        registry.register(Box::new(stages.clone()))?;
        let stages = ["preprocess", "inference", "postprocess"].map(|stage| stages.with_label_values(&[stage]));
        let build = Opts::new("linewarden_build_info", "always 1, with the version that runs");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))?;
        build.set(1);
        registry.register(Box::new(build))?;
        Ok(Self {
            processed: counter(labelled("linewarden_processed_image_total", "pictures scored"))?,
            anomalies: counter(labelled("linewarden_detected_anomaly_total", "pictures found anomalous"))?,
            invalid: counter(labelled("linewarden_invalid_image_total", "pictures that could not be read"))?,
            errors: counter(labelled("linewarden_error_total", "pictures on which the model failed"))?,
            late: counter(
                labelled("linewarden_frame_dropped_total", "frames passed on unscored").const_label("reason", "late"),
            )?,
            duration,
            stages,
            registry,
        })
    }

    pub(crate) fn scored(&self, is_anomalous: bool, times: &StageTimes) {
        self.processed.inc();
        self.anomalies.inc_by(u64::from(is_anomalous));
        self.duration.observe(times.total().as_secs_f64());
        for (stage, time) in self.stages.iter().zip([times.preprocess, times.inference, times.postprocess]) {
            stage.observe(time.as_secs_f64());
        }
    }

    pub(crate) fn late(&self) {
        self.late.inc();
    }

    pub(crate) fn invalid(&self) {
        self.invalid.inc();
    }

    pub(crate) fn failed(&self) {
        self.errors.inc();
    }

    fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The series of the model that runs.
type Shown = Arc<Mutex<Arc<Metrics>>>;

/// Answers until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shown: Shown,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `host:port`, or on the loopback interface for `:port` and `port`.
    pub(crate) fn start(address: &str, metrics: Arc<Metrics>) -> Result<Self, String> {
        let wanted = parse_address(address)?;
        let failed = |error: std::io::Error| format!("cannot serve `metrics-address` {wanted}: {error}");
        let listener = TcpListener::bind(wanted).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let shown = Arc::new(Mutex::new(metrics));
        let thread = std::thread::Builder::new().name("lw-metrics".to_owned()).spawn({
            let (stopping, shown) = (Arc::clone(&stopping), Arc::clone(&shown));
            move || answer_all(&listener, &stopping, &shown)
        });
        Ok(Self { address, shown, stopping, thread: Some(thread.map_err(failed)?) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows the series of another model from now on.
    pub(crate) fn show(&self, metrics: Arc<Metrics>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // `accept` only returns for a connection, so here is one.
        let mut wake = self.address;
        if wake.ip().is_unspecified() {
            wake.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let woken = TcpStream::connect_timeout(&wake, PATIENCE).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A thread that panicked has told so itself.
            let _ = thread.join();
        }
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!("`metrics-address` must be `address:port`, or `port` for the loopback interface, got `{text}`")
    })
}

fn answer_all(listener: &TcpListener, stopping: &AtomicBool, shown: &Shown) {
    for connection in listener.incoming() {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        match connection {
            // A client that left early is its own problem.
            Ok(connection) => {
                let metrics = Arc::clone(&shown.lock().unwrap_or_else(PoisonError::into_inner));
                drop(answer(connection, &metrics));
            }
            // Out of file descriptors, for one: the next call would fail at once.
            Err(_) => std::thread::sleep(PATIENCE),
        }
    }
}

/// Reads up to the empty line that ends the head: clients may send it in pieces.
fn read_head(connection: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while head.len() < REQUEST_BYTES && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match connection.read(&mut piece)? {
            0 => break,
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    Ok(head)
}

fn answer(mut connection: TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let request = read_head(&mut connection)?;
    let is_metrics = request.starts_with(b"GET /metrics ");
    let (status, body) = match (is_metrics, metrics.text()) {
        (true, Ok(text)) => ("200 OK", text),
        (true, Err(error)) => ("500 Internal Server Error", error.to_string().into_bytes()),
        (false, _) => ("404 Not Found", b"only GET /metrics\n".to_vec()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_on_the_loopback_interface() {
        assert_eq!(parse_address("9100").unwrap().to_string(), "127.0.0.1:9100");
        assert_eq!(parse_address(":9100").unwrap().to_string(), "127.0.0.1:9100");
        assert_eq!(parse_address("0.0.0.0:9100").unwrap().to_string(), "0.0.0.0:9100");
        assert!(parse_address("here").unwrap_err().ends_with("got `here`"));
    }

    #[test]
    fn a_client_that_says_nothing_does_not_hold_up_the_end() {
        let model = ModelRef { project: "p".to_owned(), version: "1".to_owned(), sha256: String::new() };
        let server = Server::start("0", Arc::new(Metrics::new(&model).unwrap())).unwrap();
        let silent = TcpStream::connect(server.address()).unwrap();
        let started = std::time::Instant::now();
        drop(server);
        assert!(started.elapsed() < Duration::from_secs(5));
        drop(silent);
    }
}
