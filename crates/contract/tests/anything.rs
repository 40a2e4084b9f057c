//! Whatever comes in, something sensible comes out: a checked input, or a fault of the client's.

use std::collections::BTreeMap;

use linewarden_contract::{Arn, Contract, Input, PageToken};
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON of every kind, with names that operations know.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("ProjectName"),
        Just("DatasetSource"),
        Just("GroundTruthManifest"),
        Just("S3Object"),
        Just("Bucket"),
        Just("Key"),
        Just("OutputConfig"),
        Just("S3Location"),
        Just("Prefix"),
        Just("Tags"),
        Just("Value"),
        Just("Changes"),
        Just("MinInferenceUnits"),
        Just("Configuration"),
        Just("Greengrass"),
        Just("TargetPlatform"),
        Just("Other"),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..8).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_path_is_routed_or_refused(
        path in r"(/2020-11-20)?(/(projects|tags|models|%|%2F|%[0-9a-f]{2}|.){0,4}){0,5}",
        method in "GET|POST|PUT|[a-z]{0,4}",
    ) {
        if let Err(fault) = Contract::get().route(&method, &path) {
            prop_assert!([400, 404, 405].contains(&fault.status()));
        }
    }

    #[test]
    fn any_request_is_read_or_refused(
        label in ".{0,30}", query in "(&?[a-zA-Z]{0,12}=?.{0,8}){0,5}", header in proptest::option::of(".{0,70}"),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            document().prop_map(|document| document.to_string().into_bytes()),
        ],
    ) {
        for operation in Contract::get().operations() {
            let labels: BTreeMap<_, _> = ["projectName", "datasetType", "modelVersion", "jobName", "resourceArn"]
                .map(|name| (name.to_owned(), label.clone())).into();
            match operation.read(&labels, Some(&query), &|_| header.as_deref(), &body) {
                Ok(input) => prop_assert!(input.values().all(|value| !value.is_null())),
                Err(fault) => prop_assert_eq!(fault.status(), 400),
            }
            let _ = operation.check_answer(&serde_json::from_slice(&body).unwrap_or_default());
        }
    }

    #[test]
    fn any_page_token_and_arn_is_read_or_refused(text in ".{0,60}", position in ".{0,200}") {
        let tokens = PageToken::of(&Contract::get().operations()[0], &Input::from_iter([("A".to_owned(), json!(text))]));
        prop_assert!(tokens.read(&text).is_err());
        prop_assert_eq!(tokens.read(&tokens.write(&position)).unwrap(), position);
        if let Ok(arn) = Arn::parse(&text) {
            prop_assert_eq!(arn.to_string(), text);
        }
    }
}
