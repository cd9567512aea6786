//! The same specs through every engine: the embedded one, and BuildKit, here the one in Debian's Docker
//! Engine. They make the same files, configs and hashes, share one step cache, and tell failures alike;
//! and a builder that dies does not take its builds along.

use std::fs;

use chalk_tests::{
    Docker, ImageFiles, Layout, Project, Service, World, run, tool, unique, wait_for, wait_until,
};
use serde_json::Value;

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};

pub(crate) const TESTS: &[Test] = &[
    (
        "every_engine_makes_the_same_of_typed_steps",
        the_same_of_typed_steps,
    ),
    (
        "every_engine_makes_the_same_of_dockerfiles",
        the_same_of_dockerfiles,
    ),
    (
        "engines_share_the_step_cache_and_fail_alike",
        cache_and_failures,
    ),
    ("a_builder_that_dies_is_replaced", a_builder_that_dies),
];

/// Starts a service that builds with these daemons.
fn with_builders(world: &World, name: &str, builders: &[&Docker]) -> Service {
    let addresses: Vec<String> = builders
        .iter()
        .map(|docker| format!("docker://{}", docker.socket().display()))
        .collect();
    world.start(
        name,
        &[
            ("build.engine", "buildkit"),
            ("build.buildkit.addresses", &addresses.join(",")),
            // The daemons of the suite have no bridge.
            ("build.buildkit.network", "host"),
            // Docker 20.10 reads no zstd.
            ("build.compression", "gzip"),
        ],
    )
}

/// An image by one engine.
struct Made {
    result: Value,
    files: ImageFiles,
    config: Value,
}

impl Made {
    fn by(world: &World, service: &Service, project: &Project, arguments: &[&str]) -> Self {
        let result = service.image(arguments).ok().result();
        assert_eq!(
            result["status"],
            "built",
            "{}: {result:#}",
            project.path().display()
        );
        let folder = world.folder("by-engine");
        let mut skopeo = service.skopeo("copy");
        skopeo.arg(format!("docker://{}", result["image"].as_str().unwrap()));
        run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
        let layout = Layout::open(&folder);
        Self {
            result,
            files: layout.files(),
            config: layout.config(),
        }
    }
}

/// Two services, one for each engine.
struct Engines {
    embedded: Service,
    buildkit: Service,
}

impl Engines {
    fn start(world: &World) -> Self {
        let embedded = world.start("by-embedded", &[("build.compression", "gzip")]);
        let buildkit = with_builders(world, "by-buildkit", &[world.docker()]);
        assert_eq!(embedded.get("/v1/info")["engine"], "embedded");
        assert_eq!(buildkit.get("/v1/info")["engine"], "buildkit");
        Self { embedded, buildkit }
    }

    /// Builds a project with both engines and compares all but times.
    #[track_caller]
    fn compare(&self, world: &World, project: &Project, file: &str, flags: &[&str]) -> Made {
        let file = project.arg(file);
        let mut arguments = vec!["build", &file, "--json"];
        arguments.extend(flags);
        let ours = Made::by(world, &self.embedded, project, &arguments);
        let theirs = Made::by(world, &self.buildkit, project, &arguments);
        assert_eq!(ours.result["image_hash"], theirs.result["image_hash"]);
        ours.files.assert_same(&theirs.files);
        assert_eq!(ours.config["config"], theirs.config["config"]);
        assert_eq!(ours.config["history"], theirs.config["history"]);
        let steps = |made: &Made| {
            let steps = made.result["steps"].as_array().expect("steps").clone();
            let fact = |step: &Value, name: &str| step[name].clone();
            let facts = |step: Value| ["kind", "key", "title", "state"].map(|n| fact(&step, n));
            steps.into_iter().map(facts).collect::<Vec<_>>()
        };
        assert_eq!(steps(&ours), steps(&theirs));
        theirs
    }
}

fn the_same_of_typed_steps(world: &World) {
    let engines = Engines::start(world);
    let project = Project::new(&[
        (
            "image.toml",
            &format!(
                r#"
[image]
debian_slim = "3.12"
workdir = "/srv/app"
env = {{ GREETING = "hello world" }}
runtime_env = {{ LATER = "1" }}
labels = {{ run = "{}" }}
entrypoint = ["python3", "-c"]
[[step]]
pip_install = ["six==1.16.0", "idna>=3"]
[[step]]
uv_pip_install = ["packaging==24.1"]
[[step]]
add_local_file = {{ src = "run.sh", dest = "/srv/app/bin/run.sh", strategy = "copy" }}
[[step]]
add_local_dir = {{ src = "src", dest = "/srv/app/src", strategy = "copy" }}
[[step]]
run_commands = ["pwd > where; echo $GREETING $EXTRA > said; python3 -c 'import six, packaging'", "rm /etc/motd; mkdir -m 2750 kept"]
env = {{ EXTRA = "for this step" }}
"#,
                unique()
            ),
        ),
        ("run.sh", "#!/bin/sh\n"),
        ("src/main.py", "print()\n"),
        ("src/deep/er/data.bin", "\u{1}\u{2}\u{3}"),
    ]);
    project.chmod("run.sh", 0o755);
    project.chmod("src/main.py", 0o640);
    std::os::unix::fs::symlink("deep/er", project.file("src/link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", project.file("src/dangling")).unwrap();
    let made = engines.compare(world, &project, "image.toml", &[]);
    assert!(made.files.entries.contains_key("srv/app/bin/run.sh"));
    assert_eq!(made.config["config"]["WorkingDir"], "/srv/app");

    let packages = Project::toml(&format!(
        "[image]\ndebian_slim = \"3.12\"\nlabels = {{ run = \"{}\" }}\n[[step]]\napt_install = [\"tree\"]\n",
        unique()
    ));
    engines.compare(world, &packages, "image.toml", &[]);
    engines.buildkit.assert_clean();
}

const STAGES: &str = r##"ARG FLAVOUR=plain
FROM busybox AS source
ARG FLAVOUR
WORKDIR /src
RUN --mount=type=cache,target=/var/cache/tool,uid=1000,gid=1000,mode=0700 \
    stat -c '%a %u %g' /var/cache/tool > cache && mkdir -p out/deep && \
    echo "tool of $FLAVOUR" > out/tool && ln -s tool out/link && chmod 600 out/tool && ln out/tool out/hard

FROM source AS unneeded
RUN exit 1

FROM busybox AS assets
COPY --chown=1000:1000 . /assets/
RUN chown 1000:1000 /tmp && chmod 4755 /assets/run.sh && rm /etc/group

FROM busybox
LABEL maintainer="someone" version=1
ENV PATH=/opt/bin:$PATH NAME="with spaces"
COPY --from=source --chmod=755 /src/out/tool /opt/bin/tool
COPY --from=source /src/ /copied/
COPY --from=assets /assets /srv/assets
COPY --from=source /src/out/t* /globbed/
COPY *.txt notes/
WORKDIR /srv
RUN echo "$NAME" > name && mkdir -m 1777 scratch
COPY <<EOF message.txt
hello $NAME
EOF
RUN <<EOF
#!/bin/sh
echo script > /script
EOF
RUN --mount=type=bind,source=app,target=/app --mount=type=tmpfs,target=/fleeting \
    cat /app/main.py > copy.py && touch /fleeting/gone
RUN --mount=type=bind,from=source,source=/src/out,target=/tools,rw touch /tools/gone && cat /tools/tool > tool
RUN --network=none ls /sys/class/net > nets
RUN true
USER worker
WORKDIR made/by
RUN touch /srv/scratch/mine && id -u > /srv/scratch/uid && id -g >> /srv/scratch/uid
EXPOSE 8080 53/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --retries=2 CMD ["tool"]
ENTRYPOINT ["tool"]
CMD ["--help"]
"##;

const COPIES: &str = r##"FROM busybox AS child
WORKDIR relative
WORKDIR deeper
COPY ["a file.txt", "/with space/"]
COPY app /dir-copy
COPY app/. /dir-contents/
COPY app/main.py app/other.py /several/
COPY a?file.txt /glob/
COPY app/none* /nothing/
ADD archive.tar /unpacked/
ADD archive.tar.gz /unpacked-gz
ADD --chown=1000 notes.txt /owned/notes
COPY --chown=worker app /named-owner
COPY --chown=worker:root app/main.py /named-owner/again.py
COPY link /followed
COPY linked-dir /linked-dir
COPY --chmod=u=rwX,go= app /chmod
COPY --exclude=*.py app /excluded/
COPY --parents app/*.py /parents/
RUN mkdir /target && ln -s target /way
COPY notes.txt /way/
COPY app /way/
"##;

fn the_same_of_dockerfiles(world: &World) {
    let engines = Engines::start(world);
    let stages = Project::new(&[
        ("Dockerfile", STAGES),
        (".dockerignore", "**/*.log\nDockerfile\n.dockerignore\n"),
        ("run.sh", "#!/bin/sh\necho run\n"),
        ("notes.txt", "notes\n"),
        ("more.txt", "more\n"),
        ("app/main.py", "print()\n"),
        ("app/debug.log", "noise\n"),
    ]);
    stages.chmod("run.sh", 0o755);
    engines.compare(
        world,
        &stages,
        "Dockerfile",
        &["--build-arg", "FLAVOUR=mint"],
    );

    let copies = Project::new(&[
        ("Dockerfile", COPIES),
        ("a file.txt", "blank\n"),
        ("app/main.py", "print(1)\n"),
        ("app/other.py", "print(2)\n"),
        ("app/empty/.keep", ""),
        ("notes.txt", "notes\n"),
    ]);
    copies.chmod("app/main.py", 0o755);
    std::os::unix::fs::symlink("notes.txt", copies.file("link")).unwrap();
    std::os::unix::fs::symlink("app", copies.file("linked-dir")).unwrap();
    let folder = copies.path().display();
    let pack = format!(
        "cd {folder} && mkdir in && echo x > in/x && ln -s x in/y && \
         tar --owner=7 --group=8 -cf archive.tar in && gzip -k archive.tar && rm -r in"
    );
    run(&mut tool("sh", ["-c", &pack])).ok();
    engines.compare(world, &copies, "Dockerfile", &[]);

    let scratch = Project::new(&[
        (
            "Dockerfile",
            "FROM scratch\nCOPY file /dir/\nWORKDIR /work\n",
        ),
        ("file", "1\n"),
    ]);
    engines.compare(world, &scratch, "Dockerfile", &[]);
    engines.buildkit.assert_clean();
}

fn cache_and_failures(world: &World) {
    let mut service = with_builders(world, "cache-and-failures", &[world.docker()]);
    let mark = unique();
    let text = |last: &str| {
        format!(
            "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"echo one {mark} > /one\"]\n[[step]]\nrun_commands = [\"{last}\"]\n"
        )
    };
    // One step fails: it is told as by the embedded engine, and what came before is kept by the builder.
    let project = Project::toml(&text("seq 1 3; echo out of cheese >&2; exit 7"));
    let file = project.arg("image.toml");
    let failed = service.image(&["build", &file, "--json"]).code(1);
    failed.says(&["exit code 7", "out of cheese"]);
    project.write("image.toml", text("echo two > /two"));
    let built = service.build(&file);
    let states = |result: &Value| -> Vec<String> {
        let steps = result["steps"].as_array().expect("steps");
        let state = |step: &Value| step["state"].as_str().unwrap_or_default().to_owned();
        steps.iter().map(state).collect()
    };
    assert_eq!(states(&built), ["cached", "ran"], "{built:#}");
    assert_eq!(service.build(&file)["status"], "reused");

    // Secrets are there for their step, with its user as owner, and nowhere else.
    let value = format!("hunter2-{mark}");
    let digest = chalk_core::Digest::of(value.as_bytes()).hex();
    let secret = Project::toml(&format!(
        "[image]\nbase = \"busybox\"\nuser = \"worker\"\n[[step]]\nrun_commands = [\"sha256sum /run/secrets/key | grep -q {digest} && stat -c '%a %u %g' /run/secrets/key && cat /run/secrets/key && base64 /run/secrets/key\"]\nsecrets = [\"key\"]\n[[step]]\nrun_commands = [\"test ! -e /run/secrets/key\"]\n"
    ));
    let file = secret.arg("image.toml");
    let arguments = ["build", &file, "--json", "--secret", "key=env:MY_KEY"];
    let build = service.chalk().args(["compute", "image"]).args(arguments);
    let ran = build.env("MY_KEY", &value).run().ok();
    let id = service.get("/v1/builds")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let events = format!("{:?}", service.events(&id, 0));
    assert!(events.contains("400 1000 1000"), "{events}");
    assert!(
        events.contains("***") && !events.contains(&value),
        "{events}"
    );
    let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD_NO_PAD, &value);
    assert!(!events.contains(&encoded), "{events}");
    assert!(!service.log().contains(&value) && !ran.stderr.contains(&value));

    // A build that is cancelled ends its processes.
    let sleep = sleep_mark();
    let slow = Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"sleep {sleep}\"]\n"
    ));
    let mut client = service
        .chalk()
        .args(["compute", "image", "build", &slow.arg("image.toml")])
        .into_command()
        .spawn()
        .expect("start a build");
    wait_for_process(&sleep, true);
    run(&mut tool("kill", ["-INT", &client.id().to_string()])).ok();
    client.wait().expect("ours");
    wait_for_process(&sleep, false);
    service.assert_clean();

    // The same state directory by the other engine: it goes on from the same cache.
    service.stop();
    let embedded = Service::start(service.state(), &[("build.compression", "gzip")]);
    project.write(
        "image.toml",
        text("echo two > /two") + "[[step]]\nrun_commands = [\"cat /one /two > /three\"]\n",
    );
    let more = embedded.build(&project.arg("image.toml"));
    assert_eq!(states(&more), ["cached", "cached", "ran"], "{more:#}");
}

/// Processes that sleep so long.
fn sleepers(seconds: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let line = format!("sleep\0{seconds}\0");
    let named = |pid: &u32| {
        let found = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found == line.as_bytes()
    };
    pids.filter(named).collect()
}

/// Waits for a step that sleeps; tells under which of the daemons it runs.
fn builder_of(seconds: &str, builders: &[Docker]) -> usize {
    let mut pid = wait_for("the process of the step", || sleepers(seconds).pop());
    loop {
        if let Some(at) = builders.iter().position(|docker| docker.pid() == pid) {
            return at;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent
            .and_then(|p| p.trim().parse().ok())
            .expect("a parent");
        assert!(pid > 1, "the step runs under no builder");
    }
}

/// Ends what a step sleeps.
fn wake(seconds: &str) {
    for pid in sleepers(seconds) {
        let _ = tool("kill", ["-TERM", &pid.to_string()]).output();
    }
    wait_until("the sleep is over", || sleepers(seconds).is_empty());
}

fn a_builder_that_dies(world: &World) {
    let folder = |name: &str| world.folder(name);
    let mut builders = [
        Docker::start(&folder("builder-one")),
        Docker::start(&folder("builder-two")),
    ];
    let service = {
        let [one, two] = &builders;
        with_builders(world, "fail-over", &[one, two])
    };
    let sleep = sleep_mark();
    let project = Project::new(&[(
        "image.toml",
        &format!(
            "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"echo one {} > /one\"]\n[[step]]\nrun_commands = [\"sleep {sleep}; cat /one > /two\"]\n",
            unique()
        ),
    )]);
    let file = project.arg("image.toml");
    let build = service
        .chalk()
        .args(["compute", "image", "build", &file, "--json"]);
    let built = std::thread::scope(|scope| {
        let build = scope.spawn(move || build.run());
        let first = builder_of(&sleep, &builders);
        builders[first].kill();
        // What a killed daemon leaves running.
        wake(&sleep);
        let second = 1 - first;
        assert_eq!(builder_of(&sleep, &builders[second..=second]), 0);
        wake(&sleep);
        build.join().unwrap()
    });
    let result = built.ok().result();
    assert_eq!(result["status"], "built", "{result:#}");
    let id = service.get("/v1/builds")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let events = format!("{:?}", service.events(&id, 0));
    assert!(events.contains("a builder failed"), "{events}");
    service.assert_clean();
}
