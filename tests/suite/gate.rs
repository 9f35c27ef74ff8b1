//! A source with a gate: what `source setup` prints, run by root on a server, and what its key can and can't do there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::appliance::{Appliance, Run, names};
use crate::support::machine::Machine;
use crate::support::mariadb::MariaDb;
use crate::support::peer::ordinary_user;
use crate::support::postgresql::Postgresql;

/// The account that is set up.
const USER: &str = "vb-pull";

/// Where its gate is, and what was done for it.
const FOLDER: &str = "/usr/local/lib/vaultberry/vb-pull";

/// Files whose modes keep the account out, beside some that don't.
const FILES: &str = "
mkdir -p /srv/site/open /srv/site/closed/deep /srv/site/left /srv/site/shared /srv/other /srv/single/.ssh
chmod 0700 /srv/site /srv/site/closed /srv/single
chmod 1733 /srv/site/shared
umask 077
echo left out >/srv/site/left/file
echo secret >/srv/site/closed/deep/config
echo outside >/srv/other/file
echo key >/srv/single/.ssh/id_ed25519
echo one >/srv/single/file
ln -s /srv/other /srv/site/out
ln -s /srv/other/file /srv/site/open/out
umask 022
echo page >/srv/site/open/page
";

struct Setting {
    appliance: Appliance,
    machine: Machine,
}

impl Setting {
    /// An appliance and a server with [`FILES`]; its source has these paths and settings, and a gate.
    fn new(paths: &[&str], settings: &str) -> Self {
        let mut appliance = Appliance::new(false);
        appliance.public_key();
        let machine = Machine::start();
        machine.done(FILES);
        let paths: Vec<&Path> = paths.iter().map(Path::new).collect();
        appliance.source("web", machine.port, USER, &machine.host_key(), &paths);
        appliance.source_settings("gate = true");
        appliance.source_settings(settings);
        Self { appliance, machine }
    }

    /// What `source setup` prints, as a file of the server's.
    fn script(&self) -> PathBuf {
        let printed = self.appliance.command(&["source", "setup", "web"]).output().unwrap();
        assert!(printed.status.success(), "{printed:?}");
        self.machine.file("setup.sh", &String::from_utf8(printed.stdout).unwrap())
    }

    /// Runs it there.
    fn set_up(&self, argument: &str) -> Output {
        let script = self.script();
        self.machine.sh("sh $1 $2", &[script.to_str().unwrap(), argument])
    }

    fn set_up_well(&self) -> String {
        let output = self.set_up("");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(&self, code: i32) -> Run {
        let run = self.appliance.run();
        assert_eq!(run.code, Some(code), "{run:?}");
        run
    }

    fn key(&self) -> PathBuf {
        self.appliance.state("ssh/id_ed25519")
    }

    /// Asks the server with the appliance's key for this.
    fn ask(&self, options: &[&str], asked: &str) -> Output {
        self.machine
            .ssh(&self.key(), USER)
            .args(options)
            .arg("127.0.0.1")
            .args((!asked.is_empty()).then_some(asked))
            .output()
            .unwrap()
    }

    /// rsync with the appliance's key; `@` in an argument is the server.
    fn rsync(&self, arguments: &[&str]) -> Output {
        let shell = format!("ssh {}", self.machine.ssh_options(&self.key()).join(" "));
        let server = format!("{USER}@127.0.0.1");
        let arguments = arguments.iter().map(|argument| argument.replace('@', &server));
        Command::new("rsync").args(["-e", &shell]).args(arguments).output().unwrap()
    }

    /// The gate's mark.
    fn mark(&self) -> String {
        let gate = self.machine.done(&format!("cat {FOLDER}/gate"));
        let (_, rest) = gate.split_once("\n'vaultberry ").unwrap();
        rest.split_once(" quiet'").unwrap().0.to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_is_configured_comes_through_the_gate_and_nothing_else_is_opened() {
    let paths = ["/srv/site", "/srv/single/file"];
    let setting =
        Setting::new(&paths, "sentinels = [\"/srv/site/open/page\"]\nexclude = [\"/srv/site/left\"]\nbandwidth = \"100 MiB\"");
    let before = setting.machine.done("getfacl -R -p /srv; getent passwd");
    let refused = setting.run(1);
    assert!(refused.stdout.contains("Permission denied"), "{refused:?}");
    let said = setting.set_up_well();
    assert!(said.contains("making the account vb-pull") && said.contains("letting vb-pull read /srv/site\n"), "{said}");
    let run = setting.run(0);
    assert_eq!(run.stderr, "", "{run:?}");
    let (_folder, tree) = setting.appliance.unpack(&setting.appliance.archives("web")[0], Path::new("/srv"));
    assert_eq!(fs::read_to_string(tree.join("site/closed/deep/config")).unwrap(), "secret\n");
    assert_eq!(fs::read_to_string(tree.join("single/file")).unwrap(), "one\n");
    assert_eq!(fs::read_link(tree.join("site/out")).unwrap(), Path::new("/srv/other"));
    assert_eq!(names(&tree), ["single", "site"]);
    // What others had no right to they still have none to, nor has the account to what isn't configured.
    let reads = |user: &str, path: &str| setting.machine.sh("runuser -u $1 -- cat $2", &[user, path]).status.success();
    assert!(reads(USER, "/srv/site/closed/deep/config") && !reads("nobody", "/srv/site/closed/deep/config"));
    assert!(!reads(USER, "/srv/other/file") && !reads(USER, "/srv/single/.ssh/id_ed25519"));
    assert!(!reads(USER, "/srv/site/left/file"));
    // What is made later in a closed folder is readable too; where others have rights the umask holds.
    setting
        .machine
        .done("umask 077; for at in closed shared; do mkdir /srv/site/$at/new; echo later >/srv/site/$at/new/file; done");
    assert!(reads(USER, "/srv/site/closed/new/file") && !reads("nobody", "/srv/site/closed/new/file"));
    assert_eq!(setting.machine.done("stat -c %a /srv/site/shared/new/file"), "600\n");
    let dry = setting.appliance.command(&["backup", "run", "--dry-run"]).output().unwrap();
    assert!(dry.status.success(), "{dry:?}");

    // Again: the same. Removed: as before.
    let again = setting.set_up_well();
    assert!(!again.contains("making"), "{again}");
    setting.machine.done("rm -r /srv/site/*/new; runuser -u vb-pull -- sleep 600 >/dev/null 2>&1 &");
    let removed = setting.set_up("--remove");
    assert!(removed.status.success() && removed.stderr.is_empty(), "{removed:?}");
    assert_eq!(setting.machine.done("getfacl -R -p /srv; getent passwd"), before);
    assert_eq!(setting.machine.done("ls /usr/local/lib/vaultberry /var/lib | grep vb-pull || true"), "");
    setting.run(1);
    let nothing = setting.set_up("--remove");
    assert!(text(&nothing.stderr).contains("nothing was set up for vb-pull here"), "{nothing:?}");
}

#[test]
fn whatever_else_the_key_asks_for_is_refused_and_logged() {
    let setting = Setting::new(&["/srv/site", "/srv/single/file"], "postgresql = []");
    setting.set_up_well();
    let mark = setting.mark();
    setting.machine.logged();
    let logged = |asked: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut lines = setting.machine.logged();
        // The client is told before the log.
        while lines.is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
            lines = setting.machine.logged();
        }
        assert!(lines.len() == 1 && lines[0].contains("vaultberry-gate: vb-pull: refused: "), "{asked}: {lines:?}");
    };
    let refused = |output: &Output, asked: &str| {
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("vaultberry gate: refused: "), "{asked}: {output:?}");
        assert!(!text(&output.stdout).contains("secret"), "{asked}: {output:?}");
        logged(asked);
    };
    assert!(setting.ask(&[], &format!("vaultberry {mark} quiet")).status.success());
    let server = "rsync --server --sender";
    for asked in [
        "",
        "id",
        "sh -c id",
        "cat /srv/other/file",
        "/usr/lib/openssh/sftp-server",
        "scp -f /srv/site/open/page",
        "scp -t /tmp",
        &format!("vaultberry {mark} quiet; id"),
        &format!("vaultberry {mark} quiet\nid"),
        &format!("vaultberry {mark} $(id)"),
        &format!("vaultberry {mark} `id`"),
        &format!("vaultberry {mark} look 3"),
        &format!("vaultberry {mark} look 1 -delete"),
        &format!("vaultberry {mark} *"),
        &format!("vaultberry {mark} postgresql postgres"),
        "vaultberry 0123456789abcdef quiet",
        &format!("rsync --server -logDtpre.iLsfxCIvu . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu . /srv/other/"),
        &format!("{server} -logDtpre.iLsfxCIvu . {mark}/1/../other/"),
        &format!("{server} -logDtpre.iLsfxCIvu . {mark}/1/ /srv/other/"),
        &format!("{server} -logDtpre.iLsfxCIvu . {mark}/3/"),
        &format!("{server} -logDtpre.iLsfxCIvu . {mark}/*/"),
        &format!("{server} -logDtpre.iLsfxCIvu . ../../srv/other/"),
        &format!("{server} -logDtpre.iLsfxCIvu . 0123456789abcdef/1/"),
        &format!("{server} -rLe.iLsfxCIvu . {mark}/1/"),
        &format!("{server} -rke.iLsfxCIvu . {mark}/1/"),
        &format!("{server} -srlogDtpe.iLsfxCIvu . {mark}/1/"),
        &format!("{server} -rlogDtpe/bin/sh . {mark}/1/"),
        &format!("{server} -rlogDtpe.i/bin/sh . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu --rsh=/bin/sh . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu --copy-unsafe-links . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu --files-from=/srv/other/file . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu --log-file=/tmp/log . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu --remove-source-files . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu --timeout=1;id . {mark}/1/"),
        &format!("{server} -logDtpre.iLsfxCIvu --exclude-from=/srv/other/file . {mark}/1/"),
        &format!("{server} --daemon . {mark}/1/"),
        "rsync --server --daemon .",
        &format!("{server} . {mark}/1/"),
        server,
    ] {
        refused(&setting.ask(&[], asked), asked);
    }
    // A newline is no way past the log.
    let many = setting.ask(&[], "one\ntwo\u{1b}[2Jthree");
    refused(&many, "control characters");
    assert!(text(&many.stderr).contains("one?two?[2Jthree"), "{many:?}");
    let sftp = setting.ask(&["-s"], "sftp");
    assert_eq!((sftp.status.code(), sftp.stdout.len()), (Some(126), 0), "{sftp:?}");
    logged("sftp");
    let page = format!("@:{mark}/1/open/page");
    refused(&setting.rsync(&["-a", &page, "/tmp/"]), &page);
    refused(&setting.rsync(&["-a", "/etc/hostname", &format!("@:{mark}/1/")]), "writing");

    // A terminal, and ways into its network.
    let terminal = setting.ask(&["-tt"], &format!("vaultberry {mark} quiet"));
    assert!(text(&terminal.stderr).contains("PTY allocation request failed"), "{terminal:?}");
    let through = setting.ask(&["-W", &format!("127.0.0.1:{}", setting.machine.port)], "");
    assert!(!through.status.success() && through.stdout.is_empty(), "{through:?}");
    let back = setting.ask(&["-o", "ExitOnForwardFailure=yes", "-N", "-R", "127.0.0.1:0:127.0.0.1:1"], "");
    assert!(text(&back.stderr).contains("remote port forwarding failed"), "{back:?}");
    // A real rsync gets what it may, so that the refusals above are the gate's.
    let folder = tempfile::tempdir().unwrap();
    let target = format!("{}/", folder.path().display());
    let allowed = setting.rsync(&["-rl", &format!("@:{mark}/1/"), &target]);
    assert!(allowed.status.success(), "{allowed:?}");
    assert_eq!(names(folder.path()), ["closed", "left", "open", "out", "shared"]);
}

#[test]
fn a_gate_of_another_configuration_is_not_asked_for_numbers() {
    let mut setting = Setting::new(&["/srv/site/open", "/srv/single/file"], "");
    setting.set_up_well();
    setting.run(0);
    setting.appliance.instead("\"/srv/site/open\"", "\"/srv/other\"");
    let run = setting.run(1);
    let said = &run.stdout;
    assert!(said.contains("this gate is of another configuration"), "{said}");
    assert!(said.contains("run on the server what `vaultberry source setup web` prints"), "{said}");
    let changed = setting.set_up_well();
    assert!(changed.contains("taking vb-pull's rights on /srv/site/open\n"), "{changed}");
    setting.run(0);
    let reads = |path: &str| setting.machine.sh("runuser -u vb-pull -- cat $1", &[path]).status.success();
    assert!(reads("/srv/other/file") && !reads("/srv/site/open/page"));

    // An account that was there before is left alone, and so is one that serves another source.
    setting.machine.done("useradd --system taken");
    setting.appliance.instead("user = \"vb-pull\"", "user = \"taken\"");
    let taken = setting.set_up("");
    assert!(text(&taken.stderr).contains("there is an account taken here already"), "{taken:?}");
    setting.appliance.instead("user = \"taken\"", "user = \"vb-pull\"");
    setting.appliance.instead("name = \"web\"", "name = \"shop\"");
    let printed = setting.appliance.command(&["source", "setup", "shop"]).output().unwrap();
    let script = setting.machine.file("setup.sh", &text(&printed.stdout));
    let other = setting.machine.sh("sh $1", &[script.to_str().unwrap()]);
    assert!(text(&other.stderr).contains("the account vb-pull is for another: "), "{other:?}");
}

#[test]
fn root_is_led_nowhere_else_and_what_programs_want_private_stays_so() {
    let setting = Setting::new(&["/home/anna/site/sub", "/var/spool/cron"], "");
    setting.machine.done(
        "useradd --system anna; mkdir -p /home/anna /root/private/sub; chmod 0755 /home/anna; chown anna /home/anna
         runuser -u anna -- ln -s /root/private /home/anna/site; echo secret >/root/private/sub/file
         mkdir -p /var/spool/cron/crontabs; chmod 0700 /var/spool/cron/crontabs; umask 077; echo >/var/spool/cron/crontabs/root",
    );
    let before = setting.machine.done("getfacl -R -p /root /var/spool/cron/crontabs/root");
    let led = setting.set_up("");
    let said = text(&led.stderr);
    assert!(
        !led.status.success() && said.contains("a link that isn't root's leads /home/anna/site/sub to /root/private/sub"),
        "{led:?}"
    );
    assert_eq!(setting.machine.done("getfacl -R -p /root /var/spool/cron/crontabs/root"), before);
}

#[test]
fn postgresql_behind_a_gate() {
    let postgresql = Postgresql::start(&ordinary_user());
    let odd = "it's \"odd\" $HOME";
    for name in ["wiki", odd] {
        postgresql.run("postgres", &[&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))]);
        postgresql.run(
            name,
            &[
                "CREATE TABLE page (id int, text text)",
                "INSERT INTO page VALUES (1, 'mine'), (2, 'theirs')",
                "ALTER TABLE page ENABLE ROW LEVEL SECURITY",
                "CREATE POLICY half ON page USING (id = 1)",
                "SELECT lo_from_bytea(0, 'a large object')",
                "REVOKE CONNECT ON DATABASE wiki FROM PUBLIC",
            ],
        );
    }
    let mut setting = Setting::new(&[], "postgresql = [\"wiki\"]");
    setting.machine.done(&format!("mkdir /run/postgresql; ln -s {}/.s.PGSQL.5432 /run/postgresql", postgresql.host()));
    // The owner of a database chooses where names are looked for in it, and doesn't become a superuser by that.
    postgresql.run("postgres", &["CREATE ROLE owner LOGIN", "ALTER DATABASE wiki OWNER TO owner"]);
    postgresql.run(
        "wiki",
        &[
            "SET ROLE owner",
            "CREATE SCHEMA evil",
            "CREATE FUNCTION evil.format(text, oid, text) RETURNS text LANGUAGE sql AS $$ SELECT 'ALTER ROLE owner SUPERUSER' $$",
            "ALTER DATABASE wiki SET search_path = evil, pg_catalog",
        ],
    );
    let said = setting.set_up_well();
    assert_eq!(postgresql.query("postgres", "SELECT rolsuper FROM pg_roles WHERE rolname = 'owner'"), "f\n");
    assert!(said.contains("BYPASSRLS") && said.contains("the 1 large objects of wiki"), "{said}");
    setting.run(0);
    let dump = fs::read_to_string(setting.appliance.backup("current/web/dumps/postgresql/wiki.sql")).unwrap();
    assert!(dump.contains("theirs") && dump.contains(&vaultberry::digest::hex(b"a large object")), "{dump}");
    let mark = setting.mark();
    for asked in ["postgresql 2", "postgresql postgres", "postgresql 1 --file=/tmp/x", "all-postgresql"] {
        let refused = setting.ask(&[], &format!("vaultberry {mark} {asked}"));
        assert!(text(&refused.stderr).contains("vaultberry gate: refused: "), "{asked}: {refused:?}");
    }
    // What came after the setup isn't silently left out.
    postgresql.run("wiki", &["SELECT lo_from_bytea(0, 'a second one')"]);
    let later = setting.run(1);
    assert!(later.stdout.contains("permission denied for large object"), "{later:?}");
    setting.set_up_well();
    setting.run(0);

    // All of them, by their names, whatever these are.
    setting.appliance.instead("postgresql = [\"wiki\"]", "postgresql = [\"*\"]");
    setting.set_up_well();
    setting.run(0);
    let mut all = names(&setting.appliance.backup("current/web/dumps/postgresql"));
    all.sort();
    assert_eq!(all, [&format!("{odd}.sql"), "postgres.sql", "wiki.sql"]);
    postgresql.run("postgres", &["CREATE DATABASE \"x=y\""]);
    let mark = setting.mark();
    for name in ["", "none", "x=y", "-x", "template0", "wiki\nid", "wiki; id", "wik", "*"] {
        let refused = setting.ask(&[], &format!("vaultberry {mark} postgresql {name}"));
        assert!(text(&refused.stderr).contains("vaultberry gate: refused: "), "{name}: {refused:?}");
    }

    let removed = setting.set_up("--remove");
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(postgresql.query("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'vb-pull'"), "0\n");
    assert!(!postgresql.query("wiki", "SELECT lomacl FROM pg_largeobject_metadata").contains("vb-pull"));
}

#[test]
fn mariadb_behind_a_gate() {
    let mut setting = Setting::new(&[], "mariadb = [\"my_shop\"]");
    let mariadb = MariaDb::start_on(&setting.machine, &ordinary_user());
    for name in ["my_shop", "myxshop"] {
        mariadb.query("", &format!("CREATE DATABASE {name}"));
        mariadb.query(name, "CREATE TABLE goods (id INT); CREATE VIEW seen AS SELECT id FROM goods");
        mariadb.query(name, "CREATE PROCEDURE restock() SELECT 'the body of a routine'");
        mariadb.query(name, "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO SELECT 1");
        mariadb.query(name, "CREATE TRIGGER checked BEFORE INSERT ON goods FOR EACH ROW SET NEW.id = 7");
    }
    setting.machine.done(&format!("mkdir /run/mysqld; ln -s {} /run/mysqld/mysqld.sock", mariadb.socket().display()));
    setting.set_up_well();
    setting.run(0);
    let dump = fs::read_to_string(setting.appliance.backup("current/web/dumps/mariadb/my_shop.sql")).unwrap();
    for part in ["the body of a routine", "nightly", "checked", "seen"] {
        assert!(dump.contains(part), "{part}: {dump}");
    }
    // The other database is neither the gate's nor the account's.
    let mark = setting.mark();
    let refused = setting.ask(&[], &format!("vaultberry {mark} mariadb myxshop"));
    assert!(text(&refused.stderr).contains("vaultberry gate: refused: "), "{refused:?}");
    let own = setting.machine.sh("runuser -u vb-pull -- mariadb -e 'SELECT * FROM myxshop.goods'", &[]);
    assert!(text(&own.stderr).contains("denied"), "{own:?}");

    setting.appliance.instead("mariadb = [\"my_shop\"]", "mariadb = [\"*\"]");
    setting.set_up_well();
    setting.run(0);
    let all = names(&setting.appliance.backup("current/web/dumps/mariadb"));
    assert!(["my_shop.sql", "myxshop.sql", "mysql.sql"].iter().all(|name| all.iter().any(|known| known == name)), "{all:?}");

    // What can't be undone now can be later; the key is locked out at once.
    setting.machine.done("mv /run/mysqld/mysqld.sock /run/mysqld/away");
    let kept = setting.set_up("--remove");
    let said = text(&kept.stderr);
    assert!(!kept.status.success() && said.contains("couldn't be undone, and stays written down: mariadb-user"), "{kept:?}");
    assert!(text(&setting.ask(&[], "id").stderr).contains("Permission denied"));
    setting.machine.done("mv /run/mysqld/away /run/mysqld/mysqld.sock");
    let removed = setting.set_up("--remove");
    assert!(removed.status.success() && removed.stderr.is_empty(), "{removed:?}");
    assert_eq!(mariadb.query("", "SELECT COUNT(*) FROM mysql.user WHERE User = 'vb-pull'"), "0\n");
}

#[test]
fn a_closed_sqlite_database_and_a_command_behind_a_gate() {
    let settings = "sqlite = [\"/srv/single/app.db\"]\n[[source.command]]\nname = \"words\"\nrun = \"echo 'it is'; echo end\"\nends_with = \"end\"";
    let setting = Setting::new(&[], settings);
    setting.machine.done(
        "sqlite3 /srv/single/app.db 'PRAGMA journal_mode = WAL; CREATE TABLE t AS SELECT 42 AS answer'; chmod 600 /srv/single/*",
    );
    setting.set_up_well();
    // Somebody has it open, as an application has.
    setting.machine.done("mkfifo /srv/single/pipe; umask 077; (sqlite3 /srv/single/app.db </srv/single/pipe >/dev/null 2>&1 &) ; exec 3>/srv/single/pipe; echo 'INSERT INTO t VALUES (43);' >&3; sleep 1; (sleep 30 >&3 2>/dev/null </dev/null &) >/dev/null");
    setting.run(0);
    let dump = setting.appliance.backup("current/web/dumps/sqlite/srv%2Fsingle%2Fapp.db");
    let rows = Command::new("sqlite3").arg(&dump).arg("SELECT answer FROM t ORDER BY 1").output().unwrap();
    assert_eq!(text(&rows.stdout), "42\n43\n");
    let said = fs::read_to_string(setting.appliance.backup("current/web/dumps/command/words")).unwrap();
    assert_eq!(said, "it is\nend\n");
}
