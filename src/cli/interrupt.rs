//! Ctrl-C and SIGTERM as a flag, for commands that finish what they do before they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use longwave::signals::Signals;
use longwave::wav;
use tokio::runtime::Builder;

/// Raised by the first signal, so that nothing half is left behind; a second one does not wait for
/// whoever is to notice.
pub fn flag() -> eyre::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = flag.clone();
    watch(
        move || raised.store(true, Ordering::Relaxed),
        || {
            wav::abandon_all();
            std::process::exit(1);
        },
    )?;
    Ok(flag)
}

/// Does the one on the first signal and the other on the second, on a thread of its own.
pub fn watch(
    first: impl FnOnce() + Send + 'static,
    second: impl FnOnce() + Send + 'static,
) -> eyre::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(signals.next());
            first();
            runtime.block_on(signals.next());
            second();
        })?;
    Ok(())
}
