//! Debian's `docker-registry`, under the same torture.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;

/// The program.
pub(crate) const PROGRAM: &str = "/usr/bin/docker-registry";
/// Longest that a start may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts it with its data in `data`.
///
/// # Errors
/// When it does not start.
pub(crate) fn start(data: &Path, folder: &Path) -> Result<Process, String> {
    let mut last = String::new();
    // Somebody may take the port between the look and the start.
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = port.map_err(|error| error.to_string())?;
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            data.display()
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(&config);
        let log = folder.join("registry.log");
        let mut process = Process::start(&mut command, &log, format!("http://{address}"));
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if process.ended().is_some() {
                break;
            }
            if TcpStream::connect(address).is_ok() {
                return Ok(process);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        process.kill();
        last = fs::read_to_string(&log).unwrap_or_default();
    }
    Err(format!("docker-registry does not start: {last}"))
}
