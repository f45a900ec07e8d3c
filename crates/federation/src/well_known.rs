//! Delegation: `https://<hostname>/.well-known/matrix/server`, step 3 of resolving a server name.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use myelin_env::Env;
use ruma::ServerName;

use crate::{
    authority::{Authority, Host},
    discovery::is_final,
    flight::Flights,
    http_client::{Answer, HttpClient, Outgoing},
    recent::Recent,
};

/// Where web servers are.
pub(crate) const HTTPS_PORT: u16 = 443;

const HOUR: Duration = Duration::from_secs(3600);
/// How long an answer is kept that says nothing about it, and how long at most and at least.
const DEFAULT_PERIOD: Duration = HOUR.saturating_mul(24);
const LONGEST_PERIOD: Duration = HOUR.saturating_mul(48);
const SHORTEST_PERIOD: Duration = Duration::from_secs(300);
/// How long the absence of a delegation is believed.
const ABSENT_PERIOD: Duration = HOUR;
/// How long a failure is believed; doubles up to [`ABSENT_PERIOD`].
const FIRST_FAILURE_PERIOD: Duration = Duration::from_secs(300);

/// For one request; hosts without a web server often drop packets silently.
const TIMEOUT: Duration = Duration::from_secs(6);
const MOST_REDIRECTS: usize = 6;
const LARGEST_ANSWER: usize = 50 * 1024;
/// How many hosts are remembered.
const CAPACITY: usize = 10_000;

/// Asks for delegations and remembers them. Clones share everything.
#[derive(Clone)]
pub(crate) struct WellKnown {
    env: Env,
    http: HttpClient,
    /// Where `.well-known` is: 443.
    port: u16,
    known: Arc<Mutex<Recent<String, Known>>>,
    flights: Flights<String>,
}

/// What is known about a host.
#[derive(Clone, Debug)]
struct Known {
    delegation: Option<Authority>,
    /// When to ask again.
    expires_ms: u64,
    /// When `delegation` was heard.
    heard_ms: u64,
    /// How long the present failure is believed; zero if there is none.
    failure_period: Duration,
}

/// What a host says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Delegation(Authority, Duration),
    /// A definite answer, but no valid delegation.
    Nothing(Duration),
    /// No answer, or one that tells of trouble.
    Failed(String),
}

impl WellKnown {
    pub(crate) fn new(env: Env, http: HttpClient, port: u16) -> Self {
        Self {
            env,
            http,
            port,
            known: Arc::new(Mutex::new(Recent::new(CAPACITY))),
            flights: Flights::default(),
        }
    }

    /// Who answers for `server`: itself, or whom its `.well-known` names.
    pub(crate) async fn delegate(&self, server: &ServerName) -> Authority {
        let authority = Authority::of(server);
        if is_final(server) {
            return authority;
        }
        let Host::Name(host) = &authority.host else {
            return authority;
        };
        let host = host.to_ascii_lowercase();
        if let Some(fresh) = self.fresh(&host) {
            return fresh.unwrap_or(authority);
        }
        let (arrival, landing) = self.flights.join(&host);
        if let Some(landing) = landing {
            let asking = self.clone();
            let host = host.clone();
            // Not in the caller's time: others wait for it too, and the answer is of use later.
            self.env.tasks.spawn("ask .well-known", async move {
                let stopping = asking.env.tasks.stopping();
                let said = stopping.run_until_cancelled(asking.ask(&host)).await;
                if let Some(said) = said {
                    asking.learn(host, said);
                }
                drop(landing);
            });
        }
        arrival.wait().await;
        self.fresh(&host).flatten().unwrap_or(authority)
    }

    /// What is known and need not be asked again: a delegation, or that there is none.
    fn fresh(&self, host: &str) -> Option<Option<Authority>> {
        let now = self.env.clock.now_ms();
        let mut known = self.lock();
        let known = known.get(host).filter(|known| now < known.expires_ms)?;
        Some(known.delegation.clone())
    }

    fn learn(&self, host: String, said: Said) {
        let now = self.env.clock.now_ms();
        let mut all = self.lock();
        let known = match said {
            Said::Delegation(authority, period) => Known {
                delegation: Some(authority),
                expires_ms: now.saturating_add(self.spread(period)),
                heard_ms: now,
                failure_period: Duration::ZERO,
            },
            Said::Nothing(period) => Known {
                delegation: None,
                expires_ms: now.saturating_add(self.spread(period)),
                heard_ms: now,
                failure_period: Duration::ZERO,
            },
            Said::Failed(why) => {
                let before = all.get(&host);
                let period = before.as_ref().map_or(Duration::ZERO, |b| b.failure_period);
                let period = (period * 2).clamp(FIRST_FAILURE_PERIOD, ABSENT_PERIOD);
                tracing::debug!(host, why, ?period, ".well-known failed");
                // A delegation outlives trouble with its host, for as long as the longest
                // that one may be kept at all.
                let before = before
                    .filter(|before| now.saturating_sub(before.heard_ms) < millis(LONGEST_PERIOD));
                Known {
                    delegation: before.as_ref().and_then(|b| b.delegation.clone()),
                    expires_ms: now.saturating_add(self.spread(period)),
                    heard_ms: before.map_or(0, |before| before.heard_ms),
                    failure_period: period,
                }
            }
        };
        all.insert(host, known);
    }

    /// Up to a tenth shorter, so that what was learnt together isn't asked again together.
    fn spread(&self, period: Duration) -> u64 {
        let period = millis(period);
        period - self.env.random.below(period / 10)
    }

    async fn ask(&self, host: &str) -> Said {
        // The port is written out: without one, a server's own default of 8448 would apply.
        let mut authority = Authority {
            host: Host::Name(host.to_owned()),
            port: Some(self.port),
        };
        let mut path = "/.well-known/matrix/server".to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let outgoing = Outgoing::get(&authority, &path)
                .host(host_header(&authority))
                .timeout(TIMEOUT);
            let answer = match self.http.open(outgoing).await {
                Ok(answer) => answer,
                Err(error) => return Said::Failed(error.to_string()),
            };
            if !is_redirect(answer.status) {
                return self.understand(answer).await;
            }
            match redirect(&answer.headers, &authority, &path) {
                Some(next) => (authority, path) = next,
                None => return Said::Nothing(ABSENT_PERIOD),
            }
        }
        Said::Nothing(ABSENT_PERIOD)
    }

    async fn understand(&self, answer: Answer) -> Said {
        let status = answer.status;
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Said::Failed(format!("status {status}"));
        }
        let period = period(&answer.headers, self.env.clock.now_ms());
        let absent = Said::Nothing(period.unwrap_or(ABSENT_PERIOD).min(ABSENT_PERIOD));
        if status != StatusCode::OK {
            return absent;
        }
        match answer.body.collect(LARGEST_ANSWER).await {
            Ok(body) => delegation(&body).map_or(absent, |authority| {
                Said::Delegation(authority, period.unwrap_or(DEFAULT_PERIOD))
            }),
            Err(error) => Said::Failed(error.to_string()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recent<String, Known>> {
        // Whole at every point a panic could strike.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// As a web browser would send it: without the default port.
fn host_header(authority: &Authority) -> String {
    let port = authority.port.filter(|port| *port != HTTPS_PORT);
    let host = authority.host.clone();
    Authority { host, port }.to_string()
}

/// The valid `m.server` of an answer.
fn delegation(body: &Bytes) -> Option<Authority> {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(rename = "m.server")]
        server: String,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    Authority::parse(&document.server)
}

/// How long the headers let an answer be kept, within bounds; `None` if they don't say.
fn period(headers: &HeaderMap, now_ms: u64) -> Option<Duration> {
    let directives = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase());
    let mut max_age = None;
    for directive in directives {
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return Some(SHORTEST_PERIOD);
        }
        let seconds = directive.strip_prefix("max-age=");
        max_age = max_age.or(seconds.and_then(|text| text.trim_matches('"').parse::<u64>().ok()));
    }
    let expires = || {
        let text = headers.get(header::EXPIRES)?.to_str().ok()?;
        // An unreadable date means the past (RFC 9111, 5.3).
        let date = httpdate::parse_http_date(text).ok();
        let since_epoch = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        Some(since_epoch.map_or(0, millis).saturating_sub(now_ms))
    };
    let period = max_age
        .map(Duration::from_secs)
        .or_else(|| expires().map(Duration::from_millis))?;
    Some(period.clamp(SHORTEST_PERIOD, LONGEST_PERIOD))
}

/// Where a redirect leads; `None` if it is no HTTPS address of a host.
fn redirect(headers: &HeaderMap, from: &Authority, path: &str) -> Option<(Authority, String)> {
    let location = headers.get(header::LOCATION)?.to_str().ok()?;
    let location = location.split('#').next().unwrap_or_default();
    let absolute = match location.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => Some(rest),
        // Plain HTTP would let anybody on the way delegate the server.
        Some((scheme, _)) if !scheme.contains(['/', '?']) => return None,
        _ => location.strip_prefix("//"),
    };
    let Some(rest) = absolute else {
        let directory = &path[..=path.rfind('/')?];
        let path = match location.chars().next()? {
            '/' => location.to_owned(),
            _ => format!("{directory}{location}"),
        };
        return Some((from.clone(), path));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let mut authority = Authority::parse(host)?;
    authority.port = authority.port.or(Some(HTTPS_PORT));
    let path = match path.chars().next() {
        Some('/') => path.to_owned(),
        _ => format!("/{path}"),
    };
    Some((authority, path))
}

#[cfg(test)]
mod tests;
