//! What a trigger's or an encoder's message says: a bare whole number, or `{"trigger": 17, "encoder": 4711, "at": "..."}`.

use jiff::{SignedDuration, Timestamp};
use linewarden_core::parts::Trigger;
use serde::Deserialize;

/// A moment further ahead of this machine's clock than this is a wrong clock.
const FURTHEST_AHEAD: SignedDuration = SignedDuration::from_secs(10);

/// A message, and when what it tells happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    number: Option<i128>,
    trigger: Option<u64>,
    encoder: Option<i64>,
    at: Timestamp,
}

/// Fields that we do not know are whoever sends them's own.
#[derive(Deserialize)]
struct Written {
    trigger: Option<u64>,
    encoder: Option<i64>,
    at: Option<String>,
}

/// What a message says that came at `now`.
pub(super) fn read(payload: &[u8], now: Timestamp) -> Result<Message, String> {
    let text = str::from_utf8(payload).map_err(|_| "it is no text in UTF-8".to_owned())?.trim();
    if let Ok(number) = text.parse::<i128>() {
        return Ok(Message { number: Some(number), trigger: None, encoder: None, at: now });
    }
    let written: Written = serde_json::from_str(text).map_err(|error| {
        format!("it is neither a whole number nor an object with `trigger`, `encoder`, `at`: {error}")
    })?;
    let at = written.at.map(|at| at.parse::<Timestamp>().map_err(|error| format!("`at`: {error}"))).transpose()?;
    let at = at.unwrap_or(now);
    if at.duration_since(now) > FURTHEST_AHEAD {
        return Err(format!("`at` is {at}, which is ahead of this machine's clock"));
    }
    Ok(Message { number: None, trigger: written.trigger, encoder: written.encoder, at })
}

impl Message {
    /// As a trigger; one without a number is counted by whoever hears it.
    pub(super) fn trigger(self) -> Result<Trigger, String> {
        let bare = self.number.map(u64::try_from).transpose();
        let bare = bare.map_err(|_| "a trigger's number must be from 0 to 18446744073709551615".to_owned())?;
        Ok(Trigger { number: bare.or(self.trigger), encoder: self.encoder, at: self.at })
    }

    /// As an encoder's count, and when it stood there.
    pub(super) fn count(self) -> Result<(i64, Timestamp), String> {
        let bare = self.number.map(i64::try_from).transpose();
        let bare = bare.map_err(|_| "an encoder's count must fit into 64 bits".to_owned())?;
        let count = bare.or(self.encoder).ok_or("it has no `encoder`")?;
        Ok((count, self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_trigger_is_a_number_or_an_object_that_may_say_more() {
        let trigger = |text: &str| read(text.as_bytes(), now()).and_then(Message::trigger);
        let earlier = "2026-03-01T11:59:59.5Z".parse().unwrap();
        let table = [
            ("17", Some(17), None, now()),
            (" 17\r\n", Some(17), None, now()),
            ("{}", None, None, now()),
            (r#"{"trigger":3,"plc":"a","encoder":-9}"#, Some(3), Some(-9), now()),
            (r#"{"trigger":3,"at":"2026-03-01T12:59:59.5+01:00"}"#, Some(3), None, earlier),
        ];
        for (text, number, encoder, at) in table {
            assert_eq!(trigger(text), Ok(Trigger { number, encoder, at }), "{text}");
        }
        for text in ["", "-1", "99999999999999999999", "1.5", "[1]", r#"{"trigger":-1}"#, r#"{"trigger":"7"}"#, "\u{1}"]
        {
            assert!(trigger(text).is_err(), "{text}");
        }
        let ahead = trigger(r#"{"trigger":3,"at":"2026-03-01T13:00:00Z"}"#).unwrap_err();
        assert!(ahead.ends_with("ahead of this machine's clock"), "{ahead}");
        assert!(read(b"\xff", now()).is_err());
    }

    #[test]
    fn a_count_may_be_negative_and_must_be_there() {
        let count = |text: &str| read(text.as_bytes(), now()).and_then(Message::count);
        assert_eq!(count("-12"), Ok((-12, now())));
        assert_eq!(count(r#"{"encoder":5}"#), Ok((5, now())));
        assert_eq!(count(r#"{"trigger":5}"#), Err("it has no `encoder`".to_owned()));
        assert!(count("9999999999999999999").is_err());
    }
}
