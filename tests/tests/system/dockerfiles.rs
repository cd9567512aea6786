//! Dockerfiles: the same files and config as `docker build` makes, and images that docker takes.

use std::fs;

use chalk_tests::{Docker, ImageFiles, Layout, Project, Service, World, run, tool, unique};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "five_hundred_steps_make_an_image_that_docker_takes",
        five_hundred_steps,
    ),
    (
        "three_stages_as_docker_builds_them",
        three_stages_as_docker_builds_them,
    ),
    (
        "many_instructions_as_docker_builds_them",
        many_instructions_as_docker_builds_them,
    ),
    (
        "unneeded_stages_and_files_do_not_count",
        unneeded_stages_and_files_do_not_count,
    ),
];

/// What a build made: its files and the image config.
struct Made {
    files: ImageFiles,
    config: Value,
}

/// Loads the small base into docker.
fn load_base(world: &World, docker: &Docker) {
    let archive = world.folder("base").join("busybox.tar");
    let archive = archive.display().to_string();
    let layout = format!("oci:{}", world.busybox_layout().display());
    let target = format!("docker-archive:{archive}:busybox:latest");
    run(&mut tool(
        "skopeo",
        ["--insecure-policy", "copy", &layout, &target],
    ))
    .ok();
    docker.run(["load", "--quiet", "--input", &archive]).ok();
}

fn built_by_docker(world: &World, docker: &Docker, project: &Project, dockerfile: &str) -> Made {
    let tag = format!("compared:{}", unique());
    let file = project.arg(dockerfile);
    let context = project.path().display().to_string();
    let flags = ["--network", "host", "--build-arg", "FLAVOUR=mint"];
    let mut build = vec!["build", "--quiet", "--tag", &tag, "--file", &file];
    build.extend(flags);
    build.push(&context);
    docker.run(build).ok();
    let folder = world.folder("by-docker");
    let archive = folder.join("image.tar").display().to_string();
    docker.run(["save", "--output", &archive, &tag]).ok();
    let layout = folder.join("layout");
    let copy = [
        "--insecure-policy",
        "copy",
        &format!("docker-archive:{archive}"),
        &format!("oci:{}", layout.display()),
    ];
    run(&mut tool("skopeo", copy)).ok();
    // An OCI config has no place for Docker's own fields, so they come from the daemon.
    let config = docker.run(["inspect", "--format", "{{json .Config}}", &tag]);
    Made {
        files: Layout::open(&layout).files(),
        config: config.ok().json(),
    }
}

fn built_by_us(world: &World, service: &Service, project: &Project, dockerfile: &str) -> Made {
    let build = [
        "build",
        &project.arg(dockerfile),
        "--json",
        "--build-arg",
        "FLAVOUR=mint",
    ];
    let built = service.image(&build).ok().result();
    let folder = world.folder("by-us");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{}", built["image"].as_str().unwrap()));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    let layout = Layout::open(&folder);
    Made {
        files: layout.files(),
        config: layout.config()["config"].clone(),
    }
}

/// Builds a project with both and compares. Debian's docker knows no heredocs, so it may be given
/// an equivalent Dockerfile without them.
#[track_caller]
fn compare(world: &World, project: &Project, ours: &str, theirs: &str) -> Made {
    let docker = world.docker();
    load_base(world, docker);
    let mut theirs = built_by_docker(world, docker, project, theirs);
    let mut ours = built_by_us(world, world.service(), project, ours);
    // BuildKit 0.8 leaves empty files behind where it mounts these during a step.
    for path in [
        "etc/hosts",
        "etc/resolv.conf",
        "etc/hostname",
        "proc",
        "sys",
        "dev",
        "etc",
    ] {
        theirs.files.entries.remove(path);
        ours.files.entries.remove(path);
    }
    theirs.files.assert_same(&ours.files);
    for key in [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "Healthcheck",
        "OnBuild",
        "Shell",
    ] {
        let value = |made: &Made| match &made.config[key] {
            Value::String(text) if text.is_empty() => Value::Null,
            Value::Array(items) if items.is_empty() => Value::Null,
            Value::Object(fields) if fields.is_empty() => Value::Null,
            other => other.clone(),
        };
        assert_eq!(value(&theirs), value(&ours), "docker's {key} and ours");
    }
    ours
}

const THREE_STAGES: &str = r#"# syntax=docker/dockerfile:1
ARG BASE=busybox
FROM ${BASE} AS source
ARG FLAVOUR=plain
WORKDIR /src
@HEREDOC@
RUN --mount=type=cache,target=/var/cache/tool \
    echo cached > /var/cache/tool/file && ls /var/cache/tool > listing && mkdir -p out/deep && \
    echo "tool of $FLAVOUR" > out/tool && ln -s tool out/link && chmod 600 out/tool && \
    ln out/tool out/hard

FROM source AS unneeded
RUN exit 1

FROM ${BASE} AS assets
COPY --chown=1000:1000 . /assets/
RUN chown 1000:1000 /tmp && chmod 4755 /assets/run.sh && rm /etc/group

FROM ${BASE}
LABEL maintainer="someone" version=1
ENV PATH=/opt/bin:$PATH NAME="with spaces"
COPY --from=source --chmod=755 /src/out/tool /opt/bin/tool
COPY --from=source /src/ /copied/
COPY --from=assets /assets /srv/assets
COPY *.txt notes/
WORKDIR /srv
RUN echo "$NAME" > name && rm /etc/passwd && mkdir -m 1777 scratch
USER 1000:1000
RUN touch /srv/scratch/mine
EXPOSE 8080 53/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --retries=2 CMD ["tool"]
ENTRYPOINT ["tool"]
CMD ["--help"]
"#;

fn three_stages_as_docker_builds_them(world: &World) {
    let heredocs = "COPY <<EOF message.txt\nhello $FLAVOUR\nEOF\nRUN <<EOF\nset -e\necho one > one\necho two > two\nEOF";
    let plain = "COPY message.in message.txt\nRUN echo one > one && echo two > two";
    let project = Project::new(&[
        ("Dockerfile", &THREE_STAGES.replace("@HEREDOC@", heredocs)),
        (
            "Dockerfile.plain",
            &THREE_STAGES
                .replace("@HEREDOC@", plain)
                .replace("# syntax=docker/dockerfile:1\n", ""),
        ),
        ("message.in", "hello mint\n"),
        (
            ".dockerignore",
            "**/*.log\n!keep.log\nnode_modules\nDockerfile*\n.dockerignore\nmessage.in\n",
        ),
        (".dockerignore.plain", ""),
        ("run.sh", "#!/bin/sh\necho run\n"),
        ("notes.txt", "notes\n"),
        ("more.txt", "more\n"),
        ("app/main.py", "print()\n"),
        ("app/debug.log", "noise\n"),
        ("keep.log", "kept\n"),
        ("node_modules/big.js", "x\n"),
        ("app/node_modules/deep.js", "y\n"),
    ]);
    project.chmod("run.sh", 0o755);
    // The plain form needs the heredoc's text in its context, which no image may see.
    project.write(
        "Dockerfile.plain.dockerignore",
        "**/*.log\n!keep.log\nnode_modules\nDockerfile*\n.dockerignore*\n",
    );
    fs::remove_file(project.file(".dockerignore.plain")).unwrap();
    let assets = "COPY --chown=1000:1000 . /assets/";
    let text = fs::read_to_string(project.file("Dockerfile.plain")).unwrap();
    let text = text.replace(assets, &format!("{assets}\nRUN rm /assets/message.in"));
    project.write("Dockerfile.plain", text);
    compare(world, &project, "Dockerfile", "Dockerfile.plain");
}

const MANY: &str = r##"# escape=`
ARG VERSION=1.0
FROM busybox AS base
ARG VERSION
ARG FLAVOUR
ENV A=one B="two $A" C=${VERSION:-none} D=${MISSING:+set} E='$A'
ONBUILD RUN echo never here
RUN echo "$A|$B|$C|$D|$E|$VERSION" > /values
SHELL ["/bin/sh", "-ec"]
RUN false || true; `
    # a comment within
    echo after > /after

FROM base AS child
SHELL ["/bin/ash", "-c"]
WORKDIR relative
WORKDIR deeper
RUN pwd > where; exit 0
COPY ["a file.txt", "/with space/"]
COPY app /dir-copy
COPY app/. /dir-contents/
COPY app/main.py app/other.py /several/
COPY a?file.txt /glob/
ADD archive.tar /unpacked/
ADD archive.tar.gz /unpacked-gz
ADD --chown=1000 notes.txt /owned/notes
COPY --chown=worker:worker app /named-owner
COPY link /followed
COPY linked-dir /linked-dir
ENV GREETING hello world
LABEL "with space"="a b" multi="one `
two"
USER worker
WORKDIR /home/made
RUN id -u > /tmp/uid
CMD echo "$GREETING"
"##;

fn many_instructions_as_docker_builds_them(world: &World) {
    let project = Project::new(&[
        ("Dockerfile", MANY),
        ("a file.txt", "blank\n"),
        ("app/main.py", "print(1)\n"),
        ("app/other.py", "print(2)\n"),
        ("app/empty/.keep", ""),
        ("notes.txt", "notes\n"),
    ]);
    project.chmod("app/main.py", 0o755);
    std::os::unix::fs::symlink("notes.txt", project.file("link")).unwrap();
    std::os::unix::fs::symlink("app", project.file("linked-dir")).unwrap();
    let folder = project.path().display();
    let pack = format!(
        "cd {folder} && mkdir in && echo x > in/x && ln -s x in/y && \
         tar --owner=7 --group=8 -cf archive.tar in && gzip -k archive.tar && rm -r in"
    );
    run(&mut tool("sh", ["-c", &pack])).ok();
    compare(world, &project, "Dockerfile", "Dockerfile");
}

fn unneeded_stages_and_files_do_not_count(world: &World) {
    let service = world.service();
    let mark = unique();
    let text = |middle: &str| {
        format!(
            "FROM busybox AS one\nRUN echo {mark} > /one\nFROM busybox AS other\n{middle}\n\
             FROM busybox\nCOPY --from=one /one /one\nCOPY kept /kept\n"
        )
    };
    let project = Project::new(&[
        ("Dockerfile", &text("RUN exit 3")),
        ("kept", "1"),
        ("free", "1"),
    ]);
    let file = project.arg("Dockerfile");
    let first = service.build(&file);
    assert_eq!(
        first["status"], "built",
        "the stage that fails is not needed: {first:#}"
    );
    project.write(
        "Dockerfile",
        text("RUN exit 4").replace("FROM busybox\n", "# a comment\n\nfrom   busybox\n"),
    );
    project.write("free", "2");
    let again = service.build(&file);
    assert_eq!(again["status"], "reused", "{again:#}");
    project.write("kept", "2");
    let changed = service.build(&file);
    assert_eq!(changed["status"], "built");
    assert_ne!(changed["image_hash"], first["image_hash"]);
    let other = service
        .image(&["build", &file, "--target", "other"])
        .code(1);
    assert!(other.stderr.contains("exit code 4"), "{other}");
    service
        .image(&["build", &file, "--target", "absent"])
        .code(2)
        .says(&["absent", "one", "other"]);
}

fn five_hundred_steps(world: &World) {
    let service = world.service();
    let mark = unique();
    let commands: Vec<String> = (1..=500)
        .map(|step| format!("\"echo {mark} > /steps-{step}\""))
        .collect();
    let project = Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\n{}]\n",
        commands.join(",\n")
    ));
    let file = project.arg("image.toml");
    let build = [
        "build",
        &file,
        "--json",
        "--compression",
        "gzip",
        "--progress",
        "quiet",
    ];
    let built = service.image(&build).ok().result();
    assert_eq!(built["steps"].as_array().unwrap().len(), 500);
    let docker = world.docker();
    docker.login(service);
    let image = built["image"].as_str().unwrap();
    docker.run(["pull", "--quiet", image]).ok();
    let count = "ls / | grep -c steps-";
    let ran = docker
        .run(["run", "--rm", "--network", "host", image, "sh", "-c", count])
        .ok();
    assert_eq!(ran.stdout.trim(), "500");
    let layers = docker
        .run(["inspect", "--format", "{{len .RootFS.Layers}}", image])
        .ok();
    let layers: usize = layers.stdout.trim().parse().unwrap();
    assert!(layers <= 127, "{layers} layers");

    // A change near the end reruns what follows it, and no more.
    let text = fs::read_to_string(project.file("image.toml")).unwrap();
    let changed = text.replace(
        &format!("echo {mark} > /steps-495\""),
        "echo changed > /steps-495\"",
    );
    project.write("image.toml", changed);
    let build = [
        "build",
        &file,
        "--json",
        "--compression",
        "gzip",
        "--progress",
        "quiet",
    ];
    let built = service.image(&build).ok().result();
    let steps = built["steps"].as_array().unwrap();
    let ran = steps.iter().filter(|step| step["state"] == "ran").count();
    assert_eq!(ran, 6, "{built:#}");
}
