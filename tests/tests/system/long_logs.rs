//! Builds that print very much, and clients that cannot keep up.

use std::fs;

use chalk_tests::{Project, Talk, World, run, tool, unique, wait_until};

use crate::Test;
use crate::limits::resident;

pub(crate) const TESTS: &[Test] = &[(
    "a_gigabyte_of_output_and_a_client_that_reads_none",
    a_gigabyte_of_output_and_a_client_that_reads_none,
)];

/// Bytes that the step prints.
const PRINTED: u64 = 1_000_000_000;

fn a_gigabyte_of_output_and_a_client_that_reads_none(world: &World) {
    let mut service = world.start("long-log", &[("build.log_limit", "2g")]);
    // A line of 100 bytes, as `yes` prints it.
    let mark = unique();
    let line = format!("{mark} {}", "x".repeat(98 - mark.len()));
    let command = format!("sleep 1; yes {line} | head -c {PRINTED}; echo; echo the end");
    let text = format!("[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"{command}\"]\n");
    let project = Project::toml(&text);
    let file = project.arg("image.toml");
    let detached = service.image(&["build", &file, "--detach", "--json"]).ok();
    let id = detached.result()["id"].as_str().unwrap().to_owned();

    // Has the first event, and then reads nothing while the build runs.
    let output = world.folder("long-log-reader").join("events");
    let mut curl = tool("curl", ["--silent", "--no-buffer", "--header"]);
    curl.arg(format!("Authorization: Bearer {}", service.token()));
    curl.arg(format!("{}/v1/builds/{id}/events", service.url()));
    let mut reader = Talk::start(&mut curl, &output);
    wait_until("its first event", || {
        fs::metadata(&output).is_ok_and(|data| data.len() > 0)
    });
    reader.signal("-STOP");
    let before = resident(service.pid());
    let mut most = 0;
    wait_until("the end of the build", || {
        most = most.max(resident(service.pid()));
        service.get(&format!("/v1/builds/{id}"))["status"] == "built"
    });
    assert!(
        most < before + (100 << 20),
        "{most} bytes, at first {before}"
    );

    // It has missed nothing.
    reader.signal("-CONT");
    assert_eq!(reader.end(), Some(0), "{}", reader.errors());
    assert!(resident(service.pid()) < before + (100 << 20));
    let numbers = "/^id: / { n++; if ($2 != n) { print \"after \" n \" comes \" $2; exit 1 } } END { print n }";
    let count = run(tool("awk", [numbers]).arg(&output)).ok().stdout;
    assert!(count.trim().parse::<u64>().unwrap() > 1000, "{count}");
    let lines = run(tool("grep", ["--only-matching", &mark, "--count"]).arg(&output));
    assert!(lines.ok().stdout.trim().parse::<u64>().unwrap() > 1000);
    let end = run(tool("tail", ["-c", "4000"]).arg(&output)).ok().stdout;
    assert!(end.contains("\"type\":\"finished\""), "{end}");

    // The text is whole.
    let words = ["--silent", "--header"];
    let mut logs = tool("curl", words);
    logs.arg(format!("Authorization: Bearer {}", service.token()));
    logs.arg(format!("{}/v1/builds/{id}/logs?step=0", service.url()));
    let text = world.folder("long-log-text").join("log");
    assert_eq!(Talk::start(&mut logs, &text).end(), Some(0));
    let size = fs::metadata(&text).unwrap().len();
    assert_eq!(size, PRINTED + "\nthe end\n".len() as u64);
    service.stop();
    for file in [output, text] {
        fs::remove_file(file).unwrap();
    }
}
