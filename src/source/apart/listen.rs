//! Hearing what a helper says, and having it stop.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{ChildStderr, ChildStdout};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::start::Helper;
use super::task::Word;
use crate::log::printable;
use crate::progress::Progress;
use crate::stop::Stop;

/// The longest word, in bytes: the names of a server's users and groups are in one.
const LONGEST: u64 = 4 << 20;

/// The longest line on stderr, in bytes.
const LONGEST_COMPLAINT: u64 = 4 << 10;

/// How many lines for the log are taken: what a server has that can't be read has one each.
const MOST_LINES: u64 = 1_000_000;

/// How often it is looked whether a stop was asked for.
const LOOK: Duration = Duration::from_millis(100);

/// Hears `helper` until it has ended, and passes on what it says. Gives its last word; none when it ended without one, or doesn't end
/// though it should.
///
/// # Errors
/// It says what can't be understood.
pub(super) fn listen(helper: &mut Helper, source: Option<&str>, stop: &Stop, progress: &Progress) -> Result<Option<Word>> {
    // None waits: a word may be long.
    let (tell, told) = sync_channel(0);
    let complain = tell.clone();
    let (words, complaints) = helper.outputs();
    // Not waited for: what it leaves behind may hold its pipes.
    thread::spawn(move || hear_words(words, &tell));
    thread::spawn(move || hear_complaints(complaints, &complain));
    let (mut last, mut lines, mut over) = (None, 0, None);
    loop {
        match told.recv_timeout(LOOK) {
            Ok(Ok(Word::Log { level, message })) => {
                lines += 1;
                if lines <= MOST_LINES {
                    log(&level, source, &message);
                }
            }
            Ok(Ok(Word::Doing { doing, done, total })) => progress.say(&doing, done, total),
            Ok(Ok(word)) => last = Some(word),
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(last),
        }
        if stop.requested() || last.is_some() || helper.has_ended() {
            helper.let_go();
            if over.get_or_insert_with(Instant::now).elapsed() > helper.grace() {
                return Ok(last);
            }
        }
    }
}

/// Sends each word of `from`, until one can't be understood or nobody listens.
fn hear_words(from: ChildStdout, tell: &SyncSender<Result<Word>>) {
    let mut from = BufReader::new(from);
    loop {
        let word = match line(&mut from, LONGEST) {
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

/// Sends what it, or what starts it, says on stderr, which is no word: that of a panic, or of systemd.
fn hear_complaints(from: ChildStderr, tell: &SyncSender<Result<Word>>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while let Ok(1..) = from.by_ref().take(LONGEST_COMPLAINT).read_until(b'\n', &mut line) {
        let message = printable(line.trim_ascii_end());
        if tell.send(Ok(Word::Log { level: "WARN".to_owned(), message })).is_err() {
            return;
        }
        line.clear();
    }
}

fn line(from: &mut impl BufRead, longest: u64) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = from.by_ref().take(longest).read_until(b'\n', &mut line).context("hearing a helper")?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if read as u64 == longest => bail!("the helper says more than {longest} bytes at once"),
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
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::{Helper, Progress, Stop, Word, line, listen};

    #[test]
    fn a_helper_that_will_not_end_is_ended() {
        let begun = Instant::now();
        let hear = |script: &str, stop: bool| {
            let asked = Stop::default();
            if stop {
                asked.request();
            }
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            let mut helper = Helper::start(command, None, Duration::from_millis(300)).unwrap();
            let heard = listen(&mut helper, None, &asked, &Progress::default());
            (heard, helper.end().unwrap())
        };
        let killed = "the helper that deals with the server ended without a word: signal: 9 (SIGKILL)\nhint: ";
        for (script, stop) in [
            ("exec >&- 2>&-; exec sleep 60", false),
            ("trap '' TERM HUP; while :; do sleep 1; done", true),
            ("trap '' PIPE; while :; do echo '{\"Doing\":{\"doing\":\"x\",\"done\":1,\"total\":null}}'; done", true),
        ] {
            let (heard, ended) = hear(script, stop);
            assert!(heard.unwrap().is_none() && ended.starts_with(killed), "{script}: {ended}");
        }
        let (heard, ended) = hear("echo '\"LoggedIn\"'; exec sleep 60", false);
        assert!(matches!(heard.unwrap(), Some(Word::LoggedIn)) && ended.starts_with(killed), "{ended}");
        let (heard, ended) = hear("echo nonsense; exec sleep 60", false);
        assert_eq!(heard.unwrap_err().to_string(), "the helper says what can't be understood");
        assert!(ended.starts_with(killed), "{ended}");
        // What it leaves behind holds its pipes.
        let (heard, ended) = hear("sleep 60 & echo '\"LoggedIn\"'; exit 3", false);
        assert!(matches!(heard.unwrap(), Some(Word::LoggedIn)) && ended.contains("exit status: 3"), "{ended}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_line_is_whole_or_an_error() {
        let mut from = &b"one\ntwo"[..];
        assert_eq!(line(&mut from, 100).unwrap().unwrap(), b"one");
        assert_eq!(line(&mut from, 100).unwrap_err().to_string(), "the helper ended in the middle of a word");
        assert!(line(&mut from, 100).unwrap().is_none());
        let endless = std::io::repeat(b'x');
        let error = line(&mut std::io::BufReader::new(endless), 100).unwrap_err().to_string();
        assert_eq!(error, "the helper says more than 100 bytes at once");
    }
}
