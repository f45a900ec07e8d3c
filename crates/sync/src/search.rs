//! Events found by their words (client-server API, "Server Side Search").
//!
//! The newest events that match are judged one by one, so that what is counted, ranked and shown is what the user
//! may see and asked for.

use std::collections::{BTreeMap, BTreeSet};

use myelin_core::{
    completeness::Question,
    number::StreamPosition,
    search::{SearchKey, Terms},
};
use myelin_users::Requester;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};

use crate::{
    EventJson, Sync, SyncError,
    access::readable_state,
    filter::{MAX_LIMIT, RoomEventFilter},
    ignored_users::ignored_by,
    messages::DEFAULT_LIMIT,
    search_context::{ContextWish, ResultContext},
    search_hits::{Hit, Hits},
    token::SearchToken,
    wanted::Wanted,
};

/// In which order results come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderBy {
    /// Those that fit best first.
    #[default]
    Rank,
    /// The newest first.
    Recent,
}

/// What results are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKey {
    /// Their room.
    RoomId,
    /// Who wrote them.
    Sender,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Groupings {
    #[serde(default)]
    group_by: Vec<Grouping>,
}

#[derive(Clone, Debug, Deserialize)]
struct Grouping {
    key: GroupKey,
}

/// Which events a client looks for.
#[derive(Clone, Debug, Deserialize)]
pub struct SearchCriteria {
    search_term: String,
    keys: Option<Vec<SearchKey>>,
    filter: Option<RoomEventFilter>,
    order_by: Option<OrderBy>,
    event_context: Option<ContextWish>,
    include_state: Option<bool>,
    groupings: Option<Groupings>,
}

/// What a client asks of `/search`.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// Who asks.
    pub viewer: Requester,
    /// Where the last page ended.
    pub from: Option<SearchToken>,
    /// What is looked for.
    pub criteria: SearchCriteria,
}

/// A page of results.
#[derive(Clone, Debug, Serialize)]
pub struct SearchResults {
    /// How many were found. There may be more than are counted.
    pub count: usize,
    /// The words of the results that were looked for.
    pub highlights: BTreeSet<String>,
    /// The results.
    pub results: Vec<SearchResult>,
    /// The current state of their rooms, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<BTreeMap<OwnedRoomId, Vec<EventJson>>>,
    /// The results by room or sender, as asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<GroupKey, BTreeMap<String, Group>>,
    /// Where the next page begins; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

/// An event that was found.
#[derive(Clone, Debug, Serialize)]
pub struct SearchResult {
    /// How well it fits.
    pub rank: f64,
    /// The event.
    pub result: EventJson,
    /// What was said around it, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<ResultContext>,
}

/// The results of a page in one room, or of one sender.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    /// Where to go on within the group; absent if there are no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Groups in the order of their first results.
    pub order: usize,
    /// The results, in order.
    pub results: Vec<OwnedEventId>,
}

/// The part of the hits that a page shows, and where others go on.
struct Page<'a> {
    shown: &'a [Hit],
    /// By rank: those that were shown before, and these.
    upto_here: &'a [Hit],
    /// Those that the next pages may show, as far as they are known.
    left: &'a [Hit],
    next: Option<SearchToken>,
}

impl GroupKey {
    fn of(self, hit: &Hit) -> String {
        match self {
            Self::RoomId => hit.room.key.room_id.to_string(),
            Self::Sender => hit.seen.event.pdu.sender.to_string(),
        }
    }
}

impl SearchCriteria {
    fn limit(&self) -> usize {
        let limit = self.filter.as_ref().and_then(|filter| filter.limit);
        limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        })
    }
}

impl Sync {
    /// A page of the events that a user may see and that have all the words it looks for. Waits for those that
    /// were sent just now to be found, for a short time.
    ///
    /// # Errors
    /// [`SyncError::InvalidParam`] if nothing is looked for; [`SyncError::StillPartial`] if the members of a room
    /// are wanted and not known; [`SyncError::Storage`].
    pub async fn search(&self, request: &SearchRequest) -> Result<SearchResults, SyncError> {
        let SearchRequest {
            viewer, criteria, ..
        } = request;
        if criteria.search_term.trim().is_empty() {
            let message = "search_term: nothing is looked for";
            return Err(SyncError::InvalidParam(message.to_owned()));
        }
        let limit = match criteria.limit() {
            0 => {
                let message = "filter: the limit has to be greater than zero";
                return Err(SyncError::InvalidParam(message.to_owned()));
            }
            limit => limit.min(MAX_LIMIT),
        };
        let rooms = self.rooms();
        if request.from.is_none() {
            rooms.wait_for_search_index().await;
        }
        let newest = rooms.events_stream().readable();
        let from = request.from.clone().unwrap_or(SearchToken {
            before: StreamPosition(newest.0.saturating_add(1)),
            shown: 0,
            group: None,
        });
        let terms = Terms::of(&criteria.search_term);
        let ignored = ignored_by(rooms, &viewer.user_id).await?;
        let everything = RoomEventFilter::default();
        let wanted = Wanted {
            filter: criteria.filter.as_ref().unwrap_or(&everything),
            ignored: &ignored,
        };
        let keys = criteria.keys.clone();
        let keys = keys.unwrap_or_else(|| SearchKey::ALL.to_vec());
        let mut hits = self.hits(viewer, (&terms, keys), wanted, &from).await?;
        let order = criteria.order_by.unwrap_or_default();
        let page = page(&mut hits, order, &from, limit);
        let mut results = Vec::with_capacity(page.shown.len());
        for hit in page.shown {
            let result = self.result(viewer, hit, criteria.event_context.as_ref(), &ignored);
            results.push(Box::pin(result).await?);
        }
        let found = page.shown.iter().map(|hit| terms.found_in(&hit.text));
        Ok(SearchResults {
            count: page.counted(&from),
            highlights: found.flatten().collect(),
            results,
            state: match criteria.include_state {
                Some(true) => Some(Box::pin(self.states(viewer, page.shown)).await?),
                _ => None,
            },
            groups: criteria.groups(&page),
            next_batch: page.next.map(|token| token.to_string()),
        })
    }

    /// The current states of the rooms of some results, as far as the user may read them.
    async fn states(
        &self,
        viewer: &Requester,
        hits: &[Hit],
    ) -> Result<BTreeMap<OwnedRoomId, Vec<EventJson>>, SyncError> {
        let mut states = BTreeMap::new();
        for Hit { room, access, .. } in hits {
            let room_id = &room.key.room_id;
            if states.contains_key(room_id) {
                continue;
            }
            let state = readable_state(self.rooms(), room, *access, Question::AllMembers).await?;
            let entries: Vec<_> = state.entries().map(|(_, entry)| entry.event()).collect();
            let events = self.state_events(viewer, room, &entries).await?;
            states.insert(room_id.clone(), events);
        }
        Ok(states)
    }
}

/// The hits of a page, in order.
fn page<'a>(hits: &'a mut Hits, order: OrderBy, from: &SearchToken, limit: usize) -> Page<'a> {
    let group = from.group.clone();
    match order {
        OrderBy::Recent => {
            let (shown, left) = hits.found.split_at(limit.min(hits.found.len()));
            let last = match left {
                [] => hits.unread_before,
                _ => shown.last().map(|hit| hit.position),
            };
            let next = last.map(|before| SearchToken {
                before,
                shown: from.shown.saturating_add(shown.len()),
                group,
            });
            let upto_here = shown;
            Page {
                shown,
                upto_here,
                left,
                next,
            }
        }
        OrderBy::Rank => {
            // Stable: of those that fit as well, the newest is first.
            hits.found
                .sort_by(|one, other| other.rank.total_cmp(&one.rank));
            let rest = &hits.found[from.shown.min(hits.found.len())..];
            let (shown, left) = rest.split_at(limit.min(rest.len()));
            let next = (!left.is_empty()).then(|| SearchToken {
                before: from.before,
                shown: from.shown.saturating_add(shown.len()),
                group,
            });
            let upto_here = &hits.found[..hits.found.len() - left.len()];
            Page {
                shown,
                upto_here,
                left,
                next,
            }
        }
    }
}

impl Page<'_> {
    /// How many results there are on this page, those before it and, as far as they are known, after it.
    fn counted(&self, from: &SearchToken) -> usize {
        let counted = self.shown.len() + self.left.len();
        from.shown.saturating_add(counted)
    }
}

impl SearchCriteria {
    /// The results of a page in the groups that were asked for.
    fn groups(&self, page: &Page<'_>) -> BTreeMap<GroupKey, BTreeMap<String, Group>> {
        let wanted = self.groupings.iter().flat_map(|wish| &wish.group_by);
        let keys: BTreeSet<GroupKey> = wanted.map(|grouping| grouping.key).collect();
        let grouped = keys.into_iter().map(|key| (key, self.grouped(key, page)));
        grouped.collect()
    }

    fn grouped(&self, key: GroupKey, page: &Page<'_>) -> BTreeMap<String, Group> {
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for hit in page.shown {
            let order = groups.len();
            let group = groups.entry(key.of(hit)).or_insert_with(|| Group {
                order,
                ..Group::default()
            });
            group.results.push(hit.seen.event.id().to_owned());
        }
        let Some(next) = &page.next else {
            return groups;
        };
        for (name, group) in &mut groups {
            // Beyond what is known there may be more of every group.
            let goes_on = page.left.is_empty() || page.left.iter().any(|hit| key.of(hit) == *name);
            group.next_batch = goes_on.then(|| {
                let of_group = page.upto_here.iter().filter(|hit| key.of(hit) == *name);
                let token = SearchToken {
                    before: next.before,
                    shown: of_group.count(),
                    group: Some(name.clone()),
                };
                token.to_string()
            });
        }
        groups
    }
}
