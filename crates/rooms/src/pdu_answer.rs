//! An answer to another server that lists many PDUs. It is read from the database while it is sent, so
//! that the state of a large room is never in memory as a whole.

use std::collections::VecDeque;

use myelin_core::number::EventNr;
use myelin_storage::{StorageError, timelines};

use crate::Rooms;

/// How many PDUs are read at once: some 1 MB.
const READ_TOGETHER: usize = 1_000;

/// A JSON text with lists of PDUs in it, which is read piece by piece.
pub struct PduAnswer {
    rooms: Rooms,
    parts: VecDeque<Part>,
}

enum Part {
    Text(String),
    /// PDUs with commas between them.
    Pdus {
        numbers: VecDeque<EventNr>,
        is_first: bool,
    },
}

impl PduAnswer {
    pub(crate) fn new(rooms: &Rooms) -> Self {
        Self {
            rooms: rooms.clone(),
            parts: VecDeque::new(),
        }
    }

    pub(crate) fn text(&mut self, text: impl Into<String>) {
        self.parts.push_back(Part::Text(text.into()));
    }

    /// Adds events as their authors wrote them. Those that are not held are left out.
    pub(crate) fn pdus(&mut self, numbers: Vec<EventNr>) {
        self.parts.push_back(Part::Pdus {
            numbers: numbers.into(),
            is_first: true,
        });
    }

    /// Puts the answer into a list behind its status, as the first version of some endpoints does.
    #[must_use]
    pub fn behind_status(mut self) -> Self {
        self.parts.push_front(Part::Text("[200,".to_owned()));
        self.text("]");
        self
    }

    /// The next piece of the text; `None` at its end.
    ///
    /// # Errors
    /// Any storage error. What was read before is then no answer.
    pub async fn next(&mut self) -> Result<Option<String>, StorageError> {
        match self.parts.pop_front() {
            None => Ok(None),
            Some(Part::Text(text)) => Ok(Some(text)),
            Some(Part::Pdus {
                mut numbers,
                is_first,
            }) => {
                let wanted: Vec<_> = numbers.drain(..numbers.len().min(READ_TOGETHER)).collect();
                let mut pdus = self.read(wanted).await?;
                if !is_first && !pdus.is_empty() {
                    pdus.insert(0, ',');
                }
                if !numbers.is_empty() {
                    let is_first = is_first && pdus.is_empty();
                    self.parts.push_front(Part::Pdus { numbers, is_first });
                }
                Ok(Some(pdus))
            }
        }
    }

    /// Some events, with commas between them.
    async fn read(&self, wanted: Vec<EventNr>) -> Result<String, StorageError> {
        let read = self.rooms.database().look_up("events as text", move |tx| {
            Box::pin(async move { timelines::event_jsons(tx, &wanted).await })
        });
        let texts: Vec<String> = read.await?.into_iter().map(|event| event.json).collect();
        Ok(texts.join(","))
    }
}
