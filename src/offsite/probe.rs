//! A probe: an object of our own in the store, which is tried to be destroyed. Nothing else is ever overwritten or deleted by
//! vaultberry.

use anyhow::{Context, Result, bail};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use jiff::{SignedDuration, Timestamp};
use openssl::hash::{MessageDigest, hash};
use openssl::sha::sha256;
use tokio::runtime::Runtime;

use super::store::Store;
use super::trouble;
use crate::config::Offsite;
use crate::stop::Stop;

/// Where probes lie, below the prefix: no source has such a name.
const FOLDER: &str = "_probe";

const FIRST: &[u8] = b"a probe of vaultberry's: it can be deleted\n";
const SECOND: &[u8] = b"a probe that was written over\n";

/// What came of trying something that shouldn't be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The store did it.
    Done,
    /// It said no.
    Refused,
}

/// A probe that is in the store.
pub struct Probe {
    store: Store,
    runtime: Runtime,
    key: String,
    version: Option<String>,
    locked_until: Option<Timestamp>,
    ahead: Option<SignedDuration>,
}

impl Probe {
    /// Lists, writes a probe of this name, and reads it back.
    ///
    /// # Errors
    /// One of that failed: a push would, too.
    pub fn begin(offsite: &Offsite, name: &str, stop: &Stop) -> Result<Self> {
        let (store, runtime) = (Store::connect(offsite, &offsite.credentials, stop)?, super::runtime()?);
        let key = format!("{}/{FOLDER}/{name}", store.prefix);
        let (version, locked_until, ahead) = runtime.block_on(async {
            store.list(&format!("{}/{FOLDER}/", store.prefix)).await?;
            let before = Timestamp::now();
            store.put_new(&key, FIRST).await?;
            if store.read(&key).await?.as_deref() != Some(FIRST) {
                bail!("writing {key}: the store doesn't give back what was written");
            }
            let request = store.client.head_object().bucket(&store.bucket).key(&key);
            let head = store.ask(format!("asking for {key}"), request.send()).await?;
            let locked = store.head(&key).await?.and_then(|said| said.locked_until);
            let ahead = head.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok());
            let ahead = ahead.map(|stored| ahead_of(before, Timestamp::now(), stored));
            // Without versions some stores say "null".
            anyhow::Ok((head.version_id().filter(|version| *version != "null").map(String::from), locked, ahead))
        })?;
        Ok(Self { store, runtime, key, version, locked_until, ahead })
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The version that was written first, where the store keeps versions.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Until when the store keeps it from being deleted.
    pub fn locked_until(&self) -> Option<Timestamp> {
        self.locked_until
    }

    /// How far the store's clock is ahead of this machine's, and behind it where that is negative; none where the store doesn't
    /// say when it was written. Less than a second or two is none at all, since stores tell whole seconds.
    pub fn ahead(&self) -> Option<SignedDuration> {
        self.ahead
    }

    /// Whether it stays when something else is written only where nothing is.
    ///
    /// # Errors
    /// The store can't be asked.
    pub fn is_kept_from_new(&self) -> Result<bool> {
        self.runtime.block_on(async {
            self.store.put_new(&self.key, SECOND).await?;
            Ok(self.store.read(&self.key).await?.as_deref() == Some(FIRST))
        })
    }

    /// Tries to write over it.
    ///
    /// # Errors
    /// The store can't be asked.
    pub fn overwrite(&self) -> Result<Tried> {
        let md5 = || hash(MessageDigest::md5(), SECOND)?.as_ref().try_into().context("an MD5 has 16 bytes");
        let sums = self.store.sums(&sha256(SECOND), md5)?;
        let request = self.store.client.put_object().bucket(&self.store.bucket).key(&self.key);
        let request = request.set_checksum_sha256(sums.sha256.clone()).set_content_md5(sums.md5.clone());
        let request = request.set_checksum_algorithm(sums.algorithm()).body(ByteStream::from_static(SECOND));
        self.tried(self.runtime.block_on(self.store.wait(request.send()))?, "writing over")
    }

    /// Tries to delete it, or a version of it.
    ///
    /// # Errors
    /// The store can't be asked.
    pub fn delete(&self, version: Option<&str>) -> Result<Tried> {
        let request = self.store.client.delete_object().bucket(&self.store.bucket).key(&self.key);
        let request = request.set_version_id(version.map(String::from));
        self.tried(self.runtime.block_on(self.store.wait(request.send()))?, "deleting")
    }

    fn tried<T, E>(&self, answer: Result<T, SdkError<E, HttpResponse>>, doing: &str) -> Result<Tried>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match answer {
            Ok(_) => Ok(Tried::Done),
            Err(error) => {
                let status = error.raw_response().map(|response| response.status().as_u16());
                let said = error.as_service_error().map(ProvideErrorMetadata::meta);
                if is_refused(status, said.and_then(ErrorMetadata::code), said.and_then(ErrorMetadata::message)) {
                    return Ok(Tried::Refused);
                }
                Err(trouble::told(&error)).with_context(|| format!("{doing} {}", self.key))
            }
        }
    }
}

/// Whether an answer says that this may not be done. MinIO tells with 400 that a version is locked. Any other no may be about
/// something else, and is no comfort.
fn is_refused(status: Option<u16>, code: Option<&str>, message: Option<&str>) -> bool {
    match (status, code) {
        (Some(403), _) => true,
        (Some(400), Some("InvalidRequest")) => message.is_some_and(|message| message.contains("WORM protected")),
        _ => false,
    }
}

/// How far a clock is ahead that says `stored` of what happened between `before` and `after` of this machine's.
fn ahead_of(before: Timestamp, after: Timestamp, stored: Timestamp) -> SignedDuration {
    let (early, late) = (stored.duration_since(before), stored.duration_since(after));
    if late.is_positive() {
        late
    } else if early.is_negative() {
        early
    } else {
        SignedDuration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::{ahead_of, is_refused};

    #[test]
    fn only_what_is_forbidden_or_locked_is_refused() {
        let locked = "Object is WORM protected and cannot be overwritten";
        for (status, code, message, refused) in [
            (403, "AccessDenied", "Access Denied", true),
            (403, "", "", true),
            (400, "InvalidRequest", locked, true),
            (400, "InvalidRequest", "Missing required header", false),
            (400, "InvalidArgument", locked, false),
            (500, "InvalidRequest", locked, false),
            (405, "MethodNotAllowed", "", false),
        ] {
            assert_eq!(is_refused(Some(status), Some(code), Some(message)), refused, "{status} {code} {message}");
        }
        assert!(!is_refused(None, None, None));
    }

    #[test]
    fn a_clock_is_ahead_only_by_what_the_write_does_not_explain() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (stored, ahead) in [(1000, 0), (1003, 0), (1005, 0), (1006, 1), (4605, 3600), (999, -1), (400, -600)] {
            assert_eq!(ahead_of(at(1000), at(1005), at(stored)), SignedDuration::from_secs(ahead), "{stored}");
        }
    }
}
