//! The guide's two evaluation files.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::{Evaluation, LabelMetrics, Verdict};
use crate::dataset::{Class, format_date};

/// Which model was evaluated, as the files name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// Amazon resource name of the model version, or whatever stands in for it.
    pub model_arn: String,
    /// The project.
    pub project_name: String,
    /// Version of the model within the project.
    pub model_version: String,
    /// Pictures it was trained on.
    pub training_images: usize,
    /// When the evaluation ended.
    pub ended_at: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ResultFile<'a> {
    version: u32,
    evaluation_details: Details<'a>,
    aggregated_evaluation_results: Aggregated<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Details<'a> {
    model_arn: &'a str,
    evaluation_end_timestamp: String,
    number_of_training_images: usize,
    number_of_testing_images: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Aggregated<'a> {
    metrics: Metrics<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metrics<'a> {
    #[serde(rename = "ROCAUC")]
    roc_auc: Option<f64>,
    average_precision: Option<f64>,
    precision: f64,
    recall: f64,
    #[serde(rename = "F1Score")]
    f1: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pixel_anomaly_class_metrics: Vec<ClassMetrics<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClassMetrics<'a> {
    precision: f64,
    recall: f64,
    #[serde(rename = "F1Score")]
    f1: f64,
    #[serde(rename = "AIIOU")]
    iou: Option<f64>,
    class_name: &'a str,
}

/// Writes `EvaluationResult.json`. A measure that the data set cannot give (a ROC AUC without anomalies) is `null`.
pub fn write_evaluation_result(path: &Path, evaluation: &Evaluation, model: &ModelIdentity) -> io::Result<()> {
    let Evaluation { image, labels, .. } = evaluation;
    let file = ResultFile {
        version: 1,
        evaluation_details: Details {
            model_arn: &model.model_arn,
            evaluation_end_timestamp: format_date(model.ended_at),
            number_of_training_images: model.training_images,
            number_of_testing_images: evaluation.images,
        },
        aggregated_evaluation_results: Aggregated {
            metrics: Metrics {
                roc_auc: image.roc_auc,
                average_precision: image.average_precision,
                precision: image.precision,
                recall: image.recall,
                f1: image.f1,
                // The guide lists the labels that the test pictures show.
                pixel_anomaly_class_metrics: labels
                    .iter()
                    .filter(|label| label.images > 0)
                    .map(class_metrics)
                    .collect(),
            },
        },
    };
    let mut out = BufWriter::new(File::create(path)?);
    serde_json::to_writer_pretty(&mut out, &file)?;
    writeln!(out)?;
    out.flush()
}

fn class_metrics(label: &LabelMetrics) -> ClassMetrics<'_> {
    let LabelMetrics { name, precision, recall, f1, iou, .. } = label;
    ClassMetrics { precision: *precision, recall: *recall, f1: *f1, iou: *iou, class_name: name }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line<'a> {
    source_ref: &'a str,
    source_ref_metadata: SourceMetadata,
    anomaly_label: u8,
    anomaly_label_metadata: TruthMetadata,
    anomaly_label_detected: u8,
    anomaly_label_detected_metadata: DetectedMetadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SourceMetadata {
    creation_date: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TruthMetadata {
    class_name: &'static str,
    r#type: &'static str,
    human_annotated: &'static str,
    creation_date: String,
    job_name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DetectedMetadata<'a> {
    class_name: &'static str,
    confidence: f64,
    r#type: &'static str,
    human_annotated: &'static str,
    creation_date: String,
    job_name: &'static str,
    model_arn: &'a str,
    project_name: &'a str,
    model_version: &'a str,
}

/// Writes `EvaluationManifest.jsonl`: truth and verdict of each picture, one line each. Pictures whose label has no
/// date get the evaluation's.
pub fn write_evaluation_manifest(path: &Path, evaluation: &Evaluation, model: &ModelIdentity) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for verdict in &evaluation.verdicts {
        serde_json::to_writer(&mut out, &line(verdict, model))?;
        writeln!(out)?;
    }
    out.flush()
}

fn line<'a>(verdict: &'a Verdict, model: &'a ModelIdentity) -> Line<'a> {
    const CLASSIFICATION: &str = "groundtruth/image-classification";
    let labeled_at = format_date(verdict.labeled_at.unwrap_or(model.ended_at));
    Line {
        source_ref: &verdict.source_ref,
        source_ref_metadata: SourceMetadata { creation_date: labeled_at.clone() },
        anomaly_label: u8::from(verdict.truth == Class::Anomaly),
        anomaly_label_metadata: TruthMetadata {
            class_name: verdict.truth.as_str(),
            r#type: CLASSIFICATION,
            human_annotated: "yes",
            creation_date: labeled_at,
            job_name: "labeling-job/anomaly-detection",
        },
        anomaly_label_detected: u8::from(verdict.found == Class::Anomaly),
        anomaly_label_detected_metadata: DetectedMetadata {
            class_name: verdict.found.as_str(),
            confidence: verdict.confidence,
            r#type: CLASSIFICATION,
            human_annotated: "no",
            creation_date: format_date(model.ended_at),
            job_name: "training-job/anomaly-detection",
            model_arn: &model.model_arn,
            project_name: &model.project_name,
            model_version: &model.model_version,
        },
    }
}
