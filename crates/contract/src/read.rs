//! A request, member by member: found in its place, read as its type, held against its constraints.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::contract::{Labels, Operation};
use crate::model::{Kind, Member, Place, Shape};
use crate::percent;
use crate::violation::{Violations, lower_first};
use crate::{Fault, Input};

impl Operation {
    /// What a client asks for, by member name. The payload is not in it: it is the body itself.
    ///
    /// Members that nobody knows are passed over, as the old service did. All constraints that are broken are told at once.
    ///
    /// # Errors
    /// When something cannot be read, is missing, or breaks a constraint.
    pub fn read<'h>(
        &self,
        labels: &Labels,
        query: Option<&str>,
        header: &dyn Fn(&str) -> Option<&'h str>,
        body: &[u8],
    ) -> Result<Input, Fault> {
        let query = percent::query(query.unwrap_or_default())?;
        let mut document = self.document(body)?;
        let mut violations = Violations::default();
        let mut input = Input::new();
        for member in self.members() {
            let path = lower_first(&member.name);
            let value = match &member.place {
                Place::Label(name) => one(member, labels.get(name).map(String::as_str))?,
                Place::Header(name) => one(member, header(name))?,
                Place::Query(name) => asked(member, name, &query)?,
                Place::Body => taken(&member.shape, &path, document.remove(&member.name).unwrap_or_default())?,
                Place::Payload => {
                    if member.is_required && body.is_empty() {
                        violations.missing(&path);
                    }
                    continue;
                }
            };
            if !value.is_null() {
                violations.check(&member.shape, &path, &value);
                input.insert(member.name.clone(), value);
            } else if member.is_required {
                violations.missing(&path);
            }
        }
        violations.into_result()?;
        Ok(input)
    }

    /// Whether an answer is as clients expect it: members that they know, of the right types, within their constraints.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_answer(&self, answer: &Value) -> Result<(), String> {
        fits(&self.output, "answer", answer)?;
        let mut violations = Violations::default();
        violations.check(&self.output, "answer", answer);
        violations.into_result().map_err(|fault| fault.to_string())
    }

    /// The members of a JSON body. An empty body has none, and where no member is in the body nobody reads it.
    fn document(&self, body: &[u8]) -> Result<Map<String, Value>, Fault> {
        if body.is_empty() || !self.members().iter().any(|member| matches!(member.place, Place::Body)) {
            return Ok(Map::new());
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(document)) => Ok(document),
            Ok(other) => Err(Fault::serialization(format!("the body is {}, not an object", kind_of(&other)))),
            Err(error) => Err(Fault::serialization(format!("the body is not JSON: {error}"))),
        }
    }
}

/// A member that is written once, as text.
fn one(member: &Member, written: Option<&str>) -> Result<Value, Fault> {
    written.map_or(Ok(Value::Null), |written| from_text(&member.shape, &lower_first(&member.name), written))
}

/// A member in the query: a list is its name again and again, anything else once.
fn asked(member: &Member, name: &str, query: &[(String, String)]) -> Result<Value, Fault> {
    let mut sent = query.iter().filter(|(sent, _)| sent == name).map(|(_, value)| value.as_str());
    if let Kind::List(of) = &member.shape.kind {
        let values: Vec<Value> = sent.map(|written| from_text(of, name, written)).collect::<Result<_, _>>()?;
        return Ok(if values.is_empty() { Value::Null } else { Value::Array(values) });
    }
    let first = sent.next();
    if sent.next().is_some() {
        return Err(Fault::validation(format!("`{name}` is in the query more than once")));
    }
    one(member, first)
}

fn from_text(shape: &Shape, path: &str, written: &str) -> Result<Value, Fault> {
    let refused = |wanted: &str| Fault::serialization(format!("`{path}` is not {wanted}"));
    match shape.kind {
        Kind::Integer => written.parse::<i32>().map(Value::from).map_err(|_| refused("an integer")),
        Kind::Boolean => written.parse::<bool>().map(Value::from).map_err(|_| refused("`true` or `false`")),
        Kind::Timestamp => match written.parse::<jiff::Timestamp>() {
            Ok(moment) => Ok(Value::from(moment.to_string())),
            Err(_) => Err(refused("a date and time such as 2020-11-20T13:45:00Z")),
        },
        _ => Ok(Value::from(written)),
    }
}

/// A member of a JSON body as its type, without what nobody knows. Nothing is as good as null.
fn taken(shape: &Shape, path: &str, value: Value) -> Result<Value, Fault> {
    match (&shape.kind, value) {
        (_, Value::Null) => Ok(Value::Null),
        (Kind::Structure(members), Value::Object(mut object)) => {
            let mut known = Map::new();
            for member in members {
                let sent = object.remove(&member.name).unwrap_or_default();
                let value = taken(&member.shape, &format!("{path}.{}", lower_first(&member.name)), sent)?;
                if !value.is_null() {
                    known.insert(member.name.clone(), value);
                }
            }
            Ok(Value::Object(known))
        }
        (Kind::List(of), Value::Array(list)) => {
            let each = list.into_iter().enumerate();
            each.map(|(index, value)| taken(of, &format!("{path}.{}.member", index + 1), value)).collect()
        }
        (Kind::Text, text @ Value::String(_)) => Ok(text),
        (Kind::Boolean, boolean @ Value::Bool(_)) => Ok(boolean),
        (Kind::Float | Kind::Timestamp, number @ Value::Number(_)) => Ok(number),
        (Kind::Integer, Value::Number(number)) => {
            let whole = number.as_i64().and_then(|number| i32::try_from(number).ok());
            whole.map(Value::from).ok_or_else(|| Fault::serialization(format!("`{path}` is not an integer of 32 bits")))
        }
        (Kind::Blob, Value::String(encoded)) => match STANDARD.decode(&encoded) {
            Ok(_) => Ok(Value::String(encoded)),
            Err(error) => Err(Fault::serialization(format!("`{path}` is not base64: {error}"))),
        },
        (_, other) => Err(Fault::serialization(misfit(shape, path, &other))),
    }
}

/// As strict as [`taken`] is lenient: what we send is ours.
fn fits(shape: &Shape, path: &str, value: &Value) -> Result<(), String> {
    match (&shape.kind, value) {
        (Kind::Structure(members), Value::Object(object)) => {
            for (name, value) in object {
                let member = members.iter().find(|member| &member.name == name);
                let member = member.ok_or_else(|| format!("`{path}` has no member `{name}`"))?;
                fits(&member.shape, &format!("{path}.{}", lower_first(name)), value)?;
            }
            Ok(())
        }
        (Kind::List(of), Value::Array(list)) => {
            let mut each = list.iter().enumerate();
            each.try_for_each(|(index, value)| fits(of, &format!("{path}.{}.member", index + 1), value))
        }
        (Kind::Text, Value::String(_))
        | (Kind::Boolean, Value::Bool(_))
        | (Kind::Float | Kind::Timestamp, Value::Number(_)) => Ok(()),
        (Kind::Integer, Value::Number(number)) if number.is_i64() => Ok(()),
        (Kind::Blob, Value::String(encoded)) if STANDARD.decode(encoded).is_ok() => Ok(()),
        _ => Err(misfit(shape, path, value)),
    }
}

fn misfit(shape: &Shape, path: &str, value: &Value) -> String {
    let wanted = match shape.kind {
        Kind::Structure(_) => "an object",
        Kind::List(_) => "a list",
        Kind::Text => "a string",
        Kind::Integer => "an integer",
        Kind::Float => "a number",
        Kind::Boolean => "a boolean",
        Kind::Blob => "base64 in a string",
        Kind::Timestamp => "seconds since 1970",
    };
    format!("`{path}` is {}, not {wanted}", kind_of(value))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
