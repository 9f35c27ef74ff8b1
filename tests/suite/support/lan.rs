//! A network of a guest's own, with several machines on it: a network namespace with a tap, and an address for each of them.
//! What runs in it is of this machine, and so is quick.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::guest::{PATIENCE, client};

/// The network. Dropped, it is gone.
pub struct Lan {
    holder: Child,
}

impl Lan {
    /// One with these addresses, each with its prefix: `10.9.0.2/24`.
    pub fn new(addresses: &[&str]) -> Self {
        let addresses: Vec<String> = addresses.iter().map(|address| format!("ip addr add {address} dev tap0")).collect();
        let script = format!(
            "set -e\ntest -c /dev/net/tun || {{ mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }}\nip link set lo up\nip tuntap add tap0 mode tap\n{}\nip link set tap0 up\necho ready\nexec sleep infinity\n",
            addresses.join("\n")
        );
        let mut command = Command::new("unshare");
        if !geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--kill-child", "--fork", "sh", "-c", &script]).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare is there");
        let mut line = String::new();
        let stdout = holder.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        assert_eq!(line, "ready\n", "no network of our own: is /dev/net/tun there, and may it be opened?");
        Self { holder }
    }

    /// What QEMU takes to plug a guest into it.
    pub fn plug() -> Vec<String> {
        ["-netdev", "tap,id=lan,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=lan,romfile="]
            .map(str::to_owned)
            .into()
    }

    /// The same command, run in it.
    pub fn inside(&self, command: &Command) -> Command {
        // The holder is unshare, which waits for its child; the child has the namespace.
        let children = format!("/proc/{0}/task/{0}/children", self.holder.id());
        let child = std::fs::read_to_string(children).unwrap();
        let mut inside = Command::new("nsenter");
        inside.args(["--target", child.trim(), "--net"]);
        if !geteuid().is_root() {
            inside.args(["--user", "--preserve-credentials"]);
        }
        inside.arg("--").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            inside.env(name, value.unwrap_or(OsStr::new("")));
        }
        inside
    }

    /// Runs a program in it.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.inside(Command::new(program).args(arguments)).output().unwrap()
    }

    /// Logs in at `to` from the address `from`, and runs a command there.
    pub fn ssh(&self, from: &str, key: &Path, to: &str, command: &str) -> Output {
        let mut ssh = client(key);
        ssh.args(["-o", "ConnectTimeout=5", "-b", from, to, command]);
        self.inside(&ssh).stdin(Stdio::null()).output().unwrap()
    }

    /// Whether `from` can connect to the port.
    pub fn connects(&self, from: &str, to: &str, port: u16) -> bool {
        let connect = format!("import socket; socket.create_connection(('{to}', {port}), 5, ('{from}', 0))");
        self.run("/usr/bin/python3", &["-c", &connect]).status.success()
    }

    /// Whether `to` answers a ping of `from`.
    pub fn pings(&self, from: &str, to: &str) -> bool {
        let output = self.run("nmap", &["-sn", "-n", "-PE", "--disable-arp-ping", "-S", from, "-e", "tap0", to]);
        String::from_utf8_lossy(&output.stdout).contains("Host is up")
    }

    /// The TCP ports of those that answer `from`, as nmap finds them: `22/tcp open ssh`.
    pub fn scan(&self, from: &str, to: &str, ports: &str) -> Vec<String> {
        let options = ["-Pn", "-n", "-sS", "-S", from, "-e", "tap0", ports, "--min-rate", "1500", "--max-retries", "1", to];
        let output = self.run("nmap", &options);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("1 host up"), "{text}");
        let lines = text.lines().filter(|line| line.contains("/tcp") && !line.contains("filtered"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Waits until something is so.
pub fn until(what: &str, seconds: u64, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds) * PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {seconds} s: {what}");
        sleep(Duration::from_secs(1));
    }
}
