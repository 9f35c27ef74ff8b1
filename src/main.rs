//! The `vaultberry` command: parse, dispatch, exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use vaultberry::cli::backup::Backup;
use vaultberry::cli::source::Source;
use vaultberry::cli::{Cli, Command};
use vaultberry::outcome::Outcome;
use vaultberry::stop::Stop;
use vaultberry::{complaint, config, log, run, source};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::init(cli.verbose);
    match dispatch(cli.command) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            // Nowhere is left to say that standard error is gone.
            let _ = io::stderr().write_all(complaint::render(&error).as_bytes());
            Outcome::Failed.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<Outcome> {
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
        Command::Backup(Backup::Run(args)) => {
            let report = run::backup(&config::load(&args.config)?, &Stop::on_signals()?)?;
            // The run is over and written down; whether somebody still listens changes nothing.
            let _ = print(&report.summary());
            Ok(report.outcome)
        }
        Command::Source(Source::Key(args)) => print(&source::key::ensure_all(&config::load(&args.config)?)?),
    }
}

/// Writes to standard output; unlike `print!`, a reader that has gone away is an error and not a panic.
fn print(text: &str) -> Result<Outcome> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to standard output")?;
    Ok(Outcome::Complete)
}
