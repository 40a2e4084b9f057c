//! `make bench-serve`: what calls of the REST API and the Edge Agent cost beside the bare network, from synthetic parts alone.
//!
//! A project is made, trained and hosted through the API by boto3, as its users do it. Then one picture is scored by bare
//! `session.run()`, decoded alone, sent by DetectAnomalies, and sent to the Edge Agent by bytes and through shared memory,
//! in turns, each with one thread. Nothing fails the run, because the machine that runs it may be busy.

#[path = "../shared/call.rs"]
mod call;
#[path = "../shared/machine.rs"]
mod machine;
#[path = "../shared/numbers.rs"]
mod numbers;
mod pictures;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/session.rs"]
mod session;

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_access::Credentials;
use linewarden_model::package::{INPUT, Package};
use linewarden_model::{FrameView, Preprocessor};
use linewarden_proto::edge_agent::edge_agent_client::EdgeAgentClient;
use linewarden_proto::edge_agent::{
    Bitmap, DescribeModelRequest, DetectAnomaliesRequest, SharedMemoryHandle, StartModelRequest, bitmap,
};
use linewarden_testkit::http::Rest;
use linewarden_testkit::peers::Peer;
use linewarden_testkit::sandbox::DaemonSandbox;
use linewarden_train::dataset::Picture;
use ort::value::TensorRef;
use rustix::shm;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use call::{json_path, say, tell};
use machine::Machine;
use numbers::{median, milliseconds, percentile};
use report::Report;
use session::open;

const REGION: &str = "eu-west-1";
const ROUNDS: usize = 30;
const RUNS_PER_ROUND: usize = 10;
/// First runs lay out memory.
const WARM_UP_RUNS: usize = 20;
/// What the issue asks of DetectAnomalies: what it takes beyond decoding, over the bare network.
const MOST_OVER_BARE: f64 = 1.15;
const ENTRIES: usize = 16_000;
/// What the issue asks of the first page of so many entries, in milliseconds.
const MOST_FIRST_PAGE_MS: f64 = 20.0;
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let json = json_path("serve")?;
    // Before anything of ours runs, the load is everybody else's.
    let mut report = Report::new(Machine::look());
    say("training and hosting a model through the API")?;
    let site = Site::prepare()?;
    say("one picture by every way, in turns")?;
    site.measure_ways(&mut report)?;
    say("two callers at once")?;
    site.measure_two_callers(&mut report)?;
    say("a data set of 16,000 entries")?;
    site.measure_entries(&mut report)?;
    tell(&report, json)
}

/// A daemon that hosts a model, which is the Edge Agent's component `cap` too.
struct Site {
    daemon: DaemonSandbox,
    key: String,
    secret: String,
    /// The picture that everything is measured with, as a file.
    png: Vec<u8>,
    package: Package,
    _pictures: tempfile::TempDir,
}

impl Site {
    fn prepare() -> Result<Self> {
        let pictures = tempfile::tempdir()?;
        let png = pictures::write(pictures.path())?;
        let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
        let made = String::from_utf8(daemon.call(&["keys", "create", "--user", "bench"])?.stdout)?;
        let made = Credentials::parse(&made).map_err(|name| anyhow::anyhow!("no {name} in: {made}"))?;
        let (key, secret) = (made.id, made.secret);
        std::fs::create_dir_all(daemon.path("components"))?;
        daemon.serve(&format!(
            "[api]\ndata = \"data\"\nregion = \"{REGION}\"\ns3_listen = \"127.0.0.1:0\"\ndevice = \"cpu\"\ncalls_per_second = 0\n\
             [agent]\nmodels = \"components\"\nsocket = \"agent.sock\"\ndevice = \"cpu\"\n"
        ))?;
        let address = |message: &str| -> Result<String> {
            let entry = daemon.logged(message)?.with_context(|| format!("nobody said `{message}`"))?;
            Ok(format!("http://{}", entry["address"].as_str().context("an address")?))
        };
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/life.py");
        let folder = pictures.path().to_str().context("a path in UTF-8")?;
        let (api, s3) = (address("listening")?, address("S3 endpoint listens")?);
        let mut client = Peer::start(&program, &[&api, &s3, REGION, folder, "cap", &key, &secret, "boto3"])?;
        for step in ["bucket", "upload", "create", "train", "host"] {
            let answer = client.ask(&json!({ "do": step }), PATIENCE)?;
            ensure!(answer.get("answer").is_some(), "{step}: {answer}");
        }
        let model = daemon.path("data/models/cap/1");
        std::os::unix::fs::symlink(&model, daemon.path("components/cap"))?;
        Ok(Self { package: Package::read(&model)?, daemon, key, secret, png, _pictures: pictures })
    }

    fn caller(&self) -> Result<Rest> {
        let entry = self.daemon.logged("listening")?.context("it listens")?;
        Ok(Rest::new(entry["address"].as_str().context("an address")?, REGION, &self.key, &self.secret))
    }

    fn detection(&self, caller: &Rest) -> Result<Vec<u8>> {
        caller.request("POST", "/2020-11-20/projects/cap/models/1/detect", "image/png", &self.png)
    }

    fn measure_ways(&self, report: &mut Report) -> Result<()> {
        let picture = Picture::from_bytes(&self.png).map_err(|error| anyhow::anyhow!("{error}"))?;
        let (width, height) = (u32::try_from(picture.width_px)?, u32::try_from(picture.height_px)?);
        let mut session = open(&self.package, 1)?;
        let size = self.package.info().input_size;
        let mut input = Vec::new();
        let frame = FrameView::rgb(width, height, &picture.rgb)?;
        Preprocessor::new(size.width_px, size.height_px).run(&frame, &mut input)?;
        let shape = [1, size.height_px as usize, size.width_px as usize, 3];
        let mut caller = self.caller()?;
        let signed = self.detection(&caller)?;
        let agent = Agent::start(&self.daemon, width, height, &picture.rgb)?;

        let mut ways = [
            Way::new(|| {
                let input = TensorRef::from_array_view((shape, input.as_slice()))?;
                session.run(ort::inputs![INPUT => input])?;
                Ok(())
            }),
            Way::new(|| {
                black_box(Picture::from_bytes(&self.png).map_err(|error| anyhow::anyhow!("{error}"))?);
                Ok(())
            }),
            // Signed before, as hashing is the caller's work: the service's is timed.
            Way::new(|| detect(&mut caller, &signed)),
            Way::new(|| agent.detect(&agent.by_bytes)),
            Way::new(|| agent.detect(&agent.by_memory)),
        ];
        for way in &mut ways {
            (0..WARM_UP_RUNS).try_for_each(|_| (way.run)())?;
        }
        for round in 0..ROUNDS {
            for turn in 0..ways.len() {
                // Each time in another order, so that none always follows the same neighbour.
                let count = ways.len();
                ways[(round + turn) % count].round()?;
            }
        }
        let [bare, decode, rest, bytes, memory] = &ways;
        report.chapter(&format!("One picture of {width}x{height} pixels, a PNG of {} kB", self.png.len() / 1000));
        for (key, title, way) in [
            ("bare", "bare session.run()", bare),
            ("decode", "decoding the PNG", decode),
            ("detect", "DetectAnomalies, signed", rest),
            ("agent_bytes", "Edge Agent by bytes", bytes),
            ("agent_memory", "Edge Agent through shared memory", memory),
        ] {
            report.figure(&format!("{key}_p50"), &format!("{title}, p50"), median(&way.times_ms), "ms");
            report.figure(&format!("{key}_p99"), &format!("{title}, p99"), percentile(&way.times_ms, 0.99), "ms");
        }
        report.note(
            "each on one thread, in turns; beyond decoding DetectAnomalies also verifies, scales, scores and answers",
        );
        report.figure("detect_per_second", "DetectAnomalies, one caller", 1e3 / mean(&rest.times_ms), "/s");
        let over: Vec<f64> = (0..ROUNDS).map(|round| (rest.of(round) - decode.of(round)) / bare.of(round)).collect();
        report.required(
            "detect_over_bare",
            "DetectAnomalies without decoding over bare",
            median(&over),
            "x",
            MOST_OVER_BARE,
        );
        let over: Vec<f64> = (0..ROUNDS).map(|round| memory.of(round) / bytes.of(round)).collect();
        report.figure("memory_over_bytes", "shared memory over bytes", median(&over), "x");
        let over: Vec<f64> = (0..ROUNDS).map(|round| memory.of(round) / bare.of(round)).collect();
        report.figure("memory_over_bare", "shared memory over bare", median(&over), "x");
        Ok(())
    }

    fn measure_two_callers(&self, report: &mut Report) -> Result<()> {
        const CALLS: usize = 200;
        let began = Instant::now();
        let times = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| -> Result<Vec<f64>> {
                        let mut caller = self.caller()?;
                        let signed = self.detection(&caller)?;
                        let mut times = Vec::with_capacity(CALLS);
                        for _ in 0..CALLS {
                            let started = Instant::now();
                            detect(&mut caller, &signed)?;
                            times.push(milliseconds(started.elapsed()));
                        }
                        Ok(times)
                    })
                })
                .collect();
            let joined =
                callers.into_iter().map(|caller| caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?);
            joined.collect::<Result<Vec<_>>>().map(|times| times.concat())
        })?;
        report.chapter("Two callers at once, one inference unit");
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        report.figure("two_callers_per_second", "DetectAnomalies", rate, "/s");
        report.figure("two_callers_p99", "p99", percentile(&times, 0.99), "ms");
        Ok(())
    }

    fn measure_entries(&self, report: &mut Report) -> Result<()> {
        use base64::Engine as _;
        let mut caller = self.caller()?;
        let base = "/2020-11-20/projects";
        let mut must = |method: &str, target: &str, body: &Value| -> Result<Value> {
            let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            let answer = caller.call(method, target, "application/json", &bytes)?;
            ensure!(answer.status < 300, "{target}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
            Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
        };
        must("POST", base, &json!({ "ProjectName": "large" }))?;
        must("POST", &format!("{base}/large/datasets"), &json!({ "DatasetType": "train" }))?;
        let is_settled = |answer: &Value| {
            answer["DatasetDescription"]["Status"].as_str().is_some_and(|status| status.ends_with("_COMPLETE"))
        };
        let lines: Vec<String> = (0..ENTRIES).map(pictures::entry).collect();
        for half in lines.chunks(ENTRIES / 2) {
            while !is_settled(&must("GET", &format!("{base}/large/datasets/train"), &Value::Null)?) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let changes = base64::engine::general_purpose::STANDARD.encode(half.join("\n"));
            must("PATCH", &format!("{base}/large/datasets/train/entries"), &json!({ "Changes": changes }))?;
        }
        while !is_settled(&must("GET", &format!("{base}/large/datasets/train"), &Value::Null)?) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let first = format!("{base}/large/datasets/train/entries?maxResults=100");
        let mut times = Vec::new();
        for _ in 0..50 {
            let started = Instant::now();
            let page = must("GET", &first, &Value::Null)?;
            times.push(milliseconds(started.elapsed()));
            ensure!(page["DatasetEntries"].as_array().is_some_and(|entries| entries.len() == 100), "{page}");
        }
        let (mut target, mut count, began) = (first.clone(), 0, Instant::now());
        loop {
            let page = must("GET", &target, &Value::Null)?;
            count += page["DatasetEntries"].as_array().map_or(0, Vec::len);
            let Some(token) = page["NextToken"].as_str() else { break };
            let token = token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            target = format!("{first}&nextToken={token}");
        }
        let all_ms = milliseconds(began.elapsed());
        ensure!(count == ENTRIES, "{count} entries came");
        report.chapter(&format!("ListDatasetEntries of {ENTRIES} entries"));
        report.required("first_page_p99", "first page of 100, p99", percentile(&times, 0.99), "ms", MOST_FIRST_PAGE_MS);
        report.figure("first_page_p50", "first page of 100, p50", median(&times), "ms");
        report.figure("all_pages", "all 160 pages", all_ms, "ms");
        Ok(())
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn detect(caller: &mut Rest, signed: &[u8]) -> Result<()> {
    let answer = caller.send(signed)?;
    ensure!(answer.status == 200, "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok(())
}

/// One of those that take turns.
struct Way<'a> {
    run: Box<dyn FnMut() -> Result<()> + 'a>,
    times_ms: Vec<f64>,
}

impl<'a> Way<'a> {
    fn new(run: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { run: Box::new(run), times_ms: Vec::new() }
    }

    fn round(&mut self) -> Result<()> {
        for _ in 0..RUNS_PER_ROUND {
            let started = Instant::now();
            (self.run)()?;
            self.times_ms.push(milliseconds(started.elapsed()));
        }
        Ok(())
    }

    /// The median of one round.
    fn of(&self, round: usize) -> f64 {
        median(&self.times_ms[round * RUNS_PER_ROUND..(round + 1) * RUNS_PER_ROUND])
    }
}

/// A client of the Edge Agent, with the picture in two forms.
struct Agent {
    runtime: tokio::runtime::Runtime,
    client: EdgeAgentClient<Channel>,
    by_bytes: DetectAnomaliesRequest,
    by_memory: DetectAnomaliesRequest,
    memory: String,
}

impl Agent {
    fn start(daemon: &DaemonSandbox, width: u32, height: u32, rgb: &[u8]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = format!("unix://{}", daemon.path("agent.sock").display());
        let client = runtime.block_on(async {
            let channel = Endpoint::from_shared(socket)?.connect().await.context("no agent at the socket")?;
            let mut client = EdgeAgentClient::new(channel);
            let model_component = "cap".to_owned();
            client.start_model(StartModelRequest { model_component: model_component.clone() }).await?;
            // 2 is RUNNING.
            loop {
                let asked = DescribeModelRequest { model_component: model_component.clone() };
                let described = client.describe_model(asked).await?.into_inner();
                if described.model_description.is_some_and(|model| model.status == 2) {
                    break anyhow::Ok(client);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })?;
        let memory = format!("/linewarden-bench-{}", std::process::id());
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        let object = shm::open(memory.as_str(), flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        std::fs::File::from(object).write_all(rgb)?;
        let request = |data: bitmap::Data| -> Result<DetectAnomaliesRequest> {
            let bitmap = Bitmap { width: i32::try_from(width)?, height: i32::try_from(height)?, data: Some(data) };
            Ok(DetectAnomaliesRequest {
                model_component: "cap".to_owned(),
                bitmap: Some(bitmap),
                anomaly_mask_params: None,
            })
        };
        let handle = SharedMemoryHandle { name: memory.clone(), size: rgb.len() as u64, offset: 0 };
        Ok(Self {
            runtime,
            client,
            by_bytes: request(bitmap::Data::ByteData(rgb.to_vec()))?,
            by_memory: request(bitmap::Data::SharedMemoryHandle(handle))?,
            memory,
        })
    }

    fn detect(&self, request: &DetectAnomaliesRequest) -> Result<()> {
        let mut client = self.client.clone();
        self.runtime.block_on(client.detect_anomalies(request.clone()))?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It was made here; nobody else removes it.
        let _ = shm::unlink(self.memory.as_str());
    }
}
