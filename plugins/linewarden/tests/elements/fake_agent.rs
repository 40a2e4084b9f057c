//! An Edge Agent that says what a test wants, and tells the test what it was asked.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use linewarden_proto::LARGEST_MESSAGE_BYTES;
use linewarden_proto::edge_agent as wire;
use linewarden_proto::edge_agent::ModelStatus;
use linewarden_proto::edge_agent::bitmap::Data;
use linewarden_proto::edge_agent::edge_agent_server::{EdgeAgent, EdgeAgentServer};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

use crate::common::timeout;

/// What a call is answered.
#[derive(Debug, Clone)]
pub(crate) enum Say<T> {
    Well(T),
    Badly(Code),
    Never,
}

/// Each list has an answer a call; the last one is for all further calls.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) start: Vec<Say<()>>,
    pub(crate) states: Vec<Say<ModelStatus>>,
    pub(crate) verdicts: Vec<Say<wire::DetectAnomalyResult>>,
    /// Comes with every verdict.
    pub(crate) mask: Option<Vec<u8>>,
    /// Even to a client that made memory for it.
    pub(crate) is_mask_inline: bool,
}

/// A picture as the agent sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) width: i32,
    pub(crate) height: i32,
    pub(crate) rows: Vec<u8>,
    /// Where in `/dev/shm` the picture lay, unless it came by bytes.
    pub(crate) picture_at: Option<PathBuf>,
    pub(crate) mask_at: Option<PathBuf>,
}

/// What the agent was asked, of which component.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Start(String),
    Describe(String),
    Detect(String, Seen),
}

impl Call {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "StartModel",
            Self::Describe(_) => "DescribeModel",
            Self::Detect(..) => "DetectAnomalies",
        }
    }
}

/// Serves until it is dropped.
pub(crate) struct FakeAgent {
    folder: tempfile::TempDir,
    calls: Receiver<Call>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Service {
    script: Mutex<Script>,
    calls: Sender<Call>,
}

/// Anomalous, as in the old service's documentation.
pub(crate) fn verdict() -> wire::DetectAnomalyResult {
    wire::DetectAnomalyResult {
        is_anomalous: true,
        confidence: 0.52559,
        anomaly_score: 0.75,
        anomaly_threshold: 0.5,
        ..Default::default()
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            start: vec![Say::Well(())],
            states: vec![Say::Well(ModelStatus::Running)],
            verdicts: vec![Say::Well(verdict())],
            mask: None,
            is_mask_inline: false,
        }
    }
}

impl FakeAgent {
    pub(crate) fn start(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (sender, calls) = channel();
        let (stop, stopped) = oneshot::channel();
        let service = EdgeAgentServer::new(Service { script: Mutex::new(script), calls: sender })
            .max_decoding_message_size(LARGEST_MESSAGE_BYTES);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let clients = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener).unwrap());
                let served = tonic::transport::Server::builder().add_service(service).serve_with_incoming(clients);
                // Without grace: calls that are never answered go with it.
                tokio::select! {
                    served = served => served.unwrap(),
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::spawn(serve);
        Self { folder, calls, stop: Some(stop), thread: Some(thread) }
    }

    /// As `server-socket` has it.
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.folder.path().join("agent.sock").display())
    }

    pub(crate) fn next_call(&self) -> Call {
        self.calls.recv_timeout(timeout()).expect("a call in time")
    }

    /// The next picture; other calls before it are passed over.
    pub(crate) fn next_picture(&self) -> Seen {
        loop {
            if let Call::Detect(_, seen) = self.next_call() {
                return seen;
            }
        }
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by a panic.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Service {
    fn tell(&self, call: Call) {
        // A test that has seen enough listens no more.
        let _ = self.calls.send(call);
    }

    /// Takes the next answer out of a list of the script.
    fn next<T: Clone>(&self, list: impl Fn(&mut Script) -> &mut Vec<Say<T>>) -> Say<T> {
        let mut script = self.script.lock().unwrap();
        let list = list(&mut script);
        if list.len() > 1 { list.remove(0) } else { list[0].clone() }
    }
}

async fn said<T>(say: Say<T>) -> Result<T, Status> {
    match say {
        Say::Well(answer) => Ok(answer),
        Say::Badly(code) => Err(Status::new(code, "as the test wants it")),
        Say::Never => std::future::pending().await,
    }
}

fn place(handle: &wire::SharedMemoryHandle) -> PathBuf {
    PathBuf::from("/dev/shm").join(handle.name.trim_start_matches('/'))
}

fn seen(request: &wire::DetectAnomaliesRequest) -> Seen {
    let bitmap = request.bitmap.as_ref().unwrap();
    let (rows, picture_at) = match bitmap.data.as_ref().unwrap() {
        Data::ByteData(bytes) => (bytes.clone(), None),
        Data::SharedMemoryHandle(handle) => {
            let rows = std::fs::read(place(handle)).unwrap();
            assert_eq!((handle.offset, handle.size), (0, rows.len() as u64));
            (rows, Some(place(handle)))
        }
    };
    let mask = request.anomaly_mask_params.as_ref().and_then(|mask| mask.shared_memory_handle.as_ref());
    Seen { width: bitmap.width, height: bitmap.height, rows, picture_at, mask_at: mask.map(place) }
}

#[tonic::async_trait]
impl EdgeAgent for Service {
    async fn detect_anomalies(
        &self,
        request: Request<wire::DetectAnomaliesRequest>,
    ) -> Result<Response<wire::DetectAnomaliesResponse>, Status> {
        let request = request.into_inner();
        let seen = seen(&request);
        let (mask_at, width, height) = (seen.mask_at.clone(), seen.width, seen.height);
        self.tell(Call::Detect(request.model_component, seen));
        let mut result = said(self.next(|script| &mut script.verdicts)).await?;
        let (mask, is_inline) = {
            let script = self.script.lock().unwrap();
            (script.mask.clone(), script.is_mask_inline)
        };
        if let Some(mask) = mask {
            let handle = request.anomaly_mask_params.and_then(|mask| mask.shared_memory_handle);
            let data = match (handle, mask_at) {
                (Some(handle), Some(place)) if !is_inline => {
                    std::fs::write(place, &mask).unwrap();
                    Data::SharedMemoryHandle(handle)
                }
                _ => Data::ByteData(mask),
            };
            result.anomaly_mask = Some(wire::Bitmap { width, height, data: Some(data) });
        }
        Ok(Response::new(wire::DetectAnomaliesResponse { detect_anomaly_result: Some(result) }))
    }

    async fn describe_model(
        &self,
        request: Request<wire::DescribeModelRequest>,
    ) -> Result<Response<wire::DescribeModelResponse>, Status> {
        let model_component = request.into_inner().model_component;
        self.tell(Call::Describe(model_component.clone()));
        let status = said(self.next(|script| &mut script.states)).await?;
        let described = wire::ModelDescription {
            model_component,
            status: status.into(),
            status_message: "what the agent says of it".to_owned(),
            ..Default::default()
        };
        Ok(Response::new(wire::DescribeModelResponse { model_description: Some(described) }))
    }

    async fn list_models(
        &self,
        _request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }

    async fn start_model(
        &self,
        request: Request<wire::StartModelRequest>,
    ) -> Result<Response<wire::StartModelResponse>, Status> {
        self.tell(Call::Start(request.into_inner().model_component));
        said(self.next(|script| &mut script.start)).await?;
        Ok(Response::new(wire::StartModelResponse { status: ModelStatus::Starting.into() }))
    }

    async fn stop_model(
        &self,
        _request: Request<wire::StopModelRequest>,
    ) -> Result<Response<wire::StopModelResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }
}
