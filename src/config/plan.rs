//! What a configuration comes to, for people to read before anything is built from it.

use super::{
    Checksums, Config, Dumps, Ethernet, ExtraFile, Files, Image, Jump, MailServer, Offsite, Ping, PostgresqlFormat, Reboot,
    Report, Security, Wifi, public_key, value,
};
use crate::outcome::Outcome;
use crate::page::Page;

/// Prints everything that `config` resolved to, defaults included: a section each, keys as in the file, ssh keys by
/// the fingerprint that `ssh-keygen -l` shows for them.
pub fn plan(config: &Config) -> String {
    let Config {
        appliance,
        admin,
        access,
        ethernet,
        wifi,
        image,
        unlock,
        disk,
        backup,
        updates,
        recipients,
        offsite,
        report,
        ping,
        metrics,
        sources,
        text: _,
    } = config;
    let mut page = Page::default();
    page.section("appliance");
    page.line("hostname", &appliance.hostname);
    page.line("timezone", &appliance.timezone);
    page.line("locale", &appliance.locale);
    page.line("keymap", &appliance.keymap.to_string());
    page.list_or("time_servers", &appliance.time_servers, "(those that DHCP names, else Debian's)");
    page.section("admin");
    page.line("user", &admin.user);
    page.list("ssh_keys", admin.ssh_keys.iter().map(|key| public_key::fingerprint(key)));
    page.line("generate_key", if admin.generate_key { "true (a throw-away key pair, made with the image)" } else { "false" });
    page.section("access");
    page.list("ssh_from", access.ssh_from.iter().map(ToString::to_string));
    page.list("never_ban", access.never_ban.iter().map(ToString::to_string));
    page.line("ban_after", &format!("{} failed logins", access.ban_after));
    page.line("ban_for", &format!("{}, and twice as long each further time", value::duration_text(access.ban_for)));
    page.line("strict", if access.strict { "true" } else { "false" });
    page.ethernet(ethernet);
    page.wifi(wifi.as_ref());
    page.image(image);
    page.section("unlock");
    page.line("wait", &value::duration_text(unlock.wait));
    page.line("reboot_after", &value::duration_text(unlock.reboot_after));
    if unlock.sticks.is_empty() {
        page.line("sticks", "(every one that holds the key)");
    } else {
        page.list("sticks", unlock.sticks.iter().map(ToString::to_string));
    }
    page.section("disk");
    match disk {
        None => page.line("serials", "(no backup disk: backups go into a plain folder)"),
        Some(disk) => page.list("serials", disk.serials.iter().cloned()),
    }
    page.section("backup");
    page.line("folder", &backup.folder.to_string_lossy());
    page.line("state", &backup.state.to_string_lossy());
    page.line("lock", &backup.lock.to_string_lossy());
    page.line("at", &format!("{} {}", backup.at, appliance.timezone));
    page.line("keep", &backup.keep.to_string());
    page.line("parallel", &format!("{} sources at once", backup.parallel));
    page.line("keep_logs", &backup.keep_logs.to_string());
    page.section("updates");
    page.line("security", if updates.security { "true" } else { "false (only the package lists are fetched)" });
    page.line("at", &format!("{} {}, for an hour", updates.at, appliance.timezone));
    page.line(
        "reboot",
        match updates.reboot {
            Reboot::Never => "never",
            Reboot::WithStick => "with-stick",
        },
    );
    page.section("openpgp");
    page.list("recipients", recipients.iter().map(|recipient| recipient.fingerprint.clone()));
    page.offsite(offsite.as_ref());
    page.report(report.as_ref());
    page.ping(ping.as_ref());
    page.section("metrics");
    page.line("folder", &metrics.as_ref().map_or("(none)".into(), |metrics| metrics.folder.to_string_lossy()));
    for source in sources {
        page.section(&format!("source {}", source.name));
        page.line("host", &source.host);
        page.line("port", &source.port.to_string());
        page.line("user", &source.user);
        page.line("identity", &source.identity.to_string_lossy());
        page.list("host_keys", source.host_keys.iter().map(|key| public_key::fingerprint(key)));
        page.jump(source.jump.as_ref());
        page.line("gate", if source.gate { "true" } else { "false" });
        page.line("retries", &source.retries.to_string());
        page.line("bandwidth", &rate(source.bandwidth));
        page.line("quota", &source.quota.map_or("(no limit)".into(), value::size_text));
        page.list("postgresql", source.postgresql.iter().cloned());
        page.dumps(&source.dumps);
        page.list("paths", source.paths.iter().map(|path| path.to_string_lossy().into_owned()));
        page.files(&source.files);
        page.line("keep", &source.keep.to_string());
    }
    page.text()
}

fn authorities(ca: Option<&String>) -> &'static str {
    if ca.is_some() { "the system's, and those in the file" } else { "the system's" }
}

impl Page {
    fn ethernet(&mut self, ethernet: &Ethernet) {
        self.section("ethernet");
        self.list_or("addresses", &ethernet.addresses, "(by DHCP)");
        self.list_or("gateways", &ethernet.gateways, if ethernet.addresses.is_empty() { "(by DHCP)" } else { "(none)" });
        self.list_or("name_servers", &ethernet.name_servers, "(by DHCP)");
    }

    fn wifi(&mut self, wifi: Option<&Wifi>) {
        self.section("wifi");
        let Some(wifi) = wifi else {
            return self.line("ssid", "(none: by cable alone)");
        };
        self.line("country", &wifi.country);
        self.line("ssid", &wifi.ssid);
    }

    fn image(&mut self, image: &Image) {
        self.section("image");
        self.line("board", image.board.name());
        self.line("suite", &image.suite);
        self.line("size", &format!("{} ({} bytes)", value::size_text(image.size), image.size));
        self.line("cipher", image.cipher.name());
        self.list("packages", image.packages.iter().cloned());
        self.line("mirror", image.mirror.as_deref().unwrap_or("(Debian's own, as mmdebstrap chooses)"));
        self.line("proxy", image.proxy.as_deref().unwrap_or("(none)"));
        self.list("kernel_arguments", image.kernel_arguments.iter().cloned());
        let file = |file: &ExtraFile| format!("{} from {}, mode {:04o}", file.to.display(), file.from.display(), file.mode);
        self.list("file", image.files.iter().map(file));
    }

    fn offsite(&mut self, offsite: Option<&Offsite>) {
        self.section("offsite");
        let Some(offsite) = offsite else {
            return self.line("bucket", "(none: copies stay here)");
        };
        self.line("bucket", &offsite.bucket);
        self.line("endpoint", offsite.endpoint.as_deref().unwrap_or("(AWS)"));
        self.line("region", &offsite.region);
        self.line("prefix", &offsite.prefix);
        self.line("path_style", if offsite.path_style { "true" } else { "false" });
        self.line("credentials", &offsite.credentials.to_string_lossy());
        self.line("ca", authorities(offsite.ca.as_ref()));
        self.line("every", &value::duration_text(offsite.every));
        self.line("parallel", &format!("{} parts at once", offsite.parallel));
        self.line("bandwidth", &rate(offsite.bandwidth));
        self.line("storage_class", offsite.storage_class.as_deref().unwrap_or("(the store's default)"));
        let checksums = match offsite.checksums {
            Checksums::Sha256 => "sha256",
            Checksums::Md5 => "md5",
        };
        self.line("checksums", checksums);
        let locked = offsite.locked.map_or_else(|| String::from("(not asked for)"), value::duration_text);
        self.line("locked", &locked);
    }

    fn report(&mut self, report: Option<&Report>) {
        self.section("report");
        let Some(report) = report else {
            return self.line("to", "(nobody: the journal has to do)");
        };
        self.list("to", report.to.iter().cloned());
        self.line("from", &report.from);
        self.line("size_limit", &value::size_text(report.size_limit));
        for (number, server) in report.servers.iter().enumerate() {
            self.mail_server(if number == 0 { "server" } else { "fallback" }, server);
        }
    }

    fn mail_server(&mut self, what: &str, server: &MailServer) {
        self.line(what, &server.host);
        self.line("port", &server.port.to_string());
        self.line(
            "security",
            match server.security {
                Security::StartTls => "starttls",
                Security::Tls => "tls",
                Security::None => "none",
            },
        );
        self.line("credentials", &server.credentials.as_ref().map_or("(no login)".into(), |path| path.to_string_lossy()));
        self.line("ca", authorities(server.ca.as_ref()));
    }

    fn ping(&mut self, ping: Option<&Ping>) {
        self.section("ping");
        let Some(ping) = ping else {
            return self.line("credentials", "(none: nobody is told)");
        };
        self.line("credentials", &ping.credentials.to_string_lossy());
        self.line("partial", if ping.partial == Outcome::Complete { "success" } else { "fail" });
    }

    fn jump(&mut self, jump: Option<&Jump>) {
        let Some(Jump { user, host, port, host_keys }) = jump else {
            return self.line("jump", "(none: straight there)");
        };
        self.line("jump", &format!("{user}@{host} port {port}"));
        self.list("jump_host_keys", host_keys.iter().map(|key| public_key::fingerprint(key)));
    }

    fn dumps(&mut self, dumps: &Dumps) {
        let format = match dumps.postgresql_format {
            PostgresqlFormat::Plain => "plain",
            PostgresqlFormat::Custom => "custom",
        };
        self.line("postgresql_format", format);
        self.line("postgresql_globals", if dumps.postgresql_globals { "true" } else { "false" });
        self.list("mariadb", dumps.mariadb.iter().cloned());
        self.list("sqlite", dumps.sqlite.iter().map(|path| path.to_string_lossy().into_owned()));
        self.list("command", dumps.commands.iter().map(|command| format!("{}: {}", command.name, command.run)));
        self.line("least_dump_percent", &format!("{} % of the last dump", dumps.least_percent));
    }

    fn files(&mut self, files: &Files) {
        self.list("exclude", files.exclude.iter().cloned());
        self.line("largest_file", &files.largest.map_or("(no limit)".into(), value::size_text));
        self.line("one_file_system", if files.one_file_system { "true" } else { "false" });
        self.list("sentinels", files.sentinels.iter().map(|path| path.to_string_lossy().into_owned()));
        self.line("max_deletions", &format!("{} % of a path's files in one night", files.max_deletions));
    }
}

/// A limit in bytes a second.
fn rate(limit: Option<u64>) -> String {
    limit.map_or_else(|| String::from("(no limit)"), |bytes| format!("{} a second", value::size_text(bytes)))
}

#[cfg(test)]
mod tests {
    use super::plan;
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn the_example_resolves_to_this() {
        let expected = "\
appliance
  hostname            vaultberry
  timezone            Etc/UTC
  locale              C.UTF-8
  keymap              us
  time_servers        (those that DHCP names, else Debian's)

admin
  user                admin
  ssh_keys            (none)
  generate_key        true (a throw-away key pair, made with the image)

access
  ssh_from            10.0.0.0/8
                      172.16.0.0/12
                      192.168.0.0/16
                      169.254.0.0/16
                      fc00::/7
                      fe80::/10
  never_ban           (none)
  ban_after           5 failed logins
  ban_for             10m, and twice as long each further time
  strict              false

ethernet
  addresses           (by DHCP)
  gateways            (by DHCP)
  name_servers        (by DHCP)

wifi
  ssid                (none: by cable alone)

image
  board               any
  suite               trixie
  size                4 GiB (4294967296 bytes)
  cipher              xchacha12,aes-adiantum-plain64
  packages            (none)
  mirror              (Debian's own, as mmdebstrap chooses)
  proxy               (none)
  kernel_arguments    (none)
  file                (none)

unlock
  wait                30s
  reboot_after        10m
  sticks              (every one that holds the key)

disk
  serials             VAULTBERRY-DEMO

backup
  folder              /mnt/backup
  state               /var/lib/vaultberry
  lock                /run/lock/vaultberry.lock
  at                  02:30 Etc/UTC
  keep                last 3, daily 7, weekly 4, monthly 6
  parallel            4 sources at once
  keep_logs           90

updates
  security            true
  at                  14:30 Etc/UTC, for an hour
  reboot              never

openpgp
  recipients          (none)

offsite
  bucket              (none: copies stay here)

report
  to                  (nobody: the journal has to do)

ping
  credentials         (none: nobody is told)

metrics
  folder              (none)

source demo
  host                demo.example.org
  port                22
  user                vaultberry
  identity            /var/lib/vaultberry/ssh/id_ed25519
  host_keys           ssh-ed25519 SHA256:nq00cPCwzcDDgB48Dhp5j6Q5Z9USmetAEDTkHPMz09g
  jump                (none: straight there)
  gate                false
  retries             3
  bandwidth           (no limit)
  quota               (no limit)
  postgresql          (none)
  postgresql_format   plain
  postgresql_globals  true
  mariadb             (none)
  sqlite              (none)
  command             (none)
  least_dump_percent  50 % of the last dump
  paths               /srv
                      /home
  exclude             (none)
  largest_file        (no limit)
  one_file_system     false
  sentinels           (none)
  max_deletions       20 % of a path's files in one night
  keep                last 3, daily 7, weekly 4, monthly 6
";
        assert_eq!(plan(&parse(EXAMPLE).unwrap()), expected);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let text = EXAMPLE.replace("[disk]", "").replace("serials = [\"VAULTBERRY-DEMO\"]", "");
        let page = plan(&parse(&text).unwrap());
        assert!(page.contains("  serials             (no backup disk: backups go into a plain folder)\n"), "{page}");
    }
}
