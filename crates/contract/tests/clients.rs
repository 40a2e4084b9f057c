//! Real clients: the model is that of the last botocore that held it, and the newest boto3 works with it once it is laid.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use linewarden_contract::{Contract, Fault, Input, PageToken, blob, install, text};
use serde_json::{Value, json};

/// A folder that `scripts/setup` lays: `peers` holds botocore 1.40.60, the last with this service; `peers-newest` the newest.
fn peers(name: &str) -> PathBuf {
    let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = from("LINEWARDEN_DATA_DIR")
        .or_else(|| Some(from("XDG_DATA_HOME")?.join("linewarden")))
        .or_else(|| Some(from("HOME")?.join(".local/share/linewarden")))
        .unwrap()
        .join(name);
    assert!(folder.join("boto3").is_dir(), "there is no boto3 in `{}`: run `make setup`", folder.display());
    folder
}

fn python(peers: &Path, script: &str) -> Command {
    let mut python = Command::new("python3");
    python
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script))
        .env("PYTHONPATH", peers)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // What the developer set for a real service is not for this one.
        .envs(["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].map(|variable| (variable, "/dev/null")))
        .env_remove("AWS_DATA_PATH")
        .env_remove("AWS_PROFILE")
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .stderr(Stdio::inherit());
    python
}

#[test]
fn the_model_says_what_the_last_botocore_that_held_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let laid = install(folder.path(), false).unwrap();
    let output = python(&peers("peers"), "same_contract.py").args(&laid).output().unwrap();
    assert!(output.status.success(), "cannot run the comparison: run `make setup`");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found, json!({"operations": 22, "shapes": 141, "differences": []}));
}

/// One request as the server read it.
#[derive(Debug)]
struct Heard {
    operation: &'static str,
    input: Input,
    body: Vec<u8>,
}

/// Answers one request a connection until the test ends.
fn serve(listener: &TcpListener, heard: &mpsc::Sender<Heard>) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (status, error_type, body) = match exchange(&stream, heard) {
            Ok((status, body)) => (status, None, body),
            Err(fault) => (fault.status(), Some(fault), Value::Null),
        };
        let mut headers = String::new();
        let mut body = if body.is_null() { String::new() } else { body.to_string() };
        if let Some(fault) = error_type {
            headers = format!("x-amzn-ErrorType: {}\r\n", fault.error_type());
            if let Some(wait) = fault.retry_after() {
                headers += &format!("Retry-After: {}\r\n", wait.as_secs());
            }
            body = fault.body().to_string();
        }
        let length = body.len();
        write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            .unwrap();
    }
}

fn exchange(stream: &TcpStream, heard: &mpsc::Sender<Heard>) -> Result<(u16, Value), Fault> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let request: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let header = |wanted: &str| {
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
    };
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();

    let (path, query) =
        request[1].split_once('?').map_or((request[1].as_str(), None), |(path, query)| (path, Some(query)));
    let route = Contract::get().route(&request[0], path)?;
    let input = route.operation.read(&route.labels, query, &header, &body)?;
    let answered = answer(route.operation.name(), &input)?;
    if !answered.is_null() {
        route.operation.check_answer(&answered).unwrap();
    }
    heard.send(Heard { operation: route.operation.name(), input, body }).unwrap();
    Ok((route.operation.success(), answered))
}

/// An answer for each shape that there is: empty, flat, nested, with a blob, in pages; and faults by the name of the project.
fn answer(operation: &str, input: &Input) -> Result<Value, Fault> {
    match text(input, "ProjectName") {
        Some("gone") => return Err(Fault::not_found("PROJECT", "gone", "there is no project `gone`")),
        Some("busy") => {
            return Err(Fault::Throttled {
                message: "too many requests".into(),
                quota_code: None,
                retry_after: Some(Duration::from_millis(1500)),
            });
        }
        _ => {}
    }
    Ok(match operation {
        "DetectAnomalies" => {
            json!({"DetectAnomalyResult": {"Source": {"Type": "direct"}, "IsAnomalous": true, "Confidence": 0.75,
            "Anomalies": [{"Name": "scratch", "PixelAnomaly": {"TotalPercentageArea": 0.5, "Color": "#FFFFFF"}}],
            "AnomalyMask": "bWFzaw=="}})
        }
        "DescribeProject" => {
            json!({"ProjectDescription": {"ProjectName": "cap", "CreationTimestamp": 1_605_830_400.678, "Datasets": []}})
        }
        "StartModel" => json!({"Status": "STARTING_HOSTING"}),
        "StopModel" => Value::Null,
        "ListProjects" => {
            let tokens = PageToken::of(Contract::get().operation(operation).unwrap(), input);
            match tokens.position(input)?.as_deref() {
                None => json!({"Projects": [{"ProjectName": "cap"}], "NextToken": tokens.write("cap")}),
                Some(after) => json!({"Projects": [{"ProjectName": format!("{after}-2")}]}),
            }
        }
        _ => json!({}),
    })
}

/// What is called, with what, and what must be read, which is the same but for the tag in which values are written.
fn calls() -> Vec<(&'static str, &'static str, Value, Value)> {
    let arn = "arn:aws:lookoutvision:eu-west-1:123456789012:model/cap/1";
    let tags = json!([{"Key": "größe/a+b", "Value": ""}, {"Key": "k", "Value": "a b"}]);
    let packaging = json!({"ProjectName": "cap", "ModelVersion": "1", "Configuration": {"Greengrass": {
        "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"}, "S3OutputLocation": {"Bucket": "out", "Prefix": "p/"},
        "ComponentName": "Cap", "Tags": tags}}});
    let same = |name, method, with: Value| (name, method, with.clone(), with);
    let version = json!({"ProjectName": "cap", "ModelVersion": "1"});
    let dataset = json!({"ProjectName": "cap", "DatasetType": "train"});
    vec![
        same(
            "CreateDataset",
            "create_dataset",
            json!({"ProjectName": "cap", "DatasetType": "test", "ClientToken": "t-1",
            "DatasetSource": {"GroundTruthManifest": {"S3Object": {"Bucket": "in-1", "Key": "a/b'.manifest"}}}}),
        ),
        same(
            "CreateModel",
            "create_model",
            json!({"ProjectName": "cap", "ClientToken": "t-2", "Tags": tags,
            "OutputConfig": {"S3Location": {"Bucket": "out", "Prefix": ""}}}),
        ),
        same("CreateProject", "create_project", json!({"ProjectName": "cap"})),
        same("DeleteDataset", "delete_dataset", dataset.clone()),
        same("DeleteModel", "delete_model", version.clone()),
        same("DeleteProject", "delete_project", json!({"ProjectName": "cap"})),
        same("DescribeDataset", "describe_dataset", dataset.clone()),
        same("DescribeModel", "describe_model", json!({"ProjectName": "cap", "ModelVersion": "latest"})),
        same(
            "DescribeModelPackagingJob",
            "describe_model_packaging_job",
            json!({"ProjectName": "cap", "JobName": "j-1"}),
        ),
        same("DescribeProject", "describe_project", json!({"ProjectName": "cap"})),
        (
            "DetectAnomalies",
            "detect_anomalies",
            json!({"ProjectName": "cap", "ModelVersion": "1", "ContentType": "image/jpeg", "Body": {"$bytes": "the picture"}}),
            json!({"ProjectName": "cap", "ModelVersion": "1", "ContentType": "image/jpeg"}),
        ),
        (
            "ListDatasetEntries",
            "list_dataset_entries",
            json!({"ProjectName": "cap", "DatasetType": "train", "Labeled": false, "AnomalyClass": "anomaly", "MaxResults": 3,
                "BeforeCreationDate": {"$time": "2020-11-20T13:45:05.678901+00:00"}, "AfterCreationDate": {"$time": "2020-11-19T02:00:00+02:00"},
                "SourceRefContains": "a b+c&d/é%20", "NextToken": "ab+/="}),
            json!({"ProjectName": "cap", "DatasetType": "train", "Labeled": false, "AnomalyClass": "anomaly", "MaxResults": 3,
                "BeforeCreationDate": "2020-11-20T13:45:05.678901Z", "AfterCreationDate": "2020-11-19T00:00:00Z",
                "SourceRefContains": "a b+c&d/é%20", "NextToken": "ab+/="}),
        ),
        same("ListModelPackagingJobs", "list_model_packaging_jobs", json!({"ProjectName": "cap", "MaxResults": 100})),
        same("ListModels", "list_models", json!({"ProjectName": "cap"})),
        same("ListTagsForResource", "list_tags_for_resource", json!({"ResourceArn": arn})),
        same("StartModel", "start_model", json!({"ProjectName": "cap", "ModelVersion": "1", "MinInferenceUnits": 1})),
        same("StartModelPackagingJob", "start_model_packaging_job", packaging),
        same("StopModel", "stop_model", version),
        same("TagResource", "tag_resource", json!({"ResourceArn": arn, "Tags": tags})),
        same("UntagResource", "untag_resource", json!({"ResourceArn": arn, "TagKeys": ["größe/a+b", "k"]})),
        (
            "UpdateDatasetEntries",
            "update_dataset_entries",
            json!({"ProjectName": "cap", "DatasetType": "train", "Changes": {"$bytes": "{\"source-ref\": \"s3://ü\"}\n"}}),
            json!({"ProjectName": "cap", "DatasetType": "train", "Changes": "eyJzb3VyY2UtcmVmIjogInMzOi8vw7wifQo="}),
        ),
    ]
}

/// Lays the model for the client in `peers`, makes every call, and gives the client's version.
fn every_call_arrives_as_it_was_made(peers: &Path) -> String {
    let models = tempfile::tempdir().unwrap();
    install(models.path(), false).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || serve(&listener, &sender));
    let mut client = python(peers, "call_operations.py")
        .arg(endpoint)
        .env("AWS_DATA_PATH", models.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cannot run `python3`: run `make setup`");
    let mut to = client.stdin.take().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut said = || -> Value { serde_json::from_str(&lines.next().expect("the client has ended").unwrap()).unwrap() };
    let version = said()["botocore"].as_str().unwrap().to_owned();
    let mut ask = |call: Value| {
        writeln!(to, "{call}").unwrap();
        said()
    };

    for (name, method, with, expected) in calls() {
        let answered = ask(json!({"call": method, "with": with}));
        let operation = Contract::get().operation(name).unwrap();
        assert_eq!(answered["status"], json!(operation.success()), "{name}: {answered}");
        let mut request = heard.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(request.operation, name);
        if let Some(member) = operation.token_member() {
            let token = text(&request.input, member).unwrap_or_default().to_owned();
            assert!(token.len() == 36 || expected[member] == json!(token), "{name} carries the token {token:?}");
            if expected[member].is_null() {
                request.input.remove(member);
            }
        }
        if name == "UpdateDatasetEntries" {
            assert_eq!(blob(&request.input, "Changes"), "{\"source-ref\": \"s3://ü\"}\n".as_bytes());
        }
        if operation.payload_member().is_some() {
            assert_eq!(request.body, b"the picture");
            let result = &answered["answer"]["DetectAnomalyResult"];
            assert_eq!((&result["AnomalyMask"], &result["Confidence"]), (&json!("mask"), &json!(0.75)));
        }
        if name == "DescribeProject" {
            let created = &answered["answer"]["ProjectDescription"]["CreationTimestamp"];
            assert_eq!(created, &json!(1_605_830_400.678));
        }
        assert_eq!(Value::Object(request.input), expected, "{name}");
    }

    let pages = ask(json!({"call": "list_projects", "with": {}, "pages": true}));
    let names = pages["pages"].as_array().unwrap().iter().map(|page| &page["Projects"][0]["ProjectName"]);
    assert_eq!(names.collect::<Vec<_>>(), ["cap", "cap-2"]);

    // Names of exceptions, members and messages as a program of the user handles them.
    let gone = ask(json!({"call": "describe_project", "with": {"ProjectName": "gone"}}));
    assert_eq!(
        gone,
        json!({"fault": "ResourceNotFoundException", "Message": "there is no project `gone`", "ResourceId": "gone",
        "ResourceType": "PROJECT", "error": {"Code": "ResourceNotFoundException", "Message": "there is no project `gone`"}})
    );
    let busy = ask(json!({"call": "describe_project", "with": {"ProjectName": "busy"}}));
    assert_eq!((&busy["fault"], &busy["RetryAfterSeconds"]), (&json!("ThrottlingException"), &json!(2)));
    let bad = ask(json!({"call": "describe_project", "with": {"ProjectName": "a b"}}));
    assert_eq!(bad["fault"], "ValidationException");
    assert!(bad["Message"].as_str().unwrap().starts_with("1 validation error detected: Value 'a b' at 'projectName'"));

    drop(to);
    assert!(client.wait().unwrap().success());
    version
}

#[test]
fn the_last_boto3_that_held_the_service_calls_every_operation() {
    assert_eq!(every_call_arrives_as_it_was_made(&peers("peers")), "1.40.60");
}

#[test]
fn the_newest_boto3_calls_every_operation_once_the_model_is_laid() {
    let folder = peers("peers-newest");
    assert!(!folder.join("botocore/data/lookoutvision").exists(), "this botocore carries the service itself");
    assert_ne!(every_call_arrives_as_it_was_made(&folder), "1.40.60");
}
