//! Values out of a checked input, and into an answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// What a client asks for, by member name: only members that the contract knows, all within their constraints.
pub type Input = Map<String, Value>;

/// A member that is text.
#[must_use]
pub fn text<'i>(input: &'i Input, member: &str) -> Option<&'i str> {
    input.get(member)?.as_str()
}

/// A member that is a whole number.
#[must_use]
pub fn number(input: &Input, member: &str) -> Option<u64> {
    input.get(member)?.as_u64()
}

/// A member that is true or false.
#[must_use]
pub fn flag(input: &Input, member: &str) -> Option<bool> {
    input.get(member)?.as_bool()
}

/// A member that is a moment.
#[must_use]
pub fn timestamp(input: &Input, member: &str) -> Option<jiff::Timestamp> {
    text(input, member)?.parse().ok()
}

/// A member that is bytes; none when it was not given.
#[must_use]
pub fn blob(input: &Input, member: &str) -> Vec<u8> {
    text(input, member).and_then(|encoded| STANDARD.decode(encoded).ok()).unwrap_or_default()
}

/// A moment as answers write it: seconds since 1970, to the millisecond.
#[must_use]
pub fn write_timestamp(moment: jiff::Timestamp) -> Value {
    // Exact: a moment of jiff has far fewer than 2^53 milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let seconds = moment.as_millisecond() as f64 / 1000.0;
    Value::from(seconds)
}
