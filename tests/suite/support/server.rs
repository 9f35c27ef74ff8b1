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
    /// Starts it, with its errors in the file `log`, and waits until it answers at `port`.
    pub fn start(mut command: Command, log: &Path, port: u16) -> Self {
        let errors = File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let mut server = Self { child };
        // A whole cluster takes its time beside other tests.
        let deadline = Instant::now() + Duration::from_mins(5);
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
