//! Invites of people of whom only an address is known (client-server and server-server API, "Third-party
//! invites").
//!
//! An identity server keeps the invite until somebody proves to own the address. It tells that
//! user's server so in a signed statement, on which the invite becomes an ordinary one: made by that
//! server itself if it is in the room, else by the inviter's at its request.

use std::sync::Arc;

use myelin_core::{
    key_table::MEMBER, receive::Recommendation, state::Membership, third_party::signing_key,
};
use myelin_federation::{InviteDetails, StoredInvite, ThirdPartyId, ThirdPartyInvite};
use myelin_storage::StorageError;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    RoomError, Rooms, ServeError, create::LONGEST_INVITING, new_event::NewEvent, outliers::remote,
    room::Room, turn::Turn,
};

const THIRD_PARTY_INVITE: &str = "m.room.third_party_invite";

/// What identity servers are told of a room: event type, field of its content, and their name for it.
const TOLD: [(&str, &str, &str); 5] = [
    ("m.room.canonical_alias", "alias", "room_alias"),
    ("m.room.name", "name", "room_name"),
    ("m.room.avatar", "url", "room_avatar_url"),
    ("m.room.join_rules", "join_rule", "room_join_rules"),
    ("m.room.create", "type", "room_type"),
];

/// What they are told of the inviter, in the same manner.
const TOLD_OF_INVITER: [(&str, &str); 2] = [
    ("displayname", "sender_display_name"),
    ("avatar_url", "sender_avatar_url"),
];

/// Somebody who is known by an address, and the identity server to be asked about it.
#[derive(Clone, Debug)]
pub struct ThirdParty {
    /// The address.
    pub id: ThirdPartyId,
    /// The identity server: a host, and perhaps a port.
    pub identity_server: String,
    /// The inviter's token there.
    pub access_token: String,
}

/// An identity server's statement that an address which was invited is a user's.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// Who invited the address.
    pub inviter: OwnedUserId,
    /// Whose the address is.
    pub owner: OwnedUserId,
    /// What the identity server signed: `mxid`, `token`, `signatures`.
    pub signed: Map<String, Value>,
}

impl Ownership {
    /// Which invite it is about.
    fn token(&self) -> &str {
        let token = self.signed.get("token");
        token.and_then(Value::as_str).unwrap_or_default()
    }

    /// The content of the invite that it makes possible.
    fn content(&self, display_name: &str) -> Map<String, Value> {
        let invite = json!({ "display_name": display_name, "signed": self.signed });
        let mut content = Map::new();
        content.insert("membership".into(), Membership::Invite.name().into());
        content.insert("third_party_invite".into(), invite);
        content
    }
}

/// The body of a request to exchange an invite.
#[derive(Deserialize)]
struct Exchange {
    #[serde(rename = "type")]
    event_type: String,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    state_key: OwnedUserId,
    content: ExchangeContent,
}

#[derive(Deserialize)]
struct ExchangeContent {
    membership: String,
    third_party_invite: Signed,
}

#[derive(Deserialize)]
struct Signed {
    signed: Map<String, Value>,
}

impl Rooms {
    /// Invites whoever owns an address: the user whom the identity server names, or else who will prove
    /// it to that server.
    ///
    /// # Errors
    /// As [`Rooms::send`]; [`RoomError::Remote`] if the identity server refuses or can't be asked.
    pub async fn invite_third_party(
        &self,
        inviter: &UserId,
        room_id: &RoomId,
        invitee: &ThirdParty,
    ) -> Result<OwnedEventId, RoomError> {
        let room = self.known_room(room_id).await?;
        self.check_may_invite(&room, inviter).await?;
        let ThirdParty {
            id,
            identity_server,
            access_token,
        } = invitee;
        let server = self
            .federation()
            .identity_server(identity_server, access_token)
            .map_err(|error| RoomError::InvalidParam(error.to_string()))?;
        if let Some(user) = server.look_up(id).await.map_err(remote)? {
            let invite = Membership::Invite;
            return self
                .set_membership(inviter, room_id, &user, invite, None)
                .await;
        }
        let details = self.invite_details(&room, inviter, id).await?;
        let stored = server.store_invite(&details).await.map_err(remote)?;
        self.send(room_id, waiting_invite(inviter, &stored)).await
    }

    /// Invites the first guests of a new room, who are known by their addresses. The room is there, whatever
    /// identity servers say; one that is slow is not waited for, but its guests are invited all the same.
    pub async fn invite_third_parties(
        &self,
        inviter: &UserId,
        room_id: &RoomId,
        invitees: Vec<ThirdParty>,
    ) {
        let (rooms, inviter, room_id) = (self.clone(), inviter.to_owned(), room_id.to_owned());
        let inviting = self.env().tasks.spawn("invite by address", async move {
            for invitee in &invitees {
                let invited = rooms.invite_third_party(&inviter, &room_id, invitee);
                if let Err(error) = invited.await {
                    tracing::warn!(room = %room_id, %error, "not invited by address");
                }
            }
        });
        let inviting = self.env().clock.timeout(LONGEST_INVITING, inviting);
        if inviting.await.is_err() {
            tracing::info!("an identity server is slow");
        }
    }

    /// The address is shown to nobody by a user who may not invite.
    async fn check_may_invite(&self, room: &Arc<Room>, inviter: &UserId) -> Result<(), RoomError> {
        let invite = NewEvent {
            state_key: Some("any".to_owned()),
            ..NewEvent::state(inviter, THIRD_PARTY_INVITE, json!({}))
        };
        let mut turn = Turn::take(self, room).await?;
        turn.propose(invite, Recommendation::NotWanted).await?;
        Ok(())
    }

    async fn invite_details(
        &self,
        room: &Arc<Room>,
        inviter: &UserId,
        invitee: &ThirdPartyId,
    ) -> Result<InviteDetails, StorageError> {
        let mut further = Map::new();
        for (event_type, field, name) in TOLD {
            let content = self.current_content(room, event_type).await?;
            let content = content.and_then(|content| serde_json::from_str(content.get()).ok());
            tell(&mut further, &content, field, name);
        }
        let member = self.current_named(room, MEMBER, inviter.as_str()).await?;
        let member = member.and_then(|event| serde_json::from_str(event.pdu.content.get()).ok());
        for (field, name) in TOLD_OF_INVITER {
            tell(&mut further, &member, field, name);
        }
        Ok(InviteDetails {
            invitee: invitee.clone(),
            room_id: room.key.room_id.to_string(),
            sender: inviter.to_string(),
            further,
        })
    }

    /// Makes an invite of an address one of the user of ours who owns it.
    ///
    /// # Errors
    /// As [`Rooms::send`]; [`RoomError::Remote`] if the inviter's server, or the identity server, refuses
    /// or can't be asked.
    pub async fn redeem_third_party_invite(
        &self,
        room_id: &RoomId,
        ownership: &Ownership,
    ) -> Result<(), RoomError> {
        let Ownership { inviter, owner, .. } = ownership;
        if !self.is_local(owner) {
            return Err(RoomError::InvalidParam(format!(
                "{owner} is no user of this server"
            )));
        }
        if let Some(room) = self.room(room_id).await?
            && room.has_server(self.server_name())
            && !room.is_partial()
        {
            return self.invite_owner(&room, ownership).await;
        }
        if self.is_local(inviter) {
            return Err(RoomError::unknown_room());
        }
        // What the room is to be shown of the address is known where the invite is.
        let content = Value::Object(ownership.content(""));
        let invite = ThirdPartyInvite {
            sender: inviter,
            state_key: owner,
            content: &content,
        };
        self.federation()
            .exchange_third_party_invite(inviter.server_name(), room_id, &invite)
            .await
            .map_err(remote)
    }

    /// `PUT /exchange_third_party_invite`: makes an invite of an address, by one of our users, one of the
    /// asking server's user who owns it.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn exchange_third_party_invite(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        body: &[u8],
    ) -> Result<(), ServeError> {
        let asked: Exchange =
            serde_json::from_slice(body).map_err(|error| ServeError::BadJson(error.to_string()))?;
        let refuse = |why: String| Err(ServeError::InvalidParam(why));
        if asked.event_type != MEMBER || asked.content.membership != Membership::Invite.name() {
            return refuse("the event is no invite".to_owned());
        }
        if asked.room_id != room_id {
            return refuse("the event is of another room than the request names".to_owned());
        }
        let ownership = Ownership {
            inviter: asked.sender,
            owner: asked.state_key,
            signed: asked.content.third_party_invite.signed,
        };
        let Ownership { inviter, owner, .. } = &ownership;
        if !self.is_local(inviter) {
            return refuse(format!("{inviter} is no user of this server"));
        }
        if owner.server_name() != origin {
            return Err(ServeError::Forbidden(format!(
                "{owner} is no user of {origin}"
            )));
        }
        let room = self.room_to_change(origin, room_id).await?;
        Ok(self.invite_owner(&room, &ownership).await?)
    }

    /// Invites who owns the address, if the statement stands on a key that the identity server still
    /// stands by. Only whoever makes the invite asks that: others must come to the same verdict.
    async fn invite_owner(&self, room: &Arc<Room>, ownership: &Ownership) -> Result<(), RoomError> {
        let refuse = |why: &str| Err(RoomError::Forbidden(why.to_owned()));
        let Ownership {
            inviter,
            owner,
            signed,
        } = ownership;
        let stored = self.current_named(room, THIRD_PARTY_INVITE, ownership.token());
        let stored = stored.await?.filter(|event| event.redacted_by.is_none());
        let Some(stored) = stored else {
            return refuse("there is no such invite in the room");
        };
        let member = self.current_named(room, MEMBER, owner.as_str()).await?;
        if member.is_some_and(|member| member.pdu.membership == Some(Membership::Join)) {
            // The rules would let the invite put the user out of the room.
            return Ok(());
        }
        let statement = Value::Object(signed.clone());
        let statement: Option<CanonicalJsonObject> = serde_json::from_value(statement).ok();
        let key = statement.and_then(|signed| signing_key(&stored.pdu.content, &signed));
        let Some(key) = key else {
            return refuse("no key of the invite signed this");
        };
        if let Some(url) = &key.key_validity_url {
            let valid = self.federation().is_invite_key_valid(url, &key.public_key);
            if !valid.await.map_err(remote)? {
                return refuse("the key that signed this is not valid any more");
            }
        }
        let stored: Value = serde_json::from_str(stored.pdu.content.get()).unwrap_or_default();
        let display_name = stored["display_name"].as_str().unwrap_or_default();
        let content = ownership.content(display_name);
        let invite = NewEvent::membership(inviter, owner, content);
        self.send(&room.key.room_id, invite).await.map(drop)
    }
}

/// The event of an invite that waits for the owner of the address.
fn waiting_invite(inviter: &UserId, stored: &StoredInvite) -> NewEvent {
    let first = stored.public_keys.first();
    let mut content = json!({
        "display_name": stored.display_name,
        "public_keys": stored.public_keys,
    });
    // Those who know of one key only look here.
    if let Some(key) = first {
        content["public_key"] = json!(key.public_key);
        if let Some(url) = &key.key_validity_url {
            content["key_validity_url"] = json!(url);
        }
    }
    NewEvent {
        state_key: Some(stored.token.clone()),
        ..NewEvent::state(inviter, THIRD_PARTY_INVITE, content)
    }
}

/// Adds what a field says, if it says something.
fn tell(further: &mut Map<String, Value>, content: &Option<Value>, field: &str, name: &str) {
    let text = content.as_ref().and_then(|content| content[field].as_str());
    further.extend(text.map(|text| (name.to_owned(), text.into())));
}
