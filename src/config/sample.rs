//! A source for tests, valid and with every default: `Source { port: 2222, ..sample::source("web") }`.

use super::{Source, parse};

/// The source `name` of a configuration that says no more than it must.
pub fn source(name: &str) -> Source {
    let text = format!(
        "[[source]]\nname = \"{name}\"\nhost = \"{name}\"\nuser = \"backup\"\npaths = [\"/srv\"]\n\
         host_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW\"]\n"
    );
    parse(&text).expect("it is valid").sources.remove(0)
}
