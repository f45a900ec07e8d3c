//! Push rules. Client-server API, "Push rules". Users can't change them yet: all have the defaults.

use ruma::{UserId, push::Ruleset};

use crate::Users;

impl Users {
    /// A user's rules.
    #[must_use]
    pub fn push_rules(&self, user: &UserId) -> Ruleset {
        Ruleset::server_default(user)
    }
}
