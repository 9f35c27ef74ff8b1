//! Asking programs what they know: a question may be refused or never answered, and that isn't an error.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process;

/// How long most programs may think.
pub const USUAL: Duration = Duration::from_secs(20);

/// How much of a program's answer is read, in bytes.
const LARGEST: u64 = 4 << 20;

/// What a program said.
pub struct Answer {
    /// Whether it ended well.
    pub success: bool,
    /// Its standard output.
    pub text: String,
}

/// What `program` writes, if it is there and comes to its end in time.
pub fn ask(program: &str, arguments: &[&str], longest: Duration) -> Option<Answer> {
    ask_with_input(program, arguments, "", longest)
}

/// The same, with a few lines on its standard input.
pub fn ask_with_input(program: &str, arguments: &[&str], input: &str, longest: Duration) -> Option<Answer> {
    let mut command = process::tool(program);
    command.args(arguments).env("LC_ALL", "C");
    answer(&mut command, input, longest)
}

fn answer(command: &mut Command, input: &str, longest: Duration) -> Option<Answer> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    // A pipe takes that much at once; who doesn't read it has no answer for it either.
    let _ = child.stdin.take()?.write_all(input.as_bytes());
    let stdout = child.stdout.take()?;
    // In a thread: a program that doesn't end may not close its output either.
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stdout.take(LARGEST).read_to_end(&mut text).map(|_| text)
    });
    let success = ended(&mut child, longest)?;
    let text = reader.join().ok()?.ok()?;
    Some(Answer { success, text: String::from_utf8_lossy(&text).into_owned() })
}

/// Whether `child` ended well; none when it had to be ended.
fn ended(child: &mut Child, longest: Duration) -> Option<bool> {
    let until = Instant::now() + longest;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().ok()? {
            return Some(status.success());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::answer;

    #[test]
    fn a_program_that_is_missing_or_hangs_says_nothing() {
        assert!(answer(&mut Command::new("/nowhere/apt-get"), "", Duration::from_secs(1)).is_none());
        let begun = Instant::now();
        assert!(answer(Command::new("sleep").arg("60"), "", Duration::from_millis(200)).is_none());
        assert!(begun.elapsed() < Duration::from_secs(10));
        let said = answer(Command::new("echo").arg("active"), "", Duration::from_secs(10)).unwrap();
        assert_eq!((said.success, said.text.as_str()), (true, "active\n"));
        let said = answer(&mut Command::new("cat"), "question\n", Duration::from_secs(10)).unwrap();
        assert_eq!(said.text, "question\n");
    }
}
