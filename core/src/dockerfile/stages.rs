//! A whole Dockerfile: which stages are needed, and what each means.

use super::canonical::{Canonicaliser, Origin, image};
use super::context::{Context, IgnoreError};
use super::error::{DockerfileError, DockerfileWarning, Fault, Problem};
use super::instruction::{self, Command, From};
use super::lines::{self, Statement};
use super::scope::{Scope, global_arguments, is_predefined, is_proxy};
use super::{Options, Parsed, ParsedInstructions};
use crate::Platform;
use crate::sorted::SortedMap;
use crate::spec::{Dockerfile, Stage, StageBase};

/// Most stages.
const STAGE_LIMIT: usize = 1000;

/// Name of a Dockerfile that came from no file.
const UNNAMED: &str = "Dockerfile";

/// A stage as written.
struct Draft {
    from: From,
    /// Index of the statement of its `FROM`.
    statement: usize,
    /// What `FROM` names, variables expanded.
    image: String,
    platform: Option<Platform>,
    /// An earlier stage.
    base: Option<usize>,
    /// Instructions with the index of their statement.
    commands: Vec<(usize, Command)>,
    /// Stages that its instructions read from.
    reads: Vec<usize>,
}

/// See [`super::parse`].
pub(super) fn parse(text: &str, options: &Options<'_>) -> Result<Parsed, DockerfileError> {
    let file = options.file.unwrap_or(UNNAMED);
    let script = lines::read(text, file)?;
    let mut commands = Vec::new();
    for statement in &script.statements {
        let command = instruction::parse(statement, script.escape)
            .map_err(|fault| statement.locate(fault, file))?;
        commands.push(command);
    }
    let mut warnings = warnings(&script, &commands, options);
    let (globals, mut drafts) = draft(&script.statements, commands, options, file)?;
    let target = find_target(&drafts, options, file, &script.statements)?;
    add_triggers(&mut drafts);
    let names = resolve_reads(&mut drafts, &script.statements, file)?;

    let needed = needed(&drafts, target);
    let context = open_context(options, file)?;
    let mut canonical = Canonicaliser::new(file, options.build_args, globals, context);
    // Of the needed stages so far.
    let mut scopes: Vec<Scope> = Vec::new();
    let mut stages = Vec::new();
    for &old in &needed {
        let draft = &drafts[old];
        let statement = &script.statements[draft.statement];
        let (base, mut scope) = match draft.base {
            Some(base) => {
                let base = place(&needed, base);
                let scope = scopes.get(base).map(Scope::next_stage).unwrap_or_default();
                (StageBase::Stage(base), scope)
            }
            None if draft.image == "scratch" => (StageBase::Scratch, Scope::scratch()),
            None => {
                let platform = draft.platform.clone().filter(|p| p != options.platform);
                let base =
                    image(&draft.image, platform).map_err(|fault| statement.locate(fault, file))?;
                (StageBase::Image(base), Scope::unknown())
            }
        };
        let resolve = |from: &str| origin(from, &names, old, &needed);
        let mut instructions = Vec::new();
        for (statement, command) in &draft.commands {
            let statement = &script.statements[*statement];
            instructions.push(canonical.instruction(statement, command, &mut scope, &resolve)?);
        }
        scopes.push(scope);
        stages.push(Stage { base, instructions });
    }
    warnings.append(&mut canonical.warnings);
    warnings.sort_by_key(|warning| warning.line);
    Ok(Parsed {
        dockerfile: Dockerfile { stages },
        uploads: canonical.uploads,
        warnings,
    })
}

/// See [`super::instructions`].
pub(super) fn instructions(
    text: &str,
    options: &Options<'_>,
) -> Result<ParsedInstructions, DockerfileError> {
    let file = options.file.unwrap_or(UNNAMED);
    let script = lines::read(text, file)?;
    let globals = global_arguments(options.platform, options.build_args, "default");
    let context = open_context(options, file)?;
    let mut canonical = Canonicaliser::new(file, options.build_args, globals, context);
    let mut scope = Scope::unknown();
    let mut instructions = Vec::new();
    let resolve = |from: &str| match image(from, None) {
        _ if from == "scratch" => Ok(Origin::Scratch),
        _ if from.parse::<usize>().is_ok() => Err(Fault::new(Problem::Stage(format!(
            "there is no stage {from}: an instruction on its own can only read from an image"
        )))
        .hint("use from_dockerfile for several stages")),
        image => image.map(Origin::Image),
    };
    for statement in &script.statements {
        let locate = |fault: Fault| statement.locate(fault, file);
        let command = instruction::parse(statement, script.escape).map_err(locate)?;
        if let Command::From(_) = command {
            return Err(locate(
                Fault::unsupported("FROM cannot stand in instructions that extend an image")
                    .hint("use from_dockerfile for a whole Dockerfile"),
            ));
        }
        instructions.push(canonical.instruction(statement, &command, &mut scope, &resolve)?);
    }
    if instructions.is_empty() {
        return Err(DockerfileError {
            file: file.to_owned(),
            line: 1,
            column: 1,
            problem: Problem::Syntax("expected at least one instruction".into()),
            hint: String::new(),
        });
    }
    Ok(ParsedInstructions {
        instructions,
        uploads: canonical.uploads,
        warnings: canonical.warnings,
    })
}

fn open_context<'a>(
    options: &Options<'a>,
    file: &str,
) -> Result<Option<Context<'a>>, DockerfileError> {
    let Some((source, root)) = options.context else {
        return Ok(None);
    };
    Context::open(source, root, options.file)
        .map(Some)
        .map_err(|error| {
            let (file, line, problem) = match error {
                IgnoreError::Source(error) => (file.to_owned(), 1, Problem::Source(error)),
                IgnoreError::Pattern { file, line, reason } => (
                    file,
                    u32::try_from(line).unwrap_or(1),
                    Problem::Syntax(reason),
                ),
            };
            DockerfileError {
                file,
                line,
                column: 1,
                problem,
                hint: String::new(),
            }
        })
}

/// Sorts the instructions into global arguments and stages.
fn draft(
    statements: &[Statement],
    commands: Vec<Command>,
    options: &Options<'_>,
    file: &str,
) -> Result<(Scope, Vec<Draft>), DockerfileError> {
    let last_name = commands.iter().rev().find_map(|command| match command {
        Command::From(from) => Some(from.name.clone()),
        _ => None,
    });
    let stage = options.target.map(str::to_owned).or(last_name.flatten());
    let stage = stage.unwrap_or_else(|| "default".to_owned());
    let mut globals = global_arguments(options.platform, options.build_args, &stage);
    let mut drafts: Vec<Draft> = Vec::new();
    for (at, command) in commands.into_iter().enumerate() {
        let locate = |fault: Fault| statements[at].locate(fault, file);
        match command {
            Command::From(from) => {
                if drafts.len() == STAGE_LIMIT {
                    let limit = format!("more than {STAGE_LIMIT} stages");
                    return Err(locate(Fault::new(Problem::Limit(limit))));
                }
                let draft = begin(from, at, &globals, &drafts).map_err(locate)?;
                drafts.push(draft);
            }
            Command::Arg(arguments) if drafts.is_empty() => {
                for (name, default) in arguments {
                    let given = options.build_args.get(&name).filter(|_| !is_proxy(&name));
                    let value = match (given, default) {
                        (Some(value), _) => Some(value.clone()),
                        (None, Some(default)) => globals.value(&default).map_err(locate)?,
                        (None, None) => None,
                    };
                    if value.is_some() {
                        globals.set(&name, value);
                    }
                }
            }
            command => match drafts.last_mut() {
                Some(draft) => draft.commands.push((at, command)),
                None => {
                    return Err(locate(
                        Fault::syntax("expected FROM: only ARG may stand before it")
                            .hint("start with a base image, such as `FROM debian:bookworm-slim`"),
                    ));
                }
            },
        }
    }
    if drafts.is_empty() {
        return Err(DockerfileError {
            file: file.to_owned(),
            line: 1,
            column: 1,
            problem: Problem::Syntax("expected FROM: the Dockerfile has no stage".into()),
            hint: "start with a base image, such as `FROM debian:bookworm-slim`".into(),
        });
    }
    Ok((globals, drafts))
}

/// Begins a stage.
fn begin(from: From, at: usize, globals: &Scope, drafts: &[Draft]) -> Result<Draft, Fault> {
    let image = globals.expand(&from.image)?.text;
    if image.is_empty() {
        return Err(Fault::new(Problem::Reference(format!(
            "`{}` names no image: it expands to nothing",
            from.image
        )))
        .hint("only ARG before the first FROM and build arguments count here; give it a default"));
    }
    let platform = match &from.platform {
        None => None,
        Some(word) => {
            let text = globals.expand(word)?.text;
            let platform = text
                .parse::<Platform>()
                .map_err(|e| Fault::flag(format_args!("--platform: {e}")))?;
            Some(platform)
        }
    };
    let name = image.to_ascii_lowercase();
    let base = drafts
        .iter()
        .rposition(|draft| draft.from.name.as_deref() == Some(name.as_str()));
    Ok(Draft {
        from,
        statement: at,
        image,
        platform,
        base,
        commands: Vec::new(),
        reads: Vec::new(),
    })
}

fn find_target(
    drafts: &[Draft],
    options: &Options<'_>,
    file: &str,
    statements: &[Statement],
) -> Result<usize, DockerfileError> {
    let Some(target) = options.target else {
        return Ok(drafts.len() - 1);
    };
    let name = target.to_ascii_lowercase();
    let named = drafts
        .iter()
        .rposition(|draft| draft.from.name.as_deref() == Some(name.as_str()));
    let numbered = || target.parse().ok().filter(|index| *index < drafts.len());
    named.or_else(numbered).ok_or_else(|| {
        let names: Vec<&str> = drafts
            .iter()
            .filter_map(|d| d.from.name.as_deref())
            .collect();
        let fault = Fault::new(Problem::Stage(format!(
            "there is no stage `{target}` to build"
        )));
        let fault = match names.is_empty() {
            true => fault.hint("no stage has a name: write `FROM … AS name`"),
            false => fault
                .hint(format_args!("the stages are {}", names.join(", ")))
                .near(&name, &names),
        };
        statements[drafts[0].statement].locate(fault, file)
    })
}

/// `ONBUILD` of a stage runs first in the stages that start from it.
fn add_triggers(drafts: &mut [Draft]) {
    for at in 0..drafts.len() {
        let Some(base) = drafts[at].base else {
            continue;
        };
        let triggers: Vec<(usize, Command)> = drafts[base]
            .commands
            .iter()
            .filter_map(|(statement, command)| match command {
                Command::Onbuild(inner) => Some((*statement, (**inner).clone())),
                _ => None,
            })
            .collect();
        drafts[at].commands.splice(0..0, triggers);
    }
}

/// Names and indices that `--from` can mean.
struct Names {
    by_name: SortedMap<usize>,
    count: usize,
}

/// Finds the stages that each stage reads from.
fn resolve_reads(
    drafts: &mut [Draft],
    statements: &[Statement],
    file: &str,
) -> Result<Names, DockerfileError> {
    let mut names = Names {
        by_name: SortedMap::default(),
        count: drafts.len(),
    };
    for (at, draft) in drafts.iter().enumerate() {
        if let Some(name) = &draft.from.name {
            *names.by_name.entry(name) = at;
        }
    }
    for (at, draft) in drafts.iter_mut().enumerate() {
        for (statement, command) in &draft.commands {
            let froms: Vec<(&str, bool)> = match command {
                Command::Copy(copying) => copying.from.iter().map(|f| (f.as_str(), true)).collect(),
                Command::Run(run) => {
                    let from = run.mounts.iter().filter_map(|mount| mount.from());
                    from.map(|from| (from, false)).collect()
                }
                _ => Vec::new(),
            };
            for (from, _) in froms {
                let stage = names
                    .find(from, at)
                    .map_err(|fault| statements[*statement].locate(fault, file))?;
                draft.reads.extend(stage);
            }
        }
    }
    Ok(names)
}

impl Names {
    /// The stage that `from` means to stage `at`; `None` for an image.
    fn find(&self, from: &str, at: usize) -> Result<Option<usize>, Fault> {
        if from.contains('$') {
            return Err(Fault::new(Problem::Stage(format!(
                "`{from}`: --from cannot have a variable"
            )))
            .hint("name a stage with `FROM … AS name` and use the variable there"));
        }
        let stage = match from.parse::<usize>() {
            Ok(index) if index < self.count => index,
            Ok(index) => {
                return Err(Fault::new(Problem::Stage(format!(
                    "there is no stage {index}: the stages are 0 to {}",
                    self.count - 1
                ))));
            }
            Err(_) => match self.by_name.get(&from.to_ascii_lowercase()) {
                Some(stage) => *stage,
                None => return Ok(None),
            },
        };
        if stage >= at {
            let what = if stage == at {
                "itself"
            } else {
                "one that comes later"
            };
            return Err(Fault::new(Problem::Stage(format!(
                "a stage cannot read from {what}: `{from}`"
            ))));
        }
        Ok(Some(stage))
    }
}

/// What `--from` names, for the canonical text.
fn origin(from: &str, names: &Names, at: usize, needed: &[usize]) -> Result<Origin, Fault> {
    match names.find(from, at)? {
        Some(stage) => Ok(Origin::Stage(place(needed, stage))),
        None if from == "scratch" => Ok(Origin::Scratch),
        None => {
            let known: Vec<&str> = names
                .by_name
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            image(from, None)
                .map(Origin::Image)
                .map_err(|fault| fault.near(from, &known))
        }
    }
}

/// Index in the result of a stage that is needed.
fn place(needed: &[usize], stage: usize) -> usize {
    needed.binary_search(&stage).unwrap_or_default()
}

/// The stages that `target` needs, in order.
fn needed(drafts: &[Draft], target: usize) -> Vec<usize> {
    let mut is_needed = vec![false; drafts.len()];
    is_needed[target] = true;
    // Stages only look back, so one pass from the end suffices.
    for at in (0..=target).rev() {
        if is_needed[at] {
            for &other in drafts[at].reads.iter().chain(&drafts[at].base) {
                is_needed[other] = true;
            }
        }
    }
    (0..drafts.len()).filter(|&at| is_needed[at]).collect()
}

fn warnings(
    script: &lines::Script,
    commands: &[Command],
    options: &Options<'_>,
) -> Vec<DockerfileWarning> {
    let mut warnings = Vec::new();
    if let Some((syntax, line)) = &script.syntax {
        let image = syntax.split([':', '@']).next().unwrap_or_default();
        let own = [
            "docker/dockerfile",
            "docker.io/docker/dockerfile",
            "docker/dockerfile-upstream",
        ];
        if !own.contains(&image) {
            warnings.push(DockerfileWarning {
                line: *line,
                message: format!("the syntax `{syntax}` is not known; read as a Dockerfile"),
            });
        }
    }
    for line in &script.empty_continuations {
        warnings.push(DockerfileWarning {
            line: *line,
            message: "an empty line continues the instruction; remove it".into(),
        });
    }
    let declared = |name: &str| {
        commands.iter().any(|command| match command {
            Command::Arg(arguments) => arguments.iter().any(|(declared, _)| declared == name),
            _ => false,
        })
    };
    for name in options.build_args.keys() {
        if !is_predefined(name) && !declared(name) {
            warnings.push(DockerfileWarning {
                line: 0,
                message: format!("the build argument `{name}` is not used: no ARG declares it"),
            });
        }
    }
    warnings
}
