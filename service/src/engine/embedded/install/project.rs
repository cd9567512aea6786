//! The files of a project that `uv_sync` begins with.

use chalk_core::Digest;
use chalk_core::lower::{Action, Copy, CopySource};
use chalk_core::spec::UvProject;

/// The directory and the files in it.
pub(in crate::engine) fn files(project: &UvProject, dir: &str, user: &str) -> Action {
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
