//! What is wrong with a data set: every problem at once, each with its place.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// How many problems a message lists; the rest stays in [`DatasetError::problems`].
const LISTED: usize = 1000;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file or folder.
    pub place: PathBuf,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// Key within the line.
    pub key: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
    /// The line of a manifest that names the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_in: Option<Place>,
}

/// A line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The manifest.
    pub file: PathBuf,
    /// Line in it, from 1.
    pub line: usize,
}

impl Problem {
    pub(crate) fn new(place: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self { place: place.as_ref().to_owned(), line: None, key: None, message: message.into(), named_in: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.as_os_str().is_empty() {
            write!(out, "{}", self.place.display())?;
            if let Some(line) = self.line {
                write!(out, ":{line}")?;
            }
            write!(out, ": ")?;
        }
        if let Some(key) = &self.key {
            write!(out, "`{key}`: ")?;
        }
        write!(out, "{}", self.message)?;
        match &self.named_in {
            Some(Place { file, line }) => write!(out, " (named in {}:{line})", file.display()),
            None => Ok(()),
        }
    }
}

/// A data set that cannot be used, with every reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetError {
    /// All of them, in the order of the data set. Never empty.
    pub problems: Vec<Problem>,
}

impl DatasetError {
    /// An error only if there are problems.
    pub(crate) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

impl From<Problem> for DatasetError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for DatasetError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = self.problems.as_slice() {
            return write!(out, "cannot use the data set: {problem}");
        }
        write!(out, "cannot use the data set, {} problems:", self.problems.len())?;
        for problem in self.problems.iter().take(LISTED) {
            write!(out, "\n  {problem}")?;
        }
        match self.problems.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(out, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for DatasetError {}

/// Text from a file for a message: one line of printable characters, cut when it is long.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN: usize = 120;
    let mut shown: String = text.chars().take(SHOWN).flat_map(printable).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// A terminal obeys control characters, so they are shown by their names.
fn printable(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_debug());
    let plain = (!character.is_control()).then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

/// Names for a message: all of a few, the first of many.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_files_stay_short_and_harmless() {
        assert_eq!(shown("a b"), "a b");
        assert_eq!(shown("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(shown(&"x".repeat(1 << 20)).chars().count(), 121);
    }
}
