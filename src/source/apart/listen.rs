//! Hearing what a helper says, and asking it to stop.

use std::io::{BufRead, BufReader, Read};
use std::process::ChildStdout;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, Result, bail};

use super::start::Helper;
use super::task::Word;
use crate::progress::Progress;
use crate::stop::Stop;

/// The longest line, in bytes: the names of a server's users and groups are in one.
const LONGEST: u64 = 16 << 20;

/// How many words wait at most.
const WAITING: usize = 16;

/// How often it is looked whether a stop was asked for.
const LOOK: Duration = Duration::from_millis(100);

/// Hears `helper` to its end, passes on what it says, and gives its last word; none when it ended without one.
///
/// # Errors
/// It says what can't be understood.
pub(super) fn listen(helper: &mut Helper, source: Option<&str>, stop: &Stop, progress: &Progress) -> Result<Option<Word>> {
    let (tell, told) = sync_channel(WAITING);
    let words = helper.words();
    thread::scope(|scope| {
        scope.spawn(move || read(words, &tell));
        let mut last = None;
        loop {
            match told.recv_timeout(LOOK) {
                Ok(Ok(Word::Log { level, message })) => log(&level, source, &message),
                Ok(Ok(Word::Doing { doing, done, total })) => progress.say(&doing, done, total),
                Ok(Ok(word)) => last = Some(word),
                Ok(Err(error)) => {
                    helper.let_go();
                    return Err(error);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(last),
            }
            if stop.requested() {
                helper.let_go();
            }
        }
    })
}

/// Sends each word of `from`, until one can't be understood or nobody listens.
fn read(from: ChildStdout, tell: &SyncSender<Result<Word>>) {
    let mut from = BufReader::new(from);
    loop {
        let word = match line(&mut from) {
            Ok(None) => return,
            Ok(Some(line)) => Word::hear(&line),
            Err(error) => Err(error),
        };
        let failed = word.is_err();
        if tell.send(word).is_err() || failed {
            return;
        }
    }
}

fn line(from: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = from.by_ref().take(LONGEST).read_until(b'\n', &mut line).context("hearing a helper")?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if read as u64 == LONGEST => bail!("the helper says more than {LONGEST} bytes at once"),
        Some(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("the helper ended in the middle of a word"),
    }
}

fn log(level: &str, source: Option<&str>, message: &str) {
    match level {
        "ERROR" => tracing::error!(source, "{message}"),
        "WARN" => tracing::warn!(source, "{message}"),
        "INFO" => tracing::info!(source, "{message}"),
        _ => tracing::debug!(source, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_line_is_whole_or_an_error() {
        let mut from = &b"one\ntwo"[..];
        assert_eq!(line(&mut from).unwrap().unwrap(), b"one");
        assert_eq!(line(&mut from).unwrap_err().to_string(), "the helper ended in the middle of a word");
        assert!(line(&mut from).unwrap().is_none());
        let endless = std::io::repeat(b'x');
        let error = line(&mut std::io::BufReader::new(endless)).unwrap_err().to_string();
        assert_eq!(error, "the helper says more than 16777216 bytes at once");
    }
}
