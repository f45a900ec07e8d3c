//! Relations that users of this server are kept from making: what the specification wants refused before
//! it is an event. Those of others are in the room, whatever they say.

use myelin_core::relation::{ANNOTATION, Relation, THREAD, may_begin_thread};
use myelin_storage::relations;

use crate::{RoomError, new_event::NewEvent, turn::Turn};

impl Turn<'_> {
    /// Refuses a second annotation that says the same (client-server API, "Avoiding duplicate
    /// annotations"), and a thread that begins at an event which relates to another ("Validation of
    /// `m.thread` relationships").
    pub(crate) async fn check_relation(&mut self, event: &NewEvent) -> Result<(), RoomError> {
        let Some(relation) = Relation::in_content(&event.content) else {
            return Ok(());
        };
        match &*relation.rel_type {
            ANNOTATION => self.check_annotation(event, relation).await,
            THREAD => self.check_thread(&relation).await,
            _ => Ok(()),
        }
    }

    async fn check_annotation(
        &self,
        event: &NewEvent,
        relation: Relation,
    ) -> Result<(), RoomError> {
        if relation.key.is_none() {
            return Ok(());
        }
        let mut same = self.batch.relating(event, &relation);
        let (room, user) = (self.room.key.room, event.sender.clone());
        let event_type = event.event_type.clone();
        let stored = self.rooms.database().look_up("annotations", move |tx| {
            Box::pin(async move {
                relations::same_annotations(tx, room, &user, &event_type, &relation).await
            })
        });
        same.extend(stored.await?);
        match same.into_iter().all(|nr| self.batch.redacts(nr)) {
            true => Ok(()),
            false => Err(RoomError::DuplicateAnnotation),
        }
    }

    async fn check_thread(&mut self, relation: &Relation) -> Result<(), RoomError> {
        let root = self.look_up(&relation.event_id).await?;
        let may_begin = root.is_none_or(|root| {
            // With its content, a redacted event lost its relation.
            root.redacted_by.is_some() || may_begin_thread(&root.pdu)
        });
        match may_begin {
            true => Ok(()),
            false => Err(RoomError::BadRelation(
                "No thread can begin at an event that relates to another".to_owned(),
            )),
        }
    }
}
