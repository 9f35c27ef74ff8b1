//! How long an answer of the store may be.
//!
//! The SDK reads every answer into memory as a whole, an error's too, and asks nobody how long it is. Only the content of an
//! object comes block by block, and is counted where it is read.

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use http_body_util::Limited;

/// The longest answer, in bytes: a page of a thousand keys, each as long as S3 allows and partly escaped, is shorter.
pub const LONGEST: usize = 4 << 20;

/// Ends an answer that is too long with an error.
#[derive(Clone, Copy, Debug)]
pub enum Bounded {
    /// Every answer.
    All,
    /// Only those that tell an error: the others are the content of an object.
    Errors,
}

impl Intercept for Bounded {
    fn name(&self) -> &'static str {
        "Bounded"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response_mut();
        if matches!(self, Self::All) || !answer.status().is_success() {
            let body = answer.take_body();
            *answer.body_mut() = SdkBody::from_body_1_x(Limited::new(body, LONGEST));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::LONGEST;
    use crate::config::sample;
    use crate::offsite::store::Store;
    use crate::stop::Stop;

    /// Answers with a byte more than may be: requests for `denied` with an error, and others with success.
    fn answer(mut stream: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let denied = String::from_utf8_lossy(&head).contains("denied");
        let status = if denied { "400 Bad Request" } else { "200 OK" };
        let length = LONGEST + 1;
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        // A client that has had enough breaks off.
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b' '; length])).ok()
    }

    #[test]
    fn only_the_content_of_an_object_may_be_long() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let done = AtomicBool::new(false);
        let asked = std::thread::scope(|scope| {
            scope.spawn(|| {
                for stream in listener.incoming() {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    answer(stream.unwrap());
                }
            });
            let asked = std::panic::catch_unwind(|| ask(&format!("http://{address}")));
            done.store(true, Ordering::SeqCst);
            TcpStream::connect(address).unwrap();
            asked
        });
        let (list, denied, content) = asked.unwrap();
        for error in [list, denied] {
            assert_eq!(error, "the store's answer can't be understood: length limit exceeded");
        }
        assert_eq!(content, LONGEST + 1);
    }

    /// The errors of a list and of an object that is denied, and the length of one that isn't.
    fn ask(endpoint: &str) -> (String, String, usize) {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), "access_key_id = \"a\"\nsecret_access_key = \"b\"\n").unwrap();
        std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let offsite = sample::offsite(endpoint, key.path());
        let store = Store::connect(&offsite, key.path(), &Stop::default()).unwrap();
        let told = |error: anyhow::Error| error.root_cause().to_string().lines().next().unwrap_or_default().to_owned();
        crate::offsite::runtime().unwrap().block_on(async {
            let list = told(store.list("vaultberry/").await.unwrap_err());
            let denied = told(store.open("denied", 0, None).await.unwrap_err());
            let content = store.open("web", 0, None).await.unwrap().0.collect().await.unwrap().into_bytes().len();
            (list, denied, content)
        })
    }
}
