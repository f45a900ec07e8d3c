//! Asking a room's policy server for its signature (MSC4284; server-server API, "Policy Servers").
//!
//! `core` says when a signature is missing. Nothing here holds a room's turn while it waits. Events of our
//! own users, and those that are handed over to be taken into the room here, are refused without the
//! signature; others are judged without it, and fail softly.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use myelin_core::{
    pdu::Pdu,
    policy_server::{POLICY, PolicyServer},
    receive::{Decision, Plan, Recommendation, RemoteNeed},
    validate::ValidPdu,
};
use myelin_federation::FederationError;
use myelin_storage::{StorageError, client_transactions::ClientTransaction};
use ruma::OwnedEventId;
use serde_json::value::RawValue;

use crate::{
    RoomError, Rooms,
    new_event::Unsigned,
    room::Room,
    send::accepted,
    trace::Trace,
    turn::{Candidate, Turn},
};

/// How long a policy server may take over an event that somebody waits to have sent. It may look at media.
const FOR_A_PERSON: Duration = Duration::from_secs(30);

/// How long it may take over an event that another server has sent.
const FOR_NOBODY: Duration = Duration::from_secs(10);

/// The same if requests to it failed before: each event is asked about, and a silent server must not
/// hold the room's other events up for long.
const AFTER_FAILURE: Duration = Duration::from_secs(3);

/// About how many events it is asked at once.
const AT_ONCE: usize = 10;

/// How often an event is put before the room: a second time with the signature, and a third time if the
/// room has taken another policy server meanwhile.
const MOST_DECISIONS: usize = 3;

impl Rooms {
    /// The policy server that a room uses now.
    async fn policy_server(&self, room: &Arc<Room>) -> Result<Option<PolicyServer>, StorageError> {
        let policy = self.current_event(room, POLICY).await?;
        let (Some(policy), Some(current)) = (policy, room.current()) else {
            return Ok(None);
        };
        let servers_at_join = room.servers_at_join();
        Ok(PolicyServer::of_room(
            &current.state,
            &servers_at_join,
            &policy,
        ))
    }

    /// Gets the policy server's signature. Returns the event with it.
    async fn ask_policy_server(
        &self,
        room: &Room,
        server: &PolicyServer,
        pdu: &Pdu,
        patience: Duration,
    ) -> Result<ValidPdu, FederationError> {
        let invalid = |why: String| FederationError::InvalidAnswer(why);
        let json: &RawValue =
            serde_json::from_str(&pdu.json).map_err(|error| invalid(error.to_string()))?;
        let asking = self.asking().within(patience);
        let signature = asking.policy_signature(&server.name, json).await?;
        server
            .sign(room.key.version, pdu, &signature)
            .map_err(|error| invalid(error.to_string()))
    }

    /// Gets the policy server's signature on an event that another server has to see before the room does.
    pub(crate) async fn recommended(
        &self,
        room: &Arc<Room>,
        pdu: Arc<Pdu>,
    ) -> Result<Arc<Pdu>, RoomError> {
        match self.policy_server(room).await? {
            Some(server) => {
                let signed = self.ask_policy_server(room, &server, &pdu, FOR_A_PERSON);
                let signed = signed.await.map_err(RoomError::NotRecommended)?;
                Ok(signed.into_pdu())
            }
            None => Ok(pdu),
        }
    }

    /// Decides a live event that is refused if the policy server does not sign it. The turn is the one in
    /// which it was decided.
    pub(crate) async fn decide_recommended<'r>(
        &'r self,
        room: &'r Arc<Room>,
        mut pdu: ValidPdu,
    ) -> Result<(Turn<'r>, Decision<Plan>), RoomError> {
        for _ in 0..MOST_DECISIONS {
            let mut turn = Turn::take(self, room).await?;
            match turn.decide(Candidate::live(pdu.clone())).await? {
                Decision::NeedRemote(RemoteNeed::PolicySignature(server)) => {
                    drop(turn);
                    let signed = self.ask_policy_server(room, &server, &pdu, FOR_A_PERSON);
                    pdu = signed.await.map_err(RoomError::NotRecommended)?;
                }
                decision => return Ok((turn, decision)),
            }
        }
        Err(RoomError::Forbidden(
            "the room goes from one policy server to the next".into(),
        ))
    }

    /// Sends a local event that its turn found to lack the policy server's signature.
    pub(crate) async fn send_recommended(
        &self,
        room: &Arc<Room>,
        unsigned: Unsigned,
        transaction: Option<ClientTransaction>,
    ) -> Result<OwnedEventId, RoomError> {
        let Unsigned { pdu, server } = unsigned;
        let mut trace = Trace::begin(&room.key.room_id);
        trace.step("ask the policy server");
        let sender = pdu.sender.clone();
        let signed = self.ask_policy_server(room, &server, &pdu, FOR_A_PERSON);
        let signed = signed.await.map_err(RoomError::NotRecommended)?;
        trace.step("decide");
        let (mut turn, decision) = self.decide_recommended(room, signed).await?;
        // The same request may have come again meanwhile.
        if let Some(transaction) = &transaction
            && let Some(event_id) = turn.sent_before(&sender, transaction).await?
        {
            return Ok(event_id);
        }
        let event_id = turn
            .take_sent(accepted(decision)?, transaction, trace)
            .await?;
        turn.commit().await?;
        Ok(event_id)
    }

    /// Asks the policy server about an event of others. It is judged with or without the signature.
    ///
    /// # Errors
    /// Any storage error.
    pub(crate) async fn seek_recommendation(
        &self,
        room: &Room,
        server: &PolicyServer,
        mut candidate: Candidate,
    ) -> Result<Candidate, StorageError> {
        let patience = match self.federation().backoff(&server.name).await? {
            None => FOR_NOBODY,
            Some(_) => AFTER_FAILURE,
        };
        candidate.recommendation = Recommendation::Asked;
        let signed = self.ask_policy_server(room, server, &candidate.pdu, patience);
        match signed.await {
            Ok(signed) => candidate.pdu = signed,
            Err(FederationError::Storage(error)) => return Err(error),
            Err(error) => {
                let event = &candidate.pdu.event_id;
                tracing::info!(room = %room.key.room_id, %event, %error, "not recommended");
            }
        }
        Ok(candidate)
    }

    /// Asks the policy server, if the room uses one, about those of many events that it has not signed.
    ///
    /// # Errors
    /// Any storage error.
    pub(crate) async fn seek_recommendations(
        &self,
        room: &Arc<Room>,
        pdus: Vec<ValidPdu>,
    ) -> Result<Vec<Candidate>, StorageError> {
        let candidates = pdus.into_iter().map(Candidate::live);
        let Some(server) = self.policy_server(room).await? else {
            return Ok(candidates.collect());
        };
        let version = room.key.version;
        let asking = candidates.map(|candidate| async {
            let pdu = &candidate.pdu;
            if PolicyServer::exempts(pdu) || server.has_signed(version, pdu) {
                Ok(candidate)
            } else {
                self.seek_recommendation(room, &server, candidate).await
            }
        });
        stream::iter(asking).buffered(AT_ONCE).try_collect().await
    }
}
