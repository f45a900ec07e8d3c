//! Aliases: resolving them, and making and ending this server's own (client-server API, "Room
//! aliases").

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use myelin_core::completeness::Question;
use myelin_storage::{Priority, StorageError, aliases};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, ServerName, UserId,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{RoomError, Rooms, new_event::NewEvent, room::Room};

/// The state event that tells a room's aliases.
pub(crate) const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

/// How long an alias may be, in bytes.
const LONGEST_ALIAS: usize = 255;

/// How many servers are named to those who resolve an alias: enough to join through.
const NAMED_SERVERS: usize = 100;

/// How many aliases that a room is about to announce are resolved at the same time.
const RESOLVED_TOGETHER: usize = 16;

/// How long resolving all of them may take.
const LONGEST_CHECK: Duration = Duration::from_secs(30);

/// What `m.room.canonical_alias` says.
#[derive(Debug, Default, Deserialize)]
struct Announced {
    #[serde(default)]
    alias: Option<String>,
    #[serde(default)]
    alt_aliases: Vec<String>,
}

impl Announced {
    fn all(&self) -> impl Iterator<Item = &String> {
        // Clients write an empty string for none.
        let alias = self.alias.iter().filter(|alias| !alias.is_empty());
        alias.chain(&self.alt_aliases)
    }
}

impl Rooms {
    /// The room behind an alias, and servers that may help to join it.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] if there is no such alias, [`RoomError::NoServer`] if its server
    /// doesn't answer.
    pub async fn resolve_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        let server = alias.server_name();
        if server == self.server_name() {
            let found = self.local_alias(alias).await?;
            let room_id = found.ok_or_else(|| unknown(alias))?.room_id;
            let servers = self.helpful_servers(&room_id).await?;
            return Ok((room_id, servers));
        }
        match self.federation().query_directory(server, alias).await {
            Ok(directory) => Ok((directory.room_id, directory.servers)),
            Err(error) if error.remote().is_some_and(|remote| remote.status == 404) => {
                Err(unknown(alias))
            }
            Err(error) => Err(RoomError::NoServer(format!("{server}: {error}"))),
        }
    }

    /// Gives a room one of this server's aliases. Any member may.
    ///
    /// # Errors
    /// [`RoomError::InvalidParam`] for an alias of another server, [`RoomError::AliasInUse`],
    /// [`RoomError::Forbidden`] if the user is not in the room.
    pub async fn add_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), RoomError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomError::InvalidParam(format!(
                "aliases of {} are made there",
                alias.server_name()
            )));
        }
        let name = self.free_alias(alias.alias()).await?;
        let room = self.known_room(room_id).await?;
        self.must_be_joined(&room, user)?;
        let (wanted, room_id, creator) = (name.clone(), room_id.to_owned(), user.to_owned());
        let put = self
            .database()
            .write("put an alias", Priority::Interactive, move |tx| {
                Box::pin(async move { aliases::put(tx, &wanted, &room_id, &creator).await })
            })
            .await?;
        match put {
            true => Ok(()),
            false => Err(taken(&name)),
        }
    }

    /// Ends one of this server's aliases. Whoever made it may, and whoever may announce the room's
    /// aliases, and, by `as_admin`, who administers the server. If the room announces the alias, and
    /// the user may, it announces it no longer.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] if there is no such alias here, [`RoomError::Forbidden`].
    pub async fn remove_alias(
        &self,
        user: &UserId,
        as_admin: bool,
        alias: &RoomAliasId,
    ) -> Result<(), RoomError> {
        let found = self.local_alias(alias).await?;
        let found = found.ok_or_else(|| unknown(alias))?;
        let room = self.room(&found.room_id).await?;
        let may_announce = match &room {
            Some(room) => self.may_set_state(room, user, CANONICAL_ALIAS).await?,
            None => false,
        };
        if found.creator != user && !may_announce && !as_admin {
            return Err(RoomError::Forbidden(
                "only who made the alias, or may announce the room's aliases, can end it".into(),
            ));
        }
        let name = alias.to_string();
        self.database()
            .write("delete an alias", Priority::Interactive, move |tx| {
                Box::pin(async move { aliases::delete(tx, &name).await })
            })
            .await?;
        if let Some(room) = room.filter(|_| may_announce) {
            self.announce_without(&room, user, alias).await?;
        }
        Ok(())
    }

    /// This server's aliases of a room.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn aliases_of(&self, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let room_id = room_id.to_owned();
        let names = self
            .database()
            .look_up("aliases of a room", move |tx| {
                Box::pin(async move { aliases::of_room(tx, &room_id).await })
            })
            .await?;
        let parsed = names.into_iter().map(|name| {
            OwnedRoomAliasId::try_from(name)
                .map_err(|error| StorageError::Corrupt(format!("alias: {error}")).into())
        });
        parsed.collect()
    }

    /// One of this server's aliases by its local part, if it is well-formed and free.
    pub(crate) async fn free_alias(&self, name: &str) -> Result<String, RoomError> {
        if name.is_empty() || name.contains([':', '#', '\0']) || name.contains(char::is_whitespace)
        {
            return Err(RoomError::InvalidParam(
                "that is not the local part of an alias".into(),
            ));
        }
        let alias = format!("#{name}:{}", self.server_name());
        if alias.len() > LONGEST_ALIAS {
            return Err(RoomError::InvalidParam("the alias is too long".into()));
        }
        let parsed = RoomAliasId::parse(&alias)
            .map_err(|error| RoomError::InvalidParam(error.to_string()))?;
        match self.local_alias(&parsed).await? {
            Some(_) => Err(taken(&alias)),
            None => Ok(alias),
        }
    }

    /// Whether what a room is about to announce are its aliases. What it announces already is not
    /// looked at: the alias of a server that has gone may stand.
    ///
    /// # Errors
    /// [`RoomError::InvalidParam`] for what is no alias, [`RoomError::BadAlias`] for one that is not
    /// the room's.
    pub(crate) async fn check_announced(
        &self,
        room: &Arc<Room>,
        content: &RawValue,
    ) -> Result<(), RoomError> {
        let announced: Announced = serde_json::from_str(content.get())
            .map_err(|error| RoomError::BadJson(error.to_string()))?;
        let current = self.current_content(room, CANONICAL_ALIAS).await?;
        let current: Announced = current
            .and_then(|content| serde_json::from_str(content.get()).ok())
            .unwrap_or_default();
        let new = announced.all();
        let new: Vec<String> = new
            .filter(|alias| current.all().all(|known| known != *alias))
            .cloned()
            .collect();
        let checks = stream::iter(new)
            .map(|alias| self.check_leads_to(room, alias))
            .buffer_unordered(RESOLVED_TOGETHER)
            .try_collect::<()>();
        let checked = self.env().clock.timeout(LONGEST_CHECK, checks).await;
        checked.unwrap_or_else(|_| {
            Err(RoomError::BadAlias(
                "the servers of the aliases did not answer in time".into(),
            ))
        })
    }

    /// Whether an alias is one of a room's.
    async fn check_leads_to(&self, room: &Room, alias: String) -> Result<(), RoomError> {
        let parsed = RoomAliasId::parse(&*alias)
            .map_err(|error| RoomError::InvalidParam(format!("{alias}: {error}")))?;
        match self.resolve_alias(&parsed).await {
            Ok((room_id, _)) if room_id == room.key.room_id => Ok(()),
            Ok(_) => Err(RoomError::BadAlias(format!("{alias} is another room's"))),
            Err(RoomError::Storage(error)) => Err(error.into()),
            Err(error) => Err(RoomError::BadAlias(error.to_string())),
        }
    }

    /// Announces a room's aliases without one of them.
    async fn announce_without(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        alias: &RoomAliasId,
    ) -> Result<(), RoomError> {
        let Some(content) = self.current_content(room, CANONICAL_ALIAS).await? else {
            return Ok(());
        };
        let Ok(mut content) = serde_json::from_str::<Map<String, Value>>(content.get()) else {
            return Ok(());
        };
        let before = content.clone();
        if content.get("alias").and_then(Value::as_str) == Some(alias.as_str()) {
            content.remove("alias");
        }
        if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
            others.retain(|other| other.as_str() != Some(alias.as_str()));
        }
        if content == before {
            return Ok(());
        }
        let event = NewEvent::state(user, CANONICAL_ALIAS, Value::Object(content));
        self.send(&room.key.room_id, event).await?;
        Ok(())
    }

    async fn local_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<Option<aliases::Alias>, StorageError> {
        let name = alias.to_string();
        self.database()
            .look_up("alias", move |tx| {
                Box::pin(async move { aliases::by_name(tx, &name).await })
            })
            .await
    }

    /// Servers to join a room through: this one if it is in it, then those with the most users.
    async fn helpful_servers(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        let Some(room) = self.room(room_id).await? else {
            return Ok(vec![self.server_name().to_owned()]);
        };
        let current = room.current().filter(|current| {
            let reference = current.reference;
            reference.answering(Question::ApproximateServers).is_some()
        });
        let mut servers: Vec<(String, u32)> = current
            .iter()
            .flat_map(|current| current.state.servers())
            .map(|(name, users)| (name.to_string(), users))
            .collect();
        let own = self.server_name().as_str();
        servers.sort_by_key(|(name, users)| (name != own, std::cmp::Reverse(*users)));
        let named = servers.into_iter().take(NAMED_SERVERS);
        Ok(named
            .filter_map(|(name, _)| ServerName::parse(name).ok())
            .collect())
    }
}

fn unknown(alias: &RoomAliasId) -> RoomError {
    RoomError::NotFound(format!("there is no alias {alias}"))
}

fn taken(alias: &str) -> RoomError {
    RoomError::AliasInUse(format!("{alias} is taken"))
}
