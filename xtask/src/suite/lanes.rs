//! Steps that wait more than they compute: two of them run at a time, each with its output in a file
//! of `target/steps` until it ends.

use std::fs::{self, File};
use std::sync::mpsc;

use super::{Options, Row, Step, carry_out, heading};
use crate::host;
use crate::run::{self, Failure, Result, at};

/// Names of the steps, in the order of each lane. What shares a folder is in one lane.
const LANES: [&[&str]; 2] = [
    &["installed", "sdk"],
    &["npm", "page", "packed", "random", "connected"],
];

/// Parts the steps into those that run alone, and the two lanes; a lane without another is none.
pub(super) fn parted(steps: Vec<&'static Step>) -> (Vec<&'static Step>, [Vec<&'static Step>; 2]) {
    let lane = |number: usize| {
        let own = |step: &&&Step| LANES[number].contains(&step.name);
        steps.iter().filter(own).copied().collect::<Vec<_>>()
    };
    let lanes = [lane(0), lane(1)];
    if lanes.iter().any(Vec::is_empty) {
        return (steps, Default::default());
    }
    let in_none = |step: &&Step| !lanes.iter().flatten().any(|own| own.name == step.name);
    let alone = steps.iter().copied().filter(in_none).collect();
    (alone, lanes)
}

/// Runs both lanes, and prints the output of each step when it has ended.
///
/// # Errors
/// By an interrupt.
pub(super) fn run(lanes: &[Vec<&'static Step>; 2], options: &Options) -> Result<Vec<Row>> {
    let (tell, told) = mpsc::channel();
    let mut rows = Vec::new();
    std::thread::scope(|scope| {
        for lane in lanes {
            let tell = tell.clone();
            scope.spawn(move || {
                for step in lane {
                    let (row, output) = into_file(step, options);
                    let interrupted = matches!(row.outcome, Err(Failure::Interrupted));
                    if tell.send((step, row, output)).is_err() || interrupted {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (step, row, output) in told {
            heading(step);
            eprint!("{output}");
            if let Err(failure) = &row.outcome {
                eprintln!("{failure}");
            }
            rows.push(row);
        }
    });
    if run::interrupted() {
        return Err(Failure::Interrupted);
    }
    Ok(rows)
}

/// Carries a step out, and gives what the programs printed that it ran.
fn into_file(step: &'static Step, options: &Options) -> (Row, String) {
    let path = host::target().join("steps").join(step.name);
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    let file = folder.and_then(|()| File::create(&path)).map_err(at(&path));
    match file {
        Ok(file) => {
            let row = run::printing_into(&file, || carry_out(step, options));
            let output = fs::read(&path).unwrap_or_default();
            (row, String::from_utf8_lossy(&output).into_owned())
        }
        Err(failure) => (Row::failed(step, failure), String::new()),
    }
}
