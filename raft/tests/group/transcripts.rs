//! Whole scenarios as transcripts that a person can read: `../transcripts/*.txt`.
//!
//! A line that begins with `> ` is a command, one with `#` a remark; everything else is what the command printed. A test
//! runs the commands again and compares. `UPDATE_TRANSCRIPTS=1 cargo nextest run -p multiraft-raft transcripts` writes
//! what is printed now; read the difference before you keep it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::script::Script;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn replay(name: &str) {
    let path = folder().join(format!("{name}.txt"));
    let recorded = fs::read_to_string(&path).expect("the transcript is there");
    let mut script = Script::new();
    let mut replayed = String::new();
    for line in recorded.lines().filter(|line| line.is_empty() || line.starts_with('#') || line.starts_with("> ")) {
        // Blank lines and remarks stay where they are; output is made anew.
        replayed.push_str(line);
        replayed.push('\n');
        if let Some(command) = line.strip_prefix("> ") {
            for printed in script.run(command) {
                replayed.push_str(&printed);
                replayed.push('\n');
            }
        }
    }
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        fs::write(&path, replayed).expect("the transcript can be written");
        return;
    }
    let differs = recorded.lines().zip(replayed.lines()).position(|(recorded, replayed)| recorded != replayed);
    let at = differs.unwrap_or_else(|| recorded.lines().count().min(replayed.lines().count()));
    assert!(
        recorded == replayed,
        "{name}.txt differs from line {}:\n  recorded: {}\n  now:      {}",
        at + 1,
        recorded.lines().nth(at).unwrap_or("(end)"),
        replayed.lines().nth(at).unwrap_or("(end)"),
    );
}

macro_rules! transcripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        #[test]
        fn every_transcript_has_a_test() {
            let mut found: Vec<_> = fs::read_dir(folder())
                .expect("the folder is there")
                .map(|entry| entry.expect("readable").path().file_stem().expect("a name").to_string_lossy().into_owned())
                .collect();
            found.sort();
            let mut listed = vec![$(stringify!($name).to_owned()),*];
            listed.sort();
            assert_eq!(found, listed);
        }
    };
}

transcripts![
    aba_of_an_overwritten_append_is_not_acknowledged,
    append_lost_without_notice_is_found_by_a_heartbeat,
    asymmetric_partition_costs_the_leader_its_quorum,
    change_adds_a_learner_and_promotes_it,
    change_goes_in_and_out_of_a_joint_configuration,
    change_removes_the_leader,
    commit_news_waits_for_a_heartbeat_unless_eager,
    disk_that_never_flushes_says_nothing,
    election_needs_a_pre_vote_first,
    figure_7_followers_come_to_the_leaders_log,
    isolated_replica_with_a_high_term_gets_free,
    new_leader_commits_no_old_entry_by_counting,
    peer_is_paused_and_resumed,
    pipeline_is_limited_and_recovers_from_a_lost_link,
    pre_vote_is_refused_while_the_leader_lives,
    read_index_waits_for_the_first_commit,
    restart_keeps_term_and_vote,
    single_voter_commits_alone,
    snapshot_brings_a_follower_back,
    transfer_hands_over_or_gives_up,
    unapplied_change_keeps_a_replica_from_campaigning,
    witness_votes_and_never_campaigns,
];
