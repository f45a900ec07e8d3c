//! The state events that go with the timeline of a room in an answer of `/sync`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use myelin_core::{
    completeness::Question,
    key_table::MEMBER,
    number::{EventNr, KeyNr},
    state::State,
};
use myelin_storage::timelines;
use ruma::UserId;

use crate::{
    EventJson, SyncError,
    access::placed,
    bulk::{PART, Parts},
    client_event::{Form, Seen, client_events},
    lazy_members::of_senders,
    room_section::{Bounds, SectionReader},
    state_delta::Step,
    summary::Summarized,
    timeline::Timeline,
};

impl SectionReader<'_> {
    /// The state events that go with a timeline.
    pub(crate) async fn state_events(
        &self,
        bounds: &Bounds,
        timeline: &Timeline,
        summarized: Option<&Summarized>,
    ) -> Result<Vec<EventJson>, SyncError> {
        let end = &bounds.end.1;
        let first = timeline.events.first().and_then(|seen| placed(&seen.event));
        let start = match first {
            Some((_, before)) => self.room.state(self.rooms, before.snapshot()).await?,
            None => end.clone(),
        };
        let base = bounds.base.as_ref().map(|(_, state)| state);
        let shown = timeline.numbers();
        let step = Step {
            base,
            start: &start,
            end,
        };
        let mut wanted = match self.request.use_state_after {
            true => step.after_timeline(),
            false => step.before_timeline(&shown),
        };
        let mut events: BTreeSet<EventNr> = BTreeSet::new();
        if self.lazy() {
            self.drop_members(&mut wanted, bounds, timeline.limited)
                .await?;
            let needed = self.needed_members(timeline, &start, end).await?;
            let heroes = summarized.map_or(&[][..], |summarized| &summarized.heroes);
            events.extend(self.without_redundant(needed, heroes));
        }
        events.extend(wanted.into_values());
        if !self.request.use_state_after {
            events.retain(|event| !shown.contains(event));
        }
        if self.lazy() {
            self.note_sent(&timeline.events);
        }
        let events: Vec<EventNr> = events.into_iter().collect();
        self.write_state(&events).await
    }

    async fn write_state(&self, events: &[EventNr]) -> Result<Vec<EventJson>, SyncError> {
        let filter = &self.request.filter.room.state;
        if !filter.wants_room(&self.room.key.room_id) {
            return Ok(Vec::new());
        }
        let form = Form {
            previous: false,
            ..self.form()
        };
        let mut written = Vec::new();
        let mut parts = Parts::of(self.rooms, self.room, events);
        while let Some(mut part) = parts.next().await? {
            part.retain(|event| filter.wants(&event.pdu));
            let seen: Vec<Seen> = part.into_iter().map(Seen::from).collect();
            if self.lazy() {
                self.note_sent(&seen);
            }
            written.extend(client_events(self.rooms, self.room, &seen, form).await?);
        }
        Ok(written)
    }

    /// Leaves out the memberships that lazy loading doesn't send: all of a new room but the user's own. Of a
    /// known room, those that changed since are sent, or clients would miss what happened in a gap.
    async fn drop_members(
        &self,
        wanted: &mut BTreeMap<KeyNr, EventNr>,
        bounds: &Bounds,
        limited: bool,
    ) -> Result<(), SyncError> {
        let own = self.room.keys().number(MEMBER, self.user().as_str());
        let Some((base, _)) = &bounds.base else {
            wanted.retain(|key, _| !key.is_member() || Some(*key) == own);
            return Ok(());
        };
        let was_full = base.answering(Question::AllMembers).is_some();
        let is_full = bounds.end.0.answering(Question::AllMembers).is_some();
        if was_full || !is_full {
            return Ok(());
        }
        // The resync ended meanwhile. The many members that came to light didn't change.
        let members = wanted.iter().filter(|(key, _)| limited && key.is_member());
        let members: Vec<EventNr> = members.map(|(_, event)| *event).collect();
        let changed = self.placed_in_span(members).await?;
        wanted
            .retain(|key, event| !key.is_member() || Some(*key) == own || changed.contains(event));
        Ok(())
    }

    async fn placed_in_span(&self, events: Vec<EventNr>) -> Result<HashSet<EventNr>, SyncError> {
        let Some(since) = self.span.since.filter(|_| !events.is_empty()) else {
            return Ok(HashSet::new());
        };
        let found = self.rooms.database().look_up("changed members", move |tx| {
            Box::pin(async move {
                let mut placed = HashSet::new();
                for part in events.chunks(PART) {
                    placed.extend(timelines::placed_after(tx, part, since).await?);
                }
                Ok(placed)
            })
        });
        Ok(found.await?)
    }

    async fn needed_members(
        &self,
        timeline: &Timeline,
        start: &State,
        end: &State,
    ) -> Result<BTreeMap<String, EventNr>, SyncError> {
        let (shown, start) = match self.request.use_state_after {
            // The state events of the timeline don't count then.
            true => (HashSet::new(), end),
            false => (timeline.numbers(), start),
        };
        let events = &timeline.events;
        let senders = of_senders(self.rooms, self.room, (events, &shown), start, end).await?;
        Ok(senders
            .into_iter()
            .map(|(user, event)| (user.to_string(), event))
            .collect())
    }

    /// What of the lazily loaded memberships the device hasn't got yet.
    fn without_redundant(
        &self,
        mut members: BTreeMap<String, EventNr>,
        heroes: &[(KeyNr, EventNr)],
    ) -> Vec<EventNr> {
        {
            let keys = self.room.keys();
            for (key, event) in heroes {
                if let Some(name) = keys.name(*key) {
                    members.entry(name.state_key.clone()).or_insert(*event);
                }
            }
        }
        let since = self
            .span
            .since
            .filter(|_| !self.request.full_state)
            .filter(|_| !self.request.filter.room.state.include_redundant_members);
        if let Some(since) = since {
            let (viewer, nr) = (&self.request.viewer, self.room.key.room);
            members.retain(|user, event| match <&UserId>::try_from(user.as_str()) {
                Ok(user) => !self.sent.has(viewer, nr, (user, *event), since),
                Err(_) => true,
            });
        }
        members.into_values().collect()
    }

    fn note_sent(&self, events: &[Seen]) {
        let members = events.iter().filter_map(|seen| {
            let pdu = &seen.event.pdu;
            pdu.membership?;
            let user = <&UserId>::try_from(pdu.state_key.as_deref()?).ok()?;
            Some((user, seen.event.nr))
        });
        self.sent.note(
            &self.request.viewer,
            self.room.key.room,
            members,
            self.span.upto,
        );
    }
}
