//! `vaultberry-unlock`, for the initramfs: waits for the key and opens root.

use std::process::ExitCode;

use vaultberry::unlock::console::Consoles;
use vaultberry::unlock::settings::{PATH, Settings};

fn main() -> ExitCode {
    let settings = match Settings::read(PATH.as_ref()) {
        Ok(settings) => settings,
        Err(error) => {
            Consoles::open().say(&format!("error: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    // It has said what went wrong.
    vaultberry::unlock::run(&settings).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}
