//! What the kernel offers.

use std::path::Path;

use super::Check;

/// Oldest kernel that sandboxes run on (`mount_setattr`).
const OLDEST: (u32, u32) = (5, 12);

/// Kernel, file systems, namespaces.
pub(super) fn checks() -> Vec<Check> {
    let release = read("/proc/sys/kernel/osrelease");
    let filesystems = read("/proc/filesystems");
    vec![
        kernel(&release),
        overlay(&filesystems, &release),
        erofs(&filesystems, &release),
        namespaces(Path::new("/proc/self/ns")),
    ]
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim_end().to_owned()
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().ok());
    let (major, minor) = OLDEST;
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(a), Some(b)) if (a, b) >= OLDEST => Check::ok("kernel", format!("Linux {release}")),
        (Some(_), Some(_)) => Check::fail(
            "kernel",
            format!("Linux {release}"),
            format!("boot Linux {major}.{minor} or newer: build steps need mount_setattr(2)"),
        ),
        _ => Check::warn(
            "kernel",
            "its version cannot be read",
            "see that /proc is mounted",
        ),
    }
}

/// Whether the kernel has a file system, now or as a module that it can load.
fn has(filesystems: &str, name: &str) -> bool {
    let mut known = filesystems.lines();
    known.any(|line| line.split_whitespace().last() == Some(name))
}

fn module(release: &str, path: &str) -> bool {
    let dir = Path::new("/lib/modules").join(release).join("kernel/fs");
    ["", ".xz", ".zst", ".gz"]
        .iter()
        .any(|end| dir.join(format!("{path}{end}")).exists())
}

fn overlay(filesystems: &str, release: &str) -> Check {
    if has(filesystems, "overlay") {
        return Check::ok("overlay", "the kernel has it");
    }
    match module(release, "overlayfs/overlay.ko") {
        true => Check::warn(
            "overlay",
            "a module that is not loaded",
            "load it: `modprobe overlay`, and name it in /etc/modules-load.d",
        ),
        false => Check::fail(
            "overlay",
            "the kernel lacks it",
            "boot a kernel with CONFIG_OVERLAY_FS: build steps and sandboxes are overlays",
        ),
    }
}

fn erofs(filesystems: &str, release: &str) -> Check {
    if has(filesystems, "erofs") {
        return Check::ok("erofs", "the kernel has it");
    }
    let found = match module(release, "erofs/erofs.ko") {
        true => "a module that is not loaded",
        false => "the kernel lacks it",
    };
    Check::warn(
        "erofs",
        found,
        "nodes unpack layers into directories instead, which is slower; `modprobe erofs`, or set `node.cache_form` to `directory`",
    )
}

fn namespaces(dir: &Path) -> Check {
    let wanted = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"];
    let lacking: Vec<&str> = wanted
        .into_iter()
        .filter(|name| dir.join(name).symlink_metadata().is_err())
        .collect();
    match lacking.is_empty() {
        true => Check::ok("namespaces", wanted.join(" ")),
        false => Check::fail(
            "namespaces",
            format!("the kernel lacks {}", lacking.join(" ")),
            "boot a kernel with CONFIG_NAMESPACES and all kinds of them",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn old_and_odd_kernels() {
        let check = |release: &str, expect: Status| assert_eq!(kernel(release).status, expect);
        check("6.18.2-amd64", Status::Ok);
        check("5.12.0", Status::Ok);
        check("5.10.0-30-amd64", Status::Fail);
        check("", Status::Warn);
    }

    #[test]
    fn file_systems_that_are_missing() {
        let known = "nodev\tproc\n\text4\nnodev\toverlay\n";
        assert_eq!(overlay(known, "0-none").status, Status::Ok);
        assert_eq!(overlay("nodev\tproc\n", "0-none").status, Status::Fail);
        assert_eq!(erofs(known, "0-none").status, Status::Warn);
        assert_eq!(namespaces(Path::new("/nonexistent")).status, Status::Fail);
    }
}
