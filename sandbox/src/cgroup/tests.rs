#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

/// A made-up version 2 hierarchy with the files that the kernel would offer.
fn version_2(controllers: &str) -> (tempfile::TempDir, Hierarchies) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let root = directory.path();
    fs::write(root.join("cgroup.controllers"), controllers).expect("written");
    fs::write(root.join("cgroup.subtree_control"), "").expect("written");
    let mounts = format!(
        "24 23 0:22 / /sys/fs rw shared:7 - sysfs sysfs rw\n\
         31 24 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
        root.display()
    );
    let hierarchies = Hierarchies::from_mounts(&mounts).expect("found");
    (directory, hierarchies)
}

fn group(directory: &Path, hierarchies: &Hierarchies) -> Group {
    // What the kernel does when a directory is made.
    for name in ["chalk", "chalk/one"] {
        let path = directory.join(name);
        fs::create_dir_all(&path).expect("made");
        for file in [
            "cgroup.subtree_control",
            "cgroup.procs",
            "cgroup.kill",
            "cpu.max",
            "memory.max",
            "memory.swap.max",
            "pids.max",
        ] {
            fs::write(path.join(file), "").expect("written");
        }
    }
    Group::create(hierarchies, "chalk/one").expect("made")
}

#[test]
fn limits_of_version_2_are_written() {
    let (directory, hierarchies) = version_2("cpuset cpu io memory pids");
    let group = group(directory.path(), &hierarchies);
    let limits = Limits {
        cpus: Some(1.5),
        memory: Some(64 << 20),
        pids: Some(100),
    };
    group.limit(&limits).expect("limited");
    let check = |file: &str, expect: &str| {
        let text = fs::read_to_string(directory.path().join(file)).expect("readable");
        assert_eq!(text, expect, "{file}");
    };
    check("cgroup.subtree_control", "+cpu +memory +pids");
    check("chalk/cgroup.subtree_control", "+cpu +memory +pids");
    check("chalk/one/cgroup.subtree_control", "");
    check("chalk/one/cpu.max", "150000 100000");
    check("chalk/one/memory.max", "67108864");
    check("chalk/one/memory.swap.max", "0");
    check("chalk/one/pids.max", "100");
    group.kill().expect("killed");
    check("chalk/one/cgroup.kill", "1");
    assert_eq!(group.directories(), [directory.path().join("chalk/one")]);
}

#[test]
fn use_of_version_2_is_read() {
    let (directory, hierarchies) = version_2("cpu memory pids");
    let group = group(directory.path(), &hierarchies);
    let write = |file: &str, text: &str| {
        fs::write(directory.path().join("chalk/one").join(file), text).expect("written");
    };
    write(
        "memory.events",
        "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
    );
    write("memory.current", "4096\n");
    write("pids.current", "7\n");
    write("pids.events", "max 4\n");
    write("cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
    let expect = Stats {
        oom_kills: 2,
        fork_refusals: 4,
        memory: 4096,
        cpu: Duration::from_micros(1500),
        pids: 7,
    };
    assert_eq!(group.stats().expect("read"), expect);
    write("memory.current", "much");
    let error = group.stats().expect_err("no number").to_string();
    assert!(error.contains("memory.current"), "{error}");
}

#[test]
fn a_limit_without_controller_is_an_error() {
    let check = |controllers: &str, limits: Limits, expect: &str| {
        let (directory, hierarchies) = version_2(controllers);
        let group = group(directory.path(), &hierarchies);
        match group.limit(&limits) {
            Ok(()) => assert_eq!(expect, ""),
            Err(error) => assert!(error.to_string().contains(expect), "{error}"),
        }
    };
    let cpus = |cpus| Limits {
        cpus: Some(cpus),
        ..Limits::default()
    };
    let memory = Limits {
        memory: Some(1 << 20),
        ..Limits::default()
    };
    let pids = Limits {
        pids: Some(1),
        ..Limits::default()
    };
    check("", Limits::default(), "");
    check("memory pids", cpus(1.0), "no cpu controller");
    check("cpu pids", memory, "no memory controller");
    check("cpu memory", pids, "no pids controller");
    check("cpu memory pids", cpus(1.0), "");
    check("cpu memory pids", cpus(0.001), "0.001 cores");
    check("cpu memory pids", cpus(f64::NAN), "NaN cores");
    check("cpu memory pids", cpus(-1.0), "-1 cores");
}

#[test]
fn hierarchies_are_found_in_mounts() {
    let empty = tempfile::tempdir().expect("temporary directory");
    fs::write(empty.path().join("cgroup.controllers"), "\n").expect("written");
    let hybrid = format!(
        "30 24 0:26 / /sys/fs/cgroup/cpu\\040x rw - cgroup cgroup rw,cpu,cpuacct\n\
         31 24 0:27 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory\n\
         32 24 0:27 / /elsewhere rw - cgroup cgroup rw,memory\n\
         33 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
         34 24 0:29 / {} rw - cgroup2 cgroup2 rw\n",
        empty.path().display()
    );
    let found = Hierarchies::from_mounts(&hybrid).expect("found");
    assert_eq!(
        found.roots(),
        [
            Path::new("/sys/fs/cgroup/cpu x"),
            Path::new("/sys/fs/cgroup/memory")
        ]
    );
    assert!(found.has(Controller::CpuAccounting) && !found.has(Controller::Pids));
    let error = Hierarchies::from_mounts("").expect_err("nothing there");
    assert!(matches!(error, CgroupError::NotMounted), "{error}");
}

/// On whatever this machine has, as root.
#[test]
fn a_real_group_limits_counts_and_goes() {
    let hierarchies = Hierarchies::detect().expect("mounted");
    let name = format!("chalk-test-{}/inner", std::process::id());
    let group = Group::create(&hierarchies, &name).expect("made");
    let limits = Limits {
        cpus: Some(0.5),
        memory: Some(32 << 20),
        pids: Some(20),
    };
    group.limit(&limits).expect("limited");
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("starts");
    for directory in group.directories() {
        fs::write(directory.join("cgroup.procs"), child.id().to_string()).expect("joined");
    }
    let stats = group.stats().expect("read");
    assert_eq!((stats.pids, stats.oom_kills), (1, 0));
    // The parent goes with all below it, processes included.
    let parent = format!("chalk-test-{}", std::process::id());
    let reaper = std::thread::spawn(move || child.wait().expect("ended"));
    Group::named(&hierarchies, &parent)
        .remove()
        .expect("removed");
    let status = reaper.join().expect("no panic");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    assert!(group.directories().iter().all(|path| !path.exists()));
    group.remove().expect("removed already");
}
