//! Sandboxes: what a command sees, what comes out of it, and its life from start to removal.

use std::fs::{self, File};
use std::process::Stdio;

use chalk_tests::{MadeUp, Node, Project, STEADY, Talk, World, noise, request, unique, wait_until};
use serde_json::{Value, json};

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};

pub(crate) const TESTS: &[Test] = &[
    (
        "the_config_of_the_image_is_followed",
        the_config_is_followed,
    ),
    ("flags_stand_over_the_image", flags_stand_over_the_image),
    ("exit_codes_are_passed_on", exit_codes),
    ("what_cannot_be_started", what_cannot_be_started),
    ("64_mebibytes_in_and_out_stay_whole", input_and_output),
    ("nothing_of_a_sandbox_lasts", nothing_lasts),
    ("detached_with_logs_and_exec", detached),
    ("stop_asks_and_then_kills", stop_asks_and_then_kills),
    ("a_client_that_goes_away", a_client_that_goes_away),
    ("removed_and_forgotten", removed_and_forgotten),
    ("placed_where_it_is_warm", placed_where_it_is_warm),
    ("a_command_without_a_service", without_a_service),
];

fn the_config_is_followed(world: &World) {
    let fleet = world.fleet();
    let config = json!({
        "Env": ["PATH=/bin", "COLOR=blue", "EMPTY="], "Entrypoint": ["sh", "-c"],
        "Cmd": ["id -u; id -g; pwd; echo $COLOR$EMPTY; exit 5"], "User": "worker",
        "WorkingDir": "/home/deep", "StopSignal": "SIGUSR1",
    });
    let image = MadeUp::with_config(world, &fleet.service, &[], &config);
    let sandbox = |words: &[&str]| fleet.service.sandbox(&image.hash, words).run();
    let plain = sandbox(&[]).code(5);
    assert_eq!(plain.stdout, "1000\n1000\n/home/deep\nblue\n");
    // A command stands for the image's own, behind its entrypoint.
    let own = sandbox(&["--", "echo own $0", "name"]).ok();
    assert_eq!(own.stdout, "own name\n");
    let other = sandbox(&["--entrypoint", "echo", "--", "a", "b"]).ok();
    assert_eq!(other.stdout, "a b\n");
    let none = sandbox(&["--entrypoint", "", "--", "echo", "c"]).ok();
    assert_eq!(none.stdout, "c\n");
    // The image's own signal asks it to end.
    let script = "trap 'exit 6' USR1; trap 'exit 7' TERM; echo set; while :; do sleep 0.05; done";
    let id = fleet.service.detach(&image.hash, &["--", script]);
    wait_until("the traps are set", || {
        fleet.service.sandboxes(&["logs", &id]).stdout == "set\n"
    });
    fleet.service.sandboxes(&["stop", &id]).ok();
    let ended = fleet.service.get(&format!("/v1/sandboxes/{id}"));
    assert_eq!(ended["exit_code"], 6, "{ended:#}");
    assert_eq!(ended["ended_by"], "stopped", "{ended:#}");
}

fn flags_stand_over_the_image(world: &World) {
    let fleet = world.fleet();
    let files = Project::new(&[("env", "FROM_FILE=yes\n# comment\nQUOTED=a b\n")]);
    let env_file = files.arg("env");
    let script = "echo $A $B $FROM_FILE $QUOTED; pwd; id -u; id -g; hostname";
    let words = [
        "--env",
        "A=1",
        "--env",
        "B",
        "--env-file",
        &env_file,
        "--workdir",
        "/made/here",
        "--user",
        "1000:7",
        "--hostname",
        "box",
        "--",
        "sh",
        "-c",
        script,
    ];
    let ran = fleet.sandbox(&words).env("B", "from outside").run().ok();
    assert_eq!(
        ran.stdout,
        "1 from outside yes a b\n/made/here\n1000\n7\nbox\n"
    );
    let words = ["--user", "nobody-here", "--", "true"];
    let refused = fleet.sandbox(&words).run();
    assert!(!refused.status.success(), "{refused}");
    refused.says(&["nobody-here"]);
    let words = [
        "--read-only",
        "--",
        "sh",
        "-c",
        "touch /x || touch /tmp/y || echo cannot",
    ];
    let ran = fleet.sandbox(&words).run();
    assert!(
        ran.stdout.contains("cannot") || !ran.stderr.is_empty(),
        "{ran}"
    );
    let words = ["--read-only", "--", "touch", "/x"];
    assert!(!fleet.sandbox(&words).run().status.success());
    for bad in [["--env", "=x"], ["--workdir", "relative"]] {
        fleet
            .sandbox(&[&bad[..], &["--", "true"]].concat())
            .run()
            .code(2);
    }
}

fn exit_codes(world: &World) {
    let fleet = world.fleet();
    let check = |words: &[&str], expect: i32| {
        fleet.sandbox(&[&["--"], words].concat()).run().code(expect);
    };
    check(&["true"], 0);
    check(&["sh", "-c", "exit 3"], 3);
    check(&["sh", "-c", "exit 255"], 255);
    check(&["sh", "-c", "kill -KILL $$"], 137);
    check(&["sh", "-c", "kill -TERM $$"], 143);
    check(&["sh", "-c", "absent-command"], 127);
    check(&["absent-command"], 127);
    check(&["/etc/passwd"], 126);
    check(&["/etc"], 126);
}

fn what_cannot_be_started(world: &World) {
    let fleet = world.fleet();
    for (words, said) in [
        (&["--cpu", "0"][..], "cpu"),
        (&["--cpu", "many"], "many"),
        (&["--memory", "lots"], "lots"),
        (&["--memory", "0"], "memory"),
        (&["--pids", "0"], "pids"),
        (&["--timeout", "soon"], "soon"),
        (&["--gpus", "some"], "some"),
        (&["--device", "noslash"], "noslash"),
        (&["--network", "bridge"], "bridge"),
    ] {
        let ran = fleet.sandbox(&[words, &["--", "true"]].concat()).run();
        ran.code(2).says(&[said]);
    }
    // A device that no spec knows.
    let words = ["--device", "chalk.test/none=x", "--", "true"];
    let ran = fleet.sandbox(&words).run();
    assert!(!ran.status.success(), "{ran}");
    ran.says(&["chalk.test/none"]);
    let usage = fleet
        .service
        .chalk()
        .args(["sandbox", "run", "--", "true"])
        .run();
    usage.code(2).says(&["--image"]);
}

/// Reads from `input`, writes to `output`; both are files.
fn piped(command: chalk_tests::Chalk, input: &std::path::Path, output: &std::path::Path) {
    let mut command = command.into_command();
    command.stdin(File::open(input).unwrap());
    command
        .stdout(File::create(output).unwrap())
        .stderr(Stdio::inherit());
    let status = command.status().unwrap();
    assert!(status.success(), "{status:?}");
}

fn input_and_output(world: &World) {
    const SIZE: usize = 64 << 20;
    let fleet = world.fleet();
    let folder = world.folder("pipes");
    let (input, output) = (folder.join("in"), folder.join("out"));
    let bytes = noise("pipes", SIZE);
    fs::write(&input, &bytes).unwrap();
    piped(
        fleet.sandbox(&["--interactive", "--", "cat"]),
        &input,
        &output,
    );
    assert!(
        fs::read(&output).unwrap() == bytes,
        "64 MiB through `cat` came out changed"
    );
    // Standard error is kept apart, and nothing of standard input is read without `-i`.
    let both = fleet.sandbox(&["--", "sh", "-c", "echo out; echo err >&2; cat"]);
    let both = both.input("unread").run().ok();
    assert_eq!(both.stdout, "out\n");
    assert!(
        both.stderr.contains("err\n") && !both.stdout.contains("unread"),
        "{both}"
    );
    // Input that nobody reads hinders no end.
    let ran = fleet
        .sandbox(&["--interactive", "--", "true"])
        .input(bytes)
        .run();
    ran.ok();
    let shown = fleet
        .sandbox(&["-i", "--", "sha256sum"])
        .input("abc")
        .run()
        .ok();
    assert!(
        shown
            .stdout
            .starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        "{shown}"
    );
}

fn nothing_lasts(world: &World) {
    let fleet = world.fleet();
    let script = "test ! -e /left && test -e /bin/ls && echo x > /left && rm /bin/ls && echo fresh";
    for _ in 0..2 {
        let words = ["--node", "first", "--", "sh", "-c", script];
        assert_eq!(fleet.sandbox(&words).run().ok().stdout, "fresh\n");
    }
}

fn detached(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let script = "echo one; echo two >&2; while [ ! -e /tmp/end ]; do sleep 0.02; done; exit 4";
    let id = service.detach(
        &fleet.base.hash,
        &[
            "--env",
            "A=b",
            "--workdir",
            "/tmp",
            "--",
            "sh",
            "-c",
            script,
        ],
    );
    wait_until("its output", || {
        let logs = service.sandboxes(&["logs", &id]).ok();
        logs.stdout == "one\n" && logs.stderr.contains("two\n")
    });
    let listed = service.sandboxes(&["ls", "--json"]).ok().json();
    let mut listed = listed.as_array().unwrap().iter();
    let own = listed.find(|sandbox| sandbox["id"] == id.as_str()).unwrap();
    assert_eq!(own["state"], "running", "{own:#}");
    assert_eq!(own["image_hash"], fleet.base.hash.as_str(), "{own:#}");
    let exec = |words: &[&str]| service.sandboxes(&[&["exec", &id], words].concat());
    assert_eq!(
        exec(&["--", "sh", "-c", "echo $A; pwd"]).ok().stdout,
        "b\n/tmp\n"
    );
    let words = [
        "--env",
        "A=c",
        "--workdir",
        "/etc",
        "--user",
        "1000",
        "--",
        "sh",
        "-c",
        "echo $A; pwd; id -u",
    ];
    assert_eq!(exec(&words).ok().stdout, "c\n/etc\n1000\n");
    exec(&["--", "sh", "-c", "exit 11"]).code(11);
    exec(&["--", "absent-command"]).code(127);
    exec(&["--", "sh", "-c", "kill -KILL $$"]).code(137);
    let input = ["compute", "sandbox", "exec", "-i", &id, "--", "cat"];
    assert_eq!(
        service
            .chalk()
            .args(input)
            .input("through")
            .run()
            .ok()
            .stdout,
        "through"
    );
    // Its processes see each other, and none of the host.
    assert!(exec(&["--", "ps"]).ok().stdout.lines().count() < 10);
    let follow = world.folder("detached").join("logs");
    let words = ["compute", "sandbox", "logs", "--follow", &id];
    let mut follow = Talk::start(&mut service.chalk().args(words).into_command(), &follow);
    follow.wait_for("one\n");
    exec(&["--", "touch", "/tmp/end"]).ok();
    assert!(matches!(follow.end(), Some(0 | 4)), "{}", follow.errors());
    let ended = service.get(&format!("/v1/sandboxes/{id}"));
    assert_eq!(
        (&ended["state"], &ended["exit_code"]),
        (&json!("exited"), &json!(4)),
        "{ended:#}"
    );
    // Its output outlives it; a further command cannot be run.
    assert_eq!(service.sandboxes(&["logs", &id]).ok().stdout, "one\n");
    let late = exec(&["--", "true"]);
    assert_eq!(late.status.code(), Some(1), "{late}");
    late.says(&[&id]);
}

fn stop_asks_and_then_kills(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let shown = |id: &str| service.get(&format!("/v1/sandboxes/{id}"));
    let start = |script: &str| {
        let id = service.detach(&fleet.base.hash, &["--", "sh", "-c", script]);
        wait_until("it is set up", || {
            service.sandboxes(&["logs", &id]).stdout == "set\n"
        });
        id
    };
    let polite = start("trap 'exit 21' TERM; echo set; while :; do sleep 0.05; done");
    service.sandboxes(&["stop", &polite]).ok();
    assert_eq!(shown(&polite)["exit_code"], 21, "{:#}", shown(&polite));
    let mark = sleep_mark();
    let script =
        format!("trap '' TERM; setsid sleep {mark} & echo set; while :; do sleep 0.05; done");
    let stubborn = start(&script);
    service
        .sandboxes(&["stop", "--grace", "300ms", &stubborn])
        .ok();
    assert_eq!(shown(&stubborn)["exit_code"], 137, "{:#}", shown(&stubborn));
    assert_eq!(shown(&stubborn)["ended_by"], "stopped");
    wait_for_process(&mark, false);
    // Once more is no error; one that is not there is.
    service.sandboxes(&["stop", &stubborn]).ok();
    service.sandboxes(&["stop", "0000absent"]).code(4);

    let words = ["--timeout", "500ms", "--", "sleep", "1000"];
    let late = fleet.sandbox(&words).run();
    assert!(!late.status.success(), "{late}");
    late.says(&["time"]);
    let listed = service.sandboxes(&["ls", "--all", "--json"]).ok().json();
    let listed = listed.as_array().unwrap();
    assert!(
        listed
            .iter()
            .any(|sandbox| sandbox["ended_by"] == "timed_out")
    );
}

fn a_client_that_goes_away(world: &World) {
    let [lost_after, images] = STEADY;
    let settings = [lost_after, images, ("sandboxes.disconnect_grace", "500ms")];
    let service = world.start_empty("goes", &settings);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 100)]);
    let node = Node::start(&service, "n", "local", &world.folder("n"), &[]);
    let folder = world.folder("goes-talk");
    let start = |name: &str, mark: &str| {
        let script = format!("echo up; exec sleep {mark}");
        let chalk = service.sandbox(&image.hash, &["--", "sh", "-c", &script]);
        let talk = Talk::start(&mut chalk.into_command(), &folder.join(name));
        // It listens to signals, and the service has heard of it.
        talk.wait_for("up\n");
        wait_for_process(mark, true);
        talk
    };
    // Interrupted, it passes the signal on.
    let mark = sleep_mark();
    let mut client = start("interrupted", &mark);
    client.signal("-INT");
    assert_eq!(client.end(), Some(130), "{}", client.errors());
    wait_for_process(&mark, false);
    // Killed, it cannot; the service notices.
    let mark = sleep_mark();
    let client = start("killed", &mark);
    drop(client);
    wait_for_process(&mark, false);
    // One that was detached stays.
    let mark = sleep_mark();
    let script = format!("echo up; exec sleep {mark}");
    let id = service.detach(&image.hash, &["--", "sh", "-c", &script]);
    let words = ["compute", "sandbox", "logs", "--follow", &id];
    let follower = Talk::start(
        &mut service.chalk().args(words).into_command(),
        &folder.join("f"),
    );
    follower.wait_for("up\n");
    wait_for_process(&mark, true);
    drop(follower);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(
        service.get(&format!("/v1/sandboxes/{id}"))["state"],
        "running"
    );
    service.sandboxes(&["rm", "--force", &id]).ok();
    wait_for_process(&mark, false);
    drop(node);
}

fn removed_and_forgotten(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let mark = sleep_mark();
    let id = service.detach(&fleet.base.hash, &["--", "sleep", &mark]);
    wait_for_process(&mark, true);
    service.sandboxes(&["rm", &id]).code(2).says(&["--force"]);
    service.sandboxes(&["rm", "--force", &id]).ok();
    wait_for_process(&mark, false);
    service.sandboxes(&["show", &id]).code(4);
    service.sandboxes(&["rm", &id]).code(4);
    // By a prefix that fits one.
    let id = service.detach(&fleet.base.hash, &["--", "true"]);
    wait_until("its end", || {
        service.get(&format!("/v1/sandboxes/{id}"))["state"] == "exited"
    });
    service.sandboxes(&["rm", &id[..id.len() - 1]]).ok();
    service.sandboxes(&["logs", &id]).code(4);
}

fn placed_where_it_is_warm(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let placed = |words: &[&str], image: &str| -> Value {
        let id = service.detach(image, &[words, &["--", "true"]].concat());
        wait_until("its end", || {
            service.get(&format!("/v1/sandboxes/{id}"))["state"] == "exited"
        });
        service.get(&format!("/v1/sandboxes/{id}"))
    };
    for (warm, cold) in [("first", "second"), ("second", "first")] {
        let image = MadeUp::new(world, service, &[noise(&unique(), 1000)]);
        service
            .warm(&["--image", &image.hash, "--node", warm, "--wait"])
            .ok();
        for _ in 0..3 {
            let sandbox = placed(&[], &image.hash);
            assert_eq!(
                (&sandbox["node"], &sandbox["warm"]),
                (&json!(warm), &json!(true))
            );
        }
        // Asked for, the other fetches it first.
        let sandbox = placed(&["--node", cold], &image.hash);
        assert_eq!(
            (&sandbox["node"], &sandbox["warm"]),
            (&json!(cold), &json!(false))
        );
        let sandbox = placed(&["--node", cold], &image.hash);
        assert_eq!(sandbox["warm"], true, "{sandbox:#}");
    }
    let sandbox = placed(&["--label", "disk=ssd"], &fleet.base.hash);
    assert_eq!(sandbox["node"], "first");
    let words = ["--label", "disk=tape", "--", "true"];
    fleet.sandbox(&words).run().code(4).says(&["disk=tape"]);
}

/// One-shot commands bring service and node in their own process, and take them along.
fn without_a_service(world: &World) {
    let state = world.state("alone");
    let chalk = |words: &[&str]| {
        let chalk = chalk_tests::Chalk::on(&state).args(["--set", "prewarm.images="]);
        chalk.args(words).run()
    };
    let project = Project::new(&[
        (
            "image.toml",
            "[image]\nbase = \"busybox\"\n[[step]]\nadd_local_file = { src = \"f\", dest = \"/f\" }\n",
        ),
        ("f", "mounted\n"),
    ]);
    let file = project.arg("image.toml");
    chalk(&["image", "build", &file]).ok();
    let warm = chalk(&["image", "warm", "--image", &file, "--wait", "--json"])
        .ok()
        .json();
    assert_eq!(warm["nodes"][0]["state"], "ready", "{warm:#}");
    let ran = chalk(&[
        "sandbox",
        "run",
        "--image",
        &file,
        "--",
        "sh",
        "-c",
        "cat /f; exit 8",
    ]);
    assert_eq!(ran.code(8).stdout, "mounted\n");
    let listing = chalk(&["node", "cache", "ls", "--json"]).ok();
    assert!(listing.stdout.contains("sha256:"), "{listing}");

    // `chalk serve --node` is the same, and stays.
    let mut service = world.start("serve-node", &STEADY);
    service.stop();
    service.start_again(&["--node"]);
    wait_until("its node", || {
        let nodes = service.get("/v1/nodes");
        nodes[0]["state"] == "ready"
    });
    let built = service.build(&file);
    let hash = built["image_hash"].as_str().unwrap();
    let ran = service.sandbox(hash, &["--", "echo", "served"]).run().ok();
    assert_eq!(ran.stdout, "served\n");
    let info = request(&format!("{}/v1/nodes", service.url()), None, &[]);
    assert_eq!(info.status, 401);
    service.stop();
}
