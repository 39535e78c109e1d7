//! Finding ONNX Runtime's shared library. A missing one must not end the process, so it is opened by us first.

use std::path::{Path, PathBuf};

/// The folder, beside the sources or the binary, into which `make` unpacks the library.
const FOLDER: &str = ".runtime";

#[cfg(target_os = "linux")]
const FILE: &str = "libonnxruntime.so";
#[cfg(target_os = "macos")]
const FILE: &str = "libonnxruntime.dylib";
#[cfg(target_os = "windows")]
const FILE: &str = "onnxruntime.dll";

/// Where the library is: `ORT_DYLIB_PATH`, else beside the binary, else `.runtime/` in a folder above the binary or the
/// working directory. `None` when it is nowhere.
pub fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        let named = PathBuf::from(named);
        return named.is_file().then_some(named);
    }
    let binary = std::env::current_exe().ok();
    let folders = [binary.as_deref().and_then(Path::parent).map(Path::to_owned), std::env::current_dir().ok()];
    for folder in folders.iter().flatten() {
        let beside = folder.join(FILE);
        if beside.is_file() {
            return Some(beside);
        }
        let above = folder.ancestors().map(|above| above.join(FOLDER).join(FILE)).find(|path| path.is_file());
        if above.is_some() {
            return above;
        }
    }
    None
}
