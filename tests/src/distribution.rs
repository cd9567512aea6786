//! Debian's `docker-registry`: another's registry, of a region or in front of ours.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::authority::{Authority, Certificate};
use crate::command::{run, tool};
use crate::network::Host;
use crate::patience::wait_until;
use crate::token_service::TokenService;
use crate::world::{forget, is_interrupted, spawn};

/// What a `docker-registry` asks of its clients, and where it is. The default is nothing, at `/v2/`.
#[derive(Debug, Default)]
pub struct Terms<'a> {
    /// User name and password.
    pub login: Option<(&'a str, &'a str)>,
    /// Tokens of this service.
    pub tokens: Option<&'a TokenService>,
    /// TLS, by a certificate of this authority.
    pub tls: Option<&'a Authority>,
    /// With TLS: a certificate of the same authority from the client, too.
    pub client_certificate: bool,
    /// Path in front of `/v2/`, with slashes at both ends.
    pub path: Option<&'a str>,
    /// It deletes nothing, as by its own defaults.
    pub keeps: bool,
}

/// A running `docker-registry`. Dropping it kills it.
#[derive(Debug)]
pub struct Distribution {
    address: String,
    tls: bool,
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

    /// Starts one with terms.
    #[track_caller]
    pub fn start_with(folder: &Path, terms: &Terms<'_>) -> Self {
        let address = own_loopback();
        let mut http = String::new();
        if let Some(authority) = terms.tls {
            let Certificate { certificate, key } = authority.sign("registry", address.into());
            let (certificate, key) = (certificate.display(), key.display());
            http += &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
            if terms.client_certificate {
                http += &format!("    clientcas: [{}]\n", authority.file().display());
            }
        }
        if let Some(path) = terms.path {
            http += &format!("  prefix: {path}\n");
        }
        let mut more = String::new();
        if let Some((user, password)) = terms.login {
            // What `htpasswd -B` writes, which Debian has in a package of its own.
            let program = "print crypt($ARGV[0], q($2b$05$abcdefghijklmnopqrstuu))";
            let hash = run(&mut tool("perl", ["-e", program, password]))
                .ok()
                .stdout;
            let file = folder.join("htpasswd");
            fs::write(&file, format!("{user}:{hash}\n")).expect("write the password file");
            let file = file.display();
            more += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {file}\n");
        }
        more += &terms.tokens.map(TokenService::section).unwrap_or_default();
        let tls = terms.tls.is_some();
        Self::launch_at(None, address, folder, (&http, &more), (tls, !terms.keeps))
    }

    #[track_caller]
    fn start_at(host: Option<&Host>, folder: &Path, more: &str) -> Self {
        let address = host.map_or_else(own_loopback, Host::address);
        Self::launch_at(host, address, folder, ("", more), (false, true))
    }

    #[track_caller]
    fn launch_at(
        host: Option<&Host>,
        address: Ipv4Addr,
        folder: &Path,
        (http, more): (&str, &str),
        (tls, deletes): (bool, bool),
    ) -> Self {
        let address = format!("{}:5000", IpAddr::V4(address));
        let config = folder.join("config.yml");
        let data = folder.join("data").display().to_string();
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {data}\n  delete:\n    enabled: {deletes}\n\
             http:\n  addr: {address}\n{http}{more}"
        );
        fs::write(&config, text).expect("write the configuration");
        let mut registry = Self {
            address,
            tls,
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
        let scheme = if self.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}/", self.address);
        wait_until(&format!("an answer of {url}\n{}", self.log()), || {
            // Whatever it answers; to a client without a certificate it does not (35, 55, 56).
            let words = ["--silent", "--insecure", "--noproxy", "*", "--output"];
            let mut curl = self.command("curl");
            let ended = curl.args(words).args(["/dev/null", &url]).status();
            ended.is_ok_and(|ended| matches!(ended.code(), Some(0 | 35 | 55 | 56)))
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
