//! Of which events this server's users are told (client-server API, "Push Notifications").
//!
//! What a commit writes holds who is told of its events, too, so that no count is lost or made twice. It
//! costs what is *different*: what the predefined rules say to everybody is found out once, and is one row
//! however many users there are. Looked at one by one are only those who have made rules of their own and
//! those whom the event names.
//!
//! How many members a room has is what its current state says. While that is partial, members are missing
//! from it, as they are from the reference's: a room may then pass for one of two people. All that comes of
//! this is a sound, and waiting for the members would keep users from being told at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use myelin_core::{
    completeness::{Question, StateRef},
    event::{Event, Place},
    key_table::MEMBER,
    number::{EventNr, StreamPosition},
    push_rules::{Notification, RuledEvent, ask_for_display_name, notification_levels, read_rules},
    state::Membership,
    visibility::{HistoryVisibility, UserFacts, user_may_see},
};
use myelin_storage::{
    StorageError,
    notifications::{MAIN, NewNotification},
};
use ruma::{OwnedUserId, UserId, push::Ruleset};
use serde::Deserialize;

use crate::{
    Rooms,
    commit::{Batch, Read, ReadBy},
    room::{CurrentState, Room},
};

/// Finds out who is told of the events of a commit.
pub(crate) struct Telling<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) room: &'a Arc<Room>,
    /// The current state before the commit.
    pub(crate) before: Option<&'a CurrentState>,
    /// The current state after it.
    pub(crate) after: Option<&'a CurrentState>,
}

/// Who may be told, and by which rules.
struct Audience {
    /// This server's users who are in the room, are invited or knock.
    users: BTreeSet<OwnedUserId>,
    /// The rules of those who have made some.
    own_rules: BTreeMap<OwnedUserId, Arc<Ruleset>>,
    /// The events of the commit.
    new: Vec<Arc<Event>>,
}

/// An event, and what it takes to tell of it.
struct News<'a> {
    event: &'a Arc<Event>,
    position: StreamPosition,
    thread: String,
    /// Whether one of our users wrote it.
    is_own: bool,
}

impl News<'_> {
    fn to(&self, user: Option<OwnedUserId>, notification: Option<Notification>) -> NewNotification {
        NewNotification {
            user,
            thread: self.thread.clone(),
            position: self.position,
            event: self.event.nr,
            author: self.is_own.then(|| self.event.pdu.sender.clone()),
            notification,
        }
    }
}

impl Telling<'_> {
    /// Notes in a batch who is told of its events, and who has thereby read on.
    pub(crate) async fn note(&self, batch: &mut Batch) -> Result<(), StorageError> {
        self.note_joins(batch);
        let new = batch.shown();
        if new.is_empty() && batch.out_of_band().is_empty() {
            return Ok(());
        }
        let mut users: BTreeSet<OwnedUserId> = self.room.local_users().into_iter().collect();
        let concerned = batch.local_memberships().iter();
        users.extend(concerned.map(|local| local.user.clone()));
        if users.is_empty() {
            return Ok(());
        }
        let own_rules = self.rooms.own_push_rules(&users).await?;
        let audience = Audience {
            users,
            own_rules,
            new,
        };
        let mut current = self.before.map(|before| before.reference);
        for event in &audience.new {
            let Place::Timeline { before, position } = event.place else {
                continue;
            };
            let is_on_top = current.is_none_or(|current| current.snapshot() == before.snapshot());
            current = batch.current_at(position).or(current);
            self.note_event(batch, &audience, (event, position, is_on_top))
                .await?;
        }
        self.note_out_of_band(batch, &audience);
        Ok(())
    }

    /// What was before they came is nothing to those who come in.
    fn note_joins(&self, batch: &mut Batch) {
        let joins: Vec<Read> = batch
            .local_memberships()
            .iter()
            .filter(|local| local.membership == Membership::Join)
            .filter(|local| self.standing(self.before, &local.user) != Some(Membership::Join))
            .map(|local| Read {
                user: local.user.clone(),
                position: local.position,
                by: ReadBy::Joining,
            })
            .collect();
        for join in joins {
            batch.put_read(join);
        }
    }

    /// What one of our users is to the room. That is known even where the state is partial.
    fn standing(&self, at: Option<&CurrentState>, user: &UserId) -> Option<Membership> {
        let at = at?;
        at.reference.answering(Question::LocalMember)?;
        let keys = self.room.keys();
        let entry = at.state.get_named(&keys, MEMBER, user.as_str())?;
        entry.membership()
    }

    async fn note_event(
        &self,
        batch: &mut Batch,
        audience: &Audience,
        (event, position, is_on_top): (&Arc<Event>, StreamPosition, bool),
    ) -> Result<(), StorageError> {
        let sender = &event.pdu.sender;
        let is_own = audience.users.contains(sender);
        let threading = self.rooms.threading(self.room, event, &audience.new);
        let root = threading.await?.root;
        let news = News {
            event,
            position,
            thread: root.map_or_else(|| MAIN.to_owned(), |root| root.to_string()),
            is_own,
        };
        if is_own {
            batch.put_read(Read {
                user: sender.clone(),
                position,
                by: ReadBy::Sending {
                    thread: news.thread.clone(),
                },
            });
        }
        // As nearly everybody is in rooms without others of this server.
        if audience.users.len() == usize::from(is_own) {
            return Ok(());
        }
        let Some(mut ruled) = self.ruled(event) else {
            return Ok(());
        };
        if ruled.mentions_room() || !audience.own_rules.is_empty() {
            ruled.set_levels(self.levels(&audience.new).await?);
        }
        let everybody = ruled.for_everybody();
        if everybody.is_some() {
            batch.notify(news.to(None, everybody.clone()));
        }
        let unseeing = match (is_on_top, event.before()) {
            (false, Some(before)) => self.unseeing(audience, event, before).await?,
            _ => BTreeSet::new(),
        };
        let looked_at = self.looked_at(audience, &ruled, event, &unseeing);
        let names = self.display_names(audience, &looked_at).await?;
        for user in looked_at {
            let is_joined = self.standing(self.after, &user) == Some(Membership::Join);
            let told = match (unseeing.contains(&user), audience.own_rules.get(&user)) {
                (true, _) => None,
                (false, None) => ruled.for_user(&user, None, &predefined(&user)?),
                (false, Some(rules)) => {
                    let name = names.get(&user).map(String::as_str);
                    ruled.for_user(&user, name, rules)
                }
            };
            if told.as_ref() != everybody.as_ref().filter(|_| is_joined) {
                batch.notify(news.to(Some(user), told));
            }
        }
        Ok(())
    }

    /// The event as rules see it. Nobody is told of one that can't be read.
    fn ruled(&self, event: &Event) -> Option<RuledEvent> {
        let joined = self.after.map_or(0, |after| after.state.counts().joined);
        let nobody = UserId::parse(format!("@:{}", self.rooms.server_name())).ok()?;
        RuledEvent::new(&event.pdu, joined, nobody)
            .inspect_err(
                |error| tracing::debug!(event = %event.id(), %error, "unread by push rules"),
            )
            .ok()
    }

    /// Who is looked at one by one: those with rules of their own and those whom the event names, as far as
    /// they are in the room or invited by it; and those who may not see it.
    fn looked_at(
        &self,
        audience: &Audience,
        ruled: &RuledEvent,
        event: &Event,
        unseeing: &BTreeSet<OwnedUserId>,
    ) -> BTreeSet<OwnedUserId> {
        let target = event.pdu.state_key.as_deref();
        let target = target.filter(|_| event.pdu.membership.is_some());
        let named = ruled
            .mentioned_users()
            .chain(target)
            .filter_map(|user| audience.users.get(<&UserId>::try_from(user).ok()?));
        let is_invite = event.pdu.membership == Some(Membership::Invite);
        named
            .chain(audience.own_rules.keys())
            .chain(unseeing)
            .filter(|user| **user != event.pdu.sender)
            .filter(|user| match self.standing(self.after, user) {
                Some(Membership::Join) => true,
                Some(Membership::Invite) => is_invite && target == Some(user.as_str()),
                _ => false,
            })
            .cloned()
            .collect()
    }

    /// What those are called in the room whose rules ask for that.
    async fn display_names(
        &self,
        audience: &Audience,
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<BTreeMap<OwnedUserId, String>, StorageError> {
        #[derive(Deserialize)]
        struct Content {
            displayname: Option<String>,
        }
        let asking = users.iter().filter(|user| {
            let rules = audience.own_rules.get(*user);
            rules.is_some_and(|rules| ask_for_display_name(rules))
        });
        let entries: Vec<(&OwnedUserId, EventNr)> = asking
            .filter_map(|user| Some((user, self.entry(MEMBER, user.as_str())?)))
            .collect();
        let numbers = entries.iter().map(|(_, nr)| *nr);
        let found = self.found(&audience.new, numbers).await?;
        let names = entries.into_iter().filter_map(|(user, nr)| {
            let content = serde_json::from_str::<Content>(found.get(&nr)?.pdu.content.get());
            Some((user.clone(), content.ok()?.displayname?))
        });
        Ok(names.collect())
    }

    /// Who may notify everybody.
    async fn levels(
        &self,
        new: &[Arc<Event>],
    ) -> Result<Option<ruma::push::PushConditionPowerLevelsCtx>, StorageError> {
        let Some(create) = self.named(new, "m.room.create", "").await? else {
            return Ok(None);
        };
        let levels = self.named(new, "m.room.power_levels", "").await?;
        let version = self.room.key.version;
        Ok(notification_levels(version, &create, levels.as_ref()))
    }

    /// An entry of the current state after the commit.
    fn entry(&self, event_type: &str, state_key: &str) -> Option<EventNr> {
        let (after, keys) = (self.after?, self.room.keys());
        let entry = after.state.get_named(&keys, event_type, state_key);
        entry.map(|entry| entry.event())
    }

    /// The event of such an entry.
    async fn named(
        &self,
        new: &[Arc<Event>],
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, StorageError> {
        let Some(nr) = self.entry(event_type, state_key) else {
            return Ok(None);
        };
        Ok(self.found(new, [nr]).await?.remove(&nr))
    }

    /// Events of the commit, or that are stored.
    async fn found(
        &self,
        new: &[Arc<Event>],
        wanted: impl IntoIterator<Item = EventNr>,
    ) -> Result<HashMap<EventNr, Arc<Event>>, StorageError> {
        let (held, stored): (Vec<EventNr>, Vec<EventNr>) = wanted
            .into_iter()
            .partition(|nr| new.iter().any(|new| new.nr == *nr));
        let mut found = self.room.events(self.rooms, stored).await?;
        let held = new.iter().filter(|new| held.contains(&new.nr));
        found.extend(held.map(|new| (new.nr, new.clone())));
        Ok(found)
    }

    /// Who in the room may not see an event that comes late: it was written before they came, and history is
    /// closed to them.
    async fn unseeing(
        &self,
        audience: &Audience,
        event: &Arc<Event>,
        before: StateRef,
    ) -> Result<BTreeSet<OwnedUserId>, StorageError> {
        let state = self.room.state(self.rooms, before.snapshot()).await?;
        let (visibility, memberships) = {
            let keys = self.room.keys();
            let visibility = state.get_named(&keys, "m.room.history_visibility", "");
            let membership = |user: &OwnedUserId| {
                let entry = state.get_named(&keys, MEMBER, user.as_str());
                (user.clone(), entry.and_then(|entry| entry.membership()))
            };
            let memberships: Vec<_> = audience.users.iter().map(membership).collect();
            (visibility, memberships)
        };
        let visibility = match visibility {
            Some(entry) => {
                let nr = entry.event();
                self.found(&audience.new, [nr]).await?.remove(&nr)
            }
            None => None,
        };
        let visibility = HistoryVisibility::read(visibility.as_ref().map(|event| &*event.pdu));
        let is_unseeing = |(user, membership): &(OwnedUserId, Option<Membership>)| {
            let facts = UserFacts {
                visibility,
                membership: *membership,
                joined_later: true,
            };
            !user_may_see(user, event, &facts)
        };
        let unseeing = memberships.into_iter().filter(is_unseeing);
        Ok(unseeing.map(|(user, _)| user).collect())
    }

    /// Those who are invited into a room that this server is not in are told of it.
    fn note_out_of_band(&self, batch: &mut Batch, audience: &Audience) {
        let mut told = Vec::new();
        for known in batch.out_of_band() {
            let event = &known.event;
            let is_it = |local: &&crate::commit::LocalMembership| local.event == event.nr;
            let Some(local) = batch.local_memberships().iter().find(is_it) else {
                continue;
            };
            let (user, position) = (&local.user, local.position);
            if local.membership != Membership::Invite || event.pdu.sender == *user {
                continue;
            }
            let Some(mut ruled) = self.ruled(event) else {
                continue;
            };
            let thread = MAIN.to_owned();
            let news = News {
                event,
                position,
                thread,
                is_own: false,
            };
            let notification = match audience.own_rules.get(user) {
                Some(rules) => ruled.for_user(user, None, rules),
                None => predefined(user)
                    .ok()
                    .and_then(|rules| ruled.for_user(user, None, &rules)),
            };
            if notification.is_some() {
                told.push(news.to(Some(user.clone()), notification));
            }
        }
        for notification in told {
            batch.notify(notification);
        }
    }
}

fn predefined(user: &UserId) -> Result<Ruleset, StorageError> {
    read_rules(user, None).map_err(|error| StorageError::Bug(format!("push rules: {error}")))
}
