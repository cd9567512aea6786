//! What keeps an ordinary user from a namespace in which it is root, and what to change.

use std::io;
use std::path::Path;

use super::ids::Kind;

/// What must be changed so that AppArmor lets this program alone have namespaces.
const PROFILE: &str = "or let this program alone have them, by a profile in /etc/apparmor.d with \
                       `userns,` for its path";

/// Why an ordinary user's process is no root in a namespace. Its text says what was found, and
/// [`remedy`](Barrier::remedy) what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Barrier {
    /// Nobody tried to go into one.
    #[error("this process did not go into a user namespace when it started")]
    NotEntered,
    /// A program that maps ids is not there.
    #[error("{program} is not on the PATH")]
    NoProgram {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
    },
    /// The user has no ids of its own.
    #[error("{file} gives {user} no ids")]
    NoIds {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// Who has none.
        user: String,
        /// The command that gives some.
        remedy: String,
    },
    /// A setting of the kernel forbids user namespaces.
    #[error("{setting} = {found} forbids user namespaces")]
    Setting {
        /// Its name, as for `sysctl`.
        setting: &'static str,
        /// What it is.
        found: u64,
        /// What it has to be.
        wanted: u64,
    },
    /// The kernel refuses, and no setting says why.
    #[error("the kernel refuses {what}: {}", io::Error::from_raw_os_error(*.errno))]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        errno: i32,
    },
    /// A program that maps ids could not.
    #[error("{program} failed: {said}")]
    Map {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it said.
        said: String,
        /// Whether this process and its children can gain no privileges (`no_new_privs`).
        no_new_privileges: bool,
    },
}

impl Barrier {
    /// What to change, for people.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotEntered => "start it anew".to_owned(),
            Self::NoProgram { .. } => {
                "`sudo apt-get install uidmap` (elsewhere the package is called shadow-utils or \
                 shadow)"
                    .to_owned()
            }
            Self::NoIds { remedy, .. } => remedy.clone(),
            Self::Setting {
                setting, wanted, ..
            } => {
                let set = format!(
                    "`sudo sysctl -w {setting}={wanted}`, and a line `{setting} = {wanted}` in \
                     /etc/sysctl.d to keep it"
                );
                match setting.contains("apparmor") {
                    true => format!("{set}; {PROFILE}"),
                    false => set,
                }
            }
            Self::Refused { .. } => {
                "in a container, start that with `--security-opt seccomp=unconfined \
                 --security-opt apparmor=unconfined --security-opt systempaths=unconfined`; \
                 elsewhere the kernel's log (`dmesg`) says what forbids it"
                    .to_owned()
            }
            Self::Map {
                no_new_privileges: true,
                ..
            } => "this process was started with `no_new_privs`, under which set-user-id programs \
                  have no effect: leave out `NoNewPrivileges=` of its unit, or \
                  `--security-opt no-new-privileges` of its container"
                .to_owned(),
            Self::Map { program, .. } => format!(
                "it must belong to root and be set-user-id, on a file system that is not mounted \
                 with `nosuid` (`sudo chmod u+s $(command -v {program})`), and the user's lines in \
                 {} and {} must stand",
                Kind::Users.file(),
                Kind::Groups.file()
            ),
        }
    }

    /// Why the kernel refused `what` with `errno`: the setting that does so, if there is one.
    pub(super) fn of_refusal(what: &'static str, errno: i32) -> Barrier {
        Barrier::of_settings().unwrap_or(Barrier::Refused { what, errno })
    }

    /// The setting of the kernel that forbids ordinary users namespaces, if there is one. A profile
    /// of AppArmor may let this program have them all the same.
    pub fn of_settings() -> Option<Barrier> {
        forbidding(Path::new("/proc/sys"))
    }
}

/// The setting of the kernel that forbids ordinary users namespaces; `sys` is `/proc/sys`.
fn forbidding(sys: &Path) -> Option<Barrier> {
    let number = |path: &str| -> Option<u64> {
        let text = std::fs::read_to_string(sys.join(path)).ok()?;
        text.trim().parse().ok()
    };
    let barrier = |setting, found, wanted| Barrier::Setting {
        setting,
        found,
        wanted,
    };
    if number("user/max_user_namespaces") == Some(0) {
        return Some(barrier("user.max_user_namespaces", 0, 15_000));
    }
    // Of Debian and those that follow it.
    if number("kernel/unprivileged_userns_clone") == Some(0) {
        return Some(barrier("kernel.unprivileged_userns_clone", 0, 1));
    }
    // Of Ubuntu, from 23.10 on.
    let restricted = number("kernel/apparmor_restrict_unprivileged_userns");
    restricted
        .filter(|found| *found != 0)
        .map(|found| barrier("kernel.apparmor_restrict_unprivileged_userns", found, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_setting_that_forbids_them() {
        let temp = tempfile::tempdir().unwrap();
        for dir in ["user", "kernel"] {
            std::fs::create_dir(temp.path().join(dir)).unwrap();
        }
        let set = |path: &str, value: &str| std::fs::write(temp.path().join(path), value).unwrap();
        set("user/max_user_namespaces", "100\n");
        assert_eq!(forbidding(temp.path()), None);
        let check = |path: &str, value: &str, found: &str, todo: &str| {
            set(path, value);
            let barrier = forbidding(temp.path()).expect("it forbids them");
            assert!(barrier.to_string().contains(found), "{barrier}");
            assert!(barrier.remedy().contains(todo), "{}", barrier.remedy());
        };
        check(
            "kernel/apparmor_restrict_unprivileged_userns",
            "1\n",
            "kernel.apparmor_restrict_unprivileged_userns = 1 forbids",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
        check(
            "kernel/unprivileged_userns_clone",
            "0\n",
            "kernel.unprivileged_userns_clone = 0 forbids",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        );
        check(
            "user/max_user_namespaces",
            "0\n",
            "user.max_user_namespaces = 0 forbids",
            "sysctl -w user.max_user_namespaces=15000",
        );
    }

    #[test]
    fn every_barrier_says_what_to_change() {
        let check = |barrier: Barrier, found: &str, todo: &str| {
            assert!(barrier.to_string().contains(found), "{barrier}");
            assert!(barrier.remedy().contains(todo), "{}", barrier.remedy());
        };
        let program = "newuidmap";
        check(
            Barrier::NoProgram { program },
            "newuidmap is not on the PATH",
            "apt-get install uidmap",
        );
        check(
            Barrier::Refused {
                what: "to make a user namespace",
                errno: libc::EPERM,
            },
            "not permitted",
            "seccomp=unconfined",
        );
        let map = |no_new_privileges| Barrier::Map {
            program,
            said: "write to uid_map failed".to_owned(),
            no_new_privileges,
        };
        check(map(false), "write to uid_map failed", "chmod u+s");
        check(map(true), "newuidmap failed", "no_new_privs");
    }
}
