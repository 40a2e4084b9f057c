//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::machine::Machine;

/// Chapters of figures, in the order in which they were measured.
pub(crate) struct Report {
    machine: Machine,
    lines: Vec<Line>,
}

enum Line {
    Chapter(String),
    Note(String),
    Figure(Figure),
}

struct Figure {
    key: String,
    title: String,
    value: f64,
    unit: &'static str,
    at_most: Option<f64>,
}

impl Figure {
    fn is_met(&self) -> Option<bool> {
        self.at_most.map(|most| self.value <= most)
    }
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, lines: Vec::new() }
    }

    pub(crate) fn chapter(&mut self, title: &str) {
        self.lines.push(Line::Chapter(title.to_owned()));
    }

    pub(crate) fn note(&mut self, text: &str) {
        self.lines.push(Line::Note(text.to_owned()));
    }

    pub(crate) fn figure(&mut self, key: &str, title: &str, value: f64, unit: &'static str) {
        self.add(key, title, value, unit, None);
    }

    /// A figure that the project promises to keep at or below `at_most`.
    pub(crate) fn required(&mut self, key: &str, title: &str, value: f64, unit: &'static str, at_most: f64) {
        self.add(key, title, value, unit, Some(at_most));
    }

    fn add(&mut self, key: &str, title: &str, value: f64, unit: &'static str, at_most: Option<f64>) {
        let figure = Figure { key: key.to_owned(), title: title.to_owned(), value, unit, at_most };
        self.lines.push(Line::Figure(figure));
    }

    pub(crate) fn to_text(&self) -> String {
        let Machine { cpu, cores, load } = &self.machine;
        let mut text = format!(
            "\nLinewarden {} on {cpu}, {cores} cores, load before the start {load}\n{}\n",
            env!("CARGO_PKG_VERSION"),
            versions()
        );
        for line in &self.lines {
            // Writing to a string cannot fail.
            let _ = match line {
                Line::Chapter(title) => writeln!(text, "\n{title:<64} {:>10}    required", "measured"),
                Line::Note(note) => writeln!(text, "  ({note})"),
                Line::Figure(figure) => {
                    let Figure { title, value, unit, .. } = figure;
                    writeln!(text, "  {title:<62} {value:>10.3} {unit:<3}{}", requirement(figure))
                }
            };
        }
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        let figures = self.lines.iter().filter_map(|line| match line {
            Line::Figure(figure) => Some(figure),
            Line::Chapter(_) | Line::Note(_) => None,
        });
        let figures = figures.map(|figure| {
            let Figure { title, value, unit, at_most, .. } = figure;
            let entry =
                json!({"title": title, "value": value, "unit": unit, "at_most": at_most, "met": figure.is_met()});
            (figure.key.clone(), entry)
        });
        let Machine { cpu, cores, load } = &self.machine;
        json!({
            "machine": {"cpu": cpu, "cores": cores, "load": load},
            "versions": {"linewarden": env!("CARGO_PKG_VERSION"), "libraries": versions()},
            "figures": figures.collect::<serde_json::Map<String, Value>>(),
        })
    }
}

fn versions() -> String {
    // The library tells where it was built from: `ORT Build Info: git-branch=rel-1.24.4, git-commit-id=058787c, ...`.
    let build = ort::info();
    let tells = |key: &str| build.split_once(key).and_then(|(_, rest)| rest.split(',').next());
    let release = tells("git-branch=").and_then(|branch| branch.strip_prefix("rel-"));
    // A build from no release branch is known by its commit.
    let version = release.or_else(|| tells("git-commit-id=")).unwrap_or(build);
    format!("{}, ONNX Runtime {version}", gst::version_string())
}

fn requirement(figure: &Figure) -> String {
    match (figure.at_most, figure.is_met()) {
        (Some(most), Some(true)) => format!(" at most {most}"),
        (Some(most), _) => format!(" at most {most}: MISSED"),
        (None, _) => String::new(),
    }
}
