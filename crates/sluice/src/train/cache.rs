//! `sluice train cache`: fits the cache's model on labelled streams and pairs.

use crate::eval::cache::{SHIPPED_EMBEDDER, bar};
use crate::failure::Failure;
use embedding::Embedder;
use std::path::{Path, PathBuf};
use trainer::cache::{PreparedPair, SHIPPABLE, Stream, fit, prepare, prepare_pairs, read_pairs, read_stream};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds cache/*.jsonl.gz.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Files to fit on, as stream_NAME and pairs_NAME; by default those whose licences allow the model to be shipped.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Where to write the model.
    #[arg(long, value_name = "FILE", default_value = "models/cache/decision.json")]
    out: PathBuf,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let names: Vec<&str> = match arguments.only.as_slice() {
        [] => SHIPPABLE.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let embedder = Embedder::start(SHIPPED_EMBEDDER)?;
    let (streams, pairs) = load(&names, &arguments.data, &embedder).await?;
    let words = embedder.words();
    let mut fitted = tokio::task::spawn_blocking(move || fit(&streams, &pairs, &words))
        .await
        .map_err(|error| Failure::Request(error.to_string()))??;
    fitted.model.fitted_on = names.iter().map(|name| (*name).to_owned()).collect();
    let json = serde_json::to_string_pretty(&fitted.model).map_err(std::io::Error::other)?;
    if let Some(folder) = arguments.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.out, json + "\n")?;
    println!("{}: fitted on {} pairs and {} decisions", arguments.out.display(), fitted.pairs, fitted.cases);
    Ok(())
}

/// Reads streams and pairs by their names, with their vectors.
pub(crate) async fn load(
    names: &[&str],
    data: &Path,
    embedder: &Embedder,
) -> Result<(Vec<Stream>, Vec<PreparedPair>), Failure> {
    let (mut streams, mut pairs) = (Vec::new(), Vec::new());
    for name in names {
        match (name.strip_prefix("stream_"), name.strip_prefix("pairs_")) {
            (Some(stream), _) => {
                let rows = read_stream(data, stream)?;
                let bar = bar(rows.len(), name);
                streams.push(prepare(stream, rows, embedder, |done| bar.set_position(done as u64)).await?);
                bar.finish_and_clear();
            }
            (_, Some(file)) => {
                let rows = read_pairs(data, file)?;
                let bar = bar(2 * rows.len(), name);
                pairs.append(&mut prepare_pairs(rows, embedder, |done| bar.set_position(done as u64)).await?);
                bar.finish_and_clear();
            }
            _ => return Err(Failure::Usage(format!("{name}: use stream_NAME or pairs_NAME"))),
        }
    }
    Ok((streams, pairs))
}
