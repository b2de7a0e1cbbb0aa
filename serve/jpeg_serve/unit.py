"""The systemd unit that `jpeg-serve unit` prints."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from jpeg_serve import COMMAND
from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.options import ServerOptions

_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # what PrivateTmp hides
# After `drain_s` the servers may take as long again to end, and are killed then; the web application comes before them.
_END_S = 60
_NAMES = {"load": "load-model"}
# Options of the command that no option of a server is.
_NOT_OPTIONS = ("triton", "serve_with")


def unit_text(
    options: ServerOptions, more: Mapping[str, object], *, user: str | None = None, has_gpu: bool = False
) -> str:
    """Return the unit that serves with these options.

    Args:
        options: Of the servers.
        more: Further options of `jpeg-serve run` by their names without dashes, where they are not the defaults.
        user: Who runs it; None is the user of this process, or for root a user that systemd makes.
        has_gpu: Whether the models may need a GPU: its device files stay visible then.

    Raises:
        PrerequisiteError: The repository's path cannot stand in a unit.
    """
    repository = options.model_repository.resolve()
    options = replace(
        options,
        model_repository=repository,
        backends=options.backends and options.backends.resolve(),
        shared_memory_key_file=options.shared_memory_key_file and options.shared_memory_key_file.resolve(),
    )
    command = _quoted([*_program(), "run", *_arguments(options, more)])
    reload = _quoted([*_program(), "reload", "--model-repository", str(repository)])
    chosen = [path for path in (options.backends, options.shared_memory_key_file) if path is not None]
    paths = [repository, Path(sys.prefix), Path(sys.base_prefix), *chosen]
    in_home = any(path.is_relative_to(home) for path in paths for home in _HOMES)
    lines = [
        f"# Written by {COMMAND} unit. Install it as /etc/systemd/system/{COMMAND}.service, then:",
        f"#   systemctl daemon-reload && systemctl enable --now {COMMAND}",
        "[Unit]",
        "Description=JPEG classifier on Triton",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={command}",
        "# Another classifier, version or build, without a failed request: systemctl reload",
        f"ExecReload={reload}",
        *_user_lines(user),
        "Restart=on-failure",
        "RestartSec=2",
        "# An invalid call stays invalid.",
        "RestartPreventExitStatus=2",
        f"# It ends its servers itself, after their open requests: at most {options.drain_s} s, then what hangs.",
        "KillMode=mixed",
        "KillSignal=SIGTERM",
        f"TimeoutStopSec={2 * options.drain_s + _END_S}",
        "# It replaces a worker or a server that the kernel ended for its memory.",
        "OOMPolicy=continue",
        "LimitNOFILE=1048576",
        f"CacheDirectory={COMMAND}",
        "CacheDirectoryMode=0700",
        f"Environment=XDG_CACHE_HOME=%C/{COMMAND}",
        "UMask=0077",
        "",
        "# The repository is only read. /dev/shm, through which the workers get images, stays writable.",
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if in_home else 'yes'}",
        *(
            ["# Not PrivateTmp: something that it reads lies there.", "ReadWritePaths=/tmp"]
            if any(path.is_relative_to(folder) for path in paths for folder in _TEMPORARY)
            else ["PrivateTmp=yes"]
        ),
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "RestrictSUIDSGID=yes",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        "LockPersonality=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "KeyringMode=private",
        "SystemCallArchitectures=native",
        "# pidfd_getfd: to enlarge Triton's socket buffers, so that it loses no HTTP response (docs/serving.md).",
        "SystemCallFilter=@system-service pidfd_getfd",
        "SystemCallErrorNumber=EPERM",
        "# Not MemoryDenyWriteExecute: OpenVINO and others compile code for this CPU or GPU.",
        *(
            ["# Not PrivateDevices and ProtectClock: they hide the device files of the GPU."]
            if has_gpu
            else ["PrivateDevices=yes", "ProtectClock=yes"]
        ),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _program() -> list[str]:
    script = Path(sys.executable).parent / COMMAND
    return [str(script)] if script.is_file() else [sys.executable, "-m", "jpeg_serve"]


def _user_lines(user: str | None) -> list[str]:
    if user is None and os.getuid() == 0:
        return ["DynamicUser=yes"]
    return [f"User={user or pwd.getpwuid(os.getuid()).pw_name}"]


def _arguments(options: ServerOptions, more: Mapping[str, object]) -> list[str]:
    """Return the options that differ from the defaults, as `jpeg-serve run` takes them; the repository always."""
    default = ServerOptions()
    chosen = {
        _NAMES.get(field.name, field.name): getattr(options, field.name)
        for field in fields(options)
        if field.name not in _NOT_OPTIONS
        and (field.name == "model_repository" or getattr(options, field.name) != getattr(default, field.name))
    }
    arguments: list[str] = []
    for name, value in (chosen | dict(more)).items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif isinstance(value, (list, tuple)):
            arguments += [part for each in value for part in (option, str(each))]
        else:
            arguments += [option, str(value)]
    return [*arguments, *(["--", *options.triton] if options.triton else [])]


def _quoted(words: Sequence[str]) -> str:
    """Return a command as a unit has it: systemd.service(5), "Command lines"."""
    if any(character < " " or character == "\x7f" for word in words for character in word):
        raise PrerequisiteError(
            "a unit cannot have control characters in its command: rename the folder", reason="invalid_path"
        )
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if word and escaped == word and not set(word) & set(" ';") else f'"{escaped}"'
