//! A real Garage on loopback: one node, as `tools/setup garage` builds it.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::cached;
use super::guest::free_port;
use super::server::Server;
use super::store::BUCKET;

/// Its access key: Garage wants keys of this form.
const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
const SECRET_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The name of its region, which every request has to be signed for.
pub const REGION: &str = "garage";

/// A running node with an empty bucket. Dropped, it is ended.
pub struct Garage {
    _server: Server,
    _folder: TempDir,
    /// The port on 127.0.0.1 at which it speaks S3.
    pub port: u16,
}

impl Garage {
    /// Starts one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, rpc) = (free_port(), free_port());
        let path = folder.path().display();
        let config = folder.path().join("garage.toml");
        let text = format!(
            "metadata_dir = \"{path}/meta\"\ndata_dir = \"{path}/data\"\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{SECRET_KEY}\"\n\
             [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{port}\"\nroot_domain = \".s3.localhost\"\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(cached("garage-2.5.0", "garage").join("bin/garage"));
        command.arg("--config").arg(&config).args(["server", "--single-node", "--default-bucket"]);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY).env("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY);
        command.env("GARAGE_DEFAULT_BUCKET", BUCKET);
        let server = Server::start(command, &folder.path().join("log"), port);
        Self { _server: server, _folder: folder, port }
    }

    /// Its access key, as an appliance's credentials file.
    pub fn credentials() -> String {
        format!("access_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET_KEY}\"\n")
    }

    /// The settings for `s3cmd`.
    pub fn s3cfg(&self) -> String {
        let host = format!("127.0.0.1:{}", self.port);
        format!(
            "[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET_KEY}\nhost_base = {host}\nhost_bucket = {host}\n\
             bucket_location = {REGION}\nuse_https = False\n"
        )
    }
}
