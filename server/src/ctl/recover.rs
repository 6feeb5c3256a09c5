//! `multiraft ctl recover`: regions that have lost their quorum for good are brought back, on stopped stores.
//!
//! It asks no endpoint: there is nobody to ask. What is kept and what may be lost, the engine decides; see `docs/recovery.md`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use multiraft::recovery::{
    AppliedPlan, ApplyOptions, Keep, Loss, Plan, PlanId, PlanOptions, Recovery, RegionPlan, StoreSurvey, Verdict,
    fence_of, make_plan, unfinished,
};
use multiraft::{Engine, KeyRange, RegionDescriptor, RegionId, StateKind, StoreId};
use serde_json::{Value, json};

use super::{Shown, table};
use crate::cli::RecoverCommand;
use crate::error::Failure;
use crate::hex;
use crate::machine::KeyValue;

/// Carries one command out.
pub(super) fn run(command: &RecoverCommand) -> Result<Shown, Failure> {
    match command {
        RecoverCommand::Collect { dir, out } => collect(dir, out),
        RecoverCommand::Plan { dead, note, fill_gaps, out, surveys } => {
            let mut options = PlanOptions::default();
            options.fill_gaps = *fill_gaps;
            options.note.clone_from(note);
            plan(surveys, dead, &options, out)
        }
        RecoverCommand::Show { plan } => read_plan(plan).map(|plan| show(&plan)),
        RecoverCommand::Apply { dir, plan, confirm, accept_gaps } => apply(dir, plan, *confirm, *accept_gaps),
        RecoverCommand::Verify { plan, dirs } => verify(plan, dirs.iter().map(AsRef::as_ref)),
    }
}

/// The stopped store in a directory. Where its pairs are kept, the directory shows.
fn recovery(dir: &Path) -> Result<Recovery, Failure> {
    let kind = if dir.join("state").is_dir() { StateKind::Sled } else { StateKind::Memory };
    let builder = Engine::builder().data_dir(dir).state_machine(KeyValue).state(kind);
    builder.recovery().map_err(|error| Failure::new(error.to_string()))
}

fn collect(dir: &Path, out: &Path) -> Result<Shown, Failure> {
    let survey = recovery(dir)?.survey().map_err(|error| Failure::new(error.to_string()))?;
    write_new(out, &survey.encode())?;
    let (replicas, damaged) = (survey.replicas.len(), survey.damaged.len());
    let text =
        format!("store {}: {replicas} replicas, {damaged} out of service; written to {}", survey.store, out.display());
    let json = json!({
        "store": survey.store.get(),
        "incarnation": survey.incarnation.get(),
        "replicas": replicas,
        "damaged": survey.damaged.iter().map(|damaged| damaged.region.get()).collect::<Vec<_>>(),
        "file": out.display().to_string(),
    });
    Ok(Shown { text, json, complaint: None })
}

fn plan(surveys: &[impl AsRef<Path>], dead: &[u64], options: &PlanOptions, out: &Path) -> Result<Shown, Failure> {
    let mut collected = Vec::new();
    for path in surveys {
        let path = path.as_ref();
        let survey = StoreSurvey::decode(&read(path)?);
        collected.push(survey.map_err(|error| Failure::during(&path.display().to_string(), error))?);
    }
    let dead: Vec<StoreId> = dead.iter().copied().map(StoreId).collect();
    let plan = make_plan(&collected, &dead, options).map_err(|error| Failure::new(error.to_string()))?;
    write_new(out, &plan.encode())?;
    Ok(show(&plan))
}

fn apply(dir: &Path, plan: &Path, confirm: Option<PlanId>, accept_gaps: bool) -> Result<Shown, Failure> {
    let plan = read_plan(plan)?;
    let Some(confirm) = confirm else {
        let Shown { text, json, .. } = show(&plan);
        let complaint = Some(format!("nothing was done: say --confirm {} if that is what you want", plan.id()));
        return Ok(Shown { text, json, complaint });
    };
    let options = ApplyOptions::confirm(confirm);
    let options = if accept_gaps { options.accept_gaps() } else { options };
    let applied = recovery(dir)?.apply(&plan, &options).map_err(|error| Failure::new(error.to_string()))?;
    let AppliedPlan { store, plan, already, kept, removed, created, .. } = applied;
    let text = if already {
        format!("store {store}: plan {plan} had been carried out before, nothing was done")
    } else {
        format!(
            "store {store}: plan {plan} is carried out: {} regions kept, {} removed, {} made anew",
            kept.len(),
            removed.len(),
            created.len()
        )
    };
    let ids = |regions: Vec<RegionId>| regions.into_iter().map(RegionId::get).collect::<Vec<_>>();
    let json = json!({
        "store": store.get(),
        "plan": plan.to_string(),
        "already": already,
        "kept": ids(kept),
        "removed": ids(removed),
        "created": ids(created),
    });
    Ok(Shown { text, json, complaint: None })
}

fn verify<'a>(plan: &Path, dirs: impl Iterator<Item = &'a Path>) -> Result<Shown, Failure> {
    let plan = read_plan(plan)?;
    let mut fences = Vec::new();
    for dir in dirs {
        fences.push(fence_of(dir).map_err(|error| Failure::during(&dir.display().to_string(), error))?);
    }
    let missing: Vec<u64> = unfinished(&plan, &fences).into_iter().map(StoreId::get).collect();
    let done = plan.sources.len() - missing.len();
    let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let complaint = (!missing.is_empty())
        .then(|| format!("plan {} is not carried out on store {list}: do that before any store is started", plan.id()));
    let text = format!("plan {} is carried out on {done} of {} stores", plan.id(), plan.sources.len());
    let json = json!({"plan": plan.id().to_string(), "done": done, "missing": missing});
    Ok(Shown { text, json, complaint })
}

fn read_plan(path: &Path) -> Result<Plan, Failure> {
    Plan::decode(&read(path)?).map_err(|error| Failure::during(&path.display().to_string(), error))
}

fn read(path: &Path) -> Result<Bytes, Failure> {
    fs::read(path).map(Bytes::from).map_err(|error| Failure::file("read", path, error))
}

/// Writes a file that must not be there yet: what an earlier call has written may still be needed.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(format!("{} is there already: name another file, or remove it", path.display()))
        }
        _ => Failure::file("write", path, error),
    })
}

/// A plan, for a person and for a program.
fn show(plan: &Plan) -> Shown {
    let mut rows = vec![["region", "range", "verdict", "store", "loss"].map(str::to_owned).to_vec()];
    let mut notes = Vec::new();
    for region in &plan.regions {
        let Row { verdict, store, loss, range } = row(region);
        let id = region.known.id;
        let store = store.map_or_else(|| "-".to_owned(), |store| store.to_string());
        rows.push(vec![id.to_string(), range_text(id, &range), verdict, store, loss.unwrap_or_else(|| "-".to_owned())]);
        notes.extend(region.notes.iter().map(|note| format!("region {id}: {note}")));
        if let Verdict::Refused { reason } = &region.verdict {
            notes.push(format!("region {id} is refused: {reason}"));
        }
    }
    notes.extend(plan.gaps.iter().map(|gap| format!("no region owns {} afterwards", range_text(RegionId::ZERO, gap))));
    if !plan.does_something() {
        notes.push("there is nothing to recover: start the survivors".to_owned());
    }
    let dead: Vec<u64> = plan.dead.iter().copied().map(StoreId::get).collect();
    let names = dead.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let head = format!("plan {}: stores {names} are given up for good", plan.id());
    let parts = std::iter::once(head).chain(std::iter::once(table::columns(&rows))).chain(notes);
    let json = json!({
        "plan": plan.id().to_string(),
        "dead": dead,
        "note": plan.note,
        "does_something": plan.does_something(),
        "regions": plan.regions.iter().map(region_json).collect::<Vec<_>>(),
        "gaps": plan.gaps.iter().map(range_json).collect::<Vec<_>>(),
        "unrecovered": plan.unrecovered().map(|region| region.known.id.get()).collect::<Vec<_>>(),
    });
    Shown { text: parts.collect::<Vec<_>>().join("\n"), json, complaint: None }
}

/// What there is to say of a region's verdict.
struct Row {
    verdict: String,
    store: Option<u64>,
    loss: Option<String>,
    range: KeyRange,
}

fn row(region: &RegionPlan) -> Row {
    let plain =
        |verdict: &str| Row { verdict: verdict.to_owned(), store: None, loss: None, range: region.known.range.clone() };
    let made = |verdict: &str, store: StoreId, loss: &str, becomes: &RegionDescriptor| Row {
        verdict: verdict.to_owned(),
        store: Some(store.get()),
        loss: Some(loss.to_owned()),
        range: becomes.range.clone(),
    };
    match &region.verdict {
        Verdict::Healthy => plain("healthy"),
        Verdict::Keep(Keep { store, loss, becomes, .. }) => {
            let loss = match loss {
                Loss::Nothing => "nothing".to_owned(),
                Loss::Possible => "possible".to_owned(),
                Loss::Certain { upto } => format!("certain, up to entry {upto}"),
            };
            made("keep", *store, &loss, becomes)
        }
        Verdict::Superseded { .. } => plain("superseded"),
        Verdict::Waits { on } => plain(&format!("waits for region {on}")),
        Verdict::Create { store, becomes } => made("create", *store, "everything", becomes),
        Verdict::Refused { .. } => plain("refused"),
        // Also whatever verdicts a newer engine knows.
        _ => Row { loss: Some("everything".to_owned()), ..plain("lost") },
    }
}

fn region_json(region: &RegionPlan) -> Value {
    let Row { verdict, store, loss, range } = row(region);
    let mut json = json!({
        "id": region.known.id.get(),
        "verdict": verdict,
        "store": store,
        "loss": loss,
        "range": range_json(&range),
        "notes": region.notes,
    });
    match &region.verdict {
        Verdict::Keep(keep) => {
            json["applied"] = keep.applied.0.get().into();
            json["last"] = keep.last.0.get().into();
            json["replica"] = keep.becomes.replicas.first().map(|replica| replica.id.get()).into();
        }
        Verdict::Refused { reason } => json["reason"] = reason.as_str().into(),
        _ => {}
    }
    json
}

fn range_json(range: &KeyRange) -> Value {
    json!({"start": hex::encode(&range.start), "end": hex::encode(&range.end)})
}

fn range_text(region: RegionId, range: &KeyRange) -> String {
    if region == RegionId::ROOT {
        return "-".to_owned();
    }
    format!("{}..{}", table::key(&hex::encode(&range.start)), table::key(&hex::encode(&range.end)))
}
