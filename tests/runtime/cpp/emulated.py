"""Ask the same question here and on aarch64 under emulation: python emulated.py BUNDLE BUILD BUILD_AARCH64 ONNXRUNTIME.

ONNX Runtime reads what the processor can do from /proc/cpuinfo, where an older qemu-user shows this machine's; so the
emulator's root holds a file of an Arm processor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

CPUINFO = """processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""
QUESTION = "What is the colour of the square?"


def library_in(folder: Path) -> Path:
    """libonnxruntime of an unpacked wheel."""
    return next(folder.glob("onnxruntime/capi/libonnxruntime.so.*"))


def answer(command: list[object], library: Path, frames: bytes) -> str:
    """What aurora-run says."""
    environment = {**os.environ, "AURORA_ONNXRUNTIME": str(library.resolve())}
    found = subprocess.run([*map(str, command)], input=frames, stdout=subprocess.PIPE, check=True, env=environment)
    return found.stdout.decode()


def main(bundle: str, here: str, there: str, wheel: str) -> None:
    """Print both answers; exit code 1 if they differ."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        print("==> left out: libaurora on aarch64 was compiled and not run (no qemu-aarch64 on this machine)")
        return
    root = Path(there).resolve() / "root"
    system = Path("/usr/aarch64-linux-gnu")
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/cpuinfo").write_text(CPUINFO)
    (root / "lib").unlink(missing_ok=True)
    (root / "lib").symlink_to(system / "lib")
    ramps = b"".join(bytes((x * (i + 1)) % 256 for x in range(64 * 64 * 3)) for i in range(3))
    arguments = [bundle, "-", "--raw-size", "64x64", "--threads", "1", "--max-tokens", "8", "--prompt", QUESTION]
    native = Path(find_spec("onnxruntime").submodule_search_locations[0]).parent
    ours = answer([Path(here, "examples/aurora-run"), *arguments], library_in(native), ramps)
    theirs = answer(
        [emulator, "-L", root, Path(there, "examples/aurora-run"), *arguments], library_in(Path(wheel)), ramps
    )
    print(f"==> x86-64: {ours.strip()!r}, aarch64 under emulation: {theirs.strip()!r}")
    if ours != theirs or not ours.strip():
        raise SystemExit("the answers differ")


if __name__ == "__main__":
    main(*sys.argv[1:])
