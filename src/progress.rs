//! What one step of a background loop came to, so that tests drive the loops without sleeping.

/// Result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many pieces of work were moved; there may be more right away.
    Did(usize),
    /// There is nothing to do until somebody rings.
    Idle,
    /// There is nothing to do before this time, epoch ms.
    WaitUntil(i64),
}
