//! Opening root at boot, from the initramfs: with the key on a stick, or with the recovery passphrase.
//!
//! One loop waits for three things at once: block devices that udev announces, lines typed on a console, and the clock. A
//! stick counts at every moment, also while the prompt stands. Each candidate is mounted read-only, its key file is read,
//! and it is unmounted again before the key is tried. There is no shell and no other way out: root is open, or the
//! program fails and the boot script reboots. Until then its memory is locked, and never written to a core file.

mod attempts;
pub mod console;
mod grow;
pub mod led;
pub mod mark;
pub mod settings;
pub mod stick;
mod trial;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::devices::{self, Block, Watch};
use crate::keys::recovery;
use crate::luks::{self, Key, Tried};
use crate::secret::Secret;
use attempts::Attempts;
use console::Consoles;
use led::{Led, Signal};
use settings::Settings;
use stick::Found;

/// The name of the open root: `/dev/mapper/root`.
pub const ROOT_NAME: &str = "root";

/// How long the LED tells that root stays closed before the board reboots.
const FAREWELL: Duration = Duration::from_secs(5);

/// Waits for a key and opens root with it. Returns once `/dev/mapper/root` is there. The LED and every console say how it goes.
///
/// # Errors
/// When the time for an unopened appliance is over, or the system can't be asked for devices.
pub fn run(settings: &Settings) -> Result<()> {
    let mut unlock = Unlock::new(settings);
    let opened = guard_memory().and_then(|()| unlock.until_open());
    if let Err(error) = &opened {
        unlock.led.show(Signal::Failed);
        unlock.consoles.say(&format!("error: {error:#}"));
        unlock.trial.leave_undecided(&mut unlock.consoles);
        thread::sleep(FAREWELL);
    }
    opened
}

/// What is known while root is closed.
struct Unlock<'a> {
    settings: &'a Settings,
    started: Instant,
    consoles: Consoles,
    led: Led,
    root: Option<Block>,
    /// Whether root's partition has been looked at for growing.
    grown: bool,
    /// The trial of a new kernel, as far as it goes here.
    trial: trial::Trial,
    /// File systems that may hold a key and haven't been looked at.
    candidates: VecDeque<Block>,
    prompting: bool,
    attempts: Attempts,
}

impl<'a> Unlock<'a> {
    fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            started: Instant::now(),
            consoles: Consoles::open(),
            led: Led::new(),
            root: None,
            grown: false,
            trial: trial::Trial::default(),
            candidates: VecDeque::new(),
            prompting: false,
            attempts: Attempts::default(),
        }
    }

    fn until_open(&mut self) -> Result<()> {
        // Listening begins before the first look, so that no device is lost between the two.
        let watch = Watch::start()?;
        for block in devices::present()? {
            self.see(block);
        }
        self.consoles.say(&format!("waiting for the key stick of {}", self.settings.luks_uuid));
        while !self.try_sticks()? {
            self.prompt_when_due()?;
            self.wait(&watch)?;
            for block in watch.events() {
                self.see(block);
            }
            if self.prompting && self.try_passphrases()? {
                break;
            }
        }
        Ok(())
    }

    /// Takes note of a device that appeared or changed.
    fn see(&mut self, block: Block) {
        self.trial.see(&block);
        if block.is_luks(self.settings.luks_uuid) {
            self.grow(&block);
            self.root = Some(block);
        } else if self.settings.accepts(&block) && !self.candidates.contains(&block) {
            self.candidates.push_back(block);
        }
    }

    /// Lets root's partition have the whole card, once. Root opens all the same when that can't be.
    fn grow(&mut self, root: &Block) {
        if std::mem::replace(&mut self.grown, true) {
            return;
        }
        match grow::partition(root) {
            Ok(None) => {}
            Ok(Some(bytes)) => self.consoles.say(&format!("root's partition has the whole card now: {} MiB", bytes >> 20)),
            Err(error) => self.consoles.say(&format!("{error:#}")),
        }
    }

    /// Tries every candidate once root's device is there. A stick that doesn't help is named, and the next one is tried.
    fn try_sticks(&mut self) -> Result<bool> {
        let Some(root) = self.root.clone() else { return Ok(false) };
        self.trial.begin(&root, &mut self.consoles);
        while let Some(candidate) = self.candidates.pop_front() {
            // A key on root's own disk would go with it to the thief.
            if candidate.disk == root.disk {
                continue;
            }
            let problem = match stick::read_key(&candidate, self.settings.luks_uuid) {
                Ok(Found::Key(key)) => {
                    if self.try_key(&root.node, Key::Random(&key.key), &format!("the key on {candidate}"))? {
                        self.consoles.say("you can remove the stick");
                        return Ok(true);
                    }
                    continue;
                }
                Ok(Found::Others) => format!("the keys on {candidate} are for other appliances"),
                Ok(Found::Nothing) => {
                    self.consoles.say(&format!("{candidate} holds no key"));
                    continue;
                }
                Err(error) => format!("{candidate}: {error:#}"),
            };
            self.led.show(Signal::WrongKey);
            self.consoles.say(&problem);
        }
        Ok(false)
    }

    fn try_key(&mut self, root: &Path, key: Key, name: &str) -> Result<bool> {
        match luks::open(root, ROOT_NAME, key)? {
            Tried::Opened => {
                self.led.show(Signal::Open);
                self.consoles
                    .say(&format!("root is open, by {name}, {:.1} s after the kernel's start", since_boot()?.as_secs_f64()));
                Ok(true)
            }
            Tried::WrongKey => {
                self.led.show(Signal::WrongKey);
                self.consoles.say(&format!("{name} doesn't open this appliance"));
                Ok(false)
            }
        }
    }

    fn prompt_when_due(&mut self) -> Result<()> {
        let elapsed = self.started.elapsed();
        if elapsed >= self.settings.reboot_after() {
            match &self.root {
                Some(_) => bail!("no key for {} came within {} s", self.settings.luks_uuid, elapsed.as_secs()),
                None => bail!("the encrypted root {} isn't there: is this the right card?", self.settings.luks_uuid),
            }
        }
        let begins = !self.prompting && elapsed >= self.settings.wait();
        if begins || self.attempts.goes_on(Instant::now()) {
            self.prompting = true;
            self.consoles.prompt();
        }
        Ok(())
    }

    /// Sleeps until something happens.
    fn wait(&self, watch: &Watch) -> Result<()> {
        let deadline = if self.prompting { self.settings.reboot_after() } else { self.settings.wait() };
        let mut left = deadline.saturating_sub(self.started.elapsed());
        if let Some(end) = self.attempts.pause_ends(Instant::now()) {
            left = left.min(end.saturating_duration_since(Instant::now()));
        }
        left += Duration::from_millis(1);
        let mut fds: Vec<BorrowedFd> = vec![watch.as_fd()];
        if self.prompting {
            fds.extend(self.consoles.fds());
        }
        let mut fds: Vec<PollFd> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting for a stick or a passphrase"),
        }
    }

    fn try_passphrases(&mut self) -> Result<bool> {
        for line in self.consoles.lines() {
            let phrase = recovery::normalize(line.expose());
            if let Some(end) = self.attempts.pause_ends(Instant::now()) {
                let left = end.saturating_duration_since(Instant::now()).as_secs() + 1;
                self.consoles.say(&format!("not looked at: type it again in {left} s"));
                continue;
            }
            if !phrase.expose().is_empty() && self.try_passphrase(&phrase)? {
                return Ok(true);
            }
            if self.attempts.pause_ends(Instant::now()).is_none() {
                self.consoles.prompt();
            }
        }
        Ok(false)
    }

    fn try_passphrase(&mut self, phrase: &Secret<String>) -> Result<bool> {
        let Some(root) = self.root.as_ref().map(|root| root.node.clone()) else {
            self.consoles.say("the encrypted root isn't there yet");
            return Ok(false);
        };
        self.consoles.say("trying the passphrase; this takes some seconds");
        let opened = self.try_key(&root, Key::Passphrase(phrase), "the recovery passphrase")?;
        if !opened && self.attempts.wrong(Instant::now()) {
            self.consoles.say(&format!("no passphrase is taken for {} s; a stick is", attempts::PAUSE.as_secs()));
        }
        Ok(opened)
    }
}

/// A core file would hold the key, and so would what is swapped out: an initramfs has no swap, but this costs nothing.
fn guard_memory() -> Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    nix::sys::prctl::set_dumpable(false).context("forbidding core dumps")?;
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).context("locking the memory")
}

fn since_boot() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").context("reading /proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok()).context("reading /proc/uptime")?;
    Ok(Duration::from_secs_f64(seconds))
}
