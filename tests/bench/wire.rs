//! A client that costs as little as possible, so that servers are measured and not it: HTTP/1.1 over
//! one kept connection, one request after the other.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::row::{Times, milliseconds};

/// A connection.
pub(crate) struct Connection {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Value of `Location`, if there is one.
    pub(crate) location: Option<String>,
    /// What the server says that it took, in milliseconds (`Server-Timing`).
    pub(crate) server: Option<f64>,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            host: address.to_owned(),
            buffer: Vec::with_capacity(64 << 10),
        }
    }

    /// Sends a request and reads the answer. `headers` are lines that end by CR LF.
    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let (host, length) = (&self.host, body.len());
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n{headers}\r\n"
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).unwrap();
        self.answer(method == "HEAD")
    }

    fn answer(&mut self, head: bool) -> Answer {
        self.buffer.clear();
        let end = loop {
            let at = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(at) = at {
                break at + 4;
            }
            self.read();
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|word| word.parse().ok());
        let (mut length, mut location, mut server) = (0, None, None);
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            } else if name.eq_ignore_ascii_case("location") {
                location = Some(value.trim().to_owned());
            } else if name.eq_ignore_ascii_case("server-timing") {
                let milliseconds = value.split_once("dur=").map(|(_, dur)| dur.trim());
                server = milliseconds.and_then(|dur| dur.parse().ok());
            }
            assert!(!name.eq_ignore_ascii_case("transfer-encoding"), "{text}");
        }
        let whole = if head { end } else { end + length };
        while self.buffer.len() < whole {
            self.read();
        }
        Answer {
            status: status.unwrap_or_else(|| panic!("no answer: {text}")),
            location,
            server,
            body: self.buffer[end..whole].to_vec(),
        }
    }

    fn read(&mut self) {
        let mut piece = [0; 16 << 10];
        let read = self.stream.read(&mut piece).unwrap();
        assert!(read > 0, "the server hung up");
        self.buffer.extend_from_slice(&piece[..read]);
    }
}

/// What many requests took.
pub(crate) struct Load {
    /// Of each request.
    pub(crate) times: Times,
    /// Of all, in seconds.
    pub(crate) seconds: f64,
}

/// Does `count` pieces of work on as many connections as told, each with one under way at any time.
/// `work` is given its connection and number.
pub(crate) fn load(
    address: &str,
    connections: usize,
    count: usize,
    work: impl Fn(&mut Connection, usize) + Sync,
) -> Load {
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    let mut open: Vec<Connection> = (0..connections)
        .map(|_| Connection::open(address))
        .collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for connection in &mut open {
            scope.spawn(|| {
                let mut own = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let start = Instant::now();
                    work(connection, number);
                    own.push(milliseconds(start.elapsed()));
                }
                times.lock().unwrap().extend(own);
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    Load {
        times: Times::of(times.into_inner().unwrap()),
        seconds,
    }
}
