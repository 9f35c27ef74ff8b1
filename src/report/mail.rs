//! Handing mails to whichever of the servers takes them.
//!
//! The servers are tried in the order of the configuration. The next one gets a mail whenever the one before it didn't take
//! it, whatever the reason: what one provider's filter refuses for good, another may take, and the mail is what matters. A
//! server that nothing can be handed to (it can't be reached, can't prove itself, refuses the login, the sender or all
//! recipients) isn't asked again while the others last.

use anyhow::{Error, anyhow};

use super::refusal::hinted_once;
use super::smtp::Smtp;
use crate::config::Report;

/// Why a mail wasn't taken.
#[derive(Debug)]
pub enum Failure {
    /// This mail didn't get through now; others may.
    Mail(Error),
    /// The server doesn't want this mail, and says that it never will (5xx); it may want others.
    Refused(Error),
    /// The mail is larger than the server takes.
    TooLarge(Error),
    /// The next mail would fare no better now.
    Server(Error),
}

/// What came of a mail that a server took for at least one recipient.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whom it needn't go to any more: who has it now, and who is refused for good.
    pub done: Vec<String>,
    /// Whether somebody is refused for now only, and the mail has to go there once more.
    pub is_partial: bool,
    /// What was said against recipients that are refused for good.
    pub refused: Vec<String>,
    /// What else went wrong.
    pub problems: Vec<String>,
}

impl Failure {
    /// What happened, for a person.
    pub fn into_error(self) -> Error {
        let (Self::Mail(error) | Self::Refused(error) | Self::TooLarge(error) | Self::Server(error)) = self;
        error
    }
}

/// Sends mails through the first server that takes them.
pub struct Mailer {
    servers: Vec<(Smtp, Standing)>,
}

/// What is known of a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// It has failed as a whole, and that is told.
    Bad,
}

impl Mailer {
    /// One that introduces itself as `hostname`. Nothing is connected yet.
    pub fn new(report: &Report, hostname: &str) -> Self {
        let servers = report.servers.iter().map(|server| (Smtp::new(report, server, hostname), Standing::Good));
        Self { servers: servers.collect() }
    }

    /// Sends one mail to all recipients but those that are `done`. What went wrong although a server took it is told: refused
    /// recipients, and servers that were tried before.
    ///
    /// # Errors
    /// No server took it. What all of them said is told together; it is [`Failure::Refused`] only if each of them refused this
    /// mail for good, and [`Failure::TooLarge`] as soon as it was too large for one.
    pub fn send(&mut self, mail: &[u8], done: &[String]) -> Result<Taken, Failure> {
        if self.servers.iter().all(|(_, standing)| *standing == Standing::Bad) {
            self.servers.iter_mut().for_each(|(_, standing)| *standing = Standing::Good);
        }
        let passed_over = self.servers.iter().any(|(_, standing)| *standing == Standing::Bad);
        let mut failures = Vec::new();
        for (smtp, standing) in self.servers.iter_mut().filter(|(_, standing)| *standing == Standing::Good) {
            match smtp.send(mail, done) {
                Ok(mut taken) => {
                    taken.problems.extend(failures.into_iter().map(|failure: Failure| format!("{:#}", failure.into_error())));
                    return Ok(taken);
                }
                Err(failure) => {
                    if matches!(failure, Failure::Server(_)) {
                        *standing = Standing::Bad;
                    }
                    failures.push(failure);
                }
            }
        }
        Err(together(failures, passed_over))
    }
}

/// What the failures at all servers come to. `passed_over`: there is another, that is out of order now.
fn together(failures: Vec<Failure>, passed_over: bool) -> Failure {
    let too_large = failures.iter().any(|failure| matches!(failure, Failure::TooLarge(_)));
    let of_servers = failures.iter().filter(|failure| matches!(failure, Failure::Server(_))).count();
    let refused = failures.iter().filter(|failure| matches!(failure, Failure::Refused(_))).count();
    let (all, none_is_left) = (failures.len(), of_servers == failures.len());
    let told: Vec<String> = failures.into_iter().map(|failure| format!("{:#}", failure.into_error())).collect();
    let error = anyhow!(hinted_once(&told));
    if too_large {
        Failure::TooLarge(error)
    } else if none_is_left {
        Failure::Server(error)
    } else if refused == all && !passed_over {
        Failure::Refused(error)
    } else {
        Failure::Mail(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Mailer};
    use crate::config::Report;
    use crate::report::fake::{report, serve};

    /// A `[report]` with servers that answer so to a whole mail, or at the greeting of the sender; none can't be reached.
    fn servers(answers: &[Option<(&'static str, &'static str)>]) -> Report {
        // Nobody listens at port 1.
        let mut whole = report(1);
        whole.servers = answers
            .iter()
            .map(|answer| match *answer {
                None => report(1).servers.remove(0),
                Some((at, reply)) => {
                    let served = serve(move |line| if line.starts_with(at) { reply } else { "250 fine" }.to_owned());
                    served.servers.into_iter().next().unwrap()
                }
            })
            .collect();
        whole
    }

    #[test]
    fn the_next_server_is_tried_whatever_the_one_before_said() {
        let fine = Some((".", "250 fine"));
        for (first, told) in [
            (None, "connecting to the mail server 127.0.0.1:1: "),
            (Some((".", "451 later")), "the server says 451 later"),
            (Some((".", "554 never")), "the server says 554 never"),
            (Some((".", "552 too large")), "the server says 552 too large"),
            (Some(("MAIL", "550 not you")), "the server says 550 not you"),
        ] {
            let mut mailer = Mailer::new(&servers(&[first, fine]), "pi");
            let problems = mailer.send(b"1\r\n", &[]).unwrap().problems;
            assert!(problems.len() == 1 && problems[0].contains(told), "{problems:?}");
        }
    }

    #[test]
    fn a_server_that_is_out_of_order_is_asked_once() {
        let mut mailer = Mailer::new(&servers(&[None, Some((".", "250 fine"))]), "pi");
        assert_eq!(mailer.send(b"1\r\n", &[]).unwrap().problems.len(), 1);
        assert_eq!(mailer.send(b"2\r\n", &[]).unwrap().problems, Vec::<String>::new());
    }

    #[test]
    fn what_no_server_takes_is_judged_by_all_of_them() {
        let (later, never, large) = (Some((".", "451 later")), Some((".", "554 never")), Some((".", "552 large")));
        for (answers, expected) in [
            (vec![None, None], "server"),
            (vec![None, later], "mail"),
            (vec![never, later], "mail"),
            (vec![never, never], "refused"),
            // The first might take it when it's back.
            (vec![None, never], "mail"),
            (vec![never, large], "large"),
            (vec![None, large], "large"),
        ] {
            let mut mailer = Mailer::new(&servers(&answers), "pi");
            for time in 1..=2 {
                let failure = mailer.send(b"1\r\n", &[]).unwrap_err();
                let kind = match failure {
                    Failure::Mail(_) => "mail",
                    Failure::Refused(_) => "refused",
                    Failure::TooLarge(_) => "large",
                    Failure::Server(_) => "server",
                };
                assert_eq!(kind, expected, "{answers:?}, time {time}");
            }
        }
    }
}
