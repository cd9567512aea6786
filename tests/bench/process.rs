//! What the kernel knows of a process.

use std::fs;

use chalk_tests::{run, tool};

/// Seconds of processor time that a process has used, in all its threads.
pub(crate) fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name before may hold blanks; after it stands the state, the third field.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = |field: usize| -> f64 {
        let field = fields.split(' ').nth(field - 3).unwrap();
        field.parse().unwrap()
    };
    let user_and_system = ticks(14) + ticks(15);
    let ticks_a_second = run(&mut tool("getconf", ["CLK_TCK"])).ok().stdout;
    user_and_system / ticks_a_second.trim().parse::<f64>().unwrap()
}

/// Bytes of memory of a process by a name of its status, such as `VmHWM`.
pub(crate) fn memory(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.unwrap().trim_start_matches(':').trim();
    let kibibytes = kibibytes.strip_suffix(" kB").unwrap();
    kibibytes.parse::<f64>().unwrap() * 1024.0
}

/// Sets the most memory that a process was seen to have back to what it has now
/// (`proc_pid_clear_refs(5)`).
pub(crate) fn reset_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}
