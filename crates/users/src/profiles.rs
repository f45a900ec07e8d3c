//! Profiles. Client-server API, "Profiles"; server-server API, "Querying for information".

use myelin_storage::{Priority, StorageError, profiles};
use ruma::{OwnedUserId, UserId};

use crate::{UserError, Users, error::check_text};

pub use myelin_storage::profiles::Profile;

/// A field of a profile that this server keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileField {
    /// `displayname`
    DisplayName,
    /// `avatar_url`
    AvatarUrl,
}

impl ProfileField {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::DisplayName, Self::AvatarUrl];

    /// The specification's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DisplayName => "displayname",
            Self::AvatarUrl => "avatar_url",
        }
    }

    /// The field of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Its value in a profile.
    #[must_use]
    pub fn of(self, profile: &Profile) -> Option<&str> {
        match self {
            Self::DisplayName => profile.display_name.as_deref(),
            Self::AvatarUrl => profile.avatar_url.as_deref(),
        }
    }
}

impl Users {
    /// The profile of one of this server's users.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn local_profile(&self, user: &UserId) -> Result<Profile, UserError> {
        let user = user.to_owned();
        let found = self.database().read("profile", move |tx| {
            Box::pin(async move { profiles::by_user(tx, &user).await })
        });
        found
            .await?
            .ok_or_else(|| UserError::NotFound("No such user".to_owned()))
    }

    /// The profile of anybody: other servers are asked about their users.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Remote`], [`UserError::Storage`].
    pub async fn profile(&self, user: &UserId) -> Result<Profile, UserError> {
        if user.server_name() == self.server_name() {
            return self.local_profile(user).await;
        }
        let server = user.server_name();
        let answer = self.federation().query_profile(server, user, None).await;
        match answer {
            Ok(answer) => {
                let text =
                    |field: ProfileField| Some(answer.get(field.name())?.as_str()?.to_owned());
                Ok(Profile {
                    display_name: text(ProfileField::DisplayName),
                    avatar_url: text(ProfileField::AvatarUrl),
                })
            }
            Err(error) if error.remote().is_some_and(|remote| remote.status == 404) => {
                Err(UserError::NotFound("No such user".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets a field of one of this server's users, or removes it, notes that the user's rooms have to
    /// be told, and returns the profile as it is then. An empty value removes the field too.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`], [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn set_profile_field(
        &self,
        user: OwnedUserId,
        field: ProfileField,
        value: Option<String>,
    ) -> Result<Profile, UserError> {
        let value = value.filter(|value| !value.is_empty());
        match field {
            ProfileField::DisplayName => check_display_name(value.as_deref())?,
            ProfileField::AvatarUrl => check_text(field.name(), value.as_deref(), 1000)?,
        }
        let changed: Result<_, StorageError> = self
            .database()
            .write("set_profile", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    match field {
                        ProfileField::DisplayName => {
                            profiles::set_display_name(tx, &user, value.as_deref()).await?;
                        }
                        ProfileField::AvatarUrl => {
                            profiles::set_avatar_url(tx, &user, value.as_deref()).await?;
                        }
                    }
                    profiles::note_change(tx, &user).await?;
                    profiles::by_user(tx, &user).await
                })
            })
            .await;
        changed?.ok_or_else(|| UserError::NotFound("No such user".to_owned()))
    }
}

/// A name is at most 256 characters, as on other servers.
pub(crate) fn check_display_name(name: Option<&str>) -> Result<(), UserError> {
    if name.is_some_and(|name| name.chars().count() > 256) {
        let message = "displayname is longer than 256 characters";
        return Err(UserError::InvalidParam(message.to_owned()));
    }
    check_text("displayname", name, 1024)
}
