"""A cluster as it is chosen -> its scheduler's address and certificates, so that nobody listens."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nucleiflow import slurm
from nucleiflow.config import Cluster, Tls
from nucleiflow.errors import ConfigError


def address(chosen: Cluster) -> str:
    """Where the scheduler is. Raises ConfigError for none, and for one that anybody could hear."""
    file = chosen.scheduler_file
    found = _from_file(file) if file else str(chosen.scheduler_address)
    if "://" not in found:
        found = f"{'tls' if chosen.tls else 'tcp'}://{found}"
    secure = urlsplit(found).scheme in ("tls", "wss")
    if secure and chosen.tls is None:
        raise ConfigError(f"{found} needs certificates: give cluster.tls (ca_file, cert, key)")
    if chosen.tls is not None and not secure:
        raise ConfigError(f"{found} is not encrypted though cluster.tls is given: use tls://…")
    if not secure and not chosen.allow_plain and not _loopback(urlsplit(found).hostname):
        raise ConfigError(
            f"{found} is on another machine and not encrypted, so that anybody on the network "
            "could run code on it: use tls:// with cluster.tls, or cluster.allow_plain: true where "
            "the network is private"
        )
    return found


@contextlib.contextmanager
def certificates(chosen: Cluster) -> Iterator[Any]:
    """Those given, or new ones for this run, in a folder that only this user can read."""
    from distributed import Security

    if chosen.tls:
        yield security(chosen.tls)
        return
    try:
        made = Security.temporary().get_tls_config_for_role("worker")
    except ImportError:
        raise ConfigError(
            "certificates for the jobs need pip install 'nucleiflow[slurm]', or cluster.tls"
        ) from None
    with tempfile.TemporaryDirectory(prefix=".tls-", dir=slurm.log_folder(chosen)) as folder:
        paths = {name: Path(folder) / f"{name}.pem" for name in ("ca_file", "cert", "key")}
        for name, path in paths.items():
            path.write_text(made[name])
        yield security(Tls(**paths))


def security(tls: Tls) -> Any:
    """The same certificate for every role, as files that all machines have."""
    from distributed import Security

    for name, path in (("ca_file", tls.ca_file), ("cert", tls.cert), ("key", tls.key)):
        if not path.is_file():
            raise ConfigError(f"cluster.tls.{name} is {path}: there is no such file")
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=str(tls.ca_file.absolute()),
        **{f"tls_{role}_cert": str(tls.cert.absolute()) for role in roles},
        **{f"tls_{role}_key": str(tls.key.absolute()) for role in roles},
    )


def _from_file(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["address"])
    except FileNotFoundError:
        raise ConfigError(
            f"cluster.scheduler_file {path} is not there: start dask scheduler"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cluster.scheduler_file {path} cannot be read: {error}") from error


def _loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
