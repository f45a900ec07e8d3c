//! Users found by their names (client-server API, "User Directory"). Who is found, and under which name, is what a
//! room says that the asking user may look into: nobody learns here what somebody is called elsewhere.

use myelin_core::{key_table::MEMBER, search::Terms, state::Membership};
use myelin_storage::{
    accounts,
    user_directory::{self, UserSearch},
};
use myelin_users::Requester;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::Serialize;

use crate::{Sync, SyncError, search_context::HistoricProfile};

/// How many users are found if the client doesn't say.
const DEFAULT_LIMIT: usize = 10;

/// How many are found at most.
const MAX_LIMIT: usize = 50;

/// How many whose names match are looked at together.
const LOOKED_AT_TOGETHER: usize = 100;

/// In how many rooms a user is looked for.
const MAX_ROOMS: usize = 50;

/// What a client asks of `/user_directory/search`.
#[derive(Clone, Debug)]
pub struct UserSearchRequest {
    /// Who asks.
    pub viewer: Requester,
    /// The beginnings of words of a name, or of a user ID.
    pub search_term: String,
    /// How many users at most.
    pub limit: Option<u64>,
}

/// The users that were found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UsersFound {
    /// Those of this server first, and first those of whom a whole name was given.
    pub results: Vec<FoundUser>,
    /// Whether there are more.
    pub limited: bool,
}

/// A user who was found.
#[derive(Clone, Debug, Serialize)]
pub struct FoundUser {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// What a client wrote.
struct Wish<'a> {
    text: &'a str,
    /// The beginning of a user ID, if it is one.
    id: Option<String>,
}

impl<'a> Wish<'a> {
    fn read(written: &'a str) -> Self {
        let written = written.trim();
        match written.strip_prefix('@') {
            // The name of a server is no name of a user, but says which one is meant.
            Some(id) => Self {
                text: id.split_once(':').map_or(id, |(localpart, _)| localpart),
                id: Some(written.to_lowercase()),
            },
            None => Self {
                text: written,
                id: None,
            },
        }
    }

    fn fits(&self, user: &UserId, profile: &HistoricProfile) -> bool {
        let id = self.id.as_deref();
        let name = profile.displayname.as_deref().unwrap_or_default();
        let names = format!("{} {name}", user.localpart());
        id.is_none_or(|id| user.as_str().to_lowercase().starts_with(id))
            && Terms::beginnings(self.text).rank(&names) > 0.0
    }
}

impl Sync {
    /// Users with whom a user shares a room, or who are in a room that anybody may join or look into, by their
    /// names. Waits for what rooms said just now to be found, for a short time.
    ///
    /// # Errors
    /// [`SyncError::Storage`].
    pub async fn search_users(&self, request: &UserSearchRequest) -> Result<UsersFound, SyncError> {
        let wish = Wish::read(&request.search_term);
        let limit = request.limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_LIMIT)
        });
        let mut found = UsersFound::default();
        if Terms::of(wish.text).is_empty() || limit == 0 {
            return Ok(found);
        }
        self.rooms().wait_for_user_directory().await;
        let viewer = &request.viewer.user_id;
        let mut without = Vec::new();
        for (terms, local_only) in [
            (Terms::whole(wish.text), true),
            (Terms::beginnings(wish.text), true),
            (Terms::whole(wish.text), false),
            (Terms::beginnings(wish.text), false),
        ] {
            let search = UserSearch {
                viewer: viewer.clone(),
                terms,
                local_only,
                without: without.clone(),
            };
            for user in self.named(search).await? {
                if let Some(user) = self.found_user(viewer, &user, &wish).await? {
                    if found.results.len() == limit {
                        found.limited = true;
                        return Ok(found);
                    }
                    found.results.push(user);
                }
                without.push(user);
            }
        }
        Ok(found)
    }

    async fn named(&self, search: UserSearch) -> Result<Vec<OwnedUserId>, SyncError> {
        let named = self.rooms().database().look_up("users by name", move |tx| {
            Box::pin(async move { user_directory::find(tx, &search, LOOKED_AT_TOGETHER).await })
        });
        Ok(named.await?)
    }

    /// A user as a room shows it that the viewer may look into, if the name there fits and the account is open.
    async fn found_user(
        &self,
        viewer: &UserId,
        user: &UserId,
        wish: &Wish<'_>,
    ) -> Result<Option<FoundUser>, SyncError> {
        let (viewer, wanted) = (viewer.to_owned(), user.to_owned());
        let read = self
            .rooms()
            .database()
            .read("rooms of a found user", move |tx| {
                Box::pin(async move {
                    let account = accounts::by_user(tx, &wanted).await?;
                    let rooms = user_directory::seen_in(tx, &wanted, &viewer, MAX_ROOMS).await?;
                    Ok((account.is_some_and(|account| account.deactivated), rooms))
                })
            });
        let (is_closed, rooms) = read.await?;
        if is_closed {
            return Ok(None);
        }
        for room_id in rooms {
            let Some(profile) = self.profile_in(user, &room_id).await? else {
                continue;
            };
            if wish.fits(user, &profile) {
                return Ok(Some(FoundUser {
                    user_id: user.to_owned(),
                    display_name: profile.displayname,
                    avatar_url: profile.avatar_url,
                }));
            }
        }
        Ok(None)
    }

    /// What a user calls itself in a room that it is in.
    async fn profile_in(
        &self,
        user: &UserId,
        room_id: &OwnedRoomId,
    ) -> Result<Option<HistoricProfile>, SyncError> {
        let Some(room) = self.rooms().room(room_id).await? else {
            return Ok(None);
        };
        let entry = room.current().and_then(|current| {
            let entry = current.state.get_named(&room.keys(), MEMBER, user.as_str());
            entry.filter(|entry| entry.membership() == Some(Membership::Join))
        });
        let event = entry.map(|entry| entry.event());
        let found = room.events(self.rooms(), event).await?;
        let member = found.into_values().next();
        Ok(member.map(|member| HistoricProfile::read(member.pdu.content.get())))
    }
}
