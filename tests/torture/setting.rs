//! What all trials begin with: disks to copy, the program, and the names of its failpoints.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chalk_tests::World;

use crate::disk::{self, Disk};
use crate::garbage;
use crate::peer;
use crate::process::Launch;
use crate::recipe::BASE;

/// Names of failpoints.
#[derive(Debug)]
pub(crate) struct Points {
    /// Those of the service.
    pub(crate) service: Vec<String>,
    /// Those of nodes.
    pub(crate) node: Vec<String>,
}

impl Points {
    /// All of them.
    pub(crate) fn all(&self) -> BTreeSet<String> {
        self.service.iter().chain(&self.node).cloned().collect()
    }
}

/// What all trials begin with.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) folder: PathBuf,
    chalk: PathBuf,
    /// A disk with a service that has the base.
    pub(crate) template: PathBuf,
    /// A disk with nothing.
    pub(crate) empty: PathBuf,
    pub(crate) with_peer: bool,
    /// Blobs of the base: nothing could make them anew.
    pub(crate) base: BTreeSet<String>,
    /// Names of all failpoints.
    pub(crate) points: Points,
    pub(crate) notices: Vec<String>,
}

impl Setting {
    /// Makes the disks that trials begin with.
    pub(crate) fn prepare(parent: &Path, with_peer: bool) -> Self {
        let chalk = std::env::var_os("CHALK_TEST_BIN");
        let chalk = PathBuf::from(chalk.expect("CHALK_TEST_BIN, set by `cargo xtask torture`"));
        let folder = parent.join(format!("chalk-torture-{}", std::process::id()));
        let listed = Command::new(&chalk).env("CHALK_FAILPOINT", "list").output();
        let listed = String::from_utf8(listed.expect("run chalk").stdout).unwrap_or_default();
        let points = listed
            .lines()
            .filter(|line| line.ends_with(".before") || line.ends_with(".after"))
            // No trial has a bucket.
            .filter(|line| !line.starts_with("bucket."))
            .map(str::to_owned);
        let (node, service): (Vec<String>, _) = points.partition(|name| name.starts_with("node."));
        let points = Points { service, node };
        assert!(
            !points.service.is_empty() && !points.node.is_empty(),
            "chalk was built without its failpoints"
        );
        let disk = Disk::format(&folder.join("template"));
        let mut setting = Self {
            template: folder.join("template.img"),
            empty: folder.join("empty.img"),
            folder,
            chalk,
            with_peer: with_peer && Path::new(peer::PROGRAM).exists(),
            base: BTreeSet::new(),
            points,
            notices: Vec::new(),
        };
        if with_peer && !setting.with_peer {
            let notice =
                "docker-registry is not installed (Debian package docker-registry): left out";
            setting.notices.push(notice.to_owned());
        }
        let world = World::new();
        let layout = world.busybox_layout().display().to_string();
        let launch = setting.launch(&disk, "template");
        let import = ["compute", "image", "import", &layout, "--as", BASE];
        launch.run(&import).expect("import the base");
        setting.base = disk::blobs(&launch.state)
            .iter()
            .map(|path| disk::name_of(path))
            .collect();
        garbage::plant(&launch.state);
        disk.into_image(&setting.template);
        let empty = Disk::format(&setting.folder.join("empty"));
        empty.into_image(&setting.empty);
        world.tear_down().expect("nothing is left");
        setting
    }

    /// Removes all.
    pub(crate) fn tear_down(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// How the service of a trial is started; `name` marks what it leaves behind.
    pub(crate) fn launch(&self, disk: &Disk, name: &str) -> Launch {
        Launch {
            chalk: self.chalk.clone(),
            state: disk.path().join("state"),
            log: disk.folder().join("service.log"),
            passed: disk.folder().join("points"),
            mark: format!("{name}-{}", std::process::id()),
        }
    }
}
