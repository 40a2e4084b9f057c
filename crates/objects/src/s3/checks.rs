//! Checksums that clients send, before the content or behind it, and hold what they read against.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::{S3Result, TrailingHeaders, s3_error};

use crate::ObjectError;
use crate::file::{Known, Watch, hexadecimal};

/// The algorithms by their names in headers.
const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];
const HEADER_START: &str = "x-amz-checksum-";

pub(super) const FULL_OBJECT: &str = "FULL_OBJECT";
pub(super) const COMPOSITE: &str = "COMPOSITE";

/// What a client says of its content.
#[derive(Default)]
pub(super) struct Checks {
    hasher: ChecksumHasher,
    expected: BTreeMap<&'static str, String>,
    trailer: Option<TrailingHeaders>,
    promised: Vec<&'static str>,
    md5: Option<String>,
}

impl Checks {
    /// Reads the headers of a request that carries content.
    pub(super) fn of(headers: &HeaderMap, trailer: Option<TrailingHeaders>) -> S3Result<Self> {
        let mut checks = Self { trailer, ..Self::default() };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        for algorithm in ALGORITHMS {
            if let Some(value) = text(&format!("{HEADER_START}{algorithm}")) {
                checks.expected.insert(algorithm, value.to_owned());
                checks.compute(algorithm);
            }
        }
        for names in headers.get_all("x-amz-trailer").iter().filter_map(|names| names.to_str().ok()) {
            for algorithm in names.split(',').filter_map(|name| algorithm_of(name.trim().strip_prefix(HEADER_START)?)) {
                checks.promised.push(algorithm);
                checks.compute(algorithm);
            }
        }
        if let Some(name) = text("x-amz-sdk-checksum-algorithm") {
            let algorithm = algorithm_of(name);
            checks.compute(algorithm.ok_or_else(|| s3_error!(InvalidRequest, "Checksum algorithm is not supported."))?);
        }
        if let Some(digest) = text("content-md5") {
            let bytes = STANDARD.decode(digest).ok().filter(|bytes| bytes.len() == 16);
            let bytes = bytes.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."))?;
            checks.md5 = Some(hexadecimal(&bytes));
        }
        Ok(checks)
    }

    /// For content that is held against what is known of it already.
    pub(super) fn computing(algorithm: Option<&'static str>, expected: Option<String>) -> Self {
        let mut checks = Self::default();
        if let Some(algorithm) = algorithm {
            checks.compute(algorithm);
            checks.expected.extend(expected.map(|expected| (algorithm, expected)));
        }
        checks
    }

    fn compute(&mut self, algorithm: &'static str) {
        match algorithm {
            "crc32" => self.hasher.crc32 = Some(Default::default()),
            "crc32c" => self.hasher.crc32c = Some(Default::default()),
            "crc64nvme" => self.hasher.crc64nvme = Some(Default::default()),
            "sha1" => self.hasher.sha1 = Some(Default::default()),
            _ => self.hasher.sha256 = Some(Default::default()),
        }
    }
}

impl Watch for Checks {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    fn finish(mut self: Box<Self>, known: &mut Known) -> Result<(), ObjectError> {
        for algorithm in &self.promised {
            let name = format!("{HEADER_START}{algorithm}");
            let value = self.trailer.as_ref().and_then(|trailer| {
                trailer.read(|headers| headers.get(&name).and_then(|value| value.to_str().ok()).map(str::to_owned))
            });
            let value = value.flatten().ok_or(ObjectError::BadDigest("trailing checksum"))?;
            self.expected.insert(algorithm, value);
        }
        if self.md5.is_some_and(|md5| md5 != known.etag) {
            return Err(ObjectError::BadDigest("Content-MD5"));
        }
        known.checksums = digests_of(self.hasher);
        let agrees = |(algorithm, value): (&&str, &String)| known.checksums.get(*algorithm) == Some(value);
        if !self.expected.iter().all(agrees) {
            return Err(ObjectError::BadDigest("checksum"));
        }
        if !known.checksums.is_empty() {
            known.checksum_type = Some(FULL_OBJECT.to_owned());
        }
        Ok(())
    }
}

/// Keeps the checksum of the parts' checksums.
pub(super) struct Composite {
    pub(super) algorithm: &'static str,
    pub(super) value: String,
}

impl Watch for Composite {
    fn update(&mut self, _bytes: &[u8]) {}

    fn finish(self: Box<Self>, known: &mut Known) -> Result<(), ObjectError> {
        known.checksums = BTreeMap::from([(self.algorithm.to_owned(), self.value)]);
        known.checksum_type = Some(COMPOSITE.to_owned());
        Ok(())
    }
}

/// The checksum of the parts' checksums and their number; `None` when a part has none.
pub(super) fn composite_of(algorithm: &'static str, parts: &[Known]) -> Option<String> {
    let mut checks = Checks::computing(Some(algorithm), None);
    for part in parts {
        checks.hasher.update(&STANDARD.decode(part.checksums.get(algorithm)?).ok()?);
    }
    let value = digests_of(checks.hasher).remove(algorithm)?;
    Some(format!("{value}-{}", parts.len()))
}

/// The algorithm's name in headers, of any spelling.
pub(super) fn algorithm_of(name: &str) -> Option<&'static str> {
    ALGORITHMS.into_iter().find(|algorithm| algorithm.eq_ignore_ascii_case(name))
}

fn digests_of(hasher: ChecksumHasher) -> BTreeMap<String, String> {
    let digests = hasher.finalize();
    let by_name = [
        ("crc32", digests.checksum_crc32),
        ("crc32c", digests.checksum_crc32c),
        ("crc64nvme", digests.checksum_crc64nvme),
        ("sha1", digests.checksum_sha1),
        ("sha256", digests.checksum_sha256),
    ];
    by_name.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
