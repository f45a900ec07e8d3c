//! Identity servers (Identity Service API). It is clients that choose them, so no more is asked of them
//! than what the client wants, and requests go the way of those to other servers, with the same bounds.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Uri};
use myelin_core::third_party::InviteKey;
use percent_encoding::utf8_percent_encode;
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    Federation,
    authority::Authority,
    error::FederationError,
    request::{DEFAULT_TIMEOUT, ESCAPED, KIB},
    transport::Call,
    well_known::HTTPS_PORT,
};

const LARGEST_ANSWER: usize = 256 * KIB;

/// How long a token in an answer may be.
const LONGEST_TOKEN: usize = 255;

/// The only way of asking that doesn't show the address to who doesn't know it.
const HASHED: &str = "sha256";

/// An e-mail address, or something else by which a person is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThirdPartyId {
    /// What the address is: `email`.
    pub medium: String,
    /// The address.
    pub address: String,
}

/// An identity server, asked on behalf of one of our users.
#[derive(Clone)]
pub struct IdentityServer {
    federation: Federation,
    authority: Authority,
    /// The user's token there.
    access_token: String,
}

impl fmt::Debug for IdentityServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "identity server {}", self.authority)
    }
}

/// What is stored with an identity server about an invite, and shown to the invited person.
#[derive(Clone, Debug, Serialize)]
pub struct InviteDetails {
    /// Who is invited.
    #[serde(flatten)]
    pub invitee: ThirdPartyId,
    /// To which room.
    pub room_id: String,
    /// By whom.
    pub sender: String,
    /// What else may be told, as the specification names it: `room_name`, `sender_display_name` and so on.
    #[serde(flatten)]
    pub further: serde_json::Map<String, Value>,
}

/// An invite that waits for whoever proves to own the address.
#[derive(Clone, Debug, Deserialize)]
pub struct StoredInvite {
    /// Its name, and the state key of its event.
    pub token: String,
    /// The keys with which the identity server may sign that the address is somebody's; at least one.
    pub public_keys: Vec<InviteKey>,
    /// What the room is shown of the address.
    pub display_name: String,
}

#[derive(Deserialize)]
struct HashDetails {
    algorithms: Vec<String>,
    lookup_pepper: String,
}

impl Federation {
    /// An identity server by its name: a host, and perhaps a port. Nothing is sent yet.
    ///
    /// # Errors
    /// [`FederationError::Refused`] if that is no such name.
    pub fn identity_server(
        &self,
        name: &str,
        access_token: &str,
    ) -> Result<IdentityServer, FederationError> {
        Ok(IdentityServer {
            federation: self.clone(),
            authority: web_server(name)?,
            access_token: access_token.to_owned(),
        })
    }

    /// `GET` to a `key_validity_url`: whether an identity server still stands by a key.
    ///
    /// # Errors
    /// Any [`FederationError`] but `Backoff` and `Storage`.
    pub async fn is_invite_key_valid(
        &self,
        key_validity_url: &str,
        public_key: &str,
    ) -> Result<bool, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            valid: bool,
        }
        let refused = || FederationError::Refused(format!("not asked: {key_validity_url:?}"));
        let url: Uri = key_validity_url.parse().map_err(|_| refused())?;
        let (Some("https"), Some(authority)) = (url.scheme_str(), url.authority()) else {
            return Err(refused());
        };
        let public_key = utf8_percent_encode(public_key, ESCAPED);
        let separator = if url.query().is_some() { '&' } else { '?' };
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let call = Call {
            endpoint: "invite_key_validity",
            method: Method::GET,
            target: format!("{path}{separator}public_key={public_key}"),
            body: None,
            authorization: None,
            timeout: DEFAULT_TIMEOUT,
        };
        let answer: Answer = self.ask_web(&web_server(authority.as_str())?, call).await?;
        Ok(answer.valid)
    }

    async fn ask_web<T: DeserializeOwned>(
        &self,
        authority: &Authority,
        call: Call,
    ) -> Result<T, FederationError> {
        let body = self.transport().fetch_from(authority, call, LARGEST_ANSWER);
        serde_json::from_slice(&body.await?)
            .map_err(|error| FederationError::InvalidAnswer(error.to_string()))
    }
}

impl IdentityServer {
    /// Whose an address is, as far as this server knows.
    ///
    /// # Errors
    /// Any [`FederationError`] but `Backoff` and `Storage`.
    pub async fn look_up(
        &self,
        sought: &ThirdPartyId,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        match self.look_up_once(sought).await {
            // It was changed between the two requests.
            Err(error)
                if error.remote().is_some_and(|remote| {
                    remote.errcode.as_deref() == Some("M_INVALID_PEPPER")
                }) =>
            {
                self.look_up_once(sought).await
            }
            outcome => outcome,
        }
    }

    async fn look_up_once(
        &self,
        sought: &ThirdPartyId,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            mappings: std::collections::BTreeMap<String, String>,
        }
        let details: HashDetails = self
            .ask("identity_hash_details", Method::GET, "hash_details", None)
            .await?;
        if !details.algorithms.iter().any(|known| known == HASHED) {
            let why = format!("it knows only {:?}", details.algorithms);
            return Err(FederationError::InvalidAnswer(why));
        }
        let hash = hashed(sought, &details.lookup_pepper);
        let body = json!({
            "addresses": [hash], "algorithm": HASHED, "pepper": details.lookup_pepper,
        });
        let answer: Answer = self
            .ask("identity_lookup", Method::POST, "lookup", Some(body))
            .await?;
        let found = answer.mappings.get(&hash).map(UserId::parse).transpose();
        found.map_err(|error| FederationError::InvalidAnswer(error.to_string()))
    }

    /// Stores an invite for whoever proves to own an address, and has that person told.
    ///
    /// # Errors
    /// Any [`FederationError`] but `Backoff` and `Storage`.
    pub async fn store_invite(
        &self,
        invite: &InviteDetails,
    ) -> Result<StoredInvite, FederationError> {
        let invite = json!(invite);
        let stored: StoredInvite = self
            .ask(
                "identity_store_invite",
                Method::POST,
                "store-invite",
                Some(invite),
            )
            .await?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b".=_-".contains(&byte);
        let valid =
            (1..=LONGEST_TOKEN).contains(&stored.token.len()) && stored.token.bytes().all(is_token);
        if !valid || stored.public_keys.is_empty() {
            let why = "an invite without a token or keys".to_owned();
            return Err(FederationError::InvalidAnswer(why));
        }
        Ok(stored)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        endpoint: &'static str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, FederationError> {
        let call = Call {
            endpoint,
            method,
            target: format!("/_matrix/identity/v2/{path}"),
            body: body.map(|body| Bytes::from(body.to_string())),
            authorization: Some(format!("Bearer {}", self.access_token)),
            timeout: DEFAULT_TIMEOUT,
        };
        self.federation.ask_web(&self.authority, call).await
    }
}

/// Where a web server is.
fn web_server(name: &str) -> Result<Authority, FederationError> {
    let refused = || FederationError::Refused(format!("{name:?} is no name of a server"));
    let mut authority = Authority::parse(name).ok_or_else(refused)?;
    authority.port = authority.port.or(Some(HTTPS_PORT));
    Ok(authority)
}

/// What is sent in place of an address (Identity Service API, "Client behaviour" of the association lookup).
fn hashed(sought: &ThirdPartyId, pepper: &str) -> String {
    let ThirdPartyId { medium, address } = sought;
    let address = match medium.as_str() {
        "email" => address.to_lowercase(),
        _ => address.clone(),
    };
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{address} {medium} {pepper}")))
}
