//! From a spec back to calls, so that what was read from JSON can be extended like any other image.

use super::calls::{Call, Installer, Local, LocalOptions, StepOptions};
use super::{Image, Strategy};
use crate::Spec;
use crate::spec::{Mount, Step, StepKind};

impl Image {
    /// The image that a spec declares. Its files are known by digest, so nothing is read when it is
    /// resolved, and the result is this spec again.
    pub fn from_spec(spec: &Spec) -> Self {
        let mut image = Self::begin("from_spec", Ok(Call::Base(spec.base.clone())));
        let mut push = |word, call| image = image.push(word, Ok(call));
        push("platform", Call::Platform(spec.platform.clone()));
        let pairs = |map: &std::collections::BTreeMap<String, String>| {
            let own = |(name, value): (&String, &String)| (name.clone(), value.clone());
            map.iter().map(own).collect::<Vec<_>>()
        };
        for (word, map, call) in [
            ("env", &spec.env, Call::Env as fn(_) -> _),
            ("runtime_env", &spec.runtime_env, Call::RuntimeEnv),
            ("label", &spec.labels, Call::Labels),
        ] {
            if !map.is_empty() {
                push(word, call(pairs(map)));
            }
        }
        if let Some(path) = &spec.workdir {
            push("workdir", Call::Workdir(path.clone()));
        }
        if let Some(user) = &spec.user {
            push("user", Call::User(user.clone()));
        }
        if let Some(arguments) = &spec.entrypoint {
            push("entrypoint", Call::Entrypoint(arguments.clone()));
        }
        if let Some(arguments) = &spec.cmd {
            push("cmd", Call::Cmd(arguments.clone()));
        }
        if let Some(name) = &spec.name {
            push("name", Call::Name(name.clone()));
        }
        let mut mounts = spec.mounts.iter().peekable();
        for (i, step) in spec.steps.iter().enumerate() {
            while let Some(mount) = mounts.next_if(|mount| mount.after <= i) {
                let (word, call) = mount_call(mount);
                push(word, call);
            }
            let (word, call) = step_call(step);
            push(word, call);
        }
        for (word, call) in mounts.map(mount_call) {
            push(word, call);
        }
        image
    }
}

fn mount_call(mount: &Mount) -> (&'static str, Call) {
    let local = Local {
        src: mount.src.clone(),
        dest: mount.dest.clone(),
        options: LocalOptions {
            strategy: Strategy::Mount,
            mode: None,
            exclude: mount.exclude.clone(),
        },
    };
    match mount.dir {
        true => ("add_local_dir", Call::AddDir(local)),
        false => ("add_local_file", Call::AddFile(local)),
    }
}

fn step_call(step: &Step) -> (&'static str, Call) {
    let options = StepOptions {
        env: step.env.clone(),
        secrets: step.secrets.clone(),
        force: step.force,
    };
    let install = |installer, packages: &Vec<String>| {
        let word = step.kind.word();
        (
            word,
            Call::Install(installer, packages.clone(), options.clone()),
        )
    };
    match &step.kind {
        StepKind::PipInstall { packages } => install(Installer::Pip, packages),
        StepKind::UvPipInstall { packages } => install(Installer::Uv, packages),
        StepKind::AptInstall { packages } => install(Installer::Apt, packages),
        StepKind::Run { command } => ("run_commands", Call::Run(vec![command.clone()], options)),
        StepKind::UvSync(_) => ("uv_sync", Call::Step(Box::new(step.clone()))),
        StepKind::AddFile { .. } => ("add_local_file", Call::Step(Box::new(step.clone()))),
        StepKind::AddDir { .. } => ("add_local_dir", Call::Step(Box::new(step.clone()))),
        StepKind::Dockerfile(_) => ("dockerfile_commands", Call::Step(Box::new(step.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{DockerfileOptions, UvSyncOptions};
    use crate::source::MemoryFiles;

    fn files() -> MemoryFiles {
        MemoryFiles::new()
            .file("app.py", "app")
            .file("src/a", "a")
            .file("project/pyproject.toml", "p")
            .file("project/uv.lock", "l")
            .file("Dockerfile", "FROM alpine\nCOPY app.py /\n")
    }

    fn spec_of(image: &Image) -> Spec {
        image.resolve(&files()).unwrap().spec
    }

    #[test]
    fn gives_the_same_spec_again() {
        let full = Image::base(
            "alpine@sha256:e7d88de73db3d3fd9b2d63aa7f447a10fd0220b7cbf39803c803f2af9ba256b3",
        )
        .platform("linux/arm64")
        .env([("A", "1")])
        .runtime_env([("B", "2")])
        .label("c", "3")
        .workdir("/w")
        .user("me")
        .entrypoint(["e"])
        .cmd(["c"])
        .name("n:1")
        .add_local_dir("src", "/first", LocalOptions::mount().exclude("*.o"))
        .pip_install_with(
            ["a", "b"],
            StepOptions::new().secret("s").env("X", "1").force(),
        )
        .uv_pip_install("-e .")
        .uv_sync_with("project", UvSyncOptions::new().extra("x").workdir("/p"))
        .apt_install("git")
        .add_local_file("app.py", "/between", Strategy::Mount)
        .run_commands(["x", "y"])
        .add_local_file("app.py", "/app.py", LocalOptions::copy().mode(0o600))
        .add_local_dir("src", "/src", Strategy::Copy)
        .dockerfile_commands_with(["COPY app.py /a", "EXPOSE 80"], ".", StepOptions::new())
        .add_local_file("app.py", "/last", Strategy::Mount);
        for image in [
            full,
            Image::scratch(),
            Image::from_dockerfile_path("Dockerfile", DockerfileOptions::new()),
        ] {
            let spec = spec_of(&image);
            let again = Image::from_spec(&spec)
                .resolve(&MemoryFiles::new())
                .unwrap();
            assert_eq!(again.spec, spec);
            assert!(again.uploads.is_empty());
        }
    }

    #[test]
    fn can_be_extended() {
        let spec = spec_of(
            &Image::scratch()
                .env([("A", "1"), ("B", "1")])
                .run_commands("a"),
        );
        let image = Image::from_spec(&spec).run_commands("b").env([("A", "2")]);
        let expect = Image::scratch()
            .env([("B", "1"), ("A", "2")])
            .run_commands(["a", "b"]);
        assert_eq!(spec_of(&image), spec_of(&expect));
    }
}
