//! The containerd of this machine's distribution, with runc: what Kubernetes and nerdctl use.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::command::{Ran, run, tool};
use crate::patience::wait_until;
use crate::world::{forget, spawn, unique};

/// A containerd of the suite's own, apart from any that the machine runs. Dropping it ends its
/// containers and stops it.
#[derive(Debug)]
pub struct Containerd {
    root: PathBuf,
    /// Socket and state, with a short path: the system allows 107 characters.
    runtime: TempDir,
    log: PathBuf,
    child: Option<Child>,
}

impl Containerd {
    /// Starts one whose data lie in `folder`.
    #[track_caller]
    pub fn start(folder: &Path) -> Self {
        let runtime = tempfile::Builder::new()
            .prefix("ctd")
            .tempdir()
            .expect("temporary directory");
        let mut containerd = Self {
            root: folder.join("root"),
            log: folder.join("containerd.log"),
            runtime,
            child: None,
        };
        let path = |path: PathBuf| path.display().to_string();
        // Its CRI plugin wants a network for pods, and says little of images that `ctr` does not.
        // The collector of garbage does not wait until there is more to do.
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\nstartup_delay = \"10ms\"\n\
             schedule_delay = \"1ms\"\nmutation_threshold = 1\n",
            path(containerd.root.clone()),
            path(containerd.runtime.path().join("state")),
            path(containerd.socket()),
        );
        fs::create_dir_all(folder).expect("make a folder");
        fs::write(containerd.runtime.path().join("config.toml"), config).expect("write");
        containerd.launch();
        containerd
    }

    /// Starts it again after [`Containerd::kill`].
    #[track_caller]
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.expect("open the log");
        let mut command = tool("containerd", ["--config"]);
        command.arg(self.runtime.path().join("config.toml"));
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle"));
        command.stderr(log);
        self.child = Some(spawn(&mut command).expect("start containerd"));
        wait_until(&format!("containerd answers\n{}", self.log()), || {
            let answer = self.command(["version"]).output();
            answer.is_ok_and(|answer| answer.status.success())
        });
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.path().join("sock")
    }

    /// Directory of its data.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut ctr = tool("ctr", ["--namespace", "k8s.io", "--address"]);
        ctr.arg(self.socket()).args(words);
        ctr
    }

    /// Runs `ctr -n k8s.io`.
    #[track_caller]
    pub fn ctr(&self, words: &[&str]) -> Ran {
        run(&mut self.command(words.iter().copied()))
    }

    /// Runs a command in a container of an image, which must be there: `ctr` pulls nothing.
    #[track_caller]
    pub fn run(&self, image: &str, words: &[&str]) -> Ran {
        let id = format!("chalk-test-{}", unique());
        let run = ["run", "--rm", "--net-host", image, &id];
        self.ctr(&[&run, words].concat())
    }

    /// Names of its images, without those by the digest of a config.
    #[track_caller]
    pub fn images(&self) -> Vec<String> {
        let listed = self.ctr(&["images", "ls", "--quiet"]).ok().stdout;
        let names = listed.lines().filter(|name| !name.starts_with("sha256:"));
        names.map(str::to_owned).collect()
    }

    /// Has it collect garbage, and waits for the end of that.
    #[track_caller]
    pub fn collect(&self) {
        let lease = format!("collect-{}", unique());
        self.ctr(&["leases", "create", "--id", &lease]).ok();
        self.ctr(&["leases", "delete", "--sync", &lease]).ok();
    }

    /// Kills it, as a crash would. Its containers go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            forget(child.id());
        }
    }

    /// Ends a container that was started in the background.
    pub fn end(&self, id: &str) {
        let _ = self.command(["task", "rm", "--force", id]).output();
        let _ = self.command(["container", "rm", id]).output();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of containerd\n{}---", self.log());
        }
        if self.child.is_none() {
            return;
        }
        let tasks = self.command(["task", "ls", "--quiet"]).output();
        let tasks = tasks.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for id in tasks.unwrap_or_default().lines() {
            self.end(id);
        }
        self.kill();
        // What a container had mounted when containerd was killed.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points {
            let ours = [self.runtime.path(), &self.root];
            if ours.iter().any(|ours| Path::new(point).starts_with(ours)) {
                let _ = tool("umount", [point]).output();
            }
        }
    }
}
