#!/usr/bin/python3
"""Measures a whole first night beside the shell pipeline that vaultberry came from, in the same run.

    make bench                     a tree of 1.26 GB: two thirds source code, one third incompressible, 42,000 files
    benches/night.py --scale 0.1   a tenth of it, to try things

Both sides pull the same tree from the same sshd on loopback, archive it, seal it for the same OpenPGP certificate, and
send it to the same S3 server (moto). Told are wall time, processor time of all programs of a side, and the largest
memory that any one of them took. Figures of one machine compare with nothing but each other.
"""

import argparse
import getpass
import hashlib
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "vaultberry"
MOTO = CACHE / "moto-5.2.5/bin/moto_server"
VAULTBERRY = HERE / "target/release/vaultberry"
ACCOUNT = "vaultberry-peer"
SOURCE_BYTES, NOISE_BYTES, FILES = 841_000_000, 421_000_000, 42_000


def make_tree(tree, scale):
    """Source code from the crates that this project is built of; noise from a hash that counts."""
    vendor = tree.parent / "vendor"
    subprocess.run([os.environ.get("CARGO", "cargo"), "vendor", "--quiet", "--locked", str(vendor)], cwd=HERE, check=True, stdout=subprocess.DEVNULL)
    sources = sorted(path for path in vendor.rglob("*") if path.is_file() and not path.is_symlink())
    written = count = turn = 0
    while written < SOURCE_BYTES * scale:
        for path in sources:
            target = tree / f"source-{turn}" / path.relative_to(vendor)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            written, count = written + path.stat().st_size, count + 1
            if written >= SOURCE_BYTES * scale:
                break
        turn += 1
    noise = max(1, int(FILES * scale) - count)
    size = int(NOISE_BYTES * scale) // noise
    for number in range(noise):
        target = tree / f"photos/{number // 500}/{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(hashlib.shake_128(number.to_bytes(8, "big")).digest(size))
    shutil.rmtree(vendor)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"error: nothing listens on 127.0.0.1:{port}")


def start_sshd(work, port):
    """An sshd of an ordinary user, as far as there is one."""
    root = os.geteuid() == 0
    user = ACCOUNT if root else getpass.getuser()
    if root and subprocess.run(["id", user], capture_output=True).returncode != 0:
        subprocess.run(["useradd", "-r", "-m", "-s", "/bin/sh", user], check=True)
    for key in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / key], check=True)
    shutil.copy(work / "client_key.pub", work / "authorized_keys")
    (work / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {work}/host_key\nAuthorizedKeysFile {work}/authorized_keys\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n"
    )
    if root:
        account = pwd.getpwnam(user)
        os.chown(work / "host_key", account.pw_uid, account.pw_gid)
    identity = {"user": user, "group": user} if root else {}
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", work / "sshd_config"], **identity)
    return user, server


def measured(command, **options):
    """Runs a command; its wall and processor time, and the largest memory of it and of what it waited for.

    A program's memory counts from before its exec, so it is started by a small one and not by this.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".json") as result:
        child = [sys.executable, __file__, "--measure", result.name, *map(str, command)]
        if subprocess.run(child, check=False, **options).returncode != 0:
            sys.exit(f"error: {command[0]} failed: {command}")
        return tuple(json.load(result))


def measure(result, command):
    """What `measured` starts."""
    begun = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - begun
    pathlib.Path(result).write_text(json.dumps([wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
    sys.exit(os.waitstatus_to_exitcode(status))


def total(parts):
    return sum(part[0] for part in parts), sum(part[1] for part in parts), max(part[2] for part in parts)


def shell_pipeline(work, tree, user, ssh_port, store, home):
    """What the script did: rsync, tar -czf, gpg --encrypt, s3cmd put."""
    side = work / "shell"
    (side / "current").mkdir(parents=True)
    ssh = f"ssh -p {ssh_port} -i {work}/client_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    archive = side / "snapshot.tar.gz"
    environment = {**os.environ, "GNUPGHOME": str(home)}
    gpg = ["gpg", "--batch", "--quiet", "--trust-model", "always", "--encrypt", "-r", "bench@example.org"]
    s3cmd = ["s3cmd", "--quiet", f"--host=127.0.0.1:{store}", f"--host-bucket=127.0.0.1:{store}", "--no-ssl",
             "--access_key=bench", "--secret_key=bench", "--config=/dev/null"]
    return [
        ("rsync", measured(["rsync", "-rltz", "--delete", "-e", ssh, f"{user}@127.0.0.1:{tree}/", f"{side}/current/"])),
        ("tar -czf", measured(["tar", "-czf", archive, "-C", side, "current"])),
        ("gpg --encrypt", measured([*gpg, "-o", f"{archive}.gpg", archive], env=environment)),
        ("s3cmd put", measured([*s3cmd, "put", f"{archive}.gpg", "s3://bench/script/snapshot.tar.gz.gpg"])),
    ], archive.stat().st_size


def vaultberry_night(work, tree, user, ssh_port, store, certificate):
    side = work / "vaultberry"
    for name in ("backup", "state"):
        (side / name).mkdir(parents=True)
    credentials = side / "s3"
    credentials.write_text('access_key_id = "bench"\nsecret_access_key = "bench"\n')
    credentials.chmod(0o600)
    host_key = " ".join((work / "host_key.pub").read_text().split()[:2])
    config = side / "appliance.toml"
    config.write_text(
        f'[backup]\nfolder = "{side}/backup"\nstate = "{side}/state"\nlock = "{side}/lock"\n'
        f'[openpgp]\nrecipients = ["""{certificate}"""]\n'
        f'[offsite]\nbucket = "bench"\nendpoint = "http://127.0.0.1:{store}"\ncredentials = "{credentials}"\nevery = "0s"\n'
        f'[[source]]\nname = "bench"\nhost = "127.0.0.1"\nport = {ssh_port}\nuser = "{user}"\n'
        f'identity = "{work}/client_key"\nhost_keys = ["{host_key}"]\npaths = ["{tree}"]\n'
    )
    night = measured([VAULTBERRY, "backup", "run", "--config", config], stdout=subprocess.DEVNULL)
    again = measured([VAULTBERRY, "backup", "run", "--config", config], stdout=subprocess.DEVNULL)
    (archive,) = sorted((side / "backup/snapshots/bench").glob("*.tar.gz"))[:1]
    return night, again, archive.stat().st_size


def line(name, figures, size=None):
    wall, cpu, memory = figures
    archive = f"{size / 1e6:9.1f} MB" if size else ""
    print(f"{name:32}{wall:8.1f} s {cpu:8.1f} s {memory:8.1f} MiB {archive}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    work = pathlib.Path(tempfile.mkdtemp(prefix="vaultberry-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    work.chmod(0o755)
    home = pathlib.Path(tempfile.mkdtemp(prefix="vb-gpg-", dir="/tmp"))
    servers = []
    try:
        tree = work / "tree"
        make_tree(tree, scale)
        files = [path for path in tree.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        subprocess.run(["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "", "--quick-gen-key",
                        "bench@example.org", "future-default", "default", "never"], check=True, stderr=subprocess.DEVNULL)
        certificate = subprocess.run(["gpg", "--homedir", home, "--armor", "--export"], check=True, capture_output=True, text=True).stdout
        ssh_port, store = free_port(), free_port()
        user, sshd = start_sshd(work, ssh_port)
        servers.append(sshd)
        servers.append(subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for(ssh_port)
        wait_for(store)
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{store}/bench", method="PUT"))

        print(f"tree: {size / 1e6:.0f} MB in {len(files)} files; the disk's cache is warm for both sides")
        print(f"{'':32}{'wall':>10}{'processor':>11}{'memory':>13}{'archive':>13}")
        parts, shell_archive = shell_pipeline(work, tree, user, ssh_port, store, home)
        for name, figures in parts:
            line(f"  {name}", figures)
        shell = total([figures for _, figures in parts])
        line("the script's pipeline", shell, shell_archive)
        night, again, archive = vaultberry_night(work, tree, user, ssh_port, store, certificate)
        line("vaultberry, the first night", night, archive)
        line("vaultberry, nothing changed", again)
        ratios = [ours / theirs for ours, theirs in zip(night, shell)]
        print(f"{'vaultberry / script':32}{ratios[0]:8.2f}   {ratios[1]:8.2f}   {ratios[2]:8.2f}     {archive / shell_archive:8.3f}")
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], sys.argv[3:])
    else:
        main()
