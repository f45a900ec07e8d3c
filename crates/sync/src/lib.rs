//! Read models for clients: `/sync`, history, single events, members and state, and the form in which
//! clients get events.
//!
//! Nothing here writes, and nothing knows how an answer travels. What may be shown is decided by
//! `core::visibility`; whether a partial state may answer, by `core::completeness`.

mod access;
mod account_data;
mod aggregations;
mod aliases;
mod answer;
mod bulk;
mod candidates;
mod client_event;
mod context;
mod ephemeral;
mod error;
mod event;
mod event_at;
mod filter;
mod hierarchy;
mod ignored_users;
mod joined_rooms;
mod lazy_members;
mod members;
mod messages;
mod notifications;
mod presence;
mod public_rooms;
mod relations;
mod room_details;
mod room_section;
mod search;
mod search_context;
mod search_hits;
mod section_state;
mod space;
mod state;
mod state_delta;
mod stripped_state;
mod summary;
mod sync;
mod threads;
mod timeline;
mod token;
mod unread;
mod user_search;
mod visibility;
mod wanted;

use std::{fmt, sync::Arc};

use myelin_rooms::Rooms;
use myelin_users::Users;

pub use access::Asking;
pub use answer::{
    DeviceLists, Events, InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, RoomSections,
    StateSection, SyncResponse, TimelineSection,
};
pub use client_event::EventJson;
pub use context::{Context, ContextRequest};
pub use error::SyncError;
pub use event_at::EventAt;
pub use filter::{EventFields, EventFilter, EventFormat, Filter, RoomEventFilter, RoomFilter};
pub use hierarchy::{Hierarchy, HierarchyRequest, ServedHierarchy};
pub use members::MembersRequest;
pub use messages::{Messages, MessagesRequest};
pub use myelin_storage::events::Direction;
pub use notifications::{Notifications, NotificationsRequest, NotifiedEvent};
pub use public_rooms::{PublicRooms, PublicRoomsFilter, PublicRoomsRequest, RoomProfile};
pub use relations::{Relations, RelationsRequest};
pub use room_details::{ForwardExtremity, RoomDetails};
pub use search::{
    Group, GroupKey, OrderBy, SearchCriteria, SearchRequest, SearchResult, SearchResults,
};
pub use search_context::{HistoricProfile, ResultContext};
pub use summary::Summary;
pub use sync::SyncRequest;
pub use threads::{Include, Threads, ThreadsRequest};
pub use token::{NotificationToken, PageToken, SearchToken, SyncToken};
pub use unread::UnreadCounts;
pub use user_search::{FoundUser, UserSearchRequest, UsersFound};

use hierarchy::RemoteSpaces;
use lazy_members::SentMembers;

/// Reads for clients. Clones share everything.
#[derive(Clone)]
pub struct Sync(Arc<Inner>);

struct Inner {
    rooms: Rooms,
    users: Users,
    sent_members: SentMembers,
    remote_spaces: RemoteSpaces,
}

impl Sync {
    /// Reads of these rooms and users.
    #[must_use]
    pub fn new(rooms: Rooms, users: Users) -> Self {
        Self(Arc::new(Inner {
            rooms,
            users,
            sent_members: SentMembers::default(),
            remote_spaces: RemoteSpaces::default(),
        }))
    }

    fn rooms(&self) -> &Rooms {
        &self.0.rooms
    }

    fn users(&self) -> &Users {
        &self.0.users
    }

    fn sent_members(&self) -> &SentMembers {
        &self.0.sent_members
    }

    fn remote_spaces(&self) -> &RemoteSpaces {
        &self.0.remote_spaces
    }
}

impl fmt::Debug for Sync {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sync").finish_non_exhaustive()
    }
}
