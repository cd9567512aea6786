//! Other people's programs push and pull: skopeo, buildah and docker, in both formats of images,
//! and lists of several platforms. What one pushed all others pull, and it is the same image.

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_tests::{INDEX, Layout, MANIFEST, Ran, RegistryHttp, World, descriptor, run, tool};
use serde_json::json;

use super::fresh;
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("skopeo_pushes_in_both_formats_and_all_pull", skopeo),
    ("docker_pushes_and_all_pull", docker),
    ("buildah_pushes_in_both_formats_and_all_pull", buildah),
    ("an_index_of_platforms_goes_there_and_back", index),
];

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// `docker://` reference of a tag in the shared service's registry.
fn remote(world: &World, repository: &str, tag: &str) -> String {
    format!("docker://{}/{repository}:{tag}", world.service().address())
}

fn local(world: &World) -> String {
    format!("oci:{}", world.busybox_layout().display())
}

fn push_by_skopeo(world: &World, repository: &str, format: &str, from: &str) {
    let credentials = format!("chalk:{}", world.service().token());
    let mut skopeo = tool("skopeo", ["--insecure-policy", "copy", "--format", format]);
    skopeo.args(["--dest-tls-verify=false", "--dest-creds", &credentials]);
    run(skopeo.arg(from).arg(remote(world, repository, format))).ok();
}

/// Buildah on a storage of its own.
struct Buildah(std::path::PathBuf);

impl Buildah {
    fn run(&self, arguments: &[&str]) -> Ran {
        let mut buildah = tool("buildah", ["--storage-driver", "vfs"]);
        buildah.arg("--root").arg(self.0.join("root"));
        buildah.arg("--runroot").arg(self.0.join("run"));
        run(buildah.args(arguments))
    }

    /// Pulls an image; its id.
    fn pull(&self, world: &World, from: &str) -> String {
        let credentials = format!("chalk:{}", world.service().token());
        let words = ["pull", "--tls-verify=false", "--creds", &credentials, from];
        self.run(&words).ok().stdout.trim().to_owned()
    }
}

/// Expects that every program pulls a tag, and that it is the image that the registry has.
fn assert_all_pull(world: &World, registry: &RegistryHttp, repository: &str, tag: &str) {
    let manifest = registry
        .get(&format!("/v2/{repository}/manifests/{tag}"))
        .is(200)
        .json();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let id = config.strip_prefix("sha256:").unwrap();

    let service = world.service();
    let from = remote(world, repository, tag);
    let layout = world.folder("pulled");
    let mut skopeo = service.skopeo("copy");
    skopeo
        .arg(&from)
        .arg(format!("oci:{}:it", layout.display()));
    // A layout is of the one format only.
    if manifest["mediaType"] == MANIFEST {
        run(&mut skopeo).ok();
        assert_eq!(Layout::open(&layout).manifest(), manifest);
    } else {
        let folder = world.folder("folder");
        let mut skopeo = service.skopeo("copy");
        run(skopeo.arg(&from).arg(format!("dir:{}", folder.display()))).ok();
        let text = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
        let pulled: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(pulled, manifest);
    }

    let buildah = Buildah(world.folder("buildah"));
    assert_eq!(buildah.pull(world, &from), id);

    let docker = world.docker();
    docker.login(service);
    let image = from.strip_prefix("docker://").unwrap();
    docker.run(["pull", "--quiet", image]).ok();
    let found = docker.run(["inspect", "--format", "{{.Id}}", image]).ok();
    assert_eq!(found.stdout.trim(), config);
    let words = ["run", "--rm", "--network", "none", image, "echo", "it runs"];
    assert_eq!(docker.run(words).ok().stdout, "it runs\n");
    docker.run(["rmi", image]).ok();
}

fn skopeo(world: &World) {
    let (registry, repository) = fresh(world);
    for (format, kind) in [("oci", MANIFEST), ("v2s2", DOCKER)] {
        push_by_skopeo(world, &repository, format, &local(world));
        let path = format!("/v2/{repository}/manifests/{format}");
        registry.head(&path).is(200).has("content-type", kind);
        assert_all_pull(world, &registry, &repository, format);
    }
}

fn docker(world: &World) {
    let (registry, repository) = fresh(world);
    push_by_skopeo(world, &repository, "oci", &local(world));
    let docker = world.docker();
    docker.login(world.service());
    let from = remote(world, &repository, "oci");
    let from = from.strip_prefix("docker://").unwrap();
    docker.run(["pull", "--quiet", from]).ok();
    // Into a repository where nothing is: docker mounts what it can, and pushes the rest.
    let other = format!("{repository}/pushed");
    let to = remote(world, &other, "v1");
    let to = to.strip_prefix("docker://").unwrap();
    docker.run(["tag", from, to]).ok();
    docker.run(["push", "--quiet", to]).ok();
    docker.run(["rmi", from, to]).ok();
    let path = format!("/v2/{other}/manifests/v1");
    registry.head(&path).is(200).has("content-type", DOCKER);
    assert_all_pull(world, &registry, &other, "v1");
}

fn buildah(world: &World) {
    let (registry, repository) = fresh(world);
    let buildah = Buildah(world.folder("buildah"));
    let pulled = buildah.run(&["pull", &local(world)]).ok();
    let id = pulled.stdout.trim().to_owned();
    let credentials = format!("chalk:{}", world.service().token());
    for (format, kind) in [("oci", MANIFEST), ("v2s2", DOCKER)] {
        let to = remote(world, &repository, format);
        let words = ["push", "--tls-verify=false", "--creds", &credentials];
        let words = [&words[..], &["--format", format, &id, &to]].concat();
        buildah.run(&words).ok();
        let path = format!("/v2/{repository}/manifests/{format}");
        registry.head(&path).is(200).has("content-type", kind);
        assert_all_pull(world, &registry, &repository, format);
    }
}

fn index(world: &World) {
    let (registry, repository) = fresh(world);
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let text = registry.image(&repository, Algorithm::Sha256).to_string();
        let digest = AnyDigest::of(Algorithm::Sha256, text.as_bytes());
        let name = digest.to_string();
        registry
            .push_manifest(&repository, &name, MANIFEST, &text)
            .is(201);
        let mut entry = descriptor(MANIFEST, &digest, text.len());
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let text = index.to_string();
    registry
        .push_manifest(&repository, "all", INDEX, &text)
        .is(201);
    let folder = world.folder("index");
    let layout = format!("oci:{}:all", folder.display());
    let mut skopeo = world.service().skopeo("copy");
    run(skopeo.args(["--all", &remote(world, &repository, "all"), &layout])).ok();
    let credentials = format!("chalk:{}", world.service().token());
    let other = format!("{repository}/back");
    let mut skopeo = tool("skopeo", ["--insecure-policy", "copy", "--all"]);
    skopeo.args(["--preserve-digests", "--dest-tls-verify=false"]);
    skopeo.args(["--dest-creds", &credentials, &layout]);
    run(skopeo.arg(remote(world, &other, "all"))).ok();
    let back = registry.get(&format!("/v2/{other}/manifests/all")).is(200);
    assert_eq!(back.has("content-type", INDEX).text(), text);
    for entry in &entries {
        let digest = entry["digest"].as_str().unwrap();
        registry
            .get(&format!("/v2/{other}/manifests/{digest}"))
            .is(200);
    }
}
