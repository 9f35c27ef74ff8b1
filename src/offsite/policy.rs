//! What a bucket and its access key should be allowed, so that an intruder on the appliance can't destroy the copies.
//!
//! The text is a shell script with reasons: each document, and the command that sets it. The access key may do exactly what a
//! push, its resuming and its proof need. It may not delete; and it may not set a retention, because who can do that can lock
//! junk for a century.
//!
//! The documents are those of AWS: policies ("Actions, resources, and condition keys for Amazon S3"), Object Lock, lifecycle.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::config::Offsite;

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Amazon's.
    Aws,
    /// Ceph's object gateway.
    Ceph,
}

/// How long copies are locked where the configuration doesn't say it.
const LOCKED_DAYS: u64 = 30;

/// The name of the user that the access key belongs to.
const USER: &str = "vaultberry";

/// Actions on the bucket itself.
const ON_BUCKET: [&str; 2] = ["s3:ListBucket", "s3:ListBucketMultipartUploads"];

/// Actions on objects.
const ON_OBJECTS: [&str; 5] =
    ["s3:PutObject", "s3:GetObject", "s3:GetObjectRetention", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"];

/// What who has written an object may do with it at Ceph unless it is denied, since it is theirs. Denying all
/// but some actions (`NotAction`) had no effect with Ceph 18.2.
const OF_WRITERS: [&str; 8] = [
    "s3:PutObjectRetention",
    "s3:PutObjectLegalHold",
    "s3:PutObjectAcl",
    "s3:PutObjectVersionAcl",
    "s3:PutObjectTagging",
    "s3:PutObjectVersionTagging",
    "s3:DeleteObjectTagging",
    "s3:DeleteObjectVersionTagging",
];

/// For how many days copies are locked.
pub fn locked_days(offsite: &Offsite) -> u64 {
    offsite.locked.map_or(LOCKED_DAYS, |locked| locked.as_secs().div_ceil(86_400))
}

/// All of it, as a shell script. Copies go `expire` days after they were made.
pub fn script(offsite: &Offsite, kind: Kind, expire: u16) -> String {
    let days = locked_days(offsite);
    let api = offsite.endpoint.as_ref().map_or_else(|| String::from("aws"), |endpoint| format!("aws --endpoint-url {endpoint}"));
    let mut script = Script { text: String::new(), api, bucket: &offsite.bucket };
    script.comment(&format!(
        "What the bucket {} and the appliance's access key should be allowed. Run this with a key of your own that never \
         comes near the appliance. A bucket for the appliance alone is best: its key can list the names of all objects.",
        offsite.bucket
    ));
    script.line("set -eu");
    if kind == Kind::Ceph {
        script.comment(&format!(
            "First, who runs the cluster makes the appliance's user, who can make no buckets: `radosgw-admin user create --uid={USER} \
             --display-name={USER} --max-buckets=-1`. Its access key is the appliance's."
        ));
    }
    script.comment("A bucket that keeps versions and locks objects. That can only be said when it is made.");
    script.command("s3api create-bucket", &format!("--object-lock-enabled-for-bucket{}", location(offsite, kind)));
    match kind {
        Kind::Aws => access_at_aws(&mut script, offsite),
        Kind::Ceph => access_at_ceph(&mut script, offsite),
    }
    script.command("s3api put-bucket-policy", "--policy file://bucket.json");
    script.comment(&format!(
        "Each version of an object is kept for {days} days, whoever asks to delete it. COMPLIANCE can't be undone before that, \
         not by you either; try it out with fewer days. The appliance reads it back with [offsite] locked = \"{days}d\"."
    ));
    script.document("lock.json", &lock(days));
    script.command("s3api put-object-lock-configuration", "--object-lock-configuration file://lock.json");
    let kept = noncurrent(kind, days, expire);
    let replaced = match kind {
        Kind::Aws => String::from("what you delete a day after that, or when its lock has ended"),
        Kind::Ceph => format!(
            "older versions {kept} days after they were written over or deleted, since an intruder may have written over each \
             copy whose lock had ended: for so long its versions bring it back. So a copy takes up room for about {} days",
            u64::from(expire) + kept
        ),
    };
    script.comment(&format!(
        "Copies go after {expire} days, {replaced}, and parts of uploads that nobody went on with after a week. That goes by age \
         alone: when the appliance has been dead for so long, the last copy goes, too. To keep the last ones whatever happens, \
         leave Expiration out, and run `vaultberry offsite prune` on another machine now and then."
    ));
    script.document("lifecycle.json", &lifecycle(offsite, expire, kept));
    script.command("s3api put-bucket-lifecycle-configuration", "--lifecycle-configuration file://lifecycle.json");
    script.comment(
        "What a store can't do. Garage: who may write may delete and write over, there are no versions, and Object Lock is \
         accepted and ignored without a word, and so is If-None-Match: give copies there a second store that can. MinIO, by its documentation (it \
         was never tried): versions and Object Lock as above, users and policies by `mc admin`; it doesn't know \
         s3:if-none-match in policies, so that it wants the lifecycle of `--for ceph`. `vaultberry doctor` tries out what an \
         intruder with the appliance's key could do.",
    );
    script.text
}

/// The appliance's user and its policy, and the bucket's.
fn access_at_aws(script: &mut Script<'_>, offsite: &Offsite) {
    script.comment(
        "The appliance's own user and access key, which may do just what a push, its resuming and its proof need. It may \
         list without a prefix, since otherwise the store says \"no\" where it should say \"there is none\".",
    );
    script.document("appliance.json", &policy(&allowed(offsite)));
    let api = script.api.clone();
    script.line(&format!("{api} iam create-user --user-name {USER}"));
    script.line(&format!(
        "{api} iam put-user-policy --user-name {USER} --policy-name copies --policy-document file://appliance.json"
    ));
    script.line(&format!("{api} iam create-access-key --user-name {USER}"));
    script.comment(
        "Nothing is overwritten: who writes an object must say that there may be none (If-None-Match), which vaultberry does. \
         It holds for the owner's keys, too.",
    );
    script.document("bucket.json", &no_overwriting(offsite));
}

/// The bucket's policy, which is the appliance's user's, too; and what it can't do.
fn access_at_ceph(script: &mut Script<'_>, offsite: &Offsite) {
    script.comment(&format!(
        "This bucket belongs to you, and lets the user {USER} do just what a push, its resuming and its proof need. What it \
         writes is its own there: so it is denied to lock, publish and tag that afterwards, and you are allowed to read it."
    ));
    let api = script.api.clone();
    script.line(&format!("owner=$({api} s3api list-buckets --query Owner.ID --output text)"));
    script.line(
        "case $owner in '' | *'$'*)\n    echo \"error: the bucket's owner is '$owner', and not of the default tenant\" >&2\n    \
         echo 'hint: write arn:aws:iam::TENANT:user/NAME for it in bucket.json, and leave this check out' >&2\n    exit 1 ;;\nesac",
    );
    script.document_with_variables("bucket.json", &policy(&allowed_by_bucket(offsite)));
    script.comment(
        "Ceph's policies don't know the condition s3:if-none-match, so an intruder can write over a copy. The copy stays as \
         an older version, for as long as the lifecycle below says: `vaultberry offsite verify` finds that, and its versions \
         bring it back. Nor can they forbid that a write brings a lock or public rights of its own: an intruder can leave \
         junk that stays for a century, and show it to all. Who runs the cluster bounds that, and gets rid of it:",
    );
    let bucket = &offsite.bucket;
    script.line(&format!("#   radosgw-admin quota set --quota-scope=bucket --bucket={bucket} --max-size=…"));
    script.line(&format!("#   radosgw-admin quota enable --quota-scope=bucket --bucket={bucket}"));
    script.line(&format!("#   radosgw-admin bucket rm --bucket={bucket} --purge-objects"));
    script.comment("A full quota stops pushes. The last takes all copies along: save the good ones elsewhere first.");
}

fn location(offsite: &Offsite, kind: Kind) -> String {
    if kind == Kind::Ceph || offsite.region == "us-east-1" {
        return String::new();
    }
    format!(" --create-bucket-configuration LocationConstraint={}", offsite.region)
}

/// What the appliance may do.
fn allowed(offsite: &Offsite) -> [Value; 2] {
    [
        json!({"Effect": "Allow", "Action": ON_BUCKET, "Resource": bucket(offsite)}),
        json!({"Effect": "Allow", "Action": ON_OBJECTS, "Resource": objects(offsite)}),
    ]
}

/// The same for Ceph's user [`USER`]. What that one writes is its own there: so it must be denied what comes with that, and the
/// bucket's owner, whom the script knows, must be allowed to read it.
fn allowed_by_bucket(offsite: &Offsite) -> Vec<Value> {
    let all = [bucket(offsite), format!("{}/*", bucket(offsite))];
    let denied = json!({"Effect": "Deny", "Action": OF_WRITERS, "Resource": all});
    let mut statements = [allowed(offsite).as_slice(), &[denied]].concat();
    for statement in &mut statements {
        statement["Principal"] = ceph_user(USER);
    }
    statements.push(json!({"Effect": "Allow", "Action": "s3:*", "Resource": all, "Principal": ceph_user("$owner")}));
    statements
}

fn ceph_user(name: &str) -> Value {
    json!({"AWS": [format!("arn:aws:iam:::user/{name}")]})
}

fn policy(statements: &[Value]) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// Denies what creates an object where one may be. Beginning an upload in parts, and its parts, create none.
fn no_overwriting(offsite: &Offsite) -> Value {
    policy(&[json!({
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": objects(offsite),
        "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}
    })])
}

fn lock(days: u64) -> Value {
    json!({"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": days}}})
}

/// How many days a version stays that is the newest no more, where copies are locked for `locked` days and go after `expire`.
///
/// Where nothing can be overwritten, only what was deleted is such a version: by the lifecycle itself, or by the owner. Where
/// it can, each copy may be one from the night in which an intruder came, and those whose lock has ended have nothing else
/// that keeps them. A lifecycle counts from that night and not from when the copy was made, so all days are given to it.
fn noncurrent(kind: Kind, locked: u64, expire: u16) -> u64 {
    match kind {
        Kind::Aws => 1,
        Kind::Ceph => locked.max(expire.into()),
    }
}

fn lifecycle(offsite: &Offsite, expire: u16, noncurrent: u64) -> Value {
    json!({"Rules": [{
        "ID": "copies",
        "Status": "Enabled",
        "Filter": {"Prefix": format!("{}/", offsite.prefix)},
        "Expiration": {"Days": expire},
        "NoncurrentVersionExpiration": {"NoncurrentDays": noncurrent},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}
    }]})
}

fn bucket(offsite: &Offsite) -> String {
    format!("arn:aws:s3:::{}", offsite.bucket)
}

fn objects(offsite: &Offsite) -> String {
    format!("arn:aws:s3:::{}/{}/*", offsite.bucket, offsite.prefix)
}

/// The script as it grows.
struct Script<'a> {
    text: String,
    api: String,
    bucket: &'a str,
}

impl Script<'_> {
    /// A paragraph, in lines that a terminal shows whole.
    fn comment(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let mut line = String::from("#");
        for word in text.split(' ') {
            if line.len() + word.len() > 98 {
                self.line(&line);
                line = String::from("#");
            }
            write!(line, " {word}").expect("writing to a string doesn't fail");
        }
        self.line(&line);
    }

    fn document(&mut self, name: &str, document: &Value) {
        self.file(name, "'END'", document);
    }

    /// The same, in which the shell puts values for variables.
    fn document_with_variables(&mut self, name: &str, document: &Value) {
        self.file(name, "END", document);
    }

    fn file(&mut self, name: &str, end: &str, document: &Value) {
        let json = serde_json::to_string_pretty(document).expect("a document of ours is JSON");
        self.line(&format!("cat >{name} <<{end}\n{json}\nEND"));
    }

    fn command(&mut self, command: &str, options: &str) {
        let line = format!("{} {command} --bucket {} {options}", self.api, self.bucket);
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use serde_json::Value;

    use super::{Kind, script};
    use crate::config::{Offsite, sample};

    /// The statements of a document in the script.
    fn statements(script: &str, document: &str) -> Vec<Value> {
        let rest = script.split_once(&format!("cat >{document} <<")).unwrap().1.split_once('\n').unwrap().1;
        let document: Value = serde_json::from_str(rest.split_once("\nEND").unwrap().0).unwrap();
        document["Statement"].as_array().unwrap().clone()
    }

    #[test]
    fn the_appliance_may_neither_delete_nor_lock() {
        let offsite = sample::offsite("https://s3.example.org", Path::new("/x"));
        for (kind, document) in [(Kind::Aws, "appliance.json"), (Kind::Ceph, "bucket.json")] {
            let text = script(&offsite, kind, 365);
            let of_others = |statement: &Value| statement["Effect"] == "Deny" || statement.to_string().contains("user/$owner");
            let allowed: Vec<Value> = statements(&text, document).into_iter().filter(|one| !of_others(one)).collect();
            assert_eq!(allowed.len(), 2, "{text}");
            for forbidden in ["Delete", "PutObjectRetention", "LegalHold", "BypassGovernance", "s3:*", "PutBucket", "Acl"] {
                assert!(!format!("{allowed:?}").contains(forbidden), "{forbidden}");
            }
            assert!(
                text.contains("arn:aws:s3:::backups/vaultberry/*")
                    && text.lines().all(|line| !line.starts_with('#') || line.len() <= 99),
                "{text}"
            );
        }
        assert!(script(&offsite, Kind::Aws, 365).contains("s3:if-none-match"));
        assert!(!script(&offsite, Kind::Ceph, 365).contains("\"s3:if-none-match\""));
    }

    #[test]
    fn what_can_be_written_over_stays_as_long_as_copies_live() {
        let offsite = sample::offsite("https://s3.example.org", Path::new("/x"));
        for (locked, kind, expire, days) in [
            (None, Kind::Aws, 365, 1),
            (None, Kind::Ceph, 365, 365),
            (None, Kind::Ceph, 7, 30),
            (Some(Duration::from_hours(90 * 24)), Kind::Ceph, 60, 90),
        ] {
            let text = script(&Offsite { locked, ..offsite.clone() }, kind, expire);
            assert!(text.contains(&format!("\"NoncurrentDays\": {days}\n")), "{kind:?} {expire}: {text}");
        }
        let told = script(&offsite, Kind::Ceph, 365).replace("\n# ", " ");
        assert!(told.contains("older versions 365 days after they were written over or deleted"), "{told}");
        assert!(told.contains("takes up room for about 730 days"), "{told}");
    }

    #[test]
    fn what_the_configuration_says_stands_in_it() {
        let offsite = sample::offsite("https://s3.example.org", Path::new("/x"));
        let offsite = Offsite { locked: Some(Duration::from_hours(90 * 24)), region: "eu-central-1".into(), ..offsite };
        let text = script(&offsite, Kind::Aws, 400);
        for part in ["\"Days\": 90", "\"Days\": 400", "locked = \"90d\"", "LocationConstraint=eu-central-1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("aws --endpoint-url https://s3.example.org s3api put-bucket-policy --bucket backups "), "{text}");
        assert!(script(&Offsite { endpoint: None, ..offsite }, Kind::Aws, 400).contains("\naws s3api put-bucket-policy "));
    }
}
