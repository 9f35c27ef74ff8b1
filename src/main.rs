//! The `vaultberry` command: parse, dispatch, exit code.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use jiff::Timestamp;
use vaultberry::cli::backup::Backup;
use vaultberry::cli::report::{Preview, Report};
use vaultberry::cli::source::Source;
use vaultberry::cli::{Cli, Command};
use vaultberry::image::build::{Request, base_tree, build, write_lock};
use vaultberry::image::emulate::{self, Guest};
use vaultberry::openpgp::Recipients;
use vaultberry::outcome::Outcome;
use vaultberry::redact::Redactor;
use vaultberry::run::events::Events;
use vaultberry::run::rehearsal;
use vaultberry::run::screen::Screen;
use vaultberry::sandbox::enter::Order;
use vaultberry::snapshot::restore::{self, Restored};
use vaultberry::snapshot::{catalog, json};
use vaultberry::source::apart;
use vaultberry::source::trust::Server;
use vaultberry::stop::Stop;
use vaultberry::{browse, cli, complaint, config, doctor, durable, log, report, run, sandbox, source, status, terminal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Command::Sandbox(order) => return sandboxed(order),
        Command::Apart(order) => return apart::serve(order.account, order.mirror.as_deref()),
        _ => {}
    }
    log::init(cli.verbose);
    match dispatch(cli) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            // Nowhere is left to say that standard error is gone.
            let _ = io::stderr().write_all(complaint::render(&error).as_bytes());
            Outcome::Failed.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<Outcome> {
    match cli.command {
        Command::Init(args) => {
            config::init(&args.file)?;
            let file = args.file.display();
            print(&format!("{file}: written; edit it, then run `vaultberry check {file}`\n"))
        }
        Command::Check(args) => check(&args.file),
        Command::Plan(args) => plan(args),
        Command::Image(args) => image(args),
        Command::Boot(args) => boot(args),
        Command::Flash(args) => browse::flash::run(&args, cli.verbose, &mut io::stdout()),
        Command::Backup(Backup::Run(args)) => backup(&args, cli.verbose),
        Command::Disk(command) => browse::disk::run(&command, &mut io::stdout()),
        Command::Key(command) => browse::key::run(&command, &mut io::stdout()),
        Command::Kernel(command) => browse::kernel::run(&command, &mut io::stdout()),
        Command::Harden(command) => browse::harden::run(&command, &mut io::stdout()),
        Command::Update(args) => browse::update::run(&args, &mut io::stdout()),
        Command::Snapshot(command) => browse::snapshot::run(&command, cli.verbose, &mut io::stdout()),
        Command::Restore(args) => restore(&args, cli.verbose),
        Command::Source(Source::Trust(args)) => trust(&args),
        Command::Status(args) => status(&args),
        Command::Sandbox(_) | Command::Apart(_) => unreachable!("it has its own way out"),
        Command::Source(Source::Setup(args)) => print(&source::gate::setup::setup(&config::load(&args.on.config)?, &args.name)?),
        Command::Source(Source::Key(args)) => print(&source::key::ensure_all(&config::load(&args.config)?)?),
        Command::Offsite(command) => browse::offsite::run(&command, cli.verbose, &mut io::stdout()),
        Command::Fetch(args) => browse::offsite::fetch_copy(&args, cli.verbose, &mut io::stdout()),
        Command::Report(Report::Send(args)) => {
            let config = config::load(&args.config)?;
            run::told::tell_unless_running(&config);
            print(&report::send_now(&config)?)
        }
        Command::Report(Report::Preview(args)) => preview(&args),
        Command::Doctor(args) => examine(&args),
        Command::Report(Report::Test(args)) => print(&report::test(&config::load(&args.config)?, Timestamp::now())?),
    }
}

fn status(args: &cli::status::Status) -> Result<Outcome> {
    let config = config::load(&args.on.config)?;
    let facts = status::facts::gather(&config, None, Timestamp::now());
    let redactor = Redactor::of(&config);
    if let Some(file) = &args.html {
        status::write_page(&facts, &redactor, file)?;
    } else if args.json {
        print(&status::json(&facts)?)?;
    } else {
        print(&redactor.masked(&status::text::text(&facts, terminal::colour(&io::stdout()))))?;
    }
    Ok(facts.verdict())
}

/// Becomes another program, or says why not.
fn sandboxed(order: &cli::sandbox::Sandbox) -> ExitCode {
    let name = log::printable(order.program[0].as_encoded_bytes());
    let order = order.clone();
    let order = Order { read: order.read, write: order.write, connect: order.connect, program: order.program };
    let (code, error) = match sandbox::enter::enter(&order) {
        Ok(error) if error.kind() == io::ErrorKind::NotFound => (sandbox::NO_PROGRAM, format!("there is no program `{name}`")),
        Ok(error) => (sandbox::NO_SANDBOX, format!("starting `{name}`: {error}")),
        Err(error) => (sandbox::NO_SANDBOX, format!("entering the sandbox of `{name}`: {error:#}")),
    };
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(code)
}

fn trust(args: &cli::source::Trust) -> Result<Outcome> {
    let server = match (&args.name, &args.at) {
        (_, Some(at)) => Server::at(at)?,
        (Some(name), None) => Server::of(&config::load(&args.on.config)?, name)?,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let offered = apart::host_keys(&server, &Stop::on_signals()?)?;
    print(&if args.json { json::line(&offered)? } else { offered.text() })?;
    Ok(if offered.is_pinned() || args.at.is_some() { Outcome::Complete } else { Outcome::Failed })
}

fn done(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Complete)
}

fn backup(args: &cli::backup::Run, verbosity: u8) -> Result<Outcome> {
    let config = config::load(&args.on.config)?;
    if args.dry_run {
        return rehearse(&config, args.json);
    }
    let accept = run::Accept { deletions: args.accept_deletions.clone(), smaller_dumps: args.accept_smaller_dumps.clone() };
    accept.check(&config)?;
    let screen = Screen::new(verbosity);
    let events = if args.json { Events::json() } else { screen.events() };
    let stop = Stop::on_signals()?;
    let report =
        if args.if_due { run::catch_up(&config, &events, &stop)? } else { run::backup(&config, &accept, &events, &stop) };
    drop(screen);
    if !args.json {
        // The run is over and written down; whether somebody still listens changes nothing.
        let _ = print(&Redactor::of(&config).masked(&report.summary()));
    }
    Ok(report.outcome)
}

fn rehearse(config: &config::Config, json: bool) -> Result<Outcome> {
    let rehearsal = rehearsal::rehearse(config, &Stop::on_signals()?);
    let text = if json {
        serde_json::to_string(&rehearsal).context("putting the rehearsal into JSON")? + "\n"
    } else {
        Redactor::of(config).masked(&rehearsal.summary())
    };
    print(&text)?;
    Ok(rehearsal.outcome)
}

fn check(file: &Path) -> Result<Outcome> {
    let config = config::load(file)?;
    if !config.recipients.is_empty() {
        let recipients = Recipients::at(&config.recipients, SystemTime::now());
        recipients.require_all().with_context(|| format!("checking {}", file.display()))?;
        recipients.expiring().iter().for_each(|told| tracing::warn!("{told}"));
    }
    print(&format!("{}: valid\n", file.display()))
}

fn plan(args: cli::config::Plan) -> Result<Outcome> {
    let config = config::load(&args.file)?;
    print(&format!("{}\n{}", config::plan(&config), vaultberry::image::plan::plan(&config, args.cache)))
}

fn image(args: cli::image::Image) -> Result<Outcome> {
    if let Some(cli::image::Command::Lock(lock)) = args.command {
        let path = write_lock(lock.config.as_deref(), lock.cache)?;
        return print(&format!("{}\n", path.display()));
    }
    let request = Request {
        config: args.config,
        out: args.out,
        secrets: args.secrets,
        binaries: args.binaries,
        cache: args.cache,
        refresh: args.refresh,
        locked: args.locked,
        offline: args.offline,
    };
    if args.only_base {
        return print(&format!("base tree: {}\n", base_tree(&request)?.display()));
    }
    let built = build(&request)?;
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

fn restore_here(args: &cli::snapshot::Restore, verbosity: u8) -> Result<Restored> {
    let archive = catalog::archive(&args.snapshot, || Ok(config::load(&args.on.config)?))?;
    let screen = Screen::new(verbosity);
    restore::restore(&archive, &args.path, &args.to, &screen.progress("restore"), &Stop::on_signals()?)
}

fn restore(args: &cli::snapshot::Restore, verbosity: u8) -> Result<Outcome> {
    let restored = match browse::offsite::restore(args, verbosity)? {
        Some(restored) => restored,
        None => restore_here(args, verbosity)?,
    };
    if args.json {
        print(&json::line(&restored)?)?;
    } else {
        print(&restored.summary())?;
    }
    done(restored.verdict())
}

fn preview(args: &Preview) -> Result<Outcome> {
    let config = config::load(&args.on.config)?;
    let preview = report::preview(&config, &run::told::letter_of_last_run(&config)?);
    if let Some(file) = &args.html {
        let html = preview.html.context("writing the page: the report of the last run has none")?;
        // It names servers and files, as the page of `status`.
        durable::write(file, html.as_bytes(), 0o600).context("writing the page")?;
    }
    print(&preview.text)
}

fn examine(args: &cli::doctor::Doctor) -> Result<Outcome> {
    let config = config::load(&args.on.config)?;
    let redactor = Redactor::of(&config);
    doctor::examine(&config, &Stop::on_signals()?, &mut |check| {
        print(&if args.json { json::line(check)? } else { redactor.masked(&doctor::text(check)) }).map(drop)
    })
}

/// Writes to standard output; unlike `print!`, a reader that has gone away is an error and not a panic.
fn print(text: &str) -> Result<Outcome> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to standard output")?;
    Ok(Outcome::Complete)
}
