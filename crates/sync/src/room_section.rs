//! One room in an answer of `/sync`: what is new in it, and what is needed to make sense of that.

use std::sync::Arc;

use myelin_core::{
    completeness::{Question, StateRef},
    event::Event,
    key_table::MEMBER,
    number::{EventNr, StreamPosition},
    state::{Membership, State},
};
use myelin_rooms::{Room, Rooms};
use myelin_storage::rooms as room_table;
use ruma::{OwnedUserId, UserId};

use crate::{
    SyncError, SyncRequest,
    access::{Access, is_join, placed},
    answer::{JoinedRoom, LeftRoom, StateSection, TimelineSection},
    client_event::{Form, Seen, client_events},
    ephemeral::Beside,
    lazy_members::SentMembers,
    summary::{Summary, summarize},
    timeline::{Timeline, TimelineQuery},
    wanted::Wanted,
};

/// How many changes of a membership are followed back before the room counts as new to the client.
const MAX_MEMBERSHIP_STEPS: usize = 10;

/// The part of the stream that an answer tells of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The last position that the client was told of.
    pub(crate) since: Option<StreamPosition>,
    /// The last position in the answer.
    pub(crate) upto: StreamPosition,
    /// The parts of the other streams.
    pub(crate) beside: Beside,
}

/// What a user is to a room at the end of a span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) membership: Membership,
    /// The membership event, if it came within the span.
    pub(crate) changed: Option<EventNr>,
}

/// Reads one room for one answer.
pub(crate) struct SectionReader<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) sent: &'a SentMembers,
    pub(crate) request: &'a SyncRequest,
    pub(crate) room: &'a Arc<Room>,
    pub(crate) span: Span,
    /// Whose events the user doesn't want to see.
    pub(crate) ignored: &'a [OwnedUserId],
}

/// The states between which the client moves.
pub(crate) struct Bounds {
    /// What the client knows; `None`: nothing, or it asked for everything.
    pub(crate) base: Option<(StateRef, State)>,
    /// What it shall know.
    pub(crate) end: (StateRef, State),
    /// The timeline begins after this.
    after: StreamPosition,
}

/// What joined and left rooms have in common.
struct Section {
    summary: Option<Summary>,
    state: StateSection,
    timeline: TimelineSection,
    is_empty: bool,
}

impl SectionReader<'_> {
    pub(crate) fn user(&self) -> &UserId {
        &self.request.viewer.user_id
    }

    pub(crate) fn lazy(&self) -> bool {
        self.request.filter.room.state.lazy_load_members
    }

    /// A room where the user is; `None` if there is nothing to tell.
    ///
    /// A room whose members are still being fetched doesn't exist for clients that want them all (R143). When
    /// they are there, it is new.
    pub(crate) async fn joined(&self, standing: Standing) -> Result<Option<JoinedRoom>, SyncError> {
        let (since, upto) = self.references().await?;
        let Some(upto) = upto else { return Ok(None) };
        if !self.lazy() && upto.answering(Question::AllMembers).is_none() {
            return Ok(None);
        }
        let bounds = self.bounds(since, upto, standing).await?;
        let is_known = bounds.after.0 != i64::MIN;
        let section = self.section(bounds).await?;
        let beside = self.beside(is_known && !self.request.full_state).await?;
        let unread = self.unread().await?;
        // It may be that the filter leaves the event out.
        let is_more = self.span.since.is_some_and(|since| unread.newest > since);
        let is_empty = section.is_empty && beside.is_empty() && !is_more;
        if is_empty && is_known && !self.request.full_state {
            return Ok(None);
        }
        Ok(Some(JoinedRoom {
            summary: section.summary,
            state: section.state,
            timeline: section.timeline,
            ephemeral: beside.ephemeral.into(),
            account_data: beside.account_data.into(),
            unread_notifications: unread.counts,
            unread_thread_notifications: unread.threads,
            is_new: !is_known,
        }))
    }

    /// A room where the user was. The span ends with its leave.
    pub(crate) async fn left(
        &self,
        membership: Membership,
        event: EventNr,
    ) -> Result<LeftRoom, SyncError> {
        let standing = Standing {
            membership,
            changed: Some(event),
        };
        let found = self.room.events(self.rooms, [event]).await?;
        let event = match found.get(&event) {
            Some(found) => Some(found.clone()),
            None => self.out_of_band(event).await?,
        };
        let was_in = match event.as_ref().and_then(placed) {
            // The resolution of a fork undid the join.
            Some(_) if is_join(event.as_ref()) => true,
            Some((_, before)) => {
                let before = self.own_membership(before).await?;
                matches!(before, Some((Membership::Join, _)))
            }
            None => false,
        };
        let (since, upto) = self.references().await?;
        let Some(upto) = upto.filter(|_| was_in) else {
            return self.never_joined(event).await;
        };
        let bounds = self.bounds(since, upto, standing).await?;
        let section = self.section(bounds).await?;
        Ok(LeftRoom {
            state: section.state,
            timeline: section.timeline,
            account_data: self.all_settings().await?.into(),
        })
    }

    /// A leave of the user that the room has no part in.
    async fn out_of_band(&self, event: EventNr) -> Result<Option<Arc<Event>>, SyncError> {
        let known = self.rooms.out_of_band(self.room, self.user()).await?;
        Ok(known
            .map(|known| known.event)
            .filter(|known| known.nr == event))
    }

    /// Somebody who rejected an invite, or was never let in, sees that and nothing else.
    async fn never_joined(&self, event: Option<Arc<Event>>) -> Result<LeftRoom, SyncError> {
        // An invite that was undone is not what the room is left with.
        let is_end = |event: &Arc<Event>| {
            matches!(
                event.pdu.membership,
                Some(Membership::Leave | Membership::Ban)
            )
        };
        let events = event.filter(is_end).into_iter().map(Seen::from).collect();
        let before = StreamPosition(self.span.upto.0 - 1);
        let timeline = Timeline {
            events,
            limited: false,
            before,
        };
        Ok(LeftRoom {
            state: self.state_section(Vec::new()),
            timeline: self.timeline_section(&timeline).await?,
            account_data: Default::default(),
        })
    }

    /// The current states at both ends of the span.
    async fn references(&self) -> Result<(Option<StateRef>, Option<StateRef>), SyncError> {
        let (nr, Span { since, upto, .. }) = (self.room.key.room, self.span);
        // Before the first position there is no state.
        let since = since.unwrap_or(StreamPosition(i64::MIN));
        let found = self
            .rooms
            .database()
            .look_up("states of a span", move |tx| {
                Box::pin(async move { room_table::states_at(tx, nr, (since, upto)).await })
            });
        Ok(found.await?)
    }

    /// What a state says of the user.
    async fn own_membership(
        &self,
        at: StateRef,
    ) -> Result<Option<(Membership, EventNr)>, SyncError> {
        let state = self.room.state(self.rooms, at.snapshot()).await?;
        let entry = state.get_named(&self.room.keys(), MEMBER, self.user().as_str());
        Ok(entry.and_then(|entry| Some((entry.membership()?, entry.event()))))
    }

    async fn bounds(
        &self,
        since: Option<StateRef>,
        upto: StateRef,
        standing: Standing,
    ) -> Result<Bounds, SyncError> {
        let known = match (self.span.since, since) {
            (Some(position), Some(reference)) if self.is_known(reference, standing).await? => {
                Some((position, reference))
            }
            _ => None,
        };
        let after = known.map_or(StreamPosition(i64::MIN), |(position, _)| position);
        let base = match known.filter(|_| !self.request.full_state) {
            Some((_, at)) => Some((at, self.room.state(self.rooms, at.snapshot()).await?)),
            None => None,
        };
        let end = self.room.state(self.rooms, upto.snapshot()).await?;
        Ok(Bounds {
            base,
            end: (upto, end),
            after,
        })
    }

    /// Whether the client knows the room from its last sync: the user was in it then, was in it ever since,
    /// and the room was complete enough to be shown.
    async fn is_known(&self, at_since: StateRef, standing: Standing) -> Result<bool, SyncError> {
        if !self.lazy() && at_since.answering(Question::AllMembers).is_none() {
            return Ok(false);
        }
        let Some(mut event) = standing.changed else {
            return Ok(true);
        };
        let Some((Membership::Join, known)) = self.own_membership(at_since).await? else {
            return Ok(false);
        };
        let mut membership = standing.membership;
        for step in 0..MAX_MEMBERSHIP_STEPS {
            if event == known {
                return Ok(true);
            }
            // The last change may be a leave. Before it, the user was there all the time, or came back.
            if step > 0 && membership != Membership::Join {
                return Ok(false);
            }
            let found = self.room.events(self.rooms, [event]).await?;
            let Some((_, before)) = found.get(&event).and_then(placed) else {
                return Ok(false);
            };
            match self.own_membership(before).await? {
                Some(previous) => (membership, event) = previous,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    async fn section(&self, bounds: Bounds) -> Result<Section, SyncError> {
        let query = TimelineQuery {
            user: self.user(),
            wanted: Wanted {
                filter: &self.request.filter.room.timeline,
                ignored: self.ignored,
            },
            after: bounds.after,
            upto: self.span.upto,
        };
        let mut timeline = Timeline::read(self.rooms, self.room, query).await?;
        if bounds.after.0 == i64::MIN {
            timeline = timeline.of_new_room();
        }
        let old = bounds.base.as_ref().map(|(_, state)| state);
        let summarized = summarize(self.room, self.user().as_str(), old, &bounds.end.1);
        let state = self
            .state_events(&bounds, &timeline, summarized.as_ref())
            .await?;
        let summary = summarized.map(|summarized| summarized.summary);
        let is_empty = timeline.events.is_empty()
            && !timeline.limited
            && state.is_empty()
            && summary.is_none();
        Ok(Section {
            summary,
            state: self.state_section(state),
            timeline: self.timeline_section(&timeline).await?,
            is_empty,
        })
    }

    pub(crate) fn form(&self) -> Form<'_> {
        let fields = self.request.filter.event_fields.as_ref();
        Form {
            viewer: &self.request.viewer,
            room_id: false,
            previous: true,
            fields,
            format: self.request.filter.event_format,
            bundled: None,
        }
    }

    fn state_section(&self, events: Vec<crate::EventJson>) -> StateSection {
        match self.request.use_state_after {
            true => StateSection::After(events.into()),
            false => StateSection::Before(events.into()),
        }
    }

    async fn timeline_section(&self, timeline: &Timeline) -> Result<TimelineSection, SyncError> {
        // What comes after the span is told later, or to others.
        let form = self.form().bundled(Access::Left(self.span.upto));
        let events = client_events(self.rooms, self.room, &timeline.events, form).await?;
        Ok(TimelineSection {
            events,
            limited: timeline.limited,
            prev_batch: timeline.prev_batch(),
        })
    }
}
