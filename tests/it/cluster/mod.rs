//! Whole clusters: the runner takes these tests beside all others, by `cluster::`, a path that no other test has.

mod callers;
mod campaign;
mod crowd;
mod full_disk;
mod survival;
