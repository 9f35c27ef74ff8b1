//! Databases of a source: a real PostgreSQL behind a real sshd, dumped by `backup run`, and loaded again with `psql`.

mod kinds;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::appliance::{Appliance, Run, index, names};
use crate::support::peer::Peer;
use crate::support::postgresql::Postgresql;

/// The role that the peer's user is in the database: no superuser.
const ROLE: &str = "reader";

/// An appliance, and a server with PostgreSQL on which [`ROLE`] may read everything.
fn triple() -> (Appliance, Peer, Postgresql) {
    let appliance = Appliance::new(false);
    let mut peer = Peer::start(&appliance.public_key(), None);
    let postgresql = Postgresql::start(&peer.user);
    let role = format!("CREATE ROLE {ROLE} LOGIN IN ROLE pg_read_all_data");
    postgresql.run("postgres", &[&role]);
    environment(&mut peer, &postgresql, ROLE);
    (appliance, peer, postgresql)
}

/// Tells the peer's sessions where the database is, who they are there, and to look for programs in its `bin` first.
fn environment(peer: &mut Peer, postgresql: &Postgresql, role: &str) {
    let bin = peer.data().parent().unwrap().join("bin");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    peer.set_environment(&[("PGHOST", postgresql.host()), ("PGUSER", role), ("PATH", &path)]);
}

/// Makes the database `name` with values that are easily broken, and a few megabytes.
fn fill(postgresql: &Postgresql, name: &str) {
    postgresql.run("postgres", &[&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))]);
    postgresql.run(
        name,
        &[
            "CREATE TABLE odd (id int PRIMARY KEY, text text, bytes bytea, at timestamptz, number numeric)",
            "INSERT INTO odd VALUES (1, E'it''s \"quoted\", a\\nnewline\\r\\n, a\\ttab and \\\\.', '\\x00ff0a5c', now(), 'NaN')",
            "INSERT INTO odd VALUES (2, NULL, NULL, NULL, NULL), (3, '', '', 'infinity', -0.1), (4, 'Zürich 雪 🍓', NULL, NULL, 1)",
            "INSERT INTO odd VALUES (5, E'--\\n-- PostgreSQL database dump complete\\n--\\n', NULL, NULL, NULL)",
            "CREATE TABLE large AS SELECT n AS id, repeat(md5(n::text), 4) AS text FROM generate_series(1, 20000) n",
            "CREATE SEQUENCE numbers START 42",
            "CREATE VIEW seen AS SELECT id FROM odd",
        ],
    );
}

/// All that [`fill`] has made, as text.
fn content(postgresql: &Postgresql, name: &str) -> String {
    ["SELECT * FROM odd ORDER BY id", "SELECT md5(string_agg(l::text, '' ORDER BY id)) FROM large l", "SELECT * FROM seen"]
        .map(|query| postgresql.query(name, query))
        .concat()
}

fn dumps(appliance: &Appliance) -> PathBuf {
    appliance.backup("current/web/dumps/postgresql")
}

/// The warnings in the index of the last snapshot.
fn warnings(appliance: &Appliance) -> Vec<String> {
    let trailer = index(appliance.archives("web").last().unwrap()).pop().unwrap();
    trailer["warnings"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

/// The only source of an appliance, and its mirror.
#[test]
fn dumps_in_a_snapshot_load_with_psql_and_hold_what_the_databases_held() {
    let (mut appliance, peer, postgresql) = triple();
    let odd = "it's a \"test\" $HOME";
    for name in ["wiki", odd] {
        fill(&postgresql, name);
    }
    peer.write("file", "1");
    appliance.pull_from("web", &peer);
    appliance.source_settings("postgresql = [\"wiki\", \"it's a \\\"test\\\" $HOME\"]");

    let rehearsed = appliance.rehearse();
    assert_eq!((rehearsed.outcome.as_str(), rehearsed.warnings.len()), ("complete", 0), "{rehearsed:?}");
    assert_eq!(
        rehearsed.lines,
        [
            "the database wiki can be dumped".to_owned(),
            format!("the database {odd} can be dumped"),
            format!("{}: 1 files and 1 bytes would be transferred, 0 entries deleted", peer.data().display())
        ]
    );
    assert!(names(&appliance.backup("")).is_empty());

    let run = appliance.run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let (_folder, restored) = appliance.unpack(&appliance.archives("web")[0], Path::new("/dumps/postgresql"));
    assert_eq!(names(&restored), [format!("{odd}.sql"), "wiki.sql".to_owned()]);
    assert_eq!(names(&dumps(&appliance)), names(&restored));
    for name in ["wiki", odd] {
        postgresql.load("restored", &restored.join(format!("{name}.sql")));
        assert_eq!(content(&postgresql, "restored"), content(&postgresql, name));
        assert_eq!(postgresql.query("restored", "SELECT nextval('numbers')"), "42\n");
        postgresql.run("postgres", &["DROP DATABASE restored"]);
    }
    let header = &index(&appliance.archives("web")[0])[0];
    assert_eq!(header["roots"][0], "dumps");
}

#[test]
fn progress_tells_what_is_being_pulled_and_how_much_has_come() {
    let (mut appliance, peer, postgresql) = triple();
    fill(&postgresql, "wiki");
    peer.write("file", "12345");
    appliance.pull_from("web", &peer);
    appliance.source_settings("postgresql = [\"wiki\"]\npostgresql_globals = false");
    let run = Run::of(appliance.command(&["backup", "run", "--json"]).output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    let events: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<(&str, u64)> =
        events.iter().filter_map(|event| Some((event["doing"].as_str()?, event["done"].as_u64()?))).collect();
    let mut doing: Vec<&str> = told.iter().map(|(doing, _)| *doing).collect();
    doing.dedup();
    assert_eq!(doing, ["dumping wiki", &format!("pulling {}", peer.data().display()), "archiving"]);
    assert_eq!(told[0], ("dumping wiki", 0));
    for pair in told.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1 <= pair[1].1, "{told:?}");
    }
}

#[test]
fn a_dump_that_is_not_proven_whole_leaves_the_last_good_one() {
    let (mut appliance, peer, postgresql) = triple();
    for name in ["wiki", "shop"] {
        fill(&postgresql, name);
    }
    peer.write("file", "1");
    appliance.pull_from("web", &peer);
    appliance.source_settings("postgresql = [\"wiki\", \"shop\"]");
    assert_eq!(appliance.run().code, Some(0));
    let dump = dumps(&appliance).join("wiki.sql");
    let (good, made) = (fs::read(&dump).unwrap(), fs::metadata(&dump).unwrap().modified().unwrap());
    let date = date_of(made);

    for (script, why) in [
        // cut, with nobody who says so
        ("/usr/bin/pg_dump \"$@\" | head -c 1000000; exit 0", "its end is missing"),
        // whole, and yet
        (
            "/usr/bin/pg_dump \"$@\"; echo 'the disk is on fire' >&2; exit 1",
            "`pg_dump` ended with exit code 1; the disk is on fire",
        ),
        ("exit 0", "it doesn't begin as a dump does"),
        ("echo hello; exec /usr/bin/pg_dump \"$@\"", "it doesn't begin as a dump does"),
    ] {
        peer.program("pg_dump", &format!("case $* in *shop*) exec /usr/bin/pg_dump \"$@\";; esac\n{script}"));
        peer.write("file", why);
        let run = appliance.run();
        assert_eq!(run.code, Some(3), "{run:?}");
        let expected = format!("the database wiki was not dumped, and the snapshot has the dump of {date} instead, which is ");
        let said = warnings(&appliance);
        assert!(said.len() == 1 && said[0].starts_with(&expected) && said[0].ends_with(&format!(" old: {why}")), "{said:?}");
        assert!(fs::read(&dump).unwrap() == good && fs::metadata(&dump).unwrap().modified().unwrap() == made, "{why}");
        assert_eq!(names(&dumps(&appliance)), ["shop.sql", "wiki.sql"]);
        // The rest of the source is as new as can be.
        let (_folder, restored) = appliance.unpack(appliance.archives("web").last().unwrap(), &peer.data());
        assert_eq!(fs::read_to_string(restored.join("file")).unwrap(), why);
        assert!(fs::metadata(dumps(&appliance).join("shop.sql")).unwrap().modified().unwrap() > made);
    }

    // Gone from the server, and then from the configuration.
    fs::remove_file(peer.program("pg_dump", "").join("pg_dump")).unwrap();
    postgresql.run("postgres", &["DROP DATABASE wiki"]);
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    let gone = &warnings(&appliance)[0];
    assert!(gone.contains("database \"wiki\" does not exist; hint: correct `postgresql`") && gone.contains(&date), "{gone}");
    assert!(run.stdout.contains(gone), "{}", run.stdout);
    assert_eq!(fs::read(&dump).unwrap(), good);

    let mut without = Appliance::new(false);
    peer.let_in(&without.public_key());
    without.pull_from("web", &peer);
    without.source_settings("postgresql = [\"shop\"]");
    fs::create_dir_all(dumps(&without)).unwrap();
    fs::copy(&dump, dumps(&without).join("wiki.sql")).unwrap();
    assert_eq!(without.run().code, Some(0));
    assert_eq!(names(&dumps(&without)), ["shop.sql"]);
}

/// A file's time as a warning has it.
fn date_of(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d", &format!("@{seconds}")]).output();
    String::from_utf8(date.unwrap().stdout).unwrap().trim_end().to_owned()
}

#[test]
fn what_a_role_lacks_is_said_with_the_remedy_and_nothing_usable_is_failed() {
    let (mut appliance, mut peer, postgresql) = triple();
    fill(&postgresql, "wiki");
    postgresql.run("postgres", &["CREATE ROLE nobody LOGIN", "CREATE DATABASE blobs"]);
    postgresql.run("blobs", &["SELECT lo_from_bytea(0, 'large')"]);
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[]);
    appliance.source_settings("postgresql = [\"wiki\", \"blobs\"]");

    // pg_read_all_data, as the guide has it, is enough for tables and not for large objects.
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    let said = warnings(&appliance);
    assert!(said.len() == 1 && said[0].starts_with("the database blobs was not dumped, and the snapshot has no dump of it: "));
    assert!(
        said[0].contains("permission denied for large object") && said[0].contains("GRANT SELECT ON LARGE OBJECT"),
        "{said:?}"
    );
    assert_eq!(names(&dumps(&appliance)), ["wiki.sql"]);
    let oid = postgresql.query("blobs", "SELECT oid FROM pg_largeobject_metadata");
    postgresql.run("blobs", &[&format!("GRANT SELECT ON LARGE OBJECT {} TO {ROLE}", oid.trim())]);
    assert_eq!(appliance.run().code, Some(0));
    postgresql.load("restored", &dumps(&appliance).join("blobs.sql"));
    assert_eq!(postgresql.query("restored", &format!("SELECT convert_from(lo_get({}), 'UTF8')", oid.trim())), "large\n");
    fs::remove_file(dumps(&appliance).join("blobs.sql")).unwrap();

    environment(&mut peer, &postgresql, "nobody");
    let rehearsed = appliance.rehearse();
    assert_eq!(rehearsed.outcome, "partial", "{rehearsed:?}");
    let grant = format!("GRANT pg_read_all_data TO \"{}\"", peer.user.name);
    assert!(rehearsed.lines[0].starts_with("the database wiki can't be dumped: ") && rehearsed.lines[0].ends_with(&grant));
    let run = appliance.run();
    // Not one new dump and no path: a snapshot would hold nothing that is new.
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("nothing of it could be had: the database wiki") && run.stdout.contains(&grant), "{run:?}");
    assert_eq!((appliance.archives("web").len(), names(&dumps(&appliance))), (2, vec!["wiki.sql".to_owned()]));

    environment(&mut peer, &postgresql, "stranger");
    let run = appliance.run();
    assert!(
        run.stdout.contains("role \"stranger\" does not exist; hint: as PostgreSQL's superuser there: CREATE ROLE"),
        "{run:?}"
    );
    peer.set_environment(&[("PATH", "/bin-that-is-not-there")]);
    let run = appliance.run();
    assert!(run.stdout.contains("hint: install postgresql-client on the server"), "{run:?}");
}

#[test]
fn a_locked_table_row_security_and_a_killed_program_leave_the_last_good_dump() {
    let (mut appliance, peer, postgresql) = triple();
    fill(&postgresql, "wiki");
    peer.write("file", "1");
    appliance.pull_from("web", &peer);
    appliance.source_settings("postgresql = [\"wiki\"]\npostgresql_globals = false");
    assert_eq!(appliance.run().code, Some(0));
    let dump = dumps(&appliance).join("wiki.sql");
    let good = fs::read(&dump).unwrap();
    let refused = |why: &str, hint: &str| {
        let run = appliance.run();
        assert_eq!(run.code, Some(3), "{run:?}");
        let said = warnings(&appliance);
        assert!(said.len() == 1 && said[0].contains(why) && said[0].contains(hint), "{said:?}");
        assert!(fs::read(&dump).unwrap() == good, "{why}");
    };

    let lock = "BEGIN; LOCK TABLE large IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)";
    let mut holder = postgresql.psql("wiki").args(["-c", lock]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'large'::regclass";
    while postgresql.query("wiki", held) != "1\n" {
        sleep(Duration::from_millis(50));
    }
    // With less patience than ten minutes.
    let impatient = "for word; do shift; case $word in --lock-wait-timeout=*) word=--lock-wait-timeout=700;; esac; \
                     set -- \"$@\" \"$word\"; done; exec /usr/bin/pg_dump \"$@\"";
    peer.program("pg_dump", impatient);
    refused("timeout", "had a table locked for ten minutes");
    holder.kill().unwrap();
    holder.wait().unwrap();
    postgresql.query(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()",
    );

    // Killed when a part of it is on its way; the shell says 137, as a real one does.
    peer.program("pg_dump", "/usr/bin/pg_dump \"$@\" | { head -c 700000; kill -9 $$; }");
    refused("`pg_dump` ended with", "the database wiki was not dumped");
    fs::remove_file(peer.data().with_file_name("bin").join("pg_dump")).unwrap();

    postgresql.run("wiki", &["ALTER TABLE odd ENABLE ROW LEVEL SECURITY"]);
    refused("row-level security", "BYPASSRLS");
    postgresql.run("postgres", &[&format!("ALTER ROLE {ROLE} BYPASSRLS")]);
    assert_eq!(appliance.run().code, Some(0));
}

#[test]
fn a_dump_that_hangs_ends_with_a_signal_to_the_run() {
    let mut appliance = Appliance::new(false);
    let mut peer = Peer::start(&appliance.public_key(), None);
    // It goes on for as long as somebody listens.
    let bin = peer.program("pg_dump", "while echo going on; do sleep 1; done");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    peer.set_environment(&[("PATH", &path)]);
    appliance.pull_from("web", &peer);
    appliance.source_settings("postgresql = [\"wiki\"]");
    let mut command = appliance.command(&["backup", "run"]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let part = dumps(&appliance).join("wiki.sql.part");
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::metadata(&part).map_or(0, |part| part.len()) == 0 {
        assert!(Instant::now() < deadline && run.try_wait().unwrap().is_none(), "the dump doesn't begin");
        sleep(Duration::from_millis(50));
    }
    let asked = Instant::now();
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGTERM).unwrap();
    let run = Run::of(run.wait_with_output().unwrap());
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("interrupted by a signal"), "{}", run.stdout);
    assert!(names(&dumps(&appliance)).is_empty() && appliance.snapshots("web").is_empty());
}
