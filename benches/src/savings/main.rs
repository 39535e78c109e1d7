//! What a day of 100,000 requests costs, and how good its answers are, by who chooses the model: through real gateways, with
//! simulated models that answer as recorded.

mod arm;
mod workload;

use arm::{Account, Arm, Chooser, static_rules};
use catalog::Listing;
use clap::Parser;
use embedding::Embedder;
use router::{Artefact, Predictor};
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use trainer::chart::{Axis, Chart};
use trainer::router::{Prompt, add_heads, prepare_prompts};
use workload::{ASKED_AGAIN, MIDDLE, MODELS, Question, SIMPLE, SMALL, STRONG, questions, requests};

#[derive(Parser)]
struct Arguments {
    /// The folder that holds routing/*.jsonl.gz.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Draws order and repetitions of the requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A Python with the `openai` package.
    #[arg(long, default_value = ".venv/bin/python")]
    python: PathBuf,
    /// Writes the picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Neighbours asked by the kNN router, and the share of the strong model's quality that it keeps, as Sluice's policies do.
const NEIGHBOURS: usize = 20;
const QUALITY_MIN: f64 = 0.98;
const A_DAY: f64 = 100_000.0;

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider().install_default().expect("no other provider");
    let questions = questions(&arguments.data, arguments.seed);
    let embedder = Embedder::start("all-MiniLM-L6-v2").unwrap_or_else(|error| panic!("{error}"));
    let rows = questions.iter().map(|question| question.row.clone()).collect();
    let prompts = prepare_prompts(rows, Some(&embedder), |_| ()).await.unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().expect("a folder");
    let artefacts = [0, 1].map(|half| learn(&questions, &prompts, half, embedder.identity(), folder.path()));
    let picks = neighbours(&questions, &prompts);
    let rules: &'static str = static_rules().leak();
    let mut accounts = Vec::new();
    for arm in arms(&picks, rules, &artefacts, &arguments.python) {
        let mut account = Account::default();
        for half in [0, 1] {
            let requests = requests(&questions, half, arguments.seed);
            arm.serve(&questions, &requests, half, &mut account).await;
        }
        eprintln!("{}: {:?}", arm.name, account.served);
        accounts.push((arm.name, account));
    }
    if arguments.json {
        println!("{}", json_of(&accounts));
    } else {
        print(&questions, &accounts);
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, picture(&accounts)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn arms<'a>(
    picks: &'a HashMap<usize, &'static str>,
    rules: &'static str,
    artefacts: &[PathBuf; 2],
    python: &'a Path,
) -> Vec<Arm<'a>> {
    const KEEPS: &str = "quality_min = 0.98\n";
    const PROMISES_98: &str = "quality_min = 0.98\nguarantee = true\n";
    const PROMISES_95: &str = "quality_min = 0.95\nguarantee = true\n";
    const PRICED: &str = "correct_answer_value_usd = 0.02\n";
    let arm = |name, chooser, policy, learned: bool, cache| Arm {
        name,
        chooser,
        policy,
        artefacts: learned.then(|| artefacts.clone()),
        cache,
    };
    let mut arms = vec![
        arm("always gpt-4o", Chooser::Named(STRONG), KEEPS, false, false),
        arm("always gpt-4o-mini", Chooser::Named(MIDDLE), KEEPS, false, false),
        arm("always llama-3.1-8b", Chooser::Named(SMALL), KEEPS, false, false),
        arm("static rules", Chooser::Policy, rules, false, false),
        arm("kNN, 98 %", Chooser::Picks(picks), KEEPS, false, false),
        arm("Sluice, no labels", Chooser::Policy, KEEPS, false, false),
        arm("Sluice, labels, 98 %", Chooser::Policy, KEEPS, true, false),
        arm("Sluice, a right answer is worth 2 cents", Chooser::Policy, PRICED, true, false),
        arm("Sluice, promise of 98 %", Chooser::Policy, PROMISES_98, true, false),
        arm("Sluice, promise of 95 %", Chooser::Policy, PROMISES_95, true, false),
        arm("Sluice, promise of 95 % and cache", Chooser::Policy, PROMISES_95, true, true),
    ];
    if python.is_file() {
        arms.push(arm("the same, openai client", Chooser::PythonClient(python), PROMISES_95, true, true));
    } else {
        eprintln!("no {}: without the row of the official client; `make venv` makes it", python.display());
    }
    arms
}

/// What `sluice train router --labels` makes of the other half.
fn learn(questions: &[Question], prompts: &[Prompt], half: usize, embedder: &str, folder: &Path) -> PathBuf {
    let others = prompts.iter().zip(questions).filter(|(_, question)| question.half != half);
    let others: Vec<Prompt> = others.map(|(prompt, _)| prompt.clone()).collect();
    let shipped = Predictor::shipped().unwrap_or_else(|error| panic!("{error}")).artefact().clone();
    let onto = Artefact { embedder: Some(embedder.to_owned()), ..shipped };
    let artefact = add_heads(&others, onto, || ());
    let path = folder.join(format!("{half}.json"));
    std::fs::write(&path, serde_json::to_string(&artefact).expect("JSON")).expect("written");
    path
}

/// For each question the cheapest model that its nearest questions of the other half let keep the strong one's quality.
fn neighbours(questions: &[Question], prompts: &[Prompt]) -> HashMap<usize, &'static str> {
    let pick = |at: usize| {
        let cosine =
            |other: usize| -> f32 { prompts[at].vector.iter().zip(&prompts[other].vector).map(|(a, b)| a * b).sum() };
        let mut others: Vec<(f32, usize)> = (0..questions.len())
            .filter(|other| questions[*other].half != questions[at].half)
            .map(|other| (cosine(other), other))
            .collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mean = |model: &str| {
            let near = others.iter().take(NEIGHBOURS);
            near.map(|(_, other)| questions[*other].row.outcomes[model].0).sum::<f64>() / NEIGHBOURS as f64
        };
        let strong = mean(STRONG);
        [SMALL, MIDDLE].into_iter().find(|model| mean(model) >= QUALITY_MIN * strong).unwrap_or(STRONG)
    };
    (0..questions.len()).map(|at| (at, pick(at))).collect()
}

fn a_day(account: &Account) -> f64 {
    account.usd / account.requests as f64 * A_DAY
}

fn quality(account: &Account) -> f64 {
    account.score / account.requests as f64
}

fn print(questions: &[Question], accounts: &[(&str, Account)]) {
    let listing = Listing::shipped().unwrap_or_else(|error| panic!("{error}"));
    let (_, strong) = &accounts[0];
    println!(
        "{} requests ({} questions, {:.0} % of them simple: gpt-4o-mini's recorded answer is right; {:.0} % asked again), \
         scaled to 100,000 a day. Prices, USD per million tokens in/out, of {} ({}): {}.\n",
        strong.requests,
        questions.len(),
        100.0 * SIMPLE,
        100.0 * ASKED_AGAIN,
        listing.as_of,
        listing.source,
        MODELS.iter().map(|model| model.price(&listing)).collect::<Vec<_>>().join(", ")
    );
    println!(
        "| who chooses | quality | of gpt-4o's | USD a day | saved | hits | wrong hits | with a fee of 5.5 % | markup 10 % | 20 % |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (name, account) in accounts {
        let (usd, share) = (a_day(account), 100.0 / account.requests as f64);
        let hosted = match name.contains("Sluice") || name.contains("the same") {
            true => "| | | ".to_owned(), // nobody takes a fee of one's own gateway
            false => format!("| {:.2} | {:.2} | {:.2} ", usd * 1.055, usd * 1.1, usd * 1.2),
        };
        println!(
            "| {name} | {:.1} % | {:.1} % | {usd:.2} | {:.0} % | {:.1} % | {:.2} % {hosted}|",
            100.0 * quality(account),
            100.0 * quality(account) / quality(strong),
            100.0 * (1.0 - usd / a_day(strong)),
            account.hits as f64 * share,
            account.wrong_hits as f64 * share,
        );
    }
}

fn json_of(accounts: &[(&str, Account)]) -> serde_json::Value {
    let row = |(name, account): &(&str, Account)| {
        json!({"arm": name, "requests": account.requests, "usd": account.usd, "usd_a_day": a_day(account),
            "quality": quality(account), "hits": account.hits, "wrong_hits": account.wrong_hits, "served": account.served})
    };
    accounts.iter().map(row).collect()
}

fn picture(accounts: &[(&str, Account)]) -> String {
    let dots = accounts.iter().map(|(name, account)| ((*name).to_owned(), (a_day(account), 100.0 * quality(account))));
    let most = accounts.iter().map(|(_, account)| a_day(account)).fold(0.0, f64::max);
    let chart = Chart {
        title: "100,000 requests a day: what they cost, and how many answers are right",
        x: Axis {
            name: "USD a day",
            from: 0.0,
            to: (most * 1.25 / 50.0).ceil() * 50.0,
            marks: 5,
            show: |usd| format!("{usd:.0}"),
        },
        y: Axis { name: "right, %", from: 55.0, to: 90.0, marks: 7, show: |share| format!("{share:.0}") },
        lines: Vec::new(),
        dots: dots.collect(),
    };
    chart.svg()
}
