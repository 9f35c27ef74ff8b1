//! The block map: which blocks of an image hold data, and their sums, as bmaptool(1) reads it (format 2.0).
//!
//! It goes by the blocks' content and not by what the build host's file system has stored of the image: so two hosts write the
//! same map.

use std::fmt::Write as _;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use openssl::sha::{Sha256, sha256};

use crate::digest::hex;
use crate::sparse::data_from;

/// Bytes of a block.
const BLOCK: usize = 4096;
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;
/// What stands where the map's own sum is put, while it is being made.
const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Whether there is nothing in a block.
pub fn is_zeros(block: &[u8]) -> bool {
    // In pieces that the compiler makes a few instructions of.
    block.chunks(64).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The map of an image, as text.
///
/// # Errors
/// The image can't be read.
pub fn map(image: &Path) -> Result<String> {
    let reading = || format!("reading {} for its block map", image.display());
    let file = File::open(image).with_context(reading)?;
    let size = file.metadata().with_context(reading)?.len();
    let runs = runs(&file, size).with_context(reading)?;
    let text = text(size, &runs);
    Ok(text.replacen(NO_SUM, &hex(&sha256(text.as_bytes())), 1))
}

/// Blocks that follow one another, none of them empty.
struct Run {
    blocks: Range<u64>,
    sum: String,
}

fn runs(image: &File, size: u64) -> Result<Vec<Run>> {
    let (mut runs, mut open) = (Vec::new(), None::<(Range<u64>, Sha256)>);
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    // What the host's file system knows as a hole needn't be read.
    while let Some(data) = data_from(image, at, size)? {
        at = data.start - data.start % CHUNK as u64;
        let length = usize::try_from((size - at).min(CHUNK as u64)).context("a chunk's length")?;
        image.read_exact_at(&mut chunk[..length], at)?;
        for (block, number) in chunk[..length].chunks(BLOCK).zip(at / BLOCK as u64..) {
            if is_zeros(block) {
                continue;
            }
            if open.as_ref().is_some_and(|(blocks, _)| blocks.end != number) {
                runs.extend(open.take().map(close));
            }
            let (blocks, hash) = open.get_or_insert_with(|| (number..number, Sha256::new()));
            blocks.end = number + 1;
            hash.update(block);
        }
        at += length as u64;
    }
    runs.extend(open.map(close));
    Ok(runs)
}

fn close((blocks, hash): (Range<u64>, Sha256)) -> Run {
    Run { blocks, sum: hex(&hash.finish()) }
}

fn text(size: u64, runs: &[Run]) -> String {
    let blocks = size.div_ceil(BLOCK as u64);
    let mapped: u64 = runs.iter().map(|run| run.blocks.end - run.blocks.start).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> {size} </ImageSize>\n    \
         <BlockSize> {BLOCK} </BlockSize>\n    <BlocksCount> {blocks} </BlocksCount>\n    \
         <MappedBlocksCount> {mapped} </MappedBlocksCount>\n    <ChecksumType> sha256 </ChecksumType>\n    \
         <BmapFileChecksum> {NO_SUM} </BmapFileChecksum>\n    <BlockMap>\n"
    );
    for Run { blocks, sum } in runs {
        let last = blocks.end - 1;
        let range = if last == blocks.start { last.to_string() } else { format!("{}-{last}", blocks.start) };
        writeln!(text, "        <Range chksum=\"{sum}\"> {range} </Range>").expect("writing to a string can't fail");
    }
    text + "    </BlockMap>\n</bmap>\n"
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::{BLOCK, map};
    use crate::process;

    #[test]
    fn bmaptool_copies_by_the_map_what_is_there_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let image = File::create(path("image")).unwrap();
        let size = 5_000 * BLOCK as u64;
        image.set_len(size).unwrap();
        // Blocks that touch across a chunk's end, zeros that were written, one alone, and the last one.
        for (block, count, byte) in [(0, 2, 1), (250, 20, 2), (400, 3, 0), (3_000, 1, 3), (4_999, 1, 4)] {
            image.write_all_at(&vec![byte; count * BLOCK], block * BLOCK as u64).unwrap();
        }
        let text = map(&path("image")).unwrap();
        assert!(text.contains("<MappedBlocksCount> 24 <"), "{text}");
        for range in ["> 0-1 <", "> 250-269 <", "> 3000 <", "> 4999 <"] {
            assert!(text.contains(range), "{range}: {text}");
        }
        fs::write(path("map"), &text).unwrap();
        let mut copy = process::tool("bmaptool");
        copy.arg("copy").arg("--bmap").arg(path("map")).arg(path("image")).arg(path("copy"));
        process::run(&mut copy, "copying by the map").unwrap();
        assert!(fs::read(path("image")).unwrap() == fs::read(path("copy")).unwrap());

        // The same content without a hole has the same map.
        fs::write(path("full"), fs::read(path("image")).unwrap()).unwrap();
        assert_eq!(map(&path("full")).unwrap(), text);

        // Its own sum is looked at.
        fs::write(path("map"), text.replace("> 3000 <", "> 3001 <")).unwrap();
        process::run(&mut copy, "copying by a false map").unwrap_err();
    }
}
