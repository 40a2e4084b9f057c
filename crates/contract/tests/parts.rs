//! Faults, page tokens, ARNs, times and answers as clients meet them.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

use std::error::Error as _;
use std::time::Duration;

use linewarden_contract::{Arn, Contract, Fault, Input, PageToken, Resource, write_timestamp};
use serde_json::{Value, json};

#[test]
fn every_fault_is_written_as_clients_read_it() {
    let message = "m".to_owned();
    let cases = [
        (Fault::access_denied("m"), 403, "AccessDeniedException", json!({"Message": "m"})),
        (
            Fault::conflict("MODEL", "cap/1", "m"),
            409,
            "ConflictException",
            json!({"Message": "m", "ResourceId": "cap/1", "ResourceType": "MODEL"}),
        ),
        (
            Fault::not_found("MODEL_PACKAGE_JOB", "job", "m"),
            404,
            "ResourceNotFoundException",
            json!({"Message": "m", "ResourceId": "job", "ResourceType": "MODEL_PACKAGE_JOB"}),
        ),
        (
            Fault::quota("L-1", "m"),
            402,
            "ServiceQuotaExceededException",
            json!({"Message": "m", "QuotaCode": "L-1", "ServiceCode": "lookoutvision"}),
        ),
        (
            Fault::QuotaExceeded {
                message: message.clone(),
                quota_code: "L-1".into(),
                resource: Some(("DATASET", "train".into())),
            },
            402,
            "ServiceQuotaExceededException",
            json!({"Message": "m", "QuotaCode": "L-1", "ServiceCode": "lookoutvision", "ResourceId": "train", "ResourceType": "DATASET"}),
        ),
        (Fault::throttled("m"), 429, "ThrottlingException", json!({"Message": "m"})),
        (
            Fault::Throttled { message: message.clone(), quota_code: Some("L-2".into()), retry_after: None },
            429,
            "ThrottlingException",
            json!({"Message": "m", "QuotaCode": "L-2", "ServiceCode": "lookoutvision"}),
        ),
        (Fault::validation("m"), 400, "ValidationException", json!({"Message": "m"})),
        (Fault::serialization("m"), 400, "SerializationException", json!({"Message": "m"})),
        (
            Fault::UnknownOperation,
            404,
            "UnknownOperationException",
            json!({"Message": "there is no operation at this path"}),
        ),
        (
            Fault::MethodNotAllowed { allowed: vec!["GET".into()] },
            405,
            "MethodNotAllowedException",
            json!({"Message": "this path is for GET"}),
        ),
        (
            Fault::TooLarge { limit_bytes: 9 },
            413,
            "RequestEntityTooLargeException",
            json!({"Message": "the body is larger than 9 bytes"}),
        ),
        (
            Fault::UnrecognizedClient,
            403,
            "UnrecognizedClientException",
            json!({"Message": "The security token included in the request is invalid."}),
        ),
        (
            Fault::ExpiredToken,
            403,
            "ExpiredTokenException",
            json!({"Message": "The security token included in the request is expired"}),
        ),
        (
            Fault::MissingToken,
            403,
            "MissingAuthenticationTokenException",
            json!({"Message": "Missing Authentication Token"}),
        ),
        (
            Fault::InvalidSignature { message: message.clone() },
            403,
            "InvalidSignatureException",
            json!({"Message": "m"}),
        ),
        (Fault::IncompleteSignature { message }, 400, "IncompleteSignatureException", json!({"Message": "m"})),
    ];
    for (fault, status, error_type, body) in cases {
        assert_eq!((fault.status(), fault.error_type(), fault.body()), (status, error_type, body));
        assert_eq!((fault.retry_after(), fault.is_fault()), (None, false));
    }
}

#[test]
fn the_cause_of_a_failure_is_for_the_log_alone() {
    let fault = Fault::internal("disk /secret is full");
    assert_eq!((fault.status(), fault.error_type(), fault.is_fault()), (500, "InternalServerException", true));
    assert!(!fault.body().to_string().contains("secret") && !fault.to_string().contains("secret"));
    assert_eq!(fault.source().unwrap().to_string(), "disk /secret is full");
}

#[test]
fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
    for (wait, told) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
        let fault =
            Fault::Throttled { message: "m".into(), quota_code: None, retry_after: Some(Duration::from_millis(wait)) };
        assert_eq!(fault.retry_after(), Some(Duration::from_secs(told)), "{wait} ms");
    }
}

fn input(document: Value) -> Input {
    document.as_object().unwrap().clone()
}

#[test]
fn a_page_token_is_good_for_the_request_that_it_came_from_and_no_other() {
    let contract = Contract::get();
    let entries = contract.operation("ListDatasetEntries").unwrap();
    let first = input(json!({"ProjectName": "cap", "DatasetType": "train", "Labeled": true, "MaxResults": 10}));
    let token = PageToken::of(entries, &first).write("4711");
    assert!(token.len() <= 2048 && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/+=".contains(&byte)));

    let mut next = first.clone();
    next.insert("NextToken".into(), json!(token));
    next.insert("MaxResults".into(), json!(50));
    assert_eq!(PageToken::of(entries, &next).position(&next).unwrap().as_deref(), Some("4711"));
    assert_eq!(PageToken::of(entries, &first).position(&first).unwrap(), None);

    let mut others = Vec::new();
    for (member, value) in [("Labeled", json!(false)), ("ProjectName", json!("lid")), ("AnomalyClass", json!("normal"))]
    {
        let mut other = first.clone();
        other.insert(member.into(), value);
        others.push(PageToken::of(entries, &other));
    }
    others.push(PageToken::of(contract.operation("ListModels").unwrap(), &first));
    for other in others {
        assert_eq!(other.read(&token).unwrap_err().error_type(), "ValidationException");
    }
    for bad in ["", "a", "AAAA", "4711", "====", &token[1..], &format!("{token}AAAA")] {
        assert!(PageToken::of(entries, &first).read(bad).is_err(), "{bad}");
    }
    let longest = "x".repeat(1500);
    let token = PageToken::of(entries, &first).write(&longest);
    assert!(token.len() <= 2048);
    assert_eq!(PageToken::of(entries, &first).read(&token).unwrap(), longest);
}

#[test]
fn a_page_token_that_was_changed_anywhere_is_refused() {
    let tokens = PageToken::of(Contract::get().operation("ListProjects").unwrap(), &Input::new());
    let token = tokens.write("cap");
    for place in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        assert!(tokens.read(std::str::from_utf8(&changed).unwrap()).is_err(), "at {place}");
    }
}

#[test]
fn arns_are_written_and_read_alike() {
    let project = Arn::project("eu-west-1", "123456789012", "cap");
    let model = Arn::model("eu-west-1", "123456789012", "cap", 12);
    assert_eq!(project.to_string(), "arn:aws:lookoutvision:eu-west-1:123456789012:project/cap");
    assert_eq!(model.to_string(), "arn:aws:lookoutvision:eu-west-1:123456789012:model/cap/12");
    for arn in [project, model] {
        assert_eq!(Arn::parse(&arn.to_string()).unwrap(), arn);
        assert_eq!((arn.region(), arn.account(), arn.project_name()), ("eu-west-1", "123456789012", "cap"));
    }
    let version = Arn::parse("arn:aws:lookoutvision:us-east-1:123456789012:model/a_b-c/1").unwrap();
    assert_eq!(version.resource(), &Resource::Model { project: "a_b-c".into(), version: 1 });
}

#[test]
fn what_is_almost_an_arn_is_none() {
    let start = "arn:aws:lookoutvision:eu-west-1:123456789012";
    let mut bad: Vec<String> = [
        "",
        "cap",
        "arn:aws:s3:::bucket",
        "arn:aws:lookoutvision:eu-west-1:12345678901:project/cap",
        "arn:aws:lookoutvision::123456789012:project/cap",
        "arn:aws:lookoutvision:EU:123456789012:project/cap",
    ]
    .map(str::to_owned)
    .to_vec();
    for rest in [
        "",
        ":",
        ":project",
        ":project/",
        ":project/-a",
        ":project/a/b",
        ":project/a b",
        ":model/cap",
        ":model/cap/",
        ":model/cap/0",
        ":model/cap/01",
        ":model/cap/+1",
        ":model/cap/1/",
        ":model/cap/latest",
        ":model//1",
        ":model/cap/99999999999999999999",
        ":dataset/cap/train",
    ] {
        bad.push(format!("{start}{rest}"));
    }
    for written in bad {
        assert_eq!(Arn::parse(&written).unwrap_err().error_type(), "ValidationException", "{written}");
    }
}

#[test]
fn moments_are_seconds_to_the_millisecond() {
    for (moment, written) in [
        ("2020-11-20T00:00:00Z", 1_605_830_400.0),
        ("2020-11-20T00:00:00.678901Z", 1_605_830_400.678),
        ("1969-12-31T23:59:59.5Z", -0.5),
    ] {
        assert_eq!(write_timestamp(moment.parse().unwrap()), json!(written));
    }
}

#[test]
fn an_answer_that_clients_would_stumble_over_is_found() {
    let describe = Contract::get().operation("DescribeDataset").unwrap();
    let good = json!({"DatasetDescription": {"ProjectName": "cap", "CreationTimestamp": 1.5, "Status": "CREATE_COMPLETE",
        "ImageStats": {"Total": 1, "Labeled": 1, "Normal": 1, "Anomaly": 0}}});
    assert_eq!(describe.check_answer(&good), Ok(()));
    let cases = [
        (
            "/DatasetDescription/CreationTimestamp",
            json!("2020"),
            "`answer.datasetDescription.creationTimestamp` is a string, not seconds since 1970",
        ),
        ("/DatasetDescription/Status", json!("READY"), "Value 'READY' at 'answer.datasetDescription.status'"),
        (
            "/DatasetDescription/ImageStats",
            json!({"Sum": 1}),
            "`answer.datasetDescription.imageStats` has no member `Sum`",
        ),
        ("/DatasetDescription", Value::Null, "`answer.datasetDescription` is null, not an object"),
    ];
    for (place, value, expected) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        assert!(
            describe.check_answer(&bad).unwrap_err().contains(expected),
            "{place}: {:?}",
            describe.check_answer(&bad)
        );
    }
    let detect = Contract::get().operation("DetectAnomalies").unwrap();
    assert!(detect.check_answer(&json!({"DetectAnomalyResult": {"AnomalyMask": "no base64"}})).is_err());
}
