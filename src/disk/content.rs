//! What a disk holds, as far as this appliance is concerned.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::keys;
use crate::devices::Block;
use crate::luks::{self, Key, Tried};

/// What is found at both ends of a disk and sampled in between must be zeros for a disk to be called blank.
const ENDS: u64 = 1 << 20;
const SAMPLES: u64 = 256;

/// What a disk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Blank,
    /// A volume that our key file opens.
    Ours,
    /// A volume that it doesn't open.
    ForeignLuks,
    /// Something else, in words.
    Other(String),
}

impl Content {
    /// In words, after "it holds".
    pub fn words(&self) -> &str {
        match self {
            Self::Blank => "nothing",
            Self::Ours => "backups of this appliance",
            Self::ForeignLuks => "an encrypted volume that this appliance has no key for",
            Self::Other(what) => what,
        }
    }
}

/// Looks at a disk.
///
/// # Errors
/// It can't be read, or our key can't.
pub fn of(block: &Block) -> Result<Content> {
    if luks::uuid(&block.node).is_some() {
        let ours = match keys::read()? {
            Some(key) => luks::test_key(&block.node, Key::Random(&key))? == Tried::Opened,
            None => false,
        };
        return Ok(if ours { Content::Ours } else { Content::ForeignLuks });
    }
    if let Some(found) = block.content() {
        return Ok(Content::Other(format!("a {} signature", found.escape_default())));
    }
    Ok(if is_zeros(&block.node)? { Content::Blank } else { Content::Other(String::from("data")) })
}

/// Are both ends, and samples in between, zeros?
fn is_zeros(node: &Path) -> Result<bool> {
    let reading = || format!("reading {}", node.display());
    let mut file = File::open(node).with_context(reading)?;
    let size = file.seek(SeekFrom::End(0)).with_context(reading)?;
    let mut buffer = vec![0; usize::try_from(ENDS).expect("a small number")];
    let mut zeros = |offset: u64, length: u64| -> Result<bool> {
        let part = &mut buffer[..usize::try_from(length.min(size - offset)).expect("a part of the buffer")];
        file.read_exact_at(part, offset).with_context(reading)?;
        Ok(part.iter().all(|byte| *byte == 0))
    };
    for sample in 0..SAMPLES {
        if !zeros(size / SAMPLES * sample, 4096)? {
            return Ok(false);
        }
    }
    Ok(zeros(0, ENDS)? && zeros(size.saturating_sub(ENDS), ENDS)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::{Content, is_zeros, of};
    use crate::devices::tests::block;

    #[test]
    fn only_a_disk_of_zeros_is_blank() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = File::options().write(true).open(file.path()).unwrap();
        disk.set_len(64 << 20).unwrap();
        let found = |change: &dyn Fn(&mut crate::devices::Block)| of(&block(file.path().to_str().unwrap(), change)).unwrap();
        assert_eq!(found(&|_| {}), Content::Blank);
        for at in [0, (1 << 20) - 1, (64 << 20) - 1, 32 << 20] {
            disk.write_all_at(b"x", at).unwrap();
            assert!(!is_zeros(file.path()).unwrap(), "{at}");
            disk.write_all_at(&[0], at).unwrap();
        }
        disk.write_all_at(b"x", 0).unwrap();
        assert_eq!(found(&|_| {}), Content::Other("data".to_owned()));
        let signed = found(&|block| block.label = Some("x".to_owned()));
        assert_eq!(signed, Content::Other("data".to_owned()));
    }
}
