//! Made-up declarations: repositories of teams, each with versions that differ a little from one to
//! the next, as images of one project do.

use std::collections::BTreeMap;

use chalk_core::spec::{Base, BaseImage, Instruction, Spec, Step, StepKind};
use chalk_core::tree::{Tree, TreeEntry, TreeNode};
use chalk_core::{Digest, Reference};
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::chance;

const TEAMS: [&str; 16] = [
    "ads", "chat", "data", "fraud", "genomics", "growth", "infra", "maps", "platform", "pricing",
    "quant", "ranking", "robotics", "search", "speech", "vision",
];
const PROJECTS: [&str; 20] = [
    "agent",
    "api",
    "batch",
    "crawler",
    "detector",
    "embedder",
    "eval",
    "finetune",
    "gateway",
    "indexer",
    "ingest",
    "notebook",
    "reranker",
    "sandbox",
    "scheduler",
    "server",
    "tokenizer",
    "trainer",
    "transcoder",
    "worker",
];
const PYTHON: [&str; 8] = [
    "python:3.12-slim-bookworm",
    "python:3.12-slim-bookworm",
    "python:3.11-slim-bookworm",
    "python:3.13-slim-bookworm",
    "python:3.10-slim-bookworm",
    "pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime",
    "nvcr.io/nvidia/pytorch:25.06-py3",
    "ghcr.io/astral-sh/uv:python3.12-bookworm-slim",
];
const NODE: [&str; 2] = ["node:22-bookworm-slim", "node:24-bookworm-slim"];
const PLAIN: [&str; 3] = [
    "debian:bookworm-slim",
    "ubuntu:24.04",
    "nvidia/cuda:12.8.1-runtime-ubuntu24.04",
];
/// Bases that nodes keep ready.
pub(crate) const PREWARMED: [&str; 4] = [
    "docker.io/library/python:3.11-slim-bookworm",
    "docker.io/library/python:3.12-slim-bookworm",
    "docker.io/library/python:3.13-slim-bookworm",
    "docker.io/pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime",
];
/// Packages with the major and minor version that they begin at.
const PIP: [(&str, u32, u32); 24] = [
    ("accelerate", 1, 2),
    ("anthropic", 0, 40),
    ("beautifulsoup4", 4, 10),
    ("boto3", 1, 35),
    ("datasets", 3, 1),
    ("duckdb", 1, 0),
    ("faiss-cpu", 1, 8),
    ("fastapi", 0, 110),
    ("httpx", 0, 25),
    ("matplotlib", 3, 8),
    ("numpy", 2, 0),
    ("openai", 1, 50),
    ("pandas", 2, 1),
    ("pillow", 11, 0),
    ("playwright", 1, 44),
    ("pyarrow", 17, 0),
    ("pydantic", 2, 7),
    ("requests", 2, 30),
    ("scikit-learn", 1, 4),
    ("scipy", 1, 12),
    ("sentence-transformers", 3, 0),
    ("torch", 2, 3),
    ("transformers", 4, 44),
    ("uvicorn", 0, 29),
];
const APT: [&str; 14] = [
    "build-essential",
    "ca-certificates",
    "cmake",
    "curl",
    "ffmpeg",
    "git",
    "git-lfs",
    "jq",
    "libgl1",
    "libpq-dev",
    "openssh-client",
    "poppler-utils",
    "ripgrep",
    "tesseract-ocr",
];
const COMMANDS: [&str; 9] = [
    "python -m compileall -q /app",
    "playwright install --with-deps chromium",
    "python -c \"import nltk; nltk.download('punkt')\"",
    "huggingface-cli download sentence-transformers/all-MiniLM-L6-v2",
    "make -C /app -j\"$(nproc)\" release",
    "python -m pytest -q /app/tests",
    "useradd --create-home --uid 1000 app && chown -R app /app",
    "curl -fsSL https://example.com/models/tagger.tar.zst | tar --zstd -x -C /opt",
    "cargo build --release --manifest-path /app/native/Cargo.toml",
];
/// Versions of a repository of which one minor version consists.
const PATCHES: u32 = 6;

/// One version of one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// Number of the repository.
    pub(crate) repository: u32,
    /// Number of the version in it, from 0 on.
    pub(crate) number: u32,
}

/// How many repositories that many images are spread over.
pub(crate) fn repositories(images: u32) -> u32 {
    let most = u32::try_from(TEAMS.len() * PROJECTS.len()).unwrap_or(u32::MAX);
    images.div_ceil(8).clamp(1, most)
}

/// `team/project` of a repository.
pub(crate) fn repository(seed: u64, number: u32) -> String {
    // A walk over all pairs, from another place and with another stride for each seed.
    let mut rng = chance::of(seed, "repositories");
    let pairs = u32::try_from(TEAMS.len() * PROJECTS.len()).unwrap_or(u32::MAX);
    let (start, stride) = (
        rng.random_range(0..pairs),
        chance::one(&mut rng, &[&7, &11, &77, &91]),
    );
    let pair = ((start + number * stride) % pairs) as usize;
    format!(
        "{}/{}",
        TEAMS[pair / PROJECTS.len()],
        PROJECTS[pair % PROJECTS.len()]
    )
}

/// The name that a version is filed under.
pub(crate) fn name(seed: u64, version: Version) -> String {
    let Version {
        repository: at,
        number,
    } = version;
    let (major, rest) = (1 + number / (PATCHES * 10), number % (PATCHES * 10));
    let (minor, patch) = (rest / PATCHES, rest % PATCHES);
    format!("{}:v{major}.{minor}.{patch}", repository(seed, at))
}

/// The declaration of a version, its base pinned.
pub(crate) fn spec(seed: u64, version: Version) -> Spec {
    let Version {
        repository: at,
        number,
    } = version;
    // What all versions of the repository share, and what is new in this one.
    let mut whole = chance::of(seed, format_args!("repository {at}"));
    let mut new = chance::of(seed, format_args!("version {at} {number}"));
    let kind = whole.random_range(0..10);
    let bases: &[&str] = match kind {
        0 | 1 => &NODE,
        2 => &PLAIN,
        _ => &PYTHON,
    };
    let reference = chance::one(&mut whole, bases).parse();
    let mut spec = Spec::new(reference.map_or(Base::Scratch, base));
    if whole.random_bool(0.08) {
        spec.platform = "linux/arm64".parse().unwrap_or_default();
    }
    spec.steps.extend(steps(&mut whole, kind, number));
    let name = repository(seed, at);
    let team = name.split('/').next().unwrap_or_default();
    spec.labels = texts(&[
        (
            "org.opencontainers.image.source",
            &format!("https://git.example.com/{name}"),
        ),
        (
            "org.opencontainers.image.revision",
            &chance::hex(&mut new, 40),
        ),
        ("team", team),
    ]);
    spec.env = texts(&[("PYTHONUNBUFFERED", "1"), ("APP_ENV", "production")]);
    spec.runtime_env = texts(&[("APP_VERSION", &number.to_string())]);
    spec.workdir = Some("/app".to_owned());
    let app: String = contents(seed, version);
    spec.steps.push(Step::new(StepKind::AddDir {
        dest: "/app".to_owned(),
        digest: Digest::of(&tree(&app)),
    }));
    for _ in 0..whole.random_range(0..3) {
        let command = chance::one(&mut whole, &COMMANDS);
        spec.steps.push(run(command));
    }
    if whole.random_bool(0.3) {
        spec.steps.push(Step::new(StepKind::Dockerfile(Instruction {
            text: format!(
                "HEALTHCHECK --interval=30s CMD curl -fsS localhost:{}",
                8000 + at
            ),
            ..Instruction::default()
        })));
    }
    spec.cmd = Some(match kind {
        0 | 1 => vec!["node".to_owned(), "/app/main.js".to_owned()],
        _ => vec!["python".to_owned(), "/app/main.py".to_owned()],
    });
    spec.name = Some(self::name(seed, version));
    spec
}

/// The files that a build of a version uploads: the program, and the list of its directory.
pub(crate) fn uploads(seed: u64, version: Version) -> Vec<Vec<u8>> {
    let app = contents(seed, version);
    let tree = tree(&app);
    vec![app.into_bytes(), tree]
}

fn contents(seed: u64, version: Version) -> String {
    format!(
        "# {}, made up from seed {seed}\nprint({:?})\n",
        name(seed, version),
        (version.repository, version.number)
    )
}

/// The tree of a directory with that program alone.
fn tree(app: &str) -> Vec<u8> {
    let node = TreeNode::File {
        digest: Digest::of(app.as_bytes()),
        mode: "0644".to_owned(),
    };
    let entries = vec![TreeEntry {
        path: "main.py".to_owned(),
        node,
    }];
    serde_json::to_vec(&Tree { entries }).unwrap_or_default()
}

/// A base, pinned.
pub(crate) fn base(reference: Reference) -> Base {
    Base::Image(BaseImage {
        digest: Some(base_digest(&reference)),
        reference,
        platform: None,
    })
}

/// Every base, once.
pub(crate) fn bases() -> Vec<Reference> {
    let mut all: Vec<Reference> = PYTHON
        .iter()
        .chain(&NODE)
        .chain(&PLAIN)
        .filter_map(|text| text.parse().ok())
        .collect();
    all.sort_unstable_by_key(ToString::to_string);
    all.dedup();
    all
}

/// The digest that a base is pinned to.
pub(crate) fn base_digest(reference: &Reference) -> Digest {
    Digest::of(format!("base {reference}").as_bytes())
}

fn steps(whole: &mut StdRng, kind: u32, number: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    if whole.random_bool(0.7) {
        let count = whole.random_range(1..5);
        let packages = chance::some(whole, &APT, count);
        let packages = packages.into_iter().map(str::to_owned).collect();
        steps.push(Step::new(StepKind::AptInstall { packages }));
    }
    match kind {
        0 | 1 => {
            steps.push(run("npm ci --omit=dev --no-fund"));
            steps.push(run(&format!(
                "npm install --global typescript@5.{}",
                number / 20
            )));
        }
        2 => steps.push(run("apt-get update && apt-get -y dist-upgrade")),
        _ => {
            let count = whole.random_range(2..9);
            let chosen = rand::seq::index::sample(whole, PIP.len(), count).into_vec();
            let mut packages: Vec<String> = chosen
                .into_iter()
                .map(|at| {
                    let (name, major, minor) = PIP[at];
                    // Each package moves on at a pace of its own, so that some versions share the
                    // step and some do not.
                    let pace = whole.random_range(3..30);
                    let minor = minor + (number + whole.random_range(0..pace)) / pace;
                    format!("{name}=={major}.{minor}.{}", whole.random_range(0..4))
                })
                .collect();
            packages.sort_unstable();
            let kind = match whole.random_bool(0.3) {
                true => StepKind::UvPipInstall { packages },
                false => StepKind::PipInstall { packages },
            };
            steps.push(Step::new(kind));
        }
    }
    steps
}

fn run(command: &str) -> Step {
    Step::new(StepKind::Run {
        command: command.to_owned(),
    })
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    pairs.collect()
}
