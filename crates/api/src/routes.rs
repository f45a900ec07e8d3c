//! The one table of all routes. The router and `myelin routes` are both made from it.

use axum::{
    handler::Handler,
    routing::{MethodFilter, MethodRouter, on},
};
use http::Method;
use myelin_users::Limit;

use crate::{Api, admin, client, federation, page};

/// Which listeners serve a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Those for clients.
    Client,
    /// Those for other servers.
    Federation,
    /// All.
    Both,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// A user, by access token, guests included.
    Guest,
    /// The same without guests.
    User,
    /// The same, if the user administers the server.
    Admin,
    /// Another server, by its signature over the request.
    Server,
}

/// What a request does, and so what happens to it when whoever sent it goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads: it ends with its sender.
    Read,
    /// It reads, and may wait long for something to read.
    Wait,
    /// It may change something: it goes on to its end.
    Change,
}

/// One endpoint.
#[derive(Clone)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// Which listeners serve it.
    pub resource: Resource,
    /// The section of the specification.
    pub section: &'static str,
    /// Who may ask.
    pub access: Access,
    /// What it does.
    pub effect: Effect,
    /// How often it may be asked, beside what holds for all requests of other servers.
    pub limit: Option<Limit>,
    /// What answers.
    pub(crate) handler: MethodRouter<Api>,
}

impl Route {
    /// The same endpoint under the name that it had before version 1.1 of the specification, and
    /// that clients still use.
    #[must_use]
    pub fn legacy_path(&self) -> Option<String> {
        let rest = self.path.strip_prefix("/_matrix/client/v3/")?;
        Some(format!("/_matrix/client/r0/{rest}"))
    }
}

fn route<T: 'static>(method: MethodFilter, handler: impl Handler<T, Api>) -> MethodRouter<Api> {
    on(method, handler)
}

/// Rows of `ACCESS EFFECT METHOD "path" => handler, limited LIMIT`, under the section and listeners they
/// share.
macro_rules! table {
    ($($section:literal $resource:ident {
        $($access:ident $effect:ident $method:ident $path:literal => $handler:path $(, limited $limit:ident)?;)*
    })*) => {
        /// Every route, by section.
        #[must_use]
        pub fn routes() -> Vec<Route> {
            vec![$($(Route {
                method: Method::$method,
                path: $path,
                resource: Resource::$resource,
                section: $section,
                access: Access::$access,
                effect: Effect::$effect,
                limit: None$(.or(Some(Limit::$limit)))?,
                handler: route(MethodFilter::$method, $handler),
            }),*),*]
        }
    };
}

table! {
    "Myelin: operation" Both {
        Public Read GET "/" => page::start;
        Public Read GET "/health" => page::health;
        Public Read GET "/metrics" => page::metrics;
    }
    "Client-server API: API standards" Client {
        Public Read GET "/_matrix/client/versions" => client::versions::versions;
        Public Read GET "/.well-known/matrix/client" => client::versions::well_known;
    }
    "Client-server API: Capabilities negotiation" Client {
        User Read GET "/_matrix/client/v3/capabilities" => client::versions::capabilities;
    }
    "Client-server API: Client authentication" Client {
        Public Read GET "/_matrix/client/v3/login" => client::login::flows;
        Public Change POST "/_matrix/client/v3/login" => client::login::log_in, limited Logins;
        User Change POST "/_matrix/client/v1/login/get_token" => client::login::login_token;
        Public Change POST "/_matrix/client/v3/refresh" => client::login::refresh, limited Lookups;
        User Change POST "/_matrix/client/v3/logout" => client::login::log_out;
        User Change POST "/_matrix/client/v3/logout/all" => client::login::log_out_everywhere;
        Public Change POST "/_matrix/client/v3/register" => client::registration::register, limited Registrations;
        Public Read GET "/_matrix/client/v3/register/available" => client::registration::available, limited Lookups;
        Public Read GET "/_matrix/client/v1/register/m.login.registration_token/validity" => client::registration::token_validity, limited Lookups;
        Guest Read GET "/_matrix/client/v3/account/whoami" => client::login::who_am_i;
    }
    "Client-server API: Account management" Client {
        User Change POST "/_matrix/client/v3/account/password" => client::account::change_password;
        User Change POST "/_matrix/client/v3/account/deactivate" => client::account::deactivate;
    }
    "Client-server API: Device management" Client {
        Guest Read GET "/_matrix/client/v3/devices" => client::devices::list;
        Guest Read GET "/_matrix/client/v3/devices/{device_id}" => client::devices::one;
        Guest Change PUT "/_matrix/client/v3/devices/{device_id}" => client::devices::rename;
        User Change DELETE "/_matrix/client/v3/devices/{device_id}" => client::devices::remove;
        User Change POST "/_matrix/client/v3/delete_devices" => client::devices::remove_several;
    }
    "Client-server API: OpenID" Client {
        User Change POST "/_matrix/client/v3/user/{user_id}/openid/request_token" => client::openid::request_token;
    }
    "Client-server API: Server administration" Client {
        User Read GET "/_matrix/client/v3/admin/whois/{user_id}" => client::administration::who_is;
    }
    "Client-server API: Reporting content" Client {
        User Change POST "/_matrix/client/v3/rooms/{room_id}/report" => client::reports::room, limited Messages;
        User Change POST "/_matrix/client/v3/rooms/{room_id}/report/{event_id}" => client::reports::event, limited Messages;
        User Change POST "/_matrix/client/v3/users/{user_id}/report" => client::reports::user, limited Messages;
    }
    "Client-server API: Third-party networks" Client {
        User Read GET "/_matrix/client/v3/thirdparty/protocols" => client::third_party::protocols;
        User Read GET "/_matrix/client/v3/thirdparty/protocol/{protocol}" => client::third_party::protocol;
        User Read GET "/_matrix/client/v3/thirdparty/location" => client::third_party::nothing;
        User Read GET "/_matrix/client/v3/thirdparty/location/{protocol}" => client::third_party::nothing;
        User Read GET "/_matrix/client/v3/thirdparty/user" => client::third_party::nothing;
        User Read GET "/_matrix/client/v3/thirdparty/user/{protocol}" => client::third_party::nothing;
    }
    "Synapse admin API: Shared-secret registration" Client {
        Public Change GET "/_synapse/admin/v1/register" => admin::shared_secret::nonce;
        Public Change POST "/_synapse/admin/v1/register" => admin::shared_secret::register;
    }
    "Synapse admin API: Server version" Client {
        Admin Read GET "/_synapse/admin/v1/server_version" => admin::server::version;
    }
    "Synapse admin API: Users" Client {
        Admin Read GET "/_synapse/admin/v2/users" => admin::users::list;
        Admin Read GET "/_synapse/admin/v3/users" => admin::users::list_v3;
        Admin Read GET "/_synapse/admin/v2/users/{user_id}" => admin::users::one;
        Admin Change PUT "/_synapse/admin/v2/users/{user_id}" => admin::users::put;
        Admin Read GET "/_synapse/admin/v1/users/{user_id}/admin" => admin::users::is_admin;
        Admin Change PUT "/_synapse/admin/v1/users/{user_id}/admin" => admin::users::set_admin;
        Admin Change POST "/_synapse/admin/v1/users/{user_id}/login" => admin::users::log_in_as;
        Admin Read GET "/_synapse/admin/v1/users/{user_id}/override_ratelimit" => admin::rate_limits::get;
        Admin Change POST "/_synapse/admin/v1/users/{user_id}/override_ratelimit" => admin::rate_limits::set;
        Admin Change DELETE "/_synapse/admin/v1/users/{user_id}/override_ratelimit" => admin::rate_limits::remove;
        Admin Read GET "/_synapse/admin/v1/users/{user_id}/joined_rooms" => admin::users::joined_rooms;
        Admin Change POST "/_synapse/admin/v1/reset_password/{user_id}" => admin::users::reset_password;
        Admin Change POST "/_synapse/admin/v1/deactivate/{user_id}" => admin::users::deactivate;
        Admin Read GET "/_synapse/admin/v1/username_available" => client::registration::available;
        User Read GET "/_synapse/admin/v1/whois/{user_id}" => client::administration::who_is;
    }
    "Synapse admin API: Devices" Client {
        Admin Read GET "/_synapse/admin/v2/users/{user_id}/devices" => admin::devices::list;
        Admin Read GET "/_synapse/admin/v2/users/{user_id}/devices/{device_id}" => admin::devices::one;
        Admin Change PUT "/_synapse/admin/v2/users/{user_id}/devices/{device_id}" => admin::devices::rename;
        Admin Change DELETE "/_synapse/admin/v2/users/{user_id}/devices/{device_id}" => admin::devices::remove;
        Admin Change POST "/_synapse/admin/v2/users/{user_id}/delete_devices" => admin::devices::remove_several;
    }
    "Synapse admin API: Rooms" Client {
        Admin Read GET "/_synapse/admin/v1/rooms" => admin::rooms::list;
        Admin Read GET "/_synapse/admin/v1/rooms/{room_id}" => admin::rooms::details;
        Admin Change DELETE "/_synapse/admin/v1/rooms/{room_id}" => admin::room_deletions::delete;
        Admin Change DELETE "/_synapse/admin/v2/rooms/{room_id}" => admin::room_deletions::begin_to_delete;
        Admin Read GET "/_synapse/admin/v2/rooms/{room_id}/delete_status" => admin::room_deletions::of_room;
        Admin Read GET "/_synapse/admin/v2/rooms/delete_status/{delete_id}" => admin::room_deletions::one;
        Admin Read GET "/_synapse/admin/v1/rooms/{room_id}/members" => admin::rooms::members;
        Admin Read GET "/_synapse/admin/v1/rooms/{room_id}/state" => admin::rooms::state;
        Admin Read GET "/_synapse/admin/v1/rooms/{room_id}/block" => admin::rooms::blocked;
        Admin Change PUT "/_synapse/admin/v1/rooms/{room_id}/block" => admin::rooms::block;
        Admin Read GET "/_synapse/admin/v1/rooms/{room_id}/forward_extremities" => admin::rooms::forward_extremities;
        Admin Change POST "/_synapse/admin/v1/rooms/{room_id}/make_room_admin" => admin::rooms::make_admin;
        Admin Wait GET "/_synapse/admin/v1/rooms/{room_id}/messages" => admin::history::messages;
        Admin Read GET "/_synapse/admin/v1/rooms/{room_id}/context/{event_id}" => admin::history::context;
        Admin Wait GET "/_synapse/admin/v1/rooms/{room_id}/timestamp_to_event" => admin::history::event_at;
        Admin Read GET "/_synapse/admin/v1/fetch_event/{event_id}" => admin::history::fetch_event;
        Admin Change POST "/_synapse/admin/v1/purge_history/{room_id}" => admin::history_purges::purge;
        Admin Change POST "/_synapse/admin/v1/purge_history/{room_id}/{event_id}" => admin::history_purges::purge_up_to_event;
        Admin Read GET "/_synapse/admin/v1/purge_history_status/{purge_id}" => admin::history_purges::status;
        Admin Change POST "/_synapse/admin/v1/join/{room_id_or_alias}" => admin::rooms::join;
    }
    "Synapse admin API: Federation" Client {
        Admin Read GET "/_synapse/admin/v1/federation/destinations" => admin::destinations::list;
        Admin Read GET "/_synapse/admin/v1/federation/destinations/{server}" => admin::destinations::one;
        Admin Change POST "/_synapse/admin/v1/federation/destinations/{server}/reset_connection" => admin::destinations::reset;
    }
    "Synapse admin API: Registration tokens" Client {
        Admin Read GET "/_synapse/admin/v1/registration_tokens" => admin::registration_tokens::list;
        Admin Change POST "/_synapse/admin/v1/registration_tokens/new" => admin::registration_tokens::create;
        Admin Read GET "/_synapse/admin/v1/registration_tokens/{token}" => admin::registration_tokens::one;
        Admin Change PUT "/_synapse/admin/v1/registration_tokens/{token}" => admin::registration_tokens::update;
        Admin Change DELETE "/_synapse/admin/v1/registration_tokens/{token}" => admin::registration_tokens::remove;
    }
    "Synapse admin API: Reported events" Client {
        Admin Read GET "/_synapse/admin/v1/event_reports" => admin::event_reports::list;
        Admin Read GET "/_synapse/admin/v1/event_reports/{report_id}" => admin::event_reports::one;
        Admin Change DELETE "/_synapse/admin/v1/event_reports/{report_id}" => admin::event_reports::remove;
    }
    "Client-server API: Profiles" Client {
        Public Read GET "/_matrix/client/v3/profile/{user_id}" => client::profiles::profile;
        Public Read GET "/_matrix/client/v3/profile/{user_id}/{key_name}" => client::profiles::profile_field;
        Guest Change PUT "/_matrix/client/v3/profile/{user_id}/{key_name}" => client::profiles::set_profile_field, limited Messages;
        Guest Change DELETE "/_matrix/client/v3/profile/{user_id}/{key_name}" => client::profiles::remove_profile_field, limited Messages;
    }
    "Client-server API: Filtering" Client {
        User Change POST "/_matrix/client/v3/user/{user_id}/filter" => client::filters::store_filter;
        User Read GET "/_matrix/client/v3/user/{user_id}/filter/{filter_id}" => client::filters::filter;
    }
    "Client-server API: Push notifications" Client {
        User Read GET "/_matrix/client/v3/user/{user_id}/account_data/{type}" => client::account_data::data;
        User Change PUT "/_matrix/client/v3/user/{user_id}/account_data/{type}" => client::account_data::set_data;
        User Read GET "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}" => client::account_data::room_data;
        User Change PUT "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}" => client::account_data::set_room_data;
        User Read GET "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags" => client::account_data::tags;
        User Change PUT "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags/{tag}" => client::account_data::set_tag;
        User Change DELETE "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags/{tag}" => client::account_data::remove_tag;
        User Read GET "/_matrix/client/v3/notifications" => client::notifications::list;
        User Read GET "/_matrix/client/v3/pushrules/" => client::push_rules::all;
        User Read GET "/_matrix/client/v3/pushrules/global/" => client::push_rules::global;
        User Read GET "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}" => client::push_rules::one;
        User Change PUT "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}" => client::push_rules::put;
        User Change DELETE "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}" => client::push_rules::remove;
        User Read GET "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/enabled" => client::push_rules::enabled;
        User Change PUT "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/enabled" => client::push_rules::set_enabled;
        User Read GET "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/actions" => client::push_rules::actions;
        User Change PUT "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/actions" => client::push_rules::set_actions;
    }
    "Client-server API: End-to-end encryption" Client {
        Guest Change POST "/_matrix/client/v3/keys/upload" => client::keys::upload;
        Guest Read POST "/_matrix/client/v3/keys/query" => client::keys::query;
    }
    "Client-server API: Send-to-Device messaging" Client {
        Guest Change PUT "/_matrix/client/v3/sendToDevice/{event_type}/{txn_id}" => client::to_device::send;
    }
    "Client-server API: Typing notifications" Client {
        User Change PUT "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}" => client::typing::set;
    }
    "Client-server API: Presence" Client {
        User Read GET "/_matrix/client/v3/presence/{user_id}/status" => client::presence::status;
        User Change PUT "/_matrix/client/v3/presence/{user_id}/status" => client::presence::set_status;
    }
    "Client-server API: Receipts" Client {
        User Change POST "/_matrix/client/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}" => client::receipts::send;
    }
    "Client-server API: Fully read markers" Client {
        User Change POST "/_matrix/client/v3/rooms/{room_id}/read_markers" => client::receipts::set_markers;
    }
    "Client-server API: Room creation" Client {
        User Change POST "/_matrix/client/v3/createRoom" => client::room_creation::create, limited Messages;
    }
    "Client-server API: Room aliases" Client {
        Public Read GET "/_matrix/client/v3/directory/room/{room_alias}" => client::directory::resolve;
        User Change PUT "/_matrix/client/v3/directory/room/{room_alias}" => client::directory::add, limited Messages;
        User Change DELETE "/_matrix/client/v3/directory/room/{room_alias}" => client::directory::remove;
        User Read GET "/_matrix/client/v3/rooms/{room_id}/aliases" => client::directory::of_room;
    }
    "Client-server API: Published room directory" Client {
        Public Read GET "/_matrix/client/v3/publicRooms" => client::public_rooms::list;
        User Read POST "/_matrix/client/v3/publicRooms" => client::public_rooms::search;
        Public Read GET "/_matrix/client/v3/directory/list/room/{room_id}" => client::public_rooms::visibility;
        User Change PUT "/_matrix/client/v3/directory/list/room/{room_id}" => client::public_rooms::set_visibility;
    }
    "Client-server API: Room upgrades" Client {
        User Change POST "/_matrix/client/v3/rooms/{room_id}/upgrade" => client::room_upgrades::upgrade, limited Messages;
    }
    "Client-server API: Spaces" Client {
        User Wait GET "/_matrix/client/v1/rooms/{room_id}/hierarchy" => client::spaces::hierarchy;
    }
    "Client-server API: Room membership" Client {
        User Read GET "/_matrix/client/v3/joined_rooms" => client::membership::joined_rooms;
        Guest Change POST "/_matrix/client/v3/join/{room_id_or_alias}" => client::membership::join, limited Joins;
        Guest Change POST "/_matrix/client/v3/rooms/{room_id}/join" => client::membership::join, limited Joins;
        User Change POST "/_matrix/client/v3/knock/{room_id_or_alias}" => client::membership::knock, limited Joins;
        Guest Change POST "/_matrix/client/v3/rooms/{room_id}/leave" => client::membership::leave, limited Messages;
        User Change POST "/_matrix/client/v3/rooms/{room_id}/forget" => client::membership::forget;
        User Change POST "/_matrix/client/v3/rooms/{room_id}/invite" => client::membership::invite, limited Invites;
        User Change POST "/_matrix/client/v3/rooms/{room_id}/kick" => client::membership::kick, limited Messages;
        User Change POST "/_matrix/client/v3/rooms/{room_id}/ban" => client::membership::ban, limited Messages;
        User Change POST "/_matrix/client/v3/rooms/{room_id}/unban" => client::membership::unban, limited Messages;
    }
    "Client-server API: Sending events" Client {
        Guest Change PUT "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}" => client::sending::send, limited Messages;
        User Change PUT "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}/{txn_id}" => client::sending::redact, limited Messages;
        Guest Change PUT "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}" => client::sending::set_state, limited Messages;
        Guest Change PUT "/_matrix/client/v3/rooms/{room_id}/state/{event_type}" => client::sending::set_state_without_key, limited Messages;
        Guest Change PUT "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/" => client::sending::set_state_without_key, limited Messages;
    }
    "Client-server API: Getting events" Client {
        Guest Wait GET "/_matrix/client/v3/sync" => client::sync::sync;
        Guest Read GET "/_matrix/client/v3/rooms/{room_id}/event/{event_id}" => client::events::event;
        Guest Wait GET "/_matrix/client/v3/rooms/{room_id}/state" => client::events::state;
        Guest Wait GET "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}" => client::events::state_entry;
        Guest Wait GET "/_matrix/client/v3/rooms/{room_id}/state/{event_type}" => client::events::state_entry_without_key;
        Guest Wait GET "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/" => client::events::state_entry_without_key;
        Guest Wait GET "/_matrix/client/v3/rooms/{room_id}/members" => client::events::members;
        User Wait GET "/_matrix/client/v3/rooms/{room_id}/joined_members" => client::events::joined_members;
        Guest Wait GET "/_matrix/client/v3/rooms/{room_id}/messages" => client::events::messages;
        Guest Wait GET "/_matrix/client/v3/rooms/{room_id}/context/{event_id}" => client::events::context;
        User Wait GET "/_matrix/client/v1/rooms/{room_id}/timestamp_to_event" => client::events::event_at;
    }
    "Client-server API: Event relationships" Client {
        User Read GET "/_matrix/client/v1/rooms/{room_id}/relations/{event_id}" => client::relations::all;
        User Read GET "/_matrix/client/v1/rooms/{room_id}/relations/{event_id}/{rel_type}" => client::relations::of_kind;
        User Read GET "/_matrix/client/v1/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}" => client::relations::of_kind_and_type;
    }
    "Client-server API: Server Side Search" Client {
        User Wait POST "/_matrix/client/v3/search" => client::search::search, limited Searches;
    }
    "Client-server API: User Directory" Client {
        User Wait POST "/_matrix/client/v3/user_directory/search" => client::user_directory::search, limited Searches;
    }
    "Client-server API: Threads" Client {
        User Read GET "/_matrix/client/v1/rooms/{room_id}/threads" => client::relations::threads;
    }
    "Server-server API: Server discovery" Federation {
        Public Read GET "/_matrix/federation/v1/version" => federation::server::version;
        Public Read GET "/_matrix/key/v2/server" => federation::keys::own;
        Public Wait GET "/_matrix/key/v2/query/{server_name}" => federation::keys::of_server, limited Lookups;
        Public Wait POST "/_matrix/key/v2/query" => federation::keys::of_servers, limited Lookups;
    }
    "Server-server API: Transactions" Federation {
        Server Change PUT "/_matrix/federation/v1/send/{txn_id}" => federation::transactions::send;
    }
    "Server-server API: Authorization rules" Federation {
        Server Read GET "/_matrix/federation/v1/event_auth/{room_id}/{event_id}" => federation::events::event_auth;
    }
    "Server-server API: Backfilling and retrieving missing events" Federation {
        Server Read GET "/_matrix/federation/v1/backfill/{room_id}" => federation::events::backfill;
        Server Read POST "/_matrix/federation/v1/get_missing_events/{room_id}" => federation::events::missing_events;
    }
    "Server-server API: Retrieving events" Federation {
        Server Read GET "/_matrix/federation/v1/event/{event_id}" => federation::events::event;
        Server Read GET "/_matrix/federation/v1/state/{room_id}" => federation::events::state;
        Server Read GET "/_matrix/federation/v1/state_ids/{room_id}" => federation::events::state_ids;
        Server Read GET "/_matrix/federation/v1/timestamp_to_event/{room_id}" => federation::events::event_at;
    }
    "Server-server API: Inviting to a room" Federation {
        Server Change PUT "/_matrix/federation/v2/invite/{room_id}/{event_id}" => federation::membership::invite;
    }
    "Server-server API: Joining rooms" Federation {
        Server Read GET "/_matrix/federation/v1/make_join/{room_id}/{user_id}" => federation::membership::make_join;
        Server Change PUT "/_matrix/federation/v2/send_join/{room_id}/{event_id}" => federation::membership::send_join;
        Server Change PUT "/_matrix/federation/v1/send_join/{room_id}/{event_id}" => federation::membership::send_join_v1;
    }
    "Server-server API: Knocking upon a room" Federation {
        Server Read GET "/_matrix/federation/v1/make_knock/{room_id}/{user_id}" => federation::membership::make_knock;
        Server Change PUT "/_matrix/federation/v1/send_knock/{room_id}/{event_id}" => federation::membership::send_knock;
    }
    "Server-server API: Leaving rooms" Federation {
        Server Read GET "/_matrix/federation/v1/make_leave/{room_id}/{user_id}" => federation::membership::make_leave;
        Server Change PUT "/_matrix/federation/v2/send_leave/{room_id}/{event_id}" => federation::membership::send_leave;
        Server Change PUT "/_matrix/federation/v1/send_leave/{room_id}/{event_id}" => federation::membership::send_leave_v1;
    }
    "Server-server API: Third-party invites" Federation {
        Server Change PUT "/_matrix/federation/v1/exchange_third_party_invite/{room_id}" => federation::third_party_invites::exchange;
        Public Change PUT "/_matrix/federation/v1/3pid/onbind" => federation::third_party_invites::on_bind;
        // As identity servers really send it.
        Public Change POST "/_matrix/federation/v1/3pid/onbind" => federation::third_party_invites::on_bind;
    }
    "Server-server API: Querying for information" Federation {
        Server Read GET "/_matrix/federation/v1/query/profile" => federation::queries::profile;
        Server Read GET "/_matrix/federation/v1/query/directory" => federation::queries::directory;
    }
    "Server-server API: Published room directory" Federation {
        Server Read GET "/_matrix/federation/v1/publicRooms" => federation::public_rooms::list;
        Server Read POST "/_matrix/federation/v1/publicRooms" => federation::public_rooms::search;
    }
    "Server-server API: OpenID" Federation {
        Public Read GET "/_matrix/federation/v1/openid/userinfo" => federation::openid::user_info;
    }
    "Server-server API: Spaces" Federation {
        Server Read GET "/_matrix/federation/v1/hierarchy/{room_id}" => federation::spaces::hierarchy;
    }
    "Server-server API: Device management" Federation {
        Server Read GET "/_matrix/federation/v1/user/devices/{user_id}" => federation::queries::user_devices;
    }
}
