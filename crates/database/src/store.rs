//! A store, SQLite or PostgreSQL, and the statements that run on either: written once, with `$1` for values, `{now}` for the
//! store's own clock in milliseconds and `{month}` for the beginning of its month.

use crate::connection::DatabaseError;
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, FromRow, Postgres, Sqlite};
use std::borrow::Cow;

/// Where statements run.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Sqlite {
        /// One connection, so that SQLite never answers "busy" to ourselves.
        write: SqlitePool,
        read: SqlitePool,
    },
    Postgres {
        /// The writer's own, so that however much is asked, money is booked.
        books: PgPool,
        write: PgPool,
        read: PgPool,
    },
}

/// All of it happens, or nothing.
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// A value of a statement; what may be missing has a type all the same, because PostgreSQL asks for it.
#[derive(Debug, Clone)]
pub(crate) enum Value<'q> {
    Text(Option<&'q str>),
    Whole(Option<i64>),
    Real(f64),
    Flag(bool),
    Bytes(Option<&'q [u8]>),
}

macro_rules! values {
    ($($from:ty => $make:expr;)*) => {
        $(impl<'q> From<$from> for Value<'q> {
            fn from(value: $from) -> Self {
                $make(value)
            }
        })*
    };
}

values! {
    &'q str => |value| Self::Text(Some(value));
    &'q String => |value: &'q String| Self::Text(Some(value));
    Option<&'q str> => Self::Text;
    i64 => |value| Self::Whole(Some(value));
    Option<i64> => Self::Whole;
    f64 => Self::Real;
    bool => Self::Flag;
    &'q [u8] => |value| Self::Bytes(Some(value));
    &'q Vec<u8> => |value: &'q Vec<u8>| Self::Bytes(Some(value));
}

/// A row type that either store can fill.
pub(crate) trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}
impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> Row for T {}

/// One statement with its values.
#[derive(Debug, Clone)]
pub(crate) struct Statement<'q> {
    text: Cow<'static, str>,
    values: Vec<Value<'q>>,
}

/// Begins a statement. Values never become part of its text.
pub(crate) fn sql<'q>(text: impl Into<Cow<'static, str>>) -> Statement<'q> {
    Statement { text: text.into(), values: Vec::new() }
}

/// How a store says the time, in milliseconds since 1970, UTC.
struct Clock {
    now: &'static str,
    month: &'static str,
}

/// sqlite.org/lang_datefunc.html
const SQLITE_CLOCK: Clock = Clock {
    now: "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    month: "CAST(strftime('%s', 'now', 'start of month') AS INTEGER) * 1000",
};

/// postgresql.org/docs/15/functions-datetime.html; within a statement it is always the same time.
const POSTGRES_CLOCK: Clock = Clock {
    now: "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)",
    month: "CAST(EXTRACT(EPOCH FROM date_trunc('month', statement_timestamp() AT TIME ZONE 'UTC')) * 1000 AS BIGINT)",
};

impl<'q> Statement<'q> {
    /// The text in the place of another, where values come first.
    pub(crate) fn text(self, text: String) -> Self {
        Self { text: text.into(), ..self }
    }

    /// How many values it has.
    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }

    /// Adds the next value.
    pub(crate) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Writes, by itself; returns how many rows it changed.
    pub(crate) async fn execute(self, store: &Store) -> Result<u64, DatabaseError> {
        Ok(match store {
            Store::Sqlite { write, .. } => {
                let (text, values) = self.for_sqlite()?;
                sqlx::query_with::<Sqlite, _>(text, values).execute(write).await?.rows_affected()
            }
            Store::Postgres { write, .. } => {
                let (text, values) = self.for_postgres()?;
                sqlx::query_with::<Postgres, _>(text, values).execute(write).await?.rows_affected()
            }
        })
    }

    /// Writes, in a transaction; returns how many rows it changed.
    pub(crate) async fn execute_in(self, transaction: &mut Transaction) -> Result<u64, DatabaseError> {
        Ok(match transaction {
            Transaction::Sqlite(transaction) => {
                let (text, values) = self.for_sqlite()?;
                sqlx::query_with::<Sqlite, _>(text, values).execute(&mut **transaction).await?.rows_affected()
            }
            Transaction::Postgres(transaction) => {
                let (text, values) = self.for_postgres()?;
                sqlx::query_with::<Postgres, _>(text, values).execute(&mut **transaction).await?.rows_affected()
            }
        })
    }

    /// Reads all rows.
    pub(crate) async fn all<T: Row>(self, store: &Store) -> Result<Vec<T>, DatabaseError> {
        Ok(match store {
            Store::Sqlite { read, .. } => {
                let (text, values) = self.for_sqlite()?;
                sqlx::query_as_with::<Sqlite, T, _>(text, values).fetch_all(read).await?
            }
            Store::Postgres { read, .. } => {
                let (text, values) = self.for_postgres()?;
                sqlx::query_as_with::<Postgres, T, _>(text, values).fetch_all(read).await?
            }
        })
    }

    /// Reads all rows, in a transaction.
    pub(crate) async fn all_in<T: Row>(self, transaction: &mut Transaction) -> Result<Vec<T>, DatabaseError> {
        Ok(match transaction {
            Transaction::Sqlite(transaction) => {
                let (text, values) = self.for_sqlite()?;
                sqlx::query_as_with::<Sqlite, T, _>(text, values).fetch_all(&mut **transaction).await?
            }
            Transaction::Postgres(transaction) => {
                let (text, values) = self.for_postgres()?;
                sqlx::query_as_with::<Postgres, T, _>(text, values).fetch_all(&mut **transaction).await?
            }
        })
    }

    /// Reads the first row, where there is one.
    pub(crate) async fn first<T: Row>(self, store: &Store) -> Result<Option<T>, DatabaseError> {
        Ok(self.all(store).await?.into_iter().next())
    }

    /// Reads the first row, where there is one, in a transaction.
    pub(crate) async fn first_in<T: Row>(self, transaction: &mut Transaction) -> Result<Option<T>, DatabaseError> {
        Ok(self.all_in(transaction).await?.into_iter().next())
    }

    /// Reads the one number that a sum or a count is.
    pub(crate) async fn number(self, store: &Store) -> Result<i64, DatabaseError> {
        let first: Option<(i64,)> = self.first(store).await?;
        first.map(|(number,)| number).ok_or(DatabaseError::Query(sqlx::Error::RowNotFound))
    }

    fn text_for(text: Cow<'static, str>, clock: &Clock) -> AssertSqlSafe<Cow<'static, str>> {
        // The text is ours: values are bound.
        AssertSqlSafe(if text.contains('{') {
            Cow::Owned(text.replace("{now}", clock.now).replace("{month}", clock.month))
        } else {
            text
        })
    }

    fn for_sqlite(self) -> Result<(AssertSqlSafe<Cow<'static, str>>, SqliteArguments), sqlx::Error> {
        let (text, order) = unnumbered(&self.text);
        let mut values = SqliteArguments::default();
        for at in order {
            let value = self.values.get(at).cloned().unwrap_or(Value::Text(None));
            let added = match value {
                // SQLite may keep a value until the statement ends, so its driver takes its own copy.
                Value::Text(text) => values.add(text.map(str::to_owned)),
                Value::Whole(number) => values.add(number),
                Value::Real(number) => values.add(number),
                Value::Flag(flag) => values.add(flag),
                Value::Bytes(bytes) => values.add(bytes.map(<[u8]>::to_vec)),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        Ok((Self::text_for(text.into(), &SQLITE_CLOCK), values))
    }

    fn for_postgres(self) -> Result<(AssertSqlSafe<Cow<'static, str>>, PgArguments), sqlx::Error> {
        let mut values = PgArguments::default();
        for value in self.values {
            let added = match value {
                // PostgreSQL has no text with a NUL in it, which a client can send.
                Value::Text(Some(text)) if text.contains('\0') => values.add(text.replace('\0', "\u{fffd}")),
                Value::Text(text) => values.add(text),
                Value::Whole(number) => values.add(number),
                Value::Real(number) => values.add(number),
                Value::Flag(flag) => values.add(flag),
                Value::Bytes(bytes) => values.add(bytes),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        Ok((Self::text_for(self.text, &POSTGRES_CLOCK), values))
    }
}

/// The text with `?` in the place of `$3`, and which value each stands for. SQLite looks up the name of every numbered one
/// among all, which takes most of the time of a statement with thousands.
fn unnumbered(text: &str) -> (String, Vec<usize>) {
    let (mut plain, mut order) = (String::with_capacity(text.len()), Vec::new());
    let mut parts = text.split('$');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        order.push(number.parse::<usize>().unwrap_or(0).saturating_sub(1));
        plain.push('?');
        plain.push_str(rest);
    }
    (plain, order)
}

impl Store {
    /// Begins a transaction; dropped without [`Transaction::commit`], nothing of it happens.
    pub(crate) async fn begin(&self) -> Result<Transaction, DatabaseError> {
        Ok(match self {
            Self::Sqlite { write, .. } => Transaction::Sqlite(write.begin().await?),
            Self::Postgres { write, .. } => Transaction::Postgres(write.begin().await?),
        })
    }

    /// Begins a transaction of the one task that books money.
    pub(crate) async fn begin_booking(&self) -> Result<Transaction, DatabaseError> {
        Ok(match self {
            Self::Sqlite { write, .. } => Transaction::Sqlite(write.begin().await?),
            Self::Postgres { books, .. } => Transaction::Postgres(books.begin().await?),
        })
    }

    /// The store's own time.
    pub(crate) async fn now_ms(&self) -> Result<i64, DatabaseError> {
        sql("SELECT {now}").number(self).await
    }
}

impl Transaction {
    /// Makes it happen.
    pub(crate) async fn commit(self) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await?,
            Self::Postgres(transaction) => transaction.commit().await?,
        }
        Ok(())
    }
}

/// Rows that go into one statement: as many as fit, in powers of two, so that few different texts are prepared.
pub(crate) fn groups<T>(mut rows: &[T], columns: usize) -> Vec<&[T]> {
    /// SQLite takes 32,766 values in a statement (sqlite.org/limits.html), PostgreSQL 65,535.
    const VALUES_MAX: usize = 32_766;
    let rows_max = VALUES_MAX / columns.max(1);
    let mut groups = Vec::new();
    while !rows.is_empty() {
        let fitting = rows.len().min(rows_max);
        let (group, rest) = rows.split_at(1 << fitting.ilog2());
        groups.push(group);
        rows = rest;
    }
    groups
}

/// `($1, $2), ($3, $4)` for two rows of two columns.
pub(crate) fn places(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let places: Vec<String> = (0..columns).map(|column| format!("${}", row * columns + column + 1)).collect();
        format!("({})", places.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_places_in_their_order() {
        let (text, order) = unnumbered("SELECT $2 WHERE $1 IS NULL OR a = $1 LIMIT $12");
        assert_eq!((text.as_str(), order), ("SELECT ? WHERE ? IS NULL OR a = ? LIMIT ?", vec![1, 0, 0, 11]));
        assert_eq!(unnumbered("SELECT 1"), ("SELECT 1".to_owned(), vec![]));
    }

    #[test]
    fn rows_go_in_groups_of_a_power_of_two_that_hold_them_all() {
        let rows: Vec<usize> = (0..1_000).collect();
        let sizes = |columns| groups(&rows, columns).iter().map(|group| group.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1), [512, 256, 128, 64, 32, 8]);
        assert_eq!(sizes(100), [256, 256, 256, 128, 64, 32, 8], "not more values than a statement takes");
        assert_eq!(groups(&rows, 31).concat(), rows);
        assert_eq!(places(2, 2), "($1, $2), ($3, $4)");
    }
}
