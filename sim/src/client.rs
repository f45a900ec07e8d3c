//! Users and their clients: requests over the simulated network, repeated until they are answered.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use myelin_env::{Clock, SimulatedNetwork as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{machine::Machine, network::Fabric};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long it waits before it asks again.
const PAUSE: Duration = Duration::from_millis(700);

/// How often it asks.
const ATTEMPTS: u32 = 60;

/// A user with a session.
#[derive(Clone)]
pub struct Client {
    /// Their ID.
    pub user_id: String,
    /// The number of their server.
    pub server: usize,
    address: SocketAddr,
    from: IpAddr,
    token: Arc<str>,
    fabric: Fabric,
    clock: Clock,
}

/// A status and a body.
pub type Answer = (u16, Value);

/// Percent-encodes one segment of a path, or one value of a query.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Client {
    /// Registers the `number`th user of a machine, the `server`th one.
    ///
    /// # Errors
    /// What the server said instead.
    pub async fn register(
        (server, machine): (usize, &Machine),
        number: u8,
        (fabric, clock): (&Fabric, &Clock),
    ) -> Result<Self, String> {
        let octet = u8::try_from(server).unwrap_or(u8::MAX);
        let mut client = Self {
            user_id: String::new(),
            server,
            address: (machine.address(), 8448).into(),
            from: Ipv4Addr::new(10, 1, octet, number).into(),
            token: "".into(),
            fabric: fabric.clone(),
            clock: clock.clone(),
        };
        let wish = json!({
            "username": format!("u{number}"),
            "device_id": "D",
            "auth": { "type": "m.login.dummy" },
        });
        let path = "/_matrix/client/v3/register";
        let (status, answer) = client.insist("POST", path, Some(&wish)).await?;
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        client.user_id = text("user_id");
        client.token = text("access_token").into();
        if status == 200 {
            Ok(client)
        } else {
            Err(format!("registration: {status} {answer}"))
        }
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// If there is none for too long.
    pub async fn insist(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        for _ in 0..ATTEMPTS {
            match self.ask(method, path, body).await {
                // The server is there and says that it can't.
                Some((status, _)) if status >= 500 => {}
                Some(answer) => return Ok(answer),
                None => {}
            }
            self.pause().await;
        }
        Err(format!("{} got no answer to {method} {path}", self.user_id))
    }

    /// Waits a moment before asking again.
    pub async fn pause(&self) {
        self.clock.sleep(PAUSE).await;
    }

    /// Asks once; `None` if the connection failed or nothing came in time.
    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let exchange = self.exchange(method, path, body);
        self.clock.timeout(PATIENCE, exchange).await.ok()?
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let stream = self
            .fabric
            .from(self.from)
            .connect(self.address)
            .await
            .ok()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string());
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        let request = request.body(Full::new(Bytes::from(body))).ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let answering = async {
            let answer = sender.send_request(request).await.ok()?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            Some((status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        let mut answering = Box::pin(answering);
        tokio::select! {
            biased;
            answer = &mut answering => answer,
            // The server may close right after its answer, which is then still to be read.
            _ = connection => answering.await,
        }
    }
}
