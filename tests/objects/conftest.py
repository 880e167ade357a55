import pytest

from ebbtide.objects import buckets
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.store import ObjectStore


@pytest.fixture
async def store(tmp_path, database):
    """A store with one bucket, `b`, its files in tmp_path/objects."""
    bucket = Bucket("b", "123456789012", "us-east-1", created_at=0.0)
    await database.write(lambda connection: buckets.create_bucket(connection, bucket))
    return ObjectStore(tmp_path / "objects", database)
