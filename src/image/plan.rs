//! What an image of a config comes to, for people to read before it is built.

use std::path::PathBuf;

use super::cache::Cache;
use super::disk::{FIRMWARE_SIZE, FIRMWARE_START, Layout, ROOT_START};
use super::overlay::ENABLED;
use super::{base, credentials, packages};
use crate::amount::amount;
use crate::config::Config;
use crate::harden::firewall;
use crate::luks::HEADER_SIZE;
use crate::page::Page;

/// Prints it. The cache is looked at and not made.
pub fn plan(config: &Config, cache: Option<PathBuf>) -> String {
    let mut page = Page::default();
    page.section("the image");
    let board = config.image.board;
    page.list("boards", board.boards().map(|board| board.name.to_owned()));
    if let Some(caution) = board.caution() {
        page.line("caution", caution);
    }
    partitions(&mut page, config);
    page.line("root", &format!("LUKS2, {}, sectors of 4096 bytes", config.image.cipher.name()));
    page.line("opened by", "the stick's key, or the recovery passphrase (argon2id, 128 MiB)");
    contents(&mut page, config);
    let wanted = credentials::wanted(config);
    let secrets = wanted.iter().map(|(name, path)| format!("credentials/{name}, to {}", path.display()));
    page.list("secrets", secrets);
    cached(&mut page, config, Cache::there(cache).as_ref());
    page.text()
}

fn partitions(page: &mut Page, config: &Config) {
    let layout = Layout { size: config.image.size, disk_id: 0 };
    let partition = |what: &str, size: u64, start: u64| format!("{what}, {} at {}", amount(size), amount(start));
    let partitions = [
        partition("1: firmware, FAT32", FIRMWARE_SIZE, FIRMWARE_START),
        partition("2: root, LUKS2", layout.root_partition(), ROOT_START),
        format!("   ext4, {}, behind a header of {}", amount(layout.root_file_system()), amount(HEADER_SIZE)),
    ];
    page.list("partitions", partitions.into_iter());
}

fn contents(page: &mut Page, config: &Config) {
    page.list("packages", lines(base::packages(config).into_iter()));
    page.list("services", ENABLED.iter().map(|(_, unit)| (*unit).to_owned()));
    let from = config.access.ssh_from.iter().map(ToString::to_string);
    page.list(
        "listens",
        ["TCP 22, from".to_owned()].into_iter().chain(lines(from.collect::<Vec<_>>().iter().map(String::as_str))),
    );
    page.list("goes out", firewall::goes_out(config).into_iter());
}

/// Words, as many on a line as read well.
fn lines<'a>(words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    const WIDTH: usize = 56;
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < WIDTH => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter()
}

fn cached(page: &mut Page, config: &Config, cache: Option<&Cache>) {
    let lock = cache.and_then(|cache| Some((cache, packages::cached_lock(config, cache)?)));
    let Some((cache, lock)) = lock else {
        return page.line("in the cache", "(nothing: the first build takes a quarter of an hour)");
    };
    let tree = if base::is_cached(config, cache, &lock) { "their tree" } else { "not their tree, which takes up to ten minutes" };
    page.line("in the cache", &format!("{} packages, as of {}, and {tree}", lock.all().len(), lock.date()));
}

#[cfg(test)]
mod tests {
    use super::{lines, plan};
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn a_board_that_nobody_has_tried_is_told() {
        let of =
            |board: &str| plan(&parse(&EXAMPLE.replace("\n# board = \"any\"", &format!("\nboard = \"{board}\""))).unwrap(), None);
        let page = of("pi5");
        assert!(
            page.contains("\n  boards              Raspberry Pi 5\n") && page.contains("\n  caution             experimental: "),
            "{page}"
        );
        assert!(page.contains("\n  root                LUKS2, aes-xts-plain64, sectors"), "{page}");
        assert!(!of("pi4").contains("caution"));
    }

    #[test]
    fn a_plan_says_what_an_image_is_and_leaves_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("none");
        let page = plan(&parse(EXAMPLE).unwrap(), Some(cache.clone()));
        for line in [
            "  partitions          1: firmware, FAT32, 512.0 MiB at 4.0 MiB",
            "                      2: root, LUKS2, 3.4 GiB at 516.0 MiB",
            "  root                LUKS2, xchacha12,aes-adiantum-plain64, sectors of 4096 bytes",
            "  listens             TCP 22, from",
            "  secrets             (none)",
            "  in the cache        (nothing: the first build takes a quarter of an hour)",
        ] {
            assert!(page.lines().any(|there| there == line), "{line}\n{page}");
        }
        assert!(page.contains(" vaultberry-first-boot.service\n") && page.contains("linux-image-arm64 raspi-firmware"), "{page}");
        assert!(!cache.exists());
        assert!(lines("one two".repeat(30).split(' ')).all(|line| line.len() < 80));
    }
}
