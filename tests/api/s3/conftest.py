import uuid

import pytest


@pytest.fixture
def s3(ebbtide):
    return ebbtide.client("s3")


@pytest.fixture
def bucket(s3):
    name = f"bucket-{uuid.uuid4()}"
    s3.create_bucket(Bucket=name)
    return name
