//! What a policy makes of the endpoints that can serve: who goes first, and why.

use crate::decide::{Candidate, Question, Route, Trial};
use crate::endpoints::Lot;
use crate::guarantee::Guarantee;
use crate::policy::{Evidence, Order, Policy};
use crate::predictor::Expected;
use crate::rule::Ruled;
use crate::verify::Check;

/// How a candidate stands; smaller goes first.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// 0 where a rule prefers it, 1 where it keeps what is asked for, 2 where it is only a fallback.
    class: u8,
    /// What fails goes last whatever it promises.
    failing: bool,
    /// By the policy's order, or by quality among fallbacks.
    key: f64,
    cost: f64,
}

impl Place {
    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        let by_class = (self.class, self.failing).cmp(&(other.class, other.failing));
        by_class.then_with(|| self.key.total_cmp(&other.key)).then_with(|| self.cost.total_cmp(&other.cost))
    }
}

struct Ranking<'a> {
    policy: &'a Policy,
    question: Question<'a>,
    ruled: &'a Ruled<'a>,
    baseline: Expected,
    quality_min: f64,
}

/// First what rules prefer, then what keeps enough of the baseline's quality in the policy's order, then the rest, best first.
pub(crate) fn rank_by_policy(
    route: &mut Route,
    policy: &Policy,
    question: Question<'_>,
    ruled: &Ruled<'_>,
    baseline: Option<Expected>,
) {
    let Some(baseline) = baseline else {
        // Without a predictor nothing is known of quality: the baseline serves, the others are a fallback.
        route.candidates.sort_by_key(|candidate| candidate.endpoint.model != policy.baseline);
        for candidate in &mut route.candidates {
            candidate.reason = "no predictor: the baseline goes first".to_owned();
        }
        return;
    };
    let quality_min = policy.quality_min.max(question.quality_min.unwrap_or(0.0));
    let ranking = Ranking { policy, question, ruled, baseline, quality_min };
    let mut placed: Vec<(Place, Candidate)> = std::mem::take(&mut route.candidates)
        .into_iter()
        .map(|candidate| (ranking.place(&candidate), candidate))
        .collect();
    placed.sort_by(|(a, _), (b, _)| a.compare(b));
    for at in 1..placed.len() {
        let ((place, before), (this_place, this)) = (&placed[at - 1], &placed[at]);
        let equal = before.endpoint.model == this.endpoint.model && place.compare(this_place).is_eq();
        let rank = before.rank + usize::from(!equal);
        placed[at].1.rank = rank;
    }
    route.trial = ranking.trial(&placed);
    let lot = drawn_first(&placed);
    route.candidates = placed.into_iter().map(|(_, candidate)| Candidate { lot: None, ..candidate }).collect();
    if let Some(first) = route.candidates.first_mut() {
        first.lot = lot;
    }
    if baseline.labelled.is_some() && route.candidates.first().is_some_and(|candidate| candidate.labels.is_some()) {
        route.evidence = Evidence::Labels;
    }
    let first = route.candidates.first();
    route.guarantee =
        policy.guarantee.map(|guarantee| match first.is_some_and(|first| ranking.is_covered(guarantee, first)) {
            true => guarantee.statement(),
            false => "nothing is promised of this request: its rules or demands leave out what the promise is made of"
                .to_owned(),
        });
    for candidate in &mut route.candidates {
        candidate.reason = ranking.reason(candidate);
    }
}

/// The first one's share in the lots among those of its model that the policy holds for equally good.
fn drawn_first(placed: &[(Place, Candidate)]) -> Option<Lot> {
    let (place, first) = placed.first()?;
    let lot = first.lot?;
    let equals = placed
        .iter()
        .filter(|(other, candidate)| candidate.endpoint.model == first.endpoint.model && place.compare(other).is_eq());
    let lots = equals.filter_map(|(_, candidate)| candidate.lot).filter(|other| other.class == lot.class);
    (lots.clone().count() > 1).then(|| lot.among(lots))
}

impl Ranking<'_> {
    fn place(&self, candidate: &Candidate) -> Place {
        let record = (self.question.records)(&candidate.endpoint);
        let cost = candidate.expected_cost_usd;
        let quality = self.comparable(candidate);
        let class = match () {
            () if self.ruled.prefers(&candidate.endpoint) => 0,
            () if self.keeps(candidate) => 1,
            () => 2,
        };
        let unseen = f64::INFINITY; // what nobody has seen is not fast
        let key = match (class, self.policy.correct_answer_value_usd, self.policy.order) {
            (2, ..) => -quality,
            (_, Some(value), _) => cost - value * quality,
            (_, None, Order::Price) => cost,
            (_, None, Order::Latency) => record.latency_ms.map_or(unseen, |seen| seen.p50),
            (_, None, Order::Throughput) => record.throughput.map_or(unseen, |seen| -seen.p50),
        };
        Place { class, failing: record.failing, key, cost }
    }

    /// The cheapest candidate, where the answer can be checked and trying costs at most half of what the first one does. A
    /// caller that asks for more quality than the policy gets no trial.
    fn trial(&self, placed: &[(Place, Candidate)]) -> Option<Trial> {
        const COST_SHARE_MAX: f64 = 0.5;
        let cascade = self.policy.cascade.filter(|_| self.question.quality_min.is_none() && !self.ruled.pins())?;
        let (first, _) = placed.first().filter(|(first, _)| first.class > 0)?;
        let well = placed.iter().enumerate().filter(|(_, (place, _))| !place.failing && place.cost < first.cost);
        let (candidate, (place, _)) = well.min_by(|(_, (a, _)), (_, (b, _))| a.cost.total_cmp(&b.cost))?;
        let check = Check::of(self.question.request, cascade)?;
        let is_worth_it = check.samples() as f64 * place.cost <= COST_SHARE_MAX * first.cost;
        is_worth_it.then_some(Trial { candidate, check })
    }

    /// The baseline's quality: what is known from labels is held against labels, a prior against a prior.
    fn measure(&self, candidate: &Candidate) -> f64 {
        match (candidate.labels, self.baseline.labelled) {
            (Some(_), Some((quality, _))) => quality,
            _ => self.baseline.prior,
        }
    }

    /// The expected quality, on the baseline's own scale: two that are known by different evidence are as good as what each
    /// is to the baseline.
    fn comparable(&self, candidate: &Candidate) -> f64 {
        let own = self.baseline.labelled.map_or(self.baseline.prior, |(quality, _)| quality);
        candidate.quality.unwrap_or(0.0) / self.measure(candidate).max(1e-9) * own
    }

    /// The quality that is asked for.
    fn wanted(&self, candidate: &Candidate) -> f64 {
        self.measure(candidate) * self.quality_min
    }

    fn keeps(&self, candidate: &Candidate) -> bool {
        if candidate.endpoint.model == self.policy.baseline || self.ruled.pins() {
            return true;
        }
        match self.policy.guarantee {
            Some(guarantee) => self.is_within(guarantee, candidate),
            // Where quality has a price, that alone decides, unless the caller asks for more.
            None if self.policy.correct_answer_value_usd.is_some() => {
                let keeps =
                    |min: f64| candidate.quality.is_some_and(|quality| quality >= min * self.measure(candidate));
                self.question.quality_min.is_none_or(keeps)
            }
            None => candidate.quality.is_some_and(|quality| quality >= self.wanted(candidate)),
        }
    }

    /// True where a promise covers a candidate: it has labels as the baseline has, and is expected to be hardly worse. What
    /// the caller tightens is kept beside.
    fn is_within(&self, guarantee: Guarantee, candidate: &Candidate) -> bool {
        let question = self.question;
        let (Some(margin), Some((best, _)), Some(quality)) =
            (guarantee.margin, self.baseline.labelled, candidate.quality)
        else {
            return false;
        };
        let tightened = question.quality_min.is_none_or(|min| min <= guarantee.quality_min || quality >= min * best);
        self.baseline.as_labelled && candidate.labels.is_some() && quality >= best - margin && tightened
    }

    /// True where what is promised holds of a request that this candidate serves.
    fn is_covered(&self, guarantee: Guarantee, first: &Candidate) -> bool {
        let by_rule = self.ruled.pins() || self.ruled.prefers(&first.endpoint);
        !by_rule && (first.endpoint.model == self.policy.baseline || self.is_within(guarantee, first))
    }

    fn reason(&self, candidate: &Candidate) -> String {
        let (quality, wanted) = (candidate.quality.unwrap_or(0.0), self.wanted(candidate));
        let from = candidate.labels.map_or_else(String::new, |labels| format!(" by {labels} labels"));
        let expected = format!("expected quality {quality:.3}{from}");
        let keeps = self.keeps(candidate);
        if self.ruled.prefers(&candidate.endpoint) {
            return format!("a rule prefers it; {expected}");
        }
        if candidate.endpoint.model == self.policy.baseline {
            return format!("the baseline, {expected}");
        }
        match (self.policy.guarantee.map(|guarantee| guarantee.margin), self.policy.correct_answer_value_usd) {
            _ if self.ruled.pins() => format!("a rule uses it; {expected}"),
            (Some(Some(margin)), _) if keeps => format!("{expected}: within the margin {margin}"),
            (Some(Some(margin)), _) => format!("{expected}: not within the margin {margin}, only a fallback"),
            (Some(None), _) => "nothing can be promised of it: only a fallback".to_owned(),
            (None, Some(value)) if keeps => {
                let worth = value * quality - candidate.expected_cost_usd;
                format!("{expected}: worth ${worth:.6} after its cost")
            }
            _ if keeps => format!("{expected} keeps the {wanted:.3} asked for"),
            _ => format!("{expected} is under the {wanted:.3} asked for: only a fallback"),
        }
    }
}
