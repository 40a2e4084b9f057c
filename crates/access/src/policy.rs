//! What callers may do: policy documents in the form of the old service's security chapter, and how they are weighed.
//!
//! A document is a list of statements; a statement allows or denies actions on resources under conditions. What one denies,
//! nothing allows; what none allows is denied. What a document says that is not understood here is refused when it is read:
//! a condition that is passed over would let in whom it was to keep out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {told}")]
pub struct PolicyError {
    /// Where, as in `Statement[0].Effect`.
    at: String,
    /// What is wrong, and what is allowed.
    told: String,
}

/// A policy document as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    statements: Vec<Statement>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As in `lookoutvision:DetectAnomalies`.
    pub action: &'a str,
    /// The resource's ARN, or `*` for an action on none.
    pub resource: &'a str,
    /// What conditions are about: keys without regard to case, such as `aws:ResourceTag/stage`, with all their values.
    pub context: &'a Context,
}

/// What is known of a request, by condition key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<String, Vec<String>>);

/// Why a request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// A statement denies it.
    Explicitly,
    /// No statement allows it.
    NotAllowed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    is_allow: bool,
    actions: Patterns,
    resources: Patterns,
    conditions: Vec<Condition>,
}

/// What fits one of the patterns; or, inverted, none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Patterns {
    patterns: Vec<String>,
    is_inverted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    quantifier: Quantifier,
    test: Test,
    is_negated: bool,
    /// Holds when the request says nothing of the key.
    if_exists: bool,
    key: String,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    /// The key has one value.
    One,
    /// Every value of the key must fit.
    All,
    /// One value of the key must fit.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equals,
    EqualsIgnoreCase,
    Like,
    Bool,
    Address,
    /// The value says whether the key must be absent.
    Null,
}

const OPERATORS: [(&str, Test, bool); 12] = [
    ("StringEquals", Test::Equals, false),
    ("StringNotEquals", Test::Equals, true),
    ("StringEqualsIgnoreCase", Test::EqualsIgnoreCase, false),
    ("StringNotEqualsIgnoreCase", Test::EqualsIgnoreCase, true),
    ("StringLike", Test::Like, false),
    ("StringNotLike", Test::Like, true),
    ("ArnLike", Test::Like, false),
    ("ArnNotLike", Test::Like, true),
    ("Bool", Test::Bool, false),
    ("IpAddress", Test::Address, false),
    ("NotIpAddress", Test::Address, true),
    ("Null", Test::Null, false),
];

/// The condition keys that requests are described by; those that end in `/` go on with a tag's key.
const KEYS: [&str; 7] = [
    "aws:resourcetag/",
    "aws:requesttag/",
    "aws:tagkeys",
    "aws:username",
    "aws:principalarn",
    "aws:sourceip",
    "aws:securetransport",
];

impl Context {
    /// Says one more value of a condition key.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.0.entry(key.to_lowercase()).or_default().push(value.into());
    }

    fn values(&self, key: &str) -> Option<&[String]> {
        self.0.get(key).map(Vec::as_slice)
    }
}

impl Policy {
    /// Reads a document: `{"Statement": [...]}`, one statement in place of the list, or a bare statement as the old guide
    /// has them.
    ///
    /// # Errors
    /// When it is no JSON, or says anything that is not understood here.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let document: Value = serde_json::from_str(text).map_err(|error| wrong("document", error.to_string()))?;
        let document = document.as_object().ok_or_else(|| wrong("document", "must be a JSON object"))?;
        if document.contains_key("Effect") {
            return Ok(Self { statements: vec![statement("document", document)?] });
        }
        for key in document.keys() {
            if !["Version", "Id", "Statement"].contains(&key.as_str()) {
                return Err(wrong(key, "is not a part of a policy: Version, Id, Statement are"));
            }
        }
        if let Some(version) = document.get("Version")
            && ![Some("2012-10-17"), Some("2008-10-17")].contains(&version.as_str())
        {
            return Err(wrong("Version", format!("must be \"2012-10-17\" or \"2008-10-17\", got {version}")));
        }
        let listed = match document.get("Statement") {
            Some(Value::Array(listed)) => listed.iter().collect(),
            Some(one @ Value::Object(_)) => vec![one],
            _ => return Err(wrong("Statement", "must be a list of statements")),
        };
        let read = |(place, written): (usize, &Value)| {
            let at = format!("Statement[{place}]");
            let written = written.as_object().ok_or_else(|| wrong(&at, "must be a JSON object"))?;
            statement(&at, written)
        };
        Ok(Self { statements: listed.into_iter().enumerate().map(read).collect::<Result<_, _>>()? })
    }
}

impl Policy {
    /// Whether any statement is about the tags of resources, which cost a look into the store.
    #[must_use]
    pub fn asks_for_tags(&self) -> bool {
        let is_tag = |condition: &Condition| condition.key.starts_with("aws:resourcetag/");
        self.statements.iter().any(|statement| statement.conditions.iter().any(is_tag))
    }
}

/// Whether the policies together let the request through.
///
/// # Errors
/// When one of them denies it, or none allows it.
pub fn weigh<'a>(policies: impl IntoIterator<Item = &'a Policy>, request: &Request<'_>) -> Result<(), Denied> {
    let mut is_allowed = false;
    for statement in policies.into_iter().flat_map(|policy| &policy.statements) {
        if statement.is_about(request) {
            if !statement.is_allow {
                return Err(Denied::Explicitly);
            }
            is_allowed = true;
        }
    }
    if is_allowed { Ok(()) } else { Err(Denied::NotAllowed) }
}

impl Statement {
    fn is_about(&self, request: &Request<'_>) -> bool {
        let user = request.context.values("aws:username").and_then(<[String]>::first).map_or("", String::as_str);
        self.actions.fit(&request.action.to_lowercase(), user)
            && self.resources.fit(request.resource, user)
            && self.conditions.iter().all(|condition| condition.holds(request.context, user))
    }
}

impl Patterns {
    fn fit(&self, value: &str, user: &str) -> bool {
        self.patterns.iter().any(|pattern| is_like(pattern, value, user)) != self.is_inverted
    }
}

impl Condition {
    fn holds(&self, context: &Context, user: &str) -> bool {
        let known = context.values(&self.key);
        if self.test == Test::Null {
            let must_be_absent = self.values.iter().any(|value| value == "true");
            return known.is_none() == must_be_absent;
        }
        let Some(known) = known else {
            // Every value of nothing fits; and what is not there is not equal to anything.
            return match self.quantifier {
                Quantifier::All => true,
                Quantifier::Any => self.if_exists,
                Quantifier::One => self.if_exists || self.is_negated,
            };
        };
        let fits =
            |known: &String| self.values.iter().any(|wanted| self.test.fits(wanted, known, user)) != self.is_negated;
        match self.quantifier {
            Quantifier::All => known.iter().all(fits),
            Quantifier::One | Quantifier::Any => known.iter().any(fits),
        }
    }
}

impl Test {
    fn fits(self, wanted: &str, known: &str, user: &str) -> bool {
        match self {
            Self::Equals => wanted.replace(USER, user) == known,
            Self::EqualsIgnoreCase => wanted.replace(USER, user).to_lowercase() == known.to_lowercase(),
            Self::Like => is_like(wanted, known, user),
            Self::Bool => wanted.eq_ignore_ascii_case(known),
            Self::Address => known.parse().is_ok_and(|known| network(wanted).is_some_and(|net| net.holds(known))),
            Self::Null => false,
        }
    }
}

/// The one variable that patterns may hold.
const USER: &str = "${aws:username}";

/// Whether a text is what a pattern with `*` and `?` says. The variable stands for a name, not for a pattern.
fn is_like(pattern: &str, text: &str, user: &str) -> bool {
    #[derive(PartialEq)]
    enum Piece {
        Any,
        One,
        Just(char),
    }
    let mut pieces = Vec::new();
    for (place, fixed) in pattern.split(USER).enumerate() {
        if place > 0 {
            pieces.extend(user.chars().map(Piece::Just));
        }
        pieces.extend(fixed.chars().map(|letter| match letter {
            '*' => Piece::Any,
            '?' => Piece::One,
            letter => Piece::Just(letter),
        }));
    }
    let text: Vec<char> = text.chars().collect();
    // One row for each piece: whether the pieces so far make the text so far. No pattern takes longer than the product.
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for piece in &pieces {
        let mut next = vec![false; text.len() + 1];
        next[0] = fits[0] && *piece == Piece::Any;
        for (place, letter) in text.iter().enumerate() {
            next[place + 1] = match piece {
                Piece::Any => next[place] || fits[place + 1],
                Piece::One => fits[place],
                Piece::Just(wanted) => fits[place] && wanted == letter,
            };
        }
        fits = next;
    }
    fits[text.len()]
}

/// An address and how many of its bits count.
struct Network(IpAddr, u32);

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        match (self.0, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - self.1).unwrap_or(0);
                u32::from(net) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - self.1).unwrap_or(0);
                u128::from(net) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

/// `192.0.2.0/24`, or one address.
fn network(written: &str) -> Option<Network> {
    let (address, bits) = match written.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (written, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some(Network(address, bits))
}

fn wrong(at: &str, told: impl Into<String>) -> PolicyError {
    PolicyError { at: at.to_owned(), told: told.into() }
}

fn statement(at: &str, written: &Map<String, Value>) -> Result<Statement, PolicyError> {
    const PARTS: [&str; 7] = ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"];
    let below = |part: &str| format!("{at}.{part}");
    for key in written.keys() {
        if !PARTS.contains(&key.as_str()) {
            return Err(wrong(&below(key), format!("is not a part of a statement: {} are", PARTS.join(", "))));
        }
    }
    let is_allow = match written.get("Effect").and_then(Value::as_str) {
        Some("Allow") => true,
        Some("Deny") => false,
        _ => return Err(wrong(&below("Effect"), "must be \"Allow\" or \"Deny\"")),
    };
    let patterns = |part: &str, inverse: &str| {
        let (part, is_inverted) = match (written.get(part), written.get(inverse)) {
            (Some(_), Some(_)) => return Err(wrong(&below(inverse), format!("must not stand beside {part}"))),
            (None, Some(_)) => (inverse, true),
            _ => (part, false),
        };
        let patterns = texts(&below(part), written.get(part).unwrap_or(&Value::Null))?;
        if patterns.is_empty() {
            return Err(wrong(&below(part), "must name at least one"));
        }
        variables_are_known(&below(part), &patterns)?;
        Ok(Patterns { patterns, is_inverted })
    };
    let mut actions = patterns("Action", "NotAction")?;
    for action in &mut actions.patterns {
        if action != "*" && !action.contains(':') {
            return Err(wrong(&below("Action"), format!("must be `*` or service:name, got `{action}`")));
        }
        *action = action.to_lowercase();
    }
    let resources = patterns("Resource", "NotResource")?;
    let mut conditions = Vec::new();
    if let Some(listed) = written.get("Condition") {
        let listed = listed.as_object().ok_or_else(|| wrong(&below("Condition"), "must be a JSON object"))?;
        for (operator, keys) in listed {
            let at = below(&format!("Condition.{operator}"));
            let keys = keys.as_object().ok_or_else(|| wrong(&at, "must be a JSON object of keys and values"))?;
            for (key, values) in keys {
                conditions.push(condition(&at, operator, key, values)?);
            }
        }
    }
    Ok(Statement { is_allow, actions, resources, conditions })
}

fn condition(at: &str, operator: &str, key: &str, values: &Value) -> Result<Condition, PolicyError> {
    let (quantifier, plain) = match operator.split_once(':') {
        Some(("ForAllValues", plain)) => (Quantifier::All, plain),
        Some(("ForAnyValue", plain)) => (Quantifier::Any, plain),
        _ => (Quantifier::One, operator),
    };
    let (plain, if_exists) = match plain.strip_suffix("IfExists") {
        Some(plain) => (plain, true),
        None => (plain, false),
    };
    let known = OPERATORS.iter().find(|(name, ..)| *name == plain);
    let Some((_, test, is_negated)) = known else {
        let names: Vec<&str> = OPERATORS.iter().map(|(name, ..)| *name).collect();
        return Err(wrong(at, format!("is not an operator that is known here: {} are", names.join(", "))));
    };
    let at = format!("{at}.{key}");
    let lower = key.to_lowercase();
    let is_known = |known: &str| match known.strip_suffix('/') {
        Some(_) => lower.len() > known.len() && lower.starts_with(known),
        None => lower == known,
    };
    if !KEYS.iter().any(|known| is_known(known)) {
        return Err(wrong(&at, format!("is not a condition key that is known here: {} are", KEYS.join(", "))));
    }
    let values = texts(&at, values)?;
    variables_are_known(&at, &values)?;
    let is_wrong = |value: &&String| match test {
        Test::Bool | Test::Null => !["true", "false"].contains(&value.as_str()),
        Test::Address => network(value).is_none(),
        _ => false,
    };
    if let Some(value) = values.iter().find(is_wrong) {
        let allowed =
            if *test == Test::Address { "an address or a network such as 192.0.2.0/24" } else { "true or false" };
        return Err(wrong(&at, format!("must be {allowed}, got `{value}`")));
    }
    Ok(Condition { quantifier, test: *test, is_negated: *is_negated, if_exists, key: lower, values })
}

/// One text or a list of them; true and false count as texts.
fn texts(at: &str, value: &Value) -> Result<Vec<String>, PolicyError> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => Err(wrong(at, "must be a text or a list of texts")),
    };
    match value {
        Value::Array(listed) => listed.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn variables_are_known(at: &str, texts: &[String]) -> Result<(), PolicyError> {
    match texts.iter().find(|text| text.replace(USER, "").contains("${")) {
        Some(text) => Err(wrong(at, format!("may hold the variable {USER} and no other, got `{text}`"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODEL: &str = "arn:aws:lookoutvision:us-east-1:123456789012:model/myproject/1";

    fn context(pairs: &[(&str, &str)]) -> Context {
        let mut context = Context::default();
        pairs.iter().for_each(|(key, value)| context.add(key, *value));
        context
    }

    fn weighed(policy: &str, action: &str, resource: &str, pairs: &[(&str, &str)]) -> Result<(), Denied> {
        let policy = Policy::parse(policy).unwrap_or_else(|error| panic!("{error}: {policy}"));
        weigh([&policy], &Request { action, resource, context: &context(pairs) })
    }

    #[test]
    fn the_guides_policies_do_what_it_says() {
        let detect_one = r#"{"Effect": "Allow", "Action": ["lookoutvision:DetectAnomalies"],
            "Resource": "arn:aws:lookoutvision:us-east-1:123456789012:model/myproject/*"}"#;
        assert_eq!(weighed(detect_one, "lookoutvision:DetectAnomalies", MODEL, &[]), Ok(()));
        let other = MODEL.replace("myproject", "other");
        assert_eq!(weighed(detect_one, "lookoutvision:DetectAnomalies", &other, &[]), Err(Denied::NotAllowed));
        assert_eq!(weighed(detect_one, "lookoutvision:StopModel", MODEL, &[]), Err(Denied::NotAllowed));
        let by_tag = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
            "Action": ["LookoutVision:DetectAnomalies"], "Resource": "*",
            "Condition": {"StringEquals": {"aws:ResourceTag/stage": "production"}}}]}"#;
        let tag = ("aws:ResourceTag/stage", "production");
        assert_eq!(weighed(by_tag, "lookoutvision:DetectAnomalies", MODEL, &[tag]), Ok(()));
        for pairs in [&[][..], &[("aws:ResourceTag/stage", "Production")], &[("aws:RequestTag/stage", "production")]] {
            assert_eq!(weighed(by_tag, "lookoutvision:DetectAnomalies", MODEL, pairs), Err(Denied::NotAllowed));
        }
        let refuse = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "lookoutvision:*", "Resource": "*"},
            {"Effect": "Deny", "Action": ["LookoutVision:DeleteModel", "LookoutVision:StopModel"], "Resource": "*",
            "Condition": {"StringEquals": {"aws:ResourceTag/stage": "production"}}}]}"#;
        assert_eq!(weighed(refuse, "lookoutvision:StopModel", MODEL, &[tag]), Err(Denied::Explicitly));
        assert_eq!(weighed(refuse, "lookoutvision:StopModel", MODEL, &[]), Ok(()));
        assert_eq!(weighed(refuse, "lookoutvision:StartModel", MODEL, &[tag]), Ok(()));
    }

    #[test]
    fn conditions_hold_as_the_table_says() {
        type Known = &'static [(&'static str, &'static str)];
        let cases: [(&str, Known, bool); 20] = [
            (r#"{"StringNotEquals": {"aws:username": "anna"}}"#, &[("aws:username", "ben")], true),
            (r#"{"StringNotEquals": {"aws:username": "anna"}}"#, &[("aws:username", "anna")], false),
            (r#"{"StringNotEquals": {"aws:ResourceTag/a": "b"}}"#, &[], true),
            (r#"{"StringEqualsIfExists": {"aws:ResourceTag/a": "b"}}"#, &[], true),
            (r#"{"StringEqualsIfExists": {"aws:ResourceTag/a": "b"}}"#, &[("aws:ResourceTag/a", "c")], false),
            (r#"{"StringEqualsIgnoreCase": {"aws:resourcetag/A": "B"}}"#, &[("aws:ResourceTag/a", "b")], true),
            (r#"{"StringLike": {"aws:ResourceTag/a": ["x", "b*d?"]}}"#, &[("aws:ResourceTag/a", "bccde")], true),
            (r#"{"StringLike": {"aws:ResourceTag/a": "b*d?"}}"#, &[("aws:ResourceTag/a", "bcd")], false),
            (
                r#"{"StringEquals": {"aws:ResourceTag/owner": "${aws:username}"}}"#,
                &[("aws:username", "anna"), ("aws:ResourceTag/owner", "anna")],
                true,
            ),
            (
                r#"{"StringEquals": {"aws:ResourceTag/owner": "${aws:username}"}}"#,
                &[("aws:username", "anna"), ("aws:ResourceTag/owner", "ben")],
                false,
            ),
            (
                r#"{"StringLike": {"aws:ResourceTag/owner": "${aws:username}"}}"#,
                &[("aws:username", "*"), ("aws:ResourceTag/owner", "ben")],
                false,
            ),
            (r#"{"Bool": {"aws:SecureTransport": false}}"#, &[("aws:SecureTransport", "false")], true),
            (r#"{"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}"#, &[("aws:SourceIp", "192.0.2.77")], true),
            (r#"{"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}"#, &[("aws:SourceIp", "192.0.3.77")], false),
            (r#"{"NotIpAddress": {"aws:SourceIp": ["::1", "10.0.0.0/8"]}}"#, &[("aws:SourceIp", "10.9.9.9")], false),
            (r#"{"Null": {"aws:ResourceTag/a": "true"}}"#, &[], true),
            (r#"{"Null": {"aws:ResourceTag/a": "false"}}"#, &[], false),
            (
                r#"{"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}"#,
                &[("aws:TagKeys", "a"), ("aws:TagKeys", "c")],
                false,
            ),
            (r#"{"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}"#, &[], true),
            (
                r#"{"ForAnyValue:StringEquals": {"aws:TagKeys": ["a", "b"]}}"#,
                &[("aws:TagKeys", "c"), ("aws:TagKeys", "b")],
                true,
            ),
        ];
        for (written, pairs, is_held) in cases {
            let policy = format!(
                r#"{{"Statement": {{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {written}}}}}"#
            );
            assert_eq!(weighed(&policy, "s3:GetObject", "*", pairs).is_ok(), is_held, "{written} {pairs:?}");
        }
    }

    #[test]
    fn all_but_named_actions_and_resources() {
        let policy = r#"{"Statement": [{"Effect": "Allow", "NotAction": "lookoutvision:Delete*",
            "NotResource": "arn:aws:s3:::secret/*"}]}"#;
        assert_eq!(weighed(policy, "lookoutvision:DescribeModel", MODEL, &[]), Ok(()));
        assert_eq!(weighed(policy, "lookoutvision:deleteModel", MODEL, &[]), Err(Denied::NotAllowed));
        assert_eq!(weighed(policy, "s3:GetObject", "arn:aws:s3:::secret/a/b", &[]), Err(Denied::NotAllowed));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_place() {
        let statement = |rest: &str| {
            format!(r#"{{"Statement": [{{"Effect": "Allow", "Action": "s3:*", "Resource": "*"{rest}}}]}}"#)
        };
        let cases = [
            ("[]".to_owned(), "document: must be a JSON object"),
            ("{".to_owned(), "document: EOF"),
            ("{}".to_owned(), "Statement: must be a list"),
            (r#"{"Version": "2020", "Statement": []}"#.to_owned(), "Version: must be"),
            (r#"{"Statements": []}"#.to_owned(), "Statements: is not a part"),
            (r#"{"Statement": [{"Effect": "allow"}]}"#.to_owned(), "Statement[0].Effect: must be"),
            (r#"{"Statement": [{"Effect": "Deny", "Resource": "*"}]}"#.to_owned(), "Statement[0].Action: must be"),
            (r#"{"Statement": [{"Effect": "Deny", "Action": [], "Resource": "*"}]}"#.to_owned(), "Action: must name"),
            (r#"{"Statement": [{"Effect": "Deny", "Action": "Stop", "Resource": "*"}]}"#.to_owned(), "got `Stop`"),
            (statement(r#", "Principal": "*""#), "Statement[0].Principal: is not a part"),
            (statement(r#", "NotAction": "s3:*""#), "Statement[0].NotAction: must not stand beside Action"),
            (
                statement(r#", "Condition": {"DateLessThan": {"aws:CurrentTime": "x"}}"#),
                "Condition.DateLessThan: is not",
            ),
            (
                statement(r#", "Condition": {"StringEquals": {"aws:CurrentTime": "x"}}"#),
                "StringEquals.aws:CurrentTime: is not",
            ),
            (statement(r#", "Condition": {"IpAddress": {"aws:SourceIp": "1.2.3.4/33"}}"#), "got `1.2.3.4/33`"),
            (statement(r#", "Condition": {"StringEquals": {"aws:username": "${aws:userid}"}}"#), "got `${aws:userid}`"),
        ];
        for (policy, told) in cases {
            let error = Policy::parse(&policy).unwrap_err().to_string();
            assert!(error.contains(told), "{policy}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_says_what_a_naive_reading_says(pattern in "[ab*?]{0,8}", text in "[abc]{0,10}") {
            fn naive(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern, text) {
                    ([], text) => text.is_empty(),
                    ([b'*', rest @ ..], text) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
                    ([b'?', rest @ ..], [_, text @ ..]) => naive(rest, text),
                    ([wanted, rest @ ..], [letter, text @ ..]) => wanted == letter && naive(rest, text),
                    (_, []) => false,
                }
            }
            prop_assert_eq!(is_like(&pattern, &text, ""), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            let _ = Policy::parse(&text);
        }
    }
}
