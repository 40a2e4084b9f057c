//! Percent-encoding, strictly: what is no encoding is refused, not guessed at.

use crate::Fault;

/// `place` is told in the fault: `path` or `query`.
pub(crate) fn decoded(written: &str, place: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let Some((high, low)) = after.first().and_then(digit).zip(after.get(1).and_then(digit)) else {
            return Err(Fault::validation(format!("the {place} holds a `%` without two hexadecimal digits")));
        };
        bytes.push(high * 16 + low);
        rest = after.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| Fault::validation(format!("the {place} is not UTF-8 once it is decoded")))
}

fn digit(byte: &u8) -> Option<u8> {
    char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The names and values of a query, in the order sent.
pub(crate) fn query(written: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut pairs = Vec::new();
    for pair in written.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A plus is a space in a query, as it is to a form.
        let part = |written: &str| decoded(&written.replace('+', " "), "query");
        pairs.push((part(name)?, part(value)?));
    }
    Ok(pairs)
}
