//! Opening root at boot, from the initramfs: with the key on a stick, or with the recovery passphrase.
//!
//! One loop waits for three things at once: block devices that udev announces, lines typed on a console, and the clock. A
//! stick counts at every moment, also while the prompt stands. Each candidate is mounted read-only, its key file is read,
//! and it is unmounted again before the key is tried. There is no shell and no other way out: root is open, or the
//! program fails and the boot script reboots.

pub mod console;
pub mod settings;
pub mod stick;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::devices::{self, Block, Watch};
use crate::keys::recovery;
use crate::luks::{self, Key, Tried};
use crate::secret::Secret;
use console::Consoles;
use settings::Settings;

/// The name of the open root: `/dev/mapper/root`.
pub const ROOT_NAME: &str = "root";

/// Waits for a key and opens root with it. Returns once `/dev/mapper/root` is there.
///
/// # Errors
/// When the time for an unopened appliance is over, or the system can't be asked for devices.
pub fn run(settings: &Settings) -> Result<()> {
    forbid_core_dumps()?;
    let mut unlock = Unlock::new(settings);
    // Listening begins before the first look, so that no device is lost between the two.
    let watch = Watch::start()?;
    for block in devices::present()? {
        unlock.see(block);
    }
    unlock.consoles.say(&format!("waiting for the key stick of {}", settings.luks_uuid));
    loop {
        if unlock.try_sticks()? {
            return Ok(());
        }
        unlock.prompt_when_due()?;
        unlock.wait(&watch)?;
        for block in watch.events() {
            unlock.see(block);
        }
        if unlock.prompting && unlock.try_passphrases()? {
            return Ok(());
        }
    }
}

/// What is known while root is closed.
struct Unlock<'a> {
    settings: &'a Settings,
    started: Instant,
    consoles: Consoles,
    root: Option<Block>,
    /// File systems that may hold a key and haven't been looked at.
    candidates: VecDeque<Block>,
    prompting: bool,
}

impl<'a> Unlock<'a> {
    fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            started: Instant::now(),
            consoles: Consoles::open(),
            root: None,
            candidates: VecDeque::new(),
            prompting: false,
        }
    }

    /// Takes note of a device that appeared or changed.
    fn see(&mut self, block: Block) {
        if block.is_luks(self.settings.luks_uuid) {
            self.root = Some(block);
        } else if block.may_hold_key() && !self.candidates.contains(&block) {
            self.candidates.push_back(block);
        }
    }

    /// Tries every candidate once root's device is there. A stick that doesn't help is named, and the next one is tried.
    fn try_sticks(&mut self) -> Result<bool> {
        let Some(root) = self.root.clone() else { return Ok(false) };
        while let Some(candidate) = self.candidates.pop_front() {
            // A key on root's own disk would go with it to the thief.
            if candidate.disk == root.disk {
                continue;
            }
            let key = match stick::read_key(&candidate, self.settings.luks_uuid) {
                Ok(Some(key)) => key,
                Ok(None) => {
                    self.consoles.say(&format!("{candidate} holds no key for this appliance"));
                    continue;
                }
                Err(error) => {
                    self.consoles.say(&format!("{candidate}: {error:#}"));
                    continue;
                }
            };
            if self.try_key(&root.node, Key::Random(&key.key), &format!("the key on {candidate}"))? {
                self.consoles.say("you can remove the stick");
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn try_key(&mut self, root: &Path, key: Key, name: &str) -> Result<bool> {
        match luks::open(root, ROOT_NAME, key)? {
            Tried::Opened => {
                self.consoles
                    .say(&format!("root is open, by {name}, {:.1} s after the kernel's start", since_boot()?.as_secs_f64()));
                Ok(true)
            }
            Tried::WrongKey => {
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
        if !self.prompting && elapsed >= self.settings.wait() {
            self.prompting = true;
            self.consoles.prompt();
        }
        Ok(())
    }

    /// Sleeps until something happens.
    fn wait(&self, watch: &Watch) -> Result<()> {
        let deadline = if self.prompting { self.settings.reboot_after() } else { self.settings.wait() };
        let left = deadline.saturating_sub(self.started.elapsed()) + Duration::from_millis(1);
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
            if !phrase.expose().is_empty() && self.try_passphrase(&phrase)? {
                return Ok(true);
            }
            self.consoles.prompt();
        }
        Ok(false)
    }

    fn try_passphrase(&mut self, phrase: &Secret<String>) -> Result<bool> {
        let Some(root) = self.root.as_ref().map(|root| root.node.clone()) else {
            self.consoles.say("the encrypted root isn't there yet");
            return Ok(false);
        };
        self.consoles.say("trying the passphrase; this takes some seconds");
        self.try_key(&root, Key::Passphrase(phrase), "the recovery passphrase")
    }
}

/// A core file would hold the key.
fn forbid_core_dumps() -> Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    nix::sys::prctl::set_dumpable(false).context("forbidding core dumps")
}

fn since_boot() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").context("reading /proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok()).context("reading /proc/uptime")?;
    Ok(Duration::from_secs_f64(seconds))
}
