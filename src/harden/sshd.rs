//! sshd's settings: keys only, for the admin only, and nothing but a shell and files.
//!
//! Algorithms: only those that ssh-audit has nothing against. Key exchanges are hybrids of an elliptic curve with ML-KEM or
//! NTRU Prime, so that what is recorded today stays closed to a quantum computer; OpenSSH knows one of them since 8.5.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::check::Rule;
use super::head;
use crate::ask::{self, ask};
use crate::config::Config;

/// First of its folder: sshd keeps the first value that it finds.
pub const PATH: &str = "/etc/ssh/sshd_config.d/00-vaultberry.conf";

/// Each keyword with its value, as `sshd -T` prints them but for capitals.
const SETTINGS: [(&str, &str); 33] = [
    ("AuthenticationMethods", "publickey"),
    ("AuthorizedKeysFile", "/etc/ssh/authorized_keys.d/%u"),
    // No other way to say whose keys are right.
    ("AuthorizedKeysCommand", "none"),
    ("AuthorizedPrincipalsFile", "none"),
    ("AuthorizedPrincipalsCommand", "none"),
    ("TrustedUserCAKeys", "none"),
    ("PubkeyAuthentication", "yes"),
    ("PasswordAuthentication", "no"),
    ("KbdInteractiveAuthentication", "no"),
    ("HostbasedAuthentication", "no"),
    ("GSSAPIAuthentication", "no"),
    ("PermitEmptyPasswords", "no"),
    ("PermitRootLogin", "no"),
    ("RequiredRSASize", "2048"),
    ("DisableForwarding", "yes"),
    ("AllowAgentForwarding", "no"),
    ("AllowTcpForwarding", "no"),
    ("AllowStreamLocalForwarding", "no"),
    ("X11Forwarding", "no"),
    ("PermitTunnel", "no"),
    ("GatewayPorts", "no"),
    ("PermitUserEnvironment", "no"),
    ("PermitUserRC", "no"),
    ("StrictModes", "yes"),
    ("HostKey", "/etc/ssh/ssh_host_ed25519_key"),
    ("HostKeyAlgorithms", "ssh-ed25519"),
    ("KexAlgorithms", "mlkem768x25519-sha256,sntrup761x25519-sha512,sntrup761x25519-sha512@openssh.com"),
    ("Ciphers", "aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-gcm@openssh.com"),
    ("MACs", "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com"),
    // Who doesn't log in soon, and who opens many connections at once, makes room for others.
    ("LoginGraceTime", "30"),
    ("MaxStartups", "100:30:200"),
    ("PerSourceMaxStartups", "5"),
    // The fingerprint of each key that was tried stands in the journal.
    ("LogLevel", "VERBOSE"),
];

/// The file.
pub fn drop_in(config: &Config) -> String {
    let lines: Vec<String> = settings(config).into_iter().map(|(keyword, value)| format!("{keyword} {value}")).collect();
    format!("{}{}\n", head("[admin] and [access]"), lines.join("\n"))
}

fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let mut settings: Vec<(&str, String)> = SETTINGS.iter().map(|(keyword, value)| (*keyword, (*value).to_owned())).collect();
    settings.push(("AllowUsers", config.admin.user.clone()));
    // sshd has penalties of its own, which would come before fail2ban's bans.
    if !config.access.never_ban.is_empty() {
        let networks: Vec<String> = config.access.never_ban.iter().map(ToString::to_string).collect();
        settings.push(("PerSourcePenaltyExemptList", networks.join(",")));
    }
    settings
}

/// Holds what `sshd -T` printed against what the config wants. `root` is where sshd's files are.
fn rules(config: &Config, printed: Option<&str>, root: &Path) -> Vec<Rule> {
    let settings = settings(config).into_iter();
    let rules = settings.map(|(keyword, wanted)| {
        let found = printed.map(|text| values(text, &keyword.to_ascii_lowercase()));
        Rule::new(&format!("sshd: {keyword}"), &wanted, found, APPLY)
    });
    let exceptions = Rule::new("sshd: Match and Include", "none", exceptions(root), APPLY);
    rules.chain([exceptions]).collect()
}

/// What makes other settings of those above, for some: no print of `sshd -T` shows it all. None where it can't be read.
fn exceptions(root: &Path) -> Option<String> {
    let mut files = vec![root.join("etc/ssh/sshd_config")];
    let folder = fs::read_dir(root.join("etc/ssh/sshd_config.d")).ok()?;
    files.extend(folder.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "conf")));
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).ok()?;
        found.extend(text.lines().map(str::trim).filter(|line| is_exception(line)).map(str::to_owned));
    }
    Some(if found.is_empty() { "none".to_owned() } else { found.join("; ") })
}

/// Keywords are written in any case, with a blank or a `=` behind them (`sshd_config(5)`).
fn is_exception(line: &str) -> bool {
    let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
    match words.next().map(str::to_ascii_lowercase).as_deref() {
        Some("match") => true,
        Some("include") => words.ne(["/etc/ssh/sshd_config.d/*.conf"]),
        _ => false,
    }
}

const APPLY: &str = "`vaultberry harden apply`, and look which file below /etc/ssh says otherwise";

/// All values of a keyword; some stand on several lines.
fn values(text: &str, keyword: &str) -> String {
    let values = text.lines().filter_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
    let values: Vec<String> = values.map(str::to_owned).collect();
    if values.is_empty() { "not set".to_owned() } else { values.join(" ") }
}

/// What the sshd of this machine goes by when it is started.
pub(super) fn check(config: &Config) -> Vec<Rule> {
    let printed = ask("sshd", &["-T", "-C", &whom(config)], ask::USUAL).filter(|answer| answer.success);
    let mut rules = rules(config, printed.as_ref().map(|answer| answer.text.as_str()), Path::new("/"));
    rules.push(Rule::new("sshd: SSHD_OPTS", "none", options(), "take it out of /etc/default/ssh, then `systemctl restart ssh`"));
    rules
}

/// What Debian's unit starts sshd with, which comes before its files.
fn options() -> Option<String> {
    let text = fs::read_to_string("/etc/default/ssh").ok()?;
    let set = text.lines().rev().find_map(|line| line.trim().strip_prefix("SSHD_OPTS=")).unwrap_or_default();
    let set = set.trim_matches(['"', '\'']);
    Some(if set.is_empty() { "none".to_owned() } else { set.to_owned() })
}

/// For whom `sshd -T` is asked. It wants an address; without `Match` it is the same for each.
pub fn whom(config: &Config) -> String {
    format!("user={},host=somewhere,addr=192.0.2.1", config.admin.user)
}

/// Makes sure that what sshd made of the settings in `tree`, while the image was built, is what the config wants.
///
/// # Errors
/// Names each setting that isn't so.
pub fn prove(config: &Config, printed: &str, tree: &Path) -> Result<()> {
    let broken = rules(config, Some(printed), tree).into_iter().filter(|rule| rule.kept() != Some(true));
    let broken: Vec<String> = broken.map(|rule| rule.told()).collect();
    ensure!(
        broken.is_empty(),
        "proving what sshd goes by in the image: {}\nhint: does a package of [image] packages bring settings of its own for sshd?",
        broken.join("; ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::{SETTINGS, drop_in, prove};
    use crate::config::{Config, EXAMPLE, parse};

    /// A tree with sshd's files, and what sshd prints when it goes by ours.
    fn scene() -> (Config, TempDir, String) {
        let config = parse(EXAMPLE).unwrap();
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("etc/ssh/sshd_config.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("00-vaultberry.conf"), drop_in(&config)).unwrap();
        let debian = "\n# Match nobody\nInclude /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n";
        fs::write(tree.path().join("etc/ssh/sshd_config"), debian).unwrap();
        let text = drop_in(&config);
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let lines: Vec<String> = lines.map(|(key, value)| format!("{} {value}", key.to_lowercase())).collect();
        (config, tree, lines.join("\n") + "\n")
    }

    #[test]
    fn what_sshd_makes_of_the_file_is_proven() {
        let (config, tree, printed) = scene();
        let prove = |printed: &str| prove(&config, printed, tree.path());
        prove(&printed).unwrap();
        for (keyword, value) in SETTINGS {
            let key = keyword.to_lowercase();
            let told = format!("{:#}", prove(&printed.replace(&format!("{key} {value}\n"), &format!("{key} x\n"))).unwrap_err());
            assert!(told.contains(&format!("sshd: {keyword} is x, not {value}")), "{told}");
        }
        let told = prove(&printed.replace("allowusers admin", "allowusers admin\nallowusers guest")).unwrap_err();
        assert!(told.to_string().contains("sshd: AllowUsers is admin guest, not admin"), "{told}");
    }

    #[test]
    fn exceptions_for_some_are_found_wherever_they_stand() {
        let (config, tree, printed) = scene();
        let other = tree.path().join("etc/ssh/sshd_config.d/99-other.conf");
        for line in ["match=Address 192.168.0.0/16", "\tMatch User root", "Include /srv/other.conf"] {
            fs::write(&other, format!("{line}\n  PasswordAuthentication yes\n")).unwrap();
            let told = prove(&config, &printed, tree.path()).unwrap_err().to_string();
            assert!(told.contains(&format!("sshd: Match and Include is {}, not none", line.trim())), "{told}");
        }
    }

    #[test]
    fn who_is_never_banned_is_not_slowed_down_either() {
        let text = EXAMPLE.replace("\n[access]\n", "\n[access]\nnever_ban = [\"192.168.1.7\", \"fd00::/8\"]\n");
        assert!(drop_in(&parse(&text).unwrap()).contains("\nPerSourcePenaltyExemptList 192.168.1.7,fd00::/8\n"));
    }
}
