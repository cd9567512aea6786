//! A build that is held between its steps, while something is done to what it needs.

use std::fs;

use chalk_tests::{Project, Service, Talk, World, run, tool, unique};

use crate::failures::{busybox, sleep_mark, wait_for_process};

/// A build of two steps, of which the second runs until it is let go on.
pub(crate) struct Held {
    mark: String,
    value: String,
    project: Project,
    talk: Talk,
}

impl Held {
    /// Begins it; `name` is for the file that takes its output.
    pub(crate) fn start(world: &World, service: &Service, name: &str) -> Self {
        let (mark, value) = (sleep_mark(), unique());
        let project = two_steps(&format!("sleep {mark}; echo {value} > /two"));
        let mut chalk = service.chalk();
        chalk = chalk.args(["compute", "image", "build", "--json", "--progress", "quiet"]);
        chalk = chalk.args([project.arg("image.toml")]);
        let output = world.folder(name).join("build");
        let talk = Talk::start(&mut chalk.into_command(), &output);
        wait_for_process(&mark, true);
        Self {
            mark,
            value,
            project,
            talk,
        }
    }

    /// Its file.
    pub(crate) fn file(&self) -> String {
        self.project.arg("image.toml")
    }

    /// Lets the second step end, and gives what the build, which fails for the want of what is
    /// unreachable, says.
    #[track_caller]
    pub(crate) fn unreachable(&mut self) -> String {
        end_sleep(&self.mark);
        let code = self.talk.end();
        assert_eq!(code, Some(3), "{}", self.talk.errors());
        format!("{}{}", self.talk.output(), self.talk.errors())
    }

    /// An image with the same first step, and a second that does the same without being held.
    pub(crate) fn freed(&self) -> Project {
        two_steps(&format!("echo {} > /two", self.value))
    }
}

fn two_steps(second: &str) -> Project {
    busybox(&["echo one > /one", second])
}

/// Ends the `sleep` of so many seconds, and nothing else that names them.
#[track_caller]
fn end_sleep(mark: &str) {
    let wanted = format!("sleep\0{mark}\0");
    let mut ended = 0;
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if line == wanted.as_bytes() {
            let pid = process.file_name().to_string_lossy().into_owned();
            run(&mut tool("kill", ["-TERM", &pid]));
            ended += 1;
        }
    }
    assert_eq!(ended, 1, "`sleep {mark}` runs once");
}
