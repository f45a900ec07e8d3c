//! Filters that clients have stored.

use ruma::UserId;

use crate::{StorageError, Tx};

statements! {
    /// The same filter once more needs no new row.
    SAME_FILTER = "SELECT filter FROM filters WHERE user_id = $1 AND content = $2 ORDER BY filter LIMIT 1";
    /// The next number.
    NEXT_FILTER = "SELECT COALESCE(MAX(filter), -1) + 1 FROM filters WHERE user_id = $1";
    /// A new filter.
    PUT_FILTER = "INSERT INTO filters (user_id, filter, content) VALUES ($1, $2, $3)";
    /// A filter by its number.
    FILTER = "SELECT content FROM filters WHERE user_id = $1 AND filter = $2";
}

/// Stores a filter and returns its number among the user's.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(tx: &mut Tx, user: &UserId, content: &[u8]) -> Result<i64, StorageError> {
    let same = tx
        .query_opt(SAME_FILTER, params![user.as_str(), content])
        .await?;
    if let Some(row) = same {
        return row.int(0);
    }
    let next = tx.query_opt(NEXT_FILTER, params![user.as_str()]).await?;
    let number = next.map_or(Ok(0), |row| row.int(0))?;
    tx.run(PUT_FILTER, params![user.as_str(), number, content])
        .await?;
    Ok(number)
}

/// A filter of a user by its number.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_number(
    tx: &mut Tx,
    user: &UserId,
    number: i64,
) -> Result<Option<Vec<u8>>, StorageError> {
    let row = tx.query_opt(FILTER, params![user.as_str(), number]).await?;
    row.map(|row| Ok(row.blob(0)?.to_vec())).transpose()
}
