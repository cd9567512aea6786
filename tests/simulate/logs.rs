//! Output as pip, apt, npm, compilers and test runners print it: coloured, with progress bars that
//! overwrite themselves, wide characters now and then, and lines far longer than any screen.
//!
//! Lines are made once, in a ring for each kind of tool, so that ten thousand a second cost no more
//! than copying them.

use std::fmt::Write as _;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::chance;

/// Lines of one ring.
const LINES: usize = 2000;

/// Tools that print differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Pip,
    Apt,
    Npm,
    Compiler,
    Tests,
}

impl Tool {
    const ALL: [Self; 5] = [Self::Pip, Self::Apt, Self::Npm, Self::Compiler, Self::Tests];

    /// The tool of a step; `None` for one that prints nothing.
    pub(crate) fn of(kind: &str, title: &str) -> Option<Self> {
        let says = |word: &str| title.contains(word);
        match kind {
            "pip_install" | "uv_pip_install" | "uv_sync" => Some(Self::Pip),
            "apt_install" => Some(Self::Apt),
            "add_file" | "add_dir" => None,
            "dockerfile" if !title.starts_with("RUN") => None,
            _ if says("apt") => Some(Self::Apt),
            _ if says("npm") => Some(Self::Npm),
            _ if says("pip") || says("huggingface") => Some(Self::Pip),
            _ if says("pytest") || says("test") => Some(Self::Tests),
            _ => Some(Self::Compiler),
        }
    }
}

/// The rings.
pub(crate) struct Logs {
    rings: Vec<Vec<String>>,
}

impl Logs {
    /// Makes all lines of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let ring = |tool: Tool| {
            let mut rng = chance::of(seed, format_args!("log of {tool:?}"));
            (0..LINES).map(|at| line(tool, at, &mut rng)).collect()
        };
        Self {
            rings: Tool::ALL.into_iter().map(ring).collect(),
        }
    }

    /// So many lines from the one of that number on, each ended by a newline.
    pub(crate) fn lines(&self, tool: Tool, from: usize, count: usize) -> String {
        let ring = &self.rings[tool as usize];
        let chosen = ring.iter().cycle().skip(from % ring.len()).take(count);
        let mut text = String::with_capacity(count * 96);
        for line in chosen {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

fn line(tool: Tool, at: usize, rng: &mut StdRng) -> String {
    match (at, rng.random_range(0..1000)) {
        // Far longer than any screen, and for some also than a screen is high when it wraps.
        (1234, _) | (_, 0) => long(rng),
        (_, 1..=6) => wide(rng),
        _ => match tool {
            Tool::Pip => pip(rng),
            Tool::Apt => apt(rng),
            Tool::Npm => npm(rng),
            Tool::Compiler => compiler(at, rng),
            Tool::Tests => tests(at, rng),
        },
    }
}

fn long(rng: &mut StdRng) -> String {
    let mut text = "\x1b[2mgcc -O2 -fPIC\x1b[0m".to_owned();
    for _ in 0..rng.random_range(80..400) {
        let (dir, name) = (chance::hex(rng, 6), chance::hex(rng, 10));
        let _ = write!(text, " -I/usr/include/{dir} build/objects/{name}.o");
    }
    text
}

fn wide(rng: &mut StdRng) -> String {
    let texts = [
        "\x1b[32m✔\x1b[0m 模型下载完成 (分词器、词表与权重) ✨",
        "ℹ️  キャッシュを検証しています… 完了",
        "🚀 \x1b[1mready\x1b[0m in 812 ms — 한국어 형태소 사전 불러오기",
        "naïve café résumé, e\u{301} and ZWJ 👩‍👩‍👧‍👦 in one line\ttabbed\tthrice",
    ];
    chance::one(rng, &texts).to_owned()
}

fn package(rng: &mut StdRng) -> &'static str {
    const NAMES: [&str; 20] = [
        "aiohttp",
        "certifi",
        "charset-normalizer",
        "filelock",
        "fsspec",
        "huggingface-hub",
        "idna",
        "jinja2",
        "markupsafe",
        "networkx",
        "nvidia-cublas-cu12",
        "packaging",
        "python-dateutil",
        "pyyaml",
        "regex",
        "safetensors",
        "sympy",
        "tokenizers",
        "tqdm",
        "typing-extensions",
    ];
    chance::one(rng, &NAMES)
}

fn version(rng: &mut StdRng) -> String {
    format!(
        "{}.{}.{}",
        rng.random_range(0..9),
        rng.random_range(0..40),
        rng.random_range(0..20)
    )
}

fn pip(rng: &mut StdRng) -> String {
    let (name, version) = (package(rng), version(rng));
    let size = chance::spread(rng, 20.0, 700_000.0);
    let (size, unit) = if size > 1000.0 {
        (size / 1000.0, "MB")
    } else {
        (size, "kB")
    };
    match rng.random_range(0..20) {
        0..6 => format!("Collecting {name}>={version}"),
        6..10 => format!(
            "  Downloading {name}-{version}-cp312-cp312-manylinux_2_28_x86_64.whl.metadata ({size:.1} kB)"
        ),
        10..13 => format!(
            "Requirement already satisfied: {name} in /usr/local/lib/python3.12/site-packages ({version})"
        ),
        13..16 => bar(rng, size, unit),
        16 => "  Preparing metadata (pyproject.toml) ... \x1b[?25l-\x08 \x08\\\x08 \x08|\x08 \x08done\x1b[?25h".to_owned(),
        17 => format!(
            "\x1b[33mWARNING: {name} {version} does not provide the extra 'speedups'\x1b[0m\x1b[33m\x1b[0m"
        ),
        18 => format!("Building wheels for collected packages: {name}"),
        _ => format!(
            "  Created wheel for {name}: filename={name}-{version}-py3-none-any.whl size={} sha256={}",
            rng.random_range(2_000..9_000_000),
            chance::hex(rng, 64)
        ),
    }
}

/// A progress bar as pip's: drawn over itself, from empty to full.
fn bar(rng: &mut StdRng, size: f64, unit: &str) -> String {
    const WIDTH: usize = 40;
    let steps = rng.random_range(4..9);
    let mut text = String::new();
    for step in 1..=steps {
        let full = WIDTH * step / steps;
        let done = size * step as f64 / steps as f64;
        let _ = write!(
            text,
            "\r\x1b[2K     \x1b[38;5;197m{}\x1b[0m\x1b[38;5;237m{}\x1b[0m \x1b[32m{done:.1}/{size:.1} {unit}\x1b[0m \x1b[31m{:.1} MB/s\x1b[0m eta \x1b[36m0:00:0{}\x1b[0m",
            "━".repeat(full),
            "━".repeat(WIDTH - full),
            rng.random_range(3.0..90.0),
            (steps - step).min(9),
        );
    }
    text
}

fn apt(rng: &mut StdRng) -> String {
    const NAMES: [&str; 14] = [
        "libavcodec59",
        "libc6-dev",
        "libcurl4",
        "libdrm2",
        "libexpat1",
        "libgcc-12-dev",
        "libglib2.0-0",
        "libicu72",
        "liblapack3",
        "libperl5.36",
        "libssl3",
        "libx265-199",
        "perl-modules-5.36",
        "tzdata",
    ];
    let name = chance::one(rng, &NAMES);
    let version = format!(
        "{}-{}+deb12u{}",
        version(rng),
        rng.random_range(1..9),
        rng.random_range(1..9)
    );
    match rng.random_range(0..20) {
        0..5 => format!(
            "Get:{} http://deb.debian.org/debian bookworm/main amd64 {name} amd64 {version} [{:.1} kB]",
            rng.random_range(1..240),
            chance::spread(rng, 4.0, 40_000.0)
        ),
        5..9 => format!("Unpacking {name}:amd64 ({version}) ..."),
        9..13 => format!("Setting up {name}:amd64 ({version}) ..."),
        13..16 => format!("Selecting previously unselected package {name}:amd64."),
        16 => format!("\r0% [Working]\r{}% [{name} {}/{} kB]\r", rng.random_range(1..99), rng.random_range(1..900), rng.random_range(900..9000)),
        17 => format!("(Reading database ... \r(Reading database ... 5%\r(Reading database ... 55%\r(Reading database ... {} files and directories currently installed.)", rng.random_range(6_000..90_000)),
        18 => "\x1b[1;33mdebconf: delaying package configuration, since apt-utils is not installed\x1b[0m".to_owned(),
        _ => format!("Processing triggers for libc-bin ({version}) ..."),
    }
}

fn npm(rng: &mut StdRng) -> String {
    const NAMES: [&str; 10] = [
        "@babel/core",
        "esbuild",
        "glob",
        "inflight",
        "lodash.isequal",
        "rimraf",
        "rollup",
        "sharp",
        "typescript",
        "vite",
    ];
    let (name, version) = (chance::one(rng, &NAMES), version(rng));
    match rng.random_range(0..12) {
        0..3 => format!(
            "\x1b[1mnpm\x1b[22m \x1b[33mwarn\x1b[39m \x1b[94mdeprecated\x1b[39m {name}@{version}: This version is no longer supported"
        ),
        3..6 => format!(
            "\x1b[1mnpm\x1b[22m \x1b[96mhttp\x1b[39m \x1b[94mfetch\x1b[39m GET 200 https://registry.npmjs.org/{name} {}ms (cache miss)",
            rng.random_range(3..900)
        ),
        6 => {
            let frames = ["⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇"];
            frames
                .iter()
                .map(|frame| format!("\x1b[1G\x1b[0K{frame}"))
                .collect::<String>()
                + "\x1b[1G\x1b[0K"
        }
        7 => format!(
            "added {} packages, and audited {} packages in {}s",
            rng.random_range(1..900),
            rng.random_range(900..1200),
            rng.random_range(1..60)
        ),
        8 => format!(
            "\x1b[36m{name}\x1b[39m \x1b[2mbuild/assets/index-{}.js\x1b[22m  \x1b[1m{:.2} kB\x1b[22m",
            chance::hex(rng, 8),
            chance::spread(rng, 1.0, 900.0)
        ),
        9 => "\x1b]8;;https://npmjs.com/funding\x1b\\run `npm fund` for details\x1b]8;;\x1b\\"
            .to_owned(),
        _ => format!("> {name}@{version} postinstall\n> node install.js").replace('\n', " "),
    }
}

fn compiler(at: usize, rng: &mut StdRng) -> String {
    let (name, line) = (package(rng), rng.random_range(1..2000));
    match rng.random_range(0..12) {
        0..6 => format!(
            "\x1b[1m\x1b[32m   Compiling\x1b[0m {name} v{}",
            version(rng)
        ),
        6..8 => format!(
            "[{:3}%] \x1b[32mBuilding CXX object src/CMakeFiles/{name}.dir/{}.cpp.o\x1b[0m",
            (at * 100 / LINES),
            chance::hex(rng, 8)
        ),
        8 => format!(
            "\x1b[1m\x1b[33mwarning\x1b[0m\x1b[1m: unused variable: `{}`\x1b[0m",
            chance::hex(rng, 5)
        ),
        9 => format!(
            "  \x1b[38;2;80;140;255m-->\x1b[0m src/{name}.rs:{line}:{}",
            line % 80
        ),
        10 => format!(
            "\r\x1b[1m\x1b[36m    Building\x1b[0m [==>        ] {}/{}: {name}\r\x1b[K",
            at % 300,
            300
        ),
        _ => format!(
            "{line:>5} \x1b[90m│\x1b[0m     let value = {name}({line}, {});",
            chance::hex(rng, 12)
        ),
    }
}

fn tests(at: usize, rng: &mut StdRng) -> String {
    let share = at * 100 / LINES;
    match rng.random_range(0..10) {
        0..6 => format!(
            "tests/test_{}.py::test_{} \x1b[32mPASSED\x1b[0m\x1b[32m   [{share:3}%]\x1b[0m",
            chance::hex(rng, 4),
            chance::hex(rng, 8)
        ),
        6..8 => format!(
            "tests/test_{}.py \x1b[32m.\x1b[0m\x1b[32m.\x1b[0m\x1b[33ms\x1b[0m\x1b[32m.\x1b[0m [{share:3}%]",
            chance::hex(rng, 4)
        ),
        8 => format!(
            "\x1b[31mE       AssertionError: assert {} == {}\x1b[0m",
            rng.random_range(0..99),
            rng.random_range(0..99)
        ),
        _ => format!(
            "\x1b[33m{}.py:{}: DeprecationWarning: datetime.utcnow() is deprecated\x1b[0m",
            package(rng),
            rng.random_range(1..900)
        ),
    }
}
