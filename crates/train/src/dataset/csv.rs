//! From a CSV file (picture, `normal` or `anomaly`; no header) to a classification manifest, as the guide's script does.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::error::shown;
use super::write::{Line, folder_of, reference_to, write_lines};
use super::{Class, ManifestSummary, Problem};

/// Rows for a million pictures; what a data set may have is a hundredth of that.
const MAXIMUM_BYTES: u64 = 256 << 20;

/// What was written: a manifest without masks.
pub type CsvSummary = ManifestSummary;

/// Why no manifest was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CsvError {
    /// The CSV file cannot be read, or a file cannot be written.
    #[error("{0}")]
    File(Problem),
    /// Rows that are no entries; two files say which, and what is left without them.
    #[error(
        "{} of the rows cannot be used, so no manifest was written:\n  {}\nall of them are in `{}`, the good rows in `{}`",
        problems.len(), list(problems), errors_file.display(), deduplicated_file.display()
    )]
    Rows {
        /// Each bad row.
        problems: Vec<Problem>,
        /// `<name>_errors.csv`: line, picture, classification, reason.
        errors_file: PathBuf,
        /// `<name>_deduplicated.csv`: the first good row of each picture.
        deduplicated_file: PathBuf,
    },
}

/// Converts `csv`. `s3_path` is put before every picture's name; without it, names are S3 paths, or files relative to
/// the CSV file, which the manifest will then name relative to itself. Bad rows go to `<name>_errors.csv`, the others
/// to `<name>_deduplicated.csv`, both beside the CSV file, and no manifest is written.
pub fn from_csv(csv: &Path, s3_path: Option<&str>, out: &Path, created_at: Timestamp) -> Result<CsvSummary, CsvError> {
    let place = Placement::new(csv, s3_path, out)?;
    let length = fs::metadata(csv).map_err(|error| file_error(csv, "cannot read", &error))?.len();
    if length > MAXIMUM_BYTES {
        let message = format!("is a file of {} MiB, the most allowed is {} MiB", length >> 20, MAXIMUM_BYTES >> 20);
        return Err(CsvError::File(Problem::new(csv, message)));
    }
    let content = fs::read(csv).map_err(|error| file_error(csv, "cannot read", &error))?;
    let text = std::str::from_utf8(&content).map_err(|error| {
        let line = 1 + content[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        let message = format!("is not UTF-8 ({error}); save it as \"CSV UTF-8\"");
        CsvError::File(Problem { line: Some(line), ..Problem::new(csv, message) })
    })?;
    let rows = rows(text);
    if rows.is_empty() {
        return Err(CsvError::File(Problem::new(csv, "has no rows; a row is `picture,normal` or `picture,anomaly`")));
    }
    let (entries, faults) = sort_out(&rows, s3_path.is_some());
    let errors_file = beside(csv, "_errors.csv");
    let deduplicated_file = beside(csv, "_deduplicated.csv");
    if !faults.is_empty() {
        write_faults(&errors_file, &faults)?;
        write_entries(&deduplicated_file, &entries)?;
        let problems = faults.iter().map(|fault| fault.problem(csv)).collect();
        return Err(CsvError::Rows { problems, errors_file, deduplicated_file });
    }
    // What an earlier try left behind would say that there still are errors.
    for left in [&errors_file, &deduplicated_file] {
        remove_if_there(left)?;
    }
    let lines: Vec<Line> =
        entries.iter().map(|entry| Line::classified(place.of(entry.picture), entry.class, created_at)).collect();
    write_lines(out, &lines).map_err(CsvError::File)?;
    let normals = entries.iter().filter(|entry| entry.class == Class::Normal).count();
    Ok(CsvSummary { path: out.to_owned(), images: lines.len(), normals, anomalies: lines.len() - normals, masks: 0 })
}

struct Entry<'a> {
    picture: &'a str,
    class: Class,
}

/// A row that is no entry. The names of the first two reasons are the guide's.
struct Fault<'a> {
    row: &'a Row,
    reason: Reason,
}

#[derive(Clone, Copy)]
enum Reason {
    InvalidClassification,
    Duplicate,
    MixedLocation,
    NoImage,
    OpenQuote,
    OutsideFolder,
}

/// One entry as written; in quotes it may go over several lines.
struct Row {
    /// Where it begins.
    line: usize,
    fields: Vec<String>,
    is_open: bool,
}

impl Row {
    fn picture(&self) -> &str {
        self.fields.first().map_or("", |field| field.trim())
    }

    fn classification(&self) -> &str {
        self.fields.get(1).map_or("", |field| field.trim())
    }

    /// What is probably meant by a row without a classification.
    fn hint(&self) -> &'static str {
        let picture = self.picture();
        if self.fields.len() == 1 && picture.contains([';', '\t']) {
            "; the fields must be parted by commas"
        } else if self.line == 1 && !picture.contains(['.', '/']) {
            "; there must be no header row"
        } else {
            ""
        }
    }
}

/// A path below the CSV file's folder, or a key below the S3 path, that leads above it.
fn climbs_out(picture: &str) -> bool {
    !picture.starts_with('/') && super::resolve::climbs_out(Path::new(picture.trim_start_matches("s3://")))
}

impl Reason {
    fn code(self) -> &'static str {
        match self {
            Self::InvalidClassification => "INVALID_CLASSIFICATION",
            Self::Duplicate => "DUPLICATE",
            Self::MixedLocation => "MIXED_LOCATION",
            Self::NoImage => "NO_IMAGE",
            Self::OpenQuote => "OPEN_QUOTE",
            Self::OutsideFolder => "OUTSIDE_FOLDER",
        }
    }
}

impl Fault<'_> {
    fn problem(&self, csv: &Path) -> Problem {
        let (picture, classification) = (shown(self.row.picture()), shown(self.row.classification()));
        let message = match self.reason {
            Reason::InvalidClassification => {
                let hint = self.row.hint();
                format!(
                    "`{picture}` has the classification `{classification}`; allowed are `normal` and `anomaly`{hint}"
                )
            }
            Reason::Duplicate => format!("`{picture}` has a row already"),
            Reason::MixedLocation => {
                format!(
                    "`{picture}` does not go with the other rows: either all have an S3 path or none, and with --s3-path none may"
                )
            }
            Reason::NoImage => "has no picture; a row is `picture,normal` or `picture,anomaly`".to_owned(),
            Reason::OpenQuote => format!("a double quote in `{picture}` is never closed"),
            Reason::OutsideFolder => format!("`{picture}` leads out of the folder of the CSV file"),
        };
        Problem { line: Some(self.row.line), ..Problem::new(csv, message) }
    }
}

fn sort_out(rows: &[Row], has_s3_path: bool) -> (Vec<Entry<'_>>, Vec<Fault<'_>>) {
    let is_s3 = |row: &Row| row.picture().starts_with("s3://");
    let s3_expected = !has_s3_path && rows.first().is_some_and(is_s3);
    let mut seen = BTreeSet::new();
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for row in rows {
        let class = Class::from_name(row.classification());
        let reason = match class {
            _ if row.is_open => Reason::OpenQuote,
            _ if row.picture().is_empty() => Reason::NoImage,
            None => Reason::InvalidClassification,
            Some(_) if is_s3(row) != s3_expected => Reason::MixedLocation,
            Some(_) if climbs_out(row.picture()) => Reason::OutsideFolder,
            Some(class) => {
                if seen.insert(row.picture()) {
                    entries.push(Entry { picture: row.picture(), class });
                    continue;
                }
                Reason::Duplicate
            }
        };
        faults.push(Fault { row, reason });
    }
    (entries, faults)
}

/// Where a row's picture is, for the manifest.
struct Placement<'a> {
    s3_path: Option<&'a str>,
    csv_folder: PathBuf,
    out_folder: PathBuf,
}

impl<'a> Placement<'a> {
    fn new(csv: &Path, s3_path: Option<&'a str>, out: &Path) -> Result<Self, CsvError> {
        if let Some(path) = s3_path.filter(|path| !path.starts_with("s3://")) {
            let message = format!("the S3 path `{path}` must begin with `s3://`");
            return Err(CsvError::File(Problem::new("", message)));
        }
        if !csv.is_file() {
            return Err(CsvError::File(Problem::new(csv, "no such file")));
        }
        let csv_folder = folder_of(csv).map_err(CsvError::File)?;
        let out_folder = folder_of(out).map_err(CsvError::File)?;
        Ok(Self { s3_path, csv_folder, out_folder })
    }

    fn of(&self, picture: &str) -> String {
        if let Some(s3_path) = self.s3_path {
            return format!("{}/{picture}", s3_path.trim_end_matches('/'));
        }
        if picture.contains("://") || picture.starts_with('/') {
            return picture.to_owned();
        }
        let full = self.csv_folder.join(picture);
        reference_to(&full, &self.out_folder).unwrap_or_else(|| picture.to_owned())
    }
}

/// The rows that are not blank. A field in double quotes may hold commas, line ends, and a double quote written twice.
fn rows(content: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut line = 1;
    let mut row = Row { line, fields: vec![String::new()], is_open: false };
    let mut characters = content.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(character) = characters.next() {
        let is_new = row.fields.last().is_some_and(String::is_empty);
        let ends_line = character == '\n' || character == '\r' && characters.peek() != Some(&'\n');
        line += usize::from(ends_line);
        match character {
            '"' if row.is_open && characters.next_if_eq(&'"').is_some() => push(&mut row.fields, '"'),
            '"' if row.is_open || is_new => row.is_open = !row.is_open,
            ',' if !row.is_open => row.fields.push(String::new()),
            '\n' | '\r' if !row.is_open => {
                if ends_line {
                    let next = Row { line, fields: vec![String::new()], is_open: false };
                    rows.push(std::mem::replace(&mut row, next));
                }
            }
            other => push(&mut row.fields, other),
        }
    }
    rows.push(row);
    rows.retain(|row| row.is_open || row.fields.iter().any(|field| !field.trim().is_empty()));
    rows
}

fn push(fields: &mut [String], character: char) {
    if let Some(field) = fields.last_mut() {
        field.push(character);
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn write_faults(path: &Path, faults: &[Fault<'_>]) -> Result<(), CsvError> {
    let mut text = String::new();
    for Fault { row, reason } in faults {
        let (picture, classification) = (quoted(row.picture()), quoted(row.classification()));
        let _ = writeln!(text, "{},{picture},{classification},{}", row.line, reason.code());
    }
    fs::write(path, text).map_err(|error| file_error(path, "cannot write", &error))
}

fn write_entries(path: &Path, entries: &[Entry<'_>]) -> Result<(), CsvError> {
    let text: String =
        entries.iter().map(|entry| format!("{},{}\n", quoted(entry.picture), entry.class.as_str())).collect();
    fs::write(path, text).map_err(|error| file_error(path, "cannot write", &error))
}

fn remove_if_there(path: &Path) -> Result<(), CsvError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path, "cannot remove", &error)),
        _ => Ok(()),
    }
}

fn beside(csv: &Path, ending: &str) -> PathBuf {
    let stem = csv.file_stem().unwrap_or_default().to_string_lossy();
    csv.with_file_name(format!("{stem}{ending}"))
}

fn file_error(path: &Path, what: &str, error: &io::Error) -> CsvError {
    CsvError::File(Problem::new(path, format!("{what}: {error}")))
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Vec<(usize, Vec<String>)> {
        rows(content).into_iter().map(|row| (row.line, row.fields)).collect()
    }

    fn row(line: usize, fields: &[&str]) -> (usize, Vec<String>) {
        (line, fields.iter().map(|&field| field.to_owned()).collect())
    }

    #[test]
    fn quotes_hold_commas_quotes_and_line_ends() {
        assert_eq!(read("a.jpg,normal"), [row(1, &["a.jpg", "normal"])]);
        assert_eq!(read(r#""a,b ""c"".jpg",anomaly"#), [row(1, &[r#"a,b "c".jpg"#, "anomaly"])]);
        assert_eq!(read(r#"a"b.jpg"#), [row(1, &[r#"a"b.jpg"#])]);
        assert_eq!(
            read("\u{feff}\"a\r\nb\",normal\r\n\r\nc,anomaly\rd,normal\n"),
            [row(1, &["a\r\nb", "normal"]), row(4, &["c", "anomaly"]), row(5, &["d", "normal"])]
        );
        assert!(rows("a,normal\n\"b,normal\nc,normal")[1].is_open);
        assert_eq!(quoted(r#"a,b "c".jpg"#), r#""a,b ""c"".jpg""#);
    }
}
