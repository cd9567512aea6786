//! What is built, said twice: as `image.toml` for ours, as a Dockerfile for the peers.

use std::fmt::Write as _;

use chalk_tests::Project;

/// The folder beside a declaration that it copies in.
pub(crate) const DATA: &str = "data";

/// A declaration like the one of `examples/quickstart`.
#[derive(Clone)]
pub(crate) struct Declaration {
    base: String,
    packages: Vec<String>,
    commands: Vec<String>,
    /// Whether the folder [`DATA`] beside the declaration is copied to `/data`.
    copies: bool,
}

impl Declaration {
    /// The quickstart on a base.
    pub(crate) fn quickstart(base: &str) -> Self {
        let packages = ["requests", "pandas>=2.0"].map(str::to_owned).into();
        let commands = vec!["apt-get update && apt-get install -y git curl".to_owned()];
        Self {
            packages,
            commands,
            ..Self::bare(base)
        }
    }

    /// Nothing but a base.
    pub(crate) fn bare(base: &str) -> Self {
        Self {
            base: base.to_owned(),
            packages: Vec::new(),
            commands: Vec::new(),
            copies: false,
        }
    }

    /// With another package.
    pub(crate) fn package(mut self, name: &str) -> Self {
        self.packages.push(name.to_owned());
        self
    }

    /// With the last command changed so that it does something more.
    pub(crate) fn last_command(mut self, more: &str) -> Self {
        if let Some(last) = self.commands.last_mut() {
            let _ = write!(last, " && {more}");
        }
        self
    }

    /// With another command.
    pub(crate) fn command(mut self, command: &str) -> Self {
        self.commands.push(command.to_owned());
        self
    }

    /// With the folder [`DATA`] copied to `/data`.
    pub(crate) fn copy(mut self) -> Self {
        self.copies = true;
        self
    }

    /// The bundle of certificate authorities of this machine.
    pub(crate) fn authorities() -> String {
        let named = std::env::var("SSL_CERT_FILE").ok();
        named.unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".to_owned())
    }

    /// A folder with both files.
    pub(crate) fn project(&self) -> Project {
        Project::new(&[
            ("image.toml", &self.toml()),
            ("Dockerfile", &self.dockerfile()),
        ])
    }

    fn toml(&self) -> String {
        let mut text = format!(
            "[image]\nbase = {:?}\nworkdir = \"/app\"\nenv = {{ PROJECT_ROOT = \"/app\" }}\n",
            self.base
        );
        if !self.packages.is_empty() {
            let _ = writeln!(text, "[[step]]\npip_install = {:?}", self.packages);
        }
        for command in &self.commands {
            let _ = writeln!(text, "[[step]]\nrun_commands = [{command:?}]");
        }
        if self.copies {
            let step = format!("{{ src = \"{DATA}\", dest = \"/data\", strategy = \"copy\" }}");
            let _ = writeln!(text, "[[step]]\nadd_local_dir = {step}");
        }
        text
    }

    /// The same as it is usually written by hand. What pip downloads is kept out of the layer, and it
    /// trusts whom this machine trusts.
    fn dockerfile(&self) -> String {
        let mut text = format!("FROM {}\nENV PROJECT_ROOT=/app\nWORKDIR /app\n", self.base);
        if !self.packages.is_empty() {
            let words: Vec<String> = self.packages.iter().map(|p| format!("{p:?}")).collect();
            let _ = writeln!(
                text,
                "RUN --mount=type=secret,id=ca PIP_CERT=/run/secrets/ca pip install --no-cache-dir {}",
                words.join(" ")
            );
        }
        for command in &self.commands {
            let _ = writeln!(text, "RUN {command}");
        }
        if self.copies {
            let _ = writeln!(text, "COPY {DATA} /data");
        }
        text
    }
}
