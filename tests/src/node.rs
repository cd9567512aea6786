//! A running `chalk node`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Chalk, tool};
use crate::network::Host;
use crate::patience::PATIENCE;
use crate::service::Service;
use crate::world::{forget, spawn};

/// A node on a state directory of its own. Dropping it stops the node; the directory is the world's
/// to remove.
#[derive(Debug)]
pub struct Node {
    name: String,
    state: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    host: Option<Host>,
    child: Option<Child>,
}

impl Node {
    /// Starts a node of `service` in a region, with further arguments, and waits until it is ready.
    #[track_caller]
    pub fn start(
        service: &Service,
        name: &str,
        region: &str,
        state: &Path,
        arguments: &[&str],
    ) -> Self {
        Self::start_at(None, service, name, region, state, arguments, &[])
    }

    /// As [`Node::start`] in the home region, with variables of the environment.
    #[track_caller]
    pub fn start_in(
        service: &Service,
        name: &str,
        state: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Self {
        Self::start_at(None, service, name, "local", state, arguments, environment)
    }

    /// As [`Node::start`] on a host of a made-up network.
    #[track_caller]
    pub fn start_on(
        host: &Host,
        service: &Service,
        name: &str,
        region: &str,
        state: &Path,
        arguments: &[&str],
    ) -> Self {
        Self::start_at(Some(host), service, name, region, state, arguments, &[])
    }

    /// As [`Node::start_on`] in the home region, with variables of the environment.
    #[track_caller]
    pub fn start_with(
        host: &Host,
        service: &Service,
        name: &str,
        state: &Path,
        environment: &[(String, String)],
    ) -> Self {
        Self::start_at(Some(host), service, name, "local", state, &[], environment)
    }

    #[track_caller]
    fn start_at(
        host: Option<&Host>,
        service: &Service,
        name: &str,
        region: &str,
        state: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Self {
        let token = service.state().join("token").display().to_string();
        let url = service.url();
        let own = ["node", "--server", url, "--name", name, "--region", region];
        let mut words: Vec<String> = own.iter().map(|word| (*word).to_owned()).collect();
        words.extend(["--join-token-file".to_owned(), token]);
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        let mut node = Self {
            name: name.to_owned(),
            state: state.to_owned(),
            log: state.with_extension("log"),
            arguments: words,
            environment: environment.to_vec(),
            host: host.cloned(),
            child: None,
        };
        node.launch();
        node.wait_for(service, "ready");
        node
    }

    /// Starts it again after [`Node::stop`] or [`Node::kill`].
    #[track_caller]
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.expect("open the log");
        let mut chalk = Chalk::on(&self.state).args(&self.arguments);
        for (name, value) in &self.environment {
            chalk = chalk.env(name, value);
        }
        let mut command = chalk.at(self.host.as_ref()).into_command();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle"));
        command.stderr(log);
        self.child = Some(spawn(&mut command).expect("start chalk node"));
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("runs").id()
    }

    /// Whether its process is there.
    pub fn runs(&self) -> bool {
        // A process that ended and was not waited for is a zombie.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_some_and(|state| !state.starts_with('Z'))
    }

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the service says that the node is in a state.
    #[track_caller]
    pub fn wait_for(&self, service: &Service, state: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let nodes = service.get("/v1/nodes");
            let mut nodes = nodes.as_array().expect("a list").iter();
            let found = nodes.find(|node| node["name"] == self.name.as_str());
            if found.is_some_and(|node| node["state"] == state) {
                return;
            }
            assert!(
                Instant::now() < until,
                "node {} did not become {state} ({found:?}):\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Digests of the manifests of the images that the node has.
    #[track_caller]
    pub fn images(&self, service: &Service) -> Vec<Value> {
        let cache = service.get(&format!("/v1/nodes/{}/cache", self.name));
        cache["images"].as_array().expect("a list").clone()
    }

    /// Asks the node to stop and expects that it does so well.
    #[track_caller]
    pub fn stop(&mut self) {
        let status = self.end("-TERM");
        assert!(
            status.is_some_and(|status| status.success()),
            "node {} stopped badly ({status:?}):\n{}",
            self.name,
            self.log()
        );
    }

    /// Kills the node, as a crash would.
    pub fn kill(&mut self) {
        self.end("-KILL");
    }

    fn end(&mut self, signal: &str) -> Option<std::process::ExitStatus> {
        let mut child = self.child.take()?;
        let pid = child.id();
        let _ = tool("kill", [signal, &pid.to_string()]).status();
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
            }
        };
        forget(pid);
        status
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("--- log of node {}\n{}---", self.name, self.log());
        }
        if self.end("-TERM").is_none() {
            eprintln!("node {} had to be killed", self.name);
        }
    }
}
