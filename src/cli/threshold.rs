//! `linewarden threshold`, and the options that choose a threshold wherever one is chosen.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_model::package::Package;
use linewarden_train::dataset::Dataset;
use linewarden_train::evaluation::Evaluation;
use linewarden_train::job::evaluate_package;
use linewarden_train::threshold::{
    Choice, Costs, Rate, WhatIf, Wish, check_enough, choose, percent, restore_threshold, rewrite_threshold,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::progress::Shown;
use super::{CallError, PlacesArgs, load_dataset_from, model_must_exist};

const EXAMPLES: &str = "\
Examples:
  linewarden threshold --model models/cap
      says which threshold the model has, and where it is from
  linewarden threshold --model models/cap --dataset good-parts/ --target-false-reject 0.5% --write
      good-parts/normal/*.jpg are good parts that the model was not trained on, each a part of its own
  linewarden threshold --model models/cap --dataset test/ --cost-miss 200 --cost-reject 4 --defect-rate 1%
  linewarden threshold --model models/cap --set 0.62 --write
  linewarden threshold --model models/cap --undo";

/// Most good parts that may be rejected by request: a larger share is a slip of the decimal point.
const MOST_FALSE_REJECTS: f64 = 0.2;
/// How often a part is anomalous when nobody says.
const USUAL_DEFECT_RATE: f64 = 0.01;

/// A requirement does not hold for an option that something else excludes, so that each is named.
const COST_OPTIONS: [&str; 3] = ["cost_miss", "cost_reject", "defect_rate"];
const WISHES: [&str; 4] = ["target_false_reject", "cost_miss", "cost_reject", "defect_rate"];

/// How a threshold is chosen.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct ThresholdArgs {
    /// Reject at most this share of good parts, as `0.5%` or `0.005`; normal pictures suffice
    #[arg(long, value_name = "SHARE", value_parser = target, conflicts_with_all = COST_OPTIONS)]
    target_false_reject: Option<f64>,
    /// What a missed anomaly costs, in any unit; with `--cost-reject` the cheapest threshold is taken, which needs
    /// labelled anomalies
    #[arg(long, value_name = "COST", value_parser = cost, requires = "cost_reject")]
    cost_miss: Option<f64>,
    /// What a rejected good part costs, in the same unit
    #[arg(long, value_name = "COST", value_parser = cost, requires = "cost_miss")]
    cost_reject: Option<f64>,
    /// Share of anomalous parts on the line, as `1%` or `0.01`, which is assumed unless given
    #[arg(long, value_name = "SHARE", value_parser = defect_rate, requires = "cost_miss")]
    defect_rate: Option<f64>,
}

impl ThresholdArgs {
    /// What the threshold shall do, if the call says so.
    pub(super) fn wish(&self) -> Option<Wish> {
        self.costs().map(Wish::Costs).or_else(|| self.target_false_reject.map(Wish::FalseRejects))
    }

    /// What mistakes cost, if the call says so.
    pub(super) fn costs(&self) -> Option<Costs> {
        let (miss, reject) = (self.cost_miss?, self.cost_reject?);
        Some(Costs { miss, reject, defect_rate: self.defect_rate.unwrap_or(USUAL_DEFECT_RATE) })
    }

    /// The wish, if a data set and the normal pictures that are known beside it suffice for it: asked before they are
    /// scored.
    pub(super) fn wish_for(&self, dataset: &Dataset, known_normals: usize) -> Result<Option<Wish>, CallError> {
        let Some(wish) = self.wish() else { return Ok(None) };
        let option = if self.costs().is_some() { "--cost-miss" } else { "--target-false-reject" };
        check_enough(wish, known_normals + dataset.normals().count(), dataset.anomalies().count())
            .map_err(|error| CallError(format!("`{option}` cannot be used with `{}`: {error}", dataset.name)))?;
        Ok(Some(wish))
    }
}

/// Another threshold for a model that is there already.
///
/// Nothing is changed without `--write`. The pictures must not be those that the model was trained on: it knows them too
/// well.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ThresholdCommand {
    /// Model package, a folder
    #[arg(long, value_name = "MODEL_DIR")]
    model: PathBuf,
    /// Labelled pictures that the model was not trained on, as a folder or a manifest
    #[arg(long, value_name = "DIR|FILE.manifest")]
    dataset: Option<PathBuf>,
    #[command(flatten)]
    places: PlacesArgs,
    #[command(flatten)]
    wish: ThresholdArgs,
    /// This threshold, above 0 and below 1
    #[arg(long, value_name = "SCORE", value_parser = threshold, conflicts_with_all = WISHES)]
    set: Option<f64>,
    /// Change the package; the threshold before is kept for `--undo`
    #[arg(long)]
    write: bool,
    /// Go back to the threshold before the last change
    #[arg(long, conflicts_with_all = ["dataset", "set", "write", "scale"], conflicts_with_all = WISHES)]
    undo: bool,
    /// Scale pictures of another size than the model was trained on, instead of refusing them
    #[arg(long)]
    scale: bool,
    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

/// What became of the threshold.
struct Outcome {
    threshold: f64,
    previous: f64,
    written: bool,
    choice: Option<Choice>,
    rows: Vec<WhatIf>,
}

pub(super) fn run(args: &ThresholdCommand) -> anyhow::Result<()> {
    model_must_exist(&args.model)?;
    let package = Package::read(&args.model)?;
    let previous = package.info().threshold;
    let outcome = if args.undo {
        let threshold = restore_threshold(&args.model)?;
        Outcome { threshold, previous, written: true, choice: None, rows: Vec::new() }
    } else {
        change(args, &package)?
    };
    let text = if args.json { document(args, &outcome)? } else { told(args, &package, &outcome) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn change(args: &ThresholdCommand, package: &Package) -> anyhow::Result<Outcome> {
    let previous = package.info().threshold;
    if args.write && args.set.is_none() && args.wish.wish().is_none() {
        let allowed = "`--set`, `--target-false-reject`, or `--cost-miss` and `--cost-reject`";
        return Err(CallError(format!("`--write` needs to know which threshold: give {allowed}")).into());
    }
    if args.wish.wish().is_some() && args.dataset.is_none() {
        return Err(CallError("choosing a threshold needs pictures: give them with `--dataset`".to_owned()).into());
    }
    let scored = args.dataset.as_deref().map(|path| scored(args, package, path)).transpose()?;
    let choice = scored.as_ref().and_then(|(choice, _)| choice.clone());
    let threshold = choice.as_ref().map(|choice| choice.threshold).or(args.set).unwrap_or(previous);
    let what_if = |(_, evaluation): &(_, Evaluation)| evaluation.what_if(&[threshold], args.wish.costs().as_ref(), 0);
    let rows = scored.as_ref().map_or_else(Vec::new, what_if);
    if args.write {
        let origin = json!({
            "choice": choice,
            "dataset": scored.as_ref().and(args.dataset.as_ref()),
            "replaced": previous,
            "time": format!("{:.6}", Timestamp::now()),
        });
        rewrite_threshold(&args.model, package.info(), threshold, origin)?;
    }
    Ok(Outcome { threshold, previous, written: args.write, choice, rows })
}

/// What the model says of the pictures, and the threshold that they lead to, if one is to be chosen.
fn scored(args: &ThresholdCommand, package: &Package, path: &Path) -> anyhow::Result<(Option<Choice>, Evaluation)> {
    let dataset = load_dataset_from(path, &args.places)?;
    let wish = args.wish.wish_for(&dataset, 0)?;
    must_be_others(package, &dataset, path)?;
    let shown = Shown::new();
    let evaluation = evaluate_package(package, &dataset, args.scale, &shown)?;
    drop(shown);
    let (scores, truths) = evaluation.scores();
    let choice = wish.map(|wish| choose(wish, &scores, &truths)).transpose()?;
    Ok((choice, evaluation))
}

/// A model scores the pictures that it was trained on too low for any threshold.
fn must_be_others(package: &Package, dataset: &Dataset, path: &Path) -> anyhow::Result<()> {
    if dataset.sha256()? == package.info().dataset.sha256 {
        let path = path.display();
        let message = format!(
            "`{path}` holds the pictures that the model was trained on, whose scores say nothing of others: give other \
             pictures, or train with `--target-false-reject`, which scores each of them as if it had not been seen"
        );
        return Err(CallError(message).into());
    }
    Ok(())
}

fn document(args: &ThresholdCommand, outcome: &Outcome) -> anyhow::Result<String> {
    let document = json!({
        "model": args.model,
        "threshold": outcome.threshold,
        "previous_threshold": outcome.previous,
        "written": outcome.written,
        "choice": outcome.choice,
        "what_if": outcome.rows,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn told(args: &ThresholdCommand, package: &Package, outcome: &Outcome) -> String {
    let Outcome { threshold, previous, written, choice, rows } = outcome;
    let model = args.model.display();
    if args.undo {
        return format!("{model} has the threshold {threshold:.4} again, instead of {previous:.4}.\n");
    }
    let mut text = String::new();
    if threshold == previous && !written {
        text += &format!("{model} has the threshold {threshold:.4}.\n");
        if let Some(origin) = package.info().metrics.get("threshold") {
            text += &told_origin(origin);
        }
    }
    text += &sentences(choice.as_ref());
    if !rows.is_empty() {
        text += &format!("\n{}", table(rows, args.wish.costs().is_some()));
    }
    if *written {
        text += &format!(
            "\n{model} has the threshold {threshold:.4} from now on; a line takes it when it starts.\n\
             Back to {previous:.4}: linewarden threshold --model {model} --undo\n"
        );
    } else if threshold != previous {
        text += &format!("\nNothing was changed: {model} still has {previous:.4}; `--write` changes it.\n");
    }
    text
}

/// Where a threshold is from, as the package says.
fn told_origin(origin: &Value) -> String {
    let choice = origin.get("choice").and_then(|choice| Choice::deserialize(choice).ok());
    let text_of = |key: &str| origin.get(key).and_then(Value::as_str);
    let pictures = text_of("dataset").map_or_else(String::new, |dataset| format!(" from `{dataset}`"));
    let time = text_of("time").map_or_else(String::new, |time| format!(" on {time}"));
    let replaced = origin.get("replaced").and_then(Value::as_f64);
    let replaced = replaced.map_or_else(String::new, |replaced| format!(", instead of {replaced:.4}"));
    format!("It was set{time}{pictures}{replaced}.\n{}", sentences(choice.as_ref()))
}

/// What somebody who signs a threshold must know, a sentence a line.
pub(super) fn sentences(choice: Option<&Choice>) -> String {
    choice.iter().flat_map(|choice| choice.sentences()).map(|sentence| sentence + "\n").collect()
}

/// What thresholds would do, a row each.
pub(super) fn table(rows: &[WhatIf], with_costs: bool) -> String {
    let rate = |rate: Option<Rate>| match rate {
        Some(Rate { count, of, upper_bound, .. }) => (format!("{count} of {of}"), percent(upper_bound)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let cost_head = if with_costs { "  cost a part" } else { "" };
    let mut text = format!("threshold  normals rejected  at most  anomalies missed  at most{cost_head}\n");
    for row in rows {
        let ((rejected, rejected_bound), (missed, missed_bound)) = (rate(row.rejected), rate(row.missed));
        let cost = row.cost_per_part.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.4}"));
        let cost = if with_costs { format!("  {cost:>11}") } else { String::new() };
        let own = if row.is_current { "  the model's own" } else { "" };
        text += &format!(
            "{:<9.4}  {rejected:>16}  {rejected_bound:>7}  {missed:>16}  {missed_bound:>7}{cost}{own}\n",
            row.threshold
        );
    }
    text + "At most: with 95 % confidence, on other pictures of the same kind.\n"
}

/// A share as a percentage or a number.
fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let value: f64 = number.parse().map_err(|_| "write it as `0.5%` or `0.005`".to_owned())?;
    Ok(value / whole)
}

fn target(text: &str) -> Result<f64, String> {
    let share = share(text)?;
    let range = 1e-6..=MOST_FALSE_REJECTS;
    let wrong = || format!("it must be from 0.0001% to 20%, as `0.5%` or `0.005`; this is {}", percent(share));
    if range.contains(&share) { Ok(share) } else { Err(wrong()) }
}

fn defect_rate(text: &str) -> Result<f64, String> {
    let share = share(text)?;
    if share > 0.0 && share < 1.0 { Ok(share) } else { Err("it must be above 0% and below 100%".to_owned()) }
}

fn cost(text: &str) -> Result<f64, String> {
    let cost: f64 = text.parse().map_err(|_| "it must be a number".to_owned())?;
    if cost > 0.0 && cost.is_finite() { Ok(cost) } else { Err("it must be above 0".to_owned()) }
}

fn threshold(text: &str) -> Result<f64, String> {
    let threshold: f64 = text.parse().map_err(|_| "it must be a number".to_owned())?;
    if threshold > 0.0 && threshold < 1.0 { Ok(threshold) } else { Err("it must be above 0 and below 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_or_numbers() {
        for (text, expected) in [("0.5%", 0.005), ("0.005", 0.005), ("2 %", 0.02), ("20%", 0.2)] {
            assert!((target(text).unwrap() - expected).abs() < 1e-12, "{text}");
        }
        let told = target("0.5").unwrap_err();
        assert!(told.contains("this is 50 %"), "{told}");
        for text in ["0", "-1%", "30%", "NaN", "x", "%", ""] {
            assert!(target(text).is_err(), "{text}");
        }
        assert!(defect_rate("100%").is_err() && defect_rate("0").is_err() && defect_rate("50%").is_ok());
        assert!(cost("0").is_err() && cost("inf").is_err() && cost("12.5").is_ok());
        assert!(threshold("0").is_err() && threshold("1").is_err() && threshold("0.62").is_ok());
    }
}
