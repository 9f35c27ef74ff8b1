//! The S3 store: a client made of the configuration, and the few requests that off-site copies need.
//!
//! Nothing comes from the environment: no proxy, no profile, no key. Every request is bound in time, tried again when
//! trying again can help, and given up within a moment when a stop is asked for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, EncodingType, ServerSideEncryption};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use jiff::Timestamp;
use openssl::base64::encode_block;
use openssl::hash::{MessageDigest, hash};
use openssl::sha::sha256;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::body::{Pace, Pulse};
use super::bounded::Bounded;
use super::commit::Keys;
use super::conflict::Conflict;
use super::proof::{Said, sha256_base64};
use super::{credentials, trouble};
use crate::config::{Checksums, Offsite};
use crate::stop::Stop;

/// How often a request looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(200);

/// A store that doesn't even take a connection in this time isn't there.
const CONNECT: Duration = Duration::from_secs(20);

/// How often a request is tried, with some seconds between.
const TRIES: u32 = 4;

/// What is read into memory is small: a commit object has some hundred bytes.
pub const SMALL: usize = 64 << 10;

/// A bucket, and the place of this appliance in it.
#[derive(Clone, Debug)]
pub struct Store {
    /// The SDK's client, for everything but the content of objects.
    pub client: Client,
    /// The one for that, whose answers may have any length.
    contents: Client,
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with.
    pub prefix: String,
    /// How it is dealt with.
    pub offsite: Arc<Offsite>,
    /// What bounds all that is sent.
    pub pace: Option<Arc<Pace>>,
    /// Ends every request.
    pub stop: Stop,
}

/// What goes along with content, for the store to check it by: one of the two, as S3 writes them. Some stores also want to
/// be told the algorithm, which is [`Self::algorithm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// For `x-amz-checksum-sha256`.
    pub sha256: Option<String>,
    /// For `Content-MD5`.
    pub md5: Option<String>,
}

impl Sums {
    /// For `x-amz-sdk-checksum-algorithm`.
    pub fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.sha256.as_ref().map(|_| ChecksumAlgorithm::Sha256)
    }
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Bytes of it.
    pub size: u64,
    /// When it came, by the store's clock.
    pub stored: Option<Timestamp>,
}

/// Where copies go, as the push clock knows it.
pub fn target(offsite: &Offsite) -> String {
    format!("{}/{}/{}", offsite.endpoint.as_deref().unwrap_or("s3:/"), offsite.bucket, offsite.prefix)
}

/// The same for a person.
pub fn place(offsite: &Offsite) -> String {
    let place = format!("s3://{}/{}", offsite.bucket, offsite.prefix);
    match &offsite.endpoint {
        Some(endpoint) => format!("{place} at {endpoint}"),
        None => place,
    }
}

impl Store {
    /// A client for the store, with the access key in the file `credentials`. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// The file isn't as it should be.
    pub fn connect(offsite: &Offsite, credentials: &Path, stop: &Stop) -> Result<Self> {
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client(offsite)?)
            .credentials_provider(credentials::read(credentials)?)
            .region(Region::new(offsite.region.clone()))
            .force_path_style(offsite.path_style)
            // Uploads bring a SHA-256 of their own; the CRC32 that would come beside it is refused by some stores.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
            .retry_classifier(Conflict)
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(offsite.silence).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(offsite.silence).build());
        if let Some(endpoint) = &offsite.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let client = |bounded| Client::from_conf(config.clone().interceptor(bounded).build());
        Ok(Self {
            client: client(Bounded::All),
            contents: client(Bounded::Errors),
            bucket: offsite.bucket.clone(),
            prefix: offsite.prefix.clone(),
            offsite: Arc::new(offsite.clone()),
            pace: offsite.bandwidth.map(|rate| Arc::new(Pace::new(rate))),
            stop: stop.clone(),
        })
    }

    /// The keys of a snapshot's objects.
    pub fn keys(&self, source: &str, name: &str) -> Keys {
        Keys::of(&self.prefix, source, name)
    }

    /// Waits for a request, or for a stop. `doing` completes the sentence "while …".
    ///
    /// # Errors
    /// The request failed, told for a person, or a stop was asked for.
    pub fn ask<T, E>(
        &self,
        doing: String,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> impl Future<Output = Result<T>>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let answer = self.wait(request);
        async { answer.await?.map_err(|error| trouble::told(&error)).context(doing) }
    }

    /// Waits for `future`, or for a stop.
    ///
    /// # Errors
    /// A stop was asked for.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> impl Future<Output = Result<T>> {
        // A request of the SDK has some ten kilobytes, which shall not be copied along.
        let mut future = Box::pin(future);
        async move {
            loop {
                self.stop.check()?;
                if let Ok(value) = timeout(LOOK, future.as_mut()).await {
                    return Ok(value);
                }
            }
        }
    }

    /// Makes a request that sends content, with a body whose pulse is given to it, and waits for its answer as long as
    /// something moves. One that falls silent is made again; the SDK itself only sees whether bytes go out, and they are all
    /// gone when a store stops answering.
    ///
    /// # Errors
    /// A stop was asked for, or the store stayed silent. The inner error is the request's own.
    pub async fn send<T, F: Future<Output = T>>(&self, request: impl Fn(&Pulse) -> F) -> Result<T> {
        for _ in 0..TRIES {
            let pulse = Pulse::new();
            let mut answer = Box::pin(request(&pulse));
            while pulse.silence() < self.offsite.silence {
                self.stop.check()?;
                if let Ok(answer) = timeout(LOOK, answer.as_mut()).await {
                    return Ok(answer);
                }
            }
            tracing::warn!("the store has been silent for {} seconds: trying again", self.offsite.silence.as_secs());
        }
        bail!("the store takes content and doesn't answer\nhint: {}", trouble::TRY_LATER)
    }

    /// What the store says of the object at `key`; none when there is none.
    ///
    /// # Errors
    /// The store didn't say.
    pub async fn head(&self, key: &str) -> Result<Option<Said>> {
        let request = self.client.head_object().bucket(&self.bucket).key(key).checksum_mode(ChecksumMode::Enabled);
        let said = match self.wait(request.send()).await? {
            Ok(said) => said,
            Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => return Ok(None),
            Err(error) => return Err(trouble::told(&error)).with_context(|| format!("asking for {key}")),
        };
        Ok(Some(Said {
            size: said.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            sha256: said.checksum_sha256().map(String::from),
            etag: said.e_tag().map(String::from),
            foreign_key: said.server_side_encryption().is_some_and(|by| *by != ServerSideEncryption::Aes256)
                || said.sse_customer_algorithm().is_some(),
            // A date beyond what a Timestamp holds is longer than anybody asks for.
            locked_until: (said.object_lock_mode().and(said.object_lock_retain_until_date()))
                .map(|until| Timestamp::from_second(until.secs()).unwrap_or(Timestamp::MAX)),
        }))
    }

    /// The content of a small object; none when there is none. Of one that isn't small, a little more than [`SMALL`] bytes.
    ///
    /// # Errors
    /// It can't be read.
    pub async fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let reading = || format!("reading {key}");
        let request = self.contents.get_object().bucket(&self.bucket).key(key);
        let mut answer = match self.wait(request.send()).await? {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(GetObjectError::is_no_such_key) => return Ok(None),
            Err(error) => return Err(trouble::told(&error)).with_context(reading),
        };
        let mut content = Vec::new();
        while let Some(bytes) = self.wait(answer.body.next()).await? {
            let bytes = bytes.map_err(|error| trouble::broken(&error)).with_context(reading)?;
            content.extend_from_slice(&bytes[..bytes.len().min(SMALL + 1 - content.len())]);
            if content.len() > SMALL {
                break;
            }
        }
        Ok(Some(content))
    }

    /// The content of an object from the byte `from` on, block by block, and its `ETag`. With an `etag` only of the object that
    /// has it.
    ///
    /// # Errors
    /// It isn't there, or the store doesn't give it.
    pub async fn open(&self, key: &str, from: u64, etag: Option<&str>) -> Result<(ByteStream, Option<String>)> {
        let request = self.contents.get_object().bucket(&self.bucket).key(key).set_if_match(etag.map(String::from));
        let request = request.set_range((from > 0).then(|| format!("bytes={from}-")));
        let answer = self.ask(format!("fetching {key}"), request.send()).await?;
        Ok((answer.body, answer.e_tag))
    }

    /// The sums of content by which this store checks it. `md5` is asked only when it is wanted.
    ///
    /// # Errors
    /// There is no MD5.
    pub fn sums(&self, sha256: &[u8; 32], md5: impl FnOnce() -> Result<[u8; 16]>) -> Result<Sums> {
        Ok(match self.offsite.checksums {
            Checksums::Sha256 => Sums { sha256: Some(sha256_base64(sha256)), md5: None },
            Checksums::Md5 => Sums { sha256: None, md5: Some(encode_block(&md5()?)) },
        })
    }

    /// Puts a small object where none may be. One that is there stays, and isn't an error here: the caller reads back.
    ///
    /// # Errors
    /// The store didn't take it.
    pub async fn put_new(&self, key: &str, content: &[u8]) -> Result<()> {
        let md5 = || hash(MessageDigest::md5(), content)?.as_ref().try_into().context("an MD5 has 16 bytes");
        let sums = self.sums(&sha256(content), md5)?;
        let request = |_: &Pulse| {
            let request = self.client.put_object().content_type("application/json");
            let request = request
                .set_checksum_sha256(sums.sha256.clone())
                .set_content_md5(sums.md5.clone())
                .set_checksum_algorithm(sums.algorithm());
            (request.body(ByteStream::from(content.to_vec())), patience(self.offsite.silence))
        };
        self.put_where_none_is(key, request).await.with_context(|| format!("writing {key}"))
    }

    /// Puts what `request` makes to `key`, where there is nothing. What is there stays, which isn't an error here: the caller
    /// asks for it.
    ///
    /// # Errors
    /// The store didn't take it.
    pub async fn put_where_none_is(
        &self,
        key: &str,
        request: impl Fn(&Pulse) -> (PutObjectFluentBuilder, aws_sdk_s3::config::Builder),
    ) -> Result<()> {
        for only_new in [true, false] {
            let put = |pulse: &Pulse| {
                let (request, patience) = request(pulse);
                let request = request.bucket(&self.bucket).key(key).set_if_none_match(only_new.then(|| String::from("*")));
                request.customize().config_override(patience).send()
            };
            match self.send(put).await? {
                Ok(_) => break,
                Err(error) => match error.code() {
                    Some("PreconditionFailed") => break,
                    // A store that knows no such condition: then without.
                    Some("NotImplemented") if only_new => {}
                    _ => return Err(trouble::told(&error)),
                },
            }
        }
        Ok(())
    }

    /// All objects whose keys begin with `start`, in the order of their keys.
    ///
    /// # Errors
    /// The store doesn't list them.
    pub async fn list(&self, start: &str) -> Result<Vec<Listed>> {
        // XML can't hold every key that there may be.
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(start).encoding_type(EncodingType::Url);
        let mut pages = request.into_paginator().send();
        let mut listed = Vec::new();
        while let Some(page) = self.wait(pages.next()).await? {
            let page = page.map_err(|error| trouble::told(&error)).context("listing the bucket")?;
            listed.extend(page.contents().iter().filter_map(|object| {
                let size = object.size().and_then(|size| u64::try_from(size).ok())?;
                let stored = object.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok());
                Some(Listed { key: decoded(object.key()?, page.encoding_type()), size, stored })
            }));
        }
        Ok(listed)
    }
}

/// A key in a store's answer, which may have done as it was asked and encoded it for a URL, or not.
pub fn decoded(key: &str, encoding: Option<&EncodingType>) -> String {
    match encoding {
        Some(EncodingType::Url) => percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned(),
        _ => key.to_owned(),
    }
}

/// A request that may take longer than others.
pub fn patience(time: Duration) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder().timeout_config(TimeoutConfig::builder().operation_attempt_timeout(time).build())
}

fn http_client(offsite: &Offsite) -> Result<SharedHttpClient> {
    if offsite.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Ok(Builder::new().build_http());
    }
    let mut trusted = TrustStore::default();
    if let Some(ca) = &offsite.ca {
        // It panics at one that it can't trust, and the configuration let none such in.
        trusted.add_pem_certificate(ca.as_bytes());
    }
    let context = TlsContext::builder().with_trust_store(trusted).build().context("setting up TLS")?;
    Ok(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use aws_sdk_s3::presigning::PresigningConfig;

    use super::Store;
    use crate::config::{Offsite, sample};
    use crate::stop::Stop;

    #[test]
    fn the_bucket_stands_in_the_path_or_in_the_host_name() {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), "access_key_id = \"a\"\nsecret_access_key = \"b\"\n").unwrap();
        std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let address = |endpoint: Option<&str>, path_style: bool| {
            let endpoint = endpoint.map(String::from);
            let offsite = Offsite { endpoint, path_style, ..sample::offsite("", key.path()) };
            let store = Store::connect(&offsite, key.path(), &Stop::default()).unwrap();
            let expires = PresigningConfig::expires_in(Duration::from_mins(1)).unwrap();
            let request = store.client.head_object().bucket(&store.bucket).key("vaultberry/web/1");
            let signed = crate::offsite::runtime().unwrap().block_on(request.presigned(expires)).unwrap();
            signed.uri().split('?').next().unwrap().to_owned()
        };
        let example = Some("https://s3.example.org:8443");
        assert_eq!(address(example, true), "https://s3.example.org:8443/backups/vaultberry/web/1");
        assert_eq!(address(example, false), "https://backups.s3.example.org:8443/vaultberry/web/1");
        assert_eq!(address(None, true), "https://s3.us-east-1.amazonaws.com/backups/vaultberry/web/1");
        assert_eq!(address(None, false), "https://backups.s3.us-east-1.amazonaws.com/vaultberry/web/1");
    }
}
