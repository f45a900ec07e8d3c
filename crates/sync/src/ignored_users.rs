//! Whose events a user doesn't want to see (client-server API, "Ignoring users").

use std::collections::BTreeMap;

use myelin_rooms::Rooms;
use myelin_storage::{StorageError, Tx, account_data};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{SyncError, access::Asking};

/// The type of the user's data that names them.
const IGNORED_USERS: &str = "m.ignored_user_list";

#[derive(Default, Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    ignored_users: BTreeMap<String, &'a RawValue>,
}

/// Whom a user ignores. An administrator who looks after a room ignores nobody.
pub(crate) async fn ignored_as(
    rooms: &Rooms,
    asking: Asking,
    user: &UserId,
) -> Result<Vec<OwnedUserId>, SyncError> {
    match asking {
        Asking::AsUser => ignored_by(rooms, user).await,
        Asking::AsAdministrator => Ok(Vec::new()),
    }
}

/// The users that a user ignores.
pub(crate) async fn ignored_by(
    rooms: &Rooms,
    user: &UserId,
) -> Result<Vec<OwnedUserId>, SyncError> {
    let user = user.to_owned();
    let ignored = rooms.database().look_up("ignored users", move |tx| {
        Box::pin(async move { read_ignored(tx, &user).await })
    });
    Ok(ignored.await?)
}

/// The same within a transaction.
pub(crate) async fn read_ignored(
    tx: &mut Tx,
    user: &UserId,
) -> Result<Vec<OwnedUserId>, StorageError> {
    let content = account_data::content(tx, user, None, IGNORED_USERS).await?;
    Ok(content.map_or_else(Vec::new, |content| named(&content, user)))
}

/// The users that the content names. What a client wrote there in another form names nobody, and nobody can
/// ignore themselves.
fn named(content: &[u8], user: &UserId) -> Vec<OwnedUserId> {
    let content: Content<'_> = serde_json::from_slice(content).unwrap_or_default();
    let names = content.ignored_users.into_keys();
    names
        .filter_map(|name| OwnedUserId::try_from(name).ok())
        .filter(|name| name != user)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::named;
    use ruma::user_id;

    #[test]
    fn only_other_users_are_ignored_and_only_those_that_are_named_in_the_right_form() {
        let cases: [(&str, &[&str]); 6] = [
            (
                r#"{"ignored_users":{"@b:x.example":{}}}"#,
                &["@b:x.example"],
            ),
            (
                r#"{"ignored_users":{"@a:x.example":{},"@b:x.example":1,"b":{}}}"#,
                &["@b:x.example"],
            ),
            (r#"{"ignored_users":{}}"#, &[]),
            (r#"{"ignored_users":["@b:x.example"]}"#, &[]),
            (r#"{"ignored_users":null}"#, &[]),
            ("{}", &[]),
        ];
        for (content, expected) in cases {
            let found = named(content.as_bytes(), user_id!("@a:x.example"));
            assert_eq!(found, expected, "{content}");
        }
    }
}
