//! What was paid or given in advance: lots with an end, used up in the order in which they end.

use crate::budgets::{CREDITS, HELD, ask_in, budget_id};
use crate::connection::{Database, DatabaseError};
use crate::store::{Transaction, sql};
use crate::transfers::{Transfer, insert_transfers};

/// One payment or gift.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct CreditRow {
    /// The payment's own id: a payment that arrives twice counts once.
    pub id: String,
    pub tenant_id: String,
    /// `purchase` or `grant`.
    pub kind: String,
    pub nano: i64,
    /// What was paid on top, for us.
    pub fee_nano: i64,
    pub used_nano: i64,
    pub refunded_nano: i64,
    pub expired_nano: i64,
    pub created_ms: i64,
    pub expires_ms: Option<i64>,
}

impl CreditRow {
    /// What of it is still there.
    pub fn left_nano(&self) -> i64 {
        self.nano - self.used_nano - self.refunded_nano - self.expired_nano
    }
}

/// What of a tenant's credits can be taken away now, with the lots as far as they are used up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreditState {
    pub lots: Vec<CreditRow>,
    /// Neither spent nor leased by a gateway.
    pub free_nano: i64,
}

/// What is taken out of a lot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    pub credit_id: String,
    /// Its own id: one that arrives twice counts once.
    pub id: String,
    /// `refund` or `expiry`.
    pub kind: &'static str,
    pub nano: i64,
    pub created_ms: i64,
}

/// A refund that arrived before the payment that it pays back.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RefundAhead {
    pub id: String,
    pub payment: String,
    /// Money, fee included.
    pub nano: i64,
    pub created_ms: i64,
}

impl Database {
    /// Keeps a refund until it is booked; one that is kept already is kept once.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keep_refund(&self, refund: &RefundAhead) -> Result<(), DatabaseError> {
        let keep = sql("INSERT INTO refunds_ahead (id, payment, nano, created_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING");
        let keep = keep.bind(&refund.id).bind(&refund.payment).bind(refund.nano).bind(refund.created_ms);
        keep.execute(&self.store).await?;
        Ok(())
    }

    /// The refunds that are kept of a payment.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn refunds_kept(&self, payment: &str) -> Result<Vec<RefundAhead>, DatabaseError> {
        let kept = sql("SELECT * FROM refunds_ahead WHERE payment = $1 ORDER BY created_ms, id");
        kept.bind(payment).all(&self.store).await
    }

    /// Forgets a refund that was booked.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn drop_refund(&self, id: &str) -> Result<(), DatabaseError> {
        sql("DELETE FROM refunds_ahead WHERE id = $1").bind(id).execute(&self.store).await?;
        Ok(())
    }

    /// Forgets refunds that were kept before a time: their payments were none of ours.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep_refunds(&self, before_ms: i64) -> Result<(), DatabaseError> {
        sql("DELETE FROM refunds_ahead WHERE created_ms < $1").bind(before_ms).execute(&self.store).await?;
        Ok(())
    }

    /// Books a payment with its transfers; the row that is there already, where its id is known.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn add_credit(
        &self,
        credit: &CreditRow,
        transfers: &[Transfer],
    ) -> Result<Option<CreditRow>, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        lock(&mut transaction, &credit.tenant_id).await?;
        let insert = sql("INSERT INTO credits (id, tenant_id, kind, nano, fee_nano, created_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING");
        let insert = insert.bind(&credit.id).bind(&credit.tenant_id).bind(&credit.kind).bind(credit.nano);
        let insert = insert.bind(credit.fee_nano).bind(credit.created_ms).bind(credit.expires_ms);
        if insert.execute_in(&mut transaction).await? == 0 {
            return sql("SELECT * FROM credits WHERE id = $1").bind(&credit.id).first_in(&mut transaction).await;
        }
        insert_transfers(&mut transaction, transfers).await?;
        limit_credits_in(&mut transaction, &credit.tenant_id, true).await?;
        transaction.commit().await?;
        Ok(None)
    }

    /// One payment or gift.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn credit(&self, id: &str) -> Result<Option<CreditRow>, DatabaseError> {
        sql("SELECT * FROM credits WHERE id = $1").bind(id).first(&self.store).await
    }

    /// A tenant's credits as they are used up now.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn credit_state(&self, tenant_id: &str) -> Result<CreditState, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        lock(&mut transaction, tenant_id).await?;
        let state = state_in(&mut transaction, tenant_id).await?;
        transaction.commit().await?;
        Ok(state)
    }

    /// Takes from a lot what is neither used nor leased; returns how much that was: of a refund all that was asked for or
    /// nothing, and nothing where this withdrawal is known already.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn withdraw(&self, tenant_id: &str, wanted: &Withdrawal) -> Result<i64, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        lock(&mut transaction, tenant_id).await?;
        let known = sql("SELECT reference FROM transfers WHERE reference = $1 AND kind = $2");
        let known = known.bind(&wanted.id).bind(wanted.kind).first_in::<(String,)>(&mut transaction).await?;
        let state = state_in(&mut transaction, tenant_id).await?;
        let lot = state.lots.iter().find(|lot| lot.id == wanted.credit_id).filter(|_| known.is_none());
        let nano = lot.map_or(0, |lot| wanted.nano.min(lot.left_nano()).min(state.free_nano)).max(0);
        let is_enough = nano == wanted.nano || wanted.kind != "refund";
        if nano < lot.map_or(0, |lot| wanted.nano.min(lot.left_nano())) {
            ask_in(&mut transaction, &budget_id(CREDITS, tenant_id)).await?;
        }
        if nano == 0 || !is_enough {
            transaction.commit().await?; // how far lots are used up
            return Ok(0);
        }
        let (column, to) =
            if wanted.kind == "refund" { ("refunded_nano", "cash") } else { ("expired_nano", "expired") };
        let take = sql(format!("UPDATE credits SET {column} = {column} + $2 WHERE id = $1"));
        take.bind(&wanted.credit_id).bind(nano).execute_in(&mut transaction).await?;
        let transfer = Transfer {
            reference: wanted.id.clone(),
            kind: wanted.kind.to_owned(),
            tenant_id: tenant_id.to_owned(),
            debit: format!("tenant:{tenant_id}"),
            credit: to.to_owned(),
            nano,
            created_ms: wanted.created_ms,
        };
        insert_transfers(&mut transaction, &[transfer]).await?;
        limit_credits_in(&mut transaction, tenant_id, true).await?;
        transaction.commit().await?;
        Ok(nano)
    }

    /// The lots that end at or before a time and have something left, each with its tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn credits_ended(&self, now_ms: i64) -> Result<Vec<CreditRow>, DatabaseError> {
        let ended = sql("SELECT * FROM credits WHERE expires_ms <= $1
             AND nano - used_nano - refunded_nano - expired_nano > 0 ORDER BY expires_ms, id");
        ended.bind(now_ms).all(&self.store).await
    }
}

/// Keeps others from leasing or booking the tenant's credits until the transaction ends.
async fn lock(transaction: &mut Transaction, tenant_id: &str) -> Result<(), DatabaseError> {
    let lock = sql("UPDATE budgets SET spent_nano = spent_nano WHERE id = $1");
    lock.bind(&budget_id(CREDITS, tenant_id)).execute_in(transaction).await?;
    Ok(())
}

/// Spreads what was spent over the lots, those that end first at first, and says what nobody holds.
async fn state_in(transaction: &mut Transaction, tenant_id: &str) -> Result<CreditState, DatabaseError> {
    let id = budget_id(CREDITS, tenant_id);
    let spent =
        sql(format!("SELECT spent_nano, CAST(COALESCE(limit_nano, 0) AS BIGINT), {HELD} FROM budgets WHERE id = $1"));
    let spent = spent.bind(&id).first_in::<(i64, i64, i64)>(transaction).await?.unwrap_or_default();
    let (spent, limit, held) = spent;
    let lots = sql("SELECT * FROM credits WHERE tenant_id = $1
         ORDER BY CASE WHEN expires_ms IS NULL THEN 1 ELSE 0 END, expires_ms, created_ms, id");
    let mut lots: Vec<CreditRow> = lots.bind(tenant_id).all_in(transaction).await?;
    let mut unspread = spent - lots.iter().map(|lot| lot.used_nano).sum::<i64>();
    for lot in &mut lots {
        // Corrections can take back what was spent: then the lots that end last are filled again first, below.
        let more = unspread.min(lot.left_nano()).max(0);
        lot.used_nano += more;
        unspread -= more;
    }
    for lot in lots.iter_mut().rev() {
        let back = (-unspread).clamp(0, lot.used_nano);
        lot.used_nano -= back;
        unspread += back;
    }
    for lot in &lots {
        let spread = sql("UPDATE credits SET used_nano = $2 WHERE id = $1 AND used_nano <> $2");
        spread.bind(&lot.id).bind(lot.used_nano).execute_in(transaction).await?;
    }
    Ok(CreditState { lots, free_nano: limit - spent - held })
}

/// Where a tenant has credits, or spends in advance paid money only, sets the limit of its credits' budget to them; else takes
/// the limit away.
pub(crate) async fn limit_credits_in(
    transaction: &mut Transaction,
    tenant_id: &str,
    is_prepaid: bool,
) -> Result<(), DatabaseError> {
    lock(transaction, tenant_id).await?; // nothing is added while it is summed up
    let sum = sql("SELECT COUNT(*), CAST(COALESCE(SUM(nano - refunded_nano - expired_nano), 0) AS BIGINT)
         FROM credits WHERE tenant_id = $1");
    let (lots, sum) = sum.bind(tenant_id).first_in::<(i64, i64)>(transaction).await?.unwrap_or_default();
    let limit = (is_prepaid || lots > 0).then_some(sum);
    let set = sql("UPDATE budgets SET limit_nano = $2, updated_ms = {now} WHERE id = $1");
    set.bind(&budget_id(CREDITS, tenant_id)).bind(limit).execute_in(transaction).await?;
    Ok(())
}
