//! A server that lies: with its own key it signs events that nobody may accept, and sends them to the others.
//!
//! Servers with the same mistake agree with each other. What the specification says of these events is
//! known beforehand, so they show mistakes that all servers make.

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::{
    build::EventDraft,
    event::{Event, Verdict},
    pdu::Pdu,
    room_version::RoomVersion,
    state::Membership,
};
use myelin_federation::Transaction;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, UInt};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::view::{Server, View};

/// An event that was made up, and what everybody has to say of it.
#[derive(Clone, Debug)]
pub struct Forgery {
    /// The event.
    pub pdu: Arc<Pdu>,
    /// What is wrong with it.
    pub what: &'static str,
    /// What the checks say.
    pub expected: Verdict,
    /// Whether it need not be kept at all, since what it claims is nowhere to be had.
    pub may_be_dropped: bool,
}

/// A liar, and what it knows of the room and of another one.
pub struct Liar<'a> {
    /// Its server.
    pub server: &'a Server,
    /// The room in which it lies.
    pub room_id: OwnedRoomId,
    /// The version of the room.
    pub version: RoomVersion,
    /// What it knows of the room.
    pub view: &'a View,
    /// What it knows of another room.
    pub other: &'a View,
    /// Its user who is in both.
    pub insider: &'a str,
    /// Its user who was in the room and is not any more.
    pub outsider: &'a str,
    /// When it lies, in Unix milliseconds.
    pub now_ms: u64,
}

/// What an event hangs on.
struct Place {
    parent: Arc<Event>,
    /// The state after the parent.
    state: Vec<Arc<Event>>,
}

impl Liar<'_> {
    /// Makes events up: one for each check on receipt that it knows to break alone.
    #[must_use]
    pub fn forgeries(&self) -> Vec<Forgery> {
        let mut made = Vec::new();
        let Some(now) = self.newest() else {
            return made;
        };
        let rejected = Verdict::Rejected;
        let without = self.selected(&now, None);
        made.extend(self.forge(
            (self.insider, &now),
            without,
            ("no membership is claimed", rejected),
        ));
        let mut others = self.other.events.values().map(|opinion| &opinion.event);
        if let Some(foreign) = others.find(|event| is_join(event, self.insider)) {
            let claimed = self.selected(&now, Some(foreign));
            let what = "the membership of another room is claimed";
            let forged = self.forge((self.insider, &now), claimed, (what, rejected));
            made.extend(forged.map(|forged| Forgery {
                may_be_dropped: true,
                ..forged
            }));
        }
        // The last join of somebody who has gone.
        let Some(join) = self.last_join() else {
            return made;
        };
        let claimed = self.selected(&now, Some(&join));
        let what = "a membership that is over is claimed";
        made.extend(self.forge((self.outsider, &now), claimed, (what, rejected)));
        if let Some(then) = self.after(&join) {
            let claimed = self.selected(&then, Some(&join));
            let what = "it hangs on a time before its author left";
            let expected = (what, Verdict::SoftFailed);
            made.extend(self.forge((self.outsider, &then), claimed, expected));
        }
        made
    }

    /// Sends what was made up to others.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn send(&self, forgeries: &[Forgery], to: &[String]) -> Result<(), String> {
        let pdus: Vec<Box<RawValue>> = forgeries
            .iter()
            .map(|forgery| {
                let json = forgery.pdu.json.to_string();
                RawValue::from_string(json).map_err(|why| why.to_string())
            })
            .collect::<Result<_, _>>()?;
        let federation = self.server.rooms.federation();
        for server in to {
            let name = server
                .as_str()
                .try_into()
                .map_err(|_| "not a server's name")?;
            let transaction = Transaction {
                origin_server_ts: self.now_ms,
                pdus: &pdus,
                edus: &[],
            };
            let sent = federation.send_transaction(name, "lies", &transaction);
            sent.await
                .map_err(|why| format!("{server} takes no lies: {why}"))?;
        }
        Ok(())
    }

    fn forge(
        &self,
        (sender, place): (&str, &Place),
        claimed: Vec<OwnedEventId>,
        (what, expected): (&'static str, Verdict),
    ) -> Option<Forgery> {
        let content = json!({ "msgtype": "m.text", "body": what });
        let words = ("m.room.message", None, content);
        Some(Forgery {
            pdu: self.sign((sender, place), words, claimed)?,
            what,
            expected,
            may_be_dropped: false,
        })
    }

    /// Signs words of a user at a place: the type, the state key and the content.
    fn sign(
        &self,
        (sender, place): (&str, &Place),
        (event_type, state_key, content): (&str, Option<&str>, Value),
        claimed: Vec<OwnedEventId>,
    ) -> Option<Arc<Pdu>> {
        let draft = EventDraft {
            room_id: Some(self.room_id.clone()),
            sender: sender.try_into().ok()?,
            event_type: event_type.to_owned(),
            state_key: state_key.map(Into::into),
            content: to_raw_value(&content).ok()?,
            prev_events: vec![place.parent.id().to_owned()],
            auth_events: claimed,
            depth: place.parent.pdu.depth + 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::try_from(self.now_ms).ok()?),
            redacts: None,
        };
        let key = self.server.rooms.federation().signing_keys().active();
        Some(draft.finish(self.version, key).ok()?.into_pdu())
    }

    /// The end of the room's timeline.
    fn newest(&self) -> Option<Place> {
        let id = self.view.timeline.last()?;
        let parent = Arc::clone(&self.view.events.get(id)?.event);
        let state = self.view.current.iter();
        Some(Place {
            parent,
            state: state.filter_map(|id| self.event(id)).collect(),
        })
    }

    /// The place right after a state event.
    fn after(&self, event: &Arc<Event>) -> Option<Place> {
        let before = self.view.events.get(event.id())?.before.as_ref()?;
        let is_other = |known: &Arc<Event>| {
            known.pdu.event_type != event.pdu.event_type
                || known.pdu.state_key != event.pdu.state_key
        };
        let before = before.iter().filter_map(|id| self.event(id));
        let mut state: Vec<_> = before.filter(is_other).collect();
        state.push(Arc::clone(event));
        Some(Place {
            parent: Arc::clone(event),
            state,
        })
    }

    fn event(&self, id: &OwnedEventId) -> Option<Arc<Event>> {
        Some(Arc::clone(&self.view.events.get(id)?.event))
    }

    /// What a message has to claim, with this membership.
    fn selected(&self, place: &Place, membership: Option<&Arc<Event>>) -> Vec<OwnedEventId> {
        let types: &[&str] = if self.version.room_id_is_create_hash() {
            &["m.room.power_levels"]
        } else {
            &["m.room.create", "m.room.power_levels"]
        };
        let is_needed = |event: &&Arc<Event>| types.iter().any(|of| event.pdu.is_state(of, ""));
        let needed = place.state.iter().filter(is_needed);
        needed
            .chain(membership)
            .map(|event| event.id().to_owned())
            .collect()
    }

    fn last_join(&self) -> Option<Arc<Event>> {
        let mut current = self.view.current.iter().filter_map(|id| self.event(id));
        if current.any(|event| is_join(&event, self.outsider)) {
            return None;
        }
        let ids = self.view.timeline.iter().rev();
        let mut events = ids.filter_map(|id| self.event(id));
        events.find(|event| is_join(event, self.outsider))
    }
}

fn is_join(event: &Event, user: &str) -> bool {
    event.pdu.is_state("m.room.member", user) && event.pdu.membership == Some(Membership::Join)
}

/// Bans that were never sent, and everything that they rest on.
pub struct Bans {
    /// The bans.
    pub events: Vec<Value>,
    /// Their auth chain.
    pub auth_chain: Vec<Value>,
}

/// Has one of a server's users ban everybody in a room who is neither on that server nor on that of whoever
/// asks. Who believes it refuses what these users say, until the state that others know puts it right.
pub async fn bans(server: &Server, room: &str, asker: &str, now_ms: u64) -> Option<Bans> {
    let room_id = OwnedRoomId::try_from(room).ok()?;
    let view = View::read(server, &room_id).await.ok()??;
    let known = server.rooms.room(&room_id).await.ok()??;
    let liar = Liar {
        server,
        room_id,
        version: known.key.version,
        view: &view,
        other: &view,
        insider: "",
        outsider: "",
        now_ms,
    };
    let place = liar.newest()?;
    let joined = |event: &&Arc<Event>| event.pdu.membership == Some(Membership::Join);
    let members: Vec<&Arc<Event>> = place.state.iter().filter(joined).collect();
    let of = |event: &&&Arc<Event>, name: &str| event.pdu.sender.server_name() == name;
    let own = server.rooms.server_name().as_str();
    let author = *members.iter().find(|member| of(member, own))?;
    let others = members
        .iter()
        .filter(|member| !of(member, own) && !of(member, asker));
    let made: Vec<_> = others
        .filter_map(|member| liar.ban(&place, author, member))
        .collect();
    let mut cited: BTreeSet<OwnedEventId> = BTreeSet::new();
    let mut next: Vec<OwnedEventId> = made
        .iter()
        .flat_map(|ban| ban.auth_events.iter().cloned())
        .collect();
    while let Some(id) = next.pop() {
        if cited.insert(id.clone())
            && let Some(event) = liar.event(&id)
        {
            next.extend(event.pdu.auth_events.iter().cloned());
        }
    }
    let read = |pdu: &Pdu| serde_json::from_str(&pdu.json).ok();
    Some(Bans {
        events: made.iter().filter_map(|ban| read(ban)).collect(),
        auth_chain: cited
            .iter()
            .filter_map(|id| read(&liar.event(id)?.pdu))
            .collect(),
    })
}

impl Liar<'_> {
    fn ban(&self, place: &Place, author: &Arc<Event>, member: &Arc<Event>) -> Option<Arc<Pdu>> {
        let mut claimed = self.selected(place, Some(author));
        claimed.push(member.id().to_owned());
        let target = member.pdu.state_key.as_deref();
        let words = ("m.room.member", target, json!({ "membership": "ban" }));
        self.sign((author.pdu.sender.as_str(), place), words, claimed)
    }
}
