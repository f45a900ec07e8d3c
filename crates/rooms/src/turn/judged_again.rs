//! What a resync writes: the full state of an event with what it is judged to be by that, and in the end that the
//! room is complete.
//!
//! An event that was accepted by a partial state may be rejected by the full one, or the other way round. Nobody
//! builds upon rejected events: others are not told the state at them, and could not follow.

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::{
    completeness::Question,
    event::{Event, Place, Verdict},
    receive::{self, Decision, KnownState, Rejudged},
};
use myelin_storage::{StorageError, events::Known};

use super::Turn;
use crate::{RoomError, commit::Replaced};

impl Turn<'_> {
    /// Writes the full state of an event, and what it is judged to be by that.
    pub(crate) async fn replace(
        mut self,
        event: &Arc<Event>,
        rejudged: Rejudged,
    ) -> Result<(), RoomError> {
        if !rejudged.before.completeness.permits(Question::AllMembers) {
            return Err(RoomError::Internal("a parent became partial again".into()));
        }
        let before = self.store_state(&rejudged.before).await?.reference;
        self.batch.set_bulk();
        self.batch.replace_state(Replaced {
            event: event.nr,
            before: before.snapshot(),
            verdict: rejudged.verdict,
            reason: rejudged.reason,
        });
        if let Place::Timeline { position, .. } = event.place {
            let mut replaced = (**event).clone();
            replaced.place = Place::Timeline { before, position };
            replaced.verdict = rejudged.verdict;
            self.desk.put_event(Arc::new(replaced));
        }
        if rejudged.verdict != event.verdict {
            self.judged_otherwise(event, rejudged.verdict).await?;
        }
        Ok(self.commit().await?)
    }

    async fn judged_otherwise(&mut self, event: &Event, now: Verdict) -> Result<(), RoomError> {
        tracing::info!(
            event = %event.pdu.event_id, was = ?event.verdict, is = ?now,
            "judged again with the full state"
        );
        let (outcome, moved) = match now {
            Verdict::Rejected => ("rejected after all", self.withdraw(event).await?),
            Verdict::Accepted => ("accepted after all", self.admit(event).await?),
            Verdict::SoftFailed => ("accepted after all", false),
        };
        metrics::counter!("myelin_decisions_total", "outcome" => outcome).increment(1);
        if moved {
            let current = self.resolve_current().await?;
            self.put_current(&current).await?;
        }
        Ok(())
    }

    /// A rejected event is no extremity. What nothing else follows than it is one again. Answers whether the
    /// extremities are others now.
    async fn withdraw(&mut self, event: &Event) -> Result<bool, StorageError> {
        let mut extremities = self.graph.extremities.clone();
        if !extremities.remove(&event.nr) {
            return Ok(false);
        }
        for behind in self.behind(event).await? {
            let may_be = behind.verdict == Verdict::Accepted;
            if may_be && !self.is_built_upon(behind.nr, event.nr).await? {
                extremities.insert(behind.nr);
            }
        }
        // A room is never without one: what stands behind this one may not be held.
        let moved = !extremities.is_empty();
        if moved {
            self.graph.extremities = extremities;
        }
        Ok(moved)
    }

    /// An accepted event that no other follows is an extremity, in place of what it follows.
    async fn admit(&mut self, event: &Event) -> Result<bool, StorageError> {
        if self.is_built_upon(event.nr, event.nr).await? {
            return Ok(false);
        }
        for behind in self.behind(event).await? {
            self.graph.extremities.remove(&behind.nr);
        }
        self.graph.extremities.insert(event.nr);
        Ok(true)
    }

    /// The timeline events that an event follows: its parents, and those of parents that are not accepted.
    async fn behind(&self, event: &Event) -> Result<Vec<Arc<Event>>, StorageError> {
        let mut behind: Vec<Arc<Event>> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = event.pdu.prev_events.clone();
        while !next.is_empty() {
            let known = self.room.known_events(self.rooms, next).await?;
            next = Vec::new();
            for known in known.into_values() {
                let Known::Held(parent) = known else { continue };
                if !parent.in_timeline() || !seen.insert(parent.nr) {
                    continue;
                }
                if parent.verdict != Verdict::Accepted {
                    next.extend(parent.pdu.prev_events.iter().cloned());
                }
                behind.push(parent);
            }
        }
        Ok(behind)
    }

    /// The current state: what the states after the extremities resolve to.
    pub(crate) async fn resolve_current(&mut self) -> Result<KnownState, RoomError> {
        match self.ask(receive::current_state).await? {
            Decision::Done(current) => Ok(current),
            other => Err(RoomError::Internal(format!(
                "a current state needs {other:?}"
            ))),
        }
    }

    /// Marks the room as complete with a full current state.
    pub(crate) async fn become_full(mut self, current: KnownState) -> Result<(), RoomError> {
        self.put_current(&current).await?;
        self.batch.set_full();
        Ok(self.commit().await?)
    }

    /// Makes a state the current one, at a new position: whoever reads the room from before sees the difference.
    async fn put_current(&mut self, current: &KnownState) -> Result<(), StorageError> {
        let old = self.graph.current.as_ref().map(|old| old.state.clone());
        let old = old.unwrap_or_else(|| self.room.empty_state());
        let changes = old.diff(&current.state);
        let position = self.batch.next_position();
        let current = self.store_state(current).await?;
        self.batch.put_current(position, current.reference);
        self.graph.current = Some(current);
        self.note_memberships(&changes, position);
        Ok(())
    }
}
