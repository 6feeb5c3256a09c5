//! `ctl check`: one region or all of them, and what is fenced replaced if that is wanted.

use serde_json::json;
use tokio::task::JoinSet;

use super::{Client, Shown, table};
use crate::error::Failure;
use crate::serve::CheckView;

/// How many regions are checked at once: each is read whole by every store that has a replica of it.
const AT_ONCE: usize = 4;

/// Checks regions; with `repair` replaces the replicas that are fenced, and checks those regions again.
pub(super) async fn check(client: Client, region: Option<u64>, repair: bool) -> Result<Shown, Failure> {
    let regions = match region {
        Some(region) => vec![region],
        None => client.regions().await?.regions.iter().map(|region| region.id).collect(),
    };
    let mut found = Vec::new();
    let mut running = JoinSet::new();
    let mut waiting = regions.into_iter();
    loop {
        while running.len() < AT_ONCE
            && let Some(id) = waiting.next()
        {
            running.spawn(async move { (id, check_one(client, id, repair).await) });
        }
        let Some(ended) = running.join_next().await else { break };
        match ended.map_err(|error| Failure::during("a check was cut short", error))? {
            (_, Ok(view)) => found.push(view),
            // One that was merged away meanwhile is checked with its neighbour.
            (id, Err(failure)) => {
                let listed = client.regions().await?.regions;
                if region.is_some() || listed.iter().any(|other| other.id == id) {
                    return Err(failure);
                }
            }
        }
    }
    found.sort_by_key(|view| view.region);
    let is_bad = |view: &&CheckView| !view.consistent || view.replicas.iter().any(|replica| replica.fenced);
    let bad: Vec<String> = found.iter().filter(is_bad).map(|view| view.region.to_string()).collect();
    let complaint = (!bad.is_empty()).then(|| {
        format!("replicas differ or are fenced in region {}: replace what is fenced with --repair", bad.join(", "))
    });
    Ok(Shown { complaint, ..Shown::new(table::checks(&found), json!({"checks": found})) })
}

async fn check_one(client: Client, region: u64, repair: bool) -> Result<CheckView, Failure> {
    let found = client.check(region).await?;
    let (mut is_tried, mut failed) = (false, None);
    for replica in found.replicas.iter().filter(|replica| repair && replica.fenced) {
        is_tried = true;
        failed = client.repair(region, replica.store).await.err().or(failed);
    }
    if !is_tried {
        return Ok(found);
    }
    let again = client.check(region).await?;
    // Whoever plans may have been faster: then there was nothing left to repair.
    match failed.filter(|_| again.replicas.iter().any(|replica| replica.fenced)) {
        Some(failure) => Err(failure),
        None => Ok(again),
    }
}
