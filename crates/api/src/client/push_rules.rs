//! Client-server API, "Push rules".

use axum::extract::State;
use myelin_core::push_rules::{rules_content, written_rules};
use myelin_users::{PushRuleChange, RuleName};
use ruma::{
    RoomId, UserId,
    push::{
        Action, AnyPushRuleRef, NewConditionalPushRule, NewPatternedPushRule, NewPushRule,
        NewSimplePushRule, PushCondition, RuleKind, Ruleset,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path, Query},
};

/// Actions of old versions of the specification, which do nothing.
const HISTORICAL_ACTIONS: [&str; 2] = ["dont_notify", "coalesce"];

/// A rule as a client writes it.
#[derive(Deserialize)]
pub(crate) struct RuleBody {
    actions: Option<Vec<Action>>,
    #[serde(default)]
    conditions: Vec<PushCondition>,
    pattern: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct ActionsBody {
    actions: Option<Vec<Action>>,
}

#[derive(Deserialize)]
pub(crate) struct EnabledBody {
    enabled: Option<bool>,
}

/// Where a rule goes among those of its kind.
#[derive(Deserialize)]
pub(crate) struct Neighbours {
    before: Option<String>,
    after: Option<String>,
}

pub(crate) async fn all(
    State(api): State<Api>,
    User(requester): User,
) -> Result<Json<Value>, ApiError> {
    let rules = api.users().push_rules(&requester.user_id).await?;
    Ok(Json(rules_content(&rules)))
}

pub(crate) async fn global(
    State(api): State<Api>,
    User(requester): User,
) -> Result<Json<Value>, ApiError> {
    let rules = api.users().push_rules(&requester.user_id).await?;
    Ok(Json(written_rules(&rules)))
}

pub(crate) async fn one(
    State(api): State<Api>,
    User(requester): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let rules = api.users().push_rules(&requester.user_id).await?;
    Ok(Json(match find(&rules, &named(path)?)? {
        AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => json!(rule),
        AnyPushRuleRef::Content(rule) => json!(rule),
        AnyPushRuleRef::Room(rule) => json!(rule),
        AnyPushRuleRef::Sender(rule) => json!(rule),
        _ => return Err(ApiError::internal()),
    }))
}

pub(crate) async fn put(
    State(api): State<Api>,
    User(requester): User,
    Path(path): Path<(String, String)>,
    Query(neighbours): Query<Neighbours>,
    Json(body): Json<RuleBody>,
) -> Result<Json<Value>, ApiError> {
    let change = PushRuleChange::Put {
        rule: body.named(named(path)?)?,
        before: neighbours.before,
        after: neighbours.after,
    };
    change_rules(&api, &requester.user_id, change).await
}

pub(crate) async fn remove(
    State(api): State<Api>,
    User(requester): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let change = PushRuleChange::Remove(named(path)?);
    change_rules(&api, &requester.user_id, change).await
}

pub(crate) async fn enabled(
    State(api): State<Api>,
    User(requester): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let rules = api.users().push_rules(&requester.user_id).await?;
    let enabled = find(&rules, &named(path)?)?.enabled();
    Ok(Json(json!({ "enabled": enabled })))
}

pub(crate) async fn set_enabled(
    State(api): State<Api>,
    User(requester): User,
    Path(path): Path<(String, String)>,
    Json(body): Json<EnabledBody>,
) -> Result<Json<Value>, ApiError> {
    let enabled = body
        .enabled
        .ok_or_else(|| ApiError::missing_param("enabled"))?;
    let change = PushRuleChange::SetEnabled(named(path)?, enabled);
    change_rules(&api, &requester.user_id, change).await
}

pub(crate) async fn actions(
    State(api): State<Api>,
    User(requester): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let rules = api.users().push_rules(&requester.user_id).await?;
    let actions = find(&rules, &named(path)?)?.actions();
    Ok(Json(json!({ "actions": actions })))
}

pub(crate) async fn set_actions(
    State(api): State<Api>,
    User(requester): User,
    Path(path): Path<(String, String)>,
    Json(body): Json<ActionsBody>,
) -> Result<Json<Value>, ApiError> {
    let change = PushRuleChange::SetActions(named(path)?, known_actions(body.actions)?);
    change_rules(&api, &requester.user_id, change).await
}

async fn change_rules(
    api: &Api,
    user: &UserId,
    change: PushRuleChange,
) -> Result<Json<Value>, ApiError> {
    api.users().change_push_rules(user, change).await?;
    api.rooms().push_rules_changed(user);
    Ok(Json(json!({})))
}

fn named((kind, rule_id): (String, String)) -> Result<RuleName, ApiError> {
    let kind = match RuleKind::from(kind) {
        kind @ (RuleKind::Override
        | RuleKind::Underride
        | RuleKind::Sender
        | RuleKind::Room
        | RuleKind::Content) => kind,
        kind => {
            let message = format!("{kind} is no kind of push rules");
            return Err(ApiError::invalid_param(message));
        }
    };
    Ok(RuleName { kind, rule_id })
}

fn find<'r>(rules: &'r Ruleset, name: &RuleName) -> Result<AnyPushRuleRef<'r>, ApiError> {
    rules
        .get(name.kind.clone(), &name.rule_id)
        .ok_or_else(|| ApiError::not_found("The push rule was not found"))
}

impl RuleBody {
    fn named(self, name: RuleName) -> Result<NewPushRule, ApiError> {
        let RuleName { kind, rule_id } = name;
        let actions = known_actions(self.actions)?;
        let conditional = |rule_id, conditions, actions| {
            NewConditionalPushRule::new(rule_id, conditions, actions)
        };
        Ok(match kind {
            RuleKind::Override => {
                NewPushRule::Override(conditional(rule_id, self.conditions, actions))
            }
            RuleKind::Underride => {
                NewPushRule::Underride(conditional(rule_id, self.conditions, actions))
            }
            RuleKind::Content => {
                let pattern = self
                    .pattern
                    .ok_or_else(|| ApiError::missing_param("pattern"))?;
                NewPushRule::Content(NewPatternedPushRule::new(rule_id, pattern, actions))
            }
            RuleKind::Room => {
                let room = RoomId::parse(rule_id).map_err(|error| wrong_id(&error))?;
                NewPushRule::Room(NewSimplePushRule::new(room, actions))
            }
            RuleKind::Sender => {
                let user = UserId::parse(rule_id).map_err(|error| wrong_id(&error))?;
                NewPushRule::Sender(NewSimplePushRule::new(user, actions))
            }
            _ => return Err(ApiError::internal()),
        })
    }
}

fn wrong_id(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::invalid_param(format!("A rule of this kind can't be called so: {error}"))
}

/// The actions, without the historical ones.
fn known_actions(actions: Option<Vec<Action>>) -> Result<Vec<Action>, ApiError> {
    let actions = actions.ok_or_else(|| ApiError::missing_param("actions"))?;
    let mut known = Vec::new();
    for action in actions {
        match json!(action).as_str() {
            Some(name) if HISTORICAL_ACTIONS.contains(&name) => {}
            _ if matches!(action, Action::Notify | Action::SetTweak(_)) => known.push(action),
            _ => return Err(ApiError::invalid_param("There is no such action")),
        }
    }
    Ok(known)
}
