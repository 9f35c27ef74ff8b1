//! The `vaultberry` command: parse, dispatch, exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use vaultberry::cli::backup::Backup;
use vaultberry::cli::source::Source;
use vaultberry::cli::{Cli, Command};
use vaultberry::outcome::Outcome;
use vaultberry::stop::Stop;
use vaultberry::{config, log, run, source};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::init(cli.verbose);
    match dispatch(cli.command) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            // A closed stderr must not turn the exit code into a panic's.
            let _ = writeln!(io::stderr(), "vaultberry: {error:#}");
            Outcome::Failed.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<Outcome> {
    match command {
        Command::Backup(Backup::Run(appliance)) => {
            let report = run::backup(&config::load(&appliance.config)?, &Stop::on_signals()?)?;
            // The run is over and written down; whether somebody still listens changes nothing.
            let _ = io::stdout().write_all(report.summary().as_bytes());
            Ok(report.outcome)
        }
        Command::Source(Source::Key(appliance)) => {
            for line in source::key::ensure_all(&config::load(&appliance.config)?)? {
                writeln!(io::stdout(), "{line}")?;
            }
            Ok(Outcome::Complete)
        }
    }
}
