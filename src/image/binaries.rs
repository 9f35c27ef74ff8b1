//! The agent's programs, built for the appliance, and whether the appliance's libc serves them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::process;

/// The two programs for aarch64, as bytes.
pub struct Binaries {
    /// `vaultberry`.
    pub vaultberry: Vec<u8>,
    /// `vaultberry-unlock`.
    pub unlock: Vec<u8>,
    /// The newest glibc that either asks for.
    glibc: Version,
}

type Version = (u32, u32);

/// ELF header: 64-bit, little-endian, and the machine number of aarch64 (ELF for the Arm 64-bit Architecture).
const ELF_CLASS_AND_DATA: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const EM_AARCH64: [u8; 2] = 183_u16.to_le_bytes();

impl Binaries {
    /// Reads both programs from a folder.
    ///
    /// # Errors
    /// When one isn't there or isn't an aarch64 program; the hint says how to build them.
    pub fn read(folder: &Path) -> Result<Self> {
        let (vaultberry, first) = read(&folder.join("vaultberry"))?;
        let (unlock, second) = read(&folder.join("vaultberry-unlock"))?;
        Ok(Self { vaultberry, unlock, glibc: first.max(second) })
    }

    /// Holds the programs' need of glibc against what the manifest says the appliance has.
    pub fn check_glibc(&self, manifest: &str) -> Result<()> {
        let line =
            manifest.lines().find_map(|line| line.strip_prefix("libc6\t")).context("finding libc6 in the package manifest")?;
        let there = version(line).with_context(|| format!("reading the version of libc6, {line:?}"))?;
        ensure!(
            self.glibc <= there,
            "the programs need glibc {}.{}, and the appliance has {}.{}\nhint: build them on an older Debian, or choose a newer suite",
            self.glibc.0,
            self.glibc.1,
            there.0,
            there.1
        );
        Ok(())
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, Version)> {
    let bytes = fs::read(path)
        .with_context(|| format!("reading the appliance's program {}\nhint: `make cross` builds it", path.display()))?;
    let is_aarch64 = bytes.starts_with(&ELF_CLASS_AND_DATA) && bytes.get(18..20) == Some(&EM_AARCH64);
    ensure!(is_aarch64, "{} is not a program for aarch64\nhint: `make cross` builds it", path.display());
    let needs = process::output(
        process::tool("readelf").args(["--wide", "--version-info"]).arg(path),
        &format!("reading what {} needs", path.display()),
    )?;
    Ok((bytes, newest_glibc(&String::from_utf8_lossy(&needs))))
}

fn newest_glibc(needs: &str) -> Version {
    needs.split("GLIBC_").skip(1).filter_map(version).max().unwrap_or_default()
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<Version> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Binaries, Version, newest_glibc};

    fn needing(glibc: Version) -> Binaries {
        Binaries { vaultberry: Vec::new(), unlock: Vec::new(), glibc }
    }

    #[test]
    fn the_newest_need_counts_as_a_number_not_as_text() {
        let needs = "  0x0010:   Name: GLIBC_2.9  Flags: none\n  0x0020:   Name: GLIBC_2.34  Version: 3\n  Name: GLIBC_PRIVATE";
        assert_eq!(newest_glibc(needs), (2, 34));
    }

    #[test]
    fn an_older_appliance_is_refused_by_name() {
        let manifest = "libc-bin\t2.99-1\tarm64\nlibc6\t2.41-12+deb13u4\tarm64\n";
        needing((2, 36)).check_glibc(manifest).unwrap();
        needing((2, 41)).check_glibc(manifest).unwrap();
        let error = needing((2, 42)).check_glibc(manifest).unwrap_err().to_string();
        assert!(error.starts_with("the programs need glibc 2.42, and the appliance has 2.41"), "{error}");
    }
}
