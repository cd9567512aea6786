//! What builds are measured with: ours, and the peers, each with caches and a registry of its own
//! that nobody else pushes to. A new one has nothing: no base, no layer, no package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chalk_tests::{Distribution, Docker, ImageFiles, Layout, Project, Service, World, run, tool};
use serde_json::Value;

use super::declarations::Declaration;
use crate::row::timed;

/// The registry that all pull the base from, and its reference there.
pub(crate) struct Upstream {
    registry: Distribution,
}

impl Upstream {
    /// Starts it with the Python base and the small one.
    pub(crate) fn start(world: &World) -> Self {
        let upstream = Self {
            registry: Distribution::start(&world.folder("upstream")),
        };
        upstream.put(world.python_layout(), "python");
        upstream.put(world.busybox_layout(), "busybox");
        upstream
    }

    /// Takes in the image of an OCI layout. Layers that are not compressed are compressed by gzip.
    pub(crate) fn put(&self, layout: &Path, name: &str) {
        let to = format!("docker://{}", self.reference(name));
        let mut skopeo = tool("skopeo", ["--insecure-policy", "copy", "--quiet"]);
        skopeo.arg("--dest-tls-verify=false");
        run(skopeo.arg(format!("oci:{}", layout.display())).arg(to)).ok();
    }

    /// What an image of it is called in a declaration.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/bench/{name}:1", self.registry.address())
    }
}

/// A service.
pub(crate) struct Ours {
    pub(crate) service: Service,
}

impl Ours {
    /// A service on an empty state directory. Its registry is its own.
    pub(crate) fn new(world: &World) -> Self {
        let service = world.start_empty("bench-ours", &[("prewarm.images", "")]);
        Self { service }
    }

    /// Stops it and removes its state, which else stays to the end: see [`Peer::remove`].
    pub(crate) fn remove(self) {
        let state = self.service.state().to_owned();
        drop(self);
        fs::remove_dir_all(state).unwrap();
    }

    /// Milliseconds of the whole command, and what it says.
    #[track_caller]
    pub(crate) fn build(&self, project: &Project) -> (f64, Value) {
        let file = project.arg("image.toml");
        let words = ["compute", "image", "build", &file, "--json"];
        let chalk = self
            .service
            .chalk()
            .args(words)
            .args(["--progress", "plain"]);
        let (time, said) = timed(&mut chalk.into_command());
        let last = said.lines().last().unwrap_or_default();
        (time, serde_json::from_str(last).expect("a result"))
    }

    /// Builds what was not built yet.
    #[track_caller]
    pub(crate) fn build_new(&self, project: &Project) -> (f64, Value) {
        let (time, built) = self.build(project);
        assert_eq!(built["status"], "built", "{built:#}");
        (time, built)
    }

    /// The tree of what was built.
    pub(crate) fn files(&self, world: &World, built: &Value) -> ImageFiles {
        let layout = world.folder("bench-image");
        let mut skopeo = self.service.skopeo("copy");
        skopeo.arg(format!("docker://{}", built["image"].as_str().unwrap()));
        tree(&mut skopeo, &layout)
    }
}

/// A peer.
pub(crate) struct Peer {
    engine: Engine,
    registry: Distribution,
    folders: [PathBuf; 2],
}

enum Engine {
    Docker(Docker),
    Buildah(Buildah),
}

impl Peer {
    /// `docker build` by BuildKit, and `docker push`.
    pub(crate) fn docker(world: &World) -> Self {
        let folder = world.folder("docker");
        let docker = Docker::start(&folder);
        Self::new(world, Engine::Docker(docker), folder)
    }

    /// `buildah bud --isolation chroot --layers`, and `buildah push`.
    pub(crate) fn buildah(world: &World) -> Self {
        let folder = world.folder("buildah");
        let buildah = Buildah {
            folder: folder.clone(),
        };
        Self::new(world, Engine::Buildah(buildah), folder)
    }

    fn new(world: &World, engine: Engine, folder: PathBuf) -> Self {
        let pushed = world.folder("pushed");
        Self {
            engine,
            registry: Distribution::start(&pushed),
            folders: [folder, pushed],
        }
    }

    /// Stops it and removes all that it kept. For few big files alone: ext4 looks long for an inode
    /// that was not deleted in the last minutes, so that whoever makes many files after many were
    /// removed would pay for it.
    pub(crate) fn remove(self) {
        let folders = self.folders.clone();
        drop(self);
        for folder in folders {
            fs::remove_dir_all(folder).unwrap();
        }
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/bench/{name}:1", self.registry.address())
    }

    /// Milliseconds of the build command.
    #[track_caller]
    pub(crate) fn build(&self, project: &Project, name: &str) -> f64 {
        let mut command = match &self.engine {
            Engine::Docker(docker) => docker.command(["build", "--network", "host"]),
            Engine::Buildah(buildah) => buildah.command(&[
                "bud",
                "--isolation",
                "chroot",
                "--layers",
                "--tls-verify=false",
            ]),
        };
        let secret = format!("id=ca,src={}", Declaration::authorities());
        command.args(["--secret", &secret, "--tag", &self.reference(name)]);
        timed(command.arg(project.path())).0
    }

    /// Milliseconds of the push command.
    #[track_caller]
    pub(crate) fn push(&self, name: &str) -> f64 {
        let reference = self.reference(name);
        timed(&mut match &self.engine {
            Engine::Docker(docker) => docker.command(["push", &reference]),
            Engine::Buildah(buildah) => {
                buildah.command(&["push", "--tls-verify=false", &reference])
            }
        })
        .0
    }

    /// Milliseconds of a pull of any image.
    #[track_caller]
    pub(crate) fn pull(&self, reference: &str) -> f64 {
        timed(&mut match &self.engine {
            Engine::Docker(docker) => docker.command(["pull", "--quiet", reference]),
            Engine::Buildah(buildah) => buildah.command(&["pull", "--tls-verify=false", reference]),
        })
        .0
    }

    /// Runs a command of an image's shell, which must succeed.
    #[track_caller]
    pub(crate) fn run(&self, reference: &str, command: &str) {
        let shell = ["sh", "-c", command];
        timed(&mut match &self.engine {
            Engine::Docker(docker) => {
                let mut run = docker.command(["run", "--rm", "--network", "none", reference]);
                run.args(shell);
                run
            }
            Engine::Buildah(_) => panic!("buildah runs no images"),
        });
    }

    /// The tree of what was pushed.
    pub(crate) fn files(&self, world: &World, name: &str) -> ImageFiles {
        let layout = world.folder("bench-image");
        let mut skopeo = tool("skopeo", ["--insecure-policy", "copy"]);
        skopeo.args(["--src-tls-verify=false", "--quiet"]);
        skopeo.arg(format!("docker://{}", self.reference(name)));
        tree(&mut skopeo, &layout)
    }
}

/// Copies an image into a layout, reads it, and removes the layout.
fn tree(skopeo: &mut Command, layout: &Path) -> ImageFiles {
    run(skopeo.arg(format!("oci:{}:it", layout.display()))).ok();
    let files = Layout::open(layout).files();
    fs::remove_dir_all(layout).unwrap();
    files
}

/// Storage of buildah.
struct Buildah {
    folder: PathBuf,
}

impl Buildah {
    fn command(&self, words: &[&str]) -> Command {
        let mut buildah = tool("buildah", ["--storage-driver", "overlay", "--root"]);
        buildah.arg(self.folder.join("root"));
        buildah.arg("--runroot").arg(self.folder.join("run"));
        buildah.args(words);
        buildah
    }
}

impl Drop for Buildah {
    /// Unmounts what it leaves mounted: the folder of its layers, upon itself.
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--all"]).output();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(&self.folder)) {
            let _ = tool("umount", [point]).output();
        }
    }
}
