//! The secrets of one build, and the builder's folder that keeps them.
//!
//! ```text
//! secrets/                               0700; back it up, print the sheets, keep it out of any upload
//!   credentials/s3, credentials/smtp     what the owner puts there to have it on each appliance
//!   stick/vaultberry/<LUKS UUID>.key     copy `vaultberry/` to a stick; one file for each image built
//!   <LUKS UUID>/
//!     stick.img                          the same as an image for a stick of its own
//!     recovery.txt                       the recovery sheet
//!     header.luks                        the LUKS2 header of the image, for repair
//!     admin_ed25519                      the demo's login key, where the config asks for one
//!     images                             the SHA-256 of each image that was built with these
//! ```
//!
//! Each build makes its own volume key, UUID, stick key and passphrase, so nothing here is ever overwritten: a card flashed
//! long ago keeps its key. To make the same image again, it is built with these secrets again.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use uuid::Uuid;

use super::keyfile::{KeyFile, path_on_stick, random};
use super::{recovery, stick};
use crate::luks::cipher::Cipher;
use crate::luks::{HEADER_SIZE, Key};
use crate::secret::Secret;
use crate::{durable, luks, process};

const ADMIN_KEY: &str = "admin_ed25519";
const HEADER: &str = "header.luks";
const SHEET: &str = "recovery.txt";

/// Everything secret in one image.
#[derive(Debug)]
pub struct BuildSecrets {
    /// The LUKS UUID of root; names the image's keys.
    pub uuid: Uuid,
    /// What root is under.
    pub cipher: Cipher,
    /// Encrypts root.
    pub volume_key: Secret<Vec<u8>>,
    /// The stick's key.
    pub key: KeyFile,
    /// The recovery passphrase.
    pub passphrase: Secret<String>,
}

impl BuildSecrets {
    /// Draws new secrets for a root under this cipher.
    pub fn generate(cipher: Cipher) -> Result<Self> {
        let uuid = Uuid::new_v4();
        Ok(Self {
            uuid,
            cipher,
            volume_key: random(cipher.key_size())?,
            key: KeyFile::generate(uuid)?,
            passphrase: recovery::generate()?,
        })
    }
}

impl BuildSecrets {
    /// The LUKS2 header of a root with these secrets, made on a sparse file at `path` with as many bytes as its partition.
    ///
    /// # Errors
    /// libcryptsetup fails, or the file can't be written.
    pub fn make_header(&self, path: &Path, size: u64) -> Result<Vec<u8>> {
        let making = || format!("making a header in {}", path.display());
        File::create(path).and_then(|file| file.set_len(size)).with_context(making)?;
        let keys = [Key::Random(&self.key.key), Key::Passphrase(&self.passphrase)];
        luks::format(path, self.uuid, "root", self.cipher, Some(&self.volume_key), &keys)?;
        let mut header = vec![0; usize::try_from(HEADER_SIZE).context("a header's size")?];
        File::open(path).and_then(|mut file| file.read_exact(&mut header)).with_context(making)?;
        fs::remove_file(path).with_context(making)?;
        Ok(header)
    }
}

/// The builder's `secrets/` folder.
#[derive(Debug)]
pub struct SecretsFolder {
    path: PathBuf,
}

impl SecretsFolder {
    /// Makes the folder with mode 0700, or takes one that is there.
    ///
    /// # Errors
    /// Others than its owner may look into it.
    pub fn open(path: &Path) -> Result<Self> {
        durable::private_folder(path)?;
        let mode = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("others may look into the secrets folder {0}\nhint: chmod 700 {0}, or name another folder", path.display());
        }
        Ok(Self::at(path))
    }

    /// As [`SecretsFolder::open`]; or, where `path` is one build's own folder, the folder that it lies in, and whose it is.
    ///
    /// # Errors
    /// As there.
    pub fn open_for_build(path: &Path) -> Result<(Self, Option<Uuid>)> {
        if !path.join(HEADER).exists() {
            return Ok((Self::open(path)?, None));
        }
        let finding = || format!("reading the secrets of a build, {}", path.display());
        let path = path.canonicalize().with_context(finding)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let uuid = Uuid::parse_str(&name).with_context(finding)?;
        Ok((Self::open(path.parent().with_context(finding)?)?, Some(uuid)))
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder at `path`, for looking something up in it.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The folder of one build's secrets.
    pub fn of(&self, uuid: Uuid) -> PathBuf {
        self.path.join(uuid.to_string())
    }

    /// The key file of one build.
    pub fn key(&self, uuid: Uuid) -> PathBuf {
        self.path.join("stick").join(path_on_stick(uuid))
    }

    /// The stick image of one build.
    pub fn stick_image(&self, uuid: Uuid) -> PathBuf {
        self.of(uuid).join("stick.img")
    }

    /// The credentials file `name` that the owner has put here for the appliance, if there is one.
    ///
    /// # Errors
    /// Others than its owner may read it.
    pub fn credentials(&self, name: &str) -> Result<Option<Secret<Vec<u8>>>> {
        let path = self.path.join("credentials").join(name);
        let reading = || format!("reading the credentials {}", path.display());
        let content = match File::open(&path) {
            Ok(mut file) => {
                if file.metadata().with_context(reading)?.permissions().mode() & 0o077 != 0 {
                    bail!("others may read the credentials {0}\nhint: chmod 600 {0}", path.display());
                }
                let mut content = Vec::new();
                file.read_to_end(&mut content).map(|_| Secret::new(content)).with_context(reading)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(reading),
        };
        Ok(Some(content))
    }

    /// The LUKS2 header of one build.
    pub fn header(&self, uuid: Uuid) -> Result<Vec<u8>> {
        let path = self.of(uuid).join(HEADER);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The secrets of an earlier build, whose root is under this cipher.
    ///
    /// # Errors
    /// Some of them have been taken away, as the recovery sheet should be; or root was under another cipher.
    pub fn read(&self, uuid: Uuid, cipher: Cipher) -> Result<BuildSecrets> {
        let header = self.of(uuid).join(HEADER);
        let was = Cipher::of_volume(&header)?;
        ensure!(
            was == cipher,
            "the secrets {} are of a root under {}, and the config wants {}\nhint: build without them: the keys have another length",
            self.of(uuid).display(),
            was.name(),
            cipher.name()
        );
        let path = self.key(uuid);
        let bytes = fs::read(&path).map(Secret::new).with_context(|| format!("reading the stick's key {}", path.display()))?;
        let key = KeyFile::decode(bytes.expose(), uuid).with_context(|| format!("reading the stick's key {}", path.display()))?;
        let volume_key = luks::volume_key(&header, Key::Random(&key.key))?;
        let path = self.of(uuid).join(SHEET);
        let reading = || format!("reading the recovery passphrase from {}\nhint: it is part of the image", path.display());
        let sheet = fs::read_to_string(&path).map(Secret::new).with_context(reading)?;
        let passphrase = recovery::of_sheet(sheet.expose()).with_context(reading)?;
        Ok(BuildSecrets { uuid, cipher, volume_key, key, passphrase })
    }

    /// Notes which image was built with these secrets, by its SHA-256, and says so where it is another one than before.
    pub fn remember(&self, uuid: Uuid, image: &str) -> Result<()> {
        let path = self.of(uuid).join("images");
        let noting = || format!("noting the image in {}", path.display());
        let known = match fs::read_to_string(&path) {
            Ok(known) => known,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(noting),
        };
        if known.lines().any(|line| line == image) {
            tracing::info!("the image is the one that was built with these secrets before, byte for byte");
            return Ok(());
        }
        if known.is_empty() {
            tracing::info!(
                "new in this image: its keys, root's UUID, what is named after that, and the salts of the LUKS2 header"
            );
        } else {
            tracing::warn!(
                "this image is another one than was built with these secrets before: who has both sees which blocks differ; use one of \
                 them only, or build without --secrets {}",
                self.of(uuid).display()
            );
        }
        durable::write(&path, format!("{known}{image}\n").as_bytes(), 0o600)
    }

    /// Writes key file, stick image, sheet and LUKS header of a build, and the login key, if one was made in `work`.
    pub fn publish(&self, secrets: &BuildSecrets, hostname: &str, header: &[u8], work: &Path) -> Result<()> {
        let folder = self.of(secrets.uuid);
        durable::private_folder(&folder)?;
        let key_path = self.key(secrets.uuid);
        durable::private_folder(key_path.parent().expect("a key lies in a folder"))?;
        durable::write(&key_path, secrets.key.encode().expose(), 0o600)?;
        stick::make_image(&self.stick_image(secrets.uuid), &[&key_path])?;
        let sheet = recovery::sheet(Some(hostname), secrets.uuid, &secrets.passphrase)?;
        durable::write(&folder.join(SHEET), sheet.expose().as_bytes(), 0o600)?;
        durable::write(&folder.join(HEADER), header, 0o600)?;
        for (name, mode) in [(ADMIN_KEY, 0o600), ("admin_ed25519.pub", 0o644)] {
            if let Ok(key) = fs::read(work.join(name)).map(Secret::new) {
                durable::write(&folder.join(name), key.expose(), mode)?;
            }
        }
        Ok(())
    }
}

/// Makes the throw-away login key of a demo image in `work`, and gives its public half in OpenSSH's form.
pub fn make_admin_key(work: &Path, hostname: &str) -> Result<String> {
    let path = work.join(ADMIN_KEY);
    let mut generate = process::tool("ssh-keygen");
    generate.args(["-q", "-t", "ed25519", "-N", "", "-C"]).arg(format!("demo@{hostname}")).arg("-f").arg(&path);
    process::run(&mut generate, "making the demo's login key")?;
    read_admin_key(work)
}

/// The public half of such a key that was made in `folder`.
pub fn read_admin_key(folder: &Path) -> Result<String> {
    let public = folder.join(ADMIN_KEY).with_extension("pub");
    let text = fs::read_to_string(&public).with_context(|| format!("reading {}", public.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{BuildSecrets, SecretsFolder, make_admin_key};
    use crate::keys::keyfile::KeyFile;
    use crate::luks::cipher::Cipher;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_published_for_their_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("secrets");
        let folder = SecretsFolder::open(&path).unwrap();
        let secrets = BuildSecrets::generate(Cipher::Adiantum).unwrap();
        assert!(make_admin_key(parent.path(), "berry").unwrap().starts_with("ssh-ed25519 "));
        folder.publish(&secrets, "berry", b"header", parent.path()).unwrap();

        let key = path.join(format!("stick/vaultberry/{}.key", secrets.uuid));
        let read = KeyFile::decode(&fs::read(&key).unwrap(), secrets.uuid).unwrap();
        assert_eq!(read.key.expose(), secrets.key.key.expose());
        let sheet = fs::read_to_string(folder.of(secrets.uuid).join("recovery.txt")).unwrap();
        assert!(sheet.contains(secrets.passphrase.expose()));
        assert_eq!(mode(&path), 0o700);
        for file in ["recovery.txt", "stick.img", "header.luks", "admin_ed25519"] {
            assert_eq!(mode(&folder.of(secrets.uuid).join(file)), 0o600, "{file}");
        }
        assert_eq!(mode(&key), 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let error = SecretsFolder::open(&path).unwrap_err().to_string();
        assert!(error.starts_with("others may look into the secrets folder"), "{error}");
        assert_eq!(mode(&path), 0o750, "a folder that isn't ours was changed");
    }
}
