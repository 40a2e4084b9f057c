//! Names: which ones buckets and keys may have, and how a key lies in a folder.
//!
//! A key's segments become folders and a file. A folder carries a `%` at its end that no file does, so that the keys `a`
//! and `a/b` live side by side, and what a file system cannot hold is written as `%XX`: a key can never name anything
//! outside of its bucket, and two keys never share a file.

use std::path::PathBuf;

use crate::ObjectError;

/// Longest key, in bytes.
const KEY_BYTES: usize = 1024;
/// What one name of a file system holds, in bytes.
const NAME_BYTES: usize = 255;
/// Stands for the segment without a letter, as in `a//b` and `a/`.
const EMPTY_SEGMENT: &str = "%_";
const FOLDER_MARK: char = '%';

/// Holds a bucket's name against the rules of S3.
pub(crate) fn check_bucket(name: &str) -> Result<(), ObjectError> {
    let refuse = |reason| Err(ObjectError::bad_name(name, reason));
    if !(3..=63).contains(&name.len()) {
        return refuse("a bucket's name has 3 to 63 characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)) {
        return refuse("a bucket's name has lower-case letters, digits, `-` and `.` only");
    }
    if name.starts_with(['-', '.']) || name.ends_with(['-', '.']) || name.contains("..") {
        return refuse("a bucket's name starts and ends with a letter or digit, and has no `..`");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return refuse("a bucket's name does not look like an address");
    }
    Ok(())
}

/// Holds a key against the rules of S3.
pub(crate) fn check_key(key: &str) -> Result<(), ObjectError> {
    if key.is_empty() {
        return Err(ObjectError::bad_name(key, "a key is not empty"));
    }
    if key.len() > KEY_BYTES {
        return Err(ObjectError::bad_name(key, "a key has at most 1024 bytes"));
    }
    Ok(())
}

/// Where a key lies, below its bucket's folder.
pub(crate) fn file_of(key: &str) -> Result<PathBuf, ObjectError> {
    check_key(key)?;
    let mut path = PathBuf::new();
    let mut segments = key.split('/').peekable();
    while let Some(segment) = segments.next() {
        let mut name = encode(segment);
        if segments.peek().is_some() {
            name.push(FOLDER_MARK);
        }
        if name.len() > NAME_BYTES {
            return Err(ObjectError::bad_name(key, "a segment between two `/` is too long for a file's name"));
        }
        path.push(name);
    }
    Ok(path)
}

/// The segment that a name in a bucket's folder stands for, with a `/` at its end for a folder. `None` for what no key
/// can have made.
pub(crate) fn segment_of(name: &str) -> Option<String> {
    let (encoded, is_folder) = match name.strip_suffix(FOLDER_MARK) {
        Some(encoded) => (encoded, true),
        None => (name, false),
    };
    let mut segment = decode(encoded)?;
    if encode(&segment) != encoded {
        return None;
    }
    if is_folder {
        segment.push('/');
    }
    Some(segment)
}

fn encode(segment: &str) -> String {
    if segment.is_empty() {
        return EMPTY_SEGMENT.to_owned();
    }
    let mut name = String::with_capacity(segment.len());
    for (place, letter) in segment.char_indices() {
        let leads_to_hidden = place == 0 && letter == '.';
        if letter == '%' || letter.is_ascii_control() || leads_to_hidden {
            name.push_str(&format!("%{:02X}", u32::from(letter)));
        } else {
            name.push(letter);
        }
    }
    name
}

fn decode(encoded: &str) -> Option<String> {
    if encoded == EMPTY_SEGMENT {
        return Some(String::new());
    }
    if encoded.is_empty() {
        return None;
    }
    let mut segment = String::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((before, after)) = rest.split_once('%') {
        segment.push_str(before);
        let code = u8::from_str_radix(after.get(..2)?, 16).ok().filter(u8::is_ascii)?;
        segment.push(char::from(code));
        rest = after.get(2..)?;
    }
    segment.push_str(rest);
    Some(segment)
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    fn key_of(path: &std::path::Path) -> String {
        path.iter().map(|name| segment_of(name.to_str().unwrap()).unwrap()).collect()
    }

    #[test]
    fn awkward_keys_have_a_place_of_their_own() {
        for (key, path) in [
            ("train/normal/1.jpg", "train%/normal%/1.jpg"),
            ("a", "a"),
            ("a/", "a%/%_"),
            ("a//b", "a%/%_%/b"),
            ("/a", "%_%/a"),
            ("../../etc/passwd", "%2E.%/%2E.%/etc%/passwd"),
            (".", "%2E"),
            ("100%", "100%25"),
            ("nul\0", "nul%00"),
        ] {
            assert_eq!(file_of(key).unwrap().to_str(), Some(path), "{key:?}");
            assert_eq!(key_of(std::path::Path::new(path)), key);
        }
    }

    #[test]
    fn names_that_no_key_made_are_none() {
        for name in ["", "%", "%2", "%ZZ", "%41", "100%2f", ".hidden", "%%%"] {
            assert_eq!(segment_of(name), None, "{name:?}");
        }
    }

    #[test]
    fn buckets_have_names_as_in_s3() {
        for good in ["abc", "images.line-1", "123", &"a".repeat(63)] {
            assert!(check_bucket(good).is_ok(), "{good}");
        }
        for bad in ["ab", "Images", "a_b", "-ab", "ab-", "a..b", "..", "192.168.0.1", "a/b", "a\0b", &"a".repeat(64)] {
            assert!(check_bucket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_segment_longer_than_a_files_name_is_refused() {
        assert!(file_of(&"a".repeat(255)).is_ok());
        assert!(matches!(file_of(&"a".repeat(256)), Err(ObjectError::BadName { .. })));
        assert!(matches!(file_of(&"a/".repeat(600)), Err(ObjectError::BadName { .. })));
    }

    proptest! {
        #[test]
        fn no_key_leaves_its_bucket_and_each_is_found_again(key in r"([a-z%./\\~:*]|\PC|[\x00-\x1f]){1,60}") {
            let path = file_of(&key).unwrap();
            prop_assert!(path.components().all(|component| matches!(component, Component::Normal(_))));
            prop_assert_eq!(key_of(&path), key);
        }
    }
}
