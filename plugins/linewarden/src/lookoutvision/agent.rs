//! The element's end of the Edge Agent's interface: a model that runs, and frames that it judges.

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

/// A model that runs in an agent, and the memory that frames of one size go through.
pub(super) struct Session {
    runtime: Runtime,
    client: EdgeAgentClient<Channel>,
    component: String,
    stopped: watch::Receiver<bool>,
    memory: Option<Memory>,
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
        let failed = |told: String| Trouble::Failed(format!("the agent at `{socket}`: {told}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Trouble::Failed(format!("cannot start a runtime: {error}")))?;
        let endpoint = Endpoint::from_shared(socket.to_owned());
        let endpoint = endpoint.map_err(|error| failed(format!("`server-socket` is no address: {error}")))?;
        let started = async {
            let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
            let channel = channel.map_err(|error| failed(format!("does it run? {}", with_causes(&error))))?;
            let client = EdgeAgentClient::new(channel);
            let mut client = client.max_decoding_message_size(LARGEST_MESSAGE_BYTES);
            let asked = StartModelRequest { model_component: component.to_owned() };
            match client.start_model(asked).await {
                // 9: it runs already, or is on its way.
                Err(status) if status.code() != Code::FailedPrecondition => return Err(failed(told(&status))),
                _ => {}
            }
            wait_running(&mut client, component, timeout).await.map_err(failed)?;
            Ok(client)
        };
        let client = runtime.block_on(unless_stopped(stopped.clone(), started))?;
        Ok(Self { runtime, client, component: component.to_owned(), stopped, memory: None })
    }

    /// Has a frame judged: rows of RGB, tight or padded to four bytes.
    pub(super) fn detect(&mut self, width_px: u32, height_px: u32, rows: &[u8]) -> Result<Verdict, Trouble> {
        let mask_bytes = 3 * width_px as usize * height_px as usize;
        let memory = match self.memory.take() {
            Some(memory) if memory.picture.size_bytes() == rows.len() as u64 => memory,
            _ => Memory::new(rows.len(), mask_bytes)
                .map_err(|error| Trouble::Failed(format!("cannot make shared memory: {error}")))?,
        };
        let memory = self.memory.insert(memory);
        memory.picture.write(rows).map_err(|error| Trouble::Failed(format!("cannot write shared memory: {error}")))?;
        let handle = |memory: &SharedMemory| SharedMemoryHandle {
            name: memory.name().to_owned(),
            size: memory.size_bytes(),
            offset: 0,
        };
        // Within what video caps can say.
        let side = |px: u32| i32::try_from(px).unwrap_or(i32::MAX);
        let request = DetectAnomaliesRequest {
            model_component: self.component.clone(),
            bitmap: Some(Bitmap {
                width: side(width_px),
                height: side(height_px),
                data: Some(bitmap::Data::SharedMemoryHandle(handle(&memory.picture))),
            }),
            anomaly_mask_params: Some(AnomalyMaskParams { shared_memory_handle: Some(handle(&memory.mask)) }),
        };
        let client = &mut self.client;
        let asked = async {
            let answered = client.detect_anomalies(request).await;
            answered.map_err(|status| match status.code() {
                Code::ResourceExhausted | Code::Unavailable => Trouble::Busy(told(&status)),
                _ => Trouble::Failed(told(&status)),
            })
        };
        let answer = self.runtime.block_on(unless_stopped(self.stopped.clone(), asked))?.into_inner();
        let result =
            answer.detect_anomaly_result.ok_or_else(|| Trouble::Failed("an answer without a result".to_owned()))?;
        // A classification model writes none.
        let pixels = match result.anomaly_mask {
            Some(_) => memory
                .mask
                .read(mask_bytes)
                .map_err(|error| Trouble::Failed(format!("cannot read the mask: {error}")))?,
            None => Vec::new(),
        };
        Ok(verdict(result, &pixels, width_px as usize, height_px as usize))
    }
}

impl Memory {
    fn new(picture_bytes: usize, mask_bytes: usize) -> std::io::Result<Self> {
        Ok(Self { picture: SharedMemory::new(picture_bytes)?, mask: SharedMemory::new(mask_bytes)? })
    }
}

async fn wait_running(client: &mut EdgeAgentClient<Channel>, component: &str, timeout: Duration) -> Result<(), String> {
    let until = Instant::now() + timeout;
    loop {
        let asked = DescribeModelRequest { model_component: component.to_owned() };
        let described = client.describe_model(asked).await.map_err(|status| told(&status))?.into_inner();
        let described = described.model_description.unwrap_or_default();
        match ModelStatus::try_from(described.status) {
            Ok(ModelStatus::Running) => return Ok(()),
            Ok(ModelStatus::Failed) => {
                return Err(format!("the model `{component}` failed: {}", described.status_message));
            }
            _ if Instant::now() >= until => {
                return Err(format!("the model `{component}` does not run within {timeout:?} (model-status-timeout)"));
            }
            _ => tokio::time::sleep(ASK_EVERY).await,
        }
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

fn told(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
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
