//! Invites that come over federation. The server invites its own users in its own name, since its own
//! key is the one at hand, to a room that it has never heard of.

use http::{Method, StatusCode};
use myelin_core::{build::EventDraft, room_version::RoomVersion, validate::ValidPdu};
use myelin_storage::testing::{Fresh, on_each_engine};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, UInt, user_id};
use serde_json::{Value, json, value::to_raw_value};

use crate::{Site, federation::call};

const SYNC: &str = "/_matrix/client/v3/sync";

fn write(site: &Site, kind: &str, key: &str, content: &Value, after: &[OwnedEventId]) -> ValidPdu {
    let draft = EventDraft {
        room_id: Some("!strange:example.org".try_into().unwrap()),
        sender: user_id!("@stranger:example.org").to_owned(),
        event_type: kind.to_owned(),
        state_key: Some(key.to_owned()),
        content: to_raw_value(content).unwrap(),
        prev_events: after.to_vec(),
        auth_events: after.to_vec(),
        depth: 1,
        origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::from(1_u32)),
        redacts: None,
    };
    draft.finish(RoomVersion::V11, site.keys.active()).unwrap()
}

/// The target and the body of an invite of a user of this server.
pub(crate) fn invite(site: &Site, user: &str) -> (String, Value) {
    let parsed = |pdu: &ValidPdu| serde_json::from_str::<Value>(&pdu.json).unwrap();
    let create = write(
        site,
        "m.room.create",
        "",
        &json!({ "room_version": "11" }),
        &[],
    );
    let after = [create.event_id.clone()];
    let name = write(
        site,
        "m.room.name",
        "",
        &json!({ "name": "Strange" }),
        &after,
    );
    let content = json!({ "membership": "invite" });
    let invite = write(site, "m.room.member", user, &content, &after);
    let body = json!({
        "room_version": "11",
        "event": parsed(&invite),
        "invite_room_state": [parsed(&create), parsed(&name)],
    });
    let path = "/_matrix/federation/v2/invite/!strange:example.org";
    (format!("{path}/{}", invite.event_id), body)
}

async fn synced(site: &Site, token: &str) -> Value {
    let (status, answer) = site.call(Method::GET, SYNC, Some(token), Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn an_invite_is_signed_shown_declined_and_forgotten() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let (target, body) = invite(&site, "@alice:example.org");
        let (status, answer) = call(&site, Method::PUT, &target, body.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["event"], body["event"]);
        let shown = synced(&site, &token).await;
        let room = "!strange:example.org";
        let events = &shown["rooms"]["invite"][room]["invite_state"]["events"];
        let types: Vec<_> = events
            .as_array()
            .unwrap()
            .iter()
            .map(|event| &event["type"])
            .collect();
        assert_eq!(types, ["m.room.create", "m.room.name", "m.room.member"]);
        assert_eq!(events[2]["state_key"], "@alice:example.org");
        assert!(
            events
                .as_array()
                .unwrap()
                .iter()
                .all(|event| event.get("hashes").is_none())
        );
        let in_room = |action: &str| format!("/_matrix/client/v3/rooms/{room}/{action}");
        let still = site
            .call(Method::POST, &in_room("forget"), Some(&token), json!({}))
            .await;
        assert_eq!(
            (still.0.as_u16(), &still.1["errcode"]),
            (400, &json!("M_UNKNOWN"))
        );
        let left = site
            .call(Method::POST, &in_room("leave"), Some(&token), json!({}))
            .await;
        assert_eq!(left, (StatusCode::OK, json!({})));
        let since = shown["next_batch"].as_str().unwrap();
        let (_, news) = site
            .call(
                Method::GET,
                &format!("{SYNC}?since={since}"),
                Some(&token),
                Value::Null,
            )
            .await;
        let timeline = &news["rooms"]["leave"][room]["timeline"]["events"];
        assert_eq!(timeline[0]["content"]["membership"], "leave", "{news}");
        assert_eq!(synced(&site, &token).await["rooms"]["invite"], json!({}));
        let forgotten = site
            .call(Method::POST, &in_room("forget"), Some(&token), json!({}))
            .await;
        assert_eq!(forgotten, (StatusCode::OK, json!({})));
        let nowhere = "/_matrix/client/v3/rooms/!nowhere:example.org/forget";
        let unknown = site
            .call(Method::POST, nowhere, Some(&token), json!({}))
            .await;
        assert_eq!(
            (unknown.0.as_u16(), &unknown.1["errcode"]),
            (404, &json!("M_NOT_FOUND"))
        );
    })
    .await;
}

#[tokio::test]
async fn an_invite_that_is_none_gets_the_specified_error_and_is_not_shown() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let (target, good) = invite(&site, "@alice:example.org");
        let with = |field: &str, value: Value| {
            let mut body = good.clone();
            *body.pointer_mut(field).unwrap() = value;
            body
        };
        let nobody = invite(&site, "@nobody:example.org");
        let stranger = invite(&site, "@alice:example.com");
        let elsewhere = target.replace("!strange", "!other");
        let cases = [
            (&target, json!({}), 400, "M_BAD_JSON"),
            (
                &target,
                with("/room_version", json!("x")),
                400,
                "M_INCOMPATIBLE_ROOM_VERSION",
            ),
            (
                &target,
                with("/event/type", json!("m.room.name")),
                400,
                "M_INVALID_PARAM",
            ),
            (
                &target,
                with("/event/content/membership", json!("join")),
                400,
                "M_INVALID_PARAM",
            ),
            (&elsewhere, good.clone(), 400, "M_INVALID_PARAM"),
            (&nobody.0, nobody.1.clone(), 404, "M_NOT_FOUND"),
            (&stranger.0, stranger.1.clone(), 400, "M_INVALID_PARAM"),
        ];
        for (target, body, status, errcode) in cases {
            let (answered, answer) = call(&site, Method::PUT, target, body).await;
            let answered = (answered.as_u16(), &answer["errcode"]);
            assert_eq!(answered, (status, &json!(errcode)), "{answer}");
            if errcode == "M_INCOMPATIBLE_ROOM_VERSION" {
                assert_eq!(answer["room_version"], "x");
            }
        }
        assert_eq!(synced(&site, &token).await["rooms"]["invite"], json!({}));
    })
    .await;
}
