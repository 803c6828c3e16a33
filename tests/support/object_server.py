"""A server on loopback that speaks S3, with one bucket."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pyarrow.fs as pafs
import pytest


@contextlib.contextmanager
def object_server(bucket: str) -> Iterator[dict[str, str]]:
    """The environment by which clients find it and its bucket; skips the test where moto is not installed."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        fs = pafs.S3FileSystem(
            access_key="a",
            secret_key="b",
            region="us-east-1",
            endpoint_override=environment["AWS_ENDPOINT_URL"],
            scheme="http",
            allow_bucket_creation=True,
        )
        fs.create_dir(bucket)
        yield environment
    finally:
        server.terminate()
        server.wait()
