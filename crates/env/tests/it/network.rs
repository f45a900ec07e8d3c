//! Connections.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use myelin_env::{Network, SimulatedNetwork, Stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

#[tokio::test]
async fn a_connection_carries_bytes_in_both_directions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 4];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(&asked).await.unwrap();
    };
    let client = async {
        let mut stream = Network::real().connect(address).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(server, client);
    assert_eq!(answer, "ping");
}

#[tokio::test]
async fn nobody_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert!(Network::real().connect(address).await.is_err());
}

/// Says where it was to connect to, and no more.
struct Refusing;

impl SimulatedNetwork for Refusing {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { Err(io::Error::other(address.to_string())) })
    }
}

#[tokio::test]
async fn a_network_within_the_process_is_asked_in_place_of_the_machines() {
    let network = Network::simulated(Arc::new(Refusing));
    assert!(network.is_within_process() && !Network::real().is_within_process());
    let address = "10.0.0.1:8448".parse().unwrap();
    let refused = network.connect(address).await.err().unwrap();
    assert_eq!(refused.to_string(), "10.0.0.1:8448");
}
