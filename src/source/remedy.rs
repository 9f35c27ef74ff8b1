//! Why a `pg_dump` on a server didn't end well, and what its owner can do about it.

use crate::source::child::Ended;

/// How many lines of `pg_dump`'s last words a warning has, and how many characters of each.
const TAIL: (usize, usize) = (4, 300);

/// Why `pg_dump` didn't end well, with what to do about it where that is known.
pub fn failure(ended: &Ended, user: &str) -> String {
    let how = match ended.code {
        None => "`ssh` was ended by a signal".to_owned(),
        Some(255) => "the connection broke".to_owned(),
        Some(code) => format!("`pg_dump` ended with exit code {code}"),
    };
    let (lines, length) = TAIL;
    let tail = ended.stderr[ended.stderr.len().saturating_sub(lines)..].iter();
    let tail: Vec<String> = tail.map(|line| line.chars().take(length).collect()).collect();
    let hint = hint(ended.code, &ended.stderr.join("\n"), user);
    let mut text = vec![how];
    text.extend(tail);
    text.extend(hint.map(|hint| format!("hint: {hint}")));
    text.join("\n")
}

/// What probably helps, from what `pg_dump`, PostgreSQL or the server's shell said.
fn hint(code: Option<i32>, said: &str, user: &str) -> Option<String> {
    let has = |text: &str| said.contains(text);
    let hint = if has("rrsync") {
        "this key may run nothing but rsync: take the `command=` out of its line in authorized_keys there".to_owned()
    } else if code == Some(127) {
        "install postgresql-client on the server".to_owned()
    } else if has("server version mismatch") {
        "install on the server the postgresql-client of its PostgreSQL's version".to_owned()
    } else if has("permission denied for large object") {
        "pg_read_all_data doesn't cover large objects: GRANT SELECT ON LARGE OBJECT to the user, one by one".to_owned()
    } else if has("permission denied for") {
        format!("as PostgreSQL's superuser there: GRANT pg_read_all_data TO \"{user}\"")
    } else if has("row-level security") {
        format!("as PostgreSQL's superuser there: ALTER ROLE \"{user}\" BYPASSRLS")
    } else if has("database \"") && has("\" does not exist") {
        "correct `postgresql`, or take the database out of it".to_owned()
    } else if has("role \"") && has("\" does not exist") {
        format!("as PostgreSQL's superuser there: CREATE ROLE \"{user}\" LOGIN IN ROLE pg_read_all_data")
    } else if has("no password supplied") || has("authentication failed") || has("no pg_hba.conf entry") {
        "the user must get in without a password, by `peer` in pg_hba.conf, or with one in ~/.pgpass there".to_owned()
    } else if has("Is the server running") {
        "does PostgreSQL run there, with its socket at the usual place?".to_owned()
    } else if has("lock timeout") {
        "somebody had a table locked for ten minutes: have the backup run at another time".to_owned()
    } else {
        return None;
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::failure;
    use crate::source::child::Ended;

    #[test]
    fn a_failure_says_why_and_what_helps() {
        let superuser = "as PostgreSQL's superuser there: ";
        for (code, said, expected) in [
            (None, "", "`ssh` was ended by a signal".to_owned()),
            (Some(255), "", "the connection broke".to_owned()),
            (Some(1), "odd", "`pg_dump` ended with exit code 1\nodd".to_owned()),
            (
                Some(127),
                "env: 'pg_dump': No such file or directory",
                "`pg_dump` ended with exit code 127\nenv: 'pg_dump': No such file or directory\n\
                 hint: install postgresql-client on the server"
                    .to_owned(),
            ),
            (
                Some(1),
                "FATAL:  database \"gone\" does not exist",
                "`pg_dump` ended with exit code 1\nFATAL:  database \"gone\" does not exist\n\
                 hint: correct `postgresql`, or take the database out of it"
                    .to_owned(),
            ),
            (
                Some(1),
                "FATAL:  role \"vb\" does not exist",
                format!(
                    "`pg_dump` ended with exit code 1\nFATAL:  role \"vb\" does not exist\n\
                     hint: {superuser}CREATE ROLE \"vb\" LOGIN IN ROLE pg_read_all_data"
                ),
            ),
            (
                Some(1),
                "ERROR:  permission denied for table t",
                format!(
                    "`pg_dump` ended with exit code 1\nERROR:  permission denied for table t\n\
                     hint: {superuser}GRANT pg_read_all_data TO \"vb\""
                ),
            ),
            (
                Some(1),
                "ERROR:  query would be affected by row-level security policy for table \"t\"",
                format!(
                    "`pg_dump` ended with exit code 1\nERROR:  query would be affected by row-level security policy for table \
                     \"t\"\nhint: {superuser}ALTER ROLE \"vb\" BYPASSRLS"
                ),
            ),
            (
                Some(1),
                "ERROR:  permission denied for large object 16400",
                "`pg_dump` ended with exit code 1\nERROR:  permission denied for large object 16400\n\
                 hint: pg_read_all_data doesn't cover large objects: GRANT SELECT ON LARGE OBJECT to the user, one by one"
                    .to_owned(),
            ),
        ] {
            let stderr = said.lines().map(String::from).collect();
            assert_eq!(failure(&Ended { code, stderr }, "vb"), expected);
        }
    }

    #[test]
    fn a_long_complaint_is_cut_to_its_end() {
        let stderr = (0..9).map(|number| format!("{number}{}", "é".repeat(1000))).collect();
        let text = failure(&Ended { code: Some(1), stderr }, "vb");
        assert_eq!((text.lines().count(), text.chars().count()), (5, 32 + 4 * 301));
        assert!(text.lines().nth(1).unwrap().starts_with('5'));
    }
}
