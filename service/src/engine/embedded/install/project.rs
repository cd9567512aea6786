//! `uv_sync`: the two files of a project into its directory, and beside them the environment that
//! its lockfile describes.

use chalk_core::Digest;
use chalk_core::lower::{Action, Copy, CopySource, Install};
use chalk_core::spec::UvProject;

use super::{UV_DIR, bring_uv, bytecode, probe};
use crate::engine::embedded::run::{Call, Runner, StepError};

/// Carries a `uv_sync` out in the root of `runner`, for the project in the directory `dir` of it.
///
/// # Errors
/// When the base has no Python, the files cannot be written, or uv fails.
pub(super) async fn sync(
    runner: &mut Runner<'_>,
    install: &Install,
    project: &UvProject,
    dir: &str,
) -> Result<(), StepError> {
    let python = probe(runner, install).await?;
    runner
        .write_files(&files(project, dir, &install.user))
        .await?;
    // The lockfile counts as it is: what it does not list is not looked for. The project itself and
    // the members of its workspace have no sources here.
    let mut call = Call::new(
        install,
        [
            format!("{UV_DIR}/uv").as_str(),
            "sync",
            "--frozen",
            "--no-install-workspace",
        ],
    );
    let ours = bytecode::is_ours(&python, &[]);
    if !ours {
        call.args.push("--compile-bytecode".to_owned());
    }
    call.args.push(format!("--python={}", python.executable));
    let extras = project
        .extras
        .iter()
        .map(|extra| format!("--extra={extra}"));
    call.args.extend(extras);
    dir.clone_into(&mut call.cwd);
    let environment = UvProject::environment(dir);
    call.set("UV_PROJECT_ENVIRONMENT", &environment);
    // That of an earlier step, of which uv would say that it is not used.
    call.env.retain(|(name, _)| name != "VIRTUAL_ENV");
    let uv = runner.uv().await;
    let uv = uv.map_err(|why| StepError::failed(format!("uv is needed, but {why}")))?;
    bring_uv(runner, install, uv, &mut call).await?;
    runner.run(call).await?;
    match ours {
        true => {
            let python = format!("{environment}/bin/python");
            bytecode::compile(runner, install, &python).await
        }
        false => Ok(()),
    }
}

/// The directory and the files in it.
fn files(project: &UvProject, dir: &str, user: &str) -> Action {
    let copy = |name: &str, digest: Digest| {
        Action::Copy(Copy {
            from: CopySource::Blob {
                digest,
                mode: 0o644,
            },
            sources: vec![name.to_owned()],
            dest: format!("{}/{name}", dir.trim_end_matches('/')),
            chown: Some(user.to_owned()),
            chmod: None,
            parents: false,
            exclude: Vec::new(),
            unpack: false,
        })
    };
    Action::Sequence(vec![
        Action::MakeDir {
            path: dir.to_owned(),
            user: user.to_owned(),
        },
        copy("pyproject.toml", project.pyproject),
        copy("uv.lock", project.lock),
    ])
}
