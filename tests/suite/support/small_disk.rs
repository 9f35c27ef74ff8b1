//! A real file system that is soon full: ext4 on a loop device, in a mount namespace of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Uid;
use tempfile::NamedTempFile;

use super::appliance::{Appliance, Run};

/// A file system of some MiB at a folder. Dropped, it is gone.
pub struct SmallDisk {
    holder: Child,
    folder: PathBuf,
    _image: NamedTempFile,
}

impl SmallDisk {
    /// Mounts one at `folder`; none when this isn't root, who alone can, which is said.
    pub fn mount(folder: &Path, mebibytes: u32) -> Option<Self> {
        if !Uid::effective().is_root() {
            eprintln!("not run: a file system can be mounted by root only");
            return None;
        }
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(u64::from(mebibytes) << 20).unwrap();
        let made =
            Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "nodiscard"]).arg(image.path()).status();
        assert!(made.unwrap().success());
        let script = "mount -o loop \"$2\" \"$1\" && rmdir \"$1/lost+found\" && echo mounted && exec sleep 900";
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(folder).arg(image.path());
        let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 7];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(&said, b"mounted");
        let disk = Self { holder, folder: folder.to_owned(), _image: image };
        fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(disk)
    }

    /// Its root, for whoever isn't inside.
    pub fn path(&self) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(self.folder.strip_prefix("/").unwrap())
    }

    /// The same command, inside.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg("-t").arg(self.holder.id().to_string()).args(["--mount", "--"]);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            inside.env(name, value.unwrap());
        }
        inside
    }

    /// A whole `backup run`, inside.
    pub fn run(&self, appliance: &Appliance) -> Run {
        self.vaultberry(appliance, &["backup", "run"])
    }

    /// Another command of the appliance, inside.
    pub fn vaultberry(&self, appliance: &Appliance, arguments: &[&str]) -> Run {
        Run::of(self.inside(&appliance.command(arguments)).output().unwrap())
    }

    /// The files in `snapshots/web` that are no index, sorted.
    pub fn archives(&self) -> Vec<String> {
        let mut find = Command::new("find");
        find.arg(self.folder.join("snapshots/web")).args(["-type", "f", "!", "-name", "*.index.jsonl.zst"]);
        let output = self.inside(&find).output().unwrap();
        let mut found: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect();
        found.sort();
        found
    }

    /// Makes a file in it that leaves so many bytes free.
    pub fn leave(&self, name: &str, bytes: u64) {
        let disk = nix::sys::statvfs::statvfs(&self.path()).unwrap();
        let bytes = (disk.blocks_available() * disk.fragment_size()).saturating_sub(bytes).max(1);
        let file = fs::File::create(self.path().join(name)).unwrap();
        nix::fcntl::posix_fallocate(&file, 0, bytes.try_into().unwrap()).unwrap();
    }

    /// Removes something from it, with all that is below.
    pub fn remove(&self, path: &Path) {
        let mut remove = Command::new("rm");
        remove.arg("-r").arg(path);
        assert!(self.inside(&remove).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
