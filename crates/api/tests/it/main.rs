//! Tests of the API: requests to the router of a whole server without ports, on each database engine.

mod account_data;
mod account_management;
mod accounts;
mod administration;
mod bad_input;
mod directory;
mod edus;
mod errors;
mod federation;
mod forgeries;
mod guests;
mod handshakes;
mod invitations;
mod memberships;
mod notifications;
mod peer;
mod presence;
mod push_rules;
mod rate_limits;
mod relations;
mod reports;
mod rooms;
mod search;
mod server_keys;
mod sessions;
mod slow_requests;
mod spaces;
mod specification;
mod third_party_invites;
mod upgrades;
mod wrong_events;

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Body, extract::Request, response::Response};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt as _;
use myelin_api::{Api, ApiConfig, ApiParts, router};
use myelin_core::room_version::RoomVersion;
use myelin_federation::{Federation, FederationConfig, SigningKeys};
use myelin_rooms::{Rooms, RoomsConfig};
use myelin_storage::{DatabaseUrl, Row, StorageError, Tx, params, testing::Fresh};
use myelin_sync::Sync;
use myelin_users::{NewAccount, NewDevice, Users, UsersConfig};
use ruma::server_name;
use serde_json::Value;
use tower::ServiceExt as _;

/// A server without ports.
struct Site {
    router: Router,
    users: Users,
    rooms: Rooms,
    keys: Arc<SigningKeys>,
    fresh: Fresh,
}

impl Site {
    /// `example.org`, where anybody may register and publish rooms.
    async fn start(fresh: &Fresh) -> Self {
        Self::start_with(fresh, |_, _| ()).await
    }

    async fn start_with(
        fresh: &Fresh,
        decide: impl FnOnce(&mut RoomsConfig, &mut UsersConfig),
    ) -> Self {
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
        let mut users = UsersConfig {
            server_name: server_name.clone(),
            registration_enabled: true,
            guests: false,
            shared_secret: None,
            quotas: None,
        };
        let mut rooms = RoomsConfig {
            server_name,
            default_room_version: RoomVersion::V12,
            allow_publishing: true,
            presence: true,
        };
        decide(&mut rooms, &mut users);
        let users = Users::open(users, env.clone(), database.clone(), federation.clone());
        let users = users.await.unwrap();
        let rooms = Rooms::start(rooms, env.clone(), database, federation.clone());
        let rooms = rooms.await.unwrap();
        let api = Api::new(ApiParts {
            config: ApiConfig {
                default_room_version: RoomVersion::V12,
                public_base_url: Some("https://matrix.example.org".to_owned()),
                metrics: None,
                trusted_proxies: Vec::new(),
            },
            env,
            users: users.clone(),
            sync: Sync::new(rooms.clone(), users.clone()),
            rooms: rooms.clone(),
            federation,
        });
        Self {
            router: router(&api, true, true),
            users,
            rooms,
            keys,
            fresh: fresh.clone(),
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
            ..NewDevice::default()
        };
        self.users
            .start_session(user_id, device)
            .await
            .unwrap()
            .access_token
    }

    /// A new administrator's access token.
    async fn admin(&self, username: &str) -> String {
        let account = NewAccount {
            username: username.to_owned(),
            password: Some("secret".to_owned()),
            admin: true,
            ..NewAccount::default()
        };
        let user_id = self.users.create_account(account).await.unwrap();
        let session = self.users.start_session(user_id, NewDevice::default());
        session.await.unwrap().access_token
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

    /// Everything that is stored but what goes on by itself: the rows of each table.
    async fn stored(&self) -> BTreeMap<String, Vec<String>> {
        let is_sqlite = matches!(self.fresh.url, DatabaseUrl::Sqlite { .. });
        let read = self.fresh.database.read("everything", move |tx| {
            Box::pin(async move {
                let mut tables = BTreeMap::new();
                for table in texts(
                    tx,
                    if is_sqlite {
                        SQLITE_TABLES
                    } else {
                        POSTGRES_TABLES
                    },
                )
                .await?
                {
                    if !PROGRESS.contains(&&*table)
                        && !INDEXES.iter().any(|name| table.starts_with(name))
                    {
                        let rows = match is_sqlite {
                            true => sqlite_rows(tx, &table).await?,
                            false => {
                                let [seen, agent, address] = USE;
                                let row = format!(
                                    "(to_jsonb(t) - '{seen}' - '{agent}' - '{address}')::text"
                                );
                                texts(tx, &format!("SELECT {row} FROM {table} t ORDER BY 1"))
                                    .await?
                            }
                        };
                        tables.insert(table, rows);
                    }
                }
                Ok(tables)
            })
        });
        read.await.unwrap()
    }

    /// Sends any request. The answer is one that the specification allows.
    async fn send(&self, request: Request) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if let Ok(answer) = serde_json::from_slice(&body) {
            specification::check(&method, &path, head.status, &answer);
        }
        Response::from_parts(head, Body::from(body))
    }
}

/// What the tables say of the way to other servers, and of how far they have got.
const PROGRESS: [&str; 4] = ["destinations", "settings", "outbox", "delivery_cursors"];

/// How the tables begin that follow what is stored, in the background.
const INDEXES: [&str; 2] = ["search_", "directory_"];

/// What is written down of a device's use, whenever that is convenient.
const USE: [&str; 3] = ["last_seen_ms", "user_agent", "last_seen_ip"];

const SQLITE_TABLES: &str = "SELECT name FROM sqlite_master WHERE type = 'table'";
const POSTGRES_TABLES: &str = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";

/// The first column of all rows.
async fn texts(tx: &mut Tx, sql: &str) -> Result<Vec<String>, StorageError> {
    let rows = tx.query(sql, params![]).await?;
    let text = |row: &Row| Ok(row.text(0)?.to_owned());
    rows.iter().map(text).collect()
}

async fn sqlite_rows(tx: &mut Tx, table: &str) -> Result<Vec<String>, StorageError> {
    let columns = texts(
        tx,
        &format!("SELECT name FROM pragma_table_info('{table}')"),
    )
    .await?;
    let quoted: Vec<_> = columns
        .iter()
        .filter(|column| !USE.contains(&&***column))
        .map(|column| format!("quote({column})"))
        .collect();
    let row = quoted.join(" || ',' || ");
    texts(tx, &format!("SELECT {row} FROM {table} ORDER BY 1")).await
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
