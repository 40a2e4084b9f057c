//! What breaks the constraints of a shape, gathered and told in the words of the old service.

use serde_json::Value;

use crate::Fault;
use crate::model::{Kind, Pattern, Shape};

/// The longest value that a message repeats.
const LONGEST_SHOWN_CHARACTERS: usize = 100;
/// As many as a message tells; beyond that it only counts.
const MOST_TOLD: usize = 50;

#[derive(Debug, Default)]
pub(crate) struct Violations {
    told: Vec<String>,
    count: usize,
}

impl Violations {
    fn add(&mut self, path: &str, value: &str, rule: &str) {
        self.count += 1;
        if self.told.len() < MOST_TOLD {
            self.told.push(format!("Value {value} at '{path}' failed to satisfy constraint: {rule}"));
        }
    }

    pub(crate) fn missing(&mut self, path: &str) {
        self.add(path, "null", "Member must not be null");
    }

    /// Holds a value of the right type against the constraints of its shape, and what it holds against theirs.
    pub(crate) fn check(&mut self, shape: &Shape, path: &str, value: &Value) {
        match (&shape.kind, value) {
            (_, Value::Null) => self.missing(path),
            (Kind::Structure(members), Value::Object(object)) => {
                for member in members {
                    let path = format!("{path}.{}", lower_first(&member.name));
                    match object.get(&member.name) {
                        Some(value) => self.check(&member.shape, &path, value),
                        None if member.is_required => self.missing(&path),
                        None => {}
                    }
                }
            }
            (Kind::List(of), Value::Array(list)) => self.check_list(shape, of, path, list),
            (Kind::Text, Value::String(text)) => self.check_text(shape, path, text),
            (Kind::Blob, Value::String(encoded)) => {
                let bytes = decoded_len(encoded);
                self.check_length(shape, path, &format!("'[{bytes} bytes]'"), bytes);
            }
            (Kind::Integer, Value::Number(number)) => self.check_number(shape, path, number),
            // Nothing limits the others.
            _ => {}
        }
    }

    fn check_list(&mut self, shape: &Shape, of: &Shape, path: &str, list: &[Value]) {
        self.check_length(shape, path, &format!("'[{} members]'", list.len()), list.len());
        // What is too long anyway is not worth reading.
        let worth_reading = shape.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        for (index, value) in list.iter().take(worth_reading).enumerate() {
            self.check(of, &format!("{path}.{}.member", index + 1), value);
        }
    }

    fn check_text(&mut self, shape: &Shape, path: &str, text: &str) {
        let shown = shown(text);
        let characters = text.chars().count();
        self.check_length(shape, path, &shown, characters);
        let is_too_long = shape.max.is_some_and(|max| exceeds(characters, max));
        if let Some(Pattern { written, whole }) = &shape.pattern
            // A pattern with a large count would take its time over megabytes.
            && !is_too_long
            && !whole.is_match(text)
        {
            self.add(path, &shown, &format!("Member must satisfy regular expression pattern: {written}"));
        }
        if !shape.allowed.is_empty() && !shape.allowed.iter().any(|allowed| allowed == text) {
            let rule = format!("Member must satisfy enum value set: [{}]", shape.allowed.join(", "));
            self.add(path, &shown, &rule);
        }
    }

    fn check_length(&mut self, shape: &Shape, path: &str, shown: &str, length: usize) {
        if let Some(max) = shape.max.filter(|max| exceeds(length, *max)) {
            self.add(path, shown, &format!("Member must have length less than or equal to {max}"));
        }
        if let Some(min) = shape.min.filter(|min| u64::try_from(length).is_ok_and(|length| length < *min)) {
            self.add(path, shown, &format!("Member must have length greater than or equal to {min}"));
        }
    }

    fn check_number(&mut self, shape: &Shape, path: &str, number: &serde_json::Number) {
        let value = number.as_i128().unwrap_or_default();
        let shown = format!("'{value}'");
        if let Some(max) = shape.max.filter(|max| value > i128::from(*max)) {
            self.add(path, &shown, &format!("Member must have value less than or equal to {max}"));
        }
        if let Some(min) = shape.min.filter(|min| value < i128::from(*min)) {
            self.add(path, &shown, &format!("Member must have value greater than or equal to {min}"));
        }
    }

    /// A fault that tells them all, if there are any.
    pub(crate) fn into_result(self) -> Result<(), Fault> {
        if self.count == 0 {
            return Ok(());
        }
        let errors = if self.count == 1 { "error" } else { "errors" };
        let untold = self.count - self.told.len();
        let rest = if untold == 0 { String::new() } else { format!("; and {untold} more") };
        Err(Fault::validation(format!("{} validation {errors} detected: {}{rest}", self.count, self.told.join("; "))))
    }
}

/// How members are named in messages.
pub(crate) fn lower_first(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}

fn exceeds(length: usize, max: u64) -> bool {
    u64::try_from(length).map_or(true, |length| length > max)
}

fn shown(text: &str) -> String {
    if text.chars().count() <= LONGEST_SHOWN_CHARACTERS {
        return format!("'{text}'");
    }
    let start: String = text.chars().take(LONGEST_SHOWN_CHARACTERS).collect();
    format!("'{start}...'")
}

/// Of standard base64 that was decoded before, so its length is a multiple of four.
fn decoded_len(encoded: &str) -> usize {
    let padding = encoded.bytes().rev().take_while(|byte| *byte == b'=').count();
    (encoded.len() / 4 * 3).saturating_sub(padding)
}
