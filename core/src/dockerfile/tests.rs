//! What Dockerfiles mean.

use std::collections::BTreeMap;

use super::*;
use crate::source::MemoryFiles;
use crate::spec::{BaseImage, StageBase};
use crate::tree::Tree;
use crate::upload::Contents;

fn files() -> MemoryFiles {
    MemoryFiles::new()
        .file("app.py", "print()")
        .file("requirements.txt", "requests")
        .file("src/a.py", "a")
        .file("src/b.md", "b")
        .file("src/sub/c.py", "c")
        .executable("bin/run", "#!/bin/sh")
        .dir("empty")
        .symlink("link", "src/a.py")
        .symlink("dirlink", "src")
}

fn parse_with(
    text: &str,
    files: &MemoryFiles,
    target: Option<&str>,
    args: &[(&str, &str)],
) -> Result<Parsed, String> {
    let build_args: BTreeMap<_, _> = args
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let options = Options {
        build_args: &build_args,
        target,
        platform: &Platform::default(),
        context: Some((files, ".")),
        file: None,
    };
    parse(text, &options).map_err(|e| e.to_string())
}

/// Stages one per line: base, then instructions behind `|`.
fn shape(dockerfile: &Dockerfile) -> String {
    let image = |image: &BaseImage| {
        let platform = image
            .platform
            .as_ref()
            .map_or(String::new(), |p| format!("({p})"));
        format!("{}{platform}", image.reference)
    };
    let stages = dockerfile.stages.iter().map(|stage| {
        let base = match &stage.base {
            StageBase::Scratch => "scratch".to_owned(),
            StageBase::Image(base) => image(base),
            StageBase::Stage(index) => format!("#{index}"),
        };
        let instructions = stage.instructions.iter().map(|instruction| {
            let images: String = instruction
                .images
                .iter()
                .map(|i| format!(" @{}", image(i)))
                .collect();
            format!(" | {}{images}", instruction.text)
        });
        format!("{base}{}", instructions.collect::<String>())
    });
    stages.collect::<Vec<_>>().join("\n")
}

/// Every canonical text reads back as itself.
fn check_stable(dockerfile: &Dockerfile) {
    for instruction in dockerfile
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions)
    {
        assert_eq!(check_canonical(instruction), Ok(()), "{}", instruction.text);
    }
}

fn check(text: &str, args: &[(&str, &str)], expect: &str) {
    let parsed = parse_with(text, &files(), None, args).unwrap_or_else(|e| panic!("{text}\n{e}"));
    assert_eq!(shape(&parsed.dockerfile), expect, "{text}");
    check_stable(&parsed.dockerfile);
}

#[test]
fn canonical_instructions() {
    let check = |text: &str, expect: &str| {
        check(
            &format!("from a\n{text}\n"),
            &[],
            &format!("docker.io/library/a:latest | {expect}"),
        );
    };
    check(
        "run  apt-get   update \\\n # note\n  && ls",
        "RUN apt-get   update   && ls",
    );
    check("RUN [\"a\",  \"b c\"]", "RUN [\"a\",\"b c\"]");
    check("RUN [ -e /x ] && y", "RUN [ -e /x ] && y");
    check("RUN -- --odd", "RUN -- --odd");
    check("RUN --network=none x", "RUN --network=none x");
    check("RUN --network=default --security=sandbox x", "RUN x");
    check("RUN <<EOF\na\nb\nEOF", "RUN <<EOF\na\nb\nEOF");
    check(
        "RUN cat <<-'A' <<B > /x\n\t1\n\tA\n2\nB",
        "RUN cat <<-'A' <<B > /x\n\t1\nA\n2\nB",
    );
    check("env A=1 B='x y'", "ENV A=1 B='x y'");
    check("ENV A b c", "ENV A b c");
    check("ENV A b", "ENV A=b");
    check("ENV #\u{a0}A b", "ENV #\u{a0}A b");
    check("LABEL a.b=\"c d\" \"e f\"=g", "LABEL a.b=\"c d\" \"e f\"=g");
    check("ARG A", "ARG A");
    check("ARG A=\"1\" B", "ARG A=1 B");
    check("ARG A='x y'", "ARG A=\"x y\"");
    check("ARG A=$PATH:x", "ARG A=$PATH:x");
    check("CMD echo  a", "CMD echo  a");
    check("CMD []", "CMD []");
    check("ENTRYPOINT [\"a\"]", "ENTRYPOINT [\"a\"]");
    check("HEALTHCHECK none", "HEALTHCHECK NONE");
    check(
        "HEALTHCHECK --retries=3 --interval=5s CMD curl  -f x",
        "HEALTHCHECK --interval=5s --retries=3 CMD curl  -f x",
    );
    check("HEALTHCHECK CMD --x", "HEALTHCHECK CMD --x");
    check(
        "SHELL [\"/bin/bash\", \"-c\"]",
        "SHELL [\"/bin/bash\",\"-c\"]",
    );
    check("EXPOSE 80  443/udp", "EXPOSE 80 443/udp");
    check("VOLUME [\"/a b\", \"/c\"]", "VOLUME [\"/a b\",\"/c\"]");
    check("VOLUME [\"/a\", \"/c\"]", "VOLUME /a /c");
    check("user  app:app", "USER app:app");
    check("WORKDIR a b", "WORKDIR a b");
    check("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGTERM");
    check("MAINTAINER Me <a@b>", "MAINTAINER Me <a@b>");
    check("ONBUILD run x \\\n y", "ONBUILD RUN x  y");
    check("ONBUILD COPY --from=b . /x", "ONBUILD COPY --from=b . /x");
    check(
        "COPY --chmod=755 --chown=a:b app.py /x",
        "COPY --chown=a:b --chmod=755 app.py /x",
    );
    check("COPY --link=false app.py src /x/", "COPY app.py src /x/");
    check("COPY --link app.py /x", "COPY --link app.py /x");
    check("COPY [\"app.py\", \"/x\"]", "COPY app.py /x");
    check("COPY [\"app.py\", \"/a b\"]", "COPY [\"app.py\",\"/a b\"]");
    check("COPY --exclude=*.md src /x", "COPY --exclude=*.md src /x");
    check(
        "COPY <<a <<\"b\" /d/\n1\na\n$2\nb",
        "COPY <<a <<'b' /d/\n1\na\n$2\nb",
    );
    check("ADD https://x.org/a.tgz /x", "ADD https://x.org/a.tgz /x");
    check(
        "ADD --unpack=false app.py /x",
        "ADD --unpack=false app.py /x",
    );
    check(
        "RUN --mount=type=cache,dst=/c --mount=src=src,target=/s x",
        "RUN --mount=type=cache,target=/c --mount=source=src,target=/s x",
    );
    check(
        "RUN --mount=type=secret,id=a x",
        "RUN --mount=type=secret,id=a x",
    );
}

#[test]
fn escapes_become_backslashes() {
    check(
        "# escape=`\nFROM a\nENV A=b` c D=C:\\x\nRUN echo `\n a\\\nWORKDIR C:\\x",
        &[],
        "docker.io/library/a:latest | ENV A=b\\ c D=C:\\\\x | RUN echo  a\\ | WORKDIR C:\\\\x",
    );
}

#[test]
fn only_needed_stages_count() {
    let text = "FROM a AS base\nRUN 1\nFROM base AS Unused\nRUN 2\nFROM b AS tools\nRUN 3\n\
                FROM Base AS final\nCOPY --from=TOOLS /x /y\nRUN --mount=from=2,target=/t \
                --mount=type=bind,from=busybox,target=/b 4\nCOPY --from=busybox /bin /bin\n";
    let expect = "docker.io/library/a:latest | RUN 1\n\
                  docker.io/library/b:latest | RUN 3\n\
                  #0 | COPY --from=1 /x /y | RUN --mount=from=1,target=/t \
                  --mount=type=bind,from=@0,target=/b 4 @docker.io/library/busybox:latest | \
                  COPY --from=@0 /bin /bin @docker.io/library/busybox:latest";
    check(text, &[], expect);
    let target = |name: &str, expect: &str| {
        let parsed = parse_with(text, &files(), Some(name), &[]).unwrap();
        assert_eq!(shape(&parsed.dockerfile), expect);
    };
    target("unused", "docker.io/library/a:latest | RUN 1\n#0 | RUN 2");
    target("2", "docker.io/library/b:latest | RUN 3");
}

#[test]
fn arguments() {
    let text = "ARG V=1 W=${V}.0\nARG IMAGE=python:${W%.0}-slim\nFROM ${IMAGE} AS x\nARG V\nARG N\n\
                ARG D=${V}d\nRUN $V";
    check(
        text,
        &[],
        "docker.io/library/python:1-slim | ARG V=1 | ARG N | ARG D=1d | RUN $V",
    );
    check(
        text,
        &[("V", "3"), ("N", "n n")],
        "docker.io/library/python:3-slim | ARG V=3 | ARG N=\"n n\" | ARG D=3d | RUN $V",
    );
    // The same value given and by default is the same document.
    let same = parse_with(text, &files(), None, &[("V", "1")]).unwrap();
    assert_eq!(
        same.dockerfile,
        parse_with(text, &files(), None, &[]).unwrap().dockerfile
    );
    check(
        "ARG V\nFROM a${V:-b}${V:+c}\nARG V=x",
        &[],
        "docker.io/library/ab:latest | ARG V=x",
    );
    // Platforms.
    check(
        "FROM --platform=$BUILDPLATFORM a\nARG TARGETARCH TARGETPLATFORM TARGETVARIANT\nARG TARGETSTAGE",
        &[],
        "docker.io/library/a:latest | ARG TARGETARCH=amd64 TARGETPLATFORM=linux/amd64 \
         TARGETVARIANT=\"\" | ARG TARGETSTAGE=default",
    );
    check(
        "FROM --platform=linux/arm64 a",
        &[],
        "docker.io/library/a:latest(linux/arm64)",
    );
    // Proxies never count.
    check(
        "FROM a\nARG HTTP_PROXY",
        &[("HTTP_PROXY", "http://p")],
        "docker.io/library/a:latest | ARG HTTP_PROXY",
    );
    // A stage inherits the arguments of its base.
    check(
        "FROM scratch AS a\nARG X=src\nFROM a\nCOPY $X /x\nARG P=$PATH",
        &[],
        "scratch | ARG X=src\n#0 | COPY $X /x | \
         ARG P=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    check(
        "FROM a\nARG X=a\nARG X=${X}b",
        &[],
        "docker.io/library/a:latest | ARG X=a | ARG X=ab",
    );
}

#[test]
fn triggers_of_a_stage_run_in_the_next() {
    check(
        "FROM a AS b\nONBUILD RUN one\nONBUILD COPY app.py /x\nFROM b AS c\nRUN two\nFROM c",
        &[],
        "docker.io/library/a:latest | ONBUILD RUN one | ONBUILD COPY app.py /x\n\
         #0 | RUN one | COPY app.py /x | RUN two\n#1",
    );
}

#[test]
fn warns() {
    let text = "# syntax=acme/frontend:1\nFROM a\nRUN x \\\n\n y\nCOPY *.nothing /x\n";
    let parsed = parse_with(
        text,
        &files(),
        None,
        &[("UNUSED", "1"), ("https_proxy", "")],
    )
    .unwrap();
    let warnings: Vec<_> = parsed
        .warnings
        .iter()
        .map(|w| (w.line, w.message.as_str()))
        .collect();
    assert_eq!(
        warnings,
        [
            (
                0,
                "the build argument `UNUSED` is not used: no ARG declares it"
            ),
            (
                1,
                "the syntax `acme/frontend:1` is not known; read as a Dockerfile"
            ),
            (4, "an empty line continues the instruction; remove it"),
            (6, "`*.nothing` matches nothing in the build context"),
        ]
    );
    assert_eq!(
        parse_with(
            "# syntax=docker/dockerfile:1.7\nFROM a",
            &files(),
            None,
            &[]
        )
        .unwrap()
        .warnings,
        []
    );
}

/// Paths of the tree that the last instruction selects.
fn selected(text: &str, files: &MemoryFiles) -> Vec<String> {
    let parsed = parse_with(&format!("FROM scratch\n{text}"), files, None, &[])
        .unwrap_or_else(|e| panic!("{text}\n{e}"));
    let stage = parsed.dockerfile.stages.last().unwrap();
    let digest = stage.instructions.last().unwrap().context.unwrap();
    let tree = parsed
        .uploads
        .iter()
        .find(|upload| upload.digest == digest)
        .unwrap();
    let Contents::Bytes(json) = &tree.contents else {
        panic!("a tree is bytes")
    };
    let tree = Tree::parse(json).unwrap();
    // Every file of the tree is uploaded.
    for entry in &tree.entries {
        if let crate::tree::TreeNode::File { digest, .. } = &entry.node {
            assert!(parsed.uploads.iter().any(|upload| upload.digest == *digest));
        }
    }
    tree.entries.into_iter().map(|entry| entry.path).collect()
}

#[test]
fn selects_files() {
    let files = files();
    let check = |text: &str, expect: &[&str]| assert_eq!(selected(text, &files), expect, "{text}");
    let source = ["src", "src/a.py", "src/b.md", "src/sub", "src/sub/c.py"];
    check("COPY app.py /x", &["app.py"]);
    check("COPY ./app.py /x", &["app.py"]);
    check("COPY /app.py /x", &["app.py"]);
    check("COPY ../app.py /x", &["app.py"]);
    check("COPY src /x", &source);
    check("COPY src/ /x", &source);
    check("COPY src/*.py /x", &["src/a.py"]);
    check("COPY s*c/a.py /x", &["src/a.py"]);
    check("COPY s?c /x", &source);
    check("COPY *.txt app.p[xy] /x", &["app.py", "requirements.txt"]);
    check("COPY empty /x", &["empty"]);
    check(
        "COPY --exclude=*.md src /x",
        &["src", "src/a.py", "src/sub", "src/sub/c.py"],
    );
    check(
        "COPY --exclude=**/*.py src /x",
        &["src", "src/b.md", "src/sub"],
    );
    check("COPY --exclude=*.txt *.* /x", &["app.py"]);
    check("COPY link /x", &["link", "src/a.py"]);
    check(
        "COPY dirlink/sub /x",
        &["dirlink", "src/sub", "src/sub/c.py"],
    );
    check("COPY dirlink/*.py /x", &["dirlink", "src/a.py"]);
    check("COPY --parents src/sub/c.py /x", &["src/sub/c.py"]);
    check(
        "COPY --parents src/./**/*.py /x",
        &["src/a.py", "src/sub/c.py"],
    );
    check("ADD src/a.py https://x.org/y /x/", &["src/a.py"]);
    check(
        "RUN --mount=source=src/sub,target=/x y",
        &["src/sub", "src/sub/c.py"],
    );
    check("ENV D=src/sub\nCOPY $D/c.py /x", &["src/sub/c.py"]);
    check("ARG D\nCOPY src/${D:-a.py} /x", &["src/a.py"]);
    let all = [
        "app.py",
        "bin",
        "bin/run",
        "dirlink",
        "empty",
        "link",
        "requirements.txt",
        "src",
        "src/a.py",
        "src/b.md",
        "src/sub",
        "src/sub/c.py",
    ];
    check("COPY . /x", &all);
    check("RUN --mount=target=/x y", &all);
}

#[test]
fn an_unknown_source_takes_the_whole_context() {
    let files = MemoryFiles::new().file("a", "").file("b", "");
    let parsed = |text: &str| parse_with(text, &files, None, &[]).unwrap().dockerfile;
    let unknown = parsed("FROM image\nCOPY $FROM_IMAGE /x");
    let all = parsed("FROM image\nCOPY . /x");
    assert_eq!(
        unknown.stages[0].instructions[0].context,
        all.stages[0].instructions[0].context
    );
}

#[test]
fn ignore_files_bind() {
    let base = files().file(".dockerignore", "*.md\n**/sub\n!src/sub/c.py\nbin\n");
    assert_eq!(
        selected("COPY . /x", &base),
        [
            ".dockerignore",
            "app.py",
            "dirlink",
            "empty",
            "link",
            "requirements.txt",
            "src",
            "src/a.py",
            "src/b.md",
            "src/sub/c.py",
        ]
    );
    let error = parse_with("FROM a\nCOPY bin/run /x", &base, None, &[]).unwrap_err();
    assert_eq!(
        error,
        "Dockerfile:2:1: `bin/run` is left out of the build context by .dockerignore; take it back \
         in with a line `!bin/run` in .dockerignore"
    );
    // The file's own ignore file comes first.
    let own = base.file("app.Dockerfile.dockerignore", "src\n");
    let options = Options {
        build_args: &BTreeMap::new(),
        target: None,
        platform: &Platform::default(),
        context: Some((&own, "")),
        file: Some("app.Dockerfile"),
    };
    assert!(parse("FROM a\nCOPY bin/run /x", &options).is_ok());
    assert!(parse("FROM a\nCOPY src /x", &options).is_err());
    let bad = files().file(".dockerignore", "a\n[");
    let error = parse_with("FROM a", &bad, None, &[]).unwrap_err();
    assert!(error.starts_with(".dockerignore:2:1:"), "{error}");
}

#[test]
fn what_is_not_selected_does_not_count() {
    let parsed = |files: &MemoryFiles| {
        parse_with("FROM a\n# c\nCOPY src /x", files, None, &[])
            .unwrap()
            .dockerfile
    };
    let one = parsed(&files());
    assert_eq!(
        one,
        parsed(&files().file("other", "x").file("app.py", "changed"))
    );
    assert_ne!(one, parsed(&files().file("src/a.py", "changed")));
    assert_ne!(one, parsed(&files().executable("src/a.py", "a")));
}

#[test]
fn errors_name_place_and_cure() {
    let check = |text: &str, expect: &str| {
        let error = parse_with(text, &files(), None, &[]).unwrap_err();
        assert_eq!(error, expect, "{text}");
    };
    check(
        "FROM a\n RUNN x",
        "Dockerfile:2:2: unknown instruction `RUNN`; did you mean `RUN`?",
    );
    check(
        "",
        "Dockerfile:1:1: expected FROM: the Dockerfile has no stage; start with a base image, such as `FROM debian:bookworm-slim`",
    );
    check(
        "RUN x\nFROM a",
        "Dockerfile:1:1: expected FROM: only ARG may stand before it; start with a base image, such as `FROM debian:bookworm-slim`",
    );
    check(
        "FROM a b",
        "Dockerfile:1:6: FROM expects `image` or `image AS name`, nothing else",
    );
    check(
        "FROM a AS 1",
        "Dockerfile:1:6: `1` cannot name a stage: expected a letter, then letters, digits, `-`, `_` and `.`",
    );
    check(
        "FROM UPPER/x:",
        "Dockerfile:1:1: `UPPER/x:` is not an image reference: a tag has 1 to 128 letters, digits, `_`, `.` and `-`",
    );
    check(
        "FROM $X",
        "Dockerfile:1:1: `$X` names no image: it expands to nothing; only ARG before the first FROM and build arguments count here; give it a default",
    );
    check(
        "FROM a\nCOPY x",
        "Dockerfile:2:6: COPY expects at least one source and a destination",
    );
    check(
        "FROM a\nCOPY --form=b /x /y",
        "Dockerfile:2:6: unknown flag `--form`; did you mean `from`?",
    );
    check(
        "FROM a\nCOPY --chmod=9 app.py /y",
        "Dockerfile:2:1: --chmod: `9` is not a file mode: expected octal digits up to 7777 (`755`) or changes such as `u+x,go-w`",
    );
    check(
        "FROM a\nCOPY ap.py /x",
        "Dockerfile:2:1: `ap.py` is not in the build context `.`; did you mean `app.py`?",
    );
    check(
        "FROM a\nCOPY a.py /x",
        "Dockerfile:2:1: `a.py` is not in the build context `.`; did you mean `src/a.py`?",
    );
    check(
        "FROM a\nRUN \\\n  --mont=x y",
        "Dockerfile:3:3: unknown flag `--mont`; did you mean `mount`?",
    );
    check(
        "FROM a\nRUN --mount=type=ssh x",
        "Dockerfile:2:5: RUN --mount=type=ssh is not supported; give the key as a secret: --mount=type=secret,id=…",
    );
    check(
        "FROM a\nRUN --security=insecure x",
        "Dockerfile:2:5: RUN --security=insecure is not supported: steps never run privileged",
    );
    check(
        "FROM a\nRUN --mount=type=cahce,target=/x y",
        "Dockerfile:2:1: `cahce` is no type of --mount: expected bind, cache, tmpfs, secret; did you mean `cache`?",
    );
    check(
        "FROM a\nADD https://github.com/a/b.git /x",
        "Dockerfile:2:1: `https://github.com/a/b.git` is a git repository, which ADD does not fetch here; clone it in a RUN step, or ADD an archive of it by its URL",
    );
    check(
        "FROM a\nCOPY https://x.org/a /x",
        "Dockerfile:2:1: COPY cannot fetch `https://x.org/a`; use ADD",
    );
    check(
        "FROM a AS x\nCOPY --from=x /a /b",
        "Dockerfile:2:1: a stage cannot read from itself: `x`",
    );
    check(
        "FROM a\nCOPY --from=y /a /b\nFROM b AS y",
        "Dockerfile:2:1: a stage cannot read from one that comes later: `y`",
    );
    check(
        "FROM a\nCOPY --from=7 /a /b",
        "Dockerfile:2:1: there is no stage 7: the stages are 0 to 0",
    );
    check(
        "FROM a\nENV A",
        "Dockerfile:2:5: ENV expects `name=value`; `A` has no value",
    );
    check(
        "FROM a\nENV A=1 B",
        "Dockerfile:2:5: expected `name=value`, found `B`; quote a value that has blanks",
    );
    check(
        "FROM a\nENV A=\"x",
        "Dockerfile:2:1: cannot expand `\"x`: a `\"` is not closed",
    );
    check(
        "FROM a\nEXPOSE http",
        "Dockerfile:2:1: `http` is no port: expected a number up to 65535, or two with `-` between",
    );
    check(
        "FROM a\nSTOPSIGNAL SIGFOO",
        "Dockerfile:2:1: `SIGFOO` is no signal: expected a name such as `SIGTERM` or a number up to 64",
    );
    check(
        "FROM a\nONBUILD ONBUILD RUN x",
        "Dockerfile:2:9: ONBUILD cannot be followed by ONBUILD",
    );
    check(
        "FROM a\nSHELL bash",
        "Dockerfile:2:7: SHELL expects a JSON list such as `[\"/bin/bash\", \"-c\"]`",
    );
    check(
        "FROM a\nHEALTHCHECK --interval=x CMD y",
        "Dockerfile:2:13: --interval expects a duration of at least 1ms, such as `30s` or `1m30s`, not `x`",
    );
    check(
        "FROM a\nCMD [1]",
        "Dockerfile:2:5: a JSON list here holds strings only",
    );
    check(
        "FROM a\nARG X=${X",
        "Dockerfile:2:1: cannot expand `${X`: `${` is not closed by `}`",
    );
    let target = parse_with("FROM a AS build", &files(), Some("bild"), &[]).unwrap_err();
    assert_eq!(
        target,
        "Dockerfile:1:1: there is no stage `bild` to build; did you mean `build`?"
    );
}

#[test]
fn instructions_on_their_own() {
    let files = files();
    let read = |text: &str, context: bool| {
        let options = Options {
            build_args: &BTreeMap::new(),
            target: None,
            platform: &Platform::default(),
            context: context.then_some((&files as &dyn Source, ".")),
            file: None,
        };
        instructions(text, &options).map_err(|e| e.to_string())
    };
    let texts = |text: &str| {
        let parsed = read(text, true).unwrap();
        parsed
            .instructions
            .into_iter()
            .map(|i| i.text)
            .collect::<Vec<_>>()
    };
    assert_eq!(texts("run a\nENV B=c"), ["RUN a", "ENV B=c"]);
    assert_eq!(texts("COPY --from=alpine /a /b"), ["COPY --from=@0 /a /b"]);
    let parsed = read("COPY app.py /x", true).unwrap();
    assert_eq!(parsed.uploads.len(), 2);
    let refused = |text: &str, context: bool, part: &str| {
        let error = read(text, context).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    refused("FROM a", true, "use from_dockerfile");
    refused("COPY --from=0 /a /b", true, "there is no stage 0");
    refused(
        "COPY app.py /x",
        false,
        "reads from the build context, and none was given; give a context",
    );
    refused("# nothing", false, "at least one instruction");
}

#[test]
fn tells_what_an_instruction_reads() {
    let check = |text: &str, expect: &[ReadFrom]| assert_eq!(reads(text), expect, "{text}");
    check("COPY --from=1 --chmod=755 /a /b", &[ReadFrom::Stage(1)]);
    check("COPY --from=@0 /a /b", &[ReadFrom::Image(0)]);
    check("COPY a --from=1", &[]);
    check(
        "RUN --mount=type=bind,target=/a\\ b --mount=from=2,target=/x --mount=from=@0,target=/y m",
        &[ReadFrom::Stage(2), ReadFrom::Image(0)],
    );
    check("RUN echo --from=3", &[]);
    check("nonsense", &[]);
}
