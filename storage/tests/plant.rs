//! The planted bug of the disk: what was reported as durable goes with the process.

#![cfg(feature = "torture")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use log_harness::{append, batch};
use multiraft_raft::{FlushProof, LogTicket, RegionId};
use multiraft_storage::plant::{ORDER, Plant};
use multiraft_storage::{LogOptions, LogWriter, RealDisk, Recovered};

/// Tells the process that is to die where its log is.
const DIR: &str = "MULTIRAFT_PLANT_TEST_DIR";

fn open(dir: &Path) -> (LogWriter, Recovered) {
    let disk = RealDisk::open(dir).unwrap();
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    let (writer, _, recovered) = LogWriter::open(Arc::new(disk), options).unwrap();
    (writer, recovered)
}

#[test]
fn what_was_acknowledged_is_lost_with_the_process() {
    if let Some(dir) = std::env::var_os(DIR) {
        let (mut writer, _) = open(Path::new(&dir));
        let tokens = writer.commit(vec![batch(0, 1, vec![append(7, 1, 1, 3)])]).unwrap();
        assert!(tokens[0].covers(LogTicket { lane: 0, seq: 1 }), "acknowledged");
        // As a kill does.
        std::process::abort();
    }
    for (order, is_kept) in [(None, true), (Some(Plant::AckBeforeFsync.name()), false)] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let mut command = Command::new("timeout");
        command.arg("60").arg(std::env::current_exe().unwrap());
        command.args(["--exact", "what_was_acknowledged_is_lost_with_the_process"]).env(DIR, dir.path());
        command.envs(order.map(|name| (ORDER, name)));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !said.contains("panicked"), "{said}");
        let (_, recovered) = open(dir.path());
        assert_eq!(recovered.groups.contains_key(&RegionId(7)), is_kept, "{order:?}");
        assert!(recovered.damage.is_empty());
    }
}
