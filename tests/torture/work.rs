//! The clients of a plan at work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::Client;
use crate::clients::{Shared, Worker};
use crate::plan::{Act, Plan};
use crate::process::Process;

/// How long a failpoint is waited for once all clients are done.
const LINGER: Duration = Duration::from_millis(150);

/// The clients of a plan at work.
pub(crate) struct Work {
    pub(crate) tasks: JoinSet<Vec<String>>,
}

impl Work {
    /// Starts them; `only` says which calls they make.
    pub(crate) fn start(
        client: &Client,
        shared: &Arc<Shared>,
        plan: &Plan,
        only: fn(&Act) -> bool,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for (number, acts) in plan.clients.iter().enumerate() {
            let mut worker = Worker::new(client.clone(), Arc::clone(shared), number);
            let acts: Vec<Act> = acts.iter().filter(|act| only(act)).cloned().collect();
            tasks.spawn(async move {
                let mut errors = Vec::new();
                for act in acts {
                    if let Err(error) = worker.act(&act).await {
                        errors.push(format!("{act:?}: {error}"));
                    }
                }
                errors
            });
        }
        Self { tasks }
    }

    /// Waits until all are done, the time is over, or the process has ended; gives what failed
    /// while it was alive, and whether it died.
    pub(crate) async fn until(
        &mut self,
        process: &mut Process,
        limit: Option<Duration>,
    ) -> (Vec<String>, bool) {
        let began = Instant::now();
        let mut errors = Vec::new();
        let mut done_at = None;
        loop {
            if process.ended().is_some() {
                return (Vec::new(), true);
            }
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                return (errors, false);
            }
            if done_at.is_some_and(|at: Instant| at.elapsed() >= LINGER) {
                return (errors, false);
            }
            tokio::select! {
                next = self.tasks.join_next(), if done_at.is_none() => match next {
                    Some(found) => errors.extend(found.expect("no client panicked")),
                    None => done_at = Some(Instant::now()),
                },
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
    }

    /// Lets those that are left come to their end, after the process has.
    pub(crate) async fn drain(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
