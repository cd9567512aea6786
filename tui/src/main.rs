//! The `chalk` command: declares, hashes, builds and looks after images, through the HTTP API of a
//! service that may run elsewhere, beside it, or in its own process.

mod app;
mod build_state;
mod cli;
mod client;
mod commands;
mod connect;
mod declaration;
mod error;
mod memory;
mod output;
mod own_node;
mod progress;
mod quantity;
mod service_manager;
mod settings;
mod sse;
mod warm_state;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;

use chalk_core::wire::exit;
use chalk_watch::traces;
use clap::{CommandFactory as _, Parser as _};
use tracing::Instrument as _;

use cli::{Cli, Command, Compute, Deferred, Image, NodeCommand};
use connect::Server;
use error::Failure;
use settings::Loaded;

fn main() -> ExitCode {
    // Before any thread exists: a build step runs in a re-executed child of this program.
    chalk_sandbox::init_if_requested();
    if let Some(points) = chalk_store::failpoint::listed() {
        let _ = write!(std::io::stdout(), "{points}");
        return ExitCode::from(exit::OK);
    }
    memory::set_up();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                exit::USAGE
            } else {
                exit::OK
            });
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => {
            if failure.silent {
                return ExitCode::from(failure.code);
            }
            if json && !failure.reported {
                let _ = output::json(&failure.json());
            }
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    if let Some(Command::Completions { shell }) = cli.command {
        // In memory first: writing anywhere else, it panics where that fails.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "chalk", &mut script);
        return output::line(String::from_utf8_lossy(&script).trim_end());
    }
    if let Some(Command::ManPages { folder }) = &cli.command {
        return commands::man_pages::write(folder);
    }
    let flags = match &cli.command {
        Some(Command::Node(Deferred(node))) => node.agent.settings(),
        _ => Vec::new(),
    };
    let loaded = Loaded::load(&cli.global, &flags)?;
    if may_build_here(&cli, &loaded) {
        chalk_sandbox::userns::enter();
    }
    let traces = watch::begin(cli.command.as_ref(), &loaded)?;
    let mut runtime = match only_asks(&cli, &loaded) {
        // Starting threads takes longer than the answer, and so does waking them.
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|e| Failure::new(exit::FAILED, "cannot start the async runtime").why(e))?;
    let span = watch::span(cli.command.as_ref(), &traces);
    let work = dispatch(cli, &loaded).instrument(span.clone());
    let result = runtime.block_on(work);
    if let Err(failure) = &result {
        traces::failed(&span, &failure.to_string());
    }
    drop(span);
    // A blocking read of standard input must not hold up the end.
    runtime.shutdown_background();
    traces.end();
    result
}

/// Whether a service or a node may start in this process, or it is asked what they could do: an ordinary
/// user's becomes root of a user namespace for that.
fn may_build_here(cli: &Cli, loaded: &Loaded) -> bool {
    match &cli.command {
        Some(
            Command::Doctor
            | Command::Serve(_)
            | Command::Node(Deferred(NodeCommand { verb: None, .. })),
        ) => true,
        Some(Command::Web | Command::Config(_)) => false,
        _ => loaded.server.is_none(),
    }
}

/// Whether the command has nothing to do but to ask a service that runs. Where that ends meanwhile,
/// the one in its place works, too, if slower.
fn only_asks(cli: &Cli, loaded: &Loaded) -> bool {
    let may = match &cli.command {
        Some(
            Command::Compute(Deferred(Compute::Image(Deferred(command))))
            | Command::Image(Deferred(command)),
        ) => !matches!(command, Image::Warm(_)),
        Some(Command::Token(_) | Command::Project(_) | Command::Audit(_) | Command::Gc(_)) => true,
        _ => false,
    };
    may && Server::is_there(loaded)
}

async fn dispatch(cli: Cli, loaded: &Loaded) -> Result<(), Failure> {
    let json = cli.global.json;
    let Some(command) = cli.command else {
        return app::open(loaded, &cli.app).await;
    };
    if let Some(flag) = cli.app.given() {
        return Err(Failure::usage(format!("{flag} is for the terminal app"))
            .hint("leave it out, or leave the command out to open the app"));
    }
    match command {
        Command::Serve(serve) => commands::serve::serve(loaded, &serve).await,
        Command::Web => commands::web::web(loaded, json).await,
        Command::Doctor => commands::doctor::doctor(loaded, json).await,
        Command::Config(cli::Config::Show) => commands::config::show(loaded, json),
        Command::Config(cli::Config::Check { file }) => {
            commands::config::check(file.as_deref(), json)
        }
        Command::Compute(Deferred(Compute::Image(Deferred(command))))
        | Command::Image(Deferred(command)) => image(command, loaded, json).await,
        Command::Node(Deferred(NodeCommand { verb: None, agent })) => {
            commands::agent::agent(loaded, &agent).await
        }
        Command::Compute(Deferred(Compute::Node(Deferred(verb))))
        | Command::Node(Deferred(NodeCommand {
            verb: Some(verb), ..
        })) => commands::nodes::nodes(verb, loaded, json).await,
        Command::Compute(Deferred(Compute::Sandbox(Deferred(verb))))
        | Command::Sandbox(Deferred(verb)) => commands::sandbox::sandbox(verb, loaded, json).await,
        Command::Gc(flags) => commands::gc::gc(loaded, &flags, json).await,
        Command::Token(Deferred(verb)) => commands::tokens::tokens(verb, loaded, json).await,
        Command::Project(Deferred(verb)) => commands::projects::projects(verb, loaded, json).await,
        Command::Audit(audit) => commands::audit::audit(&audit, loaded, json).await,
        // They need no settings and were done before these were read.
        Command::Completions { .. } | Command::ManPages { .. } => Ok(()),
    }
}

async fn image(command: Image, loaded: &Loaded, json: bool) -> Result<(), Failure> {
    match command {
        // These need a service only to look something up.
        Image::Hash(Deferred(hash)) => commands::declare::hash(loaded, &hash, json).await,
        Image::Diff { a, b } => commands::compare::diff(loaded, &a, &b, json).await,
        Image::Dockerfile { file } => commands::declare::dockerfile(loaded, &file).await,
        Image::Spec { file } => commands::declare::spec(loaded, &file).await,
        Image::Build(Deferred(build)) => commands::build::build(loaded, &build, json).await,
        Image::Warm(Deferred(warm)) => commands::warm::warm(loaded, &warm, json).await,
        command => {
            let server = Server::connect(loaded).await?;
            let result = with_server(command, &server, json).await;
            server.close().await;
            result
        }
    }
}

async fn with_server(command: Image, server: &Server, json: bool) -> Result<(), Failure> {
    match command {
        Image::Plan(Deferred(file)) => commands::declare::plan(server, &file, json).await,
        Image::Why(Deferred(why)) => commands::compare::why(server, &why, json).await,
        Image::Lock(Deferred(lock)) => commands::declare::lock(server, &lock, json).await,
        Image::Ls { name } => commands::images::ls(server, name.as_deref(), json).await,
        Image::Show { image } => commands::images::show(server, &image, json).await,
        Image::Verify(Deferred(verify)) => commands::verify::verify(server, &verify, json).await,
        Image::Logs {
            build,
            step,
            follow,
        } => commands::logs::logs(server, &build, step, follow, json).await,
        Image::Builds { limit, name } => {
            commands::images::builds(server, limit, name.as_deref(), json).await
        }
        Image::Cancel { build } => commands::images::cancel(server, &build, json).await,
        Image::Warms { warm, limit, image } => {
            commands::warms::warms(server, warm.as_deref(), limit, image.as_deref(), json).await
        }
        Image::Tag { image, name } => commands::images::tag(server, &image, &name, json).await,
        Image::Rm { images } => commands::images::rm(server, &images, json).await,
        Image::Import {
            path,
            reference,
            platform,
        } => commands::import::import(server, &path, &reference, platform.as_deref(), json).await,
        Image::Hash(_)
        | Image::Diff { .. }
        | Image::Dockerfile { .. }
        | Image::Spec { .. }
        | Image::Warm(_)
        | Image::Build(_) => Ok(()),
    }
}
