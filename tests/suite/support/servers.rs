//! Everything that an appliance meets on a night: a server with files and a database, a store, a mail server, and the
//! owner, who opens what comes.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::gnupg::GnuPg;
use super::mailbox::{Mail, Mailbox};
use super::peer::Peer;
use super::postgresql::Postgresql;
use super::store::{BUCKET, Store};
use super::{assert_same, card::tool};

/// What the store wants to hear: moto takes any.
pub const CREDENTIALS: &str = "access_key_id = \"test\"\nsecret_access_key = \"secret\"\n";

/// The servers of one test.
pub struct Servers {
    pub peer: Peer,
    pub postgresql: Postgresql,
    pub store: Store,
    pub mailbox: Mailbox,
    pub owner: GnuPg,
}

impl Servers {
    /// Starts them; the server lets in who has the private half of this key. The database is `wiki`.
    pub fn start(public_key: &str, owner: GnuPg) -> Self {
        let mut peer = Peer::start(public_key, None);
        let postgresql = Postgresql::start(&peer.user);
        peer.set_environment(&[("PGHOST", postgresql.host()), ("PGUSER", "postgres")]);
        postgresql.run("postgres", &["CREATE DATABASE wiki"]);
        postgresql
            .run("wiki", &["CREATE TABLE page (id int PRIMARY KEY, text text)", "INSERT INTO page VALUES (1, 'it''s here')"]);
        Self { peer, postgresql, store: Store::start(), mailbox: Mailbox::start(&[]), owner }
    }

    /// The sections about store and mail, for an appliance that reaches them at the address `host`.
    pub fn sections(&self, host: &str, credentials: &Path) -> String {
        format!(
            "[openpgp]\nrecipients = [\"\"\"{}\"\"\"]\n\n[offsite]\nbucket = \"{BUCKET}\"\nprefix = \"attic\"\n\
             endpoint = \"http://{host}:{}\"\ncredentials = \"{}\"\n\n[report]\nto = [\"owner@example.org\"]\n\
             from = \"attic@example.org\"\nserver = \"{host}\"\nport = {}\nca = \"\"\"{}\"\"\"\n",
            self.owner.certificate(),
            self.store.port,
            credentials.display(),
            self.mailbox.port,
            self.mailbox.authority()
        )
    }

    /// The reports that came, opened, from old to new.
    pub fn mails(&self) -> Vec<Mail> {
        self.mailbox.mails().iter().map(|mail| Mail::open(mail, &self.owner)).collect()
    }

    /// The keys of the commit objects in the store: one for each copy that counts, but for the appliance's own.
    pub fn copies(&self) -> Vec<String> {
        let commits = self.store.keys().into_iter().filter(|key| key.ends_with(".commit.json"));
        commits.filter(|key| !key.contains("/_appliance/")).collect()
    }

    /// Fetches the only copy but the appliance's own without vaultberry, opens it with GnuPG, unpacks it with GNU tar into the folder `to`, and
    /// gives the bytes of the archive.
    pub fn open_copy(&self, to: &Path) -> Vec<u8> {
        let keys: Vec<String> = self.store.keys().into_iter().filter(|key| key.ends_with(".tar.gz.pgp")).collect();
        let keys: Vec<String> = keys.into_iter().filter(|key| !key.contains("/_appliance/")).collect();
        assert_eq!(keys.len(), 1, "{keys:?}");
        fs::create_dir_all(to).unwrap();
        let sealed = to.with_extension("pgp");
        fs::write(&sealed, self.store.get(&keys[0]).unwrap()).unwrap();
        let archive = self.owner.decrypt(&sealed);
        fs::write(to.with_extension("tar.gz"), &archive).unwrap();
        tool(Command::new("tar").arg("-xzf").arg(to.with_extension("tar.gz")).arg("-C").arg(to));
        archive
    }

    /// That the tree below `root` is what the server has: the files byte for byte, the database by loading its dump into a
    /// new one of the name `database`.
    pub fn assert_restored(&self, root: &Path, database: &str) {
        assert_same(&self.peer.data(), &root.join(self.peer.data().strip_prefix("/").unwrap()));
        self.postgresql.load(database, &root.join("dumps/postgresql/wiki.sql"));
        assert_eq!(self.postgresql.query(database, "SELECT id, text FROM page"), "1|it's here\n");
    }
}
