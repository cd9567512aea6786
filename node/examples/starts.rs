//! Measures sandboxes of a node from the order to the known end, as root: `starts [--json] COUNT
//! COMMAND LAYER...`, where each LAYER, the lowest first, is a directory or an EROFS image of a
//! node's cache (it is not changed). Prints milliseconds; with `--json` all of them.

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    chalk_sandbox::init_if_requested();
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::error::Error;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use async_trait::async_trait;
    use chalk_core::Digest;
    use chalk_core::wire::agent::ImageRef;
    use chalk_core::wire::{Problem, SandboxRequest};
    use chalk_node::agent::Sandboxes as _;
    use chalk_node::files::{BlobSource, BlobStream, Files};
    use chalk_node::mounts::Mounts;
    use chalk_node::sandboxes::{ImageConfig, Leased, Leases, SandboxSettings, Sandboxes};

    /// Layers, the topmost first.
    struct Root(Vec<PathBuf>);

    #[async_trait]
    impl Leases for Root {
        async fn lease(&self, _: &ImageRef) -> Result<Leased, Problem> {
            Ok(Leased {
                layers: self.0.clone(),
                config: ImageConfig::default(),
                warm: true,
                held: Box::new(()),
            })
        }
    }

    struct NoBlobs;

    #[async_trait]
    impl BlobSource for NoBlobs {
        async fn fetch(&self, _: Digest) -> Result<BlobStream, Problem> {
            Ok(Box::pin(futures_util::stream::empty()))
        }
    }

    #[tokio::main]
    pub(super) async fn main() -> Result<(), Box<dyn Error>> {
        let mut arguments = std::env::args().skip(1).peekable();
        let json = arguments.next_if(|word| word == "--json").is_some();
        let usage = "usage: starts [--json] COUNT COMMAND LAYER...";
        let count: usize = arguments.next().ok_or(usage)?.parse()?;
        let args = vec![arguments.next().ok_or(usage)?];
        let layers: Result<Vec<PathBuf>, _> = arguments.map(std::fs::canonicalize).collect();
        let mut layers = layers?;
        layers.reverse();
        let directory = tempfile::tempdir()?;
        let dir = directory.path();
        let settings = SandboxSettings {
            records: dir.join("records"),
            disks: dir.join("disks"),
            disk: 10 << 30,
            log_limit: 64 << 20,
            cdi_dirs: Vec::new(),
        };
        let mounts = Mounts::start(&dir.join("mounts"))?;
        let files = Files::open(&dir.join("files"), 1 << 30, Arc::new(NoBlobs))?;
        let sandboxes = Sandboxes::start(settings, mounts, Arc::new(Root(layers)), files)
            .await
            .map_err(|problem| format!("{problem:?}"))?;
        let mut all = serde_json::Map::new();
        for (name, pause) in [
            ("five a second", Duration::from_millis(200)),
            ("one after the other", Duration::ZERO),
        ] {
            let mut times = Vec::new();
            for number in 0..count.max(1) {
                tokio::time::sleep(pause).await;
                let id = format!("{name}-{number}").replace(' ', "-");
                let image = ImageRef {
                    digest: Digest::of(b"image"),
                    image_hash: None,
                    registry: "localhost".into(),
                    repository: "image".into(),
                    name: "image".into(),
                    node_login: false,
                    broker: false,
                    api: None,
                    peers: Vec::new(),
                    traceparent: None,
                };
                let request = SandboxRequest {
                    args: args.clone(),
                    ..SandboxRequest::default()
                };
                let start = Instant::now();
                sandboxes.start(id.clone(), image, request);
                let report = sandboxes.ended(&id).await.map_err(|p| format!("{p:?}"))?;
                times.push(start.elapsed().as_secs_f64() * 1000.0);
                if report.exit_code != Some(0) {
                    return Err(format!("{report:?}").into());
                }
                sandboxes.remove(&id).await.map_err(|p| format!("{p:?}"))?;
            }
            times.sort_by(f64::total_cmp);
            if json {
                all.insert(name.to_owned(), times.into());
                continue;
            }
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            println!(
                "{name}: best {:.1}, median {:.1}, 95 % {:.1}, 99 % {:.1}, worst {:.1}",
                at(0.0),
                at(0.5),
                at(0.95),
                at(0.99),
                at(1.0)
            );
        }
        if json {
            println!("{}", serde_json::Value::from(all));
        }
        sandboxes.end_all().await;
        Ok(())
    }
}
