//! Packages whose content isn't compressed: what installs them runs under emulation, on one core, where decompressing takes far
//! longer than here.
//!
//! A Debian package is an ar archive of three members (deb(5)): the format's version, and two tar archives, of which dpkg takes
//! plain ones, too. What is installed is the same.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use tar::{Archive, Builder};

use super::packages::{FOLDER, PACKED_INDEX, RELEASE, header, paragraphs, release};
use crate::digest::sha256_of;
use crate::process;

/// What an index says of a package's file.
const OF_THE_FILE: [&str; 6] = ["Filename:", "Size:", "MD5sum:", "SHA1:", "SHA256:", "SHA512:"];

/// Writes an archive of packages anew, with packages that aren't compressed, below `work`; gives its path.
///
/// # Errors
/// It isn't one, or a package in it can't be read.
pub fn repack(archive: &Path, work: &Path) -> Result<PathBuf> {
    let repacking = || format!("unpacking the packages in {}", archive.display());
    let folder = work.join(FOLDER);
    Archive::new(File::open(archive).with_context(repacking)?).unpack(work).with_context(repacking)?;
    let index = fs::read_to_string(folder.join(PACKED_INDEX)).with_context(repacking)?;
    let paragraphs: Vec<&str> = paragraphs(&index).collect();
    let local = in_parallel(&paragraphs, |paragraph| one(&folder, paragraph)).with_context(repacking)?.concat();
    let about = fs::read_to_string(folder.join(RELEASE)).with_context(repacking)?;
    fs::write(folder.join(RELEASE), release(&about, local.as_bytes())).with_context(repacking)?;
    fs::write(folder.join(PACKED_INDEX), local).with_context(repacking)?;

    let out = work.join("plain.tar");
    let mut plain = Builder::new(File::create(&out).with_context(repacking)?);
    let mut names: Vec<_> = fs::read_dir(&folder).with_context(repacking)?.collect::<io::Result<_>>().with_context(repacking)?;
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let file = File::open(entry.path()).with_context(repacking)?;
        let mut header = header(file.metadata().with_context(repacking)?.len());
        let name = Path::new(FOLDER).join(entry.file_name());
        plain.append_data(&mut header, name, file).with_context(repacking)?;
    }
    plain.finish().with_context(repacking)?;
    fs::remove_dir_all(&folder).with_context(repacking)?;
    Ok(out)
}

/// Runs `work` for the items on all cores; gives what came of it, in the items' order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (next, made) = (Mutex::new(items.iter().enumerate()), Mutex::new(Vec::with_capacity(items.len())));
    let lock = || next.lock().expect("nobody panics with the lock");
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((number, item)) = { lock().next() } {
                    let result = work(item);
                    made.lock().expect("nobody panics with the lock").push((number, result));
                }
            });
        }
    });
    let mut made = made.into_inner().expect("nobody panics with the lock");
    made.sort_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, result)| result).collect()
}

/// Writes one package anew, in its place; gives what an index says of it now.
fn one(folder: &Path, paragraph: &str) -> Result<String> {
    let name = paragraph.lines().find_map(|line| line.strip_prefix("Filename: ./")).context("a package has no file name")?;
    ensure!(!name.contains('/'), "{name} isn't a file of the archive");
    let package = folder.join(name);
    let work = folder.join(format!("{name}.work"));
    let repacking = || format!("unpacking {}", package.display());
    fs::create_dir(&work).with_context(repacking)?;
    fs::write(work.join("debian-binary"), "2.0\n").with_context(repacking)?;
    for (option, member) in [("--ctrl-tarfile", "control.tar"), ("--fsys-tarfile", "data.tar")] {
        let mut command = process::tool("dpkg-deb");
        command.arg(option).arg(&package);
        write_output(&mut command, &work.join(member)).with_context(repacking)?;
    }
    fs::remove_file(&package).with_context(repacking)?;
    let mut ar = process::tool("ar");
    ar.arg("rcD").arg(Path::new("..").join(name));
    process::run(ar.args(["debian-binary", "control.tar", "data.tar"]).current_dir(&work), "packing a package")?;
    fs::remove_dir_all(&work).with_context(repacking)?;
    let size = fs::metadata(&package).with_context(repacking)?.len();
    let lines = paragraph.lines().filter(|line| !OF_THE_FILE.iter().any(|field| line.starts_with(field)));
    let said: String = lines.flat_map(|line| [line, "\n"]).collect();
    let sum = sha256_of(&package)?;
    Ok(said + &format!("Filename: ./{name}\nSize: {size}\nSHA256: {sum}\n\n"))
}

/// Runs a program whose output, which may be large, goes into a file.
fn write_output(command: &mut Command, to: &Path) -> Result<()> {
    let file = File::create(to)?;
    let mut child = command.stdin(Stdio::null()).stdout(file).stderr(Stdio::piped()).spawn()?;
    let mut told = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut told)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` ended with {status}: {}", command.get_program().display(), told.trim());
    }
    Ok(())
}
