//! The listening side: takes connections, serves HTTP/1.1 and HTTP/2 on them, and ends gracefully.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a client may take to send its request head; also how long an idle connection stays.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
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
            .max_concurrent_streams(Some(256));
        let service = TowerToHyperService::new(router.clone());
        let connection = builder
            .serve_connection(TokioIo::new(socket), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tasks.spawn(async move {
            // Broken connections are the client's business.
            if let Err(error) = connection.await {
                tracing::trace!(error, "connection ended");
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

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
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
