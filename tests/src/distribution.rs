//! Debian's `docker-registry`: another's registry, of a region or in front of ours.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::command::tool;
use crate::network::Host;
use crate::patience::wait_until;
use crate::world::{forget, is_interrupted, spawn};

/// A running `docker-registry` without logins. Dropping it kills it.
#[derive(Debug)]
pub struct Distribution {
    address: String,
    config: PathBuf,
    log: PathBuf,
    host: Option<Host>,
    child: Option<Child>,
}

/// An address of the loopback device that nothing else of this process uses.
pub(crate) fn own_loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    // Never 127.0.0.1, whose ports everybody takes.
    Ipv4Addr::new(127, high | 1, low, last)
}

impl Distribution {
    /// Starts one whose data lie in `folder`.
    #[track_caller]
    pub fn start(folder: &Path) -> Self {
        Self::start_at(None, folder, "")
    }

    /// The same on a host of a made-up network.
    #[track_caller]
    pub fn start_on(host: &Host, folder: &Path) -> Self {
        Self::start_at(Some(host), folder, "")
    }

    /// Starts one that fetches what it lacks from another registry: a pull-through cache.
    #[track_caller]
    pub fn start_proxy(folder: &Path, remote: &str, user: &str, password: &str) -> Self {
        let proxy =
            format!("proxy:\n  remoteurl: {remote}\n  username: {user}\n  password: {password}\n");
        Self::start_at(None, folder, &proxy)
    }

    #[track_caller]
    fn start_at(host: Option<&Host>, folder: &Path, more: &str) -> Self {
        let address = host.map_or_else(own_loopback, Host::address);
        let address = format!("{}:5000", IpAddr::V4(address));
        let config = folder.join("config.yml");
        let data = folder.join("data").display().to_string();
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {data}\n\
             http:\n  addr: {address}\n{more}"
        );
        fs::write(&config, text).expect("write the configuration");
        let mut registry = Self {
            address,
            config,
            log: folder.join("registry.log"),
            host: host.cloned(),
            child: None,
        };
        registry.launch();
        registry
    }

    /// Starts it again after [`Distribution::kill`].
    #[track_caller]
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.expect("open the log");
        let mut command = self.command("docker-registry");
        command.arg("serve").arg(&self.config).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle"));
        command.stderr(log);
        self.child = Some(spawn(&mut command).expect("start docker-registry"));
        let url = format!("http://{}/v2/", self.address);
        wait_until(&format!("an answer of {url}\n{}", self.log()), || {
            let words = ["--silent", "--noproxy", "*", "--output", "/dev/null", &url];
            let mut curl = self.command("curl");
            curl.args(words)
                .status()
                .is_ok_and(|status| status.success())
        });
    }

    fn command(&self, program: &str) -> Command {
        match &self.host {
            Some(host) => host.command(program),
            None => tool(program, [""; 0]),
        }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its configuration, log and data lie.
    pub fn folder(&self) -> &Path {
        self.config.parent().unwrap_or(Path::new("."))
    }

    /// What it has logged: a line for each request.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            forget(child.id());
        }
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        if std::thread::panicking() && !is_interrupted() {
            eprintln!("--- log of {}\n{}---", self.address, self.log());
        }
        self.kill();
    }
}
