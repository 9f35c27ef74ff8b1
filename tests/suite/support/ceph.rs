//! A real Ceph on loopback, as `tools/setup` unpacks it: a cluster with the object gateway.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::guest::free_port;
use super::server::Server;
use super::{cached, card::tool};

/// Whose requests it answers.
#[derive(Clone, Copy)]
pub struct AccessKey {
    id: &'static str,
    secret: &'static str,
}

/// Whom the bucket belongs to.
pub const OWNER: AccessKey = AccessKey { id: "owner", secret: "owner-of-all" };

/// The appliance's.
pub const APPLIANCE: AccessKey = AccessKey { id: "test", secret: "hunter2hunter2" };

/// A running gateway, without a bucket. Dropped, it is ended.
pub struct Ceph {
    _server: Server,
    _folder: TempDir,
    /// The port on 127.0.0.1 at which it speaks S3.
    pub port: u16,
}

impl Ceph {
    /// Starts one, which takes some ten seconds.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/support/ceph.sh"));
        command.arg(cached("ceph-trixie", "test").join("tree")).arg(folder.path());
        command.args([port.to_string(), free_port().to_string()]);
        // A whole cluster, beside other tests.
        let server = Server::start_within(Duration::from_mins(5), command, &folder.path().join("log"), port);
        Self { _server: server, _folder: folder, port }
    }

    /// What `aws s3api` says with these words after it; all of what the gateway told it, if it fails: in Debian 12 it stumbles
    /// over errors without a message, as this gateway gives them.
    pub fn aws(&self, key: AccessKey, words: &str) -> Result<String, String> {
        let mut command = Command::new("aws");
        command.args(["--endpoint-url", &format!("http://127.0.0.1:{}", self.port), "--debug", "s3api"]).args(words.split(' '));
        let output = with_key(&mut command, key).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

/// Runs a script with the access key of the bucket's owner, in `folder`.
pub fn run_as_owner(script: &Path, folder: &Path) {
    let mut command = Command::new("sh");
    tool(with_key(command.arg(script).current_dir(folder), OWNER));
}

fn with_key(command: &mut Command, key: AccessKey) -> &mut Command {
    command.env("AWS_ACCESS_KEY_ID", key.id).env("AWS_SECRET_ACCESS_KEY", key.secret).env("AWS_DEFAULT_REGION", "us-east-1")
}
