//! Invites by address: what clients, other servers and identity servers ask. The server speaks to itself
//! as another would, since its own key is the one at hand.

use http::{Method, StatusCode};
use myelin_core::keys::{KeyPair, encode_verifying_key};
use myelin_storage::testing::{Fresh, on_each_engine};
use ruma::{CanonicalJsonObject, ServerSigningKeyVersion, server_name};
use serde_json::{Value, json};

use crate::{Site, federation::call};

const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";
const BIND: &str = "/_matrix/federation/v1/3pid/onbind";

fn identity_key() -> KeyPair {
    let version = <&ServerSigningKeyVersion>::try_from("0").unwrap();
    KeyPair::new(server_name!("id.test").to_owned(), version, [3; 32])
}

/// What the identity server says about whose the address is.
fn signed(user: &str, token: &str) -> Value {
    let statement = json!({ "mxid": user, "token": token, "sender": ALICE });
    let mut statement: CanonicalJsonObject = serde_json::from_value(statement).unwrap();
    identity_key().sign_json(&mut statement).unwrap();
    json!(statement)
}

/// Alice's room, in which an address is invited under the token `t`.
struct House {
    site: Site,
    alice: String,
    bob: String,
    room: String,
}

impl House {
    async fn build(fresh: &Fresh) -> Self {
        let site = Site::start(fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = "/_matrix/client/v3/createRoom";
        let created = site.call(Method::POST, create, Some(&alice), json!({}));
        let room = created.await.1["room_id"].as_str().unwrap().to_owned();
        let house = Self {
            site,
            alice,
            bob,
            room,
        };
        let key = encode_verifying_key(&identity_key().verifying_key());
        let invite = json!({ "display_name": "b...", "public_keys": [{ "public_key": key }] });
        house.set_invite(invite).await;
        house
    }

    async fn set_invite(&self, content: Value) {
        let path = self.in_room("state/m.room.third_party_invite/t");
        let put = self
            .site
            .call(Method::PUT, &path, Some(&self.alice), content);
        assert_eq!(put.await.0, StatusCode::OK);
    }

    fn in_room(&self, rest: &str) -> String {
        format!("/_matrix/client/v3/rooms/{}/{rest}", self.room)
    }

    /// A request to exchange the invite for one of bob's.
    fn exchange(&self) -> (String, Value) {
        let invite = json!({ "display_name": "", "signed": signed(BOB, "t") });
        let body = json!({
            "type": "m.room.member", "room_id": self.room, "sender": ALICE, "state_key": BOB,
            "content": { "membership": "invite", "third_party_invite": invite },
        });
        let path = "/_matrix/federation/v1/exchange_third_party_invite";
        (format!("{path}/{}", self.room), body)
    }

    /// What an identity server says when the address was found to be bob's.
    fn binding(&self) -> Value {
        json!({
            "medium": "email", "address": "bob@example.com", "mxid": BOB,
            "invites": [{
                "medium": "email", "address": "bob@example.com", "mxid": BOB,
                "room_id": self.room, "sender": ALICE, "signed": signed(BOB, "t"),
            }],
        })
    }

    async fn membership_of_bob(&self) -> Value {
        let path = self.in_room(&format!("state/m.room.member/{BOB}"));
        let token = Some(&*self.alice);
        let got = self.site.call(Method::GET, &path, token, Value::Null);
        got.await.1
    }

    async fn is_bob_invited(&self) -> bool {
        let member = self.membership_of_bob().await;
        let invite = &member["third_party_invite"];
        member["membership"] == "invite" && invite["display_name"] == "b..."
    }
}

/// `body` with a change.
fn with(body: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut body = body.clone();
    change(&mut body);
    body
}

/// What is asked, the status, and the error code.
type Refusal = (Value, u16, &'static str);

fn assert_refused((status, answer): (StatusCode, Value), expected: (u16, &str)) {
    let errcode = answer["errcode"].as_str().unwrap_or_default();
    assert_eq!((status.as_u16(), errcode), expected, "{answer}");
}

#[tokio::test]
async fn another_server_has_an_invite_by_address_made_its_users_own() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::build(&fresh).await;
        let (path, body) = house.exchange();
        let answer = call(&house.site, Method::PUT, &path, body.clone()).await;
        assert_eq!(answer, (StatusCode::OK, json!({})));
        assert!(house.is_bob_invited().await);
        let join = house.in_room("join");
        let bob = Some(&*house.bob);
        let joined = house.site.call(Method::POST, &join, bob, json!({}));
        assert_eq!(joined.await.0, StatusCode::OK);
        // The rules would let it put him out again.
        let answer = call(&house.site, Method::PUT, &path, body).await;
        assert_eq!(answer, (StatusCode::OK, json!({})));
        assert_eq!(house.membership_of_bob().await["membership"], "join");
    })
    .await;
}

/// Requests to exchange the invite that are malformed, or ask for what nobody is entitled to.
fn wrong_exchanges(good: &Value) -> Vec<Refusal> {
    let set = |key: &str, value: &str| with(good, |body| body[key] = json!(value));
    let statement = |change: &dyn Fn(&mut Value)| {
        with(good, |body| {
            change(&mut body["content"]["third_party_invite"]["signed"]);
        })
    };
    let join = with(good, |body| body["content"]["membership"] = json!("join"));
    vec![
        (json!({}), 400, "M_BAD_JSON"),
        (
            with(good, |body| drop(body["content"].take())),
            400,
            "M_BAD_JSON",
        ),
        (set("type", "m.x"), 400, "M_INVALID_PARAM"),
        (join, 400, "M_INVALID_PARAM"),
        (set("room_id", "!x:x"), 400, "M_INVALID_PARAM"),
        (set("sender", "@a:x"), 400, "M_INVALID_PARAM"),
        // Another server's user; another inviter; another invite, user, or content than was signed.
        (set("state_key", "@b:x"), 403, "M_FORBIDDEN"),
        (set("sender", BOB), 403, "M_FORBIDDEN"),
        (
            statement(&|word| *word = signed(BOB, "u")),
            403,
            "M_FORBIDDEN",
        ),
        (
            statement(&|word| *word = signed(ALICE, "t")),
            403,
            "M_FORBIDDEN",
        ),
        (
            statement(&|word| word["more"] = json!(1)),
            403,
            "M_FORBIDDEN",
        ),
        (
            statement(&|word| word["signatures"] = json!({})),
            403,
            "M_FORBIDDEN",
        ),
    ]
}

#[tokio::test]
async fn an_exchange_that_is_not_in_order_invites_nobody() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::build(&fresh).await;
        let (path, good) = house.exchange();
        for (body, status, errcode) in wrong_exchanges(&good) {
            let refused = call(&house.site, Method::PUT, &path, body).await;
            assert_refused(refused, (status, errcode));
        }
        let elsewhere = path.replace(&house.room, "!x:example.org");
        let body = with(&good, |body| body["room_id"] = json!("!x:example.org"));
        let refused = call(&house.site, Method::PUT, &elsewhere, body).await;
        assert_refused(refused, (404, "M_NOT_FOUND"));
        let unsigned = house.site.call(Method::PUT, &path, None, good.clone());
        assert_refused(unsigned.await, (401, "M_UNAUTHORIZED"));
        assert_eq!(house.membership_of_bob().await["errcode"], "M_NOT_FOUND");
        // Taken back.
        house.set_invite(json!({})).await;
        let refused = call(&house.site, Method::PUT, &path, good).await;
        assert_refused(refused, (403, "M_FORBIDDEN"));
    })
    .await;
}

#[tokio::test]
async fn an_identity_server_needs_no_name_to_say_whose_an_address_is() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::build(&fresh).await;
        // The specification's method, and the one that is really used.
        for method in [Method::PUT, Method::POST] {
            let answer = house.site.call(method, BIND, None, house.binding()).await;
            assert_eq!(answer, (StatusCode::OK, json!({})));
            assert!(house.is_bob_invited().await);
        }
    })
    .await;
}

/// What an identity server, or whoever says to be one, can say wrongly.
fn wrong_bindings(good: &Value) -> Vec<Refusal> {
    let set = |key: &str, value: Value| with(good, |body| body[key] = value);
    let invite = |key: &str, value: Value| with(good, |body| body["invites"][0][key] = value);
    let many = vec![good["invites"][0].clone(); 101];
    let forged = with(good, |body| body["invites"][0]["signed"]["more"] = json!(1));
    vec![
        (json!({ "invites": [] }), 400, "M_BAD_JSON"),
        (invite("signed", Value::Null), 400, "M_BAD_JSON"),
        (set("mxid", json!("@b:x")), 400, "M_INVALID_PARAM"),
        (set("invites", json!(many)), 400, "M_INVALID_PARAM"),
        (invite("mxid", json!(ALICE)), 400, "M_INVALID_PARAM"),
        (set("mxid", json!("@no:example.org")), 404, "M_NOT_FOUND"),
        (invite("room_id", json!("!x:x")), 404, "M_NOT_FOUND"),
        (invite("sender", json!(BOB)), 403, "M_FORBIDDEN"),
        (forged, 403, "M_FORBIDDEN"),
    ]
}

#[tokio::test]
async fn what_an_identity_server_says_must_be_about_our_users_and_signed() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::build(&fresh).await;
        let good = house.binding();
        for (body, status, errcode) in wrong_bindings(&good) {
            let refused = house.site.call(Method::PUT, BIND, None, body).await;
            assert_refused(refused, (status, errcode));
        }
        assert_eq!(house.membership_of_bob().await["errcode"], "M_NOT_FOUND");
        // One that fails keeps no other from being redeemed.
        let unknown = with(&good["invites"][0], |invite| {
            invite["room_id"] = json!("!x:x");
        });
        let body = with(&good, |body| {
            body["invites"] = json!([unknown, good["invites"][0]]);
        });
        let refused = house.site.call(Method::PUT, BIND, None, body).await;
        assert_refused(refused, (404, "M_NOT_FOUND"));
        assert!(house.is_bob_invited().await);
    })
    .await;
}

#[tokio::test]
async fn a_client_joins_with_what_the_identity_server_signed_for_its_user() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::build(&fresh).await;
        let join = async |path: &str, signed: Value| {
            let body = json!({ "third_party_signed": signed });
            let bob = Some(&*house.bob);
            house.site.call(Method::POST, path, bob, body).await
        };
        let path = house.in_room("join");
        for (signed, status, errcode) in [
            (json!({}), 400, "M_BAD_JSON"),
            (signed(ALICE, "t"), 403, "M_FORBIDDEN"),
            (signed(BOB, "u"), 403, "M_FORBIDDEN"),
        ] {
            assert_refused(join(&path, signed).await, (status, errcode));
        }
        let path = format!("/_matrix/client/v3/join/{}", house.room);
        let joined = join(&path, signed(BOB, "t")).await;
        assert_eq!(joined, (StatusCode::OK, json!({ "room_id": house.room })));
        assert_eq!(house.membership_of_bob().await["membership"], "join");
    })
    .await;
}

#[tokio::test]
async fn an_invitation_by_address_is_complete_and_permitted_before_anybody_is_asked() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::build(&fresh).await;
        let whole = json!({
            "medium": "email", "address": "carol@example.com",
            "id_server": "127.0.0.1:1", "id_access_token": "secret",
        });
        let path = house.in_room("invite");
        let invite = async |token: &str, body: Value| {
            let invite = house.site.call(Method::POST, &path, Some(token), body);
            invite.await
        };
        for missing in ["medium", "address", "id_server", "id_access_token"] {
            let body = with(&whole, |body| {
                body.as_object_mut().unwrap().remove(missing);
            });
            let refused = invite(&house.alice, body.clone()).await;
            assert_eq!(refused.1["error"], format!("Missing {missing}"));
            assert_refused(refused, (400, "M_MISSING_PARAM"));
            let create = "/_matrix/client/v3/createRoom";
            let body = json!({ "invite_3pid": [body] });
            let refused = house
                .site
                .call(Method::POST, create, Some(&house.alice), body);
            assert_refused(refused.await, (400, "M_MISSING_PARAM"));
        }
        let refused = invite(&house.alice, json!({})).await;
        assert_refused(refused, (400, "M_MISSING_PARAM"));
        let nowhere = with(&whole, |body| body["id_server"] = json!("https://id.test/"));
        assert_refused(
            invite(&house.alice, nowhere).await,
            (400, "M_INVALID_PARAM"),
        );
        let refused = invite(&house.bob, whole.clone()).await;
        let said = refused.1["error"].to_string();
        assert!(!said.contains("address"), "nobody was asked: {said}");
        assert_refused(refused, (403, "M_FORBIDDEN"));
        // A server on this machine is nobody's to choose.
        let refused = invite(&house.alice, whole).await;
        let said = refused.1["error"].to_string();
        assert!(said.contains("no address that this server may"), "{said}");
        assert_refused(refused, (403, "M_FORBIDDEN"));
    })
    .await;
}
