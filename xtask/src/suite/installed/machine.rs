//! A root with systemd as its first process, by systemd-nspawn.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::parse;
use crate::host;
use crate::run::{self, Failure, Result, at};

/// Longest that is waited for anything.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

/// A unit of the root that brings what a container lacks and a machine has: a `/proc` that nothing covers,
/// without which the kernel lets no user namespace have one, all devices, and control groups of version 1
/// that can be written to.
pub(super) const UNIT: &str = "\
[Unit]
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mkdir -p /run/proc
ExecStart=/bin/mount -t proc proc /run/proc
ExecStart=/bin/mount -t devtmpfs devtmpfs /dev
ExecStart=/bin/mkdir -p /dev/pts /dev/shm
ExecStart=/bin/mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts /dev/pts
ExecStart=/bin/mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ExecStart=/bin/sh -c 'for at in $(findmnt -nro TARGET -t cgroup); do mount -o remount,bind,rw $at; done'

[Install]
WantedBy=sysinit.target
";

/// A place of this machine, and where the root sees it, read-only.
pub(super) struct Bind(pub(super) PathBuf, pub(super) &'static str);

fn nspawn(root: &Path, binds: &[Bind]) -> Result<Command> {
    let mut nspawn = host::as_root(
        "systemd-nspawn",
        ["--quiet", "--register=no", "--keep-unit"],
    )?;
    nspawn.arg("--directory").arg(root);
    for Bind(from, to) in binds {
        nspawn.arg(format!("--bind-ro={}:{to}", from.display()));
    }
    Ok(nspawn)
}

/// Runs a script in a root in which nothing runs.
pub(super) fn run(root: &Path, binds: &[Bind], script: &str) -> Result<()> {
    let file = root.with_extension("sh");
    fs::write(&file, script).map_err(at(&file))?;
    let mut nspawn = nspawn(root, binds)?;
    nspawn.arg(format!("--bind-ro={}:/mnt/script", file.display()));
    nspawn.arg("--setenv=DEBIAN_FRONTEND=noninteractive");
    nspawn.args(["--pipe", "sh", "/mnt/script"]);
    let outcome = run::capture(nspawn.stdin(Stdio::null()));
    run::remove(&file)?;
    outcome.map(drop)
}

/// A root that was booted.
pub(super) struct Machine {
    nspawn: Child,
    /// Its first process, as this machine counts.
    first: u32,
}

impl Machine {
    /// Boots it; its units come up while this returns.
    pub(super) fn boot(root: &Path, binds: &[Bind]) -> Result<Self> {
        let mut boot = nspawn(root, binds)?;
        // A machine's root may do everything, and make and mount everything.
        boot.args(["--boot", "--console=pipe", "--capability=all"])
            .env("SYSTEMD_SECCOMP", "0")
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes");
        let log = root.with_extension("log");
        let errors = fs::File::create(&log).map_err(at(&log))?;
        boot.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        let mut nspawn = run::spawn(&mut boot)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(first) = first_process(nspawn.id()) {
                return Ok(Self { nspawn, first });
            }
            let ended = !matches!(nspawn.try_wait(), Ok(None));
            if run::interrupted() || ended || Instant::now() > until {
                run::stop(&mut nspawn);
                let said = fs::read_to_string(&log).unwrap_or_default();
                let words = format!("systemd-nspawn does not boot the root:\n{said}");
                return Err(Failure::Other(words));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let first = self.first.to_string();
        let enter = ["--target", &first, "--all", "--root", "--wd=/root", "--"];
        let mut command = host::as_root("nsenter", enter)?;
        command
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command in it as root, and gives what it printed.
    pub(super) fn run(&self, words: &[&str]) -> Result<String> {
        run::capture(&mut self.command(words)?)
    }

    /// As [`run`](Self::run), of what prints JSON.
    pub(super) fn json(&self, words: &[&str]) -> Result<Value> {
        parse(&self.run(words)?)
    }

    /// Runs a command again until it succeeds.
    pub(super) fn wait(&self, words: &[&str]) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.run(words) {
                Ok(_) => return Ok(()),
                Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                Err(failure) if Instant::now() > until => return Err(failure),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Turns it off: its first process is asked (systemd(1), `SIGRTMIN+4`), since that of nspawn may be
    /// root's and not ours to signal.
    pub(super) fn off(&mut self) {
        let first = self.first.to_string();
        let asked = host::as_root("kill", ["-s", "RTMIN+4", &first])
            .is_ok_and(|mut kill| run::succeeds(&mut kill));
        let until = Instant::now() + PATIENCE;
        while asked && Instant::now() < until {
            if !matches!(self.nspawn.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        run::stop(&mut self.nspawn);
    }
}

/// The process `systemd` below that of nspawn, once it is that program.
fn first_process(nspawn: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let child: u32 = child.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        match name.trim() {
            "systemd" => Some(child),
            _ => first_process(child),
        }
    })
}
