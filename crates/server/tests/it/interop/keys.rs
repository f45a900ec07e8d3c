//! Keys that change and keys that a notary tells, with Synapse in each place.

use crate::homeserver::Kind;
use crate::interop::meeting::Meeting;
use crate::keys::{ask_a_notary, change_the_key, come_after_the_change};

#[tokio::test]
async fn synapse_that_comes_after_a_change_of_the_key_believes_what_was_signed_before() {
    come_after_the_change(Kind::Synapse).await;
}

#[tokio::test]
async fn synapse_that_knew_the_old_key_believes_the_new_one() {
    let mut meeting = Meeting::hold(Kind::Myelin, Kind::Synapse, "10").await;
    change_the_key(&mut meeting.resident).await;
    let (mut alice_sees, mut bob_sees) = (meeting.alice.watch(), meeting.bob.watch());
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    meeting.assert_agreement().await;
}

#[tokio::test]
async fn synapse_is_told_the_keys_of_who_is_away() {
    ask_a_notary(Kind::Myelin, Kind::Synapse).await;
}

#[tokio::test]
async fn synapse_tells_the_keys_of_who_is_away() {
    ask_a_notary(Kind::Synapse, Kind::Myelin).await;
}
