//! Being asked to stop: the first time to clean up and end, the second time to end at once.

use std::process::exit;
use std::sync::OnceLock;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The exit code of a program that Ctrl-C has ended.
const EXIT_INTERRUPTED: i32 = 130;

/// How often kprov has been asked to stop.
static ASKED: OnceLock<watch::Receiver<u32>> = OnceLock::new();

/// Ends when the user or the system asks kprov to stop, or has done so before.
///
/// Once this has been awaited for the first time, signals are taken by kprov for good, so somebody has to listen for
/// as long as it runs: who is asked a second time ends at once, whatever is being done.
pub async fn interrupted() {
    let mut asked = ASKED.get_or_init(listen).clone();
    if asked.wait_for(|&count| count > 0).await.is_err() {
        // Nobody listens: no signals can be had.
        std::future::pending().await
    }
}

/// Takes the signals, and counts them from now on.
fn listen() -> watch::Receiver<u32> {
    let (count, asked) = watch::channel(0);
    let all = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    if let [Ok(interrupt), Ok(terminate), Ok(hang_up)] = all {
        tokio::spawn(async move {
            let mut signals = (interrupt, terminate, hang_up);
            loop {
                next(&mut signals).await;
                if *count.borrow() > 0 {
                    exit(EXIT_INTERRUPTED);
                }
                count.send_replace(1);
            }
        });
    }
    asked
}

async fn next((interrupt, terminate, hang_up): &mut (Signal, Signal, Signal)) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}
