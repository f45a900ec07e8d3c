//! Who is there: what devices and other servers say, and what follows when they say nothing more.
//! Pure but for the stream, whose positions are given out with the changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use myelin_core::number::StreamPosition;
use myelin_env::Moment;
use myelin_storage::stream::Stream;
use ruma::{OwnedUserId, UserId};

use super::{
    person::{ACTIVE, Device, Person, Shown, Source, TOLD_AGAIN},
    state::{PresenceState, Seen, UserPresence},
};

/// How many users are known when no more of other servers are noted.
const MOST_KNOWN: usize = 200_000;

/// How much all users of other servers say about themselves when no more of it is noted.
const MOST_HEARD_BYTES: usize = 16 << 20;

/// Everybody of whom something is known.
pub(super) struct People {
    known: HashMap<OwnedUserId, Person>,
    /// How much users of other servers say about themselves.
    heard_bytes: usize,
    /// The last change of each.
    changes: BTreeMap<StreamPosition, OwnedUserId>,
    /// When the next change of each comes by itself.
    due: BTreeSet<(Moment, OwnedUserId)>,
    stream: Stream,
    news: News,
}

/// Of whom others have yet to hear.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Whom clients have to be shown.
    pub(super) to_show: BTreeSet<OwnedUserId>,
    /// Whom other servers have to be told of. They are users of this one.
    pub(super) to_tell: BTreeSet<OwnedUserId>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.to_show.is_empty() && self.to_tell.is_empty()
    }
}

impl People {
    /// Nobody is there; what users of this server say is known from earlier.
    pub(super) fn new(stream: Stream, statuses: Vec<(OwnedUserId, String)>) -> Self {
        let known = statuses.into_iter();
        let known = known.map(|(user, status_msg)| (user, Person::here(Some(status_msg))));
        Self {
            known: known.collect(),
            heard_bytes: 0,
            changes: BTreeMap::new(),
            due: BTreeSet::new(),
            stream,
            news: News::default(),
        }
    }

    /// A device of a user's says how the user is, and the user what is to be said of it.
    pub(super) fn set(
        &mut self,
        (user, device): (&UserId, &str),
        state: PresenceState,
        status_msg: Option<String>,
        now: Moment,
    ) {
        let person = self.person(user);
        person.status_msg = status_msg;
        person.seen = Some(Seen::now(now));
        if let Source::Here { devices, .. } = &mut person.source {
            let device = devices.entry(device.to_owned());
            let device = device.or_insert_with(|| Device::new(now));
            device.said = state;
            device.active = now;
            device.here = now;
        }
        self.settle(user, now, false);
    }

    /// A device begins to sync, and says how the user is.
    pub(super) fn begin_sync(
        &mut self,
        (user, device): (&UserId, &str),
        state: PresenceState,
        now: Moment,
    ) {
        let person = self.person(user);
        if let Source::Here { devices, .. } = &mut person.source {
            let device = devices.entry(device.to_owned());
            let device = device.or_insert_with(|| Device::new(now));
            // To go online is to do something. To stay there isn't.
            if state == PresenceState::Online && device.said != state {
                device.active = now;
                person.seen = Some(Seen::now(now));
            }
            device.said = state;
            device.here = now;
            device.syncs += 1;
        }
        self.settle(user, now, false);
    }

    /// A sync that began has ended.
    pub(super) fn end_sync(&mut self, (user, device): (&UserId, &str), now: Moment) {
        if let Source::Here { devices, .. } = &mut self.person(user).source
            && let Some(device) = devices.get_mut(device)
        {
            device.syncs = device.syncs.saturating_sub(1);
            device.here = now;
        }
        self.settle(user, now, false);
    }

    /// A user does something with a device. Who is offline by its own wish stays so.
    pub(super) fn act(&mut self, (user, device): (&UserId, &str), now: Moment) {
        let person = self.person(user);
        person.seen = Some(Seen::now(now));
        if let Source::Here { devices, .. } = &mut person.source
            && let Some(device) = devices.get_mut(device)
        {
            if device.said == PresenceState::Unavailable {
                device.said = PresenceState::Online;
            }
            device.active = now;
            device.here = now;
        }
        self.settle(user, now, false);
    }

    /// Another server says how one of its users is.
    pub(super) fn hear(&mut self, user: &UserId, heard: UserPresence, now: Moment) {
        if !self.known.contains_key(user) && self.known.len() >= MOST_KNOWN {
            return;
        }
        let is_active = heard.currently_active.unwrap_or_default();
        let source = Source::Elsewhere {
            state: heard.presence,
            currently_active: is_active,
            heard: now,
        };
        let seen = heard.last_active_ago.map(|ago| Seen::before(ago, now));
        let status_msg = self.room_for(user, heard.status_msg);
        let Some(person) = self.known.get_mut(user) else {
            let person = Person::offline(source, None);
            let person = Person {
                status_msg,
                seen,
                ..person
            };
            self.known.insert(user.to_owned(), person);
            return self.settle(user, now, false);
        };
        // That somebody is active still is no news.
        let has_acted = !is_active
            && seen.zip(person.seen).is_some_and(|(seen, before)| {
                before.ago(now) > seen.ago(now).saturating_add(ACTIVE)
            });
        person.source = source;
        person.status_msg = status_msg;
        person.seen = seen.or(person.seen);
        self.settle(user, now, has_acted);
    }

    /// What another server's user says about itself, if there is room for it; and counts it.
    fn room_for(&mut self, user: &UserId, status_msg: Option<String>) -> Option<String> {
        let before = self.known.get(user).map_or(0, Person::heard_bytes);
        let others = self.heard_bytes - before;
        let status_msg = status_msg.filter(|text| others + text.len() <= MOST_HEARD_BYTES);
        self.heard_bytes = others + status_msg.as_ref().map_or(0, String::len);
        status_msg
    }

    /// A user is to be shown, or told of, to somebody who may not know how it is.
    pub(super) fn show_again(&mut self, user: &UserId, now: Moment) {
        if self.is_there(user) {
            self.settle(user, now, true);
        }
    }

    /// What is known of a user.
    pub(super) fn get(&mut self, user: &UserId, now: Moment) -> Option<UserPresence> {
        self.catch_up(now);
        let person = self.known.get(user)?;
        let Shown {
            state,
            status_msg,
            currently_active,
        } = person.shown.clone();
        Some(UserPresence {
            presence: state,
            last_active_ago: person.seen.map(|seen| seen.ago_ms(now)),
            status_msg,
            currently_active: (state == PresenceState::Online).then_some(currently_active),
        })
    }

    /// Whether anything is known of a user.
    pub(super) fn is_known(&self, user: &UserId) -> bool {
        self.known.contains_key(user)
    }

    /// Whether a user is not offline.
    pub(super) fn is_there(&self, user: &UserId) -> bool {
        let person = self.known.get(user);
        person.is_some_and(|person| person.shown.state != PresenceState::Offline)
    }

    /// Everybody who is not offline.
    pub(super) fn there(&self) -> Vec<OwnedUserId> {
        let there = self.changes.values();
        there.filter(|user| self.is_there(user)).cloned().collect()
    }

    /// Who changed after a position, up to so many, each with the position of its last change.
    pub(super) fn changed_after(
        &self,
        after: StreamPosition,
        limit: usize,
    ) -> Vec<(StreamPosition, OwnedUserId)> {
        let changed = self.changes.range(StreamPosition(after.0 + 1)..);
        let changed = changed.take(limit);
        changed.map(|(at, user)| (*at, user.clone())).collect()
    }

    /// Lets happen what is due.
    pub(super) fn catch_up(&mut self, now: Moment) {
        while let Some((at, user)) = self.due.first().cloned()
            && at <= now
        {
            self.settle(&user, now, false);
        }
    }

    /// Takes what others have to hear of.
    pub(super) fn take_news(&mut self, now: Moment) -> News {
        self.catch_up(now);
        std::mem::take(&mut self.news)
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// When something happens by itself next.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A user of this server.
    fn person(&mut self, user: &UserId) -> &mut Person {
        let person = self.known.entry(user.to_owned());
        person.or_insert_with(|| Person::here(None))
    }

    /// Notes what a user is by now, and if that changed, that others have to hear of it.
    fn settle(&mut self, user: &UserId, now: Moment, is_news: bool) {
        let Some(person) = self.known.get_mut(user) else {
            return;
        };
        if let Some(due) = person.due.take() {
            self.due.remove(&(due, user.to_owned()));
        }
        if person.is_forgotten(now) {
            if let Some(position) = person.position {
                self.changes.remove(&position);
            }
            self.heard_bytes -= person.heard_bytes();
            self.known.remove(user);
            return;
        }
        let present = person.present(now);
        let is_news = is_news || present != person.shown;
        person.shown = present;
        if is_news {
            if let Some(position) = person.position {
                self.changes.remove(&position);
            }
            let position = StreamPosition(self.stream.allocate(1).before().0 + 1);
            person.position = Some(position);
            self.changes.insert(position, user.to_owned());
            self.news.to_show.insert(user.to_owned());
        }
        let is_there = person.shown.state != PresenceState::Offline;
        if let Source::Here { told, .. } = &mut person.source {
            let is_long_ago = told.is_none_or(|told| now.since(told) >= TOLD_AGAIN);
            if is_news || (is_there && is_long_ago) {
                *told = Some(now);
                self.news.to_tell.insert(user.to_owned());
            }
        }
        person.due = person.next_due(now);
        if let Some(due) = person.due {
            self.due.insert((due, user.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MOST_HEARD_BYTES, People, PresenceState, Stream, StreamPosition, UserPresence};
    use myelin_env::Clock;
    use ruma::{OwnedUserId, UserId};

    const BYTES: usize = 4 * 1024;

    fn user(number: usize) -> OwnedUserId {
        let user = UserId::parse(format!("@{number}:elsewhere.example"));
        user.expect("a user ID")
    }

    fn saying(bytes: usize) -> UserPresence {
        UserPresence {
            presence: PresenceState::Online,
            status_msg: (bytes > 0).then(|| "x".repeat(bytes)),
            ..UserPresence::UNKNOWN
        }
    }

    #[test]
    fn what_strangers_say_about_themselves_takes_a_limited_memory() {
        let clock = Clock::manual(0);
        let mut people = People::new(Stream::new(StreamPosition(0)), Vec::new());
        let fitting = MOST_HEARD_BYTES / BYTES;
        for number in 0..fitting + 10 {
            people.hear(&user(number), saying(BYTES), clock.instant());
        }
        let says = |people: &mut People, number: usize| {
            let known = people.get(&user(number), clock.instant());
            known.map(|known| known.status_msg.is_some())
        };
        assert_eq!(says(&mut people, fitting - 1), Some(true));
        assert_eq!(says(&mut people, fitting), Some(false));
        // Who says less leaves room, also for another text of its own.
        people.hear(&user(0), saying(0), clock.instant());
        people.hear(&user(fitting), saying(BYTES), clock.instant());
        people.hear(&user(1), saying(BYTES), clock.instant());
        assert_eq!(says(&mut people, fitting), Some(true));
        assert_eq!(says(&mut people, 1), Some(true));
        people.hear(&user(0), saying(1), clock.instant());
        assert_eq!(says(&mut people, 0), Some(false));
        // And so does who is forgotten.
        clock.advance(Duration::from_secs(3 * 3600));
        assert_eq!(says(&mut people, 1), None);
        people.hear(&user(0), saying(BYTES), clock.instant());
        assert_eq!(says(&mut people, 0), Some(true));
    }
}
