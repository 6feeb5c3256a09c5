//! `multiraft ctl`: asks the admin endpoint of a store, and shows the answer to a person or a program.
//!
//! It decides nothing by itself but the order of a drain; what may be done and what not, the store says.

mod check;
mod client;
mod drain;
mod recover;
mod table;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cli::{CtlArgs, CtlCommand, Key, ReplicaArgs};
use crate::error::Failure;
use crate::hex;
use crate::serve::{ChangeKind, ChangeRequest, JoinRequest, RegionsAnswer, StoresAnswer};
pub(crate) use client::{Client, fill_in};

/// Carries one command out.
pub(crate) fn run(args: &CtlArgs) -> Result<ExitCode, Failure> {
    check_addresses(&args.admin, args.expose)?;
    let outcome = match &args.command {
        CtlCommand::Recover { command } => recover::run(command),
        _ => ask(args),
    };
    match outcome {
        Ok(shown) => {
            let Shown { text, mut json, complaint } = shown;
            if let Some(complaint) = &complaint {
                json["error"] = Value::String(complaint.clone());
            }
            say(&if args.json { with_ok(json, complaint.is_none()) } else { text })?;
            complaint.map_or(Ok(ExitCode::SUCCESS), |complaint| Err(Failure::new(complaint)))
        }
        Err(failure) => {
            if args.json {
                say(&with_ok(json!({"error": failure.to_string()}), false))?;
            }
            Err(failure)
        }
    }
}

fn ask(args: &CtlArgs) -> Result<Shown, Failure> {
    let runtime = Runtime::new().map_err(|error| Failure::during("the runtime could not be started", error))?;
    runtime.block_on(carry_out(args))
}

/// The endpoint asks nobody who he is, so it is spoken to on this machine only.
fn check_addresses(addresses: &[SocketAddr], expose: bool) -> Result<(), Failure> {
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) if !expose => Err(Failure::new(format!(
            "--admin {address} is not a loopback address: run this on the store's machine, or say --expose if the network \
             in between is closed"
        ))),
        _ => Ok(()),
    }
}

/// What a command has to show.
struct Shown {
    text: String,
    json: Value,
    /// What is wrong with what it shows, if it is bad news.
    complaint: Option<String>,
}

impl Shown {
    fn new(text: String, json: Value) -> Self {
        Self { text, json, complaint: None }
    }
}

async fn carry_out(args: &CtlArgs) -> Result<Shown, Failure> {
    let (first, others) = args.admin.split_first().ok_or_else(|| Failure::new("--admin is missing"))?;
    let client = Client::new(*first);
    let changed =
        |answer: RegionsAnswer| Shown::new(table::regions(&answer.regions), json!({"regions": answer.regions}));
    let change = |change, store| ChangeRequest { change, store };
    match &args.command {
        CtlCommand::Regions => {
            let mut answer = client.regions().await?;
            for other in others {
                fill_in(&mut answer.regions, &Client::new(*other).status().await?);
            }
            Ok(changed(answer))
        }
        CtlCommand::Region { region } => {
            let mut answer = client.region(*region).await?;
            for other in others {
                fill_in(&mut answer.regions, &Client::new(*other).status().await?);
            }
            let recovered = answer.recovered.take();
            let region = one(answer)?;
            let text = table::region(&region, recovered.as_ref());
            let mut json = json!({"region": region});
            if let Some(recovered) = recovered {
                json["region"]["recovered"] = json!(recovered);
            }
            Ok(Shown::new(text, json))
        }
        CtlCommand::Stores => {
            let mut answer = client.stores().await?;
            for other in others {
                fill_in_loads(&mut answer, &Client::new(*other).stores().await?);
            }
            let mut json = json!({"asked": answer.store, "stores": answer.stores});
            if let Some(why) = &answer.loads_missing {
                json["loads_missing"] = json!(why);
            }
            Ok(Shown::new(table::stores(&answer), json))
        }
        CtlCommand::Split { region, keys } => {
            let keys = keys.iter().map(|Key(key)| hex::encode(key)).collect();
            client.split(*region, keys).await.map(changed)
        }
        CtlCommand::Merge { source, into } => client.merge(*source, *into).await.map(changed),
        CtlCommand::Move { region, from, to } => {
            let changes = vec![change(ChangeKind::AddVoter, *to), change(ChangeKind::Remove, *from)];
            client.change(*region, changes).await.map(changed)
        }
        CtlCommand::Add { replica, learner } => {
            let kind = if *learner { ChangeKind::AddLearner } else { ChangeKind::AddVoter };
            client.change(replica.region, vec![change(kind, replica.store)]).await.map(changed)
        }
        CtlCommand::Remove(ReplicaArgs { region, store }) => {
            client.change(*region, vec![change(ChangeKind::Remove, *store)]).await.map(changed)
        }
        CtlCommand::Promote(ReplicaArgs { region, store }) => {
            client.change(*region, vec![change(ChangeKind::Promote, *store)]).await.map(changed)
        }
        CtlCommand::Demote(ReplicaArgs { region, store }) => {
            client.change(*region, vec![change(ChangeKind::Demote, *store)]).await.map(changed)
        }
        CtlCommand::Transfer(ReplicaArgs { region, store }) => {
            client.transfer(*region, *store).await?;
            let text = format!("store {store} leads region {region}");
            Ok(Shown::new(text, json!({"region": region, "leader": store})))
        }
        CtlCommand::Check { region, all: _, repair } => check::check(client, *region, *repair).await,
        CtlCommand::Recover { command } => recover::run(command),
        CtlCommand::Join { store, address, weight, labels } => {
            let labels = labels.iter().cloned().collect();
            let request = JoinRequest { store: *store, address: address.clone(), weight: *weight, labels };
            client.join(&request).await?;
            Ok(Shown::new(format!("store {store} has joined"), json!({"store": store, "address": address})))
        }
        CtlCommand::Leave { store } => {
            client.leave(*store).await?;
            Ok(Shown::new(format!("store {store} has left: stop it for good"), json!({"store": store})))
        }
        CtlCommand::Drain { store, cancel: true } => {
            client.undrain(*store).await?;
            Ok(Shown::new(format!("store {store} takes part again"), json!({"store": store})))
        }
        CtlCommand::Drain { store, cancel: false } => {
            let drained = drain::drain(&client, *store).await?;
            let text = format!("store {store} is empty: {drained}");
            let json = json!({"store": store, "transfers": drained.transfers, "moves": drained.moves});
            Ok(Shown::new(text, json))
        }
    }
}

/// Adds what another store was told by whoever plans of what lies on each, if the first one could not ask.
fn fill_in_loads(answer: &mut StoresAnswer, told: &StoresAnswer) {
    if told.loads_missing.is_none() {
        answer.loads_missing = None;
    }
    for store in &mut answer.stores {
        let known = told.stores.iter().find(|known| known.store == store.store && known.bytes.is_some());
        if let Some(known) = known.filter(|_| store.bytes.is_none()) {
            (store.bytes, store.load_per_s) = (known.bytes, known.load_per_s);
            (store.regions, store.leaders) = (known.regions, known.leaders);
        }
    }
}

fn one(answer: RegionsAnswer) -> Result<crate::serve::RegionView, Failure> {
    answer.regions.into_iter().next().ok_or_else(|| Failure::new("the store's answer makes no sense"))
}

fn with_ok(mut object: Value, ok: bool) -> String {
    object["ok"] = Value::Bool(ok);
    object.to_string()
}

/// Prints a line.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{text}").and_then(|()| out.flush());
    said.map_err(|error| Failure::during("stdout cannot be written to", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_spoken_to_unless_told_otherwise() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert!(check_addresses(&addresses(&["127.0.0.1:1", "[::1]:1"]), false).is_ok());
        let beyond = addresses(&["127.0.0.1:1", "10.0.0.1:1"]);
        assert!(check_addresses(&beyond, false).unwrap_err().to_string().contains("10.0.0.1:1"));
        assert!(check_addresses(&beyond, true).is_ok());
    }

    #[test]
    fn every_object_says_whether_it_went_well() {
        assert_eq!(with_ok(json!({"a": 1}), true), "{\"a\":1,\"ok\":true}");
    }
}
