//! Push rules: which a user has, and what they say about an event (client-server API, "Push rules").

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedUserId, RoomId, UInt, UserId,
    events::room::power_levels::{
        RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource,
    },
    push::{
        Action, FlattenedJson, FlattenedJsonValue, PredefinedOverrideRuleId,
        PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset, ScalarJsonValue,
    },
    serde::Raw,
    state_res::events::RoomCreateEvent,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{event::Event, pdu::Pdu, room_version::RoomVersion};

/// The type of the account data that holds a user's rules.
pub const PUSH_RULES: &str = "m.push_rules";

/// The rules of a user by what is stored of them; without anything, the predefined ones. These are always
/// those of today, enabled and with the actions as the user wants them.
///
/// # Errors
/// If what is stored has not the form of `m.push_rules`.
pub fn read_rules(user: &UserId, stored: Option<&[u8]>) -> Result<Ruleset, serde_json::Error> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(default)]
        global: Ruleset,
    }
    let predefined = Ruleset::server_default(user);
    let Some(stored) = stored else {
        return Ok(predefined);
    };
    let Content { global: mut rules } = serde_json::from_slice(stored)?;
    rules.update_with_server_default(predefined);
    Ok(rules)
}

/// Rules as clients get them: a list for each kind, also where there is no rule.
#[must_use]
pub fn written_rules(rules: &Ruleset) -> Value {
    json!({
        "override": rules.override_,
        "content": rules.content,
        "room": rules.room,
        "sender": rules.sender,
        "underride": rules.underride,
    })
}

/// The content of `m.push_rules`.
#[must_use]
pub fn rules_content(rules: &Ruleset) -> Value {
    json!({ "global": written_rules(rules) })
}

/// That a user is to be told of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The actions of the rule that says so, as JSON.
    pub actions: String,
    /// Whether the event is to stand out.
    pub highlight: bool,
}

impl Notification {
    /// `None` if the actions are not to notify.
    fn of(actions: &[Action]) -> Option<Self> {
        let notifies = actions.iter().any(Action::should_notify);
        notifies.then(|| Self {
            actions: json!(actions).to_string(),
            highlight: actions.iter().any(Action::is_highlight),
        })
    }
}

/// What a room's state says about who may notify everybody; `None` if it can't be read, and then nobody
/// may.
#[must_use]
pub fn notification_levels(
    version: RoomVersion,
    create: &Arc<Event>,
    levels: Option<&Arc<Event>>,
) -> Option<PushConditionPowerLevelsCtx> {
    let rules = version.authorization();
    let creators = RoomCreateEvent::new(create.clone()).creators(rules).ok()?;
    let source = match levels {
        None => RoomPowerLevelsSource::None,
        Some(levels) => {
            let content = levels.pdu.content_for_ruma().get();
            let content: RoomPowerLevelsEventContent = serde_json::from_str(content).ok()?;
            RoomPowerLevelsSource::Original(content)
        }
    };
    Some(RoomPowerLevels::new(source, rules, creators).into())
}

/// An event as the conditions of rules see it.
#[derive(Debug)]
pub struct RuledEvent {
    event: FlattenedJson,
    context: PushConditionRoomCtx,
}

/// The properties of an event that conditions may be about.
#[derive(Serialize)]
struct Properties<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    room_id: &'a RoomId,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: String,
}

impl RuledEvent {
    /// An event in a room of so many joined members. `nobody` is the ID of no user: of this server, without
    /// a name before the colon.
    ///
    /// # Errors
    /// If the content can't be taken apart.
    pub fn new(pdu: &Pdu, joined: u64, nobody: OwnedUserId) -> Result<Self, serde_json::Error> {
        let properties = Properties {
            content: &pdu.content,
            event_id: &pdu.event_id,
            origin_server_ts: pdu.origin_server_ts,
            room_id: &pdu.room_id,
            sender: &pdu.sender,
            state_key: pdu.state_key.as_deref(),
            event_type: pdu.event_type.to_string(),
        };
        // Ruma takes it for granted that this can be done; what is nested too deep can't be read.
        let raw = Raw::new(&serde_json::to_value(&properties)?)?;
        let joined = UInt::new_saturating(joined);
        let room_id = pdu.room_id.clone();
        Ok(Self {
            event: FlattenedJson::from_raw(&raw),
            context: PushConditionRoomCtx::new(room_id, joined, nobody, String::new()),
        })
    }

    /// The users that the event says it is for (`m.mentions`).
    pub fn mentioned_users(&self) -> impl Iterator<Item = &str> {
        let users = self.event.get(r"content.m\.mentions.user_ids");
        let users = users.and_then(FlattenedJsonValue::as_array);
        users
            .into_iter()
            .flatten()
            .filter_map(ScalarJsonValue::as_str)
    }

    /// Whether the event says that it is for the whole room (`m.mentions`).
    #[must_use]
    pub fn mentions_room(&self) -> bool {
        let room = self.event.get(r"content.m\.mentions.room");
        room == Some(&FlattenedJsonValue::Bool(true))
    }

    /// What the room says about who may notify everybody. Without it nobody may.
    pub fn set_levels(&mut self, levels: Option<PushConditionPowerLevelsCtx>) {
        self.context.power_levels = levels;
    }

    /// What the predefined rules say to all users whom the event does not name.
    #[must_use]
    pub fn for_everybody(&self) -> Option<Notification> {
        let mut rules = Ruleset::server_default(&self.context.user_id);
        // They ask for the user's name, and nobody has none.
        for personal in [
            PredefinedOverrideRuleId::InviteForMe,
            PredefinedOverrideRuleId::IsUserMention,
        ] {
            rules.override_.shift_remove(personal.as_str());
        }
        self.judge(&rules)
    }

    /// What a user's rules say. `display_name` is its name in the room.
    pub fn for_user(
        &mut self,
        user: &UserId,
        display_name: Option<&str>,
        rules: &Ruleset,
    ) -> Option<Notification> {
        let nobody = std::mem::replace(&mut self.context.user_id, user.to_owned());
        display_name
            .unwrap_or_default()
            .clone_into(&mut self.context.user_display_name);
        let notification = self.judge(rules);
        self.context.user_id = nobody;
        notification
    }

    /// The first rule that applies decides.
    fn judge(&self, rules: &Ruleset) -> Option<Notification> {
        let rule = rules
            .iter()
            .find(|rule| at_once(rule.applies(&self.event, &self.context)))?;
        Notification::of(rule.actions())
    }
}

/// Asks ruma, whose conditions may look something up. Those that are built in here do not, so that there is
/// an answer at once.
fn at_once(applies: impl Future<Output = bool>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(applies).poll(&mut context), Poll::Ready(true))
}

/// Whether rules look at what the user is called in the room.
#[must_use]
pub fn ask_for_display_name(rules: &Ruleset) -> bool {
    let mut conditions = rules
        .override_
        .iter()
        .chain(&rules.underride)
        .filter(|rule| rule.enabled)
        .flat_map(|rule| &rule.conditions);
    conditions.any(|condition| condition.kind() == "contains_display_name")
}

#[cfg(test)]
mod tests;
