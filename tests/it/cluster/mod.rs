//! Whole clusters: the runner takes these tests alone, by `cluster::`, a path that no other test has.

mod survival;
