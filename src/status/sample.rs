//! Facts for tests, with names that want escaping.

use jiff::{SignedDuration, Timestamp};

use crate::outcome::Outcome;
use crate::run::history::{Night, SourceNight};
use crate::run::report::{Missed, RunReport, SourceReport};
use crate::source::Stale;
use crate::space::Space;
use crate::status::advice;
use crate::status::facts::{Certificate, DiskFacts, DiskUse, Facts, PushFacts, SnapshotFacts, SourceFacts};

const GIB: u64 = 1 << 30;

/// Five hours after a night in which one of two servers was dead.
pub fn facts() -> Facts {
    let started: Timestamp = "2026-11-23T02:30:00Z".parse().unwrap();
    let taken = started + SignedDuration::from_hours(5);
    let day = SignedDuration::from_hours(24);
    let mut last = RunReport::begun("20261123T023000Z".into(), started);
    last.outcome = Outcome::Partial;
    last.ended = Some(started + SignedDuration::from_secs(723));
    let refused = anyhow::anyhow!("connecting to mail: refused\nhint: look whether it is up");
    let mut web = SourceReport::failed("<web>", &refused);
    web.error = None;
    web.outcome = Outcome::Complete;
    web.snapshot = Some("snapshots/web/20261123T023000Z.tar.gz".into());
    (web.bytes, web.archive_bytes, web.entries) = (5 * GIB, GIB, 12);
    web.missed = Missed { unreadable: 3, vanished: 0 };
    web.warnings.push("a \"quoted\" warning".into());
    web.stale_dumps.push(Stale { dump: "the database wiki".into(), made: Some(started - day * 9) });
    last.sources = vec![web, SourceReport::failed("mail", &refused)];
    let snapshot = SnapshotFacts {
        name: "20261123T023000Z".into(),
        time: Some(started),
        bytes: 5 * GIB,
        archive_bytes: GIB,
        entries: 12,
        change: Some(1 << 30),
    };
    let push = PushFacts { snapshot: "20261120T023000Z".into(), proven: started - day * 3 };
    let source = |name: &str| SourceFacts {
        name: name.into(),
        configured: true,
        snapshot: None,
        snapshots: 0,
        push: None,
        push_overdue: true,
    };
    let web = SourceFacts { snapshot: Some(snapshot), snapshots: 7, push: Some(push), push_overdue: false, ..source("<web>") };
    let mut facts = Facts {
        appliance: "pi".into(),
        taken,
        running: None,
        last: Some(last),
        sources: vec![web, source("mail")],
        disk: Some(DiskFacts { space: Space { free: 40 * GIB, total: 100 * GIB }, days_left: Some(20) }),
        disks: vec![
            DiskUse { serial: "WD-1".into(), open: true, last_used: Some(started) },
            DiskUse { serial: "<WD>-2".into(), open: false, last_used: Some(started - day * 40) },
        ],
        certificates: vec![Certificate { fingerprint: "AB12".into(), expires: Some(taken + day * 100), problem: None }],
        host: None,
        waiting_mails: 0,
        lost_mails: Vec::new(),
        troubles: Vec::new(),
        history: (0..30).map(|number| night(started - day * (29 - number), number)).collect(),
        todo: Vec::new(),
    };
    facts.todo = advice::todo(&facts);
    facts
}

fn night(started: Timestamp, number: i32) -> Night {
    let outcome = match number {
        7 => Outcome::Failed,
        12 | 29 => Outcome::Partial,
        _ => Outcome::Complete,
    };
    let grown = u64::try_from(number).unwrap();
    let source = |name: &str, outcome, bytes| SourceNight {
        name: name.into(),
        outcome,
        bytes,
        archive_bytes: bytes / 4,
        entries: 12,
        missed: Missed::default(),
        push: None,
    };
    let bytes = if outcome == Outcome::Failed { 0 } else { 2 * GIB + grown * GIB / 10 };
    Night {
        run: crate::snapshot::list::name_of(started),
        started,
        ended: Some(started + SignedDuration::from_secs(i64::from(300 + number * 14))),
        outcome,
        sources: vec![source("<web>", outcome, bytes), source("mail", Outcome::Failed, 0)],
        disk: Some(Space { free: (70 - grown) * GIB, total: 100 * GIB }),
        serial: Some("WD-1".into()),
    }
}
