//! The docker daemon of this machine's distribution, as a peer.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command::{Ran, run, tool};
use crate::network::Host;
use crate::patience::PATIENCE;
use crate::service::Service;
use crate::world::{forget, spawn};

/// A daemon of the suite's own, apart from any that the machine runs.
#[derive(Debug)]
pub struct Docker {
    child: Child,
    log: PathBuf,
    /// Sockets, with a short path: the system allows 107 characters.
    runtime: TempDir,
    config: PathBuf,
}

impl Docker {
    /// Starts a daemon whose data lie in `folder`.
    #[track_caller]
    pub fn start(folder: &Path) -> Self {
        let dockerd = tool("dockerd", ["--iptables=false", "--bridge=none"]);
        Self::with(dockerd, folder)
    }

    /// On a host of a made-up network, as one that trusts an authority (a PEM file).
    #[track_caller]
    pub fn trusting(host: &Host, folder: &Path, authority: &Path) -> Self {
        let mut dockerd = host.command("dockerd");
        dockerd
            .args(["--iptables=false", "--bridge=none"])
            .env("SSL_CERT_FILE", authority);
        Self::with(dockerd, folder)
    }

    /// As a package sets it up, with a bridge and its rules, on a host of a made-up network.
    #[track_caller]
    pub fn bridged(host: &Host, folder: &Path) -> Self {
        Self::with(host.command("dockerd"), folder)
    }

    #[track_caller]
    fn with(mut dockerd: Command, folder: &Path) -> Self {
        let runtime = tempfile::Builder::new()
            .prefix("cd")
            .tempdir()
            .expect("temporary directory");
        let log = folder.join("dockerd.log");
        let config = folder.join("config");
        fs::create_dir_all(&config).expect("make a folder");
        let output = File::create(&log).expect("make the log");
        let path = |name: &str| runtime.path().join(name).display().to_string();
        dockerd
            .arg("--data-root")
            .arg(folder.join("data"))
            .args(["--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["--host", &format!("unix://{}", path("sock"))])
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output);
        let child = spawn(&mut dockerd).expect("start dockerd");
        let mut docker = Self {
            child,
            log,
            runtime,
            config,
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = docker.command(["version"]).output();
            if answer.is_ok_and(|answer| answer.status.success()) {
                return docker;
            }
            let ended = docker.child.try_wait().expect("ours");
            assert!(
                ended.is_none() && Instant::now() < until,
                "dockerd did not start ({ended:?}):\n{}",
                fs::read_to_string(&docker.log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Unmounts what dockerd leaves: its network namespace, and, when it was killed, roots of steps.
    fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        let data = self.log.with_file_name("data");
        let ours = |point: &&str| {
            let point = Path::new(point);
            point.starts_with(self.runtime.path()) || point.starts_with(&data)
        };
        // The innermost first.
        for point in points.into_iter().filter(ours).rev() {
            let unmounted = tool("umount", [point]).output();
            if !unmounted.is_ok_and(|output| output.status.success()) {
                eprintln!("{point} stays mounted");
            }
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.path().join("sock")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as a crash would end it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.unmount();
    }

    /// A docker command against this daemon.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut docker = tool("/usr/bin/docker", arguments);
        docker
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.runtime.path().join("sock").display()),
            )
            .env("DOCKER_CONFIG", &self.config)
            .env("DOCKER_BUILDKIT", "1");
        docker
    }

    /// Runs a docker command.
    #[track_caller]
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Logs in to a service's registry.
    #[track_caller]
    pub fn login(&self, service: &Service) {
        let login = [
            "login",
            "--username",
            "chalk",
            "--password",
            service.token(),
            service.address(),
        ];
        self.run(login).ok();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = self.child.id();
        // Asked nicely, dockerd ends its containerd and unmounts.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = tool("kill", ["-TERM", &pid.to_string()]).output();
        }
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        forget(pid);
        self.unmount();
    }
}
