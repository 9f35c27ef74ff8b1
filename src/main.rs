//! The `vaultberry` command: parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use vaultberry::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().command {}
}
