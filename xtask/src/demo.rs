//! `cargo xtask demo`: the quickstart example from nothing, with a service of its own that is gone
//! afterwards.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::{self, Failure, Result, at};
use crate::{base, compile, host};

/// What the example's list of packages is changed to for the third build.
const CHANGE: (&str, &str) = (
    r#"pip_install = ["requests", "pandas>=2.0"]"#,
    r#"pip_install = ["requests", "pandas>=2.0", "rich"]"#,
);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cargo profile of the chalk command.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Take the stand-in base image without asking a registry.
    #[arg(long)]
    stand_in: bool,
}

/// Runs the demo and prints its table.
///
/// # Errors
/// When a build fails or does not do what the table is to show, or by an interrupt; the service is
/// stopped and its state removed in any case.
pub(crate) fn run(options: &Options) -> Result<()> {
    // From here on an interrupt is noticed, not deadly: the service must not outlive us.
    run::interrupted();
    eprintln!(
        "compiling chalk ({} profile); the first time takes some minutes",
        options.profile
    );
    let chalk = compile::chalk(&options.profile)?;
    let mut stage = Stage::set(chalk)?;
    let outcome = play(&mut stage, options);
    let cleared = stage.clear();
    outcome?;
    cleared
}

fn play(stage: &mut Stage, options: &Options) -> Result<()> {
    stage.start_service()?;
    let example = host::workspace().join("examples/quickstart/image.toml");
    let example_text = example.display().to_string();
    let reachable = !options.stand_in && {
        eprintln!("looking for {} in its registry", base::REFERENCE);
        stage.can_pin(&example_text)?
    };
    if !reachable {
        if !options.stand_in {
            eprintln!("no registry can be reached, so a stand-in takes its place");
        }
        let layout = base::stand_in()?.display().to_string();
        stage.chalk(&import(&layout))?;
    }

    let text = fs::read_to_string(&example).map_err(at(&example))?;
    if !text.contains(CHANGE.0) {
        return Err(Failure::Other(format!(
            "{example_text} no longer has the line that the demo changes: {}",
            CHANGE.0
        )));
    }
    let changed = stage.folder.join("changed/image.toml");
    let folder = stage.folder.join("changed");
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    fs::write(&changed, text.replace(CHANGE.0, CHANGE.1)).map_err(at(&changed))?;
    let changed = changed.display().to_string();

    let rows = [
        ("quickstart", stage.build(&example_text)?),
        ("the same again", stage.build(&example_text)?),
        ("with `rich` added", stage.build(&changed)?),
    ];
    print(&rows, (!reachable).then_some(options.stand_in));
    check(&rows)?;
    if !reachable {
        leave_base(stage, options, &example_text)?;
    }
    offer(stage, &example_text)
}

/// The words that bring the stand-in in.
fn import(layout: &str) -> [&str; 6] {
    [
        "compute",
        "image",
        "import",
        layout,
        "--as",
        base::REFERENCE,
    ]
}

/// Leaves the stand-in with the plain command too, where the example has no base otherwise: whoever
/// opens the app on it next can build it. A base that is there already is left as it is, and so is one
/// that a registry, which was not asked, may have.
fn leave_base(stage: &Stage, options: &Options, example: &str) -> Result<()> {
    let layout = base::stand_in()?.display().to_string();
    let by_hand = || {
        let words = import(&layout).join(" ");
        println!("\nto build the example with plain `chalk`, too: `chalk {words}`");
    };
    if options.stand_in || std::env::var_os("CHALK_API_SERVER").is_some() {
        by_hand();
        return Ok(());
    }
    // As the person, not as root: it is the state that their own `chalk` works on.
    let chalk = stage.chalk.display().to_string();
    let mut hash = run::command(&chalk, ["compute", "image", "hash", example, "--json"]);
    let known = run::capture(&mut hash).and_then(|output| parse(&output));
    if known.is_ok_and(|hash| !hash["image_hash"].is_null()) {
        return Ok(());
    }
    let mut bring = run::command(&chalk, import(&layout));
    match run::capture(&mut bring) {
        Ok(_) => println!(
            "\nplain `chalk` has the stand-in as {} now, so that `cargo run --release` can build the\n\
             example; importing another image under that name takes its place",
            base::REFERENCE
        ),
        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
        Err(failure) => {
            eprintln!("plain `chalk` could not take the stand-in: {failure}");
            by_hand();
        }
    }
    Ok(())
}

/// Offers to open the app on what was built, where somebody is there to be asked.
fn offer(stage: &Stage, example: &str) -> Result<()> {
    let attended = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    // Some CI systems give their jobs a terminal, at which nobody sits.
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    if !attended || ci || !agreed("Open the terminal app on it?")? {
        return Ok(());
    }
    let mut app = stage.command(&["--open", example])?;
    // Not by the runner of other programs: this one has the terminal, and its own way with signals.
    let ended = app.status().map_err(|source| Failure::Start {
        command: "chalk".to_owned(),
        source,
    })?;
    match ended.success() {
        true => Ok(()),
        false => Err(Failure::Other(format!("the app ended with {ended}"))),
    }
}

/// Asks a question that an interrupt ends, too. Without an answer it is a no.
fn agreed(question: &str) -> Result<bool> {
    let mut output = std::io::stdout();
    let asked = write!(output, "\n{question} [y/N] ").and_then(|()| output.flush());
    asked.map_err(at("the terminal"))?;
    // An interrupt is only noticed, and does not end the reading of a line.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        // Nobody waits for it after an interrupt.
        let _ = tell.send(read.map(|_| answer));
    });
    loop {
        match told.recv_timeout(Duration::from_millis(50)) {
            Ok(answer) => {
                let answer = answer.map_err(at("the terminal"))?;
                return Ok(matches!(answer.trim(), "y" | "Y" | "yes"));
            }
            Err(RecvTimeoutError::Timeout) if run::interrupted() => {
                return Err(Failure::Interrupted);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
}

/// How one build went.
struct Built {
    status: String,
    image: String,
    /// Kinds of the steps that ran.
    ran: Vec<String>,
    /// Kinds of the steps that came from the cache.
    reused: Vec<String>,
    /// Wall time of the whole command.
    took: Duration,
}

/// Prints the table. `stand_in` says that the base is not the one of Docker Hub, and whether that was
/// asked for.
fn print(rows: &[(&str, Built)], stand_in: Option<bool>) {
    println!(
        "\n{:19}{:9}{:>8}  {:21}{:21}",
        "build", "result", "seconds", "steps that ran", "steps reused"
    );
    for (name, built) in rows {
        let words = |kinds: &[String]| match kinds {
            [] => "-".to_owned(),
            kinds => kinds.join(", "),
        };
        let line = format!(
            "{name:19}{:9}{:>8.2}  {:21}{:21}",
            built.status,
            built.took.as_secs_f64(),
            words(&built.ran),
            words(&built.reused),
        );
        println!("{}", line.trim_end());
    }
    println!("\nbase: {}", base::REFERENCE);
    if let Some(asked_for) = stand_in {
        let why = match asked_for {
            true => "as asked for",
            false => "because no registry could be reached",
        };
        println!(
            "      a stand-in under that name: Debian bookworm with Debian's own Python 3.11,"
        );
        println!("      made by mmdebstrap, {why}");
    }
    println!("last: {}", rows[2].1.image);
    println!(
        "seconds are of the whole command; the demo's service and its state are gone after it"
    );
}

/// The demo shows skipping and partial rebuilding, so it fails when they did not happen.
fn check(rows: &[(&str, Built); 3]) -> Result<()> {
    let [first, second, third] = rows.each_ref().map(|(_, built)| built);
    let sound = first.status == "built"
        && !first.ran.is_empty()
        && second.status == "reused"
        && second.ran.is_empty()
        && third.status == "built"
        && third.ran.iter().any(|kind| kind == "pip_install");
    if sound {
        return Ok(());
    }
    Err(Failure::Other(
        "the builds did not go as the demo is meant to show: built, reused, built".to_owned(),
    ))
}

/// A folder for the service's state, and the service.
struct Stage {
    chalk: PathBuf,
    folder: PathBuf,
    service: Option<Child>,
}

impl Stage {
    fn set(chalk: PathBuf) -> Result<Self> {
        // Under the target directory: the system's temporary directory is often small or in memory.
        let folder = host::target().join(format!("demo-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        Ok(Self {
            chalk,
            folder,
            service: None,
        })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let chalk = self.chalk.display().to_string();
        let state = self.folder.join("state").display().to_string();
        let words = ["--state", &state]
            .into_iter()
            .chain(arguments.iter().copied());
        let mut command = host::as_root(&chalk, words)?;
        for name in [
            "CHALK_API_SERVER",
            "CHALK_STATE_DIR",
            "CHALK_TOKEN",
            "CHALK_CONFIG",
        ] {
            command.env_remove(name);
        }
        Ok(command)
    }

    fn start_service(&mut self) -> Result<()> {
        let address = free_address()?;
        let listen = address.to_string();
        let log = self.folder.join("service.log");
        let output = fs::File::create(&log).map_err(at(&log))?;
        let errors = output.try_clone().map_err(at(&log))?;
        let mut serve = self.command(&["serve", "--listen", &listen])?;
        serve.stdin(Stdio::null()).stdout(output).stderr(errors);
        let service = self.service.insert(run::spawn(&mut serve)?);
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let ended = service.try_wait().map_err(at(&log))?;
            if ended.is_some() || Instant::now() > until {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(Failure::Other(format!(
                    "the service did not start:\n{said}"
                )));
            }
            if run::interrupted() {
                return Err(Failure::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Runs the command and returns its result, the last line of standard output, as JSON.
    fn chalk(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command(arguments)?;
        // Progress goes to standard error, where people see it.
        command.arg("--json").stdout(Stdio::piped());
        let output = run::capture_stdout(&mut command)?;
        parse(&output)
    }

    /// Whether the base of a declaration can be pinned, so that its registry can be reached.
    fn can_pin(&self, file: &str) -> Result<bool> {
        let mut command = self.command(&["compute", "image", "hash", file, "--json"])?;
        match run::capture(&mut command) {
            Ok(output) => Ok(!parse(&output)?["image_hash"].is_null()),
            // 3: not reachable, or refused (such as a rate limit).
            Err(Failure::Ended { status, .. }) if status.code() == Some(3) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn build(&self, file: &str) -> Result<Built> {
        let began = Instant::now();
        let result = self.chalk(&["compute", "image", "build", file])?;
        let took = began.elapsed();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let steps = result["steps"].as_array().cloned().unwrap_or_default();
        let kinds = |state: &str| {
            let chosen = steps.iter().filter(|step| step["state"] == state);
            chosen.map(|step| text(&step["kind"])).collect()
        };
        Ok(Built {
            status: text(&result["status"]),
            image: text(&result["image"]),
            ran: kinds("ran"),
            reused: kinds("cached"),
            took,
        })
    }

    /// Stops the service, removes its state, and makes sure that nothing is left.
    fn clear(&mut self) -> Result<()> {
        if let Some(mut service) = self.service.take() {
            run::stop(&mut service);
        }
        let mounts = Path::new("/proc/self/mounts");
        let folder = self.folder.display().to_string();
        let left = fs::read_to_string(mounts).map_err(at(mounts))?;
        if let Some(line) = left.lines().find(|line| line.contains(&folder)) {
            return Err(Failure::Other(format!("a mount was left behind: {line}")));
        }
        run::remove(&self.folder)
    }
}

fn parse(output: &str) -> Result<Value> {
    let last = output.trim_end().lines().next_back().unwrap_or_default();
    serde_json::from_str(last)
        .map_err(|error| Failure::Other(format!("chalk printed no JSON but `{last}`: {error}")))
}

/// An address that nobody listens on now.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0");
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_err(at("127.0.0.1:0"))
}
