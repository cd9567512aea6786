//! Secrets: there for the step that names them, and nowhere else.

use std::fs;
use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use chalk_tests::{Layout, Project, Service, World, run, unique};

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_secret_is_seen_by_its_step_and_kept_nowhere",
        a_secret_is_kept_nowhere,
    ),
    ("a_missing_secret_is_refused", a_missing_secret_is_refused),
    ("a_secret_counts_by_name", a_secret_counts_by_name),
    (
        "secrets_of_the_service_are_masked_in_every_encoding",
        secrets_are_masked_in_every_encoding,
    ),
    (
        "a_secret_of_the_service_is_for_those_who_may_use_it",
        a_secret_is_for_those_who_may_use_it,
    ),
];

/// A value that stands nowhere else, and its SHA-256 as busybox prints it.
fn value() -> (String, String) {
    let value = format!("hunter2-{}-correct-horse", unique());
    let digest = chalk_core::Digest::of(value.as_bytes()).hex();
    (value, digest)
}

fn project(mark: &str, digest: &str) -> Project {
    Project::toml(&format!(
        r#"
[image]
base = "busybox"
[[step]]
run_commands = ["sha256sum /run/secrets/api_key | grep -q {digest} && echo checked && sleep {mark}"]
secrets = ["api_key"]
[[step]]
run_commands = ["test ! -e /run/secrets/api_key"]
"#
    ))
}

fn a_secret_is_kept_nowhere(world: &World) {
    let service = world.start("secrets", &[]);
    let (value, digest) = value();
    let mark = format!("2.{}", sleep_mark().replace('.', ""));
    let project = project(&mark, &digest);
    let file = project.arg("image.toml");
    let build = service
        .chalk()
        .args([
            "compute",
            "image",
            "build",
            &file,
            "--json",
            "--secret",
            "api_key=env:MY_KEY",
        ])
        .env("MY_KEY", &value);
    let (ran, seen) = std::thread::scope(|scope| {
        let build = scope.spawn(move || build.run());
        wait_for_process(&mark, true);
        let seen = processes_with(&value);
        (build.join().unwrap(), seen)
    });
    let ran = ran.ok();
    assert_eq!(seen, [""; 0], "the value is in a process list");
    assert!(!ran.stdout.contains(&value) && !ran.stderr.contains(&value));
    assert!(!service.log().contains(&value), "the service logged it");
    let build = service.get("/v1/builds")[0].clone();
    let events = service.events(build["id"].as_str().unwrap(), 0);
    assert!(
        !format!("{events:?}{build}").contains(&value),
        "an event has it"
    );
    let folder = world.folder("layers");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!(
        "docker://{}",
        ran.result()["image"].as_str().unwrap()
    ));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    let layout = Layout::open(&folder);
    for layer in layout.layers() {
        assert!(!holds(&layer, &value), "a layer has it");
    }
    assert!(
        layout
            .files()
            .entries
            .keys()
            .all(|path| !path.contains("api_key"))
    );
    assert_eq!(
        files_with(service.state(), &[value]),
        [""; 0],
        "a file of the service has it"
    );
    service.assert_clean();
}

fn holds(bytes: &[u8], value: &str) -> bool {
    memchr::memmem::find(bytes, value.as_bytes()).is_some()
}

/// Processes with the value in their arguments, apart from the tests' own.
fn processes_with(value: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .filter(|line| holds(line, value))
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect()
}

/// Files below `folder` with one of these in them, compressed layers as they are.
fn files_with(folder: &Path, needles: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let mut bytes = Vec::new();
                let _ =
                    fs::File::open(entry.path()).and_then(|mut file| file.read_to_end(&mut bytes));
                for needle in needles.iter().filter(|needle| holds(&bytes, needle)) {
                    found.push(format!("{}: {needle}", entry.path().display()));
                }
            }
        }
    }
    found
}

fn a_missing_secret_is_refused(world: &World) {
    let service = world.service();
    let project = project("0", &unique());
    let file = project.arg("image.toml");
    let refused = service.image(&["build", &file]);
    assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused}");
    refused.says(&["api_key", "--secret"]);
    let refused = service.image(&["build", &file, "--secret", "api_key=env:NOT_SET_ANYWHERE"]);
    refused.code(2).says(&["NOT_SET_ANYWHERE"]);
    let refused = service.image(&["build", &file, "--secret", "api_key=file:/not/there"]);
    refused.code(2).says(&["/not/there"]);
}

fn a_secret_counts_by_name(world: &World) {
    let service: &Service = world.service();
    let digest = unique();
    let project = project("0", &digest);
    let file = project.arg("image.toml");
    let hash = || {
        service
            .image(&["hash", &file, "--offline", "--json"])
            .ok()
            .json()["recipe_hash"]
            .clone()
    };
    let before = hash();
    let text = fs::read_to_string(project.file("image.toml")).unwrap();
    project.write(
        "image.toml",
        text.replace("secrets = [\"api_key\"]", "secrets = [\"other_key\"]"),
    );
    assert_ne!(hash(), before, "another name is another hash");
}

/// Prints the secrets as tools do, some of it in pieces, and fails on demand.
const PRINTS: &str = r#"
import base64, json, sys, time, urllib.parse
for name in sys.argv[2:]:
    value = open("/run/secrets/" + name).read()
    raw = value.encode()
    forms = {
        "raw": value,
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "dump": raw.hex(" "),
        "quote": urllib.parse.quote(value, safe=""),
        "form": urllib.parse.urlencode({"k": value}),
        "json": json.dumps(value),
        "json-raw": json.dumps({"k": value}, ensure_ascii=False),
        "repr": repr(value),
    }
    for n in range(4):
        text = b"x" * n + raw + b"\n"
        forms[f"base64-{n}"] = base64.b64encode(text).decode()
        forms[f"base64url-{n}"] = base64.urlsafe_b64encode(text).decode().rstrip("=")
        forms[f"mime-{n}"] = base64.encodebytes(text * 3).decode()
    for label, form in forms.items():
        for stream in (sys.stdout, sys.stderr):
            half = len(form) // 2
            stream.write(f"{name} {label} [{form[:half]}")
            stream.flush()
            time.sleep(0.002)
            stream.write(f"{form[half:]}]\n")
            stream.flush()
sys.exit(int(sys.argv[1]))
"#;

/// What must stand nowhere, of a value.
fn needles(value: &str) -> Vec<String> {
    let bytes = value.as_bytes();
    let all = |format: &dyn Fn(&u8) -> String| bytes.iter().map(format).collect::<String>();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    let mut needles = vec![
        value.to_owned(),
        all(&|b| format!("{b:02x}")),
        all(&|b| format!("{b:02X}")),
        all(&|b| match plain(b) {
            true => char::from(*b).to_string(),
            false => format!("%{b:02X}"),
        }),
        serde_json::to_string(value)
            .unwrap()
            .trim_matches('"')
            .to_owned(),
    ];
    for before in 0..3 {
        let text = ["x".repeat(before).as_bytes(), bytes].concat();
        let (first, last) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        needles.push(STANDARD_NO_PAD.encode(&text)[first..last].to_owned());
        needles.push(URL_SAFE_NO_PAD.encode(&text)[first..last].to_owned());
    }
    needles
}

fn secrets_are_masked_in_every_encoding(world: &World) {
    let value = |kind: &str| format!("{kind} \"pä55\"/{}?>~+&=% 'x'\\n", unique());
    let (in_file, in_variable) = (value("file"), value("env"));
    let kept = Project::new(&[("key", &in_file)]);
    let service = Service::start_in(
        &world.state("own-secrets"),
        &[
            ("secrets.files", &format!("of_file={}", kept.arg("key"))),
            ("secrets.env", "of_env=CHALK_TESTS_SECRET"),
            // So that what a layer holds can be looked for.
            ("build.compression", "none"),
        ],
        &[("CHALK_TESTS_SECRET".to_owned(), in_variable.clone())],
    );
    let mark = format!("2.{}", sleep_mark().replace('.', ""));
    let project = Project::new(&[
        (
            "image.toml",
            &format!(
                r#"
[image]
debian_slim = "3.12"
[[step]]
add_local_file = {{ src = "prints.py", dest = "/prints.py", strategy = "copy" }}
[[step]]
run_commands = ["python3 /prints.py 0 of_file of_env && echo whole && sleep {mark}"]
secrets = ["of_file", "of_env"]
[[step]]
run_commands = ["python3 /prints.py 3 of_file of_env"]
secrets = ["of_file", "of_env"]
"#
            ),
        ),
        ("prints.py", PRINTS),
    ]);
    let file = project.arg("image.toml");
    let build = service.chalk().args([
        "compute",
        "image",
        "build",
        &file,
        "--json",
        "--progress",
        "plain",
    ]);
    let (ran, seen) = std::thread::scope(|scope| {
        let build = scope.spawn(move || build.run());
        wait_for_process(&mark, true);
        let own = [service.pid(), std::process::id()];
        let mut seen = processes_showing(&needles(&in_file), &own);
        seen.extend(processes_showing(&needles(&in_variable), &own));
        (build.join().unwrap(), seen)
    });
    assert_eq!(seen, [""; 0], "a value is in a process list");
    let ran = ran.code(1);
    let build = service.get("/v1/builds")[0].clone();
    let events = service.events(build["id"].as_str().unwrap(), 0);
    let told = format!("{events:?}");
    for label in ["raw", "HEX", "dump", "form", "json", "base64-2", "mime-3"] {
        // That it was printed, and what stands there now.
        assert!(
            told.contains(&format!("of_env {label} [")),
            "{label}: {told}"
        );
    }
    assert!(told.contains("of_file raw [***]") && told.contains("of_env hex [***]"));
    assert!(told.contains("of_file quote [***]") && told.contains("whole"));
    let places = [
        ("the events", told),
        ("the build", build.to_string()),
        ("the command", format!("{}{}", ran.stdout, ran.stderr)),
        ("the service's log", service.log()),
    ];
    for needle in needles(&in_file).iter().chain(&needles(&in_variable)) {
        for (place, text) in &places {
            let text: String = text.split_whitespace().collect();
            let needle: String = needle.split_whitespace().collect();
            assert!(!text.contains(&needle), "{place} has {needle}");
        }
    }
    let all = [needles(&in_file), needles(&in_variable)].concat();
    let found = files_with(service.state(), &all);
    assert_eq!(found, [""; 0], "a file of the service has a value");
    service.assert_clean();
}

/// Processes with one of these in their arguments or environment, apart from `own`.
fn processes_showing(needles: &[String], own: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        for part in ["cmdline", "environ"] {
            let bytes = fs::read(process.path().join(part)).unwrap_or_default();
            if !own.contains(&pid) && needles.iter().any(|needle| holds(&bytes, needle)) {
                found.push(format!("{pid}/{part}: {}", String::from_utf8_lossy(&bytes)));
            }
        }
    }
    found
}

fn a_secret_is_for_those_who_may_use_it(world: &World) {
    let kept = Project::new(&[("key", "hunter2-of-the-service")]);
    let source = format!("api_key={}", kept.arg("key"));
    let service = world.start(
        "shared-secrets",
        &[
            ("secrets.files", &source),
            ("secrets.clients", "api_key=deploy"),
        ],
    );
    let digest = chalk_core::Digest::of(b"hunter2-of-the-service").hex();
    let project = project("0", &digest);
    let file = project.arg("image.toml");
    let build = |name: &str| {
        let made = [
            "token", "create", "--name", name, "--role", "build", "--json",
        ];
        let made = service.chalk().args(made).run().ok().json();
        let token = made["token"].as_str().unwrap().to_owned();
        service
            .chalk()
            .args([
                "--server",
                service.url(),
                "compute",
                "image",
                "build",
                &file,
            ])
            .env("CHALK_TOKEN", token)
            .run()
    };
    build("other").code(3).says(&["api_key", "secrets.clients"]);
    build("deploy").ok();
    // The file is read for each build.
    fs::remove_file(kept.file("key")).unwrap();
    let refused = service.image(&["build", &file, "--force"]);
    refused.code(3).says(&["cannot read its secret `api_key`"]);
}
