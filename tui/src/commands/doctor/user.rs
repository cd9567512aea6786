//! What the user who runs this may do: build as root, or as root of a user namespace.

use std::path::Path;
use std::process::Command;

use chalk_sandbox::userns::{self, Barrier, Ids, Kind, Standing};
use chalk_sandbox::{Root, RunSpec, SandboxError, Stream};
use tokio_util::sync::CancellationToken;

use super::Check;

/// How an ordinary user gets to build where there are no user namespaces.
const AS_ROOT: &str = "run the service as root (`sudo chalk serve`), and as this user set `server` to its address \
     (--server, CHALK_API_SERVER) and CHALK_TOKEN to a token of it (`sudo chalk token create --name NAME`); \
     hash, plan, diff and why need no root";

/// User, user namespaces, and the ids that they may map.
pub(super) fn checks() -> Vec<Check> {
    let mut forbidden = Barrier::of_settings();
    let (user, uid) = match userns::standing() {
        Standing::Root => {
            return vec![
                Check::ok("user", "root: may build and run sandboxes"),
                Check::ok("user namespaces", "not needed by root"),
            ];
        }
        Standing::Namespace(mapped) => {
            // Whatever the settings are, one was made.
            forbidden = None;
            (
                Check::ok(
                    "user",
                    format!(
                        "{}: may build and run sandboxes without root, in a user namespace",
                        mapped.user
                    ),
                ),
                mapped.uid,
            )
        }
        Standing::Ordinary(barrier) => {
            let uid = rustix::process::geteuid().as_raw();
            (hindered(&userns::login(uid), &barrier), uid)
        }
    };
    let mut checks = vec![user, namespaces(forbidden)];
    let name = userns::login(uid);
    for kind in [Kind::Users, Kind::Groups] {
        let ids = Ids::of(kind, &name, uid);
        checks.push(mapping(kind, &ids, &name));
    }
    checks
}

fn hindered(name: &str, barrier: &Barrier) -> Check {
    Check::fail(
        "user",
        format!("{name} is not root, and {barrier}: the quickstart's build would not run here"),
        format!("{}; or {AS_ROOT}", barrier.remedy()),
    )
}

/// Whether ordinary users may make user namespaces.
fn namespaces(forbidden: Option<Barrier>) -> Check {
    let name = "user namespaces";
    match forbidden {
        None => Check::ok(name, "no setting forbids them to ordinary users"),
        Some(barrier) => Check::fail(name, barrier.to_string(), barrier.remedy()),
    }
}

/// Whether a user has ids of its own to map, and the program that maps them.
fn mapping(kind: Kind, ids: &Ids, name: &str) -> Check {
    let (program, file) = (kind.program(), kind.file());
    match (ids.count(), userns::program(kind)) {
        (0, _) => Check::fail(
            program,
            format!("{file} gives {name} no ids"),
            ids.remedy(kind, name),
        ),
        (_, Err(barrier)) => Check::fail(program, barrier.to_string(), barrier.remedy()),
        (count, Ok(path)) => {
            let found = format!("{}, {count} ids by {file}", path.display());
            match ids.suffice() {
                true => Check::ok(program, found),
                false => Check::warn(
                    program,
                    format!(
                        "{found}: an image whose files belong to ids above {count} cannot be used"
                    ),
                    ids.remedy(kind, name),
                ),
            }
        }
    }
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
    fn the_ids_of_a_user() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("subuid");
        let check = |text: &str, found: &str, todo: &str| {
            std::fs::write(&file, text).unwrap();
            let ids = Ids::read(&file, "ann", 1000);
            let check = mapping(Kind::Users, &ids, "ann");
            assert!(check.found.contains(found), "{check:?}");
            assert!(check.todo.contains(todo), "{check:?}");
        };
        let usermod = "usermod --add-subuids 165536-231071 ann";
        check("bob:100000:65536\n", "gives ann no ids", usermod);
    }

    #[test]
    fn what_hinders_a_user_is_told_with_what_to_change() {
        let barrier = Barrier::NoProgram {
            program: "newuidmap",
        };
        let check = hindered("ann", &barrier);
        assert_eq!(check.status, Status::Fail);
        assert!(check.found.contains("ann is not root, and newuidmap"));
        assert!(check.todo.contains("install uidmap"), "{check:?}");
        assert!(check.todo.contains("sudo chalk serve"), "{check:?}");
        let setting = Barrier::Setting {
            setting: "user.max_user_namespaces",
            found: 0,
            wanted: 15_000,
        };
        assert_eq!(namespaces(Some(setting)).status, Status::Fail);
        assert_eq!(namespaces(None).status, Status::Ok);
    }
}
