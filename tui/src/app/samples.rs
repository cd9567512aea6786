//! Made-up things for the tests of model and views.

use chalk_core::declaration::Declaration;
use chalk_core::wire::{
    Build, BuildStatus, BuildStep, CacheListing, CacheMap, CacheUsage, CachedImage, Event,
    EventKind, Image, ImageDetail, Info, LocalPlan, Node, NodeState, Plan, PlanState, PlanStep,
    Prewarm, PrewarmState, Problem, StepState, Storage, Stream, Warm, WarmState, WarmStatus,
    WarmTarget, problem,
};
use chalk_core::{Digest, Spec};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::config::Config;
use super::event::{Declared, Entry, Feed, Link, Trouble};
use super::glyphs::{ASCII, Glyphs, UNICODE};
use super::model::{Overlay, State};
use super::theme::{Theme, Tone};
use super::view::{Hits, draw};

/// Keys that are pressed in random order.
pub(super) const CHORDS: &[&str] = &[
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "j",
    "k",
    "g",
    "G",
    "h",
    "l",
    "enter",
    "esc",
    "tab",
    "space",
    "/",
    ":",
    "?",
    "n",
    "N",
    "s",
    "S",
    "b",
    "w",
    "f",
    "F",
    "x",
    "r",
    "J",
    "o",
    "e",
    "L",
    "t",
    "z",
    "d",
    "y",
    "m",
    "D",
    "W",
    "c",
    "C",
    "u",
    "a",
    "p",
    "M",
    "T",
    "up",
    "down",
    "left",
    "right",
    "pageup",
    "pagedown",
    "home",
    "end",
    "backspace",
    "ctrl-l",
    "ctrl-u",
    "ctrl-n",
    "q",
];

/// Kinds of [`feed`].
pub(super) const FEEDS: usize = 18;

pub(super) fn key(chord: &str) -> KeyEvent {
    let (rest, modifiers) = match chord.strip_prefix("ctrl-") {
        Some(rest) => (rest, KeyModifiers::CONTROL),
        None => (chord, KeyModifiers::NONE),
    };
    let mut chars = rest.chars();
    let code = match (rest, chars.next(), chars.next()) {
        (_, Some(c), None) => KeyCode::Char(c),
        ("enter", ..) => KeyCode::Enter,
        ("esc", ..) => KeyCode::Esc,
        ("tab", ..) => KeyCode::Tab,
        ("space", ..) => KeyCode::Char(' '),
        ("up", ..) => KeyCode::Up,
        ("down", ..) => KeyCode::Down,
        ("left", ..) => KeyCode::Left,
        ("right", ..) => KeyCode::Right,
        ("pageup", ..) => KeyCode::PageUp,
        ("pagedown", ..) => KeyCode::PageDown,
        ("home", ..) => KeyCode::Home,
        ("end", ..) => KeyCode::End,
        ("backspace", ..) => KeyCode::Backspace,
        _ => panic!("{chord}"),
    };
    KeyEvent::new(code, modifiers)
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

const TEXT: &str = r#"# A sample
[image]
debian_slim = "3.12"
workdir = "/app"

[[step]]
pip_install = ["requests", "pandas>=2.0"]

[[step]]
run_commands = ["apt-get update && apt-get install -y git curl"]
"#;

pub(super) fn spec() -> Spec {
    let directory = tempfile::tempdir().unwrap();
    let files = chalk_store::tree::LocalFiles::new(directory.path());
    let declaration = Declaration::read("image.toml", TEXT.as_bytes()).unwrap();
    declaration.resolve(&files).unwrap().spec
}

pub(super) fn declared() -> Declared {
    let spec = spec();
    Declared {
        local: LocalPlan::new(&spec, 0, Vec::new()),
        spec,
        text: TEXT.to_owned(),
    }
}

pub(super) fn plan() -> Plan {
    let local = declared().local;
    let states = [PlanState::Cached, PlanState::Run];
    let steps = local
        .steps
        .iter()
        .zip(states)
        .map(|(step, state)| PlanStep {
            kind: step.kind.clone(),
            key: step.key,
            title: step.title.clone(),
            state,
        });
    Plan {
        recipe_hash: local.recipe_hash,
        image_hash: Some(digest("image")),
        base: local.base,
        platform: local.platform,
        exists: false,
        steps: steps.collect(),
        upload_bytes: 12_300_000,
        nodes_warm: Vec::new(),
        warnings: vec!["a step names a mounted path".to_owned()],
    }
}

pub(super) fn link() -> Link {
    Link {
        url: "http://127.0.0.1:7474".to_owned(),
        own: true,
        identity: "owner".to_owned(),
        info: Info {
            engine: "embedded".into(),
            version: "0.1.0".to_owned(),
            builder: "1".to_owned(),
            registry: "127.0.0.1:7474".to_owned(),
            started: "2026-01-01T09:00:00Z".to_owned(),
        },
    }
}

pub(super) fn build(id: &str, status: BuildStatus) -> Build {
    let local = declared().local;
    let (first, second) = match status {
        BuildStatus::Queued => (StepState::Waiting, StepState::Waiting),
        BuildStatus::Running => (StepState::Cached, StepState::Running),
        BuildStatus::Failed => (StepState::Ran, StepState::Failed),
        BuildStatus::Reused => (StepState::Cached, StepState::Cached),
        _ => (StepState::Cached, StepState::Ran),
    };
    let steps = local.steps.iter().zip([first, second]);
    let steps = steps.map(|(step, state)| BuildStep {
        kind: step.kind.clone(),
        key: step.key,
        title: step.title.clone(),
        state,
        seconds: if state == StepState::Ran { 12.4 } else { 0.0 },
        layer_bytes: if state == StepState::Ran {
            34_500_000
        } else {
            0
        },
    });
    let over = status.is_final();
    Build {
        id: id.to_owned(),
        status,
        image_hash: digest(id),
        recipe_hash: local.recipe_hash,
        name: Some(format!("team/{id}:v1")),
        project: chalk_core::wire::DEFAULT_PROJECT.to_owned(),
        image: over.then(|| format!("127.0.0.1:7474/chalk/images:{id}")),
        digest: matches!(status, BuildStatus::Built | BuildStatus::Reused).then(|| digest("m")),
        created: "2026-01-01T09:58:00Z".to_owned(),
        finished: over.then(|| "2026-01-01T09:59:00Z".to_owned()),
        seconds: 21.7,
        steps: steps.collect(),
        error: (status == BuildStatus::Failed).then(|| Problem {
            kind: problem::STEP_FAILED.to_owned(),
            title: "step 2 failed".to_owned(),
            status: 500,
            detail: "exit code 100".to_owned(),
            hint: "see its log".to_owned(),
        }),
        verification: None,
    }
}

pub(super) fn builds() -> Vec<Build> {
    vec![
        build("b6", BuildStatus::Queued),
        build("b5", BuildStatus::Running),
        build("b4", BuildStatus::Failed),
        build("b3", BuildStatus::Cancelled),
        build("b2", BuildStatus::Reused),
        build("b1", BuildStatus::Built),
    ]
}

fn image(name: &str, size: u64, created: &str) -> Image {
    let hash = digest(name);
    Image {
        image_hash: hash,
        names: if name.is_empty() {
            Vec::new()
        } else {
            vec![name.to_owned()]
        },
        image: format!("127.0.0.1:7474/chalk/images:{}", hash.hex()),
        digest: digest(&format!("manifest of {name}")),
        platform: Default::default(),
        size,
        layers: 5,
        created: created.to_owned(),
    }
}

pub(super) fn images() -> Vec<Image> {
    vec![
        image("team/web:v2", 412_000_000, "2026-01-01T09:50:00Z"),
        image("team/jobs:nightly", 1_250_000_000, "2025-12-31T09:50:00Z"),
        image("数据/分析:最新", 88_000_000, "2025-12-30T09:50:00Z"),
        image("", 242_000_000, "2025-12-01T09:50:00Z"),
    ]
}

pub(super) fn detail() -> ImageDetail {
    let image = images().remove(0);
    ImageDetail {
        spec: spec(),
        config: Default::default(),
        layer_list: vec![chalk_core::wire::Layer {
            digest: digest("layer"),
            size: 242_000_000,
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
            created_by: "base".to_owned(),
        }],
        steps: declared().local.steps,
        image,
    }
}

pub(super) fn nodes() -> Vec<Node> {
    let node = |name: &str, region: &str, state, hits| Node {
        name: name.to_owned(),
        region: region.to_owned(),
        labels: [("gpu".to_owned(), "a100".to_owned())].into(),
        state,
        version: "0.1.0".to_owned(),
        joined: "2026-01-01T09:00:00Z".to_owned(),
        last_seen: "2026-01-01T10:00:00Z".to_owned(),
        cache: CacheUsage {
            size_limit: 100_000_000_000,
            used: 42_000_000_000,
            held: 3_000_000_000,
            images: 12,
            layers: 60,
            hits,
            misses: 10,
            evictions: 4,
        },
        sandboxes: 3,
        runtime: chalk_core::wire::NodeRuntime::default(),
        mirror: None,
    };
    vec![
        node("ams-1", "eu", NodeState::Ready, 90),
        node("ams-2", "eu", NodeState::Draining, 40),
        node("iad-1", "us", NodeState::Ready, 30),
        node("iad-2", "us", NodeState::Lost, 0),
    ]
}

pub(super) fn caches() -> CacheMap {
    let images = images();
    CacheMap {
        images: images.iter().map(|image| image.digest).collect(),
        nodes: [
            ("ams-1".to_owned(), vec![0, 1, 2]),
            ("ams-2".to_owned(), vec![0]),
            ("iad-1".to_owned(), vec![1]),
        ]
        .into(),
    }
}

pub(super) fn listing() -> CacheListing {
    let image = images().remove(0);
    CacheListing {
        node: "ams-1".to_owned(),
        usage: nodes().remove(0).cache,
        images: vec![CachedImage {
            digest: image.digest,
            image_hash: Some(image.image_hash),
            image: image.image,
            bytes: 500_000_000,
            layers: 5,
            pins: vec!["warm".to_owned()],
            in_use: 2,
            last_used: "2026-01-01T09:55:00Z".to_owned(),
            blobs_kept: true,
        }],
        items: Vec::new(),
        left_out: 0,
    }
}

pub(super) fn warm(status: WarmStatus) -> Warm {
    let target = |node: &str, region: &str, state| WarmTarget {
        node: node.to_owned(),
        region: region.to_owned(),
        image_hash: images()[0].image_hash,
        state,
        done: 200_000_000,
        total: 412_000_000,
        bytes_fetched: if state == WarmState::Ready {
            412_000_000
        } else {
            0
        },
        bytes_from_mirrors: 0,
        bytes_present: 0,
        digests_verified: if state == WarmState::Ready { 7 } else { 0 },
        verified: state == WarmState::Ready,
        seconds: 3.2,
        error: (state == WarmState::Failed).then(|| Problem {
            kind: problem::DISK_FULL.to_owned(),
            title: "the disk is full".to_owned(),
            status: 500,
            detail: "/var/lib/chalk has no room".to_owned(),
            hint: String::new(),
        }),
        retries_left: 2,
    };
    Warm {
        id: "w1".to_owned(),
        status,
        images: vec![images()[0].image_hash],
        created: "2026-01-01T09:59:00Z".to_owned(),
        finished: None,
        nodes: vec![
            target("ams-1", "eu", WarmState::Ready),
            target("ams-2", "eu", WarmState::Pulling),
            target("iad-1", "us", WarmState::Queued),
            target("iad-2", "us", WarmState::Failed),
        ],
    }
}

pub(super) fn prewarm() -> Prewarm {
    Prewarm {
        images: vec!["docker.io/library/python:3.12-slim-bookworm".to_owned()],
        states: vec![PrewarmState {
            image: "docker.io/library/python:3.12-slim-bookworm".to_owned(),
            digest: Some(digest("base")),
            checked: Some("2026-01-01T09:30:00Z".to_owned()),
            nodes_ready: 2,
            error: None,
        }],
    }
}

/// Events of a build that runs.
pub(super) fn events() -> Vec<Event> {
    let log = |text: &str| EventKind::Log {
        step: 1,
        stream: Stream::Stdout,
        text: text.to_owned(),
    };
    let kinds = vec![
        EventKind::Started {
            steps: plan().steps,
        },
        EventKind::StepCached {
            step: 0,
            source: "registry".to_owned(),
        },
        EventKind::StepStarted { step: 1 },
        log("Get:1 http://deb.debian.org/debian bookworm InRelease [151 kB]\n"),
        log("\u{1b}[32mok\u{1b}[0m 漢字 and a tail\n"),
        log("Reading package lists...\n"),
        EventKind::Pushed {
            digest: digest("layer"),
            bytes: 1_000_000,
            present: false,
        },
    ];
    let event = |(seq, kind): (u64, EventKind)| Event {
        seq,
        time: "2026-01-01T09:59:30Z".to_owned(),
        kind,
    };
    (1..).zip(kinds).map(event).collect()
}

/// Something that the service may say.
pub(super) fn feed(at: usize, state: &State) -> Feed {
    let generation = state.spec.generation;
    match at {
        0 => Feed::Connected(Box::new(link())),
        1 => Feed::Disconnected {
            trouble: Trouble::new("gone"),
            retry: 1.0,
        },
        2 => Feed::Builds(builds()),
        3 => Feed::Images(images()),
        4 => Feed::Nodes(nodes()),
        5 => Feed::Caches(caches()),
        6 => Feed::Listing(Box::new(listing())),
        7 => Feed::Warms(vec![warm(WarmStatus::Running)]),
        8 => Feed::Prewarm(prewarm()),
        9 => Feed::Declared {
            generation,
            result: Ok(Box::new(declared())),
        },
        10 => Feed::Declared {
            generation,
            result: Err(Trouble::new("bad declaration")),
        },
        11 => Feed::Planned {
            generation,
            result: Ok(Box::new(plan())),
        },
        12 => Feed::BuildEvents {
            id: "b5".to_owned(),
            events: events(),
        },
        13 => Feed::Images(Vec::new()),
        14 => Feed::Nodes(Vec::new()),
        15 => Feed::ImageDetail(Box::new(detail())),
        16 => Feed::Directory {
            path: match &state.overlay {
                Some(Overlay::Files(files)) => files.directory.clone(),
                _ => ".".into(),
            },
            entries: vec![
                Entry {
                    name: "examples".to_owned(),
                    directory: true,
                },
                Entry {
                    name: "image.toml".to_owned(),
                    directory: false,
                },
            ],
        },
        _ => Feed::Storage(Storage {
            blobs: 120,
            bytes: 3_400_000_000,
        }),
    }
}

/// A state with all of it.
pub(super) fn full(size: (u16, u16)) -> State {
    let now = "2026-01-01T10:00:00Z".parse().unwrap();
    let mut state = State::new(Config::default(), now, size);
    let source = super::effect::Source::File("examples/quickstart/image.toml".into());
    super::update::work_on(&mut state, source);
    let feeds = [0, 9, 11, 2, 3, 4, 5, 6, 7, 8, 17];
    for at in feeds {
        let feed = feed(at, &state);
        super::update::update(&mut state, super::event::Event::Feed(feed));
    }
    state.notice = None;
    state
}

/// A screen that is drawn on without a terminal.
pub(super) struct Screen {
    terminal: Terminal<TestBackend>,
    theme: Theme,
    glyphs: Glyphs,
    pub(super) hits: Hits,
}

impl Screen {
    pub(super) fn new(columns: u16, rows: u16) -> Self {
        Self::with(columns, rows, Theme::new(Tone::Dark, true, &[]), UNICODE)
    }

    pub(super) fn with(columns: u16, rows: u16, theme: Theme, glyphs: Glyphs) -> Self {
        Self {
            terminal: Terminal::new(TestBackend::new(columns, rows)).unwrap(),
            theme,
            glyphs,
            hits: Hits::default(),
        }
    }

    pub(super) fn ascii(columns: u16, rows: u16) -> Self {
        Self::with(columns, rows, Theme::new(Tone::Dark, false, &[]), ASCII)
    }

    pub(super) fn draw(&mut self, state: &mut State) -> &ratatui::buffer::Buffer {
        let (theme, glyphs, hits) = (&self.theme, &self.glyphs, &mut self.hits);
        self.terminal
            .draw(|frame| {
                let drawn = draw(state, frame.buffer_mut(), theme, glyphs);
                *hits = drawn.hits;
                if let Some(at) = drawn.cursor {
                    frame.set_cursor_position(at);
                }
            })
            .unwrap();
        self.terminal.backend().buffer()
    }
}
