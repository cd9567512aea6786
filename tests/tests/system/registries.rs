//! Registries of others in the place of the embedded one: Debian's `docker-registry`, which has no
//! referrers API and deletes no tags.

use std::fs;
use std::path::Path;

use chalk_core::{Digest, Reference};
use chalk_store::registry::{Client, CredentialSource, Options};
use chalk_tests::{
    Asked, Authority, Distribution, EMPTY, MANIFEST, Node, Project, Ran, Service, Terms,
    TokenService, World, request, run, tool, unique, wait_until,
};
use serde_json::{Value, json};

use crate::Test;
use crate::failures::{busybox, states};
use crate::gc::{freed, gc};
use crate::held::Held;

pub(crate) const TESTS: &[Test] = &[
    ("a_login_and_an_own_authority", a_login),
    ("tokens_of_a_token_service", tokens),
    ("a_path_in_front_of_the_api", a_path),
    ("a_certificate_of_the_client", a_certificate),
    ("referrers_of_many_at_once", referrers_at_once),
    ("a_registry_killed_under_a_build", killed),
];

const USER: &str = "builder";
const PASSWORD: &str = "pw-7f3a9c-geheim";
const NO_BASES: (&str, &str) = ("prewarm.images", "");

/// Imports the small base into the registry of a service.
pub(crate) fn import(world: &World, service: &Service) -> Ran {
    let layout = world.busybox_layout().display().to_string();
    service.image(&["import", &layout, "--as", World::BUSYBOX])
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Hex digits of the hash of an image, as tags have them.
pub(crate) fn hash_of(built: &Value) -> String {
    let hash = built["image_hash"].as_str().unwrap();
    hash.strip_prefix("sha256:").unwrap().to_owned()
}

/// Docker's credentials file with that login.
fn docker_config(registry: &str, user: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{user}:{password}");
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    json!({"auths": {registry: {"auth": pair}}}).to_string()
}

/// Warms an image to a node and runs a command in it there.
#[track_caller]
fn runs_on_a_node(service: &Service, node: &str, hash: &str) {
    service.warm(&["--image", hash, "--wait"]).ok();
    let words = ["--node", node, "--", "cat", "/one"];
    let ran = service.sandbox(hash, &words).run().ok();
    assert_eq!(ran.stdout, "one\n");
}

/// Starts a service again as one that lets everything go that it may, and sees what goes: images
/// without a name, and steps.
#[track_caller]
fn collects(mut service: Service, settings: &[(&str, &str)]) {
    let state = service.state().to_owned();
    service.stop();
    let policy = [
        ("gc.interval", ""),
        ("gc.grace", "0s"),
        ("gc.age", "0s"),
        ("gc.steps_age", "0s"),
    ];
    let settings: Vec<_> = settings.iter().copied().chain(policy).collect();
    let service = Service::start(&state, &settings);
    let [named, unnamed] = ["named", "unnamed"].map(|_| busybox(&[&format!("echo {}", unique())]));
    let [named, unnamed] = [&named, &unnamed].map(|project| project.arg("image.toml"));
    let words = ["build", &named, "--name", "kept/app:v1", "--json"];
    let stays = hash_of(&service.image(&words).ok().result());
    let goes = hash_of(&service.build(&unnamed));
    let report = gc(&service, &[]);
    let freed = freed(&report);
    assert!(freed.contains_key(&format!("images {goes}")), "{report:#}");
    assert!(
        !freed.contains_key(&format!("images {stays}")),
        "{report:#}"
    );
    assert!(
        freed.keys().any(|name| name.starts_with("steps ")),
        "{report:#}"
    );
    assert_eq!(service.build(&named)["status"], "reused");
    let again = service.build(&unnamed);
    assert_eq!(again["status"], "built", "{again:#}");
    assert_eq!(states(&again), ["ran"], "{again:#}");
}

/// Expects that no file of the service's state, and no log, holds a text.
#[track_caller]
fn assert_nowhere(service: &Service, secret: &str) {
    assert!(!service.log().contains(secret), "in the log");
    let mut grep = tool("grep", ["--recursive", "--files-with-matches", "--text"]);
    let found = run(grep.args(["--", secret]).arg(service.state()));
    assert_eq!(found.code(1).stdout, "");
}

fn a_login(world: &World) {
    let authority = Authority::new(&world.folder("authority"));
    let terms = Terms {
        login: Some((USER, PASSWORD)),
        tls: Some(&authority),
        ..Terms::default()
    };
    let registry = Distribution::start_with(&world.folder("login"), &terms);
    let at = registry.address();
    let files = Project::new(&[
        ("password", "wrong\n"),
        ("config.json", &docker_config(at, USER, PASSWORD)),
    ]);
    let (url, ca) = (format!("https://{at}"), text(&authority.file()));
    let password = files.arg("password");
    let settings = [
        ("registry.url", url.as_str()),
        ("registry.prefix", "team/chalk"),
        ("registry.username", USER),
        ("registry.password_file", &password),
        ("registry.ca_bundle", &ca),
        NO_BASES,
    ];
    let service = Service::start(&world.folder("login"), &settings);
    let refused = import(world, &service).code(3);
    refused.says(&[at, "logged in as builder", "password"]);
    // Corrected, it is taken without a restart.
    files.write("password", PASSWORD);
    import(world, &service).ok();

    let mark = unique();
    let steps = [
        "echo one > /one; touch -d @1577836800 /one".to_owned(),
        format!("echo {mark} > /two; touch -d @1577836800 /two"),
    ];
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let project = busybox(&steps);
    let file = project.arg("image.toml");
    let words = ["build", &file, "--name", "web/app:v1", "--json"];
    let built = service.image(&words).ok().result();
    let (hash, digest) = (hash_of(&built), built["digest"].as_str().unwrap());
    assert_eq!(built["status"], "built", "{built:#}");
    let reference = format!("{at}/team/chalk/chalk/images:{hash}");
    assert_eq!(built["image"], reference.as_str());
    assert_eq!(service.build(&file)["status"], "reused");

    // What it wrote, as others find it: the image, its name, and its spec by the referrers tag.
    let certificates = world.folder("certificates");
    fs::copy(authority.file(), certificates.join("ca.crt")).unwrap();
    let skopeo = |verb: &str, reference: &str| {
        let mut skopeo = tool("skopeo", ["--insecure-policy", verb, "--cert-dir"]);
        skopeo.arg(&certificates);
        skopeo.arg(format!("--creds={USER}:{PASSWORD}"));
        if verb == "inspect" {
            skopeo.arg("--raw");
        }
        run(skopeo.arg(format!("docker://{at}/team/chalk/{reference}")))
    };
    let raw = skopeo("inspect", "web/app:v1").ok().stdout;
    assert_eq!(Digest::of(raw.as_bytes()).to_string(), digest);
    let tag = format!("chalk/images:{}", digest.replace(':', "-"));
    let index = skopeo("inspect", &tag).ok().json();
    let listed = index["manifests"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{index:#}");
    let kind = "application/vnd.chalk.spec.v1+json";
    assert_eq!(listed[0]["artifactType"], kind, "{index:#}");

    // The layers moved from the step cache to the image and to its name without their bytes.
    let log = registry.log();
    let mounted = |to: &str| {
        log.lines().any(|line| {
            line.contains("response completed")
                && line.contains(&format!("/v2/team/chalk/{to}/blobs/uploads/?"))
                && line.contains("mount=")
                && line.contains("status=201")
        })
    };
    assert!(mounted("chalk/images") && mounted("web/app"), "{log}");

    // A service that knows nothing finds everything in the registry.
    let other = Service::start(&world.folder("knows-nothing"), &settings);
    let listed = other.image(&["ls", "--json"]).ok().stdout;
    assert!(
        listed.contains(&hash) && listed.contains("web/app:v1"),
        "{listed}"
    );
    assert_eq!(other.build(&file)["status"], "reused");
    let changed = busybox(&[steps[0], &format!("echo other {mark} > /two")]);
    let changed_file = changed.arg("image.toml");
    let why = other
        .image(&["why", &changed_file, "--name", "web/app:v1"])
        .ok();
    assert!(why.stdout.contains("other"), "{why}");
    let diff = other.image(&["diff", &file, "web/app:v1", "--json"]).ok();
    assert_eq!(diff.json()["equal"], true, "{diff}");
    let verified = other.image(&["verify", "web/app:v1", "--json", "--progress", "quiet"]);
    assert_eq!(verified.ok().json()["identical"], true);
    let second = other.build(&changed_file);
    assert_eq!(states(&second), ["cached", "ran"], "{second:#}");
    let detail = other.get(&format!("/v1/images/{hash}/manifest"));
    assert_eq!(detail["schemaVersion"], 2, "{detail:#}");

    // A registry that takes passwords only needs a login of the node's own.
    let config = files.arg("config.json");
    let login = format!("node.credentials={config}");
    let trust = format!("node.ca_bundle={ca}");
    let words = ["--set", login.as_str(), "--set", &trust];
    let _node = Node::start(&other, "n", "local", &world.folder("login-node"), &words);
    runs_on_a_node(&other, "n", &hash);

    // What is deleted goes with its names, its spec and the list of its specs.
    other.image(&["rm", &hash]).ok();
    for gone in ["web/app:v1", &format!("chalk/images:{hash}"), &tag] {
        let gone = skopeo("inspect", gone);
        assert!(!gone.status.success(), "{gone}");
        assert!(gone.stderr.contains("manifest unknown"), "{gone}");
    }
    let listed = other.image(&["ls", "--json"]).ok().stdout;
    assert!(!listed.contains(&hash), "{listed}");
    assert!(listed.contains(&hash_of(&second)), "{listed}");
    skopeo("inspect", &format!("chalk/images:{}", hash_of(&second))).ok();
    for service in [&service, &other] {
        assert_nowhere(service, PASSWORD);
    }
    collects(other, &settings);
}

fn tokens(world: &World) {
    let tokens = TokenService::start(&world.folder("tokens"), USER, PASSWORD);
    let terms = Terms {
        tokens: Some(&tokens),
        ..Terms::default()
    };
    let registry = Distribution::start_with(&world.folder("token"), &terms);
    let url = format!("http://{}", registry.address());
    let files = Project::new(&[("password", PASSWORD), ("none.json", "{}")]);
    let password = files.arg("password");
    let settings = [
        ("registry.url", url.as_str()),
        ("registry.prefix", "p"),
        ("registry.username", USER),
        ("registry.password_file", &password),
        NO_BASES,
    ];
    let service = Service::start(&world.folder("token"), &settings);
    import(world, &service).ok();
    let project = busybox(&["echo one > /one", &format!("echo {}", unique())]);
    let file = project.arg("image.toml");
    let built = service.build(&file);
    let hash = hash_of(&built);

    // To mount takes the right to read there and to write here, in one token.
    let asked = tokens.asked();
    let both = Asked {
        user: Some(USER.to_owned()),
        scopes: vec![
            "repository:p/chalk/images:pull,push".to_owned(),
            "repository:p/chalk/steps:pull".to_owned(),
        ],
    };
    assert!(asked.contains(&both), "{asked:#?}");
    let log = registry.log();
    assert!(
        log.lines()
            .any(|line| line.contains("mount=") && line.contains("status=201")),
        "{log}"
    );

    // A node without any login reads by tokens that the service gets it, for reading alone.
    let none = files.arg("none.json");
    let none = format!("node.credentials={none}");
    let words = ["--set", none.as_str()];
    let before = tokens.asked().len();
    let node = Node::start(&service, "n", "local", &world.folder("token-node"), &words);
    runs_on_a_node(&service, "n", &hash);
    let asked = tokens.asked().split_off(before);
    let pull = ["repository:p/chalk/images:pull".to_owned()];
    assert!(
        asked
            .iter()
            .any(|asked| asked.user.is_some() && asked.scopes == pull),
        "{asked:#?}"
    );
    assert!(asked.iter().all(|asked| asked.user.is_some()), "{asked:#?}");
    // Nobody but nodes gets them, and those only for what they were told to have.
    let known = fs::read(node.state().join("node/credentials.json")).unwrap();
    let known: Value = serde_json::from_slice(&known).unwrap();
    let (theirs, ours) = (known["token"].as_str().unwrap(), service.token());
    let ask = |token: &str, registry: &str, scope: &str| {
        let query = format!("registry={registry}&scope=repository:{scope}");
        let url = format!("{}/v1/agent/registry-token?{query}", service.url());
        request(&url, Some(token), &[]).status
    };
    let here = registry.address();
    for (token, at, scope, status) in [
        (theirs, here, "p/chalk/images:pull", 200),
        (theirs, here, "p/chalk/steps:pull", 403),
        (theirs, here, "p/web/app:pull", 403),
        (theirs, here, "other/chalk/images:pull", 404),
        (theirs, "127.0.0.1:1", "p/chalk/images:pull", 404),
        (theirs, here, "p/chalk/images:pull,push", 400),
        (ours, here, "p/chalk/images:pull", 403),
    ] {
        assert_eq!(ask(token, at, scope), status, "{at} {scope}");
    }
    drop(node);

    // Tokens that ran out are replaced, by a password that was changed in between.
    tokens.set_password("another");
    files.write("password", "another\n");
    let before = tokens.asked().len();
    wait_until("a new token", || {
        service.image(&["build", &file, "--json"]).ok();
        tokens.asked()[before..]
            .iter()
            .any(|asked| asked.user.is_some())
    });
    let project = busybox(&["echo one > /one", &format!("echo {}", unique())]);
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(states(&built), ["cached", "ran"], "{built:#}");
    assert_eq!(service.build(&file)["status"], "reused");
    assert_nowhere(&service, PASSWORD);
    collects(service, &settings);
}

fn a_path(world: &World) {
    let terms = Terms {
        path: Some("/registry/here/"),
        ..Terms::default()
    };
    let registry = Distribution::start_with(&world.folder("path"), &terms);
    let wrong = format!("http://{}/registry/here", registry.address());
    let words = ["serve", "--set", &format!("registry.url={wrong}")];
    let state = world.folder("path-wrong");
    let refused = chalk_tests::Chalk::on(&state).args(words).run();
    assert!(!refused.status.success(), "{refused}");
    refused.says(&["/v2", "prefix"]);

    let url = format!("{wrong}/v2");
    let settings = [
        ("registry.url", url.as_str()),
        ("registry.prefix", "p"),
        NO_BASES,
    ];
    let service = Service::start(&world.folder("path"), &settings);
    import(world, &service).ok();
    let project = busybox(&["echo one > /one", &format!("echo {}", unique())]);
    let file = project.arg("image.toml");
    let hash = hash_of(&service.build(&file));
    assert_eq!(service.build(&file)["status"], "reused");
    let _node = Node::start(&service, "n", "local", &world.folder("path-node"), &[]);
    runs_on_a_node(&service, "n", &hash);
    let log = registry.log();
    let served = format!("/registry/here/v2/p/chalk/images/manifests/{hash}");
    assert!(log.contains(&served), "{log}");
    collects(service, &settings);
}

fn a_certificate(world: &World) {
    let authority = Authority::new(&world.folder("client-authority"));
    let terms = Terms {
        tls: Some(&authority),
        client_certificate: true,
        ..Terms::default()
    };
    let registry = Distribution::start_with(&world.folder("certificate"), &terms);
    let own = authority.sign("client", [127, 0, 0, 1].into());
    let (url, ca) = (
        format!("https://{}", registry.address()),
        text(&authority.file()),
    );
    let (certificate, key) = (text(&own.certificate), text(&own.key));
    let settings = [
        ("registry.url", url.as_str()),
        ("registry.ca_bundle", &ca),
        ("registry.client_cert", &certificate),
        ("registry.client_key", &key),
        NO_BASES,
    ];
    let without = Service::start(&world.folder("without"), &settings[..2]);
    import(world, &without).code(3).says(&[registry.address()]);
    let service = Service::start(&world.folder("certificate"), &settings);
    import(world, &service).ok();
    let project = busybox(&[&format!("echo {}", unique())]);
    assert_eq!(service.build(&project.arg("image.toml"))["status"], "built");
}

/// Builds of one service attach to one manifest at the same time, and take away again: none loses
/// what another did.
fn referrers_at_once(world: &World) {
    const REFERRERS: usize = 8;
    let registry = Distribution::start_with(&world.folder("referrers"), &Terms::default());
    let options = Options {
        credentials: CredentialSource::Anonymous,
        ..Options::default()
    };
    let first = Client::new(options).unwrap();
    let at = |name: Option<&str>, digest: Option<Digest>| {
        Reference::new(registry.address(), "app", name, digest).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store = chalk_store::BlobStore::open(world.folder("referrers-store")).unwrap();
    let empty = store.put(b"{}").unwrap();
    let manifest = |subject: Option<&[u8]>, note: &str| {
        let part = json!({"mediaType": EMPTY, "digest": empty.digest, "size": 2});
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "test/kind",
            "config": part, "layers": [part], "annotations": {"note": note},
        });
        if let Some(subject) = subject {
            manifest["subject"] = json!({
                "mediaType": MANIFEST, "digest": Digest::of(subject), "size": subject.len(),
            });
        }
        bytes::Bytes::from(manifest.to_string())
    };
    let subject = manifest(None, "subject");
    let digest = Digest::of(&subject);
    let repository = at(None, None);
    runtime.block_on(async {
        let none = chalk_store::registry::Progress::none();
        first
            .push_blob(&repository, &empty, &store, None, &none)
            .await
            .unwrap();
        first
            .put_manifest(&at(Some("v1"), None), MANIFEST, subject.clone())
            .await
            .unwrap();
        let referring: Vec<_> = (0..REFERRERS)
            .map(|number| manifest(Some(&subject), &number.to_string()))
            .collect();
        let put = |bytes: bytes::Bytes| {
            let (client, at) = (first.clone(), at(None, Some(Digest::of(&bytes))));
            tokio::spawn(async move { client.put_manifest(&at, MANIFEST, bytes).await.unwrap() })
        };
        for task in referring.iter().cloned().map(put).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let listed = first.referrers(&repository, &digest, Some("test/kind"));
        let mut listed: Vec<_> = listed
            .await
            .unwrap()
            .into_iter()
            .map(|r| r.digest)
            .collect();
        let mut expected: Vec<_> = referring.iter().map(|bytes| Digest::of(bytes)).collect();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);

        // Half of them go, at the same time.
        let delete = |digest: &Digest| {
            let (client, at) = (first.clone(), at(None, Some(*digest)));
            tokio::spawn(async move { assert!(client.delete_manifest(&at).await.unwrap()) })
        };
        let (gone, stays) = expected.split_at(REFERRERS / 2);
        for task in gone.iter().map(delete).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let listed = first.referrers(&repository, &digest, None);
        let mut listed: Vec<_> = listed
            .await
            .unwrap()
            .into_iter()
            .map(|r| r.digest)
            .collect();
        listed.sort();
        assert_eq!(listed, stays);

        // With the last of them, and with the subject, the index goes.
        let tag = digest.to_string().replace(':', "-");
        for digest in stays {
            delete(digest).await.unwrap();
        }
        let left = first.manifest(&at(Some(&tag), None)).await.unwrap();
        assert!(left.is_none(), "{left:?}");
        put(referring[0].clone()).await.unwrap();
        assert!(
            first
                .manifest(&at(Some(&tag), None))
                .await
                .unwrap()
                .is_some()
        );
        delete(&digest).await.unwrap();
        let left = first.manifest(&at(Some(&tag), None)).await.unwrap();
        assert!(left.is_none(), "{left:?}");
    });
}

fn killed(world: &World) {
    let folder = world.folder("killed");
    let mut registry = Distribution::start_with(&folder, &Terms::default());
    let url = format!("http://{}", registry.address());
    let settings = [("registry.url", url.as_str()), NO_BASES];
    let service = Service::start(&world.folder("killed"), &settings);
    import(world, &service).ok();
    let mut build = Held::start(world, &service, "killed-talk");
    let hash = hash_of(
        &service
            .image(&["hash", &build.file(), "--json"])
            .ok()
            .json(),
    );
    let steps = format!("{url}/v2/chalk/steps/tags/list");
    wait_until("the first step in the registry", || {
        chalk_tests::get(&steps, "").status == 200
    });
    registry.kill();
    // Only now does the step end, and there is nobody to publish to.
    let told = build.unreachable();
    assert!(told.contains(registry.address()), "{told}");

    registry.launch();
    let tags = format!("{url}/v2/chalk/images/tags/list");
    let tags = chalk_tests::get(&tags, "").body;
    assert!(!tags.contains(&hash), "{tags}");
    let project = build.freed();
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(states(&built), ["cached", "ran"], "{built:#}");
    assert_eq!(
        service.build(&project.arg("image.toml"))["status"],
        "reused"
    );
}
