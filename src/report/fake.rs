//! A mail server for tests, in clear on loopback, that answers as it is told to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::config::{MailServer, Report, Security};

/// How large a mail it takes, in bytes, as it says.
pub const SIZE: usize = 1 << 20;

/// The answer that is none: the connection is closed.
pub const HANG_UP: &str = "";

/// Serves for as long as the tests run. `answer` is asked for each line but EHLO and QUIT, and with `.` for a whole mail; a
/// `250` to DATA goes out as a `354`.
pub fn serve(mut answer: impl FnMut(&str) -> String + Send + 'static) -> Report {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            // A client may go at any time.
            let _ = talk(connection.unwrap(), &mut answer);
        }
    });
    report(port)
}

/// A mail with this content, as the appliance makes them.
pub fn mail(content: &str) -> Vec<u8> {
    let headers = "Message-ID: <1@example.net>\r\nSubject: [vaultberry] pi: test\r\nAuto-Submitted: auto-generated\r\n\r\n";
    [headers, content].concat().into_bytes()
}

/// A `[report]` that mails through this port in clear.
pub fn report(port: u16) -> Report {
    Report {
        to: vec!["owner@example.org".to_owned()],
        from: "pi@example.net".to_owned(),
        servers: vec![MailServer { host: "127.0.0.1".to_owned(), port, security: Security::None, credentials: None, ca: None }],
        size_limit: 1 << 20,
    }
}

fn talk(mut connection: TcpStream, answer: &mut impl FnMut(&str) -> String) -> std::io::Result<()> {
    connection.write_all(b"220 fake\r\n")?;
    let mut content = false;
    for line in BufReader::new(connection.try_clone()?).lines() {
        let line = line?;
        let reply = match line.as_str() {
            line if content && line != "." => continue,
            line if line.starts_with("EHLO") => format!("250-fake\r\n250-SIZE {SIZE}\r\n250 AUTH PLAIN"),
            "QUIT" => return Ok(()),
            line => answer(line),
        };
        content = line == "DATA" && reply.starts_with("250");
        match reply.as_str() {
            HANG_UP => return Ok(()),
            _ if content => connection.write_all(b"354 go on\r\n")?,
            reply => connection.write_all(format!("{reply}\r\n").as_bytes())?,
        }
    }
    Ok(())
}
