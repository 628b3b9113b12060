"""Checks the folder of a lasting server, and opens files in it safely.

Another user who can write in the folder could replace a file by a link, so that we write to its target, or
could place a prepared database there. So a folder of another user is refused, and links are not followed.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

__all__ = ["EmbeddedServerError", "check_folder", "open_private"]


class EmbeddedServerError(RuntimeError):
    """No embedded server can be started; the message says why and what to do."""


def check_folder(folder: str) -> None:
    """Refuse a folder, or data in it, that another user owns or can write.

    Args:
        folder: An absolute path of a folder that exists.

    Raises:
        EmbeddedServerError: Another user owns it or can write in it.
    """
    user = os.geteuid()
    link = os.lstat(folder)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, user):
        raise EmbeddedServerError(f"{folder} is a link that user {link.st_uid} made: name the folder itself")
    status = os.stat(folder)
    if status.st_uid not in (0, user):
        raise EmbeddedServerError(
            f"{folder} belongs to user {status.st_uid}, who could prepare what is run here: "
            f"name a folder of your own, or take it over (chown {user} '{folder}')"
        )
    others = stat.S_IWOTH | (stat.S_IWGRP if user == 0 else 0)
    if status.st_mode & others:
        raise EmbeddedServerError(
            f"other users may write in {folder}, and could prepare what is run here: chmod go-w '{folder}', "
            "or name another folder"
        )
    with suppress(FileNotFoundError):
        data = os.lstat(os.path.join(folder, "pgdata"))
        if not stat.S_ISDIR(data.st_mode):
            raise EmbeddedServerError(f"{folder}/pgdata is a link or a file, not a folder: remove it")
        if user not in (0, data.st_uid):
            raise EmbeddedServerError(
                f"the data in {folder} belong to user {data.st_uid}: name a folder of your own"
            )


def open_private(path: str, *, empty: bool = False) -> int:
    """Open a file that only this user can read and write, and create it if missing; returns the descriptor.

    Args:
        path: A file in a folder that was checked.
        empty: Truncate the file.

    Raises:
        EmbeddedServerError: It is a link, not a regular file, or another user's file.
    """
    try:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise EmbeddedServerError(f"{path} cannot be used ({error.strerror}): remove it") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        os.close(descriptor)
        raise EmbeddedServerError(f"{path} is not a file of your own: remove it")
    os.fchmod(descriptor, 0o600)
    if empty:
        os.ftruncate(descriptor, 0)
    return descriptor
