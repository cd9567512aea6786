//! Specs as Dockerfiles, and back.

use super::*;
use crate::dockerfile::{Options, instructions, parse};
use crate::source::{MemoryFiles, Source};
use std::collections::BTreeSet;

fn options<'a>(
    args: &'a BTreeMap<String, String>,
    platform: &'a Platform,
    files: &'a MemoryFiles,
) -> Options<'a> {
    Options {
        build_args: args,
        target: None,
        platform,
        context: Some((files as &dyn Source, "")),
        file: None,
    }
}

fn debian() -> Base {
    Base::Image(BaseImage {
        reference: "debian:12".parse().unwrap(),
        digest: None,
        platform: None,
    })
}

/// Exports, and reads the result back.
fn round_trip(spec: &Spec, files: &MemoryFiles) -> (String, crate::spec::Dockerfile) {
    let text = export(spec).unwrap_or_else(|e| panic!("{e}"));
    let (args, platform) = (BTreeMap::new(), spec.platform.clone());
    let parsed = parse(&text, &options(&args, &platform, files));
    let parsed = parsed.unwrap_or_else(|e| panic!("{e}\n{text}"));
    (text, parsed.dockerfile)
}

fn step(kind: StepKind) -> Step {
    Step::new(kind)
}

#[test]
fn prints_a_chain() {
    let digest = Digest::of(b"x");
    let mut spec = Spec::new(debian());
    spec.env = BTreeMap::from([("A".into(), "b $c".into())]);
    spec.runtime_env = BTreeMap::from([("R".into(), "1".into())]);
    spec.workdir = Some("/my app".into());
    spec.user = Some("me".into());
    spec.labels = BTreeMap::from([("l".into(), "v".into())]);
    spec.entrypoint = Some(vec!["e f".into()]);
    spec.cmd = Some(vec!["c".into()]);
    let texts = |packages: &[&str]| packages.iter().map(|p| (*p).to_owned()).collect();
    let mut secret = step(StepKind::Run {
        command: "curl x".into(),
    });
    secret.secrets = BTreeSet::from(["tok".into()]);
    secret.env = BTreeMap::from([("K".into(), "it's".into())]);
    spec.steps = vec![
        step(StepKind::AptInstall {
            packages: texts(&["git", "curl=7"]),
        }),
        step(StepKind::PipInstall {
            packages: texts(&["a>=1", "b"]),
        }),
        step(StepKind::UvPipInstall {
            packages: texts(&["--index-url https://x", "c"]),
        }),
        step(StepKind::Run {
            command: "make && ls".into(),
        }),
        step(StepKind::Run {
            command: "for x in 1\ndo y\ndone".into(),
        }),
        secret,
        step(StepKind::AddFile {
            dest: "/x/y".into(),
            digest,
            mode: 0o755,
        }),
        step(StepKind::AddDir {
            dest: "/d".into(),
            digest,
        }),
    ];
    let files = MemoryFiles::new().file(&format!("sha256/{}", digest.hex()), "x");
    let (text, _) = round_trip(&spec, &files);
    let hex = digest.hex();
    assert_eq!(
        text,
        format!(
            r#"# syntax=docker/dockerfile:1
FROM docker.io/library/debian:12
ENV A="b \$c"
WORKDIR "/my app"
USER me
USER root
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git curl=7
USER me
RUN cd / && python3 -m pip install --no-cache-dir 'a>=1' b
RUN --mount=from=ghcr.io/astral-sh/uv:latest,source=/uv,target=/usr/local/bin/uv <<'EOFF'
cd / && uv pip install --system --no-cache -r /dev/stdin <<'EOF'
--index-url https://x
c
EOF
EOFF
RUN make && ls
RUN <<'EOF'
for x in 1
do y
done
EOF
RUN --mount=type=secret,id=tok,required=true <<'EOF'
export K='it'\''s'
curl x
EOF
COPY --chmod=0755 sha256/{hex} /x/y
COPY sha256/{hex} /d/
ENV R=1
LABEL l=v
ENTRYPOINT ["e f"]
CMD ["c"]
"#
        )
    );
}

#[test]
fn prints_a_project_and_what_follows_in_its_environment() {
    let (pyproject, lock) = (Digest::of(b"p"), Digest::of(b"l"));
    let mut spec = Spec::new(debian());
    spec.user = Some("me".into());
    let mut sync = step(StepKind::UvSync(UvProject {
        pyproject,
        lock,
        extras: vec!["a".into(), "b".into()],
        workdir: Some("/my app".into()),
    }));
    sync.env = BTreeMap::from([("UV_NO_DEV".into(), "1".into())]);
    let pip = step(StepKind::PipInstall {
        packages: vec!["c".into()],
    });
    spec.steps = vec![sync, pip];
    let file = |digest: &Digest| format!("sha256/{}", digest.hex());
    let files = MemoryFiles::new()
        .file(&file(&pyproject), "p")
        .file(&file(&lock), "l");
    let (text, _) = round_trip(&spec, &files);
    let uv = "RUN --mount=from=ghcr.io/astral-sh/uv:latest,source=/uv,target=/usr/local/bin/uv";
    assert_eq!(
        text,
        format!(
            r#"# syntax=docker/dockerfile:1
FROM docker.io/library/debian:12
USER me
COPY --chown=me --chmod=0644 ["{}","\"/my app/pyproject.toml\""]
COPY --chown=me --chmod=0644 ["{}","\"/my app/uv.lock\""]
{uv} <<'EOF'
export UV_NO_DEV=1
cd '/my app' && UV_PROJECT_ENVIRONMENT=.venv uv sync --frozen --no-install-workspace --compile-bytecode --no-python-downloads --no-cache --extra=a --extra=b
EOF
ENV VIRTUAL_ENV="/my app/.venv" PATH="/my app/.venv"/bin:$PATH
{uv} cd / && uv pip install --no-cache c
"#,
            file(&pyproject),
            file(&lock)
        )
    );
}

#[test]
fn a_dockerfile_reads_back_as_itself() {
    let files = MemoryFiles::new().file("a", "1").file("d/b", "2");
    let text = "ARG V=1\nFROM debian:$V AS base\nARG X=\"a b\"\nRUN --mount=type=cache,target=/c <<E\nx\nE\n\
                    FROM alpine\nCOPY --from=base /x /y\nCOPY --from=busybox --chmod=u+x /b /c\n\
                    RUN --mount=from=busybox,target=/m y\nFROM base\nCOPY --from=1 /y /z\nCOPY --exclude=*.x a d /w/\n\
                    COPY <<'F' <<G /h/\n$x\nF\ny\nG\nHEALTHCHECK --interval=5s CMD z\nENV A b  c\n\
                    CMD [\"a\", \"b\"]\nONBUILD RUN q\n";
    let (args, platform) = (BTreeMap::new(), Platform::default());
    let parsed = parse(text, &options(&args, &platform, &files)).unwrap();
    let spec = Spec::new(Base::Dockerfile(parsed.dockerfile.clone()));
    let (_, back) = round_trip(&spec, &files);
    assert_eq!(back, parsed.dockerfile);
}

#[test]
fn dockerfile_steps_and_platforms() {
    let files = MemoryFiles::new().file("a", "1");
    let (args, platform) = (BTreeMap::new(), Platform::default());
    let read = |text: &str| {
        instructions(text, &options(&args, &platform, &files))
            .unwrap()
            .instructions
    };
    let mut spec = Spec::new(debian());
    spec.platform = "linux/arm64".parse().unwrap();
    spec.user = Some("me".into());
    for instruction in read("USER you\nRUN [\"x\"]\nRUN y\nCOPY --from=alpine:3 /a /b\nCOPY a /c") {
        let mut step = step(StepKind::Dockerfile(instruction));
        step.env = BTreeMap::from([("E".into(), "1 2".into())]);
        spec.steps.push(step);
    }
    let (text, _) = round_trip(&spec, &files);
    assert_eq!(
        text,
        "FROM --platform=linux/arm64 docker.io/library/debian:12\nUSER me\nUSER you\n\
             RUN [\"env\",\"E=1 2\",\"x\"]\nRUN export E='1 2' && y\n\
             COPY --from=docker.io/library/alpine:3 /a /b\nCOPY a /c\nUSER me\n"
    );
}

#[test]
fn refuses_what_has_no_words() {
    let mut spec = Spec::new(debian());
    spec.env = BTreeMap::from([("A".into(), "b\nc".into())]);
    assert_eq!(
        export(&spec).unwrap_err().to_string(),
        "env cannot be written in a Dockerfile: a line break ends an instruction"
    );
}
