//! Files of the host that a container gets, as Docker has it: names of hosts, and who resolves
//! them.

use std::fs;
use std::path::PathBuf;

use chalk_sandbox::{Contents, Mount, Network};

/// Longest file of the host that is taken over.
const MAX: u64 = 1 << 20;

/// Where libraries look for systemd-resolved's real servers; its own address in
/// `/etc/resolv.conf` works from the host's network alone.
const RESOLV: &str = "/etc/resolv.conf";

/// The files for a sandbox named `hostname`.
pub(super) fn mounts(hostname: &str, network: Network) -> Vec<Mount> {
    let mut files = vec![("/etc/hostname", format!("{hostname}\n").into_bytes())];
    match network {
        Network::Host => {
            // The same network, the same names.
            files.extend(read("/etc/hosts").map(|hosts| ("/etc/hosts", hosts)));
            files.extend(read(RESOLV).map(|resolv| (RESOLV, resolv)));
        }
        Network::None => files.push(("/etc/hosts", hosts(hostname).into_bytes())),
    }
    files
        .into_iter()
        .map(|(target, contents)| Mount::File {
            contents: Contents(contents),
            target: PathBuf::from(target),
            uid: 0,
            gid: 0,
            mode: 0o644,
        })
        .collect()
}

fn read(path: &str) -> Option<Vec<u8>> {
    let size = fs::metadata(path).ok()?.len();
    if size > MAX {
        tracing::warn!(path, size, "too long to be taken into sandboxes");
        return None;
    }
    fs::read(path).ok()
}

/// Docker's own list for a container without a network.
fn hosts(hostname: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n"
    )
}
