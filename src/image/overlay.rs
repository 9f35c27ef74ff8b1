//! The files laid over the base tree, as tar archives with fixed owners, modes and times.
//!
//! There are two. The *system* overlay is the same for every appliance and shapes the initramfs; the
//! *appliance* overlay holds what the config says, the agent and the keys. Static files are kept in `image/root/` and
//! `initramfs/` under the paths that they have in the tree.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use tar::{Builder, EntryType, Header};
use uuid::Uuid;

use super::binaries::Binaries;
use super::{network, region, wifi};
use crate::config::{Config, ExtraFile};
use crate::disk::RECOVERY_PATH;
use crate::faults::Faults;
use crate::harden;
use crate::kernel::boards::TARGET_PATH;
use crate::kernel::firmware;
use crate::keys::secrets::BuildSecrets;
use crate::secret::Secret;
use crate::unlock::settings::{self, Settings};

/// An embedded file of `image/root/`: its path there and in the tree.
macro_rules! root_file {
    ($path:literal, $mode:literal) => {
        ($path, include_str!(concat!("../../image/root/", $path)), $mode)
    };
}

const SYSTEM: [(&str, &str, u32); 5] = [
    root_file!("etc/initramfs-tools/conf.d/vaultberry", 0o644),
    root_file!("etc/initramfs-tools/update-initramfs.conf", 0o644),
    root_file!("etc/kernel/postinst.d/z50-raspi-firmware", 0o755),
    ("usr/share/initramfs-tools/hooks/vaultberry", include_str!("../../initramfs/hook"), 0o755),
    ("usr/share/initramfs-tools/scripts/local-top/vaultberry", include_str!("../../initramfs/unlock"), 0o755),
];

const APPLIANCE: [(&str, &str, u32); 26] = [
    root_file!("etc/apt/apt.conf.d/52vaultberry", 0o644),
    root_file!("etc/systemd/journald.conf.d/vaultberry.conf", 0o644),
    root_file!("etc/systemd/resolved.conf.d/vaultberry.conf", 0o644),
    root_file!("etc/systemd/system.conf.d/vaultberry.conf", 0o644),
    root_file!("etc/tmpfiles.d/systemd-nologin.conf", 0o644),
    root_file!("usr/lib/systemd/system/apt-daily-upgrade.service.d/vaultberry.conf", 0o644),
    root_file!("usr/lib/systemd/system/emergency.service.d/vaultberry.conf", 0o644),
    root_file!("usr/lib/systemd/system/multi-user.target.d/vaultberry.conf", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-backup.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-catch-up.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-disk@.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-first-boot.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-grow.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-grow.service.d/root.conf", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-.service.d/common.conf", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-harden.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-harden.timer", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-kernel.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-report.service", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-report.timer", 0o644),
    root_file!("usr/lib/systemd/system/sshd-keygen.service.d/vaultberry.conf", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry-pull-.service.d/pull.conf", 0o644),
    root_file!("usr/lib/systemd/system/vaultberry.slice", 0o644),
    root_file!("usr/lib/sysusers.d/vaultberry.conf", 0o644),
    root_file!("usr/lib/udev/rules.d/90-vaultberry.rules", 0o644),
    root_file!("usr/lib/vaultberry/first-boot", 0o755),
];

/// Where a nightly run on an appliance can't keep anything.
const UNREACHABLE: [&str; 12] =
    ["/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/usr", "/var/log", "/var/tmp"];

/// The units that make runs, or speak of them, and what holds for each of them.
const RUNS: [&str; 3] = ["vaultberry-backup.service", "vaultberry-catch-up.service", "vaultberry-report.service"];
const OF_RUNS: &str = include_str!("../../image/runs.conf");

/// Further units that write to folders which the config names.
const WRITERS: [&str; 3] = ["vaultberry-disk@.service", "vaultberry-first-boot.service", "vaultberry-harden.service"];

/// Where it sees nothing of what is there.
const UNSEEN: [&str; 6] = ["/dev", "/home", "/proc", "/root", "/tmp", "/var/tmp"];

/// What Debian's packages find at `/boot/firmware`, so that they write nothing over what boots.
const DECOY: &str = "/var/lib/vaultberry/raspi-firmware";

/// What the kernel is told beside what every kernel is told.
const KERNEL_ARGUMENTS: &str = "etc/default/raspi-extra-cmdline";

/// Units that are started at boot, each with the target that wants it.
pub const ENABLED: [(&str, &str); 7] = [
    ("multi-user.target", "systemd-networkd.service"),
    ("multi-user.target", "vaultberry-first-boot.service"),
    ("multi-user.target", "vaultberry-grow.service"),
    ("multi-user.target", "vaultberry-kernel.service"),
    ("sysinit.target", "nftables.service"),
    ("timers.target", "vaultberry-harden.timer"),
    ("timers.target", "vaultberry-report.timer"),
];

/// What of an appliance isn't in its config.
pub struct Particulars<'a> {
    /// The text of `appliance.toml`, as the owner wrote it.
    pub config_text: &'a str,
    /// Its keys.
    pub secrets: &'a BuildSecrets,
    /// What it logs in to servers with: the path on the appliance, and the file.
    pub credentials: &'a [(PathBuf, Secret<Vec<u8>>)],
    /// Public keys of the admin, one a line.
    pub admin_keys: &'a [String],
    /// The owner's files, as the config says.
    pub files: &'a [(&'a ExtraFile, Vec<u8>)],
    /// The disk signature of the image's partition table.
    pub disk_id: u32,
}

/// The system overlay. Its files bear no date of the build, so that it is the same, and with it the key of what is cached,
/// as long as its content and the boards are.
pub fn system(config: &Config, binaries: &Binaries) -> Result<Vec<u8>> {
    let board = config.image.board;
    let mut archive = Archive::new(0);
    archive.files(&SYSTEM)?;
    for (path, text) in region::files(config) {
        archive.text(path, &text, 0o644)?;
    }
    archive.text("usr/share/vaultberry/initramfs-modules", &board.modules(include_str!("../../initramfs/modules")), 0o644)?;
    archive.text(&TARGET_PATH[1..], &format!("{}\n", board.name()), 0o644)?;
    archive.file("usr/sbin/vaultberry-unlock", &binaries.unlock, 0o755)?;
    archive.finish()
}

/// The appliance overlay.
pub fn appliance(config: &Config, particulars: &Particulars, binaries: &Binaries, epoch: u64) -> Result<Vec<u8>> {
    let mut archive = Archive::new(epoch);
    archive.files(&APPLIANCE)?;
    archive.file("usr/bin/vaultberry", &binaries.vaultberry, 0o755)?;
    identity(&mut archive, config)?;
    access(&mut archive, config, particulars.admin_keys)?;
    vaultberry(&mut archive, config, particulars)?;
    for (path, text) in network::files(config).into_iter().chain(wifi::files(config)) {
        archive.text(path, &text, 0o644)?;
    }
    if config.wifi.is_some() {
        let (wanting, unit) = wifi::UNIT;
        let template = "/usr/lib/systemd/system/wpa_supplicant@.service";
        archive.link(&format!("etc/systemd/system/{wanting}.wants/{unit}"), template)?;
        archive.link(wifi::UNUSED, "/dev/null")?;
    }
    // Read when a kernel's command line is made, here and on the appliance.
    if !config.image.kernel_arguments.is_empty() {
        archive.text(KERNEL_ARGUMENTS, &format!("{}\n", config.image.kernel_arguments.join(" ")), 0o644)?;
    }
    archive.text("etc/fstab", &fstab(particulars.disk_id), 0o644)?;
    archive.folder(&firmware::FOLDER[1..], 0o755)?;
    archive.folder(&DECOY[1..], 0o755)?;
    for (target, unit) in ENABLED {
        archive.link(&format!("etc/systemd/system/{target}.wants/{unit}"), &format!("/usr/lib/systemd/system/{unit}"))?;
    }
    for (file, content) in particulars.files {
        let path = &file.to.to_string_lossy()[1..];
        ensure!(
            !archive.paths.contains(path),
            "image.file: {} is a file of vaultberry's own\nhint: choose another place for {}",
            file.to.display(),
            file.from.display()
        );
        archive.file(path, content, file.mode)?;
    }
    archive.finish()
}

/// What the unlock reads in the initramfs.
pub fn unlock_settings(config: &Config, uuid: Uuid) -> Settings {
    Settings {
        luks_uuid: uuid,
        wait_seconds: config.unlock.wait.as_secs(),
        reboot_after_seconds: config.unlock.reboot_after.as_secs(),
        sticks: config.unlock.sticks.clone(),
    }
}

fn identity(archive: &mut Archive, config: &Config) -> Result<()> {
    let name = &config.appliance.hostname;
    archive.text("etc/hostname", &format!("{name}\n"), 0o644)?;
    archive.text("etc/hosts", &format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n"), 0o644)?;
    archive.link("etc/localtime", &format!("/usr/share/zoneinfo/{}", config.appliance.timezone))?;
    // Empty: systemd draws a new one at the first boot.
    archive.text("etc/machine-id", "", 0o444)
}

fn access(archive: &mut Archive, config: &Config, keys: &[String]) -> Result<()> {
    let user = &config.admin.user;
    archive.text(&format!("etc/ssh/authorized_keys.d/{user}"), &format!("{}\n", keys.join("\n")), 0o644)?;
    for file in harden::files(config) {
        archive.text(&file.path[1..], &file.text, file.mode)?;
    }
    // The admin has a key and no password to give.
    archive.text("etc/sudoers.d/vaultberry", &format!("{user} ALL=(ALL) NOPASSWD: ALL\n"), 0o440)
}

fn vaultberry(archive: &mut Archive, config: &Config, particulars: &Particulars) -> Result<()> {
    archive.text("etc/vaultberry/appliance.toml", particulars.config_text, 0o600)?;
    let settings = unlock_settings(config, particulars.secrets.uuid).encode()?;
    archive.text(settings::PATH.trim_start_matches('/'), &settings, 0o644)?;
    let phrase = &particulars.secrets.passphrase;
    archive.folder("etc/vaultberry/keys", 0o700)?;
    archive.text(RECOVERY_PATH.trim_start_matches('/'), phrase.expose(), 0o600)?;
    archive.folder("etc/vaultberry/credentials", 0o700)?;
    // The unit's writable folders have to be there before it starts.
    for folder in [&config.backup.folder, &config.backup.state] {
        archive.folder(&folder.to_string_lossy()[1..], 0o700)?;
    }
    for (path, content) in particulars.credentials {
        archive.file(&path.to_string_lossy()[1..], content.expose(), 0o600)?;
    }
    archive.text("etc/cron.d/vaultberry", &cron(config), 0o644)?;
    for unit in RUNS {
        archive.text(&format!("usr/lib/systemd/system/{unit}.d/runs.conf"), OF_RUNS, 0o644)?;
    }
    for unit in RUNS.iter().chain(&WRITERS) {
        archive.text(&format!("usr/lib/systemd/system/{unit}.d/paths.conf"), &writable_paths(config), 0o644)?;
    }
    Ok(())
}

/// `dirsync`: what is renamed on FAT is on the card at once. Otherwise a name leads to what it had before for half a minute,
/// though file and folder were synced.
fn fstab(disk_id: u32) -> String {
    format!(
        "/dev/mapper/root / ext4 defaults,noatime,errors=remount-ro 0 1\n\
         PARTUUID={disk_id:08x}-01 {} vfat defaults,nofail,noatime,dirsync,umask=0022,errors=remount-ro 0 2\n\
         {DECOY} /boot/firmware none bind 0 0\n\
         tmpfs /tmp tmpfs nosuid,nodev,size=25% 0 0\n",
        firmware::FOLDER
    )
}

fn cron(config: &Config) -> String {
    let at = config.backup.at;
    format!(
        "# The nightly backup; the unit holds its limits and its log.\n\
         {} {} * * * root systemctl start --wait vaultberry-backup.service\n\
         # After downtime: a night that was missed is made up for.\n\
         @reboot root systemctl start --wait vaultberry-catch-up.service\n",
        at.minute, at.hour
    )
}

/// Refuses places that the nightly unit would see otherwise than a person does: it has a `/tmp` of its own and no homes, and
/// what is on a file system in memory is gone with the next boot.
pub fn refuse_unreachable(config: &Config) -> Result<()> {
    let mut faults = Faults::default();
    for (key, folder) in [("backup.folder", &config.backup.folder), ("backup.state", &config.backup.state)] {
        faults.keep(refuse(
            key,
            folder,
            &UNREACHABLE,
            "can't keep anything in\nhint: write a folder below /mnt, /srv or /var/lib",
        ));
    }
    let credentials = config.offsite.iter().map(|offsite| ("offsite.credentials", &offsite.credentials));
    let servers = config.report.iter().flat_map(|report| &report.servers);
    let login = servers.filter_map(|server| Some(("report.credentials", server.credentials.as_ref()?)));
    let watcher = config.ping.iter().map(|ping| ("ping.credentials", &ping.credentials));
    let identities = config.sources.iter().map(|source| ("source.identity", &source.identity));
    for (key, file) in credentials.chain(login).chain(watcher).chain(identities) {
        faults.keep(refuse(key, file, &UNSEEN, "can't see\nhint: write a file below /etc/vaultberry or /var/lib/vaultberry"));
    }
    let lock = &config.backup.lock;
    let hint = "sees otherwise than other runs do\nhint: write lock = \"/run/lock/vaultberry.lock\"";
    faults.keep(refuse("backup.lock", lock, &UNSEEN, hint));
    if lock.parent() == Some(Path::new("/")) {
        faults.keep::<()>(Err(anyhow!(
            "backup.lock: {} stands in the root folder, which the nightly run may not write to\nhint: write lock = \"/run/lock/vaultberry.lock\"",
            lock.display()
        )));
    }
    faults.end()
}

fn refuse(key: &str, path: &Path, places: &[&str], why: &str) -> Result<()> {
    for place in places {
        ensure!(
            !path.starts_with(place),
            "{key}: {} lies in {place}, which the nightly run on an appliance {why}",
            path.display()
        );
    }
    Ok(())
}

/// A path as a word of a unit file (systemd.syntax(7)): quoted, with `%` doubled.
fn unit_word(prefix: &str, path: &Path) -> String {
    let path = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{prefix}{path}\"")
}

/// The unit sees the rest of the system read-only. `-`: a folder that isn't there is for the run to report.
fn writable_paths(config: &Config) -> String {
    let lock = config.backup.lock.parent().unwrap_or(&config.backup.lock);
    let metrics = config.metrics.as_ref().map(|metrics| metrics.folder.as_path());
    let paths = [config.backup.folder.as_path(), &config.backup.state, lock].into_iter().chain(metrics);
    let words: Vec<String> = paths.map(|path| unit_word("-", path)).collect();
    format!("[Service]\nReadWritePaths={}\n", words.join(" "))
}

/// A tar archive in memory, owned by root, with one time for all.
struct Archive {
    builder: Builder<Vec<u8>>,
    /// The files and links in it.
    paths: BTreeSet<String>,
    epoch: u64,
}

impl Archive {
    fn new(epoch: u64) -> Self {
        Self { builder: Builder::new(Vec::new()), paths: BTreeSet::new(), epoch }
    }

    fn header(&self, kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.epoch);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn files(&mut self, files: &[(&str, &str, u32)]) -> Result<()> {
        files.iter().try_for_each(|(path, content, mode)| self.text(path, content, *mode))
    }

    fn text(&mut self, path: &str, content: &str, mode: u32) -> Result<()> {
        self.file(path, content.as_bytes(), mode)
    }

    fn file(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.paths.insert(path.to_owned());
        let mut header = self.header(EntryType::Regular, mode, content.len() as u64);
        self.builder.append_data(&mut header, path, content).with_context(|| format!("adding {path} to the overlay"))
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = self.header(EntryType::Directory, mode, 0);
        self.builder.append_data(&mut header, path, std::io::empty()).with_context(|| format!("adding {path} to the overlay"))
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.paths.insert(path.to_owned());
        let mut header = self.header(EntryType::Symlink, 0o777, 0);
        self.builder.append_link(&mut header, path, target).with_context(|| format!("adding {path} to the overlay"))
    }

    fn finish(self) -> Result<Vec<u8>> {
        let mut bytes = self.builder.into_inner().context("finishing the overlay")?;
        bytes.flush().context("finishing the overlay")?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{APPLIANCE, SYSTEM, refuse_unreachable, unit_word, writable_paths};
    use crate::config::{EXAMPLE, Metrics, Ping, parse};
    use crate::outcome::Outcome;

    #[test]
    fn the_appliance_fetches_package_lists_each_day() {
        let (_, settings, mode) = APPLIANCE.iter().find(|(path, ..)| *path == "etc/apt/apt.conf.d/52vaultberry").unwrap();
        assert!(settings.contains("\nAPT::Periodic::Update-Package-Lists \"1\";\n"), "{settings}");
        assert_eq!(*mode, 0o644);
    }

    #[test]
    fn each_file_below_image_root_is_in_an_overlay() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("image/root");
        let (mut folders, mut files) = (vec![root.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        for file in files {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
            assert!(SYSTEM.iter().chain(&APPLIANCE).any(|(known, ..)| *known == path), "{path} goes nowhere");
        }
    }

    #[test]
    fn odd_paths_survive_a_unit_file() {
        assert_eq!(unit_word("-", Path::new("/srv/back up 100%\"x\\")), "\"-/srv/back up 100%%\\\"x\\\\\"");
    }

    #[test]
    fn the_unit_may_write_metrics_where_there_are_any() {
        let mut config = parse(EXAMPLE).unwrap();
        config.metrics = None;
        let without = writable_paths(&config);
        assert_eq!(without.lines().next(), Some("[Service]"));
        config.metrics = Some(Metrics { folder: PathBuf::from("/var/lib/prometheus/node-exporter") });
        let with = format!("{} \"-/var/lib/prometheus/node-exporter\"\n", without.trim_end());
        assert_eq!(writable_paths(&config), with);
    }

    #[test]
    fn a_folder_that_the_unit_can_not_see_is_refused_by_its_key() {
        let mut config = parse(EXAMPLE).unwrap();
        refuse_unreachable(&config).unwrap();
        config.backup.folder = PathBuf::from("/tmp/backup");
        let error = refuse_unreachable(&config).unwrap_err().to_string();
        assert!(error.starts_with("backup.folder: /tmp/backup lies in /tmp, which"), "{error}");
        let mut config = parse(EXAMPLE).unwrap();
        config.sources[0].identity = PathBuf::from("/root/.ssh/id_ed25519");
        let error = refuse_unreachable(&config).unwrap_err().to_string();
        assert!(error.starts_with("source.identity: /root/.ssh/id_ed25519 lies in /root, which"), "{error}");
        let mut config = parse(EXAMPLE).unwrap();
        config.ping = Some(Ping { credentials: PathBuf::from("/root/ping"), partial: Outcome::Failed });
        let error = refuse_unreachable(&config).unwrap_err().to_string();
        assert!(error.starts_with("ping.credentials: /root/ping lies in /root, which"), "{error}");
        for lock in ["/tmp/lock", "/lock"] {
            let mut config = parse(EXAMPLE).unwrap();
            config.backup.lock = PathBuf::from(lock);
            assert!(refuse_unreachable(&config).unwrap_err().to_string().starts_with(&format!("backup.lock: {lock} ")));
        }
    }
}
