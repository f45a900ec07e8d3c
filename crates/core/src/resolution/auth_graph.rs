//! Walks along auth events, as far as they are on the desk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::OwnedEventId;

use super::ResolutionError;
use crate::{desk::Desk, event::Event, number::EventNr};

/// Events with the events they cite. Remembers every edge, so that several walks over the same part
/// of the graph look each event up once.
pub(super) struct AuthGraph<'a> {
    pub(super) desk: &'a Desk,
    edges: BTreeMap<EventNr, Arc<[Arc<Event>]>>,
    missing: bool,
    gaps: BTreeSet<OwnedEventId>,
}

impl<'a> AuthGraph<'a> {
    pub(super) fn new(desk: &'a Desk) -> Self {
        Self {
            desk,
            edges: BTreeMap::new(),
            missing: false,
            gaps: BTreeSet::new(),
        }
    }

    /// Whether all walks found everything they came across.
    pub(super) fn check(&self) -> Result<(), ResolutionError> {
        if self.missing {
            return Err(ResolutionError::Incomplete);
        }
        self.gaps
            .first()
            .map_or(Ok(()), |id| Err(ResolutionError::Gap(id.clone())))
    }

    /// The auth events of an event.
    fn cited_by(&mut self, event: &Event) -> Arc<[Arc<Event>]> {
        if let Some(cited) = self.edges.get(&event.nr) {
            return cited.clone();
        }
        let mut cited = Vec::with_capacity(event.pdu.auth_events.len());
        for id in &event.pdu.auth_events {
            match self.desk.event_by_id(id) {
                Some(found) => cited.push(found.clone()),
                None if self.desk.lacks(id) => _ = self.gaps.insert(id.clone()),
                None => {
                    self.missing = true;
                    self.desk.want_auth_chain(event.nr);
                }
            }
        }
        let cited = Arc::<[_]>::from(cited);
        self.edges.insert(event.nr, cited.clone());
        cited
    }

    /// `starts` and everything that they reach, without the events at which `stop` says so and
    /// what only these reach.
    pub(super) fn chain<'e>(
        &mut self,
        starts: impl IntoIterator<Item = &'e Arc<Event>>,
        stop: impl Fn(&Event) -> bool,
    ) -> BTreeMap<EventNr, Arc<Event>> {
        let mut reached = BTreeMap::new();
        let mut next = starts.into_iter().cloned().collect::<Vec<_>>();
        while let Some(event) = next.pop() {
            if reached.contains_key(&event.nr) || stop(&event) {
                continue;
            }
            next.extend(self.cited_by(&event).iter().cloned());
            reached.insert(event.nr, event);
        }
        reached
    }

    /// As [`AuthGraph::chain`] without a stop, for events that may not be on the desk yet.
    pub(super) fn chain_of_entries(
        &mut self,
        entries: impl IntoIterator<Item = EventNr>,
    ) -> BTreeMap<EventNr, Arc<Event>> {
        let desk = self.desk;
        let mut starts = Vec::new();
        for nr in entries {
            match desk.event(nr) {
                Some(event) => starts.push(event),
                None => self.missing = true,
            }
        }
        self.chain(starts, |_| false)
    }

    /// `events` and all that lies on a path along auth events from one of them to another: the
    /// conflicted state subgraph of MSC4297.
    pub(super) fn paths_between<'e>(
        &mut self,
        events: impl Iterator<Item = &'e Arc<Event>> + Clone,
    ) -> Vec<Arc<Event>> {
        let chain = self.chain(events.clone(), |_| false);
        let mut citing = BTreeMap::<EventNr, Vec<EventNr>>::new();
        for nr in chain.keys() {
            for cited in self
                .edges
                .get(nr)
                .into_iter()
                .flat_map(|cited| cited.iter())
            {
                citing.entry(cited.nr).or_default().push(*nr);
            }
        }
        let mut found = BTreeSet::new();
        let mut next = events.map(|event| event.nr).collect::<Vec<_>>();
        while let Some(nr) = next.pop() {
            if found.insert(nr) {
                next.extend(citing.get(&nr).into_iter().flatten());
            }
        }
        found
            .iter()
            .filter_map(|nr| chain.get(nr).cloned())
            .collect()
    }
}
