//! Turns of the heavy tests. Most tests wait for servers, and many of them run at once; those that keep all processors
//! busy by themselves run one after the other beside them.

use std::sync::{Mutex, MutexGuard, PoisonError};

static HEAVY: Mutex<()> = Mutex::new(());

/// The turn of a heavy test; it ends with the value.
pub struct Turn {
    _guard: MutexGuard<'static, ()>,
}

/// Waits for the turn of a heavy test, on its own thread.
pub fn heavy() -> Turn {
    // A heavy test that failed leaves nothing behind that the next one could see.
    Turn { _guard: HEAVY.lock().unwrap_or_else(PoisonError::into_inner) }
}
