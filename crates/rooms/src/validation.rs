//! Checks 1 to 3 of received PDUs, for which their servers' keys must be found.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use myelin_core::{
    keys::KeySet,
    pdu::Pdu,
    room_version::RoomVersion,
    validate::{DropReason, Unverified, ValidPdu},
};
use myelin_federation::KeyNeed;
use ruma::{OwnedEventId, RoomId};
use serde_json::value::RawValue;

use crate::Rooms;

/// How long keys are looked for before the events that need them are dropped.
const KEY_DEADLINE: Duration = Duration::from_secs(30);

/// How many PDUs are checked in one piece of work.
const PIECE: usize = 64;

/// Up to this many are checked where they are; more go to the threads for heavy work.
const FEW: usize = 4;

impl Rooms {
    /// Checks format, signatures and hashes of PDUs of one room. The results are in their order.
    pub(crate) async fn validate(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<Result<ValidPdu, DropReason>> {
        let results = self.validate_each(version, room_id, pdus).await;
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Checks a PDU that is taken as it is or not at all: of one with a wrong hash the redacted form
    /// will not do. `check` is asked about its form before any key is looked for.
    pub(crate) async fn validate_whole<E: From<DropReason>>(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        json: &str,
        check: impl FnOnce(&Pdu) -> Result<(), E>,
    ) -> Result<ValidPdu, E> {
        let parsed = Unverified::parse(version, json, Some(room_id))?;
        check(parsed.pdu())?;
        if !parsed.hash_matches() {
            return Err(DropReason::WrongHash.into());
        }
        let parsed = vec![Ok(parsed)];
        let keys = self.keys_of(&parsed).await;
        let mut verified = self.verify(parsed, keys).await;
        // One goes in, one comes out.
        let verified = verified.pop().unwrap_or(Err(DropReason::WrongHash));
        Ok(verified?)
    }

    /// The IDs of those PDUs that have one. Nothing is verified.
    pub(crate) async fn ids_of(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<OwnedEventId> {
        let parsed = self.parse(version, room_id, pdus).await;
        parsed
            .into_iter()
            .flatten()
            .map(|parsed| parsed.event_id().to_owned())
            .collect()
    }

    /// The same with the IDs of those PDUs that have one, valid or not.
    pub(crate) async fn validate_each(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<(Option<OwnedEventId>, Result<ValidPdu, DropReason>)> {
        let parsed = self.parse(version, room_id, pdus).await;
        let id = |parsed: &Result<Unverified, DropReason>| match parsed {
            Ok(parsed) => Some(parsed.event_id().to_owned()),
            Err(DropReason::OtherRoom { event_id, .. }) => Some(event_id.clone()),
            Err(_) => None,
        };
        let ids: Vec<_> = parsed.iter().map(id).collect();
        let keys = self.keys_of(&parsed).await;
        ids.into_iter()
            .zip(self.verify(parsed, keys).await)
            .collect()
    }

    async fn parse(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<Result<Unverified, DropReason>> {
        let room_id = room_id.to_owned();
        self.in_pieces("parse PDUs", pdus, move |pdu: Box<RawValue>| {
            Unverified::parse(version, pdu.get(), Some(&room_id))
        })
        .await
    }

    async fn keys_of(&self, parsed: &[Result<Unverified, DropReason>]) -> KeySet {
        // For each key the latest time at which it must have been valid would not do: an old event
        // may need a key that has expired since.
        let mut needs = BTreeMap::new();
        for required in parsed.iter().flatten().flat_map(Unverified::required_keys) {
            for key_id in &required.key_ids {
                let at_ms = needs
                    .entry((required.server.clone(), key_id.clone()))
                    .or_insert(required.valid_at_ms);
                *at_ms = (*at_ms).max(required.valid_at_ms);
            }
        }
        let needs: Vec<KeyNeed> = needs
            .into_iter()
            .map(|((server, key_id), at_ms)| KeyNeed {
                server,
                key_id,
                at_ms,
            })
            .collect();
        self.federation().keys_for(&needs, KEY_DEADLINE).await
    }

    async fn verify(
        &self,
        parsed: Vec<Result<Unverified, DropReason>>,
        keys: KeySet,
    ) -> Vec<Result<ValidPdu, DropReason>> {
        let keys = Arc::new(keys);
        self.in_pieces(
            "verify PDUs",
            parsed,
            move |parsed: Result<Unverified, DropReason>| parsed?.verify(&keys),
        )
        .await
    }

    /// Does CPU-bound work on each item, in order, on all cores if there are many.
    async fn in_pieces<I, O>(
        &self,
        name: &'static str,
        items: Vec<I>,
        work: impl Fn(I) -> O + Clone + Send + 'static,
    ) -> Vec<O>
    where
        I: Send + 'static,
        O: Send + 'static,
    {
        if items.len() <= FEW {
            return items.into_iter().map(work).collect();
        }
        let mut items = items.into_iter();
        let mut pieces = Vec::new();
        loop {
            let piece: Vec<I> = items.by_ref().take(PIECE).collect();
            if piece.is_empty() {
                break;
            }
            let work = work.clone();
            let batch = move || piece.into_iter().map(work).collect::<Vec<O>>();
            pieces.push(self.env().tasks.cpu(name, batch));
        }
        futures_util::future::join_all(pieces)
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

/// How many of some PDUs belong to another room than the one they were asked for in; they are counted among the
/// server's figures.
pub(crate) fn foreign(checked: &[Result<ValidPdu, DropReason>]) -> usize {
    let of_other_room =
        |result: &&Result<_, _>| matches!(result, Err(DropReason::OtherRoom { .. }));
    let foreign = checked.iter().filter(of_other_room).count();
    metrics::counter!("myelin_foreign_events_total").increment(foreign as u64);
    foreign
}
