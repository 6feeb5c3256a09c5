//! The tables of the page: functions, faults, and what others have left in the history.

use super::markup::Markup;
use super::more;
use crate::report::account::{Account, Aftermath, Line};
use crate::report::answers::{Latency, length};
use crate::report::faults::Fault;
use crate::report::operations::Outcome;
use crate::report::words::{count, cut, duration, moment, share};

const FUNCTIONS_TOLD: usize = 60;
const FAULTS_TOLD: usize = 500;
const TRACES_TOLD: usize = 10;

/// The most letters of a name from outside.
const NAME: usize = 60;

fn cell(page: &mut Markup, text: &str) {
    page.raw("<td>").text(text).raw("</td>");
}

pub(super) fn write_functions(page: &mut Markup, account: &Account<'_>) {
    page.raw("<section>\n<h2>By function</h2>\n<div class=\"scroll\"><table>\n<thead>\n");
    page.raw("<tr><th></th><th colspan=\"4\">operations</th><th></th><th colspan=\"2\">longest stall</th>");
    page.raw("<th colspan=\"3\">latency outside faults</th><th colspan=\"3\">latency in faults</th></tr>\n");
    page.raw(
        "<tr><th></th><th>invoked</th><th class=\"ok\">ok</th><th class=\"fail\">fail</th><th class=\"info\">info</th>",
    );
    page.raw("<th>available</th><th>at all</th><th>outside</th><th>p50</th><th>p99</th><th>max</th>");
    page.raw("<th>p50</th><th>p99</th><th>max</th></tr>\n</thead>\n<tbody>\n");
    for line in account.functions.iter().take(FUNCTIONS_TOLD) {
        page.raw("<tr>");
        write_function(page, line);
    }
    page.raw("<tr class=\"sum\">");
    write_function(page, &account.all);
    page.raw("</tbody>\n</table></div>\n");
    more(page, account.functions.len(), FUNCTIONS_TOLD);
    page.raw("<p class=\"note\">Available is what was ok of all that was asked. A stall is a time in which somebody waited and nothing ");
    page.raw("was ok. An operation counts as in faults if one was under way for any part of it; latencies are of what was ok.</p>\n");
    page.raw("</section>\n");
}

fn write_function(page: &mut Markup, line: &Line<'_>) {
    page.raw("<th>").foreign(&cut(line.name, NAME)).raw("</th>");
    cell(page, &count(line.tally.invoked()));
    for outcome in Outcome::ALL {
        cell(page, &count(line.tally.of(outcome)));
    }
    cell(page, &share(line.tally.ok(), line.tally.invoked()));
    cell(page, &duration(length(line.stalls.longest)));
    cell(page, &duration(length(line.stalls.outside)));
    write_latency(page, line.calm);
    write_latency(page, line.struck);
    page.raw("</tr>\n");
}

fn write_latency(page: &mut Markup, latency: Option<Latency>) {
    let told = match latency {
        Some(Latency { p50, p99, max }) => [p50, p99, max].map(duration),
        None => [(); 3].map(|()| "-".to_owned()),
    };
    told.iter().for_each(|time| cell(page, time));
}

pub(super) fn write_faults(page: &mut Markup, account: &Account<'_>) {
    page.raw("<section>\n<h2>Faults</h2>\n");
    if account.faults.is_empty() {
        page.raw("<p>There were none.</p>\n</section>\n");
        return;
    }
    page.raw(
        "<div class=\"scroll\"><table class=\"faults\">\n<thead>\n<tr><th></th><th>id</th><th>stores</th><th>from</th>",
    );
    page.raw("<th>for</th><th>ok in it</th><th>ok again after</th><th>what was done</th></tr>\n</thead>\n<tbody>\n");
    for (fault, after) in account.faults.iter().take(FAULTS_TOLD) {
        write_fault(page, fault, *after, account.length);
    }
    page.raw("</tbody>\n</table></div>\n");
    more(page, account.faults.len(), FAULTS_TOLD);
    if account.faults.iter().any(|(_, after)| after.again.is_some() && after.others > 0) {
        page.raw("<p class=\"note\">+ marks an end at which other faults, so many, were under way.</p>\n");
    }
    page.raw("</section>\n");
}

fn write_fault(page: &mut Markup, fault: &Fault, after: Aftermath, run: u64) {
    page.raw("<tr><th>").foreign(&cut(&fault.name, NAME)).raw("</th><td>").foreign(&cut(&fault.id, NAME));
    page.raw("</td><td>").foreign(&cut(&fault.stores, NAME)).raw("</td>");
    cell(page, &moment(fault.begin, run));
    cell(page, &duration(fault.end_within(run) - fault.begin));
    cell(page, &count(after.answered));
    page.raw("<td>");
    match (fault.end, after.again) {
        (None, _) => page.raw("did not end"),
        (_, None) => page.raw("<b class=\"bad\">never</b>"),
        (_, Some(again)) => page.text(&duration(again)),
    };
    if after.again.is_some() && after.others > 0 {
        page.raw(" <small>+").text(&count(after.others)).raw("</small>");
    }
    page.raw("</td><td class=\"trace\">");
    let about = Some(&fault.about).filter(|about| !about.is_empty());
    for (place, trace) in about.into_iter().chain(&fault.traces).take(TRACES_TOLD).enumerate() {
        page.raw(if place > 0 { "<br>" } else { "" });
        for (place, line) in trace.lines().enumerate() {
            page.raw(if place > 0 { "<br>" } else { "" }).foreign(line);
        }
    }
    page.raw("</td></tr>\n");
}

pub(super) fn write_notes(page: &mut Markup, account: &Account<'_>) {
    if account.notes.is_empty() {
        return;
    }
    page.raw("<section>\n<h2>What else happened</h2>\n<div class=\"scroll\"><table>\n<thead>\n");
    page.raw("<tr><th></th><th></th><th>count</th><th>ok</th><th>failed</th></tr>\n</thead>\n<tbody>\n");
    for notes in account.notes.iter().take(FUNCTIONS_TOLD) {
        page.raw("<tr><th>").foreign(&cut(notes.process, NAME)).raw("</th><th>").foreign(&cut(notes.function, NAME));
        page.raw("</th>");
        cell(page, &count(notes.each.len() as u64));
        for said in [true, false].map(|ok| notes.said(ok)) {
            cell(page, &if said > 0 { count(said) } else { "-".to_owned() });
        }
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n</table></div>\n");
    more(page, account.notes.len(), FUNCTIONS_TOLD);
    page.raw("</section>\n");
}
