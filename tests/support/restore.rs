//! Servers that come back from an earlier time: an old snapshot of Redis, an old copy of PostgreSQL's data.

use std::{fs, path::PathBuf, process::Command};

use crate::{Place, until};

impl Place {
    /// Has Redis write a snapshot, and puts it aside. Only for [`without_aof`](Self::without_aof): with it Redis would not read it.
    pub async fn keep_redis(&self) -> PathBuf {
        let before = self.last_save();
        self.redis.command(&["BGSAVE"]).unwrap();
        until("the snapshot is written", || async {
            let info = self.redis.command(&["INFO", "persistence"]).unwrap().text();
            info.contains("rdb_bgsave_in_progress:0") && info.contains("rdb_last_bgsave_status:ok")
        })
        .await;
        assert!(self.last_save() >= before);
        let kept = self.path("kept.rdb");
        fs::copy(self.redis.dir().join("dump.rdb"), &kept).unwrap();
        kept
    }

    fn last_save(&self) -> i64 {
        match self.redis.command(&["LASTSAVE"]).unwrap() {
            windrow_devserver::Reply::Number(seconds) => seconds,
            other => panic!("{other:?}"),
        }
    }

    /// Kills Redis, if it still runs, and starts it with a snapshot that was put aside.
    pub fn restore_redis(&self, kept: &PathBuf) {
        self.redis.kill().unwrap();
        fs::copy(kept, self.redis.dir().join("dump.rdb")).unwrap();
        self.redis.restart().unwrap();
    }

    /// Stops PostgreSQL, copies its data aside, and starts it again. Only for [`with_postgres`](Self::with_postgres).
    pub fn keep_postgres(&self) -> PathBuf {
        let postgres = self.postgres.as_ref().expect("it has a PostgreSQL of its own");
        postgres.stop().unwrap();
        let kept = self.path("kept");
        copy(&postgres.dir().join("data"), &kept);
        postgres.restart().unwrap();
        kept
    }

    /// Kills PostgreSQL and starts it with a copy of its data that was put aside.
    pub fn restore_postgres(&self, kept: &PathBuf) {
        let postgres = self.postgres.as_ref().expect("it has a PostgreSQL of its own");
        postgres.kill().unwrap();
        let data = postgres.dir().join("data");
        fs::remove_dir_all(&data).unwrap();
        copy(kept, &data);
        postgres.restart().unwrap();
    }
}

/// With owners and modes: PostgreSQL is another user's when root runs the tests.
fn copy(from: &PathBuf, to: &PathBuf) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
