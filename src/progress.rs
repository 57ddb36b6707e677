//! What one step of a background loop came to. Loops are values with one step, so that tests drive them.

/// The outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many things were done; there may be more.
    Did(usize),
    /// Nothing to do, nor known to come.
    Idle,
    /// Nothing to do before this time, epoch ms.
    WaitUntil(i64),
}
