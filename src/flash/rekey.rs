//! A volume key of its own for a card: root is encrypted anew as it is written. Two cards of one image would show, side by side,
//! which of their blocks differ.
//!
//! The stick's key and the recovery passphrase stay those of the image: they open the new header too.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use openssl::sha::sha256;

use super::image::Image;
use crate::digest::hex;
use crate::durable;
use crate::image::bmap::is_zeros;
use crate::image::disk::ROOT_START;
use crate::image::payload::{BLOCK_SIZE, Direction, Sectors, VolumeKey};
use crate::keys::keyfile::random;
use crate::keys::secrets::{BuildSecrets, SecretsFolder};
use crate::luks::cipher::Cipher;
use crate::luks::{self, BINARY_HEADER_SIZE, HEADER_SIZE, Key};

/// Where root's payload begins in an image.
const PAYLOAD: u64 = ROOT_START + HEADER_SIZE;

/// How many digits of its sum a header's file is told from others by.
const DIGITS: usize = 8;

/// What turns an image's root into the card's.
pub(super) struct Rekey {
    header: Vec<u8>,
    /// Where the header is kept, for repair.
    pub(super) kept: PathBuf,
    sectors: RefCell<(Sectors, Sectors)>,
}

impl Rekey {
    /// Draws a key for a card of `image`, whose own keys are in the secrets folder, and keeps the new header there.
    ///
    /// # Errors
    /// The image has no root of ours, or its keys aren't there.
    pub(super) fn draw(image: &Path, secrets: &Path) -> Result<Self> {
        let was = header_of(image)?;
        let uuid = luks::uuid_of_header(&was[..BINARY_HEADER_SIZE]);
        let uuid =
            uuid.with_context(|| format!("{} holds no LUKS2 volume where a vaultberry image has root", image.display()))?;
        let folder = SecretsFolder::at(secrets);
        let drawing = || format!("drawing a key for a card of {}, whose root is {uuid}", image.display());
        let there = folder.of(uuid);
        ensure!(there.is_dir(), "{}: there is no folder {}\nhint: name its folder with --secrets", drawing(), there.display());
        let scratch = tempfile::Builder::new().prefix(".flash-").tempdir_in(&there).with_context(drawing)?;
        let file = scratch.path().join("was");
        durable::write(&file, &was, 0o600)?;
        let cipher = Cipher::of_volume(&file)?;
        let own = folder.read(uuid, cipher)?;
        // By the image's own header: its keys may have been rotated.
        let old = luks::volume_key(&file, Key::Random(&own.key.key)).with_context(drawing)?;
        let fresh = BuildSecrets { volume_key: random(cipher.key_size())?, ..own };
        let header = fresh.make_header(&scratch.path().join("header"), HEADER_SIZE + (1 << 20))?;
        let kept = there.join(format!("header-{}.luks", &hex(&sha256(&header))[..DIGITS]));
        durable::write(&kept, &header, 0o600)?;
        let from = Sectors::new(Direction::Decrypt, &VolumeKey { cipher, key: &old })?;
        let to = Sectors::new(Direction::Encrypt, &VolumeKey { cipher, key: &fresh.volume_key })?;
        Ok(Self { header, kept, sectors: RefCell::new((from, to)) })
    }

    /// Turns what stands at `at` in the image into what is to stand on the card. Blocks that hold nothing stay so.
    ///
    /// # Errors
    /// The cipher fails.
    pub(super) fn change(&self, at: u64, chunk: &mut [u8]) -> Result<()> {
        let mut sectors = self.sectors.borrow_mut();
        let (from, to) = &mut *sectors;
        for (block, at) in chunk.chunks_mut(BLOCK_SIZE).zip((at..).step_by(BLOCK_SIZE)) {
            if at >= PAYLOAD {
                if !is_zeros(block) {
                    let sector = (at - PAYLOAD) / 512;
                    from.convert(sector, block).context("deciphering a block of the image")?;
                    to.convert(sector, block).context("enciphering a block for the card")?;
                }
            } else if at >= ROOT_START {
                let begin = usize::try_from(at - ROOT_START).context("a place in the header")?;
                block.copy_from_slice(&self.header[begin..begin + block.len()]);
            }
        }
        Ok(())
    }
}

/// The header of an image's root.
fn header_of(image: &Path) -> Result<Vec<u8>> {
    let mut stream = Image::open(image)?;
    let reading = || format!("reading the header of root in {}", image.display());
    std::io::copy(&mut std::io::Read::take(&mut stream, ROOT_START), &mut std::io::sink()).with_context(reading)?;
    let mut header = vec![0; usize::try_from(HEADER_SIZE).context("a header's size")?];
    let length = super::fill(&mut stream, &mut header).with_context(reading)?;
    ensure!(length == header.len(), "{}: the image is too short to have one", reading());
    Ok(header)
}
