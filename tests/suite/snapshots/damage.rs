//! Archives and indexes that are damaged, of another snapshot, or made to do harm.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use vaultberry::outcome::Outcome;

use super::{appliance, keep, plain_mirror, restore};
use crate::support::appliance::{Appliance, Run, names};

/// An appliance with a snapshot of three files whose content doesn't compress.
fn noisy() -> (Appliance, TempDir, PathBuf) {
    let (appliance, mirror) = (appliance(), tempfile::tempdir().unwrap());
    fs::create_dir(mirror.path().join("srv")).unwrap();
    for name in ["a", "b", "c"] {
        let random = Command::new("head").args(["-c", "200000", "/dev/urandom"]).output().unwrap().stdout;
        fs::write(mirror.path().join("srv").join(name), random).unwrap();
    }
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    (appliance, mirror, archive)
}

#[test]
fn a_flipped_byte_is_found_in_its_file() {
    let (appliance, mirror, archive) = noisy();
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&archive, bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("to");
    let run = restore(&appliance, &["web/latest"], &to);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("\n  the content of srv/b ") && run.stderr.contains("; it is b.damaged now\n"), "{run:?}");
    assert!(!run.stderr.contains("srv/a"), "{run:?}");
    let there = names(&to.join("srv"));
    assert!(there.contains(&"b.damaged".into()) && !there.contains(&"b".into()), "{there:?}");
    assert_eq!(fs::read(to.join("srv/a")).unwrap(), fs::read(mirror.path().join("srv/a")).unwrap());
    // Also without the index it isn't passed over.
    fs::remove_file(appliance.backup("snapshots/web/20261123T023000Z.index.jsonl.zst")).unwrap();
    let run = restore(&appliance, &[archive.to_str().unwrap()], &out.path().join("again"));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("the archive is damaged and can't be read to its end: "), "{run:?}");
    assert!(run.stderr.contains("there is no index ") && run.stdout.starts_with("restored "), "{run:?}");
}

#[test]
fn a_truncated_archive_gives_what_it_has_and_names_what_it_has_not() {
    let (appliance, mirror, archive) = noisy();
    let bytes = fs::read(&archive).unwrap();
    fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("to");
    let run = restore(&appliance, &[archive.to_str().unwrap()], &to);
    assert_eq!(run.code, Some(1), "{run:?}");
    for part in ["the content of srv/b was cut short; it is b.damaged now", "srv/c is missing", "and its index says"] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    assert_eq!(names(&to.join("srv")), ["a", "b.damaged"]);
    assert_eq!(fs::read(to.join("srv/a")).unwrap(), fs::read(mirror.path().join("srv/a")).unwrap());
    let list = Run::of(appliance.command(&["snapshot", "list"]).output().unwrap());
    assert!(list.stdout.contains("  unknown  ") && list.stdout.contains(" bytes, and its index says "), "{list:?}");
}

#[test]
fn the_index_of_another_snapshot_is_found_out_and_all_is_restored() {
    let (appliance, mirror) = (appliance(), plain_mirror());
    let archive = keep(&appliance, mirror.path(), "20261122T023000Z", Outcome::Complete);
    fs::write(mirror.path().join("srv/new"), "new").unwrap();
    keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    let [older, newer] =
        ["20261122", "20261123"].map(|day| appliance.backup(&format!("snapshots/web/{day}T023000Z.index.jsonl.zst")));
    fs::copy(newer, older).unwrap();
    let to = tempfile::tempdir().unwrap();
    let run = restore(&appliance, &["web/20261122T023000Z"], to.path());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("is of another archive: it has srv/new where the archive has srv/other"), "{run:?}");
    assert!(run.stderr.starts_with(&format!("error: restoring {}: ", archive.display())), "{run:?}");
    assert_eq!(names(&to.path().join("srv")), ["other", "www", "www2"]);
}

#[test]
fn a_hostile_archive_never_writes_outside() {
    let (appliance, out) = (appliance(), tempfile::tempdir().unwrap());
    let outside = out.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "precious").unwrap();
    let script = r#"
import io, sys, tarfile
archive, outside = sys.argv[1:3]
with tarfile.open(archive, "w:gz", format=tarfile.GNU_FORMAT) as tar:
    for line in sys.argv[3:]:
        name, kind, target = line.split("|")
        entry = tarfile.TarInfo(name.replace("OUT", outside))
        entry.type, entry.linkname = kind.encode(), target.replace("OUT", outside)
        entry.size = 4 if kind == "0" else 0
        tar.addfile(entry, io.BytesIO(b"evil") if kind == "0" else None)
"#;
    for (number, (lines, named)) in [
        (vec!["OUT/evil|0|"], "/outside/evil\""),
        (vec!["../outside/evil|0|"], "\"../outside/evil\""),
        (vec!["srv/../../outside/evil|0|"], "\"srv/../../outside/evil\""),
        (vec!["srv|5|", "srv/link|2|OUT", "srv/link/evil|0|"], "/srv/link/evil:"),
        (vec!["link|2|../outside", "link/evil|0|"], "/link/evil:"),
        (vec!["link|2|OUT", "link/sub/evil|0|"], "/link/sub/evil:"),
        (vec!["link|2|OUT", "link|5|", "link/evil|0|"], "/link/evil:"),
        (vec!["link|2|OUT/precious", "link|0|"], "link is not restored: something has this name already"),
        (vec!["link|2|OUT/new", "link|0|"], "link is not restored: something has this name already"),
        (vec!["hard|1|OUT/precious", "hard|0|"], "\"hard\" of the archive: it is a link out of the snapshot, to "),
        (vec!["link|2|OUT", "hard|1|link/precious", "hard|0|"], "/hard:"),
        (vec!["hard|1|srv/../../outside/precious"], "\"hard\" of the archive: it is a link out of the snapshot, to "),
        (vec!["link|2|OUT", "link/pipe|6|"], "/link/pipe:"),
        (vec!["odd|V|"], "\"odd\" of the archive: it is of an unknown kind"),
    ]
    .into_iter()
    .enumerate()
    {
        let archive = out.path().join(format!("{number}.tar.gz"));
        let made = Command::new("python3").args(["-c", script]).args([&archive, &outside]).args(&lines).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let run = restore(&appliance, &[archive.to_str().unwrap()], &out.path().join(format!("to{number}")));
        assert_eq!(run.code, Some(1), "{lines:?} {run:?}");
        assert!(run.stderr.contains(named), "{lines:?} {run:?}");
        assert_eq!(names(&outside), ["precious"], "{lines:?}");
        assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "precious");
    }
}
