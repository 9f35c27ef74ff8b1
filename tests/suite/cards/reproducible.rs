//! That the same inputs make the same image, byte for byte; that a lock's packages are the only ones it takes; and that a card can
//! have a key of its own nevertheless.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use vaultberry::config::{EXAMPLE, parse};
use vaultberry::image::base::{self, Tree};
use vaultberry::image::cache::Cache;
use vaultberry::image::disk::ROOT_START;
use vaultberry::image::packages::{Set, Store};
use vaultberry::image::tools::set as tools_set;
use vaultberry::keys::keyfile::{KeyFile, random};
use vaultberry::luks::{self, Key};

use crate::cards::boot::CARD;
use crate::support::Turn;
use crate::support::appliance::names;
use crate::support::card::{cached, decipher, image, scratch, tool, tools};

/// What names in a cache end with.
const LOCK: &str = ".lock";
const PART: &str = ".part";

/// Some packages for this machine, which needs no emulation.
fn small() -> Set {
    let image = parse(EXAMPLE).unwrap().image;
    let packages = ["?essential", "?priority(required)", "apt", "openssh-server", "python3-minimal", "cron"];
    Set { packages: packages.map(str::to_owned).to_vec(), ..tools_set(&image).unwrap() }
}

fn same(one: &Path, other: &Path) {
    tool(Command::new("cmp").arg(one).arg(other));
}

#[test]
fn a_small_tree_and_its_file_system_are_the_same_twice() {
    let cache = Cache::open(None).unwrap();
    let store = Store { cache: &cache, offline: false };
    let set = small();
    let locked = store.resolve(&set).unwrap();
    let archive = store.archive(&set, &locked).unwrap();
    let folder = scratch();
    let here = |name: &str| folder.path().join(name);
    let asked = ["openssh-server", "python3-minimal", "cron"];
    let tree = Tree {
        suite: &set.suite,
        architecture: &set.architecture,
        packages: &asked,
        epoch: 1_764_000_000,
        upon: None,
        answers: "",
    };
    for name in ["one.tar", "two.tar"] {
        base::make(&tree, &archive, &here(name)).unwrap();
    }
    same(&here("one.tar"), &here("two.tar"));

    // The tools make the same file system of the same files, whatever their order in the folder, and whenever.
    let tools = tools(folder.path());
    let uuid = "6d1b2c3e-0000-4000-8000-000000000001";
    for (name, order) in [("one", [1, 2, 3]), ("two", [3, 1, 2])] {
        let root = here(&format!("{name}-tree"));
        fs::create_dir(&root).unwrap();
        for number in order {
            fs::create_dir(root.join(format!("folder{number}"))).unwrap();
            fs::write(root.join(format!("folder{number}/file")), format!("{number}").repeat(5000)).unwrap();
            symlink("file", root.join(format!("folder{number}/link"))).unwrap();
        }
        tool(Command::new("find").arg(&root).args(["-exec", "touch", "-h", "-d", "@1764000000", "{}", "+"]));
        let mut mke2fs = tools.command("mke2fs").unwrap();
        mke2fs.env("SOURCE_DATE_EPOCH", "1764000000").args(["-q", "-t", "ext4", "-b", "4096", "-U", uuid, "-E"]);
        mke2fs.arg(format!("hash_seed={uuid},root_owner=0:0")).arg("-d").arg(&root).arg(here(name)).arg("64m");
        tool(&mut mke2fs);
    }
    same(&here("one"), &here("two"));
}

#[test]
fn a_locked_package_that_the_mirror_has_no_more_is_named() {
    let folder = scratch();
    let cache = Cache::open(Some(folder.path().to_owned())).unwrap();
    let (store, away) = (Store { cache: &cache, offline: false }, Store { cache: &cache, offline: true });
    let set = Set { packages: vec!["hostname".into()], ..small() };
    let mut locked = store.resolve(&set).unwrap();
    assert!(away.archive(&set, &locked).unwrap().exists(), "what was fetched is there without a mirror");
    let today = locked["hostname"].version.clone();
    locked.get_mut("hostname").unwrap().version = "3.00".into();
    let error = format!("{:#}", store.archive(&set, &locked).unwrap_err());
    assert!(error.contains(&format!("\n  hostname: {today}, locked 3.00\nhint: `vaultberry image lock` ")), "{error}");
    let error = format!("{:#}", away.archive(&set, &locked).unwrap_err());
    assert!(error.contains("the cache doesn't have ") && error.ends_with("hint: build once without --offline"), "{error}");
    assert_eq!(names(folder.path()).iter().filter(|name| name.contains(".tar")).count(), 1, "{:?}", names(folder.path()));
}

/// Copies what a cache has of these kinds into a new one.
fn copy_cache(from: &Path, to: &Path, kinds: &[&str]) {
    fs::create_dir(to).unwrap();
    let whole = |name: &String| !name.ends_with(LOCK) && !name.ends_with(PART);
    for name in names(from).into_iter().filter(whole).filter(|name| kinds.iter().any(|kind| name.starts_with(kind))) {
        tool(Command::new("cp").arg("-a").arg(from.join(name)).arg(to));
    }
}

/// Starts a build and kills it after a random time, up to 256 times `step` milliseconds.
fn kill_soon(build: &mut Command, step: u64) {
    let mut killed = build.stderr(Stdio::null()).spawn().unwrap();
    let moment = Duration::from_millis(u64::from(random(1).unwrap().expose()[0]) * step);
    eprintln!("a build is killed after {moment:?}");
    sleep(moment);
    killed.kill().unwrap();
    killed.wait().unwrap();
}

#[test]
fn builds_that_are_killed_while_they_fetch_and_install_poison_nothing() {
    let _turn = Turn::take();
    let (one, two) = (scratch(), scratch());
    let cache = |folder: &Path| folder.join("cache");
    let config = |folder: &Path, text: &str| fs::write(folder.join("appliance.toml"), text).unwrap();
    // The shared tree is there; what the config adds isn't.
    config(one.path(), EXAMPLE);
    tool(&mut image(one.path(), &["--only-base"]));
    for folder in [&one, &two] {
        config(folder.path(), &EXAMPLE.replace("\n# packages = []\n", "\npackages = [\"pv\"]\n"));
    }
    let only_base = |folder: &Path| image(folder, &["--only-base", "--cache", "cache"]);
    copy_cache(&cached(""), &cache(one.path()), &["packages-", "fetched-", "base-"]);
    let mut build = only_base(one.path());
    for _ in 0..4 {
        // It may be done by then, on a quick machine.
        kill_soon(&mut build, 50);
    }
    tool(build.stderr(Stdio::piped()));
    // A program that outlives its build may still write a part, under a name that nobody reads.
    let made = names(&cache(one.path())).into_iter().filter(|name| !name.ends_with(LOCK) && !name.ends_with(PART));

    // A build that nobody disturbs makes the same.
    copy_cache(&cache(one.path()), &cache(two.path()), &["packages-", "fetched-", "base-"]);
    tool(only_base(two.path()).arg("--offline"));
    let added: Vec<_> = made.filter(|name| name.starts_with("added-")).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    same(&cache(one.path()).join(&added[0]), &cache(two.path()).join(&added[0]));
}

#[test]
fn the_same_secrets_make_the_same_image_and_others_another() {
    let _turn = Turn::take();
    let (one, two) = (scratch(), scratch());
    let out = |folder: &Path, name: &str| folder.join("out").join(name);
    for folder in [&one, &two] {
        fs::write(folder.path().join("appliance.toml"), EXAMPLE).unwrap();
    }
    let first = tool(&mut image(one.path(), &[]));
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(said.contains("new in this image: its keys, root's UUID"), "{said}");
    let secrets =
        String::from_utf8_lossy(&first.stdout).lines().find_map(|line| line.strip_prefix("secrets: ").map(str::to_owned));
    let secrets = one.path().join(secrets.unwrap());

    // In another folder, later, without a network, of the packages and trees alone, and though builds before it were killed.
    copy_cache(&cached(""), &two.path().join("cache"), &["packages-", "fetched-", "base-", "boot-"]);
    let mut again = image(two.path(), &["--offline", "--cache", "cache", "--secrets", secrets.to_str().unwrap()]);
    for _ in 0..5 {
        kill_soon(&mut again, 12);
        assert!(!two.path().join("out/SHA256SUMS").exists(), "it was done already");
    }
    let second = tool(again.stderr(Stdio::piped()));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("byte for byte"), "{said}");
    let files = names(&one.path().join("out"));
    assert_eq!(files, names(&two.path().join("out")));
    // Its log tells how long each step took.
    for name in files.iter().filter(|name| *name != "vaultberry.log") {
        same(&out(one.path(), name), &out(two.path(), name));
    }

    // Another config with the same keys: it is done, and told.
    fs::write(two.path().join("appliance.toml"), EXAMPLE.replace("# at = \"02:30\"", "at = \"03:45\"")).unwrap();
    let said = String::from_utf8_lossy(&tool(&mut again).stderr).into_owned();
    assert!(said.contains("this image is another one than was built with these secrets before"), "{said}");

    // Without the sheet, which is to be taken away, it can't be done.
    fs::remove_file(secrets.join("recovery.txt")).unwrap();
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("recovery.txt") && said.contains("hint: it is part of the image"),
        "{said}"
    );
}

#[test]
fn a_card_with_a_key_of_its_own_has_the_same_files_and_opens_with_the_same_keys() {
    let image = CARD.out().join("vaultberry.img.zst");
    let folder = scratch();
    let here = |name: &str| folder.path().join(name);
    File::create(here("card")).unwrap().set_len(5 << 30).unwrap();
    let mut flash = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
    flash.arg("flash").arg(&image).arg(here("card")).arg("--yes-really").arg(here("card")).stdin(Stdio::null());
    flash.arg("--fresh-key");
    let output = flash.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("hint: name its folder with --secrets"), "{said}");
    let output = tool(flash.arg("--secrets").arg(CARD.secrets()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let header = said.lines().find_map(|line| line.split_once("whose header is kept as ")).unwrap().1;

    let root = |from: &Path, name: &str| {
        // In blocks of 4 KiB, so that where nothing is written a hole stays.
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", from.display())).arg(format!("of={}", here(name).display()));
        tool(dd.args(["bs=4096", "conv=sparse", "status=none", "count=916480"]).arg(format!("skip={}", ROOT_START >> 12)));
        here(name)
    };
    let (one, other) = (root(&CARD.image(), "one"), root(&here("card"), "other"));
    let key = KeyFile::decode(&fs::read(CARD.key()).unwrap(), CARD.uuid).unwrap();
    let volume_key = |path: &Path| luks::volume_key(path, Key::Random(&key.key)).unwrap();
    assert_ne!(volume_key(&one).expose(), volume_key(&other).expose(), "the card has the image's key");
    assert_eq!(volume_key(Path::new(header)).expose(), volume_key(&other).expose(), "another header was kept");
    // Each deciphered with the recovery passphrase, block by block.
    decipher(&one, &CARD.passphrase(), &here("one.plain"));
    decipher(&other, &CARD.passphrase(), &here("other.plain"));
    same(&here("one.plain"), &here("other.plain"));
    // What isn't encrypted is the same.
    tool(Command::new("cmp").args(["-n", &ROOT_START.to_string()]).arg(CARD.image()).arg(here("card")));
    tool(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(here("other.plain")));
}
