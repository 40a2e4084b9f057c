//! Signatures of the real client, and everything that may be wrong with one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use linewarden_access::{AuthFault, BodyHash, Scope, Signed, verify};
use linewarden_testkit::peers::Peer;
use serde_json::json;

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SCOPE: Scope<'_> = Scope { region: "eu-west-1", service: "lookoutvision" };

/// A request that was signed.
#[derive(Clone)]
struct Request {
    method: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Request {
    fn verified_at(&self, scope: Scope<'_>, now: Timestamp) -> Result<String, AuthFault> {
        let Self { method, path, query, headers, body } = self;
        let signed = Signed { method, raw_path: path, raw_query: query.as_deref(), headers, body: BodyHash::of(body) };
        verify(&signed, scope, now, |id| (id == KEY).then(|| SECRET.to_owned()))
    }

    fn verified(&self) -> Result<String, AuthFault> {
        self.verified_at(SCOPE, Timestamp::now())
    }

    fn with(&self, name: &'static str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.insert(name, HeaderValue::from_str(value).unwrap());
        other
    }

    fn header(&self, name: &str) -> String {
        self.headers[name].to_str().unwrap().to_owned()
    }
}

struct Signer(Peer);

impl Signer {
    fn new() -> Result<Self> {
        Ok(Self(Peer::start(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sign.py"), &[])?))
    }

    fn sign(&mut self, method: &str, target: &str, body: &str) -> Result<Request> {
        let order = json!({
            "method": method, "url": format!("http://127.0.0.1:8750{target}"), "body": body, "key": KEY, "secret": SECRET,
            "region": SCOPE.region, "service": SCOPE.service,
            "headers": { "Content-Type": "application/json", "X-Amzn-Client-Token": "  a   b " },
        });
        let answer = self.0.ask(&order, Duration::from_secs(60))?;
        let mut headers = HeaderMap::new();
        for (name, value) in answer["headers"].as_object().unwrap() {
            let name = HeaderName::from_bytes(name.as_bytes())?;
            headers.insert(name, HeaderValue::from_str(value.as_str().unwrap())?);
        }
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
        Ok(Request { method: method.to_owned(), path: path.to_owned(), query, headers, body: body.as_bytes().to_vec() })
    }
}

#[test]
fn what_botocore_signs_is_verified_and_nothing_else() -> Result<()> {
    let mut signer = Signer::new()?;
    let targets = [
        ("GET", "/2020-11-20/projects", ""),
        (
            "GET",
            "/2020-11-20/projects/cap/datasets/train/entries?maxResults=7&sourceRefContains=a%20b%2Bc&labeled=true",
            "",
        ),
        ("GET", "/2020-11-20/tags/arn%3Aaws%3Alookoutvision%3Aeu-west-1%3A123456789012%3Amodel%2Fcap%2F1", ""),
        ("DELETE", "/2020-11-20/tags/x?tagKeys=b&tagKeys=a&tagKeys=%C3%BC", ""),
        ("POST", "/2020-11-20/projects", "{\"ProjectName\": \"cap\"}"),
    ];
    for (method, target, body) in targets {
        let request = signer.sign(method, target, body)?;
        assert_eq!(request.verified(), Ok(KEY.to_owned()), "{method} {target}");
        let mut other = request.clone();
        other.path.push('x');
        assert_eq!(other.verified(), Err(AuthFault::Mismatch), "{target}");
        let mut other = request.clone();
        other.query = Some(format!("{}&more=1", other.query.unwrap_or_default()));
        assert_eq!(other.verified(), Err(AuthFault::Mismatch), "{target}");
        let mut other = request.clone();
        other.body.push(b' ');
        assert_eq!(other.verified(), Err(AuthFault::Mismatch), "{target}");
        assert_eq!(Request { method: "PUT".to_owned(), ..request.clone() }.verified(), Err(AuthFault::Mismatch));
        assert_eq!(request.with("host", "elsewhere:8750").verified(), Err(AuthFault::Mismatch));
        // What is not signed may change on the way.
        assert_eq!(request.with("via", "1.1 proxy").verified(), Ok(KEY.to_owned()));
    }
    let request = signer.sign("POST", "/2020-11-20/projects", "{}")?;
    let authorization = request.header("authorization");
    let changed = |from: &str, to: &str| request.with("authorization", &authorization.replace(from, to)).verified();
    assert_eq!(changed(KEY, "AKIANOBODY"), Err(AuthFault::UnknownKey));
    assert!(
        matches!(changed("AWS4-HMAC-SHA256 ", "AWS3 "), Err(AuthFault::Incomplete(told)) if told.contains("must begin with"))
    );
    assert!(matches!(changed("host;", ""), Err(AuthFault::Incomplete(told)) if told.contains("must have host")));
    assert!(
        matches!(changed("Signature=", "Signature=x"), Err(AuthFault::Incomplete(told)) if told.contains("64 hexadecimal"))
    );
    assert!(
        matches!(changed("/aws4_request", ""), Err(AuthFault::Incomplete(told)) if told.contains("Credential must be"))
    );
    assert!(
        matches!(changed("/lookoutvision/", "/s3/"), Err(AuthFault::Refused(told)) if told.contains("the service lookoutvision"))
    );
    let elsewhere = Scope { region: "us-east-1", ..SCOPE };
    assert!(
        matches!(request.verified_at(elsewhere, Timestamp::now()), Err(AuthFault::Refused(told)) if told.contains("the region us-east-1"))
    );
    for (minutes, is_in_time) in [(-6, false), (-4, true), (4, true), (6, false)] {
        let now = Timestamp::now() + SignedDuration::from_mins(minutes);
        assert_eq!(request.verified_at(SCOPE, now).is_ok(), is_in_time, "{minutes} minutes");
    }
    assert_eq!(request.with("x-amz-security-token", "t").verified(), Err(AuthFault::Temporary));
    assert!(matches!(request.with("x-amz-content-sha256", "00").verified(), Err(AuthFault::Refused(_))));
    let mut unsigned = request.clone();
    unsigned.headers.remove("authorization");
    assert_eq!(unsigned.verified(), Err(AuthFault::Missing));
    let mut twice = request.clone();
    twice.headers.append("x-amz-date", HeaderValue::from_str(&request.header("x-amz-date"))?);
    assert!(matches!(twice.verified(), Err(AuthFault::Incomplete(told)) if told.contains("comes twice")));
    // No byte of the signature can be another.
    for place in authorization.len() - 64..authorization.len() {
        let mut bytes = authorization.clone().into_bytes();
        bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
        let forged = request.with("authorization", std::str::from_utf8(&bytes)?).verified();
        assert_eq!(forged, Err(AuthFault::Mismatch), "byte {place}");
    }
    Ok(())
}

#[test]
fn whatever_a_header_says_nothing_panics() {
    use proptest::prelude::*;
    proptest!(|(authorization in "(AWS4-HMAC-SHA256 )?[ -~]{0,200}", date in "[0-9TZ]{0,20}", query in "[ -~]{0,60}")| {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(&authorization).unwrap());
        headers.insert("x-amz-date", HeaderValue::from_str(&date).unwrap());
        let signed = Signed { method: "GET", raw_path: "/%", raw_query: Some(&query), headers: &headers, body: BodyHash::of(&[]) };
        prop_assert!(verify(&signed, SCOPE, Timestamp::now(), |_| Some(SECRET.to_owned())).is_err());
    });
}
