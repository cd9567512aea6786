//! How sandboxes are called.

use chalk_core::wire::{Problem, problem};

use super::{Entry, Sandboxes, State};

/// The living sandbox of a project, or of any, that has a name.
fn holder<'a>(state: &'a State, project: Option<&str>, name: &str) -> Option<&'a str> {
    let has = |id: &&String| {
        let entry = state.entries.get(*id);
        entry.is_some_and(|entry| {
            entry.sandbox().name.as_deref() == Some(name)
                && project.is_none_or(|project| project == entry.project())
        })
    };
    state.living.iter().find(has).map(String::as_str)
}

/// Whether a name may be given.
///
/// # Errors
/// When a living sandbox of the project has it.
pub(super) fn free(state: &State, project: &str, name: Option<&str>) -> Result<(), Problem> {
    match name.and_then(|name| Some((name, holder(state, Some(project), name)?))) {
        None => Ok(()),
        Some((name, id)) => Err(Problem {
            kind: problem::NAME_TAKEN.to_owned(),
            title: "the name is taken".to_owned(),
            status: 409,
            detail: format!("sandbox `{id}` lives and is called `{name}`"),
            hint: "stop that one first, or take another name".to_owned(),
        }),
    }
}

impl Sandboxes {
    /// The whole identifier of the one that begins so, or of the living one of that name.
    ///
    /// # Errors
    /// When none or several do.
    pub(crate) fn find(&self, prefix: &str) -> Result<String, Problem> {
        self.find_of(None, prefix)
    }

    /// As [`find`](Self::find), of a project.
    pub(super) fn find_of(&self, project: Option<&str>, prefix: &str) -> Result<String, Problem> {
        let state = self.state();
        let of = |entry: &Entry| project.is_none_or(|project| project == entry.project());
        if state.entries.get(prefix).is_some_and(of) {
            return Ok(prefix.to_owned());
        }
        if let Some(id) = holder(&state, project, prefix) {
            return Ok(id.to_owned());
        }
        let from = state.entries.range(prefix.to_owned()..);
        let mut fitting = from
            .take_while(|(id, _)| id.starts_with(prefix))
            .filter(|(_, entry)| of(entry))
            .map(|(id, _)| id);
        let (kind, status, title, detail) = match (fitting.next(), fitting.next()) {
            (Some(id), None) => return Ok(id.clone()),
            (Some(_), Some(_)) => (
                problem::AMBIGUOUS,
                409,
                "several sandboxes fit",
                format!("`{prefix}` fits several sandboxes: give more of it"),
            ),
            (None, _) => (
                problem::NOT_FOUND,
                404,
                "no such sandbox",
                format!("there is no sandbox `{prefix}`"),
            ),
        };
        Err(Problem {
            kind: kind.to_owned(),
            title: title.to_owned(),
            status,
            detail,
            hint: "see `chalk compute sandbox ls --all`".to_owned(),
        })
    }
}
