//! Valid parts of a configuration for tests: `Source { port: 2222, ..sample::source("web") }`.

use super::{Config, Source, parse};

/// A configuration with the source `web`, which has its backup and state folders below `folder`. They needn't be there.
pub fn config(folder: &std::path::Path) -> Config {
    let folders = format!("[backup]\nfolder = \"{0}/backup\"\nstate = \"{0}/state\"\n", folder.display());
    parse(&(folders + &text("web"))).expect("it is valid")
}

/// The source `name` of a configuration that says no more than it must.
pub fn source(name: &str) -> Source {
    parse(&text(name)).expect("it is valid").sources.remove(0)
}

fn text(name: &str) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nhost = \"{name}\"\nuser = \"backup\"\npaths = [\"/srv\"]\n\
         host_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW\"]\n"
    )
}

/// A store in clear at this address, with path style, no `every`, and nothing else out of the ordinary.
pub fn offsite(endpoint: &str, credentials: &std::path::Path) -> super::Offsite {
    super::Offsite {
        endpoint: Some(endpoint.to_owned()),
        region: String::from("us-east-1"),
        bucket: String::from("backups"),
        prefix: String::from("vaultberry"),
        path_style: true,
        credentials: credentials.to_owned(),
        ca: None,
        every: std::time::Duration::ZERO,
        parallel: 4,
        bandwidth: None,
        storage_class: None,
        checksums: super::Checksums::Sha256,
        locked: None,
        silence: std::time::Duration::from_mins(1),
    }
}
