//! What can be wrong with a declaration, and where.

use std::fmt;

/// Something wrong with a declaration: what, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Stable word for programs.
    pub code: ErrorCode,
    /// File that was read, when one was.
    pub file: Option<String>,
    /// Place in that file, when it was read as text.
    pub position: Option<Position>,
    /// Field: `steps[2].dest` in a document, `call 3: add_local_file.dest` in a chain of calls.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

/// A place in a text, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// Kinds of [`SpecError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The text is no TOML or no JSON.
    Syntax,
    /// A field that does not exist.
    UnknownField,
    /// A text where a list was expected, and the like.
    WrongType,
    /// A field that has to be there.
    Missing,
    /// Fields that exclude each other.
    Conflict,
    /// A text or list that must not be empty.
    Empty,
    /// A Python requirement.
    Requirement,
    /// A Debian package name.
    Package,
    /// A path in the image.
    Path,
    /// The name of an environment variable, a label or a secret.
    Name,
    /// A value that cannot stand where it stands.
    Value,
    /// An image reference or the name of an image.
    Reference,
    /// A digest.
    Digest,
    /// Too many or too long.
    Limit,
    /// A local file: absent, unreadable, not of the right kind.
    File,
    /// A Dockerfile or one of its instructions.
    Dockerfile,
}

impl ErrorCode {
    /// The word that programs compare.
    pub fn word(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::UnknownField => "unknown-field",
            Self::WrongType => "wrong-type",
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::Empty => "empty",
            Self::Requirement => "requirement",
            Self::Package => "package",
            Self::Path => "path",
            Self::Name => "name",
            Self::Value => "value",
            Self::Reference => "reference",
            Self::Digest => "digest",
            Self::Limit => "limit",
            Self::File => "file",
            Self::Dockerfile => "dockerfile",
        }
    }
}

impl fmt::Display for SpecError {
    /// `image.toml:3:7: step[0].run_commands: expected …; write …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() || self.position.is_some() {
            write!(f, " ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

/// Everything that is wrong with a chain of calls, in the order of the calls; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors(pub Vec<SpecError>);

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

impl From<SpecError> for SpecErrors {
    fn from(error: SpecError) -> Self {
        Self(vec![error])
    }
}

/// Something that is allowed and probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Field of the spec, such as `steps[2]`.
    pub path: String,
    /// What is odd.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        match self.hint.as_str() {
            "" => Ok(()),
            hint => write!(f, "; {hint}"),
        }
    }
}

/// One step from a document's root to the place of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Field(String),
    Index(usize),
}

/// A [`SpecError`] in the making: where it lies is added on the way up from the value. A fault is one
/// pointer, since nearly every function of this crate may return one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault(Box<Trouble>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    code: ErrorCode,
    message: String,
    hint: String,
    /// From the value up to the root.
    reversed_path: Vec<Segment>,
}

impl Fault {
    #[inline(always)]
    pub(crate) fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        Self::told(code, &message)
    }

    // Out of line, so that the many places that find a fault stay small.
    #[cold]
    #[inline(never)]
    fn told(code: ErrorCode, message: &dyn fmt::Display) -> Self {
        Self(Box::new(Trouble {
            code,
            message: message.to_string(),
            hint: String::new(),
            reversed_path: Vec::new(),
        }))
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

    pub(crate) fn code(&self) -> ErrorCode {
        self.0.code
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn in_field(mut self, name: &str) -> Self {
        self.0.reversed_path.push(Segment::Field(name.to_owned()));
        self
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn at_index(mut self, index: usize) -> Self {
        self.0.reversed_path.push(Segment::Index(index));
        self
    }

    /// The same fault, told from the field of that name, if it lies below it.
    pub(crate) fn below(mut self, name: &str) -> Self {
        let path = &mut self.0.reversed_path;
        if matches!(path.last(), Some(Segment::Field(field)) if field == name) {
            path.pop();
        }
        self
    }

    /// From the root to the value.
    pub(crate) fn path(&self) -> impl Iterator<Item = &Segment> {
        self.0.reversed_path.iter().rev()
    }

    pub(crate) fn into_error(self) -> SpecError {
        let mut path = String::new();
        for segment in self.path() {
            match segment {
                Segment::Index(index) => path.push_str(&format!("[{index}]")),
                Segment::Field(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
            }
        }
        SpecError {
            code: self.0.code,
            file: None,
            position: None,
            path: printable(&path),
            message: printable(&self.0.message),
            hint: printable(&self.0.hint),
        }
    }
}

/// A text that may quote what a file holds, fit for a terminal: control characters escaped, and the
/// middle left out of what is too long to read.
fn printable(text: &str) -> String {
    const EACH_END: usize = 400;
    let escape = |part: &str| {
        let mut out = String::with_capacity(part.len());
        for c in part.chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        out
    };
    let head = text.char_indices().nth(EACH_END);
    let tail = text.char_indices().nth_back(EACH_END - 1);
    match (head, tail) {
        (Some((head, _)), Some((tail, _))) if head < tail => {
            format!("{} … {}", escape(&text[..head]), escape(&text[tail..]))
        }
        _ => escape(text),
    }
}

/// Runs `read` on every item and says in which one a fault lies.
pub(crate) fn each<T, R>(
    items: impl IntoIterator<Item = T>,
    mut read: impl FnMut(T) -> Result<R, Fault>,
) -> Result<Vec<R>, Fault> {
    let item = |(i, item)| read(item).map_err(|fault| fault.at_index(i));
    items.into_iter().enumerate().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_fit_for_a_terminal() {
        let message = |text: &str| Fault::new(ErrorCode::Value, text).into_error().message;
        assert_eq!(message("é `\u{1b}[2J\n`"), "é `\\u{1b}[2J\\n`");
        let long = format!("{}middle{}", "ä".repeat(400), "ö".repeat(400));
        assert_eq!(
            message(&long),
            format!("{} … {}", "ä".repeat(400), "ö".repeat(400))
        );
        let fits = "ä".repeat(800);
        assert_eq!(message(&fits), fits);
    }

    #[test]
    fn a_path_is_told_from_the_root() {
        let fault = Fault::new(ErrorCode::Value, "wrong").in_field("dest");
        let error = fault.at_index(2).in_field("steps").into_error();
        assert_eq!(error.to_string(), "steps[2].dest: wrong");
    }
}
