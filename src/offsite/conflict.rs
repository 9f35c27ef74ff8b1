//! A store that says 409 is busy with another request about the same key or bucket (S3's `ConditionalRequestConflict` and
//! `OperationAborted`): it wants to be asked again. The SDK takes that for a final no.

use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};

/// Tries a request again whose answer was 409, as often and with such pauses as one that met trouble.
#[derive(Clone, Copy, Debug)]
pub struct Conflict;

impl ClassifyRetry for Conflict {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|answer| answer.status().as_u16()) {
            Some(409) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Conflict"
    }
}
