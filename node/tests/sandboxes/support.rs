//! A node without a service: its image is the host's own root with another `/etc`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use chalk_core::Digest;
use chalk_core::wire::agent::{ImageRef, SandboxReport};
use chalk_core::wire::{OutputEventKind, Problem, SandboxRequest, SandboxState};
use chalk_node::agent::Sandboxes as _;
use chalk_node::files::{BlobSource, BlobStream, Files};
use chalk_node::mounts::Mounts;
use chalk_node::sandboxes::{ImageConfig, Leased, Leases, SandboxSettings, Sandboxes};
use futures_util::StreamExt as _;

pub const CONFIG: &str = r#"{"config":{"Env":["PATH=/usr/bin:/bin","FROM=image"],
    "Cmd":["echo","default"],"StopSignal":"SIGTERM"}}"#;

struct Image(PathBuf);

#[async_trait]
impl Leases for Image {
    async fn lease(&self, _: &ImageRef) -> Result<Leased, Problem> {
        Ok(Leased {
            layers: vec![self.0.clone(), "/".into()],
            config: ImageConfig::parse(CONFIG.as_bytes()).expect("a configuration"),
            warm: true,
            held: Box::new(()),
        })
    }
}

/// Blobs of the service.
#[derive(Clone, Default)]
pub struct Blobs(Arc<Mutex<BTreeMap<[u8; 32], Vec<u8>>>>);

impl Blobs {
    pub fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut blobs = self.0.lock().expect("no panic");
        blobs.insert(*digest.as_bytes(), bytes.to_vec());
        digest
    }
}

#[async_trait]
impl BlobSource for Blobs {
    async fn fetch(&self, digest: Digest) -> Result<BlobStream, Problem> {
        let blobs = self.0.lock().expect("no panic");
        let bytes = blobs.get(digest.as_bytes()).expect("put before").clone();
        Ok(Box::pin(futures_util::stream::iter([Ok(bytes.into())])))
    }
}

pub struct Node {
    pub sandboxes: Sandboxes,
    pub blobs: Blobs,
    pub dir: PathBuf,
    _own: Option<tempfile::TempDir>,
    _image: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is ready for the next sandbox holds itself.
        let sandboxes = self.sandboxes.clone();
        let end = async move { sandboxes.end_all().await };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end);
        }
    }
}

/// Output of a process, streams apart, and its last event.
#[derive(Debug, Default)]
pub struct Seen {
    pub stdout: String,
    pub stderr: String,
    pub dropped: u64,
    pub end: Option<OutputEventKind>,
}

impl Node {
    pub async fn start() -> Node {
        let own = tempfile::tempdir().expect("temporary directory");
        let mut node = Node::in_dir(own.path(), 64 << 20).await;
        node._own = Some(own);
        node
    }

    /// A node with its state in `dir`.
    pub async fn in_dir(dir: &Path, disk: u64) -> Node {
        // Overlayfs takes no layer that lies within another, and `/` is one.
        let own = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
        let image = own.path().to_owned();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&image, open).expect("opened");
        let etc = image.join("etc");
        std::fs::create_dir_all(&etc).expect("made");
        let write = |name: &str, text: &str| std::fs::write(etc.join(name), text).expect("file");
        write(
            "passwd",
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        );
        write("group", "root:x:0:\napp:x:1000:\n");
        let mounts = Mounts::start(&dir.join("mounts")).expect("mount thread");
        let blobs = Blobs::default();
        let source = Arc::new(blobs.clone());
        let files = Files::open(&dir.join("files"), 1 << 30, source).expect("files");
        let settings = SandboxSettings {
            records: dir.join("records"),
            disks: dir.join("disks"),
            disk,
            log_limit: 2 << 20,
            cdi_dirs: vec![dir.join("cdi")],
        };
        let images = Arc::new(Image(image));
        let sandboxes = Sandboxes::start(settings, mounts, images, files).await;
        Node {
            sandboxes: sandboxes.expect("sandboxes"),
            blobs,
            dir: dir.to_owned(),
            _own: None,
            _image: own,
        }
    }

    /// Starts a sandbox with a script for the shell.
    pub fn script(&self, id: &str, script: &str) {
        self.start_with(id, script, |_| ());
    }

    pub fn start_with(&self, id: &str, script: &str, change: impl FnOnce(&mut SandboxRequest)) {
        let mut request = SandboxRequest {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            ..SandboxRequest::default()
        };
        change(&mut request);
        let image = ImageRef {
            traceparent: None,
            digest: Digest::of(b"image"),
            image_hash: None,
            registry: "localhost".into(),
            repository: "image".into(),
            name: "image".into(),
            node_login: false,
            broker: false,
            api: None,
            peers: Vec::new(),
        };
        self.sandboxes.start(id.to_owned(), image, request);
    }

    /// Waits for the end of a sandbox.
    pub async fn ended(&self, id: &str) -> SandboxReport {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.sandboxes.ended(id)).await;
        ended.expect("ends").expect("known")
    }

    pub async fn run(&self, id: &str, script: &str) -> (SandboxReport, Seen) {
        self.script(id, script);
        (self.ended(id).await, self.seen(id, "main").await)
    }

    pub async fn run_with(
        &self,
        id: &str,
        script: &str,
        change: impl FnOnce(&mut SandboxRequest),
    ) -> (SandboxReport, Seen) {
        self.start_with(id, script, change);
        (self.ended(id).await, self.seen(id, "main").await)
    }

    /// All output of a process, to its end.
    pub async fn seen(&self, id: &str, process: &str) -> Seen {
        self.seen_until(id, process, |_| false).await
    }

    /// Output of a process until it holds `text`.
    pub async fn until(&self, id: &str, process: &str, text: &str) -> Seen {
        let seen = self
            .seen_until(id, process, |seen| seen.stdout.contains(text))
            .await;
        assert!(seen.stdout.contains(text), "never came {text:?}: {seen:?}");
        seen
    }

    async fn seen_until(&self, id: &str, process: &str, enough: impl Fn(&Seen) -> bool) -> Seen {
        let mut output = self
            .sandboxes
            .output(id, process, 0, true)
            .await
            .expect("known");
        let mut seen = Seen::default();
        while !enough(&seen) {
            let event = tokio::time::timeout(Duration::from_secs(60), output.next()).await;
            let Some(event) = event.unwrap_or_else(|_| panic!("nothing more came: {seen:?}"))
            else {
                break;
            };
            match event.kind {
                OutputEventKind::Output { stream, data } => {
                    let bytes = base64::engine::general_purpose::STANDARD.decode(data);
                    let bytes = bytes.expect("base64");
                    let text = String::from_utf8_lossy(&bytes);
                    match stream {
                        chalk_core::wire::Stream::Stdout => seen.stdout.push_str(&text),
                        chalk_core::wire::Stream::Stderr => seen.stderr.push_str(&text),
                    }
                }
                OutputEventKind::Dropped { bytes } => seen.dropped += bytes,
                end => seen.end = Some(end),
            }
        }
        seen
    }

    pub fn state(&self, id: &str) -> Option<SandboxState> {
        let reports = self.sandboxes.reports();
        let report = reports.iter().find(|report| report.id == id);
        report.map(|report| report.state)
    }
}

/// How many processes of the machine, zombies left out, have `text` among their arguments.
pub fn processes_with(text: &str) -> usize {
    std::fs::read_dir("/proc")
        .expect("readable")
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|arguments| {
            arguments
                .split(|byte| *byte == 0)
                .any(|argument| argument == text.as_bytes())
        })
        .count()
}

/// The control groups of the node with its disks in `dir`.
pub fn groups(dir: &Path) -> Vec<PathBuf> {
    let disks = std::fs::canonicalize(dir.join("disks")).expect("there");
    let name = &Digest::of(disks.as_os_str().as_encoded_bytes()).hex()[..12];
    let hierarchies = chalk_sandbox::cgroup::Hierarchies::detect().expect("mounted");
    let group = chalk_sandbox::cgroup::Group::named(&hierarchies, Path::new("chalk").join(name));
    let mut found = Vec::new();
    for directory in group.directories() {
        if directory.exists() {
            found.push(directory.clone());
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                found.push(entry.path());
            }
        }
    }
    found
}

pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}
