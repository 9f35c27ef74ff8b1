//! One build, from config to published image.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::binaries::Binaries;
use super::cache::Cache;
use super::disk::{self, Layout};
use super::outputs::Outputs;
use super::overlay::{self, Particulars};
use super::payload::VolumeKey;
use super::root::Root;
use super::workshop::Workshop;
use super::{base, boot, root};
use crate::config::{self, Config};
use crate::harden::sshd;
use crate::kernel::baseline::Baseline;
use crate::kernel::boards::CIPHER;
use crate::kernel::cpio::{self, Entry};
use crate::kernel::install::{self, install};
use crate::kernel::proof::{self, Wanted};
use crate::kernel::tree::Tree;
use crate::keys::keyfile::random;
use crate::keys::secrets::{self, BuildSecrets, SecretsFolder};
use crate::luks::{self, HEADER_SIZE, Key};
use crate::process;
use crate::secret::Secret;
use crate::unlock::settings;

/// The programs that a build calls.
const TOOLS: [&str; 18] = [
    "bmaptool",
    "dpkg-divert",
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

/// Makes the base tree that an image of `request` would be built on, where the cache has none; gives its archive.
pub fn base_tree(request: &Request) -> Result<PathBuf> {
    let (_, config) = read_config(request.config.as_deref())?;
    process::require(&["mmdebstrap"])?;
    base::ensure(&config.image, &Cache::open(request.cache.clone())?, request.refresh)
}

/// Builds an image.
pub fn build(request: &Request) -> Result<Built> {
    let (text, config) = read_config(request.config.as_deref())?;
    overlay::refuse_unreachable(&config)?;
    refuse_locked_out(&config)?;
    process::require(&TOOLS)?;
    let binaries = Binaries::read(&request.binaries)?;
    refuse_secrets_in_output(&request.secrets, &request.out)?;
    let cache = Cache::open(request.cache.clone())?;
    let outputs = Outputs::open(&request.out)?;
    let folder = SecretsFolder::open(&request.secrets)?;
    // What isn't encrypted yet is made beside the secrets, never below the output folder.
    let workshop = Workshop::open(&request.secrets)?;
    let clock = Clock::start();

    let base = base::ensure(&config.image, &cache, request.refresh)?;
    clock.tell("base tree");
    let system = overlay::system(&binaries)?;
    let boot = boot::ensure(&cache, &base, &system, workshop.path(), request.refresh)?;
    clock.tell("initramfs");

    let secrets = BuildSecrets::generate()?;
    let credentials = credentials(&config, &folder)?;
    let layout = Layout { size: config.image.size, disk_id: random_disk_id()? };
    let plan = RootPlan {
        config: &config,
        text: &text,
        layout,
        secrets: &secrets,
        credentials: &credentials,
        admin_keys: admin_keys(&config, workshop.path())?,
        epoch: source_date_epoch()?,
    };
    let root = plan.make(workshop.path(), &binaries, &base, &system, &boot)?;
    binaries.check_glibc(&root.packages)?;
    sshd::prove(&config, &root.sshd, &root.tree())?;
    install_kernel(&root, &secrets)?;
    let baseline = Baseline::take(&root.firmware())?;
    let ext4 = root.pack(layout.root_file_system(), secrets.uuid, &baseline)?;
    clock.tell("root file system");

    let header = make_header(&workshop.path().join("header"), &layout, &secrets)?;
    write_image(
        &outputs.work().join(format!("{}.img", config.image_name())),
        &layout,
        &root.firmware(),
        &ext4,
        &header,
        &secrets,
    )?;
    clock.tell("encrypted image");

    outputs.derive(config.image_name(), &root.packages)?;
    // The keys first: an image without its keys would be worth nothing.
    folder.publish(&secrets, &config.appliance.hostname, &header, workshop.path())?;
    let files = outputs.publish(config.image_name())?;
    clock.tell("block map, compression, sums");
    Ok(Built { files, secrets: folder.of(secrets.uuid), key: folder.key(secrets.uuid) })
}

/// What makes one appliance's root file system.
struct RootPlan<'a> {
    config: &'a Config,
    text: &'a str,
    layout: Layout,
    secrets: &'a BuildSecrets,
    credentials: &'a [(PathBuf, Secret<Vec<u8>>)],
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
            admin_keys: &self.admin_keys,
            disk_id: self.layout.disk_id,
        };
        let appliance = overlay::appliance(self.config, &particulars, binaries, self.epoch)?;
        let system = write(&work.join("system.tar"), system)?;
        let appliance = write(&work.join("appliance.tar"), &appliance)?;
        let segment = unlock_segment(self.config, self.secrets, self.epoch)?;
        root::lay(work, self.config, &segment, &[base, &system, boot, &appliance])
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

/// Writes the whole image; the plain file system is removed.
fn write_image(path: &Path, layout: &Layout, firmware: &Path, ext4: &Path, header: &[u8], secrets: &BuildSecrets) -> Result<()> {
    let image = disk::create(path, layout)?;
    disk::fill_firmware(path, firmware)?;
    let used = root::used_blocks(ext4, layout.root_file_system())?;
    let key = VolumeKey { cipher: CIPHER, key: &secrets.volume_key };
    disk::write_root(&image, header, ext4, &key, &used)?;
    fs::remove_file(ext4).with_context(|| format!("removing {}", ext4.display()))
}

fn read_config(path: Option<&Path>) -> Result<(String, Config)> {
    match path {
        Some(path) => Ok(config::load_with_text(path)?),
        None => Ok((config::EXAMPLE.to_owned(), config::parse(config::EXAMPLE).context("reading the embedded example")?)),
    }
}

/// What the appliance logs in to store and mail server with, and where its watcher is, as far as the owner has put it into the secrets folder.
fn credentials(config: &Config, folder: &SecretsFolder) -> Result<Vec<(PathBuf, Secret<Vec<u8>>)>> {
    let store = config.offsite.as_ref().map(|offsite| ("s3", &offsite.credentials));
    let servers = config.report.iter().flat_map(|report| report.servers.iter().enumerate());
    let mail = servers.filter_map(|(number, server)| {
        let path = server.credentials.as_ref()?;
        // Those of further servers go by the names that they have on the appliance.
        let name = if number == 0 { "smtp" } else { path.file_name()?.to_str()? };
        Some((name, path))
    });
    let watcher = config.ping.as_ref().map(|ping| ("ping", &ping.credentials));
    let mut found: Vec<(PathBuf, Secret<Vec<u8>>)> = Vec::new();
    for (name, path) in store.into_iter().chain(mail).chain(watcher) {
        if found.iter().any(|(known, _)| known == path) {
            continue;
        }
        if let Some(content) = folder.credentials(name)? {
            found.push((path.clone(), content));
        } else {
            tracing::warn!(
                "there is no file credentials/{name} in the secrets folder: write {} on the appliance before its first night",
                path.display()
            );
        }
    }
    Ok(found)
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

fn admin_keys(config: &Config, work: &Path) -> Result<Vec<String>> {
    let mut keys = config.admin.ssh_keys.clone();
    if config.admin.generate_key {
        keys.push(secrets::make_admin_key(work, &config.appliance.hostname)?);
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
    luks::format(path, secrets.uuid, "root", CIPHER, Some(&secrets.volume_key), &keys)?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::credentials;
    use crate::config::{EXAMPLE, MailServer, Report, Security, parse};
    use crate::keys::secrets::SecretsFolder;

    #[test]
    fn each_mail_server_gets_its_own_login_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("credentials")).unwrap();
        for name in ["smtp", "second"] {
            let file = folder.path().join("credentials").join(name);
            fs::write(&file, name).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let server = |path: &str| MailServer {
            host: "mail.example.org".into(),
            port: 587,
            security: Security::StartTls,
            credentials: Some(PathBuf::from(path)),
            ca: None,
        };
        let mut config = parse(EXAMPLE).unwrap();
        config.report = Some(Report {
            to: vec!["me@example.org".into()],
            from: "pi@example.org".into(),
            servers: ["/etc/first", "/etc/second", "/etc/first", "/etc/missing"].map(server).into(),
            size_limit: 1 << 20,
        });
        let found = credentials(&config, &SecretsFolder::at(folder.path())).unwrap();
        let found: Vec<(&Path, &[u8])> =
            found.iter().map(|(path, content)| (path.as_path(), content.expose().as_slice())).collect();
        assert_eq!(found, [(Path::new("/etc/first"), &b"smtp"[..]), (Path::new("/etc/second"), b"second")]);
    }
}
