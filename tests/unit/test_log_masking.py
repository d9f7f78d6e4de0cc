"""Secrets are masked before they are stored; what only looks a little like one is left alone."""

import time
from datetime import UTC, datetime

import pytest

from services.log.domain import masked, masked_record
from tests.patience import FACTOR
from trainwright.contracts.log import LogLevel, LogRecord

AWS_ID = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("password=hunter2", "password=***"),
        ("connecting, db_password: hunter2 ok", "connecting, db_password: *** ok"),
        ('{"password": "my pass word", "user": "ann"}', '{"password": "***", "user": "ann"}'),
        ("{'api_key': 'abc', 'x': 1}", "{'api_key': '***', 'x': 1}"),
        ("HF_TOKEN=abcdef123", "HF_TOKEN=***"),
        ("accessToken=abcdef123", "accessToken=***"),
        ("x-api-key: 12345", "x-api-key: ***"),
        ("secret => s3cr3t", "secret => ***"),
        ("python train.py --password hunter2 --epochs 3", "python train.py --password *** --epochs 3"),
        ("python train.py --hub-token abc123 --epochs 3", "python train.py --hub-token *** --epochs 3"),
        ("Authorization: Bearer abcdef.ghi", "Authorization: ***"),
        ("authorization: Basic YW5uOnB3", "authorization: ***"),
        ("{'Authorization': 'Bearer abcdef'}", "{'Authorization': '***'}"),
        ("sent Bearer abcdefghijkl to it", "sent Bearer *** to it"),
        ("postgres://ann:hunter2@db/sales", "postgres://ann:***@db/sales"),
        (f"key id {AWS_ID} used", "key id *** used"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = ***"),
        (f"got {JWT}", "got ***"),
        ("ghp_" + "a1" * 18, "***"),
        ("using sk-" + "a1B2" * 8, "using ***"),
        ("https://x.test/?api_key=abc&page=2", "https://x.test/?api_key=***&page=2"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", "-----BEGIN PRIVATE KEY-----***"),
    ],
)
def test_secrets_are_masked(text: str, stored: str) -> None:
    assert masked(text) == stored
    assert masked(stored) == stored


@pytest.mark.parametrize(
    "text",
    [
        "step 10 loss 0.31",
        "tokens: 512, tokens/s 1.2M, num_tokens=1024",
        "loss per token: 0.53",
        "pad_token=<pad> eos_token: </s> cls_token='[CLS]'",
        "see https://example.com:8080/path?page=2",
        "wrote to file:///tmp/x and mailed ann@example.com",
        "tokenizer: bert, keys: 3, monkey=banana, passwordless login",
        "the password was wrong",
        "sk-learn-contrib-something-long",
        "--token-budget 512",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_what_a_record_carries_is_masked_too() -> None:
    extra = {"url": "redis://:pw123@x", "nested": [{"password": "x", "n": 1}], "api_key": "abc", "token": 7}
    record = LogRecord(seq=0, time=datetime.now(UTC), level=LogLevel.INFO, message="pwd=1", extra=extra)
    stored = masked_record(record)
    assert stored.message == "pwd=***"
    assert stored.extra == {
        "url": "redis://:***@x",
        "nested": [{"password": "***", "n": 1}],
        "api_key": "***",
        "token": 7,
    }


def test_a_long_hostile_line_takes_no_longer() -> None:
    lines = [
        "password" * 10_000,
        "://" + "a:" * 30_000,
        "token= " * 10_000,
        "--" + "a-" * 30_000,
        "eyJ" + "a" * 60_000,
    ]
    begun = time.perf_counter()
    for line in lines:
        masked(line)
    assert time.perf_counter() - begun < 2 * FACTOR
