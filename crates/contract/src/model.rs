//! The model as the data file writes it, and as it is meant: shapes that hold their members instead of naming them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;
use serde::Deserialize;

/// What the clients are given, and what this crate reads.
pub(crate) const SERVICE: &str = include_str!("../model/service-2.json");
/// Which members turn the pages of the listing operations: only the clients need it.
pub(crate) const PAGINATORS: &str = include_str!("../model/paginators-1.json");

#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error("cannot read the service model: {0}")]
    Json(#[from] serde_json::Error),
    #[error("there is no shape `{0}`")]
    NoShape(String),
    #[error("shape `{shape}` is of the unknown type `{kind}`")]
    UnknownType { shape: String, kind: String },
    #[error("shape `{0}` holds itself")]
    Endless(String),
    #[error("the pattern of shape `{shape}` cannot be read: {source}")]
    Pattern { shape: String, source: Box<regex::Error> },
    #[error("member `{0}` has a place without a name")]
    Place(String),
}

#[derive(Deserialize)]
pub(crate) struct RawModel {
    pub(crate) metadata: RawMetadata,
    pub(crate) operations: BTreeMap<String, RawOperation>,
    pub(crate) shapes: HashMap<String, RawShape>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawMetadata {
    pub(crate) api_version: String,
}

#[derive(Deserialize)]
pub(crate) struct RawOperation {
    pub(crate) http: RawHttp,
    pub(crate) input: RawReference,
    pub(crate) output: RawReference,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawHttp {
    pub(crate) method: String,
    pub(crate) request_uri: String,
    pub(crate) response_code: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawReference {
    pub(crate) shape: String,
    location: Option<String>,
    location_name: Option<String>,
    #[serde(default)]
    idempotency_token: bool,
}

#[derive(Deserialize)]
pub(crate) struct RawShape {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    required: Vec<String>,
    #[serde(default)]
    members: BTreeMap<String, RawReference>,
    member: Option<RawReference>,
    payload: Option<String>,
    min: Option<u64>,
    max: Option<u64>,
    pattern: Option<String>,
    #[serde(default, rename = "enum")]
    allowed: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    /// Characters of a text, members of a list, bytes of a blob, or the value of a number.
    pub(crate) min: Option<u64>,
    pub(crate) max: Option<u64>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) allowed: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Structure(Vec<Member>),
    List(Arc<Shape>),
    Text,
    Integer,
    Float,
    Boolean,
    Blob,
    Timestamp,
}

/// A pattern as it is told, and as it is applied: to the whole value.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) written: String,
    pub(crate) whole: Regex,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) shape: Arc<Shape>,
    pub(crate) is_required: bool,
    pub(crate) is_token: bool,
    pub(crate) place: Place,
}

/// Where in a request a member is.
#[derive(Debug)]
pub(crate) enum Place {
    Label(String),
    Query(String),
    Header(String),
    Body,
    /// The whole body.
    Payload,
}

/// Makes shapes out of raw ones, each once: several members share one, and its pattern is compiled once.
pub(crate) struct Shapes {
    raw: HashMap<String, RawShape>,
    made: HashMap<String, Arc<Shape>>,
    in_the_making: Vec<String>,
}

impl Shapes {
    pub(crate) fn new(raw: HashMap<String, RawShape>) -> Self {
        Self { raw, made: HashMap::new(), in_the_making: Vec::new() }
    }

    pub(crate) fn shape(&mut self, name: &str) -> Result<Arc<Shape>, ModelError> {
        if let Some(shape) = self.made.get(name) {
            return Ok(Arc::clone(shape));
        }
        if self.in_the_making.iter().any(|made| made == name) {
            return Err(ModelError::Endless(name.to_owned()));
        }
        let raw = self.raw.remove(name).ok_or_else(|| ModelError::NoShape(name.to_owned()))?;
        self.in_the_making.push(name.to_owned());
        let shape = Arc::new(self.make(name, raw)?);
        self.in_the_making.pop();
        self.made.insert(name.to_owned(), Arc::clone(&shape));
        Ok(shape)
    }

    fn make(&mut self, name: &str, raw: RawShape) -> Result<Shape, ModelError> {
        let kind = match (raw.kind.as_str(), &raw.member) {
            ("structure", _) => Kind::Structure(self.members(&raw)?),
            ("list", Some(member)) => Kind::List(self.shape(&member.shape)?),
            ("string", _) => Kind::Text,
            ("integer", _) => Kind::Integer,
            ("float", _) => Kind::Float,
            ("boolean", _) => Kind::Boolean,
            ("blob", _) => Kind::Blob,
            ("timestamp", _) => Kind::Timestamp,
            (other, _) => return Err(ModelError::UnknownType { shape: name.to_owned(), kind: other.to_owned() }),
        };
        let pattern = raw.pattern.map(|written| pattern(name, written)).transpose()?;
        Ok(Shape { kind, min: raw.min, max: raw.max, pattern, allowed: raw.allowed })
    }

    fn members(&mut self, raw: &RawShape) -> Result<Vec<Member>, ModelError> {
        let mut members = Vec::new();
        for (name, reference) in &raw.members {
            let is_payload = raw.payload.as_ref() == Some(name);
            members.push(Member {
                name: name.clone(),
                shape: self.shape(&reference.shape)?,
                is_required: raw.required.contains(name),
                is_token: reference.idempotency_token,
                place: if is_payload { Place::Payload } else { place(name, reference)? },
            });
        }
        Ok(members)
    }
}

fn pattern(shape: &str, written: String) -> Result<Pattern, ModelError> {
    match Regex::new(&format!(r"\A(?:{written})\z")) {
        Ok(whole) => Ok(Pattern { written, whole }),
        Err(error) => Err(ModelError::Pattern { shape: shape.to_owned(), source: Box::new(error) }),
    }
}

fn place(member: &str, reference: &RawReference) -> Result<Place, ModelError> {
    let name = || reference.location_name.clone().ok_or_else(|| ModelError::Place(member.to_owned()));
    match reference.location.as_deref() {
        None => Ok(Place::Body),
        Some("uri") => Ok(Place::Label(name()?)),
        Some("querystring") => Ok(Place::Query(name()?)),
        Some("header") => Ok(Place::Header(name()?)),
        Some(_) => Err(ModelError::Place(member.to_owned())),
    }
}
