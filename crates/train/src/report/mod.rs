//! An evaluation as one HTML page that somebody can look at, print, and keep beside the model.
//!
//! An [`Evaluation`] and what is known of its model come in, and [`Exhibit`]s, the pictures worth looking at; a file goes
//! out that loads nothing: its curves are SVG and its pictures data URIs, both within the page. Whatever comes from a
//! data set or a package is escaped.

mod exhibits;
mod page;
mod plots;

use std::io;
use std::path::Path;

use jiff::Timestamp;
use linewarden_model::ModelInfo;

use crate::evaluation::Evaluation;
use crate::threshold::{Choice, Costs};

pub use exhibits::{Exhibit, ExhibitKind, ExhibitPicture, exhibits};

/// What a page shows.
#[derive(Debug)]
pub struct Report<'a> {
    /// The model.
    pub model: &'a ModelInfo,
    /// What it was evaluated on.
    pub dataset: &'a str,
    /// How good it is.
    pub evaluation: &'a Evaluation,
    /// What mistakes cost, where the user said so.
    pub costs: Option<&'a Costs>,
    /// A threshold that was chosen from these pictures, where the user asked for one.
    pub choice: Option<&'a Choice>,
    /// Pictures worth looking at.
    pub exhibits: &'a [Exhibit],
    /// Whether to say how long detection took, which is another time whenever it is measured.
    pub with_times: bool,
    /// When the evaluation ended.
    pub ended_at: Timestamp,
}

/// Writes the page.
///
/// # Errors
/// When the file cannot be written.
pub fn write_report(path: &Path, report: &Report<'_>) -> io::Result<()> {
    std::fs::write(path, page::html(report)?)
}
