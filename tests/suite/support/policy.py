"""Runs what `vaultberry offsite policy` prints, by boto3 instead of the aws command, and prints the new access key.

    policy.py PORT <script
"""

import json
import re
import sys

import boto3

port, script = sys.argv[1], sys.stdin.read()
settings = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
owner = {"aws_access_key_id": "owner", "aws_secret_access_key": "owner"}
s3, iam = boto3.client("s3", **settings, **owner), boto3.client("iam", **settings, **owner)
documents = dict(re.findall(r"cat >(\S+) <<'END'\n(.*?)\nEND\n", script, re.S))
bucket = re.search(r"create-bucket --bucket (\S+)", script).group(1)
user = re.search(r"create-user --user-name (\S+)", script).group(1)
s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket="--object-lock-enabled-for-bucket" in script)
s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=json.loads(documents["lock.json"]))
s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=json.loads(documents["lifecycle.json"]))
iam.create_user(UserName=user)
iam.put_user_policy(UserName=user, PolicyName="copies", PolicyDocument=documents["appliance.json"])
key = iam.create_access_key(UserName=user)["AccessKey"]
print(f'access_key_id = "{key["AccessKeyId"]}"\nsecret_access_key = "{key["SecretAccessKey"]}"')
