//! Lazy loading: the memberships of those who sent the events of a timeline, and which of them a device
//! has already (client-server API, "Lazy-loading room members").

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use myelin_core::{
    event::Event,
    key_table::MEMBER,
    number::{EventNr, RoomNr, StreamPosition},
    state::State,
};
use myelin_rooms::{Room, Rooms};
use myelin_users::Requester;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::{SyncError, client_event::Seen};

/// Of how many devices it is remembered what they were sent.
const MAX_DEVICES: usize = 5_000;

/// How many memberships are remembered for each.
const MAX_MEMBERS: usize = 2_000;

/// The numbers of some events.
pub(crate) fn numbers(events: &[Seen]) -> HashSet<EventNr> {
    events.iter().map(|seen| seen.event.nr).collect()
}

/// The membership events of the senders of some events, by sender, without those that are `shown` anyway.
/// `start` is the state before the first of the events, `end` the state after the last.
///
/// While a room is partial, its states may lack them. Then the first event of the sender names its membership
/// among its auth events, but for a create event and a user's own first join.
pub(crate) async fn of_senders(
    rooms: &Rooms,
    room: &Arc<Room>,
    (events, shown): (&[Seen], &HashSet<EventNr>),
    start: &State,
    end: &State,
) -> Result<BTreeMap<OwnedUserId, EventNr>, SyncError> {
    let mut members = BTreeMap::new();
    let mut missing: BTreeMap<OwnedUserId, Arc<Event>> = BTreeMap::new();
    {
        let keys = room.keys();
        for seen in events {
            let sender = &seen.event.pdu.sender;
            if members.contains_key(sender) || missing.contains_key(sender) {
                continue;
            }
            let entry = |state: &State| {
                let entry = state.get_named(&keys, MEMBER, sender.as_str());
                entry.map(|entry| entry.event())
            };
            // What the timeline itself shows needs only what was before it.
            let found = match entry(end) {
                Some(event) if shown.contains(&event) => entry(start),
                Some(event) => Some(event),
                None => entry(start),
            };
            match found {
                Some(event) => drop(members.insert(sender.clone(), event)),
                None => drop(missing.insert(sender.clone(), seen.event.clone())),
            }
        }
    }
    for (sender, first) in missing {
        if let Some(event) = cited_membership(rooms, room, &first).await? {
            members.insert(sender, event);
        }
    }
    members.retain(|_, event| !shown.contains(event));
    Ok(members)
}

/// The membership of its sender that an event names among its auth events.
async fn cited_membership(
    rooms: &Rooms,
    room: &Arc<Room>,
    event: &Event,
) -> Result<Option<EventNr>, SyncError> {
    for id in &event.pdu.auth_events {
        let Some(cited) = room.event_by_id(rooms, id).await? else {
            continue;
        };
        let pdu = &cited.pdu;
        if pdu.membership.is_some() && pdu.state_key.as_deref() == Some(event.pdu.sender.as_str()) {
            return Ok(Some(cited.nr));
        }
    }
    Ok(None)
}

/// Which memberships each device was sent. Kept in memory only, and forgotten when there are too many: that
/// costs a device a few events that it has already.
#[derive(Debug, Default)]
pub(crate) struct SentMembers(Mutex<HashMap<Device, Sent>>);

type Device = (OwnedUserId, OwnedDeviceId);

/// By room and user, the last event that was sent, and the position of the token that came with it.
type Sent = HashMap<(RoomNr, OwnedUserId), (EventNr, StreamPosition)>;

fn device(viewer: &Requester) -> Device {
    (viewer.user_id.clone(), viewer.device_id.clone())
}

impl SentMembers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Device, Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what a device was sent, since it starts anew.
    pub(crate) fn forget(&self, viewer: &Requester) {
        self.lock().remove(&device(viewer));
    }

    /// Whether a device that syncs from `since` has a membership. It has if it was sent in an answer whose
    /// token, or a later one, it came back with: an answer may get lost.
    pub(crate) fn has(
        &self,
        viewer: &Requester,
        room: RoomNr,
        member: (&UserId, EventNr),
        since: StreamPosition,
    ) -> bool {
        let devices = self.lock();
        let sent = devices.get(&device(viewer));
        let last = sent.and_then(|sent| sent.get(&(room, member.0.to_owned())));
        last.is_some_and(|(event, token)| *event == member.1 && *token <= since)
    }

    /// Notes what a device is sent with the token of a position.
    pub(crate) fn note<'a>(
        &self,
        viewer: &Requester,
        room: RoomNr,
        members: impl IntoIterator<Item = (&'a UserId, EventNr)>,
        token: StreamPosition,
    ) {
        let mut devices = self.lock();
        if devices.len() >= MAX_DEVICES && !devices.contains_key(&device(viewer)) {
            devices.clear();
        }
        let sent = devices.entry(device(viewer)).or_default();
        for (user, event) in members {
            if sent.len() >= MAX_MEMBERS {
                sent.clear();
            }
            let noted = sent
                .entry((room, user.to_owned()))
                .or_insert((event, token));
            // Sent again with a later token: the device may have had it since the first.
            if noted.0 != event {
                *noted = (event, token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EventNr, MAX_MEMBERS, Requester, RoomNr, SentMembers, StreamPosition};
    use ruma::{OwnedUserId, UserId, user_id};

    const ROOM: RoomNr = RoomNr(1);

    fn viewer() -> Requester {
        Requester {
            user_id: user_id!("@me:x.example").to_owned(),
            device_id: "D".into(),
            admin: false,
            guest: false,
        }
    }

    fn member(event: i64) -> (&'static UserId, EventNr) {
        (user_id!("@a:x.example"), EventNr(event))
    }

    #[test]
    fn a_membership_is_redundant_only_when_its_token_came_back() {
        let sent = SentMembers::default();
        sent.note(&viewer(), ROOM, [member(5)], StreamPosition(20));
        let has = |event, since| sent.has(&viewer(), ROOM, member(event), StreamPosition(since));
        assert!(has(5, 20) && has(5, 21));
        assert!(!has(5, 19), "the answer was lost");
        assert!(!has(6, 20), "another event");
        assert!(!sent.has(&viewer(), RoomNr(2), member(5), StreamPosition(20)));
        sent.note(&viewer(), ROOM, [member(5)], StreamPosition(30));
        assert!(has(5, 20), "it was sent before, too");
        sent.note(&viewer(), ROOM, [member(6)], StreamPosition(40));
        assert!(!has(5, 40) && has(6, 40));
        sent.forget(&viewer());
        assert!(!has(6, 40));
    }

    #[test]
    fn what_is_remembered_of_a_device_is_bounded() {
        let sent = SentMembers::default();
        let users: Vec<OwnedUserId> = (0..=MAX_MEMBERS)
            .map(|number| UserId::parse(format!("@u{number}:x.example")).expect("a user ID"))
            .collect();
        let members = users.iter().map(|user| (&**user, EventNr(1)));
        sent.note(&viewer(), ROOM, members, StreamPosition(1));
        assert_eq!(
            sent.lock().values().map(|sent| sent.len()).sum::<usize>(),
            1
        );
    }
}
