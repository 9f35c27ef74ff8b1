//! STARTTLS without what was said before it (RFC 3207 section 6).
//!
//! Whoever is on the path can put answers of its own behind the server's "go ahead". A client that has read them in clear takes
//! them for answers to what it says encrypted: it believes that a mail was taken, which nobody has. lettre's connection reads
//! ahead so. Therefore it doesn't speak with the server itself, but over loopback with a thread that passes on one answer to
//! each command, and after the "go ahead" nothing until the client has begun its handshake. From there on it passes on
//! everything, of which it can read nothing: TLS is between lettre and the server, and what else comes breaks it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

/// Connects to `server`, for as long as `patience` for each of its addresses, and gives the address on loopback at which one
/// client is passed on to it.
///
/// # Errors
/// There is no such server.
pub fn relay(server: impl ToSocketAddrs, patience: Duration) -> io::Result<SocketAddr> {
    let server = connect(server, patience)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        let Ok((client, _)) = listener.accept() else { return };
        drop(listener);
        // Who fails here hangs up on both, which the client tells.
        let _ = in_clear(&client, &server).and_then(|()| sealed(&client, &server));
        hang_up(&client, &server);
    });
    Ok(address)
}

fn connect(server: impl ToSocketAddrs, patience: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "its name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Passes on answers and commands in turn, until the server wants to see a handshake.
fn in_clear(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let mut asked = false;
    loop {
        let code = answer(server, client)?;
        if asked && code == *b"220" {
            return Ok(());
        }
        asked = pass_line(client, server)?.trim_ascii().eq_ignore_ascii_case(b"STARTTLS");
    }
}

/// Passes on one answer, of one line or several, and gives its code.
fn answer(server: &TcpStream, client: &TcpStream) -> io::Result<[u8; 3]> {
    loop {
        // All lines but the last have a hyphen behind the code (RFC 5321 section 4.2.1).
        if let [a, b, c, rest @ ..] = pass_line(server, client)?.as_slice()
            && rest.first() != Some(&b'-')
        {
            return Ok([*a, *b, *c]);
        }
    }
}

/// Passes on one line, and reads nothing that is behind it.
fn pass_line(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<Vec<u8>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.last() != Some(&b'\n') {
        // A line without end: no mail server's.
        if line.len() == 4096 {
            return Err(ErrorKind::InvalidData.into());
        }
        from.read_exact(&mut byte)?;
        line.extend_from_slice(&byte);
    }
    to.write_all(&line)?;
    Ok(line)
}

/// Passes on everything, from the client's first byte on.
fn sealed(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    client.peek(&mut [0])?;
    let pass_all = |mut from: &TcpStream, mut to: &TcpStream| {
        let passed = io::copy(&mut from, &mut to);
        // The other direction ends with this one.
        hang_up(client, server);
        passed
    };
    thread::scope(|scope| {
        scope.spawn(|| pass_all(client, server));
        pass_all(server, client).map(drop)
    })
}

/// Ends both connections, also for who reads from one just now. One that is over already is what is wanted.
fn hang_up(client: &TcpStream, server: &TcpStream) {
    for stream in [client, server] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
