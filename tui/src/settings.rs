//! Settings of this run: flags over environment over `--config FILE` over defaults.

use chalk_core::wire::exit;
use chalk_service::settings::{Draft, Origin, Row, Settings};

use crate::cli::Global;
use crate::error::Failure;

/// Keys of the settings file that are the command's own and not the service's.
const OWN: &[&str] = &["server", "token"];

/// Everything that this run goes by.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The service's settings.
    pub(crate) settings: Settings,
    /// Where they came from.
    draft: Draft,
    /// Address of a named service, and where that was named.
    pub(crate) server: Option<(String, Origin)>,
    /// Token for it, and where it came from.
    pub(crate) token: Option<(String, Origin)>,
}

impl Loaded {
    /// Reads all sources. `flags` are settings that have flags of their own: path, value and flag.
    ///
    /// # Errors
    /// With exit code 2 on the first setting that is wrong, with its place.
    pub(crate) fn load(
        global: &Global,
        flags: &[(&'static str, String, &'static str)],
    ) -> Result<Self, Failure> {
        let wrong = |e| Failure::usage("bad setting").why(e);
        let mut draft = Draft::new();
        let mut server = None;
        let mut token = None;
        if let Some(path) = &global.config {
            let file = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|e| Failure::usage(format!("cannot read {file}")).why(e))?;
            draft.toml(&text, &file, OWN).map_err(wrong)?;
            let table: toml::Table = toml::from_str(&text)
                .map_err(|e| Failure::usage(format!("cannot read {file}")).why(e))?;
            let own = |key: &str| match table.get(key) {
                None => Ok(None),
                Some(toml::Value::String(text)) => {
                    Ok(Some((text.clone(), Origin::File(file.clone()))))
                }
                Some(_) => Err(Failure::usage(format!("{file}: `{key}` must be text"))),
            };
            server = own("server")?;
            token = own("token")?;
        }
        draft
            .env(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
            .map_err(wrong)?;
        let variable = |name: &str| {
            let value = std::env::var(name).ok().filter(|v| !v.is_empty())?;
            Some((value, Origin::Env(name.to_owned())))
        };
        token = variable("CHALK_TOKEN").or(token);
        server = variable("CHALK_API_SERVER").or(server);
        for pair in &global.set {
            draft
                .set_pair(pair, Origin::Flag("--set".to_owned()))
                .map_err(wrong)?;
        }
        for (path, value, flag) in flags {
            draft
                .set(path, value, Origin::Flag((*flag).to_owned()))
                .map_err(wrong)?;
        }
        if let Some(state) = &global.state {
            let Some(state) = state.to_str() else {
                return Err(Failure::usage("--state is not UTF-8")
                    .why(state.display())
                    .hint("give a directory whose name is valid UTF-8"));
            };
            draft
                .set("state.dir", state, Origin::Flag("--state".to_owned()))
                .map_err(wrong)?;
        }
        if let Some(url) = &global.server {
            server = Some((url.clone(), Origin::Flag("--server".to_owned())));
        }
        Ok(Self {
            settings: draft.settings(),
            draft,
            server,
            token,
        })
    }

    /// Every setting of the service with its origin.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.draft.rows()
    }

    /// The settings of a service inside this command.
    pub(crate) fn embedded(&self) -> Settings {
        let mut settings = self.settings.clone();
        settings.serve.listen = Settings::embedded().serve.listen;
        // Whoever asks for one thing does not want five base images fetched beside it.
        settings.prewarm.images.clear();
        settings
    }

    /// The token for a named service, else what lies in the state directory.
    pub(crate) fn token_for_named(&self) -> Result<String, Failure> {
        if let Some((token, _)) = &self.token {
            return Ok(token.clone());
        }
        let path = self.settings.state.dir.join("token");
        std::fs::read_to_string(&path)
            .map(|t| t.trim().to_owned())
            .map_err(|e| {
                Failure::new(exit::UNREACHABLE, "no token for the service")
                    .why(format!("{}: {e}", path.display()))
                    .hint("set CHALK_TOKEN to the token of that service")
            })
    }
}
