//! Sandboxes that take all they can get: processes, memory, disk, time, output.

use std::fs;
use std::time::{Duration, Instant};

use chalk_tests::{Talk, World, run, tool, wait_until};

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};
use crate::restarts::{groups, process_with};

pub(crate) const TESTS: &[Test] = &[
    ("a_sandbox_that_forks_without_end", forks_without_end),
    ("a_sandbox_that_takes_all_memory", takes_all_memory),
    ("a_sandbox_that_fills_its_disk", fills_its_disk),
    ("a_sandbox_that_prints_a_gigabyte", prints_a_gigabyte),
    ("a_sandbox_that_prints_to_nobody", prints_to_nobody),
    ("cores_and_processes_are_counted", cores_and_processes),
];

fn forks_without_end(world: &World) {
    let fleet = world.fleet();
    let mark = sleep_mark();
    // Each of them sleeps when no more can be made, so that they stay. It becomes the sleep: a shell
    // that cannot make one ends, and with the first of them the sandbox.
    let bomb = format!("b() {{ b | b & exec sleep {mark}; }}; b");
    let words = ["--pids", "64", "--timeout", "20s", "--", "sh", "-c", &bomb];
    let output = world.folder("bomb").join("out");
    let mut bomb = Talk::start(&mut fleet.sandbox(&words).into_command(), &output);
    wait_for_process(&mark, true);
    // The node, its other sandboxes and the service go on.
    let began = Instant::now();
    let words = ["--node", "first", "--", "echo", "alive"];
    assert_eq!(fleet.sandbox(&words).run().ok().stdout, "alive\n");
    assert!(began.elapsed() < Duration::from_secs(300));
    let count = run(tool("pgrep", ["-f", "-c", &mark]).arg("--")).stdout;
    assert!(count.trim().parse::<u32>().unwrap() < 70, "{count}");
    let code = bomb.end();
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    wait_for_process(&mark, false);
}

fn takes_all_memory(world: &World) {
    let fleet = world.fleet();
    let hog = "x=0123456789abcdef; while :; do x=$x$x; done";
    let words = ["--memory", "48m", "--detach", "--", "sh", "-c", hog];
    let id = fleet.sandbox(&words).run().ok().stdout.trim().to_owned();
    let shown = || fleet.service.get(&format!("/v1/sandboxes/{id}"));
    wait_until("its end", || shown()["state"] == "exited");
    let ended = shown();
    assert_eq!(ended["exit_code"], 137, "{ended:#}");
    assert_eq!(ended["ended_by"], "out_of_memory", "{ended:#}");
    let words = ["--memory", "48m", "--", "sh", "-c", hog];
    fleet.sandbox(&words).run().code(137).says(&["memory"]);
    // What fits, runs.
    fleet.sandbox(&["--memory", "48m", "--", "true"]).run().ok();
    for name in ["first", "second"] {
        assert_eq!(
            fleet.service.get(&format!("/v1/nodes/{name}"))["state"],
            "ready"
        );
    }
}

fn fills_its_disk(world: &World) {
    let fleet = world.fleet();
    let fill = "cat /dev/zero > /fill; stat -c %s /fill; echo after > /small || echo refused";
    let words = ["--disk", "16m", "--node", "first", "--", "sh", "-c", fill];
    let ran = fleet.sandbox(&words).run().ok();
    let size: u64 = ran.stdout.lines().next().unwrap().parse().unwrap();
    assert!(size <= 16 << 20, "{ran}");
    assert!(size >= 8 << 20, "{ran}");
    assert!(ran.stderr.contains("No space left"), "{ran}");
    // Many small files take room, too.
    let many = "n=0; while echo x > /tmp/$n 2>/dev/null; do n=$((n+1)); [ $n -lt 200000 ] || break; done; echo $n";
    let words = ["--disk", "4m", "--node", "first", "--", "sh", "-c", many];
    let ran = fleet.sandbox(&words).run().ok();
    let count: u64 = ran.stdout.trim().parse().unwrap();
    assert!(count < 200_000, "{ran}");
    // Others have their own.
    let words = [
        "--disk",
        "16m",
        "--node",
        "first",
        "--",
        "sh",
        "-c",
        "echo x > /x && cat /x",
    ];
    assert_eq!(fleet.sandbox(&words).run().ok().stdout, "x\n");
}

/// Bytes of memory of a process.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn prints_a_gigabyte(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let print = "yes 0123456789abcdef0123456789abcdef | head -c 1000000000; echo; echo the end";
    let id = service.detach(
        &fleet.base.hash,
        &["--node", "first", "--", "sh", "-c", print],
    );
    let mut most = 0;
    wait_until("the end of it", || {
        most = most
            .max(resident(fleet.first.pid()))
            .max(resident(service.pid()));
        service.get(&format!("/v1/sandboxes/{id}"))["state"] == "exited"
    });
    assert!(most < 400 << 20, "{most} bytes of memory");
    // The newest of it is kept, up to a limit, and what was dropped is told.
    let output = world.folder("gigabyte").join("logs");
    let words = ["compute", "sandbox", "logs", &id];
    let mut logs = Talk::start(&mut service.chalk().args(words).into_command(), &output);
    assert_eq!(logs.end(), Some(0), "{}", logs.errors());
    let kept = fs::metadata(&output).unwrap().len();
    assert!(
        (1 << 20..200 << 20).contains(&kept),
        "{kept} bytes are kept"
    );
    let end = run(tool("tail", ["-n", "1"]).arg(&output)).ok().stdout;
    assert_eq!(end, "the end\n");
    assert!(logs.errors().contains("dropped"), "{}", logs.errors());
    service.sandboxes(&["rm", &id]).ok();
}

fn prints_to_nobody(world: &World) {
    let fleet = world.fleet();
    // Its client is stopped and reads nothing; that holds up nobody else.
    let print = "yes 0123456789abcdef | head -c 300000000";
    let output = world.folder("nobody").join("out");
    let words = ["--node", "first", "--", "sh", "-c", print];
    let mut client = Talk::start(&mut fleet.sandbox(&words).into_command(), &output);
    wait_until("some output", || {
        fs::metadata(&output).is_ok_and(|data| data.len() > 0)
    });
    client.signal("-STOP");
    for _ in 0..3 {
        let words = ["--node", "first", "--", "echo", "other"];
        assert_eq!(fleet.sandbox(&words).run().ok().stdout, "other\n");
    }
    assert!(resident(fleet.first.pid()) < 400 << 20);
    assert!(resident(fleet.service.pid()) < 400 << 20);
    client.signal("-CONT");
    assert_eq!(client.end(), Some(0), "{}", client.errors());
}

fn cores_and_processes(world: &World) {
    let fleet = world.fleet();
    let mark = sleep_mark();
    let work = format!("sleep {mark} & while :; do :; done");
    let words = ["--cpu", "0.05", "--", "sh", "-c", &work];
    let id = fleet.service.detach(&fleet.base.hash, &words);
    wait_for_process(&mark, true);
    let groups = groups(&process_with(&mark));
    wait_until("it is held back", || {
        let stats = groups.iter().map(|group| group.join("cpu.stat"));
        let stats = stats.filter_map(|path| fs::read_to_string(path).ok());
        let count = |text: String| -> Option<u64> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("nr_throttled "));
            line?.parse().ok()
        };
        stats.filter_map(count).any(|count| count > 2)
    });
    fleet.service.sandboxes(&["rm", "--force", &id]).ok();
    wait_for_process(&mark, false);
    let script = "for n in $(seq 1 20); do sleep 5 & done 2>/dev/null; echo made";
    let ran = fleet
        .sandbox(&["--pids", "8", "--", "sh", "-c", script])
        .run();
    assert!(
        !ran.stdout.contains("made") || ran.stderr.contains("fork"),
        "{ran}"
    );
}
