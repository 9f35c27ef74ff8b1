//! `vaultberry offsite`, and restoring from a store: from a parsed command to what is printed.

use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use crate::browse::say;
use crate::cli::offsite::{Fetch, Kind, List, Offsite, Policy, Prune, Reach, Recipients, Store, Verify};
use crate::cli::snapshot::Restore;
use crate::config::{self, Config, DEFAULT_CONFIG};
use crate::offsite::clock::Clock;
use crate::offsite::fetch::Wanted;
use crate::offsite::{self, fetch, list, policy, prune, recipients, retrieve, verify};
use crate::outcome::Outcome;
use crate::run::appliance;
use crate::run::screen::Screen;
use crate::snapshot::json;
use crate::snapshot::restore::Restored;
use crate::snapshot::retention::Verdict;
use crate::stop::Stop;

/// Does what `command` says, and writes what comes of it to `out`.
pub fn run(command: &Offsite, verbosity: u8, out: &mut impl Write) -> Result<Outcome> {
    match command {
        Offsite::List(args) => list_copies(args, out),
        Offsite::Verify(args) => verify_copies(args, verbosity, out),
        Offsite::Fetch(args) => fetch_copy(args, verbosity, out),
        Offsite::Prune(args) => prune_copies(args, out),
        Offsite::Recipients(args) => show_recipients(args, out),
        Offsite::Policy(args) => print_policy(args, out),
    }
}

fn list_copies(args: &List, out: &mut impl Write) -> Result<Outcome> {
    let (offsite, credentials) = store_of(&args.store)?;
    let copies = list::list(&offsite, &credentials, args.source.as_deref(), &Stop::on_signals()?)?;
    if args.json {
        let json = serde_json::to_string_pretty(&copies).context("putting the list into JSON")?;
        return say(out, &format!("{json}\n"));
    }
    match &args.source {
        Some(source) if copies.is_empty() => {
            bail!("there is no copy of a source {source:?} in the store\nhint: without a name all sources are listed")
        }
        None if copies.is_empty() => say(out, &format!("there is no copy below {} yet\n", offsite::target(&offsite))),
        _ => say(out, &list::table(&copies)),
    }
}

fn verify_copies(args: &Verify, verbosity: u8, out: &mut impl Write) -> Result<Outcome> {
    let (offsite, credentials) = store_of(&args.store)?;
    let wanted: Vec<Wanted> = args.snapshot.iter().map(|text| text.parse()).collect::<Result<_>>()?;
    let expected =
        if args.store.store.is_none() { expected(&config::load(&args.store.on.config)?, &offsite) } else { Vec::new() };
    let request = verify::Request {
        offsite: &offsite,
        credentials: &credentials,
        wanted: &wanted,
        expected: &expected,
        sample: args.sample.map(NonZeroUsize::get),
        key: args.key.as_deref(),
    };
    let screen = Screen::new(verbosity);
    let (mut good, mut bad) = (0_u64, 0_u64);
    verify::verify(&request, &Stop::on_signals()?, &screen.progress("verify"), &mut |verified| {
        let name = format!("{}/{}", verified.source, verified.snapshot);
        let line = match &verified.problem {
            _ if args.json => json::line(verified)?,
            None => format!("{name}  as it was proven, {} bytes\n", verified.bytes),
            Some(problem) => format!("{name}  BAD: {problem}\n"),
        };
        *(if verified.problem.is_none() { &mut good } else { &mut bad }) += 1;
        say(out, &line).map(drop)
    })?;
    drop(screen);
    ensure!(
        bad == 0,
        "{bad} of {} copies aren't what was proven\nhint: the next snapshots are pushed anew; look who changed the bucket",
        good + bad
    );
    if !args.json && good == 0 {
        say(out, "there is no proven copy yet\n")?;
    }
    Ok(Outcome::Complete)
}

/// What the push clock says is in the store, of the sources that there still are. Elsewhere than on the appliance there is none.
fn expected(config: &Config, offsite: &config::Offsite) -> Vec<Wanted> {
    let pushes = Clock::load(&config.backup.state).proven(&offsite::target(offsite));
    let is_pushed = |source: &str| source == appliance::NAME || config.sources.iter().any(|known| known.name == source);
    let wanted = pushes.into_iter().filter(|(source, _)| is_pushed(source));
    wanted.map(|(source, name)| Wanted { source, name }).collect()
}

/// What `vaultberry fetch` does, too.
pub fn fetch_copy(args: &Fetch, verbosity: u8, out: &mut impl Write) -> Result<Outcome> {
    let (offsite, credentials) = store_of(&args.store)?;
    let request = fetch::Request {
        offsite: &offsite,
        credentials: &credentials,
        snapshot: &args.snapshot,
        to: &args.to,
        key: args.key.as_deref(),
    };
    let screen = Screen::new(verbosity);
    let fetched = fetch::fetch(&request, &Stop::on_signals()?, &screen.progress("fetch"))?;
    drop(screen);
    say(out, &fetched.told())
}

fn prune_copies(args: &Prune, out: &mut impl Write) -> Result<Outcome> {
    let config = config::load(&args.on.config)?;
    let (offsite, _) = configured(&args.on.config)?;
    let stop = Stop::on_signals()?;
    for (source, verdicts) in prune::plan(&config, &offsite, &args.credentials, Timestamp::now(), &stop)? {
        for Verdict { name, reasons } in verdicts {
            let what = match reasons.as_slice() {
                [] if args.yes => {
                    prune::remove(&offsite, &args.credentials, &source, &name, &stop)?;
                    String::from("removed")
                }
                [] => String::from("would go"),
                reasons => format!("stays: {}", reasons.join(", ")),
            };
            say(out, &format!("{source}/{name}  {what}\n"))?;
        }
    }
    Ok(Outcome::Complete)
}

fn show_recipients(args: &Recipients, out: &mut impl Write) -> Result<Outcome> {
    let shown = recipients::show(&config::load(&args.on.config)?, SystemTime::now());
    if args.json {
        let json = serde_json::to_string_pretty(&shown).context("putting the certificates into JSON")?;
        say(out, &format!("{json}\n"))?;
    } else if shown.is_empty() {
        say(out, "nobody: there is no [openpgp] recipients\n")?;
    } else {
        say(out, &recipients::text(&shown))?;
    }
    Ok(if shown.iter().all(|one| one.usable) { Outcome::Complete } else { Outcome::Partial })
}

fn print_policy(args: &Policy, out: &mut impl Write) -> Result<Outcome> {
    let (offsite, _) = configured(&args.on.config)?;
    let kind = match args.kind {
        Kind::Aws => policy::Kind::Aws,
        Kind::Ceph => policy::Kind::Ceph,
    };
    let locked = policy::locked_days(&offsite);
    ensure!(
        u64::from(args.expire) > locked,
        "copies are locked for {locked} days, so they can't go after {}\nhint: say more with --expire, or less in [offsite] locked",
        args.expire
    );
    say(out, &policy::script(&offsite, kind, args.expire))
}

/// Restores from a store, when that is what `args` names.
pub fn restore(args: &Restore, verbosity: u8) -> Result<Option<Restored>> {
    let Some(location) = args.snapshot.to_str().filter(|text| text.starts_with("s3://")) else {
        ensure!(
            !is_told(&args.reach) && args.reach.credentials.is_none() && args.key.is_none(),
            "--key and the options about a store are for copies in one\nhint: write s3://BUCKET/PREFIX/SOURCE/NAME"
        );
        return Ok(None);
    };
    let parts: Vec<&str> = location["s3://".len()..].rsplitn(3, '/').collect();
    let [name, source, place] = parts[..] else {
        bail!("{location:?} names no copy\nhint: write s3://BUCKET/PREFIX/SOURCE/NAME, or …/latest");
    };
    let wanted: Wanted = format!("{source}/{name}").parse()?;
    let key = args.key.as_deref().context("a copy in a store is sealed\nhint: name the private key with --key")?;
    let place = format!("s3://{place}");
    let known = if is_told(&args.reach) { None } else { known(&place, &args.on.config)? };
    let offsite = known.map_or_else(|| reached(&place, &args.reach), Ok)?;
    let credentials = args.reach.credentials.clone().unwrap_or_else(|| offsite.credentials.clone());
    let screen = Screen::new(verbosity);
    let request =
        retrieve::Request { offsite: &offsite, credentials: &credentials, wanted: &wanted, key, paths: &args.path, to: &args.to };
    let restored = retrieve::restore(&request, &Stop::on_signals()?, &screen.progress("restore"))?;
    Ok(Some(restored))
}

/// The store that a command means, and the file with its access key.
fn store_of(store: &Store) -> Result<(config::Offsite, PathBuf)> {
    let (offsite, named) = if let Some(location) = &store.store {
        let known = if is_told(&store.reach) { None } else { known(location, &store.on.config)? };
        let offsite = known.map_or_else(|| reached(location, &store.reach), Ok)?;
        let credentials = offsite.credentials.clone();
        (offsite, credentials)
    } else {
        ensure!(
            !is_told(&store.reach),
            "how the store is reached stands in the configuration\nhint: with --store s3://BUCKET/PREFIX none is needed"
        );
        configured(&store.on.config)?
    };
    Ok((offsite, store.reach.credentials.clone().unwrap_or(named)))
}

/// Whether the command line says how the store is reached.
fn is_told(reach: &Reach) -> bool {
    let Reach { credentials: _, endpoint, region, path_style, ca } = reach;
    endpoint.is_some() || region.is_some() || path_style.is_some() || ca.is_some()
}

/// The store at `place`, when the configuration in `file` describes its bucket. At the default place there need be none.
fn known(place: &str, file: &Path) -> Result<Option<config::Offsite>> {
    if file == Path::new(DEFAULT_CONFIG) && !file.exists() {
        return Ok(None);
    }
    let named = config::store_at(place, &config::Reach::default())?;
    let configured = config::load(file)?.offsite.filter(|configured| configured.bucket == named.bucket);
    Ok(configured.map(|configured| config::Offsite { prefix: named.prefix, ..configured }))
}

fn reached(location: &str, reach: &Reach) -> Result<config::Offsite> {
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let reach = config::Reach {
        endpoint: reach.endpoint.clone(),
        region: reach.region.clone(),
        path_style: reach.path_style,
        ca: reach.ca.as_ref().map(read).transpose()?,
    };
    config::store_at(location, &reach)
}

/// The store that the configuration describes, and the file with its access key.
fn configured(file: &Path) -> Result<(config::Offsite, PathBuf)> {
    let offsite = config::load(file)?.offsite;
    let offsite =
        offsite.with_context(|| format!("there is no [offsite] in {}\nhint: it says where copies go", file.display()))?;
    let credentials = offsite.credentials.clone();
    Ok((offsite, credentials))
}
