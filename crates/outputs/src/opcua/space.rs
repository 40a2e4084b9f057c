//! The address space: our types, an object a line, and what their nodes hold.

use jiff::Timestamp;
use linewarden_core::{Action, Decision, Verdict};
use opcua::nodes::{
    AccessLevel, DataTypeBuilder, EventNotifier, ObjectBuilder, ObjectTypeBuilder, ReferenceDirection, VariableBuilder,
};
use opcua::server::address_space::AddressSpace;
use opcua::types::{
    DataTypeDefinition, DataTypeId, DataValue, DateTime, EnumDefinition, EnumField, LocalizedText, NodeId, ObjectId,
    ObjectTypeId, QualifiedName, ReferenceTypeId, StatusCode, UAString, VariableTypeId, Variant,
};

use crate::mailbox::LineNow;

/// What a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    UInt32,
    UInt64,
    Int64,
    Double,
    Text,
    Moment,
    Verdict,
    Action,
}

/// A line's variables: folder (or none), name, type.
pub(crate) const FIELDS: [(&str, &str, Kind); 25] = [
    ("", "State", Kind::Text),
    ("", "Heartbeat", Kind::UInt32),
    ("", "Fresh", Kind::Boolean),
    ("", "StopRequested", Kind::Boolean),
    ("Counts", "Pass", Kind::UInt64),
    ("Counts", "Reject", Kind::UInt64),
    ("Counts", "Unknown", Kind::UInt64),
    ("Result", "Camera", Kind::Text),
    ("Result", "Score", Kind::Double),
    ("Result", "Threshold", Kind::Double),
    ("Result", "Anomalous", Kind::Boolean),
    ("Decision", "Number", Kind::UInt64),
    ("Decision", "Part", Kind::UInt64),
    ("Decision", "Trigger", Kind::UInt64),
    ("Decision", "Encoder", Kind::Int64),
    ("Decision", "Verdict", Kind::Verdict),
    ("Decision", "Action", Kind::Action),
    ("Decision", "Reason", Kind::Text),
    ("Decision", "Clock", Kind::Text),
    ("Decision", "CapturedAt", Kind::Moment),
    ("Decision", "DecidedAt", Kind::Moment),
    ("Decision", "RejectAt", Kind::Moment),
    ("Decision", "ExpiresAt", Kind::Moment),
    ("Decision", "LastVerdict", Kind::Verdict),
    ("Decision", "LastAction", Kind::Action),
];
/// Where the folders begin in it, and the two that show only what is live.
const RESULT: usize = 7;
const DECISION: usize = 11;
const VERDICT: usize = 15;
const ACTION: usize = 16;

const VERDICTS: [&str; 4] = ["none", "pass", "reject", "unknown"];
const ACTIONS: [&str; 4] = ["none", "pass", "reject", "stop"];

/// The fields of a decision's event, which has the values of the folder `Decision` but for the last two.
pub(crate) fn event_fields() -> impl Iterator<Item = (&'static str, Kind)> {
    std::iter::once(("Line", Kind::Text))
        .chain(FIELDS[DECISION..].iter().take(12).map(|(_, name, kind)| (*name, *kind)))
}

/// A line as its nodes show it.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) decision: Option<(u64, std::sync::Arc<Decision>)>,
    pub(crate) is_live: bool,
    pub(crate) heartbeat: u32,
}

pub(crate) fn node(namespace: u16, path: &str) -> NodeId {
    NodeId::new(namespace, path)
}

pub(crate) fn event_type(namespace: u16) -> NodeId {
    node(namespace, "DecisionEventType")
}

/// `cap/Decision/Part`.
pub(crate) fn variable(namespace: u16, owner: &str, (folder, name, _): &(&str, &str, Kind)) -> NodeId {
    match folder.is_empty() {
        true => node(namespace, &format!("{owner}/{name}")),
        false => node(namespace, &format!("{owner}/{folder}/{name}")),
    }
}

impl Kind {
    fn data_type(self, namespace: u16) -> NodeId {
        let built_in = match self {
            Self::Verdict => return node(namespace, "Verdict"),
            Self::Action => return node(namespace, "Action"),
            Self::Boolean => DataTypeId::Boolean,
            Self::UInt32 => DataTypeId::UInt32,
            Self::UInt64 => DataTypeId::UInt64,
            Self::Int64 => DataTypeId::Int64,
            Self::Double => DataTypeId::Double,
            Self::Text => DataTypeId::String,
            Self::Moment => DataTypeId::UtcTime,
        };
        built_in.into()
    }
}

/// Types first, then an object for each line.
pub(crate) fn build(space: &mut AddressSpace, namespace: u16, lines: &[String]) {
    enumeration(space, namespace, "Verdict", &VERDICTS);
    enumeration(space, namespace, "Action", &ACTIONS);
    let line_type = node(namespace, "LineType");
    ObjectTypeBuilder::new(&line_type, QualifiedName::new(namespace, "LineType"), "LineType")
        .description("A conveyor with its cameras and its reject gate")
        .subtype_of(ObjectTypeId::BaseObjectType)
        .generates_event(event_type(namespace))
        .insert(space);
    members(space, namespace, "LineType", true);
    ObjectTypeBuilder::new(
        &event_type(namespace),
        QualifiedName::new(namespace, "DecisionEventType"),
        "DecisionEventType",
    )
    .description("A part was decided")
    .subtype_of(ObjectTypeId::BaseEventType)
    .insert(space);
    for (name, kind) in event_fields() {
        let id = node(namespace, &format!("DecisionEventType/{name}"));
        VariableBuilder::new(&id, QualifiedName::new(namespace, name), name)
            .data_type(kind.data_type(namespace))
            .has_type_definition(VariableTypeId::PropertyType)
            .has_modelling_rule(ObjectId::ModellingRule_Mandatory)
            .property_of(event_type(namespace))
            .insert(space);
    }
    let folder = node(namespace, "Lines");
    space.add_folder(&folder, QualifiedName::new(namespace, "Lines"), "Lines", &ObjectId::ObjectsFolder.into());
    for line in lines {
        ObjectBuilder::new(&node(namespace, line), QualifiedName::new(namespace, line.as_str()), line.as_str())
            .event_notifier(EventNotifier::SUBSCRIBE_TO_EVENTS)
            .has_type_definition(line_type.clone())
            .reference(folder.clone(), ReferenceTypeId::Organizes, ReferenceDirection::Inverse)
            .reference(ObjectId::Server, ReferenceTypeId::HasNotifier, ReferenceDirection::Inverse)
            .insert(space);
        members(space, namespace, line, false);
    }
}

fn enumeration(space: &mut AddressSpace, namespace: u16, name: &str, words: &[&str]) {
    let fields = words.iter().zip(0..).map(|(word, value)| EnumField {
        value,
        display_name: LocalizedText::from(*word),
        description: LocalizedText::null(),
        name: UAString::from(*word),
    });
    let definition = EnumDefinition { fields: Some(fields.collect()) };
    let id = node(namespace, name);
    DataTypeBuilder::new(&id, QualifiedName::new(namespace, name), name)
        .data_type_definition(DataTypeDefinition::Enum(definition))
        .subtype_of(DataTypeId::Enumeration)
        .insert(space);
    let strings: Vec<LocalizedText> = words.iter().map(|word| LocalizedText::from(*word)).collect();
    VariableBuilder::new(&node(namespace, &format!("{name}/EnumStrings")), "EnumStrings", "EnumStrings")
        .data_type(DataTypeId::LocalizedText)
        .value_rank(1)
        .array_dimensions(&[u32::try_from(words.len()).unwrap_or(0)])
        .value(strings)
        .has_type_definition(VariableTypeId::PropertyType)
        .has_modelling_rule(ObjectId::ModellingRule_Mandatory)
        .property_of(id)
        .insert(space);
}

/// The members of the type, or of an object of it.
fn members(space: &mut AddressSpace, namespace: u16, owner: &str, is_type: bool) {
    for folder in ["Counts", "Result", "Decision"] {
        let id = node(namespace, &format!("{owner}/{folder}"));
        let builder = ObjectBuilder::new(&id, QualifiedName::new(namespace, folder), folder)
            .has_type_definition(ObjectTypeId::BaseObjectType)
            .component_of(node(namespace, owner));
        let rule: NodeId = ObjectId::ModellingRule_Mandatory.into();
        let builder = match is_type {
            true => builder.reference(rule, ReferenceTypeId::HasModellingRule, ReferenceDirection::Forward),
            false => builder,
        };
        builder.insert(space);
    }
    for field @ (folder, name, kind) in &FIELDS {
        let parent = if folder.is_empty() { owner.to_owned() } else { format!("{owner}/{folder}") };
        let builder =
            VariableBuilder::new(&variable(namespace, owner, field), QualifiedName::new(namespace, *name), *name)
                .data_type(kind.data_type(namespace))
                .access_level(AccessLevel::CURRENT_READ)
                .user_access_level(AccessLevel::CURRENT_READ)
                .minimum_sampling_interval(0.0)
                .has_type_definition(VariableTypeId::BaseDataVariableType)
                .component_of(node(namespace, &parent));
        match is_type {
            true => builder.has_modelling_rule(ObjectId::ModellingRule_Mandatory).insert(space),
            false => builder.insert(space),
        };
    }
}

/// What a line's variables hold, in the order of [`FIELDS`].
///
/// Once a decision's time has passed `Fresh` is false, `Verdict` and `Action` are `none`, and the rest of it says that it is
/// the last usable value. Without a camera the same is said of the result, and of everything once the line has stopped.
pub(crate) fn values(line: &LineNow, shown: &Shown, now: Timestamp) -> Vec<DataValue> {
    let decision = shown.decision.as_ref();
    let stop = decision.is_some_and(|(_, decision)| decision.action == Action::Stop);
    let score = line.score.as_ref();
    let good = |value: Variant| data(Some(value), StatusCode::Good, now);
    let mut values = vec![
        good(text(line.state)),
        good(Variant::UInt32(shown.heartbeat)),
        good(Variant::Boolean(shown.is_live)),
        good(Variant::Boolean(line.state == "stop_requested" || stop)),
        good(Variant::UInt64(line.counts.pass)),
        good(Variant::UInt64(line.counts.reject)),
        good(Variant::UInt64(line.counts.unknown)),
    ];
    let result_status = match (score, line.state) {
        (None, _) => StatusCode::BadWaitingForInitialData,
        (Some(_), "running" | "stop_requested") => StatusCode::Good,
        (Some(_), _) => StatusCode::UncertainLastUsableValue,
    };
    let scored_at = score.map_or(now, |score| score.captured_at);
    values.extend([
        data(score.map(|score| text(&score.camera)), result_status, scored_at),
        data(score.map(|score| Variant::Double(score.score)), result_status, scored_at),
        data(score.map(|score| Variant::Double(score.threshold)), result_status, scored_at),
        data(score.map(|score| Variant::Boolean(score.is_anomalous)), result_status, scored_at),
    ]);
    match decision {
        None => {
            let waiting = || data(None, StatusCode::BadWaitingForInitialData, now);
            values.extend((DECISION..FIELDS.len()).map(|_| waiting()));
            values[VERDICT] = good(Variant::Int32(0));
            values[ACTION] = good(Variant::Int32(0));
        }
        Some((number, decision)) => {
            let status = if shown.is_live { StatusCode::Good } else { StatusCode::UncertainLastUsableValue };
            let decided = decision_values(*number, decision);
            let last = [decided[VERDICT - DECISION].clone(), decided[ACTION - DECISION].clone()];
            values.extend(decided.into_iter().chain(last).map(|value| data(Some(value), status, decision.decided_at)));
            if !shown.is_live {
                values[VERDICT] = good(Variant::Int32(0));
                values[ACTION] = good(Variant::Int32(0));
            }
        }
    }
    if line.state == "stopped" {
        values[1..].iter_mut().for_each(|value| value.status = Some(StatusCode::BadOutOfService));
    }
    debug_assert!(values.len() == FIELDS.len() && RESULT + 4 == DECISION);
    values
}

/// A decision in the order of its folder.
pub(crate) fn decision_values(number: u64, decision: &Decision) -> Vec<Variant> {
    let verdict = match decision.verdict {
        Verdict::Pass => 1,
        Verdict::Reject => 2,
        Verdict::Unknown => 3,
    };
    let action = match decision.action {
        Action::None => 0,
        Action::Pass => 1,
        Action::Reject => 2,
        Action::Stop => 3,
    };
    vec![
        Variant::UInt64(number),
        Variant::UInt64(decision.part),
        decision.trigger.map_or(Variant::Empty, Variant::UInt64),
        decision.encoder.map_or(Variant::Empty, Variant::Int64),
        Variant::Int32(verdict),
        Variant::Int32(action),
        text(&decision.reason.to_string()),
        text(decision.clock.as_str()),
        moment(decision.captured_at),
        moment(decision.decided_at),
        decision.reject_at.map_or(Variant::Empty, moment),
        moment(decision.expires_at),
    ]
}

fn data(value: Option<Variant>, status: StatusCode, source: Timestamp) -> DataValue {
    DataValue {
        // Without a value the library would tell no status either.
        value: Some(value.unwrap_or(Variant::Empty)),
        status: Some(status),
        source_timestamp: Some(date_time(source)),
        server_timestamp: Some(DateTime::now()),
        ..DataValue::default()
    }
}

pub(crate) fn text(text: &str) -> Variant {
    Variant::String(UAString::from(text))
}

fn moment(at: Timestamp) -> Variant {
    Variant::DateTime(Box::new(date_time(at)))
}

/// OPC UA counts steps of 100 ns from the year 1601.
pub(crate) fn date_time(at: Timestamp) -> DateTime {
    const FROM_1601_TO_1970: i64 = 116_444_736_000_000_000;
    DateTime::from(at.as_microsecond().saturating_mul(10).saturating_add(FROM_1601_TO_1970))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mailbox::tests_support::decision;
    use crate::mailbox::{Counts, Score};

    fn named(values: &[DataValue], wanted: &str) -> (Option<Variant>, StatusCode) {
        let at = FIELDS.iter().position(|(folder, name, _)| format!("{folder}/{name}") == wanted).unwrap();
        (values[at].value.clone(), values[at].status.unwrap())
    }

    #[test]
    fn a_decision_is_shown_whole_while_it_is_live_and_as_none_afterwards() {
        let now = Timestamp::now();
        let score =
            Score { camera: "top".to_owned(), score: 0.7, threshold: 0.5, is_anomalous: true, captured_at: now };
        let mut line = LineNow { state: "running", score: Some(score), counts: Counts::default() };
        let mut shown = Shown::default();
        let before = values(&line, &shown, now);
        assert_eq!(named(&before, "Decision/Part"), (Some(Variant::Empty), StatusCode::BadWaitingForInitialData));
        assert_eq!(named(&before, "Decision/Verdict"), (Some(Variant::Int32(0)), StatusCode::Good));
        shown = Shown { decision: Some((1, Arc::new(decision(7, Verdict::Reject)))), is_live: true, heartbeat: 2 };
        let live = values(&line, &shown, now);
        assert_eq!(named(&live, "Decision/Part"), (Some(Variant::UInt64(7)), StatusCode::Good));
        assert_eq!(named(&live, "Decision/Action"), (Some(Variant::Int32(2)), StatusCode::Good));
        assert_eq!(named(&live, "Result/Score"), (Some(Variant::Double(0.7)), StatusCode::Good));
        shown.is_live = false;
        line.state = "camera_lost";
        let over = values(&line, &shown, now);
        assert_eq!(named(&over, "Decision/Verdict"), (Some(Variant::Int32(0)), StatusCode::Good));
        assert_eq!(
            named(&over, "Decision/LastVerdict"),
            (Some(Variant::Int32(2)), StatusCode::UncertainLastUsableValue)
        );
        assert_eq!(named(&over, "Result/Score").1, StatusCode::UncertainLastUsableValue);
        line.state = "stopped";
        assert_eq!(named(&values(&line, &shown, now), "/Fresh").1, StatusCode::BadOutOfService);
    }

    #[test]
    fn moments_keep_their_microseconds() {
        let at: Timestamp = "2026-02-03T04:05:06.123456Z".parse().unwrap();
        assert_eq!(date_time(at).to_string(), "2026-02-03T04:05:06.123456+00:00");
        assert_eq!(i64::from(date_time(at)) % 10_000_000, 1_234_560);
    }
}
