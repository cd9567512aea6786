//! Tokens of people and programs: what they allow, where they count, and when they end; and TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chalk_core::wire::exit;
use chalk_tests::{Chalk, Project, Ran, STEADY, Service, World, request, run, tool};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("tokens_allow_what_their_roles_say", roles),
    ("tokens_end", ends),
    ("a_port_with_a_certificate", certificate),
    ("certificates_that_cannot_be_used", bad_certificates),
];

fn token(service: &Service, words: &[&str]) -> Value {
    let words = [&["token", "create", "--json"], words].concat();
    service.chalk().args(words).run().ok().json()
}

fn text<'a>(made: &'a Value, key: &str) -> &'a str {
    made[key].as_str().unwrap()
}

/// The command of somebody who has nothing but a token.
fn holder(service: &Service, world: &World, token: &str) -> Chalk {
    Chalk::on(&world.folder("holder"))
        .env("CHALK_TOKEN", token)
        .args(["--server", service.url()])
}

fn roles(world: &World) {
    let service = world.start("clients", &STEADY);
    let project = Project::new(&[(
        "image.toml",
        "[image]\ndebian_slim = \"3.12\"\n\n[[step]]\nrun_commands = [\"true\"]\n",
    )]);
    let file = project.arg("image.toml");
    let made = |role: &str| token(&service, &["--name", role, "--role", role]);
    let (read, build, warm) = (made("read"), made("build"), made("warm"));
    let admin = made("admin");
    let as_ = |made: &Value, words: &[&str]| {
        holder(&service, world, text(made, "token"))
            .args(words)
            .run()
    };
    // Everybody looks.
    for made in [&read, &build, &warm, &admin] {
        as_(made, &["image", "ls"]).ok();
        as_(made, &["image", "plan", &file]).ok();
    }
    let says = ["needs the role `build`", "chalk token create --role"];
    let refused = as_(&read, &["image", "build", &file]);
    refused.code(exit::UNREACHABLE.into()).says(&says);
    let refused = as_(&warm, &["image", "build", &file]);
    refused.code(exit::UNREACHABLE.into()).says(&says);
    let built = as_(&build, &["image", "build", &file, "--json"])
        .ok()
        .result();
    let hash = text(&built, "image_hash");
    let says = ["needs the role `warm`"];
    let warms = ["image", "warm", "--image", hash];
    as_(&build, &warms)
        .code(exit::UNREACHABLE.into())
        .says(&says);
    // Who may warm is not refused; that there is no node is another matter.
    as_(&warm, &warms)
        .code(exit::NOT_FOUND.into())
        .says(&["no node"]);
    let says = ["needs the role `admin`"];
    for words in [
        &["token", "ls"][..],
        &["token", "create", "--name", "x"],
        &["node", "token", "ls"],
        &["image", "rm", hash],
    ] {
        for made in [&read, &build, &warm] {
            as_(made, words).code(exit::UNREACHABLE.into()).says(&says);
        }
    }
    as_(&admin, &["token", "ls"]).ok();

    registry(&service, &built, &read, &build);
    as_(&admin, &["image", "rm", hash]).ok();

    // What is listed gives nothing away.
    let listed = service.chalk().args(["token", "ls", "--json"]).run().ok();
    assert_eq!(listed.json().as_array().unwrap().len(), 4);
    for made in [&read, &build, &warm, &admin] {
        for key in ["token", "client_secret"] {
            assert!(!listed.stdout.contains(text(made, key)));
            assert!(!service.log().contains(text(made, key)));
        }
    }
}

/// The registry takes the same tokens as passwords.
fn registry(service: &Service, built: &Value, read: &Value, build: &Value) {
    let image = format!("docker://{}", text(built, "image"));
    let copy = |made: &Value, to: &str| {
        let password = format!("anybody:{}", text(made, "token"));
        let flags = [
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--src-creds",
            &password,
            "--dest-creds",
            &password,
            &image,
            to,
        ];
        run(&mut tool("skopeo", flags))
    };
    let place = format!("docker://{}/team/app:1", service.address());
    copy(build, &place).ok();
    let other = format!("docker://{}/team/other:1", service.address());
    let refused = copy(read, &other);
    assert!(!refused.status.success(), "{refused}");
    let folder = Project::new(&[]);
    copy(read, &format!("dir:{}", folder.arg("image"))).ok();
}

fn ends(world: &World) {
    let mut service = world.start_empty("ends", &STEADY);
    let asks = |service: &Service, token: &str| {
        request(&format!("{}/v1/images", service.url()), Some(token), &[]).status
    };
    let made = token(&service, &["--name", "a"]);
    let short = token(&service, &["--name", "b", "--expires", "2s"]);
    assert_eq!(asks(&service, text(&made, "token")), 200);
    assert_eq!(asks(&service, text(&short, "token")), 200);
    assert_eq!(asks(&service, text(&made, "client_secret")), 401);
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(asks(&service, text(&short, "token")), 401);
    // They outlive the service.
    service.kill();
    service.start_again(&[]);
    assert_eq!(asks(&service, text(&made, "token")), 200);
    let revoke = |id: &str| service.chalk().args(["token", "revoke", id]).run();
    revoke(text(&made, "client_id")).ok();
    assert_eq!(asks(&service, text(&made, "token")), 401);
    revoke(text(&made, "client_id")).code(exit::NOT_FOUND.into());
    let create = |words: &[&str]| -> Ran {
        let words = [&["token", "create"], words].concat();
        service.chalk().args(words).run()
    };
    create(&[]).code(exit::USAGE.into()).says(&["--name"]);
    create(&["--name", "x", "--role", "root"])
        .code(exit::USAGE.into())
        .says(&["read, build, warm or admin"]);
    create(&["--name", "x", "--expires", "2001-01-01T00:00:00Z"])
        .code(exit::USAGE.into())
        .says(&["--expires", "is over"]);
    create(&["--name", "  "])
        .code(exit::USAGE.into())
        .says(&["name"]);
}

/// An authority, and a certificate for those names that it vouches for.
pub(crate) fn certificates(folder: &Path, names: &str) {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -keyout ca.key -out ca.pem -subj /CN=authority
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
            -keyout key.pem -out request.pem -subj /CN=localhost
        printf \"subjectAltName=$NAMES\\nbasicConstraints=CA:FALSE\\n\" > extensions
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile extensions -out cert.pem";
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", script])
        .current_dir(folder)
        .env("NAMES", names);
    run(&mut shell).ok();
}

fn certificate(world: &World) {
    let folder = Project::new(&[]);
    certificates(folder.path(), "DNS:localhost,IP:127.0.0.1");
    let (cert, key, authority) = (
        folder.arg("cert.pem"),
        folder.arg("key.pem"),
        folder.arg("ca.pem"),
    );
    let settings = [
        STEADY.as_slice(),
        &[
            ("serve.tls_cert", cert.as_str()),
            ("serve.tls_key", key.as_str()),
        ],
    ]
    .concat();
    let service = world.start_empty("tls", &settings);
    let secure = service
        .url()
        .replace("http://127.0.0.1", "https://localhost");
    let curl = |words: &[&str]| run(&mut tool("curl", [&["-sS"], words].concat()));
    let health = format!("{secure}/healthz");
    let found = curl(&["--cacert", &authority, "-w", " %{http_version}", &health]).ok();
    assert_eq!(found.stdout, "ok 2");
    let old = curl(&["--cacert", &authority, "--http1.1", &health]).ok();
    assert_eq!(old.stdout, "ok");
    // A unary gRPC call in the form of the Connect protocol; the answer is `status: SERVING`.
    let grpc = format!("{secure}/grpc.health.v1.Health/Check");
    let words = [
        "--cacert",
        &authority,
        "--header",
        "content-type: application/proto",
        "--data-binary",
        "",
        &grpc,
    ];
    assert_eq!(curl(&words).ok().stdout, "\u{8}\u{1}");
    // Nobody is asked to trust it blindly.
    assert!(!curl(&[&health]).status.success());
    // Plain on the host itself: that is how the command found the service.
    assert_eq!(
        request(&format!("{}/healthz", service.url()), None, &[]).status,
        200
    );
    let chalk = |authority: &str| {
        Chalk::on(&world.folder("tls-holder"))
            .env("CHALK_TOKEN", service.token())
            .env("SSL_CERT_FILE", authority)
            .args(["--server", &secure, "image", "ls"])
            .run()
    };
    chalk(&authority).ok();
    chalk(&cert)
        .code(exit::UNREACHABLE.into())
        .says(&["certificate"]);
}

fn bad_certificates(world: &World) {
    let folder = Project::new(&[("junk.pem", "junk")]);
    let junk = folder.arg("junk.pem");
    let check = |settings: &[(&str, &str)], says: &[&str]| {
        let mut chalk = Chalk::on(&world.folder("tls-refused"));
        for (path, value) in settings {
            chalk = chalk.args(["--set", &format!("{path}={value}")]);
        }
        let refused = chalk.args(["serve", "--listen", "127.0.0.1:0"]).run();
        assert!(!refused.status.success(), "{refused}");
        refused.says(says);
    };
    check(&[("serve.tls_cert", &junk)], &["`serve.tls_key` is not"]);
    check(
        &[("serve.tls_cert", &junk), ("serve.tls_key", &junk)],
        &["junk.pem", "certificate", "serve.tls_cert"],
    );
}
