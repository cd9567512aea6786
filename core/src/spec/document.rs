//! A spec as a JSON document, in the forms of `docs/hash-v1.md`.

use super::{
    Base, BaseImage, Dockerfile, Instruction, Mount, SCHEMA, Spec, Stage, StageBase, Step, StepKind,
};
use crate::jcs::Json;

/// Which document is made of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Spec JSON: everything.
    Full,
    /// What is hashed.
    Canonical,
    /// What is hashed when no base is pinned.
    Recipe,
}

impl Spec {
    pub(crate) fn document(&self, form: Form) -> Json<'_> {
        let mut fields = vec![
            ("schema", Json::text(SCHEMA)),
            ("platform", Json::text(self.platform.to_string())),
            ("base", self.base.document(form)),
        ];
        let optional_text = |text: &'_ Option<String>| text.as_deref().map(str::to_owned);
        if form == Form::Full
            && let Some(name) = optional_text(&self.name)
        {
            fields.push(("name", Json::text(name)));
        }
        put(&mut fields, "env", Json::text_map(&self.env));
        if let Some(workdir) = &self.workdir {
            fields.push(("workdir", Json::text(workdir)));
        }
        if let Some(user) = &self.user {
            fields.push(("user", Json::text(user)));
        }
        let steps = self.steps.iter().map(|step| step.document(form)).collect();
        put(&mut fields, "steps", Json::List(steps));
        put(
            &mut fields,
            "runtime_env",
            Json::text_map(&self.runtime_env),
        );
        put(&mut fields, "labels", Json::text_map(&self.labels));
        put(
            &mut fields,
            "entrypoint",
            Json::texts(self.entrypoint.iter().flatten()),
        );
        put(&mut fields, "cmd", Json::texts(self.cmd.iter().flatten()));
        if form == Form::Full {
            let mounts = self.mounts.iter().map(Mount::document).collect();
            put(&mut fields, "mounts", Json::List(mounts));
        }
        Json::Map(fields)
    }
}

/// Absent means absent: an empty list or map is left out.
fn put<'a>(fields: &mut Vec<(&'a str, Json<'a>)>, name: &'a str, value: Json<'a>) {
    if !value.is_empty() {
        fields.push((name, value));
    }
}

impl Base {
    fn document(&self, form: Form) -> Json<'_> {
        match self {
            Self::Scratch => Json::text("scratch"),
            Self::Image(image) => image.document(form),
            Self::Dockerfile(dockerfile) => {
                Json::Map(vec![("dockerfile", dockerfile.document(form))])
            }
        }
    }
}

impl BaseImage {
    pub(crate) fn document(&self, form: Form) -> Json<'_> {
        let mut fields = vec![("ref", Json::text(self.reference.to_string()))];
        match (form, &self.digest) {
            (Form::Canonical, Some(digest)) => return Json::digest(digest),
            (Form::Full, Some(digest)) => fields.push(("digest", Json::digest(digest))),
            _ => {}
        }
        // Which manifest a tag means depends on it; a digest already says which.
        if let Some(platform) = &self.platform {
            fields.push(("platform", Json::text(platform.to_string())));
        }
        Json::Map(fields)
    }
}

impl Dockerfile {
    fn document(&self, form: Form) -> Json<'_> {
        let stages = self.stages.iter().map(|s| s.document(form)).collect();
        Json::Map(vec![("stages", Json::List(stages))])
    }
}

impl Stage {
    fn document(&self, form: Form) -> Json<'_> {
        let mut fields = vec![("base", self.base.document(form))];
        let instruction = |i| Json::Map(Instruction::fields(i, form));
        let instructions = self.instructions.iter().map(instruction).collect();
        put(&mut fields, "instructions", Json::List(instructions));
        Json::Map(fields)
    }
}

impl StageBase {
    pub(crate) fn document(&self, form: Form) -> Json<'_> {
        match self {
            Self::Scratch => Json::text("scratch"),
            Self::Image(image) => image.document(form),
            // A Dockerfile has far fewer stages than 2^32: its text is limited.
            Self::Stage(index) => Json::Map(vec![(
                "stage",
                Json::Number(u32::try_from(*index).unwrap_or(u32::MAX)),
            )]),
        }
    }
}

impl Instruction {
    fn fields(&self, form: Form) -> Vec<(&str, Json<'_>)> {
        let mut fields = vec![("text", Json::text(&self.text))];
        if let Some(context) = &self.context {
            fields.push(("context", Json::digest(context)));
        }
        let images = self.images.iter().map(|i| i.document(form)).collect();
        put(&mut fields, "images", Json::List(images));
        fields
    }

    /// The canonical document of a `dockerfile` step with this instruction and no options.
    pub(crate) fn step_document(&self) -> Json<'_> {
        let mut fields = vec![("kind", Json::text("dockerfile"))];
        fields.extend(self.fields(Form::Canonical));
        Json::Map(fields)
    }
}

impl Step {
    pub(crate) fn document(&self, form: Form) -> Json<'_> {
        let mut fields = vec![("kind", Json::text(self.kind.word()))];
        match &self.kind {
            StepKind::PipInstall { packages }
            | StepKind::UvPipInstall { packages }
            | StepKind::AptInstall { packages } => {
                fields.push(("packages", Json::texts(packages)));
            }
            StepKind::UvSync(project) => fields.extend(project.document()),
            StepKind::Run { command } => fields.push(("command", Json::text(command))),
            StepKind::AddFile { dest, digest, mode } => {
                fields.push(("dest", Json::text(dest)));
                fields.push(("digest", Json::digest(digest)));
                fields.push(("mode", Json::text(format!("{mode:04o}"))));
            }
            StepKind::AddDir { dest, digest } => {
                fields.push(("dest", Json::text(dest)));
                fields.push(("digest", Json::digest(digest)));
            }
            StepKind::Dockerfile(instruction) => fields.extend(instruction.fields(form)),
        }
        put(&mut fields, "env", Json::text_map(&self.env));
        put(&mut fields, "secrets", Json::texts(&self.secrets));
        if form == Form::Full && self.force {
            fields.push(("force", Json::Bool(true)));
        }
        Json::Map(fields)
    }
}

impl Mount {
    fn document(&self) -> Json<'_> {
        let mut fields = vec![
            ("src", Json::text(&self.src)),
            ("dest", Json::text(&self.dest)),
        ];
        if self.dir {
            fields.push(("dir", Json::Bool(true)));
        }
        put(&mut fields, "exclude", Json::texts(&self.exclude));
        if self.after > 0 {
            let after = u32::try_from(self.after).unwrap_or(u32::MAX);
            fields.push(("after", Json::Number(after)));
        }
        Json::Map(fields)
    }
}
