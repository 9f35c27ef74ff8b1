//! A way to an S3 store that can be disturbed: a proxy that looks at each request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use openssl::base64::encode_block;
use openssl::sha::sha256;

/// What becomes of a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on to the store.
    Pass,
    /// The store isn't asked; this status is the answer, with this code of S3, if it isn't empty, and what follows it as in
    /// `Code: message`.
    Answer(u16, &'static str),
    /// It goes on, and the answer lacks the headers that begin so, in lower case.
    Strip(&'static str),
    /// The connection breaks before the store hears of it.
    Break,
    /// The store does it, and the connection breaks before its answer comes.
    Lose,
    /// Half of the answer comes, and then the connection breaks.
    Cut,
    /// A byte of what is sent changes. As S3 does, the way refuses what isn't what its `x-amz-checksum-sha256` says: the store
    /// of the tests believes it.
    Corrupt,
    /// Nothing comes back until the way is closed.
    Stall,
    /// Half of the answer comes, and then nothing until the way is closed.
    Hang,
}

/// The way to a store, through which each request's first line is looked at. Dropped, it is closed.
pub struct Way {
    /// Its port on 127.0.0.1.
    pub port: u16,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Way {
    /// One to the store at `port`. `fate` sees lines like `PUT /backups/key HTTP/1.1`.
    pub fn to(port: u16, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let closed = Arc::new(AtomicBool::new(false));
        let (fate, seen) = (Arc::new(fate), Arc::clone(&closed));
        let thread = spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                let (fate, seen) = (Arc::clone(&fate), Arc::clone(&seen));
                // A client that breaks off is no failure of the way.
                spawn(move || carry(&stream.unwrap(), port, &*fate, &seen));
            }
        });
        Self { port: own, closed, thread: Some(thread) }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

/// Carries one request and its answer, and ends the connection.
fn carry(stream: &TcpStream, port: u16, fate: &dyn Fn(&str) -> Fate, closed: &AtomicBool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    let fate = fate(head.lines().next()?);
    if fate == Fate::Break {
        // What isn't read makes a reset of it.
        return None;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    match fate {
        Fate::Answer(status, code) => {
            return (&*stream).write_all(answer(status, code).as_bytes()).ok();
        }
        Fate::Stall => return wait_for(closed),
        Fate::Corrupt => {
            if let Some(byte) = body.get_mut(length / 2) {
                *byte ^= 1;
            }
            if !is_as_summed(&head, &body) {
                return (&*stream).write_all(answer(400, "BadDigest").as_bytes()).ok();
            }
        }
        _ => {}
    }
    let mut store = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    store.write_all(head.as_bytes()).and_then(|()| store.write_all(&body)).ok()?;
    let mut answer = Vec::new();
    store.read_to_end(&mut answer).ok()?;
    match fate {
        Fate::Strip(start) => {
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
            let head = String::from_utf8(answer[..end].to_vec()).ok()?;
            let kept: Vec<&str> = head.split("\r\n").filter(|line| !line.to_lowercase().starts_with(start)).collect();
            answer = [kept.join("\r\n").as_bytes(), &answer[end..]].concat();
        }
        Fate::Lose => return None,
        Fate::Cut => answer.truncate(answer.len() - answer.len().min(40) / 2),
        Fate::Hang => {
            (&*stream).write_all(&answer[..answer.len() / 2]).ok()?;
            return wait_for(closed);
        }
        _ => {}
    }
    (&*stream).write_all(&answer).ok()
}

/// An answer of this status, and this code of S3 as [`Fate::Answer`] has it.
fn answer(status: u16, code: &str) -> String {
    let (code, message) = code.split_once(": ").unwrap_or((code, ""));
    let message = if message.is_empty() { String::new() } else { format!("<Message>{message}</Message>") };
    let body = if code.is_empty() { String::new() } else { format!("<Error><Code>{code}</Code>{message}</Error>") };
    format!("HTTP/1.1 {status} Injected\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// Does nothing until the way is closed.
fn wait_for(closed: &AtomicBool) -> Option<()> {
    while !closed.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(50));
    }
    None
}

/// Whether the body is what the head says, if it says a SHA-256.
fn is_as_summed(head: &str, body: &[u8]) -> bool {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut sums = fields.filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-checksum-sha256"));
    sums.all(|(_, sum)| sum == encode_block(&sha256(body)))
}
