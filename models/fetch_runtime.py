"""Unpacks ONNX Runtime's shared library into .runtime/, from the `onnxruntime` wheel on PyPI, checked by its sha256.

The library is the same in the wheels of all Python versions, so any interpreter that pip supports will do.
"""

import hashlib
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "1.31.1"
LIBRARIES = {  # system and machine: file in the wheel, name to give it, sha256
    ("Linux", "x86_64"): ("libonnxruntime.so.1.31.1", "libonnxruntime.so", "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3"),
    ("Linux", "aarch64"): ("libonnxruntime.so.1.31.1", "libonnxruntime.so", "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467"),
    ("Darwin", "arm64"): ("libonnxruntime.1.31.1.dylib", "libonnxruntime.dylib", "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36"),
}


def main(folder):
    key = (platform.system(), platform.machine())
    if key not in LIBRARIES:
        sys.exit(f"no pinned ONNX Runtime for {key[0]} {key[1]}: the gateway works without the semantic cache; to have it, set ORT_DYLIB_PATH to an ONNX Runtime {VERSION} library")
    source, name, expected = LIBRARIES[key]
    target = folder / name
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == expected:
        return
    with tempfile.TemporaryDirectory() as wheels:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, f"onnxruntime=={VERSION}", "-d", wheels], check=True)
        wheel = next(Path(wheels).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            library = archive.read(f"onnxruntime/capi/{source}")
    found = hashlib.sha256(library).hexdigest()
    if found != expected:
        sys.exit(f"{wheel.name}: {source} has sha256 {found}, expected {expected}")
    folder.mkdir(parents=True, exist_ok=True)
    target.write_bytes(library)
    print(f"{target}: ONNX Runtime {VERSION}")


if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent / ".runtime")
