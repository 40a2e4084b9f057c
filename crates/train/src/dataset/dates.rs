//! The two forms in which manifests write dates.

use jiff::Timestamp;
use jiff::civil::DateTime;

/// Reads `2020-11-10T03:37:09.600` (UTC unless it says otherwise) and JavaScript's
/// `Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)`.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let zone_name = text.find(" (").unwrap_or(text.len());
    text.parse::<Timestamp>()
        .or_else(|_| {
            text.parse::<DateTime>().and_then(|utc| utc.to_zoned(jiff::tz::TimeZone::UTC)).map(|at| at.timestamp())
        })
        .or_else(|_| Timestamp::strptime("%a %b %d %Y %H:%M:%S GMT%z", &text[..zone_name]))
        .ok()
}

/// `2020-11-10T03:37:09.600000`, UTC, as the guide's manifests have it.
pub(crate) fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_name_the_same_moment() {
        for (written, meant) in [
            ("2022-08-22T20:52:51.851Z", "2022-08-22T20:52:51.851000"),
            ("2020-11-10T03:37:09.600", "2020-11-10T03:37:09.600000"),
            ("2020-05-22T21:33:37.201882", "2020-05-22T21:33:37.201882"),
            ("2022-08-22T13:52:52-07:00", "2022-08-22T20:52:52.000000"),
            ("Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)", "2022-08-22T20:52:52.000000"),
            ("Mon Aug 22 2022 13:52:52 GMT+0000", "2022-08-22T13:52:52.000000"),
        ] {
            assert_eq!(parse(written).map(format).as_deref(), Some(meant), "{written}");
        }
        assert_eq!(parse("22/08/2022"), None);
    }
}
