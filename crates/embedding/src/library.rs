//! Finding ONNX Runtime's shared library. A missing one must not end the process, so it is opened by us first.

use crate::embedder::EmbeddingError;
use ort::environment::Environment;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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

/// The one environment that ONNX Runtime allows in a process, made at the first call.
pub(crate) fn environment() -> Result<Environment, EmbeddingError> {
    static MADE: Mutex<Option<Environment>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = made.as_ref() {
        return Ok(environment.clone());
    }
    let library = find().ok_or(EmbeddingError::NoLibrary)?;
    let unusable = |error: &dyn std::fmt::Display| {
        EmbeddingError::Model(format!("{} is no usable ONNX Runtime: {error}", library.display()))
    };
    let builder = ort::init_from(&library).map_err(|error| unusable(&error))?;
    let environment = builder.with_name("sluice").build().map_err(|error| unusable(&error))?;
    Ok(made.insert(environment).clone())
}
