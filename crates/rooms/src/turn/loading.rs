//! What a turn has to know: it is looked up and put on the desk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use myelin_core::{
    desk::Needed,
    event::{Event, Verdict},
    number::EventNr,
    validate::ValidPdu,
};
use myelin_storage::{
    StorageError,
    events::{self, Known},
};
use ruma::{EventId, OwnedEventId};

use super::Turn;

impl Turn<'_> {
    /// Looks up events and what they refer to, all at once. An outlier's parents don't matter.
    pub(crate) async fn look_up_all<'p>(
        &mut self,
        pdus: impl IntoIterator<Item = &'p ValidPdu>,
        with_parents: bool,
    ) -> Result<(), StorageError> {
        let mut ids = Vec::new();
        for pdu in pdus {
            ids.push(pdu.event_id.clone());
            ids.extend(pdu.auth_events.iter().cloned());
            if with_parents {
                ids.extend(pdu.prev_events.iter().cloned());
            }
        }
        self.find(ids).await
    }

    /// Looks up event IDs, each once, so that their numbers are known and they are on the desk.
    pub(super) async fn find(
        &mut self,
        ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<(), StorageError> {
        let unknown: BTreeSet<_> = ids
            .into_iter()
            .filter(|id| !self.numbers.contains_key(id) && !self.desk.lacks(id))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut known = self
            .room
            .known_events(self.rooms, unknown.iter().cloned())
            .await?;
        for id in unknown {
            match known.remove(&id) {
                Some(Known::Held(event)) => {
                    self.numbers.insert(id, event.nr);
                    self.desk.put_event(event);
                }
                Some(Known::Referenced(nr)) => {
                    self.numbers.insert(id.clone(), nr);
                    self.referred_to.insert(nr);
                    self.desk.put_absent(id);
                }
                None => self.desk.put_absent(id),
            }
        }
        Ok(())
    }

    /// The number of an event that was looked up, or a new one.
    pub(crate) fn number_of(&mut self, id: &EventId) -> EventNr {
        if let Some(nr) = self.numbers.get(id) {
            return *nr;
        }
        let nr = self.rooms.numbers().event();
        self.numbers.insert(id.to_owned(), nr);
        nr
    }

    /// Whether others referred to an event before it was held.
    pub(crate) fn was_referred_to(&self, nr: EventNr) -> bool {
        self.referred_to.contains(&nr)
    }

    /// An event of this room by its ID, those of this turn included.
    pub(crate) async fn look_up(
        &mut self,
        id: &EventId,
    ) -> Result<Option<Arc<Event>>, StorageError> {
        self.find([id.to_owned()]).await?;
        let event = self.desk.event_by_id(id).cloned();
        self.desk.take_missing();
        Ok(event)
    }

    /// Whether an accepted event other than `except` has this one as its parent, or behind parents that were not
    /// accepted: those never take the place of theirs.
    pub(super) async fn is_built_upon(
        &self,
        nr: EventNr,
        except: EventNr,
    ) -> Result<bool, StorageError> {
        let mut seen = BTreeSet::from([nr]);
        let mut level = vec![nr];
        while !level.is_empty() {
            let mut children = self.batch.children(&level);
            let parents = level;
            let stored = self
                .rooms
                .database()
                .look_up("children", move |tx| {
                    Box::pin(async move { events::children(tx, &parents).await })
                })
                .await?;
            children.extend(stored);
            if children
                .iter()
                .any(|(child, verdict)| *verdict == Verdict::Accepted && *child != except)
            {
                return Ok(true);
            }
            level = children
                .into_iter()
                .map(|(child, _)| child)
                .filter(|child| seen.insert(*child))
                .collect();
        }
        Ok(false)
    }

    /// Puts on the desk what was found missing.
    pub(super) async fn load(&mut self, needed: BTreeSet<Needed>) -> Result<(), StorageError> {
        let mut ids = Vec::new();
        let mut numbers = Vec::new();
        let mut parents = Vec::new();
        for needed in needed {
            match needed {
                Needed::EventById(id) => ids.push(id),
                Needed::Event(nr) => numbers.push(nr),
                Needed::AuthChildren(nr) => parents.push(nr),
                Needed::Snapshot(nr) => {
                    let state = self.room.state(self.rooms, nr).await?;
                    self.desk.put_snapshot(nr, state);
                }
            }
        }
        self.find(ids).await?;
        numbers.extend(self.wanted_chains().await?);
        for event in self.room.events(self.rooms, numbers).await?.into_values() {
            self.numbers.insert(event.pdu.event_id.clone(), event.nr);
            self.desk.put_event(event);
        }
        self.load_auth_children(parents).await
    }

    /// The auth chains that a resolution will walk: all at once, not one link a round.
    async fn wanted_chains(&self) -> Result<Vec<EventNr>, StorageError> {
        let roots: Vec<EventNr> = self.desk.take_wanted_chains().into_iter().collect();
        if roots.is_empty() {
            return Ok(roots);
        }
        self.rooms
            .database()
            .read("auth chains", move |tx| {
                Box::pin(async move { events::auth_chain(tx, &roots).await })
            })
            .await
    }

    async fn load_auth_children(&mut self, parents: Vec<EventNr>) -> Result<(), StorageError> {
        if parents.is_empty() {
            return Ok(());
        }
        let mut children: BTreeMap<EventNr, Vec<EventNr>> = parents
            .iter()
            .map(|nr| (*nr, self.batch.auth_children(*nr)))
            .collect();
        let edges = self
            .rooms
            .database()
            .look_up("auth children", move |tx| {
                Box::pin(async move { events::auth_children(tx, &parents).await })
            })
            .await?;
        for (parent, child) in edges {
            children.entry(parent).or_default().push(child);
        }
        for (parent, children) in children {
            self.desk.put_auth_children(parent, children.into());
        }
        Ok(())
    }
}
