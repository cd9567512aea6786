//! The listening side: takes connections, serves HTTP/1.1 and HTTP/2 on them, with TLS when it is set, and ends gracefully.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Uri};
use axum::{Extension, Router};
use chalk_core::wire::problem;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::http::{ApiError, Peer};
use crate::tls::{self, OverTls, Tls};

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
    tls: Option<Arc<Tls>>,
    connections: usize,
    stop: CancellationToken,
    hurry: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(connections));
    let graceful = GracefulShutdown::new();
    let routers = Arc::new(Routers {
        secure: router.clone().layer(Extension(OverTls)),
        refusal: Router::new().fallback(plain_is_refused),
        plain: router,
        tls,
    });
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
        let (routers, watcher, stop) = (routers.clone(), graceful.watcher(), stop.clone());
        tasks.spawn(async move {
            let speaks = tokio::select! {
                speaks = speaks(&socket) => speaks,
                () = stop.cancelled() => None,
            };
            let Ok(peer) = socket.peer_addr() else {
                return;
            };
            match (speaks, &routers.tls) {
                (None, _) => {}
                (Some(Speaks::Tls), Some(tls)) => {
                    let shaken = tokio::select! {
                        shaken = timeout(FIRST_TIMEOUT, tls.acceptor().accept(socket)) => shaken,
                        () = stop.cancelled() => return,
                    };
                    if let Ok(Ok(socket)) = shaken {
                        serve_one(socket, peer, routers.secure.clone(), watcher).await;
                    }
                }
                // Whoever speaks TLS where there is none hears HTTP's complaint.
                (Some(_), tls) => {
                    let far = tls.is_some() && !is_near(&socket);
                    let router = if far {
                        &routers.refusal
                    } else {
                        &routers.plain
                    };
                    serve_one(socket, peer, router.clone(), watcher).await;
                }
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

/// What connections of each kind are given.
struct Routers {
    plain: Router,
    secure: Router,
    refusal: Router,
    tls: Option<Arc<Tls>>,
}

async fn plain_is_refused() -> ApiError {
    ApiError::new(
        problem::FORBIDDEN,
        403,
        "the connection is not encrypted",
        "the service has a certificate, and takes plain connections from its own host only",
        "use https://",
    )
}

fn is_near(socket: &TcpStream) -> bool {
    match (socket.peer_addr(), socket.local_addr()) {
        (Ok(peer), Ok(own)) => tls::is_near(peer, own),
        _ => false,
    }
}

async fn serve_one(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    watcher: Watcher,
) {
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
    let service = TowerToHyperService::new(router.map_request(move |request| {
        let mut request = with_one_slash(request);
        request.extensions_mut().insert(Peer(peer));
        request
    }));
    let connection = builder
        .serve_connection(TokioIo::new(socket), service)
        .into_owned();
    // Broken connections are the client's business.
    if let Err(error) = watcher.watch(connection).await {
        tracing::trace!(error, "connection ended");
    }
}

/// Takes `//path` for `/path`: what becomes of an address with a slash at its end, which clients put
/// their paths behind as it is.
fn with_one_slash<B>(mut request: Request<B>) -> Request<B> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str());
    if path.starts_with("//") {
        let path = format!("/{}", path.trim_start_matches('/'));
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = path.parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Plain,
    Tls,
}

/// Waits until a client has said which protocol it speaks, or is not worth waiting for. The
/// library has no time limit for that, so silent clients would keep their places for ever.
async fn speaks(socket: &TcpStream) -> Option<Speaks> {
    let mut start = [0; PREFACE.len()];
    let look = async {
        loop {
            match socket.peek(&mut start).await {
                Ok(0) | Err(_) => return None,
                Ok(_) if start[0] == tls::HANDSHAKE => return Some(Speaks::Tls),
                Ok(n) if n == PREFACE.len() || start[..n] != PREFACE[..n] => {
                    return Some(Speaks::Plain);
                }
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    timeout(FIRST_TIMEOUT, look).await.ok().flatten()
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
        let check = async |sent: &[u8], expect: Option<Speaks>| {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(sent).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            assert_eq!(speaks(&socket).await, expect, "{sent:?}");
        };
        check(b"", None).await;
        check(b"PRI * HTTP/2.0\r\n", None).await;
        check(PREFACE, Some(Speaks::Plain)).await;
        check(b"G", Some(Speaks::Plain)).await;
        check(b"PRIX / HTTP/1.1\r\n", Some(Speaks::Plain)).await;
        check(&[22, 3, 1], Some(Speaks::Tls)).await;
    }
}
