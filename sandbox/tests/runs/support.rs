//! A small root for trials: a skeleton of its own, with the host's `/usr` mounted read-only.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use chalk_sandbox::{Exit, Mount, Root, RunSpec, SandboxError, Stream};
use tokio_util::sync::CancellationToken;

/// Directories of one overlay.
pub struct Fixture {
    pub directory: tempfile::TempDir,
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

impl Fixture {
    pub fn new() -> Fixture {
        let directory = tempfile::tempdir().expect("temporary directory");
        let fixture = Fixture { directory };
        for path in ["lower", "upper", "work"] {
            std::fs::create_dir(fixture.path(path)).expect("directory");
        }
        for path in [
            "etc", "proc", "sys", "dev", "tmp", "run", "usr", "home/app", "opt/deep",
        ] {
            std::fs::create_dir_all(fixture.path("lower").join(path)).expect("directory");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            if Path::new("/").join(name).is_symlink() {
                symlink(format!("usr/{name}"), fixture.path("lower").join(name)).expect("link");
            }
        }
        let write = |path: &str, text: &str| {
            std::fs::write(fixture.path("lower").join(path), text).expect("file");
        };
        write(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        );
        write("etc/group", "root:x:0:\napp:x:1000:\nextra:x:1234:app\n");
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn root(&self) -> Root {
        Root::Overlay {
            lower: vec![self.path("lower")],
            upper: self.path("upper"),
            work: self.path("work"),
            volatile: true,
        }
    }

    /// A run of `script` in a shell, with `/usr` of the host.
    pub fn spec(&self, script: &str) -> RunSpec {
        let mut spec = RunSpec::new(self.root(), ["/bin/sh", "-c", script]);
        spec.mounts.push(Mount::Bind {
            source: "/usr".into(),
            target: "/usr".into(),
            read_only: true,
        });
        spec
    }

    pub async fn run(&self, script: &str) -> Ran {
        run(&self.spec(script)).await.expect("runs")
    }

    /// What stands in the upper directory, sorted, by path below it.
    pub fn changes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![self.path("upper")];
        while let Some(directory) = todo.pop() {
            for entry in std::fs::read_dir(&directory).expect("readable") {
                let path = entry.expect("entry").path();
                let below = path.strip_prefix(self.path("upper")).expect("below");
                found.push(below.display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    todo.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

pub async fn run(spec: &RunSpec) -> Result<Ran, SandboxError> {
    run_until(spec, &CancellationToken::new()).await
}

pub async fn run_until(spec: &RunSpec, cancel: &CancellationToken) -> Result<Ran, SandboxError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut sink = |stream: Stream, bytes: &[u8]| match stream {
        Stream::Stdout => stdout.extend_from_slice(bytes),
        Stream::Stderr => stderr.extend_from_slice(bytes),
    };
    let exit = chalk_sandbox::run(spec, &mut sink, cancel).await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Ok(Ran {
        exit,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}
