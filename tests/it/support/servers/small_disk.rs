//! A disk of some megabytes that is there for one server alone, to be filled and freed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::child::ChildProcess;
use super::{installed, skipped};
use crate::support::program::settings_of_tests;

/// Mounts a disk of so many megabytes on the folder, in a space that only the command which follows sees.
const MOUNT: &str = r#"mount -t tmpfs -o size="$1m" tmpfs "$2" && shift 2 && exec "$@""#;

/// Whether this user may make one.
fn is_allowed() -> bool {
    if !installed("unshare") || !installed("nsenter") {
        return false;
    }
    let tried = Command::new("unshare").args(["-rmpf", "--kill-child", "true"]).output().unwrap();
    if !tried.status.success() {
        skipped("needs a mount space of its own, which this machine does not give");
    }
    tried.status.success()
}

/// `command` with a disk of `megabytes` on the folder `place`; `None` where that cannot be. All that it starts ends
/// with it.
pub fn on_small_disk(megabytes: usize, place: &Path, command: Vec<OsString>) -> Option<Vec<OsString>> {
    if !is_allowed() {
        return None;
    }
    fs::create_dir_all(place).unwrap();
    let mut all: Vec<OsString> =
        ["unshare", "-rmpf", "--kill-child", "sh", "-c", MOUNT, "disk"].map(OsString::from).to_vec();
    all.push(megabytes.to_string().into());
    all.push(place.into());
    all.extend(command);
    Some(all)
}

/// The disk of a server that was started by a command of [`on_small_disk`].
pub struct SmallDisk {
    /// The server's process.
    pid: u32,
    place: PathBuf,
}

impl SmallDisk {
    pub fn of(server: &ChildProcess, place: PathBuf) -> Self {
        Self { pid: server.pid(), place }
    }

    fn ballast(&self) -> PathBuf {
        let place = self.place.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.pid.to_string()).join("root").join(place).join("ballast")
    }

    /// Not a byte is left.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            let part = vec![0; size];
            while ballast.write_all(&part).is_ok() {}
        }
    }

    /// As before.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// A command that sees the disk, run to its end.
    pub fn see(&self, command: &[&str]) -> Output {
        let mut see = Command::new("nsenter");
        see.args(["--preserve-credentials", "-U", "-m", "-t"]).arg(self.pid.to_string()).args(command);
        for name in settings_of_tests() {
            see.env_remove(name);
        }
        see.output().unwrap()
    }
}
