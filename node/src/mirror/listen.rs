//! The listening side of the mirror: takes so many connections and no more, and ends those on which
//! nothing moves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

/// Largest request head, in bytes.
const HEAD_LIMIT: usize = 16 << 10;
/// Pause when the system has no more descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(200);

/// What clients of the mirror may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections that are open at once; further ones wait in the system's queue.
    pub connections: usize,
    /// Time for a request head, which is also how long a connection may wait for the next one.
    pub head: Duration,
    /// Time for which a client may take no byte of what is sent to it.
    pub sending: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(60),
            sending: Duration::from_secs(60),
        }
    }
}

/// Serves until it is dropped, which ends every connection.
pub(crate) async fn serve(listener: TcpListener, router: Router, bounds: Bounds) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut open = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        while open.try_join_next().is_some() {}
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                if !gave_up(&error) {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
                continue;
            }
        };
        let router = router.clone();
        open.spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.head)
                .max_buf_size(HEAD_LIMIT);
            let socket = TokioIo::new(Moving::new(socket, bounds.sending));
            let connection = builder.serve_connection(socket, TowerToHyperService::new(router));
            // Broken connections are the client's business.
            if let Err(error) = connection.await {
                tracing::trace!(error, "connection ended");
            }
            drop(place);
        });
    }
}

/// Whether a connection ended before it was taken; that is no reason to wait.
fn gave_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// A connection that breaks when what is written is not taken for too long.
struct Moving<S> {
    socket: S,
    longest: Duration,
    /// Runs while a write waits.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Moving<S> {
    fn new(socket: S, longest: Duration) -> Self {
        Self {
            socket,
            longest,
            limit: None,
        }
    }

    /// Gives what a write came to, or that it waits for too long.
    fn within<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.limit = None;
            return written;
        }
        let deadline = Instant::now() + self.longest;
        let limit = self
            .limit
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(limit.as_mut().poll(context));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the reader stopped reading");
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Moving<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Moving<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.within(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.within(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        self.within(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(context);
        self.within(context, shut)
    }
}
