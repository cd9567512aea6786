//! Known ways out of a build, each contained: by files that a step or a base leaves for the next
//! copy, and by what lies in the state directory afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use chalk_tests::{Project, World, run, tool, unique};
use tar::{EntryType, Header};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_step_reaches_nothing_of_the_host", reaches_nothing),
    ("links_of_a_step_lead_no_copy_out", links_and_copies),
    ("links_of_an_archive_lead_out_of_no_add", links_in_archives),
    ("links_that_change_during_a_copy", racing_links),
    (
        "set_user_id_files_of_layers_are_closed_to_users_of_the_host",
        set_user_id_files,
    ),
];

fn reaches_nothing(world: &World) {
    let service = world.service();
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let watched = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"];
    let before = watched.map(host);
    let pid = service.pid();
    let attempts = [
        ("echo b > /proc/sysrq-trigger", "sysrq"),
        (
            "echo '|/evil' > /proc/sys/kernel/core_pattern",
            "core pattern",
        ),
        ("mount -t tmpfs none /tmp", "mounting"),
        ("mount -o remount,rw /proc/sys", "remounting"),
        ("mkdir /sys/fs/cgroup/evil", "control groups"),
        ("mknod /disk b 254 0 && head -c 1 /disk", "a disk"),
        ("head -c 1 /dev/kmsg", "the log of the kernel"),
        ("test -e /proc/1/root/var/lib/dpkg", "another root"),
        (
            "test $(ls /proc | grep -c '^[0-9]') -gt 20",
            "other processes",
        ),
        (&format!("kill -0 {pid}"), "the service"),
        ("unshare -U true", "a user namespace"),
        ("unshare -m true", "a mount namespace"),
        ("echo evil > /proc/1/exe", "the program of the service"),
        ("test $(wc -c < /proc/keys) -gt 0", "keys"),
        ("cat < /dev/tty", "a terminal"),
        (
            "test -n \"$CHALK_TOKEN$CHALK_STATE_DIR\"",
            "the environment of the service",
        ),
    ];
    let script: Vec<String> = attempts
        .iter()
        .map(|(attempt, name)| {
            format!("if ( {attempt} ) >/dev/null 2>&1; then echo BROKE OUT: {name}; fi")
        })
        .collect();
    let script = format!("echo {}\n{}\necho all tried", unique(), script.join("\n"));
    let project = Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = ['''{script}''']\n"
    ));
    let file = project.arg("image.toml");
    let ran = service.image(&["build", &file, "--progress", "plain"]).ok();
    let said: Vec<&str> = ran
        .stderr
        .lines()
        .filter(|l| l.contains("BROKE OUT:"))
        .collect();
    // The step is printed before it runs, too, with its whole text.
    let said: Vec<&&str> = said.iter().filter(|l| !l.contains("echo BROKE")).collect();
    assert!(said.is_empty(), "{said:#?}");
    assert!(ran.stderr.contains("all tried"), "{ran}");
    assert_eq!(watched.map(host), before);
}

/// A folder of the host that images must not reach, and what is in it.
fn bait(world: &World) -> PathBuf {
    let folder = world.folder("bait");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(folder.join("kept"), "of the host").unwrap();
    folder
}

fn assert_untouched(folder: &Path) {
    let names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["kept"]);
    assert_eq!(
        fs::read_to_string(folder.join("kept")).unwrap(),
        "of the host"
    );
}

fn links_and_copies(world: &World) {
    let service = world.service();
    let folder = bait(world);
    let bait_path = folder.display();
    let climb = "../".repeat(20);
    let dockerfile = format!(
        "FROM busybox\n\
         RUN echo {0}; ln -s {bait_path} /absolute; ln -s {climb}{bait_path} /relative; \
         mkdir /dir; ln -s / /dir/root; ln -s loop /loop; ln -s /proc/1/root /dir/proc\n\
         COPY file /absolute/evil\n\
         COPY file /relative/evil\n\
         COPY file /dir/root{bait_path}/evil\n\
         COPY file /dir/proc{bait_path}/evil\n\
         COPY --chown=12345:12345 dir/ /absolute/\n\
         ADD dir /relative/\n\
         RUN find {bait_path} -type f | sort\n",
        unique()
    );
    let project = Project::new(&[
        ("Dockerfile", &dockerfile),
        ("file", "evil"),
        ("dir/kept", "evil"),
    ]);
    let file = project.arg("Dockerfile");
    let ran = service.image(&["build", &file, "--progress", "plain"]).ok();
    // They arrived where the links lead inside of the image.
    assert!(ran.stderr.contains(&format!("{bait_path}/evil")), "{ran}");
    assert_untouched(&folder);
    let looped = format!(
        "FROM busybox\nRUN echo {}; ln -s loop /loop\nCOPY file /loop/x\n",
        unique()
    );
    let project = Project::new(&[("Dockerfile", &looped), ("file", "evil")]);
    service
        .image(&["build", &project.arg("Dockerfile"), "--progress", "plain"])
        .code(1);
}

fn links_in_archives(world: &World) {
    let service = world.service();
    let folder = bait(world);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: EntryType, link: &str, text: &str| {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(text.len() as u64);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    };
    // Names of a tar header have 100 bytes.
    let short = tempfile::tempdir_in("/tmp").unwrap();
    fs::write(short.path().join("kept"), "of the host").unwrap();
    let target = short.path().display().to_string();
    add("out", EntryType::Symlink, &target, "");
    add("out/evil", EntryType::Regular, "", "evil");
    add("hard", EntryType::Link, "out/kept", "");
    let bytes = tar.into_inner().unwrap();
    let dockerfile = format!("FROM busybox\nRUN echo {}\nADD evil.tar /x/\n", unique());
    let project = Project::new(&[("Dockerfile", &dockerfile)]);
    project.write("evil.tar", &bytes);
    // Refused or kept inside: either will do.
    service.image(&["build", &project.arg("Dockerfile"), "--progress", "plain"]);
    assert_untouched(short.path());
    assert_untouched(&folder);
}

fn racing_links(world: &World) {
    let service = world.service();
    let folder = bait(world);
    let bait_path = folder.display();
    // What a step leaves running would change the way while the next one copies.
    let dockerfile = format!(
        "FROM busybox\n\
         RUN echo {0}; mkdir /way; (while :; do rm -rf /way; ln -s {bait_path} /way; rm -f /way; mkdir /way; done) \
         >/dev/null 2>&1 & sleep 1\n\
         COPY dir/ /way/\n\
         RUN ls /way\n",
        unique()
    );
    let files: Vec<(String, String)> = (0..300)
        .map(|n| (format!("dir/evil{n}"), "evil".to_owned()))
        .collect();
    let project = Project::new(&[("Dockerfile", &dockerfile)]);
    for (path, text) in &files {
        project.write(path, text);
    }
    service.image(&["build", &project.arg("Dockerfile"), "--progress", "plain"]);
    assert_untouched(&folder);
}

fn set_user_id_files(world: &World) {
    let service = world.start("setuid", &[]);
    let mark = format!("evil-{}", unique());
    let project = Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = ['''cp /bin/busybox /{mark} && chmod 4755 /{mark} && chmod 777 / ''']\n"
    ));
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(built["status"], "built");
    let find = ["-name", &mark];
    let found = run(tool("find", [service.state()]).args(find)).ok().stdout;
    let path = found.lines().next().expect("a directory of its layer");
    let mode = fs::metadata(path).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o4755, "the layer has it as it is");
    let other = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut other = tool("setpriv", other);
    // Through a shell: what setpriv itself executes it still finds with the rights of root.
    let ran = run(other.args(["sh", "-c", "exec \"$0\" id", path]));
    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("Permission denied"), "{ran}");
}
