//! `[openpgp]` and `[offsite]`: whom copies are sealed for, and where they go.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result as Checked, bail};
use toml::de::DeTable;

use super::error::{Fault, show};
use super::read::{Report, Section};
use super::{Checksums, Offsite, Recipient, certificate, name, place, schema, value};

/// Reads the certificates, which `[offsite]` and `[report]` can't do without.
pub(super) fn recipients(report: &mut Report<'_>, root: &DeTable<'_>) -> Vec<Recipient> {
    let section = Section::once(report, root, &schema::OPENPGP);
    let found = section.list(report, "recipients", certificate::recipient);
    if found.value.is_empty() && found.sound() {
        for user in [&schema::OFFSITE, &schema::REPORT].into_iter().filter(|shape| root.contains_key(shape.name)) {
            let message = format!("{} has nobody to seal for", user.head());
            let hint = "add [openpgp] with recipients = [\"\"\"…\"\"\"], each what `gpg --armor --export you@example.org` prints";
            report.add_if_whole(&found.at, section.path("recipients"), Fault::new(message, hint));
        }
    }
    let mut recipients: Vec<Recipient> = Vec::new();
    for element in found.value {
        if recipients.iter().any(|known| known.fingerprint == element.value.fingerprint) {
            report.add(&element.at, element.path, Fault::new("stands twice in this list", "keep one of the two"));
        } else {
            recipients.push(element.value);
        }
    }
    recipients
}

/// Reads where copies go, for an appliance of this host name; none without the section.
pub(super) fn offsite(report: &mut Report<'_>, root: &DeTable<'_>, hostname: &str) -> Option<Offsite> {
    let section = Section::once(report, root, &schema::OFFSITE);
    if !section.exists() {
        return None;
    }
    let bucket = section.required(report, "bucket", bucket);
    let endpoint = section.text(report, "endpoint", None, |text| endpoint(text).map(Some)).value;
    let region = section.text(report, "region", String::from("us-east-1"), region).value;
    let prefix = section.text(report, "prefix", String::from(hostname), prefix).value;
    let path_style = section.flag(report, "path_style", endpoint.is_some()).value;
    let credentials = section.text(report, "credentials", PathBuf::from(CREDENTIALS), place::credentials).value;
    let ca = section.text(report, "ca", None, |text| certificate::authorities(text).map(Some)).value;
    let every = section.text(report, "every", WEEK, |text| {
        value::at_most(text, Duration::from_hours(366 * 24), "write 0s, for each night, to 366d, as in \"7d\"")
    });
    let parallel = section.number(report, "parallel", 4, 1..=16).value;
    let bandwidth = section.text(report, "bandwidth", None, |text| value::size_from(text, 16 << 10).map(Some)).value;
    let storage_class = section.text(report, "storage_class", None, |text| storage_class(text).map(Some)).value;
    let checksums = section.text(report, "checksums", Checksums::Sha256, checksums).value;
    let century = Duration::from_hours(100 * 366 * 24);
    let locked = section.text(report, "locked", None, |text| {
        value::at_most(text, century, "write what the bucket's default retention says, as in \"30d\"").map(Some)
    });
    Some(Offsite {
        endpoint,
        region,
        bucket: bucket?,
        prefix,
        path_style,
        credentials,
        ca,
        every: every.value,
        parallel,
        bandwidth,
        storage_class,
        checksums,
        locked: locked.value,
        silence: SILENCE,
    })
}

/// A storage class. Which there are is for the store to say.
fn storage_class(text: &str) -> Result<String, Fault> {
    let proper = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'));
    if (1..=64).contains(&text.len()) && proper {
        return Ok(String::from(text));
    }
    let hint = "write it as the store does, in capitals, as in \"STANDARD_IA\"";
    Err(Fault::new(format!("{} is not a storage class", show(text)), hint))
}

fn checksums(text: &str) -> Result<Checksums, Fault> {
    match text {
        "sha256" => Ok(Checksums::Sha256),
        "md5" => Ok(Checksums::Md5),
        _ => Err(Fault::new(
            format!("{} is no sum that a store checks by", show(text)),
            "write \"sha256\", or \"md5\" for a store that refuses the header x-amz-checksum-sha256",
        )),
    }
}

/// How a store is reached that no configuration describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// As `[offsite] endpoint`.
    pub endpoint: Option<String>,
    /// As `[offsite] region`.
    pub region: Option<String>,
    /// Whether the bucket stands in the address's path; none for what the endpoint says.
    pub path_style: Option<bool>,
    /// The content of a file with certificate authorities.
    pub ca: Option<String>,
}

/// The store at `s3://BUCKET/PREFIX`, with everything else as by default.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn at(location: &str, reach: &Reach) -> Checked<Offsite> {
    let Some((name, start)) = location.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) else {
        bail!("{} is no place in a store\nhint: write s3://BUCKET/PREFIX, as in s3://my-backups/vaultberry", show(location));
    };
    let told = |what: &'static str| move |fault: Fault| fault.told(what);
    let endpoint = reach.endpoint.as_deref().map(endpoint).transpose().map_err(told("the endpoint"))?;
    Ok(Offsite {
        region: region(reach.region.as_deref().unwrap_or("us-east-1")).map_err(told("the region"))?,
        bucket: bucket(name).map_err(told("the bucket"))?,
        prefix: prefix(start.trim_end_matches('/')).map_err(told("the prefix"))?,
        path_style: reach.path_style.unwrap_or(endpoint.is_some()),
        endpoint,
        credentials: PathBuf::from(CREDENTIALS),
        ca: reach.ca.as_deref().map(certificate::authorities).transpose().map_err(told("the file of certificate authorities"))?,
        every: WEEK,
        parallel: 4,
        bandwidth: None,
        storage_class: None,
        checksums: Checksums::Sha256,
        locked: None,
        silence: SILENCE,
    })
}

/// A store that says nothing for this long is given up.
const SILENCE: Duration = Duration::from_mins(1);

/// Where the access key is, on an appliance.
const CREDENTIALS: &str = "/etc/vaultberry/credentials/s3";

/// How often copies are made, unless the configuration says otherwise.
const WEEK: Duration = Duration::from_hours(7 * 24);

/// A store's address. No path: the bucket would get lost in it.
fn endpoint(text: &str) -> Result<String, Fault> {
    let example = "https://s3.example.org";
    let login = "give the address without them; the access key stands in the file that credentials names";
    let address = name::address(text, example, login)?;
    let address = address.trim_end_matches('/');
    if address.matches('/').count() > 2 {
        return Err(Fault::new("must not have a path", format!("write only protocol and host, as in \"{example}\"")));
    }
    Ok(String::from(address))
}

/// A bucket's name by the rules of S3 for new buckets: 3 to 63 lower-case letters, digits, dots and hyphens.
fn bucket(text: &str) -> Result<String, Fault> {
    let proper = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'));
    let ends = text.starts_with(['.', '-']) || text.ends_with(['.', '-']) || text.contains("..");
    if (3..=63).contains(&text.len()) && proper && !ends {
        return Ok(String::from(text));
    }
    let hint = "write 3 to 63 lower-case letters, digits, inner dots and hyphens, as in \"my-backups\"";
    Err(Fault::new(format!("{} is not a bucket's name", show(text)), hint))
}

fn region(text: &str) -> Result<String, Fault> {
    let proper = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if (1..=64).contains(&text.len()) && proper {
        return Ok(String::from(text));
    }
    Err(Fault::new(format!("{} is not a region", show(text)), "write the store's region, as in \"eu-central-1\" or \"garage\""))
}

/// What keys begin with: parts of plain letters, so that no tool on the restorer's machine has to quote it.
fn prefix(text: &str) -> Result<String, Fault> {
    let proper = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    if text.len() <= 256 && text.split('/').all(proper) {
        return Ok(String::from(text));
    }
    let hint = "write letters, digits, ., - and _, with single slashes in between, as in \"vaultberry\" or \"home/pi\"";
    Err(Fault::new(format!("{} can't begin the keys of objects", show(text)), hint))
}
