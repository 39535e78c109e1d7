//! A virtual key as requests are authenticated with it: whose it is, what it may, and which budgets it spends.

use crate::budget::Budgets;
use crate::rules::Rules;
use crate::terms::Terms;
use catalog::NanoUsd;
use database::{KeyRow, TenantRow};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a virtual key is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Asks models.
    #[default]
    Member,
    /// Manages the keys and reads the books of its tenant, and asks no model.
    Manager,
}

impl Role {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Manager => "manager",
        }
    }

    fn of(text: &str) -> Self {
        if text == "manager" { Self::Manager } else { Self::Member }
    }
}

/// A tenant as requests need it.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    pub id: String,
    /// The tenant's share of the turns beside other tenants.
    pub weight: u32,
    pub terms: Terms,
}

impl Tenant {
    pub(crate) fn of(row: &TenantRow) -> Self {
        Self {
            id: row.id.clone(),
            weight: u32::try_from(row.weight).unwrap_or(1).max(1),
            terms: Terms::stored(&row.id, &row.terms),
        }
    }
}

/// The account of a virtual key; it is read anew when the key or its tenant changes.
#[derive(Debug)]
pub struct Account {
    pub hash: String,
    pub name: String,
    pub role: Role,
    /// Within the tenant, the highest is served first when an endpoint is at its limit.
    pub priority: i64,
    pub rules: Rules,
    pub tenant: Arc<Tenant>,
    disabled: bool,
    deleted: bool,
    expires_ms: Option<i64>,
    pub(crate) budgets: Budgets,
}

/// Who an authenticated request acts for. Exists only after authentication.
#[derive(Debug, Clone)]
pub struct Caller {
    pub account: Arc<Account>,
}

impl Caller {
    /// The tenant that owns the key.
    pub fn tenant(&self) -> &str {
        &self.account.tenant.id
    }

    /// What its tenant has been given or has paid in advance; `None` where it has no credits.
    pub fn credits(&self) -> Option<NanoUsd> {
        self.account.budgets.iter().find(|budget| budget.id.starts_with("credits:"))?.limit()
    }
}

/// Why a key that is known stands for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Deleted,
    Disabled,
    Expired,
}

impl Account {
    pub(crate) fn of(row: &KeyRow, tenant: Arc<Tenant>, budgets: Budgets) -> Self {
        Self {
            hash: row.hash.clone(),
            name: row.name.clone(),
            role: Role::of(&row.role),
            priority: row.priority,
            rules: Rules::stored(&row.hash, &row.rules),
            tenant,
            disabled: row.disabled,
            deleted: row.deleted,
            expires_ms: row.expires_ms,
            budgets,
        }
    }

    /// Why it may not be used at a time, where that is so.
    pub(crate) fn ended(&self, now_ms: i64) -> Option<Ended> {
        match self {
            Self { deleted: true, .. } => Some(Ended::Deleted),
            Self { disabled: true, .. } => Some(Ended::Disabled),
            Self { expires_ms: Some(end), .. } if *end <= now_ms => Some(Ended::Expired),
            _ => None,
        }
    }
}
