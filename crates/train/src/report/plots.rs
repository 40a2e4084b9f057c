//! The curves as SVG, in colours that can be told apart on white and on black; what plotters draws black takes the
//! colour of the page's text.

use std::fmt::Display;
use std::io;
use std::ops::Range;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::dataset::Class;
use crate::evaluation::{Evaluation, Reliability, precision_recall_curve, roc_curve};

pub(super) const NORMAL: RGBColor = RGBColor(0x2F, 0x7E, 0xBC);
pub(super) const ANOMALY: RGBColor = RGBColor(0xD6, 0x45, 0x30);
const GUIDE: RGBColor = RGBColor(0x80, 0x80, 0x80);
const SIZE_PX: (u32, u32) = (460, 340);
const BINS: usize = 25;
/// More points than this make a page heavy and a curve no smoother.
const POINTS: usize = 500;
/// Room around the unit square, so that curves along its edges are seen.
const ROOM: Range<f64> = -0.02..1.02;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The ROC curve with the point of the threshold; nothing unless there are normals and anomalies.
pub(super) fn roc(evaluation: &Evaluation) -> io::Result<Option<String>> {
    let (scores, truths) = evaluation.scores();
    let curve = thinned(roc_curve(&scores, &truths));
    let (Some(false_rejects), Some(misses)) = (evaluation.false_rejects, evaluation.misses) else { return Ok(None) };
    let svg = draw("share of normals rejected", "share of anomalies found", (ROOM, ROOM), |chart| {
        line(chart, &[(0.0, 0.0), (1.0, 1.0)], GUIDE, 1)?;
        line(chart, &curve, ANOMALY, 2)?;
        dot(chart, (false_rejects.rate, 1.0 - misses.rate), 5, ANOMALY)
    })?;
    Ok(Some(svg))
}

/// The precision-recall curve with the point of the threshold; nothing without anomalies.
pub(super) fn precision_recall(evaluation: &Evaluation) -> io::Result<Option<String>> {
    let (scores, truths) = evaluation.scores();
    let steps = thinned(precision_recall_curve(&scores, &truths));
    if steps.is_empty() {
        return Ok(None);
    }
    // A step holds its precision from the recall before it, as average precision counts it.
    let mut curve = Vec::new();
    let mut recall_before = 0.0;
    for (recall, precision) in steps {
        curve.extend([(recall_before, precision), (recall, precision)]);
        recall_before = recall;
    }
    let at_threshold = (evaluation.image.recall, evaluation.image.precision);
    let svg = draw("recall", "precision", (ROOM, ROOM), |chart| {
        line(chart, &curve, ANOMALY, 2)?;
        dot(chart, at_threshold, 5, ANOMALY)
    })?;
    Ok(Some(svg))
}

/// How many pictures of either class have which score, and the threshold.
pub(super) fn histogram(evaluation: &Evaluation) -> io::Result<String> {
    let mut counts = [[0_u32; BINS]; 2];
    for verdict in &evaluation.verdicts {
        let bin = ((verdict.score * BINS as f64) as usize).min(BINS - 1);
        counts[usize::from(verdict.truth == Class::Anomaly)][bin] += 1;
    }
    let highest = counts.iter().flatten().max().map_or(1.0, |&count| f64::from(count.max(1)));
    let threshold = [(evaluation.threshold, 0.0), (evaluation.threshold, highest * 1.05)];
    draw("score", "pictures", (ROOM, 0.0..highest * 1.05), |chart| {
        for (class, color) in [NORMAL, ANOMALY].into_iter().enumerate() {
            let bar = |(bin, &count): (usize, &u32)| {
                let left = (bin as f64 + 0.06 + 0.44 * class as f64) / BINS as f64;
                let corners = [(left, 0.0), (left + 0.42 / BINS as f64, f64::from(count))];
                Rectangle::new(corners, color.filled())
            };
            let filled = counts[class].iter().enumerate().filter(|(_, count)| **count > 0);
            chart.draw_series(filled.map(bar)).map_err(failed)?;
        }
        line(chart, &threshold, GUIDE, 2)
    })
}

/// Share of anomalies against score, bin by bin: a larger dot stands for more pictures.
pub(super) fn reliability(reliability: &Reliability) -> io::Result<String> {
    let points: Vec<(f64, f64)> = reliability.bins.iter().map(|bin| (bin.mean_score, bin.anomalous)).collect();
    let most = reliability.bins.iter().map(|bin| bin.images).max().unwrap_or(1) as f64;
    draw("mean score", "share of anomalies", (ROOM, ROOM), |chart| {
        line(chart, &[(0.0, 0.0), (1.0, 1.0)], GUIDE, 1)?;
        line(chart, &points, NORMAL, 2)?;
        for (&point, bin) in points.iter().zip(&reliability.bins) {
            dot(chart, point, 3 + (7.0 * (bin.images as f64 / most).sqrt()) as i32, NORMAL)?;
        }
        Ok(())
    })
}

fn draw(
    x_label: &str,
    y_label: &str,
    (x_range, y_range): (Range<f64>, Range<f64>),
    series: impl FnOnce(&mut Chart<'_, '_>) -> io::Result<()>,
) -> io::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE_PX).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(42)
            .y_label_area_size(52)
            .build_cartesian_2d(x_range, y_range)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GUIDE.mix(0.25))
            .x_desc(x_label)
            .y_desc(y_label)
            .y_label_formatter(&tick)
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 14))
            .draw()
            .map_err(failed)?;
        series(&mut chart)?;
        drop(chart);
        area.present().map_err(failed)?;
    }
    let label = format!("<svg role=\"img\" aria-label=\"{y_label} over {x_label}\" ");
    Ok(svg.replacen("<svg ", &label, 1).replace("#000000", "currentColor"))
}

/// Whole numbers without a fraction, as pictures are counted.
fn tick(value: &f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    if *value > 1.5 && rounded.fract() == 0.0 { format!("{rounded:.0}") } else { format!("{value:.1}") }
}

fn line(chart: &mut Chart<'_, '_>, points: &[(f64, f64)], color: RGBColor, width_px: u32) -> io::Result<()> {
    let series = LineSeries::new(points.iter().copied(), color.stroke_width(width_px));
    chart.draw_series(series).map(|_| ()).map_err(failed)
}

fn dot(chart: &mut Chart<'_, '_>, point: (f64, f64), radius_px: i32, color: RGBColor) -> io::Result<()> {
    let dot = Circle::new(point, radius_px, color.filled());
    chart.draw_series(std::iter::once(dot)).map(|_| ()).map_err(failed)
}

fn failed(error: impl Display) -> io::Error {
    io::Error::other(format!("cannot draw a curve: {error}"))
}

/// Evenly chosen points, the first and the last among them.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points;
    }
    (0..POINTS).map(|index| points[index * (points.len() - 1) / (POINTS - 1)]).collect()
}
