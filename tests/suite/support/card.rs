//! A built image, made by the real program, with its secrets.

use std::env;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use memchr::memmem::Finder;
use nix::unistd::{Whence, lseek};
use tempfile::TempDir;
use uuid::Uuid;
use vaultberry::config::{EXAMPLE, parse};
use vaultberry::image::cache::Cache;
use vaultberry::image::emulate::root_uuid;
use vaultberry::image::lock::Lock;
use vaultberry::image::packages::Store;
use vaultberry::image::payload::{BLOCK_SIZE, Blocks, Direction, VolumeKey, convert};
use vaultberry::image::tools::{self, Tools};
use vaultberry::keys::keyfile::KeyFile;
use vaultberry::luks::cipher::Cipher;
use vaultberry::luks::{HEADER_SIZE, Key, volume_key};
use vaultberry::secret::Secret;

/// Where `make cross` puts the appliance's programs.
pub const BINARIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/aarch64-unknown-linux-gnu/release");

/// An image and its secrets in a temporary folder.
pub struct Card {
    path: PathBuf,
    /// Removes a card's folder with it.
    _folder: Option<TempDir>,
    /// The LUKS UUID of its root.
    pub uuid: Uuid,
}

impl Card {
    /// Builds one from the text of an `appliance.toml`, with these files in `secrets/credentials/`. The host name must be
    /// `vaultberry`, the admin `admin`.
    pub fn build(config: &str, credentials: &[(&str, &str)]) -> Self {
        let folder = scratch();
        let path = folder.path().to_owned();
        let there = path.join("secrets/credentials");
        DirBuilder::new().recursive(true).mode(0o700).create(&there).unwrap();
        for (name, content) in credentials {
            fs::write(there.join(name), content).unwrap();
            fs::set_permissions(there.join(name), Permissions::from_mode(0o600)).unwrap();
        }
        Self { _folder: Some(folder), ..Self::build_in(path, config) }
    }

    /// Builds one that lives as long as the tests do. Nothing tidies up after a static: the next run takes its place.
    pub fn shared(config: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("card");
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        Self::build_in(path, config)
    }

    fn build_in(path: PathBuf, config: &str) -> Self {
        fs::write(path.join("appliance.toml"), config).unwrap();
        let output = image(&path, &[]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        let uuid = root_uuid(&path.join("out/vaultberry.img")).unwrap();
        let card = Self { path, _folder: None, uuid };
        card.assert_keeps_its_secrets();
        card
    }

    /// No key stands in the image, neither in the firmware partition nor in the header nor in what is encrypted.
    fn assert_keeps_its_secrets(&self) {
        let passphrase = self.passphrase();
        let header = self.secret("header.luks");
        let volume_key = volume_key(&header, Key::Passphrase(&passphrase)).unwrap();
        let key = KeyFile::decode(&fs::read(self.key()).unwrap(), self.uuid).unwrap();
        let secrets = [key.key.expose(), volume_key.expose(), &volume_key.expose()[..16], passphrase.expose().as_bytes()];
        let finders = secrets.map(Finder::new);
        let mut image = File::open(self.image()).unwrap();
        // What may stand across two blocks is in the second one's head.
        let (mut block, mut kept) = (vec![0; 16 << 20], 0);
        loop {
            let read = image.read(&mut block[kept..]).unwrap();
            if read == 0 {
                break;
            }
            let there = &block[..kept + read];
            assert!(finders.iter().all(|finder| finder.find(there).is_none()), "a key stands in the image");
            let tail = there.len().saturating_sub(128);
            let length = there.len() - tail;
            block.copy_within(tail..tail + length, 0);
            kept = length;
        }
    }

    /// The image.
    pub fn image(&self) -> PathBuf {
        self.path.join("out/vaultberry.img")
    }

    /// The output folder.
    pub fn out(&self) -> PathBuf {
        self.path.join("out")
    }

    /// The secrets folder.
    pub fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// A file of this build's secrets.
    pub fn secret(&self, name: &str) -> PathBuf {
        self.secrets().join(self.uuid.to_string()).join(name)
    }

    /// The key file of the stick.
    pub fn key(&self) -> PathBuf {
        self.secrets().join(format!("stick/vaultberry/{}.key", self.uuid))
    }

    /// The passphrase of the recovery sheet.
    pub fn passphrase(&self) -> Secret<String> {
        let sheet = fs::read_to_string(self.secret("recovery.txt")).unwrap();
        let line = sheet.lines().skip_while(|line| *line != "Recovery passphrase:").nth(2).unwrap();
        Secret::new(line.trim().to_owned())
    }
}

/// `vaultberry image appliance.toml` in a folder, not started.
pub fn image(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
    command.current_dir(folder).args(["-v", "image", "appliance.toml"]).args(arguments);
    if !arguments.contains(&"--binaries") {
        command.args(["--binaries", BINARIES]);
    }
    command
}

/// The builder's tools, unpacked below `work`, as a build takes them.
pub fn tools(work: &Path) -> Tools {
    let (cache, config) = (Cache::open(None).unwrap(), parse(EXAMPLE).unwrap());
    let store = Store { cache: &cache, offline: false };
    let lock = Lock::read(&store.lock(&config, false).unwrap()).unwrap();
    let set = tools::set(&config.image).unwrap();
    Tools::unpack(&cache, &lock.tools, work, || store.archive(&set, &lock.tools)).unwrap()
}

/// A file that `make setup` has put into the cache folder.
pub fn cached(name: &str) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap()).join(".cache")).join("vaultberry").join(name)
}

/// A temporary folder with room for images, on the disk that holds the build.
pub fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Deciphers a LUKS2 volume with a passphrase, without device-mapper, into `plain`: the file system that was in it. Holes, where
/// nothing was ever written, stay holes.
pub fn decipher(volume: &Path, passphrase: &Secret<String>, plain: &Path) {
    let key = volume_key(volume, Key::Passphrase(passphrase)).unwrap();
    let (from, to) = (File::open(volume).unwrap(), File::create(plain).unwrap());
    let blocks = written(&from);
    to.set_len(from.metadata().unwrap().len() - HEADER_SIZE).unwrap();
    let (from, to) = (Blocks { file: &from, start: HEADER_SIZE }, Blocks { file: &to, start: 0 });
    let key = VolumeKey { cipher: Cipher::of_volume(volume).unwrap(), key: &key };
    convert(Direction::Decrypt, &key, from, to, &blocks).unwrap();
}

/// The blocks behind the header that aren't in holes.
fn written(volume: &File) -> Vec<Range<u64>> {
    let (start, size) = (i64::try_from(HEADER_SIZE).unwrap(), BLOCK_SIZE as u64);
    let mut blocks: Vec<Range<u64>> = Vec::new();
    let mut end = start;
    while let Ok(data) = lseek(volume, end, Whence::SeekData) {
        end = lseek(volume, data, Whence::SeekHole).unwrap();
        let number = |offset: i64| u64::try_from(offset - start).unwrap();
        let from = (number(data) / size).max(blocks.last().map_or(0, |range| range.end));
        blocks.push(from..(number(end) / size).max(from));
    }
    blocks
}

/// Runs a program that must succeed.
pub fn tool(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}
