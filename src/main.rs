//! The `vaultberry` command: parse, dispatch, exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use jiff::Timestamp;
use vaultberry::cli::backup::Backup;
use vaultberry::cli::disk::Disk;
use vaultberry::cli::report::Report;
use vaultberry::cli::source::Source;
use vaultberry::cli::{Cli, Command};
use vaultberry::image::build::{Request, build};
use vaultberry::image::emulate::{self, Guest};
use vaultberry::outcome::Outcome;
use vaultberry::stop::Stop;
use vaultberry::{cli, complaint, config, disk, log, report, run, source, terminal};

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
        Command::Image(args) => image(args),
        Command::Boot(args) => boot(args),
        Command::Backup(Backup::Run(args)) => {
            let report = run::backup(&config::load(&args.config)?, &Stop::on_signals()?)?;
            // The run is over and written down; whether somebody still listens changes nothing.
            let _ = print(&report.summary());
            Ok(report.outcome)
        }
        Command::Disk(Disk::Init { on, erase }) => done(disk::init(&config::load(&on.config)?, erase.as_deref())),
        Command::Disk(Disk::Open(args)) => done(disk::open(&config::load(&args.config)?)),
        Command::Disk(Disk::Close(args)) => done(disk::close(&config::load(&args.config)?)),
        Command::Disk(Disk::Attach(args)) => {
            let config = config::load(&args.config)?;
            done(disk::attach(&config, &terminal::read_secret("recovery passphrase of the appliance that made the disk")?))
        }
        Command::Source(Source::Key(args)) => print(&source::key::ensure_all(&config::load(&args.config)?)?),
        Command::Report(Report::Test(args)) => print(&report::test(&config::load(&args.config)?, Timestamp::now())?),
    }
}

fn done(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Complete)
}

fn image(args: cli::image::Image) -> Result<Outcome> {
    let built = build(&Request {
        config: args.config,
        out: args.out,
        secrets: args.secrets,
        binaries: args.binaries,
        cache: args.cache,
        refresh: args.refresh,
    })?;
    let files = built.files.iter().fold(String::new(), |text, file| text + &format!("{}\n", file.display()));
    print(&format!("{files}stick: {}\nsecrets: {}\n", built.key.display(), built.secrets.display()))
}

fn boot(args: cli::image::Boot) -> Result<Outcome> {
    let stick = match args.stick {
        Some(stick) => Some(stick),
        None if args.no_stick => None,
        None => Some(emulate::stick_of(&args.image, &args.secrets)?),
    };
    let guest = Guest {
        image: args.image,
        machine: args.machine,
        stick,
        disk: args.disk.zip(args.serial),
        ssh_port: args.ssh_port,
        write: args.write,
        extra: args.extra,
    };
    let status = emulate::boot(&guest, &Stop::on_signals()?)?;
    Ok(if status.success() { Outcome::Complete } else { Outcome::Failed })
}

/// Writes to standard output; unlike `print!`, a reader that has gone away is an error and not a panic.
fn print(text: &str) -> Result<Outcome> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to standard output")?;
    Ok(Outcome::Complete)
}
