//! What builds: the service itself, or builders of BuildKit, each of which is asked.

use chalk_service::settings::{Build, BuildEngine};

use super::Check;

/// The engine of the settings, and the builders that it has.
pub(super) async fn checks(build: &Build) -> Vec<Check> {
    match build.engine {
        BuildEngine::Embedded => vec![Check::ok("engine", "embedded in the service")],
        BuildEngine::BuildKit => of_buildkit(build).await,
    }
}

#[cfg(target_os = "linux")]
async fn of_buildkit(build: &Build) -> Vec<Check> {
    let engine = "buildkit";
    let asked = match chalk_service::engine::buildkit::ask_builders(&build.buildkit).await {
        Ok(asked) => asked,
        Err(error) => {
            let todo = "correct the settings `build.buildkit.*`";
            return vec![Check::fail("engine", error.to_string(), todo)];
        }
    };
    let works = asked.iter().filter(|(_, answer)| answer.is_ok()).count();
    let found = format!("{engine}, {works} of {} builders answer", asked.len());
    let mut checks = vec![match works {
        0 => Check::fail("engine", found, "start a builder"),
        _ => Check::ok("engine", found),
    }];
    for (address, answer) in asked {
        checks.push(match answer {
            Ok(platforms) => Check::ok("builder", format!("{address}: {platforms}")),
            Err(why) => Check::warn(
                "builder",
                format!("{address}: {why}"),
                "see that it runs, that this user may use its socket, and that the certificates \
                 of `build.buildkit` fit",
            ),
        });
    }
    checks
}

#[cfg(not(target_os = "linux"))]
async fn of_buildkit(_: &Build) -> Vec<Check> {
    let todo = "use a service on a Linux machine";
    vec![Check::fail(
        "engine",
        "buildkit needs a service on Linux",
        todo,
    )]
}
