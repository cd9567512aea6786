//! Folders with a declaration and the files that it names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder that is gone with the value.
#[derive(Debug)]
pub struct Project {
    folder: TempDir,
}

impl Project {
    /// A folder with one file, `image.toml`.
    pub fn toml(text: &str) -> Self {
        Self::new(&[("image.toml", text)])
    }

    /// A folder with some files; parents are made.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let project = Self {
            folder: TempDir::new().expect("temporary directory"),
        };
        for (path, text) in files {
            project.write(path, text);
        }
        project
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Path of a file in it.
    pub fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Path of a file in it, as an argument.
    pub fn arg(&self, path: &str) -> String {
        self.file(path).display().to_string()
    }

    /// Writes a file, mode 0644.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.file(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("make the folder");
        fs::write(&path, text).expect("write the file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set its mode");
    }

    /// Sets the mode of a file.
    pub fn chmod(&self, path: &str, mode: u32) {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.file(path), permissions).expect("set its mode");
    }
}
