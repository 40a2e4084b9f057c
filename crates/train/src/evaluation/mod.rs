//! Evaluation: how good a model is on a labelled data set.
//!
//! What a model said of each picture comes in as [`Judged`], with the truth; an [`Evaluation`] goes out, which
//! serialises as the answer of `linewarden evaluate --json` and writes the guide's two files. Nothing here knows how
//! the model works. Maps and masks are counted one picture at a time and not kept.

mod curves;
mod files;
mod intervals;
mod pixels;
mod reliability;
mod scores;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::dataset::{Class, LabelColor, LabelPicture};
use crate::threshold::{Costs, Rate, WhatIf, what_if};

pub use curves::{precision_recall_curve, roc_curve};
pub use files::{ModelIdentity, write_evaluation_manifest, write_evaluation_result};
pub use intervals::{Interval, Intervals, intervals};
pub use pixels::{PixelScores, ScoreMap, regions};
pub use reliability::{Reliability, ReliabilityBin, reliability};
pub use scores::{Confusion, average_precision, confusion, percentile, roc_auc};

/// AUPRO is measured up to this false-positive rate: beyond it a map is of no use.
const AUPRO_FALSE_POSITIVES: f64 = 0.3;

/// What a model said of one picture, and what is true.
#[derive(Debug, Clone)]
pub struct Judged {
    /// How the data set calls the picture.
    pub source_ref: String,
    /// When it was labelled, if known.
    pub labeled_at: Option<Timestamp>,
    /// What is true.
    pub truth: Class,
    /// The model's score; from the evaluation's threshold on it means anomalous.
    pub score: f64,
    /// How sure the model is of its verdict.
    pub confidence: f64,
    /// Where the model sees anomalies, at any size.
    pub map: Option<ScoreMap>,
    /// Where the anomalies are, numbered by the evaluation's labels.
    pub truth_mask: Option<LabelPicture>,
    /// Which labels the model sees where, numbered alike, at any size. Labels are only measured where this is given.
    pub found_mask: Option<LabelPicture>,
    /// Width and height of the picture: the size at which the pixels of a normal picture are counted.
    pub size_px: (usize, usize),
    /// How long the model took.
    pub detection_time: Duration,
}

/// One picture's verdict, as kept for the evaluation manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How the data set calls the picture.
    pub source_ref: String,
    /// When it was labelled, if known.
    pub labeled_at: Option<Timestamp>,
    /// What is true.
    pub truth: Class,
    /// What the model said.
    pub found: Class,
    /// The model's score.
    pub score: f64,
    /// How sure the model is of its verdict.
    pub confidence: f64,
}

/// Measures over the pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageMetrics {
    /// Area under the ROC curve; nothing unless there are normals and anomalies.
    pub roc_auc: Option<f64>,
    /// Average precision; nothing unless there are anomalies.
    pub average_precision: Option<f64>,
    /// At the threshold.
    pub precision: f64,
    /// At the threshold.
    pub recall: f64,
    /// At the threshold.
    pub f1: f64,
}

/// Measures over the pixels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PixelMetrics {
    /// Area under the ROC curve.
    pub roc_auc: Option<f64>,
    /// Area under the per-region overlap curve up to a false-positive rate of 0.3, divided by 0.3.
    pub aupro: Option<f64>,
}

/// How well one label was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelMetrics {
    /// The label.
    pub name: String,
    /// Pictures whose masks show the label.
    pub images: usize,
    /// Over the pixels of all pictures.
    pub precision: f64,
    /// Over the pixels of all pictures.
    pub recall: f64,
    /// Over the pixels of all pictures.
    pub f1: f64,
    /// Mean over the pictures that show the label; nothing if none does.
    pub iou: Option<f64>,
}

/// How long detection took, in milliseconds. Percentiles are nearest-rank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimeMetrics {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
}

/// How good a model is on a data set. Serialises as the answer of `linewarden evaluate --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Pictures.
    pub images: usize,
    /// Scores from here on are anomalous.
    pub threshold: f64,
    /// Over the pictures.
    pub image: ImageMetrics,
    /// Over the pixels, where the data set has masks and the model has maps.
    pub pixel: Option<PixelMetrics>,
    /// For each label, where the data set has masks and the model finds labels.
    pub labels: Vec<LabelMetrics>,
    /// Detection time.
    pub time_ms: TimeMetrics,
    /// Verdicts against truths.
    pub confusion: Confusion,
    /// Normals that were called anomalous; nothing without normals.
    pub false_rejects: Option<Rate>,
    /// Anomalies that were called normal; nothing without anomalies.
    pub misses: Option<Rate>,
    /// Where the measures over pictures lie with a confidence of 95 %; nothing unless there are normals and anomalies.
    pub intervals: Option<Intervals>,
    /// How far scores are probabilities; nothing without pictures.
    pub reliability: Option<Reliability>,
    /// Whether the largest label is the right one; nothing unless labels are measured and there are several.
    pub type_accuracy: Option<TypeAccuracy>,
    /// Each picture's verdict, in the order of the data set.
    #[serde(skip)]
    pub verdicts: Vec<Verdict>,
}

/// Of the anomalies that were found and whose masks show labels: how many have the right label.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TypeAccuracy {
    /// Anomalies that were found.
    pub found: usize,
    /// Those of them whose largest label found is the largest label of their mask.
    pub right: usize,
    /// Their share; nothing if none was found.
    pub accuracy: Option<f64>,
}

impl Evaluation {
    /// The score of every picture, and whether it is anomalous.
    pub fn scores(&self) -> (Vec<f64>, Vec<bool>) {
        self.verdicts.iter().map(|verdict| (verdict.score, verdict.truth == Class::Anomaly)).unzip()
    }

    /// What other thresholds would have done to these pictures: at most `rows`, beside the model's own and `others`.
    pub fn what_if(&self, others: &[f64], costs: Option<&Costs>, rows: usize) -> Vec<WhatIf> {
        let (scores, truths) = self.scores();
        what_if(&scores, &truths, self.threshold, others, costs, rows)
    }
}

/// Collects what the model says, picture by picture.
#[derive(Debug)]
pub struct Evaluator {
    threshold: f64,
    labels: Vec<LabelCounts>,
    verdicts: Vec<Verdict>,
    times_ms: Vec<f64>,
    /// Made with the first map, because it takes 24 MB.
    pixels: Option<PixelScores>,
    has_truth_masks: bool,
    has_found_masks: bool,
    /// Anomalies that were found, and those of them with the right label.
    types: (usize, usize),
}

/// Counts of one label.
#[derive(Debug, Clone)]
struct LabelCounts {
    name: String,
    pixels: Confusion,
    ious: Vec<f64>,
}

impl Evaluator {
    /// For a model with this threshold; `labels` number the masks.
    pub fn new(threshold: f64, labels: &[LabelColor]) -> Self {
        let counts = |label: &LabelColor| LabelCounts {
            name: label.name.clone(),
            pixels: Confusion::default(),
            ious: Vec::new(),
        };
        Self {
            threshold,
            labels: labels.iter().map(counts).collect(),
            verdicts: Vec::new(),
            times_ms: Vec::new(),
            pixels: None,
            has_truth_masks: false,
            has_found_masks: false,
            types: (0, 0),
        }
    }

    /// Counts one picture. An anomalous picture without a mask says nothing about pixels.
    pub fn add(&mut self, judged: &Judged) {
        let found = if judged.score >= self.threshold { Class::Anomaly } else { Class::Normal };
        self.verdicts.push(Verdict {
            source_ref: judged.source_ref.clone(),
            labeled_at: judged.labeled_at,
            truth: judged.truth,
            found,
            score: judged.score,
            confidence: judged.confidence,
        });
        self.times_ms.push(judged.detection_time.as_secs_f64() * 1e3);
        self.has_truth_masks |= judged.truth_mask.is_some();
        self.count_map(judged);
        self.count_labels(judged);
    }

    /// The measures over all pictures so far.
    pub fn finish(self) -> Evaluation {
        let truth = |verdict: &Verdict| (verdict.score, verdict.truth == Class::Anomaly);
        let (scores, truths): (Vec<f64>, Vec<bool>) = self.verdicts.iter().map(truth).unzip();
        let confusion = confusion(&scores, &truths, self.threshold);
        let image = ImageMetrics {
            roc_auc: roc_auc(&scores, &truths),
            average_precision: average_precision(&scores, &truths),
            precision: confusion.precision(),
            recall: confusion.recall(),
            f1: confusion.f1(),
        };
        let pixel = self
            .pixels
            .filter(|_| self.has_truth_masks)
            .map(|pixels| PixelMetrics { roc_auc: pixels.roc_auc(), aupro: pixels.aupro(AUPRO_FALSE_POSITIVES) });
        let measures_labels = self.has_truth_masks && self.has_found_masks;
        let labels = if measures_labels { self.labels.iter().map(LabelCounts::metrics).collect() } else { Vec::new() };
        let (found, right) = self.types;
        let type_accuracy = TypeAccuracy { found, right, accuracy: scores::share(right as u64, found as u64) };
        Evaluation {
            images: self.verdicts.len(),
            threshold: self.threshold,
            image,
            pixel,
            labels,
            time_ms: time_metrics(&self.times_ms),
            false_rejects: rate(confusion.false_positives, confusion.true_negatives),
            misses: rate(confusion.false_negatives, confusion.true_positives),
            intervals: intervals(&scores, &truths, self.threshold),
            reliability: reliability(&scores, &truths),
            type_accuracy: (measures_labels && self.labels.len() > 1).then_some(type_accuracy),
            confusion,
            verdicts: self.verdicts,
        }
    }

    fn count_map(&mut self, judged: &Judged) {
        let Some(map) = &judged.map else { return };
        match (&judged.truth_mask, judged.truth) {
            (Some(truth), _) => self.pixels.get_or_insert_default().add_masked(map, truth),
            (None, Class::Normal) => {
                let (width, height) = judged.size_px;
                self.pixels.get_or_insert_default().add_normal(map, width, height);
            }
            (None, Class::Anomaly) => {}
        }
    }

    fn count_labels(&mut self, judged: &Judged) {
        let Some(found) = judged.found_mask.as_ref().filter(|found| found.is_whole()) else { return };
        self.has_found_masks = true;
        let (width, height) = match (&judged.truth_mask, judged.truth) {
            (Some(truth), _) if truth.is_whole() => (truth.width, truth.height),
            (None, Class::Normal) => judged.size_px,
            _ => return,
        };
        let overlaps = overlaps(found, judged.truth_mask.as_ref(), width, height);
        for (index, label) in self.labels.iter_mut().enumerate() {
            label.add(index + 1, &overlaps);
        }
        self.count_type(judged, &overlaps);
    }

    /// An anomaly that was found, but nowhere, has the wrong label.
    fn count_type(&mut self, judged: &Judged, overlaps: &[[u64; 256]]) {
        let pixels_of = |number: usize| overlaps[number].iter().sum::<u64>();
        let Some(true_label) = largest(pixels_of) else { return };
        if judged.score >= self.threshold {
            let found_label = largest(|number| overlaps.iter().map(|row| row[number]).sum());
            self.types.0 += 1;
            self.types.1 += usize::from(found_label == Some(true_label));
        }
    }
}

/// The label with most pixels, the first of equals; nothing if none has any.
fn largest(pixels_of: impl Fn(usize) -> u64) -> Option<usize> {
    let counted = (1..256).map(|number| (pixels_of(number), number)).filter(|&(pixels, _)| pixels > 0);
    counted.max_by_key(|&(pixels, number)| (pixels, usize::MAX - number)).map(|(_, number)| number)
}

fn rate(wrong: u64, right: u64) -> Option<Rate> {
    Rate::new(wrong as usize, (wrong + right) as usize)
}

/// How many pixels have each true label (row) and found label (column).
fn overlaps(found: &LabelPicture, truth: Option<&LabelPicture>, width: usize, height: usize) -> Vec<[u64; 256]> {
    let mut overlaps = vec![[0_u64; 256]; 256];
    for y in 0..height {
        let found_row = &found.labels[(y * found.height / height) * found.width..];
        for x in 0..width {
            let true_label = truth.map_or(0, |truth| truth.labels[y * width + x]);
            let found_label = found_row[x * found.width / width];
            overlaps[usize::from(true_label)][usize::from(found_label)] += 1;
        }
    }
    overlaps
}

impl LabelCounts {
    fn add(&mut self, number: usize, overlaps: &[[u64; 256]]) {
        let Some(row) = overlaps.get(number) else { return };
        let all: u64 = overlaps.iter().flatten().sum();
        let truly: u64 = row.iter().sum();
        let found: u64 = overlaps.iter().map(|row| row[number]).sum();
        let both = row[number];
        let here = Confusion {
            true_positives: both,
            false_positives: found - both,
            true_negatives: all + both - truly - found,
            false_negatives: truly - both,
        };
        self.pixels.true_positives += here.true_positives;
        self.pixels.false_positives += here.false_positives;
        self.pixels.true_negatives += here.true_negatives;
        self.pixels.false_negatives += here.false_negatives;
        if truly > 0 {
            self.ious.push(here.iou());
        }
    }

    fn metrics(&self) -> LabelMetrics {
        LabelMetrics {
            name: self.name.clone(),
            images: self.ious.len(),
            precision: self.pixels.precision(),
            recall: self.pixels.recall(),
            f1: self.pixels.f1(),
            iou: (!self.ious.is_empty()).then(|| mean(&self.ious)),
        }
    }
}

fn time_metrics(times_ms: &[f64]) -> TimeMetrics {
    TimeMetrics {
        mean: mean(times_ms),
        p50: percentile(times_ms, 50.0).unwrap_or(0.0),
        p99: percentile(times_ms, 99.0).unwrap_or(0.0),
    }
}

/// 0 for none.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
