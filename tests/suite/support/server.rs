//! A server program on loopback.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A program that runs. Dropped, it is ended.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts it, with its errors in the file `log`, and waits until it answers at `port`, for a minute.
    pub fn start(command: Command, log: &Path, port: u16) -> Self {
        Self::start_within(Duration::from_mins(1), command, log, port)
    }

    /// The same for one that takes its time.
    pub fn start_within(longest: Duration, mut command: Command, log: &Path, port: u16) -> Self {
        let errors = File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let mut server = Self { child };
        let deadline = Instant::now() + longest;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let said = || String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
            assert!(server.child.try_wait().unwrap().is_none(), "{command:?} ended: {}", said());
            assert!(Instant::now() < deadline, "{command:?} doesn't answer: {}", said());
            sleep(Duration::from_millis(50));
        }
        server
    }

    /// Ends it, as a server that is down.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
