//! Through a real Postfix: what it takes, refuses, puts off, finds too large, and what happens while it is down.

use std::fs;

use crate::support::gnupg::GnuPg;
use crate::support::mailbox::{Mailbox, parse};
use crate::support::postfix::{Postfix, greylist};

use super::{SUBJECT, Sender, header, message_id, sent};

fn sender(postfix: &Postfix, key: &GnuPg) -> Sender {
    Sender::through(postfix.port, &[key], &format!("ca = '''{}'''\n", postfix.authority()))
}

#[test]
fn it_is_delivered_as_it_was_made_and_opens() {
    let (postfix, key) = (Postfix::start(""), GnuPg::new());
    let sender = sender(&postfix, &key);
    fs::write(sender.log(), "line 1\n.\n..\n").unwrap();
    assert_eq!(sender.post(0), sent(1, 0));
    // One mailbox is both recipients'.
    let mail = postfix.mails(2).remove(0);
    assert_eq!(header(&parse(&mail), "Subject"), SUBJECT);
    let inner = sender.open(&mail, &key);
    assert_eq!(inner["parts"][1]["content"].as_str().unwrap().replace("\r\n", "\n"), "line 1\n.\n..\n");
}

#[test]
fn a_mail_that_it_refuses_goes_to_the_next_server() {
    let folder = tempfile::tempdir().unwrap();
    let checks = folder.path().join("checks");
    fs::write(&checks, "/^Subject:.*partial/ REJECT not in our house\n").unwrap();
    let postfix = Postfix::start(&format!("header_checks = regexp:{}", checks.display()));
    let (second, key) = (Mailbox::start(&[]), GnuPg::new());
    let mut sender = sender(&postfix, &key);
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting), (0, 1));
    let told = "the server says 550 5.7.1 not in our house\nhint: ";
    assert!(delivery.problems.len() == 1 && delivery.problems[0].contains(told), "{delivery:?}");
    let refused = message_id(&fs::read(&sender.queued()[0]).unwrap());
    sender.fall_back(second.port, &second.authority());
    let delivery = sender.post(2);
    assert_eq!((delivery.sent, delivery.waiting), (2, 0));
    assert!(delivery.problems.len() == 1 && delivery.problems[0].contains(told), "{delivery:?}");
    assert_eq!(message_id(&second.mails()[1]), refused);
}

#[test]
fn a_greylisted_mail_goes_out_with_the_next_try() {
    let settings =
        format!("smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:127.0.0.1:{}", greylist());
    let (postfix, key) = (Postfix::start(&settings), GnuPg::new());
    let sender = sender(&postfix, &key);
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting), (0, 1));
    assert!(delivery.problems[0].contains("the server says 450 4.2.0 "), "{delivery:?}");
    assert!(delivery.problems[0].contains("\nhint: the server may take it later: "), "{delivery:?}");
    let run = sender.command("send");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "1 mail sent, 0 waiting\n"), "{run:?}");
    assert_eq!(postfix.mails(2).len(), 2);
}

#[test]
fn what_it_missed_while_it_was_down_goes_out_in_order_without_a_run() {
    let (mut postfix, key) = (Postfix::start(""), GnuPg::new());
    let sender = sender(&postfix, &key);
    postfix.end();
    for hour in 0..3 {
        assert_eq!(sender.post(hour * 3600).waiting, usize::try_from(hour).unwrap() + 1);
    }
    let waiting: Vec<String> = sender.queued().iter().map(|path| message_id(&fs::read(path).unwrap())).collect();
    let run = sender.command("send");
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.starts_with("error: sending the reports that wait: 0 mails sent, 3 waiting: connecting"), "{run:?}");
    postfix.begin();
    let run = sender.command("send");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "3 mails sent, 0 waiting\n"), "{run:?}");
    let mut arrived: Vec<String> = postfix.mails(6).iter().map(|mail| message_id(mail)).collect();
    arrived.dedup();
    assert_eq!(arrived, [&waiting[2], &waiting[0], &waiting[1]].map(Clone::clone), "the newest, then from the oldest on");
    assert_eq!(sender.command("send").stdout, "0 mails sent, 0 waiting\n");
}

#[test]
fn a_mail_that_is_too_large_for_it_goes_in_its_short_form() {
    let (postfix, key) = (Postfix::start("message_size_limit = 100000"), GnuPg::new());
    let mut sender = sender(&postfix, &key);
    sender.text = sender.text.replace("size_limit = \"64 KiB\"", "size_limit = \"1 MiB\"");
    fs::write(sender.log(), "line\n".repeat(100_000)).unwrap();
    let delivery = sender.post(0);
    assert_eq!((delivery.sent, delivery.waiting, delivery.problems.len()), (1, 0, 1), "{delivery:?}");
    assert!(delivery.problems[0].contains(", and the server takes 100000\nhint: make [report] size_limit"), "{delivery:?}");
    assert!(!postfix.log().contains("reject"), "it wasn't even offered: {}", postfix.log());
    let inner = sender.open(&postfix.mails(2)[0], &key);
    let text = inner["parts"][0]["parts"][0]["content"].as_str().unwrap();
    assert!(text.contains("The whole report was too large") && text.contains("wiki"), "{text}");
    assert!(inner["parts"].as_array().unwrap().len() == 1 && !inner.to_string().contains("text/html"));
    assert!(sender.queued().is_empty());
}
