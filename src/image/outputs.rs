//! What a build puts out, and how: it is made in a work folder inside the output folder, and gets its final name only when
//! the whole build is done. Nothing that isn't encrypted is ever below the output folder, since CIs upload it.
//!
//! | file | what |
//! |---|---|
//! | `NAME.img` | the image, sparse |
//! | `NAME.img.zst` | the same, compressed |
//! | `NAME.bmap` | which blocks of it hold data ([`super::bmap`]) |
//! | `NAME.packages` | the Debian packages in it: name, version, architecture |
//! | `NAME.spdx.json` | its bill of materials ([`super::bill`]) |
//! | `NAME.log` | what the build said, a JSON object a line; no two builds have the same |
//! | `SHA256SUMS` | of all of these but the log; the last to appear |

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::bill::{self, Subject};
use super::lock::Lock;
use super::workshop::{ROOM, refuse_full_disk};
use super::{bmap, namespace};
use crate::digest::{Sum, Summing, hex, sha256_of};
use crate::log::{self, RunLog};
use crate::redact::Redactor;
use crate::{durable, sparse};

const WORK: &str = ".build";
const SUMS: &str = "SHA256SUMS";

/// What a build has made of `image` and is there beside it: wrong, when the image changes.
pub fn made_of(image: &Path) -> Vec<PathBuf> {
    let mut made = ["img.zst", "bmap"].map(|suffix| image.with_extension(suffix)).to_vec();
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let sums = image.with_file_name(SUMS);
    let lists = fs::read_to_string(&sums).is_ok_and(|text| text.lines().any(|line| line.ends_with(&format!("  {name}"))));
    made.extend(lists.then_some(sums));
    made.retain(|path| path.exists());
    made
}

/// What is said of an image beside it.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// The packages in it: name, version and architecture, separated by tabs, one a line.
    pub packages: &'a str,
    /// What it was made of.
    pub lock: &'a Lock,
    /// Its time, in seconds since 1970.
    pub epoch: u64,
}

/// An output folder that this build alone writes to.
pub struct Outputs {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Outputs {
    /// Makes the folder, or takes one that holds at most an earlier build; what a build that was cut short left is removed.
    ///
    /// # Errors
    /// When there are other files in it, another build is at work in it, or the disk has too little room.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making the output folder {}", folder.display()))?;
        let folder = folder.canonicalize().with_context(|| format!("finding the output folder {}", folder.display()))?;
        let lock = lock(&folder)?;
        refuse_strangers(&folder)?;
        refuse_full_disk(&folder, ROOM)?;
        let outputs = Self { folder, _lock: lock };
        outputs.clean()?;
        durable::private_folder(&outputs.work())?;
        Ok(outputs)
    }

    /// Where the build works; the output files are made here under their final names.
    pub fn work(&self) -> PathBuf {
        self.folder.join(WORK)
    }

    /// Begins the log of the build of this name, which ends when what this gives is dropped.
    pub fn log(&self, name: &str) -> Result<RunLog> {
        let path = self.work().join(log_of(name));
        let log = log::attach(&path, Redactor::default())?;
        // As its neighbours: there is no secret in it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).with_context(|| format!("opening {}", path.display()))?;
        Ok(log)
    }

    /// Compresses the image and describes it: `.img.zst`, `.bmap`, `.packages`, `.spdx.json`. Gives the SHA-256 of each file, the
    /// image's own first.
    pub fn derive(&self, name: &str, described: &Described) -> Result<Vec<(String, String)>> {
        let path = |suffix: &str| self.work().join(format!("{name}.{suffix}"));
        let image = path("img");
        let (sum, compressed) = thread::scope(|scope| {
            let map = scope.spawn(|| fs::write(path("bmap"), bmap::map(&image)?).context("writing the block map"));
            let sum = scope.spawn(|| sha256_of(&image));
            let compressed = compress(&image, &path("img.zst"))?;
            map.join().expect("a thread of ours doesn't panic")?;
            let sum = sum.join().expect("a thread of ours doesn't panic")?;
            anyhow::Ok((sum, compressed))
        })?;
        fs::write(path("packages"), described.packages).context("writing the package manifest")?;
        let subject = Subject { name: &format!("{name}.img"), sha256: &sum, epoch: described.epoch };
        fs::write(path("spdx.json"), bill::bill(&subject, described.lock)?).context("writing the bill of materials")?;
        let [image, archive, others @ ..] = files_of(name);
        let others = others.into_iter().map(|file| Ok((sha256_of(&self.work().join(&file))?, file)));
        [Ok((sum, image)), Ok((compressed, archive))].into_iter().chain(others).collect()
    }

    /// Gives everything its final name. The sums of an earlier build go first and the new ones come last, so that a folder
    /// with `SHA256SUMS` is whole.
    pub fn publish(self, name: &str, sums: &[(String, String)]) -> Result<Vec<PathBuf>> {
        for file in earlier(&self.folder)? {
            remove_file(&self.folder.join(file))?;
        }
        let mut published = Vec::new();
        let log = log_of(name);
        for file in sums.iter().map(|(_, file)| file).chain([&log]) {
            let (from, to) = (self.work().join(file), self.folder.join(file));
            fs::rename(&from, &to).with_context(|| format!("publishing {}", to.display()))?;
            published.push(to);
        }
        let text = sums.iter().fold(String::new(), |text, (sum, file)| text + sum + "  " + file + "\n");
        durable::write(&self.folder.join(SUMS), text.as_bytes(), 0o644)?;
        self.clean()?;
        Ok(published)
    }

    fn clean(&self) -> Result<()> {
        namespace::remove(&self.work())
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        // After an error; the next build would do it too.
        let _ = self.clean();
    }
}

/// Compresses `from` (RFC 8878) into `to`, on every core; gives the SHA-256 of what comes out.
fn compress(from: &Path, to: &Path) -> Result<String> {
    // Most of it is encrypted and can't be compressed: the fastest level finds the holes as well as the slowest.
    const LEVEL: i32 = 1;
    let work = || -> io::Result<Sum> {
        let mut reader = sparse::Reader::open(from)?;
        let mut encoder = zstd::Encoder::new(Summing::new(File::create(to)?), LEVEL)?;
        encoder.multithread(u32::try_from(thread::available_parallelism()?.get()).unwrap_or(u32::MAX))?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(reader.size()))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match reader.read(&mut buffer)? {
                0 => return encoder.finish()?.finish(),
                read => encoder.write_all(&buffer[..read])?,
            }
        }
    };
    let sum = work().with_context(|| format!("compressing {} to {}", from.display(), to.display()))?;
    Ok(hex(&sum.sha256))
}

fn lock(folder: &Path) -> Result<Flock<File>> {
    let file = File::open(folder).with_context(|| format!("opening the output folder {}", folder.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!("another build is at work in {}", folder.display()),
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", folder.display())),
    }
}

/// The files of an earlier build: its sums first, then what they name. None when the sums aren't those of a build: one image's
/// files, the image first.
fn earlier(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(SUMS);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let named: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once("  ")?.1)).collect();
    let name = named.first().and_then(|first| first.strip_suffix(".img")).unwrap_or_default();
    let ours = files_of(name);
    let is_ours = !name.is_empty() && !name.contains('/') && (named == ours || named == ours[..BEFORE_BILLS]);
    let named = named.into_iter().map(str::to_owned);
    Ok(if is_ours { [SUMS.to_owned(), log_of(name)].into_iter().chain(named).collect() } else { Vec::new() })
}

/// What the names of a build's files end with; the image's comes first.
const SUFFIXES: [&str; 5] = ["img", "img.zst", "bmap", "packages", "spdx.json"];

/// How many of them there were before there was a bill.
const BEFORE_BILLS: usize = 4;

/// The build's log, which has no sum.
fn log_of(name: &str) -> String {
    format!("{name}.log")
}

/// What a build of this name puts out, beside sums and log.
fn files_of(name: &str) -> [String; SUFFIXES.len()] {
    SUFFIXES.map(|suffix| format!("{name}.{suffix}"))
}

/// A publication that was cut short leaves files that no sums name, and its work folder.
fn refuse_strangers(folder: &Path) -> Result<()> {
    let ours = earlier(folder)?;
    let cut_short = ours.is_empty() && folder.join(WORK).exists();
    let reading = || format!("reading the output folder {}", folder.display());
    for entry in fs::read_dir(folder).with_context(reading)? {
        let name = entry.with_context(reading)?.file_name().to_string_lossy().into_owned();
        let unfinished = SUFFIXES.iter().chain(&["log", "part"]).any(|suffix| name.ends_with(&format!(".{suffix}")));
        if name != WORK && !ours.contains(&name) && !(cut_short && unfinished) {
            bail!(
                "the output folder {} is not empty: {name:?} is not from an earlier build\nhint: name an empty folder with --out",
                folder.display()
            );
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {} of an earlier build", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Outputs;

    fn publish(folder: &std::path::Path, name: &str) {
        let outputs = Outputs::open(folder).unwrap();
        let files = super::files_of(name);
        for file in &files {
            fs::write(outputs.work().join(file), &file[name.len() + 1..]).unwrap();
        }
        let sums: Vec<_> = files.map(|file| (String::from("0"), file)).into();
        fs::write(outputs.work().join(super::log_of(name)), "log").unwrap();
        outputs.publish(name, &sums).unwrap();
    }

    fn names(folder: &std::path::Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_build_replaces_the_earlier_one_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        publish(folder.path(), "old");
        publish(folder.path(), "new");
        let files = ["SHA256SUMS", "new.bmap", "new.img", "new.img.zst", "new.log", "new.packages", "new.spdx.json"];
        assert_eq!(names(folder.path()), files);
        let sums = fs::read_to_string(folder.path().join("SHA256SUMS")).unwrap();
        assert_eq!(sums.lines().count(), 5, "{sums}");
    }

    #[test]
    fn a_foreign_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        publish(folder.path(), "berry");
        fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
        let error = Outputs::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("\"thesis.txt\" is not from an earlier build\nhint: "), "{error}");
        assert!(names(folder.path()).contains(&String::from("thesis.txt")));
    }

    #[test]
    fn sums_that_name_something_else_are_not_ours() {
        for (sums, file) in
            [("0  debian.iso\n", "debian.iso"), ("0  a.img\n0  b.img.zst\n0  a.bmap\n0  a.packages\n", "a.img"), ("", "a.img")]
        {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(file), "mine").unwrap();
            if !sums.is_empty() {
                fs::write(folder.path().join("SHA256SUMS"), sums).unwrap();
            }
            let error = Outputs::open(folder.path()).err().unwrap().to_string();
            assert!(error.contains("is not from an earlier build"), "{error}");
            assert!(folder.path().join(file).exists());
        }
    }

    #[test]
    fn a_publication_cut_short_does_not_stand_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".build")).unwrap();
        fs::write(folder.path().join("berry.img"), "half of a build").unwrap();
        publish(folder.path(), "berry");
        assert_eq!(fs::read_to_string(folder.path().join("berry.img")).unwrap(), "img");
    }

    #[test]
    fn two_builds_in_one_folder_are_refused_and_a_leftover_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(".build/tree")).unwrap();
        let first = Outputs::open(folder.path()).unwrap();
        assert!(!first.work().join("tree").exists());
        let error = Outputs::open(folder.path()).err().unwrap().to_string();
        assert!(error.starts_with("another build is at work in"), "{error}");
        drop(first);
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
