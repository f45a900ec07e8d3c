//! Membership events that another server has prepared for one of our users: checked, completed and
//! signed.

use myelin_core::{build, room_version::RoomVersion, state::Membership, validate::ValidPdu};
use myelin_federation::Template;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{
    RoomError, Rooms,
    send::{not_built, timestamp},
};

/// Where a join to a restricted room names the user who lets the other in.
pub(crate) const AUTHORISER: &str = "join_authorised_via_users_server";

/// What is wanted of another server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) room_id: &'a RoomId,
    pub(crate) user: &'a UserId,
    pub(crate) membership: Membership,
}

/// A membership event that is ready to be sent.
pub(crate) struct Completed {
    pub(crate) version: RoomVersion,
    pub(crate) pdu: ValidPdu,
    /// The server that must authorise a restricted join.
    pub(crate) authorising: Option<OwnedServerName>,
}

impl Rooms {
    /// Checks that a template is what was wanted and nothing else (N9), puts `content` into it, and
    /// signs it.
    pub(crate) fn complete_template(
        &self,
        wanted: Wanted<'_>,
        template: &Template,
        mut content: Map<String, Value>,
    ) -> Result<Completed, RoomError> {
        let version = RoomVersion::parse(&template.room_version)
            .map_err(|_| RoomError::UnsupportedVersion(template.room_version.clone()))?;
        let mut event: CanonicalJsonObject = serde_json::from_str(template.event.get())
            .map_err(|error| RoomError::NoServer(format!("the template is malformed: {error}")))?;
        let authoriser = check(wanted, &event)?;
        content.insert("membership".into(), wanted.membership.name().into());
        if let Some(authoriser) = &authoriser {
            let authoriser = authoriser.as_str().into();
            content.insert(AUTHORISER.into(), authoriser);
        }
        let content = CanonicalJsonValue::try_from(Value::Object(content))
            .map_err(|error| RoomError::BadJson(error.to_string()))?;
        event.insert("content".into(), content);
        let now = timestamp(self).get().into();
        event.insert("origin_server_ts".into(), CanonicalJsonValue::Integer(now));
        let pdu = build::sign_template(version, &event, self.key()).map_err(not_built)?;
        let authorising = authoriser.map(|user| user.server_name().to_owned());
        Ok(Completed {
            version,
            pdu,
            authorising,
        })
    }
}

/// Who authorises the join, according to the template.
fn check(
    wanted: Wanted<'_>,
    event: &CanonicalJsonObject,
) -> Result<Option<ruma::OwnedUserId>, RoomError> {
    let text = |field: &str| event.get(field).and_then(CanonicalJsonValue::as_str);
    let content = event.get("content").and_then(CanonicalJsonValue::as_object);
    let in_content = |field: &str| content?.get(field)?.as_str();
    let fits = text("type") == Some("m.room.member")
        && text("sender") == Some(wanted.user.as_str())
        && text("state_key") == Some(wanted.user.as_str())
        && text("room_id") == Some(wanted.room_id.as_str())
        && in_content("membership") == Some(wanted.membership.name());
    if !fits {
        return Err(RoomError::NoServer(
            "the template is for something else".into(),
        ));
    }
    if wanted.membership != Membership::Join {
        return Ok(None);
    }
    in_content(AUTHORISER)
        .map(|user| {
            UserId::parse(user).map_err(|error| {
                RoomError::NoServer(format!("the template names an invalid user: {error}"))
            })
        })
        .transpose()
}
