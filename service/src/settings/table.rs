//! The list of all settings.

use serde_json::Value;

use super::Settings;

/// One setting: a row of `chalk config show` and of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Where it stands in [`Settings`] and in the TOML file: `build.parallel`.
    pub path: &'static str,
    /// How its text is read.
    pub kind: Kind,
    /// One sentence for people.
    pub doc: &'static str,
}

/// How the text of a setting is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path of the file system.
    Path,
    /// A whole number.
    Count,
    /// Bytes: `64 MiB`, or a plain number.
    Size,
    /// A length of time: `90s`, `1h 30m`.
    Time,
    /// One of some words.
    Word(&'static [&'static str]),
    /// `host:port`.
    Address,
    /// Texts, separated by commas.
    List,
    /// Origins of web pages, separated by commas.
    Origins,
    /// `key=value` pairs, separated by commas; the values of one key by blanks.
    Map,
    /// `key=value` pairs, separated by commas.
    Pairs,
    /// `true` or `false`.
    Switch,
    /// Processor cores: `2`, `0.5`.
    Cpus,
}

impl Kind {
    /// What to write, for error messages.
    pub fn expected(self) -> String {
        match self {
            Self::Text => "a text".into(),
            Self::Path => "a path".into(),
            Self::Count => "a whole number".into(),
            Self::Size => "a size such as `64 MiB`".into(),
            Self::Time => "a length of time such as `90s` or `1h 30m`".into(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Address => "an address such as `127.0.0.1:7474`".into(),
            Self::List => "texts separated by commas".into(),
            Self::Origins => {
                "origins such as `https://page.example`, separated by commas, or `*`".into()
            }
            Self::Map => {
                "pairs such as `docker.io=https://mirror.example`, separated by commas".into()
            }
            Self::Pairs => "pairs such as `gpu=a100`, separated by commas".into(),
            Self::Switch => "true or false".into(),
            Self::Cpus => "a number of cores such as `1.5`, at least 0.01".into(),
        }
    }
}

impl Setting {
    /// The environment variable that sets it: `CHALK_BUILD_PARALLEL`.
    pub fn env(&self) -> String {
        format!("CHALK_{}", self.path.to_uppercase().replace('.', "_"))
    }

    /// Its default as text, of what [`defaults`] gives; empty when it is unset by default.
    pub(super) fn default(&self, defaults: &Value) -> String {
        show(at(defaults, self.path))
    }
}

/// The default settings as a document.
pub(super) fn defaults() -> Value {
    serde_json::to_value(Settings::default()).unwrap_or_default()
}

/// The setting at `path`.
pub fn find(path: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.path == path)
}

/// The value at a dotted path of a document; null when there is none.
pub(super) fn at<'a>(document: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(document, |value, key| &value[key])
}

/// A value in the form in which it may be given as text.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(","),
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| {
                format!("{key}={}", show(value).replace(',', " "))
            };
            map.iter().map(pair).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

const fn setting(path: &'static str, kind: Kind, doc: &'static str) -> Setting {
    Setting { path, kind, doc }
}

/// Every setting, by section.
pub const TABLE: &[Setting] = &[
    setting(
        "state.dir",
        Kind::Path,
        "Directory of blobs, database, build logs and token.",
    ),
    setting(
        "serve.listen",
        Kind::Address,
        "Address to listen on; port 0 takes a free one.",
    ),
    setting(
        "serve.advertise",
        Kind::Text,
        "host[:port] that clients and container engines reach the service under; unset, the address listened on.",
    ),
    setting(
        "serve.hosts",
        Kind::List,
        "Further Host names that requests may carry.",
    ),
    setting(
        "serve.cors_origins",
        Kind::Origins,
        "Origins of web pages that may talk to the service besides its own page.",
    ),
    setting(
        "serve.tls_cert",
        Kind::Path,
        "PEM file of the certificate for TLS on the same port; plain connections are then for this host alone.",
    ),
    setting(
        "serve.tls_key",
        Kind::Path,
        "PEM file of the certificate's private key.",
    ),
    setting(
        "serve.access_ttl",
        Kind::Time,
        "How long an access token of Chalk's own SDK lasts at most; the SDK does not renew it.",
    ),
    setting(
        "serve.stop_timeout",
        Kind::Time,
        "Longest that a stopping service waits for open connections, and for builds that it broke off to clean up.",
    ),
    setting(
        "serve.node",
        Kind::Switch,
        "Whether a node runs inside the process of the service.",
    ),
    setting(
        "web.dir",
        Kind::Path,
        "Folder of a built page to serve at `/`; unset, the page of the program.",
    ),
    setting(
        "build.engine",
        Kind::Word(&["embedded", "buildkit"]),
        "What carries builds out: the service itself, or builders of BuildKit.",
    ),
    setting(
        "build.buildkit.addresses",
        Kind::List,
        "Builders: unix:///path, tcp://host:port, or docker:///path for the BuildKit of a Docker Engine.",
    ),
    setting(
        "build.buildkit.ca",
        Kind::Path,
        "PEM file of the authority of builders reached by TCP, which then speak TLS.",
    ),
    setting(
        "build.buildkit.cert",
        Kind::Path,
        "PEM file of the certificate by which the service shows itself to builders.",
    ),
    setting(
        "build.buildkit.key",
        Kind::Path,
        "PEM file of that certificate's private key.",
    ),
    setting(
        "build.buildkit.registry",
        Kind::Text,
        "host[:port][/prefix] under which builders reach the registry of built images; unset, the same as for others.",
    ),
    setting(
        "build.buildkit.network",
        Kind::Word(&["sandbox", "host"]),
        "Network of steps on builders; host needs their consent (entitlement network.host).",
    ),
    setting(
        "build.buildkit.share_cache",
        Kind::Switch,
        "Whether builders keep what they cache in the registry, too, for each other; a Docker Engine cannot.",
    ),
    setting(
        "build.ca_bundle",
        Kind::Path,
        "PEM file of certificate authorities that steps trust; unset, the file that SSL_CERT_FILE names.",
    ),
    setting(
        "build.proxies.http",
        Kind::Text,
        "HTTP_PROXY of steps; unset, the service's own.",
    ),
    setting(
        "build.proxies.https",
        Kind::Text,
        "HTTPS_PROXY of steps; unset, the service's own.",
    ),
    setting(
        "build.proxies.no",
        Kind::Text,
        "NO_PROXY of steps; unset, the service's own.",
    ),
    setting(
        "build.installer",
        Kind::Word(&["uv", "pip"]),
        "What carries out pip_install: uv where it can do what is asked, or always pip.",
    ),
    setting(
        "build.compression",
        Kind::Word(&super::Compression::WORDS),
        "Compression of new layers.",
    ),
    setting("build.parallel", Kind::Count, "Builds that run at once."),
    setting(
        "build.queue_limit",
        Kind::Count,
        "Builds that may wait for a place.",
    ),
    setting(
        "build.step_timeout",
        Kind::Time,
        "Longest that one step may run.",
    ),
    setting(
        "build.memory",
        Kind::Size,
        "Memory that the processes of one step may use; unset, three quarters of the machine's.",
    ),
    setting(
        "build.pids",
        Kind::Count,
        "Processes and threads of one step; unset, 16384.",
    ),
    setting(
        "build.cpus",
        Kind::Cpus,
        "Processor cores that one step may use; unset, all.",
    ),
    setting(
        "build.log_limit",
        Kind::Size,
        "Output that is kept of one build; the rest is dropped with a notice.",
    ),
    setting(
        "build.keep",
        Kind::Count,
        "Finished builds whose records and logs are kept.",
    ),
    setting(
        "build.disconnect_grace",
        Kind::Time,
        "How long a build that is to end with its clients waits for one to come back.",
    ),
    setting(
        "registry.url",
        Kind::Text,
        "host[:port] of an external registry for built images, or the URL of its API, ending with /v2; unset, the embedded one.",
    ),
    setting(
        "registry.prefix",
        Kind::Text,
        "Path in front of every repository in the external registry.",
    ),
    setting(
        "registry.username",
        Kind::Text,
        "User name at the external registry; unset, the login of the credentials file.",
    ),
    setting(
        "registry.password_file",
        Kind::Path,
        "File with that user's password.",
    ),
    setting(
        "registry.client_cert",
        Kind::Path,
        "PEM file of the certificate that the service proves itself by to the external registry.",
    ),
    setting(
        "registry.client_key",
        Kind::Path,
        "PEM file of its private key.",
    ),
    setting(
        "registry.mirrors",
        Kind::Map,
        "Registry to the mirrors that are asked before it.",
    ),
    setting(
        "registry.insecure",
        Kind::List,
        "Registries that may be spoken to over plain HTTP or with an unknown certificate.",
    ),
    setting(
        "registry.ca_bundle",
        Kind::Path,
        "PEM file of certificate authorities for registries besides the system's.",
    ),
    setting(
        "registry.credentials",
        Kind::Path,
        "Docker's credentials file; unset, ~/.docker/config.json.",
    ),
    setting(
        "registry.s3.bucket",
        Kind::Text,
        "Bucket that the embedded registry lies in; unset, it lies in the state directory.",
    ),
    setting(
        "registry.s3.prefix",
        Kind::Text,
        "What all keys in the bucket begin with.",
    ),
    setting(
        "registry.s3.endpoint",
        Kind::Text,
        "URL of an S3-compatible store; unset, that of Amazon S3.",
    ),
    setting(
        "registry.s3.region",
        Kind::Text,
        "Region of the bucket; unset, AWS_REGION or us-east-1.",
    ),
    setting(
        "registry.s3.credentials",
        Kind::Path,
        "AWS credentials file; unset, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else what the cloud gives.",
    ),
    setting(
        "regions.home",
        Kind::Text,
        "Region of the service's own registry, which every region without one of its own uses.",
    ),
    setting(
        "regions.registries",
        Kind::Pairs,
        "Region to its registry, host[:port][/prefix]; images are copied there before its nodes pull them.",
    ),
    setting(
        "nodes.heartbeat",
        Kind::Time,
        "How often a connected node says that it lives.",
    ),
    setting(
        "nodes.lost_after",
        Kind::Time,
        "Silence after which a node counts as lost.",
    ),
    setting(
        "warm.registry_pulls",
        Kind::Count,
        "Nodes that pull one image from one region's registry at once; others wait, or pull from nodes.",
    ),
    setting(
        "warm.chain",
        Kind::Count,
        "Nodes that pull an image from each other in a row.",
    ),
    setting(
        "warm.keep",
        Kind::Count,
        "Finished warms whose records are kept.",
    ),
    setting(
        "prewarm.images",
        Kind::List,
        "Images that every node keeps ready, until the API sets another list.",
    ),
    setting(
        "prewarm.interval",
        Kind::Time,
        "How often is looked whether tags of pre-warmed images moved.",
    ),
    setting(
        "secrets.files",
        Kind::Pairs,
        "Secret of builds to the service's file with its value.",
    ),
    setting(
        "secrets.env",
        Kind::Pairs,
        "Secret of builds to the service's environment variable with its value.",
    ),
    setting(
        "secrets.clients",
        Kind::Map,
        "Secret to the tokens, by name, that may use it besides the administrator's; unlisted, all that may build.",
    ),
    setting(
        "sandboxes.keep",
        Kind::Count,
        "Ended sandboxes whose records are kept.",
    ),
    setting(
        "sandboxes.disconnect_grace",
        Kind::Time,
        "How long a sandbox that is to end with its clients waits for one to come back.",
    ),
    setting(
        "metrics.listen",
        Kind::Address,
        "Address that serves /metrics of the service without a token, and nothing else; unset, none does.",
    ),
    setting(
        "log.format",
        Kind::Word(&super::LogFormat::WORDS),
        "Form of the log of service and node: text, or one JSON document a line.",
    ),
    setting(
        "trace.endpoint",
        Kind::Text,
        "Base URL of an OpenTelemetry collector (OTLP over HTTP); unset, that of OTEL_EXPORTER_OTLP_ENDPOINT, if any.",
    ),
    setting(
        "limits.request",
        Kind::Size,
        "Size of a JSON request, specs included.",
    ),
    setting("limits.blob", Kind::Size, "Size of one uploaded file."),
    setting("limits.import", Kind::Size, "Size of one imported archive."),
    setting(
        "limits.connections",
        Kind::Count,
        "Connections open at once; further ones wait.",
    ),
    setting(
        "limits.token_requests",
        Kind::Count,
        "Requests of one token in a second; any number when 0.",
    ),
    setting(
        "limits.failed_logins",
        Kind::Count,
        "Requests from one address with a wrong token in a minute; any number when 0.",
    ),
    setting(
        "limits.audit",
        Kind::Size,
        "What the audit log may take; the oldest entries go.",
    ),
    setting(
        "gc.interval",
        Kind::Time,
        "How often garbage is collected by itself; empty, never.",
    ),
    setting(
        "gc.grace",
        Kind::Time,
        "What was pushed, pulled or asked for within this time stays, whatever else says.",
    ),
    setting(
        "gc.age",
        Kind::Time,
        "Images, names and imports that nobody used for so long go; unset, none.",
    ),
    setting(
        "gc.size",
        Kind::Size,
        "Most that images take together, those used last kept; unset, any.",
    ),
    setting(
        "gc.keep",
        Kind::Count,
        "Newest tags of each name that stay, whatever their age and size.",
    ),
    setting(
        "gc.untagged_age",
        Kind::Time,
        "How long manifests of names that no tag points to stay after their last use.",
    ),
    setting(
        "gc.steps_age",
        Kind::Time,
        "Cached steps that no build used for so long go; empty, none.",
    ),
    setting(
        "gc.steps_size",
        Kind::Size,
        "Most that cached steps take together; unset, any.",
    ),
    setting(
        "gc.caches_age",
        Kind::Time,
        "Caches of the builder that no build used for so long go; empty, none.",
    ),
    setting(
        "gc.caches_size",
        Kind::Size,
        "Most that the caches of the builder take together; unset, any.",
    ),
    setting(
        "gc.builds_age",
        Kind::Time,
        "Records of builds that ended so long ago go; unset, none before build.keep says so.",
    ),
    setting(
        "node.name",
        Kind::Text,
        "Name of the node, unique within the service; unset, the name of the host.",
    ),
    setting(
        "node.region",
        Kind::Text,
        "Region of the node; unset, the service's home region.",
    ),
    setting(
        "node.labels",
        Kind::Pairs,
        "Labels by which warms and sandboxes choose nodes.",
    ),
    setting(
        "node.dir",
        Kind::Path,
        "Directory of all that the node keeps; unset, `node` in the state directory.",
    ),
    setting(
        "node.join_token_file",
        Kind::Path,
        "File with the token by which the node joins.",
    ),
    setting(
        "node.runtime",
        Kind::Word(&super::Runtime::WORDS),
        "What keeps the images: the node itself, which runs sandboxes from them, or a containerd.",
    ),
    setting(
        "node.containerd.address",
        Kind::Path,
        "Socket of the containerd.",
    ),
    setting(
        "node.containerd.namespace",
        Kind::Text,
        "Namespace of the images in containerd; the kubelet's is k8s.io, nerdctl's default.",
    ),
    setting(
        "node.containerd.snapshotter",
        Kind::Text,
        "Snapshotter of containerd that layers are unpacked into.",
    ),
    setting(
        "node.containerd.hosts_dir",
        Kind::Path,
        "Directory of containerd's hosts.toml files, whose mirrors and certificates count here, too.",
    ),
    setting(
        "node.cache_size",
        Kind::Size,
        "Most that layers and mounted files may take; never more than 80 % of the disk.",
    ),
    setting(
        "node.cache_form",
        Kind::Word(&super::CacheForm::WORDS),
        "Form of layers on the disk; auto takes EROFS where the kernel mounts it from files.",
    ),
    setting(
        "node.parallel",
        Kind::Count,
        "Layers that are fetched at once.",
    ),
    setting(
        "node.memory",
        Kind::Size,
        "Memory that pulls may take for buffers.",
    ),
    setting(
        "node.mirror_listen",
        Kind::Address,
        "Address to serve blobs to other nodes on; unset, the node serves none.",
    ),
    setting(
        "node.mirror_advertise",
        Kind::Text,
        "host[:port] or base URL under which other nodes reach that address.",
    ),
    setting(
        "node.mirror_size",
        Kind::Size,
        "Most that compressed blobs kept for other nodes may take.",
    ),
    setting(
        "node.registry_mirrors",
        Kind::Map,
        "Registry to the mirrors that the node asks before it.",
    ),
    setting(
        "node.insecure",
        Kind::List,
        "Registries that the node may speak to over plain HTTP or with an unknown certificate.",
    ),
    setting(
        "node.ca_bundle",
        Kind::Path,
        "PEM file of certificate authorities for service and registries besides the system's.",
    ),
    setting(
        "node.credentials",
        Kind::Path,
        "Docker's credentials file of the node; unset, ~/.docker/config.json.",
    ),
    setting(
        "node.metrics_listen",
        Kind::Address,
        "Address that serves /metrics of the node without a token; unset, none does.",
    ),
    setting(
        "node.sandbox_disk",
        Kind::Size,
        "Writable layer of a sandbox, unless it asks for another limit.",
    ),
    setting(
        "node.log_limit",
        Kind::Size,
        "Output that is kept of one process of a sandbox.",
    ),
    setting(
        "node.cdi_dirs",
        Kind::List,
        "Directories of CDI specs of devices.",
    ),
    setting(
        "node.stop_timeout",
        Kind::Time,
        "Longest that a node that ends waits for its sandboxes.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_settings_name_the_same() {
        fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
            match value {
                Value::Object(map) if find(path).is_none() => {
                    for (key, value) in map {
                        let dot = if path.is_empty() { "" } else { "." };
                        leaves(value, &format!("{path}{dot}{key}"), found);
                    }
                }
                _ => found.push(path.to_owned()),
            }
        }
        let mut fields = Vec::new();
        let defaults = serde_json::to_value(Settings::default()).unwrap();
        leaves(&defaults, "", &mut fields);
        let mut rows: Vec<_> = TABLE.iter().map(|s| s.path.to_owned()).collect();
        fields.sort();
        rows.sort();
        assert_eq!(fields, rows);
    }

    #[test]
    fn defaults_as_text() {
        let check = |path: &str, expect: &str| {
            let setting = find(path).unwrap();
            assert_eq!(setting.default(&defaults()), expect);
        };
        check("serve.listen", "127.0.0.1:7474");
        check("build.step_timeout", "1h");
        check("build.log_limit", "64.0 MiB");
        check("build.installer", "uv");
        check("registry.mirrors", "");
        check("build.ca_bundle", "");
        assert_eq!(
            find("build.ca_bundle").unwrap().env(),
            "CHALK_BUILD_CA_BUNDLE"
        );
    }
}
