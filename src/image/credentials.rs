//! What the appliance logs in with elsewhere, and who brings it there: files in the secrets folder, as far as the owner has put
//! them there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::wifi;
use crate::config::Config;
use crate::keys::secrets::SecretsFolder;
use crate::secret::Secret;

/// The file with the wireless network's passphrase.
const WIFI: &str = "wifi";

/// What the config speaks of: the file's name in `credentials/` of the secrets folder, and its path on the appliance.
pub fn wanted(config: &Config) -> Vec<(String, PathBuf)> {
    let store = config.offsite.as_ref().map(|offsite| (String::from("s3"), offsite.credentials.clone()));
    let servers = config.report.iter().flat_map(|report| report.servers.iter().enumerate());
    let mail = servers.filter_map(|(number, server)| {
        let path = server.credentials.clone()?;
        // Those of further servers go by the names that they have on the appliance.
        let name = if number == 0 { String::from("smtp") } else { path.file_name()?.to_str()?.to_owned() };
        Some((name, path))
    });
    let radio = config.wifi.as_ref().map(|_| (String::from(WIFI), PathBuf::from(wifi::SUPPLICANT)));
    let watcher = config.ping.as_ref().map(|ping| (String::from("ping"), ping.credentials.clone()));
    let mut wanted: Vec<(String, PathBuf)> = Vec::new();
    for (name, path) in store.into_iter().chain(mail).chain(watcher).chain(radio) {
        if !wanted.iter().any(|(_, known)| *known == path) {
            wanted.push((name, path));
        }
    }
    wanted
}

/// Those that are there, with what is in them; a warning for each of the others.
///
/// # Errors
/// Others than the owner may read one; or that of the wireless network, without which nobody may reach the appliance, isn't there.
pub fn read(config: &Config, folder: &SecretsFolder) -> Result<Vec<(PathBuf, Secret<Vec<u8>>)>> {
    let mut found: Vec<(PathBuf, Secret<Vec<u8>>)> = Vec::new();
    for (name, path) in wanted(config) {
        let content = folder.credentials(&name)?;
        if let Some(wifi) = config.wifi.as_ref().filter(|_| path == Path::new(wifi::SUPPLICANT)) {
            let content = content.with_context(|| {
                format!(
                    "there is no file credentials/{WIFI} in the secrets folder: the appliance could not join {:?}\n\
                     hint: write the network's passphrase into it, and `chmod 600` it",
                    wifi.ssid
                )
            })?;
            found.push((path, wifi::supplicant(wifi, &content)?));
        } else if let Some(content) = content {
            found.push((path, content));
        } else {
            tracing::warn!(
                "there is no file credentials/{name} in the secrets folder: write {} on the appliance before its first night",
                path.display()
            );
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::read;
    use crate::config::{EXAMPLE, MailServer, Report, Security, parse};
    use crate::keys::secrets::SecretsFolder;

    #[test]
    fn each_mail_server_gets_its_own_login_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("credentials")).unwrap();
        for name in ["smtp", "second"] {
            let file = folder.path().join("credentials").join(name);
            fs::write(&file, name).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let server = |path: &str| MailServer {
            host: "mail.example.org".into(),
            port: 587,
            security: Security::StartTls,
            credentials: Some(PathBuf::from(path)),
            ca: None,
        };
        let mut config = parse(EXAMPLE).unwrap();
        config.report = Some(Report {
            to: vec!["me@example.org".into()],
            from: "pi@example.org".into(),
            servers: ["/etc/first", "/etc/second", "/etc/first", "/etc/missing"].map(server).into(),
            size_limit: 1 << 20,
        });
        let found = read(&config, &SecretsFolder::at(folder.path())).unwrap();
        let found: Vec<(&Path, &[u8])> =
            found.iter().map(|(path, content)| (path.as_path(), content.expose().as_slice())).collect();
        assert_eq!(found, [(Path::new("/etc/first"), &b"smtp"[..]), (Path::new("/etc/second"), b"second")]);
    }
}
