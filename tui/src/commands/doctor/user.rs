//! What the user who runs this may do: build as root, or what a build without root would need.

use std::path::{Path, PathBuf};
use std::process::Command;

use chalk_sandbox::{Root, RunSpec, SandboxError, Stream};
use tokio_util::sync::CancellationToken;

use super::Check;

/// How an ordinary user gets to build.
const AS_ROOT: &str = "run the service as root (`sudo chalk serve`), and as this user set `server` to its address \
     (--server, CHALK_API_SERVER) and CHALK_TOKEN to a token of it (`sudo chalk token create --name NAME`); \
     hash, plan, diff and why need no root";
/// What is said of things that only builds without root would use.
const NOT_YET: &str = "builds do not use them yet";
/// Ids that an image may use.
const IDS: u64 = 65_536;

/// User, user namespaces, and the ids that they may map.
pub(super) fn checks() -> Vec<Check> {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return vec![
            Check::ok("user", "root: may build and run sandboxes"),
            Check::ok("user namespaces", "not needed by root"),
        ];
    }
    let name = login(user.as_raw());
    let mut checks = vec![Check::fail(
        "user",
        format!("{name} is not root: the quickstart's build would not run here"),
        AS_ROOT,
    )];
    checks.push(namespaces(Path::new("/proc/sys")));
    for (file, program) in [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")] {
        checks.push(ids(Path::new(file), program, &name, user.as_raw()));
    }
    checks
}

/// Name of a user by `/etc/passwd`, or the number.
fn login(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| uid.to_string())
}

/// Whether ordinary users may make user namespaces; `sys` is `/proc/sys`.
fn namespaces(sys: &Path) -> Check {
    let name = "user namespaces";
    let number = |path: &str| -> Option<u64> {
        let text = std::fs::read_to_string(sys.join(path)).ok()?;
        text.trim().parse().ok()
    };
    let forbidden = |setting: &str, value: u64| {
        Check::warn(
            name,
            format!("{setting} forbids them"),
            format!(
                "`sysctl -w {setting}={value}`, if programs of ordinary users are to have them"
            ),
        )
    };
    if number("user/max_user_namespaces") == Some(0) {
        return forbidden("user.max_user_namespaces", 15_000);
    }
    if number("kernel/unprivileged_userns_clone") == Some(0) {
        return forbidden("kernel.unprivileged_userns_clone", 1);
    }
    if number("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return forbidden("kernel.apparmor_restrict_unprivileged_userns", 0);
    }
    Check::ok(name, format!("ordinary users may make them; {NOT_YET}"))
}

/// Whether a user has ids of its own to map, and the program that maps them.
fn ids(file: &Path, program: &'static str, name: &str, uid: u32) -> Check {
    let shown = file.display();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let most = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let count: u64 = fields.nth(1)?.parse().ok()?;
            (owner == name || owner.parse() == Ok(uid)).then_some(count)
        })
        .max();
    let kind = match program {
        "newgidmap" => "gids",
        _ => "uids",
    };
    match most {
        None => Check::warn(
            program,
            format!("{shown} gives {name} no ids; {NOT_YET}"),
            format!("`sudo usermod --add-sub{kind} 100000-165535 {name}`"),
        ),
        Some(count) if count < IDS => Check::warn(
            program,
            format!("{shown} gives {name} only {count} ids; {NOT_YET}"),
            format!("`sudo usermod --add-sub{kind} 100000-165535 {name}`: images use up to {IDS}"),
        ),
        Some(count) => match find(program) {
            Some(path) => Check::ok(
                program,
                format!("{}, {count} ids by {shown}; {NOT_YET}", path.display()),
            ),
            None => Check::warn(
                program,
                format!("it is not on the PATH; {NOT_YET}"),
                "`sudo apt-get install uidmap`",
            ),
        },
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(program));
    places.find(|place| place.is_file())
}

/// Sets a sandbox up as for a build step: overlay, namespaces, filter. Nothing is run in it.
pub(super) async fn trial() -> Check {
    let name = "sandbox";
    let temp = match tempfile::tempdir() {
        Ok(temp) => temp,
        Err(error) => {
            return Check::fail(
                name,
                format!("there is no temporary directory: {error}"),
                "set TMPDIR to a directory that this user may write to",
            );
        }
    };
    let dir = |name: &str| temp.path().join(name);
    for name in ["lower", "upper", "work"] {
        let _ = std::fs::create_dir(dir(name));
    }
    let root = Root::Overlay {
        lower: vec![dir("lower")],
        upper: dir("upper"),
        work: dir("work"),
        volatile: true,
    };
    let spec = RunSpec::new(root, ["/nothing-of-that-name"]);
    let mut drop_output = |_: Stream, _: &[u8]| {};
    let tried = chalk_sandbox::run(&spec, &mut drop_output, &CancellationToken::new()).await;
    match tried {
        // All was set up; that the program is missing is what was to come out.
        Err(SandboxError::Exec { .. }) | Ok(_) => {
            Check::ok(name, "one was set up as for a build step")
        }
        Err(error @ SandboxError::Setup(_)) => Check::fail(
            name,
            error.to_string(),
            format!(
                "{}; containers need `--privileged` for it",
                hint(temp.path())
            ),
        ),
        Err(error) => Check::fail(name, error.to_string(), AS_ROOT),
    }
}

/// What often keeps a root from being mounted.
fn hint(dir: &Path) -> String {
    let kind = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(dir)
        .output();
    let kind = kind.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    match kind.unwrap_or_default().as_str() {
        "overlayfs" => "an overlay cannot lie on another: set TMPDIR and `state.dir` to a volume".to_owned(),
        _ => "see that the kernel lets this process mount an overlay (capability CAP_SYS_ADMIN, no LSM against it)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn names_the_setting_that_forbids_user_namespaces() {
        let temp = tempfile::tempdir().unwrap();
        for dir in ["user", "kernel"] {
            std::fs::create_dir(temp.path().join(dir)).unwrap();
        }
        let set = |path: &str, value: &str| std::fs::write(temp.path().join(path), value).unwrap();
        set("user/max_user_namespaces", "100\n");
        assert_eq!(namespaces(temp.path()).status, Status::Ok);
        let check = |path: &str, value: &str, setting: &str| {
            set(path, value);
            let found = namespaces(temp.path());
            assert_eq!(found.status, Status::Warn);
            assert!(found.todo.contains(setting), "{found:?}");
        };
        check(
            "kernel/apparmor_restrict_unprivileged_userns",
            "1\n",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
        check(
            "kernel/unprivileged_userns_clone",
            "0\n",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        );
        check(
            "user/max_user_namespaces",
            "0\n",
            "sysctl -w user.max_user_namespaces=15000",
        );
    }

    #[test]
    fn counts_the_ids_of_a_user() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("subuid");
        let check = |text: &str, expect: &str| {
            std::fs::write(&file, text).unwrap();
            let found = ids(&file, "newuidmap", "ann", 1000);
            assert!(found.found.contains(expect), "{found:?}");
        };
        check("", "gives ann no ids");
        check("bob:100000:65536\n", "gives ann no ids");
        check("ann:100000:1000\n", "only 1000 ids");
        check("1000:100000:10\n", "only 10 ids");
        std::fs::write(&file, "ann:100000:65536\n").unwrap();
        let found = ids(&file, "sh", "ann", 1000);
        assert_eq!(found.status, Status::Ok, "{found:?}");
    }
}
