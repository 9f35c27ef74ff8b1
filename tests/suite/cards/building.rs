//! `vaultberry image` and what it refuses; that an ordinary user can build; that a second build is quick.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use vaultberry::config::EXAMPLE;

use crate::support::Turn;
use crate::support::appliance::names;
use crate::support::card::{image, scratch, tool};

/// An ordinary user to build as, where the tests run as root.
const BUILDER: &str = "vaultberry-builder";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A build that must be refused: gives what it said. Nothing may have been put out.
fn refused(folder: &Path, config: &str, arguments: &[&str]) -> String {
    fs::write(folder.join("appliance.toml"), config).unwrap();
    let output = image(folder, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!folder.join("out/SHA256SUMS").exists());
    assert!(!folder.join("secrets").join("stick").exists(), "keys were made for no image");
    stderr(&output)
}

#[test]
fn bad_input_is_refused_with_its_remedy_and_nothing_is_made() {
    let folder = scratch();
    let here = folder.path();
    let invalid = refused(here, "[image]\nsize = 3\nsuit = \"trixie\"\n", &[]);
    assert!(invalid.contains("appliance.toml:3:1: image.suit"), "{invalid}");
    assert!(!here.join("out").exists(), "an invalid config makes no output folder");

    let programs = refused(here, EXAMPLE, &["--binaries", "nowhere"]);
    assert!(programs.contains("nowhere/vaultberry") && programs.contains("hint: `make cross` builds it"), "{programs}");

    // Several mistakes are told at once, each with its remedy.
    let files = "[[image.file]]\nfrom = \"none\"\nto = \"/etc/none\"\n[[image.file]]\nfrom = \"nor this\"\nto = \"/etc/nor\"\n";
    let several = EXAMPLE.replace("# folder = \"/mnt/backup\"", "folder = \"/tmp/backup\"") + files;
    let several = refused(here, &several, &["--binaries", "nowhere", "--secrets", "out/secrets"]);
    for told in [
        "backup.folder: /tmp/backup lies in /tmp",
        "reading none, which [[image.file]] wants at /etc/none",
        "reading nor this, which [[image.file]] wants at /etc/nor",
        "nowhere/vaultberry",
        "lies inside the output folder",
    ] {
        assert!(several.contains(told), "{told}: {several}");
    }

    let inside = refused(here, EXAMPLE, &["--secrets", "out/secrets"]);
    assert!(inside.contains("lies inside the output folder"), "{inside}");
    assert!(!here.join("out").exists() && !here.join("secrets").exists());

    fs::create_dir(here.join("out")).unwrap();
    fs::write(here.join("out/thesis.txt"), "mine").unwrap();
    let full = refused(here, EXAMPLE, &[]);
    assert!(full.contains("\"thesis.txt\" is not from an earlier build"), "{full}");
    assert_eq!(names(&here.join("out")), ["thesis.txt"]);
}

#[test]
fn a_disk_without_room_is_refused_before_the_work_begins() {
    let folder = scratch();
    fs::write(folder.path().join("appliance.toml"), EXAMPLE).unwrap();
    fs::create_dir(folder.path().join("out")).unwrap();
    let build = image(folder.path(), &[]);
    // A small disk of its own, which only this build sees.
    let mut small = Command::new("unshare");
    small.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o size=64m tmpfs out && cd . && exec \"$@\"",
        "sh",
    ]);
    small.arg(build.get_program()).args(build.get_args()).current_dir(folder.path());
    let output = small.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = stderr(&output);
    assert!(text.contains("out has 64 MiB free, and a build takes up to ") && text.contains("hint: free some space"), "{text}");
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let folder = scratch();
    fs::write(folder.path().join("appliance.toml"), EXAMPLE).unwrap();
    // The only folders in which programs are looked for, beside the system's own.
    let output = image(folder.path(), &[]).env("PATH", folder.path()).output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("mcopy") && text.contains("hint: apt-get install ") && text.contains("mtools"), "{text}");
}

#[test]
fn a_mirror_that_is_not_there_leaves_no_cache_behind() {
    let folder = scratch();
    let config = EXAMPLE.replace("[image]\n", "[image]\nmirror = \"http://127.0.0.1:9/nowhere\"\n");
    let text = refused(folder.path(), &config, &["--cache", "cache"]);
    assert!(text.contains("fetching from http://127.0.0.1:9/nowhere, suite trixie, failed"), "{text}");
    assert!(text.contains("hint: is the mirror reachable"), "{text}");
    assert!(!names(&folder.path().join("cache")).iter().any(|name| name.contains(".tar")), "something half-made was kept");
    assert_eq!(names(&folder.path().join("out")), [""; 0]);
}

/// The whole build but for the base tree, which comes from the cache of whoever runs the tests.
#[test]
fn an_ordinary_user_builds_and_a_killed_build_leaves_nothing_half_made() {
    let _turn = Turn::take();
    let folder = scratch();
    let here = folder.path();
    fs::write(here.join("appliance.toml"), EXAMPLE).unwrap();
    share_cache(here);
    let build = || {
        let command = image(here, &["--cache", "cache"]);
        as_ordinary_user(here, &command)
    };

    let mut killed = build().spawn().unwrap();
    let deadline = Instant::now() + Duration::from_mins(5);
    while !here.join("out/.build/vaultberry.img").exists() {
        assert!(Instant::now() < deadline && killed.try_wait().unwrap().is_none(), "the build never got to its image");
        sleep(Duration::from_millis(20));
    }
    if Uid::current().is_root() {
        // The builder is runuser's child.
        tool(Command::new("pkill").args(["-KILL", "-P", &killed.id().to_string()]));
    } else {
        killed.kill().unwrap();
    }
    killed.wait().unwrap();
    let left = [here.join("secrets"), PathBuf::from("/dev/shm")].map(|folder| workshops(&folder, builder().uid));
    assert_eq!(left.iter().sum::<usize>(), 1, "where is what it was at work with?");
    assert_eq!(names(&here.join("out")), [".build"], "a name was given to something half-made");
    assert_eq!(
        names(&here.join("out/.build")),
        ["vaultberry.img", "vaultberry.log"],
        "something plain lies where a CI uploads it"
    );

    let output = build().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    eprintln!("{}", stderr(&output));
    assert_eq!(names(&here.join("out")).len(), 7);

    // Another config, the same base and initramfs.
    fs::write(here.join("appliance.toml"), EXAMPLE.replace("# at = \"02:30\"", "at = \"03:45\"")).unwrap();
    let output = build().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!stderr(&output).contains("making the"), "something was made that the cache has: {}", stderr(&output));
    assert_eq!(names(&here.join("secrets/stick/vaultberry")).len(), 2, "an earlier image's key was lost");
    let left = [here.join("secrets"), PathBuf::from("/dev/shm")].map(|folder| workshops(&folder, builder().uid));
    assert_eq!(left, [0, 0], "plain files of the builds are still there");

    // What a config adds is put upon the tree that is there.
    fs::write(here.join("appliance.toml"), EXAMPLE.replace("\n# packages = []\n", "\npackages = [\"pv\"]\n")).unwrap();
    let output = as_ordinary_user(here, &image(here, &["--cache", "cache", "--only-base"])).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("adding pv to the base tree") && !said.contains("making the"), "{said}");
}

/// How many work folders of this user's there are.
fn workshops(folder: &Path, user: Uid) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    let of_user = entries.filter(|entry| entry.metadata().is_ok_and(|entry| entry.uid() == user.as_raw()));
    of_user.filter(|entry| entry.file_name().to_string_lossy().starts_with(".vaultberry-build-")).count()
}

/// Who builds as an ordinary user.
fn builder() -> User {
    let user = if Uid::current().is_root() { User::from_name(BUILDER) } else { User::from_uid(Uid::current()) };
    user.unwrap().expect("there is a user to build as")
}

/// Gives the build a cache of its own with everything that the user's has.
fn share_cache(here: &Path) {
    // Makes sure that there is a base tree; whoever comes first makes it.
    let first = scratch();
    fs::write(first.path().join("appliance.toml"), EXAMPLE).unwrap();
    let output = image(first.path(), &[]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"), |folder| Path::new(&folder).to_owned());
    tool(Command::new("cp").arg("-a").arg(cache.join("vaultberry")).arg(here.join("cache")));
}

/// The same command, run by an ordinary user, to whom the folder is given.
fn as_ordinary_user(here: &Path, command: &Command) -> Command {
    if !Uid::current().is_root() {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args()).current_dir(here);
        return same;
    }
    if User::from_name(BUILDER).unwrap().is_none() {
        tool(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", BUILDER]));
    }
    tool(Command::new("chown").arg("-R").arg(format!("{BUILDER}:")).arg(here));
    fs::set_permissions(here, fs::Permissions::from_mode(0o755)).unwrap();
    // The program may lie where only root can reach it.
    fs::copy(command.get_program(), here.join("builder")).unwrap();
    let mut other = Command::new("runuser");
    other.args(["-u", BUILDER, "--"]).arg(here.join("builder")).args(command.get_args()).current_dir(here);
    other
}
