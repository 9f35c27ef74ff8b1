//! One build, from config to published image.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use super::binaries::Binaries;
use super::cache::Cache;
use super::disk::{self, Layout};
use super::lock::{self, Lock};
use super::outputs::{Described, Outputs};
use super::overlay::{self, Particulars};
use super::packages::Store;
use super::payload::VolumeKey;
use super::root::Root;
use super::tools::{self, Tools};
use super::workshop::{self, ROOM, Workshop};
use super::{base, boot, credentials, region, root};
use crate::config::{self, Config, ExtraFile};
use crate::faults::Faults;
use crate::harden::sshd;
use crate::kernel::baseline::Baseline;
use crate::kernel::cpio::{self, Entry};
use crate::kernel::install::{self, install};
use crate::kernel::proof::{self, Wanted};
use crate::kernel::tree::Tree;
use crate::keys::secrets::{self, BuildSecrets, SecretsFolder};
use crate::process;
use crate::secret::Secret;
use crate::unlock::settings;

/// The programs that a build calls.
const TOOLS: [&str; 15] = [
    "ar",
    "dpkg",
    "dpkg-deb",
    "dpkg-divert",
    "mcopy",
    "mkfs.vfat",
    "mmd",
    "mmdebstrap",
    "readelf",
    "setpriv",
    "sfdisk",
    "ssh-keygen",
    "tar",
    "truncate",
    "unshare",
];

/// Bytes that a file of the owner's may have: it is held in memory.
const LARGEST_FILE: u64 = 64 << 20;

/// The owner's files, with what is in them.
type OwnFiles<'a> = Vec<(&'a ExtraFile, Vec<u8>)>;

/// What a build works with.
#[derive(Clone, Debug)]
pub struct Request {
    /// The `appliance.toml`; none takes the embedded example.
    pub config: Option<PathBuf>,
    /// Where the image goes.
    pub out: PathBuf,
    /// Where the secrets go; or, in that folder, one build's own, to build with these again.
    pub secrets: PathBuf,
    /// Where `vaultberry` and `vaultberry-unlock` for aarch64 are.
    pub binaries: PathBuf,
    /// The cache; none takes the user's.
    pub cache: Option<PathBuf>,
    /// Ask the mirror for today's packages, not for those of the last time.
    pub refresh: bool,
    /// Take the packages that the lock beside the config names, and no others.
    pub locked: bool,
    /// Ask no mirror.
    pub offline: bool,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The published files.
    pub files: Vec<PathBuf>,
    /// The folder of this build's secrets.
    pub secrets: PathBuf,
    /// The key file of the stick.
    pub key: PathBuf,
}

/// Makes the base tree that an image of `request` would be built on, where the cache has none; gives its archive.
pub fn base_tree(request: &Request) -> Result<PathBuf> {
    let (_, config) = read_config(request.config.as_deref())?;
    process::require(&["ar", "dpkg", "dpkg-deb", "mmdebstrap"])?;
    let cache = Cache::open(request.cache.clone())?;
    let store = Store { cache: &cache, offline: request.offline };
    base::ensure(&config, &store, &packages_of(request, &config, &store)?)
}

/// Asks the mirror for today's packages and writes the lock beside the config, or here without one; gives its path.
pub fn write_lock(config: Option<&Path>, cache: Option<PathBuf>) -> Result<PathBuf> {
    let path = lock_path(config);
    let (_, config) = read_config(config)?;
    process::require(&["dpkg", "mmdebstrap"])?;
    let cache = Cache::open(cache)?;
    let store = Store { cache: &cache, offline: false };
    let today = Lock::read(&store.lock(&config, true)?)?;
    let is_same = |there: Lock| Lock { epoch: today.epoch, ..there } == today;
    if !Lock::read(&path).is_ok_and(is_same) {
        today.write(&path)?;
    }
    Ok(path)
}

fn lock_path(config: Option<&Path>) -> PathBuf {
    config.map_or_else(|| PathBuf::from(lock::NAME), |config| config.with_file_name(lock::NAME))
}

/// Which packages the image is to be made of.
fn packages_of(request: &Request, config: &Config, store: &Store) -> Result<Lock> {
    if !request.locked {
        let lock = Lock::read(&store.lock(config, request.refresh)?)?;
        // Else the mirror might have others by now: those of today are as good.
        return if store.offline || base::is_served(config, store, &lock) {
            Ok(lock)
        } else {
            Lock::read(&store.lock(config, true)?)
        };
    }
    let path = lock_path(request.config.as_deref());
    let lock = Lock::read(&path)?;
    let all = lock.all();
    let missing: Vec<&str> = base::packages(config).into_iter().filter(|name| !all.contains_key(*name)).collect();
    ensure!(
        lock.suite == config.image.suite && missing.is_empty(),
        "the lock {} is of another config: it is for {}{}\nhint: `vaultberry image lock` makes it anew",
        path.display(),
        lock.suite,
        if missing.is_empty() { String::new() } else { format!(", and has no {}", missing.join(", ")) }
    );
    let kernel = all.get("linux-image-arm64").map_or("", |package| &package.version);
    ensure!(
        kernel.contains("~bpo") == config.image.board.needs_backports(),
        "the lock {} is for another board: its kernel is {kernel}\nhint: `vaultberry image lock` makes it anew",
        path.display()
    );
    Ok(lock)
}

/// Builds an image.
pub fn build(request: &Request) -> Result<Built> {
    let (text, config) = read_config(request.config.as_deref())?;
    let (files, binaries) = first_look(request, &config)?;
    let cache = Cache::open(request.cache.clone())?;
    let outputs = Outputs::open(&request.out)?;
    let _log = outputs.log(config.image_name())?;
    let (folder, again) = SecretsFolder::open_for_build(&request.secrets)?;
    let secrets = match again {
        Some(uuid) => folder.read(uuid, config.image.cipher)?,
        None => BuildSecrets::generate(config.image.cipher)?,
    };
    let credentials = credentials::read(&config, &folder)?;
    // Refused now, not after ten minutes.
    workshop::place(folder.path(), ROOM)?;
    let clock = Clock::start();

    let store = Store { cache: &cache, offline: request.offline };
    let lock = packages_of(request, &config, &store)?;
    clock.tell("packages");
    let base = base::ensure(&config, &store, &lock)?;
    clock.tell("base tree");
    // What isn't encrypted yet is never below the output folder.
    let workshop = Workshop::open(folder.path(), room_for(&base)?)?;
    let tools_set = tools::set(&config.image)?;
    let tools = Tools::unpack(&cache, &lock.tools, workshop.path(), || store.archive(&tools_set, &lock.tools))?;
    clock.tell("tools");
    let system = overlay::system(&config, &binaries)?;
    let boot = boot::ensure(&cache, &base, &system, workshop.path(), lock.epoch)?;
    clock.tell("initramfs");

    let layout = Layout { size: config.image.size, disk_id: disk_id(secrets.uuid) };
    let plan = RootPlan {
        config: &config,
        text: &text,
        layout,
        secrets: &secrets,
        credentials: &credentials,
        files: &files,
        admin_keys: admin_keys(&config, again.map(|uuid| folder.of(uuid)).as_deref(), workshop.path())?,
        epoch: source_date_epoch(&lock)?,
    };
    let root = plan.make(workshop.path(), &binaries, &base, &system, &boot)?;
    lock.require_installed(&root.packages)?;
    binaries.check_glibc(&root.packages)?;
    region::prove(&config, &root.tree())?;
    sshd::prove(&config, &root.sshd, &root.tree())?;
    install_kernel(&root, &secrets)?;
    let baseline = Baseline::take(&root.firmware())?;
    let ext4 = root.pack(&tools, layout.root_file_system(), secrets.uuid, &baseline)?;
    clock.tell("root file system");

    let header = match again {
        Some(uuid) => folder.header(uuid)?,
        None => secrets.make_header(&workshop.path().join("header"), layout.root_partition())?,
    };
    let image = outputs.work().join(format!("{}.img", config.image_name()));
    let parts = Parts { firmware: &root.firmware(), ext4: &ext4, header: &header, epoch: plan.epoch };
    write_image(&tools, &image, &layout, &parts, &secrets)?;
    clock.tell("encrypted image");

    let described = Described { packages: &root.packages, lock: &lock, epoch: plan.epoch };
    let sums = outputs.derive(config.image_name(), &described)?;
    // The keys first: an image without its keys would be worth nothing.
    if again.is_none() {
        folder.publish(&secrets, &config.appliance.hostname, &header, workshop.path())?;
    }
    folder.remember(secrets.uuid, &sums[0].0)?;
    let files = outputs.publish(config.image_name(), &sums)?;
    clock.tell("block map, compression, sums");
    Ok(Built { files, secrets: folder.of(secrets.uuid), key: folder.key(secrets.uuid) })
}

/// Bytes that a build takes in its workshop: the tree, its file system, what the firmware partition is made of, and the tools.
fn room_for(base: &Path) -> Result<u64> {
    let size = fs::metadata(base).with_context(|| format!("finding {}", base.display()))?.len();
    Ok(ROOM.max(3 * size + (ROOM / 4)))
}

/// What needs nothing but a look: the owner's files and the appliance's programs, and that there is nothing to refuse.
///
/// # Errors
/// With everything that is wrong.
fn first_look<'a>(request: &Request, config: &'a Config) -> Result<(OwnFiles<'a>, Binaries)> {
    let mut faults = Faults::default();
    faults.keep(overlay::refuse_unreachable(config));
    faults.keep(refuse_locked_out(config));
    let files = config.image.files.iter().filter_map(|file| faults.keep(extra_file(file, request.config.as_deref())));
    let files = files.collect();
    faults.keep(process::require(&TOOLS));
    let binaries = faults.keep(Binaries::read(&request.binaries));
    faults.keep(refuse_secrets_in_output(&request.secrets, &request.out));
    faults.end()?;
    Ok((files, binaries.context("the programs are there")?))
}

/// What makes one appliance's root file system.
struct RootPlan<'a> {
    config: &'a Config,
    text: &'a str,
    layout: Layout,
    secrets: &'a BuildSecrets,
    credentials: &'a [(PathBuf, Secret<Vec<u8>>)],
    files: &'a [(&'a ExtraFile, Vec<u8>)],
    admin_keys: Vec<String>,
    epoch: u64,
}

impl RootPlan<'_> {
    /// Lays base, system overlay, boot files and this appliance's own files over one another.
    fn make(&self, work: &Path, binaries: &Binaries, base: &Path, system: &[u8], boot: &Path) -> Result<Root> {
        let particulars = Particulars {
            config_text: self.text,
            secrets: self.secrets,
            credentials: self.credentials,
            files: self.files,
            admin_keys: &self.admin_keys,
            disk_id: self.layout.disk_id,
        };
        let appliance = overlay::appliance(self.config, &particulars, binaries, self.epoch)?;
        let system = write(&work.join("system.tar"), system)?;
        let appliance = write(&work.join("appliance.tar"), &appliance)?;
        let segment = unlock_segment(self.config, self.secrets, self.epoch)?;
        root::lay(work, self.config, self.epoch, &segment, &[base, &system, boot, &appliance])
    }
}

/// Fills the firmware partition, once it is shown that its kernel can open root.
fn install_kernel(root: &Root, secrets: &BuildSecrets) -> Result<()> {
    let tree = Tree::at(&root.kernel);
    let wanted = Wanted {
        root: secrets.uuid,
        secrets: vec![
            (String::from("the stick's key"), secrets.key.key.clone()),
            (String::from("the volume key"), secrets.volume_key.clone()),
            (String::from("the recovery passphrase"), Secret::new(secrets.passphrase.expose().clone().into_bytes())),
        ],
    };
    let firmware = root.firmware();
    fs::create_dir(&firmware).with_context(|| format!("making the folder {}", firmware.display()))?;
    let request = install::Request { tree: &tree, firmware: &firmware, version: None, failed: &[] };
    install(&request, |version| proof::check(&tree, version, &wanted)).map(drop)
}

/// What an image is put together of.
struct Parts<'a> {
    /// The folder with what the firmware partition holds.
    firmware: &'a Path,
    /// The plain file system of root.
    ext4: &'a Path,
    /// The LUKS2 header of root.
    header: &'a [u8],
    /// The time of the files of the firmware partition.
    epoch: u64,
}

/// Writes the whole image; the plain file system is removed.
fn write_image(tools: &Tools, path: &Path, layout: &Layout, parts: &Parts, secrets: &BuildSecrets) -> Result<()> {
    let image = disk::create(tools, path, layout)?;
    disk::fill_firmware(tools, path, parts.firmware, parts.epoch)?;
    let used = root::used_blocks(tools.command("dumpe2fs")?, parts.ext4, layout.root_file_system())?;
    let key = VolumeKey { cipher: secrets.cipher, key: &secrets.volume_key };
    disk::write_root(&image, parts.header, parts.ext4, &key, &used)?;
    fs::remove_file(parts.ext4).with_context(|| format!("removing {}", parts.ext4.display()))
}

fn read_config(path: Option<&Path>) -> Result<(String, Config)> {
    match path {
        Some(path) => Ok(config::load_with_text(path)?),
        None => Ok((config::EXAMPLE.to_owned(), config::parse(config::EXAMPLE).context("reading the embedded example")?)),
    }
}

/// A file of the owner's, whose path is seen from the config's folder.
fn extra_file<'a>(file: &'a ExtraFile, config: Option<&Path>) -> Result<(&'a ExtraFile, Vec<u8>)> {
    let from = config.and_then(Path::parent).unwrap_or(Path::new("")).join(&file.from);
    let reading = || format!("reading {}, which [[image.file]] wants at {}", from.display(), file.to.display());
    let length = fs::metadata(&from).with_context(reading)?.len();
    ensure!(length <= LARGEST_FILE, "{}: it is larger than {} MiB", reading(), LARGEST_FILE >> 20);
    Ok((file, fs::read(&from).with_context(reading)?))
}

fn refuse_locked_out(config: &Config) -> Result<()> {
    ensure!(
        config.admin.generate_key || !config.admin.ssh_keys.is_empty(),
        "nobody could log in to the appliance: there is no ssh key\nhint: add [admin] with ssh_keys = [\"ssh-ed25519 AAAA… me@laptop\"]"
    );
    Ok(())
}

/// A CI that uploads its output folder must not upload the keys with it.
fn refuse_secrets_in_output(secrets: &Path, out: &Path) -> Result<()> {
    ensure!(
        !resolved(secrets)?.starts_with(resolved(out)?),
        "the secrets folder {} lies inside the output folder {}, which is meant to be given away\nhint: name another one with --secrets",
        secrets.display(),
        out.display()
    );
    Ok(())
}

/// The path without symbolic links, as far as it is there already.
fn resolved(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("finding {}", path.display()))?;
    for ancestor in path.ancestors() {
        if let Ok(there) = ancestor.canonicalize() {
            let rest = path.strip_prefix(ancestor).expect("an ancestor begins the path");
            return Ok(if rest.as_os_str().is_empty() { there } else { there.join(rest) });
        }
    }
    Ok(path)
}

/// The time of every file that the build makes: `SOURCE_DATE_EPOCH` (reproducible-builds.org), or the lock's.
fn source_date_epoch(lock: &Lock) -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("reading SOURCE_DATE_EPOCH: {text:?} is no number of seconds")),
        Err(_) => Ok(lock.epoch),
    }
}

/// The disk signature: as unique as root's UUID, whose front it is.
fn disk_id(root: Uuid) -> u32 {
    root.as_fields().0
}

/// The admin's keys; `again` is the folder of the secrets that are built with again.
fn admin_keys(config: &Config, again: Option<&Path>, work: &Path) -> Result<Vec<String>> {
    let mut keys = config.admin.ssh_keys.clone();
    if config.admin.generate_key {
        keys.push(match again {
            Some(folder) => secrets::read_admin_key(folder)?,
            None => secrets::make_admin_key(work, &config.appliance.hostname)?,
        });
    }
    Ok(keys)
}

/// The segment behind the cached initramfs: what differs from appliance to appliance.
fn unlock_segment(config: &Config, secrets: &BuildSecrets, epoch: u64) -> Result<Vec<u8>> {
    let text = overlay::unlock_settings(config, secrets.uuid).encode()?;
    let mtime = u32::try_from(epoch).context("the date is past what an initramfs can hold")?;
    let path = settings::PATH.trim_start_matches('/');
    cpio::write(&[
        Entry::folder("etc", 0o755, mtime),
        Entry::folder("etc/vaultberry", 0o755, mtime),
        Entry::file(path, 0o644, mtime, text.as_bytes()),
    ])
}

fn write(path: &Path, content: &[u8]) -> Result<PathBuf> {
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.to_owned())
}

/// Says how long each step took.
struct Clock {
    last: std::cell::Cell<Instant>,
}

impl Clock {
    fn start() -> Self {
        Self { last: std::cell::Cell::new(Instant::now()) }
    }

    fn tell(&self, step: &str) {
        let now = Instant::now();
        tracing::info!("{step}: {:.1} s", now.duration_since(self.last.replace(now)).as_secs_f64());
    }
}
