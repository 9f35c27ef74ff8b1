//! Whether a text is a whole dump of `pg_dump`, by its two ends.
//!
//! An exit status can be lost on its way (a wrapper, a shell's pipe), so it isn't enough. In the plain format `pg_dump` writes a
//! comment first and another one last. A row of a table may look like the last one; so the comment must have its empty
//! comment lines round it, and where the dump begins with `\restrict TOKEN` (since the minor releases of August 2025), it must
//! end with `\unrestrict` and the same token, which was drawn for this dump.

use crate::source::ends::Ends;

/// What a plain dump begins with.
const HEAD: &[u8] = b"--\n-- PostgreSQL database dump\n--\n";

/// The last comment, from the end of the line before it on.
const TRAILER: &[u8] = b"\n--\n-- PostgreSQL database dump complete\n--\n";

/// How much of either end has to be known, in bytes. Both are a few lines.
const KEPT: usize = 4 << 10;

/// The ends that [`whole`] wants to see.
pub fn ends() -> Ends {
    Ends::new(KEPT, KEPT)
}

/// Whether these are the ends of a whole dump.
///
/// # Errors
/// Which of them isn't, to complete a sentence.
pub fn whole(ends: &Ends) -> Result<(), &'static str> {
    const END: &str = "its end is missing";
    let Some(head) = ends.first().strip_prefix(HEAD) else { return Err("it doesn't begin as a dump does") };
    let last = ends.last();
    let Some(at) = last.windows(TRAILER.len()).rposition(|window| window == TRAILER) else { return Err(END) };
    let after = &last[at + TRAILER.len()..];
    let restricted = token(head, b"\\restrict ");
    let known = |line: &[u8]| line.is_empty() || line.starts_with(b"--") || line.starts_with(b"\\unrestrict ");
    let fits = after.split(|&byte| byte == b'\n').all(known);
    let closed = after.is_empty() || after.ends_with(b"\n");
    if fits && closed && token(after, b"\\unrestrict ") == restricted { Ok(()) } else { Err(END) }
}

/// The rest of the first line that begins with `command`.
fn token<'a>(text: &'a [u8], command: &[u8]) -> Option<&'a [u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(command))
}

#[cfg(test)]
mod tests {
    use super::{ends, whole};

    const HEAD: &str = "--\n-- PostgreSQL database dump\n--\n\n";
    const TRAILER: &str = "--\n-- PostgreSQL database dump complete\n--\n\n";

    fn judged(text: &str) -> Result<(), &'static str> {
        let mut ends = ends();
        text.as_bytes().chunks(1000).for_each(|chunk| ends.take(chunk));
        whole(&ends)
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
}
