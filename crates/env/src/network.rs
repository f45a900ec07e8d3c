//! Outgoing connections.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A connection: bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where connections come from.
#[derive(Clone, Debug)]
pub struct Network(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Real,
}

impl Network {
    /// The machine's own TCP.
    #[must_use]
    pub fn real() -> Self {
        Self(Kind::Real)
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
        match self.0 {
            Kind::Real => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}
