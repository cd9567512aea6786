//! Root without root: an ordinary user's process becomes root of a user namespace.
//!
//! In it, the ids of an image are the user itself (as 0) and those that `/etc/subuid` and
//! `/etc/subgid` give it, and the process may mount overlays, change owners and make namespaces.
//! The set-user-id programs `newuidmap` and `newgidmap` (package `uidmap`) write the map, since the
//! kernel lets an ordinary user map nothing but its own id; a process that a service manager started
//! with the capabilities to set ids writes it itself, and has them no more once it is in.
//!
//! The process itself goes in ([`enter`]), and none is added: signals, exit codes and the end of
//! everything with it are what they are for root. Namespaces that were tried and do not do leave no
//! trace, as they are those of a child until all is known to work.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

mod barrier;
mod enter;
mod ids;

pub use barrier::Barrier;
pub use enter::program;
pub use ids::{Ids, Kind, login};

/// What this process may do.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It is root: of the machine, or of a container.
    Root,
    /// An ordinary user started it, and it is root in a user namespace of its own.
    Namespace(Mapped),
    /// It is an ordinary user's, and can neither build nor run anything.
    Ordinary(Barrier),
}

/// Whose namespace it is, and which ids there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Name of the user on the host.
    pub user: String,
    /// Its user id on the host.
    pub uid: u32,
    /// User ids within: 0 to one below this.
    pub uids: u64,
    /// Group ids within: 0 to one below this.
    pub gids: u64,
}

static STANDING: OnceLock<Standing> = OnceLock::new();

/// Makes the process of an ordinary user root in a user namespace, if this host allows it; for
/// root it does nothing. Says how it went, as [`standing`] does from then on.
///
/// Must be called before any thread is started: the kernel refuses processes with several.
pub fn enter() -> &'static Standing {
    STANDING.get_or_init(|| {
        if rustix::process::geteuid().is_root() {
            return Standing::Root;
        }
        match enter::enter() {
            Ok(mapped) => {
                // Its file is found by name from now on, so before that means another one. A failure
                // is told by whoever starts a sandbox.
                let _ = crate::prepare();
                Standing::Namespace(mapped)
            }
            Err(barrier) => {
                enter::drop_capabilities();
                Standing::Ordinary(barrier)
            }
        }
    })
}

/// What this process may do. An ordinary user's that has not called [`enter`] has met
/// [`Barrier::NotEntered`].
pub fn standing() -> Standing {
    if let Some(standing) = STANDING.get() {
        return standing.clone();
    }
    match rustix::process::geteuid().is_root() {
        true => Standing::Root,
        false => Standing::Ordinary(Barrier::NotEntered),
    }
}

/// Whether this process is in a user namespace that is not the machine's: one of [`enter`], or that
/// of a container. Root of such a one cannot set `trusted.*` attributes, make devices, or mount what
/// reads file systems from disks.
pub fn inside() -> bool {
    !is_of_machine(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

/// What the ids within are outside, as the kernel has it, in one line: equal for processes that
/// see the same owners on the same files.
///
/// # Errors
/// When the map cannot be read.
pub fn map() -> std::io::Result<String> {
    let read = |name: &str| -> std::io::Result<String> {
        let text = fs::read_to_string(Path::new("/proc/self").join(name))?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    Ok(format!(
        "uids {}, gids {}",
        read("uid_map")?,
        read("gid_map")?
    ))
}

/// Whether a map is that of the machine: every id is itself. No map at all is that of a kernel
/// without user namespaces.
fn is_of_machine(map: &str) -> bool {
    let fields: Vec<&str> = map.split_whitespace().collect();
    fields.is_empty() || fields == ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_machines_own_map() {
        let check = |map: &str, expect: bool| assert_eq!(is_of_machine(map), expect, "{map:?}");
        check("         0          0 4294967295\n", true);
        check("", true);
        check("         0       1000          1\n", false);
        check("0 1000 1\n1 100000 65536\n", false);
        check("0 0 65536\n", false);
    }
}
