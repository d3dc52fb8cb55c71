"""Programs that a run needs: Debian's, our own build, and small ones in C."""

import os
import shutil
import subprocess

from .say import Failed, say

HERE = os.path.dirname(os.path.realpath(__file__))
TREE = os.path.dirname(os.path.dirname(HERE))

# A tool, or a file that tells that the package is there; and the packages.
NEEDS = {
    "wrk": ["wrk"],
    "cc": ["gcc", "libc6-dev"],
    "strace": ["strace"],
    "nginx": ["nginx"],
    "lighttpd": ["lighttpd"],
    "/usr/lib/lighttpd/mod_webdav.so": ["lighttpd-mod-webdav"],
    "h2o": ["h2o"],
}


def has(tool):
    return os.path.exists(tool) if tool.startswith("/") else shutil.which(tool) is not None


def need(tools):
    """Installs what is missing, where that is possible."""
    missing = [package for tool in tools if not has(tool) for package in NEEDS[tool]]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"missing; as root: apt-get install {' '.join(missing)}")
        return
    say(f"installing {' '.join(missing)}")
    # RUNLEVEL=1: Debian starts a daemon on install, and nothing may be left
    # listening on port 80
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    apt = ["apt-get", "-qq", "-o", "Acquire::Retries=3"]
    quiet = {"env": env, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.call(apt + ["update"], **quiet)
    # one by one: a package that cannot be had must not keep the others away
    for package in missing:
        if subprocess.call(apt + ["-y", "--no-install-recommends", "install", package], **quiet):
            say(f"{package} cannot be installed here")


def build(cfg=None):
    """Builds ours from this tree, with `--cfg CFG` in a folder of its own; the program's path."""
    env = dict(os.environ)
    target = env.get("CARGO_TARGET_DIR") or os.path.join(TREE, "target")
    if cfg:
        target = os.path.join(target, cfg)
        env["RUSTFLAGS"] = f"{env.get('RUSTFLAGS', '')} --cfg {cfg}".strip()
    env["CARGO_TARGET_DIR"] = target
    if not shutil.which("cargo"):
        raise Failed("cargo is missing, and no --binary was given")
    if subprocess.call(["cargo", "build", "--release", "--locked", "--bin", "rmogstored"], cwd=TREE, env=env):
        raise Failed("the build failed")
    return os.path.join(os.path.realpath(target), "release", "rmogstored")


def compile_helpers(into):
    """The clients and the slow disk; their paths by name."""
    made = {}
    for name, flags in {"copier": [], "closed": ["-lm"], "slow.so": ["-shared", "-fPIC", "-ldl"]}.items():
        made[name] = os.path.join(into, name)
        source = os.path.join(HERE, name.removesuffix(".so") + ".c")
        if subprocess.call(["cc", "-O2", "-Wall", "-o", made[name], source] + flags):
            raise Failed(f"{source} does not compile")
    return made


def version(command):
    """The first line that a program says of its version."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
        return done.stdout.strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "unknown"
