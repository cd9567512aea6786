//! Builds of an ordinary user, without root: what comes out, what is left, and what is told where a
//! host does not allow them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chalk_tests::{Project, Ran, World, run, tool};
use tempfile::TempDir;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("images_are_those_that_root_builds", same_images),
    ("nothing_is_left_of_a_killed_build", killed),
    ("what_forbids_them_is_named", barriers),
];

/// Name of the user that the tests make.
const USER: &str = "chalk-ordinary";

/// One user at a time.
static LOCK: Mutex<()> = Mutex::new(());

/// An ordinary user with a home and ids to map; gone with the value.
struct Ordinary {
    home: TempDir,
    _lock: MutexGuard<'static, ()>,
}

impl Ordinary {
    #[track_caller]
    fn new() -> Self {
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // One of a suite that was killed.
        let _ = tool("userdel", [USER]).output();
        // Lines of users are made only where there is a file for them.
        for file in ["/etc/subuid", "/etc/subgid"] {
            let _ = fs::File::options().create(true).append(true).open(file);
        }
        // Programs and folders of the checkout may be closed to others.
        let home = tempfile::tempdir().unwrap();
        let shell = ["--shell", "/bin/sh", "--no-create-home", "--home-dir"];
        run(tool("useradd", shell).arg(home.path()).arg(USER)).ok();
        let own = ["--recursive", &format!("{USER}:")];
        fs::copy(
            std::env::var("CHALK_TEST_BIN").unwrap(),
            home.path().join("chalk"),
        )
        .unwrap();
        run(tool("chown", own).arg(home.path())).ok();
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { home, _lock: lock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A command of the user, started by what `through` says.
    fn through(&self, through: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.args(through).arg("setpriv");
        for flag in ["--reuid", "--regid"] {
            command.args([flag, USER]);
        }
        command.args(["--init-groups", "--inh-caps=-all"]);
        command.arg(self.path("chalk")).args(words);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHALK_") {
                command.env_remove(&name);
            }
        }
        command.env("HOME", self.home.path()).env("NO_COLOR", "1");
        command.env_remove("XDG_STATE_HOME").env_remove("SUDO_USER");
        command.current_dir(self.home.path());
        command
    }

    fn command(&self, words: &[&str]) -> Command {
        self.through(&[], words)
    }

    #[track_caller]
    fn chalk(&self, words: &[&str]) -> Ran {
        run(&mut self.command(words))
    }

    /// Brings a base in.
    #[track_caller]
    fn import(&self, layout: &Path, reference: &str) {
        let copy = self.path("layout");
        run(tool("cp", ["--recursive"]).arg(layout).arg(&copy)).ok();
        run(tool("chmod", ["--recursive", "a+rX"]).arg(&copy)).ok();
        let copy = copy.display().to_string();
        self.chalk(&["image", "import", &copy, "--as", reference])
            .ok();
    }

    /// Processes of the user, and of the ids that are its.
    fn processes(&self) -> Vec<String> {
        let home = self.home.path().display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if exe.starts_with(&home) || line.contains("sleep 77077") {
                found.push(line);
            }
        }
        found
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        let _ = tool("pkill", ["--signal", "KILL", "--uid", USER]).output();
        let removed = tool("userdel", ["--force", USER]).output();
        if !std::thread::panicking() {
            let removed = removed.expect("userdel");
            assert!(removed.status.success(), "{removed:?}");
            let subuid = fs::read_to_string("/etc/subuid").unwrap();
            assert!(!subuid.contains(USER), "{subuid}");
        }
    }
}

/// Owners, modes, set-user-id bits, capabilities, and what hides files of lower layers; every time is
/// one, since that is the one thing that two builds of commands differ in.
fn project() -> Project {
    let capability = "0100000200200000000000000000000000000000";
    let text = format!(
        r#"
[image]
debian_slim = "3.12"
[[step]]
run_commands = ["""
mkdir /data /data/sub && echo one > /data/file && echo two > /data/sub/two && ln /data/file /data/link &&
chown 100:200 /data /data/sub && chown 65534:65534 /data/file && chmod 4755 /data/file && mkfifo /data/fifo &&
cp /bin/true /data/tool && rm /etc/issue &&
python3 -B -c 'import os; os.setxattr("/data/tool", "security.capability", bytes.fromhex("{capability}")); os.setxattr("/data/sub", "user.note", b"kept")' &&
find /data -exec touch --no-dereference --date @86400 {{}} + && touch --date @86400 /etc
"""]
[[step]]
run_commands = ["""
rm -r /data/sub && mkdir /data/sub && echo new > /data/sub/new && chmod 700 /data/tool &&
find /data -exec touch --no-dereference --date @86400 {{}} +
"""]
[[step]]
add_local_file = {{ src = "app.py", dest = "/app/app.py", strategy = "copy" }}
"#
    );
    Project::new(&[("image.toml", &text), ("app.py", "print('hello')\n")])
}

fn same_images(world: &World) {
    let user = Ordinary::new();
    user.import(world.python_layout(), World::PYTHON);
    let project = project();
    for file in ["image.toml", "app.py"] {
        fs::copy(project.file(file), user.path(file)).unwrap();
    }
    let report = user.chalk(&["doctor", "--json"]);
    let found = report.json();
    let checks = found["checks"].as_array().unwrap();
    for name in ["user", "newuidmap", "newgidmap", "sandbox"] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(check["status"], "ok", "{check:#}");
    }

    let built = user.chalk(&["image", "build", "image.toml", "--json"]).ok();
    let of_user = built.result();
    let service = world.service();
    let of_root = service.build(&project.arg("image.toml"));
    assert_eq!(of_user["status"], "built", "{of_user:#}");
    assert_eq!(of_user["image_hash"], of_root["image_hash"]);
    assert_eq!(
        of_user["digest"], of_root["digest"],
        "{of_user:#}\n{of_root:#}"
    );
    // What was built is of use to later builds, and rebuilds the same.
    let again = user.chalk(&["image", "build", "image.toml", "--json"]).ok();
    assert_eq!(again.result()["status"], "reused");
    assert_eq!(user.processes(), Vec::<String>::new());
    // The directory is for that user alone.
    let state = user.path(".local/state/chalk");
    let state = state.display().to_string();
    let root = chalk_tests::Chalk::new().args(["--state", &state, "image", "ls"]);
    root.run()
        .code(3)
        .says(&["belongs to the service of the user", "state directory"]);
}

fn killed(world: &World) {
    let user = Ordinary::new();
    user.import(world.busybox_layout(), World::BUSYBOX);
    let text = "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"sleep 77077\"]\n";
    fs::write(user.path("image.toml"), text).unwrap();
    for (signal, code) in [("-KILL", None), ("-INT", Some(130))] {
        let mut build = user.command(&["image", "build", "image.toml", "--progress", "quiet"]);
        let mut child = build.spawn().unwrap();
        let runs = |list: &[String]| list.iter().any(|line| line.starts_with("sleep"));
        let until = Instant::now() + Duration::from_secs(20);
        while !runs(&user.processes()) {
            assert!(Instant::now() < until, "{:?}", user.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
        run(&mut tool("kill", [signal, &child.id().to_string()])).ok();
        assert_eq!(child.wait().unwrap().code(), code);
        while !user.processes().is_empty() {
            assert!(Instant::now() < until, "left: {:?}", user.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // The next one finds all in order, and takes away what the killed one left.
    user.chalk(&["image", "ls"]).ok();
    let scratch = fs::read_dir(user.path(".local/state/chalk/engine/scratch")).unwrap();
    assert_eq!(scratch.count(), 0);
}

fn barriers(_: &World) {
    let user = Ordinary::new();
    let text = "[image]\nbase = \"scratch\"\n[[step]]\nrun_commands = [\"true\"]\n";
    fs::write(user.path("image.toml"), text).unwrap();
    let words = ["image", "build", "image.toml", "--progress", "quiet"];
    let check = |through: &[&str], expect: &[&str]| {
        let built = run(&mut user.through(through, &words));
        assert!(!built.status.success(), "{built}");
        built.says(expect).says(&["`server`", "chalk doctor"]);
        let report = run(&mut user.through(through, &["doctor", "--json"])).code(1);
        let report = report.json();
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["name"] == "user").unwrap();
        for word in expect {
            assert!(found.to_string().contains(word), "{word}: {found:#}");
        }
    };
    check(
        &["setpriv", "--no-new-privs"],
        &["newuidmap failed", "no_new_privs"],
    );
    let hide = "mount --bind /dev/null \"$(command -v newgidmap)\" && exec \"$@\"";
    check(
        &["unshare", "--mount", "sh", "-c", hide, "sh"],
        &["newgidmap is not on the PATH", "apt-get install uidmap"],
    );
    let without = "mount --bind /dev/null /etc/subgid && exec \"$@\"";
    check(
        &["unshare", "--mount", "sh", "-c", without, "sh"],
        &["/etc/subgid gives", "usermod --add-subgids 100000-165535"],
    );
    // A namespace that looks like the host, where a setting can be changed for itself.
    let mut holder = tool("unshare", ["--user", "sleep", "60"]).spawn().unwrap();
    let pid = holder.id().to_string();
    let of_holder = |file: &str| Path::new("/proc").join(&pid).join(file);
    let host = fs::read_link("/proc/self/ns/user").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while fs::read_link(of_holder("ns/user")).unwrap() == host {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    for file in ["uid_map", "gid_map"] {
        fs::write(of_holder(file), "0 0 4294967295").unwrap();
    }
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    check(
        &[
            "nsenter", "--target", &pid, "--user", "sh", "-c", forbid, "sh",
        ],
        &[
            "user.max_user_namespaces = 0",
            "sysctl -w user.max_user_namespaces=15000",
        ],
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
}
