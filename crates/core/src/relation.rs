//! What an event says of its relation to another (client-server API, "Forming relationships between
//! events").

use ruma::{EventId, OwnedEventId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::pdu::Pdu;

/// A reaction: an event that is counted with the one that it relates to.
pub const ANNOTATION: &str = "m.annotation";
/// An event that names another one, whatever that means.
pub const REFERENCE: &str = "m.reference";
/// An edit.
pub const REPLACEMENT: &str = "m.replace";
/// An event in the thread that the other one began.
pub const THREAD: &str = "m.thread";

/// The key that an event with a relation has in its content.
const RELATES_TO: &str = "\"m.relates_to\"";

/// The relation of an event to the one that is its parent by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The parent.
    pub event_id: OwnedEventId,
    /// The kind of relation.
    pub rel_type: String,
    /// With what the parent is annotated.
    pub key: Option<String>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, rename = "m.relates_to")]
    relates_to: &'a RawValue,
    #[serde(borrow, rename = "m.new_content")]
    new_content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RelatesTo<'a> {
    event_id: OwnedEventId,
    rel_type: String,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
}

impl Relation {
    /// The relation of an event. `None` if it has none, or one that breaks the form, or says that it
    /// replaces something and can't, whatever that is: such ones are ignored. A reply alone is none.
    pub fn of(pdu: &Pdu) -> Option<Self> {
        let relation = Self::in_content(&pdu.content)?;
        (relation.rel_type != REPLACEMENT || can_replace(pdu)).then_some(relation)
    }

    /// The relation that a content names, whether an event with it could have that or not.
    pub fn in_content(content: &RawValue) -> Option<Self> {
        // Nearly no event has one, and this is looked for in all of them.
        if !content.get().contains(RELATES_TO) {
            return None;
        }
        let content: Content<'_> = serde_json::from_str(content.get()).ok()?;
        // serde takes an array for a struct too.
        let relates_to = Some(content.relates_to.get()).filter(|json| json.starts_with('{'))?;
        let relates_to: RelatesTo<'_> = serde_json::from_str(relates_to).ok()?;
        let key = relates_to.key;
        Some(Self {
            event_id: relates_to.event_id,
            rel_type: relates_to.rel_type,
            key: key.and_then(|key| serde_json::from_str(key.get()).ok()),
        })
    }

    /// Whether it is this kind of relation to this event.
    pub fn is(&self, rel_type: &str, event_id: &EventId) -> bool {
        self.rel_type == rel_type && self.event_id == event_id
    }
}

/// Whether an event has what replaces another one's content. That of an encrypted event is encrypted.
fn can_replace(pdu: &Pdu) -> bool {
    let content: Result<Content<'_>, _> = serde_json::from_str(pdu.content.get());
    let new = content.ok().and_then(|content| content.new_content);
    let has_new = new.is_some_and(|new| new.get().starts_with('{'));
    pdu.state_key.is_none() && (has_new || pdu.event_type.to_string() == "m.room.encrypted")
}

/// Whether `edit` is a valid replacement of `original`, as far as the two tell (client-server API,
/// "Validity of replacement events"). That they are of one room is for the caller to know.
pub fn is_replacement(original: &Pdu, edit: &Pdu) -> bool {
    let relation = Relation::of(edit);
    relation.is_some_and(|relation| relation.is(REPLACEMENT, &original.event_id))
        && may_be_replaced(original)
        && original.sender == edit.sender
        && original.event_type == edit.event_type
}

/// Whether an event can be edited at all: it is no state and no edit itself.
fn may_be_replaced(pdu: &Pdu) -> bool {
    let relation = Relation::in_content(&pdu.content);
    pdu.state_key.is_none() && relation.is_none_or(|relation| relation.rel_type != REPLACEMENT)
}

/// Whether an event can begin a thread: it is not in a relation to another itself.
pub fn may_begin_thread(pdu: &Pdu) -> bool {
    Relation::in_content(&pdu.content).is_none()
}
