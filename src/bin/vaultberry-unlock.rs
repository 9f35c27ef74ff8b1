//! `vaultberry-unlock`, for the initramfs: waits for the key and opens root.

use std::process::ExitCode;

use vaultberry::unlock::console::Consoles;
use vaultberry::unlock::settings::{PATH, Settings};

fn main() -> ExitCode {
    match Settings::read(PATH.as_ref()).and_then(|settings| vaultberry::unlock::run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            Consoles::open().say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
