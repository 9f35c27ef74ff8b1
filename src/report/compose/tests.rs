use std::fs;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use proptest::prelude::{Just, any, prop_assert, prop_oneof, proptest};
use proptest::test_runner::Config as Settings;
use sequoia_openpgp::cert::CertBuilder;
use sequoia_openpgp::serialize::SerializeInto as _;

use super::{Composed, SHORT, compose, notice, text};
use crate::config::{Config, EXAMPLE, Recipient, parse};
use crate::offsite::unseal::Keys;
use crate::report::{Letter, fake};
use crate::stop::Stop;

/// An owner's key, and a configuration that seals for it.
fn owner() -> (Keys, Config) {
    let (key, _) = CertBuilder::general_purpose(Some("owner@example.org"))
        .set_creation_time(SystemTime::now() - Duration::from_mins(1))
        .generate()
        .unwrap();
    let mut config = parse(EXAMPLE).unwrap();
    let armored = String::from_utf8(key.armored().to_vec().unwrap()).unwrap();
    config.recipients = vec![Recipient { fingerprint: key.fingerprint().to_hex(), armored }];
    config.report = Some(fake::report(25));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), key.as_tsk().armored().to_vec().unwrap()).unwrap();
    (Keys::read(file.path(), || unreachable!("it isn't locked")).unwrap(), config)
}

fn composed(config: &Config, letter: &Letter, limit: u64) -> Composed {
    let mut report = config.report.clone().unwrap();
    report.size_limit = limit;
    compose(config, &report, letter, "20261123T023000Z-0a", Timestamp::now()).unwrap()
}

/// The entity in a mail, its soft line breaks taken out.
fn inside(mail: &[u8], key: &Keys) -> String {
    let mail = std::str::from_utf8(mail).unwrap();
    let armored = &mail[mail.find("-----BEGIN PGP").unwrap()..mail.rfind("\r\n--=_sealed--").unwrap()];
    let mut opened = Vec::new();
    key.open(armored.as_bytes(), mail.len() as u64, &mut opened, &Stop::default()).unwrap();
    String::from_utf8(opened).unwrap().replace("=\r\n", "")
}

#[test]
fn a_mail_has_no_more_bytes_than_it_may_and_hardly_fewer() {
    let (key, config) = owner();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("run.log");
    let lines: Vec<String> = (0..40_000).map(|number| format!("{{\"line\":{number},\"of\":\"x = é\"}}\n")).collect();
    fs::write(&log, lines.concat()).unwrap();
    let letter = Letter {
        subject: "s".into(),
        text: "well\n".repeat(100),
        html: Some("<p style=\"x\">".repeat(1000)),
        tells: Vec::new(),
        log: Some(log),
    };
    for limit in [64 << 10, 100_001, 300_000, 1 << 20] {
        let mail = composed(&config, &letter, limit).mail;
        let limit = usize::try_from(limit).unwrap();
        assert!(mail.len() <= limit && mail.len() > limit - limit / 200 - 400, "{} of {limit}", mail.len());
        let inside = inside(&mail, &key);
        assert!(inside.contains("{\"line\":39999,") && inside.contains("bytes before this are left out"), "{limit}");
        assert!(inside.contains("<p style=3D\"x\">"), "{limit}");
    }
}

#[test]
fn of_a_large_mail_there_is_a_short_form_under_the_same_name() {
    let (key, config) = owner();
    let letter =
        |text: String| Letter { subject: "s".into(), text, html: Some("<p>".repeat(60_000)), tells: Vec::new(), log: None };
    let both = composed(&config, &letter("it went well\n".into()), 1 << 20);
    let short = both.short.unwrap();
    assert!(both.mail.len() > 100_000 && short.len() < 4096, "{} {}", both.mail.len(), short.len());
    let id = |mail: &[u8]| String::from_utf8_lossy(mail).lines().find(|line| line.starts_with("Message-ID: ")).map(String::from);
    assert!(id(&short).is_some() && id(&short) == id(&both.mail));
    let shown = inside(&short, &key);
    assert!(shown.contains("The whole report was too large") && shown.contains("it went well") && !shown.contains("<p>"));
    let long = composed(&config, &letter("it went well\n".repeat(20_000)), 1 << 20).short.unwrap();
    assert!(long.len() <= SHORT && inside(&long, &key).contains("(the rest is left out"), "{}", long.len());
    let mut small = letter("it went well\n".into());
    small.html = None;
    assert!(composed(&config, &small, 1 << 20).short.is_none());
}

#[test]
fn secrets_are_masked_in_all_parts() {
    let (key, config) = owner();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("run.log");
    fs::write(&log, "password=battery-staple\n").unwrap();
    let said = |what: &str| format!("{what} https://me:battery-staple@example.org");
    let letter =
        Letter { subject: said("subject"), text: said("text"), html: Some(said("html")), tells: Vec::new(), log: Some(log) };
    let composed = composed(&config, &letter, 1 << 20);
    let inside = inside(&composed.mail, &key);
    assert!(!inside.contains("staple") && !String::from_utf8_lossy(&composed.mail).contains("staple"));
    assert!(inside.matches("[masked]").count() >= 5, "{inside}");
}

proptest! {
    #![proptest_config(Settings { cases: 48, ..Settings::default() })]
    #[test]
    fn whatever_text_and_log_are_the_mail_is_small_enough_and_has_the_newest_line(
        text in any::<String>(),
        texts in prop_oneof![Just(1_usize), Just(100), Just(5000)],
        line in "[^\\p{C}]{0,200}",
        lines in prop_oneof![Just(0_usize), Just(10), Just(3000)],
        pages in prop_oneof![Just(0_usize), Just(100), Just(10_000)],
        limit in (64_u64 << 10)..(256 << 10),
    ) {
        let (key, config) = owner();
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("run.log");
        fs::write(&log, format!("{line}\n").repeat(lines) + "the newest line\n").unwrap();
        let html = (pages > 0).then(|| "<p>é".repeat(pages));
        let letter = Letter { subject: "s".into(), text: text.repeat(texts), html, tells: Vec::new(), log: Some(log) };
        let composed = composed(&config, &letter, limit);
        prop_assert!(composed.mail.len() as u64 <= limit, "{} of {limit}", composed.mail.len());
        prop_assert!(inside(&composed.mail, &key).contains("the newest line\r\n"));
        if let Some(short) = composed.short {
            prop_assert!(short.len() <= SHORT, "{}", short.len());
        }
    }
}

#[test]
fn problems_stand_above_the_text() {
    assert_eq!(text("all is well\n", &[]), "all is well\n");
    assert_eq!(
        text("all is well\n", &["one\nhint: mend it".to_owned(), "two".to_owned()]),
        "Something is wrong with this report itself:\n- one\n  hint: mend it\n- two\n\nall is well\n"
    );
}

#[test]
fn the_notice_names_the_reason_and_what_helps() {
    assert_eq!(
        notice(&["the certificate AB: it expired".to_owned()]),
        "The report of this run could not be sealed, and nothing of it is sent in clear:\n\n\
         - the certificate AB: it expired\n\n\
         hint: extend the certificate with `gpg --quick-set-expire` or take another, put what `gpg --armor --export` \
         prints into [openpgp] recipients of the appliance's configuration, and try `vaultberry report test`\n\n\
         The details are on the appliance: in its journal, and in the logs of its state folder.\n"
    );
}
