//! sshd's settings: keys only, for the admin only, and nothing but a shell and files.
//!
//! Algorithms: only those that ssh-audit has nothing against. Key exchanges are hybrids of an elliptic curve with ML-KEM or
//! NTRU Prime, so that what is recorded today stays closed to a quantum computer; OpenSSH knows one of them since 8.5.

use anyhow::{Result, ensure};

use super::check::Rule;
use super::head;
use crate::ask::{self, ask};
use crate::config::Config;

/// First of its folder: sshd keeps the first value that it finds.
pub const PATH: &str = "/etc/ssh/sshd_config.d/00-vaultberry.conf";

/// Each keyword with its value, as `sshd -T` prints them but for capitals.
const SETTINGS: [(&str, &str); 29] = [
    ("AuthenticationMethods", "publickey"),
    ("AuthorizedKeysFile", "/etc/ssh/authorized_keys.d/%u"),
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
    ("MaxStartups", "10:30:60"),
    ("PerSourceMaxStartups", "5"),
    // The fingerprint of each key that was tried stands in the journal.
    ("LogLevel", "VERBOSE"),
];

/// The file.
pub fn drop_in(config: &Config) -> String {
    let mut text = head("[admin] and [access]");
    for (keyword, value) in settings(config) {
        text.push_str(&format!("{keyword} {value}\n"));
    }
    text
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

/// Holds what `sshd -T` printed against what the config wants.
fn rules(config: &Config, printed: Option<&str>) -> Vec<Rule> {
    let settings = settings(config).into_iter();
    let rules = settings.map(|(keyword, wanted)| {
        let found = printed.map(|text| values(text, &keyword.to_ascii_lowercase()));
        Rule::new(&format!("sshd: {keyword}"), &wanted, found, APPLY)
    });
    rules.collect()
}

const APPLY: &str = "`vaultberry harden apply`, and look which file below /etc/ssh says otherwise";

/// All values of a keyword; some stand on several lines.
fn values(text: &str, keyword: &str) -> String {
    let values = text.lines().filter_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
    let values: Vec<String> = values.map(str::to_owned).collect();
    if values.is_empty() { "not set".to_owned() } else { values.join(" ") }
}

/// What the sshd of this machine goes by, for the admin coming from where they may.
pub(super) fn check(config: &Config) -> Vec<Rule> {
    let printed = ask("sshd", &["-T", "-C", &whom(config)], ask::USUAL).filter(|answer| answer.success);
    rules(config, printed.as_ref().map(|answer| answer.text.as_str()))
}

/// For whom `sshd -T` is asked: rules may differ for others.
pub fn whom(config: &Config) -> String {
    format!("user={},host=somewhere,addr=192.0.2.1", config.admin.user)
}

/// Makes sure that what sshd made of the settings while the image was built is what the config wants.
///
/// # Errors
/// Names each setting that isn't so.
pub fn prove(config: &Config, printed: &str) -> Result<()> {
    let broken = rules(config, Some(printed)).into_iter().filter(|rule| rule.kept() != Some(true));
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
    use super::{SETTINGS, drop_in, prove};
    use crate::config::{EXAMPLE, parse};

    /// What sshd prints when it goes by the file.
    fn printed() -> String {
        let text = drop_in(&parse(EXAMPLE).unwrap());
        text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| format!("{} {value}\n", key.to_lowercase())).collect()
    }

    #[test]
    fn what_sshd_makes_of_the_file_is_proven() {
        let config = parse(EXAMPLE).unwrap();
        prove(&config, &printed()).unwrap();
        for (keyword, value) in SETTINGS {
            let other = printed().replace(&format!("{} {value}\n", keyword.to_lowercase()), &format!("{} x\n", keyword.to_lowercase()));
            let told = format!("{:#}", prove(&config, &other).unwrap_err());
            assert!(told.contains(&format!("sshd: {keyword} is x, not {value}")), "{told}");
        }
        let told = prove(&config, &printed().replace("allowusers admin", "allowusers admin\nallowusers guest")).unwrap_err();
        assert!(told.to_string().contains("sshd: AllowUsers is admin guest, not admin"), "{told}");
    }

    #[test]
    fn who_is_never_banned_is_not_slowed_down_either() {
        let text = EXAMPLE.replace("\n[access]\n", "\n[access]\nnever_ban = [\"192.168.1.7\", \"fd00::/8\"]\n");
        assert!(drop_in(&parse(&text).unwrap()).contains("\nPerSourcePenaltyExemptList 192.168.1.7,fd00::/8\n"));
    }
}
