//! The event that carries a decision: whole, once, and to whoever subscribed, however slowly the variables are sampled.

use opcua::nodes::{BaseEventType, Event};
use opcua::types::event_field::EventField;
use opcua::types::{AttributeId, ByteString, DateTime, NodeId, NumericRange, ObjectTypeId, QualifiedName, Variant};

use super::space::event_fields;

/// One decision.
pub(crate) struct DecisionEvent {
    pub(crate) base: BaseEventType,
    pub(crate) namespace: u16,
    /// In the order of [`event_fields`].
    pub(crate) values: Vec<Variant>,
}

/// What every event of ours says, severity from 1 to 1000.
pub(crate) fn base(
    event_type: NodeId,
    source: NodeId,
    line: &str,
    message: &str,
    severity: u16,
    time: DateTime,
) -> BaseEventType {
    // Each line's decisions have their own number, so this is unique for the server.
    let event_id = ByteString::from(format!("{line}/{message}/{time}").into_bytes());
    BaseEventType {
        event_id,
        event_type,
        source_node: source,
        source_name: line.into(),
        time,
        receive_time: time,
        message: message.into(),
        severity,
        ..BaseEventType::default()
    }
}

impl Event for DecisionEvent {
    fn get_field(
        &self,
        type_definition_id: &NodeId,
        attribute_id: AttributeId,
        index_range: &NumericRange,
        browse_path: &[QualifiedName],
    ) -> Variant {
        let is_ours = *type_definition_id == self.base.event_type;
        // Clients ask for inherited fields by either type.
        match is_ours || *type_definition_id == ObjectTypeId::BaseEventType {
            true => self.get_value(attribute_id, index_range, browse_path),
            false => Variant::Empty,
        }
    }

    fn time(&self) -> &DateTime {
        &self.base.time
    }

    fn event_type_id(&self) -> &NodeId {
        &self.base.event_type
    }
}

impl EventField for DecisionEvent {
    fn get_value(&self, attribute_id: AttributeId, index_range: &NumericRange, path: &[QualifiedName]) -> Variant {
        let [name] = path else { return Variant::Empty };
        if name.namespace_index != self.namespace {
            return self.base.get_value(attribute_id, index_range, path);
        }
        let mut fields = event_fields().zip(&self.values);
        let value = fields.find(|((field, _), _)| name.name == **field).map(|(_, value)| value.clone());
        value.filter(|_| attribute_id == AttributeId::Value).unwrap_or(Variant::Empty)
    }
}
