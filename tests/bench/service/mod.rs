//! The service with many images, and with nothing to do; and how fast is hashed.

mod hashes;
mod images;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use chalk_tests::{Service, World};
use serde_json::json;

use crate::process::{memory, processor_seconds};
use crate::row::{Aim, Row, Times, milliseconds, number, rounds};
use crate::wire::{Connection, load};

pub(crate) use hashes::{sha256, spec};

/// Images that the service of [`reuse`] knows, unless `CHALK_BENCH_KNOWN` says otherwise.
const KNOWN: usize = 10_000;
/// Requests on the way at once.
const IN_FLIGHT: usize = 100;
/// Requests of one run.
const REQUESTS: usize = 20_000;
/// Images that the service of [`restart`] knows, unless `CHALK_BENCH_RESTART` says otherwise.
const KNOWN_AT_RESTART: usize = 100_000;
/// How long a service is left alone before it counts as idle.
const REST: Duration = Duration::from_secs(10);
/// Starts of one service.
const RESTARTS: usize = 5;
/// Nothing is fetched while there is nothing to do.
const QUIET: [(&str, &str); 1] = [("prewarm.images", "")];

/// Begin of the answer to a request for an image that is there.
const REUSED: &[u8] = br#"{"reply":"reused""#;

fn headers(service: &Service) -> String {
    let token = service.token();
    format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n")
}

/// Requests to build what is built.
pub(crate) fn reuse(world: &World) -> Vec<Row> {
    let images = images::Images::new(world, number("CHALK_BENCH_KNOWN", KNOWN));
    let service = Service::start(images.state(), &QUIET);
    let headers = headers(&service);
    let bodies: Vec<Vec<u8>> = images
        .specs()
        .map(|spec| json!({"spec": spec}).to_string().into_bytes())
        .collect();
    let ask = |at_once: usize, requests: usize| {
        let inside = Mutex::new(Vec::with_capacity(requests));
        let seen = load(
            service.address(),
            at_once,
            requests,
            |connection, number| {
                // Far apart, so that no two in flight are neighbours.
                let body = &bodies[number * 7919 % bodies.len()];
                let answer = connection.ask("POST", "/v1/builds", &headers, body);
                assert_eq!(answer.status, 200);
                assert!(answer.body.starts_with(REUSED));
                inside.lock().unwrap().push(answer.server.unwrap());
            },
        );
        (seen, Times::of(inside.into_inner().unwrap()))
    };
    ask(IN_FLIGHT, bodies.len());
    let (alone, _) = ask(1, REQUESTS / 10);
    let before = processor_seconds(service.pid());
    let (busy, inside) = ask(IN_FLIGHT, REQUESTS);
    let processor = (processor_seconds(service.pid()) - before) / REQUESTS as f64 * 1e6;
    let known = bodies.len();
    let rate = REQUESTS as f64 / busy.seconds;
    let note = format!(
        "{known} images known; by `Server-Timing`, from the request's head to the answer; p50 {:.3} ms",
        inside.median()
    );
    // Little's law: what is in flight is the rate times the time.
    let limit = IN_FLIGHT as f64 / rate * 1e3;
    let seen = format!(
        "{rate:.0} requests/s, {processor:.0} µs of a processor each; on these cores, shared with the clients, \
         {IN_FLIGHT} in flight at that rate take {limit:.1} ms in the mean, most of it in queues"
    );
    vec![
        Row::alone(
            "nothing changed, server side, 100 requests in flight, p99",
            "ms",
            inside.at(0.99),
            Aim::Most(1.0),
        )
        .note(note),
        Row::alone(
            "the same, as the clients see it, p99",
            "ms",
            busy.times.at(0.99),
            Aim::None,
        )
        .note(seen),
        Row::alone(
            "the same with one request in flight, p99",
            "ms",
            alone.times.at(0.99),
            Aim::Most(1.0),
        ),
        Row::alone(
            "the same with one request in flight, p50",
            "ms",
            alone.times.median(),
            Aim::None,
        ),
    ]
}

/// Memory of a service that has nothing to do.
pub(crate) fn idle(world: &World) -> Vec<Row> {
    let service = world.start("bench-idle", &QUIET);
    std::thread::sleep(REST);
    let before = processor_seconds(service.pid());
    std::thread::sleep(REST);
    let used = (processor_seconds(service.pid()) - before) / REST.as_secs_f64() * 100.0;
    vec![
        Row::alone(
            "memory of a service that has nothing to do",
            "MB",
            memory(service.pid(), "VmRSS") / 1e6,
            Aim::Most(40.0),
        )
        .note(format!("{used:.1} % of a core")),
    ]
}

/// From the start of the process to its first answer.
pub(crate) fn restart(world: &World) -> Vec<Row> {
    let images = images::Images::new(world, number("CHALK_BENCH_RESTART", KNOWN_AT_RESTART));
    let mut service = Service::start(images.state(), &QUIET);
    let (mut times, known) = (vec![], images.len());
    for _ in 0..rounds(RESTARTS) {
        service.stop();
        let start = Instant::now();
        service.start_again(&[]);
        service.get("/v1/info");
        times.push(milliseconds(start.elapsed()) / 1000.0);
        // It knows the last of them.
        let spec = images.specs().last().unwrap();
        let mut connection = Connection::open(service.address());
        let body = json!({"spec": spec}).to_string();
        let answer = connection.ask("POST", "/v1/builds", &headers(&service), body.as_bytes());
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(REUSED));
    }
    vec![
        Row::alone(
            &format!("restart to the first answer, {known} images known"),
            "s",
            Times::of(times).median(),
            Aim::Most(1.0),
        ),
        Row::alone(
            "memory of that service",
            "MB",
            memory(service.pid(), "VmRSS") / 1e6,
            Aim::None,
        ),
    ]
}
