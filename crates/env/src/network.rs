//! Outgoing connections.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A connection: bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A network that exists in this process only.
pub trait SimulatedNetwork: Send + Sync {
    /// Opens a connection.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// Where connections come from.
#[derive(Clone, Debug)]
pub struct Network(Kind);

#[derive(Clone)]
enum Kind {
    Real,
    Simulated(Arc<dyn SimulatedNetwork>),
}

impl Network {
    /// The machine's own TCP.
    #[must_use]
    pub fn real() -> Self {
        Self(Kind::Real)
    }

    /// A network within this process.
    #[must_use]
    pub fn simulated(network: Arc<dyn SimulatedNetwork>) -> Self {
        Self(Kind::Simulated(network))
    }

    /// Whether nobody else can listen or answer, since nothing leaves this process. Such connections are
    /// not encrypted: the random numbers of TLS are its own, and would differ each time.
    #[must_use]
    pub fn is_within_process(&self) -> bool {
        matches!(self.0, Kind::Simulated(_))
    }

    /// Opens a connection. Small writes are sent at once. There is no limit of time: use
    /// [`Clock::timeout`](crate::Clock::timeout).
    ///
    /// # Errors
    /// Whatever the network says.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where ambient connections enter"
    )]
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        match &self.0 {
            Kind::Real => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Kind::Simulated(network) => network.connect(address).await,
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Real => "Real",
            Self::Simulated(_) => "Simulated",
        })
    }
}
