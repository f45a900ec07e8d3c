//! The push rules of this server's users, as far as their events come by.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use myelin_core::push_rules::{PUSH_RULES, read_rules};
use myelin_storage::{StorageError, account_data};
use ruma::{OwnedUserId, UserId, push::Ruleset};

use crate::Rooms;

/// Of how many users the rules are in memory. Most have the predefined ones, which take no more than the
/// user's name.
const MOST_USERS: usize = 50_000;

/// How many rules that users made are in memory.
const MOST_OWN: usize = 5_000;

/// Rules in memory.
#[derive(Debug, Default)]
pub(crate) struct RulesInUse(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// `None`: the predefined ones.
    rules: HashMap<OwnedUserId, Option<Arc<Ruleset>>>,
    own: usize,
    /// Counts changes: what was read before one isn't kept after it.
    changes: u64,
}

impl RulesInUse {
    /// A panic leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn put(&mut self, user: OwnedUserId, rules: Option<Arc<Ruleset>>) {
        if self.rules.len() >= MOST_USERS || self.own >= MOST_OWN {
            self.rules.clear();
            self.own = 0;
        }
        self.own += usize::from(rules.is_some());
        self.rules.insert(user, rules);
    }
}

impl Rooms {
    /// A user's rules have changed: events from now on are held against the new ones.
    pub fn push_rules_changed(&self, user: &UserId) {
        let mut known = self.0.push_rules.lock();
        known.changes += 1;
        if let Some(Some(_)) = known.rules.remove(user) {
            known.own = known.own.saturating_sub(1);
        }
    }

    /// The rules of those of some users who don't have the predefined ones.
    pub(crate) async fn own_push_rules<'u>(
        &self,
        users: impl IntoIterator<Item = &'u OwnedUserId>,
    ) -> Result<BTreeMap<OwnedUserId, Arc<Ruleset>>, StorageError> {
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        let changes = {
            let known = self.0.push_rules.lock();
            for user in users {
                match known.rules.get(user) {
                    Some(Some(rules)) => drop(found.insert(user.clone(), rules.clone())),
                    Some(None) => {}
                    None => missing.push(user.clone()),
                }
            }
            known.changes
        };
        if missing.is_empty() {
            return Ok(found);
        }
        let wanted = missing.clone();
        let read = self.database().look_up("push rules of users", move |tx| {
            Box::pin(async move { account_data::of_users(tx, &wanted, PUSH_RULES).await })
        });
        let mut stored = read.await?;
        for user in missing {
            let rules = stored
                .remove(&user)
                .and_then(|content| readable(&user, &content));
            if let Some(rules) = &rules {
                found.insert(user.clone(), rules.clone());
            }
            let mut known = self.0.push_rules.lock();
            if known.changes == changes {
                known.put(user, rules);
            }
        }
        Ok(found)
    }
}

/// What is stored of a user's rules. Nothing happens to a room because the settings of somebody in it can't be
/// read: such a user has the predefined ones.
fn readable(user: &UserId, content: &[u8]) -> Option<Arc<Ruleset>> {
    match read_rules(user, Some(content)) {
        Ok(rules) => Some(Arc::new(rules)),
        Err(error) => {
            tracing::error!(%user, %error, "push rules can't be read");
            None
        }
    }
}
