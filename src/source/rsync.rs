//! One rsync, from start to exit status: how it is called, what its exit code means, and what its statistics say.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use anyhow::Result;
use tokio::process::Command;

use crate::source::child::{self, FIRST, LAST, Limits};
use crate::source::ends::Ends;
use crate::source::ssh::Connection;
use crate::stop::Stop;

/// rsync's "some files/attrs were not transferred".
pub const PARTIAL: i32 = 23;

/// rsync's "some files vanished before they could be transferred".
pub const VANISHED: i32 = 24;

/// What rsync says when it holds deletions back, before their number.
const HOLDING: &str = "Deletions stopped due to --max-delete limit (";

/// rsync's "the --max-delete limit stopped deletions".
pub const HELD_BACK: i32 = 25;

/// How an rsync ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The lines of its stdout, printable.
    pub stdout: Vec<String>,
    /// The lines of its stderr, printable; with those that the server's side said.
    pub stderr: Vec<String>,
}

/// The arguments that every call over `connection` begins with.
pub fn arguments(connection: &Connection<'_>) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("-e"), OsString::from_vec(connection.remote_shell())];
    // A server that stops in the middle, with the connection still standing, ends the call after five minutes. A long
    // scan over there doesn't: rsync sends keep-alives.
    arguments.push("--timeout=300".into());
    arguments
}

/// Runs an rsync.
///
/// # Errors
/// It couldn't be run, exceeded its limits, or a stop was asked for; a bad exit status is for the caller to judge.
pub async fn run(command: Command, limits: Limits<'_>, stop: &Stop) -> Result<Ended> {
    let mut stdout = Ends::new(FIRST, LAST);
    let mut take = |block: &[u8]| {
        stdout.take(block);
        Ok(())
    };
    let child::Ended { code, stderr } = child::run(command, limits, stop, &mut take).await?;
    Ok(Ended { code, stdout: stdout.lines(), stderr })
}

impl Ended {
    /// What rsync said of single files, without its summing up.
    pub fn said(&self) -> impl Iterator<Item = &String> {
        let noise =
            |line: &&String| ["rsync error: ", "rsync warning: some files", HOLDING].iter().all(|noise| !line.starts_with(noise));
        self.stderr.iter().filter(noise)
    }

    /// The number in a line of `--stats --no-human-readable` that begins with `what`; 0 when there is none, as an older rsync
    /// leaves some out.
    pub fn statistic(&self, what: &str) -> u64 {
        let number = |line: &String| line.strip_prefix(what)?.strip_prefix(": ")?.split(' ').next()?.parse().ok();
        // From the end: what stands before the statistics are names of files, which the server chooses.
        self.stdout.iter().rev().find_map(number).unwrap_or(0)
    }

    /// The same without the folders among them: `201 (reg: 100, dir: 101)` is 100.
    pub fn files(&self, what: &str) -> u64 {
        self.statistic(what).saturating_sub(self.kind(what, "dir: ").unwrap_or(0))
    }

    /// The regular files among them: `201 (reg: 99, dir: 101, link: 1)` is 99.
    pub fn regular(&self, what: &str) -> u64 {
        self.kind(what, "reg: ").unwrap_or(0)
    }

    fn kind(&self, what: &str, kind: &str) -> Option<u64> {
        let is_it = |line: &&String| line.strip_prefix(what).is_some_and(|rest| rest.starts_with(": "));
        let (_, behind) = self.stdout.iter().rev().find(is_it)?.split_once(kind)?;
        behind.split([',', ')']).next()?.parse().ok()
    }

    /// How many deletions `--max-delete=0` held back.
    pub fn held_back(&self) -> u64 {
        let number = |line: &String| line.strip_prefix(HOLDING)?.strip_suffix(" skipped)")?.parse().ok();
        // At the end, and never a file's name: a name stands behind other words.
        self.stderr.iter().rev().chain(self.stdout.iter().rev()).find_map(number).unwrap_or(0)
    }

    /// Whether the connection broke or the server stopped answering, rather than anything here (rsync(1), EXIT VALUES).
    pub fn broke(&self) -> bool {
        matches!(self.code, Some(10 | 12 | 30 | 35 | 255))
    }

    /// Why rsync gave up, with what to do about it where that is known (rsync(1), EXIT VALUES).
    pub fn failure(&self) -> String {
        let hint = match self.code {
            Some(11) => Some("is the backup disk full, or failing? See `df` and `dmesg`"),
            Some(12 | 30 | 35 | 255) => Some("the connection broke or the server stopped answering; the next run tries again"),
            Some(127) => Some("rsync must be installed, here and on the server"),
            _ => None,
        };
        let ended = match self.code {
            None => "`rsync` was ended by a signal".to_owned(),
            Some(code) => format!("`rsync` ended with exit code {code}"),
        };
        // The end of a long complaint says most.
        let tail = &self.stderr[self.stderr.len().saturating_sub(8)..];
        let mut lines = vec![ended];
        lines.extend(tail.iter().map(|line| format!("  {line}")));
        lines.extend(hint.map(|hint| format!("hint: {hint}")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use tokio::process::Command;

    use super::{Ended, run};
    use crate::source::child::Limits;
    use crate::stop::Stop;

    fn ended(code: Option<i32>, stdout: &[&str], stderr: &[&str]) -> Ended {
        let owned = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
        Ended { code, stdout: owned(stdout), stderr: owned(stderr) }
    }

    #[test]
    fn a_bad_exit_status_is_handed_on_with_what_was_said() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut command = Command::new("rsync");
        command.arg("--no-such-option");
        let ended = runtime.block_on(run(command, Limits::default(), &Stop::default())).unwrap();
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr[0].contains("--no-such-option: unknown option"), "{:?}", ended.stderr);
    }

    #[test]
    fn a_failure_says_what_rsync_said_and_what_helps() {
        assert_eq!(
            ended(Some(255), &[], &["Connection closed by UNKNOWN port 65535"]).failure(),
            "`rsync` ended with exit code 255\n  Connection closed by UNKNOWN port 65535\nhint: the connection broke or the \
             server stopped answering; the next run tries again"
        );
        assert_eq!(ended(None, &[], &[]).failure(), "`rsync` was ended by a signal");
    }

    #[test]
    fn the_summing_up_is_no_warning_of_its_own() {
        let stderr =
            ["file has vanished: \"/srv/a\"", "rsync warning: some files vanished before they could be transferred (code 24)"];
        assert_eq!(ended(Some(24), &[], &stderr).said().collect::<Vec<_>>(), ["file has vanished: \"/srv/a\""]);
    }

    #[test]
    fn statistics_are_read_from_the_end() {
        let stdout = [
            "Number of deleted files: 99",
            "Number of deleted files: 3 (reg: 2, dir: 1)",
            "Total transferred file size: 123456 bytes",
        ];
        let ended = ended(Some(0), &stdout, &[]);
        assert_eq!((ended.statistic("Number of deleted files"), ended.statistic("Total transferred file size")), (3, 123_456));
        assert_eq!(ended.statistic("Number of created files"), 0);
        assert_eq!((ended.files("Number of deleted files"), ended.files("Number of created files")), (2, 0));
        assert_eq!((ended.regular("Number of deleted files"), ended.regular("Number of created files")), (2, 0));
    }
}
