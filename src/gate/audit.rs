//! The audit log: one record for every call of the REST API and every request of the S3 endpoint, in the form of the old
//! service's CloudTrail, as lines of JSON in a file a day for each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use linewarden_contract::Fault;
use linewarden_objects::s3;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::SERVICE;
use crate::api::Record;
use crate::services::Naming;

/// What the files of the REST API's calls begin with, and those of the S3 endpoint's requests.
pub(super) const CALLS: &str = "lookoutvision-";
pub(super) const OBJECTS: &str = "s3-";
const EXTENSION: &str = ".jsonl";

pub(super) struct AuditLog {
    folder: PathBuf,
    stem: &'static str,
    keep_days: u16,
    naming: Naming,
    today: Mutex<Option<(Date, File)>>,
}

impl AuditLog {
    pub(super) fn new(folder: PathBuf, stem: &'static str, keep_days: u16, naming: Naming) -> Self {
        Self { folder, stem, keep_days, naming, today: Mutex::new(None) }
    }

    fn identity(&self, access_key_id: &str, user: &str) -> Value {
        let account = &self.naming.account;
        json!({
            "type": "IAMUser",
            "principalId": access_key_id,
            "arn": format!("arn:aws:iam::{account}:user/{user}"),
            "accountId": account,
            "accessKeyId": access_key_id,
            "userName": user,
        })
    }

    /// What the records of both have, from whoever it came and whatever it was.
    fn envelope(&self, at: Timestamp, source: Option<IpAddr>, user_agent: Option<&str>, request_id: &str) -> Value {
        let Naming { region, account } = &self.naming;
        json!({
            "eventVersion": "1.08",
            "eventTime": format!("{at:.0}"),
            "awsRegion": region,
            "sourceIPAddress": source.map(|source| source.to_canonical().to_string()),
            "userAgent": user_agent,
            "requestID": request_id,
            "eventID": uuid::Uuid::new_v4().to_string(),
            "eventType": "AwsApiCall",
            "recipientAccountId": account,
        })
    }

    /// The record of a request of the S3 endpoint; `user` is whose key signed it.
    pub(super) fn object_line(&self, done: &s3::Done, user: Option<&str>, at: Timestamp) -> String {
        let operation = done.operation.as_deref();
        let is_read_only =
            operation.is_some_and(|name| ["Get", "Head", "List"].iter().any(|verb| name.starts_with(verb)));
        // As CloudTrail: what is done to objects is data, what is done to buckets is management.
        let is_of_object = done.key.is_some() || operation == Some("DeleteObjects");
        let mut line = self.envelope(at, done.source, done.user_agent.as_deref(), &done.request_id);
        line["userIdentity"] = match (&done.access_key_id, user) {
            (Some(id), Some(user)) => self.identity(id, user),
            _ => json!({ "type": "Unknown" }),
        };
        line["eventSource"] = "s3.amazonaws.com".into();
        line["eventName"] = operation.unwrap_or(&done.request).into();
        line["requestParameters"] = json!({ "bucketName": done.bucket, "key": done.key });
        line["responseElements"] = Value::Null;
        line["additionalEventData"] = json!({ "httpStatusCode": done.status });
        line["readOnly"] = is_read_only.into();
        line["managementEvent"] = (!is_of_object).into();
        line["eventCategory"] = if is_of_object { "Data" } else { "Management" }.into();
        if let Some(error) = &done.error {
            line["errorCode"] = error.as_str().into();
        }
        line.to_string()
    }

    /// The record of a call, without an end of line.
    pub(super) fn line(&self, record: &Record<'_>, at: Timestamp) -> String {
        let identity = match record.caller {
            Some(caller) if !caller.access_key_id.is_empty() => self.identity(&caller.access_key_id, &caller.user),
            Some(caller) => json!({ "type": "Unknown", "userName": caller.user }),
            None => json!({ "type": "Unknown" }),
        };
        let mut line = self.envelope(at, record.source, record.user_agent, record.request_id);
        line["userIdentity"] = identity;
        line["eventSource"] = format!("{SERVICE}.amazonaws.com").into();
        line["eventName"] = record.operation.name().into();
        line["requestParameters"] = record.input.map(parameters).into();
        line["responseElements"] = match record.outcome {
            Ok(answer) if !record.operation.is_read_only() => elements(answer),
            _ => Value::Null,
        };
        line["readOnly"] = record.operation.is_read_only().into();
        line["managementEvent"] = true.into();
        line["eventCategory"] = "Management".into();
        if let Err(fault) = record.outcome {
            line["errorCode"] = Fault::error_type(fault).into();
            line["errorMessage"] = fault.to_string().into();
        }
        line.to_string()
    }

    /// Appends a record to the file of its day; files that are too old go when a day begins.
    pub(super) fn append(&self, line: &str, at: Timestamp) -> io::Result<()> {
        let day = at.to_zoned(TimeZone::UTC).date();
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.as_ref().is_none_or(|(known, _)| *known != day) {
            fs::create_dir_all(&self.folder)?;
            let path = self.folder.join(format!("{}{day}{EXTENSION}", self.stem));
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            *today = Some((day, file));
            self.sweep(day)?;
        }
        let Some((_, file)) = today.as_mut() else { return Ok(()) };
        // In one call, so that a crash leaves no half line between others.
        let written = file.write_all(format!("{line}\n").as_bytes());
        if written.is_err() {
            // Opened anew next time: the folder may have been moved or the disk mounted again.
            *today = None;
        }
        written
    }

    fn sweep(&self, today: Date) -> io::Result<()> {
        let oldest = today.saturating_sub(i64::from(self.keep_days).days());
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let day = name
                .to_str()
                .and_then(|name| name.strip_prefix(self.stem)?.strip_suffix(EXTENSION)?.parse::<Date>().ok());
            if day.is_some_and(|day| day < oldest) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// What was asked for, by names in camel case. Bytes are told by their length and hash: a record is no copy of the data.
fn parameters(input: &Map<String, Value>) -> Value {
    let told = |(name, value): (&String, &Value)| {
        let value = match name.as_str() {
            "Changes" => {
                let bytes = linewarden_contract::blob(input, name);
                json!({ "bytes": bytes.len(), "sha256": format!("{:x}", Sha256::digest(&bytes)) })
            }
            _ => camel(value),
        };
        (lower_first(name), value)
    };
    Value::Object(input.iter().map(told).collect())
}

/// What changed: an answer of one structure is told without its name, as the old service did.
fn elements(answer: &Value) -> Value {
    let Some(members) = answer.as_object() else { return Value::Null };
    let mut values = members.values();
    match (values.next(), values.next()) {
        (None, _) => Value::Null,
        (Some(only @ Value::Object(_)), None) => camel(only),
        _ => camel(answer),
    }
}

fn camel(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (lower_first(name), camel(value))).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(camel).collect()),
        plain => plain.clone(),
    }
}

/// `S3Object` is `s3Object`, `ClientToken` is `clientToken`.
fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use linewarden_contract::Contract;

    use super::*;
    use crate::api::Caller;

    fn log(folder: PathBuf) -> AuditLog {
        AuditLog::new(folder, CALLS, 90, Naming { region: "us-east-1".to_owned(), account: "123456789012".to_owned() })
    }

    #[test]
    fn a_record_has_the_form_of_the_guides_example() {
        let log = log(PathBuf::new());
        let input = json!({ "ProjectName": "P1", "DatasetType": "train", "ClientToken": "EXAMPLE-0526",
            "DatasetSource": { "GroundTruthManifest": { "S3Object": { "Bucket": "b", "Key": "training.manifest" } } } });
        let answer = json!({ "DatasetMetadata": { "Status": "CREATE_IN_PROGRESS" } });
        let source = Some("128.0.0.1".parse().unwrap());
        let caller =
            Caller { user: "MyUser".to_owned(), access_key_id: "AKIAEXAMPLE".to_owned(), source, is_tls: false };
        let record = Record {
            request_id: "EXAMPLE-15e1",
            operation: Contract::get().operation("CreateDataset").unwrap(),
            caller: Some(&caller),
            input: input.as_object(),
            source,
            user_agent: Some("aws-cli/3"),
            outcome: Ok(&answer),
            took: Duration::ZERO,
        };
        let at: Timestamp = "2020-11-20T13:15:43.5Z".parse().unwrap();
        let mut line: Value = serde_json::from_str(&log.line(&record, at)).unwrap();
        assert!(line["eventID"].as_str().is_some_and(|id| id.len() == 36));
        line["eventID"] = json!("EVENT");
        insta::assert_json_snapshot!(line);

        let update = json!({ "ProjectName": "P1", "DatasetType": "train", "Changes": "aGVsbG8=" });
        let fault = Fault::access_denied("not you");
        let operation = Contract::get().operation("UpdateDatasetEntries").unwrap();
        let refused = Record { operation, input: update.as_object(), outcome: Err(&fault), caller: None, ..record };
        let line: Value = serde_json::from_str(&log.line(&refused, at)).unwrap();
        assert_eq!(line["requestParameters"]["changes"]["bytes"], 5);
        assert!(line["requestParameters"]["changes"]["sha256"].as_str().is_some_and(|hash| hash.starts_with("2cf24d")));
        assert_eq!((&line["errorCode"], &line["errorMessage"]), (&json!("AccessDeniedException"), &json!("not you")));
        assert_eq!(line["responseElements"], Value::Null);
    }

    #[test]
    fn a_request_for_an_object_is_told_with_its_user_and_what_became_of_it() {
        let text = |text: &str| Some(text.to_owned());
        let done = s3::Done {
            request_id: "R1".to_owned(),
            operation: text("PutObject"),
            access_key_id: text("AKIAEXAMPLE"),
            bucket: text("pictures"),
            key: text("train/1.jpg"),
            request: "PUT /pictures/train/1.jpg".to_owned(),
            source: Some("::ffff:10.0.0.7".parse().unwrap()),
            user_agent: text("Boto3/1.40"),
            status: 403,
            error: text("AccessDenied"),
        };
        let at: Timestamp = "2020-11-20T13:15:43.5Z".parse().unwrap();
        let log = log(PathBuf::new());
        let line: Value = serde_json::from_str(&log.object_line(&done, Some("line-1"), at)).unwrap();
        for (member, wanted) in [
            ("/userIdentity/arn", json!("arn:aws:iam::123456789012:user/line-1")),
            ("/eventName", json!("PutObject")),
            ("/sourceIPAddress", json!("10.0.0.7")),
            ("/requestParameters/key", json!("train/1.jpg")),
            ("/errorCode", json!("AccessDenied")),
            ("/readOnly", json!(false)),
            ("/managementEvent", json!(false)),
        ] {
            assert_eq!(line.pointer(member), Some(&wanted), "{member}: {line}");
        }
        let unknown = s3::Done { operation: None, access_key_id: None, bucket: None, key: None, ..done };
        let line: Value = serde_json::from_str(&log.object_line(&unknown, None, at)).unwrap();
        assert_eq!(
            (&line["userIdentity"]["type"], &line["eventName"]),
            (&json!("Unknown"), &json!("PUT /pictures/train/1.jpg"))
        );
        let listed = s3::Done { operation: text("ListBuckets"), error: None, status: 200, ..unknown };
        let line: Value = serde_json::from_str(&log.object_line(&listed, None, at)).unwrap();
        assert_eq!((&line["readOnly"], &line["eventCategory"]), (&json!(true), &json!("Management")));
        assert!(line.get("errorCode").is_none());
    }

    #[test]
    fn each_day_has_a_file_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path().join("audit"));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        log.append("one", at("2026-01-01T23:59:59Z")).unwrap();
        log.append("two", at("2026-01-02T00:00:00Z")).unwrap();
        log.append("three", at("2026-01-02T12:00:00Z")).unwrap();
        let read = |day: &str| fs::read_to_string(folder.path().join(format!("audit/lookoutvision-{day}.jsonl")));
        assert_eq!(read("2026-01-01").unwrap(), "one\n");
        assert_eq!(read("2026-01-02").unwrap(), "two\nthree\n");
        fs::write(folder.path().join("audit/notes.txt"), "mine").unwrap();
        log.append("four", at("2026-04-02T00:00:00Z")).unwrap();
        assert!(read("2026-01-01").is_err() && read("2026-01-02").is_ok());
        assert!(folder.path().join("audit/notes.txt").exists());
    }
}
