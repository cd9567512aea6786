//! What the builder adds to a step for the time that it runs: name resolution, a CA bundle,
//! proxies. None of it enters a layer, a config or a key.
//!
//! The CA bundle is a read-only file at a path of its own, and variables point programs to it. It
//! is not mounted over `/etc/ssl/certs/ca-certificates.crt`: a step that installs or updates
//! `ca-certificates` renames its new file to that name, which fails with "device or resource
//! busy" on a mount point. What a step sets itself is left alone.

use std::path::{Path, PathBuf};

use chalk_sandbox::{Contents, Mount};

/// Directory in the root for the builder's own files. It is gone when the step has ended.
pub(in crate::engine) const PRIVATE_DIR: &str = "/run/chalk";

const CA_FILE: &str = "ca.pem";
const APT_CONF: &str = "apt.conf";
const WGET_CONF: &str = "wgetrc";

/// Variables that hold the path of a PEM file with all authorities that are trusted.
const CA_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "BUNDLE_SSL_CA_CERT",
];

/// The surroundings of all steps of a builder.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Surroundings {
    /// PEM file on the host.
    pub(in crate::engine) ca_bundle: Option<PathBuf>,
    /// Proxy variables, upper and lower case.
    pub(in crate::engine) proxies: Vec<(String, String)>,
}

impl Surroundings {
    /// Adds the variables to the environment of a step with network, and gives the mounts that
    /// go with them.
    ///
    /// # Errors
    /// When the CA bundle cannot be read; in words.
    pub(in crate::engine) fn apply(
        &self,
        env: &mut Vec<(String, String)>,
    ) -> Result<Vec<Mount>, String> {
        let mut mounts = name_resolution();
        env.extend(self.proxies_for(env));
        for (name, contents) in self.trust(env, PRIVATE_DIR)? {
            mounts.push(file(&format!("{PRIVATE_DIR}/{name}"), contents));
        }
        Ok(mounts)
    }

    /// The proxy variables for a step with this environment: one that sets one spelling of a proxy
    /// variable has decided on both.
    pub(in crate::engine) fn proxies_for(&self, env: &[(String, String)]) -> Vec<(String, String)> {
        let decided: Vec<String> = env.iter().map(|(n, _)| n.to_ascii_uppercase()).collect();
        let open = |name: &str| !decided.contains(&name.to_ascii_uppercase());
        let open = self.proxies.iter().filter(|(name, _)| open(name));
        open.cloned().collect()
    }

    /// Points programs to the CA bundle: sets variables that the step does not set, and gives the
    /// files that they name, which are to be in the directory `dir`.
    ///
    /// # Errors
    /// When the CA bundle cannot be read; in words.
    pub(in crate::engine) fn trust(
        &self,
        env: &mut Vec<(String, String)>,
        dir: &str,
    ) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
        let Some(bundle) = &self.ca_bundle else {
            return Ok(Vec::new());
        };
        let pem = std::fs::read(bundle).map_err(|e| {
            format!(
                "cannot read the CA bundle {} (setting `build.ca_bundle`): {e}",
                bundle.display()
            )
        })?;
        let path = |name: &str| format!("{dir}/{name}");
        let ca_file = path(CA_FILE);
        let mut files = vec![(CA_FILE, pem)];
        for name in CA_VARIABLES {
            set_unless_set(env, name, &ca_file);
        }
        // apt and wget know no variable for the bundle, but one for a configuration file.
        if set_unless_set(env, "APT_CONFIG", &path(APT_CONF)) {
            let conf = format!("Acquire::https::CaInfo \"{ca_file}\";\n");
            files.push((APT_CONF, conf.into_bytes()));
        }
        if set_unless_set(env, "WGETRC", &path(WGET_CONF)) {
            let conf = format!("ca_certificate = {ca_file}\n");
            files.push((WGET_CONF, conf.into_bytes()));
        }
        Ok(files)
    }
}

/// A read-only file that everybody may read.
pub(in crate::engine) fn file(target: &str, contents: Vec<u8>) -> Mount {
    Mount::File {
        contents: Contents(contents),
        target: target.into(),
        uid: 0,
        gid: 0,
        mode: 0o644,
    }
}

/// Sets a variable that the step does not set; whether it did.
fn set_unless_set(env: &mut Vec<(String, String)>, name: &str, value: &str) -> bool {
    if env.iter().any(|(set, _)| set == name) {
        return false;
    }
    env.push((name.to_owned(), value.to_owned()));
    true
}

/// The host's resolver configuration: steps share its network.
fn name_resolution() -> Vec<Mount> {
    ["/etc/resolv.conf", "/etc/hosts"]
        .into_iter()
        .filter_map(|path| Some(file(path, std::fs::read(Path::new(path)).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let found = env.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn adds_what_the_step_does_not_set() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("ca.pem");
        std::fs::write(&bundle, "PEM").unwrap();
        let around = Surroundings {
            ca_bundle: Some(bundle),
            proxies: vec![
                ("HTTPS_PROXY".into(), "http://p:1".into()),
                ("https_proxy".into(), "http://p:1".into()),
                ("NO_PROXY".into(), "x".into()),
                ("no_proxy".into(), "x".into()),
            ],
        };
        let mut env = vec![
            ("PIP_CERT".to_owned(), "/mine".to_owned()),
            ("APT_CONFIG".to_owned(), "/my.conf".to_owned()),
            ("no_proxy".to_owned(), "mine".to_owned()),
        ];
        let mounts = around.apply(&mut env).unwrap();
        let check =
            |name: &str, expect: Option<&str>| assert_eq!(get(&env, name), expect, "{name}");
        check("PIP_CERT", Some("/mine"));
        check("SSL_CERT_FILE", Some("/run/chalk/ca.pem"));
        check("GIT_SSL_CAINFO", Some("/run/chalk/ca.pem"));
        check("APT_CONFIG", Some("/my.conf"));
        check("HTTPS_PROXY", Some("http://p:1"));
        check("https_proxy", Some("http://p:1"));
        check("no_proxy", Some("mine"));
        check("NO_PROXY", None);
        let targets: Vec<&Path> = mounts.iter().map(Mount::target).collect();
        let has = |name: &str| targets.contains(&Path::new(PRIVATE_DIR).join(name).as_path());
        assert!(has(CA_FILE) && has(WGET_CONF));
        assert!(!has(APT_CONF));
    }

    #[test]
    fn an_unreadable_bundle_is_told() {
        let around = Surroundings {
            ca_bundle: Some("/nowhere/ca.pem".into()),
            proxies: Vec::new(),
        };
        let error = around.apply(&mut Vec::new()).unwrap_err();
        assert!(error.contains("/nowhere/ca.pem") && error.contains("build.ca_bundle"));
    }
}
