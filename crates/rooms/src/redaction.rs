//! Redactions: whether one takes effect, and on events that come later than it.

use std::sync::Arc;

use myelin_core::{
    event::{Event, Verdict},
    power_levels::PowerLevels,
    state::State,
};
use myelin_storage::{StorageError, events};
use ruma::events::TimelineEventType;

use crate::{RoomError, new_event::NewEvent, turn::Turn};

/// Redacted, the first could leave a room without its creator in old versions, and the second lets every
/// server that is kept out back in. Like the reference, this server makes no such redactions.
const RUINOUS: [TimelineEventType; 2] = [
    TimelineEventType::RoomCreate,
    TimelineEventType::RoomServerAcl,
];

impl Turn<'_> {
    /// Lets a redaction that was accepted take effect, and those that waited for this event. An
    /// outlier is redacted too: it stays so when it gets its place.
    pub(crate) async fn note_redactions(&mut self, event: &Arc<Event>) -> Result<(), StorageError> {
        self.apply_waiting(event).await?;
        if !event.in_timeline()
            || event.verdict != Verdict::Accepted
            || event.pdu.event_type != TimelineEventType::RoomRedaction
        {
            return Ok(());
        }
        let Some(redacts) = event.pdu.redacts.clone() else {
            return Ok(());
        };
        match self.look_up(&redacts).await? {
            Some(target) => self.redact(&target, event).await,
            None => {
                let nr = self.number_of(&redacts);
                self.batch.put_reference(nr, &redacts);
                self.batch.put_pending_redaction(redacts, event.nr);
                Ok(())
            }
        }
    }

    /// Redactions that came before the event they redact.
    async fn apply_waiting(&mut self, event: &Arc<Event>) -> Result<(), StorageError> {
        if !self.was_referred_to(event.nr) {
            return Ok(());
        }
        let room = self.room.key.room;
        let id = event.pdu.event_id.clone();
        let waiting = self
            .rooms
            .database()
            .read("pending redactions", move |tx| {
                Box::pin(async move { events::pending_redactions(tx, room, &id).await })
            })
            .await?;
        let redactions = self.room.events(self.rooms, waiting).await?;
        for redaction in redactions.into_values() {
            self.redact(event, &redaction).await?;
        }
        Ok(())
    }

    /// Redacts an event if the redaction's author may (room versions 3 and later, "Handling
    /// redactions"). Before version 3 it would not have been accepted otherwise.
    async fn redact(
        &mut self,
        target: &Arc<Event>,
        redaction: &Arc<Event>,
    ) -> Result<(), StorageError> {
        if target.redacted_by.is_some() || !self.may_redact(target, redaction).await? {
            return Ok(());
        }
        self.batch.put_redaction(target.nr, redaction.nr);
        let mut redacted = (**target).clone();
        redacted.redacted_by = Some(redaction.nr);
        self.desk.put_event(Arc::new(redacted));
        Ok(())
    }

    async fn may_redact(
        &mut self,
        target: &Event,
        redaction: &Event,
    ) -> Result<bool, StorageError> {
        if self.room.key.version.redactions_are_authorised() {
            return Ok(true);
        }
        let Some(before) = redaction.before() else {
            return Ok(false);
        };
        let state = self.room.state(self.rooms, before.snapshot()).await?;
        let levels = self.power_levels(&state).await?;
        Ok(levels
            .is_some_and(|levels| levels.may_redact(&redaction.pdu.sender, &target.pdu.sender)))
    }

    /// The power levels in a state, if it has what they depend on.
    async fn power_levels(&mut self, state: &State) -> Result<Option<PowerLevels>, StorageError> {
        let (create, levels) = {
            let keys = self.room.keys();
            let event = |event_type: &str| {
                state
                    .get_named(&keys, event_type, "")
                    .map(|entry| entry.event())
            };
            (event("m.room.create"), event("m.room.power_levels"))
        };
        let held = self
            .room
            .events(self.rooms, create.into_iter().chain(levels))
            .await?;
        let get = |nr| held.get(&nr).or_else(|| self.desk.event(nr));
        let create = create.and_then(get);
        let levels = levels.and_then(get);
        self.desk.take_missing();
        Ok(create.and_then(|create| PowerLevels::read(self.room.key.version, create, levels).ok()))
    }

    /// Refuses what a local user may not redact: by the rules of rooms a server could redact whatever any of
    /// its users sent, and which of them may is up to itself (client-server API, "Redactions").
    pub(crate) async fn check_redaction(&mut self, event: &NewEvent) -> Result<(), RoomError> {
        let (Some(redacts), Some(current)) = (&event.redacts, &self.graph.current) else {
            return Ok(());
        };
        let state = current.state.clone();
        let levels = self.power_levels(&state).await?;
        let target = self.look_up(redacts).await?;
        if let Some(target) = &target
            && RUINOUS
                .iter()
                .any(|ruinous| target.pdu.event_type == *ruinous)
        {
            let why = format!("Events of type {} can't be redacted", target.pdu.event_type);
            return Err(RoomError::Forbidden(why));
        }
        if levels.is_some_and(|levels| levels.may_redact_others(&event.sender)) {
            return Ok(());
        }
        match target {
            Some(target) if target.pdu.sender == event.sender => Ok(()),
            Some(_) => Err(RoomError::Forbidden(
                "You may redact your own events only".to_owned(),
            )),
            None => Err(RoomError::NotFound("No such event in the room".to_owned())),
        }
    }
}
