"""An S3 server on this machine, for tests of results in a bucket."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import fsspec

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def serving(port: int = 0) -> Iterator[str]:
    """Serve S3 on a port of this machine, a free one by default; yield the address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        with mock.patch.dict(os.environ, {**ENVIRONMENT, "AWS_ENDPOINT_URL": address}):
            yield address
    finally:
        server.stop()


def new_bucket() -> str:
    """The URL of a bucket that nobody has used."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    return f"s3://{name}"
