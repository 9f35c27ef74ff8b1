//! Whether a text is a whole dump, by its two ends.
//!
//! An exit status can be lost on its way (a wrapper, a shell's pipe), so it isn't enough. In the plain format `pg_dump` writes a
//! comment first and another one last. A row of a table may look like the last one; so the comment must have its empty
//! comment lines round it, and where the dump begins with `\restrict TOKEN` (since the minor releases of August 2025), it must
//! end with `\unrestrict` and the same token, which was drawn for this dump.

use crate::source::ends::Ends;

/// What the two ends of a text have.
#[derive(Debug)]
pub struct Marks {
    head: &'static [u8],
    /// The last comment, from the end of the line before it on.
    trailer: &'static [u8],
    /// Whether the token of `\unrestrict` stands before that comment, and not behind it.
    token_before: bool,
}

/// A text of `pg_dump`.
pub const DATABASE: Marks = Marks {
    head: b"--\n-- PostgreSQL database dump\n--\n",
    trailer: b"\n--\n-- PostgreSQL database dump complete\n--\n",
    token_before: false,
};

/// A text of `pg_dumpall`.
pub const CLUSTER: Marks = Marks {
    head: b"--\n-- PostgreSQL database cluster dump\n--\n",
    trailer: b"\n--\n-- PostgreSQL database cluster dump complete\n--\n",
    token_before: true,
};

/// What a text of `mariadb-dump` or `mysqldump` can begin with: newer ones forbid their reader the shell first.
const MARIADB_HEADS: [&[u8]; 3] = [b"-- MariaDB dump ", b"-- MySQL dump ", b"/*M!999999\\- enable the sandbox mode */"];

/// How the last line of such a text begins. No row can: in them a line's end is written `\n`.
const MARIADB_TRAILER: &[u8] = b"\n-- Dump completed";

const NO_BEGINNING: &str = "it doesn't begin as a dump does";

const NO_END: &str = "its end is missing";

/// Whether these are the ends of a text of `mariadb-dump` or `mysqldump`.
///
/// # Errors
/// Which of them isn't, to complete a sentence.
pub fn mariadb(ends: &Ends) -> Result<(), &'static str> {
    if !MARIADB_HEADS.iter().any(|head| ends.first().starts_with(head)) {
        return Err(NO_BEGINNING);
    }
    let last = ends.last();
    let at = last.windows(MARIADB_TRAILER.len()).rposition(|window| window == MARIADB_TRAILER).ok_or(NO_END)?;
    let rest = &last[at + 1..];
    // One line, and all of it.
    if rest.iter().position(|&byte| byte == b'\n') == Some(rest.len() - 1) { Ok(()) } else { Err(NO_END) }
}

/// Whether what was `bytes` long is there at all, and ends with `end`, a line's end aside.
///
/// # Errors
/// What is wrong, to complete a sentence.
pub fn ends_with(ends: &Ends, bytes: u64, end: &str) -> Result<(), &'static str> {
    let last = ends.last();
    let trimmed = last.trim_ascii_end();
    match bytes {
        0 => Err("it is empty"),
        _ if trimmed.ends_with(end.trim_end().as_bytes()) => Ok(()),
        _ => Err("it doesn't end with what `ends_with` says"),
    }
}

/// Whether these are the ends of a whole text of PostgreSQL.
///
/// # Errors
/// Which of them isn't, to complete a sentence.
pub fn whole(ends: &Ends, marks: &Marks) -> Result<(), &'static str> {
    let Marks { head, trailer, token_before } = marks;
    let Some(head) = ends.first().strip_prefix(*head) else { return Err(NO_BEGINNING) };
    let last = ends.last();
    let Some(at) = last.windows(trailer.len()).rposition(|window| window == *trailer) else { return Err(NO_END) };
    let after = &last[at + trailer.len()..];
    let restricted = token(head, b"\\restrict ");
    let known = |line: &[u8]| line.is_empty() || line.starts_with(b"--") || line.starts_with(b"\\unrestrict ");
    let fits = after.split(|&byte| byte == b'\n').all(known);
    let closed = after.is_empty() || after.ends_with(b"\n");
    if fits && closed && token(if *token_before { &last[..at] } else { after }, b"\\unrestrict ") == restricted {
        Ok(())
    } else {
        Err(NO_END)
    }
}

/// The rest of the first line that begins with `command`.
fn token<'a>(text: &'a [u8], command: &[u8]) -> Option<&'a [u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(command))
}

#[cfg(test)]
mod tests {
    use super::{DATABASE, ends_with, mariadb, whole};
    use crate::source::ends::Ends;

    const HEAD: &str = "--\n-- PostgreSQL database dump\n--\n\n";
    const TRAILER: &str = "--\n-- PostgreSQL database dump complete\n--\n\n";

    fn judged(text: &str) -> Result<(), &'static str> {
        let mut ends = Ends::new(4096, 4096);
        text.as_bytes().chunks(1000).for_each(|chunk| ends.take(chunk));
        whole(&ends, &DATABASE)
    }

    #[test]
    fn a_whole_dump_is_told_from_one_that_is_not() {
        let end = Err("its end is missing");
        let data = "COPY public.t (a) FROM stdin;\nvalue\n\\.\n\n".repeat(1000);
        for (text, expected) in [
            (format!("{HEAD}{data}{TRAILER}"), Ok(())),
            (format!("{HEAD}\\restrict abc\n\n{data}{TRAILER}\\unrestrict abc\n\n"), Ok(())),
            (format!("{HEAD}SET a = 1;\n{TRAILER}-- made by hand\n"), Ok(())),
            // cut, also where it hurts most
            (format!("{HEAD}{data}"), end),
            (format!("{HEAD}{data}--\n-- PostgreSQL database dump complete"), end),
            (format!("{HEAD}{data}--\n-- PostgreSQL database dump complete\n"), end),
            (format!("{HEAD}\\restrict abc\n\n{data}{TRAILER}"), end),
            (format!("{HEAD}\\restrict abc\n\n{data}{TRAILER}\\unrestrict ab"), end),
            (format!("{HEAD}\\restrict abc\n\n{data}{TRAILER}\\unrestrict abc"), end),
            // rows that look like the end
            (format!("{HEAD}COPY public.t (a) FROM stdin;\n-- PostgreSQL database dump complete\n"), end),
            (format!("{HEAD}\\restrict abc\n\nCOPY public.t (a) FROM stdin;\n{TRAILER}\\unrestrict xyz\n"), end),
            (format!("{HEAD}{data}{TRAILER}{data}"), end),
            // a login script that says something, or nothing at all
            (format!("welcome\n{HEAD}{data}{TRAILER}"), Err("it doesn't begin as a dump does")),
            (String::new(), Err("it doesn't begin as a dump does")),
        ] {
            assert_eq!(judged(&text), expected, "{}…{}", &text[..text.len().min(80)], &text[text.len().saturating_sub(80)..]);
        }
    }

    fn of(text: &str) -> Ends {
        let mut ends = Ends::new(64, 64);
        ends.take(text.as_bytes());
        ends
    }

    #[test]
    fn a_text_of_mariadb_has_its_last_line_and_nothing_after_it() {
        let (rows, end) = ("INSERT INTO t VALUES (1);\n".repeat(100), Err("its end is missing"));
        for (text, expected) in [
            (format!("-- MariaDB dump 10.19\n{rows}\n-- Dump completed on 2026-11-23  2:30:00\n"), Ok(())),
            (format!("-- MySQL dump 10.13\n{rows}\n-- Dump completed\n"), Ok(())),
            (format!("/*M!999999\\- enable the sandbox mode */ \n{rows}\n-- Dump completed on 2026-11-23\n"), Ok(())),
            (format!("-- MariaDB dump 10.19\n{rows}"), end),
            (format!("-- MariaDB dump 10.19\n{rows}\n-- Dump completed on 2026"), end),
            (format!("-- MariaDB dump 10.19\n{rows}\n-- Dump completed\n{rows}"), end),
            (format!("{rows}\n-- Dump completed\n"), Err("it doesn't begin as a dump does")),
            (String::new(), Err("it doesn't begin as a dump does")),
        ] {
            assert_eq!(mariadb(&of(&text)), expected, "{text}");
        }
    }

    #[test]
    fn a_commands_output_is_not_empty_and_ends_as_it_should() {
        assert_eq!(ends_with(&of("a\nend\n"), 6, "end"), Ok(()));
        assert_eq!(ends_with(&of("a"), 1, ""), Ok(()));
        assert_eq!(ends_with(&of(""), 0, ""), Err("it is empty"));
        assert_eq!(ends_with(&of("a\n"), 2, "end"), Err("it doesn't end with what `ends_with` says"));
    }
}
