"""The S3 server moto, but that its list of an upload's parts has the name that S3 gives it, and that objects come to it as
many seconds later as CLOCK_AHEAD says."""

import datetime
import os

from moto.core.utils import utcnow
from moto.s3 import models
from moto.s3.responses import S3Response
from moto.server import main

list_parts = S3Response.list_parts


def named_as_by_s3(self):
    status, headers, body = list_parts(self)
    return status, headers, body.replace("ListPartsResponse", "ListPartsResult")


S3Response.list_parts = named_as_by_s3
ahead = datetime.timedelta(seconds=int(os.environ.get("CLOCK_AHEAD", "0")))
models.utcnow = lambda: utcnow() + ahead

if __name__ == "__main__":
    main()
