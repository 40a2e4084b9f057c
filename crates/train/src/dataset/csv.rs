//! From a CSV file (picture, `normal` or `anomaly`; no header) to a classification manifest, as the guide's script does.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::write::{Line, folder_of, relative_path, write_lines};
use super::{Class, ManifestSummary, Problem};

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
    let content = fs::read(csv).map_err(|error| file_error(csv, "cannot read", &error))?;
    let content = String::from_utf8(content)
        .map_err(|error| CsvError::File(Problem::new(csv, format!("is not UTF-8: {}", error.utf8_error()))))?;
    let rows = rows(&content);
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
}

struct Row {
    line: usize,
    fields: Vec<String>,
}

impl Row {
    fn picture(&self) -> &str {
        self.fields.first().map_or("", |field| field.trim())
    }

    fn classification(&self) -> &str {
        self.fields.get(1).map_or("", |field| field.trim())
    }
}

impl Reason {
    fn code(self) -> &'static str {
        match self {
            Self::InvalidClassification => "INVALID_CLASSIFICATION",
            Self::Duplicate => "DUPLICATE",
            Self::MixedLocation => "MIXED_LOCATION",
            Self::NoImage => "NO_IMAGE",
        }
    }
}

impl Fault<'_> {
    fn problem(&self, csv: &Path) -> Problem {
        let (picture, classification) = (self.row.picture(), self.row.classification());
        let message = match self.reason {
            Reason::InvalidClassification => {
                format!("`{picture}` has the classification `{classification}`; allowed are `normal` and `anomaly`")
            }
            Reason::Duplicate => format!("`{picture}` has a row already"),
            Reason::MixedLocation => {
                format!(
                    "`{picture}` does not go with the other rows: either all have an S3 path or none, and with --s3-path none may"
                )
            }
            Reason::NoImage => "has no picture; a row is `picture,normal` or `picture,anomaly`".to_owned(),
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
            _ if row.picture().is_empty() => Reason::NoImage,
            None => Reason::InvalidClassification,
            Some(_) if is_s3(row) != s3_expected => Reason::MixedLocation,
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
        relative_path(&full, &self.out_folder).unwrap_or_else(|| picture.to_owned())
    }
}

/// The rows that are not blank.
fn rows(content: &str) -> Vec<Row> {
    let content = content.trim_start_matches('\u{feff}');
    let numbered = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered.map(|(index, line)| Row { line: index + 1, fields: fields(line) }).collect()
}

/// A line's fields. A field in double quotes may hold commas, and a double quote written twice.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let is_new = fields.last().is_some_and(String::is_empty);
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => push(&mut fields, '"'),
            '"' if quoted || is_new => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    fields
}

fn push(fields: &mut [String], character: char) {
    if let Some(field) = fields.last_mut() {
        field.push(character);
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
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

    #[test]
    fn quotes_hold_commas_and_quotes() {
        assert_eq!(fields("a.jpg,normal"), ["a.jpg", "normal"]);
        assert_eq!(fields(r#""a,b ""c"".jpg",anomaly"#), [r#"a,b "c".jpg"#, "anomaly"]);
        assert_eq!(fields(r#"a"b.jpg"#), [r#"a"b.jpg"#]);
        assert_eq!(quoted(r#"a,b "c".jpg"#), r#""a,b ""c"".jpg""#);
    }
}
