//! Ground Truth manifests: one JSON object a line, for classification and for segmentation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::error::{listed, shown};
use super::resolve::{self, Resolver};
use super::{
    Class, ColorMap, Dataset, DatasetError, LabelColor, Loaded, MaskColors, MaskSource, Origin, Places, Problem,
    Sample, add_labels, dates, name_of,
};

const CLASSIFICATION: &str = "groundtruth/image-classification";
const SEGMENTATION: &str = "groundtruth/semantic-segmentation";
const SOURCE_REF: &str = "source-ref";
/// The guide's attribute names; others are found by the `type` of their metadata.
const USUAL_LABEL: &str = "anomaly-label";
const USUAL_MASK: &str = "anomaly-mask-ref";
/// A line longer than this is not JSON Lines but some other file.
const MAXIMUM_LINE_BYTES: u64 = 16 << 20;
/// After so many problems the rest of the file is not read, and after so many warnings no further ones are kept: a file
/// of a gigabyte that is no manifest has hundreds of millions.
const MAXIMUM_PROBLEMS: usize = 10_000;
const MAXIMUM_WARNINGS: usize = 1000;

type Object = Map<String, Value>;

/// A line of a manifest whose files nobody has looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The line as it was written, without its end.
    pub text: String,
    /// `source-ref` as written.
    pub source_ref: String,
    /// Normal, anomalous, or nobody has said yet.
    pub class: Option<Class>,
    /// The mask as the line refers to it.
    pub mask_ref: Option<String>,
}

/// The lines of a manifest that lies elsewhere and is called `name`, each checked as before training, but none of the files
/// that it refers to looked for. Later lines of one picture go before earlier ones.
///
/// # Errors
/// Every problem at once, also when a line refers to no object in S3: files of this machine are not a stranger's to name.
pub fn read_entries(content: &[u8], name: &str) -> Result<Vec<Entry>, DatasetError> {
    let places = Places::default();
    let mut reader = Reader::new(Path::new(name), Path::new(""), &places);
    reader.resolver = None;
    let (mut entries, mut known): (Vec<Entry>, BTreeMap<String, usize>) = (Vec::new(), BTreeMap::new());
    for line in content.split(|byte| *byte == b'\n') {
        reader.line += 1;
        if reader.problems.len() >= MAXIMUM_PROBLEMS {
            reader.problem(None, "there are so many problems that the rest was not read");
            break;
        }
        let Some(Sample { source_ref, class, mask, .. }) = reader.sample(line) else { continue };
        let text = String::from_utf8_lossy(line).trim_start_matches('\u{feff}').trim().to_owned();
        // Without a resolver a path is the reference itself.
        let mask_ref = mask.map(|mask| mask.path.to_string_lossy().into_owned());
        let entry = Entry { text, source_ref, class, mask_ref };
        match known.get(&entry.source_ref).and_then(|place| entries.get_mut(*place)) {
            Some(earlier) => *earlier = entry,
            None => {
                known.insert(entry.source_ref.clone(), entries.len());
                entries.push(entry);
            }
        }
    }
    if entries.is_empty() && reader.problems.is_empty() {
        reader.problems.push(Problem::new(name, "has no lines; a manifest has one JSON object a line"));
    }
    DatasetError::unless_empty(reader.problems)?;
    Ok(entries)
}

pub(super) fn load(file: &Path, places: &Places) -> Result<Loaded, Problem> {
    let content = File::open(file).map_err(|error| Problem::new(file, format!("cannot read: {error}")))?;
    read(BufReader::new(content), file, places)
}

/// Reads the lines of a manifest that is called `file`.
pub(super) fn read(mut content: impl BufRead, file: &Path, places: &Places) -> Result<Loaded, Problem> {
    let cannot_read = |error| Problem::new(file, format!("cannot read: {error}"));
    let root = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut reader = Reader::new(file, root, places);
    let mut samples = Vec::new();
    let mut bytes = Vec::new();
    loop {
        let read = next_line(&mut content, &mut bytes).map_err(cannot_read)?;
        if read == 0 {
            break;
        }
        reader.line += 1;
        if read == MAXIMUM_LINE_BYTES && !bytes.ends_with(b"\n") {
            reader.problem(None, "the line is longer than 16 MiB; a manifest has one JSON object a line");
            break;
        }
        samples.extend(reader.sample(&bytes));
        if reader.problems.len() >= MAXIMUM_PROBLEMS {
            reader.problem(None, "there are so many problems that the rest of the file was not read");
            break;
        }
    }
    if samples.is_empty() && reader.problems.is_empty() {
        reader.problems.push(Problem::new(file, "has no lines; a manifest has one JSON object a line"));
    }
    Ok(reader.finish(samples))
}

/// The next line with its end, cut at `MAXIMUM_LINE_BYTES`.
fn next_line(content: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    Ok(content.take(MAXIMUM_LINE_BYTES).read_until(b'\n', line)? as u64)
}

/// What the lines so far have brought.
struct Reader<'a> {
    file: Arc<Path>,
    root: &'a Path,
    /// None while nobody looks for files.
    resolver: Option<Resolver<'a>>,
    line: usize,
    problems: Vec<Problem>,
    warnings: BTreeSet<String>,
    labels: Vec<LabelColor>,
    buckets: BTreeSet<String>,
    /// Files outside the manifest's folder and those that the user named: how many, and the first.
    outside: usize,
    first_outside: Option<(usize, PathBuf)>,
    /// First line and class of each picture.
    seen: BTreeMap<PathBuf, (usize, Option<Class>)>,
}

impl<'a> Reader<'a> {
    fn new(file: &Path, root: &'a Path, places: &'a Places) -> Self {
        Self {
            file: Arc::from(file),
            root,
            resolver: Some(Resolver::new(root, places)),
            line: 0,
            problems: Vec::new(),
            warnings: BTreeSet::new(),
            labels: Vec::new(),
            buckets: BTreeSet::new(),
            outside: 0,
            first_outside: None,
            seen: BTreeMap::new(),
        }
    }

    fn finish(mut self, samples: Vec<Sample>) -> Loaded {
        if self.buckets.len() > 1 {
            let buckets: Vec<String> = self.buckets.into_iter().collect();
            self.warnings.insert(format!("the pictures lie in several buckets: {}", listed(&buckets)));
        }
        if let Some((line, first)) = &self.first_outside {
            let (count, file, first) = (self.outside, self.file.display(), first.display());
            self.warnings.insert(format!(
                "{file}:{line}: {count} files lie outside the manifest's folder, reached by a full path or a link, the \
                 first is `{first}`; `--images DIR` names a folder where that is meant"
            ));
        }
        let dataset = Dataset {
            name: name_of(&self.file),
            root: self.root.to_owned(),
            samples,
            labels: self.labels,
            warnings: self.warnings.into_iter().collect(),
        };
        Loaded { dataset, problems: self.problems }
    }

    fn problem(&mut self, key: Option<&str>, message: impl Into<String>) {
        let key = key.map(shown);
        self.problems.push(Problem { line: Some(self.line), key, ..Problem::new(&self.file, message) });
    }

    fn warn(&mut self, message: impl AsRef<str>) {
        if self.warnings.len() >= MAXIMUM_WARNINGS {
            return;
        }
        let place = format!("{}:{}", self.file.display(), self.line);
        self.warnings.insert(format!("{place}: {}", message.as_ref()));
    }

    /// The sample of one line; nothing if the line is blank or its problems leave no sample.
    fn sample(&mut self, bytes: &[u8]) -> Option<Sample> {
        let object = self.object(bytes)?;
        let problems_before = self.problems.len();
        let place = self.place(&object, SOURCE_REF);
        let (class, labeled_at) = self.class(&object);
        let mask = self.mask(&object);
        let (source_ref, path) = place?;
        if self.problems.len() > problems_before {
            return None;
        }
        if mask.is_some() && class.is_none() {
            self.warn("has a mask but no class, so it counts as unlabelled");
        }
        self.note_duplicate(&path, class);
        let origin = Origin::Manifest { file: Arc::clone(&self.file), line: self.line };
        Some(Sample { path, source_ref, class, mask, origin, labeled_at })
    }

    fn object(&mut self, bytes: &[u8]) -> Option<Object> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.trim_start_matches('\u{feff}').trim(),
            Err(error) => {
                self.problem(None, format!("is not UTF-8: {error}"));
                return None;
            }
        };
        if text.is_empty() {
            return None;
        }
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(object)) => Some(object),
            Ok(_) => {
                self.problem(None, "is JSON, but not an object; a manifest has one JSON object a line");
                None
            }
            Err(error) => {
                self.problem(None, format!("is not JSON: {}", without_line(&error)));
                None
            }
        }
    }

    /// The reference under `key`, as written and as a file.
    fn place(&mut self, object: &Object, key: &str) -> Option<(String, PathBuf)> {
        let Some(reference) = object.get(key) else {
            self.problem(Some(key), "is missing");
            return None;
        };
        let Some(reference) = reference.as_str() else {
            self.problem(Some(key), format!("must be a string, got {}", kind_of(reference)));
            return None;
        };
        if let Some(bucket) = resolve::bucket(reference) {
            self.buckets.insert(bucket.to_owned());
        }
        let Some(resolver) = &self.resolver else {
            let is_object = resolve::bucket(reference).is_some_and(|bucket| !bucket.is_empty())
                && reference.splitn(4, '/').nth(3).is_some_and(|key| !key.is_empty());
            if !is_object {
                self.problem(Some(key), format!("must be `s3://bucket/key`, got `{}`", shown(reference)));
                return None;
            }
            return Some((reference.to_owned(), PathBuf::from(reference)));
        };
        match resolver.resolve(reference) {
            Ok(found) => {
                if found.is_outside {
                    self.outside += 1;
                    self.first_outside.get_or_insert_with(|| (self.line, found.path.clone()));
                }
                Some((reference.to_owned(), found.path))
            }
            Err(message) => {
                self.problem(Some(key), message);
                None
            }
        }
    }

    fn class(&mut self, object: &Object) -> (Option<Class>, Option<Timestamp>) {
        let Some((name, metadata)) = self.attribute(object, CLASSIFICATION, USUAL_LABEL) else {
            return (None, None);
        };
        // Its value is required but means nothing: `class-name` decides.
        if !object.contains_key(name) {
            self.problem(Some(name), format!("is missing, but `{name}-metadata` is there"));
        }
        let labeled_at = self.shared_metadata(name, metadata);
        let key = format!("{name}-metadata.class-name");
        let class = match metadata.get("class-name") {
            None => {
                self.problem(Some(&key), "is missing; allowed are `normal` and `anomaly`");
                None
            }
            Some(Value::String(written)) => {
                let class = Class::from_name(written);
                if class.is_none() {
                    let (key, written) = (shown(&key), shown(written));
                    self.warn(format!(
                        "`{key}` is `{written}`, neither `normal` nor `anomaly`, so it counts as unlabelled"
                    ));
                }
                class
            }
            Some(other) => {
                self.problem(Some(&key), format!("must be `normal` or `anomaly`, got {}", kind_of(other)));
                None
            }
        };
        (class, labeled_at)
    }

    fn mask(&mut self, object: &Object) -> Option<MaskSource> {
        let (name, metadata) = self.attribute(object, SEGMENTATION, USUAL_MASK)?;
        self.shared_metadata(name, metadata);
        let colors = self.color_map(name, metadata);
        let (_, path) = self.place(object, name)?;
        Some(MaskSource { path, colors: colors? })
    }

    /// The label attribute of this kind and its metadata. Detections that an evaluation manifest adds are not labels.
    fn attribute<'o>(&mut self, object: &'o Object, kind: &str, usual: &str) -> Option<(&'o str, &'o Object)> {
        // What only this kind's metadata have, for lines that do not say their type.
        let telltale = if kind == CLASSIFICATION { "class-name" } else { "internal-color-map" };
        let mut found = Vec::new();
        for (key, metadata) in object {
            let Some(name) = key.strip_suffix("-metadata").filter(|name| !name.ends_with("-detected")) else {
                continue;
            };
            let Some(metadata) = metadata.as_object() else {
                if name == usual {
                    self.problem(Some(key), format!("must be an object, got {}", kind_of(metadata)));
                }
                continue;
            };
            match metadata.get("type").and_then(Value::as_str) {
                Some(written) if written == kind => found.push((name, metadata)),
                None if name == usual || metadata.contains_key(telltale) => found.push((name, metadata)),
                Some(written) if name == usual => {
                    self.problem(Some(&format!("{key}.type")), format!("must be `{kind}`, got `{}`", shown(written)));
                }
                _ => {}
            }
        }
        let metadata_key = format!("{usual}-metadata");
        if object.contains_key(usual) && !object.contains_key(&metadata_key) {
            self.problem(Some(&metadata_key), format!("is missing, but `{usual}` is there"));
        }
        if let Some(usual_one) = found.iter().find(|(name, _)| *name == usual) {
            return Some(*usual_one);
        }
        if found.len() > 1 {
            let names: Vec<String> = found.iter().map(|(name, _)| (*name).to_owned()).collect();
            self.problem(None, format!("has several attributes of type `{kind}`, one is allowed: {}", listed(&names)));
            return None;
        }
        found.pop()
    }

    /// What both kinds of metadata have: who labelled, and when.
    fn shared_metadata(&mut self, name: &str, metadata: &Object) -> Option<Timestamp> {
        match metadata.get("human-annotated") {
            None => {}
            Some(Value::String(answer)) if answer == "yes" || answer == "no" => {}
            Some(other) => {
                let key = format!("{name}-metadata.human-annotated");
                self.problem(Some(&key), format!("must be \"yes\" or \"no\", got {}", shown(&other.to_string())));
            }
        }
        let written = metadata.get("creation-date")?;
        let date = written.as_str().and_then(dates::parse);
        if date.is_none() {
            let (name, written) = (shown(name), shown(&written.to_string()));
            self.warn(format!("`{name}-metadata.creation-date` is no date: {written}"));
        }
        date
    }

    fn color_map(&mut self, name: &str, metadata: &Object) -> Option<MaskColors> {
        let key = format!("{name}-metadata.internal-color-map");
        let Some(written) = metadata.get("internal-color-map") else {
            self.problem(Some(&key), "is missing");
            return None;
        };
        let Some(written) = written.as_object().filter(|map| !map.is_empty()) else {
            let allowed =
                "must be an object such as {\"1\": {\"class-name\": \"scratch\", \"hex-color\": \"#2CA02C\"}}";
            self.problem(Some(&key), allowed);
            return None;
        };
        let problems_before = self.problems.len();
        let mut entries = Vec::new();
        for (number, entry) in written {
            let key = format!("{key}.{number}");
            let class_name = self.entry_text(&key, entry, "class-name");
            let hex_color = self.entry_text(&key, entry, "hex-color");
            if let (Some(class_name), Some(hex_color)) = (class_name, hex_color) {
                entries.push((number.parse::<u64>().unwrap_or(u64::MAX), key, class_name, hex_color));
            }
        }
        // As numbers: "10" comes after "9".
        entries.sort_by_key(|entry| entry.0);
        let mut problems = Vec::new();
        let entries = entries.into_iter().map(|(_, key, name, color)| (key, name, color)).collect();
        let map = ColorMap::new(entries, &mut problems);
        for (entry_key, message) in problems {
            self.problem(Some(if entry_key.is_empty() { &key } else { &entry_key }), message);
        }
        if self.problems.len() > problems_before {
            return None;
        }
        if let Err(message) = add_labels(&mut self.labels, &map, &mut self.warnings) {
            self.problem(Some(&key), message);
            return None;
        }
        Some(MaskColors::Map { background: map.background, labels: map.labels })
    }

    fn entry_text(&mut self, key: &str, entry: &Value, name: &str) -> Option<String> {
        let text = entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if text.is_none() {
            self.problem(Some(&format!("{key}.{name}")), "is missing or not a text");
        }
        text.map(str::to_owned)
    }

    fn note_duplicate(&mut self, path: &Path, class: Option<Class>) {
        match self.seen.get(path) {
            None => {
                self.seen.insert(path.to_owned(), (self.line, class));
            }
            Some(&(first, other)) if other != class => {
                self.problem(Some(SOURCE_REF), format!("is on line {first} already, with another class"));
            }
            Some(&(first, _)) => self.warn(format!("the picture is on line {first} already")),
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Every line is a document of its own, so "line 1" in the parser's message would mislead.
fn without_line(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    format!("{} at column {}", &message[..end], error.column())
}
