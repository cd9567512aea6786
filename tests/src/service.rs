//! A running `chalk serve`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Chalk, Ran, tool};
use crate::http::request_at;
use crate::network::Host;
use crate::patience::PATIENCE;
use crate::world::{forget, is_interrupted, spawn};

/// A service on a state directory of its own. Dropping it stops the service; the directory is the
/// world's to remove.
#[derive(Debug)]
pub struct Service {
    state: PathBuf,
    log: PathBuf,
    settings: Vec<(String, String)>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    host: Option<Host>,
    child: Option<Child>,
    url: String,
    token: String,
}

impl Service {
    /// Starts a service on `state` with settings as `--set` takes them.
    #[track_caller]
    pub fn start(state: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_at(None, state, settings, &[])
    }

    /// As [`Service::start`] with variables of the environment.
    #[track_caller]
    pub fn start_in(
        state: &Path,
        settings: &[(&str, &str)],
        environment: &[(String, String)],
    ) -> Self {
        Self::start_at(None, state, settings, environment)
    }

    /// As [`Service::start`] on a host of a made-up network, where all its commands run, too.
    #[track_caller]
    pub fn start_on(host: &Host, state: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_at(Some(host.clone()), state, settings, &[])
    }

    /// As [`Service::start_on`] with variables of the environment.
    #[track_caller]
    pub fn start_with(
        host: &Host,
        state: &Path,
        settings: &[(&str, &str)],
        environment: &[(String, String)],
    ) -> Self {
        Self::start_at(Some(host.clone()), state, settings, environment)
    }

    #[track_caller]
    fn start_at(
        host: Option<Host>,
        state: &Path,
        settings: &[(&str, &str)],
        environment: &[(String, String)],
    ) -> Self {
        let settings = settings.iter();
        let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut service = Self {
            state: state.to_owned(),
            log: state.with_extension("log"),
            settings: settings.collect(),
            flags: Vec::new(),
            environment: environment.to_vec(),
            host,
            child: None,
            url: String::new(),
            token: String::new(),
        };
        service.launch();
        service
    }

    #[track_caller]
    fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.expect("open the log");
        let address = self
            .host
            .as_ref()
            .map_or("127.0.0.1".to_owned(), |host| host.address().to_string());
        // Started again, it is found where it was.
        let listen = match self.url.is_empty() {
            true => format!("{address}:0"),
            false => self.address().to_owned(),
        };
        let mut serve = self.chalk().args(["serve", "--listen", &listen]);
        serve = serve.args(&self.flags);
        for (name, value) in &self.settings {
            serve = serve.arg("--set").arg(format!("{name}={value}"));
        }
        for (name, value) in &self.environment {
            serve = serve.env(name, value);
        }
        let mut serve = serve.into_command();
        serve.stdin(Stdio::null());
        serve
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let child = spawn(&mut serve).expect("start chalk serve");
        let pid = child.id();
        self.child = Some(child);
        let found = self.state.join("service.json");
        let until = Instant::now() + PATIENCE;
        loop {
            // A file that a killed service left behind names another process.
            let known = fs::read(&found)
                .ok()
                .and_then(|b| serde_json::from_slice(&b).ok());
            let known: Value = known.unwrap_or_default();
            if known["pid"] == pid {
                self.url = known["url"].as_str().expect("url").to_owned();
                let token = fs::read_to_string(self.state.join("token")).expect("token");
                self.token = token.trim().to_owned();
                return;
            }
            let ended = self
                .child
                .as_mut()
                .expect("started")
                .try_wait()
                .expect("ours");
            assert!(
                ended.is_none() && Instant::now() < until,
                "the service did not start ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host:port`, as registries are named.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("plain HTTP")
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("runs").id()
    }

    /// What the service has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A command against this service.
    pub fn chalk(&self) -> Chalk {
        Chalk::on(&self.state).at(self.host.as_ref())
    }

    /// Runs `chalk compute image` against this service.
    #[track_caller]
    pub fn image(&self, arguments: &[&str]) -> Ran {
        self.chalk()
            .args(["compute", "image"])
            .args(arguments)
            .run()
    }

    /// Builds a declaration that builds, and returns the result.
    #[track_caller]
    pub fn build(&self, file: &str) -> Value {
        self.image(&["build", file, "--json"]).ok().result()
    }

    /// Gets a document of the API.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.url);
        let response = request_at(self.host.as_ref(), &url, Some(&self.token), &[]);
        assert_eq!(response.status, 200, "GET {path}: {response:?}");
        response.json()
    }

    /// Events of a finished build, by number.
    #[track_caller]
    pub fn events(&self, build: &str, after: u64) -> Vec<(u64, Value)> {
        self.follow(&format!("/v1/builds/{build}/events"), after)
    }

    /// Events after number `after`, by number, of a path of the API whose events come to an end.
    #[track_caller]
    pub fn follow(&self, path: &str, after: u64) -> Vec<(u64, Value)> {
        let url = format!("{}{path}", self.url);
        crate::http::events(self.host.as_ref(), &url, &self.token, after)
    }

    /// `docker://` source for skopeo, and the flags that it needs.
    pub fn skopeo(&self, verb: &str) -> std::process::Command {
        let mut skopeo = tool("skopeo", ["--insecure-policy", verb]);
        let side = if verb == "copy" { "src-" } else { "" };
        if verb == "copy" {
            // Left to itself, skopeo compresses what is not.
            skopeo.arg("--preserve-digests");
        }
        skopeo.arg(format!("--{side}tls-verify=false"));
        skopeo.arg(format!("--{side}creds=chalk:{}", self.token));
        skopeo
    }

    /// Asks the service to stop and expects that it does so well.
    #[track_caller]
    pub fn stop(&mut self) {
        match self.end("-TERM") {
            Ok(status) if status.success() => {}
            other => panic!("the service stopped badly ({other:?}):\n{}", self.log()),
        }
    }

    /// Kills the service, as a crash would.
    #[track_caller]
    pub fn kill(&mut self) {
        self.end("-KILL").expect("a killed process ends");
    }

    /// Ends the service by a signal; kills it when that does not help.
    fn end(&mut self, signal: &str) -> Result<ExitStatus, String> {
        let mut child = self.child.take().ok_or("it does not run")?;
        let pid = child.id();
        let sent = tool("kill", [signal, &pid.to_string()]).status();
        let until = Instant::now() + PATIENCE;
        let outcome = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break Err(format!("no end by {signal} (sent: {sent:?}, {other:?})"));
                }
            }
        };
        forget(pid);
        outcome
    }

    /// Starts it again on the same state, with further flags of `serve`.
    #[track_caller]
    pub fn start_again(&mut self, flags: &[&str]) {
        assert!(self.child.is_none(), "stop it first");
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.launch();
    }

    /// Expects that no mount of the host, and no temporary file, is left in the state directory.
    #[track_caller]
    pub fn assert_clean(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let state = self.state.display().to_string();
        let left: Vec<&str> = mounts
            .lines()
            .filter(|line| line.contains(&state))
            .collect();
        assert!(left.is_empty(), "mounts left behind: {left:?}");
        let temporary = temporary_files(&self.state);
        assert!(
            temporary.is_empty(),
            "temporary files left behind: {temporary:?}"
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.is_some() {
            if std::thread::panicking() && !is_interrupted() {
                eprintln!(
                    "--- log of the service on {}\n{}---",
                    self.state.display(),
                    self.log()
                );
            }
            if let Err(error) = self.end("-TERM") {
                eprintln!("service on {}: {error}", self.state.display());
            }
        }
    }
}

/// Files below `folder` that lie in a directory for temporary files.
fn temporary_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), false)];
    while let Some((path, temporary)) = open.pop() {
        let Ok(entries) = fs::read_dir(&path) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let inside = temporary || ["tmp", "work", "uploads"].iter().any(|word| name == *word);
            // Below a snapshot lie the image's own `tmp` directories.
            if name == "snapshots" {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((entry.path(), inside));
            } else if inside {
                found.push(entry.path());
            }
        }
    }
    found
}
