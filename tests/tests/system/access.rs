//! Projects and their tokens with real clients: Docker and skopeo over TLS; the certificate that is
//! read again; quotas and the audit log by the command.

use std::fs;
use std::path::Path;
use std::process::Command;

use chalk_core::wire::exit;
use chalk_tests::{
    Chalk, Docker, Network, Project, Ran, STEADY, Service, World, run, tool, wait_until,
};
use serde_json::Value;

use crate::Test;
use crate::clients::certificates;

pub(crate) const TESTS: &[Test] = &[
    ("engines_log_in_push_and_pull_over_tls", engines),
    ("a_certificate_is_read_again", another_certificate),
    ("projects_and_quotas_by_the_command", projects),
];

/// A token of a project.
fn robot(service: &Service, project: &str, role: &str) -> String {
    let words = [
        "token",
        "create",
        "--json",
        "--name",
        "robot",
        "--project",
        project,
        "--role",
        role,
    ];
    let made = service.chalk().args(words).run().ok().json();
    made["token"].as_str().unwrap().to_owned()
}

fn create(service: &Service, project: &str, more: &[&str]) -> Ran {
    let words = [&["project", "create", project], more].concat();
    service.chalk().args(words).run()
}

fn engines(world: &World) {
    let mut network = Network::new();
    let (home, away) = (network.host(None), network.host(None));
    let folder = Project::new(&[]);
    certificates(folder.path(), &format!("IP:{}", home.address()));
    let (cert, key) = (folder.arg("cert.pem"), folder.arg("key.pem"));
    let settings = [
        STEADY.as_slice(),
        &[
            ("serve.tls_cert", cert.as_str()),
            ("serve.tls_key", key.as_str()),
        ],
    ]
    .concat();
    let service = Service::start_on(&home, &world.folder("robots"), &settings);
    for project in ["robots", "others"] {
        create(&service, project, &[]).ok();
    }
    let token = robot(&service, "robots", "build");
    let reader = robot(&service, "robots", "read");
    let other = robot(&service, "others", "build");
    let address = service.address();
    let image = format!("{address}/robots/app:1");

    let docker = Docker::trusting(
        &away,
        &world.folder("robots-docker"),
        &folder.path().join("ca.pem"),
    );
    let archive = folder.arg("image.tar");
    let source = format!("oci:{}", world.busybox_layout().display());
    let target = format!("docker-archive:{archive}:{image}");
    let words = ["--insecure-policy", "copy", &source, &target];
    run(&mut tool("skopeo", words)).ok();
    docker.run(["load", "--input", &archive]).ok();
    let login =
        |token: &str| docker.run(["login", "--username", "robot", "--password", token, address]);
    let refused = |ran: Ran| assert!(!ran.status.success(), "{ran}");

    // Without a login, with a wrong one, with one that may not, and with one of another project.
    refused(docker.run(["push", &image]));
    refused(login("cht_wrong"));
    login(&reader).ok();
    refused(docker.run(["push", &image]));
    login(&other).ok();
    refused(docker.run(["push", &image]));

    login(&token).ok();
    docker.run(["push", &image]).ok();
    let elsewhere = format!("{address}/others/app:1");
    docker.run(["tag", &image, &elsewhere]).ok();
    refused(docker.run(["push", &elsewhere]));
    docker.run(["rmi", &image, &elsewhere]).ok();
    docker.run(["pull", &image]).ok();
    docker.run(["rmi", &image]).ok();
    login(&reader).ok();
    docker.run(["pull", &image]).ok();
    docker.run(["rmi", &image]).ok();
    login(&other).ok();
    refused(docker.run(["pull", &image]));
    docker.run(["logout", address]).ok();
    refused(docker.run(["pull", &image]));

    // skopeo on another host, which trusts the authority by a folder.
    let trust = folder.path().join("trust");
    fs::create_dir(&trust).unwrap();
    fs::copy(folder.path().join("ca.pem"), trust.join("ca.crt")).unwrap();
    let trust = trust.display().to_string();
    let skopeo = |words: &[&str]| {
        let mut skopeo = away.command("skopeo");
        skopeo.arg("--insecure-policy").args(words);
        run(&mut skopeo)
    };
    let there = format!("docker://{image}");
    let inspect = |words: &[&str]| {
        let words = [&["inspect", "--cert-dir", &trust], words, &[there.as_str()]].concat();
        skopeo(&words)
    };
    let login = |token: &str| format!("robot:{token}");
    inspect(&["--creds", &login(&reader)]).ok();
    refused(inspect(&["--no-creds"]));
    refused(inspect(&["--creds", &login(&other)]));
    // Nobody trusts the certificate without its authority.
    refused(skopeo(&["inspect", "--creds", &login(&reader), &there]));
    let second = format!("docker://{address}/robots/app:2");
    let copy = |token: &str| {
        let login = login(token);
        skopeo(&[
            "copy",
            "--dest-cert-dir",
            &trust,
            "--dest-creds",
            &login,
            &source,
            &second,
        ])
    };
    refused(copy(&reader));
    copy(&token).ok();
    let listed = skopeo(&[
        "list-tags",
        "--cert-dir",
        &trust,
        "--creds",
        &login(&reader),
        &format!("docker://{address}/robots/app"),
    ]);
    assert_eq!(listed.ok().json()["Tags"], serde_json::json!(["1", "2"]));

    // The audit log tells who pushed, from where, and to what; a shown token is in no log.
    let audit = ["audit", "--json", "--action", "registry.push"];
    let entries = service.chalk().args(audit).run().ok().json();
    let done: Vec<&Value> = entries
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["outcome"] == "done")
        .collect();
    assert!(done.len() >= 2, "{entries:#}");
    for entry in done {
        assert_eq!(entry["from"], away.address().to_string(), "{entry:#}");
        assert_eq!(entry["project"], "robots", "{entry:#}");
        assert!(entry["target"].as_str().unwrap().starts_with("robots/app/"));
    }
    for token in [&token, &reader, &other] {
        let mut grep = tool("grep", ["-rl", token.as_str()]);
        grep.arg(service.state());
        assert_eq!(run(&mut grep).stdout, "", "a token stands in the state");
        assert!(!service.log().contains(token.as_str()));
    }
}

/// Serial number of the certificate that a port shows.
fn serial(address: &str) -> String {
    let script =
        "openssl s_client -connect \"$0\" </dev/null 2>/dev/null | openssl x509 -noout -serial";
    let shown = run(&mut tool("sh", ["-c", script, address]));
    shown.stdout.trim().to_owned()
}

fn renew(folder: &Path) {
    let fresh = tempfile::tempdir().unwrap();
    certificates(fresh.path(), "DNS:localhost,IP:127.0.0.1");
    for name in ["cert.pem", "key.pem"] {
        fs::copy(fresh.path().join(name), folder.join(name)).unwrap();
    }
}

fn another_certificate(world: &World) {
    let folder = Project::new(&[]);
    certificates(folder.path(), "DNS:localhost,IP:127.0.0.1");
    let (cert, key) = (folder.arg("cert.pem"), folder.arg("key.pem"));
    let settings = [
        STEADY.as_slice(),
        &[
            ("serve.tls_cert", cert.as_str()),
            ("serve.tls_key", key.as_str()),
        ],
    ]
    .concat();
    let service = world.start_empty("renewed", &settings);
    let address = service.address();
    let first = serial(address);
    assert!(first.starts_with("serial="), "{first}");
    // Without a word, by the files alone.
    renew(folder.path());
    wait_until("another certificate is shown", || serial(address) != first);
    let second = serial(address);
    // Half a pair is told, and the one before it stays.
    fs::write(folder.path().join("cert.pem"), "junk").unwrap();
    let pid = service.pid().to_string();
    let hangup = || run(Command::new("kill").args(["-HUP", &pid])).ok();
    hangup();
    wait_until("the log tells of it", || {
        service.log().contains("the certificate is not replaced")
    });
    assert_eq!(serial(address), second);
    renew(folder.path());
    hangup();
    wait_until("a third one is shown", || {
        let shown = serial(address);
        shown != second && shown != first && shown.starts_with("serial=")
    });
}

fn projects(world: &World) {
    let service = world.start_empty("shared", &STEADY);
    create(&service, "Bad", &[])
        .code(exit::USAGE.into())
        .says(&["name"]);
    create(&service, "ml", &["--builds", "few"]).code(exit::USAGE.into());
    create(&service, "ml", &["--storage", "1 KiB"]).ok();
    create(&service, "ml", &[]).code(exit::NOT_FOUND.into());
    let token = robot(&service, "ml", "build");
    let holder = |words: &[&str]| {
        Chalk::on(&world.folder("shared-holder"))
            .env("CHALK_TOKEN", &token)
            .args(["--server", service.url()])
            .args(words)
            .run()
    };
    let shown = holder(&["project", "ls", "--json"]).ok().json();
    let shown = shown.as_array().unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["name"], "ml");
    assert_eq!(shown[0]["quotas"]["storage_bytes"], 1024);
    // Too much for it: the file that the image is to have.
    let project = Project::new(&[("Dockerfile", "FROM scratch\nCOPY big /big\n")]);
    fs::write(project.path().join("big"), vec![7; 4096]).unwrap();
    let file = project.arg("Dockerfile");
    holder(&["image", "build", &file])
        .code(exit::UNREACHABLE.into())
        .says(&["quota"]);
    let words = ["project", "set", "ml", "--storage", "none", "--json"];
    let set = service.chalk().args(words).run().ok().json();
    assert_eq!(set["quotas"], serde_json::json!({}));
    holder(&["project", "set", "ml", "--storage", "none"]).code(exit::UNREACHABLE.into());
    holder(&["audit"])
        .code(exit::UNREACHABLE.into())
        .says(&["admin"]);
    let told = service
        .chalk()
        .args(["audit", "--action", "project."])
        .run()
        .ok();
    for words in [
        "project.create",
        "project.set ml",
        "denied (403)",
        "(robot)",
    ] {
        assert!(told.stdout.contains(words), "{words}: {told}");
    }
    service.chalk().args(["project", "rm", "ml"]).run().ok();
    holder(&["project", "ls"]).code(exit::UNREACHABLE.into());
    create(&service, "ml", &[]).code(exit::NOT_FOUND.into());
}
