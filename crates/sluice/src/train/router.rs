//! `sluice train router`: fits the router's predictor on recorded outcomes.

use crate::eval::cache::{SHIPPED_EMBEDDER, bar};
use crate::failure::Failure;
use embedding::Embedder;
use router::{Artefact, Predictor};
use std::path::PathBuf;
use trainer::router::{
    OutcomeRow, SHIPPABLE, Split, add_heads, fit, fits, models_with_labels, prepare_prompts, read_log,
    read_outcome_file, read_outcomes,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds routing/*.jsonl.gz.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["labels", "log"])]
    data: Option<PathBuf>,
    /// Sources to fit on; by default those whose licences allow the artefact to be shipped.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Answers of your own traffic, as `sluice content export` writes them, with their scores: keeps what the shipped
    /// artefact says of prompts, and adds what the scores say of each model with at least 100.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "only"], requires = "out")]
    log: Option<PathBuf>,
    /// With --log, more scores for its answers, a line each: {"generation_id": "gen-…", "score": 0.5}. Without, a file of
    /// scored answers of your models, by their canonical names, to learn from as from a log.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "only"], requires = "out")]
    labels: Option<PathBuf>,
    /// The model of embeddings that the gateway uses, its `[embedding] model`.
    #[arg(long, value_name = "MODEL", default_value = SHIPPED_EMBEDDER)]
    embedder: String,
    /// Where to write the artefact; without --labels by default the one that is shipped.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let artefact = match (&arguments.log, &arguments.labels, &arguments.data) {
        (Some(log), labels, _) => learn_labels(read_log(log, labels.as_deref())?, &arguments.embedder).await?,
        (None, Some(labels), _) => learn_labels(read_outcome_file(labels)?, &arguments.embedder).await?,
        (None, None, Some(data)) => learn_difficulty(data, &arguments.only)?,
        (None, None, None) => return Err(Failure::Usage("name --data, --log or --labels".to_owned())),
    };
    let json = serde_json::to_string(&artefact).map_err(std::io::Error::other)?;
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("models/router/predictor.json"));
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if arguments.data.is_none() {
        keep_earlier(&out)?;
    }
    // A gateway that reads it meanwhile sees the old one or the new one.
    let beside = out.with_extension("tmp");
    std::fs::write(&beside, json + "\n")?;
    std::fs::rename(&beside, &out)?;
    println!("{} written", out.display());
    if arguments.data.is_none() {
        let card = out.with_extension("card.md");
        std::fs::write(&card, card_of(&artefact))?;
        println!("{} says what it is made of", card.display());
    }
    Ok(())
}

/// What an artefact was made of, for whoever finds it.
fn card_of(artefact: &Artefact) -> String {
    let models: String =
        artefact.heads.iter().map(|(model, heads)| format!("| {model} | {} |\n", heads.labels)).collect();
    format!(
        "# Router artefact\n\nMade by `sluice train router` {} on {}. Features version {}; vectors of {}; on top of the shipped prior.\n\
         {} labelled prompts, predicted by heads that had not seen them, are in it for promises of quality: scores and expectations \
         only. It holds weights of hashed words, no text.\n\n| model | scored answers |\n|---|---:|\n{models}",
        env!("CARGO_PKG_VERSION"),
        jiff::Timestamp::now().strftime("%F %R UTC"),
        artefact.features_version,
        artefact.embedder.as_deref().unwrap_or("no embedder"),
        artefact.calibration.len(),
    )
}

/// Artefacts kept besides the latest, `own.json.1` being the one before it.
const EARLIER: usize = 5;

/// Keeps the artefact that is about to be replaced, and those before it: copied back, it is in use again.
fn keep_earlier(out: &std::path::Path) -> std::io::Result<()> {
    let earlier = |nth: usize| {
        let mut name = out.as_os_str().to_owned();
        name.push(format!(".{nth}"));
        PathBuf::from(name)
    };
    for nth in (1..EARLIER).rev().filter(|nth| earlier(*nth).is_file()).collect::<Vec<_>>() {
        std::fs::rename(earlier(nth), earlier(nth + 1))?;
    }
    if out.is_file() {
        std::fs::copy(out, earlier(1))?;
    }
    Ok(())
}

fn learn_difficulty(data: &std::path::Path, only: &[String]) -> Result<Artefact, Failure> {
    let names: Vec<&str> = match only {
        [] => SHIPPABLE.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let rows = read_outcomes(data, &names)?;
    let train: Vec<&OutcomeRow> = rows.iter().filter(|row| row.split == Split::Train).collect();
    println!("fitting on {} training prompts of {}", train.len(), names.join(", "));
    let bar = bar(100, "fitting");
    let fitted = fit(&train, |share| bar.set_position((share * 100.0) as u64));
    bar.finish_and_clear();
    println!(
        "{} prompts, {} outcomes, {} models, mean training loss {:.4}",
        fitted.prompts,
        fitted.outcomes,
        fitted.artefact.abilities.len(),
        fitted.loss
    );
    Ok(fitted.artefact)
}

async fn learn_labels(mut rows: Vec<OutcomeRow>, embedder: &str) -> Result<Artefact, Failure> {
    rows.retain(|row| row.split == Split::Train);
    let embedder = match Embedder::start(embedder) {
        Ok(embedder) => Some(embedder),
        Err(error) => {
            println!("without the meaning of prompts: {error}");
            None
        }
    };
    let embedding = bar(rows.len(), "embedding");
    let onto = Artefact {
        embedder: embedder.as_ref().map(|embedder| embedder.identity().to_owned()),
        ..Predictor::shipped()?.artefact().clone()
    };
    let prompts = prepare_prompts(rows, embedder.as_ref(), |done| embedding.set_position(done as u64)).await?;
    embedding.finish_and_clear();
    let models = models_with_labels(&prompts, router::LABELS_MIN);
    if models.is_empty() {
        let most = (1..router::LABELS_MIN).rev().find(|least| !models_with_labels(&prompts, *least).is_empty());
        return Err(Failure::Usage(format!(
            "{} scored prompts, and no model with {} scored answers: the one with most has {}",
            prompts.len(),
            router::LABELS_MIN,
            most.unwrap_or(0)
        )));
    }
    let fitting = bar(fits(models.len()), "fitting");
    let fitted = move || {
        let artefact = add_heads(&prompts, onto, || fitting.inc(1));
        fitting.finish_and_clear();
        artefact
    };
    let artefact = tokio::task::spawn_blocking(fitted).await.map_err(|error| Failure::Request(error.to_string()))?;
    for (model, heads) in &artefact.heads {
        println!("{model}: {} labels", heads.labels);
    }
    Ok(artefact)
}
