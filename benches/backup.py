#!/usr/bin/python3
"""Measures a source's way into a snapshot beside the tools that do a part of it, all in the same run.

    make bench-backup                 a tree of 1.26 GB: two thirds source code, one third incompressible, 42,000 files
    benches/backup.py --scale 0.1     a tenth of it, to try things
    benches/backup.py --many 0        without the memory of 40,000 and 1,000,000 small files

Told are wall time, processor time of all programs of a side, and the largest memory that any one of them took. A
snapshot's time is what `backup run --json` says between its first word on archiving and the end of the source, on a
night in which nothing changed; what comes before, from when the connection stands, is the pull. Figures of one machine compare with nothing but each other.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
from datetime import datetime

from night import VAULTBERRY, free_port, line, make_tree, measured, start_sshd, wait_for

SMALL = 40_000


def others(work, tree):
    """What each tool makes of the tree, and the size of that."""
    environment = {**os.environ, "RESTIC_PASSWORD": "bench", "PASSPHRASE": "bench", "HOME": str(work),
                   "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_BASE_DIR": str(work / "borg-home")}
    processors = os.cpu_count() or 1
    parent, name = tree.parent, tree.name

    def size(path):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)

    def run(title, command, result):
        figures = measured(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        line(title, figures, size(result))
        return figures, size(result)

    results = {}
    archive = work / "tar.tar.gz"
    results["tar -czf"] = run("tar -czf", ["tar", "-czf", archive, "-C", parent, name], archive)
    archive.unlink()
    archive = work / "pigz.tar.gz"
    pipe = f"tar -cf - -C '{parent}' '{name}' | pigz -p {processors} > '{archive}'"
    results["tar | pigz"] = run(f"tar | pigz -p {processors}", ["sh", "-c", pipe], archive)
    archive.unlink()
    restic = work / "restic"
    subprocess.run(["restic", "init", "-r", restic], env=environment, check=True, stdout=subprocess.DEVNULL)
    results["restic"] = run("restic, local, first", ["restic", "-q", "--no-cache", "-r", restic, "backup", tree], restic)
    shutil.rmtree(restic)
    borg = work / "borg"
    subprocess.run(["borg", "init", "-e", "none", borg], env=environment, check=True, stderr=subprocess.DEVNULL)
    results["borg"] = run("borg, zlib 6, local, first", ["borg", "create", "-C", "zlib,6", f"{borg}::first", tree], borg)
    shutil.rmtree(borg)
    volumes = work / "duplicity"
    volumes.mkdir()
    results["duplicity"] = run("duplicity, local, first", ["duplicity", "full", "--no-encryption", tree, f"file://{volumes}"], volumes)
    shutil.rmtree(volumes)
    return results


class Appliance:
    """A folder with a configuration that pulls one tree from one sshd."""

    def __init__(self, work, tree, user, port, more=""):
        self.side = work
        for name in ("backup", "state"):
            (work / name).mkdir(parents=True)
        work.chmod(0o755)
        host_key = " ".join((work.parent / "host_key.pub").read_text().split()[:2])
        self.config = work / "appliance.toml"
        self.config.write_text(
            f'[backup]\nfolder = "{work}/backup"\nstate = "{work}/state"\nlock = "{work}/lock"\n'
            f'[[source]]\nname = "bench"\nhost = "127.0.0.1"\nport = {port}\nuser = "{user}"\n'
            f'identity = "{work.parent}/client_key"\nhost_keys = ["{host_key}"]\npaths = ["{tree}"]\n{more}'
        )

    def night(self):
        """Wall times of pull and snapshot, the run's own memory in MiB, and the archive's size."""
        command = [VAULTBERRY, "backup", "run", "--json", "--config", self.config]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            peak = Peak(child.pid)
            moments = {}
            for text in child.stdout:
                event = json.loads(text)
                when = datetime.fromisoformat(event["time"][:26].rstrip("Z") + "+00:00")
                if event["event"] == "progress" and event["doing"].startswith("pulling"):
                    moments.setdefault("begun", when)
                elif event["event"] == "progress" and event["doing"] == "archiving":
                    moments.setdefault("pulled", when)
                elif event["event"] == "source":
                    moments["kept"] = when
            memory = peak.end()
        if child.returncode != 0:
            raise SystemExit(f"error: the run ended with exit code {child.returncode}")
        archive = sorted((self.side / "backup/snapshots/bench").glob("*.tar.gz"))[-1]
        pull = (moments["pulled"] - moments["begun"]).total_seconds()
        keep = (moments["kept"] - moments["pulled"]).total_seconds()
        return pull, keep, memory, archive.stat().st_size


class Peak:
    """The largest memory of one program alone, while its children (rsync, ssh) have theirs."""

    def __init__(self, pid):
        self.status, self.peak, self.over = pathlib.Path(f"/proc/{pid}/status"), 0, False
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.over:
            try:
                lines = self.status.read_text().splitlines()
            except OSError:
                return
            self.peak = max([self.peak, *(int(text.split()[1]) for text in lines if text.startswith("VmHWM:"))])
            time.sleep(0.02)

    def end(self):
        self.over = True
        self.thread.join()
        return self.peak / 1024


# What a pull asks of rsync, but for where to.
ALL = ("--timeout=300 --fake-super --links --perms --times --owner --group --modify-window=-1 --numeric-ids --hard-links --devices "
       "--specials --acls --xattrs --sparse --compress --stats --recursive --delete-delay --max-delete=0").split()
PLAIN = "-rltpog --numeric-ids --delete-delay".split()


def bare_rsync(work, tree, user, port, asked):
    """What rsync alone takes for a night in which nothing changed, over a connection that stands: the best of three."""
    copy, socket = work / "copy", work / "mux"
    options = ["-F", "/dev/null", "-p", str(port), "-i", work / "client_key", "-o", "StrictHostKeyChecking=no",
               "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-S", socket]
    subprocess.run(["ssh", *options, "-M", "-N", "-f", "-o", "ControlPersist=yes", f"{user}@127.0.0.1"], check=True)
    command = ["rsync", *asked, "-e", f"ssh -F /dev/null -S {socket}", f"{user}@127.0.0.1:{tree}/", f"{copy}/"]
    try:
        measured(command, stdout=subprocess.DEVNULL)
        return min(measured(command, stdout=subprocess.DEVNULL) for _ in range(3))
    finally:
        subprocess.run(["ssh", *options, "-O", "exit", f"{user}@127.0.0.1"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(copy)


def small_files(tree, count):
    for number in range(count):
        folder = tree / f"{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / str(number)).write_text(f"{number}\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--many", type=int, default=1_000_000)
    arguments = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="vb-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    work.chmod(0o755)
    sshd = None
    try:
        tree = work / "tree"
        make_tree(tree, arguments.scale)
        files = [path for path in tree.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        port = free_port()
        user, sshd = start_sshd(work, port)
        wait_for(port)
        print(f"tree: {size / 1e6:.0f} MB in {len(files)} files; the disk's cache is warm for every side")
        print(f"{'':32}{'wall':>10}{'processor':>11}{'memory':>13}{'result':>13}")
        results = others(work, tree)
        appliance = Appliance(work / "vaultberry", tree, user, port)
        first = appliance.night()
        nights = [appliance.night() for _ in range(3)]
        pull, keep = (min(night[part] for night in nights) for part in (0, 1))
        archive = nights[0][3]
        print(f"{'vaultberry, snapshot':32}{keep:8.1f} s {'':11}{first[2]:10.1f} MiB {archive / 1e6:9.1f} MB")
        for name, (figures, result) in results.items():
            print(f"  {name} / vaultberry{'':4}{figures[0] / keep:8.2f}   size {archive / result:.3f} of it")
        print(f"{'vaultberry, pull, no change':32}{pull:8.2f} s")
        for title, asked in (("bare rsync, the same options", ALL), ("bare rsync, plain", PLAIN)):
            bare = bare_rsync(work, tree, user, port, asked)
            print(f"{title:32}{bare[0]:8.2f} s   pull / this {pull / bare[0]:.2f}")
        if arguments.many:
            for count in (SMALL, arguments.many):
                small = work / f"small-{count}"
                small_files(small, count)
                memory = max(Appliance(work / f"vaultberry-{count}", small, user, port).night()[2] for _ in range(1))
                print(f"memory of a run over {count} small files: {memory:.1f} MiB")
    finally:
        if sshd:
            sshd.terminate()
            sshd.wait()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
