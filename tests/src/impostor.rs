//! A registry mirror that does not do what it should.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::distribution::own_loopback;

/// How a mirror is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bytes in the middle of each blob are others.
    WrongBytes,
    /// Half of each blob comes; then the connection ends.
    EndsEarly,
    /// Half of each blob comes; then nothing more, over an open connection.
    Stalls,
    /// A few bytes come now and then, so that it never stalls and never ends.
    Trickles,
}

/// A server of the blobs of a directory `blobs/sha256`, with a fault. Ends when it is dropped.
#[derive(Debug)]
pub struct Impostor {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Shared {
    blobs: PathBuf,
    fault: Fault,
    asked: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
}

impl Impostor {
    /// Starts a server of an OCI layout's blobs.
    #[track_caller]
    pub fn start(layout: &std::path::Path, fault: Fault) -> Self {
        let listener = TcpListener::bind((own_loopback(), 0)).expect("an address of loopback");
        let address = listener.local_addr().expect("bound");
        let shared = Shared {
            blobs: layout.join("blobs/sha256"),
            fault,
            asked: Arc::default(),
            ends: Arc::default(),
        };
        let (asked, ends) = (Arc::clone(&shared.asked), Arc::clone(&shared.ends));
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if shared.ends.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                if let Ok(connection) = connection {
                    std::thread::spawn(move || shared.serve(connection));
                }
            }
        });
        Self {
            address,
            asked,
            ends,
            thread: Some(thread),
        }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many blobs it was asked for that it has.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// Answers requests over one connection until there are no more.
    fn serve(&self, connection: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(connection.try_clone().ok()?);
        let mut writer = connection;
        loop {
            let (mut first, mut from) = (String::new(), 0);
            if reader.read_line(&mut first).ok()? == 0 {
                return None;
            }
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let line = line.trim().to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(range) = line.strip_prefix("range: bytes=") {
                    from = range.split('-').next()?.parse().ok()?;
                }
            }
            let mut words = first.split_whitespace();
            let (method, path) = (words.next()?, words.next()?);
            let digest = path.split('?').next()?.rsplit_once("/blobs/sha256:");
            let blob = digest.and_then(|(_, hex)| fs::read(self.blobs.join(hex)).ok());
            let Some(blob) = blob else {
                let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                writer.write_all(head.as_bytes()).ok()?;
                continue;
            };
            let status = match from {
                0 => "200 OK".to_owned(),
                from => format!(
                    "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}",
                    blob.len() - 1,
                    blob.len()
                ),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
                blob.len() - from
            );
            writer.write_all(head.as_bytes()).ok()?;
            if method == "HEAD" {
                continue;
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.send(&mut writer, blob, from)?;
        }
    }

    /// Sends a blob from an offset on, in the bad way; `None` ends the connection.
    fn send(&self, writer: &mut TcpStream, mut blob: Vec<u8>, from: usize) -> Option<()> {
        let middle = blob.len() / 2;
        match self.fault {
            Fault::WrongBytes => {
                blob[middle] ^= 1;
                writer.write_all(&blob[from..]).ok()
            }
            Fault::EndsEarly => {
                writer.write_all(&blob[from..middle.max(from)]).ok()?;
                None
            }
            Fault::Trickles => {
                for bytes in blob[from..].chunks(100) {
                    writer.write_all(bytes).ok()?;
                    std::thread::sleep(Duration::from_millis(200));
                    if self.ends.load(Ordering::Relaxed) {
                        return None;
                    }
                }
                Some(())
            }
            Fault::Stalls => {
                writer.write_all(&blob[from..middle.max(from)]).ok()?;
                while !self.ends.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                None
            }
        }
    }
}
