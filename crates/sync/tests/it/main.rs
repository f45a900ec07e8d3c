//! Tests of the read models, over real rooms in a real database.

mod by_time;
mod client_form;
mod context;
mod ephemeral;
mod far_room;
mod house;
mod joined;
mod lazy;
mod memberships;
mod messages;
mod notifications;
mod partial;
mod presence;
mod reads;
mod relations;
mod search;
mod spaces;
mod unread;
mod user_search;
mod waiting;
