//! `/sync`: what happened in a user's rooms since the last time, or the wait for something to happen
//! (client-server API, "Syncing").
//!
//! The cost of an answer follows what changed: rooms without news are not looked at.

use std::{sync::Arc, time::Duration};

use futures_util::future::select_all;
use myelin_core::{key_table::MEMBER, number::StreamPosition, state::Membership};
use myelin_rooms::Room;
use myelin_storage::waking::News;
use myelin_users::Requester;
use ruma::OwnedUserId;

use crate::{
    Sync, SyncError,
    access::reference_at,
    answer::{InvitedRoom, KnockedRoom, RoomSections, SyncResponse},
    candidates::Candidate,
    ephemeral::Beside,
    filter::Filter,
    ignored_users::ignored_by,
    room_section::{SectionReader, Span, Standing},
    stripped_state::{ends_with_one_by, stripped_state},
    token::SyncToken,
};

/// The longest that a sync waits for news, whatever the client asks.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// What a client asks of `/sync`.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Who asks.
    pub viewer: Requester,
    /// Where the last sync ended; `None`: the first.
    pub since: Option<SyncToken>,
    /// What is wanted.
    pub filter: Filter,
    /// Whether the whole state of all rooms is wanted.
    pub full_state: bool,
    /// Whether state is wanted as of the end of the timeline instead of its start.
    pub use_state_after: bool,
    /// How long to wait if there is no news.
    pub timeout: Duration,
}

impl Sync {
    /// Answers a sync. Dropping the future abandons it without trace.
    ///
    /// # Errors
    /// [`SyncError::Storage`], and whatever reading a room fails with.
    pub async fn sync(&self, request: &SyncRequest) -> Result<SyncResponse, SyncError> {
        let clock = &self.rooms().env().clock;
        let (begun, limit) = (clock.instant(), request.timeout.min(MAX_WAIT));
        // Before the first look, so that nothing falls between looking and waiting.
        let mut news = self.listen(request);
        if request.since.is_none() {
            self.sent_members().forget(&request.viewer);
        }
        let mut since = request.since;
        loop {
            news.iter_mut().for_each(News::pass);
            let answer = self.look(request, since).await?;
            let is_due = since.is_none() || request.full_state || !answer.is_empty();
            let left = limit.saturating_sub(begun.elapsed(clock));
            if is_due || left.is_zero() || !self.wait(&mut news, left).await {
                return Ok(answer.response);
            }
            // What there was up to here is nothing to this client.
            since = Some(answer.upto);
        }
    }

    /// The streams in which a user may have news.
    fn listen(&self, request: &SyncRequest) -> Vec<News> {
        let (user, rooms, users) = (&request.viewer.user_id, self.rooms(), self.users());
        let mut news = vec![
            rooms.waking().news(user, rooms.events_stream()),
            users.waking().news(user, users.to_device_stream()),
            rooms.typing_news(user),
            rooms.receipt_news(user),
        ];
        if Self::wants_presence(request) {
            news.push(rooms.presence_news(user));
        }
        news
    }

    /// What there is for a client at the moment.
    async fn look(
        &self,
        request: &SyncRequest,
        since: Option<SyncToken>,
    ) -> Result<Answer, SyncError> {
        let upto = self.rooms().events_stream().readable();
        let _traced = since.map(|since| {
            let user = &request.viewer.user_id;
            self.rooms().trace_sync(user, (since.events, upto))
        });
        let typing = self.rooms().typing_stream().readable();
        let receipts = self.rooms().receipts_stream().readable();
        let after = |position: fn(&SyncToken) -> StreamPosition| {
            since.as_ref().map_or(StreamPosition(0), position)
        };
        let to_device = after(|token| token.to_device);
        let inbox = self.users().inbox(&request.viewer, to_device).await?;
        let account_data = (to_device, inbox.upto);
        let span = Span {
            since: since.map(|token| token.events),
            upto,
            beside: Beside {
                typing: (after(|token| token.typing), typing),
                receipts: (after(|token| token.receipts), receipts),
                account_data,
            },
        };
        let rooms = Box::pin(self.sections(request, span)).await?;
        let presence = match request.full_state {
            true => StreamPosition(0),
            false => after(|token| token.presence),
        };
        let presence = self.presence(request, presence, &rooms).await?;
        let settings = self.settings(request, account_data).await?;
        let upto = SyncToken {
            events: upto,
            to_device: inbox.upto,
            typing,
            receipts,
            presence: presence.upto,
        };
        let response = SyncResponse {
            next_batch: upto.to_string(),
            rooms,
            account_data: settings.into(),
            presence: presence.events.into(),
            to_device: inbox.events.into(),
            ..SyncResponse::default()
        };
        Ok(Answer { upto, response })
    }

    /// Waits for news. False if there was none until the time was up, or the server is stopping.
    async fn wait(&self, news: &mut [News], limit: Duration) -> bool {
        let env = self.rooms().env();
        let stopping = env.tasks.stopping();
        let woken = select_all(news.iter_mut().map(|news| Box::pin(news.arrive())));
        let woken = stopping.run_until_cancelled(woken);
        let waited = env.clock.timeout(limit, woken).await;
        matches!(waited, Ok(Some((Some(()), _, _))))
    }

    async fn sections(&self, request: &SyncRequest, span: Span) -> Result<RoomSections, SyncError> {
        let mut sections = RoomSections::default();
        let candidates = self.candidates(request, span).await?;
        // As nearly always when nothing happened.
        if candidates.is_empty() {
            return Ok(sections);
        }
        let ignored = ignored_by(self.rooms(), &request.viewer.user_id).await?;
        let asked = (request, &ignored[..]);
        for candidate in candidates {
            let Some(room) = self.rooms().room(&candidate.room_id).await? else {
                continue;
            };
            if !request.filter.room.wants(&candidate.room_id) {
                continue;
            }
            let Some((standing, position)) = self.standing(request, &room, candidate, span).await?
            else {
                continue;
            };
            self.add_section(asked, &room, (standing, position, span), &mut sections)
                .await?;
        }
        Ok(sections)
    }

    /// What the user is to a room at the end of the span, and since when.
    async fn standing(
        &self,
        request: &SyncRequest,
        room: &Arc<Room>,
        candidate: Candidate,
        span: Span,
    ) -> Result<Option<(Standing, StreamPosition)>, SyncError> {
        let Some(now) = candidate.membership else {
            let standing = Standing {
                membership: Membership::Join,
                changed: None,
            };
            return Ok(Some((standing, span.upto)));
        };
        if now.position <= span.upto {
            let is_news = span.since.is_none_or(|since| now.position > since);
            let changed = is_news.then_some(now.event);
            let membership = Membership::from_name(&now.membership);
            let standing = membership.map(|membership| Standing {
                membership,
                changed,
            });
            return Ok(standing.map(|standing| (standing, now.position)));
        }
        // It changed after the span. Only those who were in the room have to hear of it until then; whatever
        // else they were will be told with what they are now.
        let Some(current) = reference_at(self.rooms(), room, span.upto).await? else {
            return Ok(None);
        };
        let state = room.state(self.rooms(), current.snapshot()).await?;
        let user = request.viewer.user_id.as_str();
        let entry = state.get_named(&room.keys(), MEMBER, user);
        Ok(entry
            .filter(|entry| entry.membership() == Some(Membership::Join))
            .map(|entry| {
                let changed = Some(entry.event());
                (
                    Standing {
                        membership: Membership::Join,
                        changed,
                    },
                    span.upto,
                )
            }))
    }

    async fn add_section(
        &self,
        (request, ignored): (&SyncRequest, &[OwnedUserId]),
        room: &Arc<Room>,
        (standing, position, span): (Standing, StreamPosition, Span),
        sections: &mut RoomSections,
    ) -> Result<(), SyncError> {
        let (rooms, sent) = (self.rooms(), self.sent_members());
        let room_id = room.key.room_id.clone();
        match (standing.membership, standing.changed) {
            (Membership::Join, _) => {
                let reader = SectionReader {
                    rooms,
                    sent,
                    request,
                    room,
                    span,
                    ignored,
                };
                if let Some(section) = Box::pin(reader.joined(standing)).await? {
                    sections.join.insert(room_id, section);
                }
            }
            (_, None) => {}
            (Membership::Invite, Some(event)) => {
                let stripped = stripped_state(rooms, room, &request.viewer.user_id, event).await?;
                if !ends_with_one_by(&stripped, ignored) {
                    let invite_state = stripped.into();
                    sections
                        .invite
                        .insert(room_id, InvitedRoom { invite_state });
                }
            }
            (Membership::Knock, Some(event)) => {
                let knock_state = stripped_state(rooms, room, &request.viewer.user_id, event)
                    .await?
                    .into();
                sections.knock.insert(room_id, KnockedRoom { knock_state });
            }
            (Membership::Leave | Membership::Ban, Some(event)) => {
                if span.since.is_none() && !request.filter.room.include_leave {
                    return Ok(());
                }
                let span = Span {
                    upto: position,
                    ..span
                };
                let reader = SectionReader {
                    rooms,
                    sent,
                    request,
                    room,
                    span,
                    ignored,
                };
                sections.leave.insert(
                    room_id,
                    Box::pin(reader.left(standing.membership, event)).await?,
                );
            }
        }
        Ok(())
    }
}

/// An answer, and where it ends.
struct Answer {
    upto: SyncToken,
    response: SyncResponse,
}

impl Answer {
    /// Whether there is nothing in it that a client would wait for.
    fn is_empty(&self) -> bool {
        self.response.rooms.is_empty()
            && self.response.account_data.events.is_empty()
            && self.response.to_device.events.is_empty()
            && self.response.presence.events.is_empty()
    }
}
