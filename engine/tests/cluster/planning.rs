//! Watching the planner of real stores.

use std::time::{Duration, Instant};

use multiraft::{Engine, Placement};

/// The term in which planning goes on, and how many operations it has begun, if none runs.
fn begun<'a>(mut engines: impl Iterator<Item = &'a Engine>) -> Option<(u64, u64)> {
    let state = engines.find_map(Engine::placement).filter(|state| state.is_complete)?;
    state.operations.is_empty().then_some((state.term.get(), state.begun))
}

/// Waits until no operation was begun for `rest`.
pub(crate) async fn quiet<'a>(
    engines: impl IntoIterator<Item = &'a Engine, IntoIter: Clone>,
    rest: Duration,
    limit: Duration,
) {
    let (engines, start) = (engines.into_iter(), Instant::now());
    let (mut since, mut last) = (Instant::now(), None);
    while since.elapsed() < rest {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = begun(engines.clone());
        if now.is_none() || now != last {
            (since, last) = (Instant::now(), now);
        }
        let state = engines.clone().find_map(Engine::placement);
        assert!(start.elapsed() < limit, "it does not become quiet: {state:?}");
    }
}

/// Planning with short limits, for stores that are watched while they do it.
pub(crate) fn hasty() -> Placement {
    let mut placement = Placement::default();
    placement.interval = Duration::from_millis(200);
    placement.options.silent_after = Duration::from_secs(3);
    placement.options.timeouts.retry_min = Duration::from_millis(500);
    placement.options.timeouts.retry_max = Duration::from_secs(2);
    placement
}
