//! The `[embedding]` table and the files of a model.

use fastembed::{InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};
use ort::environment::Environment;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The `[embedding]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// `all-MiniLM-L6-v2`, which is shipped, or a folder with model.onnx and the tokenizer's files.
    #[serde(default = "shipped")]
    pub model: String,
    /// A request waits this long for its vector, then goes on without the semantic level.
    #[serde(default = "budget_ms")]
    pub budget_ms: u64,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self { model: shipped(), budget_ms: budget_ms() }
    }
}

fn shipped() -> String {
    SHIPPED.to_owned()
}

fn budget_ms() -> u64 {
    25
}

const SHIPPED: &str = "all-MiniLM-L6-v2";
/// Tokens read of a text; a longer one is marked as truncated.
const TOKENS_MAX: usize = 256;

struct Files {
    onnx: Vec<u8>,
    tokenizer: TokenizerFiles,
}

macro_rules! shipped_file {
    ($name:literal) => {
        include_bytes!(concat!("../../../models/all-MiniLM-L6-v2/", $name)).to_vec()
    };
}

fn files(model: &str) -> std::io::Result<Files> {
    if model == SHIPPED {
        return Ok(Files {
            onnx: shipped_file!("model.onnx"),
            tokenizer: TokenizerFiles {
                tokenizer_file: shipped_file!("tokenizer.json"),
                config_file: shipped_file!("config.json"),
                special_tokens_map_file: shipped_file!("special_tokens_map.json"),
                tokenizer_config_file: shipped_file!("tokenizer_config.json"),
            },
        });
    }
    let read = |name: &str| std::fs::read(Path::new(model).join(name));
    Ok(Files {
        onnx: read("model.onnx")?,
        tokenizer: TokenizerFiles {
            tokenizer_file: read("tokenizer.json")?,
            config_file: read("config.json")?,
            special_tokens_map_file: read("special_tokens_map.json")?,
            tokenizer_config_file: read("tokenizer_config.json")?,
        },
    })
}

/// Loads a model; returns it with its identity: vectors of two identities must never be compared.
pub(crate) fn load(model: &str, environment: Environment) -> Result<(TextEmbedding, String), String> {
    let files = files(model).map_err(|error| format!("the embedding model `{model}` cannot be read: {error}"))?;
    let digest = Sha256::digest(&files.onnx);
    let identity = digest[..8].iter().fold(format!("mean-{TOKENS_MAX}-"), |id, byte| format!("{id}{byte:02x}"));
    let definition = UserDefinedEmbeddingModel::new(files.onnx, files.tokenizer).with_pooling(Pooling::Mean);
    let options = InitOptionsUserDefined::new()
        .with_environment(environment)
        .with_max_length(TOKENS_MAX)
        .with_intra_threads(1)
        .with_session_config("session.intra_op.allow_spinning", "0"); // spinning doubles the CPU time
    let embedding = TextEmbedding::try_new_from_user_defined(definition, options)
        .map_err(|error| format!("the embedding model `{model}` cannot be loaded: {error}"))?;
    Ok((embedding, identity))
}
