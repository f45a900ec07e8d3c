//! What users say about themselves beside their presence.

use ruma::{OwnedUserId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// All of them.
    STATUSES = "SELECT user_id, status_msg FROM presence_statuses";
    /// A new one.
    PUT_STATUS = "INSERT INTO presence_statuses (user_id, status_msg) VALUES ($1, $2)
        ON CONFLICT (user_id) DO UPDATE SET status_msg = excluded.status_msg";
    /// There is none any more.
    DELETE_STATUS = "DELETE FROM presence_statuses WHERE user_id = $1";
}

/// What all users of this server say.
///
/// # Errors
/// Any [`StorageError`].
pub async fn statuses(tx: &mut Tx) -> Result<Vec<(OwnedUserId, String)>, StorageError> {
    let rows = tx.query(STATUSES, params![]).await?;
    rows.iter()
        .map(|row| {
            let user_id = row.parsed(0)?;
            Ok((user_id, row.text(1)?.to_owned()))
        })
        .collect()
}

/// Sets what a user says, or ends it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set_status(
    tx: &mut Tx,
    user: &UserId,
    status_msg: Option<&str>,
) -> Result<(), StorageError> {
    match status_msg {
        Some(status_msg) => {
            tx.execute(PUT_STATUS, params![user.as_str(), status_msg])
                .await
        }
        None => tx.execute(DELETE_STATUS, params![user.as_str()]).await,
    }
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::{set_status, statuses};
    use crate::{Priority, StorageError, accounts, testing::on_each_engine};
    use ruma::user_id;

    #[tokio::test]
    async fn a_status_goes_with_its_user_or_its_account() {
        on_each_engine(|fresh| async move {
            let (alice, bob) = (user_id!("@alice:x.example"), user_id!("@bob:x.example"));
            let write = fresh.database.write::<_, StorageError, _>(
                "statuses",
                Priority::Interactive,
                move |tx| {
                    Box::pin(async move {
                        for words in ["here", "there"] {
                            set_status(tx, alice, Some(words)).await?;
                            set_status(tx, bob, Some(words)).await?;
                        }
                        set_status(tx, bob, None).await?;
                        let of_alice = vec![(alice.to_owned(), "there".to_owned())];
                        assert_eq!(statuses(tx).await?, of_alice);
                        accounts::close(tx, alice, false).await?;
                        statuses(tx).await
                    })
                },
            );
            assert_eq!(write.await, Ok(Vec::new()));
        })
        .await;
    }
}
