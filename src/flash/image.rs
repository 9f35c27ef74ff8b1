//! An image to be written: plain or compressed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, bail, ensure};
use openssl::sha::Sha256;

use crate::digest::hex;
use crate::{process, sparse};

/// What compressed files begin with (RFC 8878 section 3.1.1; "The .xz File Format" section 2.1.1.1).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// The sums that a build puts beside its images.
const SUMS: &str = "SHA256SUMS";

/// What it reads like.
enum Form {
    Plain(Hashed),
    Zstd(Box<zstd::Decoder<'static, io::BufReader<Hashed>>>),
    Xz(Child, ChildStdout),
}

/// An image that is read once, from its beginning.
pub(super) struct Image {
    path: PathBuf,
    size: Option<u64>,
    form: Form,
    /// What its file's sum should be.
    sum: Option<String>,
}

/// A file, and the sum of what was read of it.
struct Hashed {
    file: sparse::Reader,
    hash: Sha256,
}

impl Hashed {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: sparse::Reader::open(path)?, hash: Sha256::new() })
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

impl Image {
    /// # Errors
    /// It can't be read, or is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opening = || format!("opening the image {}", path.display());
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{}: it isn't there\nhint: `make image` builds one, out/NAME.img", opening())
            }
            opened => opened.with_context(opening)?,
        };
        let length = file.metadata().with_context(opening)?.len();
        let mut begin = [0; 18];
        let known = super::fill(&mut file, &mut begin).with_context(opening)?;
        file.seek(SeekFrom::Start(0)).with_context(opening)?;
        let begin = &begin[..known];
        let sum = sum_of(path);
        let (form, size) = if begin.starts_with(ZSTD) {
            let size = zstd::zstd_safe::get_frame_content_size(begin).ok().flatten();
            let decoder = zstd::Decoder::new(Hashed::open(path).with_context(opening)?).with_context(opening)?;
            (Form::Zstd(Box::new(decoder)), size)
        } else if begin.starts_with(XZ) {
            let mut command = process::tool("xz");
            command.args(["--decompress", "--stdout"]).stdin(file).stdout(Stdio::piped());
            let mut child = command.spawn().context("starting xz\nhint: apt-get install xz-utils").with_context(opening)?;
            let out = child.stdout.take().context("xz has no output")?;
            (Form::Xz(child, out), None)
        } else {
            ensure!(length > 0, "opening the image {}: it is empty", path.display());
            (Form::Plain(Hashed::open(path).with_context(opening)?), Some(length))
        };
        Ok(Self { path: path.to_owned(), size, form, sum })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes it has, as far as that is known before it is read.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether what was read, to its end, is what `SHA256SUMS` beside it says; nothing is said where there is none.
    ///
    /// # Errors
    /// It isn't, or what was read was damaged.
    pub(super) fn check_sum(self) -> Result<()> {
        let reading = || format!("reading the image {}", self.path.display());
        let hash = match self.form {
            Form::Plain(hashed) => hashed.hash,
            Form::Zstd(decoder) => decoder.finish().into_inner().hash,
            Form::Xz(mut child, _) => {
                let status = child.wait().with_context(reading)?;
                ensure!(status.success(), "{}: xz ended with {status}", reading());
                return Ok(());
            }
        };
        let found = hex(&hash.finish());
        match self.sum {
            Some(sum) if sum != found => bail!(
                "{}: its SHA-256 is {found}, and {SUMS} beside it says {sum}\nhint: it is damaged: fetch it again",
                reading()
            ),
            _ => Ok(()),
        }
    }
}

impl Read for Image {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Plain(file) => file.read(buffer),
            Form::Zstd(decoder) => decoder.read(buffer),
            Form::Xz(_, out) => out.read(buffer),
        }
    }
}

fn sum_of(image: &Path) -> Option<String> {
    let sums = fs::read_to_string(image.with_file_name(SUMS)).ok()?;
    let name = image.file_name()?.to_str()?;
    let line = sums.lines().find_map(|line| line.split_once("  ").filter(|(_, known)| *known == name))?;
    Some(line.0.to_owned())
}
