//! Bytes from one thread to another, bounded; and errors with them: a writer that fails is no end of the stream.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Bytes of a block.
const BLOCK: usize = 1 << 18;

/// How many blocks may wait.
const WAITING: usize = 4;

/// A stream's two ends. Whoever writes ends it with [`Inlet::end`]; dropped without, it breaks.
pub fn pipe() -> (Inlet, Outlet) {
    let (send, receive) = sync_channel(WAITING);
    (Inlet { block: Vec::new(), send }, Outlet { receive: Mutex::new(receive), block: io::Cursor::default(), ended: false })
}

/// Where bytes go in.
#[derive(Debug)]
pub struct Inlet {
    block: Vec<u8>,
    send: SyncSender<Option<Vec<u8>>>,
}

impl Inlet {
    /// Ends the stream: all of it was written.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.send.send(None).map_err(|_| gone())
    }
}

impl Write for Inlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.send.send(Some(block)).map_err(|_| gone())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more")
}

/// Where they come out.
#[derive(Debug)]
pub struct Outlet {
    /// Never locked: that makes it fit for readers that want to be shared.
    receive: Mutex<Receiver<Option<Vec<u8>>>>,
    block: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.block.read(buffer)?;
            if length > 0 || self.ended || buffer.is_empty() {
                return Ok(length);
            }
            match self.receive.get_mut().unwrap_or_else(PoisonError::into_inner).recv() {
                Ok(Some(block)) => self.block = io::Cursor::new(block),
                Ok(None) => self.ended = true,
                Err(_) => return Err(io::Error::other("the stream broke off")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::thread;

    use super::pipe;

    #[test]
    fn what_goes_in_comes_out_and_a_broken_stream_is_no_end() {
        for ends in [true, false] {
            let (mut inlet, mut outlet) = pipe();
            let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
            let sent = content.clone();
            let writer = thread::spawn(move || {
                inlet.write_all(&sent).unwrap();
                inlet.flush().unwrap();
                if ends {
                    inlet.end().unwrap();
                }
            });
            let mut found = Vec::new();
            assert_eq!(outlet.read_to_end(&mut found).is_ok(), ends);
            assert!(found == content);
            writer.join().unwrap();
        }
    }

    #[test]
    fn a_writer_hears_that_nobody_reads() {
        let (mut inlet, outlet) = pipe();
        drop(outlet);
        assert_eq!(inlet.write_all(&vec![0; 1 << 20]).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }
}
