//! The tree of a space, as far as one server knows it.

use myelin_rooms::{CreateRoom, Preset};
use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_sync::{Hierarchy, HierarchyRequest, SyncError};
use myelin_users::Requester;
use ruma::{OwnedRoomId, RoomId, UserId, server_name};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::house::{House, alice, bob};

const ALL: HierarchyRequest = HierarchyRequest {
    suggested_only: false,
    limit: None,
    max_depth: None,
    from: None,
};

fn viewer(user: &UserId) -> Requester {
    Requester {
        user_id: user.to_owned(),
        device_id: "PHONE".into(),
        admin: false,
        guest: false,
    }
}

/// A room of alice's, which has its name in the answers.
async fn room(house: &House, name: &str, join_rules: Value) -> OwnedRoomId {
    let mut creation_content = Map::new();
    if name.starts_with("space") {
        creation_content.insert("type".to_owned(), "m.space".into());
    }
    let rules = to_raw_value(&join_rules).unwrap();
    let wish = CreateRoom {
        version: Some("11".to_owned()),
        preset: Preset::Private,
        creation_content,
        alias_name: None,
        published: false,
        name: Some(name.to_owned()),
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        initial_state: vec![("m.room.join_rules".to_owned(), String::new(), rules)],
        power_level_override: Map::new(),
        profile: Map::new(),
    };
    house.rooms.create(alice(), wish).await.unwrap()
}

async fn open(house: &House, name: &str) -> OwnedRoomId {
    room(house, name, json!({ "join_rule": "public" })).await
}

async fn add(house: &House, space: &RoomId, child: &RoomId, order: &str, suggested: bool) {
    let content = json!({ "via": ["x.example"], "order": order, "suggested": suggested });
    let key = Some(child.as_str());
    house
        .send(space, alice(), "m.space.child", key, content)
        .await;
}

async fn names(
    house: &House,
    user: &UserId,
    space: &RoomId,
    request: HierarchyRequest,
) -> (Vec<String>, Option<String>) {
    let tree: Hierarchy = house
        .sync
        .hierarchy(&viewer(user), space, &request)
        .await
        .unwrap();
    let names = tree.rooms.iter();
    let names = names.map(|room| room["name"].as_str().unwrap().to_owned());
    (names.collect(), tree.next_batch)
}

/// A space with a space in it: root { a, inner { c, root }, b }, where b is suggested.
async fn tree(house: &House) -> OwnedRoomId {
    let root = open(house, "space root").await;
    let inner = open(house, "space inner").await;
    let a = open(house, "a").await;
    let b = open(house, "b").await;
    let c = open(house, "c").await;
    add(house, &root, &a, "1", false).await;
    add(house, &root, &inner, "2", false).await;
    add(house, &root, &b, "3", true).await;
    add(house, &inner, &c, "1", false).await;
    add(house, &inner, &root, "2", false).await;
    root
}

#[tokio::test]
async fn a_tree_is_shown_depth_first_each_room_once() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::open(fresh).await;
        let root = tree(&house).await;
        let (all, next) = names(&house, bob(), &root, ALL).await;
        assert_eq!(all, ["space root", "a", "space inner", "c", "b"]);
        assert_eq!(next, None);
        let shallow = HierarchyRequest {
            max_depth: Some(1),
            ..ALL
        };
        let (shallow, _) = names(&house, bob(), &root, shallow).await;
        assert_eq!(shallow, ["space root", "a", "space inner", "b"]);
        let suggested = HierarchyRequest {
            suggested_only: true,
            ..ALL
        };
        let (suggested, _) = names(&house, bob(), &root, suggested).await;
        assert_eq!(suggested, ["space root", "b"]);
    })
    .await;
}

#[tokio::test]
async fn pages_of_a_tree_leave_nothing_out() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::open(fresh).await;
        let root = tree(&house).await;
        let (mut all, mut from) = (Vec::new(), None);
        for _ in 0..3 {
            let request = HierarchyRequest {
                limit: Some(2),
                from: from.take(),
                ..ALL
            };
            let (page, next) = names(&house, bob(), &root, request).await;
            all.extend(page);
            from = next;
        }
        assert_eq!(all, ["space root", "a", "space inner", "c", "b"]);
        assert_eq!(from, None);
        let first = HierarchyRequest {
            limit: Some(2),
            ..ALL
        };
        let (_, token) = names(&house, bob(), &root, first).await;
        for (from, max_depth) in [(token, Some(1)), (Some("x".to_owned()), None)] {
            let request = HierarchyRequest {
                from,
                max_depth,
                ..ALL
            };
            let refused = house.sync.hierarchy(&viewer(bob()), &root, &request).await;
            assert!(matches!(refused, Err(SyncError::InvalidParam(_))));
        }
    })
    .await;
}

#[tokio::test]
async fn a_room_is_shown_to_those_who_may_see_it() {
    on_each_engine(async |fresh: Fresh| {
        let house = House::open(fresh).await;
        let root = open(&house, "space root").await;
        let club = open(&house, "club").await;
        let secret = room(&house, "secret", json!({ "join_rule": "invite" })).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
        let rules = json!({ "join_rule": "restricted", "allow": allow });
        let members = room(&house, "members", rules).await;
        let knock = room(&house, "knock", json!({ "join_rule": "knock" })).await;
        for (order, child) in [&club, &secret, &members, &knock].into_iter().enumerate() {
            add(&house, &root, child, &order.to_string(), false).await;
        }
        let (shown, _) = names(&house, alice(), &root, ALL).await;
        assert_eq!(shown, ["space root", "club", "secret", "members", "knock"]);
        let (shown, _) = names(&house, bob(), &root, ALL).await;
        assert_eq!(shown, ["space root", "club", "knock"]);
        house.join(&club, bob()).await;
        let (shown, _) = names(&house, bob(), &root, ALL).await;
        assert_eq!(shown, ["space root", "club", "members", "knock"]);
        let refused = house.sync.hierarchy(&viewer(bob()), &secret, &ALL).await;
        assert!(matches!(refused, Err(SyncError::Forbidden(_))));

        let other = server_name!("other.example");
        let served = house.sync.serve_hierarchy(other, &root, false);
        let served = served.await.unwrap().unwrap();
        assert_eq!(served.room["children_state"].as_array().unwrap().len(), 4);
        let children: Vec<&Value> = served.children.iter().map(|room| &room["name"]).collect();
        assert_eq!(children, ["club", "knock"]);
        assert_eq!(served.inaccessible_children, [secret.clone(), members]);
        let hidden = house.sync.serve_hierarchy(other, &secret, false);
        assert!(hidden.await.unwrap().is_none());
    })
    .await;
}
