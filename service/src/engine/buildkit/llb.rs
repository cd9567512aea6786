//! Definitions of builds for BuildKit: operations that name their inputs by digest (`ops.proto`).

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;
use chalk_core::{Digest, Platform};
use pb::file_action::Action as FileAct;
use pb::op::Op as OpKind;
use prost::Message as _;

/// Input that is the empty image.
const SCRATCH: i64 = -1;
/// Output that nobody wants.
const SKIP: i64 = -1;
/// Key of the description that BuildKit shows in place of its own words.
const NAME: &str = "llb.customname";

/// What an operation gives: a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Output(String);

#[cfg(test)]
impl Output {
    /// Digest of the operation.
    fn digest(&self) -> &str {
        &self.0
    }
}

/// A root filesystem: what an operation gave, or the empty one.
pub(super) type State = Option<Output>;

/// Operations of one build.
#[derive(Debug)]
pub(super) struct Graph {
    platform: pb::Platform,
    ops: BTreeMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    inputs: BTreeSet<String>,
    bytes: Vec<u8>,
    metadata: pb::OpMetadata,
}

/// How an operation is shown and cached.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    /// One line, by which events are told apart.
    pub(super) name: String,
    /// Run even when BuildKit has the result.
    pub(super) anew: bool,
    /// Words for what not every BuildKit can do (`solver/pb/caps.go`), so that it refuses instead of
    /// leaving it out.
    pub(super) needs: Vec<&'static str>,
}

impl About {
    /// Shown as `name`.
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// A process to run.
#[derive(Debug, Clone, Default)]
pub(super) struct Exec {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: String,
    /// `user[:group]`; empty is root.
    pub(super) user: String,
    pub(super) network: Network,
    /// Proxies, which are no part of what the result is cached by.
    pub(super) proxies: Option<pb::ProxyEnv>,
    pub(super) mounts: Vec<Mount>,
    /// Secrets as variables: variable, name of the secret, whether it may be missing.
    pub(super) secret_env: Vec<(String, String, bool)>,
}

/// Which network a process has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Network {
    /// One of its own, which leads out.
    #[default]
    Sandbox,
    /// The builder's.
    Host,
    /// None.
    None,
}

/// Something mounted for the time of a process.
#[derive(Debug, Clone)]
pub(super) struct Mount {
    /// Absolute path in the root.
    pub(super) target: String,
    /// What is mounted.
    pub(super) source: MountSource,
}

/// What a [`Mount`] mounts.
#[derive(Debug, Clone)]
pub(super) enum MountSource {
    /// A path of a filesystem; what is written is thrown away.
    Files {
        state: State,
        path: String,
        read_only: bool,
    },
    /// A directory that outlives the process, begun as a path of a filesystem.
    Cache {
        id: String,
        sharing: pb::CacheSharingOpt,
        from: State,
        path: String,
        read_only: bool,
    },
    /// A file with the value of a secret.
    Secret {
        id: String,
        uid: u32,
        gid: u32,
        mode: u32,
        optional: bool,
    },
    /// Memory.
    Tmpfs { size: Option<u64> },
}

/// One change of files.
#[derive(Debug, Clone)]
pub(super) enum FileChange {
    /// Makes a directory and its parents.
    MakeDir {
        path: String,
        mode: u32,
        owner: (u32, u32),
    },
    /// Makes a file; its directory is there.
    MakeFile {
        path: String,
        mode: u32,
        contents: Vec<u8>,
    },
    /// Copies from a filesystem.
    Copy { from: State, copy: FileCopy },
}

/// A copy between filesystems.
#[derive(Debug, Clone, Default)]
pub(super) struct FileCopy {
    pub(super) src: String,
    pub(super) dest: String,
    /// Their own where `None`.
    pub(super) owner: Option<(u32, u32)>,
    /// Their own where `None`.
    pub(super) mode: Option<u32>,
    /// Whether `src` is a pattern.
    pub(super) wildcard: bool,
    /// Whether it may match nothing.
    pub(super) may_be_missing: bool,
    pub(super) unpack: bool,
    pub(super) make_dest: bool,
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
}

/// Inputs of an operation, each once.
#[derive(Default)]
struct Inputs(Vec<Output>);

impl Inputs {
    fn add(&mut self, state: &State) -> i64 {
        let Some(output) = state else {
            return SCRATCH;
        };
        let at = self.0.iter().position(|known| known == output);
        let at = at.unwrap_or_else(|| {
            self.0.push(output.clone());
            self.0.len() - 1
        });
        i64::try_from(at).unwrap_or(i64::MAX)
    }
}

impl Graph {
    /// A graph without operations, for a platform.
    pub(super) fn new(platform: &Platform) -> Self {
        Self {
            platform: pb::Platform {
                os: platform.os.clone(),
                architecture: platform.architecture.clone(),
                variant: platform.variant.clone().unwrap_or_default(),
                ..pb::Platform::default()
            },
            ops: BTreeMap::new(),
        }
    }

    /// An image by its full reference with digest.
    pub(super) fn image(&mut self, reference: &str, about: About) -> Output {
        let source = pb::SourceOp {
            identifier: format!("docker-image://{reference}"),
            ..pb::SourceOp::default()
        };
        self.add(Inputs::default(), OpKind::Source(source), about)
    }

    /// A tree that the session offers under this name.
    pub(super) fn local(&mut self, name: &str, session: &str) -> Output {
        let attrs = [
            ("local.session", session),
            // Keeps what the builder has of it apart from other trees.
            ("local.sharedkeyhint", name),
        ];
        let attrs = attrs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let source = pb::SourceOp {
            identifier: format!("local://{name}"),
            attrs: attrs.into(),
        };
        let about = About::new(format!("files {name}"));
        self.add(Inputs::default(), OpKind::Source(source), about)
    }

    /// Runs a process in a filesystem; gives what that is afterwards.
    pub(super) fn exec(&mut self, root: &State, exec: Exec, about: About) -> Output {
        let mut inputs = Inputs::default();
        let mut mounts = vec![pb::Mount {
            input: inputs.add(root),
            dest: "/".to_owned(),
            output: 0,
            ..pb::Mount::default()
        }];
        for mount in exec.mounts {
            mounts.push(mounted(mount, &mut inputs));
        }
        let network = match exec.network {
            Network::Sandbox => pb::NetMode::Unset,
            Network::Host => pb::NetMode::Host,
            Network::None => pb::NetMode::None,
        };
        let env = exec.env.into_iter();
        let op = pb::ExecOp {
            meta: Some(pb::Meta {
                args: exec.args,
                env: env.map(|(name, value)| format!("{name}={value}")).collect(),
                cwd: exec.cwd,
                user: exec.user,
                proxy_env: exec.proxies,
                ..pb::Meta::default()
            }),
            mounts,
            network: network as i32,
            security: pb::SecurityMode::Sandbox as i32,
            secretenv: exec
                .secret_env
                .into_iter()
                .map(|(name, id, optional)| pb::SecretEnv { id, name, optional })
                .collect(),
            ..pb::ExecOp::default()
        };
        self.add(inputs, OpKind::Exec(op), about)
    }

    /// Changes files of a filesystem, in order, in one layer.
    pub(super) fn files(&mut self, root: &State, changes: Vec<FileChange>, about: About) -> Output {
        let mut inputs = Inputs::default();
        let first = inputs.add(root);
        // All are known before the actions, which count on from them.
        let sources: Vec<i64> = changes
            .iter()
            .map(|change| match change {
                FileChange::Copy { from, .. } => inputs.add(from),
                _ => SKIP,
            })
            .collect();
        let count = i64::try_from(inputs.0.len()).unwrap_or(i64::MAX);
        let last = changes.len().saturating_sub(1);
        let mut actions = Vec::with_capacity(changes.len());
        for (at, (change, source)) in changes.into_iter().zip(sources).enumerate() {
            let before = i64::try_from(at).unwrap_or(i64::MAX) - 1;
            actions.push(pb::FileAction {
                input: if at == 0 { first } else { count + before },
                secondary_input: source,
                output: if at == last { 0 } else { SKIP },
                action: Some(action(change)),
            });
        }
        let op = OpKind::File(pb::FileOp { actions });
        self.add(inputs, op, about)
    }

    fn add(&mut self, inputs: Inputs, op: OpKind, about: About) -> Output {
        let input = |output: &Output| pb::Input {
            digest: output.0.clone(),
            index: 0,
        };
        let op = pb::Op {
            inputs: inputs.0.iter().map(input).collect(),
            platform: Some(self.platform.clone()),
            constraints: Some(pb::WorkerConstraints::default()),
            op: Some(op),
        };
        let bytes = op.encode_to_vec();
        let digest = Digest::of(&bytes).to_string();
        let metadata = pb::OpMetadata {
            ignore_cache: about.anew,
            description: BTreeMap::from([(NAME.to_owned(), about.name)]),
            caps: about
                .needs
                .iter()
                .map(|need| ((*need).to_owned(), true))
                .collect(),
            ..pb::OpMetadata::default()
        };
        let node = Node {
            inputs: inputs.0.into_iter().map(|output| output.0).collect(),
            bytes,
            metadata,
        };
        self.ops.entry(digest.clone()).or_insert(node);
        Output(digest)
    }

    /// What gives `output`, for a solve.
    pub(super) fn definition(&self, output: &Output) -> pb::Definition {
        let mut wanted = BTreeSet::new();
        let mut ahead = vec![output.0.clone()];
        while let Some(digest) = ahead.pop() {
            if let Some(node) = self.ops.get(&digest)
                && wanted.insert(digest)
            {
                ahead.extend(node.inputs.iter().cloned());
            }
        }
        let end = pb::Op {
            inputs: vec![pb::Input {
                digest: output.0.clone(),
                index: 0,
            }],
            ..pb::Op::default()
        };
        let mut definition = pb::Definition::default();
        for (digest, node) in &self.ops {
            if wanted.contains(digest) {
                definition.def.push(node.bytes.clone());
                definition
                    .metadata
                    .insert(digest.clone(), node.metadata.clone());
            }
        }
        definition.def.push(end.encode_to_vec());
        definition
    }
}

fn mounted(mount: Mount, inputs: &mut Inputs) -> pb::Mount {
    let plain = pb::Mount {
        input: SCRATCH,
        dest: mount.target,
        output: SKIP,
        ..pb::Mount::default()
    };
    match mount.source {
        MountSource::Files {
            state,
            path,
            read_only,
        } => pb::Mount {
            input: inputs.add(&state),
            selector: path,
            readonly: read_only,
            ..plain
        },
        MountSource::Cache {
            id,
            sharing,
            from,
            path,
            read_only,
        } => pb::Mount {
            input: inputs.add(&from),
            selector: path,
            readonly: read_only,
            mount_type: pb::MountType::Cache as i32,
            cache_opt: Some(pb::CacheOpt {
                id,
                sharing: sharing as i32,
            }),
            ..plain
        },
        MountSource::Secret {
            id,
            uid,
            gid,
            mode,
            optional,
        } => pb::Mount {
            mount_type: pb::MountType::Secret as i32,
            secret_opt: Some(pb::SecretOpt {
                id,
                uid,
                gid,
                mode,
                optional,
            }),
            ..plain
        },
        MountSource::Tmpfs { size } => pb::Mount {
            mount_type: pb::MountType::Tmpfs as i32,
            tmpfs_opt: size.map(|size| pb::TmpfsOpt {
                size: i64::try_from(size).unwrap_or(i64::MAX),
            }),
            ..plain
        },
    }
}

fn action(change: FileChange) -> FileAct {
    let bits = |mode: u32| i32::try_from(mode).unwrap_or(i32::MAX);
    match change {
        FileChange::MakeDir { path, mode, owner } => FileAct::Mkdir(pb::FileActionMkDir {
            path,
            mode: bits(mode),
            make_parents: true,
            owner: Some(chown(owner)),
            timestamp: -1,
        }),
        FileChange::MakeFile {
            path,
            mode,
            contents,
        } => FileAct::Mkfile(pb::FileActionMkFile {
            path,
            mode: bits(mode),
            data: contents,
            owner: None,
            timestamp: -1,
        }),
        FileChange::Copy { copy, .. } => FileAct::Copy(pb::FileActionCopy {
            src: copy.src,
            dest: copy.dest,
            owner: copy.owner.map(chown),
            mode: copy.mode.map_or(-1, bits),
            follow_symlink: true,
            dir_copy_contents: true,
            attempt_unpack_docker_compatibility: copy.unpack,
            create_dest_path: copy.make_dest,
            allow_wildcard: copy.wildcard,
            allow_empty_wildcard: copy.may_be_missing,
            timestamp: -1,
            include_patterns: copy.include,
            exclude_patterns: copy.exclude,
            ..pb::FileActionCopy::default()
        }),
    }
}

fn chown((uid, gid): (u32, u32)) -> pb::ChownOpt {
    let by_id = |id| {
        Some(pb::UserOpt {
            user: Some(pb::user_opt::User::ById(id)),
        })
    };
    pb::ChownOpt {
        user: by_id(uid),
        group: by_id(gid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        Graph::new(&"linux/amd64".parse().unwrap())
    }

    fn ops(definition: &pb::Definition) -> BTreeMap<String, pb::Op> {
        let decode = |bytes: &Vec<u8>| {
            let op = pb::Op::decode(bytes.as_slice()).unwrap();
            (Digest::of(bytes).to_string(), op)
        };
        definition.def.iter().map(decode).collect()
    }

    #[test]
    fn a_definition_holds_what_its_result_needs_and_ends_with_it() {
        let mut graph = graph();
        let base = graph.image("r/base@sha256:1", About::new("base"));
        let unused = graph.image("r/unused@sha256:2", About::new("unused"));
        let exec = Exec {
            args: vec!["true".into()],
            ..Exec::default()
        };
        let about = About::new("run");
        let run = graph.exec(&Some(base.clone()), exec, about);
        let definition = graph.definition(&run);
        let ops = ops(&definition);
        assert_eq!(ops.len(), 3);
        assert!(ops.contains_key(base.digest()) && !ops.contains_key(unused.digest()));
        let last = pb::Op::decode(definition.def.last().unwrap().as_slice()).unwrap();
        assert_eq!(last.inputs[0].digest, run.digest());
        assert!(last.op.is_none());
        assert_eq!(definition.metadata[run.digest()].description[NAME], "run");
    }

    #[test]
    fn file_changes_follow_each_other_in_one_operation() {
        let mut graph = graph();
        let base = Some(graph.image("r/base@sha256:1", About::default()));
        let local = Some(graph.local("tree", "session"));
        let copy = |src: &str| FileChange::Copy {
            from: local.clone(),
            copy: FileCopy {
                src: src.into(),
                ..FileCopy::default()
            },
        };
        let made = graph.files(
            &base,
            vec![copy("a"), copy("b"), copy("c")],
            About::default(),
        );
        let op = &ops(&graph.definition(&made))[made.digest()];
        assert_eq!(op.inputs.len(), 2);
        let Some(OpKind::File(file)) = &op.op else {
            panic!("{op:?}");
        };
        let wiring =
            |action: &pb::FileAction| (action.input, action.secondary_input, action.output);
        let wiring: Vec<_> = file.actions.iter().map(wiring).collect();
        assert_eq!(wiring, [(0, 1, -1), (2, 1, -1), (3, 1, 0)]);
    }

    #[test]
    fn the_empty_image_is_no_input() {
        let mut graph = graph();
        let file = FileChange::MakeFile {
            path: "/a".into(),
            mode: 0o644,
            contents: b"a".to_vec(),
        };
        let made = graph.files(&None, vec![file], About::default());
        let op = &ops(&graph.definition(&made))[made.digest()];
        assert!(op.inputs.is_empty());
        let Some(OpKind::File(file)) = &op.op else {
            panic!("{op:?}");
        };
        assert_eq!(file.actions[0].input, SCRATCH);
    }
}
