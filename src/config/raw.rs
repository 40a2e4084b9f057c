//! Configuration as written: TOML values with their places, read key by key.
//!
//! Every getter of a [`Section`] notes a problem instead of stopping, so that one reading finds them all; a key that no
//! getter asked for is unknown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, with the key and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
    }
}

/// The text of a file and what was found wrong in it so far.
pub(crate) struct Source {
    path: PathBuf,
    text: String,
    problems: RefCell<Vec<Problem>>,
}

/// A value that was written, and where.
#[derive(Debug, Clone)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) at: Range<usize>,
}

/// A table of the file, and the keys that were asked for.
pub(crate) struct Section<'a> {
    source: &'a Source,
    table: &'a DeTable<'a>,
    at: Range<usize>,
    scope: RefCell<String>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl Source {
    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text, problems: RefCell::default() }
    }

    /// Parses the file; syntax errors become problems and the rest is still read.
    pub(crate) fn parse(&self) -> Spanned<DeTable<'_>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors {
            self.problem(error.span().unwrap_or(0..0), format!("TOML syntax: {}", error.message()));
        }
        table
    }

    pub(crate) fn problem(&self, at: Range<usize>, message: String) {
        let before = self.text.get(..at.start).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        self.problems.borrow_mut().push(Problem { file: self.path.clone(), line, column, message });
    }

    /// What was found, in the file's order.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.dedup();
        problems
    }
}

impl<'a> Section<'a> {
    pub(crate) fn root(source: &'a Source, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self::new(source, table.get_ref(), 0..0, String::new())
    }

    fn new(source: &'a Source, table: &'a DeTable<'a>, at: Range<usize>, scope: String) -> Self {
        Self { source, table, at, scope: RefCell::new(scope), known: RefCell::default() }
    }

    /// Where the section starts.
    pub(crate) fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// What messages of this section begin with, such as ``line `cap`, camera `top` ``.
    pub(crate) fn scope(&self) -> String {
        self.scope.borrow().clone()
    }

    pub(crate) fn set_scope(&self, scope: String) {
        *self.scope.borrow_mut() = scope;
    }

    /// Notes that something is wrong at a place of this section.
    pub(crate) fn problem(&self, at: Range<usize>, message: impl fmt::Display) {
        let scope = self.scope.borrow();
        let message = if scope.is_empty() { message.to_string() } else { format!("{scope}: {message}") };
        self.source.problem(at, message);
    }

    /// Notes that a key which must be there is not.
    pub(crate) fn missing(&self, key: &str, allowed: &str) {
        self.problem(self.at(), format!("`{key}` is missing: it must be {allowed}"));
    }

    fn refuse(&self, key: &str, allowed: &str, value: &Spanned<DeValue<'_>>) {
        self.problem(value.span(), format!("`{key}` must be {allowed}, got {}", shown(value.get_ref())));
    }

    /// The value of a key, which is known from now on.
    pub(crate) fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().insert(key);
        self.table.get(key)
    }

    /// A value that `read` understands; `allowed` completes the sentence "`key` must be ...".
    pub(crate) fn read<T>(
        &self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Option<Placed<T>> {
        let value = self.value(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.refuse(key, allowed, value);
        }
        Some(Placed { value: read?, at: value.span() })
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<Placed<String>> {
        self.read(key, "a text that is not empty", |value| {
            value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        })
    }

    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.read(key, "true or false", DeValue::as_bool).map(|read| read.value)
    }

    pub(crate) fn integer(&self, key: &'static str, least: i64, most: i64) -> Option<i64> {
        let allowed = format!("a whole number from {least} to {most}");
        let read = self.read(key, &allowed, |value| as_integer(value).filter(|number| (least..=most).contains(number)));
        read.map(|read| read.value)
    }

    pub(crate) fn number(&self, key: &'static str, least: f64, most: f64) -> Option<f64> {
        let allowed = format!("a number from {least} to {most}");
        let read = self.read(key, &allowed, |value| as_number(value).filter(|number| (least..=most).contains(number)));
        read.map(|read| read.value)
    }

    pub(crate) fn duration(&self, key: &'static str, least: Duration, most: Duration) -> Option<Duration> {
        let allowed = format!("a duration from {least:?} to {most:?} such as \"200ms\" or \"5s\"");
        let in_range = |duration: &Duration| (least..=most).contains(duration);
        self.read(key, &allowed, |value| parse_duration(value.as_str()?).filter(in_range)).map(|read| read.value)
    }

    pub(crate) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let find =
            |value: &DeValue<'a>| choices.iter().find(|(name, _)| value.as_str() == Some(name)).map(|found| found.1);
        self.read(key, &format!("one of {}", names.join(", ")), find).map(|read| read.value)
    }

    /// A table below this one.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.refuse(key, &format!("a table, `[{key}]`"), value);
            return None;
        };
        let scope = self.scope();
        let scope = if scope.is_empty() { format!("[{key}]") } else { format!("{scope}, [{key}]") };
        Some(Self::new(self.source, table, value.span(), scope))
    }

    /// The tables `[[key]]` below this one; each one's scope is its number until it has a name.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let allowed = format!("one or more tables `[[{key}]]`");
        let Some(array) = value.get_ref().as_array() else {
            self.refuse(key, &allowed, value);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, entry) in array.iter().enumerate() {
            let Some(table) = entry.get_ref().as_table() else {
                self.refuse(key, &allowed, entry);
                continue;
            };
            let scope = self.scope();
            let comma = if scope.is_empty() { "" } else { ", " };
            sections.push(Self::new(self.source, table, entry.span(), format!("{scope}{comma}{key} {}", index + 1)));
        }
        sections
    }

    /// All keys with their values, for tables whose keys are names of the user's.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, Range<usize>, &'a Spanned<DeValue<'a>>)> {
        self.table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
    }

    /// The sections of a table whose keys are names, such as `[variables.NAME]`.
    pub(crate) fn named_sections(&self) -> Vec<(&'a str, Section<'a>)> {
        let mut sections = Vec::new();
        for (name, _, value) in self.entries() {
            match value.get_ref().as_table() {
                Some(table) => {
                    let scope = format!("{} `{name}`", self.scope());
                    sections.push((name, Self::new(self.source, table, value.span(), scope)));
                }
                None => self.refuse(name, "a table", value),
            }
        }
        sections
    }

    /// Notes every key that nobody asked for.
    pub(crate) fn finish(&self) {
        let known = self.known.borrow();
        let known: Vec<&str> = known.iter().copied().collect();
        for (key, at, _) in self.entries() {
            if !known.contains(&key) {
                self.problem(at, unknown("key", key, &known));
            }
        }
    }
}

/// ``unknown key `pipline`, did you mean `pipeline`? allowed are ...``
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let allowed = known.join(", ");
    let near = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min();
    match near {
        Some((_, candidate)) => format!("unknown {what} `{name}`, did you mean `{candidate}`? allowed are {allowed}"),
        None => format!("unknown {what} `{name}`: allowed are {allowed}"),
    }
}

/// Reads `200ms`, `5s`, `1.5s`, `2min` or `1h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (amount, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let amount: f64 = amount.trim().parse().ok()?;
    Duration::try_from_secs_f64(amount * seconds).ok()
}

pub(crate) fn as_integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

pub(crate) fn as_number(value: &DeValue<'_>) -> Option<f64> {
    match value.as_float() {
        Some(float) => float.as_str().parse().ok(),
        // Whole numbers that a configuration needs are exact in a double.
        None => as_integer(value).map(|number| number as f64),
    }
}

/// A value as a message shows it: short, and never a whole table.
pub(crate) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(answer) => answer.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        let table = [
            ("200ms", Some(Duration::from_millis(200))),
            ("5s", Some(Duration::from_secs(5))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("2min", Some(Duration::from_secs(120))),
            ("1h", Some(Duration::from_secs(3600))),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("5 parsecs", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn a_near_miss_gets_a_suggestion_and_a_far_one_the_list() {
        let known = ["camera", "model", "pipeline"];
        assert!(unknown("key", "pipline", &known).contains("did you mean `pipeline`?"));
        assert_eq!(unknown("key", "zzz", &known), "unknown key `zzz`: allowed are camera, model, pipeline");
    }
}
