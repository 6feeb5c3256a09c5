//! The admin endpoint's requests, from the outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;
use crate::http;
use crate::serve::{
    ChangeRequest, CheckRequest, CheckView, JoinRequest, MergeRequest, RegionView, RegionsAnswer, RepairRequest,
    ReplicasRequest, SplitRequest, StatusReport, StoresAnswer,
};

/// Longer than any request takes: new replicas may take two minutes to catch up.
const PATIENCE: Duration = Duration::from_secs(150);

/// The admin endpoint of one store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    address: SocketAddr,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(crate) async fn status(&self) -> Result<StatusReport, Failure> {
        self.ask("GET", "/status", &[]).await
    }

    pub(crate) async fn regions(&self) -> Result<RegionsAnswer, Failure> {
        self.ask("GET", "/regions", &[]).await
    }

    pub(crate) async fn region(&self, region: u64) -> Result<RegionsAnswer, Failure> {
        self.ask("GET", &format!("/region?id={region}"), &[]).await
    }

    pub(crate) async fn stores(&self) -> Result<StoresAnswer, Failure> {
        self.ask("GET", "/stores", &[]).await
    }

    pub(crate) async fn join(&self, request: &JoinRequest) -> Result<(), Failure> {
        let body =
            serde_json::to_vec(request).map_err(|error| Failure::during("the request cannot be written", error))?;
        self.send("POST", "/join", &body).await.map(drop)
    }

    /// Has whoever plans empty a store.
    pub(crate) async fn drain(&self, store: u64) -> Result<(), Failure> {
        self.send("POST", &format!("/drain?store={store}"), &[]).await.map(drop)
    }

    /// Has a store take part again that was to be emptied.
    pub(crate) async fn undrain(&self, store: u64) -> Result<(), Failure> {
        self.send("POST", &format!("/undrain?store={store}"), &[]).await.map(drop)
    }

    pub(crate) async fn leave(&self, store: u64) -> Result<(), Failure> {
        self.send("POST", &format!("/leave?store={store}"), &[]).await.map(drop)
    }

    /// Keys in hexadecimal.
    pub(crate) async fn split(&self, region: u64, keys: Vec<String>) -> Result<RegionsAnswer, Failure> {
        self.post("/split", &SplitRequest { region, keys }).await
    }

    pub(crate) async fn merge(&self, source: u64, into: u64) -> Result<RegionsAnswer, Failure> {
        self.post("/merge", &MergeRequest { source, into }).await
    }

    pub(crate) async fn change(&self, region: u64, changes: Vec<ChangeRequest>) -> Result<RegionsAnswer, Failure> {
        self.post("/replicas", &ReplicasRequest { region, changes }).await
    }

    pub(crate) async fn transfer(&self, region: u64, store: u64) -> Result<(), Failure> {
        self.send("POST", &format!("/transfer?region={region}&store={store}"), &[]).await.map(drop)
    }

    pub(crate) async fn check(&self, region: u64) -> Result<CheckView, Failure> {
        self.post("/check", &CheckRequest { region }).await
    }

    pub(crate) async fn repair(&self, region: u64, store: u64) -> Result<RegionsAnswer, Failure> {
        self.post("/repair", &RepairRequest { region, store }).await
    }

    async fn post<T: DeserializeOwned>(&self, target: &str, request: &impl Serialize) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(request).map_err(|error| Failure::during("the request cannot be written", error))?;
        self.ask("POST", target, &body).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: &str, target: &str, body: &[u8]) -> Result<T, Failure> {
        let answer = self.send(method, target, body).await?;
        let foreign = |error| {
            let what = format!("the answer of {} to {target} is not understood", self.address);
            Failure::during(&what, format_args!("{error}: use the same version as the store does"))
        };
        serde_json::from_slice(&answer).map_err(foreign)
    }

    /// The body of a good answer; else the store's own words.
    async fn send(&self, method: &str, target: &str, body: &[u8]) -> Result<Bytes, Failure> {
        match http::exchange(self.address, method, target, body, PATIENCE).await {
            Ok((200, answer)) => Ok(answer),
            Ok((_, answer)) => Err(Failure::new(printable(&answer))),
            Err(error) => Err(Failure::new(format!(
                "the admin endpoint {} does not answer: {error}: start the store with `serve --admin {}`, or name another \
                 one with --admin",
                self.address, self.address
            ))),
        }
    }
}

/// An answer's text, in one line and without control characters.
fn printable(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.trim_end().chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// Adds what another store knows of leaders and of what is applied, where the first one had no replica.
pub(crate) fn fill_in(regions: &mut [RegionView], status: &StatusReport) {
    let known: BTreeMap<u64, _> = status.regions.iter().map(|region| (region.id, region)).collect();
    for region in regions {
        if let Some(told) = known.get(&region.id) {
            region.leader = region.leader.or(told.leader);
            region.applied = region.applied.or(Some(told.applied));
            region.measured = region.measured.or(told.measured);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_cannot_steer_the_terminal() {
        assert_eq!(printable(b"no\x1b[2Jmore\n"), "no [2Jmore");
        assert_eq!(printable(b"\xff\n\n"), "\u{fffd}");
    }
}
