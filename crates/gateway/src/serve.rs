//! The accept loop: connections with a cap and a header deadline, drained at the end.

use crate::app::{App, Started};
use crate::http::routes;
use crate::telemetry;
use hyper::server::conn::http1;
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

/// A gateway that is serving.
pub struct Gateway {
    pub address: SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Stops taking requests, lets those under way finish within the grace time, and returns when everything is stored.
    pub async fn stop(self) {
        self.stop.cancel();
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
    let serving = tokio::spawn(run(started, listener, stop.clone()));
    Ok(Gateway { address, stop, serving })
}

async fn run(started: Started, listener: TcpListener, stop: CancellationToken) {
    let app = started.app.clone();
    accept(&app, listener, &stop).await;
    drop(app);
    let Started { app, writer, .. } = started;
    drop(app);
    let stored = tokio::time::timeout(Duration::from_secs(10), writer).await;
    if stored.is_err() {
        tracing::error!("some requests are still open; they will be settled as unconfirmed at the next start");
    }
}

async fn accept(app: &App, listener: TcpListener, stop: &CancellationToken) {
    let config = &app.config.server;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let builder = Arc::new(builder);
    let service = TowerToHyperService::new(routes(app.clone()));
    let connections = Arc::new(Semaphore::new(config.connections_max));
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
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
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
    app.stop_soon();
    drop(listener);
    let grace = Duration::from_millis(config.shutdown_grace_ms);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("the grace time is over; streams still open end with the process");
    }
}
