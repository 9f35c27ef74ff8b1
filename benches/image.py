#!/usr/bin/python3
"""Measures building and flashing an image beside what can't be done without, in the same run.

    make bench-image [FLAGS=--cold]

A warm build, as after a change of the config, stands beside `mke2fs -d` of the same tree and `zstd -T0` of the same image; the
payload's encryption beside `openssl speed`; what is flashed beside what the file system uses. Of each the best of several tries
counts. With --cold a build with an empty cache runs beside a bare mmdebstrap of the same packages with one update-initramfs, both
at the same time, since each keeps one core busy: ten minutes. Figures of one machine compare with nothing but each other. It is
to be run as root, who can unpack a tree.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

from night import CACHE, HERE, VAULTBERRY, line, measured

BINARIES = HERE / "target/aarch64-unknown-linux-gnu/release"
TRIES = 3


def build(work, number):
    """A build from a config of its own; its figures, and how long each step took."""
    example = (HERE / "image/appliance.toml").read_text()
    (work / "appliance.toml").write_text(example.replace('# at = "02:30"', f'at = "01:{number:02}"'))
    log = work / "log"
    with log.open("w") as told:
        command = [VAULTBERRY, "-v", "image", "appliance.toml", "--binaries", BINARIES]
        figures = measured(command, cwd=work, stdout=subprocess.DEVNULL, stderr=told)
    return figures, re.findall(r"INFO ([a-z ,]+): ([0-9.]+) s$", log.read_text(), re.MULTILINE)


def reference(work):
    """The same tree into a file system, and the same image compressed, by the programs alone."""
    base = max(CACHE.glob("base-*.tar"), key=lambda path: path.stat().st_mtime)
    tree = work / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", base, "-C", tree, "--exclude=./dev/*", "--numeric-owner"], check=True)
    size = (work / "out/vaultberry.img").stat().st_size - (532 << 20)
    made = []
    for _ in range(TRIES):
        (work / "fs").unlink(missing_ok=True)
        mke2fs = measured(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, work / "fs", f"{size // 1024}k"])
        zstd = measured(["zstd", "-q", "-f", "-1", "-T0", "-o", work / "zst", work / "out/vaultberry.img"])
        made.append((mke2fs, zstd))
    return min(made, key=lambda pair: pair[0][0] + pair[1][0])


def ciphers():
    """Encryption by one core: ours, and what OpenSSL says of itself."""
    bench = subprocess.run(
        [HERE / "tools/toolchain", "host", "sh", "-c", "$CARGO bench --locked --quiet --bench payload"],
        check=True, text=True, stdout=subprocess.PIPE, cwd=HERE,
    )
    ours = dict(text.rsplit(" ", 1) for text in bench.stdout.splitlines() if " " in text)
    speed = subprocess.run(
        ["openssl", "speed", "-mr", "-evp", "aes-256-xts", "-bytes", "4096", "-seconds", "2"],
        check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    openssl = float(speed.stdout.strip().rsplit(":", 1)[1]) / (1 << 20)
    for name, rate in ours.items():
        print(f"{name:36}{float(rate):8.0f} MiB/s a core", flush=True)
    print(f"{'openssl speed aes-256-xts':36}{openssl:8.0f} MiB/s a core")
    print(f"AES-XTS: {float(ours['aes-xts-plain64']) / openssl:.2f} of OpenSSL's own rate")


def flash(work):
    """What goes onto a card of what the image's blocks are."""
    card = work / "card"
    with card.open("wb") as file:
        file.truncate(8 << 30)
    command = [VAULTBERRY, "flash", work / "out/vaultberry.img", card, "--yes-really", card]
    figures = measured(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    line("flash, to a file, and read back", figures)
    used = sum(int(found) for found in re.findall(r"<MappedBlocksCount> (\d+) <", (work / "out/vaultberry.bmap").read_text()))
    written = card.stat().st_blocks * 512
    print(f"flashed: {written / 1e6:.1f} MB, {written / (used * 4096):.4f} of the image's used blocks")


def cold(work):
    """A build from nothing, and what it would be at least, side by side."""
    example = HERE / "image/appliance.toml"
    packages = [line for line in (HERE / "image/packages").read_text().splitlines() if line and not line.startswith("#")]
    settings = '"$1/etc/initramfs-tools/update-initramfs.conf"'
    bare = [
        "mmdebstrap", "--quiet", "--format=tar", "--variant=minbase", "--architectures=arm64",
        "--components=main,non-free-firmware", "--dpkgopt=force-confold", f"--include={','.join(packages)}",
        f'--setup-hook=mkdir -p "$1/etc/initramfs-tools" && echo update_initramfs=no >{settings}',
        f'--customize-hook=echo update_initramfs=yes >{settings} && chroot "$1" update-initramfs -c -k all',
        "trixie", work / "bare.tar",
    ]
    ours = [VAULTBERRY, "image", example, "--binaries", BINARIES, "--cache", work / "cold-cache"]
    ours += ["--out", work / "cold", "--secrets", work / "cold-secrets"]
    figures = {}

    def run(name, command):
        with (work / f"{name}.log").open("w") as told:
            figures[name] = measured(command, env=os.environ | {"INITRD": "No"}, stdout=told, stderr=told)

    both = [threading.Thread(target=run, args=pair) for pair in (("bare", bare), ("ours", ours))]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    for name in {"bare", "ours"} - figures.keys():
        sys.exit(f"error: {name} failed:\n" + (work / f"{name}.log").read_text()[-2000:])
    line("cold build, all of it", figures["ours"])
    line("bare mmdebstrap and initramfs", figures["bare"])
    print(f"cold build: {figures['ours'][0] / figures['bare'][0]:.2f} times the bare one")


def main():
    if os.geteuid() != 0:
        sys.exit("error: only root can unpack a tree with its owners\nhint: run it as root")
    work = pathlib.Path(tempfile.mkdtemp(prefix="vaultberry-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        if sys.argv[1:] == ["--cold"]:
            return cold(work)
        build(work, 0)
        figures, steps = min((build(work, number) for number in range(1, TRIES + 1)), key=lambda built: built[0][0])
        print(f"{'':32}{'wall':>10} {'processor':>10} {'peak':>12}")
        line("warm build, config changed", figures)
        for step, seconds in steps:
            print(f"  {step:30}{float(seconds):8.1f} s {100 * float(seconds) / figures[0]:8.0f} %")
        mke2fs, zstd = reference(work)
        line("mke2fs -d of the tree", mke2fs)
        line("zstd -1 -T0 of the image", zstd)
        print(f"warm build: {figures[0] / (mke2fs[0] + zstd[0]):.2f} times both")
        ciphers()
        flash(work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
