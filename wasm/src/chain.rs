//! Images by their calls.

use std::rc::Rc;

use chalk_core::Image;
use chalk_core::declaration::{Content, Declaration};
use chalk_core::image::Texts;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::errors::{self, ErrorDocument};
use crate::files::Files;
use crate::options;
use crate::resolved::Resolved;

/// An image by its calls. Every method gives a new one and throws what is wrong with its arguments.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Chain {
    image: Image,
    /// File that the declaration was read from, for errors.
    file: Option<Rc<str>>,
}

type Result<T> = std::result::Result<T, JsValue>;

impl Chain {
    fn of(image: Image, file: Option<Rc<str>>) -> Result<Self> {
        match image.fault() {
            Some(error) => Err(errors::one(error)),
            None => Ok(Self { image, file }),
        }
    }

    fn then(&self, image: Image) -> Result<Self> {
        Self::of(image, self.file.clone())
    }
}

#[wasm_bindgen]
impl Chain {
    /// `python:<version>-slim-bookworm`; 3.12 when not given.
    #[wasm_bindgen(js_name = debianSlim)]
    #[allow(clippy::needless_pass_by_value, reason = "JavaScript hands texts over")]
    pub fn debian_slim(version: Option<String>) -> Result<Self> {
        Self::of(Image::debian_slim(version.as_deref()), None)
    }

    /// Any image of an OCI registry; `scratch` is the empty one.
    pub fn base(reference: &str) -> Result<Self> {
        Self::of(Image::base(reference), None)
    }

    /// A whole Dockerfile by its text.
    #[wasm_bindgen(js_name = dockerfileText)]
    pub fn dockerfile_text(
        text: &str,
        #[wasm_bindgen(unchecked_param_type = "DockerfileOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options: options::DockerfileOptions = options::read(options)?;
        Self::of(Image::from_dockerfile_with(text, options.into()), None)
    }

    /// A Dockerfile that is read when the image is resolved.
    #[wasm_bindgen(js_name = dockerfilePath)]
    pub fn dockerfile_path(
        path: &str,
        #[wasm_bindgen(unchecked_param_type = "DockerfileOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options: options::DockerfileOptions = options::read(options)?;
        Self::of(Image::from_dockerfile_path(path, options.into()), None)
    }

    /// A declaration file: `image.toml`, spec JSON or a Dockerfile.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self> {
        let declaration = Declaration::read(file, bytes).map_err(errors::all)?;
        let image = match declaration.content() {
            Content::Image(image) => image.clone(),
            Content::Spec(spec) => Image::from_spec(spec),
        };
        Self::of(image, Some(file.into()))
    }

    /// Installs packages by `pip`, `uv` or `apt`.
    pub fn install(
        &self,
        installer: &str,
        packages: Vec<String>,
        #[wasm_bindgen(unchecked_param_type = "StepOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options: options::StepOptions = options::read(options)?;
        let options = options.into();
        self.then(match installer {
            "pip" => self.image.pip_install_with(packages, options),
            "uv" => self.image.uv_pip_install_with(packages, options),
            "apt" => self.image.apt_install_with(packages, options),
            other => return Err(unknown_installer(other)),
        })
    }

    /// Installs what a requirements file lists, by `pip` or `uv`.
    pub fn requirements(
        &self,
        installer: &str,
        path: &str,
        #[wasm_bindgen(unchecked_param_type = "StepOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options: options::StepOptions = options::read(options)?;
        let options = options.into();
        let image = &self.image;
        self.then(match installer {
            "pip" => image.pip_install_from_requirements_with(path, options),
            "uv" => image.uv_pip_install_from_requirements_with(path, options),
            other => return Err(unknown_installer(other)),
        })
    }

    /// Runs shell commands, each a step of its own.
    #[wasm_bindgen(js_name = runCommands)]
    pub fn run_commands(
        &self,
        commands: Vec<String>,
        #[wasm_bindgen(unchecked_param_type = "StepOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options: options::StepOptions = options::read(options)?;
        self.then(self.image.run_commands_with(commands, options.into()))
    }

    /// Carries out Dockerfile instructions, each a step of its own.
    #[wasm_bindgen(js_name = dockerfileCommands)]
    #[allow(clippy::needless_pass_by_value, reason = "JavaScript hands texts over")]
    pub fn dockerfile_commands(
        &self,
        instructions: Vec<String>,
        context: Option<String>,
        #[wasm_bindgen(unchecked_param_type = "StepOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options: options::StepOptions = options::read(options)?;
        let context = context.as_deref();
        let image = self
            .image
            .dockerfile_commands_with(instructions, context, options.into());
        self.then(image)
    }

    /// Mounts or copies a local file.
    #[wasm_bindgen(js_name = addFile)]
    pub fn add_file(
        &self,
        src: &str,
        dest: &str,
        #[wasm_bindgen(unchecked_param_type = "LocalOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options = options::read::<options::LocalOptions>(options)?.read()?;
        self.then(self.image.add_local_file(src, dest, options))
    }

    /// Mounts or copies what a local directory holds.
    #[wasm_bindgen(js_name = addDir)]
    pub fn add_dir(
        &self,
        src: &str,
        dest: &str,
        #[wasm_bindgen(unchecked_param_type = "LocalOptions | undefined")] options: JsValue,
    ) -> Result<Self> {
        let options = options::read::<options::LocalOptions>(options)?.read()?;
        self.then(self.image.add_local_dir(src, dest, options))
    }

    /// Working directory of every step and of the image.
    pub fn workdir(&self, path: &str) -> Result<Self> {
        self.then(self.image.workdir(path))
    }

    /// User of every step and of the image.
    pub fn user(&self, user: &str) -> Result<Self> {
        self.then(self.image.user(user))
    }

    /// Platform of the image.
    pub fn platform(&self, platform: &str) -> Result<Self> {
        self.then(self.image.platform(platform))
    }

    /// Name to file the image under.
    pub fn name(&self, name: &str) -> Result<Self> {
        self.then(self.image.name(name))
    }

    /// A label of the image.
    pub fn label(&self, name: &str, value: &str) -> Result<Self> {
        self.then(self.image.label(name, value))
    }

    /// Environment that every step and the image see.
    pub fn env(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Record<string, string>")] env: JsValue,
    ) -> Result<Self> {
        self.then(self.image.env(options::pairs(env)?))
    }

    /// Environment of the image that no step sees.
    #[wasm_bindgen(js_name = runtimeEnv)]
    pub fn runtime_env(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Record<string, string>")] env: JsValue,
    ) -> Result<Self> {
        self.then(self.image.runtime_env(options::pairs(env)?))
    }

    /// Entrypoint of the image.
    pub fn entrypoint(&self, arguments: Vec<String>) -> Result<Self> {
        self.then(self.image.entrypoint(arguments.into_texts()))
    }

    /// Command of the image.
    pub fn cmd(&self, arguments: Vec<String>) -> Result<Self> {
        self.then(self.image.cmd(arguments.into_texts()))
    }

    /// Number of calls, the constructor being the first.
    #[wasm_bindgen(getter)]
    pub fn length(&self) -> usize {
        self.image.length()
    }

    /// The image as an `image.toml`.
    #[wasm_bindgen(js_name = toToml)]
    pub fn to_toml(&self) -> Result<String> {
        self.image.to_toml().map_err(errors::all)
    }

    /// Resolves with what is known of local files; `undefined` when more has to be read, which
    /// `files.needs()` then names.
    pub fn resolve(&self, files: &Files) -> Result<Option<Resolved>> {
        let result = self.image.resolve(files.answers());
        if files.asked() {
            return Ok(None);
        }
        match result {
            Ok(resolved) => Ok(Some(Resolved::new(resolved))),
            Err(mut failed) => {
                for error in &mut failed.0 {
                    let name = || self.file.as_deref().map(str::to_owned);
                    error.file = error.file.take().or_else(name);
                }
                Err(errors::all(failed))
            }
        }
    }
}

fn unknown_installer(word: &str) -> JsValue {
    ErrorDocument::argument("installer", format!("`{word}` is no installer"))
}
