//! Why a dump's program on a server didn't end well, and what its owner can do about it.

use crate::source::child::Ended;

/// How many lines of its last words a warning has, and how many characters of each.
const TAIL: (usize, usize) = (4, 300);

const RSYNC_ONLY: &str = "this key may run nothing but rsync: take the `command=` out of its line in authorized_keys there";

/// Why `program` didn't end well, with what to do about it where that is known.
pub fn failure(ended: &Ended, program: &str, user: &str) -> String {
    let how = match ended.code {
        None => "`ssh` was ended by a signal".to_owned(),
        Some(255) => format!("the connection broke, or `{program}` was killed over there"),
        Some(code) if program.contains(' ') => format!("{program} ended with exit code {code}"),
        Some(code) => format!("`{program}` ended with exit code {code}"),
    };
    let (lines, length) = TAIL;
    let tail = ended.stderr[ended.stderr.len().saturating_sub(lines)..].iter();
    let tail: Vec<String> = tail.map(|line| line.chars().take(length).collect()).collect();
    let said = ended.stderr.join("\n");
    let hint = match program {
        "pg_dump" | "pg_dumpall" | "psql" => hint(ended.code, &said, user),
        "mariadb-dump" | "mariadb" => mariadb_hint(ended.code, &said, user),
        "sqlite3" => sqlite_hint(ended.code, &said),
        _ => said.contains("rrsync").then(|| RSYNC_ONLY.to_owned()),
    };
    let mut text = vec![how];
    text.extend(tail);
    text.extend(hint.map(|hint| format!("hint: {hint}")));
    text.join("\n")
}

/// What probably helps, from what `pg_dump`, PostgreSQL or the server's shell said.
fn hint(code: Option<i32>, said: &str, user: &str) -> Option<String> {
    let has = |text: &str| said.contains(text);
    let hint = if has("rrsync") {
        RSYNC_ONLY.to_owned()
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
    } else if has("timeout") && has("LOCK TABLE") {
        "somebody had a table locked for ten minutes: have the backup run at another time".to_owned()
    } else {
        return None;
    };
    Some(hint)
}

/// The same of MariaDB and MySQL.
fn mariadb_hint(code: Option<i32>, said: &str, user: &str) -> Option<String> {
    let has = |text: &str| said.contains(text);
    let grant = |rights: &str| format!("as MariaDB's root there: GRANT {rights} ON *.* TO '{user}'@localhost");
    Some(if has("rrsync") {
        RSYNC_ONLY.to_owned()
    } else if code == Some(127) || has("mysqldump: not found") || has("mysql: not found") {
        "install mariadb-client on the server".to_owned()
    } else if has("Unknown database") {
        "correct `mariadb`, or take the database out of it".to_owned()
    } else if has("Access denied for user") && (has("using password") || has("(1045)") || has("(1698)")) {
        "the user must get in by itself: CREATE USER … IDENTIFIED VIA unix_socket, or a password in ~/.my.cnf there".to_owned()
    } else if has("Can't connect to") {
        "does MariaDB run there, with its socket at the usual place?".to_owned()
    } else if has("Access denied") || has("denied to user") || has("insufficent privileges") || has("insufficient privileges") {
        grant("SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, SHOW CREATE ROUTINE")
    } else {
        return None;
    })
}

/// The same of SQLite.
fn sqlite_hint(code: Option<i32>, said: &str) -> Option<String> {
    let has = |text: &str| said.contains(text);
    Some(if has("rrsync") {
        RSYNC_ONLY.to_owned()
    } else if code == Some(127) || has("sqlite3: not found") {
        "install sqlite3 on the server".to_owned()
    } else if has("unable to open database") {
        "is there such a file, and may the account read it, and what SQLite keeps beside it (-wal, -shm)?".to_owned()
    } else if has("attempt to write a readonly database") {
        "a database in WAL mode that no program has open can only be read by whoever may write to its folder".to_owned()
    } else if has("database is locked") {
        "somebody had it locked for a minute: have the backup run at another time".to_owned()
    } else {
        return None;
    })
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
            (Some(255), "", "the connection broke, or `pg_dump` was killed over there".to_owned()),
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
            assert_eq!(failure(&Ended { code, stderr }, "pg_dump", "vb"), expected);
        }
    }

    #[test]
    fn a_long_complaint_is_cut_to_its_end() {
        let stderr = (0..9).map(|number| format!("{number}{}", "é".repeat(1000))).collect();
        let text = failure(&Ended { code: Some(1), stderr }, "pg_dump", "vb");
        assert_eq!((text.lines().count(), text.chars().count()), (5, 32 + 4 * 301));
        assert!(text.lines().nth(1).unwrap().starts_with('5'));
    }
}
