//! How much may be left to cheaper models so that what is said of the quality is true: a margin, chosen on labelled prompts.
//!
//! Margins are tried from the strictest on, as one sequence: the first that cannot be shown to keep the quality ends it, so
//! that no correction for trying many is due (fixed-sequence testing; Angelopoulos and others, Learn then Test,
//! arXiv 2110.01052). Each is tested by the paired difference to the baseline on the same prompts.

use serde::Serialize;

/// A labelled prompt: for each model what was expected before its score was known, the score, and what it costs.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledPrompt {
    pub expected: Vec<f64>,
    pub scores: Vec<f64>,
    pub costs: Vec<f64>,
}

/// What is promised, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Guarantee {
    /// Share of the baseline's quality that is kept.
    pub quality_min: f64,
    /// How often such a promise holds.
    pub confidence: f64,
    /// Labelled prompts behind it.
    pub labels: usize,
    /// A model may be expected to be so much worse than the baseline; `None`: the baseline serves everything.
    pub margin: Option<f64>,
    /// Share of the labelled prompts that go to other models than the baseline.
    pub routed: f64,
}

/// Margins in the order of the test.
const MARGINS: [f64; 10] = [-0.2, -0.1, -0.05, 0.0, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25];
/// With fewer labelled prompts nothing is promised.
const PROMPTS_MIN: usize = 400;
/// Wrong answers assumed beside those that were seen, so that a few prompts without any do not prove that there are none.
const ASSUMED: f64 = 1.0;

impl Guarantee {
    /// Chooses the margin for policies that keep `quality_min` of the model at `baseline`.
    pub fn choose(prompts: &[LabelledPrompt], baseline: usize, quality_min: f64, confidence: f64) -> Self {
        let nothing = Self { quality_min, confidence, labels: prompts.len(), margin: None, routed: 0.0 };
        if prompts.len() < PROMPTS_MIN {
            return nothing;
        }
        let deviations = deviations(confidence);
        let mut chosen = nothing;
        for margin in MARGINS {
            let served: Vec<usize> = prompts.iter().map(|prompt| prompt.serve(baseline, Some(margin))).collect();
            if !keeps(prompts, &served, baseline, quality_min, deviations) {
                break;
            }
            let routed = served.iter().filter(|model| **model != baseline).count() as f64 / prompts.len() as f64;
            chosen = Self { margin: Some(margin), routed, ..chosen };
        }
        Self { margin: chosen.margin.filter(|_| chosen.routed > 0.0), ..chosen }
    }

    /// "≥ 98 % of the baseline's quality, 90 % confidence, n = 812", or why nothing is promised.
    pub fn statement(&self) -> String {
        let percent = |share: f64| (1_000.0 * share).round() / 10.0;
        match self.margin {
            Some(_) => format!(
                "≥ {} % of the baseline's quality, {} % confidence, n = {}",
                percent(self.quality_min),
                percent(self.confidence),
                self.labels
            ),
            None if self.labels < PROMPTS_MIN => {
                format!("nothing is promised: {} of {PROMPTS_MIN} labelled prompts; the baseline serves", self.labels)
            }
            None => format!(
                "no other model was shown to keep {} % of the baseline's quality (n = {}); the baseline serves",
                percent(self.quality_min),
                self.labels
            ),
        }
    }
}

impl LabelledPrompt {
    /// The cheapest model that is not expected to be worse than the baseline by more than the margin.
    pub fn serve(&self, baseline: usize, margin: Option<f64>) -> usize {
        let Some(margin) = margin else { return baseline };
        let least = self.expected[baseline] - margin;
        let may = (0..self.expected.len()).filter(|model| *model == baseline || self.expected[*model] >= least);
        may.min_by(|a, b| self.costs[*a].total_cmp(&self.costs[*b])).unwrap_or(baseline)
    }
}

/// True where one model is shown to keep all of another's quality.
pub(crate) fn keeps_all(prompts: &[LabelledPrompt], other: usize, model: usize) -> bool {
    const CONFIDENCE: f64 = 0.9;
    keeps(prompts, &vec![model; prompts.len()], other, 1.0, deviations(CONFIDENCE))
}

/// True where the lower end of the one-sided interval of the quality kept is not under what is promised.
fn keeps(prompts: &[LabelledPrompt], served: &[usize], baseline: usize, quality_min: f64, deviations: f64) -> bool {
    let count = prompts.len() as f64 + ASSUMED;
    let spare =
        |(prompt, model): (&LabelledPrompt, &usize)| prompt.scores[*model] - quality_min * prompt.scores[baseline];
    let spares: Vec<f64> = prompts.iter().zip(served).map(spare).collect();
    let mean = (spares.iter().sum::<f64>() - ASSUMED) / count;
    let squares = spares.iter().map(|spare| (spare - mean).powi(2)).sum::<f64>() + ASSUMED * (1.0 + mean).powi(2);
    mean - deviations * (squares / (count - 1.0) / count).sqrt() >= 0.0
}

/// Standard deviations of a one-sided interval (Abramowitz and Stegun, 26.2.23).
fn deviations(confidence: f64) -> f64 {
    let t = (-2.0 * (1.0 - confidence.clamp(0.5, 0.9999)).ln()).sqrt();
    t - (2.515_517 + t * (0.802_853 + t * 0.010_328)) / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lcg(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// A dear baseline that is right nine times of ten, and a cheap model that is as `truth` makes of what is expected.
    fn prompts(count: usize, truth: impl Fn(f64) -> f64, draw: &mut impl FnMut() -> f64) -> Vec<LabelledPrompt> {
        let mut prompt = || {
            let expected = 0.5 + 0.5 * draw();
            let scores = [0.9, truth(expected)].map(|p| f64::from(u8::from(draw() < p)));
            LabelledPrompt { expected: vec![0.9, expected], scores: scores.to_vec(), costs: vec![1.0, 0.1] }
        };
        (0..count).map(|_| prompt()).collect()
    }

    #[test]
    fn what_is_promised_is_kept_nine_times_of_ten_whether_expectations_are_true_or_not() {
        for bias in [0.0, 0.1, 0.3] {
            let truth = |expected: f64| expected - bias;
            let (mut broken, mut routed) = (0, 0.0);
            for seed in 0..200 {
                let mut draw = lcg(seed << 32);
                let guarantee = Guarantee::choose(&prompts(800, truth, &mut draw), 0, 0.95, 0.9);
                let Some(margin) = guarantee.margin else { continue };
                // The expected score over all prompts: the cheap model serves from an expectation of .9 − margin on.
                let least = (0.9 - margin).clamp(0.5, 1.0);
                let share = 2.0 * (1.0 - least);
                let quality = (1.0 - share) * 0.9 + share * truth((least + 1.0) / 2.0);
                broken += usize::from(quality < 0.95 * 0.9);
                routed += share;
            }
            assert!(broken <= 30, "{broken} of 200 at {bias}");
            assert!(bias > 0.0 || routed > 40.0, "only {routed} of 200 are routed");
        }
    }

    #[test]
    fn nothing_is_promised_on_few_labels_or_of_a_bad_model() {
        let few = Guarantee::choose(&prompts(PROMPTS_MIN - 1, |p| p, &mut lcg(1)), 0, 0.5, 0.9);
        assert!(few.margin.is_none() && few.statement().starts_with("nothing is promised: 399 of 400"), "{few:?}");
        let bad = Guarantee::choose(&prompts(2_000, |_| 0.0, &mut lcg(1)), 0, 0.99, 0.9);
        assert!(bad.margin.is_none() && bad.routed == 0.0, "{bad:?}");
        let good = Guarantee::choose(&prompts(2_000, |_| 1.0, &mut lcg(1)), 0, 0.98, 0.9);
        assert_eq!(good.statement(), "≥ 98 % of the baseline's quality, 90 % confidence, n = 2000");
        assert_eq!(good.margin, Some(0.25));
    }

    #[test]
    fn the_cheapest_within_the_margin_serves_and_the_baseline_else() {
        let prompt =
            LabelledPrompt { expected: vec![0.9, 0.85, 0.8], scores: vec![1.0; 3], costs: vec![3.0, 2.0, 1.0] };
        let served = |margin| prompt.serve(0, margin);
        assert_eq!([None, Some(0.0), Some(0.06), Some(0.11)].map(served), [0, 0, 1, 2]);
    }
}
