//! The bill of materials: what an image is made of, as SPDX 2.3 in JSON (ISO/IEC 5962).
//!
//! Every Debian package is on it, with the sum of its file, and every crate in the two programs, with that of its source. The
//! crates are those that `Cargo.lock` leads to from the dependencies in `Cargo.toml`, for whichever platform: a few of them
//! aren't for Linux.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::{Builder, Uuid};

use super::lock::Lock;
use crate::digest::unhex;

const CARGO_LOCK: &str = include_str!("../../Cargo.lock");
const CARGO_TOML: &str = include_str!("../../Cargo.toml");

/// What stays as it is in a package URL (ECMA-427): letters, digits, and these.
const PURL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-image";
const UNKNOWN: &str = "NOASSERTION";

/// An image, as far as its bill names it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The image file's name.
    pub name: &'a str,
    /// Its SHA-256, in hexadecimal.
    pub sha256: &'a str,
    /// Its time, in seconds since 1970.
    pub epoch: u64,
}

/// The bill of an image that was made of a lock's packages.
pub fn bill(subject: &Subject, lock: &Lock) -> Result<String> {
    let Subject { name, sha256, epoch } = *subject;
    let created = Timestamp::from_second(i64::try_from(epoch).context("the image's time")?)?;
    let mut packages = vec![json!({
        "SPDXID": IMAGE,
        "name": name,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "checksums": [{ "algorithm": "SHA256", "checksumValue": sha256 }],
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
    })];
    for (name, package) in &lock.all() {
        let purl = format!(
            "pkg:deb/debian/{}@{}?arch={}&distro={}",
            encoded(name),
            encoded(&package.version),
            package.architecture,
            lock.suite
        );
        packages.push(item("deb", name, &package.version, Some(&package.sha256), &purl));
    }
    for crate_ in crates()? {
        let purl = format!("pkg:cargo/{}@{}", encoded(&crate_.name), encoded(&crate_.version));
        packages.push(item("crate", &crate_.name, &crate_.version, crate_.checksum.as_deref(), &purl));
    }
    let contains = packages.iter().skip(1).map(|package| relationship(IMAGE, "CONTAINS", &package["SPDXID"]));
    let relationships: Vec<Value> =
        [relationship(DOCUMENT, "DESCRIBES", &Value::from(IMAGE))].into_iter().chain(contains).collect();
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        // As unique as the image is.
        "documentNamespace": format!("urn:uuid:{}", namespace(sha256)?),
        "creationInfo": {
            "created": created.to_string(),
            "creators": [concat!("Tool: vaultberry-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    Ok(serde_json::to_string_pretty(&document).context("writing the bill of materials")? + "\n")
}

/// A UUID of an image's sum (RFC 9562 section 5.8).
fn namespace(sha256: &str) -> Result<Uuid> {
    let bytes = unhex(sha256).and_then(|bytes| bytes.first_chunk::<16>().copied()).context("the image's sum is none")?;
    Ok(Builder::from_custom_bytes(bytes).into_uuid())
}

fn item(kind: &str, name: &str, version: &str, sha256: Option<&str>, purl: &str) -> Value {
    // An identifier has letters, digits, dots and hyphens (SPDX 2.3, clause 3.2).
    let plain = |text: &str| text.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.', "-");
    let mut item = json!({
        "SPDXID": format!("SPDXRef-{kind}-{}-{}", plain(name), plain(version)),
        "name": name,
        "versionInfo": version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }],
    });
    if let Some(sha256) = sha256 {
        item["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
    }
    item
}

fn relationship(from: &str, kind: &str, to: &Value) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PURL).to_string()
}

/// A crate in `Cargo.lock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Crate {
    name: String,
    version: String,
    checksum: Option<String>,
    /// `NAME`, or `NAME VERSION` where there are several.
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct CargoLock {
    package: Vec<Crate>,
}

#[derive(Deserialize)]
struct CargoToml {
    dependencies: BTreeMap<String, toml::Value>,
}

/// The crates of the programs, the programs' own first, without what only tests need.
fn crates() -> Result<BTreeSet<Crate>> {
    let all = toml::from_str::<CargoLock>(CARGO_LOCK).context("reading Cargo.lock")?.package;
    let own = toml::from_str::<CargoToml>(CARGO_TOML).context("reading Cargo.toml")?.dependencies;
    let find = |wanted: &str| {
        let (name, version) = wanted.split_once(' ').map_or((wanted, None), |(name, version)| (name, Some(version)));
        all.iter().find(|known| known.name == name && version.is_none_or(|version| known.version == version))
    };
    let mut found = BTreeSet::new();
    let root = find(env!("CARGO_PKG_NAME")).context("finding ourselves in Cargo.lock")?;
    // `NAME VERSION` of a dependency of our own stands in the lock alone.
    let direct = root.dependencies.iter().filter(|wanted| own.contains_key(wanted.split(' ').next().unwrap_or(wanted)));
    let mut open: Vec<String> = direct.cloned().collect();
    found.insert(root.clone());
    while let Some(wanted) = open.pop() {
        let next = find(&wanted).with_context(|| format!("finding {wanted} in Cargo.lock"))?;
        if found.insert(next.clone()) {
            open.extend(next.dependencies.iter().cloned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Subject, bill, crates, encoded};
    use crate::image::lock::Lock;
    use crate::image::lock::tests::packages;

    #[test]
    fn what_only_tests_need_is_not_in_the_programs() {
        let names: Vec<String> = crates().unwrap().into_iter().map(|found| found.name).collect();
        for name in ["vaultberry", "libcryptsetup-rs", "sequoia-openpgp", "zeroize"] {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
        assert!(!names.iter().any(|found| found == "proptest" || found == "rand_xorshift"), "{names:?}");
    }

    #[test]
    fn an_image_contains_each_package_under_its_url() {
        let lock = Lock {
            suite: "trixie".into(),
            epoch: 0,
            packages: packages(&[("libstdc++6", "14.2.0-19"), ("login", "1:4.16.0-2+really2.41-5")]),
            added: packages(&[]),
            tools: packages(&[("zstd", "1.5.7")]),
        };
        let subject = Subject { name: "berry.img", sha256: &"ab".repeat(32), epoch: 1_764_000_000 };
        let text = bill(&subject, &lock).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["creationInfo"]["created"], "2025-11-24T16:00:00Z");
        assert_eq!(document["documentNamespace"], "urn:uuid:abababab-abab-8bab-abab-abababababab");
        let listed = document["packages"].as_array().unwrap();
        assert_eq!(
            listed[1]["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=arm64&distro=trixie"
        );
        assert_eq!(listed[2]["SPDXID"], "SPDXRef-deb-login-1-4.16.0-2-really2.41-5");
        let contained = document["relationships"].as_array().unwrap().len();
        assert_eq!(contained, listed.len());
        assert!(!text.contains("pkg:deb/debian/zstd@"), "a tool of the builder isn't in the image");
        assert_eq!(encoded("1:2+3~4"), "1%3A2%2B3~4");
    }
}
