//! What vaultberry says while it works: lines for a person on stderr, and a JSON-lines file for each run.
//!
//! stderr shows warnings and errors; `-v` adds what is being done, `-vv` how. Of a run it shows nothing without `-v`, since
//! the run's own summary says the same, shorter. The log file takes everything that vaultberry itself says. Its place is known only once a run has begun, so
//! the layer is there from the start and a file is put under it later, by [`attach`].
//!
//! Text that comes from a server (names of files, messages of its programs) could hold terminal escapes, or newlines that
//! forge log lines. It goes through [`printable`] where it enters, so that neither terminal, nor log, nor report has to
//! think of it again.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::redact::Redactor;
use crate::{durable, terminal};

/// The file under the JSON layer, while there is one.
static RUN_LOG: Mutex<Option<Bounded>> = Mutex::new(None);

/// The most that a run's log takes, in bytes. It lives on the SD card, with those of many nights, and a server decides how many
/// files it names in it.
const LARGEST: u64 = 8 << 20;

/// A log file and the bytes that it may still take.
struct Bounded {
    file: File,
    left: u64,
    full: bool,
    redactor: Redactor,
}

impl Bounded {
    /// Writes `line` if it fits. The first that doesn't is replaced by a word of that, and nothing comes after it.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        const CUT: &[u8] =
            b"{\"level\":\"WARN\",\"fields\":{\"message\":\"the log is full; what comes after this is left out\"}}\n";
        // A line comes whole, and is JSON.
        let line = self.redactor.masked(&String::from_utf8_lossy(line));
        match self.left.checked_sub(line.len() as u64) {
            _ if self.full => Ok(()),
            Some(left) => {
                self.left = left;
                self.file.write_all(line.as_bytes())
            }
            None => {
                self.full = true;
                self.file.write_all(CUT)
            }
        }
    }
}

/// Sets logging up for the whole process; `verbosity` counts the `-v`. A second call changes nothing.
pub fn init(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let run = if verbosity == 0 { LevelFilter::OFF } else { level };
    let colour = terminal::colour(&io::stderr());
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .without_time()
        .with_filter(Targets::new().with_default(level).with_target("vaultberry::run", run));
    let file = tracing_subscriber::fmt::layer()
        .json()
        .with_writer(|| RunLogWriter)
        .with_filter(Targets::new().with_target("vaultberry", Level::DEBUG));
    // It fails only when a subscriber is there already, as in a test program with many tests.
    let _ = tracing_subscriber::registry().with(terminal).with(file).try_init();
}

/// A run's log file, open until this is dropped.
#[derive(Debug)]
pub struct RunLog(());

impl Drop for RunLog {
    fn drop(&mut self) {
        *RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Creates `path`, which must not exist yet, and sends everything that is logged from now on to it too, with what `redactor`
/// takes for a secret masked. Makes the folder it stands in.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] stands in the chain when `path` is there already.
pub fn attach(path: &Path, redactor: Redactor) -> Result<RunLog> {
    if let Some(folder) = path.parent() {
        durable::private_folder(folder)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating the log {}", path.display()))?;
    *RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some(Bounded { file, left: LARGEST, full: false, redactor });
    Ok(RunLog(()))
}

/// Writes to the run's log when there is one.
struct RunLogWriter;

impl Write for RunLogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            log.write(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Text from outside, fit for a terminal and for one line of a log: control characters (C0, DEL, C1, newlines),
/// characters that reorder what is shown, and bytes that aren't UTF-8 become visible escapes.
pub fn printable(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || reorders(character) {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
        for byte in chunk.invalid() {
            write!(shown, "\\x{byte:02x}").expect("writing to a string doesn't fail");
        }
    }
    shown
}

/// Whether a character changes the direction or the lines of the text round it (Unicode's bidirectional controls, the
/// line and paragraph separators).
fn reorders(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{Bounded, printable};
    use crate::redact::Redactor;

    #[test]
    fn a_log_ends_at_its_bound_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log =
            Bounded { file: std::fs::File::create(&path).unwrap(), left: 10, full: false, redactor: Redactor::default() };
        for line in [&b"12345\n"[..], b"123\n", b"1\n", b"1\n"] {
            log.write(line).unwrap();
        }
        let mut text = String::new();
        std::fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert!(text.starts_with("12345\n123\n{") && text.ends_with("left out\"}}\n") && text.lines().count() == 3, "{text}");
    }

    #[test]
    fn secrets_do_not_reach_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut redactor = Redactor::default();
        redactor.learn("battery-staple");
        let mut log = Bounded { file: std::fs::File::create(&path).unwrap(), left: 1000, full: false, redactor };
        log.write(b"{\"message\":\"no to battery-staple, token=abc\"}\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"message\":\"no to [masked], token=[masked]\"}\n");
    }

    #[test]
    fn escapes_and_newlines_become_visible() {
        assert_eq!(printable(b"a\x1b[31mb\nc\td"), "a\\u{1b}[31mb\\nc\\td");
        assert_eq!(printable("\u{9b}31m \u{7f} \u{202e}x".as_bytes()), "\\u{9b}31m \\u{7f} \\u{202e}x");
    }

    #[test]
    fn bytes_outside_utf8_are_shown_and_other_text_is_left_alone() {
        assert_eq!(printable(b"caf\xe9/\xc3\xa9"), "caf\\xe9/é");
        assert_eq!(printable("/srv/Übersicht 2026.pdf".as_bytes()), "/srv/Übersicht 2026.pdf");
    }
}
