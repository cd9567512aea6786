//! What somebody who asks sees.

use std::sync::Arc;

use chalk_core::Digest;
use chalk_core::wire::DEFAULT_PROJECT;

use super::{Owner, Projects};
use crate::places::{InvalidName, Name};

/// The project that somebody acts in, and whether they see others, too.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    projects: Arc<Projects>,
    project: Arc<str>,
    all: bool,
}

impl Scope {
    /// Of an administrator: what they make belongs to `project`.
    pub(crate) fn all(projects: &Arc<Projects>, project: Arc<str>) -> Self {
        Self {
            projects: projects.clone(),
            project,
            all: true,
        }
    }

    /// Of a token of a project. As long as nobody counts there is nobody to keep things from.
    pub(crate) fn of(projects: &Arc<Projects>, project: Arc<str>) -> Self {
        Self {
            all: !projects.counts(),
            projects: projects.clone(),
            project,
        }
    }

    /// Project of what is made.
    pub(crate) fn project(&self) -> &Arc<str> {
        &self.project
    }

    /// All projects.
    pub(crate) fn projects(&self) -> &Arc<Projects> {
        &self.projects
    }

    /// Whether everything is seen.
    pub(crate) fn is_all(&self) -> bool {
        self.all
    }

    /// Whether what belongs to a project is seen.
    pub(crate) fn sees(&self, project: &str) -> bool {
        self.all || *self.project == *project
    }

    /// The project to look through; none for all.
    pub(crate) fn only(&self) -> Option<&str> {
        (!self.all).then_some(&*self.project)
    }

    /// Whether an image is seen.
    pub(crate) fn has_image(&self, hash: &Digest) -> bool {
        self.all || self.projects.has_image(&self.project, hash)
    }

    /// Whether a blob is seen.
    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.all || self.projects.has_blob(&self.project, digest)
    }

    /// Whether a repository of images with names, or of imported bases, is seen.
    pub(crate) fn reads(&self, repository: &str) -> bool {
        self.all
            || match self.projects.owner(repository) {
                Owner::Project(owner) => owner == self.project,
                Owner::Imports => true,
                Owner::Images | Owner::Service => false,
            }
    }

    /// Whether what belongs to the machines as a whole may be changed: their pre-warm list and caches.
    pub(crate) fn runs_machines(&self) -> bool {
        self.all || &*self.project == DEFAULT_PROJECT
    }

    /// The name that a text means here. In a project other than the default one all names begin with
    /// the project's, which may be left away.
    ///
    /// # Errors
    /// When it is no name, or one of another project.
    pub(crate) fn name(&self, text: &str) -> Result<Name, InvalidName> {
        let mut name: Name = text.parse()?;
        if self.all {
            return Ok(name);
        }
        match self.projects.owner(&name.repository) {
            Owner::Project(owner) if owner == self.project => Ok(name),
            _ if &*self.project == DEFAULT_PROJECT => Err(InvalidName::Reserved(text.to_owned())),
            _ => {
                name.repository = format!("{}/{}", self.project, name.repository);
                // It grew.
                name.to_string().parse()
            }
        }
    }
}
