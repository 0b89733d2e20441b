"""Names beyond ASCII, in arguments and of files, where the locale says that there are none."""

from __future__ import annotations

import codecs
import os
import sys


def read_arguments_as_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where Python takes every name for ASCII, as
    `LC_ALL=C` and `PYTHONUTF8=0` make it.

    Only an interpreter that begins can choose how it reads arguments and names of files. Output
    stays in ASCII, which is all that the terminal is said to know.
    """
    is_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if not is_ascii or os.environ.get("PYTHONUTF8") == "1":  # the latter: it was tried
        return
    environment = {"PYTHONIOENCODING": "ascii", **os.environ, "PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
