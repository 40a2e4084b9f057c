//! Capture shapes: a launch line with variables, from `pipelines/*.toml`, and how a camera fills them.
//!
//! What a user writes never becomes part of a launch line unless it is a number, a boolean or one of a few listed words.
//! Texts (addresses, paths, passwords) are set as properties after the line was parsed, so no value can be mistaken for
//! syntax, and no password is ever part of a line that is logged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::checked::{Capture, Folder, SourceProperty};
use super::raw::{self, Section, Source};

const BUILT_IN: [(&str, &str); 7] = [
    ("aravis", include_str!("../../pipelines/aravis.toml")),
    ("file", include_str!("../../pipelines/file.toml")),
    ("folder", include_str!("../../pipelines/folder.toml")),
    ("rtsp", include_str!("../../pipelines/rtsp.toml")),
    ("synthetic", include_str!("../../pipelines/synthetic.toml")),
    ("test", include_str!("../../pipelines/test.toml")),
    ("usb", include_str!("../../pipelines/usb.toml")),
];

/// Every shape that a configuration can name.
pub(crate) struct Shapes(BTreeMap<String, Shape>);

/// A launch line with variables.
#[derive(Debug)]
struct Shape {
    live: bool,
    /// Whether the daemon itself feeds the pictures of a folder into the element `source`.
    fed: bool,
    launch: String,
    variables: BTreeMap<String, Variable>,
}

#[derive(Debug)]
struct Variable {
    kind: Kind,
    /// `element.property` that gets a text.
    property: Option<(String, String)>,
    default: Option<Value>,
    optional: bool,
    doc: String,
}

#[derive(Debug)]
enum Kind {
    Integer { least: i64, most: i64 },
    Number { least: f64, most: f64 },
    Boolean,
    Choice(Vec<String>),
    Text,
    Secret,
    Url(Vec<String>),
    File,
    Folder,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Integer(i64),
    Number(f64),
    Boolean(bool),
    Text(String),
}

impl Shapes {
    /// The built-in shapes, then those of each folder; a later one replaces an earlier one of its name.
    pub(crate) fn read(folders: &[PathBuf]) -> Result<Self, Vec<raw::Problem>> {
        let mut shapes = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, text) in BUILT_IN {
            let source = Source::new(&Path::new("pipelines").join(format!("{name}.toml")), text.to_owned());
            add_shape(&mut shapes, &mut problems, name, source);
        }
        for file in folders.iter().flat_map(|folder| shape_files(folder)) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match std::fs::read_to_string(&file) {
                Ok(text) => add_shape(&mut shapes, &mut problems, &name, Source::new(&file, text)),
                Err(error) => {
                    let message = format!("cannot read the shape: {error}");
                    problems.push(raw::Problem { file, line: 1, column: 1, message });
                }
            }
        }
        if problems.is_empty() { Ok(Self(shapes)) } else { Err(problems) }
    }

    /// The capture of a camera whose `pipeline` names a shape; `None` after noting what is wrong.
    pub(crate) fn capture(&self, name: &raw::Placed<String>, camera: &Section<'_>, base: &Path) -> Option<Capture> {
        let Some(shape) = self.0.get(&name.value) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            camera.problem(name.at.clone(), raw::unknown("pipeline", &name.value, &known));
            return None;
        };
        let with = camera.section("with");
        let values = shape.values(with.as_ref(), camera, base)?;
        Some(shape.filled(&values))
    }
}

fn shape_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_shape = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_shape).collect();
    files.sort();
    files
}

fn add_shape(shapes: &mut BTreeMap<String, Shape>, problems: &mut Vec<raw::Problem>, name: &str, source: Source) {
    let shape = {
        let table = source.parse();
        let root = Section::root(&source, &table);
        Shape::read(&root)
    };
    problems.extend(source.into_problems());
    if let Some(shape) = shape {
        shapes.insert(name.to_owned(), shape);
    }
}

impl Shape {
    fn read(root: &Section<'_>) -> Option<Self> {
        if root.text("description").is_none() {
            root.missing("description", "a sentence that says what the shape captures");
        }
        let live = root.boolean("live").unwrap_or(false);
        let fed = root.boolean("fed").unwrap_or(false);
        let launch = root.text("launch");
        if launch.is_none() {
            root.missing("launch", "a launch line without its sink");
        }
        let mut variables = BTreeMap::new();
        for (name, section) in root.section("variables").iter().flat_map(Section::named_sections) {
            if let Some(variable) = Variable::read(&section) {
                variables.insert(name.to_owned(), variable);
            }
            section.finish();
        }
        root.finish();
        let launch = launch?;
        let shape = Self { live, fed, launch: launch.value, variables };
        shape.check_places(root, launch.at);
        Some(shape)
    }

    /// Every variable must have a place, and every place a variable.
    fn check_places(&self, root: &Section<'_>, at: std::ops::Range<usize>) {
        let places = placeholders(&self.launch);
        for place in &places {
            match self.variables.get(*place) {
                None => root.problem(at.clone(), format!("`launch` uses `{{{place}}}`, which is no variable")),
                Some(variable) if variable.kind.is_free_text() => {
                    let message =
                        format!("`{{{place}}}` is a text: give it a `property` instead of a place in `launch`");
                    root.problem(at.clone(), message);
                }
                Some(_) => {}
            }
        }
        for (name, variable) in &self.variables {
            if variable.property.is_none() && !places.contains(&name.as_str()) && !self.fed {
                root.problem(at.clone(), format!("variable `{name}` has neither a place in `launch` nor a `property`"));
            }
        }
    }

    /// What the camera wrote and the defaults of the rest; `None` after noting what is wrong.
    fn values(&self, with: Option<&Section<'_>>, camera: &Section<'_>, base: &Path) -> Option<BTreeMap<&str, Value>> {
        let mut values = BTreeMap::new();
        let mut complete = true;
        for (key, at, value) in with.iter().flat_map(|section| section.entries()) {
            let Some((name, variable)) = self.variables.get_key_value(key) else {
                let known: Vec<&str> = self.variables.keys().map(String::as_str).collect();
                camera.problem(at, raw::unknown("variable", key, &known));
                complete = false;
                continue;
            };
            match variable.kind.read(value.get_ref(), base) {
                Ok(value) => {
                    values.insert(name.as_str(), value);
                }
                Err(message) => {
                    camera.problem(value.span(), format!("`{name}` {message}"));
                    complete = false;
                }
            }
        }
        let written: Vec<&str> = with.iter().flat_map(|section| section.entries()).map(|entry| entry.0).collect();
        for (name, variable) in self.variables.iter().filter(|(name, _)| !written.contains(&name.as_str())) {
            match &variable.default {
                Some(default) => {
                    values.insert(name, default.clone());
                }
                None if variable.optional => {}
                None => {
                    let allowed = variable.kind.allowed();
                    let message = format!("variable `{name}` is missing ({}): it must be {allowed}", variable.doc);
                    camera.problem(with.map_or_else(|| camera.at(), Section::at), message);
                    complete = false;
                }
            }
        }
        complete.then_some(values)
    }

    fn filled(&self, values: &BTreeMap<&str, Value>) -> Capture {
        let mut launch = self.launch.clone();
        let mut properties = Vec::new();
        for (name, value) in values {
            launch = launch.replace(&format!("{{{name}}}"), &value.to_text());
            let Some(variable) = self.variables.get(*name) else { continue };
            if let Some((element, property)) = &variable.property {
                let secret = matches!(variable.kind, Kind::Secret);
                let (element, property) = (element.clone(), property.clone());
                properties.push(SourceProperty::new(element, property, value.to_text(), secret));
            }
        }
        let folder = self.fed.then(|| Folder {
            path: values.get("location").map(Value::to_text).unwrap_or_default().into(),
            again: values.get("loop") == Some(&Value::Boolean(true)),
            rate_hz: match values.get("rate") {
                Some(Value::Number(rate)) if *rate > 0.0 => Some(*rate),
                _ => None,
            },
        });
        Capture { launch, live: self.live, properties, folder, ..Capture::default() }
    }
}

/// The names between braces.
fn placeholders(launch: &str) -> Vec<&str> {
    let parts = launch.split('{').skip(1);
    parts.filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect()
}

impl Variable {
    fn read(section: &Section<'_>) -> Option<Self> {
        let kind = Kind::from_section(section)?;
        let doc = section.text("doc").map(|doc| doc.value);
        if doc.is_none() {
            section.missing("doc", "a sentence that says what the variable does");
        }
        let property = section.read("property", "\"element.property\"", |value| {
            let (element, property) = value.as_str()?.split_once('.')?;
            Some((element.to_owned(), property.to_owned()))
        });
        let optional = section.boolean("optional").unwrap_or(false);
        let default = section.value("default").and_then(|value| {
            let read = kind.read(value.get_ref(), Path::new(""));
            read.map_err(|message| section.problem(value.span(), format!("`default` {message}"))).ok()
        });
        Some(Self { kind, property: property.map(|property| property.value), default, optional, doc: doc? })
    }
}

impl Kind {
    fn from_section(section: &Section<'_>) -> Option<Self> {
        let names = ["integer", "number", "boolean", "choice", "text", "secret", "url", "file", "folder"];
        let choices: Vec<(&str, &str)> = names.iter().map(|name| (*name, *name)).collect();
        let kind = section.choice("type", &choices);
        if section.value("type").is_none() {
            section.missing("type", &format!("one of {}", names.join(", ")));
        }
        let words = |key: &'static str| {
            let words = section.read(key, "a list of words", |value| {
                value.as_array()?.iter().map(|word| word.get_ref().as_str().map(str::to_owned)).collect()
            });
            words.map(|words: raw::Placed<Vec<String>>| words.value).unwrap_or_default()
        };
        Some(match kind? {
            "integer" => {
                let least = section.integer("least", i64::MIN, i64::MAX).unwrap_or(i64::from(i32::MIN));
                Self::Integer {
                    least,
                    most: section.integer("most", i64::MIN, i64::MAX).unwrap_or(i64::from(i32::MAX)),
                }
            }
            "number" => {
                let least = section.number("least", f64::MIN, f64::MAX).unwrap_or(f64::MIN);
                Self::Number { least, most: section.number("most", f64::MIN, f64::MAX).unwrap_or(f64::MAX) }
            }
            "boolean" => Self::Boolean,
            "choice" => Self::Choice(words("allowed")),
            "secret" => Self::Secret,
            "url" => Self::Url(words("schemes")),
            "file" => Self::File,
            "folder" => Self::Folder,
            _ => Self::Text,
        })
    }

    /// Whether a value may hold any character, and so must stay out of launch lines.
    fn is_free_text(&self) -> bool {
        matches!(self, Self::Text | Self::Secret | Self::Url(_) | Self::File | Self::Folder)
    }

    fn allowed(&self) -> String {
        match self {
            Self::Integer { least, most } => format!("a whole number from {least} to {most}"),
            Self::Number { least, most } => format!("a number from {least} to {most}"),
            Self::Boolean => "true or false".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Text => "a text that is not empty".to_owned(),
            Self::Secret => "a text, or `{ env = \"VARIABLE\" }`, or `{ file = \"PATH\" }`".to_owned(),
            Self::Url(schemes) => format!("an address that begins with {}", schemes.join(":// or ") + "://"),
            Self::File => "the path of a file".to_owned(),
            Self::Folder => "the path of a folder".to_owned(),
        }
    }

    /// The value, or what is wrong with it: the end of a sentence that begins with the key.
    fn read(&self, value: &DeValue<'_>, base: &Path) -> Result<Value, String> {
        let text = || value.as_str().filter(|text| !text.is_empty() && !text.contains('\0'));
        let read = match self {
            Self::Integer { least, most } => {
                raw::as_integer(value).filter(|number| (least..=most).contains(&number)).map(Value::Integer)
            }
            Self::Number { least, most } => {
                raw::as_number(value).filter(|number| (least..=most).contains(&number)).map(Value::Number)
            }
            Self::Boolean => value.as_bool().map(Value::Boolean),
            Self::Choice(words) => {
                text().filter(|text| words.iter().any(|word| word == text)).map(|text| Value::Text(text.to_owned()))
            }
            Self::Text => text().map(|text| Value::Text(text.to_owned())),
            Self::Secret => return read_secret(value, base).map(Value::Text),
            Self::Url(schemes) => return self.read_url(schemes, value),
            Self::File => return self.read_path(text(), base, Path::is_file),
            Self::Folder => return self.read_path(text(), base, Path::is_dir),
        };
        read.ok_or_else(|| format!("must be {}, got {}", self.allowed(), raw::shown(value)))
    }

    /// Never quotes the address: it may hold a password.
    fn read_url(&self, schemes: &[String], value: &DeValue<'_>) -> Result<Value, String> {
        let url = value.as_str().unwrap_or("");
        let Some((scheme, rest)) = url.split_once("://") else { return Err(format!("must be {}", self.allowed())) };
        if !schemes.iter().any(|allowed| allowed == scheme) || rest.is_empty() {
            return Err(format!("must be {}", self.allowed()));
        }
        if rest.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err("must not hold a user or password: give them as `user` and `password`".to_owned());
        }
        Ok(Value::Text(url.to_owned()))
    }

    fn read_path(&self, text: Option<&str>, base: &Path, exists: fn(&Path) -> bool) -> Result<Value, String> {
        let path = base.join(text.ok_or_else(|| format!("must be {}", self.allowed()))?);
        if !exists(&path) {
            return Err(format!("must be {}: `{}` is none", self.allowed(), path.display()));
        }
        Ok(Value::Text(path.to_string_lossy().into_owned()))
    }
}

fn read_secret(value: &DeValue<'_>, base: &Path) -> Result<String, String> {
    let allowed = format!("must be {}", Kind::Secret.allowed());
    if let Some(text) = value.as_str().filter(|text| !text.contains('\0')) {
        return Ok(text.to_owned());
    }
    let table = value.as_table().ok_or(&allowed)?;
    let entry = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    match (entry("env"), entry("file"), table.len()) {
        (Some(variable), None, 1) => {
            std::env::var(variable).map_err(|error| format!("cannot be read from `{variable}`: {error}"))
        }
        (None, Some(file), 1) => {
            let path = base.join(file);
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| format!("cannot be read from `{}`: {error}", path.display()))?;
            Ok(text.trim_end_matches(['\r', '\n']).replace('\0', ""))
        }
        _ => Err(allowed),
    }
}

impl Value {
    fn to_text(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Boolean(answer) => answer.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_shapes_are_sound() {
        let shapes = Shapes::read(&[]);
        let problems = shapes.err().unwrap_or_default();
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn a_text_cannot_be_placed_in_a_launch_line() {
        let folder = tempfile::tempdir().unwrap();
        let shape = "description = \"d\"\nlaunch = \"filesrc location={location}\"\n\
                     [variables.location]\ntype = \"text\"\ndoc = \"d\"\n";
        std::fs::write(folder.path().join("mine.toml"), shape).unwrap();
        let problems = Shapes::read(&[folder.path().to_owned()]).err().unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains("give it a `property`"), "{problems:?}");
    }
}
