//! Generated requests, most of them wrong somewhere: none panics, none is answered with a fault of ours, none reaches a file
//! outside the store, none is done that its caller may not do.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use jiff::Timestamp;
use linewarden_access::{BodyHash, Scope, Signed, sign};
use linewarden_testkit::http::{Connection, HttpAnswer};
use linewarden_testkit::settings::number;
use serde_json::{Map, Value, json};

use crate::life::parts;
use crate::{CONFIG, Site, made_key};

/// In CI; `make soak` sends many more.
const REQUESTS: usize = 8_000;
const SCOPE: Scope<'static> = Scope { region: "eu-west-1", service: "lookoutvision" };
const CONTRACT: &str = include_str!("../../crates/contract/model/service-2.json");
const PROCESSED: &str =
    "linewarden_processed_image_total{camera=\"api\",line=\"api\",model_version=\"1\",project=\"cap\"}";
/// Text that has broken others: paths that lead out, encodings, other languages' quotes, numbers that are none.
const NASTY: [&str; 20] = [
    "..",
    "../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "/etc/passwd",
    "\0",
    "a\0b",
    "cap' OR '1'='1",
    "\";DROP TABLE project;--",
    "${jndi:ldap://x}",
    "\u{202e}",
    "𝔘𝔫𝔦",
    "-1",
    "0",
    "99999999999999999999",
    "1e309",
    "latest",
    "train",
    "s3://../../x",
    "null",
];

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// May do everything.
    Owner,
    /// May only read.
    Reader,
    /// Signs with a secret that is not the key's.
    Forger,
    /// Does not sign.
    Nobody,
}

struct Fuzzer {
    service: Value,
    random: Rng,
    keys: BTreeMap<&'static str, (String, String)>,
    address: String,
    pictures: Vec<Vec<u8>>,
}

/// A request as it goes out.
#[derive(Debug)]
struct Request {
    operation: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    caller: Caller,
}

impl Fuzzer {
    /// A request for a random operation; nothing, one thing, or several things about it are wrong.
    fn request(&mut self) -> Request {
        if self.random.u8(..10) == 0 {
            return self.detection();
        }
        let operations = self.service["operations"].as_object().unwrap().clone();
        let (name, operation) = operations.iter().nth(self.random.usize(..operations.len())).unwrap();
        let members = self.members(&operation["input"]["shape"]);
        let wrong = self.random.f64() < 0.7;
        let (mut path, mut query) = (operation["http"]["requestUri"].as_str().unwrap().to_owned(), String::new());
        let (mut headers, mut body, mut payload) = (Vec::new(), Map::new(), None);
        for (member, shape, location, wire, is_required) in members {
            if !is_required && self.random.bool() || wrong && self.random.f64() < 0.05 {
                continue;
            }
            let value = self.value(&member, &shape, wrong);
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match location.as_str() {
                "uri" => path = path.replace(&format!("{{{wire}}}"), &self.encoded(&text)),
                "querystring" => {
                    let values = value.as_array().cloned().unwrap_or_else(|| vec![json!(text)]);
                    for value in values {
                        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        query.push_str(&format!("&{wire}={}", self.encoded(&text)));
                    }
                }
                "header" => headers.push((wire, text.chars().filter(|letter| letter.is_ascii_graphic()).collect())),
                "body" if shape == "Stream" => payload = Some(self.picture()),
                _ => drop(body.insert(wire, value)),
            }
        }
        let mut bytes = payload
            .unwrap_or_else(|| if body.is_empty() { Vec::new() } else { Value::Object(body).to_string().into_bytes() });
        let mut method = operation["http"]["method"].as_str().unwrap().to_owned();
        if wrong {
            self.spoil(&mut method, &mut path, &mut query, &mut bytes);
        }
        let target = if query.is_empty() { path } else { format!("{path}?{}", query.trim_start_matches('&')) };
        let caller = match self.random.u8(..20) {
            0 => Caller::Nobody,
            1 => Caller::Forger,
            2..6 => Caller::Reader,
            _ => Caller::Owner,
        };
        // The model is hosted to the end: pictures go on being decoded and scored.
        let ends_model =
            ["StopModel", "DeleteModel", "DeleteProject"].contains(&name.as_str()) && target.contains("/cap");
        let caller = if ends_model && caller == Caller::Owner { Caller::Reader } else { caller };
        Request { operation: name.clone(), method, target, headers, body: bytes, caller }
    }

    /// A picture for the hosted model; every other one is changed somewhere.
    fn detection(&mut self) -> Request {
        Request {
            operation: "DetectAnomalies".to_owned(),
            method: "POST".to_owned(),
            target: "/2020-11-20/projects/cap/models/1/detect".to_owned(),
            headers: vec![("content-type".to_owned(), "image/png".to_owned())],
            body: self.picture(),
            caller: Caller::Owner,
        }
    }

    /// Name, shape, place, name on the wire, and whether it must be there.
    fn members(&self, shape: &Value) -> Vec<(String, String, String, String, bool)> {
        let shape = &self.service["shapes"][shape.as_str().unwrap()];
        let required: Vec<&str> =
            shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let told = |(name, member): (&String, &Value)| {
            let text = |key: &str| member[key].as_str().map(str::to_owned);
            let is_payload = shape["payload"] == name.as_str();
            let shape = if is_payload { "Stream".to_owned() } else { text("shape").unwrap() };
            let location = text("location").unwrap_or_else(|| "body".to_owned());
            (
                name.clone(),
                shape,
                location,
                text("locationName").unwrap_or_else(|| name.clone()),
                required.contains(&name.as_str()),
            )
        };
        shape["members"].as_object().into_iter().flatten().map(told).collect()
    }

    /// A value of a shape, right or wrong.
    fn value(&mut self, member: &str, shape: &str, wrong: bool) -> Value {
        if wrong && self.random.f64() < 0.15 {
            return self.nasty();
        }
        let spec = self.service["shapes"][shape].clone();
        match spec["type"].as_str().unwrap_or("string") {
            "structure" => {
                let mut members = Map::new();
                for (name, shape, _, wire, is_required) in self.members(&json!(shape)) {
                    if is_required || self.random.bool() {
                        members.insert(wire, self.value(&name, &shape, wrong));
                    }
                }
                Value::Object(members)
            }
            "list" => {
                let of = spec["member"]["shape"].as_str().unwrap().to_owned();
                (0..self.random.usize(..4)).map(|_| self.value("", &of, wrong)).collect()
            }
            "integer" => json!(self.random.i32(-1..40)),
            "float" | "double" => json!(self.random.f64()),
            "boolean" => json!(self.random.bool()),
            "timestamp" => json!("2026-01-01T00:00:00Z"),
            "blob" => json!(STANDARD.encode(self.changes())),
            _ => self.text(member, &spec),
        }
    }

    /// Mostly names of things that are there.
    fn text(&mut self, member: &str, spec: &Value) -> Value {
        if let Some(allowed) = spec["enum"].as_array() {
            return allowed[self.random.usize(..allowed.len())].clone();
        }
        let known: &[&str] = match member {
            "ProjectName" => &["cap", "cap", "cap", "fuzz1", "fuzz2", "absent"],
            "DatasetType" => &["train", "test"],
            "ModelVersion" => &["1", "1", "2", "latest"],
            "ResourceArn" => &[
                "arn:aws:lookoutvision:eu-west-1:123456789012:model/cap/1",
                "arn:aws:s3:::x",
                "arn:aws:lookoutvision:eu-west-1:123456789012:model/../1",
            ],
            "Bucket" => &["cap-pictures", "absent"],
            "Key" | "Prefix" => &["train.manifest", "results/", "../x", "a"],
            "JobName" => &["first", "second"],
            "ComponentVersion" => &["1.0.0"],
            _ => &["a", "word", "two-words", "x1"],
        };
        json!(known[self.random.usize(..known.len())])
    }

    fn nasty(&mut self) -> Value {
        match self.random.u8(..6) {
            0 => Value::Null,
            1 => json!(self.random.i64(..)),
            2 => json!("x".repeat(self.random.usize(..5_000))),
            3 => json!([[[[[[{ "a": {} }]]]]]]),
            4 => json!({ "Bucket": "..", "Key": NASTY[1] }),
            _ => json!(NASTY[self.random.usize(..NASTY.len())]),
        }
    }

    /// Lines of a manifest, whole and broken.
    fn changes(&mut self) -> Vec<u8> {
        let mut lines = String::new();
        for _ in 0..self.random.usize(..4) {
            let reference = match self.random.u8(..3) {
                0 => json!(NASTY[self.random.usize(..NASTY.len())]),
                _ => json!(format!("s3://cap-pictures/{}.png", self.random.u8(..))),
            };
            let mut line = json!({ "source-ref": reference, "anomaly-label": self.random.u8(..3), "anomaly-label-metadata": {
                "class-name": if self.random.bool() { "normal" } else { "anomaly" }, "type": "groundtruth/image-classification",
                "confidence": 1, "human-annotated": "yes", "creation-date": "2021-06-22T10:10:10.000", "job-name": "x" } });
            if self.random.u8(..3) == 0 {
                line["anomaly-label-metadata"]["class-name"] = self.nasty();
            }
            lines.push_str(&format!("{line}\n"));
        }
        let mut bytes = lines.into_bytes();
        if self.random.u8(..4) == 0 {
            self.flip(&mut bytes);
        }
        bytes
    }

    fn picture(&mut self) -> Vec<u8> {
        let mut picture = self.pictures[self.random.usize(..self.pictures.len())].clone();
        if self.random.bool() {
            self.flip(&mut picture);
        }
        picture
    }

    /// A few bytes other ones, or the end cut off.
    fn flip(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..self.random.usize(1..8) {
            let at = self.random.usize(..bytes.len());
            bytes[at] = self.random.u8(..);
        }
        if self.random.u8(..3) == 0 {
            bytes.truncate(self.random.usize(..bytes.len()));
        }
    }

    fn spoil(&mut self, method: &mut String, path: &mut String, query: &mut String, body: &mut Vec<u8>) {
        match self.random.u8(..12) {
            0 => *method = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"][self.random.usize(..6)].to_owned(),
            1 => path.push_str(["/", "/..", "//", "/%00", "/x"][self.random.usize(..5)]),
            2 => {
                *path = path.replacen(
                    "/projects",
                    ["/../projects", "/Projects", "//projects", "/%2e%2e"][self.random.usize(..4)],
                    1,
                )
            }
            3 => query.push_str(
                ["&maxResults=0", "&maxResults=x", "&nextToken=%%", "&nextToken=AAAA", "&&&=", "&maxResults=101"]
                    [self.random.usize(..6)],
            ),
            4 => self.flip(body),
            5 => *body = self.random.choose_multiple(0_u8..=255, 40),
            6 => *body = b"{".repeat(self.random.usize(..3_000)),
            7 => *body = "[".repeat(3_000).into_bytes(),
            _ => {}
        }
    }

    /// Percent-encoded as a client does it; now and then not quite.
    fn encoded(&mut self, text: &str) -> String {
        let is_wrong = self.random.u8(..40) == 0;
        let mut written = String::new();
        for &byte in text.as_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => written.push(char::from(byte)),
                _ if is_wrong && byte.is_ascii_graphic() && b"!$'()*+,;:@&=/".contains(&byte) => {
                    written.push(char::from(byte))
                }
                _ => written.push_str(&format!("%{byte:02X}")),
            }
        }
        if is_wrong { written + "%zz" } else { written }
    }

    /// The request's bytes, signed by its caller.
    fn written(&self, request: &Request) -> Result<Vec<u8>> {
        let Request { method, target, headers, body, caller, .. } = request;
        let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
        let mut map = HeaderMap::new();
        map.insert("host", HeaderValue::from_str(&self.address)?);
        let mut text =
            format!("{method} {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n", self.address, body.len());
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let (id, secret) = match caller {
            Caller::Nobody => return Ok([text.as_bytes(), b"\r\n", body].concat()),
            Caller::Owner => self.keys["owner"].clone(),
            Caller::Reader => self.keys["reader"].clone(),
            Caller::Forger => (self.keys["owner"].0.clone(), self.keys["reader"].1.clone()),
        };
        let signed = Signed { method, raw_path: path, raw_query: query, headers: &map, body: BodyHash::of(body) };
        for (name, value) in sign(&signed, SCOPE, Timestamp::now(), &id, &secret)? {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        Ok([text.as_bytes(), b"\r\n", body].concat())
    }
}

/// Every file outside the data folder, which nobody may touch.
fn outside(folder: &Path) -> Result<BTreeMap<std::path::PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_none_or(|extension| extension != "log") {
            found.insert(path.clone(), std::fs::read(&path)?);
        }
    }
    Ok(found)
}

#[test]
fn generated_requests_find_no_fault() -> Result<()> {
    let requests = number("LINEWARDEN_API_REQUESTS", REQUESTS as u64)?;
    let seed = number("LINEWARDEN_API_SEED", fastrand::u64(..))?;
    writeln!(std::io::stderr(), "{requests} requests; the same once more with LINEWARDEN_API_SEED={seed}")?;
    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let site = Site::with(&format!("{CONFIG}calls_per_second = 0\n"))?;
    let reader = made_key(
        &site.daemon,
        &["keys", "create", "--user", "reader", "--policy", "AmazonLookoutVisionReadOnlyAccess"],
    )?;
    let mut client = site.client(folder.path(), "cap")?;
    for step in ["bucket", "upload", "create", "train", "host"] {
        client.does(step)?;
    }
    let canaries = outside(&site.daemon.path(""))?;
    let pictures = ["test/good-00.png", "test/bad-00.png", "test/bad-01.png"];
    let address = site.address("listening")?.replace("http://", "");
    let mut fuzzer = Fuzzer {
        service: serde_json::from_str(CONTRACT)?,
        random: Rng::with_seed(seed),
        keys: BTreeMap::from([("owner", (site.key.clone(), site.secret.clone())), ("reader", reader)]),
        address: address.clone(),
        pictures: pictures.iter().map(|name| std::fs::read(folder.path().join(name))).collect::<Result<_, _>>()?,
    };
    let mut connection = Connection::new(&address);
    let (mut seen, mut done_by_reader) = (BTreeMap::<(u16, String), u64>::new(), 0_u64);
    let began = Instant::now();
    for _ in 0..requests {
        let request = fuzzer.request();
        let HttpAnswer { status, kind, body } =
            connection.ask(&fuzzer.written(&request)?).with_context(|| format!("{request:?}"))?;
        let told = || format!("{status} {kind} {} to {request:?}", String::from_utf8_lossy(&body));
        ensure!((200..300).contains(&status) || (400..500).contains(&status), "{}", told());
        let is_done = status < 300;
        let is_reading = ["Describe", "List"].iter().any(|prefix| request.operation.starts_with(prefix));
        match request.caller {
            Caller::Nobody | Caller::Forger => ensure!(!is_done, "{}", told()),
            // A spoilt method or path may make another operation of it: what was done is read from the answer's form.
            Caller::Reader if is_done => {
                ensure!(is_reading || request.method == "GET", "{}", told());
                done_by_reader += 1;
            }
            _ => {}
        }
        if !body.is_empty() {
            serde_json::from_slice::<Value>(&body).with_context(told)?;
        }
        ensure!(is_done || !kind.is_empty(), "no kind of error: {}", told());
        *seen.entry((status, kind)).or_default() += 1;
    }
    let rate = requests as f64 / began.elapsed().as_secs_f64();
    writeln!(std::io::stderr(), "{rate:.0} requests a second: {seen:?}, {done_by_reader} done by the reader")?;
    // The generator is worth something only while it gets everywhere.
    for wanted in [200, 202, 400, 403, 404, 405, 409] {
        ensure!(seen.keys().any(|(status, _)| *status == wanted), "no {wanted} in {seen:?}");
    }
    ensure!(done_by_reader > 0, "the reader could read nothing");
    let scored = site.daemon.metric(PROCESSED)?;
    writeln!(std::io::stderr(), "{scored} pictures were scored")?;
    ensure!(scored > 0.0, "no picture got as far as the model");
    let log = site.daemon.log()?;
    for word in ["panicked", "a request failed"] {
        ensure!(!log.contains(word), "{word}: {}", log.lines().find(|line| line.contains(word)).unwrap_or_default());
    }
    assert_eq!(outside(&site.daemon.path(""))?, canaries, "a file outside the data was touched");
    site.end()
}
