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
}

impl Problem {
    pub(crate) fn new(place: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self { place: place.as_ref().to_owned(), line: None, key: None, message: message.into() }
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
        write!(out, "{}", self.message)
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

/// Names for a message: all of a few, the first of many.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
