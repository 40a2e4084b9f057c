//! The bare network, the element around it, and the alternatives, in turns.

use anyhow::{Context as _, Result};
use gst::prelude::*;
use linewarden_model::package::{INPUT, Package};
use linewarden_model::{FrameView, Preprocessor, runtime};
use linewarden_train::backbone::{Backbone, BackboneSource};
use linewarden_train::evaluation::Evaluation;
use linewarden_train::features::INPUT_SIZE_PX;
use linewarden_train::onnx::{Dim, ElementType, GraphBuilder};
use ort::session::Session;
use ort::value::TensorRef;

use crate::clock::{Spent, Stopwatch};
use crate::feed::Feed;
use crate::numbers::median;
use crate::parts::{HEIGHT, Parts, WIDTH};
use crate::report::Report;
use crate::session::open;

const ROUNDS: usize = 12;
const RUNS_PER_ROUND: usize = 25;
/// First runs lay out memory.
const WARM_UP_RUNS: usize = 15;
/// What the issue asks of the element: its CPU time over that of the bare loop and the source.
const MOST_OVER_BARE: f64 = 1.10;
/// What the issue asks of whole models: their CPU time over that of the bare network, cut at the strides that they use.
const MOST_OVER_BACKBONE: f64 = 1.35;
const MOST_HYBRID_OVER_BACKBONE: f64 = 1.45;

/// One of those that take turns.
struct Contender<'a> {
    run: Box<dyn FnMut(usize) -> Result<()> + 'a>,
    rounds: Vec<Spent>,
}

impl<'a> Contender<'a> {
    fn new(run: impl FnMut(usize) -> Result<()> + 'a) -> Self {
        Self { run: Box::new(run), rounds: Vec::new() }
    }

    fn cpu_ms(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.cpu_ms).collect()
    }

    fn wall_ms(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.wall_ms).collect()
    }
}

pub(crate) fn measure(parts: &Parts, report: &mut Report) -> Result<()> {
    let input = scaled(parts)?;
    let mut one_thread = open(&parts.package, 1)?;
    let mut two_threads = open(&parts.package, 2)?;
    let mut hybrid = open(&parts.hybrid, 1)?;
    let mut backbone = open_backbone(&parts.package)?;
    let mut hybrid_backbone = open_backbone(&parts.hybrid)?;
    let (rgb, i420) = (gst_video::VideoFormat::Rgb, gst_video::VideoFormat::I420);
    let mut source_rgb = Feed::start(parts, rgb, "")?;
    let mut source_i420 = Feed::start(parts, i420, "")?;
    let mut element_rgb = Feed::start(parts, rgb, "anomalydetect name=detect")?;
    let mut element_i420 = Feed::start(parts, i420, "anomalydetect name=detect")?;
    let converting = "videoconvert ! video/x-raw,format=RGB ! anomalydetect name=detect";
    let mut element_converting = Feed::start(parts, i420, converting)?;
    let planes = vec![0.0; 3 * (INPUT_SIZE_PX * INPUT_SIZE_PX) as usize];

    let mut contenders = [
        Contender::new(|times| run_model(&mut one_thread, &input, times)),
        Contender::new(|times| source_rgb.run(times)),
        Contender::new(|times| element_rgb.run(times)),
        Contender::new(|times| source_i420.run(times)),
        Contender::new(|times| element_i420.run(times)),
        Contender::new(|times| run_backbone(&mut backbone, &planes, times)),
        Contender::new(|times| run_model(&mut two_threads, &input, times)),
        Contender::new(|times| element_converting.run(times)),
        Contender::new(|times| run_model(&mut hybrid, &input, times)),
        Contender::new(|times| run_backbone(&mut hybrid_backbone, &planes, times)),
    ];
    race(&mut contenders)?;
    let [
        bare,
        source_rgb,
        with_rgb,
        source_i420,
        with_i420,
        backbone,
        two_threads,
        converting,
        hybrid,
        hybrid_backbone,
    ] = &contenders;

    report.chapter("The network alone, 256x256, one thread");
    report.figure("bare_wall", "session.run(), wall", median(&bare.wall_ms()), "ms");
    report.figure("bare_cpu", "session.run(), CPU", median(&bare.cpu_ms()), "ms");
    report.figure("backbone_cpu", "backbone alone, cut at the same strides, CPU", median(&backbone.cpu_ms()), "ms");
    let over = ratio(&[bare], &[backbone]);
    report.required("over_backbone", "whole model over backbone, CPU", over, "x", MOST_OVER_BACKBONE);
    accuracy("normals", "normals alone", &parts.evaluation, report);
    report.figure("hybrid_cpu", "hybrid with masks, CPU", median(&hybrid.cpu_ms()), "ms");
    let cpu = median(&hybrid_backbone.cpu_ms());
    report.figure("hybrid_backbone_cpu", "backbone alone, cut at the hybrid's strides, CPU", cpu, "ms");
    let over = ratio(&[hybrid], &[hybrid_backbone]);
    let title = "hybrid with masks over that backbone, CPU";
    report.required("hybrid_over_backbone", title, over, "x", MOST_HYBRID_OVER_BACKBONE);
    accuracy("hybrid", "hybrid", &parts.hybrid_evaluation, report);
    report.figure("two_threads_wall", "session.run() with two threads, wall", median(&two_threads.wall_ms()), "ms");
    report.figure("two_threads_cpu", "session.run() with two threads, CPU", median(&two_threads.cpu_ms()), "ms");

    report.chapter("The element, 1280x720: source ! anomalydetect ! fakesink");
    for (name, key, source, element) in [("RGB", "rgb", source_rgb, with_rgb), ("I420", "i420", source_i420, with_i420)]
    {
        let per_second = 1e3 / median(&element.wall_ms());
        report.figure(&format!("{key}_fps"), &format!("{name}, frames a second"), per_second, "/s");
        let cpu = median(&element.cpu_ms());
        report.figure(&format!("{key}_cpu"), &format!("{name}, whole pipeline, CPU a frame"), cpu, "ms");
        let cpu = median(&source.cpu_ms());
        report.figure(&format!("{key}_source_cpu"), &format!("{name}, source alone, CPU a frame"), cpu, "ms");
        let over = ratio(&[element], &[bare, source]);
        let title = format!("{name}, CPU over bare loop plus source");
        report.required(&format!("{key}_over_bare"), &title, over, "x", MOST_OVER_BARE);
    }
    let cpu = median(&converting.cpu_ms());
    report.figure("i420_converted_cpu", "I420 through videoconvert to RGB, CPU a frame", cpu, "ms");
    drop(contenders);

    report.chapter("Stages within the element");
    for (name, feed) in [("RGB", &element_rgb), ("I420", &element_i420)] {
        feed.check_scored()?;
        stages(name, feed, report)?;
    }
    Ok(())
}

/// Takes turns, each time in another order, so that none always follows the same neighbour.
fn race(contenders: &mut [Contender<'_>]) -> Result<()> {
    for contender in contenders.iter_mut() {
        (contender.run)(WARM_UP_RUNS)?;
    }
    let count = contenders.len();
    for round in 0..ROUNDS {
        for turn in 0..count {
            let contender = &mut contenders[(round + turn) % count];
            let watch = Stopwatch::start();
            (contender.run)(RUNS_PER_ROUND)?;
            let Spent { wall_ms, cpu_ms } = watch.spent();
            let runs = RUNS_PER_ROUND as f64;
            contender.rounds.push(Spent { wall_ms: wall_ms / runs, cpu_ms: cpu_ms / runs });
        }
    }
    Ok(())
}

/// The median of the rounds' own ratios: what slows a round down slows both sides of it.
fn ratio(above: &[&Contender<'_>], below: &[&Contender<'_>]) -> f64 {
    let sum = |contenders: &[&Contender<'_>], round: usize| -> f64 {
        contenders.iter().map(|contender| contender.rounds[round].cpu_ms).sum()
    };
    let ratios: Vec<f64> = (0..ROUNDS).map(|round| sum(above, round) / sum(below, round)).collect();
    median(&ratios)
}

fn stages(format: &str, feed: &Feed, report: &mut Report) -> Result<()> {
    let stats: gst::Structure = feed.element("detect")?.property("stats");
    for stage in ["preprocess", "inference", "postprocess"] {
        let times: gst::Structure = stats.get(stage)?;
        for (field, name) in [("p50-ms", "p50"), ("p99-ms", "p99")] {
            let key = format!("{}_{stage}_{name}", format.to_lowercase());
            report.figure(&key, &format!("{format}, {stage}, {name}"), times.get(field)?, "ms");
        }
    }
    Ok(())
}

/// How well a model tells the rendered test parts apart.
fn accuracy(key: &str, name: &str, evaluation: &Evaluation, report: &mut Report) {
    let Evaluation { images, image, .. } = evaluation;
    let auc = image.roc_auc.unwrap_or(f64::NAN);
    report.figure(&format!("{key}_roc_auc"), &format!("{name}, {images} rendered parts, ROC AUC"), auc, "");
    report.figure(&format!("{key}_f1"), &format!("{name}, the same parts, F1"), image.f1, "");
}

/// The first frame as the network sees it.
fn scaled(parts: &Parts) -> Result<Vec<u8>> {
    let size = parts.package.info().input_size;
    let mut rgb = Vec::new();
    let frame = FrameView::rgb(WIDTH, HEIGHT, parts.first_rgb())?;
    Preprocessor::new(size.width_px, size.height_px).run(&frame, &mut rgb)?;
    Ok(rgb)
}

/// A builder with the product's own settings for this package.
/// One run of the model after the other.
pub(crate) fn run_model(session: &mut Session, rgb: &[u8], times: usize) -> Result<()> {
    let side = INPUT_SIZE_PX as usize;
    for _ in 0..times {
        let input = TensorRef::from_array_view(([1, side, side, 3], rgb))?;
        session.run(ort::inputs![INPUT => input])?;
    }
    Ok(())
}

/// The backbone as deep as the model needs it, and nothing before or behind it.
fn open_backbone(package: &Package) -> Result<Session> {
    let backbone = Backbone::load(&BackboneSource::Bundled)?;
    let mut graph = GraphBuilder::new("backbone");
    let side = i64::from(INPUT_SIZE_PX);
    let dims = [Dim::Fixed(1), Dim::Fixed(3), Dim::Fixed(side), Dim::Fixed(side)];
    let input = graph.input("planes", ElementType::Float, &dims);
    for tap in backbone.append(&mut graph, &input, INPUT_SIZE_PX, &package.info().backbone.strides)? {
        let (channels, size) = (i64::from(tap.channels), i64::from(tap.size));
        let dims = [Dim::Fixed(1), Dim::Fixed(channels), Dim::Fixed(size), Dim::Fixed(size)];
        graph.output(&tap.name, ElementType::Float, &dims);
    }
    runtime::session_builder(1)?.commit_from_memory(&graph.finish()).context("ONNX Runtime refuses the backbone")
}

fn run_backbone(session: &mut Session, planes: &[f32], times: usize) -> Result<()> {
    let side = INPUT_SIZE_PX as usize;
    for _ in 0..times {
        let input = TensorRef::from_array_view(([1, 3, side, side], planes))?;
        session.run(ort::inputs!["planes" => input])?;
    }
    Ok(())
}
