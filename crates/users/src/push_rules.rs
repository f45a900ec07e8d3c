//! Which push rules a user has. Client-server API, "Push rules". They are kept as the account data that
//! clients get.

use myelin_core::push_rules::{PUSH_RULES, read_rules, rules_content};
use myelin_storage::{StorageError, account_data};
use ruma::{
    UserId,
    push::{Action, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset},
};

use crate::{UserError, Users};

/// How large a user's rules may be, in bytes of JSON: each event in the user's rooms is held against all of
/// them.
const LARGEST_RULES: usize = 64 * 1024;

/// What a rule is called.
#[derive(Clone, Debug)]
pub struct RuleName {
    /// Its kind.
    pub kind: RuleKind,
    /// Its ID among those of its kind.
    pub rule_id: String,
}

/// A change of a user's rules.
#[derive(Clone, Debug)]
pub enum PushRuleChange {
    /// A new rule, or another one in its place.
    Put {
        /// The rule.
        rule: NewPushRule,
        /// It comes just before the rule of this ID.
        before: Option<String>,
        /// It comes just after the rule of this ID.
        after: Option<String>,
    },
    /// A rule is no longer there.
    Remove(RuleName),
    /// Whether a rule is in use.
    SetEnabled(RuleName, bool),
    /// What a rule does.
    SetActions(RuleName, Vec<Action>),
}

impl PushRuleChange {
    /// What is to be stored in place of what was.
    pub(crate) fn apply(self, user: &UserId, stored: &[u8]) -> Result<Vec<u8>, UserError> {
        let mut rules = read_rules(user, Some(stored)).map_err(corrupt)?;
        match self {
            Self::Put {
                rule,
                before,
                after,
            } => rules
                .insert(rule, after.as_deref(), before.as_deref())
                .map_err(not_inserted)?,
            Self::Remove(name) => {
                let removed = rules.remove(name.kind, name.rule_id);
                removed.map_err(|error| not_removed(&error))?;
            }
            Self::SetEnabled(name, enabled) => rules
                .set_enabled(name.kind, name.rule_id, enabled)
                .map_err(|_| unknown_rule())?,
            Self::SetActions(name, actions) => rules
                .set_actions(name.kind, name.rule_id, actions)
                .map_err(|_| unknown_rule())?,
        }
        let written = rules_content(&rules).to_string().into_bytes();
        if written.len() > LARGEST_RULES {
            let message = format!("The rules together are larger than {LARGEST_RULES} bytes");
            return Err(UserError::InvalidParam(message));
        }
        Ok(written)
    }
}

impl Users {
    /// A user's rules.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn push_rules(&self, user: &UserId) -> Result<Ruleset, UserError> {
        let owner = user.to_owned();
        let stored = self.database().look_up("push rules", move |tx| {
            Box::pin(async move { account_data::content(tx, &owner, None, PUSH_RULES).await })
        });
        read_rules(user, stored.await?.as_deref()).map_err(corrupt)
    }
}

fn not_inserted(error: InsertPushRuleError) -> UserError {
    let message = error.to_string();
    match error {
        InsertPushRuleError::UnknownRuleId | InsertPushRuleError::BeforeHigherThanAfter => {
            UserError::Unknown(message)
        }
        _ => UserError::InvalidParam(message),
    }
}

fn not_removed(error: &RemovePushRuleError) -> UserError {
    match error {
        RemovePushRuleError::ServerDefault => {
            UserError::InvalidParam("A predefined rule can't be removed".to_owned())
        }
        _ => unknown_rule(),
    }
}

fn unknown_rule() -> UserError {
    UserError::NotFound("The push rule was not found".to_owned())
}

fn corrupt(error: serde_json::Error) -> UserError {
    StorageError::Corrupt(format!("push rules: {error}")).into()
}
