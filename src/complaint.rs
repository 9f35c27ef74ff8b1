//! How an error is told to a person: `error:` with its whole chain of causes, then each `hint:` on a line of its own.
//!
//! Any error may carry hints: lines of its text that begin with `hint: `. They are taken out of the chain and told last.

use std::fmt::Write as _;

/// What helps against a server with a self-signed certificate as `openssl req -x509` makes it, which rustls calls
/// `CaUsedAsEndEntity`.
pub const AUTHORITY_AS_SERVER: &str = "the server shows an authority's certificate as its own: give it one that this authority \
     issued, or make it with basicConstraints=CA:FALSE";

/// The text for standard error, with a line break at its end.
pub fn render(error: &anyhow::Error) -> String {
    format!("error: {}", plain(error))
}

/// The same without `error:` before it.
pub fn plain(error: &anyhow::Error) -> String {
    let (mut causes, mut hints) = (Vec::new(), Vec::new());
    for cause in error.chain() {
        let text = cause.to_string();
        let (hint, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("hint: "));
        // What helps against several things needs to be told once.
        for hint in hint {
            if !hints.iter().any(|told| told == hint) {
                hints.push(String::from(hint));
            }
        }
        causes.push(rest.join("\n"));
    }
    let mut told = format!("{}\n", causes.join(": "));
    for hint in hints {
        writeln!(told, "{hint}").expect("writing to a string can't fail");
    }
    told
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::render;

    #[test]
    fn the_chain_is_one_sentence_and_hints_come_last() {
        let error = anyhow!("no such file\nhint: plug it in").context("opening /dev/sdx\nhint: look at it").context("flashing");
        assert_eq!(render(&error), "error: flashing: opening /dev/sdx: no such file\nhint: look at it\nhint: plug it in\n");
    }

    #[test]
    fn an_indented_hint_stays_with_its_line() {
        let error = anyhow!("checking f: 1 error\nf:1:1: disk: is bad\n  hint: fix it");
        assert_eq!(render(&error), "error: checking f: 1 error\nf:1:1: disk: is bad\n  hint: fix it\n");
    }
}
