//! What can be wrong with a Dockerfile, and where.

use std::fmt;

use crate::source::SourceError;
use crate::spelling::nearest;

/// Something wrong with a Dockerfile: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileError {
    /// Name of the file as the caller gave it; `Dockerfile` when it gave none.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub problem: Problem,
    /// What to do; may be empty.
    pub hint: String,
}

/// Kinds of [`DockerfileError`], each with what is wrong and what was expected in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A text that the grammar refuses.
    #[error("{0}")]
    Syntax(String),
    /// The first word of a line is no instruction.
    #[error("unknown instruction `{0}`")]
    UnknownInstruction(String),
    /// A flag that does not exist, has a bad value, or stands twice.
    #[error("{0}")]
    Flag(String),
    /// A stage that does not exist, or not yet.
    #[error("{0}")]
    Stage(String),
    /// A variable that cannot be expanded.
    #[error("{0}")]
    Variable(String),
    /// What `FROM` or `--from` names is no image.
    #[error("{0}")]
    Reference(String),
    /// The context lacks what an instruction copies, or there is no context.
    #[error("{0}")]
    Context(String),
    /// A local file cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Valid, and not done here.
    #[error("{0}")]
    Unsupported(String),
    /// Too many or too long.
    #[error("{0}")]
    Limit(String),
}

impl fmt::Display for DockerfileError {
    /// `Dockerfile:3:1: unknown instruction `RUNN`; did you mean `RUN`?`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            problem,
            hint,
        } = self;
        write!(f, "{file}:{line}:{column}: {problem}")?;
        if hint.is_empty() {
            Ok(())
        } else {
            write!(f, "; {hint}")
        }
    }
}

impl std::error::Error for DockerfileError {}

/// Something that is allowed and probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileWarning {
    /// Line, from 1; 0 when it is about no line.
    pub line: u32,
    /// What is odd, and what to do.
    pub message: String,
}

/// An error in the making: where it lies in the instruction becomes a line and a column on the way
/// up. One pointer, since nearly every function here may return one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault(Box<Trouble>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) problem: Problem,
    pub(crate) hint: String,
    /// Offset in the joined text of the instruction, in bytes.
    pub(crate) offset: usize,
}

impl Fault {
    #[cold]
    #[inline(never)]
    pub(crate) fn new(problem: Problem) -> Self {
        Self(Box::new(Trouble {
            problem,
            hint: String::new(),
            offset: 0,
        }))
    }

    #[inline(always)]
    pub(crate) fn syntax(message: impl fmt::Display) -> Self {
        Self::told(Problem::Syntax, &message)
    }

    #[inline(always)]
    pub(crate) fn flag(message: impl fmt::Display) -> Self {
        Self::told(Problem::Flag, &message)
    }

    #[inline(always)]
    pub(crate) fn unsupported(message: impl fmt::Display) -> Self {
        Self::told(Problem::Unsupported, &message)
    }

    // Out of line, so that the many places that find a fault stay small.
    #[cold]
    #[inline(never)]
    fn told(problem: fn(String) -> Problem, message: &dyn fmt::Display) -> Self {
        Self::new(problem(message.to_string()))
    }

    #[inline(always)]
    pub(crate) fn hint(self, hint: impl fmt::Display) -> Self {
        self.advised(&hint)
    }

    #[cold]
    #[inline(never)]
    fn advised(mut self, hint: &dyn fmt::Display) -> Self {
        self.0.hint = hint.to_string();
        self
    }

    pub(crate) fn problem(&self) -> &Problem {
        &self.0.problem
    }

    pub(crate) fn offset(&self) -> usize {
        self.0.offset
    }

    /// What is wrong, and what to do.
    pub(crate) fn into_parts(self) -> (Problem, String) {
        (self.0.problem, self.0.hint)
    }

    /// `did you mean …?` when a candidate is near.
    pub(crate) fn near(self, word: &str, candidates: &[&str]) -> Self {
        match nearest(word, candidates) {
            Some(near) => self.hint(format_args!("did you mean `{near}`?")),
            None => self,
        }
    }

    pub(crate) fn at(mut self, offset: usize) -> Self {
        self.0.offset = offset;
        self
    }
}
