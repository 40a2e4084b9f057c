//! The five calls: what comes over the socket is checked here, and what goes back has the service's status codes.

use std::sync::Arc;

use linewarden_core::FrameResult;
use linewarden_model::ModelError;
use linewarden_proto::edge_agent as wire;
use linewarden_proto::edge_agent::edge_agent_server::EdgeAgent;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::bitmap::Shape;
use super::memory;
use super::models::{Described, Models, Refusal};
use super::worker::{Answer, Task};
use crate::events::AgentEvents;

/// The service, whose every call may come from a client of the old agent.
pub(super) struct Service {
    pub(super) models: Arc<Models>,
}

#[tonic::async_trait]
impl EdgeAgent for Service {
    async fn detect_anomalies(
        &self,
        request: Request<wire::DetectAnomaliesRequest>,
    ) -> Result<Response<wire::DetectAnomaliesResponse>, Status> {
        let wire::DetectAnomaliesRequest { model_component: name, bitmap, anomaly_mask_params } = request.into_inner();
        let outcome = self.detect(&name, bitmap, anomaly_mask_params).await;
        if let Some(series) = self.models.series_of(&name) {
            AgentEvents.detected(&name, &series, &outcome);
        }
        let (result, _) = outcome?;
        Ok(Response::new(wire::DetectAnomaliesResponse { detect_anomaly_result: Some(result) }))
    }

    async fn describe_model(
        &self,
        request: Request<wire::DescribeModelRequest>,
    ) -> Result<Response<wire::DescribeModelResponse>, Status> {
        let name = request.into_inner().model_component;
        let Described { name, arn, status, message } = self.aside(move |models| models.describe(&name)).await??;
        let described = wire::ModelDescription {
            model_component: name,
            lookout_vision_model_arn: arn,
            status: status.into(),
            status_message: message,
        };
        Ok(Response::new(wire::DescribeModelResponse { model_description: Some(described) }))
    }

    async fn list_models(
        &self,
        _request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        let listed = self.aside(|models| models.list()).await?;
        let models = listed.into_iter().map(|one| wire::ModelMetadata {
            model_component: one.name,
            lookout_vision_model_arn: one.arn,
            status: one.status.into(),
            status_message: one.message,
        });
        Ok(Response::new(wire::ListModelsResponse { models: models.collect() }))
    }

    async fn start_model(
        &self,
        request: Request<wire::StartModelRequest>,
    ) -> Result<Response<wire::StartModelResponse>, Status> {
        let name = request.into_inner().model_component;
        let status = self.aside(move |models| models.start(&name)).await??;
        Ok(Response::new(wire::StartModelResponse { status: status.into() }))
    }

    async fn stop_model(
        &self,
        request: Request<wire::StopModelRequest>,
    ) -> Result<Response<wire::StopModelResponse>, Status> {
        let name = request.into_inner().model_component;
        let status = self.aside(move |models| models.stop(&name)).await??;
        Ok(Response::new(wire::StopModelResponse { status: status.into() }))
    }
}

impl Service {
    /// Files, shared memory and threads that end are waited for beside the socket's own thread.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Models>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let models = Arc::clone(&self.models);
        tokio::task::spawn_blocking(move || work(&models)).await.map_err(|error| {
            tracing::error!(%error, "a call of the agent panicked");
            Status::internal("an internal error occurred")
        })
    }

    /// The answer, and how long the model took.
    async fn detect(
        &self,
        name: &str,
        bitmap: Option<wire::Bitmap>,
        mask: Option<wire::AnomalyMaskParams>,
    ) -> Result<(wire::DetectAnomalyResult, f64), Status> {
        self.models.must_run(name)?;
        let bitmap = bitmap.ok_or_else(|| Status::invalid_argument("`bitmap` is missing"))?;
        let shape = Shape::new(bitmap.width, bitmap.height).map_err(Status::invalid_argument)?;
        let handle = mask.and_then(|mask| mask.shared_memory_handle);
        if let Some(handle) = &handle
            && handle.size < shape.packed_bytes()
        {
            let needed = shape.packed_bytes();
            let message =
                format!("`anomaly_mask_params`: a mask of this bitmap has {needed} bytes, got {}", handle.size);
            return Err(Status::invalid_argument(message));
        }
        let (stride_bytes, pixels) = self.pixels(shape, bitmap.data).await?;
        let (sender, answer) = oneshot::channel();
        self.models.score(name, Task { shape, stride_bytes, pixels, answer: sender })?;
        let answer = answer.await.map_err(|_| Status::internal("the model was let go before it had an answer"))?;
        let Answer { result, mask, seconds } = answer.map_err(|error| of_model(&error))?;
        let anomaly_mask = match mask {
            Some(mask) => Some(self.delivered(shape, mask, handle).await?),
            None => None,
        };
        Ok((answer_of(&result, anomaly_mask), seconds))
    }

    /// The picture's bytes, and how far its rows are apart.
    async fn pixels(&self, shape: Shape, data: Option<wire::bitmap::Data>) -> Result<(usize, Vec<u8>), Status> {
        match data {
            None => Err(Status::invalid_argument("`bitmap` has neither `byte_data` nor `shared_memory_handle`")),
            Some(wire::bitmap::Data::ByteData(bytes)) => {
                let stride_bytes = shape.stride_bytes(bytes.len() as u64).map_err(Status::invalid_argument)?;
                Ok((stride_bytes, bytes))
            }
            Some(wire::bitmap::Data::SharedMemoryHandle(handle)) => {
                // Before anything of that size is made.
                let stride_bytes = shape.stride_bytes(handle.size).map_err(Status::invalid_argument)?;
                let read = self.aside(move |_| memory::read(&handle)).await?;
                Ok((stride_bytes, read.map_err(|error| Status::invalid_argument(error.to_string()))?))
            }
        }
    }

    /// The mask where the caller wants it.
    async fn delivered(
        &self,
        shape: Shape,
        mask: Vec<u8>,
        handle: Option<wire::SharedMemoryHandle>,
    ) -> Result<wire::Bitmap, Status> {
        let data = match handle {
            None => wire::bitmap::Data::ByteData(mask),
            Some(handle) => {
                let written = wire::SharedMemoryHandle { size: mask.len() as u64, ..handle.clone() };
                let outcome = self.aside(move |_| memory::write(&handle, &mask)).await?;
                outcome.map_err(|error| Status::invalid_argument(error.to_string()))?;
                wire::bitmap::Data::SharedMemoryHandle(written)
            }
        };
        // A side was checked to be at most 4096.
        let side = |px: u32| i32::try_from(px).unwrap_or(i32::MAX);
        Ok(wire::Bitmap { width: side(shape.width_px), height: side(shape.height_px), data: Some(data) })
    }
}

fn answer_of(result: &FrameResult, anomaly_mask: Option<wire::Bitmap>) -> wire::DetectAnomalyResult {
    // The message has single precision.
    let single = |value: f64| value as f32;
    let anomaly = |anomaly: &linewarden_core::Anomaly| wire::Anomaly {
        name: anomaly.name.clone(),
        pixel_anomaly: Some(wire::PixelAnomaly {
            total_percentage_area: single(anomaly.total_percentage_area),
            hex_color: anomaly.hex_color.clone(),
        }),
    };
    // A classification model names no anomalies.
    let anomalies = if anomaly_mask.is_some() { result.anomalies.iter().map(anomaly).collect() } else { Vec::new() };
    wire::DetectAnomalyResult {
        is_anomalous: result.is_anomalous,
        confidence: single(result.confidence),
        anomaly_mask,
        anomalies,
        anomaly_score: single(result.anomaly_score),
        anomaly_threshold: single(result.anomaly_threshold),
    }
}

/// Only a picture that does not suit the model is the caller's doing.
fn of_model(error: &ModelError) -> Status {
    match error {
        ModelError::Size { width_px, height_px, trained_width_px, trained_height_px } => {
            Status::invalid_argument(format!(
                "the bitmap is {width_px}x{height_px}, but the model was trained on {trained_width_px}x{trained_height_px}"
            ))
        }
        error => {
            tracing::error!(%error, "the model failed on a picture");
            Status::internal("the model failed on the picture")
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Name(_) => Self::invalid_argument(message),
            Refusal::Unknown(_) => Self::not_found(message),
            Refusal::State { .. } => Self::failed_precondition(message),
            Refusal::TooMany { .. } | Refusal::Busy(..) => Self::resource_exhausted(message),
            Refusal::Failed(_) => Self::internal(message),
        }
    }
}
