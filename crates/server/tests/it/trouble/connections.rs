//! Connections that are held for nothing: they are given up, and others are answered meanwhile.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use myelin_env::{Clock, Env};
use myelin_storage::testing::Loss;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::ca::Ca;
use crate::client::Client;
use crate::machine::{Life, Machine};

/// How many connections are held.
const HELD: usize = 200;

/// By then who has not said enough is given up, and who reads nothing.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the test waits for anything, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Openings that nothing comes after.
const OPENINGS: [&[u8]; 4] = [
    b"",
    b"P",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
    b"GET / HTTP/1.1\r\n",
];

/// A server whose time stands still, and its clock.
async fn started() -> (Machine, Life, Clock) {
    let machine = Machine::new("held.test", &Ca::generate(), None, Loss::Everything).await;
    let env = Env::manual(Clock::real().now_ms(), 1);
    let clock = env.clock.clone();
    let life = machine.start_in(env).await.unwrap();
    (machine, life, clock)
}

async fn within_patience<T>(event: impl Future<Output = T>) -> T {
    let happened = tokio::time::timeout(PATIENCE, event).await;
    happened.expect("it happens in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_not_begin_to_speak_are_given_up_and_others_are_answered() {
    let (_machine, life, clock) = started().await;
    let mut held = Vec::new();
    for number in 0..HELD {
        let mut stream = TcpStream::connect(life.address()).await.unwrap();
        let opening = OPENINGS[number % OPENINGS.len()];
        stream.write_all(opening).await.unwrap();
        held.push(stream);
    }
    within_patience(Client::register(life.address(), "alice")).await;
    let ended = within_patience(async {
        for mut stream in held {
            let mut buffer = [0; 1024];
            let mut read = std::pin::pin!(stream.read(&mut buffer));
            // Connections that were accepted last have their deadline later.
            loop {
                tokio::select! {
                    biased;
                    read = &mut read => break drop(read),
                    () = tokio::task::yield_now() => clock.advance(OPENING_TIMEOUT),
                }
            }
        }
    });
    ended.await;
    life.stop().await;
}

/// Asks for as much as the connection takes, and reads nothing of it, until it breaks.
async fn ask_until_broken(address: SocketAddr, clock: &Clock) -> io::Error {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let request = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: held.test\r\n\r\n".repeat(100);
    loop {
        match stream.try_write(&request) {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => clock.advance(UNREAD_TIMEOUT),
            Err(broken) => return broken,
            Ok(_) => {}
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_no_answer_is_read_is_given_up() {
    let (_machine, life, clock) = started().await;
    let broken = within_patience(ask_until_broken(life.address(), &clock)).await;
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&broken.kind()), "{broken}");
    life.stop().await;
}
