//! The one task that writes money: group commit of reservations and settlements.

use database::{Database, DatabaseError, Generation, Reservation};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Requests that may be under way at once; each holds one slot from admission to settlement.
const SLOTS: usize = 10_000;
const BATCH_MAX: usize = 512;
const RETRY_AFTER: Duration = Duration::from_millis(250);

pub(crate) enum Record {
    Reserve(Reservation, oneshot::Sender<Result<(), DatabaseError>>),
    Settle(Box<Generation>),
    /// Answered once everything before it is stored.
    Barrier(oneshot::Sender<()>),
}

/// All slots are taken, or the writer has ended.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error("{SLOTS} requests are under way")]
pub struct Overloaded;

/// The sending side of the writer.
#[derive(Debug, Clone)]
pub struct Writer {
    records: mpsc::Sender<Record>,
}

impl Writer {
    /// Starts the writing task; it ends when the last sender is gone and everything is stored.
    pub fn start(database: Database) -> (Self, tokio::task::JoinHandle<()>) {
        let (records, receiver) = mpsc::channel(SLOTS * 2);
        (Self { records }, tokio::spawn(write(database, receiver)))
    }

    /// Takes the slot that the settlement of one request will need.
    pub(crate) fn slot(&self) -> Result<mpsc::OwnedPermit<Record>, Overloaded> {
        if self.records.capacity() <= SLOTS {
            return Err(Overloaded); // the other half belongs to reservations of requests already admitted
        }
        self.records.clone().try_reserve_owned().map_err(|_| Overloaded)
    }

    /// Stores a reservation; returns once it would survive the death of the process.
    ///
    /// # Errors
    /// When the database refuses: a full disk, for one.
    pub async fn reserve(&self, reservation: Reservation) -> Result<(), DatabaseError> {
        let (done, stored) = oneshot::channel();
        let sent = self.records.send(Record::Reserve(reservation, done)).await;
        match (sent, stored.await) {
            (Ok(()), Ok(outcome)) => outcome,
            _ => Err(DatabaseError::Query(sqlx_closed())),
        }
    }

    /// Returns once everything sent before is stored.
    pub async fn barrier(&self) {
        let (done, stored) = oneshot::channel();
        if self.records.send(Record::Barrier(done)).await.is_ok() {
            let _ended = stored.await; // a writer that has ended has stored everything
        }
    }
}

fn sqlx_closed() -> database::SqlError {
    database::SqlError::PoolClosed
}

/// What is to be written next. After a refusal `trouble` holds why: new reservations are then answered at once, because
/// nothing that costs money may wait for a disk to get room.
#[derive(Default)]
struct Batch {
    trouble: Option<DatabaseError>,
    reservations: Vec<Reservation>,
    waiting: Vec<oneshot::Sender<Result<(), DatabaseError>>>,
    settled: Vec<Generation>,
    barriers: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, record: Record) {
        match record {
            Record::Reserve(reservation, done) => match &self.trouble {
                Some(trouble) => {
                    let _gone = done.send(Err(trouble.repeat())); // the request may have been given up
                }
                None => {
                    self.reservations.push(reservation);
                    self.waiting.push(done);
                }
            },
            Record::Settle(generation) => self.settled.push(*generation),
            Record::Barrier(done) => self.barriers.push(done),
        }
    }

    /// Stores all of it. Settlements that the database refuses stay for the next try: they must not be lost.
    async fn store(&mut self, database: &Database) {
        let reservations = std::mem::take(&mut self.reservations);
        let outcome = database.commit(&reservations, &self.settled).await;
        let stored = outcome.is_ok();
        if let Err(error) = &outcome {
            tracing::error!(%error, settlements = self.settled.len(), "the ledger could not be written; will retry");
        }
        for waiting in self.waiting.drain(..) {
            let answer = match &outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(error.repeat()),
            };
            let _gone = waiting.send(answer); // the request may have been given up
        }
        for barrier in self.barriers.drain(..) {
            let _gone = barrier.send(()); // readers see what is stored; they must not wait for what cannot be
        }
        if stored {
            self.settled.clear();
        } else if outcome.as_ref().is_err_and(DatabaseError::is_duplicate) {
            self.drop_duplicates(database).await;
        }
        self.trouble = outcome.err().filter(|_| !self.settled.is_empty());
    }

    /// Stores the settlements one by one: a generation that is there already must not keep the others out.
    async fn drop_duplicates(&mut self, database: &Database) {
        let mut left = Vec::new();
        for generation in self.settled.drain(..) {
            match database.commit(&[], std::slice::from_ref(&generation)).await {
                Ok(()) => {}
                Err(error) if error.is_duplicate() => {
                    tracing::error!(
                        id = generation.id,
                        "a generation was settled before; the second record is dropped"
                    );
                }
                Err(_) => left.push(generation),
            }
        }
        self.settled = left;
    }
}

async fn write(database: Database, mut records: mpsc::Receiver<Record>) {
    let mut batch = Batch::default();
    loop {
        if batch.settled.is_empty() {
            let Some(record) = records.recv().await else { break };
            batch.add(record);
        } else {
            tokio::time::sleep(RETRY_AFTER).await; // the last try was refused
        }
        // What waits is bounded by the slots of the channel, so a refused batch may grow past BATCH_MAX up to them.
        let mut taken = 0;
        while taken < BATCH_MAX
            && let Ok(record) = records.try_recv()
        {
            batch.add(record);
            taken += 1;
        }
        batch.store(&database).await;
        if records.is_closed() && !batch.settled.is_empty() && records.is_empty() {
            tracing::error!(lost = batch.settled.len(), "ending with settlements that the database refused");
            break; // their reservations are still stored and will be settled as unconfirmed
        }
    }
}
