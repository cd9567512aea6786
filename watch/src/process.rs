//! Metrics of this process, under the names that Prometheus's own clients give them.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// Reads `/proc/self` when it is asked. What the system does not tell is left out.
#[derive(Debug)]
pub(crate) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        if let Some(open) = open_files() {
            gauge(
                "process_open_fds",
                "Number of open file descriptors.",
                None,
                open,
            )?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            let help = "Maximum number of open file descriptors.";
            gauge("process_max_fds", help, None, most as f64)?;
        }
        let Some(stat) = Stat::read() else {
            return Ok(());
        };
        let bytes = Some(&Unit::Bytes);
        gauge(
            "process_virtual_memory",
            "Virtual memory size in bytes.",
            bytes,
            stat.virtual_bytes,
        )?;
        gauge(
            "process_resident_memory",
            "Resident memory size in bytes.",
            bytes,
            stat.resident_bytes,
        )?;
        gauge("process_threads", "Number of threads.", None, stat.threads)?;
        if let Some(started) = stat.started() {
            let help = "Start time of the process since unix epoch in seconds.";
            gauge("process_start_time", help, Some(&Unit::Seconds), started)?;
        }
        let help = "Total user and system CPU time spent in seconds.";
        let metric = ConstCounter::new(stat.cpu_seconds);
        let kind = metric.metric_type();
        metric.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), kind)?)
    }
}

fn open_files() -> Option<f64> {
    // The directory itself is open while it is read.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open.saturating_sub(1) as f64)
}

/// Parts of `/proc/self/stat`; see proc_pid_stat(5).
struct Stat {
    cpu_seconds: f64,
    threads: f64,
    /// Ticks after the start of the system.
    started: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name of the program may hold blanks and brackets; field 3 stands behind it.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started: field(22)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as f64,
        })
    }

    /// Seconds since 1970.
    fn started(&self) -> Option<f64> {
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(now.as_secs_f64() - uptime + self.started / clock_ticks_per_second() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 5 6 20 0 9 0 1000 8192 3 184 0";
        let stat = Stat::parse(line).unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, 200.0 / ticks);
        assert_eq!((stat.threads, stat.started), (9.0, 1000.0));
        assert_eq!(stat.virtual_bytes, 8192.0);
        assert_eq!(stat.resident_bytes, 3.0 * page_size() as f64);
        assert!(Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn this_process_has_all() {
        let stat = Stat::read().unwrap();
        assert!(stat.threads >= 1.0 && stat.resident_bytes > 0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let started = stat.started().unwrap();
        assert!(started > 0.0 && started < now.as_secs_f64() + 1.0);
        assert!(open_files().unwrap() >= 3.0);
    }
}
