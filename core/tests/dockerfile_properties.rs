//! What holds for every Dockerfile, ignore file and pattern, tried on thousands of made-up ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::convert::Infallible;

use chalk_core::config::ImageConfig;
use chalk_core::dockerfile::{Options, check_canonical, export, instructions, parse, reads};
use chalk_core::glob::Glob;
use chalk_core::ignore::{DockerIgnore, GitIgnore};
use chalk_core::lower::lower;
use chalk_core::source::{MemoryFiles, Source};
use chalk_core::spec::{Base, BaseImage};
use chalk_core::{Platform, Spec};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Pieces that Dockerfiles are made of, put together without regard to sense.
const PIECES: &[&str] = &[
    "FROM a",
    "FROM a AS b",
    "FROM b",
    "FROM scratch",
    "FROM --platform=linux/arm64 ",
    "ARG ",
    "ENV ",
    "LABEL ",
    "RUN ",
    "COPY ",
    "ADD ",
    "CMD ",
    "ENTRYPOINT ",
    "HEALTHCHECK ",
    "SHELL ",
    "EXPOSE ",
    "VOLUME ",
    "USER ",
    "WORKDIR ",
    "STOPSIGNAL ",
    "MAINTAINER ",
    "ONBUILD ",
    "# escape=`",
    "# syntax=x",
    "\n",
    "\n",
    "\n",
    "\\\n",
    "`\n",
    "\r\n",
    "\t",
    " ",
    " ",
    "#",
    "<<EOF",
    "<<-'EOF'",
    "<<",
    "EOF",
    "\nEOF\n",
    "--from=b",
    "--from=0",
    "--from=c",
    "--chown=a:b",
    "--chmod=755",
    "--chmod=u+x",
    "--exclude=*",
    "--parents",
    "--link",
    "--mount=type=cache,target=/c",
    "--mount=",
    "--mount=from=b,target=/x",
    "--",
    "--network=none",
    "[\"a\", \"b c\"]",
    "[",
    "]",
    "\"",
    "'",
    "\\",
    "`",
    "$A",
    "${A}",
    "${A:-b}",
    "${A#*b}",
    "${A//b/c}",
    "${",
    "}",
    "$",
    "A=b",
    "A=",
    "=",
    "B='c d'",
    "a",
    "d/e",
    "*",
    "?",
    "/",
    "..",
    ".",
    ",",
    "https://x.org/f",
    "a.git",
    "NONE",
    "80",
    "SIGTERM",
    "é",
    "\u{a0}",
    "\u{2028}",
    "😀",
    "\0",
    "AS",
    "80-90/udp",
    "--interval=5s",
    "CMD x",
    "true",
];

fn script() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => vec(select(PIECES), 0..40).prop_map(|pieces| format!("FROM a\n{}", pieces.concat())),
        2 => vec(select(PIECES), 0..30).prop_map(|pieces| pieces.concat()),
        1 => any::<String>(),
        1 => vec(any::<u8>(), 0..200).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ]
}

fn files() -> MemoryFiles {
    MemoryFiles::new()
        .file("a", "a")
        .file("b", "b")
        .file("d/e", "e")
        .symlink("l", "d")
        .symlink("loop", "loop")
}

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

/// Lowers and exports without a panic. With the files of its context, what is exported reads back
/// and means the same.
fn carry_on(spec: &Spec, files: Option<&MemoryFiles>) {
    let mut configs = |_: &BaseImage| {
        let config = ImageConfig {
            env: vec!["A=base".into(), "odd".into()],
            on_build: vec!["RUN x".into()],
            ..ImageConfig::default()
        };
        Ok::<_, Infallible>(config)
    };
    if let Ok(build) = lower(spec, &mut configs) {
        let keyed = spec.steps_with_keys();
        let ops = build.stages.iter().flat_map(|stage| &stage.ops);
        let listed = ops.filter(|op| keyed.get(op.step).is_some_and(|k| k.key == op.key));
        assert_eq!(listed.count(), keyed.len());
    }
    let text = export(spec);
    if let (Ok(text), Some(files)) = (text, files) {
        let (args, platform) = (BTreeMap::new(), spec.platform.clone());
        let back = parse(&text, &options(&args, &platform, files))
            .unwrap_or_else(|e| panic!("{e}\n--- exported\n{text}"));
        if let Base::Dockerfile(dockerfile) = &spec.base
            && spec.steps.is_empty()
        {
            assert_eq!(&back.dockerfile, dockerfile, "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn dockerfiles(text in script(), value in any::<String>()) {
        let args = BTreeMap::from([("A".to_owned(), value)]);
        let (platform, files) = (Platform::default(), files());
        let options = options(&args, &platform, &files);
        if let Ok(parsed) = parse(&text, &options) {
            for instruction in parsed.dockerfile.stages.iter().flat_map(|s| &s.instructions) {
                prop_assert_eq!(check_canonical(instruction), Ok(()), "{}", instruction.text);
            }
            // The same again.
            prop_assert_eq!(&parse(&text, &options).unwrap(), &parsed);
            carry_on(&Spec::new(Base::Dockerfile(parsed.dockerfile)), Some(&files));
        }
        if let Ok(parsed) = instructions(&text, &options) {
            // An image, since its variables are as unknown as those of the instructions' base.
            let mut spec = Spec::new(Base::Image(BaseImage {
                reference: "a".parse().unwrap(),
                digest: None,
                platform: None,
            }));
            for instruction in parsed.instructions {
                prop_assert_eq!(check_canonical(&instruction), Ok(()), "{}", instruction.text);
                let kind = chalk_core::spec::StepKind::Dockerfile(instruction);
                spec.steps.push(chalk_core::spec::Step::new(kind));
            }
            carry_on(&spec, Some(&files));
        }
        let _ = reads(&text);
    }

    #[test]
    fn canonical_texts_of_strangers(text in script()) {
        // What a stranger's spec JSON may hold: never a panic, and a key.
        let instruction = chalk_core::spec::Instruction { text, ..Default::default() };
        let _ = check_canonical(&instruction);
        let mut spec = Spec::new(Base::Scratch);
        spec.steps.push(chalk_core::spec::Step::new(
            chalk_core::spec::StepKind::Dockerfile(instruction),
        ));
        carry_on(&spec, None);
    }

    #[test]
    fn ignore_files(text in "[a-c*?\\[\\]!/\\\\ #\\-^\n]{0,40}", path in "[a-c/\\[!* ]{1,12}", dir: bool) {
        let mut git = GitIgnore::default();
        git.add("", &text);
        git.add("a", &text);
        let _ = git.is_ignored(&path, dir);
        if let Ok(docker) = DockerIgnore::parse(&text) {
            // A directory that can be skipped has nothing in it that counts.
            if docker.can_skip(&path) {
                for below in ["a", "b/c", "a/b/c"] {
                    let below = format!("{path}/{below}");
                    prop_assert!(docker.matches(&below), "{} {}", text, below);
                }
            }
        }
    }

    #[test]
    fn globs(pattern in any::<String>(), path in any::<String>()) {
        let globs = [Glob::go(&pattern).ok(), Glob::docker(&pattern).ok(), Glob::git(&pattern)];
        for glob in globs.into_iter().flatten() {
            let _ = glob.matches(&path);
            if glob.is_literal() {
                let longer = glob.matches(&format!("{path}x"));
                prop_assert!(!longer || !glob.matches(&path));
            }
        }
    }
}

/// `parse-dockerfile` as a second opinion on everything but heredocs, which it does not know: what
/// it accepts we accept, as the same instructions.
mod second_opinion {
    use super::*;
    use parse_dockerfile::Instruction;

    fn line() -> impl Strategy<Value = String> {
        select(vec![
            "RUN apt-get update \\\n  && apt-get install x",
            "RUN [\"a\", \"b\"]",
            "RUN --mount=type=cache,target=/c make",
            "run echo \\\n# comment\n  hi",
            "COPY a b /d/",
            "COPY --chmod=755 [\"a\", \"/d e\"]",
            "ADD --chown=x:y a /d",
            "ENV A=b C=\"d e\"",
            "env A b c",
            "ARG X=1",
            "LABEL a=b",
            "EXPOSE 80 81/udp",
            "VOLUME [\"/a\"]",
            "VOLUME /a /b",
            "USER me",
            "WORKDIR /x y",
            "STOPSIGNAL SIGKILL",
            "SHELL [\"/bin/sh\", \"-c\"]",
            "HEALTHCHECK --interval=5s CMD x y",
            "HEALTHCHECK NONE",
            "CMD [\"a\"]",
            "CMD a \\\n b",
            "ENTRYPOINT a",
            "ONBUILD RUN x",
            "MAINTAINER me",
            "",
            "# comment",
            "  RUN indented",
            "FROM b AS x",
            "FROM x",
        ])
        .prop_map(str::to_owned)
    }

    fn keyword(instruction: &Instruction<'_>) -> &'static str {
        match instruction {
            Instruction::Add(_) => "ADD",
            Instruction::Arg(_) => "ARG",
            Instruction::Cmd(_) => "CMD",
            Instruction::Copy(_) => "COPY",
            Instruction::Entrypoint(_) => "ENTRYPOINT",
            Instruction::Env(_) => "ENV",
            Instruction::Expose(_) => "EXPOSE",
            Instruction::From(_) => "FROM",
            Instruction::Healthcheck(_) => "HEALTHCHECK",
            Instruction::Label(_) => "LABEL",
            Instruction::Maintainer(_) => "MAINTAINER",
            Instruction::Onbuild(_) => "ONBUILD",
            Instruction::Run(_) => "RUN",
            Instruction::Shell(_) => "SHELL",
            Instruction::Stopsignal(_) => "STOPSIGNAL",
            Instruction::User(_) => "USER",
            Instruction::Volume(_) => "VOLUME",
            Instruction::Workdir(_) => "WORKDIR",
            _ => "?",
        }
    }

    /// Why it is no more than a second opinion. When this fails, it has learned heredocs.
    #[test]
    fn knows_no_heredoc_within_a_command() {
        let text = "FROM a\nRUN cat <<EOF > /x\nhello\nEOF\n";
        let error = parse_dockerfile::parse(text).unwrap_err().to_string();
        assert!(error.contains("unknown instruction 'hello'"), "{error}");
    }

    proptest! {
        #[test]
        fn agrees(lines in vec(line(), 0..20)) {
            // One stage: which stages are needed is not the other parser's matter.
            let lines: Vec<String> = lines.into_iter().filter(|l| !l.starts_with("FROM")).collect();
            let text = format!("FROM a\n{}\n", lines.join("\n"));
            let theirs = parse_dockerfile::parse(&text).map_err(|e| e.to_string()).unwrap();
            let theirs: Vec<&str> = theirs.instructions.iter().skip(1).map(keyword).collect();
            let (args, platform, files) = (BTreeMap::new(), Platform::default(), files());
            let ours = parse(&text, &options(&args, &platform, &files)).unwrap();
            let ours: Vec<&str> = ours.dockerfile.stages[0]
                .instructions
                .iter()
                .map(|i| i.text.split(' ').next().unwrap())
                .collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
