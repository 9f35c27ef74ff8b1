//! LUKS2 volumes, by libcryptsetup: making one, adding keys, opening and closing.
//!
//! Both of ours, root and the backup disk, are made by [`format`] and have the same two kinds of keyslot: a random key that
//! needs no stretching, and the recovery passphrase behind argon2id; [`slots`] says whose they are. All of it works on a plain file as well as on a
//! device; only [`open`] needs device-mapper. Format: "LUKS2 On-Disk Format Specification", version 1.1.

pub mod cipher;
pub mod slots;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptDeactivate, CryptPbkdf, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::{CryptKdf, EncryptionFormat};
use libcryptsetup_rs::{CryptDevice, CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, CryptPbkdfType, Either, LibcryptErr};
use nix::sys::stat::{major, minor};
use uuid::Uuid;

use crate::process;
use crate::secret::Secret;
use cipher::Cipher;
use slots::Holder;

/// Bytes before the payload: libcryptsetup's default, two copies of the metadata and the keyslots.
pub const HEADER_SIZE: u64 = 16 << 20;
/// Bytes of an encryption sector: one IV for each block of the file system.
pub const SECTOR_SIZE: u32 = 4096;

/// Bytes of the binary header, before the JSON area (LUKS2 specification, section 2.1).
pub const BINARY_HEADER_SIZE: usize = 4096;

/// Where the second copy of the metadata begins in what libcryptsetup formats; it heals the first (section 2.2).
const SECOND_HEADER: u64 = 16 << 10;

/// After magic, version, length and sequence number: `label[48]` at offset 0x18.
const LABEL_FIELD: Range<usize> = 0x18..0x48;
/// Checksum algorithm and salt stand between: `uuid[40]` at offset 0xa8.
const UUID_FIELD: Range<usize> = 0xa8..0xd0;
/// The least iterations that LUKS2 takes. A random key of 512 bits gains nothing from more, and each costs boot time.
const RANDOM_KEY_ITERATIONS: u32 = 1000;
/// What argon2id takes of the board that opens it, in KiB: a quarter of the smallest board's 512 MiB, whatever host
/// formats the volume.
const PASSPHRASE_MEMORY_KIB: u32 = 128 << 10;
const PASSPHRASE_ITERATIONS: u32 = 4;
const PASSPHRASE_THREADS: u32 = 4;

/// A key as a keyslot takes it.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// Random bytes.
    Random(&'a Secret<Vec<u8>>),
    /// Words that a person types.
    Passphrase(&'a Secret<String>),
}

impl Key<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Key::Random(key) => key.expose(),
            Key::Passphrase(phrase) => phrase.expose().as_bytes(),
        }
    }

    /// The key derivation that fits this kind of key; its cost is fixed, never measured on the machine at hand.
    fn derivation(&self) -> CryptPbkdfType {
        let (type_, iterations, max_memory_kb, parallel_threads) = match self {
            Key::Random(_) => (CryptKdf::Pbkdf2, RANDOM_KEY_ITERATIONS, 0, 0),
            Key::Passphrase(_) => (CryptKdf::Argon2Id, PASSPHRASE_ITERATIONS, PASSPHRASE_MEMORY_KIB, PASSPHRASE_THREADS),
        };
        CryptPbkdfType {
            type_,
            hash: Some(String::from("sha256")),
            time_ms: 0,
            iterations,
            max_memory_kb,
            parallel_threads,
            flags: CryptPbkdf::NO_BENCHMARK,
        }
    }
}

/// What a try to open a volume came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The key fits; the volume is open where that was asked for.
    Opened,
    /// No keyslot takes this key.
    WrongKey,
}

/// Makes a LUKS2 volume of the device or file at `path`, whose content is lost, with a keyslot for each of `keys`.
///
/// Its sectors have [`SECTOR_SIZE`] bytes, or 512 on a disk of another length; without a `volume_key` one is drawn.
///
/// # Errors
/// It can't be written, or the volume key isn't one of this cipher.
pub fn format(
    path: &Path,
    uuid: Uuid,
    label: &str,
    cipher: Cipher,
    volume_key: Option<&Secret<Vec<u8>>>,
    keys: &[Key],
) -> Result<()> {
    let mut device = init(path)?;
    ensure!(!keys.is_empty(), "a volume without a key could never be opened");
    ensure!(
        volume_key.is_none_or(|key| key.expose().len() == cipher.key_size()),
        "the volume key isn't one of {}",
        cipher.name()
    );
    // Before the format, because the volume key's digest takes it too and is benchmarked otherwise.
    set_derivation(&mut device, &Key::Random(&Secret::new(Vec::new())))?;
    let params = CryptParamsLuks2 {
        pbkdf: None,
        integrity: None,
        integrity_params: None,
        data_alignment: 0,
        data_device: None,
        sector_size: sector_size(path)?,
        label: Some(label.to_owned()),
        subsystem: None,
    };
    let mut params: CryptParamsLuks2Ref = (&params).try_into().context("preparing the LUKS2 parameters")?;
    let volume_key = volume_key.map_or(Either::Right(cipher.key_size()), |key| Either::Left(key.expose().as_slice()));
    device
        .context_handle()
        .format::<CryptParamsLuks2Ref>(EncryptionFormat::Luks2, ("aes", "xts-plain64"), Some(uuid), volume_key, Some(&mut params))
        .with_context(|| format!("writing a LUKS2 header to {}", shown(path)))?;
    for key in keys {
        set_derivation(&mut device, key)?;
        let adding = || format!("adding a keyslot to {}", shown(path));
        let number = device.keyslot_handle().add_by_key(None, None, key.bytes(), CryptVolumeKey::empty()).with_context(adding)?;
        slots::write(&mut device, number, &Holder::of(key)).with_context(adding)?;
    }
    drop(device);
    if cipher == Cipher::Aes { Ok(()) } else { cipher::set(path, cipher) }
}

/// Some bridges between USB and a disk keep the last sector for themselves, and libcryptsetup takes no half encryption sector.
fn sector_size(path: &Path) -> Result<u32> {
    let length = File::open(path).and_then(|mut device| device.seek(SeekFrom::End(0)));
    let length = length.with_context(|| format!("asking for the size of {}", shown(path)))?;
    Ok(if length.is_multiple_of(u64::from(SECTOR_SIZE)) { SECTOR_SIZE } else { 512 })
}

/// Opens a volume as `/dev/mapper/NAME`.
pub fn open(path: &Path, name: &str, key: Key) -> Result<Tried> {
    activate(path, Some(name), key)
}

/// Finds out whether `key` opens a volume, without opening it.
pub fn test_key(path: &Path, key: Key) -> Result<Tried> {
    activate(path, None, key)
}

/// Closes `/dev/mapper/NAME`.
pub fn close(name: &str) -> Result<()> {
    let mut device = CryptInit::init_by_name_and_header(name, None).with_context(|| format!("finding the open volume {name}"))?;
    device.activate_handle().deactivate(name, CryptDeactivate::empty()).with_context(|| format!("closing the volume {name}"))
}

/// The UUID of a LUKS2 volume; none when `path` isn't one.
pub fn uuid(path: &Path) -> Option<Uuid> {
    let mut area = Vec::new();
    File::open(path).and_then(|file| file.take(SECOND_HEADER + 8).read_to_end(&mut area)).ok()?;
    let second = area.get(usize::try_from(SECOND_HEADER).expect("it is small")..).unwrap_or_default();
    // libcryptsetup writes to standard error what it misses, also where nobody says that it should be there.
    if !area.starts_with(b"LUKS\xba\xbe") && !second.starts_with(b"SKUL\xba\xbe") {
        return None;
    }
    load(path).ok()?.status_handle().get_uuid().ok()
}

/// The UUID in the first [`BINARY_HEADER_SIZE`] bytes of a LUKS2 volume; none when they aren't a LUKS2 header's.
pub fn uuid_of_header(header: &[u8]) -> Option<Uuid> {
    let field = header.starts_with(b"LUKS\xba\xbe\0\x02").then(|| header.get(UUID_FIELD))??;
    let text = field.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The label of the volume at `path`; empty when it has none.
///
/// # Errors
/// It can't be read, or isn't a LUKS2 volume.
pub fn label(path: &Path) -> Result<String> {
    let reading = || format!("reading the label of the volume {}", shown(path));
    // libcryptsetup makes sure that it is a volume, but this binding of it doesn't tell labels.
    load(path)?;
    let mut start = vec![0; BINARY_HEADER_SIZE];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).with_context(reading)?;
    let field = start[LABEL_FIELD].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8(field.to_vec()).with_context(reading)
}

/// Gives the volume at `path` another label.
///
/// # Errors
/// It can't be written, or isn't a LUKS2 volume.
pub fn set_label(path: &Path, label: &str) -> Result<()> {
    let setting = || format!("labelling the volume {}", shown(path));
    load(path)?.context_handle().set_label(Some(label), None).with_context(setting)
}

/// Gives the volume key of a volume that `key` opens: for reading a volume where there is no device-mapper.
pub fn volume_key(path: &Path, key: Key) -> Result<Secret<Vec<u8>>> {
    let mut device = load(path)?;
    let size = device.status_handle().get_volume_key_size();
    let mut volume_key = vec![0; usize::try_from(size).context("asking for the size of a volume key")?];
    let got = device.volume_key_handle().get(None, &mut volume_key, Some(key.bytes()));
    let volume_key = Secret::new(volume_key);
    got.with_context(|| format!("getting the volume key of {}", shown(path)))?;
    Ok(volume_key)
}

/// The header of the volume at `path`, all of it, as `cryptsetup luksHeaderBackup` writes it and `luksHeaderRestore` takes it: it
/// opens the volume with the keys of that time. Read without libcryptsetup, which wants to lock the device in a folder that a
/// run can't write to.
pub fn read_header(path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("reading the LUKS header of {}", shown(path));
    let kind = fs::metadata(path).with_context(reading)?.file_type();
    ensure!(kind.is_file() || kind.is_block_device(), "{}: there is none", reading());
    let mut header = Vec::new();
    File::open(path).and_then(|file| file.take(HEADER_SIZE).read_to_end(&mut header)).with_context(reading)?;
    ensure!(header.len() as u64 == HEADER_SIZE && uuid_of_header(&header).is_some(), "{}: there is none", reading());
    Ok(header)
}

/// Puts a header that [`read_header`] gave back to the device or file at `path`.
///
/// # Errors
/// It is no header, or that of another volume, or something else than a volume is there, or it can't be written.
pub fn restore_header(path: &Path, file: &Path) -> Result<()> {
    let restoring = || format!("restoring the LUKS header of {}", shown(path));
    let header = read_header(file)?;
    let room = File::open(path).and_then(|mut there| there.seek(SeekFrom::End(0))).with_context(restoring)?;
    ensure!(room >= HEADER_SIZE, "{}: it is smaller than a header\nhint: name the partition, or the image", restoring());
    if let Some(there) = uuid(path) {
        let ours = uuid_of_header(&header);
        ensure!(ours == Some(there), "{}: {} is the header of another volume", restoring(), file.display());
    } else {
        // What begins there may be a volume whose header was spoiled, but nothing else.
        if let Some(found) = signature(path).with_context(restoring)? {
            bail!(
                "{}: it has a partition table or a file system\n\
                 hint: `blkid` calls it {found}; name the partition of root: `lsblk -f` shows it",
                restoring()
            );
        }
    }
    init(path)?.backup_handle().header_restore(Some(EncryptionFormat::Luks2), file).with_context(restoring)
}

/// What blkid(8) finds at `path` beside a LUKS2 header, in its words.
fn signature(path: &Path) -> Result<Option<String>> {
    let mut probe = process::tool("blkid");
    probe.args(["--probe", "--output", "export", "--match-tag", "TYPE", "--match-tag", "PTTYPE", "--match-tag", "VERSION"]);
    let output = probe.arg(path).output().context("starting `blkid`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    match output.status.code() {
        Some(0) if value("TYPE").as_deref() == Some("crypto_LUKS") && value("VERSION").as_deref() == Some("2") => Ok(None),
        Some(0) => Ok(value("TYPE").or_else(|| value("PTTYPE")).or_else(|| Some(String::from("of an unknown kind")))),
        Some(2) => Ok(None),
        // It found several.
        Some(8) => Ok(Some(String::from("of several kinds"))),
        _ => bail!("`blkid` failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// The device of the volume that `mapped` is the open side of; none when it isn't one, or there are several below it.
pub fn device_below(mapped: &Path) -> Option<PathBuf> {
    // By its number: without udev's rules for device-mapper the node's name says nothing.
    let number = fs::metadata(mapped).ok()?.rdev();
    let slaves = format!("/sys/dev/block/{}:{}/slaves", major(number), minor(number));
    let mut below = fs::read_dir(slaves).ok()?.filter_map(Result::ok);
    let device = Path::new("/dev").join(below.next()?.file_name());
    let mut start = vec![0; BINARY_HEADER_SIZE];
    File::open(&device).and_then(|mut file| file.read_exact(&mut start)).ok()?;
    (below.next().is_none() && uuid_of_header(&start).is_some()).then_some(device)
}

/// How a person knows a volume: where a copy of its header in memory is worked on, by the name of that.
fn shown(path: &Path) -> String {
    let link = path.starts_with("/proc").then(|| fs::read_link(path).ok()).flatten();
    let name = link.as_deref().and_then(|link| link.to_str()?.strip_prefix("/memfd:")?.strip_suffix(" (deleted)"));
    name.map_or_else(|| path.display().to_string(), str::to_owned)
}

/// The node of an open volume.
pub fn mapped(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

fn activate(path: &Path, name: Option<&str>, key: Key) -> Result<Tried> {
    let mut device = load(path)?;
    let activated = device.activate_handle().activate_by_passphrase(name, None, key.bytes(), CryptActivate::empty());
    tried(activated.map(drop), || format!("opening {}", shown(path)))
}

/// Tells a key that doesn't fit (`EPERM`) from everything else.
fn tried(result: Result<(), LibcryptErr>, doing: impl FnOnce() -> String) -> Result<Tried> {
    match result {
        Ok(()) => Ok(Tried::Opened),
        Err(LibcryptErr::IOError(error)) if error.raw_os_error() == Some(nix::libc::EPERM) => Ok(Tried::WrongKey),
        Err(error) => Err(error).with_context(doing),
    }
}

fn init(path: &Path) -> Result<CryptDevice> {
    CryptInit::init(path).with_context(|| format!("opening {} for LUKS", shown(path)))
}

fn load(path: &Path) -> Result<CryptDevice> {
    let mut device = init(path)?;
    device
        .context_handle()
        .load::<()>(Some(EncryptionFormat::Luks2), None)
        .with_context(|| format!("reading the LUKS2 header of {}", shown(path)))?;
    Ok(device)
}

fn set_derivation(device: &mut CryptDevice, key: &Key) -> Result<()> {
    device.settings_handle().set_pbkdf_type(&key.derivation()).context("choosing the key derivation")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use uuid::Uuid;

    use super::cipher::Cipher;
    use super::{
        HEADER_SIZE, Key, Tried, format, label, read_header, restore_header, set_label, test_key, uuid, uuid_of_header,
        volume_key,
    };
    use crate::keys::keyfile::random;
    use crate::process;
    use crate::secret::Secret;

    pub fn blank(folder: &Path) -> PathBuf {
        let path = folder.join("volume");
        File::create(&path).unwrap().set_len(HEADER_SIZE + (1 << 20)).unwrap();
        path
    }

    #[test]
    fn both_kinds_of_key_open_a_volume_and_no_other_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = blank(folder.path());
        let (id, key, own) = (Uuid::new_v4(), random(64).unwrap(), random(64).unwrap());
        let phrase = Secret::new(String::from("eight words or so"));
        format(&path, id, "test", Cipher::Aes, Some(&own), &[Key::Random(&key), Key::Passphrase(&phrase)]).unwrap();

        assert_eq!(uuid(&path), Some(id));
        let mut header = std::fs::read(&path).unwrap();
        assert_eq!(uuid_of_header(&header[..super::BINARY_HEADER_SIZE]), Some(id));
        header[0] = b'l';
        assert_eq!(uuid_of_header(&header), None);
        assert_eq!(volume_key(&path, Key::Passphrase(&phrase)).unwrap().expose(), own.expose());
        let other = random(64).unwrap();
        let tries = [Key::Random(&key), Key::Passphrase(&phrase), Key::Random(&other)].map(|key| test_key(&path, key).unwrap());
        assert_eq!(tries, [Tried::Opened, Tried::Opened, Tried::WrongKey]);
    }

    #[test]
    fn a_saved_header_brings_a_spoiled_volume_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, saved) = (blank(folder.path()), folder.path().join("header"));
        let key = random(64).unwrap();
        format(&path, Uuid::new_v4(), "test", Cipher::Aes, None, &[Key::Random(&key)]).unwrap();
        std::fs::write(&saved, read_header(&path).unwrap()).unwrap();
        let spoiled = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&spoiled, &vec![0; 1 << 20], 0).unwrap();
        assert_eq!(uuid(&path), None);
        let mut restore = Command::new("cryptsetup");
        restore.arg("luksHeaderRestore").arg("--batch-mode").arg("--header-backup-file").arg(&saved).arg(&path);
        process::run(&mut restore, "restoring the header").unwrap();
        assert_eq!(test_key(&path, Key::Random(&key)).unwrap(), Tried::Opened);
        // By our own means: over zeros, and over a header of which only the beginning can be told.
        for spoil in [(0, vec![0; 1 << 20]), (8, vec![b'x'; 1 << 20])] {
            std::os::unix::fs::FileExt::write_all_at(&spoiled, &spoil.1, spoil.0).unwrap();
            assert_eq!(uuid(&path), None);
            restore_header(&path, &saved).unwrap();
            assert_eq!(test_key(&path, Key::Random(&key)).unwrap(), Tried::Opened);
        }
        let small = folder.path().join("small");
        File::create(&small).unwrap().set_len(HEADER_SIZE - 512).unwrap();
        let error = format!("{:#}", restore_header(&small, &saved).unwrap_err());
        assert!(error.contains("it is smaller than a header\nhint: "), "{error}");
        assert_eq!(super::device_below(&path), None);
        let error = format!("{:#}", read_header(Path::new("/dev/zero")).unwrap_err());
        assert_eq!(error, "reading the LUKS header of /dev/zero: there is none");
    }

    #[test]
    fn a_header_goes_to_nothing_but_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let (path, saved) = (blank(folder.path()), folder.path().join("header"));
        format(&path, Uuid::new_v4(), "test", Cipher::Aes, None, &[Key::Random(&random(64).unwrap())]).unwrap();
        std::fs::write(&saved, read_header(&path).unwrap()).unwrap();
        let other = folder.path().join("other");
        for make in
            ["mke2fs -q -F -t ext4 \"$0\"", "mkfs.vfat \"$0\"", "cryptsetup -q luksFormat --type luks1 -i 1 \"$0\" \"$0.key\""]
        {
            File::create(&other).unwrap().set_len(HEADER_SIZE + (1 << 20)).unwrap();
            std::fs::write(folder.path().join("other.key"), "key").unwrap();
            process::run(Command::new("sh").args(["-c", make]).arg(&other).env("PATH", "/usr/sbin:/usr/bin"), "making it")
                .unwrap();
            let before = std::fs::read(&other).unwrap();
            let error = format!("{:#}", restore_header(&other, &saved).unwrap_err());
            assert!(error.contains("it has a partition table or a file system\nhint: "), "{error}");
            assert!(std::fs::read(&other).unwrap() == before, "{make}");
        }
    }

    #[test]
    fn derivation_costs_are_those_of_the_board_not_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = blank(folder.path());
        let key = random(64).unwrap();
        let phrase = Secret::new(String::from("eight words or so"));
        format(&path, Uuid::new_v4(), "test", Cipher::Aes, None, &[Key::Random(&key), Key::Passphrase(&phrase)]).unwrap();
        let dump = process::output(Command::new("cryptsetup").arg("luksDump").arg(&path), "dumping the header").unwrap();
        let dump = String::from_utf8(dump).unwrap();
        let values = |name: &str| -> Vec<&str> {
            dump.lines()
                .filter_map(|line| line.trim().strip_prefix(name))
                .map(|value| value.trim_start_matches(':').trim())
                .collect()
        };
        // The keyslot of the random key, then the digest of the volume key.
        assert_eq!(values("Iterations"), ["1000", "1000"]);
        assert_eq!((values("Memory"), values("Time cost")), (vec!["131072"], vec!["4"]));
    }

    #[test]
    fn a_disk_of_an_odd_length_becomes_a_volume_and_labels_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = blank(folder.path());
        let key = random(64).unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        for (length, sector) in [(length, "4096"), (length + 512, "512")] {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
            format(&path, Uuid::new_v4(), "first", Cipher::Aes, None, &[Key::Random(&key)]).unwrap();
            assert_eq!(label(&path).unwrap(), "first");
            set_label(&path, "second").unwrap();
            assert_eq!((label(&path).unwrap().as_str(), test_key(&path, Key::Random(&key)).unwrap()), ("second", Tried::Opened));
            let dump = process::output(Command::new("cryptsetup").arg("luksDump").arg(&path), "dumping the header").unwrap();
            let dump = String::from_utf8(dump).unwrap();
            assert!(dump.contains(&format!("sector: {sector} [bytes]")) && dump.contains("Label:         \tsecond"), "{dump}");
        }
        assert!(label(&folder.path().join("none")).is_err());
    }
}
