//! Control groups: whether limits of steps and sandboxes can be kept.

use std::error::Error;

use chalk_sandbox::cgroup::{CgroupError, Controller, Group, Hierarchies, Limits, TOP};
use chalk_sandbox::userns::{self, Standing};

use super::Check;

const NAME: &str = "control groups";

/// Which hierarchy there is, which controllers it has, and whether this user may use them.
pub(super) fn checks() -> Vec<Check> {
    let hierarchies = match Hierarchies::detect() {
        Ok(hierarchies) => hierarchies,
        Err(error) => {
            return vec![Check::warn(
                NAME,
                error.to_string(),
                "mount cgroup2 at /sys/fs/cgroup; until then build steps run without limits, and \
                 `build.memory`, `build.pids` and `build.cpus` must stay unset",
            )];
        }
    };
    vec![controllers(&hierarchies), trial(&hierarchies)]
}

fn controllers(hierarchies: &Hierarchies) -> Check {
    let wanted = [
        (Controller::Memory, "build.memory"),
        (Controller::Pids, "build.pids"),
        (Controller::Cpu, "build.cpus"),
    ];
    let (there, lacking): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|(controller, _)| hierarchies.has(*controller));
    let names = |list: &[(Controller, &str)]| {
        let names: Vec<&str> = list.iter().map(|(c, _)| c.name()).collect();
        names.join(" ")
    };
    let found = format!("{}: {}", hierarchies.form(), names(&there));
    if lacking.is_empty() {
        return Check::ok(NAME, found);
    }
    let settings: Vec<String> = lacking.iter().map(|(_, s)| format!("`{s}`")).collect();
    Check::warn(
        NAME,
        format!("{found}, without {}", names(&lacking)),
        format!(
            "enable the controller (kernel command line such as `cgroup_enable=memory`, or cgroup.subtree_control above this process); until then {} cannot be kept",
            settings.join(", ")
        ),
    )
}

/// Makes a group with limits and removes it again.
fn trial(hierarchies: &Hierarchies) -> Check {
    let name = "limits";
    let path = format!("{TOP}/doctor-{}", std::process::id());
    let limits = Limits {
        memory: Some(64 << 20),
        pids: Some(64),
        cpus: Some(1.0),
    };
    let tried = Group::create(hierarchies, path).and_then(|group| {
        let limited = group.limit(&limits);
        group.remove().and(limited)
    });
    Group::named(hierarchies, TOP).remove_if_empty();
    match tried {
        Ok(()) => Check::ok(name, "a group with limits was made and removed"),
        // Said by the check of the controllers.
        Err(error @ CgroupError::NoController { .. }) => {
            Check::warn(name, error.to_string(), "see the line above")
        }
        Err(error) => {
            let cause = error.source().map(|e| format!(": {e}")).unwrap_or_default();
            let todo = match userns::standing() {
                Standing::Root => {
                    "give the container its control groups writable (`docker run --privileged`, \
                     or `Delegate=yes` in the unit of systemd)"
                }
                _ => {
                    "build steps run without limits, and `build.memory`, `build.pids` and \
                     `build.cpus` must stay unset: an ordinary user has control groups only in a unit of \
                     its own on a host with version 2 (`systemd-run --user --scope -p Delegate=yes chalk \
                     serve`)"
                }
            };
            Check::warn(name, format!("{error}{cause}"), todo)
        }
    }
}
