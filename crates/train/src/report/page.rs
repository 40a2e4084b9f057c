//! The page's text: one section a function, each a string of HTML.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use linewarden_model::{ModelInfo, ModelType};

use super::exhibits::{Exhibit, ExhibitKind};
use super::{Report, plots};
use crate::dataset::Class;
use crate::evaluation::{Evaluation, Interval, LabelMetrics};
use crate::threshold::{Rate, WhatIf, percent};

/// Rows of the table of thresholds, beside the model's own.
const WHAT_IF_ROWS: usize = 12;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --normal: #2f7ebc; --anomaly: #d64530; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; break-after: avoid; }
p.about, figcaption, td.note, .how { opacity: .75; } .how { font-size: .9rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.right { background: #2f7ebc22; } td.wrong { background: #d6453022; } tr.own { background: var(--soft); font-weight: 600; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; } .card { background: var(--soft); padding: .6rem 1rem; border-radius: .5rem; }
.card b { display: block; font-size: 1.5rem; } .card small { opacity: .75; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; } svg { max-width: 100%; height: auto; }
.exhibits { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1rem; }
.exhibit { background: var(--soft); padding: .6rem; border-radius: .5rem; break-inside: avoid; overflow-wrap: anywhere; }
.exhibit div { display: flex; gap: .4rem; } .exhibit figure { flex: 1; } .exhibit img { width: 100%; border-radius: .25rem; }
.normal { color: var(--normal); } .anomaly { color: var(--anomaly); }
@media print { :root { color-scheme: light; } body { margin: 0; max-width: none; font-size: 12px; }
  .plots { grid-template-columns: 1fr 1fr; } .exhibits { grid-template-columns: 1fr 1fr 1fr; }
  .card, .exhibit { border: 1px solid var(--line); } }
";

pub(super) fn html(report: &Report<'_>) -> io::Result<String> {
    let Report { model, evaluation, .. } = report;
    let name = escape(&format!("{} {}", model.project, model.version));
    let sections = [
        head(report),
        measures(evaluation),
        confusion(evaluation),
        curves(evaluation)?,
        thresholds(report),
        labels(evaluation),
        shown(report.exhibits),
        how(report),
    ];
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Evaluation of {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{}\n</body>\n</html>\n",
        sections.concat()
    ))
}

/// Text as HTML shows it, also within an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in HTML, and of no use to a reader.
            control if control.is_control() && control != '\n' => escaped.push('\u{FFFD}'),
            other => escaped.push(other),
        }
    }
    escaped
}

fn head(report: &Report<'_>) -> String {
    let ModelInfo { project, version, model_type, algorithm, backbone, time, onnx_sha256, .. } = report.model;
    let kind = match model_type {
        ModelType::Classification => "classification",
        ModelType::Segmentation => "segmentation",
    };
    let of_class = |class| report.evaluation.verdicts.iter().filter(|verdict| verdict.truth == class).count();
    format!(
        "<h1>Evaluation of {} {}</h1>\n\
         <p class=\"about\">On {}: {} pictures, {} normal and {} anomalous, {:.0}.<br>\n\
         A {kind} model ({} on {}) trained {}, SHA-256 {}.</p>\n",
        escape(project),
        escape(version),
        escape(report.dataset),
        report.evaluation.images,
        of_class(Class::Normal),
        of_class(Class::Anomaly),
        report.ended_at,
        escape(algorithm),
        escape(&backbone.name),
        escape(time),
        escape(onnx_sha256.get(..16).unwrap_or(onnx_sha256)),
    )
}

fn measures(evaluation: &Evaluation) -> String {
    let image = &evaluation.image;
    let intervals = evaluation.intervals.as_ref();
    let cards: String = [
        ("Precision", Some(image.precision), intervals.map(|all| all.precision)),
        ("Recall", Some(image.recall), intervals.map(|all| all.recall)),
        ("F1", Some(image.f1), intervals.map(|all| all.f1)),
        ("ROC AUC", image.roc_auc, intervals.map(|all| all.roc_auc)),
        ("Average precision", image.average_precision, intervals.map(|all| all.average_precision)),
    ]
    .into_iter()
    .map(|(name, value, interval)| card(name, value, interval))
    .collect();
    format!("<h2>Measures</h2>\n<div class=\"cards\">\n{cards}</div>\n")
}

fn card(name: &str, value: Option<f64>, interval: Option<Interval>) -> String {
    let range = interval.map_or_else(String::new, |Interval { low, high }| format!("{low:.3} to {high:.3}"));
    format!("<div class=\"card\">{name}<b>{}</b><small>{range}</small></div>\n", measure(value))
}

fn measure(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

fn confusion(evaluation: &Evaluation) -> String {
    let counts = &evaluation.confusion;
    let bound = |rate: Option<Rate>| {
        rate.map_or_else(String::new, |Rate { rate, upper_bound, .. }| {
            format!("{} (at most {})", percent(rate), percent(upper_bound))
        })
    };
    format!(
        "<h2>Verdicts at the threshold {:.4}</h2>\n<table>\n\
         <tr><th></th><th class=\"number\">called normal</th><th class=\"number\">called anomaly</th><th>wrong</th></tr>\n\
         <tr><th>normal</th><td class=\"number right\">{}</td><td class=\"number wrong\">{}</td><td>{}</td></tr>\n\
         <tr><th>anomaly</th><td class=\"number wrong\">{}</td><td class=\"number right\">{}</td><td>{}</td></tr>\n\
         </table>\n",
        evaluation.threshold,
        counts.true_negatives,
        counts.false_positives,
        bound(evaluation.false_rejects),
        counts.false_negatives,
        counts.true_positives,
        bound(evaluation.misses),
    )
}

fn curves(evaluation: &Evaluation) -> io::Result<String> {
    let figure = |svg: &str, caption: &str| format!("<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>\n");
    let mut figures = figure(
        &plots::histogram(evaluation)?,
        "Scores of <b class=\"normal\">normal</b> and <b class=\"anomaly\">anomalous</b> pictures; the grey line is the \
         threshold.",
    );
    if let Some(reliability) = &evaluation.reliability {
        let caption = format!(
            "Reliability: on the grey line a score is the share of anomalies. Brier score {:.4}, expected calibration \
             error {:.4}.",
            reliability.brier, reliability.ece
        );
        figures += &figure(&plots::reliability(reliability)?, &caption);
    }
    if let Some(svg) = plots::roc(evaluation)? {
        figures += &figure(&svg, "ROC curve; the dot is the threshold.");
    }
    if let Some(svg) = plots::precision_recall(evaluation)? {
        figures += &figure(&svg, "Precision over recall; the dot is the threshold.");
    }
    Ok(format!("<h2>Curves</h2>\n<div class=\"plots\">\n{figures}</div>\n"))
}

fn thresholds(report: &Report<'_>) -> String {
    let chosen: Vec<f64> = report.choice.map(|choice| choice.threshold).into_iter().collect();
    let rows = report.evaluation.what_if(&chosen, report.costs, WHAT_IF_ROWS);
    let cost_head = report.costs.map_or("", |_| "<th class=\"number\">cost a part</th>");
    let rows: String = rows.iter().map(|row| what_if(row, report)).collect();
    let said: String = report
        .choice
        .iter()
        .flat_map(|choice| choice.sentences())
        .map(|sentence| format!("<p>{}</p>\n", escape(&sentence)))
        .collect();
    format!(
        "<h2>What other thresholds would do</h2>\n{said}<table>\n<tr><th class=\"number\">threshold</th>\
         <th class=\"number\">normals rejected</th><th class=\"number\">at most</th>\
         <th class=\"number\">anomalies missed</th><th class=\"number\">at most</th>{cost_head}<th></th></tr>\n{rows}\
         </table>\n"
    )
}

fn what_if(row: &WhatIf, report: &Report<'_>) -> String {
    let rate = |rate: Option<Rate>| match rate {
        Some(Rate { count, of, rate, upper_bound }) => format!(
            "<td class=\"number\">{count} of {of} ({})</td><td class=\"number\">{}</td>",
            percent(rate),
            percent(upper_bound)
        ),
        None => "<td class=\"number\">–</td><td class=\"number\">–</td>".to_owned(),
    };
    let cost = match (report.costs, row.cost_per_part) {
        (None, _) => String::new(),
        (Some(_), cost) => {
            format!("<td class=\"number\">{}</td>", cost.map_or_else(|| "–".to_owned(), |cost| format!("{cost:.4}")))
        }
    };
    let is_chosen = report.choice.is_some_and(|choice| choice.threshold == row.threshold);
    let note = match (row.is_current, is_chosen) {
        (true, _) => "the model's own",
        (false, true) => "as asked for",
        (false, false) => "",
    };
    format!(
        "<tr{}><td class=\"number\">{:.4}</td>{}{}{cost}<td class=\"note\">{note}</td></tr>\n",
        if row.is_current { " class=\"own\"" } else { "" },
        row.threshold,
        rate(row.rejected),
        rate(row.missed),
    )
}

fn labels(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    if let Some(pixel) = &evaluation.pixel {
        text += &format!(
            "<p>Over all pixels: ROC AUC {}, area under the per-region overlap curve (AUPRO, up to 30 % false positives) \
             {}.</p>\n",
            measure(pixel.roc_auc),
            measure(pixel.aupro)
        );
    }
    if let Some(types) = &evaluation.type_accuracy {
        text += &format!(
            "<p>Of {} anomalies that were found, {} have the right label as their largest ({}).</p>\n",
            types.found,
            types.right,
            measure(types.accuracy)
        );
    }
    if !evaluation.labels.is_empty() {
        let rows: String = evaluation.labels.iter().map(label).collect();
        text += &format!(
            "<table>\n<tr><th>label</th><th class=\"number\">pictures</th><th class=\"number\">precision</th>\
             <th class=\"number\">recall</th><th class=\"number\">F1</th><th class=\"number\">average IoU</th></tr>\n\
             {rows}</table>\n"
        );
    }
    if text.is_empty() { text } else { format!("<h2>Where the anomalies are</h2>\n{text}") }
}

fn label(label: &LabelMetrics) -> String {
    let LabelMetrics { name, images, precision, recall, f1, iou } = label;
    format!(
        "<tr><td>{}</td><td class=\"number\">{images}</td><td class=\"number\">{precision:.3}</td>\
         <td class=\"number\">{recall:.3}</td><td class=\"number\">{f1:.3}</td><td class=\"number\">{}</td></tr>\n",
        escape(name),
        measure(*iou)
    )
}

fn shown(exhibits: &[Exhibit]) -> String {
    let sections = [
        (ExhibitKind::Miss, "Misses: anomalies called normal, worst first"),
        (ExhibitKind::FalseReject, "False rejects: normals called anomalous, worst first"),
        (ExhibitKind::CloseCall, "No mistakes; these were the closest calls"),
    ];
    let section = |(kind, title): (ExhibitKind, &str)| {
        let cards: String = exhibits.iter().filter(|exhibit| exhibit.kind == kind).map(exhibit).collect();
        if cards.is_empty() { cards } else { format!("<h2>{title}</h2>\n<div class=\"exhibits\">\n{cards}</div>\n") }
    };
    sections.into_iter().map(section).collect()
}

fn exhibit(exhibit: &Exhibit) -> String {
    let name = escape(&exhibit.source_ref);
    let picture = |picture: &super::ExhibitPicture| {
        format!(
            "<figure><img src=\"data:image/jpeg;base64,{}\" alt=\"{name}: {caption}\"><figcaption>{caption}</figcaption>\
             </figure>",
            STANDARD.encode(&picture.jpeg),
            caption = picture.caption
        )
    };
    let pictures: String = exhibit.pictures.iter().map(picture).collect();
    let class = exhibit.truth.as_str();
    format!(
        "<div class=\"exhibit\"><b>{name}</b><br><span class=\"{class}\">{class}</span>, score {:.4}\n\
         <div>{pictures}</div></div>\n",
        exhibit.score
    )
}

fn how(report: &Report<'_>) -> String {
    let evaluation = report.evaluation;
    let time = &evaluation.time_ms;
    let intervals = evaluation.intervals.as_ref().map_or_else(String::new, |intervals| {
        format!(
            "Ranges hold {:.0} % of {} draws (seed {}), {}. ",
            intervals.confidence * 100.0,
            intervals.resamples,
            intervals.seed,
            intervals.method
        )
    });
    let took = if report.with_times {
        let (mean, p50, p99) = (time.mean, time.p50, time.p99);
        format!(
            " Detection took {mean:.1} ms on average, {p50:.1} ms in the middle, {p99:.1} ms for 99 of 100 pictures."
        )
    } else {
        String::new()
    };
    format!(
        "<h2>How it was measured</h2>\n<p class=\"how\">{intervals}“At most” is a bound with 95 % confidence (Clopper and \
         Pearson, one-sided): it is about pictures of other parts than these, taken in the same way. Precision, and the \
         share of anomalies at a score, depend on how many anomalies the data set has.{took}</p>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let hostile = "<script>alert('x')</script> & \"quoted\"\u{0}";
        let expected = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;quoted&quot;\u{FFFD}";
        assert_eq!(escape(hostile), expected);
    }
}
