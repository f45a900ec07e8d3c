//! Large answers, event by event.

use std::{fmt::Write as _, io, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use ruma::{event_id, room_id};

use super::{PDU, raw, world};
use crate::{
    FederationError, PduList,
    testing::{json, name, pieces},
};

const MINUTE: Duration = Duration::from_secs(60);

fn large_answer(count: usize) -> Vec<io::Result<Bytes>> {
    let mut text = String::from(r#"{"members_omitted":false,"state":["#);
    for number in 0..count {
        let comma = if number == 0 { "" } else { "," };
        write!(text, r#"{comma}{{"n":{number},"s":"}}]\""}}"#).unwrap();
    }
    text.push_str(r#"],"auth_chain":[{"c":1}],"event":{"e":1}}"#);
    let chunks = text.as_bytes().chunks(1000);
    chunks
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect()
}

#[tokio::test]
async fn a_large_answer_is_read_as_it_arrives() {
    let (_world, _server, federation) =
        world(|_| Box::pin(async { pieces(stream::iter(large_answer(20_000))) })).await;
    let (a, room, event) = (name("a.test"), room_id!("!r:a.test"), event_id!("$e"));
    let join = federation
        .send_join_stream(a, room, event, &raw(PDU), false)
        .await;
    let mut join = join.unwrap();
    for number in 0..20_000 {
        let pdu = join.next().await.unwrap().unwrap();
        assert_eq!(pdu.list, PduList::State);
        assert_eq!(pdu.json.get(), format!(r#"{{"n":{number},"s":"}}]\""}}"#));
    }
    assert_eq!(join.next().await.unwrap().unwrap().list, PduList::AuthChain);
    assert!(join.next().await.unwrap().is_none());
    let rest = join.finish().await.unwrap();
    assert!(!rest.members_omitted && rest.servers_in_room.is_none());
    assert_eq!(rest.event.unwrap().get(), r#"{"e":1}"#);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    let (_world, _server, federation) = world(|_| {
        let mut parts = large_answer(1000);
        parts.truncate(5);
        parts.push(Err(io::Error::other("broken off")));
        Box::pin(async { pieces(stream::iter(parts)) })
    })
    .await;
    let (a, room, event) = (name("a.test"), room_id!("!r:a.test"), event_id!("$e"));
    let refused = federation.send_join(a, room, event, &raw(PDU), false).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_answer_that_ends_early_or_is_malformed_is_invalid() {
    for body in [r#"{"pdus":[{},"#, r#"{"pdus":[{"a":}]}"#, "{} x", "[1]", ""] {
        let (_world, _server, federation) = world(move |_| json(200, body)).await;
        let (a, room, event) = (name("a.test"), room_id!("!r:a.test"), event_id!("$e"));
        let refused = federation.state(a, room, event).await;
        assert!(
            matches!(refused, Err(FederationError::InvalidAnswer(_))),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_reader_of_a_stream_may_take_its_time() {
    let (world, _server, federation) =
        world(|_| Box::pin(async { pieces(stream::iter(large_answer(100))) })).await;
    let (a, room, event) = (name("a.test"), room_id!("!r:a.test"), event_id!("$e"));
    let join = federation
        .send_join_stream(a, room, event, &raw(PDU), false)
        .await;
    let mut join = join.unwrap();
    let mut count = 0;
    while join.next().await.unwrap().is_some() {
        count += 1;
        world.env().clock.advance(MINUTE);
    }
    assert_eq!(count, 101);
}
