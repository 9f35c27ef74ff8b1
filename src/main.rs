//! The `vaultberry` command: parse, dispatch, exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use vaultberry::cli::{Cli, Command};
use vaultberry::{complaint, config};

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere is left to say that standard error is gone.
            let _ = io::stderr().write_all(complaint::render(&error).as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Init(args) => {
            config::init(&args.file)?;
            let file = args.file.display();
            print(&format!("{file}: written; edit it, then run `vaultberry check {file}`\n"))
        }
        Command::Check(args) => {
            config::load(&args.file)?;
            print(&format!("{}: valid\n", args.file.display()))
        }
        Command::Plan(args) => print(&config::plan(&config::load(&args.file)?)),
    }
}

/// Writes to standard output; unlike `print!`, a reader that has gone away is an error and not a panic.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to standard output")
}
