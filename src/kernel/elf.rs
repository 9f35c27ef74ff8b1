//! What a program or library needs beside itself to start: just enough of ELF for that.
//!
//! The format is the one of the System V ABI's chapters 4 and 5 (elf(5)), for 64-bit little-endian files only, as everything
//! in an arm64 initramfs is. The program loader is asked for by a segment, libraries by the dynamic section, whose strings
//! are found by their address in memory; section headers aren't looked at, since a stripped file needs none.

use anyhow::{Context, Result, ensure};

/// `e_machine` of arm64.
pub const AARCH64: u16 = 183;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// What an ELF file says of its needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// The kind of CPU, as [`AARCH64`].
    pub machine: u16,
    /// The program loader's path; none for libraries and static programs.
    pub interpreter: Option<String>,
    /// The names of libraries, as `libc.so.6`.
    pub needed: Vec<String>,
    /// Folders to look for libraries in first; `$ORIGIN` in them means the file's own.
    pub search: Vec<String>,
}

/// Reads an ELF file; none when `bytes` isn't one.
///
/// # Errors
/// It is one, but not for a 64-bit little-endian CPU, or it is cut short or damaged.
pub fn read(bytes: &[u8]) -> Result<Option<Elf>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    ensure!(bytes.get(4..6) == Some(&[2, 1]), "it isn't for a 64-bit little-endian CPU");
    parse(bytes).context("it is cut short or damaged").map(Some)
}

fn parse(bytes: &[u8]) -> Option<Elf> {
    let mut elf = Elf { machine: half(bytes, 18)?, ..Elf::default() };
    let (at, size, count) = (long(bytes, 32)?, half(bytes, 54)?, half(bytes, 56)?);
    let mut loads = Vec::new();
    let mut dynamic: &[u8] = &[];
    for index in 0..usize::from(count) {
        let header = bytes.get(at.checked_add(index * usize::from(size))?..)?;
        let (kind, offset) = (word(header, 0)?, long(header, 8)?);
        let (address, length) = (long(header, 16)?, long(header, 32)?);
        match kind {
            PT_LOAD => loads.push((address, length, offset)),
            PT_DYNAMIC => dynamic = bytes.get(offset..offset.checked_add(length)?)?,
            PT_INTERP => elf.interpreter = Some(text(bytes.get(offset..offset.checked_add(length)?)?)?),
            _ => {}
        }
    }
    let entries: Vec<(u64, usize)> = dynamic
        .chunks_exact(16)
        .map(|entry| Some((u64::try_from(long(entry, 0)?).ok()?, long(entry, 8)?)))
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .take_while(|(tag, _)| *tag != DT_NULL)
        .collect();
    let Some(&(_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else { return Some(elf) };
    let &(address, _, offset) =
        loads.iter().find(|(address, length, _)| strings.checked_sub(*address).is_some_and(|inside| inside < *length))?;
    let strings = bytes.get(offset.checked_add(strings - address)?..)?;
    for (tag, value) in entries {
        match tag {
            DT_NEEDED => elf.needed.push(text(strings.get(value..)?)?),
            DT_RPATH | DT_RUNPATH => elf.search.extend(text(strings.get(value..)?)?.split(':').map(str::to_owned)),
            _ => {}
        }
    }
    Some(elf)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
}

/// The text at the front of `bytes`, up to the zero byte that ends it.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::{AARCH64, Elf, read};

    /// A dynamic arm64 program that needs these libraries and this loader; nothing in it could run.
    pub(crate) fn program(interpreter: &str, needed: &[&str]) -> Vec<u8> {
        const BASE: u64 = 0x40_0000;
        let mut strings = vec![0];
        let mut dynamic = Vec::new();
        for name in needed {
            dynamic.push((super::DT_NEEDED, strings.len() as u64));
            strings.extend_from_slice(format!("{name}\0").as_bytes());
        }
        let interpreter_at = 64 + 3 * 56;
        let strings_at = interpreter_at + interpreter.len() as u64 + 1;
        let dynamic_at = strings_at + strings.len() as u64;
        dynamic.extend([(super::DT_STRTAB, BASE + strings_at), (super::DT_NULL, 0)]);
        let size = dynamic_at + dynamic.len() as u64 * 16;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        file[18..20].copy_from_slice(&AARCH64.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&3_u16.to_le_bytes());
        let segments = [
            (super::PT_LOAD, 0, size),
            (super::PT_INTERP, interpreter_at, interpreter.len() as u64 + 1),
            (super::PT_DYNAMIC, dynamic_at, dynamic.len() as u64 * 16),
        ];
        for (kind, offset, length) in segments {
            file.extend_from_slice(&u64::from(kind).to_le_bytes());
            for field in [offset, BASE + offset, BASE + offset, length, length, 8] {
                file.extend_from_slice(&field.to_le_bytes());
            }
        }
        file.extend_from_slice(format!("{interpreter}\0").as_bytes());
        file.extend_from_slice(&strings);
        file.extend(dynamic.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()));
        file
    }

    #[test]
    fn libraries_and_loader_are_read() {
        let file = program("/lib/ld.so", &["libc.so.6", "libudev.so.1"]);
        let wanted = Elf {
            machine: AARCH64,
            interpreter: Some("/lib/ld.so".to_owned()),
            needed: vec!["libc.so.6".to_owned(), "libudev.so.1".to_owned()],
            search: Vec::new(),
        };
        assert_eq!(read(&file).unwrap(), Some(wanted));
    }

    #[test]
    fn a_real_program_needs_the_c_library() {
        let elf = read(&fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap().unwrap();
        assert!(elf.needed.iter().any(|name| name == "libc.so.6"), "{elf:?}");
        assert!(elf.interpreter.is_some());
    }

    #[test]
    fn other_files_and_damage_are_told_apart() {
        assert_eq!(read(b"#!/bin/sh\n").unwrap(), None);
        let file = program("/lib/ld.so", &["libc.so.6"]);
        for length in 4..file.len() {
            assert!(read(&file[..length]).is_err(), "{length} bytes were taken for a whole file");
        }
        let mut file = file;
        file[4] = 1;
        assert_eq!(read(&file).unwrap_err().to_string(), "it isn't for a 64-bit little-endian CPU");
    }
}
