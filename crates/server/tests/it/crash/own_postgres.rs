//! A PostgreSQL server of a test's own, whose disk is small.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use myelin_storage::testing::{OwnPostgres, POSTGRES_VARIABLE};

/// The size of a small disk: room for a database and some rooms.
const SMALL_MB: u32 = 48;

/// A PostgreSQL server one of whose databases is on a small disk of its own, in memory.
///
/// The disk is mounted for the server's processes only, and is gone with them.
pub(super) struct SmallDisk {
    postgres: OwnPostgres,
    /// Where it is mounted, for the server's processes.
    mounted: PathBuf,
    /// The disk, as seen from outside.
    disk: PathBuf,
}

impl SmallDisk {
    /// Starts it, where tests may use PostgreSQL and mount something.
    pub(super) fn start() -> Option<Self> {
        env::var_os(POSTGRES_VARIABLE)?;
        let mut postgres = OwnPostgres::new();
        let mounted = postgres.directory.with_extension("disk");
        fs::create_dir(&mounted).unwrap();
        let start = format!(
            "mount -t tmpfs -o size={SMALL_MB}m,mode=0777 tmpfs {0} && mkdir -m 0777 {0}/tables \
             && exec {1} start",
            mounted.display(),
            OwnPostgres::SCRIPT
        );
        let may_mount = ran(Command::new("unshare").args(["--mount", "true"]));
        if !may_mount {
            eprintln!("skipped: nothing may be mounted here");
            fs::remove_dir(&mounted).unwrap();
            return None;
        }
        let mut unshared = Command::new("unshare");
        unshared.args(["--mount", "sh", "-c", &start]);
        postgres.url = printed(&postgres.surrounded(&mut unshared));
        let pid = fs::read_to_string(postgres.directory.join("data/postmaster.pid")).unwrap();
        let root = Path::new("/proc")
            .join(pid.lines().next().unwrap())
            .join("root");
        let disk = root.join(mounted.strip_prefix("/").unwrap());
        let tables = mounted.join("tables");
        // The server's own user has to own its directory.
        let owner = Command::new("chown")
            .args(["--reference"])
            .arg(postgres.directory.join("data"))
            .arg(disk.join("tables"))
            .output();
        printed(&owner.unwrap());
        for statement in [
            format!("CREATE TABLESPACE small LOCATION '{}'", tables.display()),
            "CREATE DATABASE small TABLESPACE small".to_owned(),
        ] {
            let psql = Command::new("psql")
                .args([&postgres.url, "--quiet", "--command", &statement])
                .output();
            printed(&psql.unwrap());
        }
        Some(Self {
            postgres,
            mounted,
            disk,
        })
    }

    /// Where the database is that the disk holds.
    pub(super) fn url(&self) -> String {
        let (server, _) = self.postgres.url.rsplit_once('/').unwrap();
        format!("{server}/small")
    }

    /// Fills the disk up to so many bytes.
    pub(super) fn leave_room_for(&self, bytes: u64) {
        let mut filler = File::create(self.filler()).unwrap();
        let block = [0; 16 * 1024];
        let refused = iter::repeat_with(|| filler.write_all(&block)).find_map(Result::err);
        assert_eq!(refused.unwrap().kind(), ErrorKind::StorageFull);
        let full = filler.metadata().unwrap().len();
        filler.set_len(full - bytes).unwrap();
    }

    /// There is room again.
    pub(super) fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.disk.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // For everybody else it is an empty directory.
        fs::remove_dir(&self.mounted).unwrap();
    }
}

fn ran(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// What a command printed that has to succeed.
fn printed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
