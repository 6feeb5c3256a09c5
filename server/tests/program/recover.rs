//! `multiraft ctl recover` on the directories of real stores: two of three are lost for good, the third goes on.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Cluster, failure, run};

fn recover(arguments: &[&str]) -> Output {
    run(&["ctl", "--json", "recover"].into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>())
}

/// The object in the last line.
fn last(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The object of a command that must have gone well.
fn done(output: &Output) -> Value {
    let object = last(output);
    assert!(output.status.success() && object["ok"] == true, "{object}");
    object
}

/// What a command that must fail has said.
fn refused(output: &Output) -> String {
    let said = failure(output);
    assert_eq!(last(output)["ok"], false);
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// All files below a directory, with what is in them; locks aside.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else if !path.ends_with("LOCK") {
            let bytes = std::fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

fn written(cluster: &Cluster, at: usize) {
    let mut client = cluster.client(at);
    for n in 0..50 {
        assert_eq!(client.ask(&format!("SET key{n} {n}")), "+OK|");
    }
}

/// Waits until a store's own replicas hold what was written.
fn held(cluster: &Cluster, at: usize, count: u64) {
    let begun = Instant::now();
    loop {
        let (_, status) = crate::harness::http(cluster.stores[at].admin, "GET /status HTTP/1.1", "");
        let status: Value = serde_json::from_str(&status).unwrap();
        let region = status["regions"].as_array().unwrap().iter().find(|region| region["id"] == 2).unwrap();
        if region["applied"].as_u64().unwrap() >= count {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{region}");
    }
}

fn the_third_store_goes_on(state: &str) {
    let mut cluster = Cluster::start(&["--bootstrap-regions", "1", "--state", state]);
    written(&cluster, 0);
    held(&cluster, 2, 50);
    let dir = cluster.data_dir(2);
    let (survey, plan) = (cluster.path().join("3.survey"), cluster.path().join("the.plan"));
    let running = recover(&["collect", "--dir", text(&dir), "--out", text(&survey)]);
    assert!(refused(&running).contains("in use"));
    (0..3).for_each(|at| cluster.kill(at));

    let collected = done(&recover(&["collect", "--dir", text(&dir), "--out", text(&survey)]));
    assert_eq!((&collected["store"], &collected["replicas"]), (&3.into(), &2.into()));
    let again = refused(&recover(&["collect", "--dir", text(&dir), "--out", text(&survey)]));
    assert!(again.contains("is there already"), "{again}");
    let make = |dead: &str| recover(&["plan", "--dead", dead, "--note", "a test", "--out", text(&plan), text(&survey)]);
    assert!(refused(&make("1")).contains("a quorum may be alive"));
    assert!(refused(&make("1,2,3")).contains("is not dead"));
    let planned = done(&make("1,2"));
    let id = planned["plan"].as_str().unwrap().to_owned();
    assert!(planned["regions"].as_array().unwrap().iter().all(|region| region["verdict"] == "keep"), "{planned}");
    assert_eq!(done(&recover(&["show", text(&plan)]))["plan"], id.as_str());

    bad_input_changes_nothing(&cluster, &dir, &survey, &plan);
    let verify = || recover(&["verify", "--plan", text(&plan), text(&dir)]);
    assert!(refused(&verify()).contains("not carried out on store 3"));
    let apply = || recover(&["apply", "--dir", text(&dir), "--plan", text(&plan), "--confirm", &id]);
    assert_eq!(done(&apply())["kept"], serde_json::json!([1, 2]));
    assert_eq!(done(&apply())["already"], true);
    assert_eq!(done(&verify())["done"], 1);

    cluster.spawn(2);
    cluster.wait_ready(2);
    let mut client = cluster.client(2);
    for n in 0..50 {
        let wanted = format!("${}|{n}|", n.to_string().len());
        assert_eq!(client.ask(&format!("GET key{n}")), wanted);
    }
    assert_eq!(client.ask("SET more 1"), "+OK|");
    let region = done(&cluster.ctl(2, "region 2"));
    let record = &region["region"]["recovered"];
    assert_eq!((&record["plan"], &record["note"]), (&id.as_str().into(), &"a test".into()), "{region}");
    // One that comes back from the dead is told, and ends.
    cluster.spawn(0);
    assert_eq!(cluster.wait_end(0), Some(1));
}

/// Files and directories that are not meant, and a plan that was not read.
fn bad_input_changes_nothing(cluster: &Cluster, dir: &Path, survey: &Path, plan: &Path) {
    let before = contents(dir);
    let apply = |dir: &Path, plan: &Path, confirm: &str| {
        refused(&recover(&["apply", "--dir", text(dir), "--plan", text(plan), "--confirm", confirm]))
    };
    let other = "0000000000000000";
    assert!(apply(dir, plan, other).contains("confirm exactly that"));
    assert!(refused(&recover(&["apply", "--dir", text(dir), "--plan", text(plan)])).contains("nothing was done"));
    assert!(
        apply(dir, survey, other).contains("a plan is needed") || apply(dir, survey, other).contains("where a plan")
    );
    let id = done(&recover(&["show", text(plan)]))["plan"].as_str().unwrap().to_owned();
    assert!(apply(cluster.path(), plan, &id).contains("no data directory"));
    assert!(apply(&cluster.data_dir(0), plan, &id).contains("not made from store 1"));
    let damaged = cluster.path().join("damaged.plan");
    let mut bytes = std::fs::read(plan).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    assert!(apply(dir, &damaged, &id).contains("damaged"));
    std::fs::write(&damaged, "not a plan").unwrap();
    assert!(apply(dir, &damaged, &id).contains("no file of a recovery"));
    assert!(apply(dir, &cluster.path().join("nowhere"), &id).contains("cannot read"));
    let says = String::from_utf8_lossy(
        &recover(&["apply", "--dir", text(dir), "--plan", text(plan), "--confirm", "x"]).stderr,
    )
    .into_owned();
    assert!(says.contains("16 hexadecimal digits"), "{says}");
    assert!(contents(dir) == before, "nothing has changed");
}

#[test]
fn the_third_store_goes_on_with_pairs_on_disk() {
    the_third_store_goes_on("sled");
}

#[test]
fn the_third_store_goes_on_with_pairs_in_memory() {
    the_third_store_goes_on("mem");
}

/// Copies a data directory.
fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").args(["-r", text(from), text(to)]).status().unwrap();
    assert!(copied.success());
}

#[test]
fn a_plan_whose_carrying_out_is_killed_is_carried_out_again() {
    let mut cluster = Cluster::start(&["--bootstrap-regions", "24", "--state", "sled"]);
    written(&cluster, 0);
    (0..3).for_each(|at| cluster.kill(at));
    let (dir, saved) = (cluster.data_dir(1), cluster.path().join("saved"));
    let (survey, plan) = (cluster.path().join("2.survey"), cluster.path().join("the.plan"));
    done(&recover(&["collect", "--dir", text(&dir), "--out", text(&survey)]));
    let planned = done(&recover(&["plan", "--dead", "1,3", "--out", text(&plan), text(&survey)]));
    let id = planned["plan"].as_str().unwrap().to_owned();
    copy(&dir, &saved);
    let arguments = ["ctl", "--json", "recover", "apply", "--dir", text(&dir), "--plan", text(&plan), "--confirm", &id];
    let mut unfinished = 0;
    for delay in [10, 30, 60, 100, 200, 400] {
        std::fs::remove_dir_all(&dir).unwrap();
        copy(&saved, &dir);
        let mut child =
            crate::harness::multiraft().args(arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
        #[expect(clippy::disallowed_methods, reason = "it is killed at whatever it is doing then")]
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        unfinished += u32::from(!recover(&["verify", "--plan", text(&plan), text(&dir)]).status.success());
        let kept = done(&run(&arguments));
        assert!(kept["already"] == true || kept["kept"].as_array().unwrap().len() == 25, "{kept}");
        done(&recover(&["verify", "--plan", text(&plan), text(&dir)]));
    }
    assert!(unfinished > 0, "some were killed before they had ended");
    cluster.spawn(1);
    cluster.wait_ready(1);
    let mut client = cluster.client(1);
    assert_eq!(client.ask("SET key1 again"), "+OK|");
    let listed = done(&cluster.ctl(1, "regions"));
    assert_eq!(listed["regions"].as_array().unwrap().len(), 25);
}
