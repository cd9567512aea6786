//! An S3-compatible store: `moto_server` from PyPI, behind a way that can be cut.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::command::{Ran, run, tool};
use crate::distribution::own_loopback;
use crate::patience::wait_until;
use crate::world::{forget, spawn};

/// A store with one bucket, in memory. Dropping it kills it.
#[derive(Debug)]
pub struct S3 {
    direct: SocketAddr,
    way: Arc<Way>,
    child: Child,
}

#[derive(Debug)]
struct Way {
    address: SocketAddr,
    cut: AtomicBool,
    ends: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl S3 {
    /// Name of the bucket.
    pub const BUCKET: &'static str = "chalk-test";

    /// Starts one that logs into `folder`.
    #[track_caller]
    pub fn start(folder: &Path) -> Self {
        let program = std::env::var_os("CHALK_TEST_MOTO").map(PathBuf::from);
        let program = program
            .expect("CHALK_TEST_MOTO, set by `cargo xtask test`: path of moto_server")
            .display()
            .to_string();
        let direct = SocketAddr::from((own_loopback(), 9000));
        let log = File::create(folder.join("s3.log")).expect("create the log");
        let host = direct.ip().to_string();
        let mut moto = tool(&program, ["-H", &host, "-p", "9000"]);
        moto.stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let child = spawn(&mut moto).expect("start moto_server");
        let store = Self {
            direct,
            way: Way::open(direct, own_loopback()),
            child,
        };
        wait_until("an answer of moto_server", || {
            TcpStream::connect(store.direct).is_ok()
        });
        store.curl(&["--request", "PUT"], "").ok();
        store
    }

    /// `http://host:port` to reach it by.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.way.address)
    }

    /// Cuts the way, also under requests that are on it, or opens it again.
    pub fn connect(&self, connected: bool) {
        self.way.cut.store(!connected, Ordering::SeqCst);
        if !connected {
            for stream in self.way.streams().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Asks the store itself for what lies at a path of the bucket.
    #[track_caller]
    pub fn curl(&self, words: &[&str], path: &str) -> Ran {
        let url = format!("http://{}/{}/{path}", self.direct, Self::BUCKET);
        let always = ["--silent", "--show-error", "--fail", "--noproxy", "*"];
        // Any keys will do, but some there must be.
        let signed = [
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "--user",
            "KEY:secret",
        ];
        run(tool("curl", always).args(signed).args(words).arg(url))
    }

    /// Keys that begin so.
    #[track_caller]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let path = format!("?list-type=2&max-keys=1000&prefix={prefix}");
        let listed = self.curl(&[], &path).ok().stdout;
        let keys = listed.split("<Key>").skip(1);
        let keys = keys.filter_map(|rest| rest.split_once("</Key>"));
        keys.map(|(key, _)| key.to_owned()).collect()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.way.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.way.address);
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget(self.child.id());
    }
}

impl Way {
    fn open(to: SocketAddr, at: Ipv4Addr) -> Arc<Self> {
        let listener = TcpListener::bind((at, 0)).expect("an address of loopback");
        let way = Arc::new(Self {
            address: listener.local_addr().expect("bound"),
            cut: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let this = Arc::clone(&way);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if this.ends.load(Ordering::SeqCst) {
                    return;
                }
                if !this.cut.load(Ordering::SeqCst)
                    && let Ok(server) = TcpStream::connect(to)
                {
                    this.pass(client, server);
                }
            }
        });
        way
    }

    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, client: TcpStream, server: TcpStream) {
        let both = || {
            Ok::<_, io::Error>([
                (client.try_clone()?, server.try_clone()?),
                (server.try_clone()?, client.try_clone()?),
            ])
        };
        let Ok(ways) = both() else {
            return;
        };
        self.streams().extend([client, server]);
        for (mut from, mut to) in ways {
            std::thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    }
}
