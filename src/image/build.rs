//! One build, from config to published image.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::binaries::Binaries;
use super::cache::Cache;
use super::cpio::Entry;
use super::disk::{self, Layout};
use super::outputs::Outputs;
use super::overlay::{self, Particulars};
use super::{base, boot, cpio, proof, root};
use crate::config::{self, Config};
use crate::keys::keyfile::random;
use crate::keys::secrets::{BuildSecrets, SecretsFolder};
use crate::luks::{self, HEADER_SIZE, Key};
use crate::process;
use crate::unlock::settings;

/// The programs that a build calls.
const TOOLS: [&str; 17] = [
    "bmaptool",
    "dumpe2fs",
    "mcopy",
    "mke2fs",
    "mkfs.vfat",
    "mmd",
    "mmdebstrap",
    "mtype",
    "readelf",
    "setpriv",
    "sfdisk",
    "ssh-keygen",
    "tar",
    "truncate",
    "unshare",
    "useradd",
    "zstd",
];

/// What a build works with.
#[derive(Clone, Debug)]
pub struct Request {
    /// The `appliance.toml`; none takes the embedded example.
    pub config: Option<PathBuf>,
    /// Where the image goes.
    pub out: PathBuf,
    /// Where the secrets go.
    pub secrets: PathBuf,
    /// Where `vaultberry` and `vaultberry-unlock` for aarch64 are.
    pub binaries: PathBuf,
    /// The cache; none takes the user's.
    pub cache: Option<PathBuf>,
    /// Make the cached parts anew, with today's packages.
    pub refresh: bool,
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

/// Builds an image.
pub fn build(request: &Request) -> Result<Built> {
    let (text, config) = read_config(request.config.as_deref())?;
    process::require(&TOOLS)?;
    let binaries = Binaries::read(&request.binaries)?;
    let cache = Cache::open(request.cache.clone())?;
    let outputs = Outputs::open(&request.out)?;
    let secrets_folder = SecretsFolder::open(&request.secrets)?;
    refuse_secrets_in_output(&request.secrets, outputs.folder())?;
    let epoch = source_date_epoch()?;
    let clock = Clock::start();

    let base = base::ensure(&config.image, &cache, request.refresh)?;
    clock.tell("base tree");
    let system = overlay::system(&binaries)?;
    let boot = boot::ensure(&cache, &base, &system, &outputs.work(), request.refresh)?;
    clock.tell("initramfs");

    let secrets = BuildSecrets::generate()?;
    let layout = Layout { size: config.image.size, disk_id: random_disk_id()? };
    let admin_keys = admin_keys(&config, &secrets_folder, &secrets)?;
    let particulars = Particulars { config_text: &text, secrets: &secrets, admin_keys: &admin_keys, disk_id: layout.disk_id };
    let appliance = overlay::appliance(&config, &particulars, &binaries, epoch)?;
    let system_path = write(&outputs.work().join("system.tar"), &system)?;
    let appliance_path = write(&outputs.work().join("appliance.tar"), &appliance)?;
    let segment = unlock_segment(&config, &secrets, epoch)?;
    let root = root::make(
        &outputs.work(),
        layout.root_file_system(),
        secrets.uuid,
        &config.admin.user,
        &segment,
        &[&base, &system_path, &boot, &appliance_path],
    )?;
    fs::remove_file(&appliance_path).context("removing the appliance overlay")?;
    binaries.check_glibc(&root.packages)?;
    proof::check(&root, &secrets)?;
    clock.tell("root file system");

    let header = make_header(&outputs.work().join("header"), &layout, &secrets)?;
    let image_path = outputs.work().join(format!("{}.img", config.image_name()));
    let image = disk::create(&image_path, &layout)?;
    disk::fill_firmware(&image_path, &root.firmware)?;
    let used = root::used_blocks(&root.ext4, layout.root_file_system())?;
    disk::write_root(&image, &header, &root.ext4, &secrets.volume_key, &used)?;
    fs::remove_file(&root.ext4).context("removing the plain root file system")?;
    clock.tell("encrypted image");

    outputs.derive(config.image_name(), &root.packages)?;
    // The keys first: an image without its keys would be worth nothing.
    secrets_folder.publish(&secrets, &config.appliance.hostname, &header)?;
    let files = outputs.publish(config.image_name())?;
    clock.tell("block map, compression, sums");
    Ok(Built { files, secrets: secrets_folder.of(secrets.uuid), key: secrets_folder.key(secrets.uuid) })
}

fn read_config(path: Option<&Path>) -> Result<(String, Config)> {
    match path {
        Some(path) => {
            let config = config::load(path)?;
            let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            Ok((text, config))
        }
        None => Ok((config::EXAMPLE.to_owned(), config::parse(config::EXAMPLE).context("reading the embedded example")?)),
    }
}

/// A CI that uploads its output folder must not upload the keys with it.
fn refuse_secrets_in_output(secrets: &Path, out: &Path) -> Result<()> {
    let secrets = secrets.canonicalize().with_context(|| format!("finding the secrets folder {}", secrets.display()))?;
    ensure!(
        !secrets.starts_with(out),
        "the secrets folder {} lies inside the output folder {}, which is meant to be given away\nhint: name another one with --secrets",
        secrets.display(),
        out.display()
    );
    Ok(())
}

/// The time of every file that the build makes: `SOURCE_DATE_EPOCH` (reproducible-builds.org), or now.
fn source_date_epoch() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("reading SOURCE_DATE_EPOCH: {text:?} is no number of seconds")),
        Err(_) => Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs()),
    }
}

fn random_disk_id() -> Result<u32> {
    let bytes = random(4)?;
    Ok(u32::from_be_bytes(bytes.expose()[..].try_into().expect("four bytes were asked for")))
}

fn admin_keys(config: &Config, folder: &SecretsFolder, secrets: &BuildSecrets) -> Result<Vec<String>> {
    let mut keys = config.admin.ssh_keys.clone();
    if config.admin.generate_key {
        keys.push(folder.make_admin_key(secrets, &config.appliance.hostname)?);
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

/// The LUKS2 header, made on a sparse file as large as the partition.
fn make_header(path: &Path, layout: &Layout, secrets: &BuildSecrets) -> Result<Vec<u8>> {
    let file = fs::File::create(path).with_context(|| format!("creating {}", path.display()))?;
    file.set_len(layout.root_partition()).with_context(|| format!("sizing {}", path.display()))?;
    let keys = [Key::Random(&secrets.key.key), Key::Passphrase(&secrets.passphrase)];
    luks::format(path, secrets.uuid, "root", Some(&secrets.volume_key), &keys)?;
    let mut header = vec![0; usize::try_from(HEADER_SIZE).expect("a header fits into memory")];
    std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(path)?, &mut header, 0)
        .with_context(|| format!("reading {}", path.display()))?;
    fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    Ok(header)
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
