//! Measures runs from start to exit: `measure ROOT COUNT COMMAND...`, as root, where ROOT is a
//! directory with a root filesystem (it is not changed). Prints milliseconds.

use std::error::Error;
use std::time::Instant;

use chalk_sandbox::{Root, RunSpec, Seccomp, Stream};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn Error>> {
    chalk_sandbox::init_if_requested();
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: measure ROOT COUNT COMMAND...";
    let root = std::fs::canonicalize(arguments.next().ok_or(usage)?)?;
    let count: usize = arguments.next().ok_or(usage)?.parse()?;
    let command: Vec<String> = arguments.collect();
    let directory = tempfile::tempdir()?;
    let (upper, work) = (
        directory.path().join("upper"),
        directory.path().join("work"),
    );
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&work)?;
    let root = Root::Overlay {
        lower: vec![root],
        upper,
        work,
        volatile: true,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    for seccomp in [Seccomp::Default, Seccomp::Unconfined] {
        let mut spec = RunSpec::new(root.clone(), command.clone());
        spec.seccomp = seccomp;
        let mut times = Vec::new();
        for _ in 0..count.max(1) {
            let start = Instant::now();
            let mut discard = |_: Stream, _: &[u8]| {};
            runtime.block_on(chalk_sandbox::run(
                &spec,
                &mut discard,
                &CancellationToken::new(),
            ))?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "filter {seccomp:?}: best {:.1}, median {:.1}, 95 % {:.1}",
            at(0.0),
            at(0.5),
            at(0.95)
        );
    }
    Ok(())
}
