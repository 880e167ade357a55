"""The aws-chunked encoding, against botocore's own encoder and the examples of AWS's documentation."""

import base64
import io
import zlib
from collections.abc import Iterable

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import ServiceError
from ebbtide.wire.chunked import MAX_LINE_BYTES, ChunkedDecoder, ChunkSigner
from ebbtide.wire.sigv4 import signing_key

DOCUMENTED_KEY = signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1", "s3")


def documented_signer(seed: str) -> ChunkSigner:
    return ChunkSigner(DOCUMENTED_KEY, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request", seed)


def decoded(decoder: ChunkedDecoder, pieces: Iterable[bytes]) -> bytes:
    data = b"".join(part for piece in pieces for part in decoder.feed(piece))
    decoder.finish()
    return data


def chunk(data: bytes, signature: str) -> bytes:
    return b"%x;chunk-signature=%s\r\n%s\r\n" % (len(data), signature.encode(), data)


# Signature calculations for the authorization header: multiple chunks, and the same with trailing
# headers; Amazon S3 API Reference.
SIGNED = (
    chunk(b"a" * 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648")
    + chunk(b"a" * 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497")
    + chunk(b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")
)
SIGNED_SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
TRAILED = (
    chunk(b"a" * 65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2")
    + chunk(b"a" * 1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7")
    + b"0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"
    + b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
    + b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
)
TRAILED_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"


@given(data=st.binary(max_size=300), size=st.integers(1, 100), cut=st.integers(1, 40))
def test_what_botocore_encodes_comes_out_however_it_is_cut_on_the_way(data, size, cut):
    wrapper = AwsChunkedWrapper(
        io.BytesIO(data), checksum_cls=Crc32Checksum, checksum_name="x-amz-checksum-crc32", chunk_size=size
    )
    encoded = wrapper.read()
    decoder = ChunkedDecoder(None)

    result = decoded(decoder, (encoded[i : i + cut] for i in range(0, len(encoded), cut)))

    assert result == data
    checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    assert decoder.trailers == {"x-amz-checksum-crc32": checksum}


@pytest.mark.parametrize("cut", [1, 7, 65536, 100_000])
@pytest.mark.parametrize(("body", "seed"), [(SIGNED, SIGNED_SEED), (TRAILED, TRAILED_SEED)])
def test_the_documented_examples_are_accepted(body, seed, cut):
    decoder = ChunkedDecoder(documented_signer(seed))

    result = decoded(decoder, (body[i : i + cut] for i in range(0, len(body), cut)))

    assert result == b"a" * 66560
    assert decoder.trailers == ({"x-amz-checksum-crc32c": "sOO8/Q=="} if body is TRAILED else {})


@pytest.mark.parametrize(
    ("body", "seed"),
    [
        pytest.param(SIGNED.replace(b"aaa\r\n", b"aab\r\n"), SIGNED_SEED, id="data changed"),
        pytest.param(SIGNED.replace(b"a288648", b"a288649"), SIGNED_SEED, id="signature changed"),
        pytest.param(SIGNED.replace(b";chunk-signature=", b";", 1), SIGNED_SEED, id="no signature"),
        pytest.param(SIGNED, TRAILED_SEED, id="the chunks of another request"),
        pytest.param(SIGNED[SIGNED.index(b"400;") :], SIGNED_SEED, id="a chunk left out"),
        pytest.param(TRAILED.replace(b"sOO8", b"sOO9"), TRAILED_SEED, id="trailer changed"),
        pytest.param(
            TRAILED.replace(b"x-amz-trailer-signature:d81f", b"x:"), TRAILED_SEED, id="unsigned trailer"
        ),
        pytest.param(SIGNED.replace(b"ad80c730", "äd80c73".encode("latin-1")), SIGNED_SEED, id="not ASCII"),
    ],
)
def test_chunks_that_are_not_as_signed_are_refused(body, seed):
    with pytest.raises(ServiceError) as refused:
        decoded(ChunkedDecoder(documented_signer(seed)), [body])

    assert refused.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("end", range(len(TRAILED) - 400, len(TRAILED), 13))
def test_a_body_that_ends_early_is_incomplete(end):
    with pytest.raises(ServiceError) as refused:
        decoded(ChunkedDecoder(documented_signer(TRAILED_SEED)), [TRAILED[:end]])

    assert refused.value.code == "IncompleteBody"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"xyz\r\n", id="no size"),
        pytest.param(b"-5\r\nhello\r\n", id="a negative size"),
        pytest.param(b"2\r\nhello\r\n0\r\n\r\n", id="more data than its size"),
        pytest.param(b"0\r\n\r\nmore\r\n", id="data behind the end"),
        pytest.param(b"0" * (MAX_LINE_BYTES + 1), id="a size without end"),
        pytest.param(b"0\r\n" + b"a:b\r\n" * 100_000, id="trailers without end"),
    ],
)
def test_a_malformed_body_is_refused(body):
    with pytest.raises(ServiceError) as refused:
        decoded(ChunkedDecoder(None), [body])

    assert refused.value.code == "InvalidRequest"
