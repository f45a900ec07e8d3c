//! The only outbound connections: finding other servers, requests to them signed and bounded, their
//! keys, and the memory of which of them fail. Also who sent the requests that come in, because
//! that takes the same keys.
//!
//! ```text
//! Federation ─ membership, events, queries, transactions      the endpoints, typed
//!    │ request          sign (x_matrix), leave failing servers alone (destinations)
//!    ▼
//! Transport ─ well_known   who answers for a name
//!    ▼                  (identity servers are web servers: nothing answers for their names)
//! HttpClient ─ Connector ─ discovery (DNS), address policy, TLS
//! ```
//!
//! Nothing here knows what a room is: events go through as JSON.

mod address;
mod attempts;
mod authentication;
mod authority;
mod beside;
mod canonical;
mod connector;
mod destinations;
mod discovery;
mod error;
mod events;
mod federation;
mod flight;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http_client;
mod identity;
mod key_document;
mod key_fetch;
mod key_file;
mod key_ring;
mod membership;
mod notary;
mod pdu_stream;
mod policy_server;
mod pool_timer;
mod queries;
mod recent;
mod request;
mod resolver;
mod signing_keys;
mod spaces;
mod splitter;
#[cfg(test)]
mod testing;
mod tls;
mod transactions;
mod transport;
mod well_known;
mod x_matrix;

pub use address::AddressPolicy;
pub use authentication::AuthError;
pub use beside::send_beside;
pub use destinations::{Urgency, Waits};
pub use error::{FederationError, RemoteError, SetupError};
pub use events::{EventAtTime, MissingEvents, StateIds};
pub use federation::{Federation, FederationConfig};
pub use identity::{IdentityServer, InviteDetails, StoredInvite, ThirdPartyId};
pub use key_file::KeyFileError;
pub use key_ring::{KeyNeed, KeyRing};
pub use membership::{Invite, Template, ThirdPartyInvite};
pub use notary::{KeyCriterion, KeyQuery, Notary};
pub use pdu_stream::{
    PduList, PduStream, SendJoinAnswer, SendJoinRest, SendJoinStream, StateAnswer, StreamedPdu,
};
pub use queries::{Directory, RemoteDirectory, ServerSoftware, UserDevices};
pub use resolver::{ResolveError, Resolver, Service, SystemResolver};
pub use signing_keys::{OldKey, SigningKeys};
pub use spaces::RemoteHierarchy;
pub use transactions::{
    Edu, MOST_EDUS, MOST_PDUS, ReceivedTransaction, Transaction, TransactionAnswer,
    TransactionError,
};
