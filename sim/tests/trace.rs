//! Traces of one group against the actions of etcd's TLA+ specification of Raft, written out here as a plain machine: every
//! line must be a step that the machine can take, and show the state that it then is in (of received messages: the state
//! before).

use std::collections::{BTreeMap, BTreeSet};

use multiraft_sim::trace::trace;
use serde_json::Value;

type Name = String;

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    term: u64,
    /// The voters that it brings, if it is a change.
    voters: Option<BTreeSet<Name>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Say {
    Vote {
        last: u64,
        last_term: u64,
    },
    Voted(bool),
    /// `kind`: app, heartbeat, snapshot.
    Append {
        kind: &'static str,
        prev: u64,
        prev_term: u64,
        entries: Vec<Entry>,
        commit: u64,
    },
    Appended {
        kind: &'static str,
        success: bool,
        matched: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
struct Message {
    from: Name,
    to: Name,
    term: u64,
    say: Say,
}

#[derive(Clone, Debug, Default)]
struct Node {
    term: u64,
    vote: Name,
    role: &'static str,
    log: Vec<Entry>,
    commit: u64,
    voters: BTreeSet<Name>,
    granted: BTreeSet<Name>,
    matched: BTreeMap<Name, u64>,
    pending_change: u64,
    durable: Option<Box<Node>>,
    pending: Vec<Message>,
}

impl Node {
    fn term_at(&self, index: u64) -> u64 {
        index.checked_sub(1).and_then(|at| self.log.get(at as usize)).map_or(0, |entry| entry.term)
    }

    fn last(&self) -> u64 {
        self.log.len() as u64
    }

    fn follow(&mut self, term: u64) {
        if term != self.term {
            self.vote = "0".to_owned();
        }
        (self.term, self.role) = (term, "StateFollower");
    }

    /// Takes one step with a message; true when it is done with.
    fn handle(&mut self, message: &Message) -> bool {
        if message.term > self.term {
            self.follow(message.term);
            return false;
        }
        let is_old = message.term < self.term;
        let say = match &message.say {
            Say::Vote { last, last_term } => {
                let is_covered = (*last_term, *last) >= (self.term_at(self.last()), self.last());
                let grant = !is_old && is_covered && (self.vote == "0" || self.vote == message.from);
                if grant {
                    self.vote.clone_from(&message.from);
                }
                Say::Voted(grant)
            }
            Say::Voted(granted) => {
                if *granted && !is_old {
                    self.granted.insert(message.from.clone());
                }
                return true;
            }
            Say::Appended { success, matched, .. } => {
                if *success && !is_old {
                    let known = self.matched.entry(message.from.clone()).or_default();
                    *known = (*known).max(*matched);
                }
                return true;
            }
            Say::Append { kind, prev, prev_term, entries, commit } => {
                let fits = *prev == 0 || (*prev <= self.last() && self.term_at(*prev) == *prev_term);
                if !is_old && self.role == "StateCandidate" {
                    self.role = "StateFollower";
                    return false;
                }
                assert!(
                    is_old || self.role == "StateFollower",
                    "a leader hears of another one of its term: {message:?}"
                );
                if is_old || !fits {
                    Say::Appended { kind: "app", success: false, matched: 0 }
                } else if let Some(done) = self.append(kind, *prev, entries, *commit) {
                    done
                } else {
                    return false;
                }
            }
        };
        self.pending.push(Message { from: message.to.clone(), to: message.from.clone(), term: self.term, say });
        true
    }

    fn append(&mut self, kind: &'static str, prev: u64, entries: &[Entry], commit: u64) -> Option<Say> {
        let (index, reach) = (prev + 1, prev + entries.len() as u64);
        if index <= self.commit {
            let matched = if kind == "heartbeat" { reach } else { self.commit };
            if kind == "heartbeat" {
                self.commit = self.commit.max(commit);
            }
            return Some(Say::Appended { kind, success: true, matched });
        }
        let agrees =
            |(offset, entry): (u64, &Entry)| index + offset > self.last() || self.term_at(index + offset) == entry.term;
        if !entries.is_empty() && !(0..).zip(entries).all(agrees) {
            self.log.pop();
            return None;
        }
        if reach > self.last() {
            let known = (self.last() + 1 - index) as usize;
            self.log.extend_from_slice(&entries[known..]);
            return None;
        }
        self.commit = self.commit.max(commit.min(reach));
        Some(Say::Appended { kind, success: true, matched: reach })
    }
}

#[derive(Debug, Default)]
struct Machine {
    nodes: BTreeMap<Name, Node>,
    messages: Vec<Message>,
}

fn text(value: &Value) -> Name {
    value.as_str().expect("a string").to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn set(value: &Value) -> BTreeSet<Name> {
    value.as_array().expect("a list").iter().map(text).collect()
}

fn role(value: &Value) -> &'static str {
    ["StateFollower", "StateCandidate", "StateLeader"].into_iter().find(|role| value == role).expect("a role")
}

impl Machine {
    fn introduce(&mut self, event: &Value) {
        let voters =
            if event["name"] == "ApplyConfChange" { &event["prop"]["cc"]["newconf"] } else { &event["conf"][0] };
        let entry = Entry { term: 1, voters: Some(set(voters)) };
        let mut node = Node {
            term: number(&event["state"]["term"]),
            vote: text(&event["state"]["vote"]),
            role: role(&event["role"]),
            log: vec![entry; number(&event["log"]) as usize],
            commit: number(&event["state"]["commit"]),
            voters: set(voters),
            ..Node::default()
        };
        node.durable = Some(Box::new(node.clone()));
        self.nodes.insert(text(&event["nid"]), node);
    }

    fn assert_shows(&self, event: &Value) {
        let node = &self.nodes[&text(&event["nid"])];
        let shown = (&event["state"], role(&event["role"]), number(&event["log"]), set(&event["conf"][0]));
        assert_eq!(number(&shown.0["term"]), node.term, "term");
        assert_eq!(text(&shown.0["vote"]), node.vote, "vote");
        assert_eq!(number(&shown.0["commit"]), node.commit, "commit");
        assert_eq!((shown.1, shown.2, shown.3), (node.role, node.last(), node.voters.clone()), "role, log, conf");
    }

    /// Takes the step of one line. `before`: the line before it of the same node.
    fn step(&mut self, event: &Value, before: Option<&Value>) {
        let id = text(&event["nid"]);
        let name = event["name"].as_str().expect("a name");
        if name.starts_with("Receive") {
            self.assert_shows(event);
            return self.receive(event);
        }
        let to_itself = event["msg"]["from"] == event["msg"]["to"];
        if name.starts_with("Send") && name.ends_with("Response") && !to_itself {
            return;
        }
        let node = self.nodes.get_mut(&id).expect("an introduced node");
        match name {
            "BecomeFollower" if follows_a_message(event, before) => return,
            "BecomeFollower" => {
                assert_ne!(node.role, "StateFollower");
                node.follow(node.term);
            }
            "BecomeCandidate" => {
                assert!(node.role != "StateLeader" && node.voters.contains(&id));
                (node.role, node.term, node.vote) = ("StateCandidate", node.term + 1, id.clone());
                node.granted.clear();
            }
            "BecomeLeader" => {
                assert_eq!(node.role, "StateCandidate");
                let granted = node.granted.intersection(&node.voters).count();
                assert!(granted * 2 > node.voters.len(), "no quorum voted");
                node.role = "StateLeader";
                node.matched = BTreeMap::from([(id.clone(), node.last())]);
            }
            "Replicate" | "ChangeConf" => return replicate(node, event),
            "Commit" => advance(node),
            "ApplyConfChange" => {
                let committed = (1..=node.commit).rev();
                let (index, voters) = committed
                    .filter_map(|index| node.log[index as usize - 1].voters.clone().map(|voters| (index, voters)))
                    .next()
                    .expect("a committed change");
                assert_eq!(voters, set(&event["prop"]["cc"]["newconf"]), "the last committed change");
                node.voters = voters;
                if node.role == "StateLeader" && node.pending_change >= index {
                    node.pending_change = 0;
                }
                return;
            }
            "Ready" => {
                self.messages.append(&mut node.pending);
                node.durable = Some(Box::new(Node { durable: None, ..node.clone() }));
                return;
            }
            "InitState" => restart(node),
            _ if name.starts_with("Send") => send(node, event),
            other => panic!("unknown event {other}"),
        }
        if name != "BecomeCandidate" {
            self.assert_shows(event);
        }
    }

    fn receive(&mut self, event: &Value) {
        let shown = &event["msg"];
        let at = self.messages.iter().position(|message| is_shown(message, shown)).expect("a message that was sent");
        let message = self.messages.swap_remove(at);
        let node = self.nodes.get_mut(&message.to).expect("an introduced node");
        while !node.handle(&message) {}
    }
}

fn follows_a_message(event: &Value, before: Option<&Value>) -> bool {
    let Some(before) = before.filter(|before| text(&before["name"]).starts_with("Receive")) else { return false };
    let (mine, its) = (number(&before["state"]["term"]), number(&before["msg"]["term"]));
    let is_named = its == number(&event["state"]["term"]);
    let returned = before["name"] == "ReceiveAppendEntriesRequest" && mine == its && before["role"] == "StateCandidate";
    is_named && (mine < its || returned)
}

fn replicate(node: &mut Node, event: &Value) {
    assert_eq!(node.role, "StateLeader");
    let mut voters = None;
    if event["name"] == "ChangeConf" {
        assert_eq!(node.pending_change, 0, "one change at a time");
        let change = &event["prop"]["cc"]["changes"][0];
        let mut changed = node.voters.clone();
        let is_new = match change["action"].as_str() {
            Some("AddNewServer") => changed.insert(text(&change["nid"])),
            _ => changed.remove(&text(&change["nid"])),
        };
        assert!(is_new);
        node.pending_change = node.last() + 1;
        voters = Some(changed);
    }
    node.log.push(Entry { term: node.term, voters });
}

fn advance(node: &mut Node) {
    assert_eq!(node.role, "StateLeader");
    let holds = |index| node.voters.iter().filter(|id| node.matched.get(*id).copied().unwrap_or(0) >= index).count();
    let agreed = (1..=node.last()).rev().find(|index| holds(*index) * 2 > node.voters.len());
    if let Some(index) = agreed.filter(|index| node.term_at(*index) == node.term) {
        node.commit = node.commit.max(index);
    }
}

fn restart(node: &mut Node) {
    let mut durable = *node.durable.clone().expect("saved at the start");
    durable.role = "StateFollower";
    durable.log = node.log[..durable.log.len()].to_vec();
    (durable.pending_change, durable.pending) = (0, Vec::new());
    durable.matched.clear();
    durable.granted.clear();
    durable.durable = node.durable.take();
    *node = durable;
}

fn send(node: &mut Node, event: &Value) {
    let shown = &event["msg"];
    let (from, to) = (text(&shown["from"]), text(&shown["to"]));
    let last = node.last();
    let say = match shown["type"].as_str().expect("a type") {
        "MsgVote" => Say::Vote { last, last_term: node.term_at(last) },
        "MsgVoteResp" => Say::Voted(true),
        "MsgAppResp" => Say::Appended { kind: "app", success: true, matched: last },
        "MsgHeartbeat" => {
            let matched = node.matched.get(&to).copied().unwrap_or(0);
            Say::Append { kind: "heartbeat", prev: 0, prev_term: 0, entries: vec![], commit: node.commit.min(matched) }
        }
        kind => {
            let prev = number(&shown["index"]);
            let reach = prev + number(&shown["entries"]);
            assert!(reach <= last && prev >= node.matched.get(&to).copied().unwrap_or(0) * u64::from(kind == "MsgApp"));
            let kind = if kind == "MsgApp" { "app" } else { "snapshot" };
            let entries = node.log[prev as usize..reach as usize].to_vec();
            Say::Append { kind, prev, prev_term: node.term_at(prev), entries, commit: node.commit.min(reach) }
        }
    };
    let is_vote = matches!(say, Say::Vote { .. } | Say::Voted(_));
    assert_eq!(node.role, if is_vote { "StateCandidate" } else { "StateLeader" });
    assert!(from == to || node.voters.contains(&to), "only members are written to");
    let message = Message { from, to, term: node.term, say };
    assert!(is_shown(&message, shown), "{message:?} is not {shown}");
    node.pending.push(message);
}

fn is_shown(message: &Message, shown: &Value) -> bool {
    let (index, log_term, commit) = (number(&shown["index"]), number(&shown["logTerm"]), number(&shown["commit"]));
    let (count, granted) = (number(&shown["entries"]), shown["reject"] == false);
    let fits = match (&message.say, shown["type"].as_str()) {
        (Say::Vote { last, last_term }, Some("MsgVote")) => (*last, *last_term) == (index, log_term),
        (Say::Voted(vote), Some("MsgVoteResp")) => *vote == granted,
        (Say::Append { kind: "app", prev, prev_term, entries, commit: worth }, Some("MsgApp")) => {
            (*prev, *prev_term, entries.len() as u64, *worth) == (index, log_term, count, commit)
        }
        (Say::Append { kind: "heartbeat", commit: worth, .. }, Some("MsgHeartbeat")) => *worth == commit,
        (Say::Append { kind: "snapshot", entries, .. }, Some("MsgSnap")) => entries.len() as u64 == count,
        (Say::Appended { kind: "app", success, matched }, Some("MsgAppResp")) => {
            *success == granted && (!success || *matched == index)
        }
        (Say::Appended { kind: "heartbeat", success, .. }, Some("MsgHeartbeatResp")) => *success == granted,
        _ => false,
    };
    fits && shown["from"] == *message.from && shown["to"] == *message.to && number(&shown["term"]) == message.term
}

/// Replays a trace; returns how often each event occurred.
fn replay(seed: u64) -> BTreeMap<String, usize> {
    let lines: Vec<Value> = trace(seed).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() <= 1000, "seed {seed}: {} lines", lines.len());
    let is_first = |name: &str| ["InitState", "BecomeFollower", "ApplyConfChange"].contains(&name);
    let mut machine = Machine::default();
    let mut settled: BTreeSet<Name> = BTreeSet::new();
    let mut before: BTreeMap<Name, Value> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["tag"], "trace");
        let event = &line["event"];
        let (id, name) = (text(&event["nid"]), text(&event["name"]));
        let step = std::panic::AssertUnwindSafe(|| {
            if !settled.contains(&id) && is_first(&name) {
                machine.introduce(event);
            } else {
                settled.insert(id.clone());
                machine.step(event, before.get(&id));
            }
        });
        let taken = std::panic::catch_unwind(step);
        assert!(taken.is_ok(), "no step of the specification: seed {seed}, line {}: {line}", at + 1);
        let kind = event["msg"]["type"].as_str().map_or(name.clone(), |kind| format!("{name} {kind}"));
        *counts.entry(kind).or_default() += 1;
        before.insert(id, event.clone());
    }
    counts
}

#[test]
fn every_line_is_a_step_of_the_specification() {
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..60 {
        for (kind, count) in replay(seed) {
            *all.entry(kind).or_default() += count;
        }
    }
    for kind in [
        "BecomeLeader",
        "Commit",
        "ChangeConf",
        "ApplyConfChange",
        "InitState",
        "ReceiveAppendEntriesRequest MsgApp",
        "ReceiveAppendEntriesRequest MsgSnap",
        "ReceiveAppendEntriesRequest MsgHeartbeat",
        "ReceiveAppendEntriesResponse MsgAppResp",
        "ReceiveRequestVoteResponse MsgVoteResp",
    ] {
        assert!(all.get(kind).copied().unwrap_or(0) >= 20, "{kind}: {all:?}");
    }
}

#[test]
fn a_seed_repeats_its_trace() {
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
