//! Every operation, through the door that a server uses: a good request, and each constraint broken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;

use linewarden_contract::{Contract, Fault, Input, Operation, blob, flag, number, text, timestamp};
use serde_json::{Value, json};

/// A request as it comes over the wire.
#[derive(Clone)]
struct Request {
    method: &'static str,
    path: String,
    query: Option<String>,
    headers: BTreeMap<&'static str, String>,
    body: Vec<u8>,
}

impl Request {
    fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), query: None, headers: BTreeMap::new(), body: Vec::new() }
    }

    fn query(mut self, query: &str) -> Self {
        self.query = Some(query.to_owned());
        self
    }

    fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self
    }

    fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.to_owned());
        self
    }

    fn token(self) -> Self {
        self.header("X-Amzn-Client-Token", "0a1b-2c")
    }

    fn read(&self) -> Result<(&'static Operation, Input), Fault> {
        let route = Contract::get().route(self.method, &self.path)?;
        let header = |name: &str| {
            self.headers.iter().find(|(sent, _)| sent.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
        };
        let input = route.operation.read(&route.labels, self.query.as_deref(), &header, &self.body)?;
        Ok((route.operation, input))
    }

    fn refusal(&self) -> String {
        let fault = self.read().unwrap_err();
        assert_eq!((fault.status(), fault.error_type()), (400, "ValidationException"), "{fault}");
        fault.message()
    }
}

const PROJECTS: &str = "/2020-11-20/projects";

fn at(rest: &str) -> String {
    format!("{PROJECTS}/cap{rest}")
}

fn packaging() -> Value {
    json!({"ModelVersion": "1", "JobName": "job-1", "Description": "for the oven", "Configuration": {"Greengrass": {
        "CompilerOptions": "{}a", "TargetPlatform": {"Os": "LINUX", "Arch": "ARM64", "Accelerator": "NVIDIA"},
        "S3OutputLocation": {"Bucket": "out", "Prefix": "x/"}, "ComponentName": "Cap_Model.1", "ComponentVersion": "1.0.0",
        "ComponentDescription": "caps", "Tags": [{"Key": "k", "Value": ""}]}}})
}

/// One request for each operation, with every member that there is, and what it must be read as.
fn good() -> Vec<(&'static str, u16, bool, Request, Value)> {
    let tags = "/2020-11-20/tags/arn%3Aaws%3Alookoutvision%3Aeu-west-1%3A123456789012%3Amodel%2Fcap%2F1";
    let arn = "arn:aws:lookoutvision:eu-west-1:123456789012:model/cap/1";
    let token = "0a1b-2c";
    let source =
        json!({"GroundTruthManifest": {"S3Object": {"Bucket": "in-1", "Key": "a/b.manifest", "VersionId": "v"}}});
    let output = json!({"S3Location": {"Bucket": "out", "Prefix": ""}});
    let pairs = json!([{"Key": "größe", "Value": "a b"}]);
    let mut start_packaging = packaging();
    start_packaging["ProjectName"] = json!("cap");
    start_packaging["ClientToken"] = json!(token);
    vec![
        ("CreateDataset", 202, false,
         Request::new("POST", &at("/datasets")).token().json(&json!({"DatasetType": "train", "DatasetSource": source})),
         json!({"ProjectName": "cap", "DatasetType": "train", "DatasetSource": source, "ClientToken": token})),
        ("CreateModel", 202, false,
         Request::new("POST", &at("/models")).token()
             .json(&json!({"Description": "night", "OutputConfig": output, "KmsKeyId": "alias/line", "Tags": pairs})),
         json!({"ProjectName": "cap", "Description": "night", "OutputConfig": output, "KmsKeyId": "alias/line", "Tags": pairs,
                "ClientToken": token})),
        ("CreateProject", 200, false, Request::new("POST", PROJECTS).token().json(&json!({"ProjectName": "cap"})),
         json!({"ProjectName": "cap", "ClientToken": token})),
        ("DeleteDataset", 202, false, Request::new("DELETE", &at("/datasets/test")).token(),
         json!({"ProjectName": "cap", "DatasetType": "test", "ClientToken": token})),
        ("DeleteModel", 202, false, Request::new("DELETE", &at("/models/12")).token(),
         json!({"ProjectName": "cap", "ModelVersion": "12", "ClientToken": token})),
        ("DeleteProject", 200, false, Request::new("DELETE", &at("")).token(),
         json!({"ProjectName": "cap", "ClientToken": token})),
        ("DescribeDataset", 200, true, Request::new("GET", &at("/datasets/train")),
         json!({"ProjectName": "cap", "DatasetType": "train"})),
        ("DescribeModel", 200, true, Request::new("GET", &at("/models/latest")),
         json!({"ProjectName": "cap", "ModelVersion": "latest"})),
        ("DescribeModelPackagingJob", 200, true, Request::new("GET", &at("/modelpackagingjobs/job-1")),
         json!({"ProjectName": "cap", "JobName": "job-1"})),
        ("DescribeProject", 200, true, Request::new("GET", &at("")), json!({"ProjectName": "cap"})),
        ("DetectAnomalies", 200, true,
         Request::new("POST", &at("/models/1/detect")).header("content-type", "image/png").body(b"\x89PNG"),
         json!({"ProjectName": "cap", "ModelVersion": "1", "ContentType": "image/png"})),
        ("ListDatasetEntries", 200, true,
         Request::new("GET", &at("/datasets/train/entries")).query(
             "labeled=true&anomalyClass=normal&createdBefore=2020-11-20T13%3A45%3A05.678901Z&createdAfter=2020-11-19T00%3A00%3A00%2B02%3A00\
              &nextToken=ab%2B%2F%3D&maxResults=100&sourceRefContains=a%20b+%C3%A9"),
         json!({"ProjectName": "cap", "DatasetType": "train", "Labeled": true, "AnomalyClass": "normal",
                "BeforeCreationDate": "2020-11-20T13:45:05.678901Z", "AfterCreationDate": "2020-11-18T22:00:00Z",
                "NextToken": "ab+/=", "MaxResults": 100, "SourceRefContains": "a b é"})),
        ("ListModelPackagingJobs", 200, true, Request::new("GET", &at("/modelpackagingjobs")).query("maxResults=1&nextToken="),
         json!({"ProjectName": "cap", "MaxResults": 1, "NextToken": ""})),
        ("ListModels", 200, true, Request::new("GET", &at("/models")).query(""), json!({"ProjectName": "cap"})),
        ("ListProjects", 200, true, Request::new("GET", PROJECTS).query("maxResults=7"), json!({"MaxResults": 7})),
        ("ListTagsForResource", 200, true, Request::new("GET", tags), json!({"ResourceArn": arn})),
        ("StartModel", 202, false,
         Request::new("POST", &at("/models/1/start")).token().json(&json!({"MinInferenceUnits": 1, "MaxInferenceUnits": 5})),
         json!({"ProjectName": "cap", "ModelVersion": "1", "MinInferenceUnits": 1, "MaxInferenceUnits": 5, "ClientToken": token})),
        ("StartModelPackagingJob", 200, false,
         Request::new("POST", &at("/modelpackagingjobs")).token().json(&packaging()), start_packaging),
        ("StopModel", 202, false, Request::new("POST", &at("/models/1/stop")).token(),
         json!({"ProjectName": "cap", "ModelVersion": "1", "ClientToken": token})),
        ("TagResource", 200, false, Request::new("POST", tags).json(&json!({"Tags": pairs})),
         json!({"ResourceArn": arn, "Tags": pairs})),
        ("UntagResource", 200, false, Request::new("DELETE", tags).query("tagKeys=a&tagKeys=b%20c"),
         json!({"ResourceArn": arn, "TagKeys": ["a", "b c"]})),
        ("UpdateDatasetEntries", 202, false,
         Request::new("PATCH", &at("/datasets/test/entries")).token().json(&json!({"Changes": "eyJhIjoxfQo="})),
         json!({"ProjectName": "cap", "DatasetType": "test", "Changes": "eyJhIjoxfQo=", "ClientToken": token})),
    ]
}

fn request_for(name: &str) -> Request {
    good().into_iter().find(|(operation, ..)| *operation == name).unwrap().3
}

#[test]
fn every_operation_is_read_as_it_was_asked_for() {
    let good = good();
    assert_eq!(good.len(), Contract::get().operations().len());
    for (name, success, is_read_only, request, expected) in good {
        let (operation, input) = request.read().unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(operation.name(), name);
        assert_eq!((operation.success(), operation.is_read_only()), (success, is_read_only), "{name}");
        assert_eq!(operation.token_member().is_some(), input.contains_key("ClientToken"), "{name}");
        assert_eq!(operation.payload_member(), (name == "DetectAnomalies").then_some("Body"));
        assert_eq!(Value::Object(input), expected, "{name}");
    }
}

#[test]
fn values_come_out_as_their_types() {
    let (_, input) = request_for("ListDatasetEntries").read().unwrap();
    assert_eq!((number(&input, "MaxResults"), flag(&input, "Labeled")), (Some(100), Some(true)));
    assert_eq!(timestamp(&input, "BeforeCreationDate"), Some("2020-11-20T13:45:05.678901Z".parse().unwrap()));
    assert_eq!((text(&input, "ProjectName"), text(&input, "Absent")), (Some("cap"), None));
    let (_, input) = request_for("UpdateDatasetEntries").read().unwrap();
    assert_eq!(blob(&input, "Changes"), b"{\"a\":1}\n");
}

/// Each constraint of a member, with the value that breaks it and what is said.
#[test]
fn each_broken_constraint_is_told_in_the_words_of_the_old_service() {
    let create = |name: Value| request_for("CreateProject").json(&json!({"ProjectName": name}));
    let start =
        |name: &str, value: Value| request_for("StartModel").json(&json!({"MinInferenceUnits": 1, name: value}));
    let list = |query: &str| request_for("ListDatasetEntries").query(query);
    let bucket =
        |bucket: &str| request_for("CreateModel").json(&json!({"OutputConfig": {"S3Location": {"Bucket": bucket}}}));
    let package = |member: &str, value: Value| {
        let mut body = packaging();
        body["Configuration"]["Greengrass"][member] = value;
        request_for("StartModelPackagingJob").json(&body)
    };
    let tag = |key: &str, value: &str| {
        request_for("TagResource").json(&json!({"Tags": [{"Key": "a", "Value": "b"}, {"Key": key, "Value": value}]}))
    };
    let pattern = |written: &str| format!("satisfy regular expression pattern: {written}");
    let length = |which: &str, limit: u64| format!("have length {which} than or equal to {limit}");
    let number = |which: &str, limit: u64| format!("have value {which} than or equal to {limit}");
    let one_of = |allowed: &str| format!("satisfy enum value set: [{allowed}]");
    let project_name = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_\-]*");
    let cases = [
        (create(Value::Null), "null", "projectName", "not be null".to_owned()),
        (create(json!("ca p")), "'ca p'", "projectName", project_name.clone()),
        (create(json!("cap\n")), "'cap\n'", "projectName", project_name.clone()),
        (create(json!("é".repeat(256))), &format!("'{}...'", "é".repeat(100)), "projectName", length("less", 255)),
        (Request::new("GET", &format!("{PROJECTS}/%C3%A9")), "'é'", "projectName", project_name.clone()),
        (Request::new("GET", &at("/datasets/Train")), "'Train'", "datasetType", pattern("train|test")),
        (Request::new("GET", &at("/datasets/trainx")), "'trainx'", "datasetType", pattern("train|test")),
        (Request::new("DELETE", &at("/models/latest")), "'latest'", "modelVersion", pattern("([1-9][0-9]*)")),
        (Request::new("GET", &at("/models/01")), "'01'", "modelVersion", pattern("([1-9][0-9]*|latest)")),
        (start("MinInferenceUnits", json!(0)), "'0'", "minInferenceUnits", number("greater", 1)),
        (start("MaxInferenceUnits", json!(-4)), "'-4'", "maxInferenceUnits", number("greater", 1)),
        (list("maxResults=101"), "'101'", "maxResults", number("less", 100)),
        (list("maxResults=0"), "'0'", "maxResults", number("greater", 1)),
        (list("nextToken=a-b"), "'a-b'", "nextToken", pattern(r"^[a-zA-Z0-9\/\+\=]{0,2048}$")),
        (list("anomalyClass=odd"), "'odd'", "anomalyClass", pattern("(normal|anomaly)")),
        (list("sourceRefContains=+"), "' '", "sourceRefContains", pattern(r".*\S.*")),
        (bucket("ab"), "'ab'", "outputConfig.s3Location.bucket", length("greater", 3)),
        (
            bucket(&"b".repeat(64)),
            &format!("'{}'", "b".repeat(64)),
            "outputConfig.s3Location.bucket",
            length("less", 63),
        ),
        (
            request_for("CreateModel").json(&json!({"OutputConfig": {}})),
            "null",
            "outputConfig.s3Location",
            "not be null".to_owned(),
        ),
        (
            package("TargetDevice", json!("toaster")),
            "'toaster'",
            "configuration.greengrass.targetDevice",
            one_of("jetson_xavier"),
        ),
        (
            package("TargetPlatform", json!({"Os": "LINUX", "Arch": "RISCV"})),
            "'RISCV'",
            "configuration.greengrass.targetPlatform.arch",
            one_of("ARM64, X86_64"),
        ),
        (
            package("ComponentVersion", json!("1.0")),
            "'1.0'",
            "configuration.greengrass.componentVersion",
            pattern(r"^([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})$"),
        ),
        (tag("a*", "b"), "'a*'", "tags.2.member.key", pattern(r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$")),
        (tag("a", &"b".repeat(257)), &format!("'{}...'", "b".repeat(100)), "tags.2.member.value", length("less", 256)),
        (request_for("UntagResource").query("other=1"), "null", "tagKeys", "not be null".to_owned()),
        (request_for("UntagResource").query("tagKeys=a&tagKeys="), "''", "tagKeys.2.member", length("greater", 1)),
        (
            request_for("UpdateDatasetEntries").json(&json!({"Changes": ""})),
            "'[0 bytes]'",
            "changes",
            length("greater", 1),
        ),
        (
            request_for("UpdateDatasetEntries").json(&json!({"Changes": "AAAA".repeat(10_485_760 / 3 + 1)})),
            "'[10485762 bytes]'",
            "changes",
            length("less", 10485760),
        ),
        (
            request_for("StopModel").header("X-Amzn-Client-Token", "a_b"),
            "'a_b'",
            "clientToken",
            pattern("^[a-zA-Z0-9-]+$"),
        ),
        (request_for("DetectAnomalies").body(b""), "null", "body", "not be null".to_owned()),
        (Request::new("POST", &at("/models/1/detect")).body(b"x"), "null", "contentType", "not be null".to_owned()),
    ];
    for (request, value, place, rule) in cases {
        let expected = format!("Value {value} at '{place}' failed to satisfy constraint: Member must {rule}");
        assert_eq!(request.refusal(), format!("1 validation error detected: {expected}"));
    }
}

#[test]
fn all_broken_constraints_are_told_at_once() {
    let request = request_for("StartModel").json(&json!({"MaxInferenceUnits": 0}));
    assert_eq!(
        request.refusal(),
        "2 validation errors detected: Value '0' at 'maxInferenceUnits' failed to satisfy constraint: Member must have value \
         greater than or equal to 1; Value null at 'minInferenceUnits' failed to satisfy constraint: Member must not be null"
    );
    // Long lists of mistakes are counted, and the answer stays small.
    let tags = json!({"Tags": vec![json!({"Key": "*", "Value": "*"}); 201]});
    let message = request_for("TagResource").json(&tags).refusal();
    assert!(message.starts_with("401 validation errors detected: Value '[201 members]' at 'tags'"), "{message}");
    assert!(message.ends_with("; and 351 more") && message.len() < 20_000, "{message}");
}

#[test]
fn what_cannot_be_read_is_a_serialization_fault() {
    let start = |body: &[u8]| request_for("StartModel").body(body);
    let deep = "[".repeat(100_000);
    let cases = [
        (start(b"{"), "the body is not JSON"),
        (start(b"\xff\xfe"), "the body is not JSON"),
        (start(deep.as_bytes()), "the body is not JSON: recursion limit exceeded"),
        (start(b"[]"), "the body is a list, not an object"),
        (start(br#"{"MinInferenceUnits":"1"}"#), "`minInferenceUnits` is a string, not an integer"),
        (start(br#"{"MinInferenceUnits":1.5}"#), "`minInferenceUnits` is not an integer of 32 bits"),
        (start(br#"{"MinInferenceUnits":4294967297}"#), "`minInferenceUnits` is not an integer of 32 bits"),
        (request_for("CreateModel").body(br#"{"OutputConfig":"x"}"#), "`outputConfig` is a string, not an object"),
        (request_for("CreateModel").body(br#"{"Tags":{}}"#), "`tags` is an object, not a list"),
        (request_for("CreateModel").body(br#"{"Tags":[{"Key":1}]}"#), "`tags.1.member.key` is a number, not a string"),
        (request_for("UpdateDatasetEntries").body(br#"{"Changes":"a-_b"}"#), "`changes` is not base64"),
        (request_for("UpdateDatasetEntries").body(br#"{"Changes":"YQ"}"#), "`changes` is not base64"),
        (request_for("ListProjects").query("maxResults=ten"), "`maxResults` is not an integer"),
        (request_for("ListDatasetEntries").query("labeled=yes"), "`labeled` is not `true` or `false`"),
        (
            request_for("ListDatasetEntries").query("createdAfter=yesterday"),
            "`afterCreationDate` is not a date and time",
        ),
    ];
    for (request, expected) in cases {
        let fault = request.read().unwrap_err();
        assert_eq!((fault.status(), fault.error_type()), (400, "SerializationException"), "{fault}");
        assert!(fault.message().starts_with(expected), "{fault} instead of {expected}");
    }
}

#[test]
fn what_nobody_knows_is_passed_over() {
    let request = request_for("StartModel")
        .query("x=%20&y")
        .json(&json!({"MinInferenceUnits": 1, "New": {"a": [1]}, "MaxInferenceUnits": null}));
    assert_eq!(
        Value::Object(request.read().unwrap().1),
        json!({
        "ProjectName": "cap", "ModelVersion": "1", "MinInferenceUnits": 1, "ClientToken": "0a1b-2c"})
    );
    // A body where none belongs is not even parsed.
    assert!(request_for("StopModel").body(b"{not json").read().is_ok());
    let nested = json!({"OutputConfig": {"New": 1, "S3Location": {"Bucket": "out", "New": null}}});
    assert_eq!(
        request_for("CreateModel").json(&nested).read().unwrap().1["OutputConfig"],
        json!({"S3Location": {"Bucket": "out"}})
    );
}

#[test]
fn a_wrongly_encoded_path_or_query_is_refused() {
    let cases = [
        (Request::new("GET", &at("%")), "the path holds a `%` without two hexadecimal digits"),
        (Request::new("GET", &at("%4")), "the path holds a `%` without two hexadecimal digits"),
        (Request::new("GET", &at("%é0")), "the path holds a `%` without two hexadecimal digits"),
        (Request::new("GET", &at("%+1")), "the path holds a `%` without two hexadecimal digits"),
        (Request::new("GET", &at("%ff")), "the path is not UTF-8 once it is decoded"),
        (Request::new("GET", PROJECTS).query("maxResults=%zz"), "the query holds a `%` without two hexadecimal digits"),
        (Request::new("GET", PROJECTS).query("a=%c3"), "the query is not UTF-8 once it is decoded"),
        (
            Request::new("GET", PROJECTS).query("maxResults=1&maxResults=2"),
            "`maxResults` is in the query more than once",
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(request.refusal(), expected);
    }
}

#[test]
fn a_path_is_split_before_it_is_decoded() {
    let (operation, input) = Request::new("GET", "/2020-11-20/tags/a%2Fb%252Fc").read().unwrap();
    assert_eq!((operation.name(), text(&input, "ResourceArn")), ("ListTagsForResource", Some("a/b%2Fc")));
    for path in [
        "/",
        "",
        "/2020-11-20",
        "/2020-11-20/tags/a/b",
        "/2020-11-21/projects",
        "//2020-11-20/projects",
        "/2020-11-20/%70rojects",
    ] {
        let fault = Request::new("GET", path).read().unwrap_err();
        assert_eq!((fault.status(), fault.error_type()), (404, "UnknownOperationException"), "{path}");
    }
    let fault = Request::new("PUT", &at("")).read().unwrap_err();
    assert_eq!((fault.status(), fault.allow().as_deref()), (405, Some("DELETE, GET")));
}
