//! A network that tears and stalls, between the clients and the service.

use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::chance;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// Bytes to the service, then from it, after which it tears.
    limits: [usize; 2],
    /// How long each piece waits.
    pause: Duration,
}

impl Fate {
    fn draw(rng: &mut StdRng) -> Self {
        let mut limit = || match rng.random_range(0..4) {
            0 => chance::spread(rng, 20.0, 400_000.0) as usize,
            _ => usize::MAX,
        };
        let limits = [limit(), limit()];
        let pause = match rng.random_range(0..4) {
            0 => Duration::from_millis(rng.random_range(1..15)),
            _ => Duration::ZERO,
        };
        Self { limits, pause }
    }
}

/// A listener that passes on to `to`; ends when the handle is aborted.
pub(crate) async fn start(seed: u64, to: SocketAddr) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("a port"));
    let task = tokio::spawn(async move {
        let mut number = 0_u64;
        while let Ok((client, _)) = listener.accept().await {
            let fate = Fate::draw(&mut chance::of(seed, format!("connection {number}")));
            number += 1;
            tokio::spawn(async move {
                if let Ok(server) = TcpStream::connect(to).await {
                    carry(client, server, fate).await;
                }
            });
        }
    });
    (url, task)
}

async fn carry(client: TcpStream, server: TcpStream, fate: Fate) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let [up, down] = fate.limits;
    // Whichever way ends first takes the other along.
    tokio::select! {
        () = pass(from_client, to_server, up, fate.pause) => {}
        () = pass(from_server, to_client, down, fate.pause) => {}
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut limit: usize,
    pause: Duration,
) {
    let mut buffer = vec![0; 16 * 1024];
    while limit > 0 {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let count = count.min(limit);
        limit -= count;
        tokio::time::sleep(pause).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
