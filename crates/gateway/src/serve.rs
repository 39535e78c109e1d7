//! The accept loop: connections with a cap and timers of their own, drained at the end.

use crate::app::{App, Live, Started};
use crate::config::Config;
use crate::connection::Connection;
use crate::http::routes;
use crate::origin::Peer;
use crate::telemetry;
use crate::upkeep;
use crate::webhook;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Headers of one request, and how many of them.
const HEADER_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
/// For the last words of streams that the end of the grace time cuts.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// For what is still to be written after the last answer.
const STORING_MAX: Duration = Duration::from_secs(10);

/// A gateway that is serving.
pub struct Gateway {
    pub address: SocketAddr,
    live: Live,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Serves by another configuration from the next request on; requests under way keep theirs. Returns what in it
    /// needs a restart and was left as it is.
    pub fn reload(&self, config: Config) -> Vec<&'static str> {
        self.live.swap(config)
    }

    /// Says not to be ready at once, goes on listening for the configured time, lets what is under way finish within the
    /// grace time, tells streams that are still open that they end, and returns when everything is stored.
    pub async fn stop(self) {
        self.stop.cancel();
        drop(self.live); // the writer ends with the last clone
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the server ended badly");
        }
    }
}

/// Serves on `listener` until [`Gateway::stop`].
///
/// # Errors
/// When the listener has no address.
pub fn serve(started: Started, listener: TcpListener) -> std::io::Result<Gateway> {
    let _made = telemetry::recorder(); // before the first request, so that nothing goes uncounted
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let live = Live::new(started.app.clone());
    let serving = tokio::spawn(run(started, live.clone(), listener, stop.clone()));
    Ok(Gateway { address, live, stop, serving })
}

async fn run(started: Started, live: Live, listener: TcpListener, stop: CancellationToken) {
    let Started { app, writer, database, cache_writer, content_writer, .. } = started;
    let mut upkeep = vec![tokio::spawn(telemetry::upkeep()), tokio::spawn(upkeep::tend(app.clone()))];
    if let Some(webhook) = app.config.webhook.clone() {
        upkeep.push(tokio::spawn(webhook::tell(webhook, app.ledger.clone())));
    }
    accept(&app, &live, listener, &stop).await;
    for task in upkeep {
        task.abort();
        let _ended = task.await; // what it held of the ledger is gone then
    }
    drop((app, live));
    let stored = tokio::time::timeout(STORING_MAX, writer).await;
    if stored.is_err() {
        tracing::error!("some requests are still open; they will be settled as unconfirmed at the next start");
    }
    database.close().await; // the next gateway on the file need not wait for this one
    for (file, writer) in [("cache", cache_writer), ("content", content_writer)] {
        if let Some(writer) = writer
            && tokio::time::timeout(STORING_MAX, writer).await.is_err()
        {
            tracing::warn!(file, "some answers were not written to the file");
        }
    }
}

/// Until stopped, and for the configured time after that, while `/ready` says no.
async fn stopped(app: &App, stop: &CancellationToken) {
    stop.cancelled().await;
    app.stop_soon();
    tokio::time::sleep(Duration::from_millis(app.config.server.stop_delay_ms)).await;
}

async fn accept(app: &App, live: &Live, listener: TcpListener, stop: &CancellationToken) {
    let config = &app.config.server;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let builder = Arc::new(builder);
    let stall_max = Duration::from_millis(config.client_stall_timeout_ms);
    let service = TowerToHyperService::new(routes(live.clone()));
    let connections = Arc::new(Semaphore::new(config.connections_max));
    let graceful = GracefulShutdown::new();
    let mut stopped = std::pin::pin!(stopped(app, stop));
    loop {
        let permit = tokio::select! {
            () = &mut stopped => break,
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok((stream, address)) => (stream, Peer(address.ip())),
            Err(error) => {
                // Out of descriptors, mostly: waiting a little beats spinning.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let io = TokioIo::new(Connection::new(stream, stall_max));
        let service = service.clone();
        let service = service_fn(move |mut request| {
            request.extensions_mut().insert(peer);
            service.call(request)
        });
        let connection = graceful.watch(builder.serve_connection(io, service));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
    drop(listener);
    let mut drained = std::pin::pin!(graceful.shutdown());
    let grace = Duration::from_millis(config.shutdown_grace_ms);
    if tokio::time::timeout(grace, &mut drained).await.is_ok() {
        return;
    }
    app.closing.cancel();
    if tokio::time::timeout(LAST_WORDS, drained).await.is_err() {
        tracing::warn!("the grace time is over; connections whose clients do not read are cut");
    }
}
