//! Anomalies in a picture, by a hosted model.

use std::io::Cursor;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use linewarden_contract::Fault;
use linewarden_model::overlay::mask_rgb;
use linewarden_model::{Detection, ModelInfo, ModelType};
use serde_json::{Value, json};

use super::{Answer, Call, Services};
use crate::events::HostingEvents;
use crate::hosting::HostingError;

impl Services {
    pub(super) async fn detect_anomalies(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let version = self.version(project, call.text("ModelVersion")).await?;
        let key = (project.to_owned(), version);
        let Some(series) = self.hosting.series(&key) else {
            // Which of the two errors it is, only the store knows.
            let model = self.store.model(project, version).await.map_err(super::fault)?;
            let told = format!("The model is in the state {}, and must be HOSTED.", model.status.as_str());
            return Err(Fault::conflict("MODEL", self.naming.model(project, version), told));
        };
        let began = Instant::now();
        let outcome = self.detect(&key, call).await;
        HostingEvents.detected(&series, &outcome, began.elapsed());
        outcome.map(|(answer, _)| answer)
    }

    /// The answer, and whether the picture is anomalous.
    async fn detect(&self, key: &(String, u64), call: &Call<'_>) -> Result<(Value, bool), Fault> {
        let refused = |error: HostingError| match error {
            HostingError::Busy => Fault::throttled(error.to_string()),
            HostingError::NotHosted => Fault::conflict("MODEL", self.naming.model(&key.0, key.1), error.to_string()),
            HostingError::Size { .. } | HostingError::Picture(_) => {
                Fault::validation(format!("The image cannot be used: {error}"))
            }
            HostingError::Decoder | HostingError::Model(_) | HostingError::Died => Fault::internal(error),
        };
        let answer = self.hosting.detect(key, call.body.clone()).await.map_err(refused)?;
        let is_anomalous = answer.detection.result.is_anomalous;
        // Without a mask there is nothing to encode.
        let answer_is_short = answer.info.model_type == ModelType::Classification;
        let render = move || detect_anomaly_result(&answer.detection, &answer.info, answer.width_px, answer.height_px);
        let result = match answer_is_short {
            true => render(),
            false => tokio::task::spawn_blocking(render).await.map_err(Fault::internal)?,
        };
        Ok((json!({ "DetectAnomalyResult": result.map_err(Fault::internal)? }), is_anomalous))
    }
}

/// What a model says of a picture, in the service's form: labels and a mask as large as the picture only from a segmentation
/// model.
pub(crate) fn detect_anomaly_result(
    detection: &Detection,
    info: &ModelInfo,
    width_px: u32,
    height_px: u32,
) -> image::ImageResult<Value> {
    let result = &detection.result;
    let mut answer = json!({
        "Source": { "Type": "direct" },
        "IsAnomalous": result.is_anomalous,
        "Confidence": result.confidence,
    });
    if info.model_type == ModelType::Segmentation {
        let anomaly = |anomaly: &linewarden_core::Anomaly| {
            json!({
                "Name": anomaly.name,
                "PixelAnomaly": { "TotalPercentageArea": anomaly.total_percentage_area, "Color": anomaly.hex_color },
            })
        };
        answer["Anomalies"] = result.anomalies.iter().map(anomaly).collect();
        let mask = mask_rgb(detection, &info.labels, width_px, height_px);
        let mut png = Cursor::new(Vec::new());
        PngEncoder::new(&mut png).write_image(&mask, width_px, height_px, ExtendedColorType::Rgb8)?;
        answer["AnomalyMask"] = STANDARD.encode(png.into_inner()).into();
    }
    Ok(answer)
}
