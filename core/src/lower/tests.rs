//! Operations and configs that specs become.

use std::collections::BTreeMap;
use std::convert::Infallible;

use serde_json::json;

use super::*;
use crate::Platform;
use crate::config::ImageConfig;
use crate::dockerfile::{Options, instructions, parse};
use crate::source::MemoryFiles;
use crate::spec::{Base, BaseImage, Spec, Step, StepKind};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn options<'a>(
    args: &'a BTreeMap<String, String>,
    platform: &'a Platform,
    files: &'a MemoryFiles,
) -> Options<'a> {
    Options {
        build_args: args,
        target: None,
        platform,
        context: Some((files, "")),
        file: None,
    }
}

fn files() -> MemoryFiles {
    MemoryFiles::new()
        .file("a", "a")
        .file("b.tar", "b")
        .file("d/e", "e")
}

fn image(name: &str) -> BaseImage {
    BaseImage {
        reference: name.parse().unwrap(),
        digest: None,
        platform: None,
    }
}

fn spec(base: Base) -> Spec {
    Spec {
        platform: Platform::default(),
        base,
        steps: Vec::new(),
        env: BTreeMap::new(),
        runtime_env: BTreeMap::new(),
        workdir: None,
        user: None,
        labels: BTreeMap::new(),
        entrypoint: None,
        cmd: None,
        name: None,
        mounts: Vec::new(),
    }
}

fn from_text(text: &str) -> Spec {
    let (args, platform, files) = (BTreeMap::new(), Platform::default(), files());
    let parsed = parse(text, &options(&args, &platform, &files)).unwrap_or_else(|e| panic!("{e}"));
    spec(Base::Dockerfile(parsed.dockerfile))
}

fn step(kind: StepKind) -> Step {
    Step {
        kind,
        env: BTreeMap::new(),
        secrets: BTreeSet::new(),
        force: false,
    }
}

fn dockerfile_steps(text: &str) -> Vec<Step> {
    let (args, platform, files) = (BTreeMap::new(), Platform::default(), files());
    let parsed = instructions(text, &options(&args, &platform, &files)).unwrap();
    parsed
        .instructions
        .into_iter()
        .map(|i| step(StepKind::Dockerfile(i)))
        .collect()
}

fn base_config() -> ImageConfig {
    ImageConfig {
        env: vec!["PATH=/base/bin".into(), "FROM_BASE=x".into()],
        working_dir: "/base".into(),
        user: "app".into(),
        cmd: Some(vec!["python3".into()]),
        ..ImageConfig::default()
    }
}

fn build_on(spec: &Spec, config: &ImageConfig) -> Result<Build, String> {
    let mut configs = |_: &BaseImage| Ok::<_, Infallible>(config.clone());
    let build = lower(spec, &mut configs).map_err(|e| e.to_string())?;
    // Whatever is lowered has the keys that everybody else has, in the same order.
    let keyed = spec.steps_with_keys();
    let listed = build.stages.iter().flat_map(|stage| &stage.ops);
    let positions: Vec<usize> = listed
        .filter(|op| keyed.get(op.step).is_some_and(|k| k.key == op.key))
        .map(|op| op.step)
        .collect();
    assert_eq!(positions, (0..keyed.len()).collect::<Vec<_>>());
    Ok(build)
}

fn build(spec: &Spec) -> Build {
    build_on(spec, &base_config()).unwrap_or_else(|e| panic!("{e}"))
}

fn last_run(build: &Build) -> &Run {
    let ops = &build.stages.last().unwrap().ops;
    match &ops.last().unwrap().action {
        Action::Run(run) => run,
        other => panic!("not a run: {other:?}"),
    }
}

fn value<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

#[test]
fn configs_are_docker_s() {
    let check = |text: &str, expect: serde_json::Value| {
        let build = build(&from_text(&format!("FROM scratch\n{text}")));
        let mut config = serde_json::to_value(&build.config).unwrap();
        let object = config.as_object_mut().unwrap();
        // What every image on the empty base has.
        if object.get("Env") == Some(&json!([format!("PATH={PATH}")])) {
            object.remove("Env");
        }
        assert_eq!(
            object.remove("ArgsEscaped").is_some(),
            text.contains("CMD") && !text.contains("CHECK")
        );
        if object.get("WorkingDir") == Some(&json!("/")) {
            object.remove("WorkingDir");
        }
        assert_eq!(config, expect, "{text}");
    };
    check("CMD a b", json!({"Cmd": ["/bin/sh", "-c", "a b"]}));
    check("CMD [\"a\"]\nCMD []", json!({}));
    check(
        "SHELL [\"/b\", \"-x\"]\nCMD a",
        json!({"Shell": ["/b", "-x"], "Cmd": ["/b", "-x", "a"]}),
    );
    check(
        "CMD [\"a\"]\nENTRYPOINT [\"b\"]",
        json!({"Cmd": ["a"], "Entrypoint": ["b"]}),
    );
    check(
        "ENV A=1\nENV A=2$A B=${A}c",
        json!({"Env": [format!("PATH={PATH}"), "A=21", "B=1c"]}),
    );
    check(
        "ENV PATH=/x:$PATH",
        json!({"Env": [format!("PATH=/x:{PATH}")]}),
    );
    check(
        "ENV A b  c",
        json!({"Env": [format!("PATH={PATH}"), "A=b  c"]}),
    );
    check(
        "ARG A=1\nENV B=$A",
        json!({"Env": [format!("PATH={PATH}"), "B=1"]}),
    );
    check(
        "ARG P=8000-8001\nEXPOSE $P 53/udp",
        json!({"ExposedPorts": {"8000/tcp": {}, "8001/tcp": {}, "53/udp": {}}}),
    );
    check(
        "ARG L=1\nLABEL a=$L \"b c\"='$L'",
        json!({"Labels": {"a": "1", "b c": "$L"}}),
    );
    check("VOLUME /a /b", json!({"Volumes": {"/a": {}, "/b": {}}}));
    check("USER $U:1", json!({"User": ":1"}));
    check(
        "WORKDIR /a\nARG D=/e\nWORKDIR $D",
        json!({"WorkingDir": "/e"}),
    );
    check("WORKDIR /a\nWORKDIR b/../c", json!({"WorkingDir": "/a/c"}));
    check("STOPSIGNAL 9", json!({"StopSignal": "9"}));
    check(
        "HEALTHCHECK --interval=1m30s --retries=2 CMD x",
        json!({"Healthcheck": {"Test": ["CMD-SHELL", "x"], "Interval": 90_000_000_000_i64, "Retries": 2}}),
    );
    check(
        "HEALTHCHECK CMD [\"x\"]",
        json!({"Healthcheck": {"Test": ["CMD", "x"]}}),
    );
    check(
        "HEALTHCHECK NONE",
        json!({"Healthcheck": {"Test": ["NONE"]}}),
    );
    check("ONBUILD RUN  x", json!({"OnBuild": ["RUN x"]}));
    assert_eq!(
        build(&from_text("FROM scratch\nMAINTAINER Me"))
            .author
            .as_deref(),
        Some("Me")
    );
}

#[test]
fn the_base_s_config_carries_over() {
    let config = |text: &str| build(&from_text(&format!("FROM a\n{text}"))).config;
    assert_eq!(config("").cmd, Some(vec!["python3".into()]));
    assert_eq!(config("ENTRYPOINT [\"x\"]").cmd, None);
    assert_eq!(config("ENV PATH=/x:$PATH").env[0], "PATH=/x:/base/bin");
    assert_eq!(config("WORKDIR c").working_dir, "/base/c");
    let without_path = ImageConfig::default();
    let built = build_on(&spec(Base::Image(image("a"))), &without_path).unwrap();
    assert_eq!(built.config.env, [format!("PATH={PATH}")]);
}

#[test]
fn runs() {
    let run = |text: &str| last_run(&build(&from_text(&format!("FROM a\n{text}")))).clone();
    let plain = run("RUN a  b");
    assert_eq!(plain.args, ["/bin/sh", "-c", "a  b"]);
    assert_eq!(
        (plain.cwd.as_str(), plain.user.as_str(), plain.network),
        ("/base", "app", true)
    );
    assert_eq!(run("RUN [\"a\", \"b\"]").args, ["a", "b"]);
    assert_eq!(
        run("SHELL [\"/bin/bash\", \"-ec\"]\nRUN x").args,
        ["/bin/bash", "-ec", "x"]
    );
    assert_eq!(run("RUN <<EOF\na\n$b\nEOF").args[2], "a\n$b\n");
    assert_eq!(run("RUN <<-EOF\n\ta\nEOF").args[2], "a\n");
    assert_eq!(
        run("RUN cat <<-A <<B\n\t1\n\tA\n2\nB").args[2],
        "cat <<-A <<B\n\t1\nA\n2\nB"
    );
    let script = run("RUN <<EOF\n#!/usr/bin/python3\nx\nEOF");
    assert_eq!(script.args, ["/bin/sh", "-c", "/dev/pipes/EOF"]);
    assert_eq!(
        script.heredocs,
        [("EOF".to_owned(), b"#!/usr/bin/python3\nx\n".to_vec())]
    );
    let env = run("ARG A=1\nENV B=${A}2\nARG N\nRUN x").env;
    assert_eq!(
        (value(&env, "A"), value(&env, "B"), value(&env, "N")),
        (Some("1"), Some("12"), None)
    );
    assert!(!run("RUN --network=none x").network);
    assert_eq!(run("USER u\nWORKDIR /w\nRUN x").user, "u");
}

#[test]
fn histories_are_buildkit_s() {
    let check = |text: &str, expect: &str| {
        let build = build(&from_text(&format!("FROM a\n{text}")));
        let op = build.stages.last().unwrap().ops.last().unwrap().clone();
        assert_eq!(op.created_by, expect, "{text}");
    };
    check("RUN x", "RUN /bin/sh -c x # buildkit");
    check(
        "ARG A=1\nARG B\nRUN x",
        "RUN |2 A=1 B= /bin/sh -c x # buildkit",
    );
    check("ENV A=1 B=2", "ENV A=1 B=2");
    check("ARG A=1", "ARG A=1");
    check("WORKDIR c", "WORKDIR /base/c");
    check(
        "COPY --chown=1:2 a d /x/",
        "COPY --chown=1:2 a d /x/ # buildkit",
    );
    check("CMD [\"a\", \"b\"]", "CMD [\"a\" \"b\"]");
    check("EXPOSE 80 22", "EXPOSE [22/tcp 80/tcp]");
    check("USER x", "USER x");
    check("VOLUME /a", "VOLUME [/a]");
    check("SHELL [\"a\", \"-c\"]", "SHELL [a -c]");
    check("LABEL a=b", "LABEL a=b");
}

#[test]
fn mounts() {
    let text = "FROM x AS tools\nFROM a\nWORKDIR /w\nARG C=pip\nRUN --mount=type=cache,target=/root/.cache/$C \
                --mount=type=cache,id=k,target=c,sharing=locked,uid=5,from=tools,source=/s \
                --mount=type=bind,source=d,target=/d --mount=from=tools,source=../b,target=/t,rw \
                --mount=type=tmpfs,target=/tmp,size=1k --mount=type=secret,id=tok \
                --mount=type=secret,id=e,env=TOKEN,required x";
    let spec = from_text(text);
    let Base::Dockerfile(dockerfile) = &spec.base else {
        panic!()
    };
    let tree = dockerfile.stages[1].instructions[2].context.unwrap();
    let run = last_run(&build(&spec)).clone();
    let got: Vec<_> = run
        .mounts
        .iter()
        .map(|m| (m.target.as_str(), m.read_only))
        .collect();
    assert_eq!(
        got,
        [
            ("/root/.cache/pip", false),
            ("/w/c", false),
            ("/d", true),
            ("/t", false),
            ("/tmp", false),
            ("/run/secrets/tok", true),
            ("", true),
        ]
    );
    assert_eq!(
        run.mounts[1].source,
        MountSource::Cache {
            id: "k".into(),
            sharing: Sharing::Locked,
            mode: 0o755,
            uid: 5,
            gid: 0,
            from: Some((0, "/s".into())),
        }
    );
    assert_eq!(
        run.mounts[2].source,
        MountSource::Context {
            tree,
            path: "d".into()
        }
    );
    assert_eq!(
        run.mounts[3].source,
        MountSource::Stage {
            stage: 0,
            path: "/b".into()
        }
    );
    assert!(
        matches!(&run.mounts[0].source, MountSource::Cache { id, .. } if id == "/root/.cache/pip")
    );
    assert!(
        matches!(&run.mounts[6].source, MountSource::Secret { env: Some(env), required: true, .. } if env == "TOKEN")
    );
}

#[test]
fn copies() {
    let last = |text: &str| {
        let build = build(&from_text(&format!(
            "FROM t AS s\nFROM a\nWORKDIR /w\n{text}"
        )));
        let stages = build.stages.len();
        (
            build
                .stages
                .last()
                .unwrap()
                .ops
                .last()
                .unwrap()
                .action
                .clone(),
            stages,
        )
    };
    let copy = |text: &str| match last(text).0 {
        Action::Copy(copy) => copy,
        other => panic!("{text}: {other:?}"),
    };
    let one = copy("ENV T=/t U=7\nCOPY --chown=$U:$U --chmod=0640 a /d/../d/e $T/");
    assert_eq!(
        (one.sources.as_slice(), one.dest.as_str()),
        (["a".to_owned(), "d/e".into()].as_slice(), "/t/")
    );
    assert_eq!(
        (one.chown.as_deref(), one.chmod),
        (Some("7:7"), Some(Chmod::Bits(0o640)))
    );
    assert!(!one.unpack);
    assert_eq!(copy("COPY . .").sources, ["."]);
    assert_eq!(copy("COPY . .").dest, "/w/");
    assert!(copy("ADD b.tar /x").unpack);
    assert!(!copy("ADD --unpack=false b.tar /x").unpack);
    assert_eq!(copy("COPY --from=s /x y").from, CopySource::Stage(0));
    let (action, stages) = last("COPY --from=busybox /bin/ /b/");
    assert_eq!(stages, 2);
    assert!(
        matches!(action, Action::Copy(c) if c.from == CopySource::Stage(0) && c.sources == ["bin"])
    );
    let inline = copy("ENV X=1\nCOPY <<a <<'b' /d/\n$X \"\\$Y\"\na\n$X\nb");
    assert_eq!(
        inline.from,
        CopySource::Inline(vec![
            ("a".into(), b"1 \"$Y\"\n".to_vec()),
            ("b".into(), b"$X\n".to_vec())
        ])
    );
    let (mixed, _) = last("ADD a https://x.org/f d <<E /m/\n1\nE");
    let Action::Sequence(actions) = mixed else {
        panic!("{mixed:?}")
    };
    assert_eq!(actions.len(), 4);
    assert!(matches!(&actions[1], Action::Download(d) if d.file_name == "f" && d.dest == "/m/"));
    assert!(
        matches!(&actions[3], Action::Copy(c) if matches!(c.from, CopySource::Inline(_)) && !c.unpack)
    );
}

#[test]
fn stages_continue_and_inherit() {
    let build = build(&from_text(
        "FROM a AS b\nARG X=1\nENV Y=2\nCMD [\"c\"]\nFROM b\nENTRYPOINT [\"e\"]\nRUN $X\n",
    ));
    assert_eq!(build.stages[1].base, StageBase::Stage(0));
    assert_eq!(
        build.stages[1].base_key,
        build.stages[0].ops.last().unwrap().key
    );
    let env = &last_run(&build).env;
    assert_eq!((value(env, "X"), value(env, "Y")), (Some("1"), Some("2")));
    // Seen with Docker 20.10: the next stage has what ENV set, over an argument of that name.
    let shadowed = build_on(
        &from_text("FROM a AS b\nENV A=env\nARG A=arg\nWORKDIR /$A\nFROM b\nWORKDIR $A"),
        &base_config(),
    );
    assert_eq!(shadowed.unwrap().config.working_dir, "/arg/env");
    // CMD was set in another stage.
    assert_eq!(build.config.cmd, None);
}

#[test]
fn steps_see_the_image_s_facts() {
    let mut chain = spec(Base::Image(image("a")));
    chain.env = BTreeMap::from([("A".into(), "1".into())]);
    chain.runtime_env = BTreeMap::from([("R".into(), "2".into())]);
    chain.workdir = Some("/app".into());
    chain.user = Some("me".into());
    chain.labels = BTreeMap::from([("l".into(), "v".into())]);
    chain.steps = vec![
        step(StepKind::AptInstall {
            packages: vec!["git".into()],
        }),
        step(StepKind::PipInstall {
            packages: vec!["x".into()],
        }),
    ];
    chain.steps.extend(dockerfile_steps(
        "SHELL [\"/bin/bash\", \"-c\"]\nENV A=3 B=$A\nWORKDIR sub\nUSER other\nCMD [\"c\"]",
    ));
    let mut own = step(StepKind::Run {
        command: "x".into(),
    });
    own.env = BTreeMap::from([("S".into(), "4".into())]);
    own.secrets = BTreeSet::from(["tok".into()]);
    chain.steps.push(own);
    let built = build(&chain);
    let ops = &built.stages[0].ops;
    let Action::Install(apt) = &ops[0].action else {
        panic!()
    };
    let Action::Install(pip) = &ops[1].action else {
        panic!()
    };
    assert_eq!((apt.user.as_str(), pip.user.as_str()), ("", "me"));
    assert_eq!(
        (value(&pip.env, "A"), value(&pip.env, "R")),
        (Some("1"), None)
    );
    let run = last_run(&built);
    assert_eq!(run.args, ["/bin/bash", "-c", "x"]);
    assert_eq!((run.cwd.as_str(), run.user.as_str()), ("/app/sub", "other"));
    assert_eq!(
        (
            value(&run.env, "A"),
            value(&run.env, "B"),
            value(&run.env, "S")
        ),
        (Some("3"), Some("1"), Some("4"))
    );
    assert!(run.secrets.contains("tok"));
    // The image's own facts have the last word.
    let config = &built.config;
    assert_eq!(
        (config.working_dir.as_str(), config.user.as_str()),
        ("/app", "me")
    );
    assert_eq!(
        config.env,
        ["PATH=/base/bin", "FROM_BASE=x", "A=1", "B=1", "R=2"]
    );
    assert_eq!(config.labels["l"], "v");
    assert_eq!(config.cmd, Some(vec!["c".into()]));
    assert_eq!(built.stages[0].config.working_dir, "/app/sub");
}

#[test]
fn the_environment_of_a_project_is_entered() {
    let lowered = |own: Option<&str>, workdir: Option<&str>, path: Option<&str>| {
        let mut chain = spec(Base::Image(image("a")));
        chain.workdir = workdir.map(str::to_owned);
        chain.env = path
            .map(|path| ("PATH".into(), path.into()))
            .into_iter()
            .collect();
        let project = UvProject {
            pyproject: Digest::of(b"p"),
            lock: Digest::of(b"l"),
            extras: vec!["x".into()],
            workdir: own.map(str::to_owned),
        };
        let run = step(StepKind::Run {
            command: "x".into(),
        });
        chain.steps = vec![step(StepKind::UvSync(project)), run];
        let built = build(&chain);
        let env = last_run(&built).env.clone();
        let Action::Install(install) = &built.stages[0].ops[0].action else {
            panic!()
        };
        let Installed::Project { dir, .. } = &install.what else {
            panic!()
        };
        assert_eq!(value(&install.env, "VIRTUAL_ENV"), None);
        let dir = dir.clone();
        let venv = value(&env, "VIRTUAL_ENV").map(str::to_owned);
        let seen = value(&env, "PATH").map(str::to_owned);
        (dir, venv.unwrap(), seen.unwrap(), built.config.env.clone())
    };
    let (dir, venv, path, config) = lowered(None, None, None);
    assert_eq!((dir.as_str(), venv.as_str()), ("/app", "/app/.venv"));
    assert_eq!(path, "/app/.venv/bin:/base/bin");
    let expect = [
        "PATH=/app/.venv/bin:/base/bin",
        "FROM_BASE=x",
        "VIRTUAL_ENV=/app/.venv",
    ];
    assert_eq!(config, expect);
    let (dir, _, path, config) = lowered(None, Some("/w"), Some("/mine"));
    assert_eq!((dir.as_str(), path.as_str()), ("/w", "/w/.venv/bin:/mine"));
    assert_eq!(config[0], "PATH=/mine", "the image's own facts win");
    let (dir, venv, ..) = lowered(Some("/"), Some("/w"), None);
    assert_eq!((dir.as_str(), venv.as_str()), ("/", "/.venv"));
}

#[test]
fn entrypoint_resets_the_base_s_command() {
    let mut chain = spec(Base::Image(image("a")));
    chain.entrypoint = Some(vec!["e".into()]);
    assert_eq!(build(&chain).config.cmd, None);
    chain.cmd = Some(vec!["c".into()]);
    assert_eq!(build(&chain).config.cmd, Some(vec!["c".into()]));
    chain.entrypoint = None;
    chain.cmd = None;
    chain.steps = dockerfile_steps("CMD [\"own\"]");
    chain.entrypoint = Some(vec!["e".into()]);
    assert_eq!(build(&chain).config.cmd, Some(vec!["own".into()]));
}

#[test]
fn triggers_of_a_base_run_first() {
    let mut config = base_config();
    config.on_build = vec!["RUN echo $FROM_BASE".into(), "ENV T=1".into()];
    let mut chain = spec(Base::Image(image("a")));
    chain.steps = vec![step(StepKind::Run {
        command: "x".into(),
    })];
    let built = build_on(&chain, &config).unwrap();
    let ops = &built.stages[0].ops;
    let titles: Vec<&str> = ops.iter().map(|op| op.title.as_str()).collect();
    assert_eq!(
        titles,
        ["ONBUILD RUN echo $FROM_BASE", "ONBUILD ENV T=1", "RUN x"]
    );
    assert_eq!(value(&last_run(&built).env, "T"), Some("1"));
    assert!(built.config.on_build.is_empty());
    let keys: BTreeSet<_> = ops.iter().map(|op| op.key).collect();
    assert_eq!(keys.len(), 3);
    config.on_build = vec!["COPY . /app".into()];
    let error = build_on(&chain, &config).unwrap_err();
    assert!(
        error.starts_with(
            "the base docker.io/library/a:latest has `ONBUILD COPY . /app`: it copies"
        ),
        "{error}"
    );
}

#[test]
fn errors_name_the_step() {
    let error = |text: &str| build_on(&from_text(text), &base_config()).unwrap_err();
    assert_eq!(
        error("FROM a\nRUN x\nEXPOSE $FROM_BASE"),
        "step 2, `EXPOSE $FROM_BASE`: `x` is no port: expected a number up to 65535, or two with `-` between"
    );
    assert!(error("FROM a\nENV X=${NOT_THERE:?why}").contains("why"));
    let mut failing = |_: &BaseImage| Err::<ImageConfig, _>("no network");
    let failed = lower(&spec(Base::Image(image("a"))), &mut failing).unwrap_err();
    assert_eq!(
        failed.to_string(),
        "the config of docker.io/library/a:latest: no network"
    );
}
