//! What a helper is told to do, and what it says: a header and a key to it, lines of JSON from it.

use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::Source;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::secret::Secret;
use crate::source::trust::{Offered, Server};
use crate::source::{Pulled, Rehearsal};
use crate::warnings::Warnings;

/// The longest task, and the longest key, in bytes.
const LONGEST: usize = 1 << 20;

/// The most that is taken of a line, of a list, of a reason, and the highest count.
const MOST_TEXT: usize = 8 << 10;
const MOST_ITEMS: usize = 10_000;
const MOST_REASON: usize = 16 << 10;
const MOST: u64 = 1 << 40;

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Bring a mirror up to date.
    Pull {
        /// The source.
        source: Source,
        /// Its folder.
        mirror: PathBuf,
        /// Whether its owner says that as much was deleted as seems too much.
        accept_deletions: bool,
        /// Whether its owner says that dumps have become as small as seems wrong.
        accept_smaller_dumps: bool,
    },
    /// Find out what that would do.
    Rehearse {
        /// The source.
        source: Source,
        /// Its folder, which needn't be there.
        mirror: PathBuf,
    },
    /// Log in, and out again.
    LogIn {
        /// The source.
        source: Source,
    },
    /// Ask a server for its host keys.
    HostKeys {
        /// The server.
        server: Server,
    },
}

/// What a helper says. The last word is one of the lower five.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// A line for the log.
    Log {
        /// `ERROR`, `WARN`, `INFO` or `DEBUG`.
        level: String,
        /// What is said.
        message: String,
    },
    /// How far it is.
    Doing {
        /// What is being done.
        doing: String,
        /// How much is done, in bytes.
        done: u64,
        /// How much there is to do, in bytes, where that is known.
        total: Option<u64>,
    },
    /// The mirror was brought up to date, wholly or in part.
    Pulled {
        /// How.
        pulled: Pulled,
        /// How many of its warnings, from the first, say why it isn't complete.
        causes: usize,
    },
    /// What a pull would do.
    Rehearsed(Rehearsal),
    /// It is let in.
    LoggedIn,
    /// What the server showed.
    HostKeys(Offered),
    /// Why nothing came of it, with causes and hints.
    Failed(String),
}

impl Task {
    /// The name of the source; none where there is none yet.
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Pull { source, .. } | Self::Rehearse { source, .. } | Self::LogIn { source } => Some(&source.name),
            Self::HostKeys { .. } => None,
        }
    }

    /// What goes before the `key`: the lengths of both, and the task.
    ///
    /// # Errors
    /// One is too long.
    pub fn header(&self, key: &[u8]) -> Result<Vec<u8>> {
        let task = serde_json::to_vec(self).context("writing the task of a helper")?;
        if task.len().max(key.len()) > LONGEST {
            bail!("telling a helper what to do: task or key have more than {LONGEST} bytes");
        }
        let mut header: Vec<u8> = [task.len(), key.len()].into_iter().flat_map(|length| (length as u64).to_le_bytes()).collect();
        header.extend(task);
        Ok(header)
    }

    /// Reads what [`Task::header`] made, and the key behind it.
    ///
    /// # Errors
    /// It is no task, or ends early.
    pub fn read(mut from: impl Read) -> Result<(Self, Secret<Vec<u8>>)> {
        let mut length = || -> Result<usize> {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes)?;
            usize::try_from(u64::from_le_bytes(bytes)).ok().filter(|length| *length <= LONGEST).context("it is too long")
        };
        let mut task = vec![0; length()?];
        let mut key = Secret::new(vec![0; length()?]);
        from.read_exact(&mut task)?;
        from.read_exact(key.expose_mut())?;
        Ok((serde_json::from_slice(&task)?, key))
    }
}

impl Word {
    /// Says it to `out`, as a line. That nobody listens any more is no error here: the pipe of the tasks ends then, too.
    pub fn say(&self, out: &mut impl io::Write) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            let _ = out.write_all(&line).and_then(|()| out.flush());
        }
    }

    /// Understands a line, and makes of it what a helper could have said that isn't in a server's hands: printable, of bearable
    /// length, and with counts that can be added.
    ///
    /// # Errors
    /// It is no such word.
    pub fn hear(line: &[u8]) -> Result<Self> {
        let mut word: Self = serde_json::from_slice(line).context("the helper says what can't be understood")?;
        match &mut word {
            Self::Log { message: text, .. } | Self::Doing { doing: text, .. } => *text = shown(text, MOST_TEXT),
            Self::Pulled { pulled, causes } => {
                if !matches!(pulled.outcome, Outcome::Complete | Outcome::Partial) {
                    bail!("the helper says of a pull that it is {}", pulled.outcome);
                }
                pulled.warnings = bearable(&pulled.warnings, *causes);
                pulled.stale.truncate(MOST_ITEMS);
                pulled.stale.iter_mut().for_each(|stale| stale.dump = shown(&stale.dump, MOST_TEXT));
                pulled.owners.retain_plain();
                for count in [&mut pulled.unreadable, &mut pulled.vanished, &mut pulled.unread.unreadable, &mut pulled.unread.all]
                {
                    *count = (*count).min(MOST);
                }
            }
            Self::Rehearsed(rehearsal) => {
                if rehearsal.outcome == Outcome::Skipped {
                    bail!("the helper says of a rehearsal that it is {}", rehearsal.outcome);
                }
                rehearsal.warnings = bearable(&rehearsal.warnings, 0);
                rehearsal.lines.truncate(MOST_ITEMS);
                rehearsal.lines.iter_mut().for_each(|line| *line = shown(line, MOST_TEXT));
            }
            Self::Failed(why) => *why = shown(why, MOST_REASON),
            Self::HostKeys(offered) => offered.check()?,
            Self::LoggedIn => {}
        }
        Ok(word)
    }
}

/// Printable, with its lines, and no more of it than so many characters.
fn shown(text: &str, most: usize) -> String {
    let end = text.char_indices().nth(most).map_or(text.len(), |(at, _)| at);
    text[..end].lines().map(|line| printable(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

fn bearable(warnings: &Warnings, causes: usize) -> Warnings {
    let mut bearable = Warnings::of(Vec::new(), warnings.more.min(MOST));
    for (number, line) in warnings.lines.iter().enumerate() {
        let line = shown(line, MOST_TEXT).replace('\n', "; ");
        if number < causes { bearable.cause(line) } else { bearable.push(line) }
    }
    bearable
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{MOST, MOST_REASON, Task, Word};
    use crate::config::sample;
    use crate::outcome::Outcome;
    use crate::source::Pulled;

    fn pulled(change: impl Fn(&mut Value)) -> anyhow::Result<Word> {
        let mut said = serde_json::to_value(Word::Pulled { pulled: Pulled::new(), causes: 0 }).unwrap();
        change(&mut said["Pulled"]);
        Word::hear(said.to_string().as_bytes())
    }

    #[test]
    fn a_task_and_its_key_arrive_as_they_were_sent() {
        let task = Task::LogIn { source: sample::source("web") };
        let sent = [task.header(b"key").unwrap(), b"key and what comes later".to_vec()].concat();
        let (Task::LogIn { source }, key) = Task::read(&sent[..]).unwrap() else { panic!() };
        assert_eq!((source, &key.expose()[..]), (sample::source("web"), &b"key"[..]));
        assert!(Task::read(&sent[..20]).is_err() && Task::read(&[0xff; 16][..]).is_err());
        assert!(task.header(&vec![0; (1 << 20) + 1]).is_err());
    }

    #[test]
    fn a_pull_that_a_server_tells_of_is_bounded_and_printable() {
        let Word::Pulled { pulled: heard, .. } = pulled(|said| {
            let lines: Vec<String> = (0..500).map(|number| format!("{number}\u{1b}[31m\n{}", "x".repeat(9000))).collect();
            said["causes"] = json!(1);
            said["pulled"]["warnings"] = json!({ "lines": lines, "more": u64::MAX });
            said["pulled"]["unreadable"] = json!(u64::MAX);
            said["pulled"]["owners"] = json!({ "users": { "0": "ro\not", "1": "daemon" }, "groups": {} });
        })
        .unwrap() else {
            panic!()
        };
        assert!(heard.warnings.lines.len() == 100 && heard.warnings.total() == MOST + 500, "{:?}", heard.warnings.total());
        assert!(heard.warnings.lines[0].starts_with("0\\u{1b}[31m; xxx"), "{}", heard.warnings.lines[0]);
        assert!(heard.warnings.lines.iter().all(|line| line.chars().count() <= 1001), "{}", heard.warnings.lines[0].len());
        assert_eq!((heard.unreadable, heard.warnings.causes()), (MOST, 1));
        assert_eq!(heard.owners.users, [(1, "daemon".to_owned())].into());
    }

    #[test]
    fn what_no_pull_is_and_what_is_no_word_are_refused() {
        for outcome in [Outcome::Skipped, Outcome::Failed] {
            let refused = pulled(|said| said["pulled"]["outcome"] = json!(outcome)).unwrap_err().to_string();
            assert_eq!(refused, format!("the helper says of a pull that it is {outcome}"));
        }
        assert!(Word::hear(b"{\"Root\":\"please\"}").is_err() && Word::hear(b"").is_err());
        let Word::Failed(why) = Word::hear(json!({ "Failed": "a\n\u{7}".repeat(MOST_REASON) }).to_string().as_bytes()).unwrap()
        else {
            panic!()
        };
        assert!(why.starts_with("a\n\\u{7}a\n") && why.len() < 10 * MOST_REASON, "{}", why.len());
    }
}
