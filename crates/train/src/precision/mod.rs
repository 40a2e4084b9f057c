//! A finished model in other number formats: a package and pictures come in, and out comes what each format makes of time
//! and scores on this machine, and the fastest one as a package of its own, if any is worth it.
//!
//! [`variants`] makes the same files from the same package and pictures; [`optimize`] also times them, in turns with the
//! model as it is, and keeps one only when it is faster and no score moves further than the bound allows.

mod float16;
mod graph;
mod int8;

use std::path::PathBuf;
use std::time::Instant;

use linewarden_model::package::{Golden, Package, Size};
use linewarden_model::{Detector, DetectorOptions, Device, DeviceRequest, FrameView, ModelError, SizePolicy};
use serde::Serialize;
use serde_json::json;

use crate::dataset::{Class, Dataset, DatasetError, Picture, Problem, Sample};
use crate::features::picture_view;
use crate::progress::Progress;
use graph::Source;
use int8::{Ranges, quantised};

/// How far a score may move unless the user says otherwise: as far as one picture's formats are apart.
pub const USUAL_BOUND: f64 = 0.02;
/// A variant must take at most this share of the time. Less gain is within what machines waver by.
const MOST_TIME: f64 = 0.97;
/// Views that are compared, at most; 0.2 MB each.
const VIEWS: usize = 200;
/// Views that whole numbers are fitted to.
const CALIBRATION_VIEWS: usize = 32;
/// Places at which whole numbers may begin. The first layers gain most by them, and suffer most.
const STARTS: usize = 8;
const ROUNDS: usize = 15;
const VIEWS_PER_ROUND: usize = 8;

/// How the feature network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Whole numbers of 8 bits.
    Int8,
    /// Real numbers of 16 bits.
    Float16,
}

impl Format {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Float16 => "float16",
        }
    }
}

/// What to try, and what it may cost.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How far a score may move.
    pub bound: f64,
    /// Threads within an operator, as the line will run it.
    pub threads: usize,
}

/// A model in another format, not yet timed.
#[derive(Debug, Clone)]
pub struct Variant {
    /// The format.
    pub format: Format,
    /// Convolutions in that format.
    pub convolutions: usize,
    /// Convolutions that the feature network has.
    pub of: usize,
    /// How far a score of a compared view moved, at most.
    pub largest_change: f64,
    /// Compared views of which the verdict changed.
    pub changed_verdicts: usize,
    onnx: Vec<u8>,
}

/// What became of a format.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// The format.
    pub format: Format,
    /// Convolutions in that format, and how many there are.
    pub convolutions: (usize, usize),
    /// How far a score moved, at most.
    pub largest_change: f64,
    /// Compared views of which the verdict changed.
    pub changed_verdicts: usize,
    /// Median time of a view as the model was and as it would be, in milliseconds; nothing where scores ruled it out.
    pub time_ms: Option<(f64, f64)>,
    /// The median of the rounds' own ratios of the two.
    pub time_ratio: Option<f64>,
    /// Whether it is the one that was kept.
    pub kept: bool,
}

/// What was found, and the package that is worth keeping.
#[derive(Debug)]
pub struct Optimized {
    /// The faster package, not yet written; nothing when no variant was within the bound and faster.
    pub package: Option<Package>,
    /// Every variant, most whole numbers first.
    pub trials: Vec<Trial>,
    /// How many views were compared.
    pub views: usize,
    /// How far a score was allowed to move.
    pub bound: f64,
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizeError {
    /// Pictures cannot be used; every one of them is named.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model was made elsewhere, or it is a variant already.
    #[error("`{path}` cannot be turned into another format: {reason}")]
    Graph {
        /// The package.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

impl Optimized {
    /// What was done and why, a sentence a line, each with its figures.
    pub fn sentences(&self) -> Vec<String> {
        self.trials.iter().map(|trial| trial.sentence(self.views, self.bound)).collect()
    }
}

impl Trial {
    fn is_near(&self, bound: f64) -> bool {
        self.largest_change <= bound && self.changed_verdicts == 0
    }

    fn sentence(&self, views: usize, bound: f64) -> String {
        let Self { convolutions: (own, of), largest_change, changed_verdicts, .. } = self;
        let name = self.format.name();
        let scores = match changed_verdicts {
            0 => format!("scores of {views} views within {largest_change:.4} of what they were (allowed: {bound})"),
            1 => format!("scores of {views} views within {largest_change:.4} (allowed: {bound}), and 1 other verdict"),
            _ => format!(
                "scores of {views} views within {largest_change:.4} (allowed: {bound}), and {changed_verdicts} other \
                 verdicts"
            ),
        };
        let (time, fate) = match (self.time_ratio, self.time_ms) {
            (Some(ratio), Some((before, after))) => {
                let fate = match self.kept {
                    true => "kept",
                    false if ratio > MOST_TIME => "not kept, as it is not faster here",
                    false => "not kept, as another is faster",
                };
                (format!("{ratio:.2} times the time ({after:.2} instead of {before:.2} ms), "), fate)
            }
            _ if self.kept => (String::new(), "kept, not timed"),
            _ if self.is_near(bound) => (String::new(), "not kept, as another has more of it"),
            _ => (String::new(), "not kept, as scores move too far"),
        };
        format!("{name} in {own} of {of} convolutions: {time}{scores}: {fate}")
    }
}

/// Tries every format on these pictures and keeps the fastest that keeps to the terms.
///
/// # Errors
/// When pictures cannot be used or the model cannot be run, or turned.
pub fn optimize(
    package: &Package,
    dataset: &Dataset,
    terms: Terms,
    progress: &dyn Progress,
) -> Result<Optimized, OptimizeError> {
    let views = cut_views(package, dataset, progress)?;
    let variants = variants(package, &views, progress)?;
    let is_near = |variant: &&Variant| variant.largest_change <= terms.bound && variant.changed_verdicts == 0;
    let near: Vec<&Variant> = variants.iter().filter(is_near).collect();
    let times = race(package, &near, &views, terms.threads, progress)?;
    let ratio = |place: usize| median(times.iter().map(|round| round[place + 1] / round[0]).collect());
    let ratios: Vec<f64> = (0..near.len()).map(ratio).collect();
    let fastest = (0..near.len()).min_by(|&a, &b| ratios[a].total_cmp(&ratios[b]));
    let kept = fastest.filter(|&place| ratios[place] <= MOST_TIME);
    let of_place = |place: usize| median(times.iter().map(|round| round[place]).collect());
    let trial = |variant: &Variant| {
        let place = near.iter().position(|own| std::ptr::eq(*own, variant));
        Trial {
            format: variant.format,
            convolutions: (variant.convolutions, variant.of),
            largest_change: variant.largest_change,
            changed_verdicts: variant.changed_verdicts,
            time_ms: place.map(|place| (of_place(0), of_place(place + 1))),
            time_ratio: place.map(|place| ratios[place]),
            kept: place.is_some() && place == kept,
        }
    };
    let trials: Vec<Trial> = variants.iter().map(trial).collect();
    let mut measured =
        json!({ "views": views.len(), "bound": terms.bound, "threads": terms.threads, "trials": trials });
    let package = kept.map(|place| near[place].measured(package, &mut measured)).transpose()?;
    Ok(Optimized { package, trials, views: views.len(), bound: terms.bound })
}

/// Turns the model into one format for another machine, whose speed cannot be measured here: of the variants that keep to the
/// bound it is the one with most of the format.
///
/// # Errors
/// When pictures cannot be used or the model cannot be run, or turned.
pub fn convert(
    package: &Package,
    dataset: &Dataset,
    format: Format,
    bound: f64,
    progress: &dyn Progress,
) -> Result<Optimized, OptimizeError> {
    let views = cut_views(package, dataset, progress)?;
    let mut variants = variants(package, &views, progress)?;
    variants.retain(|variant| variant.format == format);
    let mut trials: Vec<Trial> = variants
        .iter()
        .map(|variant| Trial {
            format,
            convolutions: (variant.convolutions, variant.of),
            largest_change: variant.largest_change,
            changed_verdicts: variant.changed_verdicts,
            time_ms: None,
            time_ratio: None,
            kept: false,
        })
        .collect();
    let near = (0..trials.len()).filter(|&place| trials[place].is_near(bound));
    let kept = near.max_by_key(|&place| trials[place].convolutions.0);
    if let Some(place) = kept {
        trials[place].kept = true;
    }
    let mut measured = json!({ "views": views.len(), "bound": bound, "trials": trials });
    let package = kept.map(|place| variants[place].measured(package, &mut measured)).transpose()?;
    Ok(Optimized { package, trials, views: views.len(), bound })
}

/// The network's pixels of each view of some of the pictures, both classes alike, up to a bound.
///
/// # Errors
/// When pictures cannot be read or have another size; all of them are named.
pub fn cut_views(package: &Package, dataset: &Dataset, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, OptimizeError> {
    let detector = Detector::from_package(package, &options(1))?;
    let mut framer = package.framer()?;
    let seen: Vec<usize> = (0..framer.views()).filter(|&view| !framer.is_blind(view)).collect();
    let chosen = chosen(dataset, VIEWS.div_ceil(seen.len().max(1)));
    if chosen.is_empty() {
        let problem = Problem::new(&dataset.root, "has no labelled pictures".to_owned());
        DatasetError::unless_empty(vec![problem])?;
    }
    progress.stage("reading pictures", chosen.len());
    let (mut views, mut problems) = (Vec::new(), Vec::new());
    for sample in chosen {
        let picture = match Picture::read(&sample.path) {
            Ok(picture) => picture,
            Err(error) => {
                problems.push(sample.unreadable(&error));
                continue;
            }
        };
        let frame = picture_view(&picture)?;
        if let Err(error) = detector.check_size(frame.width_px(), frame.height_px()) {
            problems.push(Problem::new(&sample.path, error.to_string()));
            continue;
        }
        framer.place(&frame)?;
        for &view in &seen {
            let mut rgb = Vec::new();
            framer.cut(&frame, view, &mut rgb)?;
            views.push(rgb);
        }
        progress.advance(1);
    }
    DatasetError::unless_empty(problems)?;
    views.truncate(VIEWS);
    Ok(views)
}

/// So many of the pictures, from all over the set, of both classes the same number where there are as many.
fn chosen(dataset: &Dataset, most: usize) -> Vec<&Sample> {
    let of_class = |class: Class| dataset.samples.iter().filter(move |sample| sample.class == Some(class));
    let (normals, anomalies) = (of_class(Class::Normal).count(), of_class(Class::Anomaly).count());
    let normals_share = normals.min((most / 2).max(most.saturating_sub(anomalies)));
    let thinned = |class: Class, count: usize, share: usize| -> Vec<&Sample> {
        of_class(class)
            .enumerate()
            .filter(|(at, _)| at * share / count.max(1) != (at + 1) * share / count.max(1))
            .map(|(_, own)| own)
            .collect()
    };
    let mut chosen = thinned(Class::Normal, normals, normals_share);
    chosen.extend(thinned(Class::Anomaly, anomalies, anomalies.min(most - normals_share)));
    chosen
}

/// The model in every format, with what each makes of the views' scores. The same package and views give the same files.
///
/// # Errors
/// When the model cannot be run, or turned.
pub fn variants(package: &Package, views: &[Vec<u8>], progress: &dyn Progress) -> Result<Vec<Variant>, OptimizeError> {
    let refused = |reason| OptimizeError::Graph { path: package.path().to_owned(), reason };
    let source = Source::read(package.onnx()).ok_or_else(|| refused("`model.onnx` cannot be read"))?;
    let convolutions = source.convolutions();
    if convolutions.is_empty() {
        return Err(refused("its feature network has no convolutions of 32-bit weights: was it turned already?"));
    }
    let of = convolutions.len();
    let every = views.len().div_ceil(CALIBRATION_VIEWS).max(1);
    let calibration: Vec<&[u8]> = views.iter().step_by(every).map(Vec::as_slice).collect();
    progress.stage("measuring ranges", 1);
    let ranges = Ranges::measure(&source, &convolutions, package.info().input_size, &calibration)?;
    progress.advance(1);
    let mut files: Vec<(Format, usize, Vec<u8>)> = Vec::new();
    for start in 0..STARTS.min(of) {
        let own = &convolutions[start * of / STARTS.min(of)..];
        files.push((Format::Int8, own.len(), quantised(&source, own, &ranges)));
    }
    files.push((Format::Float16, of, float16::halved(&source)));

    progress.stage("comparing scores", files.len() + 1);
    let threshold = package.info().threshold;
    let before = scores(package, views)?;
    progress.advance(1);
    let mut variants = Vec::with_capacity(files.len());
    for (format, convolutions, onnx) in files {
        let after = scores(&package.with_graph(onnx.clone(), Vec::new()), views)?;
        let pairs = || before.iter().zip(&after);
        variants.push(Variant {
            format,
            convolutions,
            of,
            largest_change: pairs().map(|(before, after)| (before - after).abs()).fold(0.0, f64::max),
            changed_verdicts: pairs().filter(|&(&a, &b)| (a >= threshold) != (b >= threshold)).count(),
            onnx,
        });
        progress.advance(1);
    }
    Ok(variants)
}

impl Variant {
    /// The file.
    pub fn onnx(&self) -> &[u8] {
        &self.onnx
    }

    /// The same, and it says what was measured.
    fn measured(&self, package: &Package, measured: &mut serde_json::Value) -> Result<Package, ModelError> {
        let mut kept = self.package(package)?;
        let mut metrics = kept.info().metrics.clone();
        measured["replaced"] = package.info().onnx_sha256.as_str().into();
        metrics.insert("precision".to_owned(), measured.take());
        kept.set_metrics(metrics);
        Ok(kept)
    }

    /// The package with this graph. Its golden pictures are the same ones; what they must score is what the variant gives
    /// them here, and whoever computes otherwise refuses it.
    ///
    /// # Errors
    /// When the variant cannot be run.
    pub fn package(&self, package: &Package) -> Result<Package, ModelError> {
        let unproven = package.with_graph(self.onnx.clone(), Vec::new());
        let mut detector = Detector::from_package(&unproven, &options(1))?;
        let mut golden = Vec::with_capacity(package.golden().len());
        for (own, png) in package.golden() {
            let anomaly_score = detector.score_golden(package, own, png)?;
            golden.push((Golden { anomaly_score, ..own.clone() }, png.clone()));
        }
        Ok(package.with_graph(self.onnx.clone(), golden))
    }
}

fn scores(package: &Package, views: &[Vec<u8>]) -> Result<Vec<f64>, ModelError> {
    let mut detector = Detector::from_package(package, &options(1))?;
    let size = package.info().input_size;
    views.iter().map(|view| score(&mut detector, size, view)).collect()
}

fn score(detector: &mut Detector, size: Size, view: &[u8]) -> Result<f64, ModelError> {
    detector.score_view(&FrameView::rgb(size.width_px, size.height_px, view)?)
}

/// Milliseconds a view, in each round: of the model as it is, then of each variant. They take turns, so that what slows
/// the machine down meets all of them.
fn race(
    package: &Package,
    variants: &[&Variant],
    views: &[Vec<u8>],
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f64>>, ModelError> {
    let mut contenders = vec![Detector::from_package(package, &options(threads))?];
    for variant in variants {
        contenders
            .push(Detector::from_package(&package.with_graph(variant.onnx.clone(), Vec::new()), &options(threads))?);
    }
    let size = package.info().input_size;
    progress.stage("timing", ROUNDS);
    let mut rounds = Vec::with_capacity(ROUNDS);
    // The first round warms up and does not count.
    for round in 0..=ROUNDS {
        let mut times = vec![0.0; contenders.len()];
        for turn in 0..contenders.len() {
            let place = (round + turn) % contenders.len();
            let start = Instant::now();
            for view in views.iter().cycle().skip(round * VIEWS_PER_ROUND).take(VIEWS_PER_ROUND) {
                score(&mut contenders[place], size, view)?;
            }
            times[place] = start.elapsed().as_secs_f64() * 1e3 / VIEWS_PER_ROUND as f64;
        }
        if round > 0 {
            rounds.push(times);
            progress.advance(1);
        }
    }
    Ok(rounds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The CPU is what every machine has, and what golden scores are from.
fn options(threads: usize) -> DetectorOptions {
    DetectorOptions {
        device: DeviceRequest::Only(Device::Cpu),
        threads,
        sizes: SizePolicy::Exact,
        ..DetectorOptions::default()
    }
}
