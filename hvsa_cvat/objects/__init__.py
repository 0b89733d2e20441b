"""Whole files under names that tell their content, in a bucket or a shared folder.

Whoever keeps files there knows a `Place` and its `Objects`. fsspec opens the bucket; it is imported
only where one is named.
"""

from hvsa_cvat.objects.address import checked_artefacts
from hvsa_cvat.objects.bucket import Bucket, BucketError, bucket_at, forget_buckets, use_bucket
from hvsa_cvat.objects.claim import IDENTITY, claim, copied_databases, is_ours, note_databases
from hvsa_cvat.objects.objects import AT_ONCE, File, Objects, is_pack, objects_of

__all__ = [
    "AT_ONCE",
    "IDENTITY",
    "Bucket",
    "BucketError",
    "File",
    "Objects",
    "bucket_at",
    "checked_artefacts",
    "claim",
    "copied_databases",
    "forget_buckets",
    "is_ours",
    "is_pack",
    "note_databases",
    "objects_of",
    "use_bucket",
]
