//! The tools that make file systems: those of the appliance's own Debian release, for this machine. So what they
//! make doesn't depend on what this machine has.
//!
//! They are unpacked, not installed, and run by their own loader with their own libraries, which needs neither root nor a
//! chroot.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::{Cache, CacheKey, Kind};
use super::lock::{Packages, digest};
use super::namespace;
use super::packages::{FOLDER, Set};
use crate::config::Image;
use crate::kernel::elf;
use crate::process;

/// The packages that have them.
const PACKAGES: [&str; 3] = ["dosfstools", "e2fsprogs", "mtools"];

const STAGE: &str = include_str!("../../image/stages/tools.sh");

/// The tools, unpacked.
#[derive(Clone, Debug)]
pub struct Tools {
    tree: PathBuf,
}

/// What they are made of, for this machine.
pub fn set(image: &Image) -> Result<Set> {
    let mut dpkg = process::tool("dpkg");
    let architecture = process::output(dpkg.arg("--print-architecture"), "asking what this machine is")?;
    Ok(Set {
        suite: image.suite.clone(),
        mirror: image.mirror.clone(),
        proxy: image.proxy.clone(),
        architecture: String::from_utf8_lossy(&architecture).trim().to_owned(),
        components: "main",
        packages: PACKAGES.map(str::to_owned).to_vec(),
        backports: &[],
        upon: None,
    })
}

/// Whether the cache has them.
pub fn is_cached(cache: &Cache, locked: &Packages) -> bool {
    cache.path(Kind::Tools, &key(locked)).exists()
}

fn key(locked: &Packages) -> String {
    CacheKey::default().with("packages", digest(locked).as_bytes()).with("stage", STAGE.as_bytes()).digest()
}

impl Tools {
    /// Unpacks the tools that `locked` names below `work`; `archive` gives the packages' files where the cache hasn't the tools.
    pub fn unpack(cache: &Cache, locked: &Packages, work: &Path, archive: impl FnOnce() -> Result<PathBuf>) -> Result<Self> {
        let packed = cache.entry(Kind::Tools, &key(locked), false, |part| {
            let folder = work.join("packages");
            namespace::run(STAGE, [&archive()?, &folder, Path::new(FOLDER), part], "unpacking the builder's tools")
        })?;
        let tree = work.join("tools");
        fs::create_dir(&tree).with_context(|| format!("making {}", tree.display()))?;
        let mut tar = process::tool("tar");
        tar.arg("-xf").arg(packed).arg("-C").arg(&tree).arg("--no-same-owner");
        process::run(&mut tar, "unpacking the builder's tools")?;
        Ok(Self { tree })
    }

    /// One of them, to be run.
    ///
    /// # Errors
    /// It isn't there, or can't be run here.
    pub fn command(&self, name: &str) -> Result<Command> {
        let words = self.words(name)?;
        let mut command = process::tool(&words[0].to_string_lossy());
        command.args(&words[1..]);
        Ok(command)
    }

    /// One of them, as words of a command.
    ///
    /// # Errors
    /// It isn't there, or can't be run here.
    pub fn words(&self, name: &str) -> Result<Vec<OsString>> {
        let usr = self.tree.join("usr");
        let program = ["bin", "sbin"].map(|folder| usr.join(folder).join(name)).into_iter().find(|path| path.exists());
        let program = program.with_context(|| format!("there is no {name} among the builder's tools"))?;
        let finding = || format!("finding out how to run {}", program.display());
        let bytes = fs::read(&program).with_context(finding)?;
        let interpreter = elf::read(&bytes).with_context(finding)?.and_then(|elf| elf.interpreter).with_context(finding)?;
        let loader = usr.join(interpreter.trim_start_matches('/')).canonicalize().with_context(finding)?;
        // The loader lies beside the libraries.
        let libraries = loader.parent().with_context(finding)?.to_owned();
        // Neither the language, nor the time zone, nor the settings of whoever builds are to be seen in what is built.
        let mut config = OsString::from("MKE2FS_CONFIG=");
        config.push(self.tree.join("etc/mke2fs.conf"));
        let settings = ["env", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=/nonexistent", "MTOOLSRC=/dev/null"].map(OsString::from);
        let mut words = settings.to_vec();
        words.extend([config, loader.into(), "--library-path".into(), libraries.into()]);
        words.extend(["--argv0".into(), name.into(), program.into()]);
        Ok(words)
    }
}
