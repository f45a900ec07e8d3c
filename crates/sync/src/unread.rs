//! How much of a room a user was told of and has not read (client-server API, "Receiving notifications").

use std::collections::BTreeMap;

use myelin_core::number::StreamPosition;
use myelin_storage::notifications::{MAIN, Unread};
use serde::Serialize;

use crate::{SyncError, room_section::SectionReader};

/// Counts of unread notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnreadCounts {
    /// Those that are to stand out.
    pub highlight_count: u64,
    /// All of them.
    pub notification_count: u64,
}

impl From<Unread> for UnreadCounts {
    fn from(unread: Unread) -> Self {
        Self {
            highlight_count: unread.highlights,
            notification_count: unread.notifications,
        }
    }
}

/// What is unread in a room.
pub(crate) struct RoomUnread {
    /// Outside threads, or in all of the room if threads are not wanted apart.
    pub(crate) counts: UnreadCounts,
    /// By the root of the thread.
    pub(crate) threads: BTreeMap<String, UnreadCounts>,
    /// The newest event that is unread.
    pub(crate) newest: StreamPosition,
}

impl SectionReader<'_> {
    /// What the user has not read of what it was told of up to the end of the span.
    pub(crate) async fn unread(&self) -> Result<RoomUnread, SyncError> {
        let (rooms, user, upto) = (self.rooms, self.user(), self.span.upto);
        let mut threads = self.room.unread(rooms, user, upto).await?;
        let all = threads.values().copied().fold(Unread::NONE, Unread::and);
        let timeline = &self.request.filter.room.timeline;
        let counts = match timeline.unread_thread_notifications {
            true => threads.remove(MAIN).unwrap_or(Unread::NONE),
            false => {
                threads.clear();
                all
            }
        };
        let threads = threads.into_iter();
        Ok(RoomUnread {
            counts: counts.into(),
            threads: threads.map(|(root, of)| (root, of.into())).collect(),
            newest: all.newest,
        })
    }
}
