//! `init`, `check` and `plan`, run as the owner of an appliance runs them.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use vaultberry::config::EXAMPLE;

use crate::support::gnupg::GnuPg;

/// Runs vaultberry in `folder`; gives exit code, standard output and standard error.
fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vaultberry")).args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder with `text` in its `appliance.toml`.
fn folder_with(text: impl AsRef<[u8]>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("appliance.toml"), text).unwrap();
    folder
}

fn fails_with(folder: &Path, arguments: &[&str], expected: &str) {
    assert_eq!(run(folder, arguments), (1, String::new(), String::from(expected)), "{arguments:?}");
}

#[test]
fn what_init_writes_is_valid_and_has_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let written = "appliance.toml: written; edit it, then run `vaultberry check appliance.toml`\n";
    assert_eq!(run(folder.path(), &["init"]), (0, String::from(written), String::new()));
    assert_eq!(fs::read_to_string(folder.path().join("appliance.toml")).unwrap(), EXAMPLE);
    assert_eq!(run(folder.path(), &["check", "appliance.toml"]), (0, String::from("appliance.toml: valid\n"), String::new()));
    let (code, stdout, stderr) = run(folder.path(), &["plan", "appliance.toml"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("appliance\n  hostname            vaultberry\n"), "{stdout}");
    assert!(stdout.contains("\n  paths               /srv\n                      /home\n"), "{stdout}");
}

#[test]
fn init_never_overwrites() {
    let folder = folder_with("mine");
    let expected = "error: creating appliance.toml: it is there already, and init never overwrites\n\
                    hint: name another file, as in `vaultberry init second.toml`, or move this one away\n";
    fails_with(folder.path(), &["init"], expected);
    fails_with(folder.path(), &["init", "appliance.toml"], expected);
    assert_eq!(fs::read_to_string(folder.path().join("appliance.toml")).unwrap(), "mine");
    // Through a link that leads nowhere, a file would appear where nobody looks for it.
    std::os::unix::fs::symlink("elsewhere.toml", folder.path().join("link.toml")).unwrap();
    assert_eq!(run(folder.path(), &["init", "link.toml"]).0, 1);
    assert!(!folder.path().join("elsewhere.toml").exists());
    assert_eq!(run(folder.path(), &["init", "second.toml"]).0, 0);
    let expected = "error: creating none/a.toml: No such file or directory (os error 2)\n";
    fails_with(folder.path(), &["init", "none/a.toml"], expected);
}

#[test]
fn all_errors_of_a_file_are_told_at_once() {
    let folder = folder_with(
        "\
[appliance]
hostname = \"My Pi\"
timezone = \"europe/zurich\"

[admin]
user = \"root\"
generate_key = true

[image]
suite = \"bookworm\"
siez = \"4 GiB\"

[unlock]
wait = 30

[[source]]
name = \"home\"
host = \"-oProxyCommand=reboot\"
port = 70000
user = \"root\"
host_keys = [\"ssh-ed25519 AAAA\"]
paths = [\"/srv\", \"/srv/data\", \"etc\"]

[[source]]
name = home
host = \"db.lan\"
user = \"backup\"
host_keys = []

[backups]
at = \"2:30\"
",
    );
    let expected = "\
error: checking appliance.toml: 15 errors
appliance.toml:2:12: appliance.hostname: \"My Pi\" is not a host name
  hint: write 1 to 63 lower-case letters, digits and inner hyphens, without a domain, as in \"vaultberry\"
appliance.toml:3:12: appliance.timezone: \"europe/zurich\" is not a time zone
  hint: did you mean \"Europe/Zurich\"?
appliance.toml:6:8: admin.user: root may not log in; the admin becomes root with sudo
  hint: write a name of your own, as in \"admin\"
appliance.toml:10:9: image.suite: \"bookworm\" is not a supported Debian suite
  hint: write \"trixie\", the only one supported
appliance.toml:11:1: image.siez: unknown setting
  hint: did you mean size?
appliance.toml:14:8: unlock.wait: must be text in quotes, not a number
  hint: write wait = \"30s\"
appliance.toml:18:8: source[1].host: \"-oProxyCommand=reboot\" is not a host name or IP address
  hint: write a DNS name or an IP address, as in \"server.example.org\" or \"192.0.2.7\"
appliance.toml:19:8: source[1].port: must be from 1 to 65535
  hint: write port = 22
appliance.toml:20:8: source[1].user: root is refused: whoever takes over the appliance would have root on the server as well
  hint: make an account there that can only read what is to be saved, as in \"backup\"
appliance.toml:21:14: source[1].host_keys[1]: isn't whole: it is shorter or longer than such a key is
  hint: copy the content of the server's /etc/ssh/ssh_host_ed25519_key.pub, one line, into the quotes
appliance.toml:22:18: source[1].paths[2]: \"/srv/data\" lies inside \"/srv\", which is saved already
  hint: leave it out
appliance.toml:22:31: source[1].paths[3]: \"etc\" is not an absolute path
  hint: write it from the root on, as in \"/srv/data\"
appliance.toml:25:8: syntax error: string values must be quoted
  hint: put text in quotes, as in key = \"value\"
appliance.toml:28:13: source[2].host_keys: must not be empty
  hint: write host_keys = [\"ssh-ed25519 AAAA…\"]
appliance.toml:30:2: backups: unknown section
  hint: did you mean [backup]?
";
    for command in ["check", "plan"] {
        fails_with(folder.path(), &[command, "appliance.toml"], expected);
    }
}

#[test]
fn what_is_no_readable_file_is_told_with_a_way_out() {
    let folder = folder_with(b"[admin]\nuser = \"caf\xe9\"\n");
    fs::create_dir(folder.path().join("pi")).unwrap();
    let large = fs::File::create(folder.path().join("card.img")).unwrap();
    large.set_len(1 << 32).unwrap();
    for (file, expected) in [
        (
            "none.toml",
            "error: reading none.toml: there is no such file\n\
             hint: name an appliance.toml; `vaultberry init none.toml` writes one\n",
        ),
        (
            "pi",
            "error: reading pi: this is a folder, not a file\n\
             hint: name the file in it; `vaultberry init pi/appliance.toml` writes one\n",
        ),
        ("appliance.toml", "error: reading appliance.toml: line 2 is not UTF-8 text\nhint: save the file as UTF-8\n"),
        (
            "card.img",
            "error: reading card.img: this is larger than 1048576 bytes, so it is no appliance.toml\n\
             hint: name an appliance.toml; `vaultberry init` writes one\n",
        ),
    ] {
        fails_with(folder.path(), &["check", file], expected);
        fails_with(folder.path(), &["plan", file], expected);
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_never_shown() {
    let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAhunter2\n-----END OPENSSH PRIVATE KEY-----";
    let values = [
        format!("'''{pem}'''"),
        format!("\"{}\"", pem.replace('\n', "\\n")),
        String::from(pem),
        String::from("\"b3BlbnNzaC1rZXktdjEAAAAhunter2\""),
        String::from("\"https://me:hunter2@mirror.lan/debian\""),
        String::from("[\"ssh-ed25519 hunter2\"]"),
        String::from("[\"hunter2\"]"),
        String::from("\"me:hunter2@db.lan\""),
        String::from("hunter2 hunter2"),
        String::from("\"hunter2"),
        String::from("{ hunter2hunter2hunter2hunter2hunter2 = \"hunter2\" }"),
    ];
    // Where a value may be shown when it can't be a secret, the plain word is left out.
    let sensitive = ["admin.ssh_keys", "image.mirror", "source.identity", "source.host_keys"];
    let shown =
        ["appliance.hostname", "admin.user", "disk.serials", "backup.folder", "source.host", "source.user", "source.paths"];
    for (index, place) in sensitive.iter().chain(&shown).enumerate() {
        let (section, key) = place.split_once('.').unwrap();
        let head = if section == "source" { String::from("[[source]]") } else { format!("[{section}]") };
        let plain = [String::from("\"hunter2\""), String::from("[\"/x\", \"hunter2\"]")];
        for value in values.iter().chain(plain.iter().filter(|_| index < sensitive.len())) {
            if index >= sensitive.len()
                && (value == "[\"hunter2\"]" || value.contains("ssh-ed25519") || value.starts_with("\"b3"))
            {
                continue;
            }
            let folder = folder_with(format!("{head}\n{key} = {value}\n"));
            let (code, stdout, stderr) = run(folder.path(), &["check", "appliance.toml"]);
            assert_eq!((code, stdout.as_str()), (1, ""));
            assert!(!stderr.contains("hunter2"), "{place} = {value}\n{stderr}");
        }
    }
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["check"][..], &["plan", "a", "b"], &["check", "--force", "a"], &["nothing"], &[]] {
        assert_eq!(run(folder.path(), arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn a_certificate_that_nothing_can_be_sealed_for_is_refused_and_one_that_soon_expires_told_of() {
    let check = |owner: &GnuPg| {
        let folder = folder_with(format!("{EXAMPLE}\n[openpgp]\nrecipients = [\"\"\"\n{}\"\"\"]\n", owner.certificate()));
        run(folder.path(), &["check", "appliance.toml"])
    };
    let (code, stdout, stderr) = check(&GnuPg::expired());
    assert_eq!((code, stdout.as_str()), (1, ""));
    let start = "error: checking appliance.toml: the certificate ";
    assert!(stderr.starts_with(start) && stderr.contains("\nhint: extend it with `gpg --quick-set-expire`"), "{stderr}");
    let (code, stdout, stderr) = check(&GnuPg::until("30d"));
    assert_eq!((code, stdout.as_str()), (0, "appliance.toml: valid\n"));
    assert!(stderr.contains(" expires in ") && stderr.contains("\nhint: extend it with"), "{stderr}");
    assert_eq!(check(&GnuPg::new()).2, "");
    // The primary key is the one to encrypt to, as in old certificates.
    assert_eq!(check(&GnuPg::single("rsa3072")), (0, "appliance.toml: valid\n".into(), String::new()));
}
