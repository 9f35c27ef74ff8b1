//! `appliance.toml`: the one file that describes an appliance.
//!
//! The types here are the checked form: whoever holds a [`Config`] can't meet an invalid value. They are made only by
//! [`load`] and [`parse`], which report every error of a file at once, with line and key.
//!
//! A file goes through three layers: `toml` makes a tree of it, `read` walks the tree and knows where everything stands,
//! and `section` and `source` say what each setting must be, with the checks of `name`, `place`, `public_key` and `value`.
//! A new setting is a line in `schema` (its name and an example for hints), one in `section` or `source`, one in `plan`
//! and one in [`EXAMPLE`]; tests see to it that none is forgotten.

mod access;
mod certificate;
mod dumps;
mod error;
mod ethernet;
mod extra;
mod keep;
mod load;
mod monitoring;
mod name;
mod nearest;
mod network;
mod offsite;
mod parse;
mod place;
mod plan;
mod public_key;
mod read;
mod region;
mod report;
#[cfg(test)]
pub mod sample;
mod schema;
mod section;
mod source;
mod updates;
mod value;
mod wifi;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::kernel::boards::Target;
use crate::luks::cipher::Cipher;
use crate::outcome::Outcome;
use crate::unlock::mark::Mark;

pub use error::{Errors, LoadError, Mistake};
pub use ethernet::Ethernet;
pub use extra::ExtraFile;
pub use keep::Keep;
pub use load::{init, load, load_with_text};
pub use network::{Interface, Network};
pub use offsite::{Reach, at as store_at};
pub use parse::parse;
pub use plan::plan;
pub use region::{Keymap, PLAIN_LOCALE};
pub use updates::{Reboot, Updates};
pub use wifi::Wifi;

/// The annotated file that `vaultberry init` writes: a demonstration that is valid as it stands.
pub const EXAMPLE: &str = include_str!("../../image/appliance.toml");

/// Where it is on an appliance.
pub const DEFAULT_CONFIG: &str = "/etc/vaultberry/appliance.toml";

/// A whole `appliance.toml`, valid and with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who the appliance is.
    pub appliance: Appliance,
    /// Who may log in.
    pub admin: Admin,
    /// From where, and what may go out.
    pub access: Access,
    /// Its address on the cable.
    pub ethernet: Ethernet,
    /// The wireless network that it joins; none without a radio.
    pub wifi: Option<Wifi>,
    /// How the image is built.
    pub image: Image,
    /// How root is opened at boot.
    pub unlock: Unlock,
    /// The encrypted backup disk; none where the agent writes into a plain folder.
    pub disk: Option<Disk>,
    /// Where and when backups are made.
    pub backup: Backup,
    /// What becomes of updates of the appliance's packages.
    pub updates: Updates,
    /// Whom off-site copies and reports are sealed for; at least one where there is an `[offsite]` or a `[report]`.
    pub recipients: Vec<Recipient>,
    /// The S3 store for sealed copies; none where all stays here.
    pub offsite: Option<Offsite>,
    /// The mail that tells of each run; none where the journal has to do.
    pub report: Option<Report>,
    /// The watcher that is told of each run; none where nobody waits for it.
    pub ping: Option<Ping>,
    /// Where metrics are left for a Prometheus; none where nobody collects them.
    pub metrics: Option<Metrics>,
    /// The servers to pull from, at least one, each with a name of its own.
    pub sources: Vec<Source>,
    /// The file as it was written. There are no secrets in it, only the names of files that hold some.
    pub text: String,
}

/// `[appliance]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appliance {
    /// An RFC 1123 host name: one label, lower case. Default `vaultberry`. Also names the image's files.
    pub hostname: String,
    /// A name of the tz database, as `Europe/Zurich`. Default `Etc/UTC`.
    pub timezone: String,
    /// The rules of language that programs go by, in UTF-8. Default [`PLAIN_LOCALE`].
    pub locale: String,
    /// The layout of a keyboard that is plugged in, also for the recovery passphrase. Default `us`.
    pub keymap: Keymap,
    /// Who is asked for the time, host names or IP addresses; empty for what DHCP names, and Debian's.
    pub time_servers: Vec<String>,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The login name. Default `admin`.
    pub user: String,
    /// Public keys in OpenSSH's one-line form. Empty only when `generate_key` is set, or where the file has no `[admin]`
    /// and only the agent runs.
    pub ssh_keys: Vec<String>,
    /// Make a throw-away key pair at build time, for demonstrations. Default false.
    pub generate_key: bool,
}

/// `[access]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The networks that ssh is open for; at least one, none inside another. Default: those that are private.
    pub ssh_from: Vec<Network>,
    /// Of these, what is never banned, nor slowed down. Default empty.
    pub never_ban: Vec<Network>,
    /// How many failed logins make a ban; 2 to 20. Default 5.
    pub ban_after: u16,
    /// How long the first ban lasts, 1 minute to 7 days; each further one is twice as long. Default 10 min.
    pub ban_for: Duration,
    /// Whether the admin's programs reach nothing, and root's only the ports that the config speaks of. Default false.
    pub strict: bool,
}

/// `[image]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Which boards it is for. Default: all that the suite's own kernel drives.
    pub board: Target,
    /// The Debian suite. Default `trixie`.
    pub suite: String,
    /// Bytes of the whole image; a power of two from 2 GiB to 64 GiB, as QEMU's SD card wants. Default 4 GiB.
    pub size: u64,
    /// What root is under. Default: AES where every board has instructions for it, else Adiantum.
    pub cipher: Cipher,
    /// Debian packages beside those that the appliance needs.
    pub packages: Vec<String>,
    /// Where packages come from; none takes the default of the tools.
    pub mirror: Option<String>,
    /// What they come through, `http://`, when the image is built and on the appliance.
    pub proxy: Option<String>,
    /// What the kernel is told beside what it must be told.
    pub kernel_arguments: Vec<String>,
    /// Files of the owner's, at their places on the appliance; no two at the same.
    pub files: Vec<ExtraFile>,
}

/// `[unlock]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlock {
    /// How long to wait for the stick before the recovery passphrase is asked for too. Default 30 s.
    pub wait: Duration,
    /// How long after the start an unopened appliance reboots to try again. Default 10 min; longer than `wait`.
    pub reboot_after: Duration,
    /// The sticks that are looked at; empty for every one. Default empty.
    pub sticks: Vec<Mark>,
}

/// `[disk]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The disks' serial numbers as udev knows them (`ID_SERIAL_SHORT`, or `ID_SERIAL` where there is none), or the UUIDs of the
    /// volumes on them; at least one. Of several that are there, the first is used.
    pub serials: Vec<String>,
}

/// `[backup]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Holds mirror, snapshots and logs; the backup disk's mount point where there is a `[disk]`. Default `/mnt/backup`.
    pub folder: PathBuf,
    /// Holds what must outlive the backup disk: state, history, the appliance's ssh key. Default `/var/lib/vaultberry`.
    pub state: PathBuf,
    /// The lock of the run. Default `/run/lock/vaultberry.lock`.
    pub lock: PathBuf,
    /// When cron starts the nightly run, local time. Default 02:30.
    pub at: TimeOfDay,
    /// Which snapshots of a source stay that has no `keep` of its own.
    pub keep: Keep,
    /// How many sources are pulled at once; 1 to 16. Default 4. Snapshots are made one after the other in any case.
    pub parallel: u16,
    /// How many logs of runs stay, the newest ones; 1 to 10000. Default 90.
    pub keep_logs: u16,
}

/// An OpenPGP certificate to seal for: its public keys only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Its fingerprint, in upper-case hexadecimal.
    pub fingerprint: String,
    /// The certificate in ASCII armor (RFC 9580 section 6). It has a key for encryption; whether that key may be used today
    /// is for the day on which something is sealed.
    pub armored: String,
}

/// `[offsite]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsite {
    /// The store's address, `http://` or `https://` without a path; none for AWS.
    pub endpoint: Option<String>,
    /// Default `us-east-1`.
    pub region: String,
    /// The bucket, which must exist.
    pub bucket: String,
    /// What all keys of this appliance begin with, without slashes at either end. Default: the host name.
    pub prefix: String,
    /// Whether the bucket stands in the address's path, not in its host name. Default: where there is an endpoint.
    pub path_style: bool,
    /// The root-only file with the access key. Default `/etc/vaultberry/credentials/s3`.
    pub credentials: PathBuf,
    /// Certificate authorities to trust beside the system's, in PEM.
    pub ca: Option<String>,
    /// A push is due when the last proven one is this old. Default 7 days.
    pub every: Duration,
    /// How many parts of a sealed archive are on their way at once; 1 to 16. Default 4.
    pub parallel: u16,
    /// How many bytes a second are sent at most, of all parts together.
    pub bandwidth: Option<u64>,
    /// The storage class of archives, as the store names it; none for the store's default.
    pub storage_class: Option<String>,
    /// By which sums the store checks what arrives. Default SHA-256.
    pub checksums: Checksums,
    /// How long the store must keep a copy from being deleted, beginning with the push; none where it needn't.
    pub locked: Option<Duration>,
    /// After how long a silence of the store a request is given up: one minute. No key sets it; tests haven't so much time.
    pub silence: Duration,
}

/// By which sums a store checks what arrives, and says what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// `x-amz-checksum-sha256`, which stores keep and tell.
    Sha256,
    /// `Content-MD5`, for stores that refuse the newer header. What they have is then told by the `ETag`.
    Md5,
}

/// `[report]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who gets the mail; at least one.
    pub to: Vec<String>,
    /// Whom it comes from.
    pub from: String,
    /// The mail servers, at least one, in the order in which they are tried.
    pub servers: Vec<MailServer>,
    /// How many bytes a whole mail has at most, as it goes over the network; 64 KiB to 8 MiB. Default 1 MiB.
    pub size_limit: u64,
}

/// A mail server: `[report]` itself has the first, each `[[report.fallback]]` another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailServer {
    /// Host name or IP address.
    pub host: String,
    /// Default 587, or 465 for TLS from the first byte, or 25 without.
    pub port: u16,
    /// How the connection is kept private. Default STARTTLS.
    pub security: Security,
    /// The root-only file with user and password; none where the server wants no login.
    pub credentials: Option<PathBuf>,
    /// Certificate authorities to trust beside the system's, in PEM.
    pub ca: Option<String>,
}

/// `[ping]`: a watcher that raises the alarm when it hears nothing, as healthchecks.io or one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The root-only file with the URL, which is a secret. Default `/etc/vaultberry/credentials/ping`.
    pub credentials: PathBuf,
    /// What is told of a partial run: complete or failed. Default failed.
    pub partial: Outcome,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The folder that the node exporter's textfile collector reads.
    pub folder: PathBuf,
}

/// How a connection to a mail server is kept private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS begins on request (RFC 3207) and isn't optional.
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Tls,
    /// None: only without a login, as for a relay on the same network. What is in the mail is sealed in any case.
    None,
}

/// An hour and a minute of local time, `HH:MM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
}

impl fmt::Display for TimeOfDay {
    /// As in the file: `02:30`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:02}:{:02}", self.hour, self.minute)
    }
}

/// `[[source]]`: one server to pull from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Names its folders: lower-case letters, digits, `-`, `_`, beginning with a letter or digit, at most 64 bytes.
    pub name: String,
    /// Host name or IP address.
    pub host: String,
    /// Default 22.
    pub port: u16,
    /// The unprivileged user on the server; `root` is refused.
    pub user: String,
    /// The private key. Default `ssh/id_ed25519` below the state folder.
    pub identity: PathBuf,
    /// The server's public host keys in OpenSSH's form without host name (`ssh-ed25519 AAAA…`); at least one.
    pub host_keys: Vec<String>,
    /// The host that the way there leads through.
    pub jump: Option<Jump>,
    /// Whether the key there may do no more than `vaultberry source setup` allows it. Default false.
    pub gate: bool,
    /// How often what may be temporary is tried again: connecting, and a transfer that broke; 0 to 10. Default 3.
    pub retries: u16,
    /// How many bytes a second are pulled at most.
    pub bandwidth: Option<u64>,
    /// How many bytes the mirror may take on the disk.
    pub quota: Option<u64>,
    /// PostgreSQL databases to dump, none twice; `*` alone for all.
    pub postgresql: Vec<String>,
    /// What else is dumped, and how.
    pub dumps: Dumps,
    /// Absolute folders on the server, none twice and none inside another. At least one where there is no database.
    pub paths: Vec<PathBuf>,
    /// How those are pulled.
    pub files: Files,
    /// Which of its snapshots stay; `[backup] keep` unless it has its own.
    pub keep: Keep,
}

/// A host on the way to a source, which passes the connection on and sees nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jump {
    /// The unprivileged user there; it lets the same key in.
    pub user: String,
    /// Host name or IP address.
    pub host: String,
    /// Default 22.
    pub port: u16,
    /// Its public host keys, as [`Source::host_keys`]; at least one.
    pub host_keys: Vec<String>,
}

/// What is dumped on a source beside [`Source::postgresql`], and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumps {
    /// How PostgreSQL databases are written. Default plain.
    pub postgresql_format: PostgresqlFormat,
    /// Whether PostgreSQL's roles and tablespaces are dumped beside its databases. Default true.
    pub postgresql_globals: bool,
    /// MariaDB or MySQL databases, none twice; `*` alone for all.
    pub mariadb: Vec<String>,
    /// SQLite databases: absolute paths on the server, none twice.
    pub sqlite: Vec<PathBuf>,
    /// Commands whose output is a dump.
    pub commands: Vec<DumpCommand>,
    /// A dump with less than so many per cent of the last one's bytes doesn't count, 0 to 100. Default 50.
    pub least_percent: u16,
}

/// How `pg_dump` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PostgresqlFormat {
    /// SQL, for `psql`.
    Plain,
    /// Compressed, for `pg_restore`, which can restore parts of it.
    Custom,
}

/// `[[source.command]]`: a command on the server whose output is a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpCommand {
    /// Names its file; as a source's name.
    pub name: String,
    /// A line for the shell of the user there.
    pub run: String,
    /// What the output must end with, a line's end aside.
    pub ends_with: Option<String>,
}

/// A host key's type and fingerprint, as `ssh-keygen -l` shows them.
pub fn key_fingerprint(key: &str) -> String {
    public_key::fingerprint(key)
}

/// A host, and a port, from `HOST` or `HOST:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn host_and_port(text: &str) -> Result<(String, u16)> {
    let read = name::user_at_host(&format!("nobody@{text}"));
    let (_, host, port) =
        read.map_err(|_| anyhow!("it is no host\nhint: write gate.example.org, or 192.0.2.7:2222, or [2001:db8::1]:22"))?;
    Ok((host, port))
}

/// Whether a dump can be made of a database of this name.
pub fn is_database(name: &str) -> bool {
    name::database(name).is_ok()
}

/// How the files of a source are pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// What stays out: patterns of rsync(1), those that begin with a slash from the server's root on.
    pub exclude: Vec<String>,
    /// Files of more bytes than this stay out.
    pub largest: Option<u64>,
    /// Whether what is mounted below a path stays out. Default false.
    pub one_file_system: bool,
    /// Files or folders on the server without which nothing is deleted in the mirror: they say that its disks are there.
    pub sentinels: Vec<PathBuf>,
    /// How many per cent of the files of a path may go from the mirror in one night, 0 to 100. Default 20.
    pub max_deletions: u16,
}

impl Config {
    /// The appliance's time zone.
    ///
    /// # Errors
    /// This machine's tz database doesn't have it.
    pub fn zone(&self) -> Result<TimeZone> {
        let name = &self.appliance.timezone;
        TimeZone::get(name).with_context(|| format!("finding the time zone {name}\nhint: apt-get install tzdata"))
    }

    /// The file name stem of everything that the build puts out.
    pub fn image_name(&self) -> &str {
        &self.appliance.hostname
    }
}
