//! What there is to say of a run: checks, and figures in words and for machines.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::crowd::Tally;
use super::lone::{Diary, Silence, Write, longest_silence};
use super::memory::{Room, most};
use super::pipe::Said;
use super::{FAILOVER, Lost, Plan, Seen};
use crate::trouble::{Outcome, Trouble};

/// How a run has gone.
#[derive(Debug)]
pub struct Summary {
    /// Whether every check held.
    pub ok: bool,
    /// What there is to say, for a terminal.
    pub text: String,
    /// The same for machines, on one line.
    pub json: String,
}

struct Check {
    name: &'static str,
    ok: bool,
    line: String,
}

/// How the lone clients fared in one part.
struct Fared {
    part: &'static str,
    from: Duration,
    to: Duration,
    due: usize,
    done: usize,
    busy: usize,
    refused: usize,
    unknown: usize,
    p50: Duration,
    p99: Duration,
    longest: Duration,
    silence: Silence,
}

impl Fared {
    fn within(part: &'static str, diaries: &[Diary], from: Duration, to: Duration) -> Self {
        let due = || diaries.iter().flat_map(|diary| &diary.writes).filter(|write| (from..to).contains(&write.due));
        let told = |wanted: Said| due().filter(|write| write.answered.is_some_and(|(_, said)| said == wanted)).count();
        let mut latencies: Vec<Duration> = due().filter_map(Write::latency).collect();
        latencies.sort_unstable();
        Self {
            part,
            from,
            to,
            due: due().count(),
            done: latencies.len(),
            busy: told(Said::Busy),
            refused: told(Said::Refused),
            unknown: told(Said::Uncertain) + due().filter(|write| write.answered.is_none()).count(),
            p50: quantile(&latencies, 500),
            p99: quantile(&latencies, 990),
            longest: latencies.last().copied().unwrap_or_default(),
            silence: longest_silence(diaries, from, to),
        }
    }

    fn json(&self) -> Value {
        json!({
            "part": self.part, "from_ms": ms(self.from), "to_ms": ms(self.to), "due": self.due, "acknowledged": self.done,
            "busy": self.busy, "refused": self.refused, "unknown": self.unknown, "p50_ms": ms(self.p50), "p99_ms": ms(self.p99),
            "longest_ms": ms(self.longest), "silence_ms": ms(self.silence.length), "silence_from_ms": ms(self.silence.from),
            "silence_client": self.silence.client,
        })
    }
}

/// Of sorted lengths, the one that so many thousandths do not exceed.
fn quantile(sorted: &[Duration], permille: usize) -> Duration {
    let at = (sorted.len() * permille).div_ceil(1_000).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

fn ms(length: Duration) -> f64 {
    (length.as_secs_f64() * 10_000.0).round() / 10.0
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

pub(super) fn summary(plan: &Plan, seen: &Seen, lost: &Lost, panics: Outcome<()>, room: &Room) -> Summary {
    let parts = &seen.parts;
    // The stopped store is missed first of all; what comes after that is judged.
    let judged_from = (parts.hurt + FAILOVER).min(parts.healed);
    let fared = [
        Fared::within("quiet", &seen.diaries, parts.quiet, parts.crowded),
        Fared::within("crowded", &seen.diaries, parts.crowded, parts.hurt),
        Fared::within("failover", &seen.diaries, parts.hurt, judged_from),
        Fared::within("hurt", &seen.diaries, judged_from, parts.healed),
    ];
    let checks = checks(plan, seen, (lost, panics), room, &fared);
    let ok = checks.iter().all(|check| check.ok);
    let text = text(plan, seen, room, &fared, &checks, ok);
    let json = json!({
        "ok": ok,
        "command": plan.command,
        "checks": checks.iter().map(|check| json!({ "name": check.name, "ok": check.ok, "line": check.line })).collect::<Vec<_>>(),
        "stopped": seen.hurt.stopped + 1,
        "slow": seen.hurt.slow + 1,
        "delayed_calls": seen.delayed,
        "refused": seen.refused,
        "bound_bytes": room.bound(),
        "bound_parts": room.parts().iter().map(|(part, bytes)| json!({ "part": part, "bytes": bytes })).collect::<Vec<_>>(),
        "resident_bytes": resident(seen),
        "lone": fared.iter().map(Fared::json).collect::<Vec<_>>(),
        "crowd": json!({
            "clients": plan.clients, "payload": plan.payload, "outstanding_bytes": seen.outstanding * plan.payload as u64,
            "crowded": tally(&seen.crowded, parts.hurt.saturating_sub(parts.crowded)),
            "hurt": tally(&seen.hurting, parts.healed.saturating_sub(parts.hurt)),
        }),
        "healed_ms": seen.healed.as_ref().ok().map(|took| ms(*took)),
        "read_back": json!({ "keys": lost.read, "acknowledged": lost.acknowledged, "wrong": lost.wrong.len() }),
    });
    Summary { ok, text, json: json.to_string() }
}

fn checks(
    plan: &Plan,
    seen: &Seen,
    (lost, panics): (&Lost, Outcome<()>),
    room: &Room,
    fared: &[Fared; 4],
) -> Vec<Check> {
    let [quiet, crowded, _, hurt] = fared;
    let largest = seen.resident.iter().map(|resident| resident.most).max().unwrap_or(0);
    let bound = room.bound();
    let busy = seen.crowded.busy + seen.hurting.busy;
    let interval = Duration::from_secs(1) / u32::try_from(plan.rate).unwrap_or(1).max(1);
    // A client that writes every so often is never acknowledged more often.
    let allowed = plan.silence.unwrap_or(2 * crowded.p99 + interval);
    let of = |name, outcome: Outcome<String>| match outcome {
        Ok(line) => Check { name, ok: true, line },
        Err(trouble) => Check { name, ok: false, line: trouble.to_string() },
    };
    let wrong = match lost.wrong.first() {
        None if lost.acknowledged > 0 => {
            Ok(format!("{} keys read once more, {} of them acknowledged", lost.read, lost.acknowledged))
        }
        None => Err(Trouble::new("nothing was acknowledged, so nothing is shown")),
        Some(first) => Err(Trouble::new(format!("{} of {} keys, such as {first}", lost.wrong.len(), lost.read))),
    };
    vec![
        Check {
            name: "memory stays within its bound",
            ok: largest <= bound,
            line: format!("{} MiB at most, of {} MiB that the configuration allows", mib(largest), mib(bound)),
        },
        Check {
            name: "callers are told Busy",
            ok: seen.refused > 0,
            line: format!(
                "{} times by the engine; the front end tried again, and {busy} commands of {} were answered BUSY",
                seen.refused,
                seen.crowded.sent + seen.hurting.sent
            ),
        },
        of("nothing acknowledged is lost", wrong),
        Check {
            name: "lone clients are served all the time",
            ok: hurt.done > 0 && hurt.silence.length <= allowed,
            line: format!(
                "{:.0} ms without an acknowledgement at most (client {}, {:.1} s after the stop), where {:.0} ms are allowed; \
                 p99 {:.0} ms crowded, {:.1} ms quiet",
                ms(hurt.silence.length),
                hurt.silence.client,
                hurt.silence.from.saturating_sub(seen.parts.hurt).as_secs_f64(),
                ms(allowed),
                ms(crowded.p99),
                ms(quiet.p99)
            ),
        },
        Check {
            name: "the slow disk was met",
            ok: seen.delayed > 0,
            line: format!("{} calls were late", seen.delayed),
        },
        of(
            "all is well again",
            seen.healed
                .clone()
                .map(|took| format!("every store answers for every region {:.1} s after the end", took.as_secs_f64())),
        ),
        of("no store has panicked", panics.map(|()| "as far as their logs tell".to_owned())),
    ]
}

fn resident(seen: &Seen) -> Value {
    let parts = &seen.parts;
    let within = |from, to| most(&seen.looks, from, to);
    json!({
        "quiet": within(parts.quiet, parts.crowded),
        "crowded": within(parts.crowded, parts.hurt),
        "hurt": within(parts.hurt, parts.healed),
        "healed": within(parts.healed, Duration::MAX),
        "end": seen.resident.iter().map(|resident| resident.now).collect::<Vec<_>>(),
        "most": seen.resident.iter().map(|resident| resident.most).collect::<Vec<_>>(),
    })
}

fn tally(tally: &Tally, length: Duration) -> Value {
    let a_second = tally.done as f64 / length.as_secs_f64().max(0.001);
    json!({
        "sent": tally.sent, "acknowledged": tally.done, "acknowledged_per_s": a_second.round(), "busy": tally.busy,
        "refused": tally.refused, "uncertain": tally.uncertain, "unanswered": tally.unanswered,
    })
}

fn text(plan: &Plan, seen: &Seen, room: &Room, fared: &[Fared], checks: &[Check], ok: bool) -> String {
    let mut out = String::new();
    let mut say = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    say(format!("overload of three stores: {}", plan.command));
    say(format!(
        "store {} was stopped and the disk of store {} slowed by {:?} a call, for {} s; state {}",
        seen.hurt.stopped + 1,
        seen.hurt.slow + 1,
        plan.disk_delay,
        plan.seconds,
        plan.state
    ));
    say(String::new());
    say("lone clients (ms)    writes   acked  busy  refused  unknown      p50      p99  longest  silence".to_owned());
    for part in fared {
        say(format!(
            "{:<18} {:>8} {:>7} {:>5} {:>8} {:>8} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
            part.part,
            part.due,
            part.done,
            part.busy,
            part.refused,
            part.unknown,
            ms(part.p50),
            ms(part.p99),
            ms(part.longest),
            ms(part.silence.length)
        ));
    }
    say("(failover: the first seconds without the stopped store; silence: without an acknowledgement, in any client)"
        .to_owned());
    say(String::new());
    say("crowd                   sent    acked  acked/s      busy  refused  uncertain  unanswered".to_owned());
    let parts = &seen.parts;
    for (name, tally, length) in [
        ("crowded", &seen.crowded, parts.hurt.saturating_sub(parts.crowded)),
        ("hurt", &seen.hurting, parts.healed.saturating_sub(parts.hurt)),
    ] {
        say(format!(
            "{name:<18} {:>9} {:>8} {:>8.0} {:>9} {:>8} {:>10} {:>11}",
            tally.sent,
            tally.done,
            tally.done as f64 / length.as_secs_f64().max(0.001),
            tally.busy,
            tally.refused,
            tally.uncertain,
            tally.unanswered
        ));
    }
    say(format!(
        "({} clients; at most {} MiB on their way at once)",
        plan.clients,
        mib(seen.outstanding * plan.payload as u64)
    ));
    say(String::new());
    say("resident memory (MiB)  store 1  store 2  store 3".to_owned());
    let table = resident(seen);
    for name in ["quiet", "crowded", "hurt", "healed", "end", "most"] {
        let mut line = format!("{name:<22}");
        for bytes in table[name].as_array().into_iter().flatten() {
            let _ = write!(line, " {:>7} ", mib(bytes.as_u64().unwrap_or(0)));
        }
        say(line.trim_end().to_owned());
    }
    say(format!("bound: {} MiB", mib(room.bound())));
    for (part, bytes) in room.parts() {
        say(format!("  {:>6} {part}", mib(bytes)));
    }
    say(String::new());
    for check in checks {
        say(format!("{} {}: {}", if check.ok { "ok  " } else { "FAIL" }, check.name, check.line));
    }
    say(if ok { "all checks held".to_owned() } else { "NOT all checks held".to_owned() });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let of = |count: u64| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(quantile(&of(100), 990), Duration::from_millis(99));
        assert_eq!(quantile(&of(1), 990), Duration::from_millis(1));
        assert_eq!(quantile(&of(3), 500), Duration::from_millis(2));
        assert_eq!(quantile(&[], 500), Duration::ZERO);
    }
}
