//! What a sandbox has of its host: network, devices, and nothing else.

use std::fs;

use chalk_tests::{MadeUp, Node, Project, STEADY, World, noise, unique};
use serde_json::json;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("no_network_but_loopback", no_network),
    ("a_device_by_its_cdi_spec", a_device_by_cdi),
    ("sandboxes_cannot_reach_the_host", cannot_reach_the_host),
];

fn no_network(world: &World) {
    let fleet = world.fleet();
    let fetch = format!("wget -q -O- {}/healthz", fleet.service.url());
    let script = format!("ip -o link | wc -l; {fetch} 2>/dev/null && echo reached");
    let none = ["--network", "none", "--", "sh", "-c", &script];
    let none = fleet.sandbox(&none).run();
    assert_eq!(none.stdout, "1\n", "one device, no way out: {none}");
    let host = ["--network", "host", "--", "sh", "-c", &script];
    let host = fleet.sandbox(&host).run().ok();
    assert!(host.stdout.contains("reached"), "{host}");
    // Asked until it listens.
    let listen = "(nc -l -p 4567 -e cat &); n=0; until echo hi | nc -w 30 127.0.0.1 4567; \
                  do n=$((n+1)); [ $n -lt 1000 ] || exit 1; sleep 0.1; done 2>/dev/null";
    let inside = ["--network", "none", "--", "sh", "-c", listen];
    let inside = fleet.sandbox(&inside).run();
    assert_eq!(inside.stdout, "hi\n", "loopback works: {inside}");
}

fn a_device_by_cdi(world: &World) {
    let service = world.start_empty("cdi", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 100)]);
    let host = Project::new(&[("library", "from the host\n")]);
    let specs = world.folder("cdi-specs");
    let spec = json!({
        "cdiVersion": "0.6.0", "kind": "chalk.test/gadget",
        "containerEdits": {"env": ["GADGETS=on"]},
        "devices": [
            {"name": "zero", "containerEdits": {
                "deviceNodes": [{"path": "/dev/gadget0", "hostPath": "/dev/zero", "permissions": "r"}],
                "mounts": [{
                    "hostPath": host.arg("library"), "containerPath": "/usr/lib/gadget/library",
                    "options": ["ro", "nosuid", "nodev", "bind"],
                }],
                "env": ["GADGET=zero"],
            }},
            {"name": "broken", "containerEdits": {
                "mounts": [{"hostPath": "/absent/library", "containerPath": "/x"}],
            }},
        ],
    });
    fs::write(specs.join("gadget.json"), spec.to_string()).unwrap();
    let gpu = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [\"GPU0=yes\"]\n\
               - name: \"1\"\n  containerEdits:\n    env: [\"GPU1=yes\"]\n- name: all\n  containerEdits:\n    env: [\"GPUS=all\"]\n";
    fs::write(specs.join("gpu.yaml"), gpu).unwrap();
    let set = format!("node.cdi_dirs={}", specs.display());
    let node = Node::start(
        &service,
        "gadgets",
        "local",
        &world.folder("gadgets"),
        &["--set", &set],
    );
    let sandbox = |words: &[&str]| service.sandbox(&image.hash, words).run();
    let script = "head -c 4 /dev/gadget0 | od -An -tx1 | tr -d ' \\n'; echo; cat /usr/lib/gadget/library; echo $GADGET $GADGETS; \
                  touch /usr/lib/gadget/library 2>/dev/null || echo read-only";
    let words = [
        "--device",
        "chalk.test/gadget=zero",
        "--",
        "sh",
        "-c",
        script,
    ];
    let ran = sandbox(&words).ok();
    assert_eq!(ran.stdout, "00000000\nfrom the host\nzero on\nread-only\n");
    // Without it, nothing of it is there.
    let ran = sandbox(&["--", "sh", "-c", "test -e /dev/gadget0 || echo none$GADGET"]);
    assert_eq!(ran.ok().stdout, "none\n");
    for (device, said) in [
        ("chalk.test/gadget=absent", "absent"),
        ("chalk.test/gadget=broken", "/absent/library"),
    ] {
        let ran = sandbox(&["--device", device, "--", "true"]);
        assert!(!ran.status.success(), "{ran}");
        ran.says(&[said]);
    }
    let show = ["--", "sh", "-c", "echo $GPU0-$GPU1-$GPUS"];
    let gpus = |count: &str| sandbox(&[&["--gpus", count], &show[..]].concat());
    assert_eq!(gpus("all").ok().stdout.trim_matches('-').trim_end(), "all");
    assert_eq!(gpus("1").ok().stdout, "yes--\n");
    assert_eq!(gpus("2").ok().stdout, "yes-yes-\n");
    let too_many = gpus("3");
    assert!(!too_many.status.success(), "{too_many}");
    too_many.says(&["3"]);
    drop(node);
}

/// A sandbox is hostile: what root in it may not do.
fn cannot_reach_the_host(world: &World) {
    let fleet = world.fleet();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let attempts = [
        ("mount -t tmpfs none /tmp", "mounting"),
        ("mount -o remount,rw /proc/sys", "remounting"),
        ("echo evil > /proc/sys/kernel/hostname", "sysctl"),
        (
            "mknod /disk b 254 0 && head -c 1 /disk > /dev/null",
            "reading a disk",
        ),
        (
            "chroot /proc/1/root test -d /proc/1/root/var/lib/dpkg",
            "another root",
        ),
        (
            "test $(ls /proc | grep -c '^[0-9]') -gt 20",
            "other processes",
        ),
        ("unshare -U true", "a user namespace"),
        (
            "ls /sys/fs/cgroup/chalk* && mkdir /sys/fs/cgroup/evil",
            "control groups",
        ),
        ("head -c 1 /dev/mem", "memory of the host"),
    ];
    let script: Vec<String> = attempts
        .iter()
        .map(|(attempt, name)| {
            format!("if ( {attempt} ) >/dev/null 2>&1; then echo BROKE OUT: {name}; fi")
        })
        .collect();
    let script = script.join("\n") + "\necho tried";
    let ran = fleet
        .sandbox(&["--memory", "200m", "--", "sh", "-c", &script])
        .run()
        .ok();
    assert_eq!(ran.stdout, "tried\n");
    // Nor through a further command, whose way in is another.
    let id = fleet
        .service
        .detach(&fleet.base.hash, &["--", "sleep", "1000"]);
    let ran = fleet
        .service
        .sandboxes(&["exec", &id, "--", "sh", "-c", &script])
        .ok();
    assert_eq!(ran.stdout, "tried\n");
    let privileges = "grep -E '^(CapBnd|Seccomp|NoNewPrivs):' /proc/self/status";
    let main = fleet
        .sandbox(&["--", "sh", "-c", privileges])
        .run()
        .ok()
        .stdout;
    let exec = fleet
        .service
        .sandboxes(&["exec", &id, "--", "sh", "-c", privileges])
        .ok()
        .stdout;
    assert_eq!(main, exec, "a further command may do no more");
    assert!(main.contains("Seccomp:\t2"), "{main}");
    fleet.service.sandboxes(&["rm", "--force", &id]).ok();
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        host
    );
}
