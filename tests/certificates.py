"""Certificates for servers on this machine."""

import shutil
import subprocess
from pathlib import Path

import pytest


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of localhost, its own authority; skips the test without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    words = f"{openssl} req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256"
    words += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = [*words.split(), "-keyout", str(folder / "key"), "-out", str(folder / "ca.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "ca.pem", folder / "key"
