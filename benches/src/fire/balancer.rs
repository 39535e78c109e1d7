//! A TCP balancer: each connection goes to the next gateway that says it is ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How often gateways are asked whether they are ready.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Runs until dropped.
pub(crate) struct Balancer(Vec<JoinHandle<()>>);

impl Balancer {
    pub(crate) async fn start(address: &str, gateways: &[&'static str]) -> Self {
        let ready: Arc<Vec<(&'static str, AtomicBool)>> =
            Arc::new(gateways.iter().map(|gateway| (*gateway, AtomicBool::new(true))).collect());
        let listener = TcpListener::bind(address).await.expect("a port");
        Self(vec![tokio::spawn(check(Arc::clone(&ready))), tokio::spawn(accept(listener, ready))])
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn check(ready: Arc<Vec<(&'static str, AtomicBool)>>) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().expect("a client");
    loop {
        for (gateway, is_ready) in ready.iter() {
            let answered = client.get(format!("http://{gateway}/ready")).send().await;
            is_ready.store(answered.is_ok_and(|answer| answer.status() == 200), Ordering::Relaxed);
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

async fn accept(listener: TcpListener, ready: Arc<Vec<(&'static str, AtomicBool)>>) {
    let turn = AtomicUsize::new(0);
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        let first = turn.fetch_add(1, Ordering::Relaxed);
        let ready = Arc::clone(&ready);
        tokio::spawn(async move {
            for at in 0..ready.len() {
                let (gateway, is_ready) = &ready[(first + at) % ready.len()];
                if is_ready.load(Ordering::Relaxed)
                    && let Ok(mut upstream) = TcpStream::connect(gateway).await
                {
                    // How it ends is between client and gateway.
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                    return;
                }
            }
        });
    }
}
