//! Credits: what tenants pay or are given in advance, refunds, and what expires.

use crate::ledger::{Ledger, now_ms};
use crate::terms::share_of;
use catalog::NanoUsd;
use database::{CreditRow, DatabaseError, RefundAhead, Transfer, Withdrawal, budget_id};
use serde::Deserialize;
use std::time::Duration;
use thiserror::Error;

/// The `[credits]` table: what a top-up costs and how long it lasts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreditTerms {
    /// `openrouter` fills in what the other fields leave out.
    pub preset: Option<Preset>,
    /// On top of each purchase, in percent of it.
    pub fee_percent: Option<f64>,
    /// But at least so much.
    pub fee_usd_min: Option<f64>,
    /// How long credits last; without it, for ever.
    pub expire_days: Option<u32>,
    /// How long what was not used is paid back; without it, as long as it is there.
    pub refund_hours: Option<u32>,
    /// The environment variable with the signing secret of Stripe's webhooks; without it there are none.
    pub stripe_secret_env: Option<String>,
}

/// Terms that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// openrouter.ai/docs/faq and openrouter.ai/terms, 2026: 5.5 % on top, at least $0.80; credits may expire after a year;
    /// what was not used is paid back within 24 hours.
    Openrouter,
}

impl CreditTerms {
    /// What is wrong with them: the field and the problem.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        if self.expire_days == Some(0) {
            return Some(("credits.expire_days", "0; use 1 or more, or leave it out where credits last".to_owned()));
        }
        let amounts = [("credits.fee_percent", self.fee_percent), ("credits.fee_usd_min", self.fee_usd_min)];
        let wrong = amounts.into_iter().find_map(|(field, amount)| {
            amount.filter(|amount| !(0.0..=100.0).contains(amount)).map(|amount| (field, amount))
        });
        wrong.map(|(field, amount)| (field, format!("{amount}; use 0 to 100")))
    }

    /// What is paid on top of a purchase.
    pub fn fee(&self, nano: NanoUsd) -> NanoUsd {
        let is_openrouter = self.preset == Some(Preset::Openrouter);
        let percent = self.fee_percent.unwrap_or(if is_openrouter { 5.5 } else { 0.0 });
        let least = self.fee_usd_min.unwrap_or(if is_openrouter { 0.80 } else { 0.0 });
        share_of(nano, percent / 100.0).max(NanoUsd::from_usd(least).unwrap_or_default())
    }

    /// The credits that a payment of `paid`, fee included, buys.
    pub fn credits_for(&self, paid: NanoUsd) -> NanoUsd {
        // The fee rises with the credits, so what is bought is found by halving.
        let (mut low, mut high) = (0, paid.0.max(0));
        while low < high {
            let middle = low + (high - low + 1) / 2;
            if NanoUsd(middle) + self.fee(NanoUsd(middle)) <= paid { low = middle } else { high = middle - 1 }
        }
        NanoUsd(low)
    }

    fn expires_ms(&self, now_ms: i64) -> Option<i64> {
        let days = self.expire_days.or((self.preset == Some(Preset::Openrouter)).then_some(365));
        days.map(|days| now_ms + i64::from(days) * 86_400_000)
    }

    fn refundable_until(&self, bought_ms: i64) -> i64 {
        let hours = self.refund_hours.or((self.preset == Some(Preset::Openrouter)).then_some(24));
        hours.map_or(i64::MAX, |hours| bought_ms + i64::from(hours) * 3_600_000)
    }
}

/// A top-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// One that arrives twice counts once.
    pub id: String,
    pub tenant: String,
    pub credits: NanoUsd,
    /// Paid with money, or given.
    pub is_paid: bool,
}

/// What a tenant has in advance and what it has used of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Paid and given, less what was paid back and what expired.
    pub credits: NanoUsd,
    pub used: NanoUsd,
}

/// Why credits could not be changed.
#[derive(Debug, Error)]
pub enum CreditsError {
    #[error("no tenant `{0}`")]
    UnknownTenant(String),
    #[error("no payment `{0}` of this tenant")]
    UnknownPayment(String),
    #[error("`{0}` was booked before with another amount or for another tenant")]
    Differs(String),
    #[error("what was not used is paid back within {hours} hours of the payment; that time is over")]
    TooLate { hours: u32 },
    #[error("{free} USD of it can be paid back and {wanted} USD are asked for; the rest is used or set aside")]
    NotFree { free: NanoUsd, wanted: NanoUsd },
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl Ledger {
    /// Books a top-up with what it costs by `terms`; false where it was booked before.
    ///
    /// # Errors
    /// When the tenant is not there, the id was used for something else, or the database refuses.
    pub async fn top_up(&self, terms: &CreditTerms, payment: &Payment) -> Result<bool, CreditsError> {
        let Payment { id, tenant, credits, is_paid } = payment;
        if self.database.tenant(tenant).await?.is_none() {
            return Err(CreditsError::UnknownTenant(tenant.clone()));
        }
        let now = now_ms();
        let fee = if *is_paid { terms.fee(*credits) } else { NanoUsd::ZERO };
        let row = CreditRow {
            id: id.clone(),
            tenant_id: tenant.clone(),
            kind: if *is_paid { "purchase" } else { "grant" }.to_owned(),
            nano: credits.0,
            fee_nano: fee.0,
            created_ms: now,
            expires_ms: terms.expires_ms(now),
            ..CreditRow::default()
        };
        let from = if *is_paid { "cash" } else { "promotion" };
        let transfer = |kind: &str, to: String, nano: NanoUsd| Transfer {
            reference: id.clone(),
            kind: kind.to_owned(),
            tenant_id: tenant.clone(),
            debit: from.to_owned(),
            credit: to,
            nano: nano.0,
            created_ms: now,
        };
        let mut transfers = vec![transfer(&row.kind, format!("tenant:{tenant}"), *credits)];
        transfers.extend((fee > NanoUsd::ZERO).then(|| transfer("fee", "fees".to_owned(), fee)));
        match self.database.add_credit(&row, &transfers).await? {
            None => {
                self.reread_budgets(tenant).await?;
                Ok(true)
            }
            Some(known) if (&known.tenant_id, known.nano, &known.kind) == (&row.tenant_id, row.nano, &row.kind) => {
                Ok(false)
            }
            Some(_) => Err(CreditsError::Differs(id.clone())),
        }
    }

    /// Pays back what was not used of a payment: `wanted`, or all that is left. Returns how much; nothing where the refund was
    /// booked before.
    ///
    /// # Errors
    /// When the payment is not there, too long ago, or used up; when the database refuses.
    pub async fn refund(
        &self,
        terms: &CreditTerms,
        (tenant, payment): (&str, &str),
        refund: &str,
        wanted: Option<NanoUsd>,
    ) -> Result<NanoUsd, CreditsError> {
        // Requests may set aside again what was just given back, and other gateways take a moment to give theirs.
        const TRIES: usize = 10;
        const PAUSE: Duration = Duration::from_millis(200);
        let mut free = NanoUsd::ZERO;
        let mut asked = wanted.unwrap_or_default();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            self.free_credits(tenant).await?;
            let state = self.database.credit_state(tenant).await?;
            let lot = state.lots.iter().find(|lot| lot.id == payment && lot.kind == "purchase");
            let lot = lot.ok_or_else(|| CreditsError::UnknownPayment(payment.to_owned()))?;
            let now = now_ms();
            if let Some((owner, nano)) = self.database.transferred(refund, "refund").await? {
                let is_same = owner == tenant && wanted.is_none_or(|wanted| wanted.0 == nano);
                return if is_same { Ok(NanoUsd::ZERO) } else { Err(CreditsError::Differs(refund.to_owned())) };
            }
            if now > terms.refundable_until(lot.created_ms) {
                return Err(CreditsError::TooLate { hours: terms.refund_hours.unwrap_or(24) });
            }
            free = NanoUsd(lot.left_nano().min(state.free_nano).max(0));
            asked = wanted.unwrap_or(NanoUsd(lot.left_nano()));
            let withdrawal = Withdrawal {
                credit_id: payment.to_owned(),
                id: refund.to_owned(),
                kind: "refund",
                nano: asked.0,
                created_ms: now,
            };
            if self.database.withdraw(tenant, &withdrawal).await? > 0 {
                self.reread_budgets(tenant).await?;
                return Ok(asked);
            }
        }
        Err(CreditsError::NotFree { free, wanted: asked })
    }

    /// Books money that was paid back for a payment, also where that is told of later; see [`Ledger::book_refunds`].
    ///
    /// # Errors
    /// When the credits that it bought are used up; when the database refuses.
    pub async fn paid_back(&self, id: &str, payment: &str, money: NanoUsd) -> Result<Option<NanoUsd>, CreditsError> {
        let (id, payment) = (id.to_owned(), payment.to_owned());
        // Kept first: whoever comes second, the payment or its refund, finds the other.
        self.database
            .keep_refund(&RefundAhead { id, payment: payment.clone(), nano: money.0, created_ms: now_ms() })
            .await?;
        self.book_refunds(&payment).await
    }

    /// Takes back as much of the credits of a payment as was paid back of its money, fee included; returns how much, or
    /// nothing where the payment is not known yet.
    ///
    /// # Errors
    /// When these credits are used up; when the database refuses.
    pub async fn book_refunds(&self, payment: &str) -> Result<Option<NanoUsd>, CreditsError> {
        let Some(lot) = self.database.credit(payment).await?.filter(|credit| credit.kind == "purchase") else {
            return Ok(None);
        };
        // Whoever paid it back has decided that it is not too late.
        let terms = CreditTerms { refund_hours: Some(u32::MAX), ..CreditTerms::default() };
        let mut taken = NanoUsd::ZERO;
        for refund in self.database.refunds_kept(payment).await? {
            let share = i128::from(refund.nano) * i128::from(lot.nano) / i128::from((lot.nano + lot.fee_nano).max(1));
            let credits = NanoUsd(i64::try_from(share).unwrap_or(i64::MAX));
            taken += self.refund(&terms, (&lot.tenant_id, payment), &refund.id, Some(credits)).await?;
            self.database.drop_refund(&refund.id).await?;
        }
        Ok(Some(taken))
    }

    /// Lets end what has expired and is not set aside; returns how much.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn expire_credits(&self, now_ms: i64) -> Result<NanoUsd, DatabaseError> {
        let mut expired = 0;
        for lot in self.database.credits_ended(now_ms).await? {
            self.free_credits(&lot.tenant_id).await?;
            let already = lot.expired_nano;
            let withdrawal = Withdrawal {
                credit_id: lot.id.clone(),
                // What is set aside now can be free later, and is another withdrawal then.
                id: format!("{}:{already}", lot.id),
                kind: "expiry",
                nano: lot.left_nano(),
                created_ms: now_ms,
            };
            expired += self.database.withdraw(&lot.tenant_id, &withdrawal).await?;
            self.reread_budgets(&lot.tenant_id).await?;
        }
        Ok(NanoUsd(expired))
    }

    /// What a tenant has in advance.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn standing(&self, tenant: &str) -> Result<Standing, DatabaseError> {
        self.writer.barrier().await;
        let row = self.database.budget(&budget_id("credits", tenant)).await?.unwrap_or_default();
        Ok(Standing { credits: NanoUsd(row.limit_nano.unwrap_or(0)), used: NanoUsd(row.spent_nano) })
    }

    /// Gives back what this gateway holds of a tenant's credits and has not set aside, so that it can be taken away.
    async fn free_credits(&self, tenant: &str) -> Result<(), DatabaseError> {
        self.writer.barrier().await;
        self.replica.release(&budget_id("credits", tenant)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preset_charges_what_openrouter_charges() {
        let terms = CreditTerms { preset: Some(Preset::Openrouter), ..CreditTerms::default() };
        let usd = |usd: f64| NanoUsd::from_usd(usd).expect("dollars");
        assert_eq!(terms.fee(usd(100.0)), usd(5.5));
        assert_eq!(terms.fee(usd(5.0)), usd(0.8), "at least");
        assert_eq!(terms.credits_for(usd(105.5)), usd(100.0));
        assert_eq!(terms.credits_for(usd(5.8)), usd(5.0));
        assert_eq!(terms.credits_for(usd(0.5)), NanoUsd::ZERO);
        assert_eq!(terms.expires_ms(0), Some(365 * 86_400_000));
        assert_eq!(terms.refundable_until(0), 24 * 3_600_000);
    }

    #[test]
    fn without_terms_a_credit_costs_what_it_is_worth_and_lasts() {
        let terms = CreditTerms::default();
        assert_eq!(terms.fee(NanoUsd(1_000)), NanoUsd::ZERO);
        assert_eq!(terms.credits_for(NanoUsd(1_000)), NanoUsd(1_000));
        assert_eq!((terms.expires_ms(0), terms.refundable_until(0)), (None, i64::MAX));
    }
}
