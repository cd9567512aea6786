//! Images that are built anew: what comes out the same, and what is told where it does not.

use std::fs;

use chalk_tests::{Project, Service, World, unique};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("copies_and_packages_come_out_the_same", copies_and_packages),
    ("packages_by_pip_come_out_the_same", packages_by_pip),
    ("what_differs_is_named_by_step", what_differs_is_named),
    ("a_file_on_the_registry_that_is_not_ours_is_found", tampered),
];

fn verify(service: &Service, image: &str) -> chalk_tests::Ran {
    service.image(&["verify", image, "--json", "--progress", "quiet"])
}

/// Everything that the service keeps of builds, but the log of them.
fn kept(service: &Service) -> Vec<String> {
    let mut found = Vec::new();
    for dir in ["store", "registry", "engine/steps", "engine/scratch"] {
        let mut todo = vec![service.state().join(dir)];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                found.push(path.display().to_string());
                if path.is_dir() {
                    todo.push(path);
                }
            }
        }
    }
    found.sort();
    found
}

/// A declaration with every kind of step that has words of its own.
fn typed() -> Project {
    let text = format!(
        r#"
[image]
debian_slim = "3.12"
workdir = "/app"
labels = {{ run = "{}" }}
[[step]]
pip_install = ["six==1.16.0", "requests", "tqdm"]
[[step]]
apt_install = ["tree", "zip"]
[[step]]
uv_pip_install = ["packaging", "pluggy"]
[[step]]
add_local_file = {{ src = "app.py", dest = "/app/app.py", strategy = "copy" }}
[[step]]
add_local_dir = {{ src = "src", dest = "/app/src", strategy = "copy" }}
"#,
        unique()
    );
    let project = Project::new(&[
        ("image.toml", &text),
        ("app.py", "print('hello')\n"),
        ("src/pkg/__init__.py", ""),
        ("src/pkg/tool.sh", "#!/bin/sh\n"),
    ]);
    project.chmod("src/pkg/tool.sh", 0o755);
    project
}

fn all_identical(found: &Value, layers: usize) {
    assert_eq!(found["identical"], true, "{found:#}");
    assert_eq!(found["config_identical"], true, "{found:#}");
    let checks = found["layers"].as_array().unwrap();
    assert_eq!(checks.len(), layers, "{found:#}");
    for check in checks {
        assert_eq!(check["published"], check["rebuilt"], "{check:#}");
    }
}

fn copies_and_packages(world: &World) {
    let service = world.start("verify", &[]);
    let built = service.build(&typed().arg("image.toml"));
    let hash = built["image_hash"].as_str().unwrap();
    let before = kept(&service);
    let found = verify(&service, &hash["sha256:".len()..][..12]).ok().json();
    all_identical(&found, 5);
    assert_eq!(found["digest"], built["digest"], "{found:#}");
    let steps: Vec<&Value> = found["layers"].as_array().unwrap().iter().collect();
    let steps: Vec<u64> = steps.iter().map(|c| c["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4]);
    assert_eq!(kept(&service), before, "nothing is kept of it");
    service.assert_clean();
}

fn packages_by_pip(world: &World) {
    let service = world.start("verify-pip", &[("build.installer", "pip")]);
    let project = Project::toml(&format!(
        "[image]\ndebian_slim = \"3.12\"\nlabels = {{ run = \"{}\" }}\n\
         [[step]]\npip_install = [\"six==1.16.0\", \"tqdm\"]\n",
        unique()
    ));
    let name = "team/by-pip:1";
    let words = ["build", &project.arg("image.toml"), "--name", name];
    service.image(&words).ok();
    all_identical(&verify(&service, name).ok().json(), 1);
}

fn what_differs_is_named(world: &World) {
    let service = world.service();
    let project = Project::new(&[
        (
            "image.toml",
            &format!(
                "[image]\nbase = \"busybox\"\n\
                 [[step]]\nadd_local_file = {{ src = \"same\", dest = \"/same-{0}\", strategy = \"copy\" }}\n\
                 [[step]]\nrun_commands = ['''head -c 16 /dev/urandom > /random; \
                 touch /only-$(head -c 8 /dev/urandom | od -An -tx1 | tr -d ' \\n'); \
                 echo steady > /steady''']\n",
                unique()
            ),
        ),
        ("same", "same\n"),
    ]);
    let built = service.build(&project.arg("image.toml"));
    let hash = built["image_hash"].as_str().unwrap();
    let ran = verify(service, hash).code(1);
    let found = ran.json();
    assert_eq!(found["identical"], false);
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2, "{found:#}");
    assert_eq!(layers[0]["identical"], true, "{found:#}");
    assert_eq!(layers[1]["step"], 1, "{found:#}");
    let mut differ = std::collections::BTreeMap::new();
    for file in layers[1]["files"].as_array().unwrap() {
        let differs = file["differs"].clone();
        differ.insert(file["path"].as_str().unwrap().to_owned(), differs);
    }
    let random = differ.remove("random").expect("named");
    let random = random.as_array().unwrap();
    assert!(random.contains(&json!("content")), "{found:#}");
    assert!(!random.contains(&json!("mode")), "{found:#}");
    // Written at another time, with the same words.
    let steady = differ.remove("steady").unwrap_or(json!(["time"]));
    assert_eq!(steady, json!(["time"]), "{found:#}");
    let mut sides: Vec<Value> = differ
        .into_iter()
        .filter(|(path, _)| path.starts_with("only-"))
        .map(|(_, differs)| differs[0].clone())
        .collect();
    sides.sort_by_key(ToString::to_string);
    assert_eq!(sides, ["only_published", "only_rebuilt"], "{found:#}");
    // The same for people; and the published image is as it was.
    let told = service.image(&["verify", hash, "--progress", "quiet"]);
    let told = told.code(1).says(&["1 of 2 layers differ"]);
    assert!(told.stdout.contains("/random: content"), "{told}");
    let shown = service.image(&["show", hash, "--json"]).ok().json();
    assert_eq!(shown["digest"], built["digest"]);
    service.image(&["verify", "0123456789abcdef"]).code(4);
}

/// An image whose tag was moved to another one in the registry: its hash promises other files.
fn tampered(world: &World) {
    let service = world.start("verify-tampered", &[]);
    let build = |text: &str| {
        let project = Project::new(&[
            (
                "image.toml",
                "[image]\nbase = \"busybox\"\n[[step]]\n\
                 add_local_file = { src = \"file\", dest = \"/file\", strategy = \"copy\" }\n",
            ),
            ("file", text),
        ]);
        service.build(&project.arg("image.toml"))
    };
    let (ours, other) = (build("ours"), build("other"));
    let hex = |built: &Value| built["image_hash"].as_str().unwrap()["sha256:".len()..].to_owned();
    // The spec stays with the manifest that it was published with, so that one is named, too.
    let image = |hex: &str| format!("docker://{}/chalk/images:{hex}", service.address());
    let mut copy = service.skopeo("copy");
    copy.args(["--dest-tls-verify=false"]);
    copy.args(["--dest-creds", &format!("chalk:{}", service.token())]);
    copy.arg(image(&hex(&other))).arg(image(&hex(&ours)));
    let copied = chalk_tests::run(&mut copy);
    copied.ok();
    let ran = verify(&service, &hex(&ours));
    // Its spec is that of the other image: it is told, not taken for the truth.
    assert!(!ran.status.success(), "{ran}");
    ran.says(&["spec"]);
}
