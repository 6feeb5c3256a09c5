//! The report as a page: one file of HTML with its drawings and its style, which needs no script and fetches nothing.
//!
//! [`markup`] keeps foreign texts from becoming markup and bounds them; the drawings of [`figure`] are made twice, for wide
//! screens and for phones, since letters of a drawing shrink with it. A policy in the head forbids the browser whatever the
//! page has no use for.

mod figure;
mod markup;
mod strip;
mod tables;

use markup::Markup;

use super::account::{Account, Verdict};
use super::answers::length;
use super::words::{count, counted, duration, share};
use super::{Check, Facts};

const STYLE: &str = include_str!("style.css");

/// How many of each kind are told at most.
const CHECKS_TOLD: usize = 200;
const DETAILS_TOLD: usize = 400;
const LINES_TOLD: usize = 100;
/// How many bytes of texts from outside parts may have; all together well below what the page may have.
const HEAD_ALLOWED: usize = 40_000;
const CHECKS_ALLOWED: usize = 400_000;
const FAULTS_ALLOWED: usize = 300_000;
const GROUND_ALLOWED: usize = 60_000;

pub(super) fn write(facts: &Facts<'_>, account: &Account<'_>) -> String {
    let mut page = Markup::default();
    page.allow(HEAD_ALLOWED);
    write_head(&mut page, facts, account);
    page.raw("<main>\n");
    write_verdict(&mut page, facts, account);
    write_key_figures(&mut page, account);
    write_checks(page.allow(CHECKS_ALLOWED), &facts.checks);
    page.raw("<section>\n<h2>What was answered, and under which faults</h2>\n").allow(FAULTS_ALLOWED);
    figure::draw(&mut page, account, &figure::WIDE);
    figure::draw(&mut page, account, &figure::NARROW);
    page.raw(
        "<p class=\"note\">Answers are counted when they came, latencies stand where the operation was asked for. ",
    );
    page.raw("Whatever there was is at least a pixel high. A column says more when pointed at.</p>\n</section>\n");
    tables::write_functions(&mut page, account);
    tables::write_faults(&mut page, account);
    tables::write_notes(&mut page, account);
    write_ground(page.allow(GROUND_ALLOWED), facts, account);
    page.raw("</main>\n</body>\n</html>\n");
    page.finish()
}

fn write_head(page: &mut Markup, facts: &Facts<'_>, account: &Account<'_>) {
    page.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
    );
    page.raw("<title>").text(account.verdict.word()).raw(" ").foreign(&facts.workload);
    page.raw(", seed ").text(&facts.seed.to_string()).raw("</title>\n");
    page.raw("<style>\n").raw(STYLE).raw("</style>\n</head>\n<body>\n");
}

fn write_verdict(page: &mut Markup, facts: &Facts<'_>, account: &Account<'_>) {
    page.raw("<header>\n<p class=\"over\">torture of <b>").foreign(&facts.workload).raw("</b> under ");
    let nemeses = if facts.nemeses.is_empty() { "no faults".to_owned() } else { facts.nemeses.join(", ") };
    page.raw("<b>").foreign(&nemeses).raw("</b></p>\n");
    page.raw(match account.verdict {
        Verdict::Passed => "<h1 class=\"pass\">",
        Verdict::Failed(_) => "<h1 class=\"fail\">",
        Verdict::Nothing(_) => "<h1 class=\"nothing\">",
    });
    page.text(account.verdict.word()).raw("</h1>\n");
    let reasons = account.verdict.reasons();
    for reason in reasons.iter().take(LINES_TOLD) {
        page.raw("<p class=\"reason\">").foreign(reason).raw("</p>\n");
    }
    more(page, reasons.len(), LINES_TOLD);
    if account.verdict == Verdict::Passed {
        let checks = counted(facts.checks.len() as u64, "check holds", "checks hold");
        let answered = counted(account.all.tally.ok(), "answered operation", "answered operations");
        page.raw("<p class=\"reason\">").text(&checks).raw(" over ").text(&answered).raw("</p>\n");
    }
    page.raw("<p class=\"again\"><code>").foreign(&facts.command).raw("</code></p>\n");
    page.raw("<p class=\"over\">seed <b>").text(&facts.seed.to_string()).raw("</b> \u{b7} ");
    page.text(&counted(facts.stores, "store", "stores")).raw(" \u{b7} ");
    page.text(&counted(facts.seconds, "second", "seconds")).raw("</p>\n</header>\n");
}

fn write_key_figures(page: &mut Markup, account: &Account<'_>) {
    let all = &account.all;
    let (stall, outside) = (length(all.stalls.longest), length(all.stalls.outside));
    let p99 = |latency: Option<super::answers::Latency>| latency.map_or("-".to_owned(), |one| duration(one.p99));
    page.raw("<dl class=\"key\">\n");
    let mut figure = |name: &'static str, value: String, below: String| {
        page.raw("<div><dt>")
            .raw(name)
            .raw("</dt><dd>")
            .text(&value)
            .raw("<small>")
            .text(&below)
            .raw("</small></dd></div>\n");
    };
    figure("operations", count(all.tally.invoked()), format!("{} ok", count(all.tally.ok())));
    figure("available", share(all.tally.ok(), all.tally.invoked()), "ok of all that was asked".to_owned());
    figure("longest stall", duration(stall), format!("{} outside faults", duration(outside)));
    figure("p99 outside faults", p99(all.calm), format!("{} in faults", p99(all.struck)));
    let covered = format!("{} of {}", duration(account.windows.total()), duration(account.length));
    figure("faults", count(account.faults.len() as u64), covered);
    page.raw("</dl>\n");
}

fn write_checks(page: &mut Markup, checks: &[Check]) {
    page.raw("<section>\n<h2>Checks</h2>\n");
    // What fails is what a reader came for.
    let in_order = checks.iter().filter(|check| !check.ok).chain(checks.iter().filter(|check| check.ok));
    for check in in_order.take(CHECKS_TOLD) {
        page.raw(if check.ok { "<div class=\"check\">" } else { "<div class=\"check broken\">" });
        page.raw("<p><span class=\"mark\">").raw(if check.ok { "holds" } else { "fails" }).raw("</span> <b>");
        page.foreign(&check.name).raw("</b> ").foreign(&check.line).raw("</p>");
        if !check.details.is_empty() {
            page.raw(if check.ok { "<details>" } else { "<details open>" });
            page.raw("<summary>").text(&counted(check.details.len() as u64, "line", "lines")).raw("</summary><pre>");
            for detail in check.details.iter().take(DETAILS_TOLD) {
                for line in detail.lines() {
                    page.foreign(line).raw("\n");
                }
            }
            page.raw("</pre>");
            more(page, check.details.len(), DETAILS_TOLD);
            page.raw("</details>");
        }
        page.raw("</div>\n");
    }
    more(page, checks.len(), CHECKS_TOLD);
    if checks.is_empty() {
        page.raw("<p>None was made.</p>\n");
    }
    page.raw("</section>\n");
}

fn write_ground(page: &mut Markup, facts: &Facts<'_>, account: &Account<'_>) {
    page.raw("<section>\n<h2>How it was run</h2>\n<ul>\n");
    let lines = facts.ground.len() + account.oddities.len();
    for line in facts.ground.iter().chain(&account.oddities).take(LINES_TOLD) {
        page.raw("<li>").foreign(line).raw("</li>\n");
    }
    page.raw("</ul>\n");
    more(page, lines, LINES_TOLD);
    if !facts.artefacts.is_empty() {
        page.raw("<h2>What was kept</h2>\n<ul class=\"paths\">\n");
        for path in facts.artefacts.iter().take(LINES_TOLD) {
            page.raw("<li><code>").foreign(path).raw("</code></li>\n");
        }
        page.raw("</ul>\n");
        more(page, facts.artefacts.len(), LINES_TOLD);
    }
    page.raw("</section>\n");
}

/// Says how many were left out, if any were.
fn more(page: &mut Markup, all: usize, told: usize) {
    if all > told {
        page.raw("<p class=\"note\">and ").text(&count((all - told) as u64)).raw(" more</p>\n");
    }
}
