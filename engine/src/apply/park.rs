//! Commits of merges that have to wait for their sources to be frozen beside them (M7 of `docs/regions.md`).

use std::collections::VecDeque;

use crate::apply::decide::{is_admin, wanted_source};
use crate::apply::{AppliedBatch, Applier, Effect};
use crate::logic::ApplyTask;

impl Applier {
    /// Puts aside what stands first if it is the commit of a merge whose source is not frozen beside it yet, and all that comes
    /// after it for the same region. A snapshot of the region ends the waiting: what waited comes behind it, as whatever it does
    /// not include has to be applied before what was committed later.
    pub(super) fn park<R>(&self, tasks: &mut VecDeque<ApplyTask<R>>, out: &mut AppliedBatch<R>) {
        let Some(ApplyTask::Entries { handle, entries, .. }) = tasks.front() else { return };
        let (handle, region) = (*handle, handle.region);
        // Almost no entry is such a one, and nothing is looked up for the others.
        let Some(first) = entries.first().filter(|entry| is_admin(entry)) else { return };
        let Some(progress) = self.regions.get(region) else { return };
        let first = Some(first).filter(|entry| entry.index > progress.applied);
        let wanted = first.and_then(|entry| wanted_source(&progress.descriptor, &progress.merge, entry));
        let (Some((source, index)), Some(first)) = (wanted, first) else { return };
        let catalogue = self.catalogue.lock();
        if catalogue.is_frozen_at(source, index) {
            return;
        }
        if !catalogue.is_here(source) {
            out.effects.push(Effect::Stalled(handle, first.index));
        }
        drop(catalogue);
        tracing::debug!(%region, %source, %index, "a merge waits for its source to be frozen here");
        let is_of = |task: &ApplyTask<R>| matches!(task, ApplyTask::Entries { handle, .. } if handle.region == region);
        let replaces =
            |task: &ApplyTask<R>| matches!(task, ApplyTask::Install { handle, .. } if handle.region == region);
        let (mut waiting, mut rest) = (Vec::new(), VecDeque::new());
        let mut waits = true;
        while let Some(task) = tasks.pop_front() {
            let ends = waits && replaces(&task);
            if waits && is_of(&task) {
                waiting.push(task);
            } else {
                rest.push_back(task);
            }
            if ends {
                waits = false;
                rest.extend(waiting.drain(..));
            }
        }
        out.parked.append(&mut waiting);
        *tasks = rest;
    }
}
