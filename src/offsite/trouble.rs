//! What the store or the way to it has to complain of, told for a person, with what helps.

use std::error::Error;
use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::complaint::AUTHORITY_AS_SERVER;
use crate::log::printable;

/// How much is told of what a store says, in characters: it goes into logs and mails.
const LONGEST: usize = 300;

/// What the SDK adds when something that is no S3 store answers.
const NO_BUG: &str = " This is likely a bug in the SDK.";

/// What helps when only time does.
pub const TRY_LATER: &str = "the store is in trouble: the next run tries again";

/// The error of a request that the store understood and doesn't do: asking again makes no difference.
#[derive(Debug)]
pub struct Refusal {
    told: String,
    /// Whether the store only says that what was asked for isn't there.
    absent: bool,
}

/// The error of a request that came to nothing: what it was about isn't known.
#[derive(Debug)]
struct Unanswered(String);

impl fmt::Display for Unanswered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Unanswered {}

/// Whether an error says nothing about what is in the store, since that didn't give an answer, or didn't want to.
pub fn is_of_the_way(error: &anyhow::Error) -> bool {
    error.is::<Unanswered>() || error.downcast_ref::<Refusal>().is_some_and(|refusal| !refusal.absent)
}

/// The error of a body that broke off.
pub fn broken(error: &(dyn Error + 'static)) -> anyhow::Error {
    Unanswered(format!("the store's answer broke off: {}", causes(Some(error)))).into()
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.told)
    }
}

impl Error for Refusal {}

/// The error of a request that failed; a [`Refusal`] when the store said no.
pub fn told<E>(error: &SdkError<E, HttpResponse>) -> anyhow::Error
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let (told, hint) = match error {
        // The store said yes, in words that aren't those of S3.
        SdkError::ServiceError(failure) if status.is_some_and(|status| status < 300) => (
            format!("the store's answer can't be understood: {}", causes(failure.err().source())),
            Some("is this the address of an S3 store? look at [offsite] endpoint"),
        ),
        SdkError::ServiceError(failure) => {
            let (code, message) = (failure.err().code(), failure.err().message());
            let hint = for_answer(status.unwrap_or(0), code.unwrap_or(""), message.unwrap_or(""));
            (answered(status, code, message), hint)
        }
        SdkError::TimeoutError(_) => (String::from("the store didn't answer in time"), Some(TRY_LATER)),
        SdkError::ResponseError(_) => (
            format!("the store's answer can't be understood: {}", causes(error.source())),
            Some("is this the address of an S3 store? look at [offsite] endpoint"),
        ),
        SdkError::DispatchFailure(_) => {
            let causes = causes(error.source());
            (format!("no connection to the store: {causes}"), Some(for_connection(&causes)))
        }
        _ => (causes(error.source()), None),
    };
    let told = match hint {
        Some(hint) => format!("{told}\nhint: {hint}"),
        None => told,
    };
    if status.is_some_and(is_refusal) { Refusal { told, absent: status == Some(404) }.into() } else { Unanswered(told).into() }
}

/// Whether this status says no, and not "later": 408, 409, 425 and 429 are about the moment.
fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 409 | 425 | 429)
}

fn answered(status: Option<u16>, code: Option<&str>, message: Option<&str>) -> String {
    let parts: Vec<String> = [code, message].into_iter().flatten().map(short).collect();
    let status = status.map_or_else(String::new, |status| format!("HTTP {status}"));
    if parts.is_empty() {
        return format!("the store answers {status}");
    }
    format!("the store answers {} ({status})", parts.join(": "))
}

/// What a store says, without escapes and not longer than anybody reads.
fn short(text: &str) -> String {
    let text = printable(text.as_bytes());
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What helps when the store said no.
fn for_answer(status: u16, code: &str, message: &str) -> Option<&'static str> {
    if matches!(code, "NotImplemented" | "InvalidRequest" | "InvalidArgument") && message.to_lowercase().contains("checksum") {
        return Some("this store doesn't know the sums by which S3 checks what comes: say checksums = \"md5\" in [offsite]");
    }
    Some(match (code, status) {
        ("QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded", _) | (_, 507) => {
            "the store is full: enlarge it or its quota, or remove old copies with another key, by `vaultberry offsite prune` on \
             another machine or by the bucket's lifecycle"
        }
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => {
            "this access key was made for a while only: put a lasting one into the file of [offsite] credentials"
        }
        ("NoSuchBucket", _) => "make the bucket, or mend [offsite] bucket",
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed", _) => {
            "look at the key in the file of [offsite] credentials, at [offsite] region, and at the clock"
        }
        ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException", _) | (_, 301 | 307) => {
            "the bucket is elsewhere: mend [offsite] region or endpoint"
        }
        ("AccessDenied" | "AllAccessDisabled", _) | (_, 401 | 403) => {
            "let the access key list the bucket and its uploads in parts, and read and write objects and abort uploads below \
             [offsite] prefix: `vaultberry offsite policy` prints the rights"
        }
        ("SlowDown" | "InternalError" | "ServiceUnavailable", _) | (_, 409 | 500..=599) => TRY_LATER,
        _ => return None,
    })
}

/// What helps when there is no connection; `causes` is what the network or TLS said.
fn for_connection(causes: &str) -> &'static str {
    if causes.contains("UnknownIssuer") {
        "put the certificate of the authority that vouches for the store into [offsite] ca"
    } else if causes.contains("CaUsedAsEndEntity") {
        AUTHORITY_AS_SERVER
    } else if causes.contains("certificate") {
        "does the store's certificate bear the name in [offsite] endpoint, and is it valid by this clock?"
    } else {
        "look at the network, and at [offsite] endpoint"
    }
}

/// An error and what caused it, on one line. What only repeats the one before is left out.
pub fn causes(mut error: Option<&(dyn Error + 'static)>) -> String {
    let mut told: Vec<String> = Vec::new();
    while let Some(cause) = error {
        let text = short(&cause.to_string().replace(NO_BUG, ""));
        if told.last().is_none_or(|last| !last.contains(&text)) {
            told.push(text);
        }
        error = cause.source();
    }
    told.join(": ")
}

#[cfg(test)]
mod tests {
    use super::{TRY_LATER, answered, causes, for_answer, for_connection, is_refusal, short};

    #[test]
    fn an_answer_is_told_without_escapes() {
        assert_eq!(
            answered(Some(404), Some("NoSuchBucket"), Some("no\x1b[2J")),
            "the store answers NoSuchBucket: no\\u{1b}[2J (HTTP 404)"
        );
        assert_eq!(answered(Some(403), None, None), "the store answers HTTP 403");
    }

    #[test]
    fn a_long_answer_is_cut() {
        let (whole, cut) = ("é".repeat(300), format!("{}…", "é".repeat(300)));
        assert_eq!(answered(Some(500), None, Some(&whole)), format!("the store answers {whole} (HTTP 500)"));
        let long = "é".repeat(301);
        assert_eq!(answered(Some(500), Some(&long), Some(&long)), format!("the store answers {cut}: {cut} (HTTP 500)"));
        assert_eq!(causes(Some(&std::io::Error::other(long))), cut);
        // An escape is longer than what it stands for.
        assert_eq!(short(&"\n".repeat(200)), format!("{}…", "\\n".repeat(150)));
    }

    #[test]
    fn a_refusal_is_told_from_what_only_time_helps_against() {
        for (status, refused) in [(400, true), (403, true), (404, true), (405, true), (409, false), (429, false), (503, false)] {
            assert_eq!(is_refusal(status), refused, "{status}");
        }
    }

    #[test]
    fn each_kind_has_its_hint() {
        assert_eq!(for_answer(404, "NoSuchBucket", ""), Some("make the bucket, or mend [offsite] bucket"));
        assert!(for_answer(403, "SignatureDoesNotMatch", "").unwrap().contains("and at the clock"));
        let rights = for_answer(403, "", "").unwrap();
        assert!(rights.starts_with("let the access key list the bucket and its uploads") && rights.contains("abort uploads"));
        assert!(for_answer(301, "PermanentRedirect", "").unwrap().contains("region"));
        assert_eq!((for_answer(503, "", ""), for_answer(409, "OperationAborted", "")), (Some(TRY_LATER), Some(TRY_LATER)));
        assert_eq!(for_answer(400, "InvalidRequest", ""), None);
        for (status, code, message, helps) in [
            (501, "NotImplemented", "a header of x-amz-checksum-sha256", "checksums = \"md5\""),
            (400, "InvalidRequest", "Unsupported Checksum", "checksums = \"md5\""),
            (403, "QuotaExceeded", "", "the store is full"),
            (507, "XMinioStorageFull", "", "the store is full"),
            (400, "ExpiredToken", "", "a lasting one"),
        ] {
            assert!(for_answer(status, code, message).unwrap().contains(helps), "{code}");
        }
        assert!(for_connection("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))").contains("CA:FALSE"));
        assert!(for_connection("invalid peer certificate: UnknownIssuer").ends_with("[offsite] ca"));
        assert!(for_connection("invalid peer certificate: Expired").contains("by this clock"));
        assert!(for_connection("tcp connect error: Connection refused").starts_with("look at the network"));
    }
}
