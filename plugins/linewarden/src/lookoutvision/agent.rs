//! The element's end of the Edge Agent's interface: a model that runs, and frames that it judges.

use std::io;
use std::time::Duration;

use linewarden_core::{Anomaly, FrameResult};
use linewarden_model::{Label, LabelMask};
use linewarden_proto::LARGEST_MESSAGE_BYTES;
use linewarden_proto::edge_agent::edge_agent_client::EdgeAgentClient;
use linewarden_proto::edge_agent::{
    AnomalyMaskParams, Bitmap, DescribeModelRequest, DetectAnomaliesRequest, DetectAnomalyResult, ModelStatus,
    SharedMemoryHandle, StartModelRequest, bitmap,
};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::memory::SharedMemory;

/// How often the agent is asked whether the model runs.
const ASK_EVERY: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is no anomaly among an answer's anomalies.
const BACKGROUND: &str = "background";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The element stops.
    #[error("the element stops")]
    Stopped,
    /// The agent has no time for this frame.
    #[error("the agent cannot keep up: {0}")]
    Busy(String),
    #[error("{0}")]
    Failed(String),
}

/// What the agent said of a frame.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) result: FrameResult,
    /// Every anomaly but the background, in the order of the answer.
    pub(super) labels: Vec<Label>,
    pub(super) mask: Option<LabelMask>,
}

/// A model that runs in an agent, and the way that frames take to it.
pub(super) struct Session {
    runtime: Runtime,
    client: EdgeAgentClient<Channel>,
    component: String,
    timeout: Duration,
    stopped: watch::Receiver<bool>,
    way: Way,
    /// Why frames go by bytes, until somebody asks.
    shortage: Option<io::Error>,
}

enum Way {
    /// For frames of one size, once there was one.
    Memory(Option<Memory>),
    /// Where shared memory cannot be made.
    Bytes,
}

struct Memory {
    picture: SharedMemory,
    mask: SharedMemory,
}

impl Session {
    /// Starts the model, unless it runs, and waits until it does.
    pub(super) fn start(
        socket: &str,
        component: &str,
        timeout: Duration,
        stopped: watch::Receiver<bool>,
    ) -> Result<Self, Trouble> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Trouble::Failed(format!("cannot start a runtime: {error}")))?;
        let endpoint = Endpoint::from_shared(socket.to_owned());
        let endpoint = endpoint.map_err(|error| Trouble::Failed(format!("`server-socket` is no address: {error}")))?;
        let started = async {
            let until = Instant::now() + timeout;
            let channel = endpoint.connect_timeout(CONNECT_TIMEOUT.min(timeout)).connect().await;
            let channel = channel.map_err(|error| format!("does it run? {}", with_causes(&error)))?;
            let client = EdgeAgentClient::new(channel);
            let mut client = client.max_decoding_message_size(LARGEST_MESSAGE_BYTES);
            let asked = StartModelRequest { model_component: component.to_owned() };
            match in_time(until, "StartModel", client.start_model(asked)).await? {
                // 9: it runs already, or is on its way.
                Err(status) if status.code() != Code::FailedPrecondition => return Err(told(&status)),
                _ => {}
            }
            wait_running(&mut client, component, until).await?;
            Ok(client)
        };
        let started = async { started.await.map_err(Trouble::Failed) };
        let client = runtime.block_on(unless_stopped(stopped.clone(), started))?;
        let component = component.to_owned();
        Ok(Self { runtime, client, component, timeout, stopped, way: Way::Memory(None), shortage: None })
    }

    /// Has a frame judged: rows of RGB, tight or padded to four bytes.
    pub(super) fn detect(&mut self, width_px: u32, height_px: u32, rows: Vec<u8>) -> Result<Verdict, Trouble> {
        let mask_bytes = 3 * width_px as usize * height_px as usize;
        let (data, anomaly_mask_params) = self.lay(rows, mask_bytes);
        // Within what video caps can say.
        let side = |px: u32| i32::try_from(px).unwrap_or(i32::MAX);
        let request = DetectAnomaliesRequest {
            model_component: self.component.clone(),
            bitmap: Some(Bitmap { width: side(width_px), height: side(height_px), data: Some(data) }),
            anomaly_mask_params,
        };
        let (client, timeout) = (&mut self.client, self.timeout);
        let asked = async {
            let until = Instant::now() + timeout;
            let answered = in_time(until, "DetectAnomalies", client.detect_anomalies(request)).await;
            answered.map_err(Trouble::Failed)?.map_err(|status| match status.code() {
                Code::ResourceExhausted => Trouble::Busy(told(&status)),
                _ => Trouble::Failed(told(&status)),
            })
        };
        let answer = self.runtime.block_on(unless_stopped(self.stopped.clone(), asked))?.into_inner();
        let mut result =
            answer.detect_anomaly_result.ok_or_else(|| Trouble::Failed("an answer without a result".to_owned()))?;
        // A classification model writes none. An agent may answer with the bytes though it was given memory for them.
        let pixels = match (result.anomaly_mask.take().and_then(|mask| mask.data), &self.way) {
            (Some(bitmap::Data::ByteData(bytes)), _) => bytes,
            (Some(bitmap::Data::SharedMemoryHandle(_)), Way::Memory(Some(memory))) => memory
                .mask
                .read(mask_bytes)
                .map_err(|error| Trouble::Failed(format!("cannot read the mask: {error}")))?,
            _ => Vec::new(),
        };
        Ok(verdict(result, &pixels, width_px as usize, height_px as usize))
    }

    /// Why frames go by bytes instead of shared memory; told once.
    pub(super) fn shortage(&mut self) -> Option<io::Error> {
        self.shortage.take()
    }

    /// Puts a picture where the agent finds it.
    fn lay(&mut self, rows: Vec<u8>, mask_bytes: usize) -> (bitmap::Data, Option<AnomalyMaskParams>) {
        let Way::Memory(memory) = &mut self.way else { return (bitmap::Data::ByteData(rows), None) };
        let memory = match Memory::with(memory.take(), &rows, mask_bytes) {
            Ok(laid) => memory.insert(laid),
            Err(error) => {
                (self.way, self.shortage) = (Way::Bytes, Some(error));
                return (bitmap::Data::ByteData(rows), None);
            }
        };
        let handle = |memory: &SharedMemory| SharedMemoryHandle {
            name: memory.name().to_owned(),
            size: memory.size_bytes(),
            offset: 0,
        };
        let mask = AnomalyMaskParams { shared_memory_handle: Some(handle(&memory.mask)) };
        (bitmap::Data::SharedMemoryHandle(handle(&memory.picture)), Some(mask))
    }
}

impl Memory {
    /// With this picture in it: what was there, if it fits.
    fn with(there: Option<Self>, rows: &[u8], mask_bytes: usize) -> io::Result<Self> {
        let sizes = (rows.len() as u64, mask_bytes as u64);
        let memory = match there {
            Some(memory) if (memory.picture.size_bytes(), memory.mask.size_bytes()) == sizes => memory,
            _ => Self { picture: SharedMemory::new(rows.len())?, mask: SharedMemory::new(mask_bytes)? },
        };
        memory.picture.write(rows)?;
        Ok(memory)
    }
}

/// What a call is answered, unless that comes too late.
async fn in_time<T>(until: Instant, call: &str, answer: impl Future<Output = T>) -> Result<T, String> {
    let answered = tokio::time::timeout_at(until, answer).await;
    answered.map_err(|_| format!("no answer to {call} in time (model-status-timeout): look at the agent's log"))
}

async fn wait_running(client: &mut EdgeAgentClient<Channel>, component: &str, until: Instant) -> Result<(), String> {
    loop {
        let asked = DescribeModelRequest { model_component: component.to_owned() };
        let described = in_time(until, "DescribeModel", client.describe_model(asked)).await?;
        let described = described.map_err(|status| told(&status))?.into_inner().model_description.unwrap_or_default();
        let status = described.status();
        match status {
            ModelStatus::Running => return Ok(()),
            ModelStatus::Failed => return Err(format!("the model failed: {}", described.status_message)),
            _ => {}
        }
        // An answer that is asked for at the very end would come too late.
        if Instant::now() + ASK_EVERY >= until {
            tokio::time::sleep_until(until).await;
            let status = status.as_str_name();
            return Err(format!("the model is {status}, and not RUNNING in time: raise `model-status-timeout`"));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn unless_stopped<T>(
    mut stopped: watch::Receiver<bool>,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::select! {
        done = work => done,
        // An element that is gone stops too.
        _ = stopped.wait_for(|stopped| *stopped) => Err(Trouble::Stopped),
    }
}

/// What the agent refused, and what to do about it.
fn told(status: &Status) -> String {
    let remedy = match status.code() {
        Code::NotFound => ": deploy it there, or name another with `model-component`",
        Code::FailedPrecondition => ": it was stopped meanwhile; this element starts it again when it starts itself",
        Code::Unavailable => ": does the agent run?",
        _ => "",
    };
    format!("{:?}: {}{remedy}", status.code(), status.message())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What the answer says, with the mask's colours as numbers of labels.
fn verdict(result: DetectAnomalyResult, mask: &[u8], width: usize, height: usize) -> Verdict {
    let anomalies: Vec<Anomaly> = result
        .anomalies
        .into_iter()
        .map(|anomaly| {
            let pixels = anomaly.pixel_anomaly.unwrap_or_default();
            let area = f64::from(pixels.total_percentage_area);
            Anomaly { name: anomaly.name, total_percentage_area: area, hex_color: pixels.hex_color }
        })
        .collect();
    let labels: Vec<Label> = anomalies
        .iter()
        .filter(|anomaly| anomaly.name != BACKGROUND)
        .map(|anomaly| Label { name: anomaly.name.clone(), hex_color: anomaly.hex_color.clone() })
        .collect();
    let colors: Vec<Option<[u8; 3]>> = labels.iter().map(|label| rgb(&label.hex_color)).collect();
    let numbered = mask.as_chunks::<3>().0.iter().map(|pixel| {
        let place = colors.iter().position(|color| color.as_ref() == Some(pixel));
        // There are fewer labels than numbers.
        place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0)
    });
    let numbered: Vec<u8> = numbered.collect();
    let is_empty = numbered.len() != width * height || numbered.iter().all(|label| *label == 0);
    Verdict {
        result: FrameResult {
            is_anomalous: result.is_anomalous,
            confidence: f64::from(result.confidence),
            anomaly_score: f64::from(result.anomaly_score),
            anomaly_threshold: f64::from(result.anomaly_threshold),
            anomalies,
        },
        labels,
        mask: (!is_empty).then_some(LabelMask { width, height, labels: numbered }),
    }
}

/// `#RRGGBB`.
fn rgb(hex: &str) -> Option<[u8; 3]> {
    let number = u32::from_str_radix(hex.strip_prefix('#').filter(|digits| digits.len() == 6)?, 16).ok()?;
    let [_, red, green, blue] = number.to_be_bytes();
    Some([red, green, blue])
}

#[cfg(test)]
mod tests {
    use linewarden_proto::edge_agent::{Anomaly as Told, PixelAnomaly};

    use super::*;

    #[test]
    fn a_masks_colours_become_the_numbers_of_labels() {
        let anomaly = |name: &str, color: &str, area| Told {
            name: name.to_owned(),
            pixel_anomaly: Some(PixelAnomaly { total_percentage_area: area, hex_color: color.to_owned() }),
        };
        let anomalies = vec![
            anomaly("background", "#FFFFFF", 0.5),
            anomaly("crack", "#23A436", 0.25),
            anomaly("chip", "#FF0000", 0.25),
        ];
        let result = DetectAnomalyResult { is_anomalous: true, confidence: 0.5, anomalies, ..Default::default() };
        let mask = [255, 255, 255, 0x23, 0xA4, 0x36, 255, 0, 0, 255, 255, 255];
        let said = verdict(result.clone(), &mask, 2, 2);
        assert_eq!(said.mask, Some(LabelMask { width: 2, height: 2, labels: vec![0, 1, 2, 0] }));
        assert_eq!(said.labels.iter().map(|label| label.name.as_str()).collect::<Vec<_>>(), ["crack", "chip"]);
        assert_eq!((said.result.anomalies.len(), said.result.confidence), (3, 0.5));
        assert_eq!(verdict(result.clone(), &[255; 12], 2, 2).mask, None);
        assert_eq!(verdict(result, &[], 2, 2).mask, None);
    }
}
