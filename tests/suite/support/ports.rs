//! A guest's USB ports: QEMU's monitor for programs (QMP) plugs things in and out.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The ports of a running guest.
pub struct Ports {
    stream: BufReader<UnixStream>,
}

impl Ports {
    /// What QEMU must be started with, so that it listens at this socket.
    pub fn arguments(socket: &Path) -> [String; 2] {
        ["-qmp".to_owned(), format!("unix:{},server=on,wait=off", socket.display())]
    }

    /// Connects to a guest that was started a moment ago.
    pub fn connect(socket: &Path) -> Self {
        for _ in 0..100 {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                let mut ports = Self { stream: BufReader::new(stream) };
                ports.answer("QMP").unwrap();
                ports.execute("qmp_capabilities", &json!({}));
                return ports;
            }
            sleep(Duration::from_millis(100));
        }
        panic!("QEMU doesn't listen at {}", socket.display());
    }

    /// Plugs a stick in, which can't be written to.
    pub fn plug_in(&mut self, image: &Path, id: &str) {
        self.plug(image, id, None, true);
    }

    /// The same at this port.
    pub fn plug_in_at(&mut self, image: &Path, id: &str, port: Option<&str>) {
        self.plug(image, id, port, true);
    }

    /// Plugs a disk in, with its id as serial number.
    pub fn plug_in_disk(&mut self, image: &Path, id: &str) {
        self.plug(image, id, None, false);
    }

    fn plug(&mut self, image: &Path, id: &str, port: Option<&str>, read_only: bool) {
        let node = json!({ "driver": "raw", "node-name": format!("{id}-drive"), "read-only": read_only,
                           "file": { "driver": "file", "filename": image, "read-only": read_only } });
        self.execute("blockdev-add", &node);
        let mut device = json!({ "driver": "usb-storage", "id": id, "drive": format!("{id}-drive"), "serial": id });
        if let Some(port) = port {
            device["port"] = port.into();
        }
        self.execute("device_add", &device);
    }

    /// Pulls what was plugged in, which can then be plugged in again.
    pub fn pull(&mut self, id: &str) {
        self.execute("device_del", &json!({ "id": id }));
        let node = json!({ "node-name": format!("{id}-drive") });
        let deadline = Instant::now() + Duration::from_secs(10);
        // The device lets go of it a little later.
        while let Err(error) = self.ask("blockdev-del", &node) {
            assert!(Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Presses keys of a keyboard, one after the other, by QEMU's names for them.
    pub fn press(&mut self, keys: impl Iterator<Item = &'static str>) {
        for key in keys {
            self.execute("send-key", &json!({ "keys": [{ "type": "qcode", "data": key }] }));
            // A key is held for a tenth of a second.
            sleep(Duration::from_millis(200));
        }
    }

    /// Holds the guest still meanwhile: what lies on its disks is what a power cut would leave.
    pub fn frozen<T>(&mut self, look: impl FnOnce() -> T) -> T {
        self.execute("stop", &json!({}));
        let seen = look();
        self.execute("cont", &json!({}));
        seen
    }

    fn execute(&mut self, command: &str, arguments: &Value) {
        self.ask(command, arguments).unwrap();
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<(), String> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{line}").unwrap();
        self.answer("return")
    }

    /// Reads on to what has this key, or to an error; events pass by.
    fn answer(&mut self, key: &str) -> Result<(), String> {
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "QEMU has ended");
            let said: Value = serde_json::from_str(&line).unwrap();
            if said.get("error").is_some() {
                return Err(line);
            }
            if said.get(key).is_some() {
                return Ok(());
            }
        }
    }
}
