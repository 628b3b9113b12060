"""The secret that signs the sessions, and a token in each form, so that no other site can post it."""

from __future__ import annotations

import os
import secrets

from flask import Flask, abort, request, session


def kept_secret(folder: str) -> str:
    """A secret of this installation: drawn once, kept where only its user can read it.

    Several machines need the same one, in the environment: FLASK_SECRET_KEY.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "secret_key")
    drawn = f"{path}.{os.getpid()}"
    with os.fdopen(os.open(drawn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex())
    try:
        os.link(drawn, path)  # of several workers that start at once, the first one's stays
    except FileExistsError:
        pass
    finally:
        os.unlink(drawn)
    with open(path) as file:
        return file.read()


def form_token() -> str:
    """The token of this customer's forms."""
    return str(session.setdefault("form_token", secrets.token_hex()))


def protect_forms(app: Flask) -> None:
    """Refuse forms without the token. The API takes JSON only, which other sites cannot send."""

    @app.before_request
    def check() -> None:
        if request.method == "POST" and request.blueprint == "pages":
            given = request.form.get("form_token", "")
            if not secrets.compare_digest(given.encode(errors="replace"), form_token().encode()):
                abort(400, "This form is too old, or comes from another site. Go back, reload, try again.")

    app.add_template_global(form_token)
