//! `sluice catalog`: models, endpoints and prices as they are known, and bringing them up to date.

mod report;
mod store;

use crate::failure::Failure;
use crate::serve::{environment, read_config};
use ::catalog::{Change, Document, Event, Listing};
use gateway::ConfigFile;
use providers::{Outbound, Received};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use store::Store;

/// Where prices are published.
const SOURCES: [&str; 2] = ["https://models.dev/api.json", "https://openrouter.ai/api/v1/models"];
/// A source may take so long.
const WAIT: Duration = Duration::from_secs(60);
/// Changes printed at the most; all are in the file of events.
const SHOWN_MAX: usize = 40;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Lists models with their endpoints and prices, providers, or totals.
    List(report::Arguments),
    /// Merges a document of models.dev's or OpenRouter's shape from a file.
    Import(Import),
    /// Shows what a document would change, or the changes of the past.
    Diff(Diff),
    /// Fetches the newest prices and the lists of configured providers, and merges them.
    Refresh(Refresh),
}

#[derive(clap::Args)]
pub(crate) struct Import {
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The configuration file that says where the catalogue lies.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct Diff {
    /// A file or an address; without it the changes of the past.
    #[arg(long, value_name = "FILE|URL")]
    from: Option<String>,
    /// Only changes of that day and later.
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "")]
    since: String,
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct Refresh {
    /// A file or an address instead of models.dev, OpenRouter and the providers' own lists.
    #[arg(long, value_name = "FILE|URL")]
    from: Option<String>,
    /// Goes on, once in this time: 90s, 30m, 6h, 1d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    every: Option<Duration>,
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => report::run(&arguments),
        Command::Import(arguments) => {
            let (_, store) = opened(arguments.config.as_deref())?;
            let source = arguments.from.display().to_string();
            let events = merge(&store, &source, &std::fs::read(&arguments.from)?, None)?;
            show(&events, arguments.json);
            Ok(())
        }
        Command::Diff(arguments) => diff(arguments).await,
        Command::Refresh(arguments) => refresh(arguments).await,
    }
}

fn opened(config: Option<&std::path::Path>) -> Result<(ConfigFile, Store), Failure> {
    let file = read_config(config)?;
    let store = Store::beside(file.database());
    Ok((file, store))
}

async fn diff(arguments: Diff) -> Result<(), Failure> {
    let (_, store) = opened(arguments.config.as_deref())?;
    let mut events = match &arguments.from {
        Some(from) => {
            let document = Document::read(from, &fetched(from).await?, None)?;
            store.listing()?.merged(&document, &today())?.1
        }
        None => store.events()?,
    };
    events.retain(|event| event.day >= arguments.since);
    show(&events, arguments.json);
    Ok(())
}

async fn refresh(arguments: Refresh) -> Result<(), Failure> {
    loop {
        let done = refresh_once(&arguments).await;
        let Some(every) = arguments.every else { return done };
        if let Err(failure) = done {
            eprintln!("error: {failure}"); // the next time may go better
        }
        tokio::time::sleep(every).await;
    }
}

/// One source that fails does not keep the others from being merged.
async fn refresh_once(arguments: &Refresh) -> Result<(), Failure> {
    let (file, store) = opened(arguments.config.as_deref())?;
    let (mut merged, mut events) = (0, Vec::new());
    let mut note = |source: &str, done: Result<Vec<Event>, Failure>| match done {
        Ok(mut new) => {
            eprintln!("{source}: {} changes", new.len());
            merged += 1;
            events.append(&mut new);
        }
        Err(failure) => eprintln!("{source}: not merged: {failure}"),
    };
    let sources = arguments.from.as_deref().map_or(SOURCES.to_vec(), |from| vec![from]);
    for source in sources {
        let done = match fetched(source).await {
            Ok(text) => merge(&store, source, &text, None),
            Err(failure) => Err(failure),
        };
        note(source, done);
    }
    if arguments.from.is_none() {
        let outbound = Outbound::new(WAIT)?;
        let config = file.with_listing(store.listing()?).check(environment, Some("http://127.0.0.1:9/v1"))?;
        for provider in config.providers.values().filter(|provider| provider.name != gateway::config::SIMULATED) {
            let source = format!("{}'s own list", provider.name);
            let done = match outbound.models_of(provider).await {
                Ok(received) => ok(received).and_then(|text| merge(&store, &source, &text, Some(&provider.name))),
                Err(failure) => Err(Box::new(failure).into()),
            };
            note(&source, done);
        }
    }
    show(&events, arguments.json);
    if merged == 0 {
        Err(Failure::Request("nothing was merged; the catalogue is as before".to_owned()))
    } else {
        Ok(())
    }
}

fn merge(store: &Store, source: &str, text: &[u8], provider: Option<&str>) -> Result<Vec<Event>, Failure> {
    let document = Document::read(source, text, provider)?;
    let _lock = store.lock()?;
    let before: Arc<Listing> = store.listing()?;
    let (after, events) = before.merged(&document, &today())?;
    store.keep(&after, &events)?;
    Ok(events)
}

async fn fetched(from: &str) -> Result<Vec<u8>, Failure> {
    if from.starts_with("http://") || from.starts_with("https://") {
        return ok(Outbound::new(WAIT)?.get(from).await.map_err(Box::new)?);
    }
    Ok(std::fs::read(from)?)
}

fn ok(received: Received) -> Result<Vec<u8>, Failure> {
    match received.status {
        200 => Ok(received.body.to_vec()),
        status => Err(Failure::Request(format!("answered {status}"))),
    }
}

fn today() -> String {
    jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

fn show(events: &[Event], json: bool) {
    if json {
        for event in events {
            println!("{}", serde_json::json!(event));
        }
        return;
    }
    // What costs or breaks comes first; what nobody can be billed for comes last.
    let weight = |event: &Event| match event.change {
        Change::Gone => 0,
        Change::Deprecated => 1,
        Change::Refused { .. } => 2,
        Change::Repriced { .. } => 3,
        Change::New { .. } => 4,
        Change::Unpriced => 5,
    };
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| weight(event));
    for event in sorted.iter().take(SHOWN_MAX) {
        println!("{}  {}", event.day, line(event));
    }
    if sorted.len() > SHOWN_MAX {
        println!("… and {} more; --json shows all", sorted.len() - SHOWN_MAX);
    }
    if events.is_empty() {
        println!("no changes");
    }
}

/// One change in words.
pub(crate) fn line(event: &Event) -> String {
    let endpoint = &event.endpoint;
    match &event.change {
        Change::New { input, output } => format!("new         {endpoint}  ${input} in, ${output} out"),
        Change::Repriced { before, after } => {
            format!(
                "repriced    {endpoint}  ${} in, ${} out → ${} in, ${} out",
                before.input, before.output, after.input, after.output
            )
        }
        Change::Deprecated => format!("deprecated  {endpoint}"),
        Change::Gone => format!("gone        {endpoint}"),
        Change::Unpriced => format!("unpriced    {endpoint}  left out: nobody says what it costs"),
        Change::Refused { before, .. } => {
            format!(
                "refused     {endpoint}  its new price is not believed; it stays at ${} in, ${} out",
                before.input, before.output
            )
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write 90s, 30m, 6h or 1d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if count == 0 { Err(wrong()) } else { Ok(Duration::from_secs(count.saturating_mul(unit))) }
}
