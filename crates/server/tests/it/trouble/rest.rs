//! When a test's process is at rest: what it could do without the clock going on, it has done.

use std::fs;
use std::time::Duration;

/// How often is looked.
const STEP: Duration = Duration::from_millis(5);

/// So many times in a row nobody may be at work: what one thread hands to another, or to the network, is
/// between them for a moment only.
const TIMES: u32 = 10;

/// If it can't be seen whether anybody works, as on systems without `/proc`.
const UNSEEN: Duration = Duration::from_millis(100);

/// A process that never comes to rest is looked at no longer.
const LONGEST: Duration = Duration::from_secs(30);

/// Until nothing is at work in this process.
pub(super) async fn until_at_rest() {
    let mut quiet = 0;
    for _ in 0..LONGEST.as_millis() / STEP.as_millis() {
        tokio::time::sleep(STEP).await;
        match others_work() {
            None => return tokio::time::sleep(UNSEEN).await,
            Some(true) => quiet = 0,
            Some(false) => quiet += 1,
        }
        if quiet == TIMES {
            return;
        }
    }
}

/// Whether another thread of this process runs, would run if it were let, or waits for a disk.
fn others_work() -> Option<bool> {
    let this = fs::read_link("/proc/thread-self").ok()?;
    let this = this.file_name()?.to_owned();
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let others = threads
        .filter_map(Result::ok)
        .filter(|thread| thread.file_name() != this);
    // A thread may have ended meanwhile.
    let stats = others.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    let states = stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next());
    Some(states.into_iter().any(|state| matches!(state, 'R' | 'D')))
}
