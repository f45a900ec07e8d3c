//! Asking a policy server (server-server API, "Policy Servers"; MSC4284).

use std::collections::HashMap;

use http::Method;
use myelin_core::policy_server::POLICY_SERVER_KEY;
use ruma::ServerName;
use serde_json::value::RawValue;

use crate::{Federation, error::FederationError, request::Request};

impl Federation {
    /// `POST /_matrix/policy/v1/sign`: a policy server's signature on an event, in base64. Nothing about it
    /// was checked.
    ///
    /// # Errors
    /// Any [`FederationError`]. If the server refuses to sign, it says why.
    pub async fn policy_signature(
        &self,
        server: &ServerName,
        pdu: &RawValue,
    ) -> Result<String, FederationError> {
        let target = "/_matrix/policy/v1/sign".to_owned();
        let request = Request::to(Method::POST, "policy_sign", target).json(pdu)?;
        let mut by_server: HashMap<String, HashMap<String, String>> =
            self.ask(server, request).await?;
        let mut own = by_server.remove(server.as_str()).unwrap_or_default();
        own.remove(POLICY_SERVER_KEY)
            .ok_or_else(|| FederationError::InvalidAnswer("no signature of a policy server".into()))
    }
}
