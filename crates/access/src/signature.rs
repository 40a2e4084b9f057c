//! AWS Signature Version 4, as clients put it into the header `Authorization`.
//!
//! The signature is an HMAC over the request in a canonical form. Method, path, query, signed headers and body must be what
//! the client sent; the path is percent-encoded once more, as every service but S3 does it.

use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use http::HeaderMap;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a client's clock may be from ours.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// A request as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path, not decoded.
    pub raw_path: &'a str,
    /// The query without its question mark, not decoded.
    pub raw_query: Option<&'a str>,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The hash of the whole body.
    pub body: BodyHash,
}

/// The SHA-256 of a request's body, which is all that a signature knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash([u8; 32]);

impl BodyHash {
    /// Of a body that is there as a whole.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }
}

/// Hashes a body piece by piece, while it arrives.
#[derive(Debug, Clone, Default)]
pub struct BodyHasher(Sha256);

impl BodyHasher {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces.
    #[must_use]
    pub fn finish(self) -> BodyHash {
        BodyHash(self.0.finalize().into())
    }
}

/// What signatures must be for.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// As in `us-east-1`.
    pub region: &'a str,
    /// As in `lookoutvision`.
    pub service: &'a str,
}

/// Why nobody knows who sent a request. Never says what the right signature would have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthFault {
    /// It is not signed.
    #[error("the request is not signed")]
    Missing,
    /// Its signature cannot be understood.
    #[error("{0}")]
    Incomplete(String),
    /// Nobody has this key.
    #[error("the access key is not known")]
    UnknownKey,
    /// Keys that end by themselves are not given out here.
    #[error("temporary credentials are not known here")]
    Temporary,
    /// It is of another time, or for another service.
    #[error("{0}")]
    Refused(String),
    /// The signature is another one.
    #[error("the signature does not match: check the secret access key and how the request is signed")]
    Mismatch,
}

/// The access key that signed the request; `secret` gives the secret of a key that is known and enabled.
///
/// # Errors
/// Says why nobody knows.
pub fn verify(
    request: &Signed<'_>,
    scope: Scope<'_>,
    now: Timestamp,
    secret: impl FnOnce(&str) -> Option<String>,
) -> Result<String, AuthFault> {
    let authorization = Authorization::read(one(request.headers, "authorization")?.ok_or(AuthFault::Missing)?)?;
    if request.headers.contains_key("x-amz-security-token") {
        return Err(AuthFault::Temporary);
    }
    let written = one(request.headers, "x-amz-date")?.ok_or_else(|| incomplete("the header x-amz-date is missing"))?;
    let signed_at = time(written).ok_or_else(|| incomplete("x-amz-date must be as 20260131T235959Z"))?;
    authorization.check(scope, written)?;
    let early = signed_at.duration_since(now);
    if early.abs() > SKEW {
        return Err(AuthFault::Refused(format!(
            "the request was signed at {signed_at}, but it is {now}: the client's clock may be off by five minutes at most"
        )));
    }
    let secret = secret(&authorization.key_id).ok_or(AuthFault::UnknownKey)?;
    let canonical = canonical_request(request, &authorization.signed_headers)?;
    let Authorization { date, region, service, .. } = &authorization;
    let made = made(&secret, written, [date, region, service], &canonical);
    // Compares in constant time.
    let matches = made.verify_slice(&authorization.signature);
    matches.map(|()| authorization.key_id).map_err(|_| AuthFault::Mismatch)
}

/// The headers that sign a request, `x-amz-date` and `authorization`, for a client of ours; its headers must have `host`.
///
/// # Errors
/// When a header is no text, or `host` is missing.
pub fn sign(
    request: &Signed<'_>,
    scope: Scope<'_>,
    now: Timestamp,
    key_id: &str,
    secret: &str,
) -> Result<[(&'static str, String); 2], AuthFault> {
    const SIGNED: [&str; 2] = ["host", "x-amz-date"];
    let at = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = at.get(..8).unwrap_or_default();
    let mut headers = request.headers.clone();
    let value = at.parse().map_err(|_| incomplete("the time is no header"))?;
    headers.insert("x-amz-date", value);
    let canonical = canonical_request(&Signed { headers: &headers, ..*request }, &SIGNED.map(str::to_owned))?;
    let Scope { region, service } = scope;
    let signature = written(made(secret, &at, [date, region, service], &canonical).finalize().into_bytes().into());
    let authorization = format!(
        "{ALGORITHM} Credential={key_id}/{date}/{region}/{service}/aws4_request, SignedHeaders={}, Signature={signature}",
        SIGNED.join(";")
    );
    Ok([("x-amz-date", at), ("authorization", authorization)])
}

/// The signature of a canonical request, before it is written down. `scope` is date, region and service.
fn made(secret: &str, at: &str, scope: [&str; 3], canonical: &str) -> Hmac<Sha256> {
    let [date, region, service] = scope;
    let text = format!("{ALGORITHM}\n{at}\n{date}/{region}/{service}/aws4_request\n{}", hash(canonical.as_bytes()));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, region, service, "aws4_request"] {
        key = mac(&key, part.as_bytes()).finalize().into_bytes().to_vec();
    }
    mac(&key, text.as_bytes())
}

struct Authorization {
    key_id: String,
    date: String,
    region: String,
    service: String,
    signed_headers: Vec<String>,
    signature: Vec<u8>,
}

impl Authorization {
    fn read(header: &str) -> Result<Self, AuthFault> {
        let fields = header.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with(' '));
        let fields = fields.ok_or_else(|| incomplete("Authorization must begin with AWS4-HMAC-SHA256"))?;
        let field = |name: &str| {
            let found =
                fields.split(',').filter_map(|field| field.trim().split_once('=')).find(|field| field.0 == name);
            found.map(|field| field.1).ok_or_else(|| incomplete(&format!("Authorization has no {name}")))
        };
        let parts: Vec<&str> = field("Credential")?.split('/').collect();
        let [key_id, date, region, service, "aws4_request"] = parts.as_slice() else {
            return Err(incomplete("Credential must be KEY/DATE/REGION/SERVICE/aws4_request"));
        };
        let signature =
            hex(field("Signature")?).ok_or_else(|| incomplete("Signature must be 64 hexadecimal digits"))?;
        let signed_headers = field("SignedHeaders")?.split(';').map(str::to_ascii_lowercase).collect();
        let [key_id, date, region, service] = [key_id, date, region, service].map(|part| (*part).to_owned());
        Ok(Self { key_id, date, region, service, signed_headers, signature })
    }

    fn check(&self, scope: Scope<'_>, signed_at: &str) -> Result<(), AuthFault> {
        let refused = |told: String| Err(AuthFault::Refused(told));
        if self.service != scope.service {
            return refused(format!(
                "Credential should be scoped to the service {}, not {}",
                scope.service, self.service
            ));
        }
        if self.region != scope.region {
            return refused(format!("Credential should be scoped to the region {}, not {}", scope.region, self.region));
        }
        if !signed_at.starts_with(&self.date) || self.date.len() != 8 {
            return refused(format!("the date of Credential, {}, is not that of x-amz-date", self.date));
        }
        // Otherwise a request could be sent on to another host.
        for needed in ["host", "x-amz-date"] {
            if !self.signed_headers.iter().any(|name| name == needed) {
                return Err(incomplete(&format!("SignedHeaders must have {needed}")));
            }
        }
        Ok(())
    }
}

/// What the signature is made of, line by line.
fn canonical_request(request: &Signed<'_>, signed_headers: &[String]) -> Result<String, AuthFault> {
    let mut headers = String::new();
    for name in signed_headers {
        let mut values = Vec::new();
        for value in request.headers.get_all(name) {
            let value = value.to_str().map_err(|_| incomplete(&format!("the header {name} is no text")))?;
            values.push(value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        if values.is_empty() {
            return Err(incomplete(&format!("the signed header {name} is missing")));
        }
        // Writing to a string cannot fail.
        let _ = writeln!(headers, "{name}:{}", values.join(","));
    }
    let body = written(request.body.0);
    let payload = match one(request.headers, "x-amz-content-sha256")? {
        Some(told) if !told.eq_ignore_ascii_case(&body) => {
            return Err(AuthFault::Refused("x-amz-content-sha256 is not that of the body".to_owned()));
        }
        _ => body,
    };
    let path: Vec<String> = request.raw_path.split('/').map(encoded).collect();
    let (path, query) = (path.join("/"), canonical_query(request.raw_query.unwrap_or_default()));
    Ok(format!("{}\n{path}\n{query}\n{headers}\n{}\n{payload}", request.method, signed_headers.join(";")))
}

fn canonical_query(raw: &str) -> String {
    let pairs = raw.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encoded(decoded(name)), encoded(decoded(value)))
        })
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Percent-encodes one segment of a path, or one name or value of a query: all but what never needs it.
#[must_use]
pub fn encoded(part: impl AsRef<[u8]>) -> String {
    let bytes = part.as_ref();
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// What is no percent-encoding stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// The header's only value.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, AuthFault> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(incomplete(&format!("the header {name} comes twice")));
    }
    value.to_str().map(Some).map_err(|_| incomplete(&format!("the header {name} is no text")))
}

fn incomplete(told: &str) -> AuthFault {
    AuthFault::Incomplete(told.to_owned())
}

fn time(written: &str) -> Option<Timestamp> {
    let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", written).ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let bytes = digits.as_bytes();
    if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    bytes.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn hash(bytes: &[u8]) -> String {
    written(Sha256::digest(bytes).into())
}

fn written(digest: [u8; 32]) -> String {
    let mut digits = String::with_capacity(64);
    for byte in digest {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_here_is_verified_here_and_with_another_secret_it_is_not() {
        let scope = Scope { region: "eu-west-1", service: "lookoutvision" };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let headers = HeaderMap::from_iter([(http::header::HOST, "here:8750".parse().unwrap())]);
        let query = Some("b=%2F&a");
        let request = Signed {
            method: "PATCH",
            raw_path: "/x/arn%3Aaws/y",
            raw_query: query,
            headers: &headers,
            body: BodyHash::of(b"{}"),
        };
        let mut signed_headers = headers.clone();
        for (name, value) in sign(&request, scope, now, "AKIA", "secret").unwrap() {
            signed_headers.insert(name, value.parse().unwrap());
        }
        let signed = Signed { headers: &signed_headers, ..request };
        let verified = |secret: &str| verify(&signed, scope, now, |_| Some(secret.to_owned()));
        assert_eq!(verified("secret"), Ok("AKIA".to_owned()));
        assert_eq!(verified("Secret"), Err(AuthFault::Mismatch));
        let nowhere = HeaderMap::new();
        assert!(sign(&Signed { headers: &nowhere, ..request }, scope, now, "AKIA", "secret").is_err());
    }
}
