//! One record, one line: its text, its hash, and how the next one refers to it. Pure.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::{Key, seal};

/// What the first record refers to.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Between what is sealed and the seal.
const BEFORE_SEAL: &str = ",\"hash\":\"";
const AFTER_SEAL: &str = "\"}";
const SEAL_CHARACTERS: usize = 64;

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The log was opened.
    Opened,
    /// The log was closed as it should be.
    Closed,
    /// A part was decided, and these files were kept of it.
    Part,
    /// The gate, or the broker, has a decision.
    Acknowledged,
    /// Something else that an auditor asks for: another model, a challenge, a change of settings.
    Note,
    /// Files were removed as the configuration says.
    Removed,
    /// A whole file of the log was removed as the configuration says.
    Retired,
    /// The end of the log was damaged, as by a power cut, and was put aside.
    Repaired,
}

/// A record as it is read back.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) n: u64,
    #[serde(with = "crate::moment")]
    pub(crate) at: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) body: Value,
    pub(crate) prev: String,
    pub(crate) hash: String,
}

#[derive(Serialize)]
struct Unsealed<'a> {
    n: u64,
    #[serde(serialize_with = "crate::moment::serialize")]
    at: Timestamp,
    kind: Kind,
    body: &'a Value,
    prev: &'a str,
}

/// The last record of a chain: whoever wrote it down elsewhere can tell whether the chain was cut or written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the record, from 1; 0 before the first.
    pub n: u64,
    /// Its hash.
    pub hash: String,
}

/// A head that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a head must be `number:hash` with a hash of 64 hexadecimal digits, got `{0}`")]
pub struct HeadError(String);

impl Head {
    /// Before the first record.
    pub(crate) fn genesis() -> Self {
        Self { n: 0, hash: GENESIS.to_owned() }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.n, self.hash)
    }
}

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let wrong = || HeadError(text.to_owned());
        let (n, hash) = text.trim().split_once(':').ok_or_else(wrong)?;
        let n = n.parse().map_err(|_| wrong())?;
        if hash.len() != SEAL_CHARACTERS || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        Ok(Self { n, hash: hash.to_ascii_lowercase() })
    }
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("is no record: {0}")]
    Form(String),
    #[error("was changed: its hash is another")]
    Changed,
    #[error("has number {got}, expected {expected}")]
    Number { got: u64, expected: u64 },
    #[error("does not follow the record before it")]
    Link,
}

/// The line of the next record, without its end, and the head that it makes.
pub(crate) fn write(key: Option<&Key>, head: &Head, at: Timestamp, kind: Kind, body: &Value) -> (String, Head) {
    let n = head.n + 1;
    let record = Unsealed { n, at, kind, body, prev: &head.hash };
    let mut line = serde_json::to_string(&record).expect("texts and numbers under fixed names always have a JSON form");
    line.pop();
    let hash = seal(key, line.as_bytes());
    let line = format!("{line}{BEFORE_SEAL}{hash}{AFTER_SEAL}");
    (line, Head { n, hash })
}

/// Reads a line without its end and holds its hash against its text.
pub(crate) fn read(key: Option<&Key>, line: &str) -> Result<Record, Broken> {
    let record: Record = serde_json::from_str(line).map_err(|error| Broken::Form(error.to_string()))?;
    let sealed = line.len().checked_sub(AFTER_SEAL.len() + SEAL_CHARACTERS + BEFORE_SEAL.len());
    let sealed = sealed.and_then(|end| line.get(..end)).ok_or(Broken::Changed)?;
    // The whole line again: only one text has this record's meaning.
    let expected = format!("{sealed}{BEFORE_SEAL}{}{AFTER_SEAL}", seal(key, sealed.as_bytes()));
    if expected != line {
        return Err(Broken::Changed);
    }
    Ok(record)
}

/// Whether a record follows a head.
pub(crate) fn follows(head: &Head, record: &Record) -> Result<(), Broken> {
    if record.n != head.n + 1 {
        return Err(Broken::Number { got: record.n, expected: head.n + 1 });
    }
    if record.prev != head.hash { Err(Broken::Link) } else { Ok(()) }
}

impl Record {
    pub(crate) fn head(&self) -> Head {
        Head { n: self.n, hash: self.hash.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn at() -> Timestamp {
        "2026-01-02T03:04:05.678901Z".parse().unwrap()
    }

    fn chain(bodies: &[Value]) -> Vec<String> {
        let mut head = Head::genesis();
        let mut lines = Vec::new();
        for body in bodies {
            let (line, next) = write(None, &head, at(), Kind::Part, body);
            lines.push(line);
            head = next;
        }
        lines
    }

    fn walk(lines: &[String]) -> Result<Head, Broken> {
        lines.iter().try_fold(Head::genesis(), |head, line| {
            let record = read(None, line)?;
            follows(&head, &record)?;
            Ok(record.head())
        })
    }

    #[test]
    fn a_record_is_written_as_documented() {
        let (line, head) = write(None, &Head::genesis(), at(), Kind::Note, &json!({"what": "model_swapped"}));
        let sealed = format!(
            "{{\"n\":1,\"at\":\"2026-01-02T03:04:05.678901Z\",\"kind\":\"note\",\"body\":{{\"what\":\"model_swapped\"}},\
             \"prev\":\"{GENESIS}\""
        );
        assert_eq!(line, format!("{sealed},\"hash\":\"{}\"}}", seal(None, sealed.as_bytes())));
        assert_eq!((head.n, head.to_string().parse()), (1, Ok(head.clone())));
    }

    #[test]
    fn removing_swapping_and_repeating_records_is_seen() {
        let lines = chain(&[json!(1), json!(2), json!(3), json!(4)]);
        assert_eq!(walk(&lines).unwrap().n, 4);
        let pick = |places: &[usize]| walk(&places.iter().map(|&place| lines[place].clone()).collect::<Vec<_>>());
        assert_eq!(pick(&[0, 2, 3]), Err(Broken::Number { got: 3, expected: 2 }));
        assert_eq!(pick(&[1, 2]), Err(Broken::Number { got: 2, expected: 1 }));
        assert_eq!(pick(&[0, 1, 1]), Err(Broken::Number { got: 2, expected: 3 }));
        let other = chain(&[json!("x"), json!(2)]);
        assert_eq!(walk(&[lines[0].clone(), other[1].clone()]), Err(Broken::Link));
    }

    #[test]
    fn a_chain_with_a_key_cannot_be_written_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let key = Key::read(&path).unwrap();
        let (line, _) = write(Some(&key), &Head::genesis(), at(), Kind::Part, &json!(1));
        assert!(read(Some(&key), &line).is_ok());
        assert_eq!(read(None, &line), Err(Broken::Changed));
        let (forged, _) = write(None, &Head::genesis(), at(), Kind::Part, &json!(1));
        assert_eq!(read(Some(&key), &forged), Err(Broken::Changed));
    }

    #[test]
    fn a_head_that_is_none_is_told() {
        for text in ["", "7", "7:abc", "x:00", &format!("-1:{GENESIS}"), &format!("1:{}", "g".repeat(64))] {
            assert_eq!(text.parse::<Head>(), Err(HeadError(text.to_owned())));
        }
    }

    proptest! {
        /// Whichever byte is changed, the line is no longer a record of the chain.
        #[test]
        fn every_changed_byte_is_seen(
            body in "\\PC{0,40}", place in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let (line, _) = write(None, &Head::genesis(), at(), Kind::Part, &json!({"text": body}));
            let mut bytes = line.clone().into_bytes();
            let place = place.index(bytes.len());
            prop_assume!(bytes[place] != byte);
            bytes[place] = byte;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert!(read(None, &changed).is_err(), "{changed}");
            }
        }
    }
}
