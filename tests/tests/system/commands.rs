//! The smaller commands: what is there, what it is called, what would change.

use std::fs;

use chalk_tests::{Chalk, Project, World, run, tool, unique};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "images_are_listed_shown_tagged_and_removed",
        images_are_listed_shown_tagged_and_removed,
    ),
    (
        "prefixes_are_taken_and_ambiguity_is_told",
        prefixes_are_taken_and_ambiguity_is_told,
    ),
    (
        "diff_names_what_changed_and_what_reruns",
        diff_names_what_changed_and_what_reruns,
    ),
    (
        "why_compares_with_the_last_build_of_the_name",
        why_compares_with_the_last_build,
    ),
    (
        "a_declaration_is_printed_as_a_dockerfile",
        printed_as_a_dockerfile,
    ),
    ("force_runs_what_is_cached", force_runs_what_is_cached),
    ("plan_writes_nothing", plan_writes_nothing),
    (
        "settings_say_where_they_come_from",
        settings_say_where_they_come_from,
    ),
    (
        "the_token_is_printed_to_terminals_only",
        the_token_is_printed_to_terminals_only,
    ),
];

fn project(extra: &str, commands: &[&str]) -> Project {
    let commands: Vec<String> = commands
        .iter()
        .map(|command| format!("'''{command}'''"))
        .collect();
    Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n{extra}\n[[step]]\nrun_commands = [{}]\n",
        commands.join(", ")
    ))
}

fn images_are_listed_shown_tagged_and_removed(world: &World) {
    let service = world.service();
    let mark = unique();
    let name = format!("team/listed-{mark}:1");
    let project = project(
        "labels = { purpose = \"list\" }",
        &[&format!("echo {mark}")],
    );
    let file = project.arg("image.toml");
    let built = service
        .image(&["build", &file, "--name", &name, "--json"])
        .ok()
        .result();
    let hash = built["image_hash"].as_str().unwrap();
    let names = |hash: &str| -> Vec<String> {
        let list = service.image(&["ls", "--json"]).ok().json();
        let list = list.as_array().expect("a list").clone();
        let image = list.into_iter().find(|image| image["image_hash"] == hash);
        let image = image.unwrap_or_default();
        let names = image["names"].as_array().cloned().unwrap_or_default();
        names
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(hash), std::slice::from_ref(&name));
    let shown = service.image(&["show", hash, "--json"]).ok().json();
    assert_eq!(shown["digest"], built["digest"]);
    assert_eq!(shown["config"]["Labels"]["purpose"], "list", "{shown:#}");
    let table = service.image(&["ls"]).ok();
    assert!(table.stdout.contains(&name), "{table}");
    let shown = service.image(&["show", &name]).ok();
    assert!(shown.stdout.contains(hash), "{shown}");

    let second = format!("team/listed-{mark}:2");
    service.image(&["tag", &name, &second]).ok();
    assert_eq!(names(hash), [name.clone(), second.clone()]);
    service
        .image(&["tag", hash, "chalk/images:mine"])
        .code(2)
        .says(&["chalk/"]);
    service.image(&["rm", &second]).ok();
    assert_eq!(
        names(hash),
        std::slice::from_ref(&name),
        "the name went, the image stays"
    );
    service.image(&["rm", hash]).ok();
    service.image(&["show", hash]).code(4).says(&[&hash[..20]]);
    service.image(&["show", &name]).code(4);
    let again = service.build(&file);
    assert_eq!(again["status"], "built", "removed images are built again");
    assert_eq!(
        again["steps"][0]["state"], "cached",
        "from the steps, which stay: {again:#}"
    );
}

fn prefixes_are_taken_and_ambiguity_is_told(world: &World) {
    let service = world.service();
    let project = project("", &[&format!("echo {}", unique())]);
    let built = service.build(&project.arg("image.toml"));
    let hash = built["image_hash"].as_str().unwrap();
    let digits = hash.strip_prefix("sha256:").unwrap();
    for text in [hash, digits, &digits[..12], &digits[..8], &hash[..7 + 8]] {
        let shown = service.image(&["show", text, "--json"]).ok().json();
        assert_eq!(shown["image_hash"], hash, "{text}");
    }
    let short = service.image(&["show", &digits[..7]]);
    assert!(
        matches!(short.status.code(), Some(2 | 4)),
        "too short to be a prefix: {short}"
    );
    service.image(&["show", "00000000"]).code(4);
}

fn diff_names_what_changed_and_what_reruns(world: &World) {
    let service = world.service();
    let mark = unique();
    let one = project(
        "env = { LEVEL = \"1\" }",
        &[&format!("echo {mark}"), "echo b", "echo c"],
    );
    let two = project(
        "env = { LEVEL = \"1\" }",
        &[&format!("echo {mark}"), "echo B", "echo c"],
    );
    let three = project(
        "env = { LEVEL = \"2\" }",
        &[&format!("echo {mark}"), "echo b", "echo c"],
    );
    let file = |project: &Project| project.arg("image.toml");
    let diff = service
        .image(&["diff", &file(&one), &file(&two), "--json"])
        .ok()
        .json();
    assert_eq!(diff["equal"], false);
    assert_eq!(diff["first_step"], 1, "{diff:#}");
    assert_eq!(diff["reruns"].as_array().map(Vec::len), Some(2), "{diff:#}");
    let change = &diff["changes"][0];
    assert_eq!(
        (&change["before"], &change["after"]),
        (&"echo b".into(), &"echo B".into()),
        "{diff:#}"
    );
    let diff = service
        .image(&["diff", &file(&one), &file(&three), "--json"])
        .ok()
        .json();
    assert_eq!(diff["first_step"], 0, "env is seen by every step: {diff:#}");
    assert!(
        diff["changes"][0]["path"]
            .as_str()
            .unwrap()
            .contains("LEVEL"),
        "{diff:#}"
    );
    let text = service.image(&["diff", &file(&one), &file(&two)]).ok();
    assert!(text.stdout.contains("echo B"), "{text}");

    // A built image against a file: its spec comes from the registry.
    let built = service.build(&file(&one));
    let hash = built["image_hash"].as_str().unwrap();
    let same = service
        .image(&["diff", hash, &file(&one), "--json"])
        .ok()
        .json();
    assert_eq!(same["equal"], true, "{same:#}");
    let other = service
        .image(&["diff", hash, &file(&two), "--json"])
        .ok()
        .json();
    assert_eq!(other["first_step"], 1, "{other:#}");
}

fn why_compares_with_the_last_build(world: &World) {
    let service = world.service();
    let mark = unique();
    let name = format!("team/why-{mark}");
    let project = project("", &[&format!("echo {mark}"), "echo b"]);
    let file = project.arg("image.toml");
    service.image(&["why", &file, "--name", &name]).code(4);
    service.image(&["build", &file, "--name", &name]).ok();
    let text = fs::read_to_string(project.file("image.toml")).unwrap();
    project.write("image.toml", text.replace("echo b", "echo changed"));
    let why = service.image(&["why", &file, "--name", &name]).ok();
    assert!(why.stdout.contains("echo changed"), "{why}");
    assert!(why.stdout.contains("echo b"), "{why}");
    let json = service
        .image(&["why", &file, "--name", &name, "--json"])
        .ok()
        .json();
    assert_eq!(json["first_step"], 1, "{json:#}");
}

fn printed_as_a_dockerfile(world: &World) {
    let service = world.service();
    let mark = unique();
    let project = project(
        "workdir = \"/srv\"\nenv = { GREETING = \"good 'day' $HOME\" }\ncmd = [\"sh\", \"-c\", \"echo $GREETING\"]",
        &[&format!("echo {mark} \"$GREETING\" > greeting")],
    );
    let file = project.arg("image.toml");
    let printed = service.image(&["dockerfile", &file]).ok();
    assert!(
        printed.stdout.starts_with("FROM ") || printed.stdout.starts_with('#'),
        "{printed}"
    );
    let rebuilt = Project::new(&[("Dockerfile", &printed.stdout)]);
    let from_toml = service.build(&file);
    let from_dockerfile = service.build(&rebuilt.arg("Dockerfile"));
    let config = |result: &Value| {
        let hash = result["image_hash"].as_str().unwrap();
        let mut config = service.image(&["show", hash, "--json"]).ok().json()["config"].clone();
        // A note of Docker's builder, which a chain of calls has no use for.
        config.as_object_mut().unwrap().remove("ArgsEscaped");
        config
    };
    assert_eq!(config(&from_toml), config(&from_dockerfile), "{printed}");
    let of_built = service
        .image(&["dockerfile", from_toml["image_hash"].as_str().unwrap()])
        .ok();
    assert!(of_built.stdout.contains(&mark), "{of_built}");
}

fn force_runs_what_is_cached(world: &World) {
    let service = world.service();
    let project = project(
        "",
        &[&format!(
            "echo {}; cat /proc/sys/kernel/random/uuid > /stamp",
            unique()
        )],
    );
    let file = project.arg("image.toml");
    let first = service.build(&file);
    let forced = service
        .image(&["build", &file, "--force", "--json"])
        .ok()
        .result();
    assert_eq!(forced["steps"][0]["state"], "ran", "{forced:#}");
    assert_eq!(forced["image_hash"], first["image_hash"]);
    assert_ne!(forced["digest"], first["digest"], "the step ran again");
    let after = service.build(&file);
    assert_eq!(
        after["digest"], forced["digest"],
        "and the newer result counts"
    );
}

fn plan_writes_nothing(world: &World) {
    let service = world.service();
    let project = project("", &[&format!("echo {}", unique())]);
    let file = project.arg("image.toml");
    let plan = service.image(&["plan", &file]).ok();
    assert!(plan.stdout.contains("echo"), "{plan}");
    let hash = service.image(&["hash", &file, "--json"]).ok().json()["image_hash"].clone();
    let hash = hash.as_str().unwrap();
    assert_eq!(
        service.get(&format!("/v1/builds?hash={hash}")),
        Value::Array(Vec::new())
    );
    service.image(&["show", hash]).code(4);
}

fn settings_say_where_they_come_from(_: &World) {
    let folder = Project::new(&[(
        "chalk.toml",
        "[build]\nparallel = 3\nqueue_limit = 9\nstep_timeout = \"5m\"\n",
    )]);
    let shown = chalk_tests::Chalk::new()
        .args(["config", "show", "--config", &folder.arg("chalk.toml")])
        .args(["--set", "build.step_timeout=7s"])
        .env("CHALK_BUILD_QUEUE_LIMIT", "11")
        .run()
        .ok();
    let row = |name: &str| {
        let row = shown.stdout.lines().find(|line| line.contains(name));
        row.unwrap_or_else(|| panic!("no {name} in {shown}"))
            .to_owned()
    };
    for (name, value, origin) in [
        ("build.parallel", "3", "chalk.toml"),
        ("build.queue_limit", "11", "CHALK_BUILD_QUEUE_LIMIT"),
        ("build.step_timeout", "7s", "--set"),
        ("build.compression", "zstd", "default"),
    ] {
        let row = row(name);
        assert!(row.contains(value) && row.contains(origin), "{row}");
    }
}

fn the_token_is_printed_to_terminals_only(world: &World) {
    let service = world.service();
    let token = service.token();
    let address = format!("{}/#token={token}", service.url());
    let web = service.chalk().arg("web").run().ok();
    assert_eq!(web.stdout, format!("{address}\n"));
    let web = service.chalk().args(["web", "--json"]).run().ok().result();
    assert_eq!(web["page"], address.as_str());
    assert!(service.log().contains("chalk web"), "{}", service.log());
    assert!(!service.log().contains(token), "the log has the token");

    // A terminal of its own, for a service of its own.
    let state = world.folder("terminal");
    let none = Chalk::on(&state).arg("web").run();
    none.code(3).says(&["no service is running", "chalk serve"]);
    let binary = std::env::var("CHALK_TEST_BIN").unwrap();
    let chalk = format!("{binary} --state {}", state.display());
    let command = format!(
        "{chalk} serve --listen 127.0.0.1:0 2>/dev/null & \
         for i in $(seq 600); do {chalk} web >/dev/null 2>&1 && break; sleep 0.1; done; \
         kill -INT $!; wait"
    );
    let mut script = tool(
        "script",
        ["--quiet", "--return", "--command", &command, "/dev/null"],
    );
    let shown = run(&mut script).ok();
    let token = fs::read_to_string(state.join("token")).unwrap();
    let fragment = format!("/#token={}", token.trim());
    assert!(shown.stdout.contains(&fragment), "{shown}");
}
