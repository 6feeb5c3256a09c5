//! Having regions surveyed: beside everything else, so many bytes a second, one after the other.

use std::collections::VecDeque;
use std::sync::{PoisonError, Weak};
use std::time::Duration;

use multiraft_storage::StateError;
use tokio::task::JoinHandle;

use crate::measure::{Gauges, Survey};
use crate::shell::Running;

/// How much is read before others may have the disk, and the store may stop.
const STEP_BYTES: usize = 256 << 10;
/// What a survey counts for at least: also one of an empty region takes its time.
const STEP_BYTES_MIN: usize = 16 << 10;
/// How many surveys are taken up at once.
const TAKEN_UP: usize = 256;

/// The surveys of a store.
pub(super) struct Surveys {
    bytes_per_s: u64,
    waiting: VecDeque<Survey>,
    under_way: Option<JoinHandle<Pass>>,
}

/// What was done in a round.
#[derive(Default)]
struct Pass {
    finished: Vec<Survey>,
    failed: Vec<Survey>,
    waiting: VecDeque<Survey>,
}

impl Surveys {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, waiting: VecDeque::new(), under_way: None }
    }

    /// Takes in what has been found, and goes on for a round that is so long. While a round takes longer than that, the next
    /// one waits.
    pub(super) async fn round(&mut self, running: &Weak<Running>, gauges: &mut Gauges, length: Duration) {
        if self.under_way.as_ref().is_some_and(|pass| !pass.is_finished()) {
            return;
        }
        if let Some(pass) = self.under_way.take() {
            let Ok(pass) = pass.await else { return };
            pass.finished.into_iter().for_each(|survey| gauges.on_surveyed(survey));
            pass.failed.iter().for_each(|survey| gauges.on_failed(survey));
            self.waiting = pass.waiting;
        }
        let room = TAKEN_UP.saturating_sub(self.waiting.len());
        self.waiting.extend(gauges.take_due(room));
        if self.waiting.is_empty() {
            return;
        }
        let budget = u128::from(self.bytes_per_s) * length.as_nanos() / 1_000_000_000;
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        let (running, waiting) = (running.clone(), std::mem::take(&mut self.waiting));
        self.under_way = Some(tokio::task::spawn_blocking(move || go_on(&running, waiting, budget)));
    }
}

/// Reads on where the surveys stand, the first one first, until the budget is spent.
fn go_on(running: &Weak<Running>, waiting: VecDeque<Survey>, budget: usize) -> Pass {
    let mut pass = Pass { waiting, ..Pass::default() };
    let mut spent = 0;
    pass.waiting.iter_mut().for_each(|survey| survey.rounds += u64::from(survey.next.is_some()));
    while spent < budget
        && let Some(mut survey) = pass.waiting.pop_front()
    {
        let before = survey.found.map_or(0, |size| size.bytes);
        match step(running, &mut survey) {
            None => return pass,
            Some(Ok(true)) => pass.finished.push(survey),
            Some(Ok(false)) => {
                spent += usize::try_from(survey.found.map_or(0, |size| size.bytes) - before).unwrap_or(usize::MAX);
                pass.waiting.push_front(survey);
                continue;
            }
            // It goes on with what is there then.
            Some(Err(StateError::SnapshotLost { .. })) => pass.waiting.push_front(survey),
            Some(Err(error)) => {
                tracing::warn!(region = %survey.region, %error, "a region's size could not be found out");
                pass.failed.push(survey);
            }
        }
        spent += STEP_BYTES_MIN;
    }
    pass
}

/// `None`: the store has stopped.
fn step(running: &Weak<Running>, survey: &mut Survey) -> Option<Result<bool, StateError>> {
    let running = running.upgrade()?;
    let open = running.open.read().unwrap_or_else(PoisonError::into_inner);
    open.as_ref().map(|open| open.backend.survey(survey, STEP_BYTES))
}
