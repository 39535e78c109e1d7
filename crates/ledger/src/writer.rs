//! The one task that writes money: group commit of reservations and settlements, and the journal while the database is
//! away.

use crate::journal::{Journal, Line};
use crate::replica::Replica;
use catalog::NanoUsd;
use database::{Database, DatabaseError, Durability, Reservation, Settled};
use std::collections::HashSet;
use std::slice;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Requests that may be under way at once; each holds one slot from admission to settlement.
const SLOTS: usize = 10_000;
const BATCH_MAX: usize = 512;
/// How often a batch is tried again that the database gave up for another transaction.
const DEADLOCKS_MAX: usize = 5;
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Records kept in an outage; beyond them those of requests that cost nothing, as hits, are only counted. What costs
/// money is bounded by what may be spent.
const FREE_KEPT_MAX: usize = 50_000;

pub(crate) enum Record {
    Reserve(Reservation, Answer),
    Settle(Box<Settled>),
    /// Answered once everything before it is stored, or cannot be.
    Barrier(oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<(), DatabaseError>>;

/// All slots are taken, or the writer has ended.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error("{SLOTS} requests are under way")]
pub struct Overloaded;

/// The sending side of the writer.
#[derive(Debug, Clone)]
pub struct Writer {
    records: mpsc::Sender<Record>,
    /// Where power is to be survived: who waits for the disk.
    syncs: Option<mpsc::Sender<oneshot::Sender<bool>>>,
}

impl Writer {
    /// Starts the writing task; it ends when the last sender is gone and everything is stored. While the database is away,
    /// reservations are journaled up to `outage_spend_max`.
    pub fn start(
        replica: Arc<Replica>,
        journal: Journal,
        outage_spend_max: NanoUsd,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let database = replica.database.clone();
        let syncs = (database.durability() == Durability::Power).then(|| {
            let (syncs, receiver) = mpsc::channel(SLOTS);
            tokio::spawn(sync(database.clone(), receiver));
            syncs
        });
        let (records, receiver) = mpsc::channel(SLOTS * 2);
        let books = Books {
            database,
            replica,
            journal,
            outage_spend_max,
            spent: NanoUsd::ZERO,
            journaled: HashSet::new(),
            refused: HashSet::new(),
            free_dropped: 0,
            unjournaled: 0,
        };
        (Self { records, syncs }, tokio::spawn(books.write(receiver)))
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
            _ => Err(DatabaseError::Away),
        }
    }

    /// Returns once everything reserved before would survive the loss of power, where the configuration asks for that;
    /// else at once.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn durable(&self) -> Result<(), DatabaseError> {
        let Some(syncs) = &self.syncs else { return Ok(()) };
        let (done, synced) = oneshot::channel();
        let sent = syncs.send(done).await;
        match (sent, synced.await) {
            (Ok(()), Ok(true)) => Ok(()),
            _ => Err(DatabaseError::Away),
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

/// One disk flush serves all who wait for it.
async fn sync(database: Database, mut waiting: mpsc::Receiver<oneshot::Sender<bool>>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, SLOTS).await > 0 {
        let database = database.clone();
        let flushed = tokio::task::spawn_blocking(move || database.sync()).await;
        let done = matches!(flushed, Ok(Ok(())));
        if !done {
            tracing::error!(?flushed, "the ledger could not be flushed to the disk");
        }
        for waiting in batch.drain(..) {
            let _gone = waiting.send(done); // the request may have been given up
        }
    }
}

/// What is not in the database yet.
#[derive(Debug, Default)]
struct Pending {
    reservations: Vec<Reservation>,
    settled: Vec<Settled>,
}

/// What a batch brings beside money: who waits for it.
#[derive(Default)]
struct Batch {
    pending: Pending,
    waiting: Vec<Answer>,
    barriers: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, record: Record) {
        match record {
            Record::Reserve(reservation, done) => {
                self.pending.reservations.push(reservation);
                self.waiting.push(done);
            }
            Record::Settle(settled) => self.pending.settled.push(*settled),
            Record::Barrier(done) => self.barriers.push(done),
        }
    }

    /// Refuses reservations of money that was leased under another name than the gateway has now: others have taken it back.
    fn of(self, replica_id: &str) -> Self {
        let Self { pending, waiting, barriers } = self;
        let mut kept =
            Self { pending: Pending { settled: pending.settled, ..Pending::default() }, waiting: Vec::new(), barriers };
        for (reservation, waiting) in pending.reservations.into_iter().zip(waiting) {
            if reservation.replica_id == replica_id {
                kept.pending.reservations.push(reservation);
                kept.waiting.push(waiting);
            } else {
                answer(waiting, Err(DatabaseError::Fenced));
            }
        }
        kept
    }
}

struct Books {
    database: Database,
    replica: Arc<Replica>,
    journal: Journal,
    outage_spend_max: NanoUsd,
    /// Reserved and not given back since the database went away.
    spent: NanoUsd,
    /// Generations whose reservation is in the journal.
    journaled: HashSet<String>,
    /// Generations whose reservation was refused in this outage and that are not settled yet.
    refused: HashSet<String>,
    /// Records of requests that cost nothing and found no room in this outage.
    free_dropped: u64,
    /// Settlements of this outage that not even the journal took.
    unjournaled: u64,
}

impl Books {
    async fn write(mut self, mut records: mpsc::Receiver<Record>) {
        while let Some(record) = records.recv().await {
            let mut batch = Batch::default();
            batch.add(record);
            while batch.pending.settled.len() + batch.waiting.len() < BATCH_MAX
                && let Ok(record) = records.try_recv()
            {
                batch.add(record);
            }
            let id = self.replica.id();
            let Batch { pending, waiting, barriers } = batch.of(&id);
            match self.commit(&id, &pending).await {
                Ok(()) => waiting.into_iter().for_each(|waiting| answer(waiting, Ok(()))),
                Err(error) if error.is_refusal() => self.one_by_one(&id, pending, waiting, &mut records).await,
                Err(DatabaseError::Fenced) => self.anew(&id, pending, waiting, &mut records).await,
                Err(error) => {
                    tracing::error!(%error, "the ledger cannot be written; the journal takes over");
                    release(barriers); // readers see what is stored; they must not wait for what cannot be
                    self.outage(error, pending, waiting, &mut records).await;
                    continue;
                }
            }
            release(barriers);
        }
        if let Err(error) = self.replica.leave().await {
            tracing::warn!(%error, "what this gateway had leased returns when others notice that it is gone");
        }
    }

    async fn commit(&self, id: &str, pending: &Pending) -> Result<(), DatabaseError> {
        for _ in 0..DEADLOCKS_MAX {
            match self.database.commit(id, &pending.reservations, &pending.settled).await {
                Err(error) if error.is_deadlock() => {}
                committed => return committed,
            }
        }
        self.database.commit(id, &pending.reservations, &pending.settled).await
    }

    /// Others took this gateway for dead, and its money is theirs: what was reserved is refused, what was settled is booked
    /// beside what they settled for it.
    async fn anew(&mut self, lost: &str, pending: Pending, waiting: Vec<Answer>, records: &mut mpsc::Receiver<Record>) {
        waiting.into_iter().for_each(|waiting| answer(waiting, Err(DatabaseError::Fenced)));
        let mut pending = Pending { reservations: Vec::new(), ..pending };
        let booked = match self.replica.join_again(lost).await {
            Ok(()) => self.drain(&mut pending).await,
            Err(error) => Err(error),
        };
        if let Err(error) = booked {
            self.outage(error, pending, Vec::new(), records).await;
        }
    }

    /// A record that is refused must not keep the others out.
    async fn one_by_one(
        &mut self,
        id: &str,
        pending: Pending,
        waiting: Vec<Answer>,
        records: &mut mpsc::Receiver<Record>,
    ) {
        for (reservation, waiting) in pending.reservations.into_iter().zip(waiting) {
            let alone = Pending { reservations: vec![reservation], settled: Vec::new() };
            answer(waiting, self.commit(id, &alone).await);
        }
        let mut pending = Pending { reservations: Vec::new(), settled: pending.settled };
        if let Err(error) = self.drain(&mut pending).await {
            self.outage(error, pending, Vec::new(), records).await;
        }
    }

    /// Serves what may be served without the database until it takes everything that is pending. Settlements are never
    /// dropped: they are in the journal, and in memory until they are stored.
    async fn outage(
        &mut self,
        mut cause: DatabaseError,
        first: Pending,
        waiting: Vec<Answer>,
        records: &mut mpsc::Receiver<Record>,
    ) {
        let mut pending = Pending::default();
        (self.spent, self.free_dropped, self.unjournaled) = (NanoUsd::ZERO, 0, 0);
        self.journaled.clear();
        self.refused.clear();
        for (reservation, waiting) in first.reservations.into_iter().zip(waiting) {
            self.reserve_away(reservation, waiting, &cause, &mut pending);
        }
        first.settled.into_iter().for_each(|settled| self.settle_away(settled, &mut pending));
        let mut ended = false;
        let mut retrying = Box::pin(self.probe());
        loop {
            tokio::select! {
                writable = &mut retrying => {
                    // What came meanwhile follows at once, or under load there would be no end.
                    match writable {
                        Ok(()) => match self.drain(&mut pending).await {
                            Ok(()) => break,
                            Err(error) if ended => {
                                tracing::error!(%error, "ending while the ledger takes nothing that is pending");
                                return;
                            }
                            Err(error) => cause = error,
                        },
                        Err(error) if ended => {
                            let pending = pending.settled.len();
                            tracing::error!(%error, pending, "ending while the ledger cannot be written");
                            return; // the journal holds them, or their reservations will be settled as unconfirmed
                        }
                        Err(error) => cause = error,
                    }
                    retrying = Box::pin(self.probe());
                }
                record = records.recv(), if !ended => match record {
                    // Whether the database is back is found out once more before what is pending is left to the journal.
                    None => (ended, retrying) = (true, Box::pin(self.probe())),
                    Some(Record::Reserve(reservation, waiting)) => {
                        self.reserve_away(reservation, waiting, &cause, &mut pending);
                    }
                    Some(Record::Settle(settled)) => self.settle_away(*settled, &mut pending),
                    Some(Record::Barrier(done)) => release(vec![done]),
                },
            }
        }
        if let Err(error) = self.journal.clear() {
            tracing::error!(%error, "the journal could not be emptied; its records are known and will not count twice");
        }
        tracing::warn!(free_dropped = self.free_dropped, "the ledger is written again");
    }

    /// After a pause, whether the database takes writes again.
    fn probe(&self) -> impl Future<Output = Result<(), DatabaseError>> + use<> {
        let database = self.database.clone();
        async move {
            tokio::time::sleep(RETRY_AFTER).await;
            database.check_writable().await
        }
    }

    /// Stores what is pending, batch by batch.
    async fn drain(&self, pending: &mut Pending) -> Result<(), DatabaseError> {
        while !pending.reservations.is_empty() {
            let count = pending.reservations.len().min(BATCH_MAX);
            self.replay(&pending.reservations[..count], &[]).await?;
            pending.reservations.drain(..count);
        }
        while !pending.settled.is_empty() {
            let count = pending.settled.len().min(BATCH_MAX);
            self.replay(&[], &pending.settled[..count]).await?;
            pending.settled.drain(..count);
        }
        Ok(())
    }

    /// Books what may be known already. A record that is refused by itself too is set aside, or nothing would be booked again.
    async fn replay(&self, reservations: &[Reservation], settled: &[Settled]) -> Result<(), DatabaseError> {
        match self.database.replay(reservations, settled).await {
            Err(error) if error.is_refusal() => {}
            replayed => return replayed,
        }
        let reservations = reservations.iter().map(|reservation| (slice::from_ref(reservation), [].as_slice()));
        let settled = settled.iter().map(|settled| ([].as_slice(), slice::from_ref(settled)));
        for (reservation, settled) in reservations.chain(settled) {
            match self.database.replay(reservation, settled).await {
                Err(error) if error.is_refusal() => {
                    tracing::error!(%error, ?reservation, ?settled, "the ledger refuses a record, which is set aside here");
                }
                replayed => replayed?,
            }
        }
        Ok(())
    }

    fn reserve_away(
        &mut self,
        reservation: Reservation,
        waiting: Answer,
        cause: &DatabaseError,
        pending: &mut Pending,
    ) {
        let spent = self.spent + NanoUsd(reservation.nano);
        let allowed = !cause.is_storage_full() && spent <= self.outage_spend_max;
        let id = reservation.generation_id.clone();
        let outcome = match allowed.then(|| self.journal.append(&Line::Reserve(reservation.clone()))) {
            Some(Ok(())) => {
                self.spent = spent;
                self.journaled.insert(id.clone());
                pending.reservations.push(reservation);
                Ok(())
            }
            Some(Err(error)) => Err(DatabaseError::Journal(error)),
            None => Err(cause.repeat()),
        };
        if outcome.is_err() {
            self.refused.insert(id);
        }
        answer(waiting, outcome);
    }

    fn settle_away(&mut self, settled: Settled, pending: &mut Pending) {
        let generation = &settled.generation;
        if self.journaled.remove(&generation.id) {
            self.spent += NanoUsd(generation.charged_nano - generation.reserved_nano);
        }
        let was_refused = self.refused.remove(&generation.id);
        let is_free = generation.charged_nano == 0 && (generation.reserved_nano == 0 || was_refused);
        if is_free && pending.settled.len() >= FREE_KEPT_MAX {
            self.free_dropped += 1;
            return;
        }
        if let Err(error) = self.journal.append(&Line::Settle(Box::new(generation.clone()))) {
            if self.unjournaled == 0 {
                tracing::error!(%error, "settlements are in memory only until the ledger can be written");
            }
            self.unjournaled += 1;
        }
        pending.settled.push(settled);
    }
}

fn answer(waiting: Answer, outcome: Result<(), DatabaseError>) {
    let _gone = waiting.send(outcome); // the request may have been given up
}

fn release(barriers: Vec<oneshot::Sender<()>>) {
    for barrier in barriers {
        let _gone = barrier.send(()); // nobody may wait any more
    }
}
