//! The sections and keys that an `appliance.toml` may have, each with an example for hints.

/// A setting's name and what to write for it, as TOML.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) example: &'static str,
}

/// A section's name and its settings.
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// Whether it is written `[[name]]`, once for each.
    pub(super) repeated: bool,
    /// Sections that may stand inside it.
    pub(super) inner: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

impl Shape {
    pub(super) fn example(&self, name: &str) -> &'static str {
        self.keys.iter().find(|key| key.name == name).map(|key| key.example).expect("a key that is read is in the schema")
    }

    /// The section's head as it stands in the file.
    pub(super) fn head(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

pub(super) const APPLIANCE: Shape = Shape {
    name: "appliance",
    repeated: false,
    inner: &[],
    keys: &[
        key("hostname", "\"vaultberry\""),
        key("timezone", "\"Europe/Zurich\""),
        key("locale", "\"de_CH.UTF-8\""),
        key("keymap", "\"de\""),
        key("time_servers", "[\"192.168.1.1\"]"),
    ],
};

pub(super) const ADMIN: Shape = Shape {
    name: "admin",
    repeated: false,
    inner: &[],
    keys: &[key("user", "\"admin\""), key("ssh_keys", "[\"ssh-ed25519 AAAA… me@laptop\"]"), key("generate_key", "true")],
};

pub(super) const ACCESS: Shape = Shape {
    name: "access",
    repeated: false,
    inner: &[],
    keys: &[
        key("ssh_from", "[\"192.168.1.0/24\"]"),
        key("never_ban", "[\"192.168.1.7\"]"),
        key("ban_after", "5"),
        key("ban_for", "\"10m\""),
        key("strict", "true"),
    ],
};

pub(super) const IMAGE: Shape = Shape {
    name: "image",
    repeated: false,
    inner: &["file"],
    keys: &[
        key("board", "\"pi4\""),
        key("suite", "\"trixie\""),
        key("size", "\"4 GiB\""),
        key("cipher", "\"adiantum\""),
        key("packages", "[\"htop\", \"tmux\"]"),
        key("mirror", "\"https://mirror.example.org\""),
        key("proxy", "\"http://proxy.example.org:3128\""),
        key("kernel_arguments", "[\"quiet\"]"),
    ],
};

pub(super) const FILE: Shape = Shape {
    name: "image.file",
    repeated: true,
    inner: &[],
    keys: &[key("from", "\"files/motd\""), key("to", "\"/etc/motd\""), key("mode", "\"0644\"")],
};

pub(super) const ETHERNET: Shape = Shape {
    name: "ethernet",
    repeated: false,
    inner: &[],
    keys: &[
        key("addresses", "[\"192.168.1.20/24\"]"),
        key("gateways", "[\"192.168.1.1\"]"),
        key("name_servers", "[\"192.168.1.1\"]"),
    ],
};

pub(super) const UNLOCK: Shape = Shape {
    name: "unlock",
    repeated: false,
    inner: &[],
    keys: &[key("wait", "\"30s\""), key("reboot_after", "\"10m\""), key("sticks", "[\"label:VB-KEY\"]")],
};

pub(super) const DISK: Shape =
    Shape { name: "disk", repeated: false, inner: &[], keys: &[key("serials", "[\"VAULTBERRY-DEMO\"]")] };

pub(super) const BACKUP: Shape = Shape {
    name: "backup",
    repeated: false,
    inner: &[],
    keys: &[
        key("folder", "\"/mnt/backup\""),
        key("state", "\"/var/lib/vaultberry\""),
        key("lock", "\"/run/lock/vaultberry.lock\""),
        key("at", "\"02:30\""),
        key("keep", KEEP),
        key("parallel", "4"),
        key("keep_logs", "90"),
    ],
};

pub(super) const UPDATES: Shape = Shape {
    name: "updates",
    repeated: false,
    inner: &[],
    keys: &[key("security", "true"), key("at", "\"14:30\""), key("reboot", "\"with-stick\"")],
};

const KEEP: &str = "{ last = 3, daily = 7, weekly = 4, monthly = 6 }";

const CERTIFICATE: &str = "[\"\"\"-----BEGIN PGP PUBLIC KEY BLOCK----- … \"\"\"]";
const CA: &str = "\"\"\"-----BEGIN CERTIFICATE----- … \"\"\"";

pub(super) const OPENPGP: Shape = Shape { name: "openpgp", repeated: false, inner: &[], keys: &[key("recipients", CERTIFICATE)] };

pub(super) const OFFSITE: Shape = Shape {
    name: "offsite",
    repeated: false,
    inner: &[],
    keys: &[
        key("bucket", "\"my-backups\""),
        key("endpoint", "\"https://s3.example.org\""),
        key("region", "\"us-east-1\""),
        key("prefix", "\"vaultberry\""),
        key("path_style", "true"),
        key("credentials", "\"/etc/vaultberry/credentials/s3\""),
        key("ca", CA),
        key("every", "\"7d\""),
        key("parallel", "4"),
        key("bandwidth", "\"1 MiB\""),
        key("storage_class", "\"STANDARD_IA\""),
        key("checksums", "\"sha256\""),
        key("locked", "\"30d\""),
    ],
};

pub(super) const REPORT: Shape = Shape {
    name: "report",
    repeated: false,
    inner: &["fallback"],
    keys: &[
        key("to", "[\"me@example.org\"]"),
        key("from", "\"vaultberry@example.org\""),
        key("server", "\"mail.example.org\""),
        key("port", "587"),
        key("security", "\"starttls\""),
        key("credentials", "\"/etc/vaultberry/credentials/smtp\""),
        key("ca", CA),
        key("size_limit", "\"1 MiB\""),
    ],
};

pub(super) const FALLBACK: Shape = Shape {
    name: "report.fallback",
    repeated: true,
    inner: &[],
    keys: &[
        key("server", "\"mail.example.net\""),
        key("port", "587"),
        key("security", "\"starttls\""),
        key("credentials", "\"/etc/vaultberry/credentials/smtp-fallback\""),
        key("ca", CA),
    ],
};

pub(super) const WIFI: Shape =
    Shape { name: "wifi", repeated: false, inner: &[], keys: &[key("country", "\"CH\""), key("ssid", "\"home\"")] };

pub(super) const PING: Shape = Shape {
    name: "ping",
    repeated: false,
    inner: &[],
    keys: &[key("credentials", "\"/etc/vaultberry/credentials/ping\""), key("partial", "\"fail\"")],
};

pub(super) const METRICS: Shape =
    Shape { name: "metrics", repeated: false, inner: &[], keys: &[key("folder", "\"/var/lib/prometheus/node-exporter\"")] };

pub(super) const SOURCE: Shape = Shape {
    name: "source",
    repeated: true,
    inner: &["command"],
    keys: &[
        key("name", "\"home\""),
        key("host", "\"server.example.org\""),
        key("port", "22"),
        key("user", "\"backup\""),
        key("identity", "\"/var/lib/vaultberry/ssh/id_ed25519\""),
        key("host_keys", "[\"ssh-ed25519 AAAA…\"]"),
        key("jump", "\"backup@gate.example.org:22\""),
        key("jump_host_keys", "[\"ssh-ed25519 AAAA…\"]"),
        key("gate", "true"),
        key("retries", "3"),
        key("bandwidth", "\"4 MiB\""),
        key("quota", "\"500 GiB\""),
        key("postgresql", "[\"wiki\", \"shop\"]"),
        key("postgresql_format", "\"plain\""),
        key("postgresql_globals", "true"),
        key("mariadb", "[\"shop\"]"),
        key("sqlite", "[\"/srv/app/data.db\"]"),
        key("least_dump_percent", "50"),
        key("paths", "[\"/srv\", \"/home\"]"),
        key("exclude", "[\"*.tmp\", \"/srv/cache\"]"),
        key("largest_file", "\"8 GiB\""),
        key("one_file_system", "true"),
        key("sentinels", "[\"/srv/.mounted\"]"),
        key("max_deletions", "20"),
        key("keep", KEEP),
    ],
};

pub(super) const COMMAND: Shape = Shape {
    name: "source.command",
    repeated: true,
    inner: &[],
    keys: &[key("name", "\"ldap\""), key("run", "\"slapcat -n 1\""), key("ends_with", "\"# end\"")],
};

pub(super) const SECTIONS: [&Shape; 16] = [
    &APPLIANCE, &ADMIN, &ACCESS, &ETHERNET, &WIFI, &IMAGE, &UNLOCK, &DISK, &BACKUP, &UPDATES, &OPENPGP, &OFFSITE, &REPORT, &PING,
    &METRICS, &SOURCE,
];

#[cfg(test)]
mod tests {
    use super::{FALLBACK, FILE, SECTIONS};
    use crate::config::EXAMPLE;

    #[test]
    fn the_example_shows_every_setting_of_every_section() {
        for section in SECTIONS.into_iter().chain([&FALLBACK, &FILE]) {
            // A section that a demonstration can't have stands there as a comment.
            let heads = [format!("\n{}\n", section.head()), format!("\n#   {}\n", section.head())];
            let body = heads.iter().find_map(|head| EXAMPLE.split_once(head)).unwrap_or_else(|| panic!("no {heads:?}")).1;
            let body = body.split("\n[").next().unwrap().split("\n#   [").next().unwrap();
            for key in section.keys {
                let shown = body.lines().any(|line| {
                    line.trim_start_matches(['#', ' ']).strip_prefix(key.name).is_some_and(|rest| rest.starts_with(" = "))
                });
                assert!(shown, "{}.{} isn't in the example", section.name, key.name);
            }
        }
    }
}
