#!/usr/bin/python3
"""Measures sealing and pushing a snapshot beside the tools that do the same, to the same S3 server, in the same run.

    make bench-offsite                the tree of `make bench-backup`
    benches/offsite.py --scale 0.1    a tenth of it, to try things

The server is moto, as in the tests: it keeps everything in memory and is slow, alike for every side. gpg and s3cmd take
the archive that vaultberry made; restic and duplicity make their own of the tree, so that they stand beside vaultberry's
snapshot and push together, and beside sealing and pushing a snapshot that is there anyway. Of each the best of several tries
counts. Figures of one machine compare with nothing but each other.
"""

import argparse
import json
import mmap
import os
import pathlib
import shutil
import subprocess
import tempfile
from datetime import datetime, timezone

from backup import Appliance, Peak
from night import VAULTBERRY, free_port, line, make_tree, measured, start_sshd, wait_for

BUCKET = "bench"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secretsecret", "AWS_DEFAULT_REGION": "us-east-1"}


class Owner:
    """A key pair in a home of its own."""

    def __init__(self, work):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="vb-gpg-", dir="/tmp"))
        self.environment = {**os.environ, "GNUPGHOME": str(self.home)}
        self.gpg("--quick-generate-key", "owner@example.org", "future-default", "default", "never")
        listed = self.gpg("--with-colons", "--list-keys").splitlines()
        self.fingerprint = next(text for text in listed if text.startswith("fpr:")).split(":")[9]
        self.certificate = self.gpg("--armor", "--export")

    def gpg(self, *arguments):
        command = ["gpg", "--batch", "--passphrase", "", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, env=self.environment, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

    def end(self):
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=self.environment, check=False)
        shutil.rmtree(self.home, ignore_errors=True)


def start_store(work):
    """An S3 server with a bucket; the server, and its port."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    program = pathlib.Path(__file__).parent.parent / "tests/suite/support/s3_server.py"
    port = free_port()
    python = next(cache.glob("vaultberry/moto-*/bin/python"), None)
    if python is None:
        raise SystemExit("error: there is no S3 server in the cache folder\nhint: tools/setup bench")
    command = [python, program, "-H", "127.0.0.1", "-p", str(port)]
    with open(work / "moto.log", "wb") as log:
        store = subprocess.Popen(command, cwd=work, stdout=log, stderr=log, env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"})
    wait_for(port)
    settings = work / "s3cfg"
    settings.write_text(f"[default]\naccess_key = test\nsecret_key = secretsecret\nhost_base = 127.0.0.1:{port}\n"
                        f"host_bucket = 127.0.0.1:{port}\nuse_https = False\nbucket_location = us-east-1\n")
    subprocess.run(["s3cmd", "-c", settings, "mb", f"s3://{BUCKET}"], check=True, stdout=subprocess.DEVNULL)
    return store, port, settings


class Held:
    """Memory that this program holds, and gives up in time for what is measured next.

    A virtual machine may have given its free memory back to its host. Getting it again takes ten times as long as writing
    a file to it, and would be billed to whoever comes first. What was just given up is quick for everybody.
    """

    def __init__(self, size):
        # In large pages, so that giving them up takes no time from what is measured.
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, size, mmap.PAGESIZE):
            self.memory[page] = 1

    def give_up(self):
        self.memory.close()


def last_write(backup):
    """When the sealed archive that waits to be sent got its last bytes."""
    sealed = next(backup.glob("outbox/bench/*.tar.gz.pgp"))
    return datetime.fromtimestamp(sealed.stat().st_mtime, timezone.utc)


def night(appliance, size):
    """Seconds of snapshot, sealing and push; the run's own memory in MiB; archive and bytes that were pushed.

    Sealing begins with `size` bytes of memory at hand.
    """
    held = Held(size)
    command = [VAULTBERRY, "backup", "run", "--json", "--config", appliance.config]
    moments, pushed = {}, None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        peak = Peak(child.pid)
        for text in child.stdout:
            event = json.loads(text)
            when = datetime.fromisoformat(event["time"][:26].rstrip("Z") + "+00:00")
            if event["event"] == "progress" and event["source"] == "bench":
                if event["doing"] == "sealing" and "sealing" not in moments:
                    held.give_up()
                moments.setdefault(event["doing"], when)
                if event["doing"] == "sending":
                    moments.setdefault("sealed", last_write(appliance.side / "backup"))
            elif event["event"] == "source":
                moments["kept"] = when
            elif event["event"] == "push" and event["source"] == "bench":
                moments["pushed"], pushed = when, event["bytes"]
        memory = peak.end()
    if child.returncode != 0:
        raise SystemExit(f"error: the run ended with exit code {child.returncode}")
    archive = sorted((appliance.side / "backup/snapshots/bench").glob("*.tar.gz"))[-1]

    def seconds(since, until):
        return (moments[until] - moments[since]).total_seconds()

    return seconds("archiving", "kept"), seconds("sealing", "sealed"), seconds("kept", "pushed"), memory, archive, pushed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="vb-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    work.chmod(0o755)
    started, owner = [], Owner(work)
    try:
        tree = work / "tree"
        make_tree(tree, arguments.scale)
        ssh_port = free_port()
        user, sshd = start_sshd(work, ssh_port)
        started.append(sshd)
        wait_for(ssh_port)
        store, port, settings = start_store(work)
        started.append(store)
        side = work / "vaultberry"
        side.mkdir()
        key = side / "s3"
        key.touch(mode=0o600)
        key.write_text('access_key_id = "test"\nsecret_access_key = "secretsecret"\n')
        more = (f'[openpgp]\nrecipients = ["""\n{owner.certificate}"""]\n[offsite]\nbucket = "{BUCKET}"\nevery = "0s"\n'
                f'endpoint = "http://127.0.0.1:{port}"\ncredentials = "{key}"\n')
        appliance = Appliance(side, tree, user, ssh_port, more)
        nights, encryptions = [], []
        at_hand = 3 * sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())

        def ready(command, **options):
            Held(at_hand).give_up()
            return measured(command, **options)

        # In turn, since a disk is faster at one time than at another. gpg gets an archive that was just written, as a run's is.
        for number in range(3):
            nights.append(night(appliance, at_hand))
            archive, copy, sealed = nights[-1][4], work / f"copy-{number}", work / f"sealed-{number}.gpg"
            shutil.copyfile(archive, copy)
            os.sync()
            encrypt = ["gpg", "--batch", "--trust-model", "always", "--compress-algo", "none", "-r", owner.fingerprint,
                       "-o", sealed, "--encrypt", copy]
            encryptions.append(ready(encrypt, env=owner.environment))
        seal, push = (min(one[part] for one in nights) for part in (1, 2))
        whole = min(one[0] + one[2] for one in nights)
        memory, pushed = max(one[3] for one in nights), nights[-1][5]
        size = archive.stat().st_size
        print(f"archive: {size / 1e6:.0f} MB; the server is moto")
        print(f"{'':32}{'wall':>10}{'processor':>11}{'memory':>13}")
        gpg = min(encryptions)
        line("gpg --encrypt", gpg)
        # Sealing gives the sum that the proof needs, too.
        summed = min(measured(["openssl", "dgst", "-sha256", sealed], stdout=subprocess.DEVNULL) for _ in range(3))
        line("openssl dgst -sha256 of that", summed)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        put = min(ready(["s3cmd", "-c", settings, "put", sealed, f"s3://{BUCKET}/s3cmd-{number}"], **quiet) for number in range(3))
        line("s3cmd put", put)
        environment = {**owner.environment, **KEYS, "RESTIC_PASSWORD": "bench", "PASSPHRASE": "", "HOME": str(work)}
        figures = []
        for number in range(2):
            repository = f"s3:http://127.0.0.1:{port}/{BUCKET}/restic-{number}"
            subprocess.run(["restic", "init", "-q", "-r", repository], env=environment, check=True, **quiet)
            figures.append(ready(["restic", "-q", "--no-cache", "-r", repository, "backup", tree], env=environment, **quiet))
        restic = min(figures)
        line("restic, tree to store", restic)
        duplicity = min(
            ready(["duplicity", "full", "--encrypt-key", owner.fingerprint, "--gpg-options", "--trust-model always",
                   "--s3-endpoint-url", f"http://127.0.0.1:{port}", tree, f"boto3+s3://{BUCKET}/duplicity-{number}"],
                  env=environment, **quiet)
            for number in range(2))
        line("duplicity, tree to store", duplicity)
        print(f"{'vaultberry, sealing':32}{seal:8.2f} s")
        print(f"{'vaultberry, seal and push':32}{push:8.2f} s {'':11}{memory:10.1f} MiB")
        print(f"{'vaultberry, snapshot and push':32}{whole:8.2f} s")
        print(f"  sealing: gpg / vaultberry                 {gpg[0] / seal:.2f}")
        print(f"  sealing: gpg and openssl / vaultberry     {(gpg[0] + summed[0]) / seal:.2f}")
        print(f"  seal and push: gpg and s3cmd / vaultberry {(gpg[0] + put[0]) / push:.2f}")
        print(f"  seal and push: restic / vaultberry        {restic[0] / push:.2f}")
        print(f"  seal and push: duplicity / vaultberry     {duplicity[0] / push:.2f}")
        print(f"  all of it: restic / vaultberry            {restic[0] / whole:.2f}")
        print(f"  all of it: duplicity / vaultberry         {duplicity[0] / whole:.2f}")
        print(f"  what lies sealed on the disk meanwhile: {pushed / size:.4f} of the archive")
    finally:
        for server in started:
            server.terminate()
            server.wait()
        owner.end()
        shutil.rmtree(work, ignore_errors=True)


main()
