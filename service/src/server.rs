//! The listening side: takes connections, serves HTTP/1.1 and HTTP/2 on them, and ends gracefully.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long a client may take to send its request head; also how long an idle connection stays.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take for the first bytes.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between looks at a client that has sent a part of [`PREFACE`].
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What HTTP/2 clients begin with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of one HTTP/2 stream, and of all streams of a connection, that a client may send before
/// somebody takes them. A node has its reports and the output of many processes on one connection:
/// streams that nobody reads must not use up what the others need.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Requests that one HTTP/2 connection may have open.
const STREAMS: u32 = 512;
/// Largest request head, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;

/// Serves `router` on `listener` until `stop` is cancelled, then lets open requests end, at most
/// until `hurry` is cancelled.
///
/// At most `connections` are open at once; further ones wait in the system's queue, so that a
/// flood costs no memory.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections: usize,
    stop: CancellationToken,
    hurry: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(connections));
    let graceful = GracefulShutdown::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let Some((socket, place)) = accepted else {
            continue;
        };
        let (router, watcher, stop) = (router.clone(), graceful.watcher(), stop.clone());
        tasks.spawn(async move {
            let speaks = tokio::select! {
                speaks = speaks(&socket) => speaks,
                () = stop.cancelled() => false,
            };
            if speaks {
                serve_one(socket, router, watcher).await;
            }
            drop(place);
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = hurry.cancelled() => tracing::warn!("connections were cut"),
    }
    tasks.shutdown().await;
}

async fn serve_one(socket: TcpStream, router: Router, watcher: Watcher) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(HEAD_TIMEOUT))
        .max_header_list_size(HEAD_LIMIT as u32)
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .max_concurrent_streams(Some(STREAMS));
    let service = TowerToHyperService::new(router);
    let connection = builder
        .serve_connection(TokioIo::new(socket), service)
        .into_owned();
    // Broken connections are the client's business.
    if let Err(error) = watcher.watch(connection).await {
        tracing::trace!(error, "connection ended");
    }
}

/// Waits until a client has said which protocol it speaks, or is not worth waiting for. The
/// library has no time limit for that, so silent clients would keep their places for ever.
async fn speaks(socket: &TcpStream) -> bool {
    let mut start = [0; PREFACE.len()];
    let look = async {
        loop {
            match socket.peek(&mut start).await {
                Ok(0) | Err(_) => return false,
                Ok(n) if n == PREFACE.len() || start[..n] != PREFACE[..n] => return true,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    tokio::time::timeout(FIRST_TIMEOUT, look)
        .await
        .unwrap_or(false)
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => {
            // Events are small and wanted at once.
            let _ = socket.set_nodelay(true);
            Some((socket, place))
        }
        Err(error) => {
            // A client that gave up is no reason to wait; a lack of file descriptors is.
            let gave_up = matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionRefused
            );
            if !gave_up {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_clients_are_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let check = async |sent: &[u8], expect: bool| {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(sent).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            assert_eq!(speaks(&socket).await, expect, "{sent:?}");
        };
        check(b"", false).await;
        check(b"PRI * HTTP/2.0\r\n", false).await;
        check(PREFACE, true).await;
        check(b"G", true).await;
        check(b"PRIX / HTTP/1.1\r\n", true).await;
    }
}
