//! Profiles. Client-server API, "Profiles"; server-server API, "Querying for information".

use myelin_storage::{Priority, StorageError, Tx, profiles};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use crate::{UserError, Users, error::check_text};

pub use myelin_storage::profiles::Profile;

/// The most bytes that a field's name has.
const MAX_NAME: usize = 255;

/// The most bytes that a profile has as JSON.
const MAX_PROFILE: usize = 64 * 1024;

/// A field of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileField {
    /// `displayname`
    DisplayName,
    /// `avatar_url`
    AvatarUrl,
    /// Any other.
    Custom(CustomField),
}

/// The name of a field that rooms show nothing of, like `m.tz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomField(String);

/// A profile as others see it: values by the names of the fields.
pub type ProfileFields = Map<String, Value>;

impl ProfileField {
    /// The field of this name.
    ///
    /// # Errors
    /// [`UserError::KeyTooLarge`]; [`UserError::InvalidParam`] if no field can have the name (appendices,
    /// "Common Namespaced Identifier Grammar").
    pub fn from_name(name: &str) -> Result<Self, UserError> {
        match name {
            "displayname" => return Ok(Self::DisplayName),
            "avatar_url" => return Ok(Self::AvatarUrl),
            name if name.len() > MAX_NAME => return Err(UserError::KeyTooLarge),
            _ => {}
        }
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
        if name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(allowed) {
            return Ok(Self::Custom(CustomField(name.to_owned())));
        }
        let why = "The name of a profile field begins with a-z and consists of a-z, 0-9, and . _ -";
        Err(UserError::InvalidParam(why.to_owned()))
    }

    /// The specification's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::DisplayName => "displayname",
            Self::AvatarUrl => "avatar_url",
            Self::Custom(CustomField(name)) => name,
        }
    }

    /// Whether the user's rooms show it too, in the user's membership.
    #[must_use]
    pub fn is_shown_in_rooms(&self) -> bool {
        matches!(self, Self::DisplayName | Self::AvatarUrl)
    }

    /// Refuses what the field cannot hold. `null`, or an empty text, removes a name or a picture; in other
    /// fields both are values.
    pub(crate) fn change(&self, value: Option<Value>) -> Result<Option<Value>, UserError> {
        let text = match (self, value) {
            (_, None) => return Ok(None),
            (Self::DisplayName | Self::AvatarUrl, Some(Value::Null)) => return Ok(None),
            (Self::Custom(CustomField(name)), Some(value)) if name != "m.tz" => {
                return Ok(Some(value));
            }
            (_, Some(Value::String(text))) => text,
            (field, Some(_)) => {
                return Err(UserError::BadJson(format!(
                    "{} is not a string",
                    field.name()
                )));
            }
        };
        match self {
            Self::DisplayName => check_display_name(Some(&text))?,
            Self::AvatarUrl | Self::Custom(_) => check_text(self.name(), Some(&text), 1000)?,
        }
        let removes = text.is_empty() && self.is_shown_in_rooms();
        Ok((!removes).then_some(Value::String(text)))
    }

    /// Writes it down.
    pub(crate) async fn store(
        &self,
        tx: &mut Tx,
        user: &UserId,
        value: Option<&Value>,
    ) -> Result<(), StorageError> {
        let text = value.and_then(Value::as_str);
        match self {
            Self::DisplayName => profiles::set_display_name(tx, user, text).await?,
            Self::AvatarUrl => profiles::set_avatar_url(tx, user, text).await?,
            Self::Custom(CustomField(name)) => {
                let json = value.map(|value| value.to_string().into_bytes());
                return profiles::set_field(tx, user, name, json.as_deref()).await;
            }
        }
        profiles::note_change(tx, user).await
    }
}

impl Users {
    /// What the rooms of one of this server's users show of the user.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn local_profile(&self, user: &UserId) -> Result<Profile, UserError> {
        let user = user.to_owned();
        let found = self.database().look_up("profile", move |tx| {
            Box::pin(async move { profiles::by_user(tx, &user).await })
        });
        found.await?.ok_or_else(no_such_user)
    }

    /// The whole profile of one of this server's users.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn local_profile_fields(&self, user: &UserId) -> Result<ProfileFields, UserError> {
        let user = user.to_owned();
        let found = self.database().read("profile fields", move |tx| {
            Box::pin(async move { whole_profile(tx, &user).await })
        });
        found.await?.ok_or_else(no_such_user)
    }

    /// The whole profile of anybody: other servers are asked about their users.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Remote`], [`UserError::Storage`].
    pub async fn profile(&self, user: &UserId) -> Result<ProfileFields, UserError> {
        if user.server_name() == self.server_name() {
            return self.local_profile_fields(user).await;
        }
        self.remote_profile(user, None).await
    }

    /// One field of anybody's profile; `None` if a user who exists has not set it.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Remote`], [`UserError::Storage`].
    pub async fn profile_field(
        &self,
        user: &UserId,
        field: &ProfileField,
    ) -> Result<Option<Value>, UserError> {
        let mut profile = if user.server_name() == self.server_name() {
            self.local_profile_fields(user).await?
        } else {
            self.remote_profile(user, Some(field)).await?
        };
        Ok(profile.remove(field.name()))
    }

    /// What another server says of its user.
    async fn remote_profile(
        &self,
        user: &UserId,
        field: Option<&ProfileField>,
    ) -> Result<ProfileFields, UserError> {
        let field = field.map(ProfileField::name);
        let asked = self
            .federation()
            .query_profile(user.server_name(), user, field);
        match asked.await {
            Ok(mut profile) => {
                // Names that clients could not ask for are of no use to them, and these two are texts.
                profile.retain(|name, value| match ProfileField::from_name(name) {
                    Ok(ProfileField::Custom(_)) => true,
                    Ok(_) => value.is_string(),
                    Err(_) => false,
                });
                Ok(profile)
            }
            Err(error) if error.remote().is_some_and(|remote| remote.status == 404) => {
                Err(no_such_user())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets a field of one of this server's users, or removes it, and notes that the user's rooms have to be
    /// told if they show it.
    ///
    /// # Errors
    /// [`UserError::BadJson`], [`UserError::InvalidParam`], [`UserError::ProfileTooLarge`],
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn set_profile_field(
        &self,
        user: OwnedUserId,
        field: ProfileField,
        value: Option<Value>,
    ) -> Result<(), UserError> {
        let value = field.change(value)?;
        self.database()
            .write("set_profile", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    field.store(tx, &user, value.as_ref()).await?;
                    let profile = whole_profile(tx, &user).await?.ok_or_else(no_such_user)?;
                    // Who removes something must not be hindered by what is left.
                    if value.is_some() && Value::Object(profile).to_string().len() > MAX_PROFILE {
                        return Err(UserError::ProfileTooLarge);
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// All fields of a user of this server; `None` if there is no such user.
async fn whole_profile(tx: &mut Tx, user: &UserId) -> Result<Option<ProfileFields>, StorageError> {
    let Some(profile) = profiles::by_user(tx, user).await? else {
        return Ok(None);
    };
    let mut fields = shown_in_rooms(&profile);
    for (name, json) in profiles::fields(tx, user).await? {
        let value = serde_json::from_slice(&json)
            .map_err(|error| StorageError::Bug(format!("profile field {name}: {error}")))?;
        fields.insert(name, value);
    }
    Ok(Some(fields))
}

/// What memberships show of a profile, under the names of the fields.
#[must_use]
pub fn shown_in_rooms(profile: &Profile) -> ProfileFields {
    let fields = [
        (ProfileField::DisplayName, &profile.display_name),
        (ProfileField::AvatarUrl, &profile.avatar_url),
    ];
    let set = |(field, value): (ProfileField, &Option<String>)| {
        Some((field.name().to_owned(), value.clone()?.into()))
    };
    fields.into_iter().filter_map(set).collect()
}

fn no_such_user() -> UserError {
    UserError::NotFound("No such user".to_owned())
}

/// A name is at most 256 characters, as on other servers.
pub(crate) fn check_display_name(name: Option<&str>) -> Result<(), UserError> {
    if name.is_some_and(|name| name.chars().count() > 256) {
        let message = "displayname is longer than 256 characters";
        return Err(UserError::InvalidParam(message.to_owned()));
    }
    check_text("displayname", name, 1024)
}
