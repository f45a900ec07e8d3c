//! Tests of the API: requests to the router of a whole server without ports, on each database engine.

mod accounts;
mod directory;
mod edus;
mod errors;
mod federation;
mod handshakes;
mod invitations;
mod rooms;
mod spaces;
mod upgrades;

use std::sync::Arc;

use axum::{Router, body::Body, extract::Request, response::Response};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt as _;
use myelin_api::{Api, ApiConfig, ApiParts, router};
use myelin_core::room_version::RoomVersion;
use myelin_federation::{Federation, FederationConfig, SigningKeys};
use myelin_rooms::{Rooms, RoomsConfig};
use myelin_storage::testing::Fresh;
use myelin_sync::Sync;
use myelin_users::{NewAccount, NewDevice, Users, UsersConfig};
use ruma::server_name;
use serde_json::Value;
use tower::ServiceExt as _;

/// A server without ports.
struct Site {
    router: Router,
    users: Users,
    keys: Arc<SigningKeys>,
}

impl Site {
    /// `example.org`, where anybody may register and publish rooms.
    async fn start(fresh: &Fresh) -> Self {
        Self::start_with(fresh, true).await
    }

    async fn start_with(fresh: &Fresh, allow_publishing: bool) -> Self {
        // A failing test shows what was logged; the second test of a process finds it installed.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let server_name = server_name!("example.org").to_owned();
        let keys = SigningKeys::generate(server_name.clone(), &fresh.env.random);
        let keys = Arc::new(keys);
        let (env, database) = (fresh.env.clone(), fresh.database.clone());
        let federation = Federation::new(
            FederationConfig::default(),
            env.clone(),
            database.clone(),
            Arc::clone(&keys),
        )
        .unwrap();
        let users = UsersConfig {
            server_name: server_name.clone(),
            registration_enabled: true,
            shared_secret: None,
        };
        let users = Users::open(users, env.clone(), database.clone(), federation.clone());
        let users = users.await.unwrap();
        let rooms = RoomsConfig {
            server_name,
            default_room_version: RoomVersion::V12,
            allow_publishing,
        };
        let rooms = Rooms::start(rooms, env.clone(), database, federation.clone());
        let rooms = rooms.await.unwrap();
        let api = Api::new(ApiParts {
            config: ApiConfig {
                default_room_version: RoomVersion::V12,
                public_base_url: Some("https://matrix.example.org".to_owned()),
                metrics: None,
            },
            env,
            users: users.clone(),
            sync: Sync::new(rooms.clone(), users.clone()),
            rooms,
            federation,
        });
        Self {
            router: router(&api, true, true),
            users,
            keys,
        }
    }

    /// A new user's access token.
    async fn token(&self, username: &str) -> String {
        let account = NewAccount {
            username: username.to_owned(),
            password: Some("secret".to_owned()),
            ..NewAccount::default()
        };
        let user_id = self.users.create_account(account).await.unwrap();
        let device = NewDevice {
            device_id: Some("PHONE".to_owned()),
            display_name: None,
        };
        self.users
            .start_session(user_id, device)
            .await
            .unwrap()
            .access_token
    }

    /// Sends a request with a JSON body.
    async fn call(
        &self,
        method: Method,
        target: &str,
        token: Option<&str>,
        body: Value,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        read(self.send(request.body(body).unwrap()).await).await
    }

    /// Sends any request.
    async fn send(&self, request: Request) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }
}

/// The status and the JSON of an answer.
async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&body).unwrap_or_else(|_| {
        panic!("not JSON: {status} {:?}", String::from_utf8_lossy(&body));
    });
    (status, json)
}
