//! The one task that writes money: group commit of reservations and settlements, and the journal while the database is
//! away. A request goes on once its reservation is in a file, as long as the database is known to follow.

use crate::journal::{Journal, flush};
use crate::lines::{Line, Lines};
use crate::pace::Pace;
use crate::replica::Replica;
use crate::set_aside::{SetAside, Written};
use catalog::NanoUsd;
use database::{Database, DatabaseError, Durability, Reservation, Settled};
use std::collections::HashSet;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    Reserve(Box<Reservation>, Waiting),
    Settle(Box<Settled>),
    /// Answered once everything before it is stored, or cannot be.
    Barrier(oneshot::Sender<()>),
}

/// Who is told what became of a reservation.
pub(crate) enum Waiting {
    /// A request that waits for it.
    Request(oneshot::Sender<Result<(), DatabaseError>>),
    /// Nobody: the request went on when this line was written.
    Line(Written),
    /// Nobody any more: the journal has it.
    Told,
}

/// All slots are taken, or the writer has ended.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error("{SLOTS} requests are under way")]
pub struct Overloaded;

/// The sending side of the writer.
#[derive(Debug, Clone)]
pub struct Writer {
    records: mpsc::Sender<Record>,
    replica: Arc<Replica>,
    set_aside: Arc<SetAside>,
    pub(crate) pace: Arc<Pace>,
    /// Where power is to be survived: who waits for the disk.
    syncs: Option<mpsc::Sender<Sync>>,
}

/// Where a reservation is that survives the death of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    File,
    Database,
}

/// Who waits for the disk, and for which file on it.
type Sync = (Kept, oneshot::Sender<bool>);

impl Writer {
    /// Starts the writing task; it ends when the last sender is gone and everything is stored. While the database is away,
    /// reservations are journaled up to `outage_spend_max`.
    pub fn start(
        replica: Arc<Replica>,
        journal: Journal,
        outage_spend_max: NanoUsd,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let database = replica.database.clone();
        let Journal { outage, set_aside } = journal;
        let pace: Arc<Pace> = Arc::default();
        let syncs = (database.durability() == Durability::Power).then(|| {
            let (syncs, receiver) = mpsc::channel(SLOTS);
            tokio::spawn(sync(database.clone(), Arc::clone(&set_aside), receiver));
            syncs
        });
        let (records, receiver) = mpsc::channel(SLOTS * 2);
        let books = Books {
            database,
            replica: Arc::clone(&replica),
            journal: outage,
            set_aside: Arc::clone(&set_aside),
            pace: Arc::clone(&pace),
            outage_spend_max,
            spent: NanoUsd::ZERO,
            journaled: HashSet::new(),
            refused: HashSet::new(),
            free_dropped: 0,
            unjournaled: 0,
        };
        (Self { records, replica, set_aside, pace, syncs }, tokio::spawn(books.write(receiver)))
    }

    /// Takes the slot that the settlement of one request will need.
    pub(crate) fn slot(&self) -> Result<mpsc::OwnedPermit<Record>, Overloaded> {
        if self.records.capacity() <= SLOTS {
            return Err(Overloaded); // the other half belongs to reservations of requests already admitted
        }
        self.records.clone().try_reserve_owned().map_err(|_| Overloaded)
    }

    /// Stores a reservation; returns once it would survive the death of the process. As long as the database follows, a file
    /// has it first, and nobody waits.
    ///
    /// # Errors
    /// `Fenced` where it was leased under a name that others took for dead; when it cannot be stored: a full disk, for one.
    pub async fn reserve(&self, reservation: Reservation) -> Result<Kept, DatabaseError> {
        if reservation.replica_id != self.replica.id() {
            return Err(DatabaseError::Fenced);
        }
        if self.pace.is_prompt() && self.replica.is_surely_alive() {
            // The place is taken first: what is written must reach the writer.
            let place = self.records.try_reserve().map_err(|_| DatabaseError::Away)?;
            let written = self.set_aside.write(&reservation).map_err(DatabaseError::Journal)?;
            place.send(Record::Reserve(Box::new(reservation), Waiting::Line(written)));
            return Ok(Kept::File);
        }
        let (done, stored) = oneshot::channel();
        let sent = self.records.send(Record::Reserve(Box::new(reservation), Waiting::Request(done))).await;
        match (sent, stored.await) {
            (Ok(()), Ok(outcome)) => outcome.map(|()| Kept::Database),
            _ => Err(DatabaseError::Away),
        }
    }

    /// Returns once a reservation would survive the loss of power, where the configuration asks for that; else at once.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn durable(&self, kept: Kept) -> Result<(), DatabaseError> {
        let Some(syncs) = &self.syncs else { return Ok(()) };
        let (done, synced) = oneshot::channel();
        let sent = syncs.send((kept, done)).await;
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
async fn sync(database: Database, set_aside: Arc<SetAside>, mut waiting: mpsc::Receiver<Sync>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, SLOTS).await > 0 {
        let (database, set_aside) = (database.clone(), Arc::clone(&set_aside));
        let is_in = |place: Kept| batch.iter().any(|(kept, _)| *kept == place);
        let (in_file, in_database) = (is_in(Kept::File), is_in(Kept::Database));
        let flush = move || {
            let file = if in_file { set_aside.sync() } else { Ok(()) };
            file.and_then(|()| if in_database { database.sync() } else { Ok(()) })
        };
        let flushed = tokio::task::spawn_blocking(flush).await;
        let done = matches!(flushed, Ok(Ok(())));
        if !done {
            tracing::error!(?flushed, "the ledger could not be flushed to the disk");
        }
        for (_, waiting) in batch.drain(..) {
            let _gone = waiting.send(done); // the request may have been given up
        }
    }
}

/// What is not in the database yet.
#[derive(Default)]
struct Pending {
    reservations: Vec<Reservation>,
    /// Who waits for each of them.
    waiting: Vec<Waiting>,
    settled: Vec<Settled>,
}

impl Pending {
    /// Takes out the reservations, each with who waits for it.
    fn take_reservations(&mut self) -> Vec<(Reservation, Waiting)> {
        self.reservations.drain(..).zip(self.waiting.drain(..)).collect()
    }

    fn reserve(&mut self, reservation: Reservation, waiting: Waiting) {
        self.reservations.push(reservation);
        self.waiting.push(waiting);
    }
}

/// What is written at once.
#[derive(Default)]
struct Batch {
    pending: Pending,
    barriers: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, record: Record) {
        match record {
            Record::Reserve(reservation, waiting) => self.pending.reserve(*reservation, waiting),
            Record::Settle(settled) => self.pending.settled.push(*settled),
            Record::Barrier(done) => self.barriers.push(done),
        }
    }

    fn len(&self) -> usize {
        self.pending.reservations.len() + self.pending.settled.len()
    }
}

struct Books {
    database: Database,
    replica: Arc<Replica>,
    journal: Lines,
    set_aside: Arc<SetAside>,
    pace: Arc<Pace>,
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
            while batch.len() < BATCH_MAX
                && let Ok(record) = records.try_recv()
            {
                batch.add(record);
            }
            let is_full = batch.len() >= BATCH_MAX;
            let Batch { mut pending, barriers } = batch;
            self.pace.commits();
            let (id, begun) = (self.replica.id(), Instant::now());
            match self.commit(&id, &pending).await {
                Ok(()) => {
                    self.replica.was_renewed(begun);
                    pending.waiting.into_iter().for_each(|waiting| self.answer(waiting, Ok(())));
                }
                Err(error) if error.is_refusal() => self.one_by_one(&id, pending, &mut records).await,
                Err(DatabaseError::Fenced) => self.anew(&id, pending, &mut records).await,
                Err(error) => {
                    tracing::error!(%error, "the ledger cannot be written; the journal takes over");
                    release(barriers); // readers see what is stored; they must not wait for what cannot be
                    self.outage(error, std::mem::take(&mut pending), &mut records).await;
                    self.pace.has_committed(false);
                    continue;
                }
            }
            self.pace.has_committed(is_full && !records.is_empty());
            release(barriers);
            if let Err(error) = self.set_aside.tidy(&self.database).await {
                tracing::error!(%error, "what the ledger has could not be taken out of the file; it will not count twice");
            }
        }
        if let Err(error) = self.replica.leave().await {
            tracing::warn!(%error, "what this gateway had leased returns when others notice that it is gone");
        }
    }

    /// Tells who waits; a line that was written is done with once the database has it.
    fn answer(&self, waiting: Waiting, outcome: Result<(), DatabaseError>) {
        match (waiting, outcome) {
            (Waiting::Request(request), outcome) => {
                let _gone = request.send(outcome); // the request may have been given up
            }
            (Waiting::Line(line), outcome) => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "a reservation was refused whose request went on; its settlement follows");
                }
                self.set_aside.stored(&line);
            }
            (Waiting::Told, _) => {}
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

    /// Others took this gateway for dead, and its money is theirs: who waits is refused. What went on already, and what was
    /// settled, is booked beside what they settled for it.
    async fn anew(&mut self, lost: &str, mut pending: Pending, records: &mut mpsc::Receiver<Record>) {
        for (reservation, waiting) in pending.take_reservations() {
            match waiting {
                Waiting::Request(_) => self.answer(waiting, Err(DatabaseError::Fenced)),
                Waiting::Line(_) | Waiting::Told => pending.reserve(reservation, waiting),
            }
        }
        let booked = match self.replica.join_again(lost).await {
            Ok(()) => self.drain(&mut pending).await,
            Err(error) => Err(error),
        };
        if let Err(error) = booked {
            self.outage(error, pending, records).await;
        }
    }

    /// A record that is refused must not keep the others out.
    async fn one_by_one(&mut self, id: &str, mut pending: Pending, records: &mut mpsc::Receiver<Record>) {
        for (reservation, waiting) in pending.take_reservations() {
            let alone = Pending { reservations: vec![reservation], ..Pending::default() };
            match (self.commit(id, &alone).await, waiting) {
                (Err(error), waiting @ Waiting::Line(_)) if !error.is_refusal() => {
                    pending.reservations.extend(alone.reservations); // it went on, so it is stored later
                    pending.waiting.push(waiting);
                }
                (outcome, waiting) => self.answer(waiting, outcome),
            }
        }
        if let Err(error) = self.drain(&mut pending).await {
            self.outage(error, pending, records).await;
        }
    }

    /// Serves what may be served without the database until it takes everything that is pending. Settlements are never
    /// dropped: they are in the journal, and in memory until they are stored.
    async fn outage(&mut self, mut cause: DatabaseError, mut first: Pending, records: &mut mpsc::Receiver<Record>) {
        self.pace.is_away();
        let mut pending = Pending::default();
        (self.spent, self.free_dropped, self.unjournaled) = (NanoUsd::ZERO, 0, 0);
        self.journaled.clear();
        self.refused.clear();
        for (reservation, waiting) in first.take_reservations() {
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
                        self.reserve_away(*reservation, waiting, &cause, &mut pending);
                    }
                    Some(Record::Settle(settled)) => self.settle_away(*settled, &mut pending),
                    Some(Record::Barrier(done)) => release(vec![done]),
                },
            }
        }
        if let Err(error) = flush(&self.database).await.and_then(|()| self.journal.clear()) {
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
            pending.waiting.drain(..count).for_each(|waiting| self.answer(waiting, Ok(())));
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
        waiting: Waiting,
        cause: &DatabaseError,
        pending: &mut Pending,
    ) {
        let spent = self.spent + NanoUsd(reservation.nano);
        let id = reservation.generation_id.clone();
        let request = match waiting {
            Waiting::Request(request) => request,
            line @ (Waiting::Line(_) | Waiting::Told) => {
                self.spent = spent; // it went on before this was known
                self.journaled.insert(id);
                return pending.reserve(reservation, line);
            }
        };
        let allowed = !cause.is_storage_full() && spent <= self.outage_spend_max;
        let outcome = match allowed.then(|| self.journal.append(&Line::Reserve(Box::new(reservation.clone())))) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(DatabaseError::Journal(error)),
            None => Err(cause.repeat()),
        };
        if outcome.is_ok() {
            self.spent = spent;
            self.journaled.insert(id);
            pending.reserve(reservation, Waiting::Told);
        } else {
            self.refused.insert(id);
        }
        let _gone = request.send(outcome); // the request may have been given up
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

fn release(barriers: Vec<oneshot::Sender<()>>) {
    for barrier in barriers {
        let _gone = barrier.send(()); // nobody may wait any more
    }
}
