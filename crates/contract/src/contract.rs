//! Which operations there are, and which one a method and a path mean.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::Fault;
use crate::model::{Kind, Member, ModelError, Place, RawModel, RawOperation, SERVICE, Shape, Shapes};
use crate::percent;

/// What the path says, by wire name, decoded.
pub type Labels = BTreeMap<String, String>;

/// All that clients may ask for.
#[derive(Debug)]
pub struct Contract {
    api_version: String,
    operations: Vec<Operation>,
}

/// The operation that a request means.
#[derive(Debug)]
pub struct Route {
    /// What is asked for.
    pub operation: &'static Operation,
    /// What the path says.
    pub labels: Labels,
}

/// One thing that clients may ask for.
#[derive(Debug)]
pub struct Operation {
    name: String,
    method: String,
    uri: String,
    segments: Vec<Segment>,
    success: u16,
    pub(crate) input: Arc<Shape>,
    pub(crate) output: Arc<Shape>,
}

#[derive(Debug)]
enum Segment {
    Fixed(String),
    Label(String),
}

impl Contract {
    /// The contract, read once.
    #[must_use]
    pub fn get() -> &'static Self {
        static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
            Contract::read(SERVICE).expect("a test reads this very file, which is part of the binary")
        });
        &CONTRACT
    }

    fn read(service: &str) -> Result<Self, ModelError> {
        let raw: RawModel = serde_json::from_str(service)?;
        let mut shapes = Shapes::new(raw.shapes);
        let mut operations = Vec::new();
        for (name, operation) in raw.operations {
            operations.push(Operation::make(name, operation, &mut shapes)?);
        }
        Ok(Self { api_version: raw.metadata.api_version, operations })
    }

    /// The date that names this version of the interface; every path starts with it.
    #[must_use]
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// Every operation, by name.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The operation of that name.
    #[must_use]
    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.name == name)
    }

    /// The operation that a request means, from its path as sent: without a query, not decoded.
    ///
    /// # Errors
    /// When there is nothing at that path, not with that method, or the path is wrongly encoded.
    pub fn route(&'static self, method: &str, raw_path: &str) -> Result<Route, Fault> {
        // An ARN is one segment, however many `%2F` it holds: so first split, then decode.
        let sent: Vec<&str> = raw_path.strip_prefix('/').unwrap_or(raw_path).split('/').collect();
        let mut allowed = Vec::new();
        for operation in self.operations.iter().filter(|operation| operation.is_at(&sent)) {
            if operation.method == method {
                return Ok(Route { operation, labels: operation.labels(&sent)? });
            }
            allowed.push(operation.method.clone());
        }
        if allowed.is_empty() { Err(Fault::UnknownOperation) } else { Err(Fault::MethodNotAllowed { allowed }) }
    }
}

impl Operation {
    fn make(name: String, raw: RawOperation, shapes: &mut Shapes) -> Result<Self, ModelError> {
        Ok(Self {
            name,
            segments: segments(&raw.http.request_uri),
            method: raw.http.method,
            uri: raw.http.request_uri,
            success: raw.http.response_code.unwrap_or(200),
            input: shapes.shape(&raw.input.shape)?,
            output: shapes.shape(&raw.output.shape)?,
        })
    }

    /// As clients call it, such as `CreateProject`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The HTTP method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path, with labels in braces.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The status code of an answer that is no fault.
    #[must_use]
    pub fn success(&self) -> u16 {
        self.success
    }

    /// Whether it leaves everything as it was: what only reads, and what judges the picture that it is sent.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.method == "GET" || self.payload_member().is_some()
    }

    /// The member that is the whole body, as it is for pictures.
    #[must_use]
    pub fn payload_member(&self) -> Option<&str> {
        self.members().iter().find(|member| matches!(member.place, Place::Payload)).map(|member| member.name.as_str())
    }

    /// The member whose value makes a repeated request safe.
    #[must_use]
    pub fn token_member(&self) -> Option<&str> {
        self.members().iter().find(|member| member.is_token).map(|member| member.name.as_str())
    }

    pub(crate) fn members(&self) -> &[Member] {
        match &self.input.kind {
            Kind::Structure(members) => members,
            _ => &[],
        }
    }

    fn is_at(&self, sent: &[&str]) -> bool {
        let fits = |(segment, sent): (&Segment, &&str)| match segment {
            Segment::Fixed(fixed) => fixed == sent,
            Segment::Label(_) => true,
        };
        self.segments.len() == sent.len() && self.segments.iter().zip(sent).all(fits)
    }

    fn labels(&self, sent: &[&str]) -> Result<Labels, Fault> {
        let mut labels = Labels::new();
        for (segment, sent) in self.segments.iter().zip(sent) {
            if let Segment::Label(name) = segment {
                labels.insert(name.clone(), percent::decoded(sent, "path")?);
            }
        }
        Ok(labels)
    }
}

fn segments(uri: &str) -> Vec<Segment> {
    let segment = |written: &str| match written.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(label) => Segment::Label(label.to_owned()),
        None => Segment::Fixed(written.to_owned()),
    };
    uri.trim_start_matches('/').split('/').map(segment).collect()
}
