//! Networks made of namespaces of this machine: hosts on one switch, each on a link of its own,
//! which may be slow and may be cut. Nothing leaves the machine.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;

use serde_json::Value;

use crate::command::{run, tool};
use crate::world::unique;

/// Hosts on one switch. Dropping it takes everything away.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<String>,
}

/// A host of a [`Network`].
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    switch: String,
    port: String,
    address: Ipv4Addr,
}

impl Network {
    /// A switch without hosts.
    #[track_caller]
    pub fn new() -> Self {
        // Names of interfaces have at most 15 characters.
        let prefix = format!("ck{}", unique().replace('-', "x"));
        let network = Self {
            prefix,
            hosts: Vec::new(),
        };
        let switch = network.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        network
    }

    fn switch(&self) -> String {
        format!("{}s", self.prefix)
    }

    /// Adds a host whose link carries `rate` in each direction, in words of `tc` (`200mbit`).
    #[track_caller]
    pub fn host(&mut self, rate: Option<&str>) -> Host {
        let number = self.hosts.len() + 1;
        let namespace = format!("{}h{number}", self.prefix);
        let (switch, port) = (self.switch(), format!("p{number}"));
        // A range for tests of networks (RFC 2544), which no real network uses.
        let last = u8::try_from(number).expect("a small network");
        let address = Ipv4Addr::new(198, 18, 0, last);
        ip(&["netns", "add", &namespace]);
        self.hosts.push(namespace.clone());
        let pair = ["type", "veth", "peer", "name", "eth0", "netns", &namespace];
        let mut words = vec!["-n", &switch, "link", "add", &port];
        words.extend(pair);
        ip(&words);
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
        let full = format!("{address}/24");
        ip(&["-n", &namespace, "address", "add", &full, "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        let host = Host {
            namespace,
            switch,
            port,
            address,
        };
        if let Some(rate) = rate {
            host.limit(rate);
        }
        host
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let switch = self.switch();
        for name in self.hosts.iter().chain([&switch]) {
            let _ = tool("ip", ["netns", "delete", name]).output();
        }
    }
}

impl Host {
    /// Name of its network namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Gives its link another rate, in each direction.
    #[track_caller]
    pub fn limit(&self, rate: &str) {
        limit(&self.namespace, "eth0", rate);
        limit(&self.switch, &self.port, rate);
    }

    /// Cuts its link, or heals it.
    #[track_caller]
    pub fn connect(&self, connected: bool) {
        let state = if connected { "up" } else { "down" };
        ip(&["-n", &self.switch, "link", "set", &self.port, state]);
    }

    /// Bytes that it has sent over its link.
    #[track_caller]
    pub fn sent(&self) -> u64 {
        let words = ["-n", &self.namespace, "-s", "-j", "link", "show", "eth0"];
        let links: Value = ip(&words);
        let sent = links[0]["stats64"]["tx"]["bytes"].as_u64();
        sent.expect("a counter")
    }

    /// A command on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = tool(
            "nsenter",
            [
                format!("--net=/run/netns/{}", self.namespace).as_str(),
                "--",
            ],
        );
        command.arg(program);
        command
    }

    /// That command, on this host.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }
}

#[track_caller]
fn limit(namespace: &str, device: &str, rate: &str) {
    // As much may wait in the queue: on a slow link that is seconds, in which nodes seem dead.
    let burst = if rate.ends_with("kbit") {
        "32k"
    } else {
        "256k"
    };
    let rule = ["tbf", "rate", rate, "burst", burst, "latency", "50ms"];
    let words = ["-n", namespace, "qdisc", "replace", "dev", device, "root"];
    run(tool("tc", words).args(rule)).ok();
}

#[track_caller]
fn ip(words: &[&str]) -> Value {
    let ran = run(&mut tool("ip", words)).ok();
    serde_json::from_str(&ran.stdout).unwrap_or_default()
}
