//! Joining, leaving, knocking and inviting through another server.

use http::Method;
use ruma::{EventId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Federation, SendJoinAnswer, SendJoinStream,
    error::FederationError,
    pdu_stream::PduStream,
    request::{LONG_TIMEOUT, MIB, Request},
};

/// An answer to `make_join`, `make_leave` or `make_knock`.
#[derive(Clone, Debug, Deserialize)]
pub struct Template {
    /// The version of the room.
    #[serde(default = "first_version")]
    pub room_version: String,
    /// The event to be completed; nothing about it was checked.
    pub event: Box<RawValue>,
}

/// What the specification has a missing version mean.
fn first_version() -> String {
    "1".to_owned()
}

/// A membership that another server makes a template of.
#[derive(Clone, Copy)]
struct Making<'a> {
    server: &'a ServerName,
    room_id: &'a RoomId,
    user_id: &'a UserId,
}

/// An event that another server takes into a room.
#[derive(Clone, Copy)]
struct Sending<'a> {
    room_id: &'a RoomId,
    event_id: &'a EventId,
}

impl Sending<'_> {
    fn request(self, endpoint: &'static str, path: &str) -> Request {
        Request::new(Method::PUT, endpoint, path)
            .segment(self.room_id)
            .segment(self.event_id)
            .interactive()
    }
}

impl Federation {
    /// `GET /v1/make_join`: a join for one of our users, to be completed and signed.
    /// `supported_versions` are those room versions that we can join.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn make_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        supported_versions: &[&str],
    ) -> Result<Template, FederationError> {
        let making = Making {
            server,
            room_id,
            user_id,
        };
        self.make("make_join", "v1/make_join", making, supported_versions)
            .await
    }

    /// `GET /v1/make_leave`: a leave for one of our users, for instance to reject an invite.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn make_leave(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Template, FederationError> {
        let making = Making {
            server,
            room_id,
            user_id,
        };
        self.make("make_leave", "v1/make_leave", making, &[]).await
    }

    /// `GET /v1/make_knock`: a knock for one of our users.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn make_knock(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        supported_versions: &[&str],
    ) -> Result<Template, FederationError> {
        let making = Making {
            server,
            room_id,
            user_id,
        };
        self.make("make_knock", "v1/make_knock", making, supported_versions)
            .await
    }

    async fn make(
        &self,
        endpoint: &'static str,
        path: &str,
        making: Making<'_>,
        versions: &[&str],
    ) -> Result<Template, FederationError> {
        let mut request = Request::get(endpoint, path)
            .segment(making.room_id)
            .segment(making.user_id)
            .interactive();
        for version in versions {
            request = request.query("ver", version);
        }
        self.ask(making.server, request).await
    }

    /// `PUT /v2/send_join`, with the whole answer in memory. With `omit_members`, the server may leave
    /// memberships out (section 2.2 of the specification's partial joins, MSC3706).
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn send_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        pdu: &RawValue,
        omit_members: bool,
    ) -> Result<SendJoinAnswer, FederationError> {
        let stream = self
            .send_join_stream(server, room_id, event_id, pdu, omit_members)
            .await?;
        stream.collect().await
    }

    /// `PUT /v2/send_join`, with the answer read as it arrives. When this returns `Ok`, the server has
    /// taken the join.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn send_join_stream(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        pdu: &RawValue,
        omit_members: bool,
    ) -> Result<SendJoinStream, FederationError> {
        let request = Sending { room_id, event_id }
            .request("send_join", "v2/send_join")
            .query("omit_members", if omit_members { "true" } else { "false" })
            .timeout(LONG_TIMEOUT)
            .json(pdu)?;
        let body = self.open(server, request).await?;
        Ok(SendJoinStream(PduStream::new(
            body,
            &["state", "auth_chain"],
        )))
    }

    /// `PUT /v2/send_leave`.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn send_leave(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        pdu: &RawValue,
    ) -> Result<(), FederationError> {
        let request = Sending { room_id, event_id }
            .request("send_leave", "v2/send_leave")
            .json(pdu)?;
        self.fetch(server, request).await.map(drop)
    }

    /// `PUT /v1/send_knock`. Returns the stripped state of the room: in room version 12 PDUs.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn send_knock(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        pdu: &RawValue,
    ) -> Result<Vec<Box<RawValue>>, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            knock_room_state: Vec<Box<RawValue>>,
        }
        let request = Sending { room_id, event_id }
            .request("send_knock", "v1/send_knock")
            .limit(4 * MIB)
            .json(pdu)?;
        let answer: Answer = self.ask(server, request).await?;
        Ok(answer.knock_room_state)
    }

    /// `PUT /v2/invite`: asks the invited user's server to sign the invite. Returns it signed.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn invite(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        invite: &Invite<'_>,
    ) -> Result<Box<RawValue>, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            event: Box<RawValue>,
        }
        let request = Sending { room_id, event_id }
            .request("invite", "v2/invite")
            .json(invite)?;
        let answer: Answer = self.ask(server, request).await?;
        Ok(answer.event)
    }

    /// `PUT /v1/exchange_third_party_invite`: asks a server in the room to invite one of our users, who owns
    /// an address that was invited.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn exchange_third_party_invite(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        invite: &ThirdPartyInvite<'_>,
    ) -> Result<(), FederationError> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(rename = "type")]
            event_type: &'static str,
            room_id: &'a RoomId,
            #[serde(flatten)]
            invite: &'a ThirdPartyInvite<'a>,
        }
        let body = Body {
            event_type: "m.room.member",
            room_id,
            invite,
        };
        let endpoint = "exchange_third_party_invite";
        let request = Request::put(endpoint, "v1/exchange_third_party_invite")
            .segment(room_id)
            .interactive()
            .json(&body)?;
        self.fetch(server, request).await.map(drop)
    }
}

/// An invite by address that its owner's server wants to be made that user's.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ThirdPartyInvite<'a> {
    /// Who made the invite: a user of the server that is asked.
    pub sender: &'a UserId,
    /// Who owns the address.
    pub state_key: &'a UserId,
    /// The content of the wished membership event.
    pub content: &'a serde_json::Value,
}

/// An invite to be signed by the invited user's server.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Invite<'a> {
    /// The version of the room.
    pub room_version: &'a str,
    /// The invite, signed by us.
    pub event: &'a RawValue,
    /// What the invited user gets to see of the room: PDUs, with the create event (N7).
    pub invite_room_state: &'a [Box<RawValue>],
}
