//! A guest in QEMU: its console read as it comes, its ssh through a port of the loopback.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How many times as long as on a machine with nothing else to do a guest may take: it shares the cores with other tests.
pub const PATIENCE: u32 = 3;

/// A running QEMU. Dropped, it is ended.
pub struct Guest {
    child: Child,
    stdin: ChildStdin,
    console: Arc<Mutex<String>>,
    started: Instant,
}

impl Guest {
    /// Starts the command, which has the guest's console on its standard input and output.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("qemu-system-arm is installed");
        let console = Arc::new(Mutex::new(String::new()));
        follow(child.stdout.take().unwrap(), &console);
        follow(child.stderr.take().unwrap(), &console);
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, console, started: Instant::now() }
    }

    /// Everything that the guest has said.
    pub fn console(&self) -> String {
        self.console.lock().unwrap().clone()
    }

    /// Waits until the console says this. Fails when the guest ends or the time is over.
    pub fn wait_for(&mut self, text: &str, seconds: u64) {
        self.wait_for_times(text, 1, seconds);
    }

    /// Waits until the console has said this so often.
    pub fn wait_for_times(&mut self, text: &str, times: usize, seconds: u64) {
        let deadline = Instant::now() + Duration::from_secs(seconds) * PATIENCE;
        while self.console().matches(text).count() < times {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the guest ended ({ended:?}) and never said {text:?}:\n{}", self.tail());
            assert!(Instant::now() < deadline, "the guest didn't say {text:?} in {seconds} s:\n{}", self.tail());
            sleep(Duration::from_millis(100));
        }
        let console = self.console();
        let line = console.lines().find(|line| line.contains(text)).unwrap_or(text);
        eprintln!("{:5.1} s after QEMU's start: {line}", self.started.elapsed().as_secs_f64());
    }

    /// Types on the console.
    pub fn type_in(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).unwrap();
        self.stdin.flush().unwrap();
    }

    /// Waits for the end of QEMU, as after a power-off, or a reboot under `-no-reboot`.
    pub fn wait_for_end(&mut self, seconds: u64) {
        let deadline = Instant::now() + Duration::from_secs(seconds) * PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the guest doesn't end:\n{}", self.tail());
            sleep(Duration::from_millis(100));
        }
    }

    /// The last that it said, but for the ticking of systemd's jobs that wait.
    fn tail(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().filter(|line| !line.contains("\u{1b}[K") && *line != "\u{1b}M").collect();
        lines[lines.len().saturating_sub(150)..].join("\n")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(mut output: impl Read + Send + 'static, console: &Arc<Mutex<String>>) {
    let console = Arc::clone(console);
    thread::spawn(move || {
        let mut block = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut block) {
            console.lock().unwrap().push_str(&String::from_utf8_lossy(&block[..length]));
        }
    });
}

/// The way into a guest for its admin.
pub struct Ssh<'a> {
    /// The admin's private key.
    pub key: &'a Path,
    /// The port of 127.0.0.1 that leads to the guest.
    pub port: u16,
}

impl Ssh<'_> {
    /// Runs a command in the guest, with `input` as its standard input.
    pub fn run(&self, command: &str, input: &str) -> Output {
        let mut child = self.command(command, Stdio::piped()).spawn().unwrap();
        // A guest that isn't up yet closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Copies a file into the guest.
    pub fn copy(&self, from: &Path, to: &str) {
        let output = self.command(&format!("cat >{to}"), File::open(from).unwrap().into()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn command(&self, command: &str, input: Stdio) -> Command {
        let mut ssh = client(self.key);
        ssh.args(["-p", &self.port.to_string(), "admin@127.0.0.1", command]);
        ssh.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        ssh
    }

    /// Runs a command that must succeed, and gives what it wrote.
    pub fn expect(&self, command: &str) -> String {
        let output = self.run(command, "");
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the command succeeds.
    pub fn wait_for(&self, command: &str, seconds: u64) -> String {
        let deadline = Instant::now() + Duration::from_secs(seconds) * PATIENCE;
        loop {
            let output = self.run(command, "");
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            assert!(Instant::now() < deadline, "{command}: not in {seconds} s: {output:?}\n{}", self.state());
            sleep(Duration::from_secs(2));
        }
    }

    /// What the guest waits for, and its newest lines.
    fn state(&self) -> String {
        let state = self.run("systemctl list-jobs; systemctl --failed; sudo journalctl --no-pager --lines 60", "");
        String::from_utf8_lossy(&state.stdout).into_owned()
    }
}

/// ssh with a key, which asks nothing and believes every host.
pub fn client(key: &Path) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=20"]);
    ssh.args(["-o", "LogLevel=ERROR", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    ssh.arg("-i").arg(key);
    ssh
}

/// A port of the loopback that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
