//! Users for whom other limits hold than for everybody.

use ruma::{OwnedUserId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// One user's.
    PUT_OVERRIDE = "INSERT INTO rate_limit_overrides (user_id, messages_per_second, burst_count)
        VALUES ($1, $2, $3) ON CONFLICT (user_id) DO UPDATE
        SET messages_per_second = excluded.messages_per_second, burst_count = excluded.burst_count";
    /// The user is limited as everybody is.
    DELETE_OVERRIDE = "DELETE FROM rate_limit_overrides WHERE user_id = $1";
    /// All.
    OVERRIDES = "SELECT user_id, messages_per_second, burst_count FROM rate_limit_overrides";
}

/// What a user may do instead of what everybody may. Both 0: anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// How many messages in a second, in the long run.
    pub messages_per_second: u32,
    /// How many at once.
    pub burst_count: u32,
}

/// Stores a user's override, or takes it away.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set(
    tx: &mut Tx,
    user: &UserId,
    instead: Option<Override>,
) -> Result<(), StorageError> {
    match instead {
        None => tx.execute(DELETE_OVERRIDE, params![user.as_str()]).await?,
        Some(Override {
            messages_per_second,
            burst_count,
        }) => {
            let values = params![
                user.as_str(),
                i64::from(messages_per_second),
                i64::from(burst_count)
            ];
            tx.execute(PUT_OVERRIDE, values).await?
        }
    };
    Ok(())
}

/// All overrides.
///
/// # Errors
/// Any [`StorageError`].
pub async fn all(tx: &mut Tx) -> Result<Vec<(OwnedUserId, Override)>, StorageError> {
    let rows = tx.query(OVERRIDES, params![]).await?;
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    rows.iter()
        .map(|row| {
            let instead = Override {
                messages_per_second: number(row.int(1)?),
                burst_count: number(row.int(2)?),
            };
            Ok((row.parsed(0)?, instead))
        })
        .collect()
}
