//! What a helper is told to do, and what it says: a header and a key to it, lines of JSON from it.

use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::Source;
use crate::log::printable;
use crate::secret::Secret;
use crate::source::trust::{Offered, Server};
use crate::source::{Pulled, Rehearsal};

/// The longest task, and the longest key, in bytes.
const LONGEST: usize = 1 << 20;

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

    /// Understands a line, and makes what is in it printable: a helper may be in a server's hands.
    ///
    /// # Errors
    /// It is no word.
    pub fn hear(line: &[u8]) -> Result<Self> {
        let mut word: Self = serde_json::from_slice(line).context("the helper says what can't be understood")?;
        let clean = |text: &mut String| *text = printable(text.as_bytes());
        match &mut word {
            Self::Log { message, .. } => clean(message),
            Self::Doing { doing, .. } => clean(doing),
            Self::Pulled { pulled, .. } => {
                pulled.warnings.lines.iter_mut().for_each(clean);
                pulled.stale.iter_mut().for_each(|stale| clean(&mut stale.dump));
                pulled.owners.retain_plain();
            }
            Self::Rehearsed(rehearsal) => {
                rehearsal.lines.iter_mut().chain(&mut rehearsal.warnings.lines).for_each(clean);
            }
            Self::Failed(why) => *why = why.lines().map(|line| printable(line.as_bytes())).collect::<Vec<_>>().join("\n"),
            Self::HostKeys(offered) => offered.check()?,
            Self::LoggedIn => {}
        }
        Ok(word)
    }
}
