//! Changes to accounts. Client-server API, "Changing password" and "Account deactivation".

use myelin_storage::{Priority, StorageError, accounts, devices};

use ruma::OwnedUserId;

use crate::{AuthData, Requester, UserError, Users, administration::no_such_account, passwords};

impl Users {
    /// Sets a new password. With `log_out_others`, the sessions of all other devices end.
    ///
    /// # Errors
    /// [`UserError::Challenge`], [`UserError::InvalidParam`] if it can't be one, [`UserError::Storage`].
    pub async fn change_password(
        &self,
        requester: &Requester,
        new_password: String,
        log_out_others: bool,
        auth: Option<AuthData>,
    ) -> Result<(), UserError> {
        passwords::check(&new_password)?;
        self.confirm(requester, "change the password", Vec::new(), auth)
            .await?;
        let hash = passwords::hash(self.env(), new_password).await?;
        let Requester {
            user_id, device_id, ..
        } = requester.clone();
        self.database()
            .write("change_password", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    accounts::set_password(tx, &user_id, &hash).await?;
                    if log_out_others {
                        for device in devices::of_user(tx, &user_id).await? {
                            if device.device_id != device_id {
                                devices::remove(tx, &user_id, device.device_id.as_str()).await?;
                            }
                        }
                    }
                    Ok::<_, StorageError>(())
                })
            })
            .await?;
        tracing::info!(user = %requester.user_id, "password changed");
        Ok(())
    }

    /// Closes the account of whoever asks, for good: nobody logs in any more, all sessions end, and the user
    /// has to leave all rooms, which is noted. With `erase`, what belongs to the user and to no room goes.
    ///
    /// # Errors
    /// [`UserError::Challenge`], [`UserError::Storage`].
    pub async fn deactivate(
        &self,
        requester: &Requester,
        erase: bool,
        auth: Option<AuthData>,
    ) -> Result<(), UserError> {
        self.confirm(requester, "deactivate", Vec::new(), auth)
            .await?;
        self.close_account(requester.user_id.clone(), erase).await
    }

    /// The same without a question, on an administrator's word.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn close_account(&self, user: OwnedUserId, erase: bool) -> Result<(), UserError> {
        let closed = user.clone();
        self.database()
            .write("deactivate", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    accounts::by_user(tx, &user)
                        .await?
                        .ok_or_else(no_such_account)?;
                    Ok::<_, UserError>(accounts::close(tx, &user, erase).await?)
                })
            })
            .await?;
        tracing::info!(user = %closed, "deactivated");
        Ok(())
    }
}
