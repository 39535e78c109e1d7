//! Whether the gateway itself has more to do than it can: measured as how late its own timers are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(20);

/// Requests under way, and how late timers are.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    lag_us: AtomicU64,
    under_way: AtomicUsize,
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Pressure>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pressure {
    /// Begins to measure, until the last user is gone.
    pub(crate) fn start() -> Arc<Self> {
        let pressure = Arc::new(Self::default());
        let watched = Arc::downgrade(&pressure);
        tokio::spawn(async move {
            loop {
                let slept = Instant::now();
                tokio::time::sleep(TICK).await;
                let late = slept.elapsed().saturating_sub(TICK);
                let Some(pressure) = watched.upgrade() else { return };
                // Half of the old value, so that one moment of less than twice the limit sheds nothing.
                let smoothed = (pressure.lag_us.load(Ordering::Relaxed) + late.as_micros() as u64) / 2;
                pressure.lag_us.store(smoothed, Ordering::Relaxed);
            }
        });
        pressure
    }

    /// How late timers are.
    pub(crate) fn lag(&self) -> Duration {
        Duration::from_micros(self.lag_us.load(Ordering::Relaxed))
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Lets a request in; `None` where there is more to do than can be done.
    pub(crate) fn admit(self: &Arc<Self>, requests_max: usize, lag_max: Duration) -> Option<UnderWay> {
        if self.lag() > lag_max || self.under_way() >= requests_max {
            return None;
        }
        self.under_way.fetch_add(1, Ordering::AcqRel);
        Some(UnderWay(Arc::clone(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the thread, as whatever stalls it does.
    fn spin(time: Duration) -> u64 {
        let (begun, mut turns) = (Instant::now(), 0);
        while begun.elapsed() < time {
            turns += 1;
        }
        turns
    }

    #[tokio::test]
    async fn one_short_stall_sheds_nothing_and_lasting_lag_does() {
        const STALL: Duration = Duration::from_millis(600);
        const LAG_MAX: Duration = Duration::from_millis(450);
        let pressure = Pressure::start();
        let stalled = async || {
            tokio::time::sleep(TICK / 2).await;
            std::hint::black_box(spin(STALL));
            tokio::task::yield_now().await;
        };
        tokio::time::sleep(4 * TICK).await;
        stalled().await;
        assert!(pressure.admit(1, LAG_MAX).is_some(), "{:?}", pressure.lag());
        for _ in 0..4 {
            stalled().await;
        }
        assert!(pressure.admit(1, LAG_MAX).is_none(), "{:?}", pressure.lag());
    }
}
