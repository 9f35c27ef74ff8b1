//! The facts as one page of HTML: the report's second form, and what `vaultberry status --html` writes.
//!
//! It holds no script and asks the network for nothing: neither fonts nor images. What a mail program must know stands inline
//! at each element, since many drop the head; the head only adds the dark colours where they are preferred. Every text goes
//! through [`escaped`].

use std::fmt::Write as _;

use crate::amount::{amount, duration};
use crate::log::printable;
use crate::markup;
use crate::outcome::Outcome;
use crate::run::history::{Night, SourceNight};
use crate::status::charts::{Bar, chart, colour};
use crate::status::facts::{Facts, SourceFacts};
use crate::status::host::State;
use crate::status::text;

const HEAD: &str = "<style>\
:root{color-scheme:light dark}\
@media (prefers-color-scheme:dark){\
body,.page{background:#15181c!important;color:#e6e8ea!important}\
.card{background:#20242a!important;border-color:#343a42!important}\
.muted{color:#a3abb5!important}\
}</style>";

/// How many remarks of a source are shown.
const REMARKS: usize = 8;

/// `text` for HTML, in elements and in quoted attributes; control characters are shown as [`printable`] does.
pub fn escaped(text: &str) -> String {
    markup::escaped(&printable(text.as_bytes()))
}

/// The page.
pub fn page(facts: &Facts) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title>{HEAD}</head>\n\
         <body style=\"margin:0;padding:0;background:#f2f4f6;color:#1c2126\">\n\
         <div class=\"page\" style=\"max-width:640px;margin:0 auto;padding:16px;box-sizing:border-box;\
         font:15px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;overflow-wrap:anywhere\">\n",
        escaped(&text::subject(facts))
    );
    html.push_str(&banner(facts));
    if !facts.todo.is_empty() {
        let items = facts
            .todo
            .iter()
            .fold(String::new(), |html, todo| html + &format!("<li style=\"margin:4px 0\">{}</li>\n", escaped(todo)));
        html.push_str(&card("To do", &format!("<ul style=\"margin:0;padding-left:20px\">\n{items}</ul>\n")));
    }
    for source in &facts.sources {
        html.push_str(&card(&source.name, &of_source(facts, source)));
    }
    if !facts.history.is_empty() {
        html.push_str(&card("Runs", &runs(&facts.history)));
    }
    html.push_str(&card("Appliance", &of_appliance(facts)));
    let taken = format!("As of {:.0}", facts.taken);
    writeln!(html, "<div class=\"muted\" style=\"font-size:12px;color:#5c6670\">{}</div>\n</div></body></html>", escaped(&taken))
        .expect("writing to a string doesn't fail");
    html
}

/// The outcome, which is seen first.
fn banner(facts: &Facts) -> String {
    let under_way = facts.under_way().is_some();
    let outcome = facts.last.as_ref().map(|last| last.outcome).filter(|_| !under_way);
    let mut lines = Vec::new();
    if let Some(last) = &facts.last {
        let took = last.ended.map(|ended| format!(", took {}", duration(ended.as_second() - last.started.as_second())));
        lines.push(format!("Began {}{}", text::ago(facts.taken, last.started), took.unwrap_or_default()));
        lines.extend(last.error.iter().flat_map(|error| error.lines()).map(str::to_owned));
    }
    lines.extend(facts.running.iter().map(|running| format!("A run is going on: {running}")));
    lines.extend(under_way.then(|| sentence(&text::before(facts))));
    let lines =
        lines.iter().fold(String::new(), |html, line| html + &format!("<div style=\"font-size:14px\">{}</div>\n", escaped(line)));
    format!(
        "<div style=\"background:{};color:#ffffff;border-radius:10px;padding:14px 16px;margin-bottom:14px\">\n\
         <div style=\"font-size:22px;font-weight:700\">{}: {}</div>\n{lines}</div>\n",
        colour(outcome),
        escaped(&facts.appliance),
        escaped(&text::outcome(facts))
    )
}

fn card(title: &str, body: &str) -> String {
    format!(
        "<div class=\"card\" style=\"background:#ffffff;border:1px solid #dde2e7;border-radius:10px;padding:12px 16px;\
         margin-bottom:14px\">\n<div style=\"font-weight:700;font-size:16px;margin-bottom:4px\">{}</div>\n{body}</div>\n",
        escaped(title)
    )
}

fn row(content: &str) -> String {
    format!("<div>{}</div>\n", escaped(content))
}

fn remark(content: &str) -> String {
    format!("<div class=\"muted\" style=\"font-size:13px;color:#5c6670\">{}</div>\n", escaped(content))
}

fn badge(outcome: Outcome) -> String {
    format!(
        "<span style=\"background:{};color:#ffffff;border-radius:6px;padding:1px 8px;font-size:13px\">{outcome}</span>",
        colour(Some(outcome))
    )
}

fn of_source(facts: &Facts, source: &SourceFacts) -> String {
    let mut html = String::new();
    let run = facts.run_of(&source.name);
    if let Some((_, run)) = run {
        writeln!(html, "<div style=\"margin-bottom:4px\">{}</div>", badge(run.outcome))
            .expect("writing to a string doesn't fail");
    }
    html.push_str(&row(&sentence(&text::snapshot(facts.taken, source))));
    match &source.push {
        Some(push) => {
            let late = if source.push_overdue { ", overdue" } else { "" };
            let age = text::ago(facts.taken, push.proven);
            html.push_str(&row(&format!("Last proven off-site: {}, {age}{late}", push.snapshot)));
        }
        None if source.push_overdue => html.push_str(&row("Last proven off-site: none, overdue")),
        None => {}
    }
    for stale in run.iter().flat_map(|(_, run)| &run.stale_dumps) {
        let made = stale.made.map_or_else(|| String::from("there is none"), |made| text::ago(facts.taken, made));
        html.push_str(&row(&format!("Old dump of {}: {made}", stale.dump)));
    }
    let remarks = run.map(|(last, run)| run.remarks(&last.run)).unwrap_or_default();
    remarks.iter().flat_map(|remark| remark.lines()).take(REMARKS).for_each(|line| html.push_str(&remark(line)));
    let nights: Vec<(&Night, &SourceNight)> =
        facts.history.iter().filter_map(|night| Some((night, night.sources.iter().find(|of| of.name == source.name)?))).collect();
    if let (Some((_, first)), Some((_, last))) = (nights.first(), nights.last()) {
        let bars: Vec<Bar> = nights
            .iter()
            .map(|(night, of)| Bar {
                value: of.bytes,
                title: format!("{:.0}: {}, {}", night.started, of.outcome, amount(of.bytes)),
                outcome: Some(of.outcome),
            })
            .collect();
        let below = format!("{} at first, {} at last", amount(first.bytes), amount(last.bytes));
        html.push_str(&chart(&over("Size and outcome", bars.len()), &bars, &below));
    }
    html
}

/// The heading of a chart with a bar for each of the last runs.
fn over(what: &str, runs: usize) -> String {
    if runs == 1 { format!("{what}, one run so far") } else { format!("{what}, last {runs} runs") }
}

/// Outcome and duration of the runs as a whole.
fn runs(history: &[Night]) -> String {
    let took = |night: &Night| night.ended.map_or(0, |ended| ended.as_second() - night.started.as_second());
    let bars: Vec<Bar> = history
        .iter()
        .map(|night| Bar {
            value: u64::try_from(took(night)).unwrap_or(0),
            title: format!("{:.0}: {}, {}", night.started, night.outcome, duration(took(night))),
            outcome: Some(night.outcome),
        })
        .collect();
    let count = |outcome| history.iter().filter(|night| night.outcome == outcome).count();
    let longest = history.iter().map(took).max().unwrap_or(0);
    let below = format!(
        "{} complete, {} partial, {} failed; the longest took {}",
        count(Outcome::Complete),
        count(Outcome::Partial),
        count(Outcome::Failed),
        duration(longest)
    );
    chart(&over("Duration and outcome", bars.len()), &bars, &below)
}

fn of_appliance(facts: &Facts) -> String {
    let mut html = String::new();
    if let Some(disk) = &facts.disk {
        html.push_str(&row(&format!("Disk: {}", text::room(disk))));
    }
    for disk in &facts.disks {
        html.push_str(&row(&format!("Disk {}: {}", disk.serial, text::usage(disk))));
    }
    for certificate in &facts.certificates {
        let validity = text::validity(certificate, facts.taken);
        html.push_str(&row(&format!("Certificate {}: {validity}", certificate.fingerprint)));
    }
    if let Some(host) = &facts.host {
        html.push_str(&row(&format!("Updates: {}", text::updates(host))));
        for told in text::upgraded(host) {
            html.push_str(&row(&sentence(&told)));
        }
        for check in &host.checks {
            let answer = if check.state == State::Failed { "NO" } else { check.state.word() };
            html.push_str(&row(&format!("{}: {answer}", sentence(&check.name))));
        }
    }
    if facts.waiting_mails > 0 {
        html.push_str(&row(&format!("Mails that wait for the mail server: {}", facts.waiting_mails)));
    }
    if let Some((last, push)) = facts.last.as_ref().and_then(|last| Some((last, last.appliance.as_ref()?))) {
        let told = format!("The appliance itself: {}", push.summary(&last.run));
        let (first, rest) = told.split_once('\n').unwrap_or((told.as_str(), ""));
        html.push_str(&row(first));
        rest.lines().for_each(|line| html.push_str(&remark(line)));
    }
    let notes = facts.last.iter().flat_map(|last| last.troubles.iter().chain(&last.notes));
    notes.flat_map(|note| note.lines()).for_each(|line| html.push_str(&remark(line)));
    html
}

/// With a capital letter at its beginning.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::page;
    use crate::run::report::PushReport;
    use crate::status::sample;

    #[test]
    fn what_servers_chose_can_not_become_markup() {
        let mut facts = sample::facts();
        let evil = "<script>alert('\"&x')</script>\x1b[31m";
        facts.sources[0].name = evil.into();
        let last = facts.last.as_mut().unwrap();
        last.sources[0].name = evil.into();
        last.sources[0].warnings.push(evil.into());
        last.sources[0].stale_dumps[0].dump = evil.into();
        last.error = Some(evil.into());
        last.notes.push(evil.into());
        facts.todo.push(evil.into());
        facts.troubles.push(evil.into());
        facts.history[0].sources[0].name = evil.into();
        let page = page(&facts);
        assert!(!page.contains("<script") && !page.contains("alert('") && !page.contains('\x1b'), "{page}");
        let safe = "&lt;script&gt;alert(&#39;&quot;&amp;x&#39;)&lt;/script&gt;\\u{1b}[31m";
        assert!(page.matches(safe).count() >= 6, "{page}");
    }

    #[test]
    fn what_has_several_lines_is_shown_on_several() {
        let mut facts = sample::facts();
        facts.last.as_mut().unwrap().appliance = Some(PushReport::failed(&anyhow!("asking the store: no\nhint: look at it")));
        let page = page(&facts);
        assert!(page.contains("<div>The appliance itself: off-site: FAILED: asking the store: no</div>"), "{page}");
        assert!(page.contains(">hint: look at it</div>") && !page.contains("\\n"), "{page}");
    }

    #[test]
    fn the_page_needs_nothing_but_itself() {
        let page = page(&sample::facts());
        for foreign in ["http://", "https://", "url(", "@import", "<img", "<script", "<link", "src="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        // Size of the one source, of the other, and duration of the runs: thirty bars each.
        assert_eq!(page.matches("<td valign=\"bottom\"").count(), 90);
    }
}
