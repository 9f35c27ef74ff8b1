//! What an account of MariaDB or MySQL may not even see. A dump lacks that, and its program says nothing.
//!
//! The server lists triggers and routines only for those with a right to them, and `mariadb-dump` dumps what is listed. For all else
//! that it lacks a right to, it fails. So the account's rights are looked at, as `SHOW GRANTS` has them (MariaDB's knowledge base:
//! "GRANT", "Stored Routine Privileges"; MySQL's manual: "Privileges Provided by MySQL").

/// Rights that show triggers.
const TRIGGERS: [&str; 1] = ["TRIGGER"];

/// Rights that show routines, be it without their text; a dump fails then, and says why.
const ROUTINES: [&str; 5] = ["SHOW CREATE ROUTINE", "SHOW_ROUTINE", "EXECUTE", "ALTER ROUTINE", "CREATE ROUTINE"];

/// What the holder of these `grants`, the lines of `SHOW GRANTS`, isn't shown of `database`: `triggers`, `routines`.
pub fn hidden(grants: &str, database: &str) -> Vec<&'static str> {
    let grants: Vec<Grant<'_>> = grants.lines().filter_map(Grant::parse).collect();
    let any = |rights: &[&str]| grants.iter().any(|grant| grant.covers(database) && grant.has(rights));
    // Where routines were kept before 11.3, and who reads all reads that.
    let text = grants.iter().any(|grant| grant.is_on("mysql", "proc") && grant.has(&["SELECT"]));
    let mut hidden = Vec::new();
    if !any(&TRIGGERS) {
        hidden.push("triggers");
    }
    if !any(&ROUTINES) && !text {
        hidden.push("routines");
    }
    hidden
}

/// Some rights to something.
struct Grant<'a> {
    rights: Vec<&'a str>,
    /// A pattern, or `*`.
    database: String,
    /// A name, or `*`.
    table: String,
}

impl<'a> Grant<'a> {
    /// One line; none when it grants something else, as a role.
    fn parse(line: &'a str) -> Option<Self> {
        let (rights, object) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
        let (object, _) = object.split_once(" TO ")?;
        let (database, table) = names(object)?;
        // Of the rights to columns, which are in brackets, nothing is made.
        Some(Self { rights: rights.split(',').map(str::trim).collect(), database, table })
    }

    /// Whether all that is in `database` is meant.
    fn covers(&self, database: &str) -> bool {
        self.table == "*" && self.is_in(database)
    }

    fn is_on(&self, database: &str, table: &str) -> bool {
        self.is_in(database) && (self.table == "*" || self.table == table)
    }

    fn is_in(&self, database: &str) -> bool {
        self.database == "*" || matches(&self.database, database)
    }

    fn has(&self, rights: &[&str]) -> bool {
        self.rights.iter().any(|right| *right == "ALL PRIVILEGES" || rights.contains(right))
    }
}

/// The two names in `` `shop`.* ``; none in anything else, as a procedure.
fn names(object: &str) -> Option<(String, String)> {
    let (database, rest) = name(object)?;
    let (table, rest) = name(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((database, table))
}

/// The name in backquotes that `text` begins with, or a `*`; and what comes behind.
fn name(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some(("*".to_owned(), rest));
    }
    let mut name = String::new();
    let mut rest = text.strip_prefix('`')?;
    loop {
        let (part, behind) = rest.split_once('`')?;
        name.push_str(part);
        match behind.strip_prefix('`') {
            Some(more) => {
                name.push('`');
                rest = more;
            }
            None => return Some((name, behind)),
        }
    }
}

/// Whether `text` is of SQL's `pattern`: `%` for anything, `_` for one character, `\` before one that stands for itself.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    let behind = |text: &str| -> Option<usize> { text.chars().next().map(char::len_utf8) };
    match rest.next() {
        None => text.is_empty(),
        Some('%') => text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest.as_str(), &text[at..])),
        Some('_') => behind(text).is_some_and(|at| matches(rest.as_str(), &text[at..])),
        Some(character) => {
            let wanted = if character == '\\' { rest.next().unwrap_or(character) } else { character };
            text.strip_prefix(wanted).is_some_and(|text| matches(rest.as_str(), text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{hidden, matches};

    #[test]
    fn what_is_hidden_follows_from_the_grants() {
        let (routines, both): (&[&str], &[&str]) = (&["routines"], &["triggers", "routines"]);
        let on_shop = "GRANT SELECT, LOCK TABLES, SHOW VIEW, EVENT, TRIGGER ON `my\\_shop`.* TO `vb`@`localhost`";
        for (grants, expected) in [
            ("GRANT USAGE ON *.* TO `vb`@`localhost` IDENTIFIED VIA unix_socket", both),
            ("GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION", &[]),
            ("GRANT SELECT, LOCK TABLES, TRIGGER ON *.* TO `vb`@`localhost`", &[]),
            ("GRANT SELECT, LOCK TABLES ON *.* TO `vb`@`localhost`", &["triggers"]),
            (on_shop, routines),
            (&format!("{on_shop}\nGRANT SELECT ON `mysql`.`proc` TO `vb`@`localhost`"), &[]),
            (&format!("{on_shop}\nGRANT SELECT (`name`, `body`) ON `mysql`.`proc` TO `vb`@`localhost`"), routines),
            (&format!("{on_shop}\nGRANT INSERT ON `mysql`.`proc` TO `vb`@`localhost`"), routines),
            (&format!("{on_shop}\nGRANT SHOW_ROUTINE ON *.* TO `vb`@`localhost`"), &[]),
            ("GRANT SELECT, TRIGGER, SHOW CREATE ROUTINE ON `my\\_shop`.* TO `vb`@`localhost`", &[]),
            ("GRANT SELECT, TRIGGER, SHOW CREATE ROUTINE ON `myxshop`.* TO `vb`@`localhost`", both),
            ("GRANT TRIGGER ON `my\\_shop`.`goods` TO `vb`@`localhost`", both),
            ("GRANT EXECUTE ON PROCEDURE `my_shop`.`restock` TO `vb`@`localhost`\nGRANT `reader` TO `vb`@`localhost`", both),
            ("GRANT ALL PRIVILEGES ON `my%`.* TO `reader`", &[]),
            ("GRANT ALL PRIVILEGES ON `a``b`.* TO `vb`@`localhost`\nnonsense\nGRANT ALL ON `x", both),
        ] {
            assert_eq!(hidden(grants, "my_shop"), expected, "{grants}");
        }
    }

    #[test]
    fn patterns_are_those_of_sql() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("a", "", false),
            ("", "a", false),
            ("%", "", true),
            ("ä_%", "äö", true),
            ("ä_", "ä", false),
            ("%b%", "abc", true),
            ("a\\%", "ab", false),
            ("a\\%", "a%", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
