//! Server access control lists: which servers may take part in a room (client-server API, "Server Access
//! Control Lists"; server-server API, the section of the same name).

use ruma::{ServerName, events::room::server_acl::RoomServerAclEventContent};
use serde_json::{Value, value::RawValue};

/// The type of the events that hold such lists.
pub const SERVER_ACL: &str = "m.room.server_acl";

/// What an `m.room.server_acl` event says.
#[derive(Clone, Debug)]
pub struct ServerAcl(RoomServerAclEventContent);

impl ServerAcl {
    /// Reads the content of an event. What has another form than it should counts as not there, for
    /// each entry of a list: the authorisation rules let any content pass, and a list with a mistake in it
    /// still has to keep out the servers that it names.
    pub fn read(content: &RawValue) -> Self {
        let content: Value = serde_json::from_str(content.get()).unwrap_or_default();
        let list = |name: &str| {
            let entries = content[name].as_array().into_iter().flatten();
            entries
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        let allow_ip_literals = content["allow_ip_literals"].as_bool().unwrap_or(true);
        Self(RoomServerAclEventContent::new(
            allow_ip_literals,
            list("allow"),
            list("deny"),
        ))
    }

    /// Whether a server may take part. Its port doesn't matter, nor does the case of its name (MSC4436).
    pub fn allows(&self, server: &ServerName) -> bool {
        self.0.is_allowed(server)
    }
}
