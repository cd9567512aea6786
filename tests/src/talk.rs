//! A command that is spoken with while it runs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::command::{run, tool};
use crate::patience::{wait_for, wait_until};
use crate::world::{forget, spawn};

/// A command whose standard input is a pipe and whose output goes to files. Dropping it kills it.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    output: PathBuf,
    errors: PathBuf,
}

impl Talk {
    /// Starts a command; its output goes to `output`, its errors to a file beside it.
    #[track_caller]
    pub fn start(command: &mut Command, output: &Path) -> Self {
        let errors = output.with_extension("errors");
        let file = |path: &Path| File::create(path).expect("make a file for the output");
        command.stdin(Stdio::piped());
        command.stdout(file(output)).stderr(file(&errors));
        let mut child = spawn(command).expect("start the command");
        Self {
            input: child.stdin.take(),
            child,
            output: output.to_owned(),
            errors,
        }
    }

    /// The same in a terminal that `script` makes, 24 lines of 80 characters.
    #[track_caller]
    pub fn in_terminal(command: &Command, output: &Path) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let quoted: Vec<String> = words
            .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
            .collect();
        let line = format!("stty rows 24 cols 80; exec {}", quoted.join(" "));
        let mut script = tool("script", ["--quiet", "--return", "--command", &line]);
        script.arg("/dev/null");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        Self::start(script.env("TERM", "xterm"), output)
    }

    /// Writes to its standard input, or types into its terminal.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("not closed");
        input.write_all(text.as_bytes()).expect("it listens");
        input.flush().expect("it listens");
    }

    /// Ends its standard input.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Resizes the terminal that `script` made.
    #[track_caller]
    pub fn resize(&self, rows: u16, cols: u16) {
        let inside = format!("/proc/{0}/task/{0}/children", self.child.id());
        let inside = fs::read_to_string(inside).expect("children of script");
        let inside = inside.split_whitespace().next().expect("a child");
        let terminal = fs::read_link(format!("/proc/{inside}/fd/0")).expect("its terminal");
        let mut stty = tool("stty", ["-F"]);
        stty.arg(terminal);
        run(stty.args(["rows", &rows.to_string(), "cols", &cols.to_string()])).ok();
    }

    /// What it has said so far.
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.output).expect("the file of the output");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What it has said on standard error so far.
    pub fn errors(&self) -> String {
        let bytes = fs::read(&self.errors).expect("the file of the errors");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has said something on standard error.
    #[track_caller]
    pub fn wait_for_error(&self, words: &str) {
        let path = self.errors.display();
        wait_until(&format!("`{words}` in `{path}`"), || {
            self.errors().contains(words)
        });
    }

    /// Waits until it has said something.
    #[track_caller]
    pub fn wait_for(&self, words: &str) {
        wait_until(&format!("`{words}` in `{}`", self.output.display()), || {
            self.output().contains(words)
        });
    }

    /// Sends it a signal such as `-INT`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        run(&mut tool("kill", [signal, &self.child.id().to_string()])).ok();
    }

    /// Waits for its end; the exit code, if it ended by itself.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        let output = self.output.display().to_string();
        let status = wait_for(
            &format!("end of the command that writes to {output}"),
            || self.child.try_wait().expect("the child is ours"),
        );
        status.code()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {}\n{}--- errors\n{}---",
                self.output.display(),
                self.output(),
                self.errors()
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget(self.child.id());
    }
}
