"""Make what the stores need once: MongoDB's replica set and its user, the bucket and its users.

    python deploy/setup.py

For containers (`setup` in docker-compose.yml). It may run again at any time: what is there stays, passwords become
those of the files. Who is missing or refuses is waited for.
"""

import logging
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from minio import Minio
from minio.credentials.providers import StaticProvider
from minio.error import InvalidResponseError, MinioAdminException, S3Error, ServerError
from minio.minioadmin import MinioAdmin
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.settings import RuntimeSettings

logger = logging.getLogger("setup")

AGAIN_SECONDS = 2.0
ALREADY_INITIATED, USER_EXISTS = 23, 51003
FAILURES = (PyMongoError, MinioAdminException, S3Error, InvalidResponseError, ServerError, HTTPError, OSError)
POLICY = "trainwright-blobs"


class SetupSettings(EnvironmentSettings):
    """Whom the stores obey (prefix ``SETUP_``); what is to be made stands in the services' own settings."""

    model_config = SettingsConfigDict(env_prefix="SETUP_", frozen=True, extra="ignore")

    mongodb_root_user: str = "root"
    mongodb_root_password: SecretStr
    minio_root_user: str = "root"
    minio_root_password: SecretStr
    worker_access_key: str = Field("worker", description="The workers' user of the bucket.")
    worker_secret_key: SecretStr


class NotYet(OSError):
    """It answers, and is not as far as it must be."""


def until_done(what: str, step: Callable[[], None]) -> None:
    """Take a step until it works, and say why it does not whenever the reason changes."""
    said = ""
    while True:
        try:
            step()
            logger.info("%s: done", what)
            return
        except FAILURES as error:
            reason = str(error).partition(", Timeout:")[0][:300]
            if reason != said:
                logger.info("%s: waiting: %s", what, reason)
            said = reason
        time.sleep(AGAIN_SECONDS)


def prepare_mongodb(store: str, user: str, password: str) -> None:
    """Initiate the replica set that a URL names, wait for its primary, and let the URL's user in.

    Raises:
        PyMongoError: MongoDB cannot be reached or refuses.
        NotYet: There is no primary yet.
    """
    url = parse_uri(store)
    host, port = url["nodelist"][0]
    client: MongoClient[dict[str, object]] = MongoClient(
        host,
        port,
        username=user or None,
        password=password or None,
        directConnection=True,
        serverSelectionTimeoutMS=3000,
    )
    with client:
        members = [{"_id": number, "host": f"{name}:{at}"} for number, (name, at) in enumerate(url["nodelist"])]
        try:
            client.admin.command("replSetInitiate", {"_id": url["options"]["replicaSet"], "members": members})
        except OperationFailure as error:
            if error.code != ALREADY_INITIATED:
                raise
        if not client.admin.command("hello").get("isWritablePrimary"):
            raise NotYet(f"{host}:{port} is not the primary of its replica set yet")
        # Not of our databases alone: roles take no patterns, and a database appears with its first write.
        rights = {"pwd": url["password"], "roles": [{"role": "readWriteAnyDatabase", "db": "admin"}]}
        try:
            client.admin.command("createUser", url["username"], **rights)
        except OperationFailure as error:
            if error.code != USER_EXISTS:
                raise
            client.admin.command("updateUser", url["username"], **rights)


def prepare_bucket(
    endpoint: str, bucket: str, users: dict[str, str], root: str, password: str, region: str = ""
) -> None:
    """Make a bucket, and users who may use it and nothing else.

    Raises:
        S3Error, MinioAdminException, HTTPError: MinIO cannot be reached or refuses.
    """
    at = urlsplit(endpoint)
    pool = PoolManager(timeout=Timeout(connect=3, read=20), retries=Retry(total=0))
    client = Minio(at.netloc, root, password, secure=at.scheme == "https", region=region or None, http_client=pool)
    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)
    admin = MinioAdmin(
        endpoint=at.netloc,
        credentials=StaticProvider(root, password),
        region=region,
        secure=at.scheme == "https",
        http_client=pool,
    )
    admin.policy_add(POLICY, policy=blob_policy(bucket))
    for user, secret in users.items():
        admin.user_add(user, secret)
        admin.policy_set(POLICY, user=user)


def blob_policy(bucket: str) -> dict[str, object]:
    """Return what a user of the bucket may."""

    def allow(resource: str, *actions: str) -> dict[str, object]:
        return {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": [resource]}

    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            allow(arn, "GetBucketLocation", "ListBucket", "ListBucketMultipartUploads"),
            allow(
                f"{arn}/*",
                "GetObject",
                "PutObject",
                "DeleteObject",
                "AbortMultipartUpload",
                "ListMultipartUploadParts",
            ),
        ],
    }


def main() -> None:
    """Prepare MongoDB and the bucket of the services' settings."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    own, services = SetupSettings(), RuntimeSettings()
    users = {
        services.s3_access_key.get_secret_value(): services.s3_secret_key.get_secret_value(),
        own.worker_access_key: own.worker_secret_key.get_secret_value(),
    }
    bucket = services.blobs.removeprefix("s3:")
    minio = own.minio_root_user, own.minio_root_password.get_secret_value(), services.s3_region or ""
    mongodb = own.mongodb_root_user, own.mongodb_root_password.get_secret_value()
    until_done("MongoDB", lambda: prepare_mongodb(services.store, *mongodb))
    until_done(f"bucket {bucket}", lambda: prepare_bucket(services.s3_url, bucket, users, *minio))


if __name__ == "__main__":
    main()
