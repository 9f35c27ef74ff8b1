//! Dumps of every kind: made by the server's own programs, proven, and loaded again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::appliance::{Appliance, Run, names};
use crate::support::mariadb::MariaDb;
use crate::support::peer::Peer;

use super::{fill, triple, warnings};

/// An appliance and a server whose programs are looked for in `bin` first.
fn pair(environment: &[(&str, &str)]) -> (Appliance, Peer) {
    let mut appliance = Appliance::new(false);
    let mut peer = Peer::start(&appliance.public_key(), None);
    let bin = peer.program("nothing", "");
    let path = format!("{}:/usr/sbin:/usr/bin:/bin", bin.display());
    peer.set_environment(&[&[("PATH", path.as_str())], environment].concat());
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[]);
    (appliance, peer)
}

fn dumps(appliance: &Appliance, kind: &str) -> PathBuf {
    appliance.backup("current/web/dumps").join(kind)
}

fn run(appliance: &Appliance, code: i32) -> Run {
    let run = appliance.run();
    assert_eq!(run.code, Some(code), "{run:?}");
    run
}

#[test]
fn all_of_postgresql_in_the_custom_format_with_its_roles() {
    let (mut appliance, peer, postgresql) = triple();
    fill(&postgresql, "wiki");
    postgresql.run("postgres", &["CREATE ROLE anna LOGIN"]);
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[]);
    appliance.source_settings("postgresql = [\"*\"]\npostgresql_format = \"custom\"");
    run(&appliance, 0);
    assert_eq!(names(&dumps(&appliance, "postgresql")), ["postgres.dump", "wiki.dump"]);
    let (_folder, restored) = appliance.unpack(&appliance.archives("web")[0], Path::new("/dumps"));
    assert!(fs::read_to_string(restored.join("globals/postgresql.sql")).unwrap().contains("CREATE ROLE anna;"));
    let listed = Command::new("pg_restore").args(["-f", "-"]).arg(restored.join("postgresql/wiki.dump")).output().unwrap();
    postgresql.run("postgres", &["CREATE DATABASE again"]);
    let sql = restored.join("wiki.sql");
    fs::write(&sql, listed.stdout).unwrap();
    postgresql.run("postgres", &["DROP DATABASE again"]);
    postgresql.load("again", &sql);
    assert_eq!(super::content(&postgresql, "again"), super::content(&postgresql, "wiki"));

    // Half of it: `pg_restore --list` would take it.
    let good = fs::read(dumps(&appliance, "postgresql").join("wiki.dump")).unwrap();
    let half = "case $* in *wiki*) /usr/bin/pg_dump \"$@\" | head -c 300000; exit 0;; esac\nexec /usr/bin/pg_dump \"$@\"";
    peer.program("pg_dump", half);
    let said = run(&appliance, 3).stdout;
    assert!(said.contains("the database wiki was not dumped") && said.contains("`pg_restore` can't read it"), "{said}");
    assert!(fs::read(dumps(&appliance, "postgresql").join("wiki.dump")).unwrap() == good);
    let stale = &appliance.last_run()["sources"][0]["stale_dumps"];
    assert!(stale[0]["dump"] == "the database wiki" && stale[0]["made"].is_string(), "{stale}");
}

#[test]
fn mariadb_with_routines_and_events_and_a_dump_that_is_cut() {
    let mut appliance = Appliance::new(false);
    let mut peer = Peer::start(&appliance.public_key(), None);
    let mariadb = MariaDb::start(&peer.user);
    let at = mariadb.socket().display().to_string();
    // As the guide has it; SHOW CREATE ROUTINE is a right of its own from 11.3 on.
    let own = if mariadb.query("", "SELECT VERSION() LIKE '10.%'") == "1\n" { "" } else { ", SHOW CREATE ROUTINE" };
    let rights = format!("SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT, PROCESS{own}");
    mariadb.query("", &format!("CREATE USER reader@localhost; GRANT {rights} ON *.* TO reader@localhost"));
    for name in ["mariadb", "mariadb-dump"] {
        peer.program(name, &format!("exec /usr/bin/{name} --user=reader --socket={at} \"$@\""));
    }
    let path = format!("{}:/usr/bin:/bin", peer.program("nothing", "").display());
    peer.set_environment(&[("PATH", &path)]);
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[]);
    appliance.source_settings("mariadb = [\"*\"]");
    mariadb.query("", "CREATE DATABASE shop; CREATE DATABASE `it's odd`");
    mariadb.query(
        "shop",
        "CREATE TABLE item (id INT PRIMARY KEY, name TEXT, photo BLOB) ENGINE=InnoDB; \
         INSERT INTO item VALUES (1, 'Käse', x'00ff27'); CREATE VIEW names AS SELECT name FROM item; \
         CREATE FUNCTION twice(n INT) RETURNS INT DETERMINISTIC RETURN 2 * n; \
         CREATE TRIGGER t BEFORE INSERT ON item FOR EACH ROW SET NEW.id = NEW.id + 1; \
         CREATE EVENT tidy ON SCHEDULE EVERY 1 DAY DO DELETE FROM item",
    );
    run(&appliance, 0);
    let folder = dumps(&appliance, "mariadb");
    assert_eq!(names(&folder), ["it's odd.sql", "mysql.sql", "shop.sql"]);
    mariadb.load("again", &folder.join("shop.sql"));
    assert_eq!(mariadb.query("again", "SELECT id, name, HEX(photo), again.twice(21) FROM item"), "1\tKäse\t00FF27\t42\n");
    let kept = "SELECT event_name FROM information_schema.events WHERE event_schema = 'again' UNION \
                SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = 'again'";
    assert_eq!(mariadb.query("", kept), "tidy\nt\n");
    mariadb.query("", "DROP DATABASE again");

    let good = fs::read(folder.join("shop.sql")).unwrap();
    let script =
        format!("case $* in *shop*) /usr/bin/mariadb-dump --user=reader --socket={at} \"$@\" | head -c 1500; exit 0;; esac\n");
    peer.program("mariadb-dump", &format!("{script}exec /usr/bin/mariadb-dump --user=reader --socket={at} \"$@\""));
    let said = run(&appliance, 3).stdout;
    assert!(said.contains("the database shop was not dumped") && said.contains("its end is missing"), "{said}");
    assert!(fs::read(folder.join("shop.sql")).unwrap() == good);
    peer.program("mariadb-dump", &format!("exec /usr/bin/mariadb-dump --user=reader --socket={at} \"$@\""));
    // Gone, or only hidden from the account?
    mariadb.query("", "DROP DATABASE `it's odd`; CREATE DATABASE `Näme`");
    let said = run(&appliance, 3).stdout;
    assert!(said.contains("it's odd.sql isn't among those that the server names, and its last dump stays"), "{said}");
    assert_eq!(names(&folder), ["Näme.sql", "it's odd.sql", "mysql.sql", "shop.sql"]);
    mariadb.query("", "DROP DATABASE `Näme`");
    let accepted = appliance.command(&["backup", "run", "--accept-deletions", "web"]).output().unwrap();
    assert!(accepted.status.success(), "{accepted:?}");
    assert_eq!(names(&folder), ["mysql.sql", "shop.sql"]);
}

#[test]
fn what_mariadb_hides_from_the_account_is_told() {
    let mut appliance = Appliance::new(false);
    let mut peer = Peer::start(&appliance.public_key(), None);
    let mariadb = MariaDb::start(&peer.user);
    let old = mariadb.query("", "SELECT VERSION() LIKE '10.%'") == "1\n";
    mariadb.query("", "CREATE USER reader@localhost; CREATE DATABASE my_shop");
    mariadb.query("my_shop", "CREATE TABLE item (id INT); CREATE PROCEDURE restock() SELECT 'the body of a routine'");
    mariadb.query("my_shop", "CREATE TRIGGER checked BEFORE INSERT ON item FOR EACH ROW SET NEW.id = 7");
    for name in ["mariadb", "mariadb-dump"] {
        let at = mariadb.socket().display().to_string();
        peer.program(name, &format!("exec /usr/bin/{name} --user=reader --socket={at} \"$@\""));
    }
    let path = format!("{}:/usr/bin:/bin", peer.program("nothing", "").display());
    peer.set_environment(&[("PATH", &path)]);
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[]);
    appliance.source_settings("mariadb = [\"my_shop\"]");
    let routines = if old { "SELECT ON mysql.proc" } else { "SHOW CREATE ROUTINE ON `my\\_shop`.*" };
    for (grant, hidden) in [
        ("SELECT, LOCK TABLES, SHOW VIEW, EVENT ON `my\\_shop`.*", Some("triggers and routines")),
        ("TRIGGER ON `my\\_shop`.*", Some("routines")),
        (routines, None),
    ] {
        mariadb.query("", &format!("GRANT {grant} TO reader@localhost"));
        let said = run(&appliance, if hidden.is_some() { 3 } else { 0 }).stdout;
        let told = hidden.map(|hidden| format!("the database my_shop is dumped without its {hidden}, which the account isn't"));
        assert!(told.as_ref().is_none_or(|told| said.contains(told)) && said.contains("without its") == told.is_some(), "{said}");
        let rehearsed = appliance.command(&["backup", "run", "--dry-run"]).output().unwrap();
        let rehearsed = String::from_utf8(rehearsed.stdout).unwrap();
        assert_eq!(rehearsed.contains("without its"), told.is_some(), "{rehearsed}");
        let dump = fs::read_to_string(dumps(&appliance, "mariadb").join("my_shop.sql")).unwrap();
        let lacks = |part, kind| dump.contains(part) != hidden.is_some_and(|hidden| hidden.contains(kind));
        assert!(lacks("the body of a routine", "routines") && lacks("checked", "triggers"), "{dump}");
    }
}

#[test]
fn what_the_accounts_shell_prints_never_gets_into_a_dump() {
    let (mut appliance, peer) = pair(&[]);
    appliance.source_settings("[[source.command]]\nname = \"list\"\nrun = \"echo list\"");
    run(&appliance, 0);
    // As a ~/.bashrc does in ssh's sessions.
    peer.through("echo welcome; exec sh -c \"$SSH_ORIGINAL_COMMAND\"");
    let told = Run::of(appliance.command(&["backup", "run"]).output().unwrap());
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("the account's shell prints \"welcome\\n\" before it runs anything"), "{told:?}");
    assert_eq!(fs::read_to_string(dumps(&appliance, "command").join("list")).unwrap(), "list\n");
}

#[test]
fn a_sqlite_database_is_copied_while_somebody_writes_to_it() {
    let (mut appliance, peer) = pair(&[]);
    let file = peer.write("app/data.db", "");
    let sqlite = |statement: &str| {
        let output = Command::new("sqlite3").arg(&file).arg(statement).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    sqlite("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER); INSERT INTO t SELECT value FROM generate_series(1, 20000)");
    peer.write("app/other", "");
    appliance.source_settings(&format!("sqlite = [{:?}]", file.to_str().unwrap()));
    // It has the file open, and what it wrote is in the log beside it.
    let mut writer = Command::new("sqlite3")
        .arg(&file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES (0);\n").unwrap();
    peer.write("app/third", "");
    run(&appliance, 0);
    assert_eq!(names(&dumps(&appliance, "sqlite")).len(), 1);
    let copy = dumps(&appliance, "sqlite").join(names(&dumps(&appliance, "sqlite")).pop().unwrap());
    let said = Command::new("sqlite3")
        .arg("-readonly")
        .arg(&copy)
        .arg("SELECT count(*) FROM t; PRAGMA integrity_check")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "20001\nok\n", "{said:?}");
    drop(input);
    writer.wait().unwrap();

    let good = fs::read(&copy).unwrap();
    peer.program("sqlite3", "/usr/bin/sqlite3 \"$@\"; for f in /tmp/tmp.*/copy; do [ -w \"$f\" ] && dd if=/dev/zero of=\"$f\" bs=4096 seek=5 count=20 conv=notrunc status=none; done");
    let said = run(&appliance, 1).stdout;
    assert!(said.contains("SQLite finds it damaged") || said.contains("`sqlite3` can't read it"), "{said}");
    assert!(fs::read(&copy).unwrap() == good);
    fs::remove_file(&file).unwrap();
    peer.program("sqlite3", "exec /usr/bin/sqlite3 \"$@\"");
    let said = run(&appliance, 1).stdout;
    assert!(said.contains("is there such a file, and may the account read it"), "{said}");
}

#[test]
fn a_commands_output_is_a_dump_when_it_ends_as_it_should_and_has_not_shrunk() {
    let (mut appliance, peer) = pair(&[]);
    appliance.source_settings("[[source.command]]\nname = \"ldap\"\nrun = \"printf 'caf\\\\303\\\\251 %s\\\\n' \\\"$(export-all)\\\"\"\nends_with = \"# end\"");
    let export = |bytes: u32, end: &str| {
        drop(peer.program("export-all", &format!("head -c {bytes} /dev/zero | tr '\\0' x; echo; echo '{end}'")));
    };
    export(200_000, "# end");
    run(&appliance, 0);
    let dump = dumps(&appliance, "command").join("ldap");
    let good = fs::read(&dump).unwrap();
    assert!(good.starts_with("café xxx".as_bytes()) && good.ends_with(b"x\n# end\n"));
    export(200_000, "");
    let run_it = run(&appliance, 1);
    assert!(run_it.stdout.contains("it doesn't end with what `ends_with` says"), "{run_it:?}");
    export(50_000, "# end");
    let run_it = run(&appliance, 1);
    assert!(run_it.stdout.contains("which is less than 50 % of the last one's 195.3 KiB"), "{run_it:?}");
    assert!(fs::read(&dump).unwrap() == good);
    let accepted = Run::of(appliance.command(&["backup", "run", "--accept-smaller-dumps", "web"]).output().unwrap());
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    assert!(fs::metadata(&dump).unwrap().len() < 60_000 && warnings(&appliance).is_empty());
}
