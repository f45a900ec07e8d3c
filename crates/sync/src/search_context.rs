//! What was said around an event that a search found.

use std::collections::{BTreeMap, HashSet};

use myelin_core::number::EventNr;
use myelin_users::Requester;
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    EventJson, Sync, SyncError,
    access::placed,
    client_event::{Form, Seen, client_events},
    event::no_such_event,
    filter::RoomEventFilter,
    lazy_members::of_senders,
    search::SearchResult,
    search_hits::Hit,
    token::PageToken,
    wanted::Wanted,
};

/// How many events are shown before a result, and after it, if the client doesn't say.
const DEFAULT_LIMIT: usize = 5;

/// How many are shown at most: a page has many results.
const MAX_LIMIT: usize = 20;

/// What a client wants to see around the results.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct ContextWish {
    before_limit: Option<u64>,
    after_limit: Option<u64>,
    include_profile: Option<bool>,
}

fn bounded(limit: Option<u64>) -> usize {
    limit.map_or(DEFAULT_LIMIT, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_LIMIT)
    })
}

/// What was said around a result.
#[derive(Clone, Debug, Serialize)]
pub struct ResultContext {
    /// Where to read on backwards.
    pub start: String,
    /// Where to read on forwards.
    pub end: String,
    /// What those who wrote all this called themselves then, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_info: Option<BTreeMap<OwnedUserId, HistoricProfile>>,
    /// The events before it, the latest first.
    pub events_before: Vec<EventJson>,
    /// Those after it, the earliest first.
    pub events_after: Vec<EventJson>,
}

/// What somebody called themselves in a room.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HistoricProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) avatar_url: Option<String>,
}

impl Sync {
    /// A hit in the form for clients.
    pub(crate) async fn result(
        &self,
        viewer: &Requester,
        hit: &Hit,
        wish: Option<&ContextWish>,
        ignored: &[OwnedUserId],
    ) -> Result<SearchResult, SyncError> {
        let Hit { room, access, .. } = hit;
        let form = Form::alone(viewer).bundled(*access);
        let mut shown = vec![hit.seen.clone()];
        let mut context = None;
        if let Some(wish) = wish {
            let wanted = Wanted {
                filter: &RoomEventFilter::default(),
                ignored,
            };
            let limits = (bounded(wish.before_limit), bounded(wish.after_limit));
            let reader = (&*viewer.user_id, room, *access);
            let (before, after) = self.around(reader, &hit.seen, wanted, limits).await?;
            let upto = access.upto(self.rooms().events_stream().readable());
            let token = |place| PageToken::History { place, upto }.to_string();
            let earlier = before.seen.len();
            let (start, end) = (token(before.next), token(after.next));
            shown.extend(before.seen);
            shown.extend(after.seen);
            let profile_info = match wish.include_profile {
                Some(true) => Some(self.profiles_then(hit, &shown).await?),
                _ => None,
            };
            context = Some((start, end, profile_info, earlier));
        }
        let mut events = client_events(self.rooms(), room, &shown, form).await?;
        let mut around = events.split_off(1);
        Ok(SearchResult {
            rank: hit.rank,
            result: events.pop().ok_or_else(no_such_event)?,
            context: context.map(|(start, end, profile_info, earlier)| {
                let events_after = around.split_off(earlier);
                ResultContext {
                    start,
                    end,
                    profile_info,
                    events_before: around,
                    events_after,
                }
            }),
        })
    }

    /// What the senders of some events called themselves when the last of them was sent.
    async fn profiles_then(
        &self,
        Hit { room, seen, .. }: &Hit,
        shown: &[Seen],
    ) -> Result<BTreeMap<OwnedUserId, HistoricProfile>, SyncError> {
        let last = shown.last().unwrap_or(seen);
        let (_, before) = placed(&last.event).ok_or_else(no_such_event)?;
        let state = room.state(self.rooms(), before.snapshot()).await?;
        let all = (shown, &HashSet::<EventNr>::new());
        let members = of_senders(self.rooms(), room, all, &state, &state).await?;
        let events = room.events(self.rooms(), members.values().copied()).await?;
        let profiles = members.into_iter().filter_map(|(user, member)| {
            let content = events.get(&member)?.pdu.content.get();
            Some((user, HistoricProfile::read(content)))
        });
        Ok(profiles.collect())
    }
}

impl HistoricProfile {
    /// What the content of a membership says; what has another form says nothing.
    pub(crate) fn read(content: &str) -> Self {
        let content: Map<String, Value> = serde_json::from_str(content).unwrap_or_default();
        let text = |name: &str| content.get(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            displayname: text("displayname"),
            avatar_url: text("avatar_url").filter(|url| url.starts_with("mxc://")),
        }
    }
}
