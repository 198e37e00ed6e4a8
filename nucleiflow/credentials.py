"""Environment and the usual AWS files -> how to reach S3. Secrets go nowhere else."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from nucleiflow.errors import ConfigError

Settings = dict[str, str]
# what obstore finds without our help: roles of containers, of Kubernetes, public buckets
OTHER_SOURCES = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_SKIP_SIGNATURE",
)
NOT_READ = ("sso_session", "sso_start_url", "credential_process", "role_arn")


def settings(env: Mapping[str, str] = os.environ) -> Settings:
    """Keys, token, region and endpoint for S3; what nobody states is absent.

    The environment goes before the files, AWS_PROFILE names their section. Raises ConfigError.
    """
    profile = _profile(env)
    return _keys(env, profile) | _region(env, profile) | _endpoint(env, profile)


def _keys(env: Mapping[str, str], profile: Settings) -> Settings:
    """Access key, secret and token, all three from one source."""
    if env.get("AWS_ACCESS_KEY_ID"):
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return {name[4:].lower(): env[name] for name in names if env.get(name)}
    if any(env.get(name) for name in OTHER_SOURCES):
        return {}
    if "aws_access_key_id" not in profile:
        _refuse_others(env, profile)
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {name[4:]: profile[name] for name in names if name in profile}


def _refuse_others(env: Mapping[str, str], profile: Settings) -> None:
    for key in NOT_READ:
        if key in profile:
            name = _name(env)
            raise ConfigError(
                f"the AWS profile {name!r} takes its credentials from {key}, which is not read "
                f'here: run eval "$(aws configure export-credentials --profile {name} '
                '--format env)" first'
            )


def _region(env: Mapping[str, str], profile: Settings) -> Settings:
    found = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or profile.get("region")
    return {"region": found} if found else {}


def _endpoint(env: Mapping[str, str], profile: Settings) -> Settings:
    found = (
        env.get("AWS_ENDPOINT_URL_S3")
        or env.get("AWS_ENDPOINT_URL")
        or env.get("AWS_ENDPOINT")
        or profile.get("endpoint_url_s3")
        or profile.get("endpoint_url")
    )
    return {"endpoint": found.rstrip("/")} if found else {}


def _name(env: Mapping[str, str]) -> str:
    return env.get("AWS_PROFILE") or env.get("AWS_DEFAULT_PROFILE") or "default"


def _profile(env: Mapping[str, str]) -> Settings:
    """The profile's section of ~/.aws/config, and over it that of ~/.aws/credentials."""
    name, home = _name(env), Path(env.get("HOME") or "~").expanduser() / ".aws"
    config = _read(Path(env.get("AWS_CONFIG_FILE") or home / "config").expanduser())
    secret = _read(
        Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials").expanduser()
    )
    sections = [config.get("default" if name == "default" else f"profile {name}"), secret.get(name)]
    if name != "default" and sections == [None, None]:
        raise ConfigError(f"AWS_PROFILE is {name!r}: no such profile in {home}")
    found = {key: text for section in sections for key, text in (section or {}).items()}
    services = config.get(f"services {found.get('services')}", {})
    endpoint = _nested(services.get("s3", "")).get("endpoint_url")
    return found | ({"endpoint_url_s3": endpoint} if endpoint else {})


def _nested(text: str) -> Settings:
    """Indented `key = value` lines below a key."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read(path: Path) -> dict[str, Settings]:
    """Sections of an ini file, none if there is no file. An error never quotes its lines."""
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        raise ConfigError(f"{path} is no valid AWS file: check it") from None
    return {name: dict(parser[name]) for name in parser.sections()}
